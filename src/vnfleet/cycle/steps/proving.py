"""prove: the variant goes into the log of trials, the tests of skill are made, and the leak prover looks for leaks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vnfleet.core.atomic import write_text
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.leaks import LIGHTGBM, prove_no_leaks
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.forecasting import forecasters
from vnfleet.cycle.steps.judging import read_predictions_of, read_scores
from vnfleet.cycle.steps.trading import RETURNS, better_strategy, model_ids_of
from vnfleet.cycle.trials import TrialBook, record_trial, trials_up_to
from vnfleet.evaluation.leaks import LeakReport
from vnfleet.evaluation.proof import Proof, prove_skill

PROOF_NAME = "proof.json"
LEAKS_NAME = "leaks.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a finished prove step found; `num_trials` counts the variants in the log up to this week."""

    proof: Proof
    leaks: LeakReport
    num_trials: int
    sharpe_sd: float | None


def prove(runner: Runner, week: WeekContext, evaluated: StepOutcome, backtested: StepOutcome) -> StepOutcome:
    """Test the candidate's skill against everything that raced and was ever tried here, and look for leaks."""
    book = _logged(week, evaluated, backtested)
    inputs: Facts = {
        "scores_id": evaluated.text("scores_id"),
        "cube_id": week.cube().cube_id,
        "trials": book.book_id,
        "recipe_id": week.recipe.recipe_id,
    }

    def work(scratch: Path) -> StepResult:
        ids, scores, candidate = model_ids_of(evaluated), read_scores(evaluated), better_strategy(evaluated)
        forecasts = read_predictions_of(week, evaluated, [ids[name] for name in (candidate, LIGHTGBM) if name in ids])
        proof = prove_skill(
            forecasts[ids[candidate]],
            week.outcomes(),
            scores.daily_ic,
            candidate=ids[candidate],
            rivals={entrant.name: entrant.model_id for entrant in forecasters(week) if entrant.kind != "strategy"},
            trials=book.daily_ic(),
            horizon_sessions=week.config.horizon_sessions,
        )
        leaks = prove_no_leaks(
            week,
            pl.concat(forecasts.values()),
            candidate=ids[candidate],
            told=lambda what: week.observer.progress("prove", 0, 1, what),
        )
        write_text(scratch / PROOF_NAME, proof.model_dump_json(indent=1))
        write_text(scratch / LEAKS_NAME, leaks.model_dump_json(indent=1))
        return StepResult(
            summary=f"{len(book.trials)} variants tried here; {leaks.lines()[0]}",
            facts={"num_trials": len(book.trials), "sharpe_sd": book.sharpe_sd, "has_leak": leaks.has_leak},
        )

    return runner.step(StepSpec(name="prove", inputs=inputs, rooms=("evaluation", "features", "training")), work)


def read_proven(proven: StepOutcome) -> Proven:
    """Return what a finished prove step found."""
    count, spread = proven.facts["num_trials"], proven.facts.get("sharpe_sd")
    return Proven(
        proof=Proof.model_validate_json((proven.folder / PROOF_NAME).read_bytes()),
        leaks=LeakReport.model_validate_json((proven.folder / LEAKS_NAME).read_bytes()),
        num_trials=int(str(count)),
        sharpe_sd=float(spread) if isinstance(spread, int | float) else None,
    )


def _logged(week: WeekContext, evaluated: StepOutcome, backtested: StepOutcome) -> TrialBook:
    """Write this week's variants into the log, and return what it holds up to them."""
    daily, returns = read_scores(evaluated).daily_ic, pl.read_parquet(backtested.folder / RETURNS)
    ours = {entrant.name: entrant.model_id for entrant in forecasters(week) if entrant.kind == "strategy"}
    for name, model_id in ours.items():
        ranks = daily.filter(pl.col("model_id") == model_id).select("session", "rank_ic")
        money = returns.filter(pl.col("series") == name).select("session", "active_return_frac")
        series = ranks.join(money, on="session", how="full", coalesce=True)
        record_trial(week.folders.trials, model_id, series, week.clock.now())
    return trials_up_to(week.folders.trials, tuple(ours.values()))
