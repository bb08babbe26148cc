"""What the commands around the set that serves hand on, and what they print."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from vnfleet.cli.main import main
from vnfleet.core.errors import UsageError
from vnfleet.core.frames import empty_prediction_frame
from vnfleet.cycle.weekly import Forecast
from vnfleet.releases.onnx import OnnxFile, OnnxRelease


@pytest.mark.parametrize(("option", "wish"), [((), None), (("--inference", "onnx"), "onnx")])
def test_predict_hands_the_path_on_and_says_which_one_was_used(
    option: tuple[str, ...],
    wish: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[object] = []

    def forecast_now(*_: object, inference: str | None, **__: object) -> Forecast:
        asked.append(inference)
        return Forecast(
            release_id="r1",
            session=date(2026, 11, 20),
            frame=empty_prediction_frame(),
            inference="float32 (onnx cannot be used here: onnx not installed)",
        )

    monkeypatch.setattr("vnfleet.cycle.weekly.forecast_now", forecast_now)
    words = ["predict", *option, "--workdir", str(tmp_path)]
    assert main(words) == 0
    assert "Networks computed by float32 (onnx cannot be used here" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inference"].startswith("float32 (")
    assert asked == [wish, wish]


def test_predict_refuses_a_path_that_does_not_exist(tmp_path: Path) -> None:
    assert main(["predict", "--inference", "int4", "--workdir", str(tmp_path)]) == 2


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    seen = SimpleNamespace(release=None, folder=None)

    def live_release(_: Path, release_id: str | None) -> str:
        seen.release = release_id
        return "the release"

    def export_release(_: str, folder: Path) -> OnnxRelease:
        seen.folder = folder
        return OnnxRelease(
            release_id="r1",
            folder=folder,
            files=(OnnxFile(name="adapted.onnx", strategy="adapted", symbols=("FPT", "VCB")),),
            left_out={"HPG": "ridge"},
        )

    monkeypatch.setattr("vnfleet.releases.predict.live_release", live_release)
    monkeypatch.setattr("vnfleet.releases.onnx.export_release", export_release)
    return seen


def test_export_onnx_names_its_files_what_is_left_out_and_how_to_run_them(
    exporting: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export-onnx", str(tmp_path / "out"), "--workdir", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "adapted.onnx" in said
    assert "Left out, since a baseline serves them (ridge): HPG" in said
    assert f"python {tmp_path / 'out' / 'example.py'}" in said
    assert (exporting.release, exporting.folder) == (None, tmp_path / "out")
    assert main([*words, "--release", "r0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["files"] == [{"name": "adapted.onnx", "strategy": "adapted", "symbols": ["FPT", "VCB"]}]
    assert document["left_out"] == {"HPG": "ridge"}
    assert exporting.release == "r0"


def test_export_onnx_without_a_release_or_the_extra_says_what_to_do(
    exporting: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise UsageError("ONNX files cannot be made here", fix="pip install 'vnfleet[onnx]'")

    monkeypatch.setattr("vnfleet.releases.onnx.export_release", refused)
    assert main(["export-onnx", str(tmp_path / "out"), "--workdir", str(tmp_path)]) == 2
    assert "pip install 'vnfleet[onnx]'" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["export-onnx", str(tmp_path / "out"), "--workdir", str(tmp_path)]) == 2
    assert "no release is live" in capsys.readouterr().err
    assert exporting.folder is None
