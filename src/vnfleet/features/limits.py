"""Closes at the exchange's price limits, judged on raw prices by the rules of that day."""

from __future__ import annotations

import polars as pl

from vnfleet.market.rules import SUSPENSION_SESSIONS, Exchange, band_frac, price_limits_vnd

_COARSE_TICKS_BELOW_VND = 4_000  # a tick of 100 VND exceeds half of the narrowest band (5 %) below this price


def with_limit_state(bars: pl.DataFrame, listings: pl.DataFrame) -> pl.DataFrame:
    """Add `limit_state`: +1 closed at or above the ceiling, -1 at or below the floor, else 0, null without reference.

    bars : close_vnd, reference_vnd, gap_sessions, session, symbol; rows keep their order. listings : symbol, exchange;
    a symbol not listed there is taken for HOSE. Moves below half the band cannot be at a limit and are not looked up.
    Raises `BadDataError` on a session outside the recorded rules.
    """
    placed = bars.join(listings.select("symbol", "exchange"), on="symbol", how="left", maintain_order="left")
    placed = placed.with_columns(pl.col("exchange").fill_null(Exchange.HOSE.value)).with_row_index("row")
    placed = placed.join(_bands(placed), on=["exchange", "session"], how="left", maintain_order="left")
    reference, close = pl.col("reference_vnd"), pl.col("close_vnd")
    far_enough = ((close / reference - 1.0).abs() >= pl.col("band_frac") / 2) | (reference < _COARSE_TICKS_BELOW_VND)
    states = _states(placed.filter(far_enough & (close != reference)))
    placed = placed.join(states, on="row", how="left", maintain_order="left")
    known = pl.when(reference.is_not_null()).then(pl.col("limit_state").fill_null(0.0))
    return placed.with_columns(limit_state=known).drop("row", "exchange", "band_frac")


def _bands(placed: pl.DataFrame) -> pl.DataFrame:
    days = placed.select("exchange", "session").unique()
    bands = [band_frac(Exchange(exchange), session) for exchange, session in days.iter_rows()]
    return days.with_columns(band_frac=pl.Series(bands, dtype=pl.Float64))


def _states(candidates: pl.DataFrame) -> pl.DataFrame:
    # references are whole VND; chained factors leave dust that would push an exact limit to the next tick
    columns = candidates.select(
        "exchange",
        pl.col("reference_vnd").round(),
        "session",
        "close_vnd",
        pl.col("gap_sessions") > SUSPENSION_SESSIONS,
    )
    states: list[float] = []
    for exchange, reference_vnd, session, close_vnd, suspended in columns.iter_rows():
        floor_vnd, ceiling_vnd = price_limits_vnd(Exchange(exchange), reference_vnd, session, wide_band=suspended)
        states.append(float(close_vnd >= ceiling_vnd) - float(close_vnd <= floor_vnd))
    return candidates.select("row").with_columns(limit_state=pl.Series(states, dtype=pl.Float64))
