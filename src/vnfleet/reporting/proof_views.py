"""From the frames of the proof to what the page shows of it: where it works, how sure it is, leaks, costs of rules.

Everything here is about the serving model at the horizon of the page. A part without anything to show is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from vnfleet.evaluation.sharpe import expected_max_sharpe
from vnfleet.reporting.charts import ChartPair, IntervalPoint
from vnfleet.reporting.formats import number, percent, percent_range
from vnfleet.reporting.inputs import ReportInputs
from vnfleet.reporting.proof_charts import Bin, IntervalRow, Panel, interval_rows, reliability_chart, side_of
from vnfleet.reporting.views import Row, Tile, at_horizon, model_name, percent1, serving_numbers, signed3, tile_of

_KINDS = {"year": "By year", "liquidity": "By how much is traded", "sector": "By sector"}
_TERCILES = ("most traded", "middle", "least traded")
_WITHIN_1_SD, _WITHIN_196_SD = 0.6827, 0.95  # shares of a normal distribution
_MAX_NAMED = 12
_MAX_TOPIC = 40
_WIDE, _WIDE_LABELS = 1000, 250
_NARROW, _NARROW_LABELS = 380, 128
_SKILL_PANELS = {
    "rank_ic": Panel(title="Rank IC (line: no skill)", none=0.0, text=signed3),
    "accuracy_relative": Panel(title="Market-relative accuracy (line: coin)", none=0.5, text=percent1),
}


@dataclass(frozen=True, slots=True)
class Skill:
    """Whether it is skill or luck, as (topic, finding) with topics "" where there is none, and how much was tried."""

    lines: tuple[tuple[str, str], ...]
    num_trials: int | None
    search: str


@dataclass(frozen=True, slots=True)
class Where:
    """The serving model's skill in parts of the market."""

    chart: ChartPair
    summary: str


@dataclass(frozen=True, slots=True)
class Sureness:
    """Whether stated probabilities and spreads are honest, and whether surer calls are better ones."""

    tiles: tuple[Tile, ...]
    reliability: Markup
    selective: ChartPair


def skill(inputs: ReportInputs) -> Skill | None:
    """Return the sentences of the tests, and what the best of so many worthless variants looks like."""
    trials = inputs.num_trials
    if not inputs.proof_lines and trials is None:
        return None
    search = ""
    if trials is not None and trials > 1:
        luck = number(expected_max_sharpe(trials, 1.0), 1)
        search = f"By luck alone the best of {trials} worthless variants looks {luck} standard errors good."
    return Skill(tuple(_topic(line) for line in inputs.proof_lines), trials, search)


def _topic(line: str) -> tuple[str, str]:
    """Return what stands before the first colon and what follows it; a long beginning is no topic."""
    topic, colon, rest = line.partition(": ")
    return (topic, rest) if colon and len(topic) <= _MAX_TOPIC else ("", line)


def where(inputs: ReportInputs) -> Where | None:
    """Return rank IC and market-relative accuracy by year, liquidity and sector, one scale per number."""
    known = _serving(inputs, inputs.scorecard).filter(
        pl.col("metric").is_in(list(_SKILL_PANELS)), pl.col("value").is_not_null()
    )
    parts = known.filter(pl.col("group_kind") != "all")
    if not parts.height:
        return None
    metrics = [name for name in _SKILL_PANELS if (parts.get_column("metric") == name).any()]
    found = parts.get_column("group_kind").unique(maintain_order=True).to_list()
    order = [*(kind for kind in _KINDS if kind in found), *(kind for kind in found if kind not in _KINDS)]
    rows: list[IntervalRow] = []
    for kind in order:
        rows.append(IntervalRow(_KINDS.get(kind, f"By {kind.replace('_', ' ')}")))
        rows += _slices(parts.filter(pl.col("group_kind") == kind), kind, metrics)
    everything = _slice("Everything", known.filter(pl.col("group_kind") == "all"), metrics, "")
    drawn = [everything, *rows] if any(everything.points) else rows
    panels = [_SKILL_PANELS[name] for name in metrics]
    name = model_name(inputs, inputs.serving_model_id)
    return Where(_chart_pair(drawn, panels, f"Skill by year, liquidity and sector of {name}"), _tally(rows, panels))


def _slices(frame: pl.DataFrame, kind: str, metrics: list[str]) -> list[IntervalRow]:
    groups = [str(name) for name in frame.get_column("group").unique(maintain_order=True)]
    if kind == "liquidity":
        groups.sort(key=lambda name: _TERCILES.index(name) if name in _TERCILES else len(_TERCILES))
    elif kind == "year":
        groups.sort()
    rows = [_slice(name, frame.filter(pl.col("group") == name), metrics, kind) for name in groups]
    if kind in {"year", "liquidity"}:
        return rows
    return sorted(rows, key=lambda row: -max((p.value for p in row.points[:1] if p is not None), default=-2.0))


def _slice(name: str, frame: pl.DataFrame, metrics: list[str], kind: str) -> IntervalRow:
    records = {str(row["metric"]): row for row in frame.iter_rows(named=True)}
    points = tuple(_point(name, records.get(metric), "value") for metric in metrics)
    note = ""
    if kind not in {"", "year"}:
        sizes = [row["num_rows"] / row["num_sessions"] for row in records.values() if row["num_sessions"]]
        note = f"{max(sizes):.0f} symbols" if sizes else ""
    return IntervalRow(name[:1].upper() + name[1:], points, note)


def _point(label: str, record: Row | None, column: str) -> IntervalPoint | None:
    if record is None or not isinstance(record[column], float):
        return None
    low, high = (edge if isinstance(edge, float) else None for edge in (record["low"], record["high"]))
    return IntervalPoint(label, float(str(record[column])), low, high)


def _tally(rows: list[IntervalRow], panels: list[Panel]) -> str:
    """Return how many parts lie above, below or on both sides of no skill in the first panel."""
    points = [row.points[0] for row in rows if row.points]
    sides = [side_of(point, panels[0].none) for point in points if point is not None]
    above, below = sides.count("above"), sides.count("below")
    return (
        f"{len(sides)} parts: {above} above chance with their whole interval, {below} below, "
        f"{len(sides) - above - below} not told apart from it."
    )


def _chart_pair(rows: list[IntervalRow], panels: list[Panel], title: str) -> ChartPair:
    """Return all panels side by side for a wide screen, one below the other for a phone."""
    wide = interval_rows(rows, panels, title=title, width=_WIDE, label_width=_WIDE_LABELS, css_class="wide")
    narrow = Markup("")
    for index, panel in enumerate(panels):
        own = [row if row.is_heading else IntervalRow(row.label, row.points[index : index + 1]) for row in rows]
        words = f"{title}: {panel.title}"
        narrow += interval_rows(
            own, [panel], title=words, width=_NARROW, label_width=_NARROW_LABELS, css_class="narrow"
        )
    return ChartPair(wide, narrow)


def sureness(inputs: ReportInputs) -> Sureness | None:
    """Return Brier skill and volatility coverage, the reliability diagram, accuracy by share of calls kept."""
    numbers: dict[str, float | None] = {}
    for row in _serving(inputs, inputs.scorecard).filter(pl.col("group_kind") == "all").iter_rows(named=True):
        metric = str(row["metric"])
        numbers |= {metric: row["value"], f"{metric}_low": row["low"], f"{metric}_high": row["high"]}
    tiles = tuple(tile for tile in (_brier(numbers), *_coverages(numbers)) if tile is not None)
    diagram = _diagram(inputs, numbers.get("base_rate_up"))
    chosen = _selective(inputs)
    return Sureness(tiles, diagram, chosen) if tiles or diagram or chosen.wide else None


def _brier(numbers: dict[str, float | None]) -> Tile | None:
    gained, score = numbers.get("brier_skill"), numbers.get("brier")
    if gained is None or score is None:
        return None
    plain = score / (1 - gained) if gained < 1 else None
    return tile_of(
        "Brier skill", numbers, "brier_skill", ((0.0, "base rate"),), text=lambda value: percent(value, 2, signed=True),
        interval=lambda low, high: percent_range(low, high, 2),
        note="How much better the stated chances are than always saying the base rate. "
        f"Brier score {number(score, 4)}, of the base rate {number(plain, 4)}; lower is better.",
    )  # fmt: skip


def _coverages(numbers: dict[str, float | None]) -> tuple[Tile, ...]:
    wanted = (("68", _WITHIN_1_SD, "one"), ("95", _WITHIN_196_SD, "1.96"))
    return tuple(
        tile_of(
            f"Inside the {name} % range", numbers, f"volatility_coverage_{name}", ((target, f"target {name} %"),),
            text=percent1, interval=percent_range, note=_coverage_words(numbers, f"volatility_coverage_{name}", target)
            + f" Share of returns within {times} stated volatilit{'y' if times == 'one' else 'ies'}.",
        )
        for name, target, times in wanted
        if numbers.get(f"volatility_coverage_{name}") is not None
    )  # fmt: skip


def _coverage_words(numbers: dict[str, float | None], key: str, target: float) -> str:
    low, high = numbers.get(f"{key}_low"), numbers.get(f"{key}_high")
    if low is not None and low > target:
        return "More than there should be: it states too much risk."
    if high is not None and high < target:
        return "Fewer than there should be: it states too little risk."
    return "As it should be, as far as these sessions tell." if low is not None else "Too few sessions for an interval."


def _diagram(inputs: ReportInputs, base_rate: float | None) -> Markup:
    rows = _serving(inputs, inputs.reliability).drop_nulls(["mean_prob", "share_up"]).sort("bin")
    bins = [
        Bin(row["mean_prob"], row["share_up"], row["low"], row["high"], row["num_rows"])
        for row in rows.iter_rows(named=True)
    ]
    return reliability_chart(
        bins, title="Chance of a rise as said, against how often it rose", text=_percent0, base_rate=base_rate
    )


def _selective(inputs: ReportInputs) -> ChartPair:
    frame = _serving(inputs, inputs.selective).filter(pl.col("accuracy").is_not_null())
    panels = [panel for kind, panel in _call_panels(inputs) if (frame.get_column("kind") == kind).any()]
    kinds = [kind for kind, _ in _call_panels(inputs) if (frame.get_column("kind") == kind).any()]
    rows = []
    for kept in frame.get_column("coverage_frac").unique().sort(descending=True):
        at = {str(row["kind"]): row for row in frame.filter(pl.col("coverage_frac") == kept).iter_rows(named=True)}
        label = "All calls" if kept >= 1 else f"Surest {percent(kept, 0)}"
        calls = max(row["num_rows"] for row in at.values())
        points = tuple(_point(label, at.get(kind), "accuracy") for kind in kinds)
        rows.append(IntervalRow(label, points, f"{number(calls, 0)} calls"))
    if not rows:
        return ChartPair(Markup(""), Markup(""))
    return _chart_pair(rows, panels, "Accuracy of the surest calls")


def _call_panels(inputs: ReportInputs) -> tuple[tuple[str, Panel], ...]:
    """Return the two kinds of call; absolute ones are compared with the better of always up and always down."""
    numbers = serving_numbers(inputs)
    base, up = numbers.get("base_accuracy"), numbers.get("base_rate_up")
    words = "coin" if base is None else f"always {'down' if up is not None and up < 0.5 else 'up'}"
    absolute = Panel(title=f"Absolute accuracy (line: {words})", none=0.5 if base is None else base, text=percent1)
    return (("relative", _SKILL_PANELS["accuracy_relative"]), ("absolute", absolute))


def symbol_table(inputs: ReportInputs) -> tuple[pl.DataFrame, str]:
    """Return the rows per symbol with their shrunk accuracy, and which symbols show skill on their own, in words."""
    own = _serving(inputs, inputs.symbols_shrunk).filter(pl.col("accuracy_shrunk").is_not_null())
    if not own.height or not inputs.per_symbol.height:
        return inputs.per_symbol, ""
    half = 1.96 * pl.col("shrunk_sd")
    edges = pl.struct(low=pl.col("accuracy_shrunk") - half, high=pl.col("accuracy_shrunk") + half)
    shown = own.select(
        "symbol",
        "accuracy_relative",
        "accuracy_shrunk",
        shrunk_range=edges.map_elements(_range_words, return_dtype=pl.String),
    )
    found = own.filter(pl.col("discovered")).get_column("symbol").sort().to_list()
    names = ", ".join(found[:_MAX_NAMED]) + (f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else "")
    words = f"After allowing for how many were looked at, {len(found)} of {own.height} symbols show skill on their own"
    return inputs.per_symbol.join(shown, on="symbol", how="left"), f"{words}{f': {names}' if found else ''}."


def _range_words(edges: dict[str, float | None]) -> str:
    return percent_range(edges["low"], edges["high"])


def _serving(inputs: ReportInputs, frame: pl.DataFrame) -> pl.DataFrame:
    return at_horizon(inputs, frame).filter(pl.col("model_id") == inputs.serving_model_id)


def _percent0(value: float) -> str:
    return percent(value, 0)
