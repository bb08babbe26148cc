"""The leak prover: every check over one pipeline, whose parts come in as functions.

Axes: S symbols, T sessions, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.data.panel import Panel
from vnfleet.evaluation.leaks.canaries import Floats, SplitRows, random_split, shuffled_labels
from vnfleet.evaluation.leaks.inputs import FittedScaler, label_gap, scaler_provenance, universe
from vnfleet.evaluation.leaks.past import fit_poison, forecast_figures, future_poison, truncation
from vnfleet.evaluation.leaks.poison import poisoned
from vnfleet.evaluation.leaks.report import LeakCheck, LeakReport
from vnfleet.evaluation.leaks.scoring import entry_prices, entry_trades, judgeable_rows, known_outcomes, rows_scored
from vnfleet.evaluation.metrics import daily_rank_ic
from vnfleet.evaluation.splits import Fold

_POISON_SEEDS = (1, 2)
_SPLIT_SYMBOLS = 30
_SPLIT_SESSIONS = 250
_MIN_SYMBOLS = 10
_BUSY_DAYS = 3
_ACCOUNT_SESSIONS = 2
_SEEDS_APART = 1_000

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A model fitted on one fold.

    forecast : prediction frame of the fold's test sessions that the served panel holds, from its features alone.
    scaler : what it measures features in; None: nothing was fitted for that.
    choices : what was chosen and the figures it was chosen by (epochs, penalties, thresholds), as text that is the
        same to the bit where they are; empty: nothing was chosen, or nobody tells.
    """

    forecast: Callable[[Panel], pl.DataFrame]
    scaler: FittedScaler | None = None
    choices: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """Something that is fitted.

    fit : from the prices it is given (it cuts them itself: that is what is proved) and, where not None, with labels
        dealt anew by that seed; a learner with random initial weights draws them by that seed too.
    context_sessions : sessions with features a symbol needs before its first forecast.
    num_shuffles : how often it is fitted on shuffled labels; 0: not at all.
    """

    name: str
    fit: Callable[[Panel, int | None], Fitted]
    context_sessions: int = 0
    num_shuffles: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A way from prices to trades, as the functions it is made of.

    panel, horizon_sessions : all prices, and h. fold : the fold that is proved; `folds` : all of them.
    features : [S, T, F] on the panel's axes, NaN where absent.
    universe : symbols chosen before a day. outcomes : outcome frame of all symbols.
    split : the rows [S, T] the final fit learns from, and those that are judged.
    trades : what an account does that follows a prediction frame (session, symbol, side, shares, price_vnd).
    """

    panel: Panel
    horizon_sessions: int
    fold: Fold
    folds: tuple[Fold, ...]
    features: Callable[[Panel], NDArray[np.floating]]
    universe: Callable[[Panel, date], tuple[str, ...]]
    outcomes: Callable[[Panel], pl.DataFrame]
    split: Callable[[Panel], Masks]
    trades: Callable[[Panel, pl.DataFrame], pl.DataFrame]
    learners: tuple[Learner, ...]
    embargo_sessions: int = 0


def prove(
    pipeline: Pipeline,
    *,
    num_cuts: int = 3,
    seed: int = 0,
    told: Callable[[str], None] = lambda _: None,
) -> LeakReport:
    """Return the report of every check of `pipeline`; `told` hears what is being checked.

    num_cuts : how many sessions the past is cut or poisoned at, drawn with `seed` from the fold's last training
        sessions and its test sessions.
    """
    return LeakReport(checks=tuple(_checks(pipeline, num_cuts, seed, told)))


def _checks(pipeline: Pipeline, num_cuts: int, seed: int, told: Callable[[str], None]) -> Iterator[LeakCheck]:
    panel, fold, horizon = pipeline.panel, pipeline.fold, pipeline.horizon_sessions
    told("label gaps and symbols")
    yield label_gap(pipeline.folds, horizon_sessions=horizon, embargo_sessions=pipeline.embargo_sessions)
    first_test = panel.sessions[fold.test.start]
    yield universe(
        pipeline.universe(panel, first_test),
        (
            pipeline.universe(panel.until(first_test - timedelta(days=1)), first_test),
            pipeline.universe(poisoned(panel, first_test, seed), first_test),
        ),
        fold.fold_id,
    )
    told("features")
    values_STF = pipeline.features(panel)
    cuts = _cuts(fold, len(panel.sessions), num_cuts, seed)
    yield truncation("features", values_STF, lambda cut: pipeline.features(panel.until(panel.sessions[cut])), cuts)
    yield future_poison("features", values_STF, lambda cut: pipeline.features(_poisoned_after(panel, cut)), cuts)
    told("outcomes")
    outcomes = pipeline.outcomes(panel)
    yield entry_prices("outcomes", panel, outcomes, horizon)
    known = known_outcomes(panel, horizon)
    told("random split")
    yield _random_split(pipeline, values_STF, known, seed)
    forecasts: pl.DataFrame | None = None
    for learner in pipeline.learners:
        told(f"{learner.name}: forecasts")
        fitted = learner.fit(panel, None)
        forecasts = fitted.forecast(panel)
        yield from _of_forecasts(pipeline, learner, fitted, forecasts, cuts)
        yield from _of_rows(pipeline, learner, fitted, forecasts, values_STF, outcomes, known)
        if learner.num_shuffles:
            told(f"{learner.name}: shuffled labels")
            yield _of_shuffles(pipeline, learner, known, seed)
    if forecasts is not None:
        told("account")
        yield _of_account(pipeline, forecasts)


def _of_forecasts(
    pipeline: Pipeline, learner: Learner, fitted: Fitted, forecasts: pl.DataFrame, cuts: Sequence[int]
) -> Iterator[LeakCheck]:
    """The forecasts themselves: cut, poisoned, and fitted again without the future."""
    panel, fold = pipeline.panel, pipeline.fold
    axes = panel.symbols, panel.sessions
    figures_STF = forecast_figures(forecasts, *axes)
    inside = [cut for cut in cuts if cut >= fold.test.start]
    yield truncation(
        learner.name,
        figures_STF,
        lambda cut: forecast_figures(fitted.forecast(panel.until(panel.sessions[cut])), *axes),
        inside,
    )
    yield future_poison(
        learner.name,
        figures_STF,
        lambda cut: forecast_figures(fitted.forecast(_poisoned_after(panel, cut)), *axes),
        inside,
    )
    first_test = panel.sessions[fold.test.start]
    others = [learner.fit(poisoned(panel, first_test, seed), None) for seed in _POISON_SEEDS]
    same = fit_poison(learner.name, forecasts, [other.forecast(panel) for other in others])
    yield _with_choices(same, fitted, others)


def _with_choices(check: LeakCheck, fitted: Fitted, others: Sequence[Fitted]) -> LeakCheck:
    """Fail the check also where another future was asked for a choice that happened to come out the same."""
    moved = sum(other.choices != fitted.choices for other in others)
    if not moved:
        return check
    told = (
        f"what the fit chose by (epochs, penalties) changes in {moved} of {len(others)} worlds with other prices from "
        "the first test session on: the choice has seen the future"
    )
    words = f"{check.words}; {told}" if check.passed is False else told
    return check.model_copy(update={"passed": False, "words": words})


def _of_rows(
    pipeline: Pipeline,
    learner: Learner,
    fitted: Fitted,
    forecasts: pl.DataFrame,
    values_STF: NDArray[np.floating],
    outcomes: pl.DataFrame,
    known: pl.DataFrame,
) -> Iterator[LeakCheck]:
    """The rows a learner was fitted and judged on."""
    panel, fold = pipeline.panel, pipeline.fold
    present_ST = np.isfinite(values_STF).all(axis=2)
    if fitted.scaler is not None:
        rows_ST = present_ST & pipeline.split(panel)[0]
        rows_ST[:, fold.refit.stop :] = False
        if fitted.scaler.labelled_only:
            rows_ST &= np.isfinite(_matrix(panel, known))
        yield scaler_provenance(learner.name, fitted.scaler, values_STF, rows_ST, present_ST)
    own = np.isin(np.array(panel.symbols, dtype=object), forecasts.get_column("symbol").unique().to_list())
    expected = judgeable_rows(present_ST & own[:, None], panel, fold.test, learner.context_sessions, known)
    scored = forecasts.filter(pl.col("score").is_not_null()).join(outcomes, on=["symbol", "session"], how="semi")
    yield rows_scored(learner.name, expected, scored.select("symbol", "session"))


def _of_shuffles(pipeline: Pipeline, learner: Learner, known: pl.DataFrame, seed: int) -> LeakCheck:
    """Fit on shuffled labels; an alarm must be confirmed by other shuffles, luck seldom strikes twice."""
    check = shuffled_labels(learner.name, list(_shuffled(pipeline, learner, known, seed)))
    if check.passed is False:
        check = shuffled_labels(learner.name, list(_shuffled(pipeline, learner, known, seed + _SEEDS_APART)))
    return check


def _shuffled(pipeline: Pipeline, learner: Learner, known: pl.DataFrame, seed: int) -> Iterator[pl.DataFrame]:
    for shuffle in range(learner.num_shuffles):
        forecasts = learner.fit(pipeline.panel, seed + 1 + shuffle).forecast(pipeline.panel)
        yield daily_rank_ic(forecasts, known, min_symbols=_MIN_SYMBOLS)


def _random_split(pipeline: Pipeline, values_STF: NDArray[np.floating], known: pl.DataFrame, seed: int) -> LeakCheck:
    """Sample symbols and look at the sessions around the test: the canary needs neighbours, not history."""
    panel, fold = pipeline.panel, pipeline.fold
    rng = np.random.default_rng(seed)
    alive = np.flatnonzero(np.isfinite(values_STF[:, fold.test.start : fold.test.stop]).all(axis=2).any(axis=1))
    rows = np.sort(rng.permutation(alive)[:_SPLIT_SYMBOLS])
    train_ST, test_ST = pipeline.split(panel)
    excess_ST = _matrix(panel, known.with_columns(return_frac=pl.col("return_frac") - pl.col("benchmark_return_frac")))
    return random_split(
        SplitRows(
            values_STF=values_STF[rows],
            excess_ST=excess_ST[rows],
            window=range(max(0, fold.test.start - _SPLIT_SESSIONS), fold.test.stop),
            test=fold.test,
            horizon_sessions=pipeline.horizon_sessions,
            product_train_ST=train_ST[rows],
            product_test_ST=test_ST[rows],
        ),
        seed=seed,
    )


def _of_account(pipeline: Pipeline, forecasts: pl.DataFrame) -> LeakCheck:
    """Take away forecasts from the busiest days on: only a day with trades can show what they knew."""
    panel = pipeline.panel
    if len(pipeline.fold.test) < _ACCOUNT_SESSIONS or not forecasts.get_column("score").count():
        words = f"an account needs forecasts and {_ACCOUNT_SESSIONS} test sessions or more"
        return LeakCheck(name="entry:account", passed=None, limit=0.0, words=words)
    whole = pipeline.trades(panel, forecasts)
    later = whole.filter(pl.col("session") > panel.sessions[pipeline.fold.test.start])
    busy = later.group_by("session").len().sort("len", "session", descending=[True, False]).head(_BUSY_DAYS)
    return entry_trades(
        whole,
        lambda day: pipeline.trades(panel, forecasts.filter(pl.col("session") < day)),
        sorted(busy.get_column("session").to_list()),
    )


def _cuts(fold: Fold, num_sessions: int, num_cuts: int, seed: int) -> tuple[int, ...]:
    """Return sessions to cut at: mostly within the test, one before it, none of them the last of the panel.

    None lies in the test where that has nothing but the last session: the checks that need one cannot tell.
    """
    rng = np.random.default_rng([seed, fold.test.start])
    last = min(max(fold.test.start + 1, fold.test.stop - 1), num_sessions - 1)
    inside = rng.choice(np.arange(fold.test.start, last), min(max(1, num_cuts - 1), last - fold.test.start), False)
    before = rng.integers((fold.refit.start + fold.refit.stop) // 2, fold.refit.stop)
    return tuple(sorted({int(before), *inside.tolist()}))


def _poisoned_after(panel: Panel, cut: int) -> Panel:
    return poisoned(panel, panel.sessions[cut + 1], cut)


def _matrix(panel: Panel, outcomes: pl.DataFrame) -> Floats:
    """Return `return_frac` of an outcome frame as [S, T], NaN where there is none."""
    rows = pl.Series("symbol", panel.symbols, dtype=pl.String).search_sorted(outcomes.get_column("symbol")).to_numpy()
    columns = pl.Series("session", panel.sessions, dtype=pl.Date).search_sorted(outcomes.get_column("session"))
    values_ST = np.full((len(panel.symbols), len(panel.sessions)), np.nan)
    values_ST[rows, columns.to_numpy()] = outcomes.get_column("return_frac").to_numpy()
    return values_ST
