"""The panel: what was known about the market on one day, and the only way anyone reads history.

Axes: S symbols (sorted), T sessions (market axis, ascending).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.data.actions.events import EventLedger, LedgerReport
from vnfleet.data.actions.membership import membership, with_exchange
from vnfleet.data.actions.steps import LearnedSteps
from vnfleet.data.court.checks import check_bars
from vnfleet.data.court.opinions import Opinion, opinion_of
from vnfleet.data.court.quality import MIN_SESSIONS, Examination, QualityReport, examine
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import RawHistory
from vnfleet.market.calendar import NO_OVERRIDES, CalendarOverrides, trading_sessions
from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO

PANEL_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "open_vnd": pl.Float64(),
    "high_vnd": pl.Float64(),
    "low_vnd": pl.Float64(),
    "close_vnd": pl.Float64(),
    "volume_shares": pl.Int64(),
    "factor": pl.Float64(),
    "reference_vnd": pl.Float64(),
    "break_before": pl.Boolean(),
    "exchange": pl.String(),
}
SymbolsOf = Callable[[RawHistory], Sequence[str]]
_NO_NUMBERS = ("symbol", "session", "exchange")
_DERIVED = {
    "adj_open": pl.col("open_vnd") * pl.col("factor"),
    "adj_high": pl.col("high_vnd") * pl.col("factor"),
    "adj_low": pl.col("low_vnd") * pl.col("factor"),
    "adj_close": pl.col("close_vnd") * pl.col("factor"),
    "traded_value_vnd": pl.col("close_vnd") * pl.col("volume_shares"),
}


@dataclass(frozen=True, slots=True)
class Panel:
    """Judged prices of the accepted symbols up to `as_of`, read-only.

    sessions : the market axis, ascending; a session exists iff the market traded.
    symbols : accepted symbols, sorted.
    bars : `PANEL_SCHEMA` sorted by symbol and session, one row per *traded* session (volume > 0, not masked). Prices
        are raw VND; `factor` puts them on the basis of the symbol's first session (adjusted = raw * factor);
        `reference_vnd` is the previous traded close on today's basis, null on the first row; `break_before` marks a
        move from the previous row that cannot be trusted (the jump was absorbed into `factor`); `exchange` is where
        the symbol was listed that day, which decides its band, ticks and lots.
    index : session, close_points. listings : symbol, exchange, sector, one row per symbol.
    data_id : hash of bars, index and sessions, the same wherever and whenever they are served.
    """

    as_of: date
    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    bars: pl.DataFrame
    index: pl.DataFrame
    listings: pl.DataFrame
    quality: QualityReport
    data_id: str

    def matrix(self, column: str) -> np.ndarray:
        """Return `column` as a read-only float64 [S, T], NaN where the symbol did not trade.

        `column` is one of the bars' numeric columns, "adj_open", "adj_high", "adj_low", "adj_close" (raw * factor) or
        "traded_value_vnd" (close * volume).
        """
        if column not in _DERIVED and (column not in PANEL_SCHEMA or column in _NO_NUMBERS):
            raise UsageError(
                "a panel has no such column",
                expected=[*(name for name in PANEL_SCHEMA if name not in _NO_NUMBERS), *_DERIVED],
                found=column,
            )
        expression = _DERIVED.get(column, pl.col(column)).cast(pl.Float64).alias("value")
        rows, columns = self.positions()
        values_ST = np.full((len(self.symbols), len(self.sessions)), np.nan)
        values_ST[rows, columns] = self.bars.select(expression.fill_null(float("nan"))).to_series().to_numpy()
        values_ST.setflags(write=False)
        return values_ST

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where each row of `bars` sits on the axes: symbol indices and session indices, int64."""
        symbols = pl.Series("symbol", self.symbols, dtype=pl.String)
        sessions = pl.Series("session", self.sessions, dtype=pl.Date)
        rows = symbols.search_sorted(self.bars.get_column("symbol"))
        columns = sessions.search_sorted(self.bars.get_column("session"))
        return rows.to_numpy().astype(np.int64), columns.to_numpy().astype(np.int64)

    def until(self, session: date) -> Panel:
        """Return the panel cut at the right end: nothing after `session`; the symbol axis stays as it is."""
        before = pl.col("session") <= session
        sessions = tuple(day for day in self.sessions if day <= session)
        return assembled(
            as_of=min(session, self.as_of),
            sessions=sessions,
            symbols=self.symbols,
            bars=self.bars.filter(before),
            index=self.index.filter(before),
            listings=self.listings,
            quality=replace(self.quality, rows=self.quality.rows.filter(before | pl.col("session").is_null())),
        )

    def restrict(self, symbols: Sequence[str]) -> Panel:
        """Return the panel with only `symbols`, on the same sessions.

        Raises `BadDataError` when one of them is not in the panel.
        """
        absent = sorted(set(symbols) - set(self.symbols))
        if absent:
            raise BadDataError(
                "symbols are not in the panel",
                found=absent,
                where=f"panel of {self.as_of}",
                fix="see the quality report for why they were not accepted",
            )
        kept = tuple(sorted(set(symbols)))
        return assembled(
            as_of=self.as_of,
            sessions=self.sessions,
            symbols=kept,
            bars=self.bars.filter(pl.col("symbol").is_in(kept)),
            index=self.index,
            listings=self.listings.filter(pl.col("symbol").is_in(kept)),
            quality=self.quality,
        )


def assembled(
    *,
    as_of: date,
    sessions: tuple[date, ...],
    symbols: tuple[str, ...],
    bars: pl.DataFrame,
    index: pl.DataFrame,
    listings: pl.DataFrame,
    quality: QualityReport,
) -> Panel:
    """Return a `Panel` of these parts with its `data_id` computed."""
    data_id = short_id([frame_sha256(bars), frame_sha256(index), [day.isoformat() for day in sessions]])
    return Panel(
        as_of=as_of,
        sessions=sessions,
        symbols=symbols,
        bars=bars,
        index=index,
        listings=listings,
        quality=quality,
        data_id=data_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A panel with what it was judged from, for those who show the evidence.

    raw : the history before the court, as `RawHistory.bars`. used : the traded rows after it, of quarantined symbols
    too. events : `EVENTS_SCHEMA`, what became of every step between raw and adjusted prices. opinions : the second
    opinions the court heard.
    """

    panel: Panel
    raw: pl.DataFrame
    used: pl.DataFrame
    events: pl.DataFrame
    opinions: tuple[Opinion, ...] = ()


@dataclass(frozen=True, slots=True)
class PanelStore:
    """The door to the history of one source: raw revisions in, judged panels out.

    workdir : the factory's working folder (raw data in data/raw, the vendor's steps as first learned in data/events).
    source_name : which source's record to read.
    opinions : names of other sources in the same record; the court compares their returns, their prices never enter.
    overrides : what the user knows better about the calendar.
    """

    workdir: Path
    source_name: str
    opinions: tuple[str, ...] = ()
    overrides: CalendarOverrides = NO_OVERRIDES

    def serve(self, as_of: date, known_at: datetime | None = None, *, symbols_of: SymbolsOf | None = None) -> Panel:
        """Return the panel of everything up to `as_of`, as it was known at `known_at` (None: as it is known now).

        symbols_of : chooses from the raw history (already cut at `as_of`) the symbols that are judged; None: all.

        Raises `BadDataError` when nothing is stored or no symbol is fit for use.
        """
        return self.serve_with_evidence(as_of, known_at, symbols_of=symbols_of).panel

    def serve_with_evidence(
        self, as_of: date, known_at: datetime | None = None, *, symbols_of: SymbolsOf | None = None
    ) -> Served:
        """Return what `serve` returns together with what it was judged from."""
        store = RawStore(self.workdir / "data" / "raw")
        history = store.read(self.source_name, as_of, known_at)
        if symbols_of is not None:
            history = history.only(symbols_of(history))
        told = [
            opinion_of(name, store.read(name, as_of, known_at)) for name in self.opinions if store.has(name, known_at)
        ]
        return judged(history, as_of, self._ledger.read(known_at), told, self.overrides)

    def record_events(self, known_at: datetime) -> LedgerReport:
        """Remember the vendor's steps in all that was merged by `known_at` (aware); the same again writes nothing.

        Once recorded, they are served as they are, however a later vintage rounds them. Raises `BadDataError` when
        nothing is stored, and what `EventLedger.record` raises.
        """
        history = RawStore(self.workdir / "data" / "raw").read(self.source_name, date.max, known_at)
        learned = self._ledger.read()
        bars, _ = check_bars(history.bars if learned is None else learned.placed(history.bars))
        return self._ledger.record(bars, known_at)

    @property
    def _ledger(self) -> EventLedger:
        return EventLedger(self.workdir / "data" / "events", self.source_name)


def build_panel(
    history: RawHistory, as_of: date, learned: LearnedSteps | None = None, opinions: Sequence[Opinion] = ()
) -> Panel:
    """Return the panel of `history` as of a day: judged, chained forward, placed on the market axis.

    learned : the vendor's steps that were known before this vintage; None: all are read from it.
    opinions : what other vendors say, for the court.

    Raises `BadDataError` when no session or no symbol is left, with the court's most frequent reason.
    """
    return judged(history, as_of, learned, opinions).panel


def judged(
    history: RawHistory,
    as_of: date,
    learned: LearnedSteps | None = None,
    opinions: Sequence[Opinion] = (),
    overrides: CalendarOverrides = NO_OVERRIDES,
) -> Served:
    """Return what `build_panel` returns together with what it was judged from."""
    raw = history.until(as_of)
    placed = raw if learned is None else RawHistory(learned.placed(raw.bars), raw.index, raw.listings)
    examined = examine(placed, as_of, _expected_sessions(raw, as_of, overrides), opinions)
    return Served(
        panel=_panel_of(examined, raw, as_of),
        raw=raw.bars,
        used=examined.bars.filter(pl.col("volume_shares") > 0),
        events=examined.events,
        opinions=tuple(opinions),
    )


def _panel_of(examined: Examination, history: RawHistory, as_of: date) -> Panel:
    symbols = examined.report.accepted
    sessions = examined.sessions
    if not examined.report.live or sessions.is_empty():
        reasons = examined.report.symbols.get_column("reasons").value_counts(sort=True)
        raise BadDataError(
            "no symbol is fit for use",
            expected=f"histories of at least {MIN_SESSIONS} sessions that reach {as_of}",
            found=reasons.row(0)[0] if reasons.height else "no bars",
            fix="collect newer prices, or ask for an earlier day",
        )
    day_before = pl.col("close_vnd").shift(1).over("symbol") * pl.col("factor").shift(1).over("symbol")
    bars = (
        examined.bars.lazy()
        .filter(
            (pl.col("volume_shares") > 0)
            & pl.col("symbol").is_in(symbols)
            & pl.col("session").is_in(sessions.implode())
        )
        .with_columns(reference_vnd=day_before / pl.col("factor"))
        .collect()
    )
    bars = _placed_on_exchanges(bars, history.listings).select(
        pl.col(name).cast(dtype) for name, dtype in PANEL_SCHEMA.items()
    )
    known = pl.DataFrame({"symbol": pl.Series(symbols, dtype=pl.String)}).join(
        history.listings, on="symbol", how="left"
    )
    return assembled(
        as_of=as_of,
        sessions=tuple(sessions.to_list()),
        symbols=symbols,
        bars=bars,
        index=history.index.filter(pl.col("session").is_in(sessions.implode())),
        listings=known.with_columns(pl.col("exchange").fill_null("HOSE"), pl.col("sector").fill_null("")).sort(
            "symbol"
        ),
        quality=examined.report,
    )


def _placed_on_exchanges(bars: pl.DataFrame, listings: pl.DataFrame) -> pl.DataFrame:
    """Return `bars` with the exchange of each day: as the vendor states it, else inferred from its trading."""
    silent = bars.filter(pl.col("exchange").is_null()).get_column("symbol").unique()
    if silent.is_empty():
        return bars
    inferred = pl.col("symbol").is_in(silent.implode())
    unsaid = bars.filter(inferred)
    placed = with_exchange(unsaid, membership(unsaid, listings)).select(bars.columns)
    return pl.concat([bars.filter(~inferred), placed]).sort("symbol", "session", maintain_order=True)


def _expected_sessions(history: RawHistory, as_of: date, overrides: CalendarOverrides) -> list[date] | None:
    """Return the calendar's sessions from the first bar to `as_of`, as far as the calendar is known that long."""
    first = history.bars.get_column("session").min()
    if not isinstance(first, date) or not KNOWN_FROM <= as_of <= KNOWN_TO:
        return None
    return trading_sessions(max(first, KNOWN_FROM), as_of, overrides)
