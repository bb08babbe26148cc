"""What every engine is given, and the order in which units may start."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vnfleet.core.errors import BadDataError, ResourceError
from vnfleet.core.sealed import is_whole
from vnfleet.training.engines.crossing import UnitFailedError
from vnfleet.training.engines.local import is_finished
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.cores import usable_cpus
from vnfleet.training.machine.devices import TorchCuda, choose_device
from vnfleet.training.machine.memory import GIB, limit_bytes
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import UNIT_KIND, result_folder

MAX_TRIES = 3
DONE_STAGE = "done"
AGAIN_STAGE = "again"
_log = logging.getLogger(__name__)


class Told(Protocol):
    """Hears how far each unit is. Stage "done" comes once per unit; "again" when a unit starts over somewhere."""

    def __call__(self, unit_id: str, stage: str, done: int, total: int, note: str, /) -> None:
        """`done` of `total` steps of `stage` of the unit are finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """Work for an engine.

    Attributes
    ----------
    package : the sealed training data (see `dataset.save_training_data`).
    units_root : every unit ends as ``units_root/<unit_id>/result``, sealed.
    machine : ``processes`` and ``num_threads`` as measured or set; 0 means one process on all cores.
    cores_by_process : the cores each process is kept on; empty means wherever the system puts it.
    """

    recipe: Recipe
    package: Path
    units_root: Path
    machine: MachineConfig
    cores_by_process: tuple[tuple[int, ...], ...] = ()

    @property
    def num_processes(self) -> int:
        """Processes side by side, at least 1."""
        return max(self.machine.processes, 1)

    @property
    def num_threads(self) -> int:
        """CPU threads of each process, at least 1."""
        return self.machine.num_threads or max(len(usable_cpus()) // self.num_processes, 1)


def memory_share_gib(machine: MachineConfig, num_processes: int) -> float:
    """Return the memory that each of some processes side by side may use, of the GPU where units are trained on one.

    0 means all there is, as in `MachineConfig`.
    """
    if num_processes == 1:
        return machine.memory_limit_gib
    limit_gib = machine.memory_limit_gib
    if limit_gib == 0.0:
        on_card = choose_device(machine).on_cuda
        limit_gib = (TorchCuda().accelerators()[0].memory_bytes if on_card else limit_bytes(0.0)) / GIB
    return limit_gib / num_processes


def unit_words(unit: WorkUnit) -> str:
    """Return what a unit is, for people."""
    return f"unit {unit.unit_id} ({unit.kind}, fold {unit.fold_id}, seed {unit.seed})"


@dataclass(slots=True)
class _Tries:
    """How often a unit was lost in a row without a new checkpoint, and the checkpoints it had the last time."""

    count: int = 0
    reached: frozenset[str] = frozenset()


@dataclass(slots=True)
class UnitQueue:
    """The units of a job: which may start, which run, and which were lost with their process or machine.

    A lost unit is tried again from its newest checkpoint. After two losses in a row that made no new checkpoint it
    waits until it can run alone, because the usual cause is memory; after `MAX_TRIES` the job ends with an error.

    Raises
    ------
    BadDataError
        From the constructor, when a unit depends on one that is neither finished nor part of the job.
    """

    units: Sequence[WorkUnit]
    units_root: Path
    _open: dict[str, WorkUnit] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    _tries: dict[str, _Tries] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Leave out what is finished."""
        self._open = {unit.unit_id: unit for unit in self.units if not is_finished(self.units_root, unit)}
        for unit in self._open.values():
            for needed in unit.depends_on:
                if needed not in self._open and not is_whole(result_folder(self.units_root, needed), UNIT_KIND):
                    raise BadDataError(
                        f"{unit_words(unit)} needs another unit that is neither finished nor planned", found=needed
                    )

    @property
    def finished_before(self) -> tuple[WorkUnit, ...]:
        """Units that need no work, in the order given."""
        return tuple(unit for unit in self.units if unit.unit_id not in self._open)

    @property
    def is_done(self) -> bool:
        """True when every unit is finished."""
        return not self._open

    def ready(self) -> tuple[WorkUnit, ...]:
        """Return the units that may start now, in the order given."""
        waiting = [
            unit
            for unit_id, unit in self._open.items()
            if unit_id not in self._running and not any(needed in self._open for needed in unit.depends_on)
        ]
        if self._running:
            if any(self._is_alone(unit_id) for unit_id in self._running):
                return ()
            return tuple(unit for unit in waiting if not self._is_alone(unit.unit_id))
        alone = [unit for unit in waiting if self._is_alone(unit.unit_id)]
        return tuple(alone[:1] or waiting)

    def started(self, unit: WorkUnit) -> None:
        """Note that `unit` runs."""
        self._running.add(unit.unit_id)
        self._tries.setdefault(unit.unit_id, _Tries()).reached = self._checkpoints(unit)

    def finished(self, unit: WorkUnit) -> None:
        """Note that `unit` is finished; raises `UnitFailedError` when its sealed result is not there."""
        if not is_finished(self.units_root, unit):
            raise UnitFailedError(
                f"{unit_words(unit)} ended without a whole result", where=self.units_root / unit.unit_id
            )
        self._running.discard(unit.unit_id)
        self._open.pop(unit.unit_id, None)

    def lost(self, unit: WorkUnit, how: str, *, is_memory: bool) -> str:
        """Note that `unit` was lost with its process or machine, and return in words what happens next.

        Raises `ResourceError` (`is_memory`) or `UnitFailedError` when it was lost `MAX_TRIES` times in a row without
        a new checkpoint in between.
        """
        tries = self._tries[unit.unit_id]
        self._running.discard(unit.unit_id)
        tries.count = tries.count + 1 if self._checkpoints(unit) == tries.reached else 1
        if tries.count >= MAX_TRIES:
            kind = ResourceError if is_memory else UnitFailedError
            raise kind(
                f"{unit_words(unit)} was lost {tries.count} times in a row without getting any further",
                found=how,
                where=self.units_root / unit.unit_id,
                fix="set processes lower under [machine] or free memory, then run the same command again: it goes on "
                "from the newest checkpoint",
            )
        alone = ", alone" if self._is_alone(unit.unit_id) else ""
        words = f"{how}; goes on from its newest checkpoint{alone} (try {tries.count + 1} of {MAX_TRIES})"
        _log.warning("%s: %s", unit_words(unit), words)
        return words

    def _is_alone(self, unit_id: str) -> bool:
        return unit_id in self._tries and self._tries[unit_id].count >= MAX_TRIES - 1

    def _checkpoints(self, unit: WorkUnit) -> frozenset[str]:
        folder = self.units_root / unit.unit_id
        return frozenset(path.relative_to(folder).as_posix() for path in folder.glob("*/ckpt-*"))
