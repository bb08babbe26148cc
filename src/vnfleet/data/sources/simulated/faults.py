"""Faults planted on request in a history: what vendors really do wrong, at a known symbol and session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

import polars as pl

PRICES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd")
FROZEN_ROWS = 8
TAIL_ROWS = 15


class FaultKind(StrEnum):
    """The kinds of faults of one symbol, each one seen in real vendor files."""

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
    REPEATED_ROW = "repeated_row"
    """One bar occurs twice, exactly."""
    NEGATIVE_CLOSE = "negative_close"
    """The close of one bar is -99."""
    NO_CLOSE = "no_close"
    """One bar has no close."""
    ZERO_OPEN = "zero_open"
    """The open of one bar is 0."""
    ZERO_RANGE = "zero_range"
    """High and low of one bar are 0."""
    CLOSE_OUT_OF_RANGE = "close_out_of_range"
    """The high of one bar lies 1 % below its close: the auction was left out."""
    MIXED_UNITS = "mixed_units"
    """The open of one bar is told in thousand VND, the rest in VND."""
    PRICE_X10 = "price_x10"
    """All prices of one bar are ten times too high."""
    PRICE_X100 = "price_x100"
    """All prices of one bar are a hundred times too high."""
    PRICE_IN_THOUSANDS = "price_in_thousands"
    """From the session on all prices are told in thousand VND."""
    VOLUME_X1000 = "volume_x1000"
    """The volume of one bar is a thousand times too high."""
    VOLUME_X10 = "volume_x10"
    """The volume of one bar is ten times too high."""
    NEGATIVE_VOLUME = "negative_volume"
    """The volume of one bar is negative."""
    NO_VOLUME = "no_volume"
    """One bar has no volume."""
    FROZEN_FEED = "frozen_feed"
    """The bar is repeated, volume and all, on the sessions that follow (8 in a row)."""
    STALE_TAIL = "stale_tail"
    """The newest 15 bars have no volume and the price before: suspended, and the feed does not say so."""
    WEEKEND_ROW = "weekend_row"
    """The bar occurs once more, on the Saturday after."""
    CLOSE_NOT_FINAL = "close_not_final"
    """The close of one bar is 1.5 % off, the adjusted close with it; what the next session refers to is right."""
    REPEATED_BAR = "repeated_bar"
    """One bar is that of the session before; what the next session refers to is right."""
    BOGUS_STEP = "bogus_step"
    """All adjusted closes before the session are divided by 1.1: a step that never was."""
    BACKWARD_STEP = "backward_step"
    """All adjusted closes before the session are multiplied by 1.1: a step against time."""
    MISSING_STEP = "missing_step"
    """The adjusted closes before the session know nothing of its corporate action (nothing happens without one)."""
    DOUBLE_STEP = "double_step"
    """The corporate action of the session is adjusted for twice."""
    LATE_STEP = "late_step"
    """The corporate action of the session is adjusted for one session too late."""
    NO_ADJUSTED = "no_adjusted"
    """The adjusted close of one bar is absent."""
    OFF_TICK = "off_tick"
    """The close of one bar is 3 VND off the price grid."""
    ODD_LOT = "odd_lot"
    """The volume of one bar is 7 shares more than a round lot."""
    ADJUSTED_AS_RAW = "adjusted_as_raw"
    """All prices before the session are 3.7 % lower: adjusted ones, told as raw."""


class MarketFaultKind(StrEnum):
    """Faults of a whole session."""

    MARKET_HOLE = "market_hole"
    """The session is not there for anybody."""
    COLUMN_GONE = "column_gone"
    """From the session on nobody has an open."""
    READ_IN_SESSION = "read_in_session"
    """All bars of the session were taken in mid-session: 30 % of the volume."""
    EARLY_CLOSES = "early_closes"
    """A third of the closes of the session are 1.2 % off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: what, in which symbol, on which session (`session` must be a session the symbol trades)."""

    kind: FaultKind
    symbol: str
    session: date


def plant(bars: pl.DataFrame, faults: tuple[Fault, ...], as_of: date) -> pl.DataFrame:
    """Return `bars` (`RAW_SCHEMA`, the optional columns may be absent) with the faults on or before `as_of`.

    A fault where there is no bar does nothing. The order of the rows is not kept where rows are added.
    """
    for fault in faults:
        if fault.session <= as_of:
            bars = _plant_one(bars, fault, as_of)
    return bars


def plant_market(bars: pl.DataFrame, kind: MarketFaultKind, session: date) -> pl.DataFrame:
    """Return `bars` with a fault of the whole session."""
    here = pl.col("session") == session
    if kind is MarketFaultKind.MARKET_HOLE:
        return bars.filter(~here)
    if kind is MarketFaultKind.COLUMN_GONE:
        return _changed(bars, pl.col("session") >= session, {"open_vnd": pl.lit(None)})
    if kind is MarketFaultKind.READ_IN_SESSION:
        return _changed(bars, here, {"volume_shares": pl.col("volume_shares") * 3 // 1000 * 100})
    third = here & (pl.col("symbol").rank("dense") % 3 == 0)
    return _changed(bars, third, _not_final(1.012))


def _plant_one(bars: pl.DataFrame, fault: Fault, as_of: date) -> pl.DataFrame:
    of_symbol = pl.col("symbol") == fault.symbol
    here = of_symbol & (pl.col("session") == fault.session)
    kind = fault.kind
    if kind is FaultKind.MISSING_SESSION:
        return bars.filter(~here)
    if kind in _ADDED_ROWS:
        return pl.concat([bars, bars.filter(here).with_columns(_ADDED_ROWS[kind](fault.session))])
    if kind is FaultKind.IN_SESSION_LAST_BAR and fault.session != as_of:
        return bars
    if kind in _STEP_FACTORS:
        return _with_step(bars, fault, _STEP_FACTORS[kind])
    if kind in (FaultKind.FROZEN_FEED, FaultKind.STALE_TAIL, FaultKind.REPEATED_BAR):
        return _with_copies(bars, fault)
    where = here
    if kind in (FaultKind.UNADJUSTED_SPLIT, FaultKind.PRICE_IN_THOUSANDS):
        where = of_symbol & (pl.col("session") >= fault.session)
    if kind is FaultKind.ADJUSTED_AS_RAW:
        where = of_symbol & (pl.col("session") < fault.session)
    return _changed(bars, where, _wrong_values(kind))


def _changed(bars: pl.DataFrame, where: pl.Expr, values: dict[str, pl.Expr]) -> pl.DataFrame:
    return bars.with_columns(
        pl.when(where).then(value.cast(bars.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
        if name in bars.columns
    )


_ADDED_ROWS: dict[FaultKind, Callable[[date], pl.Expr]] = {
    FaultKind.DUPLICATED_ROW: lambda _: pl.col("volume_shares") + 1000,
    FaultKind.REPEATED_ROW: lambda _: pl.col("volume_shares"),
    FaultKind.WEEKEND_ROW: lambda day: pl.lit(day + timedelta(days=5 - day.weekday())).alias("session"),
}
_Steps = Callable[[float], tuple[float, float]]
_STEP_FACTORS: dict[FaultKind, _Steps] = {
    # the true step of the session -> factors on the adjusted closes before it, and on that of the session itself
    FaultKind.BOGUS_STEP: lambda _: (1 / 1.1, 1.0),
    FaultKind.BACKWARD_STEP: lambda _: (1.1, 1.0),
    FaultKind.MISSING_STEP: lambda step: (step, 1.0),
    FaultKind.DOUBLE_STEP: lambda step: (1 / step, 1.0),
    FaultKind.LATE_STEP: lambda step: (1.0, 1 / step),
}


def step_of(bars: pl.DataFrame, symbol: str, session: date) -> float:
    """Return the step that the adjusted closes of a symbol take into a session, 1.0 where there is none to be seen."""
    rows = bars.filter((pl.col("symbol") == symbol) & (pl.col("session") <= session)).sort("session").tail(2)
    if rows.height < 2 or rows["session"][1] != session:
        return 1.0
    levels = (rows["adjusted_close_vnd"] / rows["close_vnd"]).to_list()
    step = levels[1] / levels[0]
    return step if abs(step - 1.0) > 0.01 else 1.0


def _with_step(bars: pl.DataFrame, fault: Fault, factors: _Steps) -> pl.DataFrame:
    before, now = factors(step_of(bars, fault.symbol, fault.session))
    of_symbol = pl.col("symbol") == fault.symbol
    factor = (
        pl.when(of_symbol & (pl.col("session") < fault.session))
        .then(before)
        .when(of_symbol & (pl.col("session") == fault.session))
        .then(now)
        .otherwise(1.0)
    )
    return _changed(bars, factor != 1.0, {"adjusted_close_vnd": _on_ten(pl.col("adjusted_close_vnd") * factor)})


def _with_copies(bars: pl.DataFrame, fault: Fault) -> pl.DataFrame:
    """Repeat a bar on later sessions of its symbol: on the next, on seven more, or (without volume) on the newest."""
    rows = bars.filter(pl.col("symbol") == fault.symbol).sort("session")
    place = rows["session"].search_sorted(fault.session)
    columns = [name for name in (*PRICES, "adjusted_close_vnd", "volume_shares") if name in rows.columns]
    spans = {
        FaultKind.REPEATED_BAR: (place - 1, place, place + 1),
        FaultKind.FROZEN_FEED: (place, place, min(place + FROZEN_ROWS, rows.height)),
        FaultKind.STALE_TAIL: (rows.height - TAIL_ROWS - 1, rows.height - TAIL_ROWS, rows.height),
    }
    source, begin, end = spans[fault.kind]
    if source < 0 or place >= rows.height:
        return bars
    told = rows.row(source, named=True)
    values = {name: pl.lit(told[name]) for name in columns}
    if fault.kind is FaultKind.STALE_TAIL:
        values = {name: pl.lit(told["close_vnd"]) for name in PRICES}
        values |= {"adjusted_close_vnd": pl.lit(told["adjusted_close_vnd"]), "volume_shares": pl.lit(0)}
        values["stated_reference_vnd"] = pl.lit(told["close_vnd"])
    days = rows["session"][begin:end]
    return _changed(bars, (pl.col("symbol") == fault.symbol) & pl.col("session").is_in(days.implode()), values)


def _scaled(factor: float) -> dict[str, pl.Expr]:
    names = (*PRICES, "adjusted_close_vnd", "stated_reference_vnd")
    return {name: pl.col(name) * factor for name in names}


def _not_final(factor: float) -> dict[str, pl.Expr]:
    return {
        "close_vnd": (pl.col("close_vnd") * factor / 100).round() * 100,  # 100: on the tick of every exchange
        "adjusted_close_vnd": _on_ten(
            pl.col("adjusted_close_vnd") * (pl.col("close_vnd") * factor / 100).round() * 100 / pl.col("close_vnd")
        ),
    }


def _wrong_values(kind: FaultKind) -> dict[str, pl.Expr]:
    volume = pl.col("volume_shares")
    if kind is FaultKind.UNADJUSTED_SPLIT:
        halved = {name: _on_ten(pl.col(name) / 2) for name in (*PRICES, "adjusted_close_vnd")}
        return {**halved, "volume_shares": volume * 2}
    if kind is FaultKind.IN_SESSION_LAST_BAR:
        partial = _on_ten((pl.col("open_vnd") + pl.col("close_vnd")) / 2)
        return {
            "close_vnd": partial,
            "adjusted_close_vnd": partial,
            "high_vnd": pl.max_horizontal("open_vnd", partial),
            "low_vnd": pl.min_horizontal("open_vnd", partial),
            "volume_shares": volume * 2 // 500 * 100,
        }
    zero, nothing = pl.lit(0.0), pl.lit(None)
    return {
        FaultKind.ZERO_CLOSE: {"close_vnd": zero, "adjusted_close_vnd": zero},
        FaultKind.OHLC_BREAK: {"high_vnd": _on_ten(pl.col("low_vnd") * 0.98)},
        FaultKind.WRONG_ADJUSTED: {"adjusted_close_vnd": _on_ten(pl.col("adjusted_close_vnd") * 1.05)},
        FaultKind.NEGATIVE_CLOSE: {"close_vnd": pl.lit(-99.0)},
        FaultKind.NO_CLOSE: {"close_vnd": nothing},
        FaultKind.ZERO_OPEN: {"open_vnd": zero},
        FaultKind.ZERO_RANGE: {"high_vnd": zero, "low_vnd": zero},
        FaultKind.CLOSE_OUT_OF_RANGE: {"high_vnd": _on_ten(pl.col("close_vnd") * 0.99)},
        FaultKind.MIXED_UNITS: {"open_vnd": pl.col("open_vnd") / 1000},
        FaultKind.PRICE_X10: _scaled(10.0),
        FaultKind.PRICE_X100: _scaled(100.0),
        FaultKind.PRICE_IN_THOUSANDS: _scaled(0.001),
        FaultKind.VOLUME_X1000: {"volume_shares": volume * 1000},
        FaultKind.VOLUME_X10: {"volume_shares": volume * 10},
        FaultKind.NEGATIVE_VOLUME: {"volume_shares": -volume},
        FaultKind.NO_VOLUME: {"volume_shares": nothing},
        FaultKind.CLOSE_NOT_FINAL: _not_final(1.015),
        FaultKind.NO_ADJUSTED: {"adjusted_close_vnd": nothing},
        FaultKind.OFF_TICK: {"close_vnd": pl.col("close_vnd") + 3.0},
        FaultKind.ODD_LOT: {"volume_shares": volume + 7},
        FaultKind.ADJUSTED_AS_RAW: {name: pl.col(name) * 0.963 for name in PRICES},
    }[kind]


def _on_ten(price_vnd: pl.Expr) -> pl.Expr:
    return (price_vnd / 10).round() * 10
