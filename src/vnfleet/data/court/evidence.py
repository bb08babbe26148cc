"""What speaks for and against a move from one row to the next: reference, vendor's step, bands, neighbours, the day.

Every column looks at the row itself and at rows before it, with one exception that the name tells: `next_reference_vnd`
is what the vendor states one session later. It is the close that was public on the day itself, so it may repair that
day's close, and nothing earlier.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO, Exchange, band_frac

REFERENCE_WINDOW_ROWS = 60
REFERENCE_MIN_ROWS = 20
REGULAR_FRAC = 0.95
"""A symbol whose stated reference was the previous close on so many of its last rows is on HOSE or HNX, where it must
be; on UPCoM it is the average price of the session before."""
TICK_WINDOW_ROWS = 60
TICK_MIN_ROWS = 5
TICK_RECENT_ROWS = 8
"""Closes that only HOSE's ticks allow: so many in the window, and one of them of late (in 2021 names went to HNX)."""
QUIET_WINDOW_ROWS = 250
QUIET_MIN_ROWS = 60
HOSE_SLACK_FRAC = 0.01
QUIET_SLACK_FRAC = 0.02
WIDE_FACTOR = 1.5
SAME_VND = 5.5
"""Half of the finest tick, and a little for binary fractions."""
ROUNDED_CHANGE_VND = 50.5
"""A vendor that tells the day's change with one decimal of a thousand VND moves the reference by up to 50 VND."""


def with_evidence(bars: pl.DataFrame, sessions: pl.Series) -> pl.DataFrame:
    """Return `bars` with the columns below; one row a symbol and session, sorted by both, `vendor_step` among them.

    previous_vnd : close of the row before, null on a symbol's first. gross : close over it.
    adjacent : no session of the market lies between the two rows.
    reference_vnd : the stated reference, where it says anything: > 0, rows adjacent, not the day's own close.
    silent_reference_vnd : it, where it is the day's own close: no change, or a change that was never told.
    reference_step : previous_vnd / reference_vnd, null where the reference says nothing; 1.0 = the previous close.
    regular : the symbol's reference has been its previous close (`REGULAR_FRAC`).
    limit_frac : the largest believable move of the day, from the band of the exchange or what the past shows of it.
    on_hose : the vendor says so, or closes that only HOSE's ticks allow.
    """
    of_symbol = "symbol"
    position = sessions.search_sorted(bars.get_column("session")).cast(pl.Int64)
    reference = pl.col("stated_reference_vnd")
    bars = bars.with_columns(position=position).with_columns(
        previous_vnd=pl.col("close_vnd").shift(1).over(of_symbol),
        previous_low_vnd=pl.col("low_vnd").shift(1).over(of_symbol),
        previous_high_vnd=pl.col("high_vnd").shift(1).over(of_symbol),
        adjacent=((pl.col("position") - pl.col("position").shift(1).over(of_symbol)) <= 1).fill_null(value=False),
    )
    bars = bars.with_columns(
        gross=pl.col("close_vnd") / pl.col("previous_vnd"),
        unchanged=(reference - pl.col("close_vnd")).abs() < 1.0,
        reference_vnd=pl.when((reference > 0) & pl.col("adjacent")).then(reference),
    )
    same = (pl.col("reference_vnd") - pl.col("previous_vnd")).abs() <= SAME_VND
    silent = pl.col("unchanged") & ~same
    bars = bars.with_columns(
        silent_reference_vnd=pl.when(silent).then(pl.col("reference_vnd")),
        reference_vnd=pl.when(~silent).then(pl.col("reference_vnd")),
        follows=pl.when((pl.col("vendor_step") == 1.0) & (pl.col("volume_shares").shift(1).over(of_symbol) > 0)).then(
            same.cast(pl.Float64)
        ),
    )
    bars = bars.with_columns(
        reference_step=pl.when(same)
        .then(pl.when(pl.col("reference_vnd").is_not_null()).then(1.0))
        .otherwise(pl.col("previous_vnd") / pl.col("reference_vnd")),
        regularity=pl.col("follows")
        .rolling_mean(REFERENCE_WINDOW_ROWS, min_samples=REFERENCE_MIN_ROWS)
        .shift(1)
        .over(of_symbol),
    ).with_columns(regular=(pl.col("regularity") >= REGULAR_FRAC).fill_null(value=False))
    return _with_limits(bars).drop("follows")


def _with_limits(bars: pl.DataFrame) -> pl.DataFrame:
    days = bars.get_column("session").unique().sort()
    known = [min(max(day, KNOWN_FROM), KNOWN_TO) for day in days.to_list()]
    bands = pl.DataFrame(
        {
            "session": days,
            **{
                exchange.value: np.array([band_frac(exchange, day) for day in known], dtype=np.float64)
                for exchange in Exchange
            },
        }
    )
    off_tick = ((pl.col("close_vnd") / 100.0 - (pl.col("close_vnd") / 100.0).round()).abs() > 0.05).cast(pl.Int32)
    moved = (pl.col("gross") * pl.col("vendor_step") - 1.0).abs()
    bars = bars.join(bands, on="session", how="left", maintain_order="left").with_columns(
        wild=(moved > pl.col("HOSE") + 0.003).cast(pl.Int32)
    )
    bars = bars.with_columns(
        on_hose=(
            pl.col("exchange").eq_missing("HOSE")
            | (
                (off_tick.rolling_sum(TICK_WINDOW_ROWS, min_samples=1).shift(1).over("symbol") >= TICK_MIN_ROWS)
                & (off_tick.rolling_sum(TICK_RECENT_ROWS, min_samples=1).shift(1).over("symbol") >= 1)
            )
        ).fill_null(value=False),
        quiet=(
            pl.col("wild").rolling_sum(QUIET_WINDOW_ROWS, min_samples=QUIET_MIN_ROWS).shift(1).over("symbol") == 0
        ).fill_null(value=False),
    )
    return (
        bars.with_columns(
            limit_frac=pl.when(pl.col("on_hose"))
            .then(pl.col("HOSE") + HOSE_SLACK_FRAC)
            .when(pl.col("exchange").eq_missing("HNX") | (pl.col("quiet") & ~pl.col("exchange").eq_missing("UPCOM")))
            .then(pl.col("HNX") + QUIET_SLACK_FRAC)
            .otherwise(WIDE_FACTOR * pl.max_horizontal("HOSE", "HNX", "UPCOM"))
        )
        .drop("wild", "quiet", "HNX", "UPCOM")
        .rename({"HOSE": "hose_band_frac"})
    )


def fits(step: pl.Expr) -> pl.Expr:
    """Return whether the day's move, times `step`, is one the band allows."""
    return (pl.col("gross") * step - 1.0).abs() <= pl.col("limit_frac")
