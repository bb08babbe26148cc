"""Long tables of the check page: the first rows stand in it, the others wait as JSON until somebody filters."""

from __future__ import annotations

import json
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from vnfleet.data.court.quality import MARKET
from vnfleet.reporting import check_words as words
from vnfleet.reporting import formats
from vnfleet.reporting.check_inputs import CheckInputs, all_steps

MAX_FINDINGS = 12_000
MAX_ACTIONS = 6_000
MAX_EVIDENCE_CHARS = 200
FIRST_ROWS = 40


@dataclass(frozen=True, slots=True)
class Browser:
    """A table whose first rows stand in the page and whose others wait as JSON until somebody filters.

    titles : per column (title, is a number). rows : the first, as text. choices : per filter (column, its values).
    """

    name: str
    noun: str
    titles: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    total: int
    held: int
    choices: tuple[tuple[int, tuple[str, ...]], ...]
    data: Markup


def findings_browser(name: str, rows: pl.DataFrame) -> Browser:
    """Return findings in the order of `rows`, in plain words."""
    titles = {check: words.check_words(check).title for check in rows.get_column("check").unique().to_list()}
    table = rows.select(
        pl.col("symbol").replace(MARKET, words.MARKET_WORDS),
        pl.col("session").dt.to_string("%Y-%m-%d").fill_null(""),
        pl.col("check").replace(titles),
        pl.col("severity").replace(words.SEVERITY_WORDS),
        pl.col("verdict").replace(words.VERDICT_WORDS),
        pl.col("evidence").fill_null("").str.head(MAX_EVIDENCE_CHARS),
    )
    heads = ("Symbol", "Session", "Check", "Severity", "Done", "Evidence")
    return _browser(name, "findings", table, tuple((head, False) for head in heads), (2, 3, 4), MAX_FINDINGS)


def actions_browser(inputs: CheckInputs) -> Browser | None:
    """Return the corporate actions, newest first; the plain events where nobody named them. None: there are none."""
    frame = all_steps(inputs)
    if frame.is_empty():
        return None
    columns: list[tuple[str, bool, pl.Expr]] = [
        ("Symbol", False, pl.col("symbol")),
        ("Session", False, pl.col("session").dt.to_string("%Y-%m-%d").fill_null("")),
        ("Step", True, _digits("factor_step", 4)),
        ("Kind", False, pl.col("kind").replace(words.EVENT_WORDS).str.replace_all("_", " ")),
    ]
    if _known("cash_vnd", frame):
        columns.append(("Cash, VND a share", True, _digits("cash_vnd", 0)))
    if _known("ratio_frac", frame):
        columns.append(("New shares per old", True, _digits("ratio_frac", 4)))
    filters = [3]
    if _known("confirmed", frame):
        said = pl.when(pl.col("confirmed")).then(pl.lit("yes")).otherwise(pl.lit("no"))
        columns.append(
            ("Announced too", False, pl.when(pl.col("confirmed").is_null()).then(pl.lit("")).otherwise(said))
        )
        filters.append(len(columns) - 1)
    if _known("announced_source", frame):
        columns.append(("By", False, pl.col("announced_source").fill_null("")))
    if _known("probability", frame):
        columns.append(("Probability", True, _digits("probability", 2)))
    newest = frame.sort("session", "symbol", descending=[True, False])
    table = newest.select(value.cast(pl.String).alias(title) for title, _, value in columns)
    titles = tuple((title, numeric) for title, numeric, _ in columns)
    return _browser("actions", "steps", table, titles, tuple(filters), MAX_ACTIONS)


def _known(column: str, frame: pl.DataFrame) -> bool:
    return column in frame.columns and frame.get_column(column).null_count() < frame.height


def missing_browser(inputs: CheckInputs) -> Browser | None:
    """Return the announced actions that are not in the prices, newest first. None: there are none."""
    if inputs.missing is None or inputs.missing.is_empty():
        return None
    table = inputs.missing.sort("ex_date", "symbol", descending=[True, False]).select(
        pl.col("symbol"),
        pl.col("ex_date").dt.to_string("%Y-%m-%d").fill_null(""),
        pl.col("kind").replace(words.EVENT_WORDS).str.replace_all("_", " "),
        _digits("implied_step", 4),
        pl.when(pl.col("absorbed")).then(pl.lit("yes")).otherwise(pl.lit("no")).alias("absorbed"),
        pl.col("source").fill_null(""),
    )
    heads = (("Symbol", False), ("Ex-date", False), ("Kind", False), ("Step it implies", True))
    return _browser("missing", "actions", table, (*heads, ("Jump absorbed", False), ("By", False)), (2, 4), MAX_ACTIONS)


def _digits(column: str, digits: int) -> pl.Expr:
    """Return a column as text with that many digits, "" where it is not known."""
    return (
        pl.col(column)
        .cast(pl.Float64)
        .map_elements(lambda value: formats.number(value, digits), return_dtype=pl.String)
        .fill_null("")
    )


def action_counts(inputs: CheckInputs) -> list[tuple[str, int, int | None]]:
    """Return per kind of action how many there are and how many were announced too (None: nobody was asked)."""
    frame = all_steps(inputs)
    asked = _known("confirmed", frame)
    counted = frame.group_by("kind").agg(
        count=pl.len(), sure=pl.col("confirmed").sum().cast(pl.Int64) if asked else pl.lit(None, pl.Int64)
    )
    return [
        (words.said_of(words.EVENT_WORDS, kind), count, sure)
        for kind, count, sure in counted.sort("count", "kind", descending=[True, False]).iter_rows()
    ]


def _browser(
    name: str,
    noun: str,
    table: pl.DataFrame,
    titles: tuple[tuple[str, bool], ...],
    filters: tuple[int, ...],
    most: int,
) -> Browser:
    """Return a browsable table; columns with few distinct texts travel as numbers into a list of them."""
    held = table.head(most)
    lists: list[list[str] | None] = []
    columns: list[list[str] | list[int]] = []
    for column in held.iter_columns():
        texts = column.to_list()
        distinct = list(dict.fromkeys(texts))
        coded = len(distinct) * 2 <= len(texts)
        places = {text: place for place, text in enumerate(distinct)}
        lists.append(distinct if coded else None)
        columns.append([places[text] for text in texts] if coded else texts)
    document = {"lists": lists, "columns": columns}
    return Browser(
        name=name,
        noun=noun,
        titles=titles,
        rows=tuple(held.head(FIRST_ROWS).iter_rows()),
        total=table.height,
        held=held.height,
        choices=tuple((place, tuple(held.to_series(place).unique().sort().to_list())) for place in filters),
        data=script_json(document),
    )


def script_json(document: object) -> Markup:
    """Return JSON that cannot leave the script element it stands in, whatever the data say."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # no character is left that HTML could read
