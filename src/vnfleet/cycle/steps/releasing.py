"""gate, deploy, predict: may this set go live, then all of it or nothing, then Monday's forecasts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import polars as pl
from pydantic import JsonValue

from vnfleet.core.atomic import write_text
from vnfleet.core.clock import cycle_id_of
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import short_id
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.inference import serving_path
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.champion import WALK_FORWARD, WALK_FORWARD_NAME, Champion, validation_history
from vnfleet.cycle.steps.forecasting import live_baseline
from vnfleet.cycle.steps.judging import predictions_of, read_scores
from vnfleet.cycle.steps.trading import SINGLE, model_ids_of
from vnfleet.evaluation.metrics import MIN_SYMBOLS, daily_rank_ic
from vnfleet.model.artifact import artifact_name, read_artifact
from vnfleet.model.baselines import BASELINE_NAMES, BaselineName, FittedBaseline, load_baseline
from vnfleet.model.sets import forecast_artifacts
from vnfleet.releases.deploy import current_release, prune
from vnfleet.releases.deploy import deploy as make_current
from vnfleet.releases.gate import (
    Champion as GateChampion,
)
from vnfleet.releases.gate import (
    GateDecision,
    PlanPolicyReport,
    RefreshFacts,
    decide_recipe,
    decide_refresh,
    plan_policy_report,
    rank_agreement,
)
from vnfleet.releases.predict import artifact_problems, write_predictions
from vnfleet.releases.predict import predict as forecast_release
from vnfleet.releases.registry import Release, ReleaseContents, build_release, open_release
from vnfleet.training.forecast import forecast_fold
from vnfleet.training.model_set import write_model_set

DECISION_NAME = "decision.json"
PREDICTIONS = "predictions"


def set_id_of(week: WeekContext, trained: StepOutcome) -> str:
    """Return the identity of the trained set that is judged: its weights and the recipe they came from."""
    return short_id([week.recipe.recipe_id, trained.text("weights_sha256"), trained.facts["live_universe"]])


def gate(
    runner: Runner,
    week: WeekContext,
    trained: StepOutcome,
    evaluated: StepOutcome,
    backtested: StepOutcome,
    champion: Champion | None,
) -> StepOutcome:
    """Decide in words whether the set of this week goes live, and what serves."""
    inputs: Facts = {
        "set_id": set_id_of(week, trained),
        "scores_id": evaluated.text("scores_id"),
        "plan_id": backtested.text("plan_id"),
        "champion": None if champion is None else champion.release_id,
        "gate": dataclasses.asdict(week.config.gate),
        "refresh": dataclasses.asdict(week.config.refresh),
    }

    def work(scratch: Path) -> StepResult:
        single = pl.read_parquet(backtested.folder / SINGLE).rename({"sharpe_252": "sharpe", "rmse_frac": "rmse"})
        plan = plan_policy_report(single)
        if champion is not None and champion.recipe_id == week.recipe.recipe_id:
            decision = _refreshed(week, trained, champion, plan)
        else:
            decision = _contested(week, evaluated, champion, plan)
        write_text(scratch / DECISION_NAME, decision.model_dump_json(indent=1))
        return StepResult(
            summary=decision.sentence,
            facts={"kind": decision.kind, "outcome": decision.outcome, "serving": decision.serving},
        )

    return runner.step(StepSpec(name="gate", inputs=inputs, rooms=("releases", "evaluation")), work)


def read_decision(gated: StepOutcome) -> GateDecision:
    """Return what a finished gate step decided."""
    return GateDecision.model_validate_json((gated.folder / DECISION_NAME).read_bytes())


def _contested(
    week: WeekContext, evaluated: StepOutcome, champion: Champion | None, plan: PlanPolicyReport
) -> GateDecision:
    """First release or new recipe: the race on all walk-forward sessions."""
    daily, model_ids = read_scores(evaluated).daily_ic, model_ids_of(evaluated)
    if champion is not None:
        minimum = min(MIN_SYMBOLS, max(2, week.config.universe.models // 2))
        daily = pl.concat([daily, daily_rank_ic(champion.predictions, week.outcomes(), min_symbols=minimum)])
    return decide_recipe(
        daily.select("model_id", "session", "rank_ic"),
        candidates={name: model_ids[name] for name in week.recipe.strategies},
        baselines={name: model_ids[name] for name in BASELINE_NAMES},
        champion=None if champion is None else GateChampion(model_id=champion.race_id, serving=champion.serving),
        plan=plan,
        limits=week.config.gate,
    )


def _refreshed(week: WeekContext, trained: StepOutcome, champion: Champion, plan: PlanPolicyReport) -> GateDecision:
    """The same recipe on newer data: deployed unless something looks broken."""
    universe, limits = week.live().universe, week.config.refresh
    artifacts = {symbol: week.folders.models / artifact_name(symbol) for symbol in universe}
    present = {symbol: path for symbol, path in artifacts.items() if path.is_file()}
    data = week.data()
    recent = range(max(0, len(data.sessions) - limits.agreement_sessions), len(data.sessions))
    new, current = _recent_new(week, champion.serving, recent), _recent_current(week, champion, recent)
    agreement, sessions = rank_agreement(new, current, limits.agreement_sessions)
    value = trained.facts.get("validation_ic")
    facts = RefreshFacts(
        serving=champion.serving,
        serves_baseline=champion.serves_baseline,
        artifact_problems=artifact_problems(present),
        expected_symbols=universe,
        present_symbols=tuple(present),
        agreement=agreement,
        agreement_sessions=sessions,
        validation_ic=float(value) if isinstance(value, int | float) else None,
        validation_ic_history=validation_history(week.folders.models_prod, champion.recipe_id, champion),
        candidate_id=set_id_of(week, trained),
        champion_id=champion.release_id,
    )
    return decide_refresh(facts, plan=plan, limits=limits)


def _recent_new(week: WeekContext, serving: str, recent: range) -> pl.DataFrame:
    """Return what the set of this week says about the newest sessions."""
    for strategy in week.recipe.strategies:
        if strategy == serving:
            return forecast_fold(week.recipe, week.live(), week.data(), week.folders.units, strategy, recent, "new")
    return _baseline_rows(week, live_baseline(week, baseline_named(serving))[0], recent, "new")


def _recent_current(week: WeekContext, champion: Champion, recent: range) -> pl.DataFrame:
    """Return what the champion says about the same sessions."""
    release = champion.release
    if champion.serves_baseline:
        return _baseline_rows(week, load_baseline(release.member_folder(champion.serving)), recent, "current")
    artifacts = [read_artifact(release.artifact_path(symbol, champion.serving)) for symbol in release.symbols]
    sessions = week.data().sessions[recent.start : recent.stop]
    return forecast_artifacts(artifacts, week.cube(), sessions, "current", "live")


def _baseline_rows(week: WeekContext, baseline: FittedBaseline, sessions: range, model_id: str) -> pl.DataFrame:
    data = week.data()
    return baseline.predict(
        data.values_STF,
        data.present_ST,
        data.symbols,
        data.sessions,
        sessions,
        model_id=model_id,
        fold_id="live",
        feature_names=data.feature_names,
    )


def baseline_named(name: str) -> BaselineName:
    """Return `name` as a baseline's name; raises `BadDataError` when it is none."""
    for known in BASELINE_NAMES:
        if known == name:
            return known
    raise BadDataError("this is no baseline", expected=BASELINE_NAMES, found=name)


def deploy(
    runner: Runner,
    week: WeekContext,
    trained: StepOutcome,
    evaluated: StepOutcome,
    gated: StepOutcome,
    champion: Champion | None,
) -> StepOutcome:
    """Build the release and move the pointer to it, when the gate says so; keep everything as it is otherwise."""
    models_prod, decision = week.folders.models_prod, read_decision(gated)
    inputs: Facts = {
        "set_id": set_id_of(week, trained),
        "gated": gated.key,
        "champion": None if champion is None else champion.release_id,
    }

    def work(scratch: Path) -> StepResult:
        if not decision.deploys:
            now = current_release(models_prod)
            kept = "nothing serves" if now is None else f"{now.release_id} goes on serving"
            return StepResult(summary=f"unchanged: {kept}", facts={"deployed": False, "release_id": ""})
        staging = scratch / "staging"
        contents = _contents(week, staging, trained, evaluated, decision, champion)
        release_id = build_release(models_prod, week.panel().sessions[-1], contents)
        shutil.rmtree(staging)
        make_current(models_prod, release_id, clock=week.clock, expected_symbols=week.live().universe)
        pruned = prune(models_prod, week.config.releases.keep_last)
        gone = f", {len(pruned)} old ones deleted" if pruned else ""
        return StepResult(
            summary=f"{release_id} is live with {len(contents.artifacts)} models, served by {decision.serving}{gone}",
            facts={"deployed": True, "release_id": release_id},
        )

    def still_whole(found: StepOutcome) -> bool:
        release_id = found.text("release_id")
        if not release_id:
            return True
        try:
            open_release(models_prod, release_id)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is built again
            return False
        return True

    return runner.step(StepSpec(name="deploy", inputs=inputs, rooms=("releases",)), work, still_whole=still_whole)


def _contents(
    week: WeekContext,
    staging: Path,
    trained: StepOutcome,
    evaluated: StepOutcome,
    decision: GateDecision,
    champion: Champion | None,
) -> ReleaseContents:
    """Gather the files of a release; sets that are not in ``models/`` are written to `staging` first."""
    universe, serving = week.live().universe, decision.serving
    artifacts = {symbol: week.folders.models / artifact_name(symbol) for symbol in universe}
    if serving == "pooled" and week.recipe.training.strategy != "pooled":
        paths = write_model_set(
            staging / "pooled", week.recipe, week.live(), week.data(), week.folders.units, "pooled", universe
        )
        artifacts = dict(zip(universe, paths, strict=True))
    members: dict[str, Path] = {WALK_FORWARD: staging / WALK_FORWARD}
    if decision.serves_baseline:
        members[serving] = live_baseline(week, baseline_named(serving))[1]
    members[WALK_FORWARD].mkdir(parents=True)
    model_id = model_ids_of(evaluated)[serving]
    predictions_of(week, evaluated, model_id).write_parquet(members[WALK_FORWARD] / WALK_FORWARD_NAME)
    facts: dict[str, JsonValue] = {
        "set_id": set_id_of(week, trained),
        "recipe_id": week.recipe.recipe_id,
        "data_id": week.panel().data_id,
        "cycle_id": cycle_id_of(week.as_of),
        "serving": serving,
        "model_id": model_id,
        "weights_sha256": trained.text("weights_sha256"),
        "validation_ic": trained.facts["validation_ic"],
        "champion_release_id": None if champion is None else champion.release_id,
        "symbols": list(universe),
        "decision": decision.as_json(),
    }
    return ReleaseContents(artifacts=artifacts, serving=dict.fromkeys(universe, serving), members=members, facts=facts)


def predict(runner: Runner, week: WeekContext) -> StepOutcome:
    """Forecast the newest session with whatever serves now."""
    now = current_release(week.folders.models_prod)
    release_id = "" if now is None else now.release_id
    path = serving_path(week.config.machine, week.folders)
    inputs: Facts = {"release_id": release_id, "cube_id": week.cube().cube_id, "inference": path.name}

    def work(scratch: Path) -> StepResult:
        session = week.panel().sessions[-1]
        if not release_id:
            return StepResult(
                summary="nothing serves yet, so there is nothing to forecast with", facts={"release_id": ""}
            )
        frame = forecast_release(
            week.folders.models_prod, week.panel(), week.cube(), session, release_id=release_id, forecast=path
        )
        write_predictions(scratch / PREDICTIONS, frame)
        write_predictions(week.folders.reports / f"{cycle_id_of(week.as_of)}-{PREDICTIONS}", frame)
        return StepResult(
            summary=f"{frame.height} forecasts for the sessions after {session}"
            + (f", networks computed by {path.words}" if path.words else ""),
            facts={
                "release_id": release_id,
                "session": session.isoformat(),
                "num_rows": frame.height,
                "inference": path.words,
            },
        )

    return runner.step(StepSpec(name="predict", inputs=inputs, rooms=("releases", "model")), work)


def read_predictions(predicted: StepOutcome) -> pl.DataFrame | None:
    """Return the forecasts of a finished predict step, None when nothing served."""
    path = predicted.folder / f"{PREDICTIONS}.parquet"
    return pl.read_parquet(path) if path.is_file() else None


def configured_symbols(release: Release) -> tuple[str, ...]:
    """Return the symbols that were configured when a release was built, all of which it must hold to go live."""
    symbols = release.facts.get("symbols")
    return tuple(str(symbol) for symbol in symbols) if isinstance(symbols, list) else release.symbols
