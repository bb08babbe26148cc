"""prove: the tests of skill are made, over every variant ever tried here, and the leak prover looks for leaks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vnfleet.core.atomic import write_text
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.leaks import LIGHTGBM, prove_no_leaks
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.forecasting import forecasters
from vnfleet.cycle.steps.judging import read_predictions_of, read_scores, variants
from vnfleet.cycle.steps.trading import better_strategy, model_ids_of
from vnfleet.cycle.trials import read_trials
from vnfleet.evaluation.leaks import LeakReport
from vnfleet.evaluation.proof import Proof, prove_skill

PROOF_NAME = "proof.json"
LEAKS_NAME = "leaks.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """What a finished prove step found; `num_trials` counts the variants in the log."""

    proof: Proof
    leaks: LeakReport
    num_trials: int
    sharpe_sd: float | None


def prove(runner: Runner, week: WeekContext, evaluated: StepOutcome) -> StepOutcome:
    """Test the candidate's skill against everything that raced and was ever tried here, and look for leaks."""
    book, ours = read_trials(week.folders.trials), {one.variant_id: one.model_id for one in variants(week)}
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
            trials=book.daily_ic().with_columns(pl.col("model_id").replace(ours)),
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
            summary=f"{book.num_trials} variant{'s' * (book.num_trials != 1)} tried here; {leaks.lines()[0]}",
            facts={"num_trials": book.num_trials, "sharpe_sd": book.sharpe_sd, "has_leak": leaks.has_leak},
        )

    return runner.step(
        StepSpec(name="prove", inputs=inputs, rooms=("evaluation", "features", "model", "training", "cycle")), work
    )


def read_proven(proven: StepOutcome) -> Proven:
    """Return what a finished prove step found."""
    count, spread = proven.facts["num_trials"], proven.facts.get("sharpe_sd")
    return Proven(
        proof=Proof.model_validate_json((proven.folder / PROOF_NAME).read_bytes()),
        leaks=LeakReport.model_validate_json((proven.folder / LEAKS_NAME).read_bytes()),
        num_trials=int(str(count)),
        sharpe_sd=float(spread) if isinstance(spread, int | float) else None,
    )
