"""train: the plan of work, its units here or on a worker, and the artifacts of the latest set."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import UsageError
from vnfleet.core.ids import canonical_json, sha256_of_file, short_id
from vnfleet.core.sealed import is_whole
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.status import remember_plan
from vnfleet.cycle.steps.planning import PlanOfWork, plan_of_week, run_plan
from vnfleet.cycle.steps.remote_fitting import trained_remotely
from vnfleet.evaluation.splits import Fold
from vnfleet.model.artifact import artifact_name, read_artifact
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import is_finished
from vnfleet.training.forecast import fold_models
from vnfleet.training.model_set import write_model_set
from vnfleet.training.plan import WorkUnit, plan_units
from vnfleet.training.unit_result import UNIT_KIND, result_folder

FOLDS_NAME = "folds.json"
MODELS_NAME = "models.json"
_HASHES = TypeAdapter(dict[str, str])


def train(runner: Runner, week: WeekContext, features: StepOutcome) -> StepOutcome:
    """Train every unit that is not finished, then write the newest set's artifacts to ``models/``.

    What is trained is fitted to the time there is first (see `planning`); from here on that is the week's recipe.
    """
    folds_config, universe = week.config.folds, week.config.universe
    chosen: Facts = {
        "folds": short_id(dataclasses.asdict(folds_config)),
        "universe": [universe.models, universe.window_sessions, list(universe.pinned), list(universe.excluded)],
    }
    plan = plan_of_week(runner.folder, week, features.text("cube_id"), chosen)
    week.recipe = plan.recipe
    inputs: Facts = {
        "cube_id": features.text("cube_id"),
        "recipe_id": plan.recipe.recipe_id,
        **chosen,
        "only": list(week.only),
    }

    def work(scratch: Path) -> StepResult:
        folds, data = week.folds(), week.data()
        symbols = wanted_symbols(week.only, week.live().universe)
        asked = plan_units(plan.recipe, data, folds)
        remember_plan(runner.folder, [unit.unit_id for unit in asked])
        kept, where = _run_units(week, plan, asked, data, folds)
        recipe = week.recipe = kept.recipe
        strategy, units = recipe.training.strategy, plan_units(recipe, data, folds)
        remember_plan(runner.folder, [unit.unit_id for unit in units])
        paths = write_model_set(week.folders.models, recipe, week.live(), data, week.folders.units, strategy, symbols)
        if not week.is_partial:
            _remove_strangers(week.folders.models, paths)
        weights = {path.name: read_artifact(path).weights_sha256 for path in paths}
        models = fold_models(recipe, week.live(), data, week.folders.units, strategy)
        selection = models.selection
        write_text(scratch / FOLDS_NAME, canonical_json([fold.to_record() for fold in folds]))
        write_text(scratch / MODELS_NAME, json.dumps({path.name: sha256_of_file(path) for path in paths}, indent=1))
        years = ", ".join(fold.fold_id for fold in folds)
        return StepResult(
            summary=f"{len(units)} units over folds {years}{where}; {len(paths)} artifacts in models/ ({kept.words})",
            facts={
                "recipe_id": recipe.recipe_id,
                "unit_ids": [unit.unit_id for unit in units],
                "fold_ids": [fold.fold_id for fold in folds],
                "live_universe": list(week.live().universe),
                "artifacts": [path.name for path in paths],
                "weights_sha256": short_id(weights),
                "validation_ic": models.valid_rank_ic,
                "penalty": selection.penalty,
                "epochs": selection.epochs,
                "plan_of_work": kept.words,
            },
        )

    def still_whole(found: StepOutcome) -> bool:
        units = found.facts.get("unit_ids")
        have_units = isinstance(units, list) and all(
            is_whole(result_folder(week.folders.units, str(unit)), UNIT_KIND) for unit in units
        )
        return have_units and _models_whole(week.folders.models, found.folder / MODELS_NAME)

    return runner.step(
        StepSpec(name="train", inputs=inputs, rooms=("training", "model")), work, still_whole=still_whole
    )


def wanted_symbols(only: Sequence[str], universe: Sequence[str]) -> tuple[str, ...]:
    """Return the symbols that get an artifact; raises `UsageError` for one that is not among the primary symbols."""
    for symbol in only:
        if symbol not in universe:
            near = difflib.get_close_matches(symbol, universe, n=3, cutoff=0.5)
            raise UsageError(
                f"{symbol} is not among the {len(universe)} most traded symbols of this week",
                found=f"did you mean {' or '.join(near)}?" if near else None,
                fix=f'to model it all the same: pinned = ["{symbol}"] under [universe] in vnfleet.toml',
            )
    return tuple(only) or tuple(universe)


def _run_units(
    week: WeekContext, plan: PlanOfWork, units: Sequence[WorkUnit], data: TrainingData, folds: Sequence[Fold]
) -> tuple[PlanOfWork, str]:
    """Finish every unit; what workers leave open is trained here, with fewer seeds if the time asks for it.

    Return the plan that was kept to, and where it was done in words.
    """
    reused = sum(is_finished(week.folders.units, unit) for unit in units)
    words = f" ({reused} reused)" if reused else ""
    if week.config.remote.mode == "hybrid" and reused < len(units):
        plan, where = trained_remotely(week, plan, units, data, folds)
        words += f" ({where})"
    run_plan(week, plan, plan_units(plan.recipe, data, folds), data)
    return plan, words


def _remove_strangers(models: Path, paths: Sequence[Path]) -> None:
    """Remove artifacts of symbols that left the set, so that ``models/`` is the latest set and nothing else."""
    kept = set(paths)
    for path in models.glob(f"*{artifact_name('')}"):
        if path not in kept:
            path.unlink()


def _models_whole(models: Path, hashes_file: Path) -> bool:
    hashes = _HASHES.validate_json(hashes_file.read_bytes())
    return all((models / name).is_file() and sha256_of_file(models / name) == sha for name, sha in hashes.items())
