"""A unit's real training step, timed before the plan of work is made: on its newest sessions, nothing saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vnfleet.training.dataset import TrainingData, prepare, prepare_separate
from vnfleet.training.environment import FrozenEnvironment, NumericEnvironment
from vnfleet.training.fitting import backbone_stage
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.separate import group_stage
from vnfleet.training.trainer import rehearsal
from vnfleet.training.unit_run import UnitRun, memory_watch

_CHUNKS = 6


def step_of(
    unit: WorkUnit, recipe: Recipe, data: TrainingData, environment: NumericEnvironment, machine: MachineConfig
) -> Callable[[], object]:
    """Return a function that does one training step of `unit` in `environment`: of its backbone, or of one group."""
    context = recipe.member_config(unit.seed).context_sessions
    stop = unit.refit[1]
    start = max(0, stop - context - _CHUNKS * recipe.training.chunk_sessions)
    rows = np.arange(len(data.symbols))
    if unit.kind == "separate":
        place = {symbol: row for row, symbol in enumerate(data.symbols)}
        rows = np.asarray([place[symbol] for symbol in unit.universe])
    recent = TrainingData(
        data.sessions[start:stop],
        tuple(data.symbols[row] for row in rows),
        data.feature_names,
        data.values_STF[rows, start:stop],
        data.present_ST[rows, start:stop],
        data.returns_HST[:, rows, start:stop],
    )
    frozen = FrozenEnvironment(Path(), environment)
    watch = memory_watch(machine, environment.device, lambda _: None)
    run = UnitRun(unit, recipe, recent, Path(), frozen, machine, watch, lambda *_: None)
    end = stop - start
    sessions = range(min(context, end), end)
    workshop = run.workshop("rehearsal", run.objective)
    if unit.kind != "separate":
        prepared = prepare(recent, range(end), end, context, run.objective)
        stage = backbone_stage(run, prepared, sessions, unit.seed, recipe.training.max_epochs, None)
        return rehearsal(stage, workshop)
    prepared = prepare_separate(recent, range(end), end, context, run.objective)
    labelled = np.flatnonzero(prepared.labelled_ST[:, sessions.start :].any(1)).tolist()
    group = labelled[: environment.group_size or len(labelled)]
    epochs = [recipe.training.max_epochs] * len(group)
    return rehearsal(group_stage(run, prepared, sessions, group, epochs, "rehearsal", None), workshop)
