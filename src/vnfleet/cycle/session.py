"""A worker under the eyes of a person: what a notebook starts, with a line that says how far everything is.

Run as ``python -m vnfleet.cycle.session``, in a process of its own, so that what was just installed is what runs. It
stops by itself when the program that started it is gone (its standard input ends), and gives its unit back if it can.
"""

from __future__ import annotations

import _thread
import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vnfleet.core.errors import RemoteError, VnfleetError
from vnfleet.cycle.training_state import RecoveryManager, TrainingState, unit_words
from vnfleet.cycle.worker import WorkerReport, run_worker
from vnfleet.remote.jobs import Mailbox, WorkerStatus
from vnfleet.remote.leases import LeaseTimes
from vnfleet.remote.opening import open_remote
from vnfleet.remote.timing import SystemTiming, Timing
from vnfleet.remote.transfer import Transfer

_SHOWN_EVERY_SECONDS = 5.0
_STATE_EVERY_SECONDS = 120.0
_FAREWELL_SECONDS = 60.0
_STOPPED_FROM_OUTSIDE = 130
_WIDTH = 110
_HEARTBEATS_A_LEASE = 10.0
_POLLS_A_LEASE = 15.0
_STANDARD_INPUT = 0


def work(
    remote: Transfer,
    workdir: Path,
    *,
    write: Callable[[str], None],
    idle_exit_seconds: float | None,
    lease_seconds: float = LeaseTimes().lease_seconds,
    timing: Timing | None = None,
) -> WorkerReport:
    """Run a worker and `write` what it says in lines, and between them one line of progress that overwrites itself.

    `lease_seconds` : a unit stays reserved that long after its machine vanished. Raises what `run_worker` raises.
    """
    clocks = timing or SystemTiming()
    usual = LeaseTimes()
    times = LeaseTimes(
        lease_seconds=lease_seconds,
        heartbeat_seconds=min(usual.heartbeat_seconds, lease_seconds / _HEARTBEATS_A_LEASE),
        settle_seconds=min(usual.settle_seconds, lease_seconds / _HEARTBEATS_A_LEASE),
    )
    shown = _Shown(remote, workdir, write, clocks)
    pulse = clocks.every(_SHOWN_EVERY_SECONDS, "display", shown.refresh)
    try:
        return run_worker(
            remote,
            workdir,
            times=times,
            idle_exit_seconds=idle_exit_seconds,
            poll_seconds=lease_seconds / _POLLS_A_LEASE,
            say=shown.say,
            timing=timing,
        )
    finally:
        pulse.stop()


@dataclass(slots=True)
class _Shown:
    """The display: reads the mailbox, as the desktop does."""

    remote: Transfer
    workdir: Path
    write: Callable[[str], None]
    timing: Timing
    _line: str = ""
    _state_at: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, sentence: str) -> None:
        """Leave a line that stays."""
        with self._lock:
            self.write(f"\r{sentence:<{_WIDTH}}\n")
            self._line = ""

    def refresh(self) -> None:
        """Show how far everything is, when that has changed."""
        if self.timing.monotonic() - self._state_at >= _STATE_EVERY_SECONDS:
            self._state_at = self.timing.monotonic()
            RecoveryManager(self.remote, self.workdir, self.timing).load_training_state()
        line = progress_line(Mailbox(self.remote))
        with self._lock:
            if line != self._line:
                self._line = line
                self.write(f"\r{line[:_WIDTH]:<{_WIDTH}}")


def progress_line(mailbox: Mailbox) -> str:
    """Return how far the oldest open job is and what every worker does, in one line; may raise `RemoteError`."""
    jobs = mailbox.open_jobs()
    if not jobs:
        return "waiting for a job"
    job = jobs[0]
    done = mailbox.results_listed()
    finished = sum(unit.unit_id in done for unit in job.units)
    parts = [f"{finished} of {len(job.units)} units"]
    busy = [status for status in mailbox.worker_statuses() if status.state not in ("idle", "stopped")]
    parts += [f"{unit_words(job, one.unit_id)}: {_doing(one)}" for one in busy if one.job_id == job.job_id]
    return " | ".join(parts)


def _doing(status: WorkerStatus) -> str:
    if not status.steps:
        return status.state
    words = f"{status.stage} {status.step}/{status.steps} ({status.progress_frac:.0%})"
    if status.eta_seconds is None:
        return words
    minutes = status.eta_seconds / 60.0
    return f"{words}, {minutes:.0f} min left" if minutes >= 1.0 else f"{words}, {status.eta_seconds:.0f} s left"


def leave_with_parent() -> None:
    """Interrupt this process once its standard input ends: whoever started it is gone, or wants it to stop."""

    def watch() -> None:
        while os.read(_STANDARD_INPUT, 1):  # not through `sys.stdin`: a thread in its buffer aborts the interpreter
            continue
        _thread.interrupt_main()
        threading.Event().wait(_FAREWELL_SECONDS)
        os._exit(_STOPPED_FROM_OUTSIDE)

    threading.Thread(target=watch, name="vnfleet-parent", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker of a notebook; return the exit code of `vnfleet.core.errors.ExitCode`."""
    parser = argparse.ArgumentParser(prog="python -m vnfleet.cycle.session", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--remote", required=True, help="folder or rclone remote that both sides see")
    parser.add_argument("--workdir", type=Path, required=True, help="folder on this machine's own disk")
    parser.add_argument("--idle-exit-minutes", type=float, default=None, help="stop after so long without work")
    parser.add_argument("--lease-seconds", type=float, default=LeaseTimes().lease_seconds)
    given = parser.parse_args(arguments)
    leave_with_parent()
    try:
        remote = open_remote(given.remote)
        told = work(
            remote,
            given.workdir,
            write=_write,
            idle_exit_seconds=None if given.idle_exit_minutes is None else 60.0 * given.idle_exit_minutes,
            lease_seconds=given.lease_seconds,
        )
        _write(f"\r{_farewell(remote, given.workdir, told):<{_WIDTH}}\n")
    except VnfleetError as error:
        _write(f"\nerror: {error}\n")
        return int(error.exit_code)
    except KeyboardInterrupt:
        _write("\nstopped; run it again and it goes on from its last checkpoint\n")
        return _STOPPED_FROM_OUTSIDE
    for unit_id, reason in told.failed.items():
        _write(f"unit {unit_id} failed: {reason}\n")
    return 1 if told.failed else 0


def _farewell(remote: Transfer, workdir: Path, told: WorkerReport) -> str:
    words = f"{len(told.published)} units trained here"
    try:
        state: TrainingState = RecoveryManager(remote, workdir).load_training_state()
    except RemoteError:
        return words
    return f"{words}; {state.sentence}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
