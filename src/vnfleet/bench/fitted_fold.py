"""One fold fitted by the product's own engine, and timed: for the weekly job, the race of peers and the plan's page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vnfleet.bench.fleet import Bench
from vnfleet.bench.memory import PeakWatch
from vnfleet.bench.table import seconds_text
from vnfleet.training.dataset import TrainingData, save_training_data
from vnfleet.training.engines.job import DONE_STAGE, EngineJob
from vnfleet.training.engines.local import run_unit
from vnfleet.training.engines.pool import run_units
from vnfleet.training.machine.cores import performance_cores
from vnfleet.training.machine.threads import Layout, measure_layout, share_cores, step_timer
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.rehearsal import step_of

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFold:
    """Finished units and what they took.

    Attributes
    ----------
    units_root : where their sealed results lie, until the block of `fitted` ends.
    seconds : from the first byte of the package to the last unit. parts : the same by part.
    peak_gib : this process and its children. gpu_gib : of the GPU, None without one or when only children used it.
    """

    units_root: Path
    layout: Layout
    seconds: float
    parts: tuple[tuple[str, float], ...]
    peak_gib: float
    gpu_gib: float | None


@contextmanager
def fitted(bench: Bench, recipe: Recipe, units: Sequence[WorkUnit], layout: Layout, say: Say) -> Iterator[FittedFold]:
    """Train `units` from nothing in a fresh folder and yield them; the folder goes when the block ends."""
    root = bench.scratch / "fold"
    shutil.rmtree(root, ignore_errors=True)
    clock = _UnitClock(units, say)
    job = EngineJob(
        recipe=recipe,
        package=root / "package",
        units_root=root / "units",
        machine=replace(bench.machine, processes=layout.processes, num_threads=layout.threads),
        cores_by_process=layout.cores_by_process,
    )
    try:
        with PeakWatch() as watch:
            start = time.perf_counter()
            save_training_data(job.package, bench.data)
            packed = time.perf_counter()
            _finish(units, job, bench.data, clock)
            end = time.perf_counter()
        yield FittedFold(
            units_root=job.units_root,
            layout=layout,
            seconds=end - start,
            parts=(("pack the training data", packed - start), *clock.parts(packed)),
            peak_gib=watch.peak_gib,
            gpu_gib=watch.gpu_gib,
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def layout_of(bench: Bench, recipe: Recipe, units: Sequence[WorkUnit]) -> Layout:
    """Return how the cores are shared out between `units`, from measured steps, as a week does it; a GPU has one."""
    machine, cores = bench.machine, performance_cores()
    unit = next((unit for unit in units if unit.kind == "separate"), units[0])
    environment = bench.environment_of(unit, recipe)
    timer = step_timer(step_of(unit, recipe, bench.data, environment, machine))
    if environment.device_type == "cuda":
        return Layout(
            processes=1,
            threads=len(cores),
            cores_by_process=share_cores(cores, 1, len(cores)),
            seconds_per_step=timer(1),
            words="one process on the GPU",
        )
    ready = sum(one.kind == "member" for one in units) or len(units)
    return measure_layout(timer, cores, ready, machine)


def _finish(units: Sequence[WorkUnit], job: EngineJob, data: TrainingData, clock: _UnitClock) -> None:
    """Run `units` as a week does: in this process when there is one, else in the pool."""
    if job.num_processes > 1:
        run_units(units, job, clock)
        return
    for unit in units:

        def told(stage: str, done: int, total: int, note: str, *, unit_id: str = unit.unit_id) -> None:
            clock(unit_id, stage, done, total, note)

        run_unit(unit, job.recipe, data, job.units_root, told, job.machine)
        clock(unit.unit_id, DONE_STAGE, 1, 1, "")


class _UnitClock:
    """Notes when units report for the first time and when they are done."""

    def __init__(self, units: Sequence[WorkUnit], say: Say) -> None:
        self._names = {unit.unit_id: unit.words for unit in units}
        self._say = say
        self._starts: dict[str, float] = {}
        self._ends: dict[str, float] = {}

    def __call__(self, unit_id: str, stage: str, done: int, total: int, note: str, /) -> None:
        """Note a report of a unit."""
        del done, total, note
        now = time.perf_counter()
        self._starts.setdefault(unit_id, now)
        if stage == DONE_STAGE:
            self._ends[unit_id] = now
            self._say(f"{self._names[unit_id]}: {seconds_text(now - self._starts[unit_id])}")

    def parts(self, begun: float) -> tuple[tuple[str, float], ...]:
        """Return the seconds until the first report, then of each unit from first step to end, as they ended."""
        if not self._starts:
            return ()
        ends = sorted(self._ends.items(), key=lambda item: item[1])
        return (
            ("start the processes, prepare the data", min(self._starts.values()) - begun),
            *((self._names[unit_id], end - self._starts[unit_id]) for unit_id, end in ends),
        )
