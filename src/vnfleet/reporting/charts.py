"""Charts as plain inline SVG: a few kilobytes each, styled by the page's CSS, readable without a script.

Colours come from classes (``s0`` .. ``s5``, ``up``, ``down``, ``mark``), so dark mode and print need no second chart.
Every mark carries a `<title>`, which browsers show on hover and screen readers read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from markupsafe import Markup, escape

_TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LABEL_GAP = 15.0
_MAX_MONTH_LABELS = 14
_DAYS_PER_YEAR = 365.25


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight map from data [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The drawing area of one chart, in pixels of its own viewBox."""

    width: int
    height: int
    left: int = 52
    right: int = 16
    top: int = 14
    bottom: int = 28

    @property
    def x_end(self) -> int:
        """Pixel of the right edge of the plot."""
        return self.width - self.right

    @property
    def y_end(self) -> int:
        """Pixel of the lower edge of the plot."""
        return self.height - self.bottom


WIDE = Frame(width=1000, height=300, right=150)
NARROW = Frame(width=380, height=240, left=46, right=12)


@dataclass(frozen=True, slots=True)
class Series:
    """One named line: `days` ascending, `values` finite and as long."""

    name: str
    days: tuple[date, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class IntervalPoint:
    """A value with its interval under a label; the interval may be unknown."""

    label: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ChartPair:
    """The same chart for a wide screen and for a phone; the page shows one of them."""

    wide: Markup
    narrow: Markup


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return round ticks (steps of 1, 2, 2.5 or 5 times a power of ten) that cover [low, high]."""
    if high <= low:
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in _TICK_STEPS if power * factor >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def date_ticks(first: date, last: date) -> tuple[tuple[date, str], ...]:
    """Return labelled days: years over a long span, quarters or months over a short one."""
    years = (last - first).days / _DAYS_PER_YEAR
    step = 1 if years <= 1.1 else 3 if years <= 2.6 else 12
    ticks: list[tuple[date, str]] = []
    for index in range(first.year * 12 + first.month - 1, last.year * 12 + last.month):
        day = date(index // 12, index % 12 + 1, 1)
        if index % step == 0 and first <= day <= last:
            ticks.append((day, str(day.year) if day.month == 1 else f"{day:%Y-%m}"))
    return tuple(ticks)


def svg_of(frame: Frame, title: str, parts: Sequence[str], css_class: str) -> Markup:
    """Return `parts` (every text in them escaped) as one picture that says `title` to those who cannot see it."""
    head = (
        f'<svg class="chart {css_class}" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{escape(title)}">'
    )
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704  # every text inside went through escape()


def y_axis(frame: Frame, ticks: Sequence[float], scale: Scale, text: Callable[[float], str]) -> list[str]:
    """Return grid lines across the plot with their values at its left."""
    parts = []
    for tick in ticks:
        y = scale(tick)
        css = "zero" if tick == 0 else "grid"
        parts.append(f'<path class="{css}" d="M{frame.left} {y:.1f}H{frame.x_end}"/>')
        parts.append(f'<text class="tick" x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end">{text(tick)}</text>')
    return parts


def x_label(frame: Frame, x: float, text: str) -> str:
    """Return a tick below the plot with `text` under it."""
    tick = f'<path class="axis" d="M{x:.1f} {frame.y_end}v4"/>'
    return f'{tick}<text class="tick" x="{x:.1f}" y="{frame.y_end + 18}" text-anchor="middle">{escape(text)}</text>'


def interval_chart(
    points: Sequence[IntervalPoint],
    *,
    title: str,
    text: Callable[[float], str],
    frame: Frame,
    css_class: str,
    trailing: int = 12,
) -> Markup:
    """Draw one dot with a whisker per point, the zero line, and the trailing mean of `trailing` points."""
    if not points:
        return Markup("")
    ends = [edge for p in points for edge in (p.value, p.low, p.high) if edge is not None]
    ticks = nice_ticks(min(0.0, *ends), max(0.0, *ends), 6)
    y = Scale(ticks[0], ticks[-1], frame.y_end, frame.top)
    step = (frame.x_end - frame.left) / len(points)
    centres = [frame.left + (index + 0.5) * step for index in range(len(points))]
    parts = y_axis(frame, ticks, y, text)
    every = max(1, math.ceil(len(points) / (_MAX_MONTH_LABELS if frame.width > NARROW.width else 5)))
    yearly = len(points) > _MAX_MONTH_LABELS and any(point.label.endswith("-01") for point in points)
    for index, (centre, point) in enumerate(zip(centres, points, strict=True)):
        if yearly and point.label.endswith("-01"):
            parts.append(x_label(frame, centre, point.label[:4]))
        elif not yearly and index % every == 0:
            parts.append(x_label(frame, centre, point.label))
    radius = max(2.0, min(4.5, step * 0.32))
    for centre, point in zip(centres, points, strict=True):
        side = "up" if point.value >= 0 else "down"
        known = point.low is not None and point.high is not None
        span = f" ({text(point.low)} to {text(point.high)})" if point.low is not None and point.high is not None else ""
        whisker = f'<path d="M{centre:.1f} {y(point.low or 0):.1f}V{y(point.high or 0):.1f}"/>' if known else ""
        dot = f'<circle cx="{centre:.1f}" cy="{y(point.value):.1f}" r="{radius:.1f}"/>'
        label = escape(f"{point.label}: {text(point.value)}{span}")
        parts.append(f'<g class="pt {side}"><title>{label}</title>{whisker}{dot}</g>')
    if len(points) >= trailing:
        means = [
            (centres[index], sum(p.value for p in points[index - trailing + 1 : index + 1]) / trailing)
            for index in range(trailing - 1, len(points))
        ]
        parts.append(f'<path class="trail" d="M{"L".join(f"{x:.1f} {y(mean):.1f}" for x, mean in means)}"/>')
        if frame.right > NARROW.right:
            x_last, mean_last = means[-1]
            words = f"{trailing}-month mean"
            parts.append(f'<text class="end" x="{x_last + step / 2 + 6:.1f}" y="{y(mean_last) + 4:.1f}">{words}</text>')
    return svg_of(frame, title, parts, css_class)


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart to at least `gap`, keeping their order and staying inside [low, high]."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    previous = low - gap
    for index in order:
        placed[index] = previous = max(wanted[index], previous + gap)
    following = high + gap
    for index in reversed(order):
        placed[index] = following = min(placed[index], following - gap)
    return placed


def time_chart(
    series: Sequence[Series],
    *,
    title: str,
    text: Callable[[float], str],
    frame: Frame,
    css_class: str,
    area: bool = False,
) -> Markup:
    """Draw lines over time with the names at their ends; hovering a month shows every value; `area` fills the first."""
    drawn = [line for line in series if line.days]
    if not drawn:
        return Markup("")
    first, last = min(line.days[0] for line in drawn), max(line.days[-1] for line in drawn)
    values = [value for line in drawn for value in line.values]
    ticks = nice_ticks(min(values), max(values), 6 if frame.width > NARROW.width else 4)
    y = Scale(ticks[0], ticks[-1], frame.y_end, frame.top)
    x = Scale(first.toordinal(), max(last.toordinal(), first.toordinal() + 1), frame.left, frame.x_end)
    parts = y_axis(frame, ticks, y, text)
    labels = date_ticks(first, last)
    every = max(1, math.ceil(len(labels) / (_MAX_MONTH_LABELS if frame.width > NARROW.width else 5)))
    parts += [x_label(frame, x(day.toordinal()), words) for day, words in labels[::every]]
    names_y = _spread([y(line.values[-1]) for line in drawn], _LABEL_GAP, frame.top, frame.y_end)
    for index, line in reversed(list(enumerate(drawn))):
        path = "L".join(f"{x(d.toordinal()):.0f} {y(v):.1f}" for d, v in zip(line.days, line.values, strict=True))
        if area and index == 0:
            ends = f"L{x(line.days[-1].toordinal()):.0f} {y(0):.1f}L{x(line.days[0].toordinal()):.0f} {y(0):.1f}Z"
            parts.append(f'<path class="fill s0" d="M{path}{ends}"/>')
        parts.append(f'<path class="line s{index}" d="M{path}"/>')
        if frame.right > NARROW.right:
            spot = f'x="{frame.x_end + 8}" y="{names_y[index] + 4:.1f}"'
            parts.append(f'<text class="end s{index}" {spot}>{escape(line.name)}</text>')
    return svg_of(frame, title, parts + _month_hits(drawn, x, frame, text), css_class)


def _month_hits(series: Sequence[Series], x: Scale, frame: Frame, text: Callable[[float], str]) -> list[str]:
    """Return one invisible column per month whose title tells the last value of every series in it."""
    by_month: dict[str, dict[str, tuple[date, float]]] = {}
    for line in series:
        for day, value in zip(line.days, line.values, strict=True):
            by_month.setdefault(f"{day:%Y-%m}", {})[line.name] = (day, value)
    months = sorted(by_month)
    edges = [min(day for day, _ in by_month[month].values()).toordinal() for month in months]
    starts = [frame.left if index == 0 else x(edges[index - 1]) for index in range(len(months))]
    parts = []
    for month, start, edge in zip(months, starts, edges, strict=True):
        words = "\n".join((month, *(f"{name}: {text(value)}" for name, (_, value) in by_month[month].items())))
        width = max(x(edge) - start, 1.0)
        size = f'y="{frame.top}" width="{width:.1f}" height="{frame.y_end - frame.top}"'
        parts.append(f'<rect class="hit" x="{start:.1f}" {size}><title>{escape(words)}</title></rect>')
    return parts


def strip(
    point: IntervalPoint,
    domain: tuple[float, float],
    marks: Sequence[tuple[float, str]],
    text: Callable[[float], str],
    *,
    width: int = 220,
    labelled: bool = False,
) -> Markup:
    """Draw one value and its interval on a line, with named marks (zero, 50 %, a base rate) to compare it with."""
    height, middle = (44, 14) if labelled else (22, 11)
    x = Scale(domain[0], domain[1], 8, width - 8)
    parts = [f'<path class="rail" d="M4 {middle}H{width - 4}"/>']
    label_x = _spread([x(value) for value, _ in marks], 62.0, 24, width - 24) if labelled else []
    for index, (value, name) in enumerate(marks):
        at = x(value)
        words = escape(f"{name}: {text(value)}")
        parts.append(f'<g class="mark"><title>{words}</title><path d="M{at:.1f} {middle - 9}v18"/></g>')
        if labelled:
            parts.append(f'<path class="lead" d="M{at:.1f} {middle + 9}L{label_x[index]:.1f} {middle + 17}"/>')
            spot = f'x="{label_x[index]:.1f}" y="{height - 3}" text-anchor="middle"'
            parts.append(f'<text class="tick" {spot}>{escape(name)}</text>')
    if point.low is not None and point.high is not None:
        low, high = max(point.low, domain[0]), min(point.high, domain[1])
        parts.append(f'<path class="span" d="M{x(low):.1f} {middle}H{x(high):.1f}"/>')
    parts.append(f'<circle class="dot" cx="{x(point.value):.1f}" cy="{middle}" r="5"/>')
    span = f", {text(point.low)} to {text(point.high)}" if point.low is not None and point.high is not None else ""
    return svg_of(Frame(width=width, height=height), f"{point.label}: {text(point.value)}{span}", parts, "strip")
