"""From `ReportInputs` to what the page shows: tiles, rows and charts, all words and numbers ready to print."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from vnfleet.evaluation.metrics import ALL_YEARS
from vnfleet.reporting import charts
from vnfleet.reporting.charts import ChartPair, IntervalPoint
from vnfleet.reporting.formats import number, number_range, percent, percent_range
from vnfleet.reporting.inputs import ReportInputs

PLAN_ACCURACY_MARKS = ((0.54, "plan 54 %"), (0.55, "plan 55 %"))  # the written plan: acceptable, target
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Tile:
    """One key number: what it is, the number, its interval in words and as a picture, and how to read it."""

    name: str
    value: str
    interval: str
    picture: Markup
    note: str


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model (or one of its years) in the leaderboard."""

    name: str
    numbers: dict[str, float | None]
    picture: Markup
    serves: bool
    years: tuple[ModelRow, ...] = ()


def signed3(value: float) -> str:
    """Return a rank IC as the page writes it."""
    return number(value, 3, signed=True)


def percent1(value: float) -> str:
    """Return a share as the page writes it."""
    return percent(value, 1)


def state_of(inputs: ReportInputs) -> str:
    """Return the colour of the week: deployed, baseline, kept, undecided or nothing."""
    decision = inputs.decision
    if inputs.deployed_release_id is None:
        return "nothing"
    if decision.deploys:
        return "baseline" if decision.serves_baseline else "deployed"
    return "undecided" if decision.outcome == "undecided" else "kept"


def model_name(inputs: ReportInputs, model_id: str) -> str:
    """Return the name people know a model by."""
    name = dict(inputs.model_names).get(model_id, model_id)
    return name[:1].upper() + name[1:]


def at_horizon(inputs: ReportInputs, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `frame` at the horizon the page shows."""
    return frame.filter(pl.col("horizon_sessions") == inputs.horizon_sessions)


def _floats(row: Row) -> dict[str, float | None]:
    return {name: float(value) for name, value in row.items() if isinstance(value, (int, float))} | {
        name: None for name, value in row.items() if value is None
    }


def serving_numbers(inputs: ReportInputs) -> dict[str, float | None]:
    """Return the all-years numbers of the serving model, empty when it was not scored."""
    rows = at_horizon(inputs, inputs.summary).filter(
        pl.col("model_id") == inputs.serving_model_id, pl.col("year") == ALL_YEARS
    )
    return _floats(rows.row(0, named=True)) if rows.height else {}


def tiles(inputs: ReportInputs) -> tuple[Tile, ...]:
    """Return the key numbers of the serving model, each with its interval and what it must be compared with."""
    numbers = serving_numbers(inputs)
    base = numbers.get("base_accuracy")
    base_up = numbers.get("base_rate_up")
    always = "down" if base_up is not None and base_up < 0.5 else "up"
    base_marks = () if base is None else ((base, f"always {always}"),)
    absolute_note = (
        ""
        if base is None
        else f"Always saying “{always}” reaches {percent(base)}: read it against that, not against 50 %. "
        "The plan asks for 54 % (average) and 55 % (target)."
    )
    return (
        tile_of(
            "Rank IC", numbers, "rank_ic", ((0.0, "no skill"),), text=signed3, interval=number_range,
            note=_skill_words(numbers, "rank_ic", 0.0) + f" Daily ICIR {number(numbers.get('icir'))}.",
        ),
        tile_of(
            "Market-relative accuracy", numbers, "accuracy_relative", ((0.5, "coin 50 %"),), text=percent1,
            interval=percent_range, note=_skill_words(numbers, "accuracy_relative", 0.5),
        ),
        tile_of(
            "Absolute accuracy", numbers, "accuracy_absolute", (*base_marks, *PLAN_ACCURACY_MARKS), text=percent1,
            interval=percent_range, note=absolute_note,
        ),
    )  # fmt: skip


def _skill_words(numbers: dict[str, float | None], name: str, none: float) -> str:
    low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
    if low is None or high is None:
        return "Too few sessions for an interval."
    if low > none:
        return "Above chance: the whole interval lies on the good side."
    return "Below chance." if high < none else "Not told apart from chance: the interval holds it."


def tile_of(
    name: str,
    numbers: dict[str, float | None],
    key: str,
    marks: tuple[tuple[float, str], ...],
    *,
    text: Callable[[float], str],
    interval: Callable[[float | None, float | None], str],
    note: str,
) -> Tile:
    """Return the number `key` with its interval (`key_low`, `key_high`) and the named marks to compare it with."""
    value, low, high = (numbers.get(column) for column in (key, f"{key}_low", f"{key}_high"))
    if value is None:
        return Tile(name, "–", "not measured", Markup(""), "")
    spots = [value, *(edge for edge in (low, high) if edge is not None), *(mark for mark, _ in marks)]
    room = 0.12 * (max(spots) - min(spots)) or 0.01
    picture = charts.strip(
        IntervalPoint(name, value, low, high),
        (min(spots) - room, max(spots) + room),
        marks,
        text,
        width=280,
        labelled=True,
    )
    words = "" if low is None else f"95 % interval {interval(low, high)}"
    return Tile(name, text(value), words, picture, note)


def leaderboard(inputs: ReportInputs) -> tuple[ModelRow, ...]:
    """Return every model that raced, best rank IC first, with its years; all strips share one scale."""
    summary = at_horizon(inputs, inputs.summary)
    overall = summary.filter(pl.col("year") == ALL_YEARS).sort("rank_ic", descending=True, nulls_last=True)
    edges = [
        float(value)
        for column in ("rank_ic", "rank_ic_low", "rank_ic_high")
        for value in summary.get_column(column).drop_nulls()
    ]
    domain = (min([0.0, *edges]) - 0.01, max([0.05, *edges]) + 0.01)

    def row(record: Row, name: str, *, serves: bool, years: tuple[ModelRow, ...] = ()) -> ModelRow:
        numbers = _floats(record)
        value = numbers.get("rank_ic")
        point = None if value is None else IntervalPoint(name, value, numbers["rank_ic_low"], numbers["rank_ic_high"])
        zero = ((0.0, "no skill"),)
        picture = Markup("") if point is None else charts.strip(point, domain, zero, signed3, width=150)
        return ModelRow(name, numbers, picture, serves, years)

    rows = []
    for record in overall.iter_rows(named=True):
        model_id = str(record["model_id"])
        parts = summary.filter(pl.col("model_id") == model_id, pl.col("year") != ALL_YEARS).sort("year")
        years = tuple(row(part, str(part["year"]), serves=False) for part in parts.iter_rows(named=True))
        serves = model_id == inputs.serving_model_id
        rows.append(row(record, model_name(inputs, model_id), serves=serves, years=years))
    return tuple(rows)


def monthly_chart(inputs: ReportInputs) -> ChartPair:
    """Return the serving model's rank IC per month with intervals."""
    months = at_horizon(inputs, inputs.monthly_ic).filter(
        pl.col("model_id") == inputs.serving_model_id, pl.col("rank_ic").is_not_null()
    )
    points = [
        IntervalPoint(f"{row['month']:%Y-%m}", float(row["rank_ic"]), row["low"], row["high"])
        for row in months.sort("month").iter_rows(named=True)
    ]
    title = f"Rank IC per month of {model_name(inputs, inputs.serving_model_id)}"

    def text(value: float) -> str:
        return number(value, 2, signed=True)

    wide = charts.interval_chart(points, title=title, text=text, frame=charts.WIDE, css_class="wide")
    narrow = charts.interval_chart(
        points[-24:], title=f"{title}, last 24", text=text, frame=charts.NARROW, css_class="narrow"
    )
    return ChartPair(wide, narrow)
