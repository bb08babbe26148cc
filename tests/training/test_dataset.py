"""Targets, scaling and identities of training rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vnfleet.core.errors import BadDataError
from vnfleet.training.dataset import (
    TrainingData,
    direction_label,
    load_training_data,
    prepare,
    prepare_separate,
    rank_target,
    save_training_data,
)
from vnfleet.training.recipe import ObjectiveConfig

OBJECTIVE = ObjectiveConfig()


def test_rank_targets_are_scaled_average_ranks() -> None:
    generator = np.random.default_rng(0)
    returns_ST = np.round(generator.standard_normal((40, 3)), 1)
    labelled_ST = generator.random((40, 3)) > 0.2
    target_ST = rank_target(returns_ST, labelled_ST)
    for column in range(3):
        keep = labelled_ST[:, column]
        ranks = stats.rankdata(returns_ST[keep, column])
        expected = ((ranks - 0.5) / keep.sum() - 0.5) * np.sqrt(12.0)
        np.testing.assert_allclose(target_ST[keep, column], expected, rtol=1e-6)
        assert not target_ST[~keep, column].any()


def test_nothing_at_or_after_the_stop_is_read(data: TrainingData) -> None:
    poisoned = dataclasses.replace(
        data, values_STF=data.values_STF.copy(), returns_HST=data.returns_HST.copy(), present_ST=data.present_ST.copy()
    )
    poisoned.values_STF[:, 120:] = 1e6
    poisoned.returns_HST[:, :, 120:] = 1e6
    poisoned.present_ST[:, 120:] = True
    clean, dirty = (prepare(each, range(100), 120, 10, OBJECTIVE) for each in (data, poisoned))
    for name in ("scaled_STF", "target_ST", "path_HST", "eligible_ST", "up_ST"):
        np.testing.assert_array_equal(getattr(clean, name), getattr(dirty, name))
    np.testing.assert_array_equal(clean.scaling[0].label_scale_H, dirty.scaling[0].label_scale_H)


def test_the_scaler_is_fitted_on_the_fitting_sessions_only(data: TrainingData) -> None:
    prepared = prepare(data, range(100), 145, 10, OBJECTIVE)
    rows = data.values_STF[:, :100][data.present_ST[:, :100]]
    (scaling,) = prepared.scaling
    np.testing.assert_allclose(scaling.scaler.mean_F, rows.mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(scaling.scaler.sd_F, rows.std(0), rtol=1e-4)
    known_H = [returns_ST[:, :100][data.present_ST[:, :100]] for returns_ST in data.returns_HST]
    expected_H = [known[np.isfinite(known)].std() for known in known_H]
    np.testing.assert_allclose(scaling.label_scale_H, expected_H, rtol=1e-4)


def test_each_separate_model_is_scaled_by_the_rows_of_its_own_symbol(data: TrainingData) -> None:
    prepared = prepare_separate(data, range(100), 145, 10, OBJECTIVE)
    assert len(prepared.scaling) == len(data.symbols)
    for row in (0, 5, 17):
        present_T = data.present_ST[row, :100]
        values = data.values_STF[row, :100][present_T].astype(np.float64)
        mean_F, sd_F = values.mean(0), values.std(0)
        np.testing.assert_allclose(prepared.scaling[row].scaler.mean_F, mean_F, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(prepared.scaling[row].scaler.sd_F, sd_F, rtol=1e-4)
        scaled_TF = np.clip((data.values_STF[row, :145] - mean_F) / sd_F, -5.0, 5.0)
        scaled_TF[~data.present_ST[row, :145]] = 0.0
        np.testing.assert_allclose(prepared.scaled_STF[row], scaled_TF, atol=1e-4)
        own_T = data.returns_HST[-1, row, :100][present_T]
        sd = float(own_T[np.isfinite(own_T)].std())
        assert prepared.scaling[row].label_scale_H[-1] == pytest.approx(sd, rel=1e-4)
        path_T = np.clip(data.returns_HST[-1, row, :145] / sd, -8.0, 8.0)
        np.testing.assert_allclose(prepared.path_HST[-1, row], path_T, rtol=1e-4)


def test_nothing_of_another_symbol_reaches_a_separate_model(data: TrainingData) -> None:
    poisoned = dataclasses.replace(data, values_STF=data.values_STF.copy(), returns_HST=data.returns_HST.copy())
    poisoned.values_STF[1:] *= 7.0
    poisoned.returns_HST[:, 1:] *= 7.0
    clean, dirty = (prepare_separate(each, range(100), 120, 10, OBJECTIVE) for each in (data, poisoned))
    for name in ("scaled_STF", "eligible_ST", "labelled_ST", "up_ST"):
        np.testing.assert_array_equal(getattr(clean, name)[0], getattr(dirty, name)[0])
    np.testing.assert_array_equal(clean.path_HST[:, 0], dirty.path_HST[:, 0])


def test_a_direction_is_up_down_or_neither_alone_or_against_the_median() -> None:
    returns_ST = np.asarray([[0.02, -0.01], [0.00, -0.02], [-0.01, -0.03], [9.0, 9.0]])
    labelled_ST = np.asarray([[True, True], [True, True], [True, True], [False, False]])
    absolute = direction_label(returns_ST, labelled_ST, OBJECTIVE)
    np.testing.assert_array_equal(absolute, [[1.0, 0.0], [0.5, 0.0], [0.0, 0.0], [np.nan, np.nan]])
    market = ObjectiveConfig(direction_target="market_relative")
    relative = direction_label(returns_ST, labelled_ST, market)
    np.testing.assert_array_equal(relative, [[1.0, 1.0], [0.5, 0.5], [0.0, 0.0], [np.nan, np.nan]])
    none = direction_label(returns_ST, np.zeros_like(labelled_ST), market)
    assert np.isnan(none).all()


def test_a_symbol_has_no_label_before_a_whole_receptive_field(data: TrainingData) -> None:
    prepared = prepare(data, range(100), 145, 10, OBJECTIVE)
    assert not prepared.labelled_ST[5, :70].any()
    assert prepared.labelled_ST[5, 75:].any()


def test_the_identity_of_rows_ignores_what_comes_later_and_symbols_not_yet_listed(data: TrainingData) -> None:
    later = dataclasses.replace(data, returns_HST=data.returns_HST.copy())
    later.returns_HST[:, :, 150:] = 0.5
    assert later.rows_id(150) == data.rows_id(150)
    assert later.rows_id(151) != data.rows_id(151)
    assert data.rows_id(60) != data.rows_id(61)
    without = [index for index in range(len(data.symbols)) if index != 5]
    fewer = TrainingData(
        data.sessions,
        tuple(data.symbols[index] for index in without),
        data.feature_names,
        data.values_STF[without],
        data.present_ST[without],
        data.returns_HST[:, without],
    )
    assert fewer.rows_id(60) == data.rows_id(60)
    assert fewer.rows_id(100) != data.rows_id(100)


def test_a_package_survives_the_round_trip_and_a_flipped_bit_is_noticed(data: TrainingData, tmp_path: Path) -> None:
    content = save_training_data(tmp_path / "package", data)
    loaded = load_training_data(tmp_path / "package")
    assert loaded.sessions == data.sessions
    assert loaded.rows_id(190) == data.rows_id(190)
    assert save_training_data(tmp_path / "again", data) == content
    damaged = tmp_path / "package" / "values_STF.npy"
    payload = bytearray(damaged.read_bytes())
    payload[-1] ^= 1
    damaged.write_bytes(payload)
    with pytest.raises(BadDataError, match=r"values_STF\.npy"):
        load_training_data(tmp_path / "package")


def test_axes_that_differ_are_refused(data: TrainingData) -> None:
    with pytest.raises(ValueError, match="axes differ"):
        dataclasses.replace(data, symbols=data.symbols[:-1])
