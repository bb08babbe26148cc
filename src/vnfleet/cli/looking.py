"""Commands that look: status and doctor; and the worker, which trains for another machine."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from vnfleet.cli import options as o
from vnfleet.cli.terminal import terminal_of
from vnfleet.core.clock import ICT
from vnfleet.core.errors import ExitCode

_MARKS = {"ok": "ok", "warning": "!!", "problem": "XX"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("status", epilog="Example:  vnfleet status --json")(status)
    app.command("doctor", epilog="Example:  vnfleet doctor")(doctor)


def status(context: typer.Context, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """Show the current release, the last week's steps and the training units that are still open."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.status import look  # noqa: PLC0415

    seen = look(workdir)
    terminal.say(f"current release: {seen.release_id or 'none yet'}")
    if seen.cycle_id is None:
        terminal.say("no week has run here yet: vnfleet demo, or vnfleet cycle")
    rows = [(step.name, step.summary, f"{step.seconds:.1f}") for step in seen.steps]
    rows += [(name, "not finished", "") for name in seen.missing_steps]
    if seen.cycle_id is not None:
        terminal.table(f"Week {seen.cycle_id}", ("step", "result", "seconds"), rows)
        terminal.say(f"open training units: {len(seen.open_units)}")
    terminal.document({"ok": True, "exit_code": 0, **seen.as_json()})
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
