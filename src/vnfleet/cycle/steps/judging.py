"""evaluate: how good every entrant was, walk-forward, on the primary symbols and on all."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.core.sealed import is_whole
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec, frame_facts
from vnfleet.cycle.steps.forecasting import FORECAST_KIND, PREDICTIONS_NAME, Forecaster, forecasters, walk_forward
from vnfleet.cycle.trials import record_trial
from vnfleet.cycle.user_model import user_model_identity
from vnfleet.data.universe import median_traded_values
from vnfleet.evaluation.metrics import daily_rank_ic, monthly_rank_ic, primary_rows, summarise
from vnfleet.evaluation.reliability import reliability, selective
from vnfleet.evaluation.scorecard import liquidity_terciles, scorecard
from vnfleet.evaluation.symbols import shrunk_symbols

ALL_YEARS = "all"


@dataclass(frozen=True, slots=True)
class Scores:
    """The frames a finished evaluate step left behind: of the primary symbols, `summary_all_symbols` of all.

    summary, summary_all_symbols, daily_ic, monthly_ic : of `vnfleet.evaluation.metrics`.
    scorecard : of `vnfleet.evaluation.scorecard`, by year, sector and liquidity too.
    reliability, selective : of `vnfleet.evaluation.reliability`. symbols : of `vnfleet.evaluation.symbols`.
    """

    summary: pl.DataFrame
    summary_all_symbols: pl.DataFrame
    daily_ic: pl.DataFrame
    monthly_ic: pl.DataFrame
    scorecard: pl.DataFrame
    reliability: pl.DataFrame
    selective: pl.DataFrame
    symbols: pl.DataFrame

    @property
    def scores_id(self) -> str:
        """Identity of all of it."""
        return short_id([frame_sha256(getattr(self, each.name)) for each in fields(self)])

    def write(self, folder: Path) -> None:
        """Write one parquet file a frame."""
        for each in fields(self):
            getattr(self, each.name).write_parquet(folder / f"{each.name}.parquet")

    @classmethod
    def read(cls, folder: Path) -> Scores:
        """Return what `write` wrote."""
        return cls(*(pl.read_parquet(folder / f"{each.name}.parquet") for each in fields(cls)))

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
        "user_model": list(user_model_identity(week.config.user_model)),
    }

    def work(scratch: Path) -> StepResult:
        predictions, ids = walk_forward(
            week, lambda done, total, what: week.observer.progress("evaluate", done, total, what)
        )
        primary = primary_rows(predictions, {fold.fold_id: fold.universe for fold in week.judged_folds()})
        found = _scores(week, predictions, primary)
        found.write(scratch)
        words = ", ".join(_in_words(found, entrant) for entrant in entrants)
        num_sessions = found.daily_ic.get_column("session").n_unique()
        return StepResult(
            summary=f"rank IC over {num_sessions} sessions: {words}",
            facts={
                "forecast_ids": list(ids),
                "model_ids": {entrant.name: entrant.model_id for entrant in entrants},
                "scores_id": found.scores_id,
                "num_sessions": num_sessions,
                "figures": frame_facts(found.summary.filter(pl.col("year") == ALL_YEARS)),
            },
        )

    def still_whole(found: StepOutcome) -> bool:
        ids = found.facts.get("forecast_ids")
        return isinstance(ids, list) and all(is_whole(week.folders.forecasts / str(one), FORECAST_KIND) for one in ids)

    spec = StepSpec(name="evaluate", inputs=inputs, rooms=("evaluation", "model", "data"))
    outcome = runner.step(spec, work, still_whole=still_whole)
    daily = read_scores(outcome).daily_ic
    for variant in variants(week):
        ranks = daily.filter(pl.col("model_id") == variant.model_id).select("session", "rank_ic")
        series = ranks.with_columns(active_return_frac=pl.lit(None, pl.Float64))
        record_trial(week.folders.trials, variant.variant_id, series, week.clock.now())
    return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An entrant that somebody may have chosen among many: a strategy of the recipe, or the user's model."""

    name: str
    model_id: str
    variant_id: str


def variants(week: WeekContext) -> tuple[Variant, ...]:
    """Return what this week tries, as the log of trials knows it: judged on other folds or symbols, it is another."""
    config = week.config
    setting = week.setting_id[:8]
    found = []
    for entrant in forecasters(week):
        if entrant.kind != "baseline":
            version = [*user_model_identity(config.user_model)] if entrant.kind == "user" else []
            own = f"-{short_id(version)[:8]}" if version else ""
            variant_id = f"{entrant.model_id}{own}-{setting}"
            found.append(Variant(name=entrant.name, model_id=entrant.model_id, variant_id=variant_id))
    return tuple(found)


def _scores(week: WeekContext, predictions: pl.DataFrame, primary: pl.DataFrame) -> Scores:
    outcomes, minimum = week.outcomes(), week.min_symbols
    daily = daily_rank_ic(primary, outcomes, min_symbols=minimum)
    sectors = week.panel().listings.filter(pl.col("sector") != "").select("symbol", group="sector")
    cards = [
        scorecard(primary, outcomes, min_symbols=minimum),
        scorecard(primary, outcomes, group_kind="year", min_symbols=minimum),
        scorecard(primary, outcomes, groups=_terciles(week), group_kind="liquidity", min_symbols=minimum),
        scorecard(primary, outcomes, groups=sectors, group_kind="sector", min_symbols=minimum),
    ]
    return Scores(
        summary=summarise(primary, outcomes, min_symbols=minimum),
        summary_all_symbols=summarise(predictions, outcomes, min_symbols=minimum),
        daily_ic=daily,
        monthly_ic=monthly_rank_ic(daily),
        scorecard=pl.concat(cards),
        reliability=reliability(primary, outcomes),
        selective=selective(primary, outcomes),
        symbols=shrunk_symbols(primary, outcomes),
    )


def _terciles(week: WeekContext) -> pl.DataFrame:
    """Return fold_id, symbol, group of the primary symbols by what was traded before each fold."""
    panel, window = week.panel(), week.config.universe.window_sessions
    values = [
        (fold.fold_id, symbol, value)
        for fold in week.judged_folds()
        for symbol, value in median_traded_values(panel, window, panel.sessions[fold.test.start]).items()
        if symbol in fold.universe
    ]
    names = ["fold_id", "symbol", "median_value_vnd"]
    return liquidity_terciles(pl.DataFrame(values, schema=names, orient="row"))


def read_scores(evaluated: StepOutcome) -> Scores:
    """Return what a finished evaluate step found."""
    return Scores.read(evaluated.folder)


def read_predictions_of(
    week: WeekContext, evaluated: StepOutcome, model_ids: Collection[str]
) -> dict[str, pl.DataFrame]:
    """Return the walk-forward predictions of some entrants on the primary symbols of each fold, by model_id."""
    ids = evaluated.facts.get("forecast_ids")
    if not isinstance(ids, list):
        raise BadDataError("a step's record lacks its forecasts", where=evaluated.folder)
    frames = [pl.read_parquet(week.folders.forecasts / str(one) / PREDICTIONS_NAME) for one in ids]
    wanted = pl.concat([frame for frame in frames if frame.height and frame.item(0, "model_id") in model_ids])
    universe = {fold.fold_id: fold.universe for fold in week.judged_folds()}
    parts = primary_rows(wanted, universe).partition_by("model_id", as_dict=True)
    return {str(model_id): part for (model_id,), part in parts.items()}


def predictions_of(week: WeekContext, evaluated: StepOutcome, model_id: str) -> pl.DataFrame:
    """Return one entrant's walk-forward predictions on the primary symbols of each fold."""
    return read_predictions_of(week, evaluated, (model_id,))[model_id]


def _in_words(scores: Scores, entrant: Forecaster) -> str:
    value = scores.rank_ic(entrant.model_id)
    return f"{entrant.name} {'-' if value is None else f'{value:.3f}'}"
