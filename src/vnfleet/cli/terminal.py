"""What a person or a script sees: text or one JSON document on stdout, progress and logs on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vnfleet.core.errors import UsageError

if TYPE_CHECKING:
    from datetime import date

    import polars as pl
    from rich.progress import Progress, TaskID

    from vnfleet.cycle.runner import StepOutcome

DEFAULT_WORKDIR = Path("work")
_SECONDS_BETWEEN_LINES = 20.0


@dataclass(slots=True)
class Terminal:
    """One command's output: `say` and `table` for people, `document` for scripts (only one of the two is printed)."""

    as_json: bool = False
    workdir: Path = DEFAULT_WORKDIR

    def say(self, text: str = "") -> None:
        """Print a line for people: stdout, or stderr when stdout carries JSON."""
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def note(self, text: str) -> None:
        """Print a line of log, always to stderr."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def document(self, value: Mapping[str, object]) -> None:
        """Print the one JSON document of the command, when that was asked for."""
        if self.as_json:
            print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str), flush=True)  # noqa: T201

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table for people."""
        if self.as_json:
            return
        from rich.console import Console  # noqa: PLC0415 - only when something is shown
        from rich.table import Table  # noqa: PLC0415

        table = Table(title=title, title_justify="left", header_style="bold")
        for name in columns:
            table.add_column(name)
        for row in rows:
            table.add_row(*("-" if value is None else str(value) for value in row))
        Console().print(table)

    def forecasts(self, session: date, frame: pl.DataFrame, shown: int = 10) -> None:
        """Print the strongest forecasts of a prediction frame."""
        best = frame.sort("score", descending=True, nulls_last=True).head(shown)
        rows = [
            (
                row["symbol"],
                _figure(row["score"], "+.2f"),
                _figure(row["direction_prob"], ".0%"),
                _figure(row["expected_return_frac"], "+.2%"),
            )
            for row in best.iter_rows(named=True)
        ]
        title = f"Forecasts made at the close of {session}: the {len(rows)} strongest of {frame.height}"
        self.table(title, ("symbol", "score", "P(up)", "expected return"), rows)


def duration(seconds: float) -> str:
    """Return a duration for a person: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _figure(value: float | None, style: str) -> str | None:
    return None if value is None else format(value, style)


def terminal_of(context: typer.Context, workdir: Path, *, as_json: bool) -> Terminal:
    """Return the terminal of this run, told where the command works and how it prints.

    Raises `UsageError` when `workdir` is, or lies below, something that is no folder.
    """
    terminal = context.ensure_object(Terminal)
    terminal.as_json = as_json
    there = next((path for path in (workdir, *workdir.parents) if path.exists()), workdir)
    if there.exists() and not there.is_dir():
        raise UsageError("the workdir is not a folder", where=there, fix="pass another --workdir")
    terminal.workdir = workdir
    return terminal


@contextmanager
def watching(terminal: Terminal) -> Iterator[TerminalObserver]:
    """Yield an observer: progress bars with the time left on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield TerminalObserver(terminal)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column  # noqa: PLC0415

    doing = TextColumn("{task.fields[doing]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        doing,
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bars:
        yield TerminalObserver(terminal, bars)


@dataclass(slots=True)
class TerminalObserver:
    """Shows a cycle while it runs."""

    terminal: Terminal
    bars: Progress | None = None
    _task: TaskID | None = None
    _started: float = field(default_factory=time.monotonic)
    _last_line: float = field(default_factory=time.monotonic)

    def step_started(self, name: str) -> None:
        """Open a bar."""
        self._started = self._last_line = time.monotonic()
        if self.bars is not None:
            self._task = self.bars.add_task(name, total=None, doing="")

    def step_finished(self, outcome: StepOutcome) -> None:
        """Close the bar and leave one line."""
        if self.bars is not None and self._task is not None:
            self.bars.remove_task(self._task)
            self._task = None
        took = "reused" if outcome.reused else f"{outcome.seconds:.1f} s, {outcome.peak_memory_mib:.0f} MiB"
        line = f"{outcome.name:<9} {outcome.summary}  ({took})"
        if self.bars is not None:
            self.bars.console.print(line, markup=False, highlight=False)
        else:
            self.terminal.note(line)

    def told(self, step: str, sentence: str) -> None:
        """Leave one line that stays."""
        line = f"{step:<9} {sentence}"
        if self.bars is not None:
            self.bars.console.print(line, markup=False, highlight=False)
        else:
            self.terminal.note(line)

    def progress(self, step: str, done: float, total: float, doing: str) -> None:
        """Move the bar, or write a line now and then."""
        if self.bars is not None and self._task is not None:
            self.bars.update(self._task, completed=done, total=total, doing=doing)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._started) * (total - done) / done if done > 0 else None
            eta = "" if left is None else f", about {left:.0f} s left"
            self.terminal.note(f"{step:<9} {done / total:.0%} {doing}{eta}" if total else f"{step:<9} {doing}")
