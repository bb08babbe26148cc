"""backtest: an account under Vietnamese rules for who may serve, beside equal weight and the index."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.champion import Champion
from vnfleet.cycle.steps.judging import predictions_of, read_scores
from vnfleet.evaluation.splits import Fold
from vnfleet.model.baselines import BASELINE_NAMES
from vnfleet.trading.benchmarks import equal_weight_equity, index_equity
from vnfleet.trading.metrics import account_metrics
from vnfleet.trading.simulator import simulate
from vnfleet.trading.single import single_symbol_figures

EQUITY, METRICS, REFUSED, SINGLE = (f"{name}.parquet" for name in ("equity", "metrics", "refused", "single_symbols"))
EQUAL_WEIGHT, INDEX, CHAMPION = "equal weight", "VNINDEX", "champion"


def backtest(runner: Runner, week: WeekContext, evaluated: StepOutcome, champion: Champion | None) -> StepOutcome:
    """Simulate the better strategy, the best baseline and the champion; and the plan's rule symbol by symbol."""
    other = champion if champion is not None and champion.recipe_id != week.recipe.recipe_id else None
    inputs = {
        "scores_id": evaluated.text("scores_id"),
        "forecast_ids": evaluated.facts["forecast_ids"],
        "portfolio": dataclasses.asdict(week.config.portfolio),
        "account": dataclasses.asdict(week.config.account),
        "champion": None if other is None else other.release_id,
    }

    def work(scratch: Path) -> StepResult:
        panel, scores = week.panel(), read_scores(evaluated)
        model_ids = model_ids_of(evaluated)
        candidate = better_strategy(evaluated)
        followed = {candidate: predictions_of(week, evaluated, model_ids[candidate])}
        ranked = [name for name in BASELINE_NAMES if scores.rank_ic(model_ids[name]) is not None]
        if ranked:
            best = max(ranked, key=lambda name: scores.rank_ic(model_ids[name]) or 0.0)
            followed[best] = predictions_of(week, evaluated, model_ids[best])
        if other is not None:
            followed[CHAMPION] = other.predictions
        series: list[pl.DataFrame] = []
        figures: list[dict[str, object]] = []
        refused = pl.DataFrame(schema={"reason": pl.String, "count": pl.Int64})
        for position, (name, predictions) in enumerate(followed.items()):
            week.observer.progress("backtest", position, len(followed) + 1, name)
            run = simulate(panel, predictions, week.config.portfolio, terms=week.config.account)
            series.append(_named(run.equity, name))
            figures.append({"series": name, **dataclasses.asdict(run.metrics)})
            if name == candidate:
                refused = pl.DataFrame([{"reason": reason, "count": count} for reason, count in run.refused.items()])
        first, last = series[0].get_column("session").min(), series[0].get_column("session").max()
        start = float(week.config.account.start_cash_vnd)
        assert first is not None
        assert last is not None
        for name, equity in (
            (EQUAL_WEIGHT, equal_weight(week, week.judged_folds(), start)),
            (INDEX, index_equity(panel, first, last, start)),  # type: ignore[arg-type]
        ):
            series.append(_named(equity, name))
            metrics = account_metrics(equity.get_column("equity_vnd").to_numpy())
            figures.append({"series": name, **dataclasses.asdict(metrics)})
        single = single_symbol_figures(panel, followed[candidate], costs=week.config.account.costs)
        frames = {
            EQUITY: pl.concat(series),
            METRICS: pl.DataFrame(figures, infer_schema_length=None),
            REFUSED: refused,
            SINGLE: pl.DataFrame({"symbol": sorted(week.live().universe)}).join(single, on="symbol", how="left"),
        }
        for name, frame in frames.items():
            frame.write_parquet(scratch / name)
        totals = ", ".join(f"{one['series']} {one['annual_return_frac'] or 0:+.0%} a year" for one in figures)
        return StepResult(
            summary=totals,
            facts={"candidate": candidate, "plan_id": short_id(frame_sha256(frames[SINGLE]))},
        )

    return runner.step(StepSpec(name="backtest", inputs=inputs, rooms=("trading", "market")), work)


def model_ids_of(evaluated: StepOutcome) -> dict[str, str]:
    """Return the model_id of every entrant by its short name."""
    found = evaluated.facts.get("model_ids")
    return {name: str(model_id) for name, model_id in found.items()} if isinstance(found, dict) else {}


def better_strategy(evaluated: StepOutcome) -> str:
    """Return the strategy with models per symbol where it ranks no worse than "pooled", else "pooled"."""
    scores, model_ids = read_scores(evaluated), model_ids_of(evaluated)
    own = [name for name in ("adapted", "separate") if name in model_ids]
    pooled = scores.rank_ic(model_ids["pooled"])
    mine = scores.rank_ic(model_ids[own[0]]) if own else None
    return own[0] if own and (pooled is None or (mine is not None and mine >= pooled)) else "pooled"


def equal_weight(week: WeekContext, folds: tuple[Fold, ...], start_vnd: float) -> pl.DataFrame:
    """Return session, equity_vnd of holding each fold's universe equally weighted through its own sessions."""
    panel, value, parts = week.panel(), start_vnd, list[pl.DataFrame]()
    for position, fold in enumerate(folds):
        follows = position > 0 and folds[position - 1].test.stop == fold.test.start
        first = panel.sessions[fold.test.start - 1 if follows else fold.test.start]
        equity = equal_weight_equity(panel, fold.universe, first, panel.sessions[fold.test.stop - 1], value)
        value = float(equity.get_column("equity_vnd").item(-1))
        parts.append(equity.slice(1) if follows else equity)
    return pl.concat(parts)


def _named(equity: pl.DataFrame, name: str) -> pl.DataFrame:
    return equity.select(pl.lit(name).alias("series"), "session", pl.col("equity_vnd").cast(pl.Float64))
