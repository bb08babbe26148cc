"""Tables of a benchmark: every figure says whether it was measured here, estimated from a measurement, or claimed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

Mark = Literal["measured", "estimated", "claimed"]
MARKS: dict[Mark, str] = {"measured": "m", "estimated": "e", "claimed": "c"}
LEGEND = "(m) measured in this run, (e) estimated from a measurement of this run, (c) claimed by somebody else"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what people read, the figure behind it (None for words), and where it comes from."""

    text: str
    value: float | None = None
    mark: Mark | None = None

    def __str__(self) -> str:
        """Return the text with its mark."""
        return self.text if self.mark is None else f"{self.text} ({MARKS[self.mark]})"

    def as_json(self) -> JsonValue:
        """Return the cell as plain JSON; infinite or NaN figures become null."""
        value = self.value if self.value is not None and math.isfinite(self.value) else None
        return {"text": self.text, "value": value, "mark": self.mark}


NOTHING = Cell("-")


def claimed(text: str | None, value: float | None = None) -> Cell:
    """Return what somebody else says, as written; a dash, without a mark, where they say nothing."""
    return NOTHING if text is None else Cell(text, value, "claimed")


def words(text: str) -> Cell:
    """Return a cell without a figure."""
    return Cell(text)


def seconds_cell(seconds: float, mark: Mark) -> Cell:
    """Return a duration for people: "40 ms", "12.3 s", "4.5 min", "3.1 h"."""
    return Cell(seconds_text(seconds), seconds, mark)


def seconds_text(seconds: float) -> str:
    """Return a duration with about three digits."""
    if seconds < 1.0:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 90.0:
        return f"{seconds:.1f} s"
    if seconds < 90.0 * 60.0:
        return f"{seconds / 60.0:.1f} min"
    return f"{seconds / 3600.0:.1f} h"


def rough_cell(seconds: float) -> Cell:
    """Return an estimated duration with one significant digit: all that a guess from another machine is worth."""
    unit = 1e-3 if seconds < 1.0 else 1.0 if seconds < 90.0 else 60.0 if seconds < 90.0 * 60.0 else 3600.0
    name = {1e-3: "ms", 1.0: "s", 60.0: "min", 3600.0: "h"}[unit]
    figure = float(f"{seconds / unit:.0e}")
    return Cell(f"{figure:g} {name}", figure * unit, "estimated")


def counts_text(models: int, seeds: int, epochs: str | int) -> str:
    """Return how much was run: "40 models x 1 seed x 2 epochs"."""

    def counted(number: int | str, noun: str) -> str:
        return f"{number} {noun}{'' if number == 1 else 's'}"

    return f"{counted(models, 'model')} x {counted(seeds, 'seed')} x {counted(epochs, 'epoch')}"


def number_cell(value: float, mark: Mark, style: str = ",.0f", unit: str = "") -> Cell:
    """Return `value` in the given format, with its unit."""
    return Cell(f"{value:{style}}{unit and f' {unit}'}", value, mark)


def rate_cell(value: float, mark: Mark) -> Cell:
    """Return a rate with three digits: "11.2", "9,870"."""
    return Cell(f"{value:,.0f}" if value >= 100.0 else f"{value:.3g}", value, mark)


def share_cell(value: float, mark: Mark) -> Cell:
    """Return a fraction as percent."""
    return Cell(f"{value:.1%}" if value < 0.1 else f"{value:.0%}", value, mark)


def mean_cell(mean: float, low: float | None, high: float | None, mark: Mark = "measured") -> Cell:
    """Return a mean with its 95 % interval, or a dash in its place where there is none."""
    interval = "no interval" if low is None or high is None else f"{low:.3f}, {high:.3f}"
    return Cell(f"{mean:.3f} [{interval}]", mean, mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: `rows` of as many cells as there are `columns`; `notes` are read below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse ragged rows."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: a row has {len(row)} cells for {len(self.columns)} columns")

    def as_json(self) -> JsonValue:
        """Return the table as plain JSON."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [[cell.as_json() for cell in row] for row in self.rows],
            "notes": list(self.notes),
        }

    def markdown(self) -> str:
        """Return the table as GitHub Markdown under a heading of the second level."""
        lines = [f"## {self.title}", "", _row(self.columns), "|" + "---|" * len(self.columns)]
        lines += [_row([str(cell) for cell in row]) for row in self.rows]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
