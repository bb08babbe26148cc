"""A release as ONNX files: the numbers of `predict`, without torch, and nobody else's files touched."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.sealed import verify
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import Artifact, artifact_name, write_artifact
from vnfleet.model.ensemble import Calibration, Ensemble, Member, Scaler
from vnfleet.model.inference import OnnxSet
from vnfleet.model.sets import forecast_artifacts
from vnfleet.model.stockformer import Deltas, StockformerConfig, initial_weights
from vnfleet.releases import onnx
from vnfleet.releases.onnx import OnnxFile, export_release
from vnfleet.releases.registry import Release, ReleaseContents, build_release, open_release

for _package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_package, reason="the extra vnfleet[onnx] is not installed")
pytestmark = pytest.mark.xdist_group("onnx")

CONFIG = StockformerConfig(
    num_features=3, band_sessions=3, d_model=4, num_heads=1, num_layers=1, d_ff=8, horizon_sessions=5
)
NAMES = ("alpha", "beta", "gamma")
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF")
SESSIONS = tuple(date(2026, 11, 2) + timedelta(days=offset) for offset in range(12))


def make_artifact(symbol: str, strategy: str) -> Artifact:
    place = SYMBOLS.index(symbol)
    deltas = None
    if strategy == "adapted":
        deltas = Deltas.zeros(1, CONFIG)
        generator = torch.Generator().manual_seed(place)
        for tensor in deltas.tensors().values():
            tensor.normal_(0.0, 0.1, generator=generator)
    weights = initial_weights(CONFIG, place if strategy == "separate" else 7)
    ensemble = Ensemble(
        feature_names=NAMES,
        scaler=Scaler(np.zeros(3, np.float32), np.ones(3, np.float32)),
        label_scale_H=np.full(5, 0.03, np.float32),
        calibration=Calibration(0.1, 1.0),
        members=(Member(CONFIG, weights, deltas, 1.0),),
    )
    return Artifact(
        symbol=symbol,
        ensemble=ensemble,
        strategy=strategy,
        reference_universe=SYMBOLS,
        ids={"recipe_id": "r", "unit_id": symbol},
        validation={"rank_ic": 0.1},
    )


def release_of(root: Path, serving: dict[str, str]) -> Release:
    """A release in which each symbol is served as `serving` says; baselines hold a file that is never read."""
    artifacts: dict[str, Path] = {}
    members: dict[str, Path] = {}
    for symbol, server in serving.items():
        strategy = server if server in {"adapted", "separate", "pooled"} else "pooled"
        artifacts[symbol] = root / "trained" / artifact_name(symbol)
        write_artifact(artifacts[symbol], make_artifact(symbol, strategy))
        if strategy != server:
            members[server] = root / server
            members[server].mkdir(exist_ok=True)
            (members[server] / "baseline.json").write_text("{}", encoding="utf-8")
    prod = root / "models_prod"
    release_id = build_release(
        prod, date(2026, 11, 13), ReleaseContents(artifacts=artifacts, serving=serving, members=members)
    )
    return open_release(prod, release_id)


def cube() -> FeatureCube:
    values_STF = np.random.default_rng(0).standard_normal((len(SYMBOLS), len(SESSIONS), 3)).astype(np.float32)
    return FeatureCube(SESSIONS, SYMBOLS, NAMES, values_STF, np.ones(values_STF.shape[:2], dtype=bool), "cube")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, onnx.OnnxRelease]:
    root = tmp_path_factory.mktemp("mixed")
    servers = ("adapted", "adapted", "ridge", "separate", "separate", "pooled")
    release = release_of(root, dict(zip(SYMBOLS, servers, strict=True)))
    return release, export_release(release, root / "out")


def test_each_group_of_models_is_a_file_and_baselines_are_left_out(mixed: tuple[Release, onnx.OnnxRelease]) -> None:
    release, exported = mixed
    assert exported.files == (
        OnnxFile(name="adapted.onnx", strategy="adapted", symbols=("AAA", "BBB")),
        OnnxFile(name="pooled.onnx", strategy="pooled", symbols=("FFF",)),
        OnnxFile(name="separate.onnx", strategy="separate", symbols=("DDD", "EEE")),
    )
    assert exported.left_out == {"CCC": "ridge"}
    manifest = verify(exported.folder, onnx.KIND)
    assert manifest.meta["release_id"] == release.release_id
    index = json.loads((exported.folder / "sets.json").read_text(encoding="utf-8"))
    assert (index["left_out"], index["feature_names"]) == ({"CCC": "ridge"}, list(NAMES))
    assert index["horizons"] == [1, 2, 3, 4, 5]
    readme = (exported.folder / "README.txt").read_text(encoding="utf-8")
    assert "left out: 1 symbols that a baseline serves (ridge)" in readme


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_says_whose_it_is_and_what_predict_says(mixed: tuple[Release, onnx.OnnxRelease], place: int) -> None:
    release, exported = mixed
    file = exported.files[place]
    opened = OnnxSet(exported.folder / file.name)
    ids = {"release_id": release.release_id, "strategy": file.strategy, "serves": ",".join(file.symbols)}
    ids |= {"recipe_id": "r"} | ({"unit_id": "FFF"} if file.symbols == ("FFF",) else {})
    assert opened.facts.ids == ids
    assert opened.facts.symbols == (() if file.strategy == "pooled" else file.symbols)
    assert opened.facts.feature_names == NAMES
    features = cube()
    rows = [SYMBOLS.index(symbol) for symbol in file.symbols]
    newest = slice(len(SESSIONS) - opened.facts.num_sessions, None)
    found = opened.forecast(features.values_STF[rows, newest], features.present_ST[rows, newest], np.arange(len(rows)))
    models = [make_artifact(symbol, file.strategy) for symbol in file.symbols]
    frame = forecast_artifacts(models, features, SESSIONS[-1:], "m", "live").sort("symbol")
    np.testing.assert_allclose(found.score_SO[:, -1], frame["score"], atol=1e-5)
    np.testing.assert_allclose(found.path_SOH[:, -1, -1], frame["expected_return_frac"], atol=1e-6)


def test_the_example_runs_without_torch_and_without_this_package(mixed: tuple[Release, onnx.OnnxRelease]) -> None:
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__'); "
        "assert not {'torch', 'vnfleet'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(mixed[1].folder / "example.py")],
        capture_output=True,
        text=True,
        check=True,
        cwd=mixed[1].folder,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["AAA", "BBB", "FFF", "DDD", "EEE"]
    assert "score" in done.stdout


def test_an_earlier_export_is_replaced_and_nothing_else_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(_: object, folder: Path, *, name: str, **__: object) -> None:
        (folder / name).write_text("a set", encoding="utf-8")

    monkeypatch.setattr(onnx, "export_onnx", export)
    release, folder = release_of(tmp_path, dict.fromkeys(SYMBOLS[:2], "pooled")), tmp_path / "out"
    assert export_release(release, folder).files[0].name == "pooled.onnx"
    before = verify(folder, onnx.KIND).files
    export_release(release, folder)
    assert verify(folder, onnx.KIND).files == before
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"holds other files(.|\n)*notes\.txt"):
        export_release(release, folder)
    for occupied in (tmp_path, release.folder, folder / "notes.txt"):
        with pytest.raises(UsageError, match=r"holds|a file lies"):
            export_release(release, occupied)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_baselines_alone_leave_nothing_to_export(tmp_path: Path) -> None:
    release = release_of(tmp_path, dict.fromkeys(SYMBOLS[:2], "ridge"))
    with pytest.raises(UsageError, match=r"baselines alone serve(.|\n)*ridge"):
        export_release(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_model_leaves_nothing_behind(tmp_path: Path) -> None:
    release = release_of(tmp_path, dict.fromkeys(SYMBOLS[:2], "pooled"))
    release.artifact_path("BBB").write_bytes(b"torn")
    with pytest.raises(BadDataError, match="not a vnfleet model"):
        export_release(release, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_extra_the_way_to_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = release_of(tmp_path, dict.fromkeys(SYMBOLS[:2], "pooled"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("vnfleet.model.inference.onnx_export.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"vnfleet\[onnx\]"):
        export_release(release, tmp_path / "out")
