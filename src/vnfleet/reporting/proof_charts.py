"""The pictures of the proof, as inline SVG: intervals side by side in rows, and what was said against what happened.

Colours come from classes of the page's CSS, as in `vnfleet.reporting.charts`; every mark carries a `<title>`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from vnfleet.reporting.charts import Frame, IntervalPoint, Scale, nice_ticks, svg_of, x_label, y_axis
from vnfleet.reporting.formats import UNKNOWN

SQUARE = Frame(width=400, height=372, left=52, right=14, top=14, bottom=48)
_ROW, _TOP, _BOTTOM = 25.0, 40.0, 28.0
_GAP, _VALUE_WIDTH = 20.0, 58.0
_CHARACTER = 6.5  # pixels of one letter at the page's chart type, a little generous

Side = Literal["above", "below", "unsure"]


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One line of an interval chart: a heading (no points), or a label with one point per panel, None if unknown.

    `note` is written small after the label where there is room.
    """

    label: str
    points: tuple[IntervalPoint | None, ...] = ()
    note: str = ""

    @property
    def is_heading(self) -> bool:
        """True for a row that only names those below it."""
        return not self.points


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One number of every row: its title, the value without skill, how values are written."""

    title: str
    none: float
    text: Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Bin:
    """The forecasts of about one probability: the mean said, the share that happened, its interval, how many."""

    said: float
    happened: float
    low: float | None
    high: float | None
    num_rows: int


def side_of(point: IntervalPoint, none: float) -> Side:
    """Return on which side of `none` the whole interval lies; unsure when it holds `none` or is not known."""
    if point.low is not None and point.low > none:
        return "above"
    return "below" if point.high is not None and point.high < none else "unsure"


def interval_rows(
    rows: Sequence[IntervalRow],
    panels: Sequence[Panel],
    *,
    title: str,
    width: int,
    label_width: int,
    css_class: str,
) -> Markup:
    """Draw one dot with its interval per row and panel, all rows of a panel on one scale, with the no-skill line.

    A filled dot has its whole interval on one side of that line, a hollow one is not told apart from luck.
    """
    if not any(row.points for row in rows):
        return Markup("")
    frame = Frame(width=width, height=round(_TOP + _ROW * len(rows) + _BOTTOM), top=int(_TOP), bottom=int(_BOTTOM))
    middles = [_TOP + (index + 0.5) * _ROW for index in range(len(rows))]
    parts = [_row_label(row, middle, label_width) for row, middle in zip(rows, middles, strict=True)]
    share = (width - label_width) / len(panels)
    for index, panel in enumerate(panels):
        points = [row.points[index] if row.points else None for row in rows]
        start = label_width + index * share
        parts += _panel(panel, points, rows, middles, frame, start, start + share)
    return svg_of(frame, title, parts, css_class)


def _row_label(row: IntervalRow, middle: float, label_width: int) -> str:
    if row.is_heading:
        return f'<text class="head" x="0" y="{middle + 6:.1f}">{escape(row.label)}</text>'
    room = int((label_width - 14) / _CHARACTER)
    with_note = len(row.label) + len(row.note) + 2 <= room
    short = row.label if len(row.label) <= room else f"{row.label[: room - 1].rstrip()}…"
    note = f'<tspan class="aside" dx="6">{escape(row.note)}</tspan>' if row.note and with_note else ""
    full = escape(f"{row.label}, {row.note}" if row.note else row.label)
    spot = f'x="8" y="{middle + 4:.1f}"'
    return f'<text class="row" {spot}><title>{full}</title>{escape(short)}{note}</text>'


def _panel(
    panel: Panel,
    points: Sequence[IntervalPoint | None],
    rows: Sequence[IntervalRow],
    middles: Sequence[float],
    frame: Frame,
    start: float,
    end: float,
) -> list[str]:
    known = [point for point in points if point is not None]
    spots = [panel.none, *(edge for p in known for edge in (p.value, p.low, p.high) if edge is not None)]
    ticks = nice_ticks(min(spots), max(spots), 3)
    x = Scale(ticks[0], ticks[-1], start + _GAP, end - _VALUE_WIDTH)
    parts = [f'<text class="head" x="{start + _GAP:.1f}" y="16">{escape(panel.title)}</text>']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {_TOP - 10:.1f}V{frame.y_end}"/>')
        spot = f'x="{x(tick):.1f}" y="{frame.y_end + 18}" text-anchor="middle"'
        parts.append(f'<text class="tick" {spot}>{escape(panel.text(tick))}</text>')
    words = escape(f"no skill: {panel.text(panel.none)}")
    line = f'<path d="M{x(panel.none):.1f} {_TOP - 14:.1f}V{frame.y_end}"/>'
    parts.append(f'<g class="mark"><title>{words}</title>{line}</g>')
    for row, point, middle in zip(rows, points, middles, strict=True):
        if row.is_heading:
            continue
        said = UNKNOWN if point is None else panel.text(point.value)
        spot = f'x="{end - 4:.1f}" y="{middle + 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="value" {spot}>{escape(said)}</text>')
        if point is not None:
            parts.append(_interval(point, panel, x, middle))
    return parts


def _interval(point: IntervalPoint, panel: Panel, x: Scale, middle: float) -> str:
    span = whisker = ""
    if point.low is not None and point.high is not None:
        span = f" ({panel.text(point.low)} to {panel.text(point.high)})"
        whisker = f'<path d="M{x(point.low):.1f} {middle:.1f}H{x(point.high):.1f}"/>'
    dot = f'<circle cx="{x(point.value):.1f}" cy="{middle:.1f}" r="4.5"/>'
    label = escape(f"{point.label}: {panel.text(point.value)}{span}")
    return f'<g class="iv {side_of(point, panel.none)}"><title>{label}</title>{whisker}{dot}</g>'


def reliability_chart(
    bins: Sequence[Bin], *, title: str, text: Callable[[float], str], base_rate: float | None = None
) -> Markup:
    """Draw what was said (across) against what happened (upwards), both on one scale, with the honest diagonal.

    `base_rate` adds the level line on which forecasts without any opinion lie.
    """
    if not bins:
        return Markup("")
    spots = [edge for one in bins for edge in (one.said, one.happened, one.low, one.high) if edge is not None]
    ticks = nice_ticks(min(spots), max(spots), 5)
    x = Scale(ticks[0], ticks[-1], SQUARE.left, SQUARE.x_end)
    y = Scale(ticks[0], ticks[-1], SQUARE.y_end, SQUARE.top)
    parts = y_axis(SQUARE, ticks, y, text)
    parts += [x_label(SQUARE, x(tick), text(tick)) for tick in ticks]
    middle = (SQUARE.left + SQUARE.x_end) / 2
    spot = f'x="{middle:.1f}" y="{SQUARE.height - 6}" text-anchor="middle"'
    parts.append(f'<text class="tick" {spot}>chance of a rise, as the model said it</text>')
    words = "honest: it happens as often as it was said"
    line = f'<path d="M{SQUARE.left} {SQUARE.y_end}L{SQUARE.x_end} {SQUARE.top}"/>'
    parts.append(f'<g class="mark thin"><title>{words}</title>{line}</g>')
    if base_rate is not None and ticks[0] <= base_rate <= ticks[-1]:
        level = y(base_rate)
        parts.append(f'<path class="base" d="M{SQUARE.left} {level:.1f}H{SQUARE.x_end}"/>')
        spot = f'x="{SQUARE.left + 6}" y="{level - 6:.1f}"'
        parts.append(f'<text class="tick" {spot}>of all forecasts {escape(text(base_rate))} rose</text>')
    for one in bins:
        at, whisker = f"{x(one.said):.1f}", ""
        if one.low is not None and one.high is not None:
            whisker = f'<path d="M{at} {y(one.low):.1f}V{y(one.high):.1f}"/>'
        label = escape(f"said {text(one.said)}, rose {text(one.happened)}, {one.num_rows:,} forecasts")
        dot = f'<circle cx="{at}" cy="{y(one.happened):.1f}" r="4.5"/>'
        parts.append(f'<g class="pt"><title>{label}</title>{whisker}{dot}</g>')
    return svg_of(SQUARE, title, parts, "square")
