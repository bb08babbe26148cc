"""Which path computes Monday's forecasts: as wished, as measured here, and float32 whenever the others cannot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast, get_args

import numpy as np
import polars as pl
import pytest

from vnfleet.bench import train as bench_train
from vnfleet.bench.material import Material
from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import empty_prediction_frame
from vnfleet.cycle import inference
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.inference import (
    INFERENCE_NAME,
    InferenceChoice,
    ServingPath,
    choice_of,
    machine_here,
    read_choice,
    serving_path,
    write_choice,
)
from vnfleet.cycle.runner import Runner, SilentObserver
from vnfleet.cycle.steps import releasing
from vnfleet.cycle.workdir import Folders
from vnfleet.model.ensemble import (
    Calibration,
    Ensemble,
    EnsembleForecast,
    Member,
    Scaler,
    SetForecaster,
    forecast_ensembles,
)
from vnfleet.model.inference import PATH_NAMES, PathMeasurement, PathName, forecaster
from vnfleet.model.stockformer import StockformerConfig, initial_weights
from vnfleet.training.machine.config import Inference, MachineConfig
from vnfleet.training.machine.work import work_key
from vnfleet.training.recipe import Recipe

NOW = datetime(2026, 11, 23, 1, 45, tzinfo=UTC)
CONFIG = StockformerConfig(num_features=2, d_model=8, num_heads=2, d_ff=16, band_sessions=3, horizon_sessions=3)


def measured(path: PathName, opening: float, once: float = 0.0, agreement: float | None = 1.0) -> PathMeasurement:
    return PathMeasurement(
        path=path,
        seconds_per_set=opening / 2,
        speedup=1.0,
        max_abs_difference=0.0,
        rank_agreement=agreement,
        seconds_once=once,
        seconds_to_open=opening,
        file_bytes=1,
        words="",
    )


def chosen(*measurements: PathMeasurement, trained: bool = True) -> InferenceChoice:
    return choice_of(measurements, trained=trained, num_symbols=102, num_members=3, device="cpu", now=NOW)


def ensemble() -> Ensemble:
    return Ensemble(
        feature_names=("a", "b"),
        scaler=Scaler(np.zeros(2, np.float32), np.ones(2, np.float32)),
        label_scale_H=np.full(3, 0.02, np.float32),
        calibration=Calibration(0.0, 1.0),
        members=(Member(CONFIG, initial_weights(CONFIG, 3), None, 0.5),),
    )


def features() -> tuple[np.ndarray, np.ndarray]:
    values_STF = np.random.default_rng(2).standard_normal((4, 20, 2)).astype(np.float32)
    return values_STF, np.ones((4, 20), dtype=bool)


class TestTheChoice:
    def test_the_fastest_forecast_of_a_new_set_is_chosen(self) -> None:
        assert chosen(measured("float32", 1.0), measured("compiled", 0.5)).path == "compiled"
        assert chosen(measured("float32", 1.0), measured("onnx", 0.5, once=0.6)).path == "float32"
        assert chosen(measured("float32", 1.0), measured("onnx_int8", 0.1, agreement=0.99)).path == "float32"

    def test_untrained_weights_say_nothing_about_ranks(self) -> None:
        both = (measured("float32", 1.0), measured("onnx_int8", 0.1), measured("bf16", 0.1))
        assert chosen(*both).path in {"onnx_int8", "bf16"}
        assert chosen(*both, trained=False).path == "float32"
        assert chosen(*both, measured("onnx", 0.4), trained=False).path == "onnx"

    def test_paths_that_did_not_run_have_no_figures(self) -> None:
        nothing = dict.fromkeys(("seconds_per_set", "speedup", "max_abs_difference", "rank_agreement"))
        absent = dataclasses.replace(measured("compiled", 1.0), **nothing)  # type: ignore[arg-type]
        found = chosen(measured("float32", 1.0, agreement=None), absent)
        assert [one.path for one in found.figures] == ["float32"]
        with pytest.raises(BadDataError, match="no inference path agrees"):
            chosen(absent)

    def test_it_is_read_back_as_it_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "configs" / INFERENCE_NAME
        assert read_choice(path) is None
        choice = chosen(measured("float32", 1.0), measured("compiled", 0.5))
        write_choice(path, choice)
        assert read_choice(path) == choice
        assert choice.measured_at.startswith("2026-11-23T01:45")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[:-20],
            lambda text: text.replace('"compiled"', '"onnx_int8"', 1),
            lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
            lambda _: "",
            lambda _: json.dumps({"schema_version": 1, "sha256": "", "inference": {}}),
        ],
    )
    def test_a_damaged_one_is_named_and_ignored(
        self, damage: Callable[[str], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folders = Folders(tmp_path)
        path = folders.configs / INFERENCE_NAME
        write_choice(path, chosen(measured("float32", 1.0), measured("compiled", 0.5)))
        path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
        assert serving_path(MachineConfig(), folders).name == "float32"
        assert str(path) in caplog.text


class TestThePathThatServes:
    def remember(self, tmp_path: Path, **changed: str) -> Folders:
        """Write down that `compiled` was fastest, on this machine but for what is `changed`."""
        folders = Folders(tmp_path)
        choice = chosen(measured("float32", 1.0), measured("compiled", 0.5))
        machine = machine_here("cpu").model_copy(update=changed)
        write_choice(folders.configs / INFERENCE_NAME, choice.model_copy(update={"machine": machine}))
        return folders

    @pytest.fixture(autouse=True)
    def a_cpu_with_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inference, "choose_device", lambda _: SimpleNamespace(device="cpu"))
        monkeypatch.setattr(inference, "can_compile", lambda _: (True, "g++ is found"))

    def test_nothing_measured_is_float32(self, tmp_path: Path) -> None:
        path = serving_path(MachineConfig(), Folders(tmp_path))
        assert (path.name, path.reason) == ("float32", "")

    def test_what_was_measured_here_is_taken(self, tmp_path: Path) -> None:
        path = serving_path(MachineConfig(), self.remember(tmp_path))
        assert (path.name, path.reason) == ("compiled", "fastest here with agreeing ranks")

    @pytest.mark.parametrize("changed", [{"torch": "2.0.0"}, {"cpu_capability": "DEFAULT"}, {"device": "cuda:0"}])
    def test_what_was_measured_elsewhere_is_not(self, tmp_path: Path, changed: dict[str, str]) -> None:
        path = serving_path(MachineConfig(), self.remember(tmp_path, **changed))
        assert path.name == "float32"
        assert "another machine" in path.reason

    def test_a_wish_wins_over_the_measurement(self, tmp_path: Path) -> None:
        assert serving_path(MachineConfig(inference="float32"), self.remember(tmp_path)).name == "float32"

    def test_a_wish_that_cannot_be_met_is_float32_with_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(inference, "path_problem", lambda *_: "onnx not installed")
        monkeypatch.setattr(inference, "can_compile", lambda _: (False, "no C++ compiler found"))
        for wish, reason in (("onnx", "onnx not installed"), ("compiled", "no C++ compiler found")):
            path = serving_path(MachineConfig(inference=cast("Inference", wish)), Folders(tmp_path))
            assert (path.name, path.reason) == ("float32", f"{wish} cannot be used here: {reason}")
            assert path.reason in caplog.text

    def test_every_pass_goes_through_the_path_and_has_a_folder_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[tuple[str, Path, str]] = []

        def stand_in(name: PathName, folder: Path, device: str) -> SetForecaster:
            opened.append((name, folder, device))
            return forecaster("float32", folder, device)

        monkeypatch.setattr(inference, "forecaster", stand_in)
        monkeypatch.setattr(inference, "path_problem", lambda *_: None)
        values_STF, present_ST = features()
        path = serving_path(MachineConfig(inference="onnx"), Folders(tmp_path))
        assert path.words == ""
        found = path([ensemble()], values_STF, present_ST, range(19, 20))
        expected = forecast_ensembles([ensemble()], values_STF, present_ST, range(19, 20))
        np.testing.assert_allclose(found.score_SO, expected.score_SO, atol=1e-5)
        assert path.words == "onnx"
        path([ensemble()], values_STF, present_ST, range(19, 20))
        folders = [Folders(tmp_path).inference / name for name in ("pass1", "pass2")]
        assert opened == [("onnx", folder, "cpu") for folder in folders]

    def test_a_path_that_fails_gives_way_to_float32(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*_: object) -> Callable[..., EnsembleForecast]:
            def run(*_: object) -> EnsembleForecast:
                raise RuntimeError("cc1plus: not found\nmore")

            return run

        monkeypatch.setattr(inference, "forecaster", broken)
        values_STF, present_ST = features()
        path = ServingPath("compiled", "", tmp_path)
        found = path([ensemble()], values_STF, present_ST, range(19, 20))
        expected = forecast_ensembles([ensemble()], values_STF, present_ST, range(19, 20))
        np.testing.assert_array_equal(found.score_SO, expected.score_SO)
        assert path.words == "float32 (compiled failed here: cc1plus: not found)"
        assert "forecasts are computed in float32" in caplog.text


def test_the_setting_knows_every_path_and_decides_nothing_about_training() -> None:
    assert get_args(Inference) == ("auto", *PATH_NAMES)
    keys = {
        work_key(Recipe(), MachineConfig(inference=wish), data_id="d", fold_ids=["live"])
        for wish in cast("Sequence[Inference]", get_args(Inference))
    }
    assert len(keys) == 1


@pytest.mark.parametrize(("quick", "models"), [(False, None), (False, Path("models")), (True, None)])
def test_the_bench_writes_its_choice_down(
    quick: bool, models: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def case(shape: str, job: str, fastest: PathName) -> SimpleNamespace:
        paths = (measured("float32", 1.0), measured(fastest, 0.1))
        return SimpleNamespace(shape=shape, job=job, measurements=paths, num_symbols=10, num_members=2)

    shapes = ["desktop", "plan"] if models is None else ["models"]
    newest: dict[str, PathName] = {"desktop": "compiled", "plan": "onnx", "models": "onnx_int8"}
    cases = []
    for shape in shapes:
        cases += [case(shape, "newest session", newest[shape]), case(shape, "a year", "bf16")]
    monkeypatch.setattr(
        bench_train, "run_infer_bench", lambda *_, **__: SimpleNamespace(cases=cases, tables=lambda: ())
    )
    environment = SimpleNamespace(device="cpu", apply=lambda: None)
    monkeypatch.setattr(bench_train, "this_machine", lambda _: environment)
    material = SimpleNamespace(
        config=CycleConfig(), data=None, live=SimpleNamespace(universe=()), sentence="a small market"
    )
    choice = tmp_path / "configs" / INFERENCE_NAME
    bench_train.run_infer_report(
        cast("Material", material), quick=quick, models=models, scratch=tmp_path / "s", command="", choice=choice
    )
    found = read_choice(choice)
    if quick:
        assert found is None
    else:
        assert found is not None
        assert (found.path, found.trained) == (("compiled", False) if models is None else ("onnx_int8", True))


@pytest.mark.parametrize("served", [True, False])
def test_the_step_says_what_computed_its_forecasts(
    served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values_STF, present_ST = features()

    def forecast_release(*_: object, forecast: ServingPath, **__: object) -> pl.DataFrame:
        if served:
            forecast([ensemble()], values_STF, present_ST, range(19, 20))
        return empty_prediction_frame()

    monkeypatch.setattr(releasing, "forecast_release", forecast_release)
    monkeypatch.setattr(releasing, "current_release", lambda _: SimpleNamespace(release_id="r1"))
    monkeypatch.setattr(inference, "path_problem", lambda *_: "onnx not installed")
    week = SimpleNamespace(
        config=CycleConfig(machine=MachineConfig(inference="onnx")),
        folders=Folders(tmp_path),
        as_of=date(2026, 11, 20),
        panel=lambda: SimpleNamespace(sessions=(date(2026, 11, 20),)),
        cube=lambda: SimpleNamespace(cube_id="c1"),
    )
    runner = Runner(folder=tmp_path / "cycle", observer=SilentObserver())
    outcome = releasing.predict(runner, cast("WeekContext", week))
    words = "float32 (onnx cannot be used here: onnx not installed)"
    assert outcome.facts["inference"] == (words if served else "")
    assert outcome.summary.endswith(f"networks computed by {words}" if served else "after 2026-11-20")
    assert releasing.predict(runner, cast("WeekContext", week)).reused
    monkeypatch.setattr(inference, "path_problem", lambda *_: None)
    monkeypatch.setattr(inference, "forecaster", lambda *_: forecast_ensembles)
    assert not releasing.predict(runner, cast("WeekContext", week)).reused  # other numbers in the last digits
