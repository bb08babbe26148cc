"""Model files: what is written is what is read, and anything else is refused by name without running it."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from vnfleet.core.errors import BadDataError, ResourceError
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import Artifact, read_artifact, write_artifact
from vnfleet.model.ensemble import Calibration, Ensemble, EnsembleForecast, Member, Scaler, run_network
from vnfleet.model.sets import forecast_artifacts
from vnfleet.model.stockformer import Deltas, Stockformer, StockformerConfig, initial_weights

CONFIG = StockformerConfig(num_features=4, d_model=8, num_heads=2, d_ff=16, band_sessions=5, horizon_sessions=3)
DEPTHS = (CONFIG, dataclasses.replace(CONFIG, num_layers=3, band_sessions=3, dropout=0.25))
NAMES = ("a", "b", "c", "d")
SYMBOLS = ("AAA", "BBB", "CCC")


def artifact_of(symbol: str, seed: int = 0, configs: Sequence[StockformerConfig] = (CONFIG, CONFIG)) -> Artifact:
    members = []
    for index, config in enumerate(configs):
        deltas = Deltas.zeros(1, config)
        deltas.score_weight_SD[:] = 0.1 * (SYMBOLS.index(symbol) + 1)
        members.append(Member(config, initial_weights(config, 10 * seed + index), deltas, 0.5))
    ensemble = Ensemble(
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


def separate_artifact(symbol: str) -> Artifact:
    """A model of one symbol alone: own weights, scaler, label scale and calibration, score as a return."""
    row = SYMBOLS.index(symbol)
    shapes = [dataclasses.replace(config, score="return") for config in DEPTHS]
    scale_H = np.asarray([0.01, 0.02, 0.03], dtype=np.float32) * (row + 1)
    members = tuple(
        Member(config, initial_weights(config, 100 * row + index), None, 1.0 / float(scale_H[-1]))
        for index, config in enumerate(shapes)
    )
    ensemble = Ensemble(
        feature_names=NAMES,
        scaler=Scaler(np.full(4, 0.1 * row, dtype=np.float32), np.full(4, 1.0 + row, dtype=np.float32)),
        label_scale_H=scale_H,
        calibration=Calibration(0.1 * row, 20.0 + row),
        members=members,
    )
    return dataclasses.replace(artifact_of(symbol), ensemble=ensemble, strategy="separate")


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
    assert [member.config for member in found.ensemble.members] == [CONFIG, CONFIG]
    assert [member.score_sd for member in found.ensemble.members] == [0.5, 0.5]
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


def test_members_of_different_depths_are_kept_with_their_shapes(tmp_path: Path, cube: FeatureCube) -> None:
    artifact = artifact_of("BBB", configs=DEPTHS)
    write_artifact(tmp_path / "BBB_stockformer.pt", artifact)
    found = read_artifact(tmp_path / "BBB_stockformer.pt")
    assert [member.config.num_layers for member in found.ensemble.members] == [2, 3]
    assert [member.config for member in found.ensemble.members] == list(DEPTHS)
    assert found.weights_sha256 == artifact.weights_sha256
    assert found.ensemble.context_sessions == 8  # 2 x (5 - 1) sessions before the first forecast, 3 x (3 - 1) are fewer
    before, after = (forecast_artifacts([one], cube, cube.sessions[-3:], "m", "live") for one in (artifact, found))
    assert_frame_equal(before, after)


def test_a_deeper_member_with_a_shorter_memory_sees_the_same_sessions_as_alone(cube: FeatureCube) -> None:
    whole = artifact_of("AAA", configs=DEPTHS)
    alone = [
        dataclasses.replace(whole, ensemble=dataclasses.replace(whole.ensemble, members=(member,)))
        for member in whole.ensemble.members
    ]
    session = (cube.sessions[-1],)
    both, first, second = (
        forecast_artifacts([one], cube, session, "m", "live").row(0, named=True) for one in (whole, *alone)
    )
    for name in ("score", "expected_return_frac", "volatility_frac"):
        assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-5)


def test_separate_models_of_one_shape_run_as_one_stack_and_say_what_each_says_alone(
    cube: FeatureCube, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = [separate_artifact(symbol) for symbol in SYMBOLS]
    sessions = cube.sessions[20:30]
    alone = pl.concat([forecast_artifacts([artifact], cube, sessions, "m", "live") for artifact in artifacts])
    stacks: list[int] = []

    def counted(
        network: Stockformer, scaled_STF: np.ndarray, present_ST: np.ndarray, span: range, deltas: Deltas | None
    ) -> EnsembleForecast:
        stacks.append(network.num_models)
        return run_network(network, scaled_STF, present_ST, span, deltas)

    monkeypatch.setattr("vnfleet.model.ensemble.run_network", counted)
    together = forecast_artifacts(artifacts, cube, sessions, "m", "live")
    assert stacks == [3, 3]  # one pass for each of the two members, three symbols in each
    key = ["symbol", "session"]
    assert_frame_equal(together.sort(key), alone.sort(key), abs_tol=1e-6, rel_tol=1e-5)
    np.testing.assert_allclose(together["score"], together["expected_return_frac"], rtol=1e-5, atol=1e-8)
    assert together.height == 29


def test_separate_models_of_another_shape_and_other_strategies_are_forecast_beside_them(cube: FeatureCube) -> None:
    wide = dataclasses.replace(CONFIG, d_model=16)
    other = artifact_of("CCC", configs=(wide,))
    mixed = [separate_artifact("AAA"), separate_artifact("BBB"), other]
    session = cube.sessions[-1:]
    together = forecast_artifacts(mixed, cube, session, "m", "live")
    alone = pl.concat([forecast_artifacts([artifact], cube, session, "m", "live") for artifact in mixed])
    assert_frame_equal(together.sort("symbol"), alone.sort("symbol"), abs_tol=1e-6, rel_tol=1e-5)
    assert together.sort("symbol")["symbol"].to_list() == list(SYMBOLS)


def test_models_that_share_weights_but_not_their_units_are_not_taken_for_one(cube: FeatureCube) -> None:
    first, second = (dataclasses.replace(artifact_of("AAA"), symbol=symbol) for symbol in SYMBOLS[:2])
    double = dataclasses.replace(second.ensemble, label_scale_H=2 * second.ensemble.label_scale_H)
    halved = tuple(dataclasses.replace(member, score_sd=0.25) for member in second.ensemble.members)
    for ensemble in (double, dataclasses.replace(second.ensemble, members=halved)):
        pair = [first, dataclasses.replace(second, ensemble=ensemble)]
        together = forecast_artifacts(pair, cube, cube.sessions[-1:], "m", "live")
        alone = pl.concat([forecast_artifacts([one], cube, cube.sessions[-1:], "m", "live") for one in pair])
        assert_frame_equal(together.sort("symbol"), alone.sort("symbol"), abs_tol=1e-6, rel_tol=1e-5)


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
        (lambda p: p.update(facts_json=p["facts_json"].replace('version":2', 'version":9')), "a newer vnfleet"),
        (lambda p: p.update(facts_json=p["facts_json"].replace('version":2', 'version":1')), "an older vnfleet"),
        (lambda p: p.update(facts_json=p["facts_json"].replace("[0.5,0.5]", "[0.5]")), "one score sd for each"),
        (lambda p: p.update(facts_json=p["facts_json"].replace('"d_ff":16', '"d_ff":17', 1)), "member0/weights"),
        (lambda p: p.update(facts_json=p["facts_json"].replace('"d_ff":16', '"d_fff":16')), "not a vnfleet model"),
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


def test_a_full_disk_is_said_in_words_and_the_old_model_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "AAA_stockformer.pt"
    write_artifact(path, artifact_of("AAA"))
    before = path.read_bytes()

    def full(target: Path, payload: bytes) -> int:
        with target.open("wb") as handle:
            handle.write(payload[: len(payload) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ResourceError, match="the disk is full"):
            write_artifact(path, artifact_of("AAA", seed=1))
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    for name in ("first.pt", "second.pt"):
        write_artifact(tmp_path / name, artifact_of("AAA"))
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "second.pt").read_bytes()
