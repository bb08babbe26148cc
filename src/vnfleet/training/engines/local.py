"""Run units in this process: reuse what is finished, resume what was interrupted, seal what is done."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import JsonValue

from vnfleet.core.errors import BadDataError
from vnfleet.core.lock import holding
from vnfleet.core.sealed import read_manifest, sealing
from vnfleet.training.dataset import TrainingData
from vnfleet.training.environment import frozen_environment
from vnfleet.training.fitting import UnitRun, run_member, run_select
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.trainer import Progress
from vnfleet.training.unit_result import UNIT_KIND, read_selection, result_folder


def is_finished(units_root: Path, unit: WorkUnit) -> bool:
    """Return whether the result of `unit` is sealed; a damaged one counts as unfinished and is made again."""
    try:
        return read_manifest(result_folder(units_root, unit.unit_id), UNIT_KIND) is not None
    except BadDataError:
        return False


def run_unit(unit: WorkUnit, recipe: Recipe, data: TrainingData, units_root: Path, progress: Progress) -> Path:
    """Return the sealed result folder of `unit`, training it first unless it is finished.

    An interrupted unit goes on from its newest whole checkpoint, to the same bits on the same numeric environment.

    Raises
    ------
    BadDataError
        When the rows are not those the unit was planned on, the recipe is another one, or a loss is not finite.
    BusyError
        When another process works on this unit.
    """
    result = result_folder(units_root, unit.unit_id)
    if is_finished(units_root, unit):
        return result
    folder = units_root / unit.unit_id
    with holding(folder / "unit.lock", f"unit {unit.unit_id} ({unit.kind}, fold {unit.fold_id}, seed {unit.seed})"):
        if is_finished(units_root, unit):
            return result
        _check_inputs(unit, recipe, data)
        environment = frozen_environment(folder, recipe.training)
        environment.apply()
        meta: dict[str, JsonValue] = {"unit": unit.model_dump(mode="json")}
        run = UnitRun(unit, recipe, data, folder, environment, progress)
        with sealing(result, UNIT_KIND, meta) as scratch:
            if unit.kind == "select":
                meta.update(run_select(run, scratch))
            else:
                meta.update(run_member(run, read_selection(units_root, unit.depends_on[0]), scratch))
    for stage in folder.iterdir():
        if stage.is_dir() and stage != result:
            shutil.rmtree(stage, ignore_errors=True)
    return result


def _check_inputs(unit: WorkUnit, recipe: Recipe, data: TrainingData) -> None:
    if recipe.recipe_id != unit.recipe_id:
        raise BadDataError(
            "a unit was planned with another recipe (settings, code or library versions)",
            expected=unit.recipe_id,
            found=recipe.recipe_id,
            fix="use the same vnfleet and torch on both machines",
        )
    found = data.rows_id(unit.refit[1])
    if found != unit.data_id:
        raise BadDataError("a unit was planned on other rows", expected=unit.data_id, found=found)
