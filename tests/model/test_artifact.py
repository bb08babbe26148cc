"""Model files: what is written is what is read, and anything else is refused by name without running it."""

from __future__ import annotations

import dataclasses
import os
import pickle
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from vnfleet.core.errors import BadDataError
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import Artifact, forecast_artifacts, read_artifact, write_artifact
from vnfleet.model.ensemble import Calibration, Ensemble, Member, Scaler
from vnfleet.model.stockformer import Deltas, Stockformer, StockformerConfig

CONFIG = StockformerConfig(num_features=4, d_model=8, num_heads=2, d_ff=16, band_sessions=5, num_horizons=3)
NAMES = ("a", "b", "c", "d")
SYMBOLS = ("AAA", "BBB", "CCC")


def artifact_of(symbol: str, seed: int = 0) -> Artifact:
    torch.manual_seed(seed)
    members = []
    for _ in range(2):
        network = Stockformer(CONFIG)
        deltas = Deltas.zeros(1, CONFIG)
        deltas.score_weight_SD[:] = 0.1 * (SYMBOLS.index(symbol) + 1)
        members.append(Member({name: t.clone() for name, t in network.state_dict().items()}, deltas, 0.5))
    ensemble = Ensemble(
        config=CONFIG,
        feature_names=NAMES,
        scaler=Scaler(np.zeros(4, dtype=np.float32), np.full(4, 2.0, dtype=np.float32)),
        label_scale_H=np.asarray([0.01, 0.02, 0.03], dtype=np.float32),
        calibration=Calibration(0.1, 0.7),
        members=tuple(members),
    )
    return Artifact(
        symbol=symbol,
        ensemble=ensemble,
        strategy="adapted",
        reference_universe=SYMBOLS,
        ids={"recipe_id": "r"},
        validation={"set_rank_ic": 0.1, "accuracy": 0.5},
    )


@pytest.fixture
def cube() -> FeatureCube:
    generator = np.random.default_rng(0)
    values_STF = generator.standard_normal((3, 30, 4)).astype(np.float32)
    present_ST = np.ones((3, 30), dtype=bool)
    present_ST[2, 25] = False
    values_STF[2, 25] = 0.0
    sessions = tuple(date(2024, 1, 1) + timedelta(days=day) for day in range(30))
    return FeatureCube(
        sessions=sessions, symbols=SYMBOLS, names=NAMES, values_STF=values_STF, present_ST=present_ST, cube_id="cube"
    )


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    artifact = artifact_of("BBB")
    write_artifact(tmp_path / "BBB_stockformer.pt", artifact)
    found = read_artifact(tmp_path / "BBB_stockformer.pt")
    assert found.weights_sha256 == artifact.weights_sha256
    assert dataclasses.replace(found, ensemble=artifact.ensemble) == artifact
    assert found.ensemble.config == CONFIG
    assert found.ensemble.calibration == artifact.ensemble.calibration


def test_one_pass_for_the_set_equals_one_pass_each(cube: FeatureCube) -> None:
    artifacts = [artifact_of(symbol) for symbol in SYMBOLS]
    sessions = cube.sessions[20:30]
    together = forecast_artifacts(artifacts, cube, sessions, "m", "live")
    for artifact in artifacts:
        alone = forecast_artifacts([artifact], cube, sessions, "m", "live")
        own = together.filter(symbol=artifact.symbol)
        np.testing.assert_allclose(alone["score"].to_numpy(), own["score"].to_numpy(), atol=1e-5)
        np.testing.assert_allclose(
            alone["expected_return_frac"].to_numpy(), own["expected_return_frac"].to_numpy(), atol=1e-6
        )
    assert together.height == 29  # CCC is absent on one of the ten sessions
    assert together.filter(symbol="AAA")["score"].to_list() != together.filter(symbol="BBB")["score"].to_list()


def test_a_forecast_is_the_mean_over_members_in_score_sd_and_return_units(cube: FeatureCube) -> None:
    artifact = artifact_of("AAA")
    halves = [
        dataclasses.replace(artifact, ensemble=dataclasses.replace(artifact.ensemble, members=(member,)))
        for member in artifact.ensemble.members
    ]
    session = (cube.sessions[-1],)
    first, second = (forecast_artifacts([half], cube, session, "m", "live") for half in halves)
    both = forecast_artifacts([artifact], cube, session, "m", "live")
    for name in ("score", "expected_return_frac", "volatility_frac"):
        assert both[name][0] == pytest.approx((first[name][0] + second[name][0]) / 2, rel=1e-5)
    expected = 1 / (1 + np.exp(-(0.1 + 0.7 * both["score"][0])))
    assert both["direction_prob"][0] == pytest.approx(expected)


def damaged(tmp_path: Path, change: object) -> Path:
    path = tmp_path / "AAA_stockformer.pt"
    write_artifact(path, artifact_of("AAA"))
    payload = torch.load(path, weights_only=True)
    assert callable(change)
    change(payload)
    torch.save(payload, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["tensors"].pop("member1/weights/embed.weight"), r"member1/weights/embed\.weight"),
        (lambda p: p["tensors"].update({"extra": torch.zeros(1)}), "extra"),
        (lambda p: p["tensors"].update({"scaler/mean": torch.zeros(5)}), "scaler/mean"),
        (lambda p: p["tensors"].update({"label_scale": torch.zeros(3, dtype=torch.float64)}), "label_scale"),
        (lambda p: p["tensors"].update({"scaler/sd": torch.full((4,), torch.nan)}), "scaler/sd.*not finite"),
        (lambda p: p.update(facts_json=p["facts_json"].replace('"a","b"', '"b"')), "feature list"),
        (lambda p: p.update(facts_json=p["facts_json"].replace('version":1', 'version":9')), "newer vnfleet"),
        (lambda p: p.pop("facts_json"), "not a vnfleet model"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        read_artifact(damaged(tmp_path, change))


def test_a_truncated_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "AAA_stockformer.pt"
    with pytest.raises(BadDataError, match="missing"):
        read_artifact(path)
    write_artifact(path, artifact_of("AAA"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BadDataError, match="not a vnfleet model"):
        read_artifact(path)


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def test_code_hidden_in_a_model_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "torch"):
        path = tmp_path / f"{name}_stockformer.pt"
        if name == "torch":
            torch.save({"facts_json": "{}", "tensors": _Attack()}, path)
        else:
            path.write_bytes(pickle.dumps(_Attack(), protocol=2))
        with pytest.raises(BadDataError, match="not a vnfleet model"):
            read_artifact(path)
    assert not (tmp_path / "owned").exists()


def test_a_model_refuses_a_cube_with_other_features(cube: FeatureCube) -> None:
    other = dataclasses.replace(cube, names=("a", "b", "x", "d"))
    with pytest.raises(BadDataError, match="other features"):
        forecast_artifacts([artifact_of("AAA")], other, cube.sessions[-1:], "m", "live")
    with pytest.raises(BadDataError, match="no market session"):
        forecast_artifacts([artifact_of("AAA")], cube, (date(2030, 1, 1),), "m", "live")
