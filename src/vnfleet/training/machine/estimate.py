"""How much work a plan holds: steps of every unit, and the time that many of them take side by side.

Steps come from the recipe and the sessions of a unit, seconds from a short measurement.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import MIN_CHUNK_SESSIONS, Recipe, TrainingConfig

UNIT_SECONDS = 2.0  # scaling 12 years of 289 symbols takes 0.8 s on one core; reading and sealing the rest
FORWARD_SHARE = 0.6  # of a training step, per encoded session: measured on one core; floating-point work alone says 1/3


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How often something happens: `at_most`, and `expected` (the mean over what is random or not known yet)."""

    at_most: int
    expected: float

    def times(self, at_most: int, expected: float) -> Count:
        """Return this happening `at_most` times, and `expected` times on average."""
        return Count(at_most=self.at_most * at_most, expected=self.expected * expected)


class SelectionFacts(Protocol):
    """What a finished `select` unit tells about the members that wait for it."""

    @property
    def epochs(self) -> int:
        """Epochs of the refit."""
        ...

    @property
    def penalty(self) -> float | None:
        """Lambda of the deltas; None means that no deltas are fitted."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSteps:
    """Work of one unit: steps of the network, steps of per-symbol deltas, and passes over the validation sessions."""

    network: Count
    deltas: Count
    judgements: Count


def steps_per_epoch(num_sessions: int, recipe: Recipe, *, separate: bool = False) -> Count:
    """Return the optimisation steps of one epoch over `num_sessions` decision sessions: mean and maximum over phases.

    An epoch is cut into chunks at a random phase. Where all symbols share them, pieces under `MIN_CHUNK_SESSIONS` are
    left out. A `separate` model cuts its own sessions; with window attention each is a sequence, and there is no phase.
    """
    training = recipe.training
    chunk, per_step = training.chunk_sessions, training.accumulation
    if not separate:
        chunks = [_shared_chunks(num_sessions, chunk, phase) for phase in range(chunk)]
    elif recipe.model.attention == "window":
        chunks, per_step = [num_sessions], chunk * training.accumulation
    else:
        chunks = [ceil((num_sessions + phase) / chunk) if num_sessions else 0 for phase in range(chunk)]
        per_step *= training.runs_per_batch
    steps = [ceil(count / per_step) for count in chunks]
    return Count(at_most=max(steps), expected=sum(steps) / len(steps))


def _shared_chunks(num_sessions: int, chunk: int, phase: int) -> int:
    first = min(phase + 1, num_sessions)
    whole, rest = divmod(num_sessions - first, chunk)
    return (first >= MIN_CHUNK_SESSIONS) + whole + (rest >= MIN_CHUNK_SESSIONS)


def unit_steps(
    unit: WorkUnit,
    recipe: Recipe,
    *,
    selection: SelectionFacts | None = None,
    usual_epochs: float | None = None,
    longest_sessions: int | None = None,
    group_size: int = 0,
) -> UnitSteps:
    """Return the work of `unit`.

    - unit, recipe: what is trained, and how.
    - selection: of the finished `select` unit that a member waits for; None when it is still open.
    - usual_epochs: epochs that earlier selections of this recipe chose, on average (a selection then stops
      `patience_epochs` later); None expects the whole cycle.
    - longest_sessions: of a `separate` unit: labelled sessions of the symbol with the longest history, which decides
      how long a group takes because its models run together. None means all sessions of the unit.
    - group_size: of a `separate` unit: models that are one stack; groups run one after another. 0 means one group.
    """
    context = recipe.member_config(unit.seed).context_sessions
    sessions = _decision_sessions(unit.train if unit.kind == "select" else unit.refit, context)
    if unit.kind == "separate":
        return _separate_steps(unit, recipe, context, longest_sessions, group_size)
    epoch = steps_per_epoch(sessions, recipe)
    training = recipe.training
    if unit.kind == "select":
        epochs = _epochs(training, usual_epochs, patience=training.patience_epochs)
        fits = len(training.delta_penalties) if training.strategy == "adapted" else 0
        # every epoch, the best one once more, every lambda
        judgements = Count(at_most=epochs.at_most + 1 + fits, expected=epochs.expected + 1 + fits)
    else:
        epochs = _epochs(training, usual_epochs)
        fits = 1 if training.strategy == "adapted" else 0
        if selection is not None:
            epochs = Count(at_most=selection.epochs, expected=selection.epochs)
            fits = 0 if selection.penalty is None else 1
        judgements = Count(at_most=2, expected=2)  # the scores' deviation without and with deltas
    delta_epochs = fits * training.delta_epochs
    return UnitSteps(
        network=epoch.times(epochs.at_most, epochs.expected),
        deltas=epoch.times(delta_epochs, delta_epochs),
        judgements=judgements,
    )


def _separate_steps(
    unit: WorkUnit, recipe: Recipe, context: int, longest_sessions: int | None, group_size: int
) -> UnitSteps:
    """Selection and refit of every model; among many some run nearly the whole cycle, so that is what is expected."""
    groups = ceil(len(unit.universe) / group_size) if group_size else 1
    epochs = recipe.training.max_epochs
    both = [_decision_sessions(part, context) for part in (unit.train, unit.refit)]
    if longest_sessions is not None:
        both = [min(sessions, longest_sessions) for sessions in both]
    select, refit = (steps_per_epoch(sessions, recipe, separate=True) for sessions in both)
    network = Count(at_most=select.at_most + refit.at_most, expected=select.expected + refit.expected)
    judgements = Count(at_most=epochs + 1, expected=epochs + 1)  # every epoch, then the calibration
    return UnitSteps(
        network=network.times(epochs * groups, epochs * groups),
        deltas=Count(at_most=0, expected=0.0),
        judgements=judgements.times(groups, groups),
    )


def _decision_sessions(part: tuple[int, int], context: int) -> int:
    start, stop = part
    return max(0, stop - max(start, context))


def _epochs(training: TrainingConfig, usual_epochs: float | None, *, patience: int = 0) -> Count:
    longest = training.max_epochs
    if usual_epochs is None:
        return Count(at_most=longest, expected=longest)
    return Count(at_most=longest, expected=min(float(longest), usual_epochs + patience))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Seconds of one step of the network, one of deltas, one pass over the validation sessions, and a unit's rest."""

    step_seconds: float
    delta_step_seconds: float
    judgement_seconds: float
    unit_seconds: float = UNIT_SECONDS

    @staticmethod
    def shared(step_seconds: float, recipe: Recipe, *, num_symbols: int, num_primary: int) -> StepCosts:
        """Return the costs of `select` and `member` units, given the measured seconds of one optimisation step.

        Deltas and judgements see the `num_primary` symbols out of `num_symbols` only. On one core (289 and 102
        symbols, desktop recipe) both come out within 15 % of their measured time.
        """
        share = num_primary / num_symbols
        return StepCosts(
            step_seconds=step_seconds,
            delta_step_seconds=step_seconds * share,
            judgement_seconds=step_seconds * share * _forward_passes(recipe, runs=1) * FORWARD_SHARE,
        )

    @staticmethod
    def separate(step_seconds: float, recipe: Recipe) -> StepCosts:
        """Return the costs of `separate` units, given the measured seconds of one step of a group of models."""
        passes = _forward_passes(recipe, runs=recipe.training.runs_per_batch)
        return StepCosts(
            step_seconds=step_seconds, delta_step_seconds=0.0, judgement_seconds=step_seconds * passes * FORWARD_SHARE
        )

    def of(self, network: float, deltas: float, judgements: float, *, size: float = 1.0) -> float:
        """Return the seconds of a unit with so many steps, delta steps and judgements; `size` scales the network."""
        work = network * self.step_seconds + deltas * self.delta_step_seconds + judgements * self.judgement_seconds
        return self.unit_seconds + size * work


def _forward_passes(recipe: Recipe, runs: int) -> float:
    """Return how many times the sessions of one optimisation step fit into the validation sessions, with context."""
    training = recipe.training
    if recipe.model.attention == "window":
        return training.valid_sessions / (training.accumulation * training.chunk_sessions)
    context = recipe.model.context_sessions
    return (training.valid_sessions + context) / (training.accumulation * runs * (training.chunk_sessions + context))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkEstimate:
    """How long the open units take.

    Attributes
    ----------
    seconds : until all are done, with so many side by side and each after those it depends on.
    seconds_at_most : the same when every unit takes all the steps it may take.
    seconds_by_unit : expected seconds of each open unit alone, by unit id.
    """

    seconds: float
    seconds_at_most: float
    seconds_by_unit: Mapping[str, float]


def estimate_work(
    units: Sequence[WorkUnit],
    recipe: Recipe,
    costs: StepCosts,
    *,
    processes: int = 1,
    finished: Collection[str] = (),
    selections: Mapping[str, SelectionFacts] | None = None,
    usual_epochs: float | None = None,
    longest_sessions: int | None = None,
    group_size: int = 0,
    separate_costs: StepCosts | None = None,
) -> WorkEstimate:
    """Return how long `units` take with `processes` of them side by side.

    - units, recipe: the plan of work, in dependency order.
    - costs: measured with `processes` side by side.
    - finished: ids of units that need no more work; they take no time.
    - selections: what finished `select` units decided, by unit id.
    - usual_epochs, longest_sessions, group_size: see `unit_steps`.
    - separate_costs: those of `separate` units; needed when there are any.
    """
    known = selections or {}
    expected: dict[str, float] = {}
    at_most: dict[str, float] = {}
    waits_for: dict[str, tuple[str, ...]] = {}
    for unit in units:
        unit_id = unit.unit_id
        if unit_id in finished:
            continue
        steps = unit_steps(
            unit,
            recipe,
            selection=next((known[other] for other in unit.depends_on if other in known), None),
            usual_epochs=usual_epochs,
            longest_sessions=longest_sessions,
            group_size=group_size,
        )
        size = recipe.member_config(unit.seed).num_layers / recipe.model.num_layers
        network, deltas, judgements = steps.network, steps.deltas, steps.judgements
        own = costs if unit.kind != "separate" else separate_costs
        assert own is not None, "separate units have costs of their own"
        expected[unit_id] = own.of(network.expected, deltas.expected, judgements.expected, size=size)
        at_most[unit_id] = own.of(network.at_most, deltas.at_most, judgements.at_most, size=size)
        waits_for[unit_id] = unit.depends_on
    return WorkEstimate(
        seconds=seconds_until_done(expected, waits_for, processes),
        seconds_at_most=seconds_until_done(at_most, waits_for, processes),
        seconds_by_unit=expected,
    )


def seconds_until_done(seconds: Mapping[str, float], waits_for: Mapping[str, Sequence[str]], processes: int) -> float:
    """Return when the last unit ends if a free process always takes the first unit that may start.

    - seconds: of each unit, in the order in which they are offered.
    - waits_for: units that must end before one starts; those that are not among `seconds` are done already.
    - processes: units side by side, at least 1.

    Raises
    ------
    ValueError
        When units wait for each other in a circle, or there is no process.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, found {processes}")
    waiting = dict.fromkeys(seconds)
    done: set[str] = set()
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        ready = [unit for unit in waiting if all(o in done or o not in seconds for o in waits_for.get(unit, ()))]
        for unit in ready[: processes - len(running)]:
            del waiting[unit]
            heapq.heappush(running, (now + seconds[unit], unit))
        if not running:
            raise ValueError(f"units wait for each other: {sorted(waiting)}")
        now, ended = heapq.heappop(running)
        done.add(ended)
    return now
