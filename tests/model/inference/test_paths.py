"""Paths are compared on the same work, and the fastest one wins only while it leaves the ranks alone."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.model.ensemble import EnsembleForecast, forecast_ensembles
from vnfleet.model.inference import (
    PathMeasurement,
    PathName,
    choose_path,
    forecast_with,
    forecaster,
    measure_paths,
    open_path,
    path_problem,
)
from vnfleet.model.inference.paths import rank_agreement

if TYPE_CHECKING:
    from tests.model.conftest import Sets

pytestmark = pytest.mark.xdist_group("onnx")


def measured(path: PathName, seconds: float, agreement: float, opening: float = 0.0) -> PathMeasurement:
    return PathMeasurement(
        path=path,
        seconds_per_set=seconds,
        speedup=1.0 / seconds,
        max_abs_difference=0.0,
        rank_agreement=agreement,
        seconds_once=0.0,
        seconds_to_open=opening,
        file_bytes=1,
        words="",
    )


ABSENT = PathMeasurement(
    path="compiled",
    seconds_per_set=None,
    speedup=None,
    max_abs_difference=None,
    rank_agreement=None,
    seconds_once=None,
    seconds_to_open=None,
    file_bytes=None,
    words="not run: no compiler",
)


def test_the_fastest_path_whose_ranks_agree_is_chosen() -> None:
    exact = measured("float32", 1.0, 1.0, opening=0.1)
    half = measured("bf16", 0.6, 0.9995, opening=0.5)
    rough = measured("onnx_int8", 0.3, 0.9985, opening=0.4)
    everything = [exact, half, rough, ABSENT]
    assert choose_path(everything) is half
    assert choose_path(everything, min_rank_agreement=0.998) is rough
    assert choose_path(everything, min_rank_agreement=0.9999) is exact
    assert choose_path([exact, ABSENT]) is exact
    assert choose_path([exact, measured("onnx", 0.5, float("nan"))]) is exact


def test_a_process_that_forecasts_once_pays_for_opening() -> None:
    exact = measured("float32", 1.0, 1.0, opening=1.1)
    compiled = measured("compiled", 0.5, 1.0, opening=30.0)
    assert choose_path([exact, compiled], sets_per_process=1, min_gain=1.0) is exact
    assert choose_path([exact, compiled], sets_per_process=58, min_gain=1.0) is exact  # 1.1 + 57 < 30 + 28.5
    assert choose_path([exact, compiled], sets_per_process=60, min_gain=1.0) is compiled  # 1.1 + 59 > 30 + 29.5
    assert choose_path([exact, compiled]) is compiled


def test_a_new_set_pays_for_its_files() -> None:
    exact = measured("float32", 1.0, 1.0, opening=1.1)
    exported = dataclasses.replace(measured("onnx", 0.2, 1.0, opening=0.5), seconds_once=3.0)
    assert choose_path([exact, exported], sets_per_process=1) is exported
    assert choose_path([exact, exported], sets_per_process=1, is_new_set=True) is exact
    assert choose_path([exact, exported], sets_per_process=5, is_new_set=True) is exported  # 5.1 > 1.1 * 4.3


def test_a_gain_within_the_noise_leaves_float32() -> None:
    exact, hardly, clearly = (
        measured("float32", 1.0, 1.0),
        measured("onnx", 0.95, 1.0),
        measured("compiled", 0.8, 1.0),
    )
    assert choose_path([exact, hardly]) is exact
    assert choose_path([exact, hardly, clearly]) is clearly
    assert choose_path([exact, hardly], min_gain=1.0) is hardly


def test_without_a_path_that_agrees_there_is_no_choice() -> None:
    with pytest.raises(BadDataError, match="no inference path agrees"):
        choose_path([ABSENT, measured("onnx_int8", 0.1, 0.9)])


@given(
    hnp.arrays(np.float32, (12, 4), elements=st.integers(-5, 5)),
    hnp.arrays(np.float32, (12, 4), elements=st.integers(-5, 5)),
    hnp.arrays(np.bool_, (12, 4)),
)
def test_rank_agreement_is_the_lowest_spearman_of_a_session(
    ours: np.ndarray, theirs: np.ndarray, known: np.ndarray
) -> None:
    expected = []
    for column in range(4):
        keep = known[:, column]
        if keep.sum() < 3 or np.ptp(ours[keep, column]) == 0:
            continue
        flat = np.ptp(theirs[keep, column]) == 0
        expected.append(0.0 if flat else stats.spearmanr(ours[keep, column], theirs[keep, column]).statistic)
    found = rank_agreement(ours, theirs, known)
    if expected:
        assert found == pytest.approx(min(expected), abs=1e-9)
    else:
        assert np.isnan(found)


@pytest.mark.parametrize("outputs", [1, 3, 7])
def test_chunks_of_any_length_say_what_one_pass_says(sets: Sets, tmp_path: Path, outputs: int) -> None:
    ensembles = sets.of("adapted_streaming")
    values_STF, present_ST = sets.features()
    sessions = range(20, 27)
    expected = forecast_ensembles(ensembles, values_STF, present_ST, sessions)
    path = open_path("float32", ensembles, folder=tmp_path, num_outputs=outputs)
    found = forecast_with(path, values_STF, present_ST, sessions, np.arange(len(sets.symbols)))
    np.testing.assert_allclose(found.score_SO, expected.score_SO, atol=1e-5)
    np.testing.assert_allclose(found.path_SOH, expected.path_SOH, atol=1e-6)
    np.testing.assert_allclose(found.volatility_SOH, expected.volatility_SOH, atol=1e-6)


@pytest.mark.parametrize("kind", ["adapted_streaming", "adapted_window", "separate"])
def test_a_forecaster_stands_in_for_the_ensembles(sets: Sets, tmp_path: Path, kind: str) -> None:
    values_STF, present_ST = sets.features()
    for sessions in (range(39, 40), range(20, 33)):
        found, expected = (
            forecast(sets.of(kind), values_STF, present_ST, sessions)
            for forecast in (forecaster("float32", tmp_path), forecast_ensembles)
        )
        np.testing.assert_allclose(found.score_SO, expected.score_SO, atol=1e-5)
        np.testing.assert_allclose(found.volatility_SOH, expected.volatility_SOH, atol=1e-6)


def test_two_symbols_are_too_few_to_rank_and_float32_serves(sets: Sets, tmp_path: Path) -> None:
    values_STF, present_ST = sets.features()
    (found,) = measure_paths(
        sets.of("pooled_depths"),
        values_STF[:2],
        present_ST[:2],
        range(30, 40),
        folder=tmp_path,
        names=(),
        repeats=1,
    )
    assert found.rank_agreement is None
    assert choose_path([found]) is found


def test_too_little_history_is_refused(sets: Sets, tmp_path: Path) -> None:
    values_STF, present_ST = sets.features()
    path = open_path("float32", sets.of("adapted_streaming"), folder=tmp_path)
    with pytest.raises(BadDataError, match="too little history"):
        forecast_with(path, values_STF, present_ST, range(7, 9), np.arange(5))


def test_bf16_is_close_and_not_the_same(sets: Sets, tmp_path: Path) -> None:
    if problem := path_problem("bf16"):
        pytest.skip(problem)
    values_STF, present_ST = sets.features()
    ensembles, rows = sets.of("adapted_window"), np.arange(5)
    exact, rough = (
        forecast_with(
            open_path(name, ensembles, folder=tmp_path, num_outputs=20), values_STF, present_ST, range(20, 40), rows
        )
        for name in ("float32", "bf16")
    )
    assert not np.array_equal(exact.score_SO, rough.score_SO)
    np.testing.assert_allclose(rough.score_SO, exact.score_SO, atol=0.1)


def test_every_path_is_measured_beside_float32(sets: Sets, exported: dict[str, Path], tmp_path: Path) -> None:
    values_STF, present_ST = sets.features()
    shutil.copy(exported["adapted_single"], tmp_path)  # as a run before would have left it
    found = measure_paths(
        sets.of("adapted_single"),
        values_STF,
        present_ST,
        range(30, 40),
        folder=tmp_path,
        symbols=sets.symbols,
        names=("onnx", "onnx_int8"),
        repeats=2,
    )
    exact, same, small = found
    assert [one.path for one in found] == ["float32", "onnx", "onnx_int8"]
    assert (exact.speedup, exact.max_abs_difference, exact.rank_agreement) == (1.0, 0.0, 1.0)
    assert same.max_abs_difference is not None
    assert same.max_abs_difference < 1e-5
    assert small.max_abs_difference is not None
    assert small.max_abs_difference > same.max_abs_difference
    assert exact.seconds_once == 0.0
    assert same.seconds_once is not None
    assert same.seconds_once > 0.0
    assert small.seconds_once is not None
    assert small.seconds_once > same.seconds_once  # it is made from the other
    assert same.file_bytes == (tmp_path / "set.onnx").stat().st_size
    assert small.file_bytes == (tmp_path / "set_int8.onnx").stat().st_size
    assert choose_path(found, min_rank_agreement=0.9) in found


def test_an_exported_file_is_kept_until_the_set_changes(
    sets: Sets, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def export(*_: object, **options: Any) -> Path:
        made.append(options["name"])
        raise UsageError("stop here")

    ensembles, folder = sets.of("adapted_single"), exported["adapted_single"].parent
    monkeypatch.setattr("vnfleet.model.inference.paths.export_onnx", export)
    path = open_path("onnx", ensembles, folder=folder, symbols=sets.symbols)
    assert (path.num_sessions, path.num_outputs) == (9, 1)
    assert not made
    other = [dataclasses.replace(ensembles[0], label_scale_H=ensembles[0].label_scale_H * 2)]
    with pytest.raises(UsageError, match="stop here"):
        open_path("onnx", other, folder=folder, symbols=sets.symbols)
    narrow = dataclasses.replace(ensembles[0].members[0].config, num_heads=1)  # the same tensors mean something else
    heads = [dataclasses.replace(ensembles[0], members=(dataclasses.replace(ensembles[0].members[0], config=narrow),))]
    with pytest.raises(UsageError, match="stop here"):
        open_path("onnx", heads, folder=folder, symbols=sets.symbols)
    with pytest.raises(UsageError, match="stop here"):
        open_path("onnx", ensembles, folder=folder, symbols=sets.symbols, num_outputs=4)
    with pytest.raises(UsageError, match="stop here"):
        open_path("onnx", ensembles, folder=folder, symbols=sets.symbols[::-1])
    assert made == ["set.onnx", "set.onnx", "set_4.onnx", "set.onnx"]


def test_paths_that_cannot_run_are_reported_with_their_reason(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("\nNo working C++ compiler found\nlong story")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("vnfleet.model.inference.onnx_export.find_spec", lambda _: None)
    values_STF, present_ST = sets.features()
    found = measure_paths(
        sets.of("adapted_streaming"), values_STF, present_ST, range(30, 40), folder=tmp_path, repeats=1
    )
    words = {one.path: one.words for one in found}
    assert "AMX" in words["bf16"]
    assert words["compiled"] == "not run: RuntimeError: No working C++ compiler found"
    assert "pip install 'vnfleet[onnx]'" in words["onnx"]
    assert words["onnx"] == words["onnx_int8"]
    assert [one.path for one in found if one.seconds_per_set is not None] == ["float32"]
    assert choose_path(found).path == "float32"
    with pytest.raises(UsageError, match="cannot run here"):
        open_path("bf16", sets.of("adapted_streaming"), folder=tmp_path)


def test_float32_failing_is_not_hidden(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> EnsembleForecast:
        raise RuntimeError("a bug")

    monkeypatch.setattr("vnfleet.model.inference.paths.TorchPath.forecast", broken)
    values_STF, present_ST = sets.features()
    with pytest.raises(RuntimeError, match="a bug"):
        measure_paths(sets.of("pooled_depths"), values_STF, present_ST, range(30, 40), folder=tmp_path)


def test_gpu_paths_by_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    assert path_problem("onnx", "cuda:0") == "ONNX Runtime is used on the CPU only"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "sm_80" in str(path_problem("bf16", "cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert path_problem("bf16", "cuda:0") is None
    assert path_problem("float32", "cuda:0") is None


def test_sessions_nobody_can_be_forecast_on_are_refused(sets: Sets, tmp_path: Path) -> None:
    values_STF, present_ST = sets.features()
    with pytest.raises(BadDataError, match="no symbol can be forecast"):
        measure_paths(sets.of("pooled_depths"), values_STF, np.zeros_like(present_ST), range(30, 40), folder=tmp_path)
