"""evaluate: how good every entrant was, walk-forward, on the primary symbols and on all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.core.sealed import is_whole
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.forecasting import FORECAST_KIND, PREDICTIONS_NAME, Forecaster, forecasters, walk_forward
from vnfleet.evaluation.metrics import MIN_SYMBOLS, by_symbol, daily_rank_ic, monthly_rank_ic, primary_rows, summarise

SUMMARY, SUMMARY_ALL, DAILY, MONTHLY, BY_SYMBOL = (
    f"{name}.parquet" for name in ("summary", "summary_all_symbols", "daily_ic", "monthly_ic", "by_symbol")
)
ALL_YEARS = "all"


@dataclass(frozen=True, slots=True)
class Scores:
    """The frames a finished evaluate step left behind (see `vnfleet.evaluation.metrics` for their columns)."""

    summary: pl.DataFrame
    summary_all_symbols: pl.DataFrame
    daily_ic: pl.DataFrame
    monthly_ic: pl.DataFrame
    by_symbol: pl.DataFrame

    def rank_ic(self, model_id: str) -> float | None:
        """Return a model's mean daily rank IC over all judged years."""
        rows = self.summary.filter(pl.col("model_id") == model_id, pl.col("year") == ALL_YEARS)
        value: float | None = rows.get_column("rank_ic").item(0) if rows.height else None
        return value


def evaluate(runner: Runner, week: WeekContext, trained: StepOutcome) -> StepOutcome:
    """Forecast every judged year with models that never saw it, and score the forecasts."""
    entrants = forecasters(week)
    inputs: Facts = {
        "cube_id": week.cube().cube_id,
        "data_id": week.panel().data_id,
        "unit_ids": trained.facts["unit_ids"],
        "folds": short_id([fold.to_record() for fold in week.judged_folds()]),
    }

    def work(scratch: Path) -> StepResult:
        predictions, ids = walk_forward(
            week, lambda done, total, what: week.observer.progress("evaluate", done, total, what)
        )
        outcomes = week.outcomes()
        primary = primary_rows(predictions, {fold.fold_id: fold.universe for fold in week.judged_folds()})
        minimum = min(MIN_SYMBOLS, max(2, week.config.universe.models // 2))
        daily = daily_rank_ic(primary, outcomes, min_symbols=minimum)
        frames = {
            SUMMARY: summarise(primary, outcomes, min_symbols=minimum),
            SUMMARY_ALL: summarise(predictions, outcomes, min_symbols=minimum),
            DAILY: daily,
            MONTHLY: monthly_rank_ic(daily),
            BY_SYMBOL: by_symbol(primary, outcomes),
        }
        for name, frame in frames.items():
            frame.write_parquet(scratch / name)
        found = Scores(*frames.values())
        words = ", ".join(_in_words(found, entrant) for entrant in entrants)
        num_sessions = daily.get_column("session").n_unique()
        return StepResult(
            summary=f"rank IC over {num_sessions} sessions: {words}",
            facts={
                "forecast_ids": list(ids),
                "model_ids": {entrant.name: entrant.model_id for entrant in entrants},
                "scores_id": short_id([frame_sha256(frame) for frame in frames.values()]),
                "num_sessions": num_sessions,
            },
        )

    def still_whole(found: StepOutcome) -> bool:
        ids = found.facts.get("forecast_ids")
        return isinstance(ids, list) and all(is_whole(week.folders.forecasts / str(one), FORECAST_KIND) for one in ids)

    spec = StepSpec(name="evaluate", inputs=inputs, rooms=("evaluation", "model", "data"))
    return runner.step(spec, work, still_whole=still_whole)


def read_scores(evaluated: StepOutcome) -> Scores:
    """Return what a finished evaluate step found."""
    names = (SUMMARY, SUMMARY_ALL, DAILY, MONTHLY, BY_SYMBOL)
    return Scores(*(pl.read_parquet(evaluated.folder / name) for name in names))


def predictions_of(week: WeekContext, evaluated: StepOutcome, model_id: str) -> pl.DataFrame:
    """Return one entrant's walk-forward predictions on the primary symbols of each fold."""
    ids = evaluated.facts.get("forecast_ids")
    if not isinstance(ids, list):
        raise BadDataError("a step's record lacks its forecasts", where=evaluated.folder)
    frames = [
        pl.read_parquet(week.folders.forecasts / str(one) / PREDICTIONS_NAME).filter(pl.col("model_id") == model_id)
        for one in ids
    ]
    universe = {fold.fold_id: fold.universe for fold in week.judged_folds()}
    return primary_rows(pl.concat(frames), universe)


def _in_words(scores: Scores, entrant: Forecaster) -> str:
    value = scores.rank_ic(entrant.model_id)
    return f"{entrant.name} {'-' if value is None else f'{value:.3f}'}"
