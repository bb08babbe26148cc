"""backtest: an account under Vietnamese rules for everyone who ranks, beside equal weight and the index."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import polars as pl
from pydantic import TypeAdapter

from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec, frame_facts
from vnfleet.cycle.steps.champion import Champion
from vnfleet.cycle.steps.evidence import named_actions
from vnfleet.cycle.steps.judging import read_predictions_of, read_scores, variants
from vnfleet.cycle.trials import record_trial
from vnfleet.evaluation.splits import Fold
from vnfleet.model.baselines import BASELINE_NAMES
from vnfleet.releases.plan_null import null_pass_shares
from vnfleet.releases.plan_policy import NullShares
from vnfleet.trading.benchmarks import equal_weight_equity, index_equity
from vnfleet.trading.metrics import account_metrics
from vnfleet.trading.simulator import SimulationResult, planned, simulate
from vnfleet.trading.single import single_symbol_figures
from vnfleet.trading.waterfall import waterfall

EQUITY, METRICS, REFUSED, SINGLE, RETURNS, WATERFALL = (
    f"{name}.parquet" for name in ("equity", "metrics", "refused", "single_symbols", "returns", "waterfall")
)
NULL_SHARES = "null_shares.json"
EQUAL_WEIGHT, INDEX, CHAMPION = "equal weight", "VNINDEX", "champion"
_SHARES = TypeAdapter(NullShares)


def backtest(runner: Runner, week: WeekContext, evaluated: StepOutcome, champion: Champion | None) -> StepOutcome:
    """Simulate every entrant that ranks, and the champion; what each rule costs; the plan's rule symbol by symbol."""
    actions = named_actions(week, week.served()).actions
    inputs: Facts = {
        "scores_id": evaluated.text("scores_id"),
        "actions": frame_sha256(actions),
        "forecast_ids": evaluated.facts["forecast_ids"],
        "portfolio": dataclasses.asdict(week.config.portfolio),
        "account": dataclasses.asdict(week.config.account),
        "champion": None if champion is None else champion.release_id,
    }

    def work(scratch: Path) -> StepResult:
        panel, terms, scores = week.panel(), week.config.account, read_scores(evaluated)
        candidate = better_strategy(evaluated)
        followed = _followed(week, evaluated, champion)
        rivals = [name for name in followed if name in BASELINE_NAMES]
        ids = model_ids_of(evaluated)
        best = max(rivals, key=lambda name: scores.rank_ic(ids[name]) or 0.0, default=None)
        shown = [name for name in (candidate, best) if name is not None]
        if champion is not None and not champion.is_of(week):
            shown.append(CHAMPION)
        runs: dict[str, SimulationResult] = {}
        for position, (name, predictions) in enumerate(followed.items()):
            week.observer.progress("backtest", position, len(followed) + 2, name)
            runs[name] = simulate(panel, predictions, week.config.portfolio, terms=terms, actions=actions)
        week.observer.progress("backtest", len(followed), len(followed) + 2, "what each rule costs")
        plan = planned(panel, followed[candidate], week.config.portfolio, terms=terms, actions=actions)
        costs = waterfall(plan)
        week.observer.progress(
            "backtest", len(followed) + 1, len(followed) + 2, "the plan's rule, and luck's share of it"
        )
        single = single_symbol_figures(panel, followed[candidate], costs=terms.costs)
        null = null_pass_shares(panel, followed[candidate], costs=terms.costs)
        benchmarks = _benchmarks(week, runs[candidate].equity)
        figures = [{"series": name, **dataclasses.asdict(run.metrics)} for name, run in runs.items()]
        figures += [
            {"series": name, **dataclasses.asdict(account_metrics(equity.get_column("equity_vnd").to_numpy()))}
            for name, equity in benchmarks.items()
        ]
        refused = [{"reason": reason, "count": count} for reason, count in runs[candidate].refused.items()]
        frames = {
            EQUITY: pl.concat(
                [_named(runs[name].equity, name) for name in shown]
                + [_named(equity, name) for name, equity in benchmarks.items()]
            ),
            METRICS: pl.DataFrame(figures, infer_schema_length=None),
            REFUSED: pl.DataFrame(refused),
            SINGLE: pl.DataFrame({"symbol": sorted(week.live().universe)}).join(single, on="symbol", how="left"),
            RETURNS: _returns(runs, benchmarks[EQUAL_WEIGHT]),
            WATERFALL: costs,
        }
        for name, frame in frames.items():
            frame.write_parquet(scratch / name)
        (scratch / NULL_SHARES).write_bytes(_SHARES.dump_json(null))
        told = [one for one in figures if one["series"] in (*shown, *benchmarks)]
        return StepResult(
            summary=", ".join(f"{one['series']} {one['annual_return_frac'] or 0:+.0%} a year" for one in told),
            facts={
                "candidate": candidate,
                "shown": list(shown),
                "accounts": frame_facts(frames[METRICS]),
                "figures_id": short_id([frame_sha256(frame) for frame in frames.values()] + [list(null)]),
            },
        )

    outcome = runner.step(StepSpec(name="backtest", inputs=inputs, rooms=("trading", "market", "releases")), work)
    returns, daily = pl.read_parquet(outcome.folder / RETURNS), read_scores(evaluated).daily_ic
    policy_id = short_id([inputs["portfolio"], inputs["account"]])[:8]
    for variant in variants(week):
        ranks = daily.filter(pl.col("model_id") == variant.model_id).select("session", "rank_ic")
        money = returns.filter(pl.col("series") == variant.name).select("session", "active_return_frac")
        series = ranks.join(money, on="session", how="full", coalesce=True)
        record_trial(week.folders.trials, variant.variant_id, series, week.clock.now(), policy_id=policy_id)
    return outcome


def read_null_shares(backtested: StepOutcome) -> NullShares:
    """Return what models without skill would pass of the plan's limits, on the same prices."""
    return _SHARES.validate_json((backtested.folder / NULL_SHARES).read_bytes())


def _followed(week: WeekContext, evaluated: StepOutcome, champion: Champion | None) -> dict[str, pl.DataFrame]:
    """Return whom an account follows: every entrant with a ranking by its short name, and the champion."""
    scores, ids = read_scores(evaluated), model_ids_of(evaluated)
    ranked = {name: model_id for name, model_id in ids.items() if scores.rank_ic(model_id) is not None}
    ranked.setdefault(better_strategy(evaluated), ids[better_strategy(evaluated)])
    predictions = read_predictions_of(week, evaluated, ranked.values())
    followed = {name: predictions[model_id] for name, model_id in ranked.items()}
    old = None if champion is None else known_to(week, champion.predictions)
    return followed if old is None or old.is_empty() else {**followed, CHAMPION: old}


def known_to(week: WeekContext, predictions: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose symbol and session the panel still has: names leave it, and so do years that are judged."""
    panel = week.panel()
    return predictions.filter(
        pl.col("symbol").is_in(list(panel.symbols)), pl.col("session").is_in(list(panel.sessions))
    )


def _benchmarks(week: WeekContext, account: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return session, equity_vnd of equal weight and of the index over the sessions of an account."""
    first, last = account.item(0, "session"), account.item(-1, "session")
    start = float(week.config.account.start_cash_vnd)
    return {
        EQUAL_WEIGHT: equal_weight(week, week.judged_folds(), start),
        INDEX: index_equity(week.panel(), first, last, start),
    }


def _returns(runs: Mapping[str, SimulationResult], equal: pl.DataFrame) -> pl.DataFrame:
    """Return series, session, return_frac, active_return_frac (over equal weight; null where it has no session)."""
    grown = pl.col("equity_vnd") / pl.col("equity_vnd").shift(1) - 1
    market = equal.select("session", market=grown).drop_nulls()
    parts = [
        run.equity.select(pl.lit(name).alias("series"), "session", return_frac=grown)
        .drop_nulls()
        .join(market, on="session", how="left")
        .select("series", "session", "return_frac", active_return_frac=pl.col("return_frac") - pl.col("market"))
        for name, run in runs.items()
    ]
    return pl.concat(parts)


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
