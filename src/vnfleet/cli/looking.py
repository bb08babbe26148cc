"""Commands that look: status and doctor; and the worker, which trains for another machine."""

from __future__ import annotations

import signal
import threading
from datetime import UTC, datetime
from typing import Annotated

import typer

from vnfleet.cli import options as o
from vnfleet.cli.remote_views import shown_remote
from vnfleet.cli.terminal import terminal_of
from vnfleet.core.clock import ICT
from vnfleet.core.errors import ExitCode

Once = Annotated[bool, typer.Option("--once", help="Stop after one unit, or at once when none is ready.")]
IdleExit = Annotated[
    float | None, typer.Option("--idle-exit", min=0, help="Stop after this many minutes without work (default: never).")
]
PollSeconds = Annotated[float, typer.Option("--poll-seconds", min=0.1, help="How often the remote is asked for work.")]
_MARKS = {"ok": "ok", "warning": "!!", "problem": "XX"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("worker", epilog="Example:  vnfleet worker --remote gdrive:VN-Quant-Training")(worker)
    app.command("status", epilog="Example:  vnfleet status --json")(status)
    app.command("doctor", epilog="Example:  vnfleet doctor")(doctor)


def worker(
    context: typer.Context,
    remote: o.SharedFolder = None,
    once: Once = False,
    idle_exit: IdleExit = None,
    poll_seconds: PollSeconds = 20.0,
    device: o.Device = None,
    config: o.Config = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Train for another machine: take units from the remote, send results back. Stop it whenever you like."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.worker import run_worker  # noqa: PLC0415
    from vnfleet.remote.opening import open_remote  # noqa: PLC0415

    settings = o.settings_of(workdir, config, {"machine": {"device": device}})
    named = o.named_remote(remote, settings)
    there = open_remote(named, bandwidth_limit=settings.remote.bandwidth_limit)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service that is stopped gives its unit back too
    terminal.note(f"waiting for work in {shown_remote(named)}")
    done = run_worker(
        there,
        workdir,
        machine=settings.machine,
        once=once,
        idle_exit_seconds=None if idle_exit is None else idle_exit * 60,
        poll_seconds=poll_seconds,
        say=terminal.note,
    )
    terminal.say(f"{done.worker_id}: {len(done.published)} units published, {len(done.failed)} failed")
    code = ExitCode.BAD_DATA if done.failed else ExitCode.OK
    document = {"worker_id": done.worker_id, "published": list(done.published), "failed": done.failed}
    terminal.document({"ok": not done.failed, "exit_code": int(code), **document})
    return int(code)


def status(context: typer.Context, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """Show the current release, the last week's steps, open training units, and every worker of the remote."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.remote_workers import WORKER_COLUMNS, look_at_workers  # noqa: PLC0415
    from vnfleet.cycle.status import look  # noqa: PLC0415

    seen = look(workdir)
    terminal.say(f"current release: {seen.release_id or 'none yet'}")
    if seen.cycle_id is None:
        terminal.say("no week has run here yet: vnfleet demo, or vnfleet cycle")
    rows = [(step.name, step.summary, f"{step.seconds:.1f}") for step in seen.steps]
    rows += [(name, "not finished", "") for name in seen.missing_steps]
    if seen.cycle_id is not None:
        terminal.table(f"Week {seen.cycle_id}", ("step", "result", "seconds"), rows)
        terminal.say(f"open training units: {len(seen.open_units)} of {seen.planned_units}")
    settings = o.settings_of(workdir)
    workers, trouble = look_at_workers(settings.remote.remote, datetime.now(UTC))
    if workers:
        terminal.table("Workers", WORKER_COLUMNS, [view.row() for view in workers])
    if trouble:
        terminal.note(trouble)
    listed = {"workers": [view.as_json() for view in workers], "workers_trouble": trouble}
    terminal.document({"ok": True, "exit_code": 0, **seen.as_json(), **listed})
    return 0


def doctor(context: typer.Context, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """Check versions, cores, memory, disk, rclone, the workdir and the age of the data. Exit code 6 on a problem."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.doctor import examine  # noqa: PLC0415

    findings = examine(workdir, datetime.now(UTC).astimezone(ICT).date())
    rows = [(_MARKS[one.state], one.name, one.found, one.fix) for one in findings]
    terminal.table("Doctor", ("", "what", "found", "do"), rows)
    bad = any(one.state == "problem" for one in findings)
    code = ExitCode.RESOURCE if bad else ExitCode.OK
    listed = [{"name": one.name, "state": one.state, "found": one.found, "fix": one.fix} for one in findings]
    terminal.document({"ok": not bad, "exit_code": int(code), "findings": listed})
    return int(code)
