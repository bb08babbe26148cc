"""The entry point: one typer application, and the only place where errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from vnfleet import __version__
from vnfleet.cli import bench, looking, packing, remote, serving, week
from vnfleet.cli.options import join_symbols
from vnfleet.cli.terminal import Terminal
from vnfleet.core.atomic import is_disk_full
from vnfleet.core.errors import ExitCode, VnfleetError

_RESOURCE = "{}, the deployed set is as it was\n  next: {}, then run the same command again: finished work is kept"
INTERRUPTED = 130  # what shells report after Ctrl-C

app = typer.Typer(
    name="vnfleet",
    help="The weekly model factory for Vietnamese stocks: prices in, a proven and deployed set of models out.",
    epilog="Start here:  vnfleet demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vnfleet {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


week.register(app)
packing.register(app)
remote.register(app)
serving.register(app)
looking.register(app)
bench.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `vnfleet.core.errors.ExitCode`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    terminal = Terminal(as_json="--json" in words)
    try:
        code = app(join_symbols(words), prog_name="vnfleet", obj=terminal, standalone_mode=False)
        return _interrupted(terminal) if code == INTERRUPTED else int(code or 0)  # typer turns Ctrl-C into a code
    except VnfleetError as error:
        if error.exit_code is ExitCode.BUG:  # met in another process, its traceback is among the notes
            return _report(terminal, ExitCode.BUG, f"{error}\n  details: {_write_log(terminal.workdir, error)}")
        return _report(terminal, error.exit_code, str(error))
    except TyperException as error:
        said = error.format_message() or "no command was given"
        return _report(terminal, ExitCode.USAGE, f"{said}\n  next: vnfleet --help")
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(terminal)
    except Exception as error:  # noqa: BLE001 - the last line of defence: nothing may end in a traceback
        return _unexpected(terminal, error)


def _interrupted(terminal: Terminal) -> int:
    return _report(terminal, INTERRUPTED, "stopped; run the same command again and it continues where it was")


def _unexpected(terminal: Terminal, error: Exception) -> int:
    if is_disk_full(error):
        return _report(terminal, ExitCode.RESOURCE, _RESOURCE.format("the disk is full", "free some space"))
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch raises a RuntimeError
        return _report(terminal, ExitCode.RESOURCE, _RESOURCE.format("out of memory", "close other programs"))
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        fix = "give your account the right to it, or pass another --workdir"
        return _report(terminal, ExitCode.RESOURCE, f"a file may not be used: {error}\n  next: {fix}")
    log = _write_log(terminal.workdir, error)
    first = str(error).splitlines()[0] if str(error) else ""
    return _report(terminal, ExitCode.BUG, f"a bug in vnfleet: {type(error).__name__}: {first} (details: {log})")


def _write_log(workdir: Path, error: Exception) -> Path:
    """Write the traceback where the person works, or to the temporary folder when that is not possible."""
    name = f"error-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
    text = "".join(traceback.format_exception(error))
    for folder in (workdir / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return Path(os.devnull)


def _report(terminal: Terminal, code: int, message: str) -> int:
    terminal.note(f"error: {message}" if code != INTERRUPTED else message)
    terminal.document({"ok": False, "exit_code": int(code), "error": message})
    return int(code)
