"""The verdicts of a check counted: per check, per symbol, against the check before, for the terminal and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from vnfleet.data.court.quality import MARKET, QualityReport
from vnfleet.reporting.check_inputs import CheckInputs
from vnfleet.reporting.check_words import (
    MARKET_WORDS,
    SEVERITIES,
    SEVERITY_WORDS,
    SYMBOL_VERDICT_WORDS,
    VERDICT_WORDS,
    VERDICTS,
    check_words,
    said_of,
)

CHECK_TABLE_COLUMNS = ("Check", "Severity", "Done", "Findings", "Symbols", "Newest", "For example")
MAX_DOCUMENT_FINDINGS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckCount:
    """All findings of one check with one severity and one verdict; `example_*` are of the newest of them."""

    check: str
    severity: str
    verdict: str
    count: int
    num_symbols: int
    newest: str
    example_symbol: str
    example_session: str
    example_evidence: str

    @property
    def title(self) -> str:
        """The check in plain words."""
        return check_words(self.check).title

    @property
    def example(self) -> str:
        """The newest finding in one line."""
        where = MARKET_WORDS if self.example_symbol == MARKET else self.example_symbol
        return f"{where} {self.example_session}".rstrip() + f": {self.example_evidence}"


def by_importance(rows: pl.DataFrame) -> pl.DataFrame:
    """Return findings with the gravest first: severity, then what was done, then the newest."""
    return rows.sort(
        _rank("severity", SEVERITIES),
        _rank("verdict", VERDICTS),
        "session",
        "symbol",
        "check",
        descending=[False, False, True, False, False],
        nulls_last=True,
    )


def _rank(column: str, order: tuple[str, ...]) -> pl.Expr:
    places = {word: place for place, word in enumerate(order)}
    return pl.col(column).replace_strict(places, default=len(order), return_dtype=pl.Int32)


def check_counts(report: QualityReport) -> tuple[CheckCount, ...]:
    """Return the findings counted per check, severity and verdict: gravest first, then the most frequent."""
    counted = (
        by_importance(report.rows)
        .group_by("check", "severity", "verdict", maintain_order=True)
        .agg(
            count=pl.len(),
            num_symbols=pl.col("symbol").filter(pl.col("symbol") != MARKET).n_unique(),
            newest=pl.col("session").max(),
            symbol=pl.col("symbol").first(),
            session=pl.col("session").first(),
            evidence=pl.col("evidence").first(),
        )
        .sort(_rank("severity", SEVERITIES), "count", "check", descending=[False, True, False], maintain_order=True)
    )
    return tuple(
        CheckCount(
            check=row["check"],
            severity=row["severity"],
            verdict=row["verdict"],
            count=row["count"],
            num_symbols=row["num_symbols"],
            newest="" if row["newest"] is None else row["newest"].isoformat(),
            example_symbol=row["symbol"],
            example_session="" if row["session"] is None else row["session"].isoformat(),
            example_evidence=row["evidence"] or "",
        )
        for row in counted.iter_rows(named=True)
    )


def verdict_counts(report: QualityReport) -> dict[str, int]:
    """Return how many symbols were accepted, retired and quarantined (each named, also at 0)."""
    known = dict.fromkeys(SYMBOL_VERDICT_WORDS, 0)
    return known | dict(report.symbols.group_by("verdict").len().sort("verdict").iter_rows())


def finding_counts(report: QualityReport) -> dict[str, int]:
    """Return how many findings have each verdict (each known one named, also at 0)."""
    return dict.fromkeys(VERDICTS, 0) | dict(report.rows.group_by("verdict").len().sort("verdict").iter_rows())


def row_counts(report: QualityReport) -> dict[str, int]:
    """Return how many rows have each verdict; a row that two checks repaired counts once."""
    of_rows = report.rows.filter(pl.col("session").is_not_null() & (pl.col("symbol") != MARKET))
    counted = of_rows.unique(("symbol", "session", "verdict")).group_by("verdict").len().sort("verdict")
    return dict.fromkeys(VERDICTS, 0) | dict(counted.iter_rows())


def symbol_counts(inputs: CheckInputs) -> pl.DataFrame:
    """Return one row per judged symbol, accepted ones last: its verdict, and its findings counted by what was done.

    Columns: those of `QUALITY_SYMBOL_SCHEMA`, mask, repair, quarantined (adjustments refused), noted, errors, changed
    (all but noted), per_10k (changed per 10,000 raw rows of the symbol).
    """
    verdict = pl.col("verdict_of_row")
    counted = (
        inputs.report.rows.rename({"verdict": "verdict_of_row"})
        .group_by("symbol")
        .agg(
            mask=(verdict == "mask").sum(),
            repair=(verdict == "repair").sum(),
            quarantined=(verdict == "quarantine").sum(),
            findings=pl.len(),
            errors=(pl.col("severity") == "error").sum(),
        )
    )
    rows = inputs.raw.group_by("symbol").agg(raw_rows=pl.len())
    numbers = ("mask", "repair", "quarantined", "findings", "errors")
    changed = pl.col("mask") + pl.col("repair") + pl.col("quarantined")
    return (
        inputs.report.symbols.join(counted, on="symbol", how="left")
        .join(rows, on="symbol", how="left")
        .with_columns(pl.col(name).fill_null(0).cast(pl.Int64) for name in numbers)
        .with_columns(changed=changed, noted=pl.col("findings") - changed)
        .with_columns(per_10k=10_000 * pl.col("changed") / pl.col("raw_rows"))
        .sort(pl.col("verdict") == "accept", "symbol")
    )


def check_table(report: QualityReport) -> tuple[tuple[str, ...], ...]:
    """Return the rows of a terminal table under `CHECK_TABLE_COLUMNS`: gravest first, then the most frequent."""
    return tuple(
        (
            row.title,
            said_of(SEVERITY_WORDS, row.severity),
            said_of(VERDICT_WORDS, row.verdict),
            f"{row.count:,}",
            f"{row.num_symbols:,}" if row.num_symbols else MARKET_WORDS,
            row.newest or "-",
            row.example,
        )
        for row in check_counts(report)
    )


def check_document(report: QualityReport, max_findings: int = MAX_DOCUMENT_FINDINGS) -> Mapping[str, object]:
    """Return the check for `--json`: counts, every symbol's verdict, and the gravest findings with their total.

    Dates are ISO text; `findings_total` counts all findings, `findings` holds at most `max_findings` of them.
    """
    shown = by_importance(report.rows).head(max_findings)
    return {
        "symbols_by_verdict": verdict_counts(report),
        "findings_by_verdict": finding_counts(report),
        "checks": [
            {
                "check": row.check,
                "severity": row.severity,
                "verdict": row.verdict,
                "count": row.count,
                "num_symbols": row.num_symbols,
                "newest_session": row.newest or None,
                "example": row.example,
            }
            for row in check_counts(report)
        ],
        "symbols": _plain(report.symbols),
        "findings_total": report.rows.height,
        "findings": _plain(shown),
    }


def _plain(frame: pl.DataFrame) -> list[dict[str, object]]:
    return frame.with_columns(pl.col(pl.Date).dt.to_string("%Y-%m-%d")).to_dicts()
