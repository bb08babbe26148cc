"""How fast the fleet trains: the product's own stages, timed step by step, whole or stopped after some seconds."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vnfleet.bench.flops import training_flops_per_label
from vnfleet.core.errors import BadDataError
from vnfleet.evaluation.splits import Fold
from vnfleet.model.ensemble import eligible_sessions
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.training.batches import SeparateBatches, epoch_chunks
from vnfleet.training.dataset import TrainingData, prepare, prepare_separate
from vnfleet.training.engines.local import completed_environment
from vnfleet.training.environment import FrozenEnvironment, NumericEnvironment, this_machine
from vnfleet.training.fitting import fit_backbone
from vnfleet.training.machine.cards import Precision
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.memory import num_parameters
from vnfleet.training.plan import Kind, WorkUnit, fold_units
from vnfleet.training.recipe import Recipe
from vnfleet.training.separate import fit_group, seed_of
from vnfleet.training.unit_run import UnitRun, memory_watch

_WARM_SECONDS_FRAC = 0.2
"""Of a slice, this share is spent before the clock counts: allocators, dropout masks and kernels warm up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRate:
    """How fast a stage ran.

    Attributes
    ----------
    num_models, num_parameters : networks of the stack, and the parameters of one.
    labels, seconds : training labels with a whole context that were learned from, and the time that took.
    labels_in_all : labels of the whole stage. finished : whether it ran to its end.
    flops_per_label : operations that one label costs in this form, backward passes included.
    """

    num_models: int
    num_parameters: int
    labels: float
    seconds: float
    labels_in_all: float
    finished: bool
    flops_per_label: float
    device: str
    precision: Precision
    threads: int

    @property
    def labels_per_second(self) -> float:
        """Training labels per second, of all models together."""
        return self.labels / self.seconds

    @property
    def gflops(self) -> float:
        """Useful operations per second, in GFLOP/s."""
        return self.labels_per_second * self.flops_per_label / 1e9

    @property
    def whole_seconds(self) -> float:
        """Seconds of the whole stage at this rate."""
        return self.labels_in_all / self.labels_per_second


class _EnoughError(Exception):
    """The slice is long enough."""


class StepClock:
    """A `Progress` that notes when steps end and stops the stage after `max_seconds`, once there are two measurements.

    The first fifth of a slice warms up and does not count.
    """

    def __init__(self, max_seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._max_seconds, self._clock = max_seconds, clock
        self._ends: list[tuple[int, float]] = []
        self._start = clock()
        self.total = 0

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Note the end of step `done`."""
        del stage, note
        now = self._clock()
        if not self._ends:
            self._start = now  # what came before the first step is no training
        self._ends.append((done, now))
        self.total = total
        if now - self._start >= self._max_seconds and len(self._ends) > 2 and done < total:
            raise _EnoughError

    def steady(self) -> tuple[int, float]:
        """Return (steps, seconds) after the warm-up.

        Raises
        ------
        BadDataError
            When the stage ended before two steps were done: there is nothing to measure.
        """
        if len(self._ends) < 2:
            raise BadDataError("the stage is too short to be timed", expected="at least 2 steps", found=self.total)
        spent = self._ends[-1][1] - self._start
        warm = next(end for end in self._ends if end[1] - self._start >= min(_WARM_SECONDS_FRAC * spent, spent))
        first = warm if warm[0] < self._ends[-1][0] else self._ends[0]
        return self._ends[-1][0] - first[0], self._ends[-1][1] - first[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where stages are timed: data, a network that fits them, fold, machine, and a scratch folder for checkpoints."""

    data: TrainingData
    model: StockformerConfig
    fold: Fold
    machine: MachineConfig
    scratch: Path

    def separate(self, recipe: Recipe, symbols: Sequence[str], max_seconds: float = math.inf) -> FleetRate:
        """Return the rate of one stack with a model per symbol: all its epochs on the sessions before validation.

        Symbols without a label there, such as those listed later, have no model.
        """
        run, clock = self._run(recipe, "separate", symbols, max_seconds)
        config, training, epochs = run.config, recipe.training, recipe.training.max_epochs
        data = _of_symbols(self.data, symbols)
        fold = self.fold
        prepared = prepare_separate(data, fold.train, fold.refit.stop, config.context_sessions, run.objective)
        sessions = run.decision_sessions(fold.train.start, fold.train.stop)
        counts_S = prepared.labelled_ST[:, sessions.start : sessions.stop].sum(1)
        rows = np.flatnonzero(counts_S).tolist()
        if not rows:
            raise BadDataError("no symbol has a label to learn from", where=f"fold {fold.fold_id}")
        is_window = config.attention == "window"
        batches = SeparateBatches(
            data=prepared.on("cpu"),
            labelled_ST=prepared.labelled_ST,
            sessions=sessions,
            outputs=1 if is_window else training.chunk_sessions,
            sequences=training.chunk_sessions if is_window else training.runs_per_batch,
            accumulation=training.accumulation,
            context_sessions=config.context_sessions,
            symbols=np.asarray(rows),
            seeds=tuple(seed_of(symbols[row], 0) for row in rows),
        )
        labels_per_step = sum(float(counts_S[row]) / batches.steps_in_epoch(model, 0) for model, row in enumerate(rows))
        with _stoppable(run.folder) as ended:
            fit_group(run, prepared, sessions, rows, [epochs] * len(rows), "bench", None)
        return self._rate(
            run,
            clock,
            labels_per_step,
            float(counts_S.sum()) * epochs,
            ended,
            1 if is_window else training.chunk_sessions,
            len(rows),
        )

    def labels_of(self, symbols: Sequence[str], context_sessions: int) -> np.ndarray:
        """Return per symbol the labels before validation that have their whole context."""
        data = _of_symbols(self.data, symbols)
        eligible_ST = eligible_sessions(data.present_ST, context_sessions) & np.isfinite(data.returns_HST[-1])
        counts_S: np.ndarray = eligible_ST[:, self.fold.train.start : self.fold.train.stop].sum(1)
        return counts_S

    def pooled(self, recipe: Recipe, max_seconds: float = math.inf) -> FleetRate:
        """Return the rate of the shared backbone over all symbols: all its epochs on the sessions before validation."""
        run, clock = self._run(recipe, "member", self.fold.universe, max_seconds)
        context, fold, training = run.config.context_sessions, self.fold, recipe.training
        epochs = training.max_epochs
        prepared = prepare(self.data, fold.train, fold.refit.stop, context, run.objective)
        sessions = run.decision_sessions(fold.train.start, fold.train.stop)
        labels = float(prepared.labelled_ST[:, sessions.start : sessions.stop].sum())
        steps = math.ceil(len(epoch_chunks(sessions, training.chunk_sessions, 0, 0)) / training.accumulation)
        with _stoppable(run.folder) as ended:
            fit_backbone(run, prepared, sessions, 0, epochs, None)
        return self._rate(run, clock, labels / max(steps, 1), labels * epochs, ended, training.chunk_sessions, 1)

    def environment_of(self, unit: WorkUnit, recipe: Recipe) -> NumericEnvironment:
        """Return what the product would train `unit` in on this machine."""
        return completed_environment(unit, recipe, self.data, this_machine(self.machine), self.machine)

    def stack_size(self, recipe: Recipe, symbols: Sequence[str]) -> int:
        """Return how many separate models of these symbols are stacked on this machine."""
        unit = _unit_of(recipe, self.data, self.fold, "separate", symbols)
        return self.environment_of(unit, recipe).group_size or len(symbols)

    def _run(self, recipe: Recipe, kind: Kind, symbols: Sequence[str], max_seconds: float) -> tuple[UnitRun, StepClock]:
        """Return a unit that is in no plan of work, and the clock that is told of its steps."""
        unit = _unit_of(recipe, self.data, self.fold, kind, symbols)
        environment = self.environment_of(unit, recipe).model_copy(update={"group_size": len(symbols)})
        environment.apply()
        clock = StepClock(max_seconds)
        watch = memory_watch(self.machine, environment.device, lambda _: None)
        folder = self.scratch / unit.unit_id
        frozen = FrozenEnvironment(folder, environment)
        return UnitRun(unit, recipe, self.data, folder, frozen, self.machine, watch, clock), clock

    def _rate(
        self,
        run: UnitRun,
        clock: StepClock,
        labels_per_step: float,
        labels: float,
        ended: list[bool],
        together: int,
        num_models: int,
    ) -> FleetRate:
        steps, seconds = clock.steady()
        now, config = run.environment.now, run.config
        return FleetRate(
            num_models=num_models,
            num_parameters=num_parameters(config),
            labels=steps * labels_per_step,
            seconds=seconds,
            labels_in_all=labels,
            finished=not ended,
            flops_per_label=training_flops_per_label(config, together),
            device=now.device,
            precision=now.precision,
            threads=0 if now.device_type == "cuda" else torch.get_num_threads(),
        )


@contextmanager
def _stoppable(folder: Path) -> Iterator[list[bool]]:
    """Yield a list that is filled when the stage was stopped; its checkpoints go: the next one starts from nothing."""
    ended: list[bool] = []
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield ended
    except _EnoughError:
        ended.append(True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unit_of(recipe: Recipe, data: TrainingData, fold: Fold, kind: Kind, symbols: Sequence[str]) -> WorkUnit:
    planned = fold_units(recipe, data, replace(fold, universe=tuple(symbols)))[0]
    return planned.model_copy(update={"kind": kind, "depends_on": ()})


def _of_symbols(data: TrainingData, symbols: Sequence[str]) -> TrainingData:
    rows = [data.symbols.index(symbol) for symbol in symbols]
    return TrainingData(
        data.sessions,
        tuple(symbols),
        data.feature_names,
        data.values_STF[rows],
        data.present_ST[rows],
        data.returns_HST[:, rows],
    )
