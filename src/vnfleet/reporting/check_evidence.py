"""The evidence of the most important findings: prices around the session, stored and used values, one-session moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl
from markupsafe import Markup

from vnfleet.data.court.quality import MARKET
from vnfleet.reporting.check_around import RAW, SECOND, USED, Around, Move, ValueRow
from vnfleet.reporting.check_inputs import CheckInputs, all_steps
from vnfleet.reporting.check_summary import by_importance
from vnfleet.reporting.check_words import (
    SEVERITY_WORDS,
    VERDICT_WORDS,
    VERDICTS,
    check_words,
    said_of,
)

MAX_EVIDENCE = 24
SESSIONS_AROUND = 15
_COVERED_DAYS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One finding with what a person needs to judge it alone."""

    anchor: str
    symbol: str
    session: date
    check: str
    title: str
    severity: str
    severity_words: str
    verdict: str
    verdict_words: str
    text: str
    picture: Markup
    rows: tuple[ValueRow, ...]
    moves: tuple[Move, ...]


def pick(rows: pl.DataFrame, count: int = MAX_EVIDENCE) -> pl.DataFrame:
    """Return at most `count` findings worth a chart, gravest first.

    One of every check comes before a second of any, errors before repairs, repairs before refused adjustments; what was
    only noted, and what lies within the chart of a later finding of the same check and symbol, waits for room.
    Within a check other symbols come first, then the newest. Findings without a session, or about the whole market,
    have nothing to draw.
    """
    drawable = by_importance(rows.filter(pl.col("session").is_not_null() & (pl.col("symbol") != MARKET)))
    done = {verdict: place for place, verdict in enumerate(("repair", "quarantine", "mask"))}
    ranked = (
        drawable.sort("session", descending=True, maintain_order=True)
        .with_columns(
            again=pl.int_range(pl.len()).over("check", "symbol"),
            covered=(pl.col("session").shift(1) - pl.col("session")).over("check", "symbol")
            < pl.duration(days=_COVERED_DAYS),
        )
        .with_columns(pl.col("covered").fill_null(value=False))
        .sort("covered", "again", maintain_order=True)
        .with_columns(place=pl.int_range(pl.len()).over("check"))
        .with_columns(
            noted=pl.col("covered") | ((pl.col("severity") != "error") & ~pl.col("verdict").is_in(VERDICTS[:3])),
            tier=pl.when(pl.col("severity") == "error")
            .then(-1)
            .otherwise(pl.col("verdict").replace_strict(done, default=len(done), return_dtype=pl.Int32)),
        )
    )
    chosen = ranked.sort("noted", "place", "tier", maintain_order=True).head(count)
    order = chosen.sort("tier", "check", "place", maintain_order=True)
    return order.select(rows.columns)


def evidence_of(inputs: CheckInputs, count: int = MAX_EVIDENCE) -> tuple[Evidence, ...]:
    """Return the most important findings of a check with their charts."""
    chosen = pick(inputs.report.rows, count)
    wanted = chosen.get_column("symbol").unique().to_list()
    axis = inputs.raw.get_column("session").unique().sort()
    tables = {
        name: {} if frame is None else _by_symbol(frame, wanted)
        for name, frame in (
            (RAW, inputs.raw),
            (USED, inputs.used),
            (SECOND, inputs.opinions),
            ("events", all_steps(inputs)),
            ("findings", inputs.report.rows),
        )
    }
    verdicts = dict(inputs.report.symbols.select("symbol", "verdict").iter_rows())
    found = []
    for place, finding in enumerate(chosen.iter_rows(named=True)):
        symbol = finding["symbol"]
        around = Around(
            finding["session"],
            _sessions_around(axis, finding["session"]),
            *(tables[name].get(symbol) for name in (RAW, USED, SECOND, "events", "findings")),
        )
        picture, moves = around.draw(f"{symbol} around {finding['session']}")
        found.append(
            Evidence(
                anchor=f"e{place + 1}",
                symbol=symbol,
                session=finding["session"],
                check=finding["check"],
                title=check_words(finding["check"]).title,
                severity=finding["severity"],
                severity_words=said_of(SEVERITY_WORDS, finding["severity"]),
                verdict=finding["verdict"],
                verdict_words=said_of(VERDICT_WORDS, finding["verdict"]),
                text=finding["evidence"] or "",
                picture=picture,
                rows=around.values(served=verdicts.get(symbol) == "accept" or around.used is not None),
                moves=moves,
            )
        )
    return tuple(found)


def _by_symbol(frame: pl.DataFrame, wanted: Sequence[str]) -> dict[str, pl.DataFrame]:
    parts = frame.filter(pl.col("symbol").is_in(wanted)).partition_by("symbol", as_dict=True)
    return {str(symbol): part.sort("session") for (symbol,), part in parts.items()}


def _sessions_around(axis: pl.Series, session: date) -> tuple[date, ...]:
    before = axis.filter(axis < session).tail(SESSIONS_AROUND).to_list()
    after = axis.filter(axis > session).head(SESSIONS_AROUND).to_list()
    return (*before, session, *after)
