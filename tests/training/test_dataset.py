"""Targets, scaling and identities of training rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vnfleet.core.errors import BadDataError
from vnfleet.training.dataset import TrainingData, load_training_data, prepare, rank_target, save_training_data


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
    clean, dirty = (prepare(each, range(100), 120, 10) for each in (data, poisoned))
    for name in ("scaled_STF", "target_ST", "path_HST", "eligible_ST", "label_scale_H"):
        np.testing.assert_array_equal(getattr(clean, name), getattr(dirty, name))


def test_the_scaler_is_fitted_on_the_fitting_sessions_only(data: TrainingData) -> None:
    prepared = prepare(data, range(100), 145, 10)
    rows = data.values_STF[:, :100][data.present_ST[:, :100]]
    np.testing.assert_allclose(prepared.scaler.mean_F, rows.mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(prepared.scaler.sd_F, rows.std(0), rtol=1e-4)


def test_a_symbol_has_no_label_before_a_whole_receptive_field(data: TrainingData) -> None:
    prepared = prepare(data, range(100), 145, 10)
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
