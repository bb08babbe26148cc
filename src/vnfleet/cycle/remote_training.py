"""The desktop's side of remote training: publish a job, collect verified results, and know when to stop waiting.

Whatever is still open when the deadline nears, or when no worker shows a sign of life, is returned to the caller, who
trains it on the local CPU. Nothing is lost: finished units are sealed in `checkpoints/` and reused.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from vnfleet.core.clock import Clock, SystemClock
from vnfleet.core.errors import BadDataError, RemoteError
from vnfleet.core.sealed import verify
from vnfleet.remote.jobs import (
    JobRecord,
    JsonObject,
    Mailbox,
    UnitRecord,
    WorkerStatus,
    package_id,
    ready_units,
    result_name,
)
from vnfleet.remote.parcels import send_sealed
from vnfleet.remote.rclone import RemoteUnavailableError
from vnfleet.remote.transfer import Transfer

_JSON_OBJECT: TypeAdapter[JsonObject] = TypeAdapter(JsonObject)


class RecipeLike(Protocol):
    """A recipe that knows its JSON (`training.recipe.Recipe`)."""

    def to_json(self) -> str:
        """Return the recipe as JSON text."""
        ...


class FoldLike(Protocol):
    """A fold that knows its record (`evaluation.splits.Fold`)."""

    def to_record(self) -> dict[str, object]:
        """Return the fold as JSON values."""
        ...


class UnitLike(Protocol):
    """A unit of work (`training.plan.WorkUnit`)."""

    @property
    def unit_id(self) -> str:
        """Identity of the unit."""
        ...

    @property
    def fold_id(self) -> str:
        """Fold the unit belongs to."""
        ...

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Units that must be finished first."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the unit as JSON values for ``mode="json"``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTraining:
    """What came back: ids of units with a verified local result, ids still open (in job order), and why it ended."""

    job_id: str
    finished: tuple[str, ...]
    open_units: tuple[str, ...]
    reason: str


def plan_job(
    *,
    recipe: RecipeLike,
    folds: Sequence[FoldLike],
    units: Sequence[UnitLike],
    package: Path,
    data_kind: str,
    result_kind: str,
    source_id: str,
) -> JobRecord:
    """Return the job for `units` on the sealed training data in `package`; raises `BadDataError` when it is damaged."""
    return JobRecord(
        recipe=_JSON_OBJECT.validate_json(recipe.to_json()),
        folds=tuple(_JSON_OBJECT.validate_python(fold.to_record()) for fold in folds),
        units=tuple(
            UnitRecord(
                unit_id=unit.unit_id,
                fold_id=unit.fold_id,
                depends_on=unit.depends_on,
                body=_JSON_OBJECT.validate_python(unit.model_dump(mode="json")),
            )
            for unit in units
        ),
        data_id=package_id(verify(package, data_kind)),
        data_kind=data_kind,
        result_kind=result_kind,
        source_id=source_id,
    )


def train_remotely(
    job: JobRecord,
    package: Path,
    remote: Transfer,
    workdir: Path,
    *,
    poll_seconds: float = 30.0,
    grace_seconds: float = 900.0,
    deadline: datetime | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    clock: Clock | None = None,
) -> RemoteTraining:
    """Publish `job` and collect results into ``workdir/checkpoints/<unit_id>/result`` until it is done or hopeless.

    When no worker showed a heartbeat for `grace_seconds`, or `deadline` (aware) passes, what is open is returned: leave
    room before it for training on the CPU. `progress` is told (units finished, units in all, note) after every poll.

    Raises `RemoteError` when the remote refuses for good while the job is published (a silent one is a reason to
    return instead), and `BadDataError` when `package` is damaged or is not the job's data.
    """
    desk = _Desk(
        job, Mailbox(remote), workdir, grace_seconds=grace_seconds, clock=clock or SystemClock(), deadline=deadline
    )
    if desk.is_done():
        return desk.outcome("everything was finished already")
    try:
        desk.mailbox.publish(job, package)
        desk.share_local_results()
    except RemoteUnavailableError as error:
        return desk.outcome(f"the job could not be published: {error.what}")
    reason = desk.wait(poll_seconds, progress)
    with contextlib.suppress(RemoteError):  # a job that stays open costs a worker's time, never correctness
        desk.mailbox.close(job.job_id, reason)
    return desk.outcome(reason)


class _Desk:
    """The state of one wait."""

    def __init__(
        self,
        job: JobRecord,
        mailbox: Mailbox,
        workdir: Path,
        *,
        grace_seconds: float,
        clock: Clock,
        deadline: datetime | None,
    ) -> None:
        self.job = job
        self.mailbox = mailbox
        self._units_root = workdir / "checkpoints"
        self._quarantine = workdir / "quarantine"
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._deadline = deadline
        self._beats: dict[str, tuple[int, float]] = {}
        self._alive_at = time.monotonic()
        self._finished = {unit.unit_id for unit in job.units if self._is_local(unit.unit_id)}

    def is_done(self) -> bool:
        """Return whether every unit has a verified local result."""
        return len(self._finished) == len(self.job.units)

    def outcome(self, reason: str) -> RemoteTraining:
        """Return what is finished and what is open."""
        ids = [unit.unit_id for unit in self.job.units]
        finished = tuple(one for one in ids if one in self._finished)
        return RemoteTraining(
            job_id=self.job.job_id,
            finished=finished,
            open_units=tuple(one for one in ids if one not in self._finished),
            reason=reason,
        )

    def share_local_results(self) -> None:
        """Upload finished local results that open units need, so that no worker does them again."""
        needed = {one for unit in self.job.units if unit.unit_id not in self._finished for one in unit.depends_on}
        for unit_id in sorted(needed & self._finished):
            folder = self._units_root / unit_id / "result"
            send_sealed(folder, self.mailbox.remote, result_name(unit_id), self.job.result_kind)

    def wait(self, poll_seconds: float, progress: Callable[[int, int, str], None]) -> str:
        """Collect results until there is a reason to stop; return it."""
        note = "waiting for a worker"
        while True:
            try:
                listed = self.mailbox.results_listed()
                self._collect(listed)
                alive = self._alive_workers()
                note = f"{len(alive)} worker(s) alive"
            except RemoteError as error:
                alive, note = {}, f"the remote does not answer: {error.what}"
            progress(len(self._finished), len(self.job.units), note)
            reason = self._reason_to_stop(alive, note)
            if reason is not None:
                return reason
            time.sleep(poll_seconds)

    def _collect(self, listed: frozenset[str]) -> None:
        for unit in self.job.units:
            if unit.unit_id in listed and unit.unit_id not in self._finished:
                folder = self.mailbox.fetch_result(self.job, unit.unit_id, self._units_root, self._quarantine)
                if folder is not None:
                    self._finished.add(unit.unit_id)

    def _reason_to_stop(self, alive: Mapping[str, WorkerStatus], note: str) -> str | None:
        if self.is_done():
            return "done"
        if self._deadline is not None and self._clock.now() >= self._deadline:
            return "the deadline is near"
        if alive:
            self._alive_at = time.monotonic()
        elif time.monotonic() - self._alive_at >= self._grace_seconds:
            return f"no worker showed a heartbeat for {self._grace_seconds:.0f} s ({note})"
        refusals = [self._refusal(status) for status in alive.values()]
        given_up = [refusal for refusal in refusals if refusal is not None]
        if given_up and len(given_up) == len(refusals):
            return f"no worker can do what is left: {given_up[0]}"
        return None

    def _refusal(self, status: WorkerStatus) -> str | None:
        """Return why a worker will do nothing more for this job, or None when it may."""
        ready = [unit.unit_id for unit in ready_units(self.job, frozenset(self._finished))]
        if all(unit_id in status.failed for unit_id in ready):
            return status.failed[ready[0]]
        return status.refused_jobs.get(self.job.job_id)

    def _alive_workers(self) -> dict[str, WorkerStatus]:
        """Return workers whose heartbeat moved within the grace period, on this machine's own clock."""
        now = time.monotonic()
        alive: dict[str, WorkerStatus] = {}
        for status in self.mailbox.worker_statuses():
            beat, changed_at = self._beats.get(status.worker_id, (-1, 0.0))
            if beat != status.beat:
                # At first sight only the file's own time tells an old worker from a living one.
                age = (datetime.now(UTC) - status.heartbeat_at).total_seconds() if beat < 0 else 0.0
                changed_at = now - max(0.0, age)
                self._beats[status.worker_id] = (status.beat, changed_at)
            if status.state != "stopped" and now - changed_at < self._grace_seconds:
                alive[status.worker_id] = status
        return alive

    def _is_local(self, unit_id: str) -> bool:
        try:
            verify(self._units_root / unit_id / "result", self.job.result_kind)
        except BadDataError:
            return False
        return True
