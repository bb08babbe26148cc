"""The leak prover over the real rooms, on a simulated market: honest as it is, and with faults planted in the rooms."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from vnfleet.core.clock import FixedClock
from vnfleet.core.errors import BadDataError
from vnfleet.cycle import leak_learners, leaks
from vnfleet.cycle.config import CycleConfig, FoldsConfig, SourceConfig, UniverseConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.leaks import prove_no_leaks
from vnfleet.cycle.runner import SilentObserver
from vnfleet.cycle.workdir import Folders
from vnfleet.data.panel import Panel, Served, build_panel
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.evaluation.splits import Fold
from vnfleet.features.cube import FeatureCube, build_cube
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.training.engines.local import run_unit
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import TrainingConfig

AS_OF = date(2022, 10, 28)
CONFIG = CycleConfig(
    source=SourceConfig(kind="simulated"),
    simulated=SimulatedMarket(num_symbols=40, start=date(2020, 1, 2), signal_rank_ic=0.2),
    universe=UniverseConfig(models=30, window_sessions=120),
    folds=FoldsConfig(years=(2022,), min_train_sessions=200),
    model=StockformerConfig(d_model=16, num_heads=2, num_layers=1, d_ff=32, band_sessions=15),
    training=TrainingConfig(num_seeds=1, max_epochs=1, valid_sessions=60, delta_penalties=(1.0,)),
)


@cache
def _panel() -> Panel:
    return build_panel(SimulatedSource(CONFIG.simulated).fetch(None, AS_OF), AS_OF)


@pytest.fixture
def week(tmp_path: Path) -> WeekContext:
    panel = _panel()
    return WeekContext(
        config=CONFIG,
        folders=Folders(tmp_path),
        as_of=AS_OF,
        clock=FixedClock(datetime(2022, 10, 29, tzinfo=UTC)),
        observer=SilentObserver(),
        _served=Served(panel=panel, raw=panel.bars, used=panel.bars, events=panel.bars),
    )


@pytest.fixture
def few_fits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave out what a test of one planted fault does not need."""
    monkeypatch.setattr(leaks, "RIDGE_SHUFFLES", 0)
    monkeypatch.setattr(leaks, "TEST_SESSIONS", 80)
    monkeypatch.setattr(leaks, "_FEWEST_SYMBOLS", 10_000)
    return iter(())


def _predictions(week: WeekContext, strength: float) -> pl.DataFrame:
    """Forecasts that know the outcome as well as `strength` says."""
    rng = np.random.default_rng(0)
    known = week.outcomes().filter(pl.col("session").dt.year() == 2022)
    frames = []
    for name, knows in (("mine", strength), ("lightgbm", 0.05)):
        rank = pl.col("return_frac").rank().over("session") / pl.len().over("session")
        noise = pl.Series(rng.uniform(0.0, 1.0, known.height))
        frames.append(
            known.select(
                pl.lit(name).alias("model_id"),
                "symbol",
                "session",
                "horizon_sessions",
                pl.lit("2022").alias("fold_id"),
                (knows * rank + (1.0 - knows) * noise).alias("score"),
                pl.lit(None, pl.Float64).alias("direction_prob"),
                pl.lit(None, pl.Float64).alias("expected_return_frac"),
                pl.lit(None, pl.Float64).alias("volatility_frac"),
            )
        )
    return pl.concat(frames)


def test_this_factory_does_not_know_the_future(week: WeekContext) -> None:
    threads, strictness = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    told: list[str] = []
    report = prove_no_leaks(week, _predictions(week, 0.6), candidate="mine", told=told.append)
    assert not report.has_leak
    found = {check.name: check.passed for check in report.checks}
    assert {name.split(":")[0] for name in found} == {
        "entry",
        "fit_poison",
        "future_poison",
        "label_gap",
        "random_split",
        "rows_scored",
        "scaler_provenance",
        "shuffled_labels",
        "too_good_horizon",
        "too_good_level",
        "too_good_lightgbm",
        "truncation",
        "universe",
    }
    assert {name.split(":")[1] for name in found if name.startswith("fit_poison")} == {
        "ridge",
        "lightgbm",
        "stockformer",
    }
    for name in ("truncation:features", "fit_poison:stockformer", "scaler_provenance:stockformer", "entry:account"):
        assert found[name] is True
    assert found["too_good_level:mine"] is False  # it was told the outcomes
    assert found["too_good_lightgbm:mine"] is False
    assert told[0] == "the whole panel"
    assert (torch.get_num_threads(), torch.get_deterministic_debug_mode()) == (threads, strictness)


@pytest.mark.usefixtures("few_fits")
def test_features_that_look_a_session_ahead_are_found(week: WeekContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def ahead(panel: Panel) -> FeatureCube:
        cube = build_cube(panel)
        values = cube.values_STF.copy()
        values[:, :-1, 0] = values[:, 1:, 0]
        return FeatureCube(cube.sessions, cube.symbols, cube.names, values, cube.present_ST.copy(), cube.cube_id)

    monkeypatch.setattr(leak_learners, "build_cube", ahead)
    failed = {check.name for check in prove_no_leaks(week).failed}
    assert failed >= {"truncation:features", "future_poison:features", "truncation:ridge", "future_poison:lightgbm"}


@pytest.mark.usefixtures("few_fits")
def test_folds_without_a_purge_and_symbols_of_today_are_found(week: WeekContext) -> None:
    honest, live = week.folds()
    start = honest.test.start
    others = tuple(sorted(set(week.panel().symbols) - set(honest.universe)))
    unpurged = Fold(
        fold_id="2022",
        train=range(start - 60),
        valid=range(start - 60, start),
        refit=range(start),
        test=honest.test,
        universe=(*honest.universe[len(others) :], *others),
    )
    week._folds = (unpurged, live)
    failed = {check.name for check in prove_no_leaks(week).failed}
    assert failed == {"label_gap", "label_gap:all folds", "universe:2022", "fit_poison:ridge", "fit_poison:lightgbm"}


def test_the_scaler_of_finished_models_is_that_of_their_own_rows(week: WeekContext) -> None:
    fold = week.judged_folds()[0]
    assert not list(leaks._stored_scaler(week, fold))  # nothing is trained yet
    for unit in fold_units(week.recipe, week.data(), fold):
        run_unit(unit, week.recipe, week.data(), week.folders.units, lambda *_: None, leak_learners._MACHINE)
    (check,) = leaks._stored_scaler(week, fold)
    assert check.passed is True
    assert check.name == "scaler_provenance:stored models of fold 2022"


def test_without_a_judged_fold_nothing_can_be_proved(week: WeekContext) -> None:
    week._folds = week.folds()[-1:]
    with pytest.raises(BadDataError, match="no judged fold"):
        prove_no_leaks(week)


@pytest.mark.usefixtures("few_fits")
def test_a_proof_is_made_once_until_something_it_depends_on_changes(
    week: WeekContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(leaks, "source_sha256", lambda *_: "this code")
    first = prove_no_leaks(week, told=told.append)
    assert "features" in told
    told.clear()
    assert prove_no_leaks(week, told=told.append) == first
    assert "features" not in told
    monkeypatch.setattr(leaks, "source_sha256", lambda *_: "other code")
    prove_no_leaks(week, told=told.append)
    assert "features" in told
