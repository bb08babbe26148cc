"""The small charts of the check page, as inline SVG: prices around a doubtful session, findings per month.

Colours come from classes of the page's CSS, as in `vnfleet.reporting.charts`; every mark carries a `<title>`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from markupsafe import Markup, escape

from vnfleet.reporting.charts import NARROW, ChartPair, Frame, Scale, nice_ticks
from vnfleet.reporting.formats import number

EVIDENCE = Frame(width=400, height=214, left=50, right=12, top=22, bottom=24)
MONTHS_WIDE = Frame(width=1000, height=230, left=44, right=12)
OFF_CHART = 2.7
"""Prices this many times above or below the middle one are marked at the edge, not drawn to scale."""
_MAX_LABELS = 14
_MAX_NARROW_BARS = 40


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of an evidence chart: `values` per session of the chart, None where nothing is known."""

    name: str
    css_class: str
    values: tuple[float | None, ...]
    dots: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidencePicture:
    """Prices around one session: sessions ascending, which one is doubtful, the lines, more stored closes of that day.

    Lines come with the one to be drawn on top last. `sticks` are (low, high) of the stored bars per session, `bars` the
    doubtful session's own (css class, open, low, high), as stored and as used. `events` are (place, words) of corporate
    actions, `others` of further findings in the same symbol.
    """

    title: str
    sessions: tuple[date, ...]
    marked: int
    curves: tuple[Curve, ...]
    sticks: tuple[tuple[float, float] | None, ...] = ()
    bars: tuple[tuple[str, float | None, float | None, float | None], ...] = ()
    doubled: tuple[float, ...] = ()
    events: tuple[tuple[int, str], ...] = ()
    others: tuple[tuple[int, str], ...] = ()


def evidence_chart(picture: EvidencePicture) -> Markup:
    """Draw the lines around a doubtful session, which is shaded; values off the chart become arrows at its edge."""
    frame = EVIDENCE
    known = [value for curve in picture.curves for value in curve.values if value is not None and value > 0]
    if not known:
        return Markup("")
    middle = sorted(known)[len(known) // 2]
    low_edge, high_edge = middle / OFF_CHART, middle * OFF_CHART
    near = [edge for stick in picture.sticks if stick is not None for edge in stick]
    near += [edge for bar in picture.bars for edge in bar[1:] if edge is not None]
    inside = [value for value in (*known, *picture.doubled, *near) if low_edge <= value <= high_edge]
    ticks = nice_ticks(min(inside), max(inside), 4)
    y = Scale(ticks[0], ticks[-1], frame.y_end, frame.top)
    x = Scale(0, max(len(picture.sessions) - 1, 1), frame.left + 6, frame.x_end - 6)
    step = (x.end - x.start) / max(len(picture.sessions) - 1, 1)
    size = f'y="{frame.top}" width="{step:.1f}" height="{frame.y_end - frame.top}"'
    parts = [f'<rect class="doubt" x="{x(picture.marked) - step / 2:.1f}" {size}/>']
    parts += _price_axis(frame, ticks, y)
    parts += _session_axis(frame, picture, x)
    for place, words in picture.events:
        at = f"{x(place):.1f}"
        parts.append(f'<g class="event"><title>{escape(words)}</title><path d="M{at} {frame.top}V{frame.y_end}"/>')
        parts.append(f'<path class="flag" d="M{at} {frame.top - 12}l4 6l-4 6l-4-6z"/></g>')
    for place, words in picture.others:
        at = f"{x(place):.1f} {frame.y_end}"
        parts.append(f'<g class="other"><title>{escape(words)}</title><path d="M{at}l-3.5 6h7z"/></g>')
    parts += _sticks(picture, x, y, (low_edge, high_edge))
    for curve in picture.curves:
        parts += _curve(curve, picture.marked, x, y, (low_edge, high_edge), frame)
    parts += [
        f'<circle class="ring raw" cx="{x(picture.marked):.1f}" cy="{y(value):.1f}" r="3.2"/>'
        for value in picture.doubled
        if low_edge <= value <= high_edge
    ]
    parts += _hits(picture, x, step, frame)
    return _svg(frame, picture.title, parts, "evidence")


def _curve(curve: Curve, marked: int, x: Scale, y: Scale, edges: tuple[float, float], frame: Frame) -> list[str]:
    """Return one line with gaps where nothing is known, arrows where it leaves the chart, a ring where it is marked."""
    parts: list[str] = []
    runs: list[list[str]] = [[]]
    for place, value in enumerate(curve.values):
        if value is None or not edges[0] <= value <= edges[1]:
            runs.append([])
            if value is not None:
                parts.append(_arrow(curve, place, value, x, edges, frame, labelled=place == marked and curve.dots))
            continue
        runs[-1].append(f"{x(place):.1f} {y(value):.1f}")
        if place == marked:
            radius = 3.2 if curve.dots else 4.6  # the filled one on top leaves the rings around it to be seen
            spot = f'cx="{x(place):.1f}" cy="{y(value):.1f}" r="{radius}"'
            parts.append(f'<circle class="ring {curve.css_class}" {spot}/>')
        elif curve.dots:
            parts.append(f'<circle class="dot {curve.css_class}" cx="{x(place):.1f}" cy="{y(value):.1f}" r="1.7"/>')
    drawn = "".join(f"M{'L'.join(run)}" for run in runs if len(run) > 1)
    alone = [run[0].split() for run in runs if len(run) == 1 and not curve.dots]
    parts += [f'<circle class="dot {curve.css_class}" cx="{left}" cy="{top}" r="1.7"/>' for left, top in alone]
    return [f'<path class="curve {curve.css_class}" d="{drawn}"/>', *parts] if drawn else parts


def _sticks(picture: EvidencePicture, x: Scale, y: Scale, edges: tuple[float, float]) -> list[str]:
    """Return the range of every stored bar, and of the doubtful session the range and open as stored and as used."""

    def held(value: float) -> float:
        return min(max(value, edges[0]), edges[1])

    drawn = [
        f"M{x(place):.1f} {y(held(stick[0])):.1f}V{y(held(stick[1])):.1f}"
        for place, stick in enumerate(picture.sticks)
        if stick is not None and place != picture.marked
    ]
    parts = [f'<path class="stick" d="{"".join(drawn)}"/>'] if drawn else []
    at = x(picture.marked)
    for side, (css_class, open_, low, high) in zip((-1, 1), picture.bars, strict=False):
        line = ""
        if low is not None and high is not None:
            line += f"M{at + 1.6 * side:.1f} {y(held(low)):.1f}V{y(held(high)):.1f}"
        if open_ is not None and edges[0] <= open_ <= edges[1]:
            line += f"M{at:.1f} {y(open_):.1f}h{7 * side}"
        if line:
            parts.append(f'<path class="bar-now {css_class}" d="{line}"/>')
    return parts


def _arrow(
    curve: Curve, place: int, value: float, x: Scale, edges: tuple[float, float], frame: Frame, *, labelled: bool
) -> str:
    down = value < edges[0]
    tip, back = (frame.y_end - 1, -7) if down else (frame.top + 1, 7)
    arrow = f'<path class="off {curve.css_class}" d="M{x(place):.1f} {tip}l-4 {back}h8z"/>'
    if not labelled:
        return arrow
    right = x(place) < frame.width * 0.7
    spot = f'x="{x(place) + (8 if right else -8):.1f}" y="{tip + back / 2 + 4:.1f}"'
    anchor = "start" if right else "end"
    return f'{arrow}<text class="off" {spot} text-anchor="{anchor}">{number(value, 0)}</text>'


def _price_axis(frame: Frame, ticks: Sequence[float], y: Scale) -> list[str]:
    digits = 0 if ticks[1] - ticks[0] >= 1 else 2
    parts = []
    for tick in ticks:
        at = f"{y(tick):.1f}"
        parts.append(f'<path class="grid" d="M{frame.left} {at}H{frame.x_end}"/>')
        spot = f'x="{frame.left - 5}" y="{y(tick) + 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="tick" {spot}>{number(tick, digits)}</text>')
    return parts


def _session_axis(frame: Frame, picture: EvidencePicture, x: Scale) -> list[str]:
    """Label the doubtful session in the middle and, with room, the first and last one."""
    last = len(picture.sessions) - 1
    gap = len(picture.sessions) // 3
    places = {picture.marked} | {place for place in (0, last) if abs(place - picture.marked) >= max(gap, 1)}
    parts = []
    for place in sorted(places):
        anchor = "start" if place == 0 else "end" if place == last else "middle"
        words = picture.sessions[place].isoformat()
        css = "tick now" if place == picture.marked else "tick"
        left = {"start": frame.left, "end": frame.x_end}.get(anchor, x(place))
        parts.append(f'<text class="{css}" x="{left:.1f}" y="{frame.y_end + 16}" text-anchor="{anchor}">{words}</text>')
    return parts


def _hits(picture: EvidencePicture, x: Scale, step: float, frame: Frame) -> list[str]:
    """Return one invisible column per session that tells every value there."""
    parts = []
    size = f'y="{frame.top}" width="{step:.1f}" height="{frame.y_end - frame.top}"'
    for place, session in enumerate(picture.sessions):
        values = [(curve.name, curve.values[place]) for curve in picture.curves]
        told = [f"{name} {number(value, 0)}" for name, value in values if value is not None]
        words = "\n".join((session.isoformat(), *(told or ["no row"])))
        left = f"{x(place) - step / 2:.1f}"
        parts.append(f'<rect class="hit" x="{left}" {size}><title>{escape(words)}</title></rect>')
    return parts


@dataclass(frozen=True, slots=True)
class MonthBar:
    """Findings of one month (or longer): its label, and (css class, words, count) from the bottom up."""

    label: str
    parts: tuple[tuple[str, str, int], ...]

    @property
    def total(self) -> int:
        """All findings of the bar."""
        return sum(count for _, _, count in self.parts)


def month_charts(bars: Sequence[MonthBar], title: str) -> ChartPair:
    """Draw stacked bars, one a month; on a phone years when there are too many months."""
    narrow = bars if len(bars) <= _MAX_NARROW_BARS else _by_year(bars)
    unit = "month" if narrow is bars else "year"
    return ChartPair(
        _bars(bars, f"{title} per month", MONTHS_WIDE, "wide"), _bars(narrow, f"{title} per {unit}", NARROW, "narrow")
    )


def _by_year(bars: Sequence[MonthBar]) -> list[MonthBar]:
    years: dict[str, list[MonthBar]] = {}
    for bar in bars:
        years.setdefault(bar.label[:4], []).append(bar)
    return [
        MonthBar(
            year,
            tuple(
                (css, words, sum(month.parts[place][2] for month in months))
                for place, (css, words, _) in enumerate(months[0].parts)
            ),
        )
        for year, months in years.items()
    ]


def _bars(bars: Sequence[MonthBar], title: str, frame: Frame, css_class: str) -> Markup:
    if not any(bar.total for bar in bars):
        return Markup("")
    ticks = [tick for tick in nice_ticks(0, max(bar.total for bar in bars), 4) if tick == int(tick)]
    y = Scale(0, ticks[-1], frame.y_end, frame.top)
    step = (frame.x_end - frame.left) / len(bars)
    width = max(step * 0.82, min(step, 1.5))
    parts = _price_axis(frame, ticks, y)
    parts += _bar_labels(bars, frame, step)
    for place, bar in enumerate(bars):
        left = frame.left + place * step + (step - width) / 2
        base = 0
        for css, _, count in bar.parts:
            if count:
                top = y(base + count)
                size = f'width="{width:.1f}" height="{max(y(base) - top, 0.6):.1f}"'
                parts.append(f'<rect class="bar-part {css}" x="{left:.1f}" y="{top:.1f}" {size}/>')
            base += count
        words = "\n".join((bar.label, *(f"{name}: {number(count, 0)}" for _, name, count in bar.parts)))
        size = f'y="{frame.top}" width="{step:.1f}" height="{frame.y_end - frame.top}"'
        column = f'<rect class="hit" x="{frame.left + place * step:.1f}" {size}>'
        parts.append(f"{column}<title>{escape(words)}</title></rect>")
    return _svg(frame, title, parts, css_class)


def _bar_labels(bars: Sequence[MonthBar], frame: Frame, step: float) -> list[str]:
    most = _MAX_LABELS if frame.width > NARROW.width else 6
    starts = [place for place, bar in enumerate(bars) if bar.label.endswith("-01")]
    yearly = len(bars) > most and bool(starts)
    places = starts if yearly else list(range(len(bars)))
    every = max(1, math.ceil(len(places) / most))
    parts = []
    for place in places[::every]:
        words = bars[place].label[:4] if yearly else bars[place].label
        at = frame.left + (place if yearly else place + 0.5) * step
        anchor = "start" if yearly else "middle"
        parts.append(f'<path class="axis" d="M{at:.1f} {frame.y_end}v4"/>')
        spot = f'x="{at:.1f}" y="{frame.y_end + 18}" text-anchor="{anchor}"'
        parts.append(f'<text class="tick" {spot}>{escape(words)}</text>')
    return parts


def _svg(frame: Frame, title: str, parts: Sequence[str], css_class: str) -> Markup:
    head = (
        f'<svg class="chart {css_class}" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{escape(title)}">'
    )
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704  # every text inside went through escape()
