"""The quality court: every doubtful row and every symbol gets a verdict with its evidence.

Row verdicts: accept (a warning only), repair (the value used is stated), mask (the row is not used), quarantine (the
vendor's adjustment step is not used, the row is). Symbol verdicts: accept, retired (its history may be used, the symbol
not be traded now: to leave it out of the past would be to look ahead) or quarantine. Findings about the whole market
carry the symbol "*"; findings about a whole symbol have no session.

The court sits in order: single bars (`checks`, `units`), who is heard (`hearing`), moves between bars (`moves`:
`evidence`, `days`, `excursions`, `suspicions`, `closes`, `steps`), the chain of factors
(`vnfleet.data.actions.adjustment`), the market (`market`), the symbols (`symbols`). `drill` measures it on planted
faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from vnfleet.data.actions.adjustment import EventKind, chain_factors
from vnfleet.data.actions.steps import vendor_steps
from vnfleet.data.axis import market_sessions
from vnfleet.data.court.checks import check_bars
from vnfleet.data.court.findings import CHECKS, FINDING_SCHEMA, findings, said
from vnfleet.data.court.hearing import hear
from vnfleet.data.court.market import MARKET, check_drift, check_holes, check_in_session, check_market
from vnfleet.data.court.moves import rule_on_moves
from vnfleet.data.court.opinions import Opinion
from vnfleet.data.court.symbols import (
    MAX_AGE_DAYS,
    MAX_GAP_SESSIONS,
    MIN_SESSIONS,
    QUALITY_SYMBOL_SCHEMA,
    judge_symbols,
    stale_tail_findings,
    stale_tails,
)
from vnfleet.data.court.units import check_grid
from vnfleet.data.sources.base import RawHistory
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO

__all__ = [
    "CHECKS",
    "MARKET",
    "MAX_AGE_DAYS",
    "MAX_GAP_SESSIONS",
    "MIN_SESSIONS",
    "QUALITY_ROW_SCHEMA",
    "QUALITY_SYMBOL_SCHEMA",
    "Examination",
    "QualityReport",
    "examine",
    "judge",
]

QUALITY_ROW_SCHEMA = FINDING_SCHEMA
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
        """Symbols whose history may be used, retired ones included, sorted."""
        return self._with("accept", "retired")

    @property
    def live(self) -> tuple[str, ...]:
        """Accepted symbols that are fit to be traded now, sorted."""
        return self._with("accept")

    def _with(self, *verdicts: str) -> tuple[str, ...]:
        return tuple(self.symbols.filter(pl.col("verdict").is_in(verdicts)).get_column("symbol").to_list())


@dataclass(frozen=True, slots=True)
class Examination:
    """A history after the court: usable bars with factor and break_before, the events, the market axis, the report.

    bars : repaired; `close_vnd` and `factor` are the court's where it repaired them, `adjusted_close_vnd` and
        `stated_reference_vnd` remain the vendor's words.
    """

    bars: pl.DataFrame
    events: pl.DataFrame
    sessions: pl.Series
    report: QualityReport


def judge(
    history: RawHistory, as_of: date, calendar_sessions: Sequence[date] | None, opinions: Sequence[Opinion] = ()
) -> QualityReport:
    """Return the verdicts on `history` as of a day.

    calendar_sessions : expected sessions of the exchange up to `as_of`; None leaves out the comparison with them and
        measures age against `as_of` itself.
    """
    return examine(history, as_of, calendar_sessions, opinions).report


def examine(
    history: RawHistory, as_of: date, calendar_sessions: Sequence[date] | None, opinions: Sequence[Opinion] = ()
) -> Examination:
    """Judge `history` and return what is left of it to use, of all symbols; rows after `as_of` are never looked at.

    opinions : what other vendors say, the most trusted first; the first that covers a row is heard about it.

    A later `as_of` changes no earlier row, but for the newest few (see `vnfleet.data.court.moves`), and where it shows
    that an opinion was not to be heard (`vnfleet.data.court.hearing`).
    """
    history = history.until(as_of)
    bars, found = check_bars(history.bars)
    sessions = market_sessions(bars, history.index)
    expected = pl.Series("session", calendar_sessions or [], dtype=pl.Date)
    expected = expected.filter(expected <= as_of).sort()
    stepped = bars.with_columns(vendor_step=pl.Series(vendor_steps(bars).step))
    heard, unheard = hear([opinion.until(as_of) for opinion in opinions], stepped)
    ruled = rule_on_moves(stepped, _with_expected(sessions), heard)
    bars, events = chain_factors(ruled.bars.drop("vendor_step", "told_low_vnd", "told_high_vnd"))
    last_expected: date = expected.to_list()[-1] if len(expected) else as_of
    placed = bars.with_columns(position=sessions.search_sorted(bars.get_column("session")).cast(pl.Int64))
    on_axis = placed.filter(pl.col("session").is_in(sessions.implode()))
    found += [
        *ruled.found,
        *unheard,
        findings(
            placed.filter(~pl.col("session").is_in(sessions.implode()) & (pl.col("volume_shares") > 0)),
            "off_axis",
            "info",
            "mask",
            pl.lit("the market had no session"),
        ),
        *_event_findings(events, ruled.found),
        *check_grid(bars),
        _vendor_without_adjustment(bars),
        check_holes(on_axis),
        stale_tail_findings(stale_tails(on_axis)),
        *check_market(sessions, history.index, expected),
        *check_drift(history.bars),
        *check_in_session(on_axis, sessions),
    ]
    rows = pl.concat([frame.cast(pl.Schema(FINDING_SCHEMA)) for frame in found]).sort("symbol", "session", "check")
    symbols = judge_symbols(history.bars, on_axis, rows, len(sessions), last_expected)
    return Examination(bars=bars, events=events, sessions=sessions, report=QualityReport(rows=rows, symbols=symbols))


def _with_expected(sessions: pl.Series) -> pl.Series:
    """Return the market's sessions and those the calendar expects among them: rows around one are no neighbours."""
    if sessions.is_empty():
        return sessions
    days: list[date] = sessions.to_list()
    first, last = max(days[0], KNOWN_FROM), min(days[-1], KNOWN_TO)
    expected = pl.Series("session", trading_sessions(first, last) if first <= last else [], dtype=pl.Date)
    return pl.concat([sessions, expected]).unique().sort()


def _event_findings(events: pl.DataFrame, ruled: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Return what the chain refused or absorbed on its own; what the court had decided is told already."""
    told = pl.concat(ruled).filter(pl.col("check").is_in(["wrong_step", "missing_step"])).select("symbol", "session")
    events = events.join(told, on=("symbol", "session"), how="anti")
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
