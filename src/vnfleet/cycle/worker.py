"""A worker: takes units of training from a remote mailbox, runs them, and publishes sealed results.

It may be killed at any moment: what it was doing is taken over by another worker when its lease has run out, from the
newest checkpoint on the remote; started again, it goes on by itself. The desktop's side is `cycle.remote_training`.
"""

from __future__ import annotations

import contextlib
import platform
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import RemoteError
from vnfleet.core.lock import holding
from vnfleet.cycle.working import Refusal, StepProgress, UnitRunner, Worker
from vnfleet.remote.jobs import Mailbox
from vnfleet.remote.leases import LeaseDesk, LeaseTimes
from vnfleet.remote.rclone import RemoteUnavailableError
from vnfleet.remote.timing import SystemTiming, Timing
from vnfleet.remote.transfer import Transfer

if TYPE_CHECKING:
    from vnfleet.training.machine.config import MachineConfig

__all__ = ["StepProgress", "UnitRunner", "WorkerReport", "run_worker"]

_ID = re.compile(r"w[A-Za-z0-9-]{0,30}-[0-9a-f]{8}")
_OTHER_CODE = "planned by another version of vnfleet: install the same one on both sides"


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
    machine: MachineConfig | None = None,
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
    timing: Timing | None = None,
) -> WorkerReport:
    """Work on open jobs until there has been nothing to do for `idle_exit_seconds` (None: for ever).

    `machine` is how this machine is used, its own ``[machine]`` table. `runner` and `source_id` stand in for the real
    training code and for the code that jobs must name. `worker_id` is kept in `workdir` when None: a worker that is
    started again there goes on at once with what it held. `once` stops after one unit, or at once when none is ready.
    An unreachable remote is waited for `patience_seconds`. `should_stop` is asked between units.

    Raises `RemoteError` when the remote refuses or stayed unreachable, `ResourceError` when disk or memory ran out,
    `UsageError` when the device asked for is not there, and `BusyError` when another worker runs in `workdir`.
    """
    device = ""
    refuse: Refusal = lambda job: None if job.source_id == source_id else _OTHER_CODE  # noqa: E731
    if runner is None or source_id is None:
        from vnfleet.cycle.local_engine import LocalEngine, refusal  # noqa: PLC0415 - torch only when needed

        refuse = refuse if source_id is not None else refusal
        if runner is None:
            runner = engine = LocalEngine(machine)
            device = engine.device_words
    name = worker_id or _name_of(workdir)
    lease_times, clocks = times or LeaseTimes(), timing or SystemTiming()
    worker = Worker(
        mailbox=Mailbox(remote),
        desk=LeaseDesk(remote, name, lease_times, clocks),
        worker_id=name,
        workdir=workdir,
        runner=runner,
        refuse=refuse,
        timing=clocks,
        device=device,
        say=say,
    )
    with holding(workdir / "logs" / "worker.lock", f"worker {name}"):
        pulse = clocks.every(lease_times.heartbeat_seconds, "heartbeat", worker.beat)
        worker.hurry = pulse.wake
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
            pulse.stop()
            with contextlib.suppress(RemoteError):  # whatever ended the work is what is told
                worker.announce("stopped")
    return WorkerReport(worker_id=name, published=tuple(worker.published), failed=dict(worker.failed))


def _loop(
    worker: Worker,
    poll_seconds: float,
    should_stop: Callable[[], bool],
    *,
    once: bool,
    idle_exit_seconds: float | None,
    patience_seconds: float,
) -> None:
    timing = worker.timing
    quiet_since = timing.monotonic()
    silent_since: float | None = None  # counted from the first failure: a long unit before it is no silence
    worker.announce("idle")
    while not should_stop():
        try:
            worked = worker.step()
            silent_since = None
        except RemoteUnavailableError as error:
            silent_since = timing.monotonic() if silent_since is None else silent_since
            if once or timing.monotonic() - silent_since > patience_seconds:
                raise
            worker.say(f"the remote does not answer, waiting: {error.what}")
            timing.sleep(poll_seconds)
            quiet_since = timing.monotonic()  # nobody can say that there was nothing to do
            continue
        if once:
            return
        if worked:
            quiet_since = timing.monotonic()
            continue
        if idle_exit_seconds is not None and timing.monotonic() - quiet_since >= idle_exit_seconds:
            return
        timing.sleep(poll_seconds)


def _name_of(workdir: Path) -> str:
    """Return the id of the worker in `workdir`: the same after a restart, another one on another machine."""
    path = workdir / "logs" / "worker.id"
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if not known.startswith(f"{_host()}-") or _ID.fullmatch(known) is None:
        known = f"{_host()}-{uuid.uuid4().hex[:8]}"
        write_text(path, known)
    return known


def _host() -> str:
    kept = "".join(mark if mark.isascii() and mark.isalnum() else "-" for mark in platform.node())
    return f"w{kept[:30]}"
