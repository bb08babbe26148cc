"""The plan of work of a week: what is trained in the time there is, how the cores are shared, and who computes it.

Decided once, before the first step, and written to ``work.json`` in the folder of the week: a resumed week, whatever
the clock says by then, takes the same decisions.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vnfleet.core.errors import UsageError
from vnfleet.core.ids import short_id
from vnfleet.core.sealed import is_whole
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import STEPS, Facts, read_steps
from vnfleet.training.dataset import PACKAGE_KIND, TrainingData, save_training_data
from vnfleet.training.engines import pool, ray_cluster
from vnfleet.training.engines.job import EngineJob
from vnfleet.training.engines.local import completed_environment, is_finished, run_unit
from vnfleet.training.environment import NumericEnvironment, this_machine
from vnfleet.training.machine.budget import BudgetChoice, fit_to_budget, reserve_after, time_left
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.cores import performance_cores
from vnfleet.training.machine.devices import can_compile, choose_device
from vnfleet.training.machine.estimate import StepCosts, estimate_work
from vnfleet.training.machine.memory import available_bytes, limit_bytes, step_bytes
from vnfleet.training.machine.threads import Layout, candidate_threads, measure_layout, share_cores, step_timer
from vnfleet.training.machine.work import (
    WORK_NAME,
    MachineFacts,
    WorkRecord,
    fitted_recipe,
    new_record,
    plan_of_work,
    read_work,
    work_key,
    write_work,
)
from vnfleet.training.plan import WorkUnit, plan_units
from vnfleet.training.recipe import Recipe
from vnfleet.training.rehearsal import step_of
from vnfleet.training.trainer import Progress as UnitProgress
from vnfleet.training.unit_result import Selection, read_selection

_WORTH_COMPILING = 0.95
_log = logging.getLogger(__name__)
_PROCESS_BYTES = 600 * 2**20  # an interpreter with torch, before any data


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOfWork:
    """What a week trains, and how.

    Attributes
    ----------
    recipe : the one that fits the time. processes, threads, compiled : how the cores are shared.
    seconds_per_step : as measured here, 0 where nothing had to be. words : how all that came about.
    path, key : where the plan is written down, and its identity.
    """

    recipe: Recipe
    processes: int
    threads: int
    compiled: bool
    seconds_per_step: float
    words: str
    path: Path
    key: str


def plan_of_week(folder: Path, week: WeekContext, cube_id: str, folds_facts: Facts) -> PlanOfWork:
    """Return the plan of work of the week whose steps lie in `folder`; decided now if it was not decided before.

    Raises `UsageError` for a deadline that has passed, or a device or layout that cannot be had.
    """
    machine, asked = week.config.machine, week.recipe
    device = choose_device(machine)
    cores = performance_cores()
    key = work_key(asked, machine, data_id=cube_id, fold_ids=[short_id(folds_facts)])
    decision = _Decision(week, asked, machine, cores, key)
    here = MachineFacts.here(num_cores=len(cores), device=device.device)
    record = plan_of_work(folder / WORK_NAME, key, here, decide=lambda: decision.made(here), measure=decision.layout)
    layout = record.layout
    if record.budget.seconds_left is not None:
        week.observer.told("train", record.budget.words)
    where = "on Ray" if machine.engine == "ray" else "here"
    words = f"{where}, {layout.processes} x {layout.threads} thread{'s' if layout.threads > 1 else ''}, {device.words}"
    if record.budget.seconds_left is not None:
        words += f"; {record.budget.words}"
    return PlanOfWork(
        recipe=fitted_recipe(asked, record.budget),
        processes=layout.processes,
        threads=layout.threads,
        compiled=layout.compiled,
        seconds_per_step=layout.seconds_per_step,
        words=words,
        path=folder / WORK_NAME,
        key=key,
    )


def with_fewer_seeds(plan: PlanOfWork, num_seeds: int, units: Sequence[WorkUnit]) -> PlanOfWork:
    """Return the plan of `units` with only so many members, written down so that a resumed week keeps to it.

    Units of a member do not depend on how many there are: what is finished stays.
    """
    record = read_work(plan.path, plan.key)
    assert record is not None, "a plan of work is written down before anything is trained"
    budget = dataclasses.replace(record.budget, num_seeds=num_seeds)
    kept = tuple(unit.unit_id for unit in units if unit.seed < num_seeds)
    write_work(plan.path, record.model_copy(update={"budget": budget, "unit_ids": kept}))
    training = dataclasses.replace(plan.recipe.training, num_seeds=num_seeds)
    words = f"{plan.words}; {num_seeds} seed{'s' if num_seeds > 1 else ''} only, to end in time without workers"
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, training=training), words=words)


def training_seconds(week: WeekContext, plan: PlanOfWork, units: Sequence[WorkUnit]) -> float | None:
    """Return how long what is open of `units` takes here; None where no step was measured."""
    if not plan.seconds_per_step:
        return None
    recipe, root, step = plan.recipe, week.folders.units, plan.seconds_per_step
    num_primary = len(week.live().universe)
    estimate = estimate_work(
        units,
        recipe,
        StepCosts.shared(step, recipe, num_symbols=len(week.data().symbols), num_primary=num_primary),
        processes=plan.processes,
        finished={unit.unit_id for unit in units if is_finished(root, unit)},
        separate_costs=StepCosts.separate(step, recipe) if recipe.training.strategy == "separate" else None,
    )
    return estimate.seconds


def reserved_seconds(week: WeekContext) -> float:
    """Return the seconds to keep for the steps after training, as long as they ever took here."""
    after = STEPS[STEPS.index("train") + 1 : STEPS.index(week.last_step) + 1]
    earlier = [{step.name: step.seconds for step in read_steps(one)} for one in _cycles(week.folders.cycles)]
    return reserve_after(after, earlier)


def check_settings(config: CycleConfig, now: datetime, *, is_planned: bool = False) -> None:
    """Refuse at the start of a run what training would refuse hours later.

    With a plan of work that was made before (`is_planned`) a deadline may have passed since: the week goes on.

    Raises `UsageError` on a deadline that cannot be read or has passed, an impossible budget, a device that is not
    there, more threads than cores, a Ray address that cannot be used, or two ways of training at once.
    """
    machine = config.machine
    if not is_planned:
        time_left(budget_minutes=machine.budget_minutes, deadline=machine.deadline, now=now, reserve_seconds=0.0)
    choose_device(machine)
    cores = performance_cores()
    candidate_threads(len(cores), machine)
    if machine.processes > len(cores):
        raise UsageError(
            "more processes are asked for than there are cores",
            expected=f"processes of at most {len(cores)} in [machine]",
            found=machine.processes,
            fix="set processes to 0 to have it measured",
        )
    if machine.engine == "ray":
        if config.remote.mode == "hybrid":
            raise UsageError(
                "a Ray cluster and remote workers cannot train the same week",
                found='engine "ray" with mode "hybrid"',
                fix="choose one: --engine local with --mode hybrid, or --engine ray with --mode local",
            )
        ray_cluster.check_address(machine.ray_address)
    if config.training.strategy == "separate":
        try:
            config.objective.own_series()
        except ValueError as error:
            raise UsageError(
                "separate models have nothing to learn from",
                expected="a weight above 0 for path, direction or volatility in [objective]",
                found="all three are 0; terms of a session do not count for them",
            ) from error


@dataclass(slots=True)
class _Decision:
    """What must be known to decide, looked up when it is asked for."""

    week: WeekContext
    asked: Recipe
    machine: MachineConfig
    cores: tuple[int, ...]
    key: str
    _layout: Layout | None = None
    _group_size: int = 0
    _shared_seconds: float = 0.0

    def made(self, here: MachineFacts) -> WorkRecord:
        """Decide: the layout from a measurement, then seeds and epochs from the time there is."""
        week, layout = self.week, self.layout()
        left = time_left(
            budget_minutes=self.machine.budget_minutes,
            deadline=self.machine.deadline,
            now=week.clock.now(),
            reserve_seconds=reserved_seconds(week),
        )
        training = self.asked.training
        choice: BudgetChoice = fit_to_budget(
            self._seconds,
            num_seeds=training.num_seeds,
            max_epochs=training.max_epochs,
            seconds_left=None if left is None else left.seconds,
        )
        units = plan_units(fitted_recipe(self.asked, choice), week.data(), week.folds())
        return new_record(self.key, now=week.clock.now(), machine=here, layout=layout, budget=choice, units=units)

    def layout(self) -> Layout:
        """Return how the cores are shared, measured once unless settings or a lack of work decide it."""
        if self._layout is None:
            self._layout = self._measured()
        return self._layout

    def _measured(self) -> Layout:
        machine, week = self.machine, self.week
        units = self._open(self.asked)
        needs_time = bool(machine.budget_minutes or machine.deadline)
        if machine.num_threads and machine.processes and not needs_time:
            return _unmeasured(machine.processes, machine.num_threads, self.cores)
        if not units:
            return _unmeasured(machine.processes or 1, machine.num_threads or len(self.cores), self.cores)
        week.observer.told("train", f"measuring one training step on {choose_device(machine).words}")
        environment = this_machine(machine)
        unit = next((unit for unit in units if unit.kind == "separate"), units[0])
        environment = completed_environment(unit, self.asked, week.data(), environment, machine)
        self._group_size = environment.group_size
        run = step_of(unit, self.asked, week.data(), environment, machine)
        timer = step_timer(run)
        if environment.device_type == "cuda":  # one process to a card
            seconds = timer(1)
            layout = dataclasses.replace(_unmeasured(1, len(self.cores), self.cores), seconds_per_step=seconds)
            faster = self._compiled_seconds(unit, environment)
            if faster is None or faster > _WORTH_COMPILING * seconds:
                return layout
            words = f"compiled: {faster:.3g} s a step instead of {seconds:.3g} s"
            return dataclasses.replace(layout, seconds_per_step=faster, compiled=True, words=words)
        layout = measure_layout(
            timer,
            self.cores,
            len(units),
            machine,
            bytes_per_process=_bytes_of_process(self.asked, week.data()),
            available=min(limit_bytes(machine.memory_limit_gib), available_bytes()),
        )
        week.observer.told("train", f"{len(units)} units: {layout.words}")
        shared = next((one for one in units if one.kind != "separate"), unit)
        if needs_time and shared is not unit:  # a step of the shared model is another one
            own = completed_environment(shared, self.asked, week.data(), this_machine(machine), machine)
            self._shared_seconds = step_timer(step_of(shared, self.asked, week.data(), own, machine))(layout.threads)
        return layout

    def _compiled_seconds(self, unit: WorkUnit, environment: NumericEnvironment) -> float | None:
        """Return the seconds of a compiled step; None where compiling is not wanted or does not work.

        On CPUs it is not tried: a tenth was gained there for minutes of compiling (see docs/decisions.md).
        """
        if self.machine.compile == "off" or not can_compile(choose_device(self.machine))[0]:
            return None
        compiled = environment.model_copy(update={"compiled": True})
        try:
            return step_timer(step_of(unit, self.asked, self.week.data(), compiled, self.machine))(1)
        except Exception as error:  # noqa: BLE001 - whatever a compiler dies of, training goes on without it
            _log.warning("the network is not compiled: %s", (str(error).splitlines() or [repr(error)])[0])
            return None

    def _open(self, recipe: Recipe) -> list[WorkUnit]:
        units = plan_units(recipe, self.week.data(), self.week.folds())
        return [unit for unit in units if not is_finished(self.week.folders.units, unit)]

    def _seconds(self, num_seeds: int, max_epochs: int) -> float:
        """Return the expected seconds of what is still to train with so many seeds and epochs."""
        training = dataclasses.replace(self.asked.training, num_seeds=num_seeds, max_epochs=max_epochs)
        recipe = dataclasses.replace(self.asked, training=training)
        data, folds, layout = self.week.data(), self.week.folds(), self.layout()
        if not layout.seconds_per_step:
            return 0.0
        units = plan_units(recipe, data, folds)
        root = self.week.folders.units
        finished = {unit.unit_id for unit in units if is_finished(root, unit)}
        costs = StepCosts.shared(
            self._shared_seconds or layout.seconds_per_step,
            recipe,
            num_symbols=len(data.symbols),
            num_primary=len(self.week.live().universe),
        )
        own = StepCosts.separate(layout.seconds_per_step, recipe) if training.strategy == "separate" else None
        selections = {
            unit.unit_id: read_selection(root, unit.unit_id)
            for unit in units
            if unit.kind == "select" and unit.unit_id in finished
        }
        estimate = estimate_work(
            units,
            recipe,
            costs,
            processes=layout.processes,
            finished=finished,
            selections=selections,
            usual_epochs=_usual_epochs(selections),
            group_size=self._group_size,
            separate_costs=own,
        )
        return estimate.seconds


def _usual_epochs(selections: Mapping[str, Selection]) -> float | None:
    chosen = [selection.epochs for selection in selections.values()]
    return sum(chosen) / len(chosen) if chosen else None


def _cycles(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _unmeasured(processes: int, threads: int, cores: tuple[int, ...]) -> Layout:
    return Layout(
        processes=processes,
        threads=threads,
        cores_by_process=share_cores(cores, processes, threads),
        seconds_per_step=0.0,
        words="not measured",
    )


def _bytes_of_process(recipe: Recipe, data: TrainingData) -> int:
    """Return what one process needs: itself, the prepared rows twice over, and a step."""
    step = step_bytes(recipe.model, len(data.symbols), recipe.training.chunk_sessions, "float32", stacked=False).total
    return _PROCESS_BYTES + 2 * data.values_STF.nbytes + step


def run_plan(week: WeekContext, plan: PlanOfWork, units: Sequence[WorkUnit], data: TrainingData) -> None:
    """Finish every unit here or on the cluster, as planned."""
    machine = dataclasses.replace(
        week.config.machine,
        processes=plan.processes,
        num_threads=plan.threads,
        compile="on" if plan.compiled or week.config.machine.compile == "on" else "off",
    )
    told = _Progress(units, week.observer.progress)
    open_units = [unit for unit in units if not is_finished(week.folders.units, unit)]
    if machine.engine == "local" and (plan.processes == 1 or len(open_units) <= 1):
        for unit in open_units:
            run_unit(unit, plan.recipe, data, week.folders.units, told.of(unit.unit_id), machine)
            told(unit.unit_id, "done", 1, 1, "")
        return
    if not open_units:
        return
    cores = share_cores(performance_cores(), plan.processes, plan.threads) if machine.pin_cores else ()
    job = EngineJob(
        recipe=plan.recipe,
        package=sealed_package(week, data),
        units_root=week.folders.units,
        machine=machine,  # the engines share its memory among their processes
        cores_by_process=cores,
    )
    run_units = ray_cluster.run_units if machine.engine == "ray" else pool.run_units
    run_units(units, job, told)


def sealed_package(week: WeekContext, data: TrainingData) -> Path:
    """Return the training data sealed on disk, as processes and workers read it."""
    package = week.folders.package / short_id(week.cube().cube_id)
    if not is_whole(package, PACKAGE_KIND):  # absent, or damaged since
        save_training_data(package, data)
    return package


class _Progress:
    """How far all units are together."""

    def __init__(self, units: Sequence[WorkUnit], progress: Callable[[str, float, float, str], None]) -> None:
        self._share = dict.fromkeys((unit.unit_id for unit in units), 0.0)
        self._names = {unit.unit_id: unit.words for unit in units}
        self._progress = progress

    def __call__(self, unit_id: str, stage: str, done: int, total: int, note: str, /) -> None:
        """Take note of how far one unit is."""
        part = min(done / total, 1.0) if total else 0.0
        self._share[unit_id] = 1.0 if stage == "done" else min(0.99, part)
        words = f"{self._names[unit_id]} {stage} {note}"
        self._progress("train", sum(self._share.values()), float(len(self._share)), words)

    def of(self, unit_id: str) -> UnitProgress:
        """Return the progress function of one unit."""

        def told(stage: str, done: int, total: int, note: str) -> None:
            self(unit_id, stage, done, total, note)

        return told
