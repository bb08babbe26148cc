"""A vendor that does not exist: a seeded HOSE-like market, told the way CafeF tells the real one.

Raw prices never change once told; the adjusted close is rounded to 10 VND, has factor 1 on the last day, and is told
anew for the whole past at every corporate action. Needs no network, account or data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import FetchPlan, Progress, RawHistory, no_progress, raw_history
from vnfleet.data.sources.simulated.faults import Fault, FaultKind, plant
from vnfleet.data.sources.simulated.market import SECTORS, Floats, SimulatedMarket, Tape, traits_of
from vnfleet.data.sources.simulated.tape import simulate
from vnfleet.market.calendar import trading_sessions

__all__ = ["Fault", "FaultKind", "SimulatedMarket", "SimulatedSource"]

_ADJUSTED_ROUNDING_VND = 10.0


@dataclass(frozen=True, slots=True)
class SimulatedSource:
    """The simulated market as a `Source`."""

    market: SimulatedMarket

    @property
    def name(self) -> str:
        """Short lower-case name."""
        return "simulated"

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return that nothing is asked of anybody."""
        return FetchPlan(requests=0, host="", seconds=0.0, sentence="simulate a market; nothing is asked of anybody")

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return the history up to and including `as_of`, with the market's planted faults; `since` changes nothing.

        Raises `BadDataError` when a symbol is not in the market.
        """
        wanted = self._wanted(symbols)
        sessions, tape = _played(self.market, as_of)
        adjusted_TS = _adjusted(tape)
        columns = {
            "open_vnd": tape.open_TS,
            "high_vnd": tape.high_TS,
            "low_vnd": tape.low_TS,
            "close_vnd": tape.close_TS,
            "adjusted_close_vnd": adjusted_TS,
            "volume_shares": tape.volume_TS,
        }
        told = self._long(sessions, columns).with_columns(exchange=pl.lit("HOSE"))
        bars = plant(told, self.market.faults, as_of)
        listings = pl.DataFrame(
            {
                "symbol": self.market.symbols,
                "exchange": ["HOSE"] * self.market.num_symbols,
                "sector": [SECTORS[place] for place in traits_of(self.market).sector_index],
            }
        )
        return raw_history(
            bars.filter(pl.col("symbol").is_in(wanted)),
            pl.DataFrame({"session": sessions, "close_points": tape.index_T}, schema_overrides={"session": pl.Date}),
            listings.filter(pl.col("symbol").is_in(wanted)),
        )

    def oracle(self, as_of: date) -> pl.DataFrame:
        """Return the planted state: symbol, session, score; one row per traded session, known at its close.

        The best any forecaster could do in ranking; for tests and demonstrations only.
        """
        sessions, tape = _played(self.market, as_of)
        return self._long(sessions, {"score": tape.state_TS, "close_vnd": tape.close_TS}).drop("close_vnd")

    def _wanted(self, symbols: Sequence[str] | None) -> list[str]:
        if symbols is None:
            return list(self.market.symbols)
        unknown = sorted(set(symbols) - set(self.market.symbols))
        if unknown:
            raise BadDataError(
                "the simulated market has no such symbols",
                expected=f"{self.market.symbols[0]} to {self.market.symbols[-1]}",
                found=unknown,
            )
        return sorted(set(symbols))

    def _long(self, sessions: tuple[date, ...], columns: dict[str, np.ndarray]) -> pl.DataFrame:
        """Return [T, S] arrays as a long frame sorted by symbol and session, one row per traded session."""
        rows_S, rows_T = np.nonzero(np.isfinite(columns["close_vnd"]).T)
        symbols = pl.Series("symbol", self.market.symbols, dtype=pl.String)
        days = pl.Series("session", sessions, dtype=pl.Date)
        values = {name: pl.Series(name, array[rows_T, rows_S]) for name, array in columns.items()}
        return pl.DataFrame({"symbol": symbols.gather(rows_S), "session": days.gather(rows_T), **values})


@lru_cache(maxsize=4)
def _played(market: SimulatedMarket, as_of: date) -> tuple[tuple[date, ...], Tape]:
    sessions = tuple(trading_sessions(market.start, as_of))
    return sessions, simulate(market, sessions)


def _adjusted(tape: Tape) -> Floats:
    """Close on the basis of the last session: times every later reference step, rounded as the vendor does."""
    later_TS = np.ones_like(tape.step_TS)
    later_TS[:-1] = np.cumprod(tape.step_TS[:0:-1], axis=0)[::-1]
    return np.round(tape.close_TS * later_TS / _ADJUSTED_ROUNDING_VND) * _ADJUSTED_ROUNDING_VND
