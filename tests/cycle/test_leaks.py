"""The leak prover over the real rooms, on a simulated market: honest as it is, and with faults planted in the rooms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

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
from vnfleet.evaluation.leaks import LeakCheck, prover
from vnfleet.evaluation.splits import Fold
from vnfleet.features.cube import FeatureCube, build_cube
from vnfleet.model.stockformer import Stockformer, StockformerConfig
from vnfleet.training import fitting
from vnfleet.training.dataset import Prepared, TrainingData
from vnfleet.training.dataset import prepare as honest_prepare
from vnfleet.training.engines.local import run_unit
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import TrainingConfig
from vnfleet.training.unit_run import UnitRun

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


@pytest.mark.usefixtures("few_fits")
@pytest.mark.parametrize("num_sessions", [1, 2])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_of_a_block_of_one_or_two_sessions_the_prover_says_what_it_cannot_tell(
    week: WeekContext, monkeypatch: pytest.MonkeyPatch, num_sessions: int, *, at_the_end: bool
) -> None:
    monkeypatch.setattr(leaks, "RIDGE_SHUFFLES", 1)
    honest, live = week.folds()
    panel = week.panel()
    start = len(panel.sessions) - num_sessions if at_the_end else honest.test.start
    later = start - honest.test.start
    train, valid, refit = (range(part.start, part.stop + later) for part in (honest.train, honest.valid, honest.refit))
    universe = leaks._most_traded(panel, CONFIG, CONFIG.universe.models, panel.sessions[start])
    block = Fold(
        fold_id="2022",
        train=train,
        valid=range(valid.start + later, valid.stop),
        refit=refit,
        test=range(start, start + num_sessions),
        universe=universe,
    )
    week._folds = (block, live)
    report = prove_no_leaks(week, _predictions(week, 0.6), candidate="mine")
    found = {check.name: check.passed for check in report.checks}
    assert not report.has_leak
    assert found["fit_poison:ridge"] is found["fit_poison:lightgbm"] is found["truncation:features"] is True
    assert found["shuffled_labels:ridge"] is found["random_split"] is None
    alone = num_sessions == 1
    assert found["truncation:ridge"] is found["future_poison:ridge"] is (None if alone and at_the_end else True)
    assert found["rows_scored:ridge"] is (None if at_the_end else True)
    assert alone <= (found["entry:account"] is None)


@pytest.mark.parametrize("patience_epochs", [0, 2])
def test_a_choice_made_by_the_test_sessions_is_found_in_the_real_training(
    week: WeekContext, monkeypatch: pytest.MonkeyPatch, patience_epochs: int
) -> None:
    """Thuml-style: the training loop stops by the test set. Also where it happens to stop at the same epoch."""
    training = replace(CONFIG.training, max_epochs=5, patience_epochs=patience_epochs)
    config = replace(CONFIG, training=training)
    fold = week.judged_folds()[0]
    recipe = leak_learners.small_recipe(config, 30)
    learner = leak_learners.stockformer_learner(
        recipe, lambda _: fold, leak_learners.Cubes(), week.folders.workdir, num_shuffles=0
    )
    pipeline = replace(leaks._pipeline(week, fold, week.panel(), 0, week.folders.workdir), fold=fold)

    def fit_poison() -> LeakCheck:
        fitted = learner.fit(week.panel(), None)
        *_, check = prover._of_forecasts(pipeline, learner, fitted, fitted.forecast(week.panel()), ())
        return check

    assert fit_poison().passed is True
    honest_fit = fitting.fit_backbone
    told = fold.test.start + 80

    def prepare(data: TrainingData, rows: range, _stop: int, *rest: Any) -> Prepared:
        return honest_prepare(data, rows, told, *rest)

    def stopped_by_the_test(
        run: UnitRun, prepared: Prepared, sessions: range, seed: int, epochs: int, valid: range | None
    ) -> tuple[Stockformer, list[float], int]:
        judged = None if valid is None else range(fold.test.start + 15, told)
        return honest_fit(run, prepared, sessions, seed, epochs, judged)

    monkeypatch.setattr(fitting, "prepare", prepare)
    monkeypatch.setattr(fitting, "fit_backbone", stopped_by_the_test)
    caught = fit_poison()
    assert caught.passed is False
    assert "the choice has seen the future" in caught.words


def test_the_small_recipe_leaves_to_the_validation_tail_what_the_week_leaves_to_it() -> None:
    def small(**settings: Any) -> TrainingConfig:
        return leak_learners.small_recipe(replace(CONFIG, training=TrainingConfig(**settings)), 30).training

    plain = small()
    assert (plain.max_epochs, plain.patience_epochs, plain.ema_decay, plain.num_seeds) == (1, 0, 0.0, 1)
    assert plain.delta_penalties == TrainingConfig().delta_penalties[:2]
    patient = small(max_epochs=8, patience_epochs=3, ema_decay=0.9, delta_penalties=(3.0, 2.0, 1.0))
    assert (patient.max_epochs, patient.patience_epochs, patient.ema_decay) == (3, 1, 0.9)
    assert patient.delta_penalties == (3.0, 2.0)
    assert small(max_epochs=2, patience_epochs=1).max_epochs == 2


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
