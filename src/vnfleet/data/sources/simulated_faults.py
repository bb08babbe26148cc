"""Faults planted on request in a simulated history: what vendors really do wrong, at a known symbol and session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import polars as pl

PRICES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd")


class FaultKind(StrEnum):
    """The kinds of faults, each one seen in real vendor files."""

    ZERO_CLOSE = "zero_close"
    """Close and adjusted close are 0 in one bar."""
    OHLC_BREAK = "ohlc_break"
    """The high lies 2 % below the low in one bar."""
    MISSING_SESSION = "missing_session"
    """One traded session is not there."""
    DUPLICATED_ROW = "duplicated_row"
    """One bar occurs twice, the second time with another volume."""
    UNADJUSTED_SPLIT = "unadjusted_split"
    """From the session on prices are halved and volumes doubled, and the adjusted close does not know."""
    WRONG_ADJUSTED = "wrong_adjusted"
    """The adjusted close of one bar is 5 % too high."""
    IN_SESSION_LAST_BAR = "in_session_last_bar"
    """The bar of `as_of` was taken in mid-session: 40 % of the volume, close halfway to the open; later it is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: what, in which symbol, on which session (`session` must be a session the symbol trades)."""

    kind: FaultKind
    symbol: str
    session: date


def plant(bars: pl.DataFrame, faults: tuple[Fault, ...], as_of: date) -> pl.DataFrame:
    """Return `bars` (`RAW_SCHEMA`) with the faults on or before `as_of`; a fault where there is no bar does nothing."""
    for fault in faults:
        if fault.session <= as_of:
            bars = _plant_one(bars, fault, as_of)
    return bars


def _plant_one(bars: pl.DataFrame, fault: Fault, as_of: date) -> pl.DataFrame:
    of_symbol = pl.col("symbol") == fault.symbol
    here = of_symbol & (pl.col("session") == fault.session)
    if fault.kind is FaultKind.MISSING_SESSION:
        return bars.filter(~here)
    if fault.kind is FaultKind.DUPLICATED_ROW:
        return pl.concat([bars, bars.filter(here).with_columns(pl.col("volume_shares") + 1000)])
    if fault.kind is FaultKind.IN_SESSION_LAST_BAR and fault.session != as_of:
        return bars
    where = of_symbol & (pl.col("session") >= fault.session) if fault.kind is FaultKind.UNADJUSTED_SPLIT else here
    return bars.with_columns(
        pl.when(where).then(value.cast(bars.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in _wrong_values(fault.kind).items()
    )


def _wrong_values(kind: FaultKind) -> dict[str, pl.Expr]:
    volume = pl.col("volume_shares")
    if kind is FaultKind.ZERO_CLOSE:
        return {"close_vnd": pl.lit(0.0), "adjusted_close_vnd": pl.lit(0.0)}
    if kind is FaultKind.OHLC_BREAK:
        return {"high_vnd": _on_ten(pl.col("low_vnd") * 0.98)}
    if kind is FaultKind.WRONG_ADJUSTED:
        return {"adjusted_close_vnd": _on_ten(pl.col("adjusted_close_vnd") * 1.05)}
    if kind is FaultKind.UNADJUSTED_SPLIT:
        halved = {name: _on_ten(pl.col(name) / 2) for name in (*PRICES, "adjusted_close_vnd")}
        return {**halved, "volume_shares": volume * 2}
    partial = _on_ten((pl.col("open_vnd") + pl.col("close_vnd")) / 2)
    return {
        "close_vnd": partial,
        "adjusted_close_vnd": partial,
        "high_vnd": pl.max_horizontal("open_vnd", partial),
        "low_vnd": pl.min_horizontal("open_vnd", partial),
        "volume_shares": volume * 2 // 500 * 100,
    }


def _on_ten(price_vnd: pl.Expr) -> pl.Expr:
    return (price_vnd / 10).round() * 10
