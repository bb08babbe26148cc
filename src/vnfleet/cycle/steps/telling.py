"""report: everything the week found, in one HTML file for its owner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from vnfleet.core.clock import cycle_id_of
from vnfleet.core.ids import sha256_of_file
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.champion import Champion
from vnfleet.cycle.steps.evidence import QUALITY_ROWS, QUALITY_SYMBOLS
from vnfleet.cycle.steps.gating import read_decision
from vnfleet.cycle.steps.judging import read_scores
from vnfleet.cycle.steps.proving import Proven, read_proven
from vnfleet.cycle.steps.releasing import read_predictions
from vnfleet.cycle.steps.trading import (
    EQUITY,
    METRICS,
    REFUSED,
    SINGLE,
    WATERFALL,
    better_strategy,
    known_to,
    model_ids_of,
)
from vnfleet.evaluation.leaks import LeakReport
from vnfleet.evaluation.metrics import daily_rank_ic, monthly_rank_ic, summarise
from vnfleet.releases.deploy import current_release
from vnfleet.releases.gate import GateDecision
from vnfleet.releases.registry import open_release
from vnfleet.reporting.report import ReportInputs, write_report

_NAMES = {
    "adapted": "Stockformer, adapted to each symbol",
    "separate": "Stockformer, one for each symbol",
    "pooled": "Stockformer, pooled",
    "always_up": "always up",
    "last_direction": "last direction again",
    "reversal_1d": "1-session reversal",
    "reversal_5d": "5-session reversal",
    "momentum_120d": "120-session momentum",
    "ridge": "ridge",
    "lightgbm": "LightGBM",
}
_SURVIVORS = (
    "The symbols of this source are those that are traded today: figures of past years leave out what was delisted "
    "since, and look better than they were."
)


def report_path(week: WeekContext) -> Path:
    """Return where the week's report lies."""
    return week.folders.reports / f"{cycle_id_of(week.as_of)}.html"


def report(runner: Runner, week: WeekContext, champion: Champion | None) -> StepOutcome:
    """Write ``reports/<cycle_id>.html`` and its copy ``latest.html`` from all the steps before it."""
    outcomes = {step.name: step for step in runner.outcomes}
    target, decision = report_path(week), read_decision(outcomes["gate"])

    def work(_: Path) -> StepResult:
        inputs = _inputs(week, runner.outcomes, outcomes, decision, champion)
        write_report(target, inputs)
        write_report(week.folders.reports / "latest.html", inputs)
        return StepResult(summary=f"reports/{target.name}", facts={"sha256": sha256_of_file(target)})

    def still_whole(found: StepOutcome) -> bool:
        return target.is_file() and sha256_of_file(target) == found.text("sha256")

    spec = StepSpec(
        name="report", inputs={name: outcome.key for name, outcome in outcomes.items()}, rooms=("reporting",)
    )
    return runner.step(spec, work, still_whole=still_whole)


def _inputs(
    week: WeekContext,
    steps: list[StepOutcome],
    outcomes: dict[str, StepOutcome],
    decision: GateDecision,
    champion: Champion | None,
) -> ReportInputs:
    evaluated, checked, traded = outcomes["evaluate"], outcomes["check"], outcomes["backtest"]
    model_ids, scores, proven = model_ids_of(evaluated), read_scores(evaluated), read_proven(outcomes["prove"])
    summary, monthly = scores.summary, scores.monthly_ic
    names = [(model_id, _NAMES.get(name, name)) for name, model_id in model_ids.items()]
    serving_id = model_ids.get(decision.serving) or model_ids[better_strategy(evaluated)]
    if champion is not None and not champion.is_of(week):
        minimum = week.min_symbols
        past, known = known_to(week, champion.predictions), week.outcomes()
        summary = pl.concat([summary, summarise(past, known, min_symbols=minimum)])
        monthly = pl.concat([monthly, monthly_rank_ic(daily_rank_ic(past, known, min_symbols=minimum))])
        names.append((champion.race_id, f"current release ({champion.release_id})"))
        serving_id = serving_id if decision.deploys else champion.race_id
    now = current_release(week.folders.models_prod)
    return ReportInputs(
        cycle_id=cycle_id_of(week.as_of),
        as_of=week.panel().sessions[-1],
        created_at=week.clock.now(),
        workdir_name=week.folders.workdir.absolute().name,
        market_is_simulated=week.config.source.kind == "simulated",
        decision=decision,
        previous_release_id=None if champion is None else champion.release_id,
        deployed_release_id=None if now is None else now.release_id,
        changes=_changes(week, outcomes, decision, champion),
        summary=summary,
        monthly_ic=monthly,
        serving_model_id=serving_id,
        per_symbol=_per_symbol(week, outcomes),
        equity=pl.read_parquet(traded.folder / EQUITY),
        sim_metrics=pl.read_parquet(traded.folder / METRICS),
        refused_orders=pl.read_parquet(traded.folder / REFUSED),
        quality_rows=_findings(pl.read_parquet(checked.folder / QUALITY_ROWS)),
        quality_symbols=pl.read_parquet(checked.folder / QUALITY_SYMBOLS),
        steps=_steps(steps),
        warnings=_warnings(week, checked),
        horizon_sessions=week.config.horizon_sessions,
        model_names=tuple(names),
        proof_lines=_proof_lines(proven, model_ids),
        num_trials=proven.num_trials + week.config.gate.prior_trials,
        scorecard=scores.scorecard,
        reliability=scores.reliability,
        selective=scores.selective,
        symbols_shrunk=scores.symbols,
        leak_checks=_leak_checks(proven.leaks),
        waterfall=pl.read_parquet(traded.folder / WATERFALL),
    )


def _proof_lines(proven: Proven, model_ids: Mapping[str, str]) -> tuple[str, ...]:
    """Return what the tests of skill say, of whom first, models by their short names."""
    names = {model_id: name for name, model_id in model_ids.items() if name != model_id}
    lines = (f"judged: {proven.proof.candidate}", *proven.proof.lines())
    for model_id, name in names.items():
        lines = tuple(line.replace(model_id, name) for line in lines)
    return lines


def _leak_checks(leaks: LeakReport) -> pl.DataFrame:
    columns = {"name": pl.String, "passed": pl.Boolean, "blocks": pl.Boolean, "words": pl.String}
    return pl.DataFrame([check.model_dump(include=set(columns)) for check in leaks.checks], schema=columns)


def _warnings(week: WeekContext, checked: StepOutcome) -> tuple[str, ...]:
    """Return what a reader must keep in mind about the symbols behind the figures."""
    if week.config.source.kind == "simulated":
        return ()
    said = checked.facts.get("survivorship")
    return (said,) if isinstance(said, str) else (_SURVIVORS,)


def _per_symbol(week: WeekContext, outcomes: dict[str, StepOutcome]) -> pl.DataFrame:
    """Return one row per primary symbol: who serves it, today's forecast, and the plan's numbers."""
    now = current_release(week.folders.models_prod)
    serving = {} if now is None else dict(open_release(week.folders.models_prod, now.release_id).serving)
    symbols = sorted(set(week.live().universe) | set(serving))
    table = pl.DataFrame(
        {"symbol": symbols, "serving": [serving.get(symbol, "") for symbol in symbols]},
        schema={"symbol": pl.String, "serving": pl.String},
    )
    table = table.join(week.panel().listings.select("symbol", "sector"), on="symbol", how="left")
    table = table.join(pl.read_parquet(outcomes["backtest"].folder / SINGLE), on="symbol", how="left")
    table = table.with_columns(plan_verdict=_plan_words())
    predictions = read_predictions(outcomes["predict"])
    if predictions is None:
        return table
    ranked = predictions.with_columns(rank=pl.col("score").rank("ordinal", descending=True).cast(pl.Int32))
    columns = ("symbol", "rank", "score", "expected_return_frac", "direction_prob")
    return table.join(ranked.select(columns), on="symbol", how="left")


def _plan_words() -> pl.Expr:
    """Return which of the written plan's three limits a symbol passes, in words."""
    passed = [
        pl.when(pl.col("accuracy_frac") > 0.52).then(pl.lit("accuracy")),
        pl.when(pl.col("sharpe_252") > 0.8).then(pl.lit("Sharpe")),
        pl.when(pl.col("max_drawdown_frac") < 0.10).then(pl.lit("drawdown")),
    ]
    words = pl.concat_str(passed, separator=", ", ignore_nulls=True)
    known = pl.col("accuracy_frac").is_not_null()
    return pl.when(known & (words != "")).then(words).when(known).then(pl.lit("none"))


def _findings(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the quality court's rows counted by kind, each with one example."""
    example = pl.concat_str(
        [pl.col("symbol"), pl.col("session").cast(pl.String).fill_null(""), pl.col("evidence")], separator=" "
    )
    return (
        rows.group_by("check", "severity", "verdict")
        .agg(count=pl.len().cast(pl.Int64), example=example.first())
        .sort("count", descending=True)
    )


def _steps(steps: list[StepOutcome]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "step": [step.name for step in steps],
            "seconds": [step.seconds for step in steps],
            "peak_memory_mib": [step.peak_memory_mib for step in steps],
            "reused": [step.reused for step in steps],
        }
    )


def _changes(
    week: WeekContext, outcomes: dict[str, StepOutcome], decision: GateDecision, champion: Champion | None
) -> tuple[str, ...]:
    """Return what is different from what served before, one sentence each."""
    if champion is None:
        return ("This is the first week: there is nothing to compare with yet.",)
    new, old = set(week.live().universe), set(champion.release.symbols)
    said = [f"Data now reach {week.panel().sessions[-1]} (before: {champion.release.as_of})."]
    if new - old:
        said.append(f"New among the {len(new)} symbols: {', '.join(sorted(new - old))}.")
    if old - new:
        said.append(f"No longer among them: {', '.join(sorted(old - new))}.")
    if champion.setting_id != week.setting_id:
        said.append("Folds or symbols are chosen in another way than before.")
    if champion.recipe_id != week.recipe.recipe_id:
        said.append("The recipe changed: features, model, training settings or library versions are not last week's.")
    if decision.deploys and decision.serving != champion.serving:
        said.append(f"Served by {decision.serving} instead of {champion.serving}.")
    before, after = champion.release.facts.get("validation_ic"), outcomes["train"].facts.get("validation_ic")
    if isinstance(before, int | float) and isinstance(after, int | float):
        said.append(f"Validation rank IC {after:.3f} (before: {before:.3f}).")
    return tuple(said)
