"""The quality court: every doubtful row and every symbol gets a verdict with its evidence.

Row verdicts: accept (a warning only), repair (the value used is stated), mask (the row is not used), quarantine (the
vendor's adjustment step is not used, the row is). Symbol verdicts: accept or quarantine. Findings about the whole
market carry the symbol "*"; findings about a whole symbol have no session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from vnfleet.data.actions.adjustment import EventKind, chain_factors
from vnfleet.data.axis import market_sessions
from vnfleet.data.court.checks import FINDING_SCHEMA, check_bars, findings, said
from vnfleet.data.sources.base import RawHistory

MARKET = "*"
MIN_SESSIONS = 100
MAX_GAP_SESSIONS = 5
GAP_WINDOW_SESSIONS = 250
MAX_AGE_DAYS = 7

QUALITY_ROW_SCHEMA = FINDING_SCHEMA
QUALITY_SYMBOL_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "verdict": pl.String(),
    "reasons": pl.String(),
    "num_sessions": pl.Int32(),
    "first_session": pl.Date(),
    "last_session": pl.Date(),
}
_EVENT_VERDICTS = {
    EventKind.UNEXPLAINED: ("warn", "repair", "jump beyond any plausible band without a vendor step, absorbed: x{}"),
    EventKind.FLIP: ("warn", "quarantine", "vendor factor left and came straight back, not chained: x{}"),
    EventKind.WRONG_WAY: ("warn", "quarantine", "vendor factor stepped against time, raw prices did not: x{}"),
    EventKind.CONTRADICTED: ("warn", "quarantine", "vendor step contradicts the raw move, not chained: x{}"),
}


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What the court found.

    rows : `QUALITY_ROW_SCHEMA`, sorted by symbol, session, check; severity is info, warn or error.
    symbols : `QUALITY_SYMBOL_SCHEMA`, one row per symbol of the history, sorted; `num_sessions` counts traded sessions.
    """

    rows: pl.DataFrame
    symbols: pl.DataFrame

    @property
    def accepted(self) -> tuple[str, ...]:
        """Symbols fit for use, sorted."""
        return tuple(self.symbols.filter(pl.col("verdict") == "accept").get_column("symbol").to_list())


@dataclass(frozen=True, slots=True)
class Examination:
    """A history after the court: usable bars with factor and break_before, the events, the market axis, the report."""

    bars: pl.DataFrame
    events: pl.DataFrame
    sessions: pl.Series
    report: QualityReport


def judge(history: RawHistory, as_of: date, calendar_sessions: Sequence[date] | None) -> QualityReport:
    """Return the verdicts on `history` as of a day.

    calendar_sessions : expected sessions of the exchange up to `as_of`; None leaves out the comparison with them and
        measures age against `as_of` itself.
    """
    return examine(history, as_of, calendar_sessions).report


def examine(history: RawHistory, as_of: date, calendar_sessions: Sequence[date] | None) -> Examination:
    """Judge `history` and return what is left of it to use, of all symbols; rows after `as_of` are never looked at."""
    history = history.until(as_of)
    bars, found = check_bars(history.bars)
    bars, events = chain_factors(bars)
    sessions = market_sessions(bars, history.index)
    expected = pl.Series("session", calendar_sessions or [], dtype=pl.Date)
    expected = expected.filter(expected <= as_of).sort()
    last_expected: date = expected.to_list()[-1] if len(expected) else as_of
    placed = bars.with_columns(position=sessions.search_sorted(bars.get_column("session")).cast(pl.Int64))
    on_axis = placed.filter(pl.col("session").is_in(sessions.implode()))
    found += [
        findings(
            placed.filter(~pl.col("session").is_in(sessions.implode()) & (pl.col("volume_shares") > 0)),
            "off_axis",
            "info",
            "mask",
            pl.lit("the market had no session"),
        ),
        *_event_findings(events),
        _vendor_without_adjustment(bars),
        _own_holes(on_axis),
        *_market_holes(sessions, history.index, expected),
    ]
    symbols = _judge_symbols(history.bars, on_axis, len(sessions), last_expected)
    rows = pl.concat([frame.cast(pl.Schema(FINDING_SCHEMA)) for frame in found]).sort("symbol", "session", "check")
    return Examination(bars=bars, events=events, sessions=sessions, report=QualityReport(rows=rows, symbols=symbols))


def _event_findings(events: pl.DataFrame) -> list[pl.DataFrame]:
    return [
        findings(
            events.filter(pl.col("kind") == kind.value),
            kind.value,
            severity,
            verdict,
            said(text, pl.col("factor_step").round(4)),
        )
        for kind, (severity, verdict, text) in _EVENT_VERDICTS.items()
    ]


def _vendor_without_adjustment(bars: pl.DataFrame) -> pl.DataFrame:
    absent = (
        bars.group_by("symbol")
        .agg(absent=(pl.col("adjusted_close_vnd") > 0).fill_null(value=False).not_().sum(), count=pl.len())
        .filter(pl.col("absent") > 0)
        .with_columns(session=pl.lit(None, pl.Date))
    )
    text = (
        pl.when(pl.col("absent") == pl.col("count"))
        .then(pl.lit("the source has no adjusted close: its prices are taken as adjusted already"))
        .otherwise(said("{} of {} rows have no adjusted close: the factor is carried on", "absent", "count"))
    )
    return findings(absent, "adjusted_close", "warn", "accept", text)


def _own_holes(on_axis: pl.DataFrame) -> pl.DataFrame:
    """Runs of market sessions for which a symbol has no usable row, dated by the row after the hole."""
    holes = (
        on_axis.with_columns(missing=(pl.col("position") - pl.col("position").shift(1) - 1).over("symbol"))
        .filter(pl.col("missing") > 0)
        .select("symbol", "session", "missing")
    )
    return findings(
        holes, "missing_session", "warn", "accept", said("{} market sessions before have no row", "missing")
    )


def _market_holes(sessions: pl.Series, index: pl.DataFrame, expected: pl.Series) -> list[pl.DataFrame]:
    def of_market(days: pl.Series, check: str, text: str) -> pl.DataFrame:
        rows = pl.DataFrame({"symbol": pl.Series([MARKET] * len(days), dtype=pl.String), "session": days})
        return findings(rows, check, "warn", "accept", pl.lit(text))

    if sessions.is_empty():
        return []
    no_index = sessions.filter(~sessions.is_in(index.get_column("session").implode()))
    found = [of_market(no_index, "index_missing", "symbols traded, the index has no bar")] if index.height else []
    if len(expected):
        first = sessions.min()
        holes = expected.filter((expected >= first) & ~expected.is_in(sessions.implode()))
        inside = sessions.filter((sessions >= expected.min()) & (sessions <= expected.max()))
        surprises = inside.filter(~inside.is_in(expected.implode()))
        found.append(of_market(holes, "market_hole", "the calendar expects a session, the source has nothing"))
        found.append(of_market(surprises, "unexpected_session", "the market traded on a day the calendar has closed"))
    return found


def _judge_symbols(raw: pl.DataFrame, on_axis: pl.DataFrame, num_sessions: int, last_expected: date) -> pl.DataFrame:
    """Quarantine what is too short, full of gaps at its recent end, or too old; symbols without a usable row too."""
    start = max(0, num_sessions - GAP_WINDOW_SESSIONS)
    facts = on_axis.group_by("symbol").agg(
        num_sessions=(pl.col("volume_shares") > 0).sum().cast(pl.Int32),
        first_session=pl.col("session").min(),
        last_session=pl.col("session").max(),
        gap=(
            pl.concat_list(
                pl.col("position").filter(pl.col("position") >= start).diff().max() - 1,
                num_sessions - 1 - pl.col("position").max(),
                # a row before the window that is missing up to its first row inside
                pl.when(pl.col("position").min() < start)
                .then(pl.col("position").filter(pl.col("position") >= start).min() - start)
                .otherwise(0),
            ).list.max()
        ),
    )
    oldest = last_expected - timedelta(days=MAX_AGE_DAYS)
    symbols = raw.select("symbol").unique().join(facts, on="symbol", how="left")
    reasons = pl.concat_list(
        pl.when(pl.col("num_sessions").fill_null(0) < MIN_SESSIONS).then(
            said(f"{{}} traded sessions, at least {MIN_SESSIONS} needed", pl.col("num_sessions").fill_null(0))
        ),
        pl.when(pl.col("gap") > MAX_GAP_SESSIONS).then(
            said(
                f"{{}} sessions without a bar in the last {GAP_WINDOW_SESSIONS}, at most {MAX_GAP_SESSIONS} allowed",
                "gap",
            )
        ),
        pl.when(pl.col("last_session") < oldest).then(
            said(f"last row {{}}, at most {MAX_AGE_DAYS} days before {last_expected} allowed", "last_session")
        ),
    ).list.drop_nulls()
    return (
        symbols.with_columns(reasons=reasons.list.join("; "))
        .with_columns(
            verdict=pl.when(pl.col("reasons") == "").then(pl.lit("accept")).otherwise(pl.lit("quarantine")),
            num_sessions=pl.col("num_sessions").fill_null(0),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in QUALITY_SYMBOL_SCHEMA.items())
        .sort("symbol")
    )
