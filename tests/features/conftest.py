"""A small market of random walks with every trouble of a real one, in VND on the tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.panel import Panel, assembled
from vnfleet.features.catalogue import FEATURE_NAMES
from vnfleet.features.cube import feature_frame

NUM_SESSIONS = 300


@dataclass(frozen=True)
class Market:
    """Builds panels: `walks` for random bars, `panel` for any bars."""

    sessions: tuple[date, ...]
    index: pl.DataFrame

    def walk(self, symbol: str, seed: int, *, step: float = 0.02) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        num = len(self.sessions)
        close = np.round(20_000 * np.exp(np.cumsum(rng.normal(0.0, step, num))) / 10) * 10
        opening = np.round(close * np.exp(rng.normal(0.0, step / 2, num)) / 10) * 10
        return pl.DataFrame(
            {
                "symbol": [symbol] * num,
                "session": self.sessions,
                "open_vnd": opening,
                "high_vnd": np.maximum(opening, close) + 10.0 * rng.integers(0, 30, num),
                "low_vnd": np.minimum(opening, close) - 10.0 * rng.integers(0, 30, num),
                "close_vnd": close,
                "volume_shares": rng.lognormal(12, 1, num).astype(np.int64) + 100,
                "factor": np.ones(num),
            }
        )

    def panel(self, bars: pl.DataFrame, exchanges: dict[str, str] | None = None) -> Panel:
        last = (pl.col("close_vnd") * pl.col("factor")).shift().over("symbol")
        bars = bars.sort("symbol", "session").with_columns(
            reference_vnd=last / pl.col("factor"),
            break_before=pl.lit(value=False),
            exchange=pl.col("symbol").replace_strict(exchanges or {}, default="HOSE", return_dtype=pl.String),
        )
        symbols = tuple(bars.get_column("symbol").unique().sort().to_list())
        listed = exchanges or {}
        listings = pl.DataFrame(
            {"symbol": symbols, "exchange": [listed.get(s, "HOSE") for s in symbols], "sector": [""] * len(symbols)}
        )
        return assembled(
            as_of=self.sessions[-1],
            sessions=self.sessions,
            symbols=symbols,
            bars=bars,
            index=self.index,
            listings=listings,
            quality=QualityReport(pl.DataFrame(schema=QUALITY_ROW_SCHEMA), pl.DataFrame(schema=QUALITY_SYMBOL_SCHEMA)),
        )

    def whole_panel(self) -> Panel:
        """Six symbols that trade every session."""
        return self.panel(pl.concat([self.walk(f"S{n}", n) for n in range(6)]))

    def troubled_panel(self) -> Panel:
        """Gaps, a late listing, a split, a flat price, locked days and another exchange."""
        rng = np.random.default_rng(99)
        whole = self.walk("WHOLE", 1)
        gaps = self.walk("GAPS", 2).filter(pl.Series(rng.random(NUM_SESSIONS) > 0.1))
        gaps = gaps.filter(~pl.col("session").is_between(self.sessions[200], self.sessions[228]))
        late = self.walk("LATE", 3).slice(110)
        split_day = self.sessions[170]
        split = self.walk("SPLIT", 4).with_columns(
            pl.when(pl.col("session") >= split_day).then(pl.col(column) / 2).otherwise(pl.col(column)).alias(column)
            for column in ("open_vnd", "high_vnd", "low_vnd", "close_vnd")
        )
        split = split.with_columns(factor=pl.when(pl.col("session") >= split_day).then(2.0).otherwise(1.0))
        flat = self.walk("FLAT", 5, step=0.0).with_columns(
            high_vnd=pl.col("close_vnd"), low_vnd=pl.col("close_vnd"), volume_shares=pl.lit(1000, dtype=pl.Int64)
        )
        locked = self.walk("LOCKED", 6, step=0.04).with_columns(
            open_vnd=pl.col("close_vnd"), high_vnd=pl.col("close_vnd"), low_vnd=pl.col("close_vnd")
        )
        return self.panel(pl.concat([whole, gaps, late, split, flat, locked]), {"GAPS": "HNX", "LOCKED": "UPCOM"})


def _weekdays(first: date, count: int) -> tuple[date, ...]:
    days = (first + timedelta(days=n) for n in range(2 * count))
    return tuple(day for day in days if day.weekday() < 5)[:count]


@pytest.fixture(scope="session")
def market() -> Market:
    sessions = _weekdays(date(2016, 1, 4), NUM_SESSIONS)
    points = 600 * np.exp(np.cumsum(np.random.default_rng(7).normal(0, 0.01, NUM_SESSIONS)))
    return Market(sessions, pl.DataFrame({"session": sessions, "close_points": points}))


@pytest.fixture(scope="session")
def whole(market: Market) -> Panel:
    return market.whole_panel()


@pytest.fixture(scope="session")
def troubled(market: Market) -> Panel:
    return market.troubled_panel()


@pytest.fixture(scope="session")
def known() -> Callable[[Panel, str], dict[str, np.ndarray]]:
    """Feature columns of one symbol, on its own traded sessions."""

    def of_symbol(panel: Panel, symbol: str) -> dict[str, np.ndarray]:
        rows = feature_frame(panel).filter(pl.col("symbol") == symbol)
        return {name: rows.get_column(name).to_numpy() for name in FEATURE_NAMES}

    return of_symbol
