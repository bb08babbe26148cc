"""Live forecasts from real, tiny artifacts and baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from vnfleet.core.clock import FixedClock
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.panel import PANEL_SCHEMA, Panel
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import ARTIFACT_SUFFIX, Artifact, artifact_name, write_artifact
from vnfleet.model.baselines import FittedBaseline
from vnfleet.model.baselines.calibration import Calibration as BaselineCalibration
from vnfleet.model.baselines.scorers import LinearScorer
from vnfleet.model.ensemble import Calibration, Ensemble, EnsembleForecast, Member, Scaler, forecast_ensembles
from vnfleet.model.sets import forecast_artifacts
from vnfleet.model.stockformer import Deltas, StockformerConfig, initial_weights
from vnfleet.releases import registry
from vnfleet.releases.deploy import deploy
from vnfleet.releases.predict import artifact_problems, predict, write_predictions
from vnfleet.releases.registry import ReleaseContents, build_release

CLOCK = FixedClock(datetime(2026, 11, 15, 20, 0, tzinfo=UTC))
CONFIG = StockformerConfig(
    num_features=3, band_sessions=3, d_model=4, num_heads=1, num_layers=1, d_ff=8, horizon_sessions=5
)
NAMES = ("alpha", "beta", "gamma")
SYMBOLS = tuple(f"S{number:02d}" for number in range(20))
SESSIONS = tuple(date(2026, 11, 2) + timedelta(days=offset) for offset in range(12))
LAST = SESSIONS[-1]


def make_cube(absent: tuple[str, ...] = ()) -> FeatureCube:
    rng = np.random.default_rng(0)
    values_STF = rng.standard_normal((len(SYMBOLS), len(SESSIONS), 3)).astype(np.float32)
    present_ST = np.ones(values_STF.shape[:2], dtype=bool)
    for symbol in absent:
        present_ST[SYMBOLS.index(symbol), -1] = False
    values_STF[~present_ST] = 0.0
    return FeatureCube(SESSIONS, SYMBOLS, NAMES, values_STF, present_ST, "cube")


def make_panel() -> Panel:
    quality = QualityReport(pl.DataFrame(schema=QUALITY_ROW_SCHEMA), pl.DataFrame(schema=QUALITY_SYMBOL_SCHEMA))
    empty = pl.DataFrame()
    return Panel(LAST, SESSIONS, SYMBOLS, pl.DataFrame(schema=PANEL_SCHEMA), empty, empty, quality, "data")


def make_artifact(symbol: str, strategy: str) -> Artifact:
    config = dataclasses.replace(CONFIG, score="return") if strategy == "separate" else CONFIG
    weights = initial_weights(config, SYMBOLS.index(symbol) if strategy == "separate" else 7)
    deltas = None
    if strategy == "adapted":
        own = np.random.default_rng(SYMBOLS.index(symbol))
        zeros = Deltas.zeros(1, CONFIG).tensors()
        deltas = Deltas.from_tensors(
            {
                name: torch.from_numpy(0.1 * own.standard_normal(tuple(tensor.shape)).astype(np.float32))
                for name, tensor in zeros.items()
            }
        )
    ensemble = Ensemble(
        feature_names=NAMES,
        scaler=Scaler(np.zeros(3, np.float32), np.ones(3, np.float32)),
        label_scale_H=np.full(5, 0.03, np.float32),
        calibration=Calibration(0.0, 1.0),
        members=(Member(config, weights, deltas, 1.0),),
    )
    return Artifact(
        symbol=symbol,
        ensemble=ensemble,
        strategy=strategy,
        reference_universe=SYMBOLS,
        ids={"recipe_id": "r"},
        validation={"rank_ic": 0.1},
    )


def trained(root: Path, strategy: str, symbols: tuple[str, ...] = SYMBOLS) -> dict[str, Path]:
    folder = root / strategy
    folder.mkdir(parents=True, exist_ok=True)
    paths = {symbol: folder / artifact_name(symbol) for symbol in symbols}
    for symbol, path in paths.items():
        write_artifact(path, make_artifact(symbol, strategy))
    return paths


def ridge(root: Path, name: str = "ridge") -> Path:
    """A saved ridge that scores 2 alpha - gamma; its calibration says P(up) = 1/2, return 1 % everywhere."""
    folder = root / name
    FittedBaseline(
        name="ridge",
        fold_id="live",
        seed=0,
        horizon_sessions=5,
        feature_names=NAMES,
        setting="penalty 0.1",
        valid_correlation=0.05,
        scorer=LinearScorer(np.zeros(3), np.ones(3), np.array([2.0, 0.0, -1.0])),
        calibration=BaselineCalibration(
            score_mean=0.0,
            score_sd=1.0,
            logit_intercept=0.0,
            logit_slope=0.0,
            return_mean_frac=0.01,
            return_slope_frac=0.0,
        ),
    ).save(folder)
    return folder


def go_live(prod: Path, contents: ReleaseContents) -> str:
    release_id = build_release(prod, date(2026, 11, 13), contents)
    deploy(prod, release_id, clock=CLOCK, expected_symbols=contents.artifacts)
    return release_id


@pytest.fixture
def prod(tmp_path: Path) -> Path:
    return tmp_path / "models_prod"


def test_the_registry_and_the_models_agree_on_file_names() -> None:
    assert registry.ARTIFACT_SUFFIX == ARTIFACT_SUFFIX


@pytest.mark.parametrize("strategy", ["adapted", "separate", "pooled"])
def test_models_serve_under_the_name_of_the_release(prod: Path, tmp_path: Path, strategy: str) -> None:
    contents = ReleaseContents(artifacts=trained(tmp_path, strategy), serving=dict.fromkeys(SYMBOLS, strategy))
    release_id = go_live(prod, contents)
    frame = predict(prod, make_panel(), make_cube(), LAST)
    artifacts = [make_artifact(symbol, strategy) for symbol in SYMBOLS]
    assert_frame_equal(frame, forecast_artifacts(artifacts, make_cube(), [LAST], release_id, "live"))
    assert frame.get_column("symbol").to_list() == list(SYMBOLS)
    assert frame.get_column("model_id").unique().to_list() == [release_id]


def test_another_path_may_compute_the_networks(prod: Path, tmp_path: Path) -> None:
    release_id = go_live(
        prod, ReleaseContents(artifacts=trained(tmp_path, "adapted"), serving=dict.fromkeys(SYMBOLS, "adapted"))
    )
    asked: list[range] = []

    def halved(
        ensembles: Sequence[Ensemble], values_STF: np.ndarray, present_ST: np.ndarray, sessions: range
    ) -> EnsembleForecast:
        asked.append(sessions)
        found = forecast_ensembles(ensembles, values_STF, present_ST, sessions)
        return dataclasses.replace(found, score_SO=found.score_SO / 2)

    plain = predict(prod, make_panel(), make_cube(), LAST)
    frame = predict(prod, make_panel(), make_cube(), LAST, release_id=release_id, forecast=halved)
    assert asked == [range(len(SESSIONS) - 1, len(SESSIONS))]
    assert frame.get_column("score").to_list() == pytest.approx((plain.get_column("score") / 2).to_list())


def test_a_baseline_serves_its_symbols_and_models_the_others(prod: Path, tmp_path: Path) -> None:
    by_ridge = SYMBOLS[:3]
    serving = {symbol: "ridge" if symbol in by_ridge else "adapted" for symbol in SYMBOLS}
    members = {"ridge": ridge(tmp_path)}
    go_live(prod, ReleaseContents(artifacts=trained(tmp_path, "adapted"), serving=serving, members=members))
    cube = make_cube()
    frame = predict(prod, make_panel(), cube, LAST)
    assert frame.get_column("symbol").to_list() == list(SYMBOLS)
    expected = 2.0 * cube.values_STF[:3, -1, 0] - cube.values_STF[:3, -1, 2]
    assert frame.get_column("score").to_list()[:3] == pytest.approx(expected.tolist(), rel=1e-6)
    volatility = frame.get_column("volatility_frac")
    assert volatility[:3].null_count() == 3
    assert volatility[3:].null_count() == 0


def test_a_baseline_serves_alone_while_the_models_run_in_shadow(prod: Path, tmp_path: Path) -> None:
    contents = ReleaseContents(
        artifacts=trained(tmp_path, "adapted"),
        serving=dict.fromkeys(SYMBOLS, "ridge"),
        members={"ridge": ridge(tmp_path)},
    )
    go_live(prod, contents)
    frame = predict(prod, make_panel(), make_cube(), LAST)
    assert frame.height == 20
    assert frame.get_column("expected_return_frac").to_list() == pytest.approx([0.01] * 20)
    with pytest.raises(BadDataError, match=r"17 of 20; missing: S00, S01, S02"):
        predict(prod, make_panel(), make_cube(("S00", "S01", "S02")), LAST)


def test_exactly_ninety_percent_of_the_universe_is_enough(prod: Path, tmp_path: Path) -> None:
    contents = ReleaseContents(artifacts=trained(tmp_path, "pooled"), serving=dict.fromkeys(SYMBOLS, "pooled"))
    go_live(prod, contents)
    frame = predict(prod, make_panel(), make_cube(("S00", "S07")), LAST)
    assert set(SYMBOLS) - set(frame.get_column("symbol")) == {"S00", "S07"}
    with pytest.raises(BadDataError, match=r"at least 90% of 20(.|\n)*17 of 20; missing: S00, S07, S11"):
        predict(prod, make_panel(), make_cube(("S00", "S07", "S11")), LAST)
    assert predict(prod, make_panel(), make_cube(("S00", "S07", "S11")), LAST, min_coverage_frac=0.8).height == 17


def test_a_session_outside_the_panel_or_the_features_is_refused(prod: Path, tmp_path: Path) -> None:
    contents = ReleaseContents(artifacts=trained(tmp_path, "pooled"), serving=dict.fromkeys(SYMBOLS, "pooled"))
    go_live(prod, contents)
    with pytest.raises(BadDataError, match="no market session"):
        predict(prod, make_panel(), make_cube(), LAST + timedelta(days=1))
    later = dataclasses.replace(make_panel(), sessions=(*SESSIONS, LAST + timedelta(days=1)))
    with pytest.raises(BadDataError, match="do not reach"):
        predict(prod, later, make_cube(), LAST + timedelta(days=1))


def test_without_a_live_release_a_named_one_can_be_asked(prod: Path, tmp_path: Path) -> None:
    contents = ReleaseContents(artifacts=trained(tmp_path, "pooled"), serving=dict.fromkeys(SYMBOLS, "pooled"))
    release_id = build_release(prod, date(2026, 11, 13), contents)
    with pytest.raises(UsageError, match="no release is live"):
        predict(prod, make_panel(), make_cube(), LAST)
    assert predict(prod, make_panel(), make_cube(), LAST, release_id=release_id).height == 20


def test_damage_swaps_and_wrong_strategies_are_refused(prod: Path, tmp_path: Path) -> None:
    paths = trained(tmp_path, "pooled")
    serving = dict.fromkeys(SYMBOLS, "pooled")
    swapped = {**paths, "S00": paths["S01"]}
    wrong_strategy = dict.fromkeys(SYMBOLS, "adapted")
    panel, cube = make_panel(), make_cube()
    first = build_release(prod, date(2026, 11, 13), ReleaseContents(artifacts=swapped, serving=serving))
    with pytest.raises(BadDataError, match="another symbol"):
        predict(prod, panel, cube, LAST, release_id=first)
    second = build_release(prod, date(2026, 11, 13), ReleaseContents(artifacts=paths, serving=wrong_strategy))
    with pytest.raises(BadDataError, match="another strategy"):
        predict(prod, panel, cube, LAST, release_id=second)
    misnamed = ReleaseContents(
        artifacts=paths, serving=dict.fromkeys(SYMBOLS, "lightgbm"), members={"lightgbm": ridge(tmp_path)}
    )
    third = build_release(prod, date(2026, 11, 13), misnamed)
    with pytest.raises(BadDataError, match="another baseline"):
        predict(prod, panel, cube, LAST, release_id=third)
    (prod / "releases" / first / "S05_stockformer.pt").write_bytes(b"torn")
    with pytest.raises(BadDataError, match="was changed"):
        predict(prod, panel, cube, LAST, release_id=first)


def test_unreadable_models_are_listed_by_symbol(tmp_path: Path) -> None:
    paths = trained(tmp_path, "pooled", SYMBOLS[:4])
    assert artifact_problems(paths) == ()
    paths["S02"].write_bytes(b"not a model")
    problems = artifact_problems({**paths, "S01": paths["S03"], "S99": tmp_path / "absent.pt"})
    assert problems == (
        "S01: a model file belongs to another symbol",
        "S02: a file is not a vnfleet model",
        "S99: a model file is missing",
    )


def test_predictions_are_written_as_csv_and_parquet(prod: Path, tmp_path: Path) -> None:
    contents = ReleaseContents(artifacts=trained(tmp_path, "pooled"), serving=dict.fromkeys(SYMBOLS, "pooled"))
    release_id = go_live(prod, contents)
    frame = predict(prod, make_panel(), make_cube(), LAST)
    csv, parquet = write_predictions(tmp_path / "reports" / "predictions" / release_id, frame)
    assert (csv.name, parquet.name) == (f"{release_id}.csv", f"{release_id}.parquet")
    assert_frame_equal(pl.read_parquet(parquet), frame)
    assert_frame_equal(pl.read_csv(csv, schema=frame.schema), frame)
    with pytest.raises(BadDataError, match="lacks columns"):
        write_predictions(csv, frame.drop("score"))
