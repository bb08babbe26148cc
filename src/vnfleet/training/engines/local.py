"""Run one unit in this process: reuse what is finished, resume what was interrupted, seal what is done."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from pydantic import JsonValue

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.lock import holding
from vnfleet.core.sealed import is_whole, sealing
from vnfleet.training.checkpoint import CheckpointSink
from vnfleet.training.dataset import TrainingData
from vnfleet.training.environment import NumericEnvironment, frozen_environment
from vnfleet.training.fitting import run_member, run_select
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.devices import can_compile, choose_device
from vnfleet.training.machine.memory import available_bytes, group_size, limit_bytes, parts_of_step
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.separate import run_separate
from vnfleet.training.trainer import Progress
from vnfleet.training.unit_result import UNIT_KIND, read_selection, result_folder
from vnfleet.training.unit_run import UnitRun, memory_watch

_log = logging.getLogger(__name__)
# A CPU waits for memory in larger stacks: 101 window models of the plan's size (8 GiB) did 212 labels a second, 26
# did 749.
_CPU_STACK_BYTES = 1 << 30


def is_finished(units_root: Path, unit: WorkUnit) -> bool:
    """Return whether the result of `unit` is sealed and whole; a damaged one is unfinished and is made again."""
    return is_whole(result_folder(units_root, unit.unit_id), UNIT_KIND)


def run_unit(
    unit: WorkUnit,
    recipe: Recipe,
    data: TrainingData,
    units_root: Path,
    progress: Progress,
    machine: MachineConfig | None = None,
    sink: CheckpointSink | None = None,
) -> Path:
    """Return the sealed result folder of `unit`, training it first unless it is finished.

    An interrupted unit goes on from its newest whole checkpoint, to the same bits on the same numeric environment.
    `sink` is told of every checkpoint.

    Raises
    ------
    BadDataError
        When the rows are not those the unit was planned on, the recipe is another one, or a loss is not finite.
    BusyError
        When another process works on this unit.
    ResourceError
        When disk or memory ran out.
    UsageError
        When the device asked for cannot be used.
    """
    result = result_folder(units_root, unit.unit_id)
    if is_finished(units_root, unit):
        return result
    folder, config = units_root / unit.unit_id, machine or MachineConfig()
    with holding(folder / "unit.lock", f"unit {unit.unit_id} ({unit.kind}, fold {unit.fold_id}, seed {unit.seed})"):
        if is_finished(units_root, unit):
            return result
        _check_inputs(unit, recipe, data)

        environment = frozen_environment(
            folder, config, extras=lambda now: completed_environment(unit, recipe, data, now, config)
        )
        environment.now.apply()
        watch = memory_watch(config, environment.now.device, _log.warning)
        meta: dict[str, JsonValue] = {"unit": unit.model_dump(mode="json")}
        run = UnitRun(unit, recipe, data, folder, environment, config, watch, progress, sink)
        with sealing(result, UNIT_KIND, meta) as scratch:
            if unit.kind == "select":
                meta.update(run_select(run, scratch))
            elif unit.kind == "member":
                meta.update(run_member(run, read_selection(units_root, unit.depends_on[0]), scratch))
            else:
                meta.update(run_separate(run, scratch))
            meta["environment"] = environment.now.model_dump(mode="json")
    for stage in folder.iterdir():
        if stage.is_dir() and stage != result:
            shutil.rmtree(stage, ignore_errors=True)
    return result


def completed_environment(
    unit: WorkUnit, recipe: Recipe, data: TrainingData, environment: NumericEnvironment, machine: MachineConfig
) -> NumericEnvironment:
    """Return `environment` with what depends on the unit: compiled or not, models of a stack, parts of a batch."""
    update: dict[str, object] = {"compiled": _compiles(machine)}
    config, training = recipe.member_config(unit.seed), recipe.training
    room = room_for_a_step(machine, environment.device, data)
    if unit.kind == "separate":
        is_window = config.attention == "window"
        update["group_size"] = group_size(
            recipe.separate_config(unit.seed),
            num_models=len(unit.universe),
            sequences=1 if is_window else training.runs_per_batch,
            sessions=training.chunk_sessions,
            precision=environment.precision,
            available=room if environment.device_type == "cuda" else min(room, _CPU_STACK_BYTES),
        )
    else:
        update["splits"] = parts_of_step(
            config,
            num_models=1,
            sequences=len(data.symbols),
            sessions=training.chunk_sessions,
            precision=environment.precision,
            available=room,
        )
    return environment.model_copy(update=update)


def room_for_a_step(machine: MachineConfig, device: str, data: TrainingData) -> int:
    """Return the bytes a training step may take here, once the rows of the unit are in memory."""
    rows = 2 * data.values_STF.nbytes
    if device != "cpu":
        free, _ = torch.cuda.mem_get_info(device)
        return min(int(free), int(machine.memory_limit_gib * 2**30) or int(free)) - rows
    return min(limit_bytes(machine.memory_limit_gib), available_bytes()) - rows


def _compiles(machine: MachineConfig) -> bool:
    """Return whether the network is compiled; raises `UsageError` when that was asked for and cannot be done."""
    if machine.compile != "on":
        return False
    possible, reason = can_compile(choose_device(machine))
    if not possible:
        raise UsageError(
            "the network cannot be compiled here", found=reason, fix='install what is missing, or set compile = "auto"'
        )
    return True


def _check_inputs(unit: WorkUnit, recipe: Recipe, data: TrainingData) -> None:
    if recipe.unit_recipe_id != unit.recipe_id:
        raise BadDataError(
            "a unit was planned with another recipe (settings, code or library versions)",
            expected=unit.recipe_id,
            found=recipe.unit_recipe_id,
            fix="use the same vnfleet and torch on both machines",
        )
    found = data.rows_id(unit.refit[1])
    if found != unit.data_id:
        raise BadDataError("a unit was planned on other rows", expected=unit.data_id, found=found)
