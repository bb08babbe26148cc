"""A worker: takes units of training from a remote mailbox, runs them, and publishes sealed results.

It may be killed at any moment: what it was doing is taken over by another worker when its lease has run out, and its
own unfinished unit goes on from the last local checkpoint. The desktop's side is `cycle.remote_training`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from vnfleet.core.errors import RemoteError, ResourceError
from vnfleet.core.lock import holding
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord, WorkerStatus, ready_units, result_name
from vnfleet.remote.leases import HeldLease, LeaseDesk, LeaseLostError, LeaseTimes, Pulse
from vnfleet.remote.parcels import send_sealed
from vnfleet.remote.rclone import RemoteUnavailableError
from vnfleet.remote.transfer import Transfer

_STATE = Literal["idle", "fetching", "training", "publishing", "stopped"]


class StepProgress(Protocol):
    """Told after every step of a unit: stage, steps done, steps planned at most, a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Record the progress; may raise to stop the unit."""
        ...


class UnitRunner(Protocol):
    """Runs one unit of a job on the sealed data `package` and returns its sealed result folder below `units_root`."""

    def __call__(
        self, unit: UnitRecord, job: JobRecord, package: Path, units_root: Path, progress: StepProgress, /
    ) -> Path:
        """Return the result of `unit`, reusing a finished or half-finished one below `units_root`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a worker did: units it published, and units it could not run with the reason."""

    worker_id: str
    published: tuple[str, ...]
    failed: dict[str, str]


def run_worker(
    remote: Transfer,
    workdir: Path,
    *,
    runner: UnitRunner | None = None,
    worker_id: str | None = None,
    source_id: str | None = None,
    times: LeaseTimes | None = None,
    poll_seconds: float = 20.0,
    once: bool = False,
    idle_exit_seconds: float | None = None,
    patience_seconds: float = 1800.0,
    should_stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> WorkerReport:
    """Work on open jobs until there has been nothing to do for `idle_exit_seconds` (None: for ever).

    `runner` and `source_id` say how units are run and which code jobs must name; the real training code by default.
    `once` stops after one unit, or at once when none is ready. An unreachable remote is waited for `patience_seconds`.
    `should_stop` is asked between units.

    Raises `RemoteError` when the remote refuses or stayed unreachable, `ResourceError` when disk or memory ran out,
    and `BusyError` when another worker runs in `workdir`.
    """
    if runner is None or source_id is None:
        from vnfleet.cycle.local_engine import LocalEngine, training_source_id  # noqa: PLC0415 - torch only when needed

        runner, source_id = runner or LocalEngine(), source_id or training_source_id()
    name = worker_id or f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    lease_times = times or LeaseTimes()
    worker = _Worker(
        mailbox=Mailbox(remote),
        desk=LeaseDesk(remote, name, lease_times),
        worker_id=name,
        workdir=workdir,
        runner=runner,
        source_id=source_id,
        say=say,
    )
    with holding(workdir / "logs" / "worker.lock", f"worker {name}"), Pulse(lease_times.heartbeat_seconds, worker.beat):
        try:
            _loop(
                worker,
                poll_seconds,
                should_stop,
                once=once,
                idle_exit_seconds=idle_exit_seconds,
                patience_seconds=patience_seconds,
            )
        finally:
            worker.announce("stopped")
    return WorkerReport(worker_id=name, published=tuple(worker.published), failed=dict(worker.failed))


def _loop(
    worker: _Worker,
    poll_seconds: float,
    should_stop: Callable[[], bool],
    *,
    once: bool,
    idle_exit_seconds: float | None,
    patience_seconds: float,
) -> None:
    quiet_since = reached_at = time.monotonic()
    worker.announce("idle")
    while not should_stop():
        try:
            worked = worker.step()
            reached_at = time.monotonic()
        except RemoteUnavailableError as error:
            if once or time.monotonic() - reached_at > patience_seconds:
                raise
            worker.say(f"the remote does not answer, waiting: {error.what}")
            worked = False
        if once:
            return
        if worked:
            quiet_since = time.monotonic()
            continue
        if idle_exit_seconds is not None and time.monotonic() - quiet_since >= idle_exit_seconds:
            return
        time.sleep(poll_seconds)


@dataclass(slots=True, kw_only=True)
class _Worker:
    mailbox: Mailbox
    desk: LeaseDesk
    worker_id: str
    workdir: Path
    runner: UnitRunner
    source_id: str
    say: Callable[[str], None]
    published: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    held: HeldLease | None = None
    _beats: int = 0
    _state: _STATE = "idle"
    _job_id: str = ""
    _unit_id: str = ""
    _progress_frac: float = 0.0
    _message: str = ""

    def step(self) -> bool:
        """Do the next unit; return False when there was none to be had."""
        jobs = self.mailbox.open_jobs()
        done = self.mailbox.results_listed() if jobs else frozenset()
        for job in jobs:
            if job.source_id != self.source_id:
                self.refused[job.job_id] = "planned by another version of vnfleet: install the same one on both sides"
                continue
            for unit in ready_units(job, done):
                if unit.unit_id in self.failed:
                    continue
                held = self.desk.claim(f"status/{job.job_id}", unit.unit_id)
                if held is not None:
                    self._do(job, unit, held)
                    return True
        return False

    def beat(self) -> None:
        """Renew the lease and tell the mailbox that this worker lives (called by the heartbeat thread)."""
        held = self.held
        if held is not None:
            with contextlib.suppress(LeaseLostError):  # the unit's own thread meets it at its next check
                held.renew()
        self._report()

    def enter(self, state: _STATE, job_id: str = "", unit_id: str = "") -> None:
        """Change the state; the next heartbeat tells it (a call to a cloud drive costs a second of training)."""
        self._state, self._job_id, self._unit_id, self._progress_frac = state, job_id, unit_id, 0.0

    def announce(self, state: _STATE) -> None:
        """Change the state and tell it now, if the remote answers."""
        self.enter(state)
        with contextlib.suppress(RemoteUnavailableError):
            self._report()

    def _do(self, job: JobRecord, unit: UnitRecord, held: HeldLease) -> None:
        self.held = held
        try:
            self._run_and_publish(job, unit, held)
        except LeaseLostError as error:
            self.say(f"unit {unit.unit_id}: {error.what}, its work here stops")
        except (RemoteError, ResourceError):
            raise
        except Exception as error:  # noqa: BLE001 - a unit that fails here must not keep the worker from the others
            self.failed[unit.unit_id] = f"{type(error).__name__}: {error}"[:500]
            self.say(f"unit {unit.unit_id} failed: {error}")
        finally:
            self.held = None
            if unit.unit_id not in self.published:  # a result that landed needs no lease any more
                held.release()
            self.enter("idle")

    def _run_and_publish(self, job: JobRecord, unit: UnitRecord, held: HeldLease) -> None:
        where = (job.job_id, unit.unit_id)
        units_root, quarantine = self.workdir / "checkpoints", self.workdir / "quarantine"
        self.enter("fetching", *where)
        package = self.workdir / "data" / "training_package" / job.data_id[:16]
        self.mailbox.fetch_data(job, package, quarantine)
        for needed in unit.depends_on:
            if self.mailbox.fetch_result(job, needed, units_root, quarantine) is None:
                self.say(f"unit {needed} came damaged and will be done again before {unit.unit_id}")
                return
        self.enter("training", *where)

        def progress(stage: str, done: int, total: int, note: str) -> None:
            held.check()
            self._progress_frac = min(1.0, done / max(total, 1))
            self._message = f"{stage}: {note}"[:200]

        result = self.runner(unit, job, package, units_root, progress)
        self.enter("publishing", *where)
        held.check()
        if send_sealed(result, self.mailbox.remote, result_name(unit.unit_id), job.result_kind, held.renew):
            self.published.append(unit.unit_id)
            self.say(f"unit {unit.unit_id} is published")

    def _report(self) -> None:
        self._beats += 1
        status = WorkerStatus(
            worker_id=self.worker_id,
            beat=self._beats,
            heartbeat_at=datetime.now(UTC),
            state=self._state,
            job_id=self._job_id,
            unit_id=self._unit_id,
            progress_frac=self._progress_frac,
            message=self._message,
            failed=dict(self.failed),
            refused_jobs=dict(self.refused),
        )
        self.mailbox.report(status)


def _host() -> str:
    kept = "".join(mark if mark.isascii() and mark.isalnum() else "-" for mark in platform.node())
    return f"w{kept[:30]}"
