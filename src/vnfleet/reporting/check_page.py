"""The page of `vnfleet check`: one self-contained HTML file with the verdict, the findings and their evidence drawn.

Nothing is loaded from anywhere; the page reads without JavaScript, which only sorts and filters. Everything that came
from data passes through jinja2's autoescape or is JSON inside a script element that holds data only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from vnfleet import __version__
from vnfleet.core.atomic import write_text
from vnfleet.reporting import check_summary as summary
from vnfleet.reporting import check_verdict as verdict
from vnfleet.reporting import check_words as words
from vnfleet.reporting import formats
from vnfleet.reporting.check_around import LEGEND, SECOND
from vnfleet.reporting.check_browser import action_counts, actions_browser, findings_browser, missing_browser
from vnfleet.reporting.check_charts import MonthBar, month_charts
from vnfleet.reporting.check_evidence import Evidence, evidence_of
from vnfleet.reporting.check_inputs import CheckInputs, FitRule, Rebasing, inputs_of_panel, nothing_used
from vnfleet.reporting.check_summary import CHECK_TABLE_COLUMNS, CheckCount, check_document, check_table

__all__ = [
    "CHECK_TABLE_COLUMNS",
    "CheckInputs",
    "FitRule",
    "Rebasing",
    "check_document",
    "check_table",
    "inputs_of_panel",
    "nothing_used",
    "render_check_page",
    "write_check_page",
]

NUM_WORST = 12
_MONTH_PARTS = (
    ("accept", "noted, kept"),
    ("quarantine", "adjustment refused"),
    ("repair", "repaired"),
    ("mask", "masked"),
)


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One line of the table of checks; `anchor` is its chart, "" without one."""

    numbers: CheckCount
    words: words.CheckWords
    per_10k: float | None
    anchor: str


def write_check_page(path: Path, inputs: CheckInputs) -> Path:
    """Write the page of one check to `path` (one HTML file, atomically) and return `path`.

    Raises `ResourceError` when the disk is full; the previous file then stays as it was.
    """
    write_text(path, render_check_page(inputs))
    return path


def render_check_page(inputs: CheckInputs) -> str:
    """Return the page of one check as HTML; equal inputs give equal text."""
    report = inputs.report
    shown = evidence_of(inputs)
    symbols = summary.symbol_counts(inputs)
    changed = None if inputs.previous is None else verdict.changes_since(report, inputs.previous)
    return (
        _environment()
        .get_template("check.html.j2")
        .render(
            inputs=inputs,
            version=__version__,
            fit=verdict.fitness(inputs),
            sentence=verdict.verdict_sentence(inputs),
            symbol_verdicts=summary.verdict_counts(report),
            rows_done=summary.row_counts(report) | {"accept": summary.finding_counts(report)["accept"]},
            num_rows=inputs.raw.height,
            span=_span(inputs),
            changed=changed,
            new_findings=None if changed is None or not changed.new.height else findings_browser("fresh", changed.new),
            warnings=_warnings(inputs),
            checks=_check_rows(inputs, shown),
            months=month_charts(_month_bars(report.rows), "Findings"),
            month_parts=_MONTH_PARTS,
            worst=_worst(symbols),
            symbols=symbols,
            evidence=shown,
            legend=tuple(item for item in LEGEND if item[0] != SECOND or inputs.opinions is not None),
            findings=findings_browser("findings", summary.by_importance(report.rows)),
            actions=actions_browser(inputs),
            missing=missing_browser(inputs),
            action_counts=action_counts(inputs),
            verdict_words=words.SYMBOL_VERDICT_WORDS,
            verdict_meaning=words.SYMBOL_VERDICT_MEANING,
            done_words=words.VERDICT_WORDS,
            severity_words=words.SEVERITY_WORDS,
        )
    )


def _span(inputs: CheckInputs) -> tuple[str, str, int]:
    """Return first and last session of the rows, as text, and how many sessions there are."""
    days = inputs.raw.get_column("session").unique().sort()
    return (str(days.item(0)), str(days.item(-1)), len(days)) if len(days) else ("", "", 0)


def _warnings(inputs: CheckInputs) -> tuple[str, ...]:
    alone = (
        "Only one vendor was heard: closes that are not final and wrong adjustments are found less often than with a "
        "second one."
    )
    return (*inputs.warnings, *((alone,) if inputs.opinions is None else ()))


def _check_rows(inputs: CheckInputs, shown: tuple[Evidence, ...]) -> tuple[CheckRow, ...]:
    anchors: dict[tuple[str, str], str] = {}
    for item in shown:
        anchors.setdefault((item.check, item.verdict), item.anchor)
    num_rows = inputs.raw.height
    return tuple(
        CheckRow(
            row,
            words.check_words(row.check),
            10_000 * row.count / num_rows if num_rows else None,
            anchors.get((row.check, row.verdict), ""),
        )
        for row in summary.check_counts(inputs.report)
    )


def _month_bars(rows: pl.DataFrame) -> tuple[MonthBar, ...]:
    """Return the findings with a session counted per month, months without any included."""
    counted = (
        rows.filter(pl.col("session").is_not_null())
        .group_by(pl.col("session").dt.truncate("1mo").alias("month"), "verdict")
        .len()
    )
    if counted.is_empty():
        return ()
    known = {(month, verdict): count for month, verdict, count in counted.iter_rows()}
    months = counted.select(pl.date_range(pl.col("month").min(), pl.col("month").max(), "1mo")).to_series()
    return tuple(
        MonthBar(
            f"{month:%Y-%m}",
            tuple((verdict, name, known.get((month, verdict), 0)) for verdict, name in _MONTH_PARTS),
        )
        for month in months
    )


def _worst(symbols: pl.DataFrame) -> list[dict[str, object]]:
    """Return the symbols in whose rows most was changed, with bar widths relative to the first."""
    worst = symbols.filter(pl.col("changed") > 0).sort("changed", "symbol", descending=[True, False]).head(NUM_WORST)
    parts = {name: 100 * pl.col(name) / pl.col("changed").max() for name in ("mask", "repair", "quarantined")}
    return worst.with_columns(**{f"{name}_width": width.round(2) for name, width in parts.items()}).to_dicts()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vnfleet.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=formats.number, percent=formats.percent, day=formats.day, moment=formats.moment)
    return environment
