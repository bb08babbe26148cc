"""deploy, predict: all of the set goes live or nothing of it, then Monday's forecasts."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
from pydantic import JsonValue

from vnfleet.core.clock import cycle_id_of
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.inference import serving_path
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.champion import WALK_FORWARD, WALK_FORWARD_NAME, Champion
from vnfleet.cycle.steps.forecasting import live_baseline
from vnfleet.cycle.steps.gating import baseline_named, read_decision, set_id_of
from vnfleet.cycle.steps.judging import predictions_of
from vnfleet.cycle.steps.trading import model_ids_of
from vnfleet.model.artifact import artifact_name
from vnfleet.releases.deploy import current_release, prune
from vnfleet.releases.deploy import deploy as make_current
from vnfleet.releases.gate import GateDecision
from vnfleet.releases.predict import predict as forecast_release
from vnfleet.releases.predict import write_predictions
from vnfleet.releases.registry import Release, ReleaseContents, build_release, open_release
from vnfleet.training.model_set import write_model_set

PREDICTIONS = "predictions"


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
    vetoed = [symbol for symbol in decision.vetoed if symbol in universe]
    if vetoed:  # their own models stay in the set, the pooled ones beside them serve
        members["pooled"] = staging / "vetoed"
        write_model_set(
            members["pooled"], week.recipe, week.live(), week.data(), week.folders.units, "pooled", tuple(vetoed)
        )
    if decision.serves_baseline:
        members[serving] = live_baseline(week, baseline_named(serving))[1]
    members[WALK_FORWARD].mkdir(parents=True)
    model_id = model_ids_of(evaluated)[serving]
    predictions_of(week, evaluated, model_id).write_parquet(members[WALK_FORWARD] / WALK_FORWARD_NAME)
    facts: dict[str, JsonValue] = {
        "set_id": set_id_of(week, trained),
        "recipe_id": week.recipe.recipe_id,
        "setting_id": week.setting_id,
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
    served_by = dict.fromkeys(universe, serving) | dict.fromkeys(vetoed, "pooled")
    return ReleaseContents(artifacts=artifacts, serving=served_by, members=members, facts=facts)


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
