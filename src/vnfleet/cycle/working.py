"""One worker at work: which unit it takes, what it needs for it, and what it tells the mailbox meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pydantic import JsonValue

from vnfleet.core.atomic import discard
from vnfleet.core.errors import BadDataError, RemoteError, ResourceError
from vnfleet.core.sealed import is_whole
from vnfleet.cycle.pace import Pace
from vnfleet.remote.carried import local_progress
from vnfleet.remote.carrying import Carrier, CheckpointSink
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord, WorkerStatus, ready_units
from vnfleet.remote.leases import HeldLease, LeaseDesk, LeaseLostError
from vnfleet.remote.rclone import RemoteUnavailableError
from vnfleet.remote.timing import Timing

_DATA_PATIENCE_SECONDS = 1800.0
_STATE = Literal["idle", "fetching", "training", "publishing", "stopped"]


class StepProgress(Protocol):
    """Told after every step of a unit: stage, steps done, steps planned at most, a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Record the progress; may raise to stop the unit."""
        ...


class UnitRunner(Protocol):
    """Runs one unit of a job on the sealed data `package` and returns its sealed result folder below `units_root`."""

    def __call__(
        self,
        unit: UnitRecord,
        job: JobRecord,
        package: Path,
        units_root: Path,
        progress: StepProgress,
        sink: CheckpointSink,
        /,
    ) -> Path:
        """Return the result of `unit`, reusing a finished or half-finished one below `units_root`.

        `sink` is told of every checkpoint ``units_root/<unit_id>/<stage>/ckpt-<step>``, a sealed folder.
        """
        ...


Refusal = Callable[[JobRecord], str | None]


class _DataMissingError(RemoteError):
    """The data of a job did not come whole; they may later."""


@dataclass(slots=True, kw_only=True)
class Worker:
    """The state of one worker; `cycle.worker` asks it for step after step.

    device : what it trains on, in words. published, failed, refused : units and jobs so far, with reasons.
    held : the lease of the unit in work. hurry : brings the next heartbeat forward.
    """

    mailbox: Mailbox
    desk: LeaseDesk
    worker_id: str
    workdir: Path
    runner: UnitRunner
    refuse: Refusal
    timing: Timing
    device: str
    say: Callable[[str], None]
    published: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    held: HeldLease | None = None
    hurry: Callable[[], None] = lambda: None
    _seconds_by_kind: dict[str, float] = field(default_factory=dict)
    _data_missing_since: dict[str, float] = field(default_factory=dict)
    _pace: Pace | None = None
    _beats: int = 0
    _state: _STATE = "idle"
    _job_id: str = ""
    _unit_id: str = ""
    _message: str = ""

    def step(self) -> bool:
        """Do the next unit; return False when there was none to be had."""
        jobs = self.mailbox.open_jobs()
        done = self.mailbox.results_listed() if jobs else frozenset()
        for job in jobs:
            reason = self.refuse(job)
            if reason is not None:
                if self.refused.get(job.job_id) != reason:
                    self.say(f"job {job.job_id} is left alone: {reason}")
                self.refused[job.job_id] = reason
                continue
            for unit in ready_units(job, done):
                if unit.unit_id in self.failed:
                    continue
                held = self.desk.claim(f"status/{job.job_id}", unit.unit_id)
                if held is not None:
                    return self._do(job, unit, held)
        return False

    def beat(self) -> None:
        """Renew the lease and tell the mailbox that this worker lives (called in the background)."""
        held = self.held
        if held is not None:
            with contextlib.suppress(LeaseLostError):  # the unit's own thread meets it at its next check
                held.renew()
        self._report()

    def enter(self, state: _STATE, job_id: str = "", unit_id: str = "") -> None:
        """Change the state; the next heartbeat tells it (a call to a cloud drive costs a second of training)."""
        self._state, self._job_id, self._unit_id, self._message = state, job_id, unit_id, ""

    def announce(self, state: _STATE) -> None:
        """Change the state and tell it now, if the remote answers."""
        self.enter(state)
        with contextlib.suppress(RemoteUnavailableError):
            self._report()

    def _do(self, job: JobRecord, unit: UnitRecord, held: HeldLease) -> bool:
        """Do a unit; return False when its data have to be waited for."""
        self.held = held
        self.hurry()  # the next heartbeat tells whether another claim came over ours
        done = len(self.published)
        try:
            self._run_and_publish(job, unit, held)
        except _DataMissingError as error:
            self.say(f"unit {unit.unit_id} waits: {error.what}")
            return False
        except LeaseLostError as error:
            self.say(f"unit {unit.unit_id}: {error.what}, its work here stops")
        except (RemoteError, ResourceError):
            raise
        except Exception as error:  # noqa: BLE001 - a unit that fails here must not keep the worker from the others
            self.failed[unit.unit_id] = f"{type(error).__name__}: {error}"[:500]
            self.say(f"unit {unit.unit_id} failed: {error}")
        finally:
            self.held, self._pace = None, None
            if len(self.published) == done:  # a result that landed needs no lease any more
                held.release()
            self.enter("idle")
        return True

    def _run_and_publish(self, job: JobRecord, unit: UnitRecord, held: HeldLease) -> None:
        where = (job.job_id, unit.unit_id)
        units_root, quarantine = self.workdir / "checkpoints", self.workdir / "quarantine"
        self.enter("fetching", *where)
        package = self._package(job, quarantine)
        built_on: dict[str, str] = {}
        for needed in unit.depends_on:
            content = self.mailbox.follow_result(job, needed, units_root, quarantine)
            if content is None:
                self.say(f"unit {needed} came damaged and will be done again before {unit.unit_id}")
                return
            built_on[needed] = content
        carrier = Carrier(
            self.mailbox.remote,
            unit.unit_id,
            held,
            units_root / unit.unit_id,
            self.workdir / "data" / "outbox",
            built_on=built_on,
            timing=self.timing,
            say=self.say,
        )
        result = self._trained(job, unit, held, package, carrier)
        self.enter("publishing", *where)
        held.renew()  # proves the lease before anything of ours may lie beside the result of another
        by: dict[str, JsonValue] = {"worker_id": self.worker_id, "token": held.token, "device": self.device}
        send = self.mailbox.send_result
        if send(job, unit.unit_id, result, built_on=built_on, by=by, before_manifest=held.renew):
            self.published.append(unit.unit_id)
            self.say(f"unit {unit.unit_id} is published")  # its checkpoints stay until the desktop has proved it

    def _trained(self, job: JobRecord, unit: UnitRecord, held: HeldLease, package: Path, carrier: Carrier) -> Path:
        """Return the result of a unit: the one that is here already, or trained from the newest checkpoint."""
        units_root, quarantine = self.workdir / "checkpoints", self.workdir / "quarantine"
        carrier.forget_what_was_built_on_others()
        if not is_whole(units_root / unit.unit_id / "result", job.result_kind):
            taken_over = carrier.restore(quarantine)
            begins = taken_over or local_progress(units_root / unit.unit_id)
            self.say(f"unit {unit.unit_id} {f'goes on from {begins.words}' if begins.steps else 'begins'}")
        kind = str(unit.body.get("kind", ""))
        pace = Pace(self.timing, usual_seconds=self._seconds_by_kind.get(kind))
        self.enter("training", job.job_id, unit.unit_id)
        self._pace = pace

        def progress(stage: str, done: int, total: int, note: str) -> None:
            held.check()
            pace.step(stage, done, total)
            self._message = f"{stage}: {note}"[:200]

        carrier.start()
        try:
            result = self.runner(unit, job, package, units_root, progress, carrier)
        finally:
            carrier.stop()
        if not pace.resumed:
            self._seconds_by_kind[kind] = pace.elapsed_seconds
        return result

    def _package(self, job: JobRecord, quarantine: Path) -> Path:
        """Return the job's data; those of earlier jobs are removed, what they share was kept in packs."""
        root = self.workdir / "data" / "worker"
        package = root / job.data_id[:16]
        try:
            self.mailbox.fetch_data(job, package, quarantine)
        except BadDataError as error:
            # A drive shows files late, and the desktop sends again what came damaged: only what lasts is a failure.
            since = self._data_missing_since.setdefault(job.data_id, self.timing.monotonic())
            if self.timing.monotonic() - since < _DATA_PATIENCE_SECONDS:
                raise _DataMissingError(error.what) from error
            raise
        self._data_missing_since.pop(job.data_id, None)
        for other in root.iterdir():
            if other.name not in (package.name, "objects"):
                discard(other)
        return package

    def _report(self) -> None:
        self._beats += 1
        pace = self._pace
        status = WorkerStatus(
            worker_id=self.worker_id,
            beat=self._beats,
            heartbeat_at=self.timing.now(),
            state=self._state,
            job_id=self._job_id,
            unit_id=self._unit_id,
            progress_frac=0.0 if pace is None else pace.frac,
            stage="" if pace is None else pace.stage,
            step=0 if pace is None else pace.done,
            steps=0 if pace is None else pace.total,
            eta_seconds=None if pace is None else pace.eta_seconds,
            seconds_by_kind=dict(self._seconds_by_kind),
            device=self.device,
            message=self._message,
            failed=dict(self.failed),
            refused_jobs=dict(self.refused),
        )
        self.mailbox.report(status)
