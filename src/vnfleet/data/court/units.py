"""Units and grids: prices and volumes told in another unit, prices off the tick, volumes off the lot."""

from __future__ import annotations

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.data.court.findings import findings, said
from vnfleet.market.rules import _LOTS, _TICKS, Exchange

SPIKE_FACTOR = 100.0
SPIKE_WINDOW_ROWS = 60
OFF_TICK_FRAC = 0.05
"""Symbols with more rows off the tick are told once: their prices are not raw."""
LOT_WINDOW_ROWS = 60
LOTS_OF_100_FROM = _LOTS[Exchange.HOSE][-1].valid_from
_FINE_TICKS_FROM = _TICKS[Exchange.HOSE][-1].valid_from
_STOCK_CODE_LENGTH = 3
_PRICES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd")

Floats = NDArray[np.float64]


def with_one_unit(bars: pl.DataFrame, found: list[pl.DataFrame]) -> pl.DataFrame:
    """Return `bars` (sorted by symbol and session, closes positive) with prices in one unit a symbol.

    A close that is 10, 100 or 1,000 times the last one, or a tenth ..., is told in another unit, and with it the whole
    bar. A fall to a tenth that the adjusted close does not share is left alone: it could be a split. Looks back only.
    """
    if bars.is_empty():
        return bars
    starts = bars.get_column("symbol").ne_missing(bars.get_column("symbol").shift(1)).to_numpy().copy()
    starts[0] = True
    close = np.array(bars.get_column("close_vnd"))
    adjusted = np.array(bars.get_column("adjusted_close_vnd").fill_null(0.0))
    power, adjusted_power = _powers(starts, close, adjusted)
    if not (power.any() or adjusted_power.any()):
        return bars
    bars = bars.with_columns(power=pl.Series(power), adjusted_power=pl.Series(adjusted_power))
    changed = bars.filter(pl.col("power") != 0)
    found.append(
        findings(
            changed,
            "price_unit",
            "error",
            "repair",
            said("close {} is in another unit: divided by 10^{}", "close_vnd", "power"),
        )
    )
    return bars.with_columns(
        *(
            pl.col(name) / 10.0 ** pl.col("power")
            for name in (*_PRICES, "stated_reference_vnd", "told_low_vnd", "told_high_vnd")
        ),
        adjusted_close_vnd=pl.col("adjusted_close_vnd") / 10.0 ** pl.col("adjusted_power"),
    ).drop("power", "adjusted_power")


@numba.njit(cache=True)
def _powers(starts: NDArray[np.bool_], close: Floats, adjusted: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    size = len(close)
    power, adjusted_power = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    last = last_adjusted = 0.0
    for row in range(size):
        if starts[row]:
            last, last_adjusted = close[row], adjusted[row]
            continue
        moved = np.log10(close[row] / last)
        jump = round(moved)
        shared = 0
        if adjusted[row] > 0.0 and last_adjusted > 0.0:
            adjusted_moved = np.log10(adjusted[row] / last_adjusted)
            shared = round(adjusted_moved)
            if abs(adjusted_moved - shared) * np.log(10.0) > 0.35:
                shared = 0
        if jump != 0 and abs(jump) <= 3 and abs(moved - jump) * np.log(10.0) <= 0.35:
            known = adjusted[row] > 0.0 and last_adjusted > 0.0
            if shared == jump:
                power[row] = jump
                adjusted_power[row] = jump
            elif jump >= 1 or jump <= -2 or not known:
                power[row] = jump
        last = close[row] / 10.0 ** power[row]
        if adjusted[row] > 0.0:
            last_adjusted = adjusted[row] / 10.0 ** adjusted_power[row]
    return power, adjusted_power


def check_grid(bars: pl.DataFrame) -> list[pl.DataFrame]:
    """Return findings about ticks, lots and volumes; nothing is repaired.

    A tick is what any exchange allows at that price. Lots of 100 hold everywhere since HOSE has them; odd lots are
    matched on boards of their own, but some vendors add them: only a symbol without any in its last rows is asked.
    """
    traded = pl.col("volume_shares") > 0
    bars = bars.select("symbol", "session", "close_vnd", "volume_shares").filter(traded)
    close = pl.col("close_vnd")
    fine = pl.when(close < 10_000).then(10.0).when(close < 50_000).then(50.0).otherwise(100.0)
    tick = pl.when(pl.col("session") >= _FINE_TICKS_FROM).then(fine).otherwise(100.0)
    stock = pl.col("symbol").str.len_chars() == _STOCK_CODE_LENGTH
    lot = pl.col("volume_shares") % 100
    window = pl.col("volume_shares").shift(1).rolling_max(SPIKE_WINDOW_ROWS, min_samples=SPIKE_WINDOW_ROWS)
    bars = bars.with_columns(
        off_tick=stock & (((close / tick) - (close / tick).round()).abs() * tick > 0.05),
        usual_max=window.over("symbol"),
        odd_before=(lot != 0)
        .cast(pl.Int32)
        .shift(1)
        .rolling_sum(LOT_WINDOW_ROWS, min_samples=LOT_WINDOW_ROWS)
        .over("symbol"),
    ).with_columns(off_tick_share=pl.col("off_tick").mean().over("symbol"))
    often = pl.col("off_tick_share") > OFF_TICK_FRAC
    symbols = (
        bars.filter(often)
        .group_by("symbol")
        .agg(session=pl.lit(None, pl.Date), count=pl.col("off_tick").sum(), rows=pl.len())
    )
    return [
        findings(
            symbols.sort("symbol"),
            "not_raw",
            "warn",
            "accept",
            said("{} of {} closes are off every tick: the prices are adjusted, not raw", "count", "rows"),
        ),
        findings(
            bars.filter(pl.col("off_tick") & ~often),
            "tick",
            "info",
            "accept",
            said("close {} is off the tick", "close_vnd"),
        ),
        findings(
            bars.filter((lot != 0) & (pl.col("odd_before") == 0) & (pl.col("session") >= LOTS_OF_100_FROM)),
            "lot",
            "info",
            "accept",
            said("{} shares are no multiple of the lot of 100, unlike all before", "volume_shares"),
        ),
        findings(
            bars.filter(pl.col("volume_shares") > SPIKE_FACTOR * pl.col("usual_max")),
            "volume_spike",
            "warn",
            "accept",
            said("{} shares; at most {} in the 60 sessions before", "volume_shares", "usual_max"),
        ),
    ]
