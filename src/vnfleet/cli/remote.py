"""Commands for the shared folder: remote setup, init, check, sync, audit."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vnfleet.cli import options as o
from vnfleet.cli.remote_views import ProgressTeller, shown_remote, size_words, tell_audit, tell_check, tell_sync
from vnfleet.cli.terminal import Terminal, terminal_of
from vnfleet.core.errors import UsageError

if TYPE_CHECKING:
    from vnfleet.cycle.config import CycleConfig
    from vnfleet.cycle.remote_sync import Direction
    from vnfleet.remote.transfer import Transfer

Up = Annotated[bool, typer.Option("--up", help="Send what is new or changed here.")]
Down = Annotated[bool, typer.Option("--down", help="Bring what is new or changed there.")]
Both = Annotated[bool, typer.Option("--both", help="Both ways; what changed on both sides is left alone and told.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would travel; nothing does.")]
Anew = Annotated[bool, typer.Option("--anew", help="With --up: send every file of the release again, also equal ones.")]
ReleaseId = Annotated[
    str | None,
    typer.Option("--release", metavar="ID", help="The release to send or bring (default: the live one; the newest)."),
]
Clean = Annotated[bool, typer.Option("--clean", help="Remove what is listed as removable, after asking.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --clean: do not ask.")]
_BARE = ("this is a whole drive, not a folder of it", "the plan's folder: {}VN-Quant-Training")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    remote = typer.Typer(
        name="remote", help="The folder that this machine shares with those that train for it.", no_args_is_help=True
    )
    remote.command("setup", epilog="Example:  vnfleet remote setup")(setup)
    remote.command("init", epilog="Example:  vnfleet remote init --remote gdrive:VN-Quant-Training")(init)
    remote.command("check", epilog="Example:  vnfleet remote check --json")(check)
    remote.command("sync", epilog="Example:  vnfleet remote sync --both --dry-run")(sync)
    remote.command("audit", epilog="Example:  vnfleet remote audit --clean")(audit)
    app.add_typer(remote)


def setup(context: typer.Context, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """Print how to connect Google Drive (with a client id of your own), another drive, or a mounted folder."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.remote_steps import setup_steps  # noqa: PLC0415

    steps = setup_steps()
    for number, step in enumerate(steps, 1):
        terminal.say(f"{number}. {step.title}")
        for line in step.lines:
            terminal.say(f"   {line}")
    listed = [{"title": step.title, "lines": list(step.lines)} for step in steps]
    terminal.document({"ok": True, "exit_code": 0, "steps": listed})
    return 0


def init(
    context: typer.Context, remote: o.SharedFolder = None, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False
) -> int:
    """Make the plan's folders on the remote and put the Colab script, the notebook and the vnfleet wheel there."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.remote_home import init_home  # noqa: PLC0415 - torch loads only when needed

    text, config, there = _opened(terminal, remote)
    if text.endswith(":") and "," not in text:
        what, expected = _BARE
        raise UsageError(what, found=text, expected=expected.format(text))
    with tempfile.TemporaryDirectory(prefix="vnfleet-") as scratch:
        home = init_home(there, Path(scratch))
    terminal.say(f"{shown_remote(text)}: {', '.join(f'{folder}/' for folder in home.folders)}")
    for name, size in home.files.items():
        terminal.say(f"  {name} ({size_words(size)})")
    terminal.say(f"The script installs that wheel and no other: SHA-256 {home.wheel_sha256}")
    if not config.remote.remote:
        terminal.say("Write it down in vnfleet.toml, so that no command needs --remote:")
        terminal.say(f"[remote]\nremote = {json.dumps(text)}")
    terminal.say("next: vnfleet remote check")
    terminal.document({"ok": True, "exit_code": 0, "remote": shown_remote(text), **home.as_json()})
    return 0


def check(
    context: typer.Context, remote: o.SharedFolder = None, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False
) -> int:
    """Write a probe, list it, read it back and hash it, and list the models there. Exit code 7 with the fix if not."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.remote_home import check_home  # noqa: PLC0415 - torch loads only when needed

    text, _, there = _opened(terminal, remote, quiet=True)
    with tempfile.TemporaryDirectory(prefix="vnfleet-") as scratch:
        found = check_home(there, Path(scratch))
    tell_check(terminal, text, found)
    terminal.document({"ok": True, "exit_code": 0, "remote": shown_remote(text), **found.as_json()})
    return 0


def sync(
    context: typer.Context,
    up: Up = False,
    down: Down = False,
    both: Both = False,
    dry_run: DryRun = False,
    anew: Anew = False,
    release_id: ReleaseId = None,
    remote: o.SharedFolder = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Bring models, configs, logs and reports of the two sides together. Nothing is ever deleted."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    direction = _direction(up=up, down=down, both=both)
    if anew and direction != "up":
        raise UsageError("--anew means sending again", expected="--up --anew", found=f"--{direction} --anew")
    if release_id is not None and direction == "both":
        raise UsageError("--release needs a direction", expected="--up or --down", found="--both")
    from vnfleet.cycle.remote_sync import Sync  # noqa: PLC0415 - torch loads only when needed
    from vnfleet.cycle.workdir import locked  # noqa: PLC0415
    from vnfleet.settings import RESOLVED_NAME, load_settings  # noqa: PLC0415

    text, config, there = _opened(terminal, remote)

    def accept(path: str, file: Path) -> None:
        if path == f"configs/{RESOLVED_NAME}":
            load_settings(file=file)

    takes_in = direction != "up" and not dry_run  # sending may go on beside a training that holds the lock
    with locked(workdir, "synchronising with the remote") if takes_in else contextlib.nullcontext():
        models = _models(terminal, there, config, direction, release_id=release_id, dry_run=dry_run, anew=anew)
        files = Sync(workdir, there, text, accept).run(direction, dry_run=dry_run)
    tell_sync(terminal, files)
    document = {"remote": shown_remote(text), "models": models, "files": files.as_json()}
    terminal.document({"ok": True, "exit_code": 0, **document})
    return 0


def audit(
    context: typer.Context,
    clean: Clean = False,
    yes: Yes = False,
    remote: o.SharedFolder = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Show the space on the remote, what nobody needs any more and the trash, and how to free it."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    if clean and not yes and (as_json or not sys.stdin.isatty()):
        raise UsageError("nobody is here to be asked", fix="vnfleet remote audit --clean --yes")
    from vnfleet.cycle.remote_audit import audit as look  # noqa: PLC0415 - torch loads only when needed
    from vnfleet.cycle.remote_audit import clean as remove  # noqa: PLC0415

    text, config, there = _opened(terminal, remote, quiet=True)
    found = look(there, datetime.now(UTC), keep_releases=config.releases.keep_last)
    tell_audit(terminal, text, found)
    size = sum(one.num_bytes for one in found.removable)
    freed = None
    if clean and found.removable:
        if yes or typer.confirm(f"Remove these {len(found.removable)} things ({size_words(size)})?", err=True):
            freed = remove(there, found.waste, told=lambda what: terminal.note(f"removing {what}"))
            terminal.say(f"{size_words(freed)} removed; on Google Drive they are in its trash for 30 days")
    elif found.removable:
        terminal.say(f"{size_words(size)} could go: vnfleet remote audit --clean")
    document = {"remote": shown_remote(text), **found.as_json(), "freed_bytes": freed}
    terminal.document({"ok": True, "exit_code": 0, **document})
    return 0


def _opened(terminal: Terminal, remote: str | None, *, quiet: bool = False) -> tuple[str, CycleConfig, Transfer]:
    """Return the remote that is meant: how it is called, the settings, and the way to it."""
    from vnfleet.remote.opening import open_remote  # noqa: PLC0415

    config = o.settings_of(terminal.workdir)
    text = o.named_remote(remote, config)
    told = None if quiet else ProgressTeller(terminal)
    return text, config, open_remote(text, bandwidth_limit=config.remote.bandwidth_limit, told=told)


def _direction(*, up: bool, down: bool, both: bool) -> Direction:
    chosen: list[Literal["up", "down", "both"]] = []
    chosen += ["up"] if up else []
    chosen += ["down"] if down else []
    chosen += ["both"] if both else []
    if len(chosen) != 1:
        given = " ".join(f"--{one}" for one in chosen) or "nothing"
        raise UsageError("one direction is needed", expected="--up, --down or --both", found=given)
    return chosen[0]


def _models(
    terminal: Terminal,
    there: Transfer,
    config: CycleConfig,
    direction: Direction,
    *,
    release_id: str | None,
    dry_run: bool,
    anew: bool,
) -> dict[str, object]:
    """Send the live release, or bring the newest one, and return what happened for the document."""
    from vnfleet.cycle.mirror import (  # noqa: PLC0415
        fetch_release,
        is_here,
        mirror_release,
        release_to_fetch,
        release_to_mirror,
    )
    from vnfleet.cycle.received import judge_received, known_outcomes  # noqa: PLC0415
    from vnfleet.cycle.workdir import Folders  # noqa: PLC0415

    folders = Folders(terminal.workdir)
    said: dict[str, object] = {"sent": None, "brought": None}
    if direction != "down":
        wanted = release_id or release_to_mirror(folders.models_prod)
        if wanted is None:
            terminal.say("models: no release here to send")
        elif dry_run:
            terminal.say(f"models: {wanted} would be sent where it is not there yet")
            said["sent"] = {"release_id": wanted}
        else:
            done = mirror_release(folders.models_prod, wanted, there, anew=anew)
            words = f"sent, {done.sent_files} of {done.num_files} files, {size_words(done.sent_bytes)}"
            terminal.say(f"models: {wanted} {words if done.sent else 'is there already'}")
            said["sent"] = {"release_id": wanted, "files": done.sent_files, "bytes": done.sent_bytes}
    if direction != "up":
        wanted = release_id or release_to_fetch(folders, there)
        if wanted is None:
            terminal.say("models: no release there that is newer than those here")
        elif is_here(folders, wanted):
            terminal.say(f"models: {wanted} is here already")
        elif dry_run:
            terminal.say(f"models: {wanted} would be brought here and judged")
            said["brought"] = {"release_id": wanted}
        else:
            outcomes = known_outcomes(terminal.workdir, config)
            came = fetch_release(folders, wanted, there, judge=lambda folder: judge_received(folder, outcomes))
            terminal.say(f"models: {wanted} brought to {folders.models}: {came.words}")
            terminal.say(f"It does not serve yet; to make it live:  vnfleet deploy {wanted}")
            said["brought"] = {"release_id": wanted, "models": came.num_models, "found": came.words}
    return said
