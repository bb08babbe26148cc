"""How fast a unit gets on, and how long what is left of it, or of a whole job, will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vnfleet.remote.jobs import UnitRecord, WorkerStatus
from vnfleet.remote.timing import Timing


@dataclass(slots=True)
class Pace:
    """One unit on one worker.

    usual_seconds : what a unit of this kind took here before; None when there was none.
    stage, done, total : steps of the present stage. resumed : whether the unit did not start at its first step.
    """

    timing: Timing
    usual_seconds: float | None = None
    stage: str = ""
    done: int = 0
    total: int = 0
    resumed: bool = False
    _started: float = field(init=False)
    _stage_started: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._started = self.timing.monotonic()
        self._stage_started = (self._started, 0)

    def step(self, stage: str, done: int, total: int) -> None:
        """Take note of steps of a stage; the first ones told of it may be far on after a resume."""
        if stage != self.stage:
            is_first = not self.stage
            self._stage_started = (self.timing.monotonic(), done)
            self.resumed = self.resumed or (is_first and done > 1)
        self.stage, self.done, self.total = stage, done, total

    @property
    def frac(self) -> float:
        """The share of the present stage that is done."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the unit was started here."""
        return self.timing.monotonic() - self._started

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the unit is done: its present stage, or as long as its kind usually takes if that is longer."""
        since, from_step = self._stage_started
        done = self.done - from_step
        stage = None
        if done > 0:
            stage = (self.timing.monotonic() - since) / done * max(self.total - self.done, 0)
        usual = None if self.usual_seconds is None or self.resumed else self.usual_seconds - self.elapsed_seconds
        known = [max(seconds, 0.0) for seconds in (stage, usual) if seconds is not None]
        return max(known) if known else None


def seconds_left(units: Sequence[UnitRecord], workers: Sequence[WorkerStatus], job_id: str) -> float | None:
    """Return the seconds until the living `workers` have done the open `units`, each taking the next when it is free.

    None without workers, or when nothing is known yet of some unit. That units wait for each other is not counted.
    """
    usual: dict[str, float] = {}
    for worker in workers:
        for kind, seconds in worker.seconds_by_kind.items():
            usual[kind] = max(usual.get(kind, 0.0), seconds)
    other = max(usual.values(), default=None)
    needs = {unit.unit_id: usual.get(str(unit.body.get("kind", "")), other) for unit in units}
    free: list[float] = []
    for worker in workers:
        eta: float | None = 0.0
        if worker.job_id == job_id and worker.unit_id in needs:
            usually = needs.pop(worker.unit_id)
            eta = usually if worker.eta_seconds is None else worker.eta_seconds
        if eta is None:
            return None
        free.append(eta)
    for need in needs.values():
        if need is None or not free:
            return None
        first = min(range(len(free)), key=free.__getitem__)
        free[first] += need
    return max(free, default=None)


class SeededUnit(Protocol):
    """A unit of work that belongs to one member of an ensemble (`training.plan.WorkUnit`)."""

    @property
    def unit_id(self) -> str:
        """Identity of the unit."""
        ...

    @property
    def seed(self) -> int:
        """Number of the member; what all members need has the first one's."""
        ...


def seeds_that_fit(
    units: Sequence[SeededUnit],
    open_units: Sequence[str],
    *,
    seconds_here: Callable[[Sequence[str]], float],
    seconds: float,
) -> int:
    """Return the most members, at least 1, whose open units can be trained here in the time there is.

    Fewer members are the one smaller budget that keeps what is finished: fewer epochs would be other units.
    `seconds_here` says what training some units (ids) here takes.
    """
    left = set(open_units)
    most = 1 + max((unit.seed for unit in units), default=0)
    for count in range(most, 1, -1):
        if seconds_here([unit.unit_id for unit in units if unit.unit_id in left and unit.seed < count]) <= seconds:
            return count
    return 1
