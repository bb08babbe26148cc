"""The inference benchmark: every path on the same work, the plan's claim beside it, and no figure without its mark."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from vnfleet.bench.infer import InferBench, InferCase, PredictShares, run_infer_bench
from vnfleet.core.errors import BadDataError
from vnfleet.model.artifact import read_artifact
from vnfleet.model.inference import PathMeasurement
from vnfleet.training.dataset import TrainingData


def training_data(num_sessions: int = 75, num_symbols: int = 12) -> TrainingData:
    generator = np.random.default_rng(1)
    shape = (num_symbols, num_sessions)
    present_ST = generator.random(shape) > 0.05
    present_ST[:, -1] = True
    present_ST[0] = False  # a symbol without a forecast gets no model
    return TrainingData(
        tuple(date(2024, 1, 1) + timedelta(days=day) for day in range(num_sessions)),
        tuple(f"S{row:02d}" for row in range(num_symbols)),
        ("a", "b", "c", "d"),
        (generator.standard_normal((*shape, 4)) * present_ST[..., None]).astype(np.float32),
        present_ST,
        generator.standard_normal((5, *shape)).astype(np.float32),
    )


def path(name: str, seconds: float, agreement: float) -> PathMeasurement:
    return PathMeasurement(
        path=name,  # type: ignore[arg-type]
        seconds_per_set=seconds,
        speedup=0.02 / seconds,
        max_abs_difference=0.01,
        rank_agreement=agreement,
        seconds_once=0.0,
        seconds_to_open=0.5,
        file_bytes=2_500_000,
        words="",
    )


def test_a_quick_run_measures_a_set_from_files_to_frame(tmp_path: Path) -> None:
    data = training_data()
    heard: list[str] = []
    found = run_infer_bench(
        tmp_path, data, num_symbols=10, num_members=2, names=("bf16", "compiled"), quick=True, told=heard.append
    )
    files = sorted((tmp_path / "desktop" / "models").iterdir())
    assert len(files) == 10
    assert "S00_stockformer.pt" not in [file.name for file in files]
    assert read_artifact(files[0]).strategy == "adapted"
    assert [(case.job, case.num_symbols, case.num_members) for case in found.cases] == [
        ("newest session", 10, 2),
        ("a year", 10, 2),
    ]
    for case in found.cases:
        assert [one.path for one in case.measurements] == ["float32", "bf16"]  # nothing is compiled in a quick run
        assert case.compared_sessions <= 75 - 58
    (shares,) = found.shares
    assert shares.num_files == 10
    assert shares.file_bytes == sum(file.stat().st_size for file in files)
    assert 0.0 < shares.network_share < 1.0
    assert any("year" in line for line in heard)
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["plan_claim"] == "2-4x"
    assert data.values_STF.flags.writeable


def test_models_of_other_symbols_are_refused(tmp_path: Path) -> None:
    data = training_data(70)
    run_infer_bench(tmp_path, data, num_symbols=3, num_members=1, names=(), quick=True)
    strangers = TrainingData(
        data.sessions,
        tuple(f"X{row:02d}" for row in range(12)),
        data.feature_names,
        data.values_STF,
        data.present_ST,
        data.returns_HST,
    )
    with pytest.raises(BadDataError, match="no model matches"):
        run_infer_bench(tmp_path / "other", strangers, models=tmp_path / "desktop" / "models", names=(), quick=True)


def test_prices_too_short_for_a_forecast_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="no symbol has history enough"):
        run_infer_bench(tmp_path, training_data(40), names=(), quick=True)


def test_tables_mark_claims_slices_and_paths_that_were_not_run() -> None:
    absent = PathMeasurement(
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
    case = InferCase(
        shape="plan",
        job="a year",
        num_symbols=102,
        num_members=3,
        compared_sessions=25,
        year_factor=10.0,
        measurements=(path("float32", 0.02, 1.0), absent, path("onnx_int8", 0.01, 0.99999996)),
        chosen="onnx_int8",
        chosen_once="float32",
    )
    shares = PredictShares(
        shape="plan",
        num_files=102,
        file_bytes=204_000_000,
        read_seconds=0.5,
        forecast_seconds=0.5,
        scale_seconds=0.1,
        network_seconds=0.3,
    )
    assert shares.network_share == pytest.approx(0.3)
    table, parts = InferBench(cases=(case,), shares=(shares,), threads=2, weights="as trained").tables()
    float32, compiled, int8 = ([str(cell) for cell in row] for row in table.rows)
    assert float32[1:4] == ["200 ms (e)", "1.00 x (m)", "-"]
    assert float32[-1] == "ranks agree"
    assert compiled[-1] == "not run: no compiler"
    assert int8[1:4] == ["100 ms (e)", "2.00 x (m)", "2-4x (c)"]
    assert int8[5] == "0.999999 (m)"  # nothing but equal ranks reads 1
    assert int8[-1] == "ranks agree, chosen"
    assert any("times are 10 times that" in note for note in table.notes)
    assert [str(cell) for cell in parts.rows[0]][2:6] == [
        "500 ms = 50% (m)",
        "100 ms = 10% (m)",
        "300 ms = 30% (m)",
        "100 ms = 10% (m)",
    ]
