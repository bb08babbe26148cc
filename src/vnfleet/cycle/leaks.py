"""The leak prover over the week's own rooms: nothing this factory computes may know the future.

The newest judged fold is proved on a sample of symbols and the last sessions before and in its test: the code is that
of the week, the boundaries are those of the fold, only the numbers are small. Label gaps, symbols and outcomes are
checked on everything.

The proof of the sample is kept (``checkpoints/leaks/``) and made again when anything it depends on has changed: the
code, the settings, the fold or a price of the sample. An ordinary week therefore repeats only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import short_id, source_sha256
from vnfleet.core.sealed import is_whole, sealing
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.leak_learners import Cubes, baseline_learner, small_recipe, stockformer_learner
from vnfleet.data.outcomes import outcome_frame
from vnfleet.data.panel import Panel, assembled
from vnfleet.data.universe import most_traded
from vnfleet.evaluation.leaks import FittedScaler, LeakCheck, LeakReport, Learner, Pipeline, prove
from vnfleet.evaluation.leaks.inputs import label_gap, scaler_provenance, universe
from vnfleet.evaluation.leaks.plausible import MOST_RANK_IC, too_good_horizon, too_good_level, too_good_lightgbm
from vnfleet.evaluation.leaks.scoring import entry_prices
from vnfleet.evaluation.metrics import daily_rank_ic, primary_rows
from vnfleet.evaluation.splits import Fold
from vnfleet.trading.simulator import simulate
from vnfleet.training.engines.local import is_finished
from vnfleet.training.forecast import fold_models
from vnfleet.training.plan import fold_units

LIGHTGBM = "lightgbm"
LEAKS_KIND = "leaks"
LEAKS_NAME = "leaks.json"
SAMPLE_SYMBOLS = 60
TEST_SESSIONS = 200
TRAIN_SESSIONS = 200
WARM_UP_SESSIONS = 300
"""Features look back up to 250 sessions, a network some more."""
RIDGE_SHUFFLES, STOCKFORMER_SHUFFLES = 6, 5
_SEED = 0
_FEWEST_SYMBOLS = 24


def prove_no_leaks(
    week: WeekContext,
    predictions: pl.DataFrame | None = None,
    *,
    candidate: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> LeakReport:
    """Return what the leak prover says of this week's data, folds and pipeline.

    predictions : the week's walk-forward forecasts, once there are any; with `candidate`, the model_id of the models
        that may serve, they are asked whether they are too good to be true (warnings only). told : hears what is being
        checked.

    Raises `BadDataError` when no judged fold has a session.
    """
    fold = _proved_fold(week.judged_folds())
    told("the whole panel")
    checks = [*_of_everything(week), *_stored_scaler(week, fold)]
    checks += _proved_sample(week, fold, told)
    if predictions is not None and candidate is not None:
        told("too good to be true")
        checks += _too_good(week, predictions, candidate)
    return LeakReport(checks=tuple(checks))


def _proved_sample(week: WeekContext, fold: Fold, told: Callable[[str], None]) -> tuple[LeakCheck, ...]:
    """Return the checks of the pipeline on its sample, from disk when nothing changed since they were made."""
    config = week.config
    sample = _sample(week.panel(), fold, max(WARM_UP_SESSIONS, config.universe.window_sessions))
    sections = (config.universe, config.folds, config.model, config.training, config.objective)
    settings = [asdict(section) for section in (*sections, config.portfolio, config.account)]
    folder = week.folders.leaks / short_id([sample[0].data_id, fold.to_record(), settings, source_sha256("vnfleet")])
    if not is_whole(folder, LEAKS_KIND):
        with TemporaryDirectory() as scratch:
            report = prove(_pipeline(week, fold, *sample, Path(scratch)), seed=_SEED, told=told)
        with sealing(folder, LEAKS_KIND, {"fold_id": fold.fold_id}) as written:
            (written / LEAKS_NAME).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    return LeakReport.model_validate_json((folder / LEAKS_NAME).read_bytes()).checks


def _of_everything(week: WeekContext) -> Iterator[LeakCheck]:
    """Check label gaps, outcomes and symbols of all folds on all data."""
    panel, config = week.panel(), week.config
    embargo = config.split_rule.embargo_sessions
    gaps = label_gap(week.folds(), horizon_sessions=config.horizon_sessions, embargo_sessions=embargo)
    yield gaps.model_copy(update={"name": "label_gap:all folds"})
    yield entry_prices("all outcomes", panel, week.outcomes(), config.horizon_sessions)
    for fold in week.judged_folds():
        first_test = panel.sessions[fold.test.start]
        known = panel.until(first_test - timedelta(days=1))
        yield universe(fold.universe, (_most_traded(known, config, config.universe.models, first_test),), fold.fold_id)


def _stored_scaler(week: WeekContext, fold: Fold) -> Iterator[LeakCheck]:
    """Check the scaler that the fold's finished models carry; nothing where they are not trained yet."""
    units_root, strategy = week.folders.units, week.recipe.strategies[0]
    if strategy == "separate" or not units_root.is_dir():
        return
    data = week.data()
    if not all(is_finished(units_root, unit) for unit in fold_units(week.recipe, data, fold)):
        return
    scaler = fold_models(week.recipe, fold, data, units_root, strategy).ensembles[0].scaler
    rows_ST = data.present_ST.copy()
    rows_ST[:, : fold.refit.start] = False
    rows_ST[:, fold.refit.stop :] = False
    yield scaler_provenance(
        f"stored models of fold {fold.fold_id}",
        FittedScaler(mean_F=scaler.mean_F, sd_F=scaler.sd_F),
        data.values_STF,
        rows_ST,
        data.present_ST,
    )


def _proved_fold(folds: Sequence[Fold]) -> Fold:
    """Return the newest fold with a whole stretch of judged sessions, else the longest."""
    if not folds:
        raise BadDataError("there is no judged fold to prove", fix="collect more history, or lower [folds] newest")
    whole = [fold for fold in folds if len(fold.test) >= TEST_SESSIONS]
    return whole[-1] if whole else max(folds, key=lambda fold: len(fold.test))


def _pipeline(week: WeekContext, fold: Fold, panel: Panel, offset: int, scratch: Path) -> Pipeline:
    """Return the week's pipeline on a sample: of symbols, and of the sessions from `offset` on around the fold."""
    config = week.config
    models = min(config.universe.models, max(1, 2 * len(panel.symbols) // 3))
    start = max(0, fold.train.stop - TRAIN_SESSIONS - offset)
    test = range(fold.test.start - offset, min(fold.test.stop - offset, fold.test.start - offset + TEST_SESSIONS))
    refit = range(start, fold.refit.stop - offset)

    def fold_of(known: Panel) -> Fold:
        return Fold(
            fold_id=fold.fold_id,
            train=range(start, fold.train.stop - offset),
            valid=range(fold.valid.start - offset, fold.valid.stop - offset),
            refit=refit,
            test=test,
            universe=_most_traded(known, config, models, panel.sessions[test.start]),
        )

    cubes = Cubes()

    def features(known: Panel) -> NDArray[np.floating]:
        cube = cubes.of(known)
        return np.where(cube.present_ST[:, :, None], cube.values_STF, np.float32(np.nan))

    def split(known: Panel) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        learned_ST = np.zeros((len(known.symbols), len(known.sessions)), dtype=np.bool_)
        judged_ST = learned_ST.copy()
        learned_ST[:, refit.start : refit.stop] = True
        judged_ST[:, test.start : test.stop] = True
        return learned_ST, judged_ST

    def trades(known: Panel, forecasts: pl.DataFrame) -> pl.DataFrame:
        first, last = known.sessions[test.start], known.sessions[test.stop - 1]
        return simulate(known, forecasts, config.portfolio, terms=config.account, first=first, last=last).trades

    learners: list[Learner] = [
        baseline_learner("ridge", config, fold_of, cubes, RIDGE_SHUFFLES),
        baseline_learner("lightgbm", config, fold_of, cubes, 0),
    ]
    if models >= _FEWEST_SYMBOLS:
        recipe = small_recipe(config, models)
        learners.append(stockformer_learner(recipe, fold_of, cubes, scratch, STOCKFORMER_SHUFFLES))
    return Pipeline(
        panel=panel,
        horizon_sessions=config.horizon_sessions,
        fold=fold_of(panel),
        folds=(fold_of(panel),),
        features=features,
        universe=lambda known, before: _most_traded(known, config, models, before),
        outcomes=lambda known: outcome_frame(known, config.horizon_sessions, known.symbols),
        split=split,
        trades=trades,
        learners=tuple(learners),
        embargo_sessions=config.split_rule.embargo_sessions,
    )


def _sample(panel: Panel, fold: Fold, warm_up_sessions: int) -> tuple[Panel, int]:
    """Return some symbols' last sessions around the test, and how many sessions were left out before them.

    The fold's own symbols first, then others; the same ones whenever the same fold is proved.
    """
    rng = np.random.default_rng([_SEED, fold.test.start])
    offset = max(0, fold.train.stop - TRAIN_SESSIONS - warm_up_sessions)
    stop = min(len(panel.sessions), fold.test.start + TEST_SESSIONS + fold.test.start - fold.refit.stop)
    sessions = panel.sessions[offset:stop]
    inside = pl.col("session").is_between(sessions[0], sessions[-1])
    before_test = pl.col("session") < panel.sessions[fold.test.start]
    alive = set(panel.bars.filter(inside & before_test).get_column("symbol").unique().to_list())
    own = sorted(set(fold.universe) & alive)
    others = sorted(alive - set(own))
    num_own = min(len(own), max(2 * SAMPLE_SYMBOLS // 3, SAMPLE_SYMBOLS - len(others)))
    chosen = [*rng.permutation(own)[:num_own], *rng.permutation(others)[: SAMPLE_SYMBOLS - num_own]]
    symbols = tuple(sorted(str(symbol) for symbol in chosen))
    kept = panel.restrict(symbols)
    return (
        assembled(
            as_of=sessions[-1],
            sessions=sessions,
            symbols=symbols,
            bars=kept.bars.filter(inside),
            index=panel.index.filter(inside),
            listings=kept.listings,
            quality=panel.quality,
        ),
        offset,
    )


def _most_traded(panel: Panel, config: CycleConfig, count: int, before: date) -> tuple[str, ...]:
    """Return the symbols of a fold as the week chooses them, from this panel; pinned ones as far as it has them."""
    universe_config = config.universe
    pinned = [symbol for symbol in universe_config.pinned if symbol in panel.symbols][:count]
    return most_traded(
        panel, count, universe_config.window_sessions, before, pinned=pinned, excluded=universe_config.excluded
    )


def _too_good(week: WeekContext, predictions: pl.DataFrame, candidate: str) -> Iterator[LeakCheck]:
    """Warn of walk-forward figures that no honest model has reached."""
    config, panel = week.config, week.panel()
    horizon = config.horizon_sessions
    minimum = week.min_symbols
    primary = primary_rows(predictions, {fold.fold_id: fold.universe for fold in week.judged_folds()})
    raced = primary.filter(pl.col("model_id").is_in([candidate, LIGHTGBM]), pl.col("horizon_sessions") == horizon)
    mine = raced.filter(pl.col("model_id") == candidate)
    daily = daily_rank_ic(raced, week.outcomes(), min_symbols=minimum)
    own = daily.filter(pl.col("model_id") == candidate)
    planted = config.simulated.signal_rank_ic if config.source.kind == "simulated" else 0.0
    yield too_good_level(candidate, own, most_rank_ic=max(MOST_RANK_IC, planted))
    one = mine.with_columns(horizon_sessions=pl.lit(1, pl.Int32))
    next_session = daily_rank_ic(one, outcome_frame(panel, 1, panel.symbols), min_symbols=minimum)
    yield too_good_horizon(candidate, {1: next_session, horizon: own} if horizon > 1 else {horizon: own})
    yield too_good_lightgbm(daily, candidate, LIGHTGBM, horizon_sessions=horizon)
