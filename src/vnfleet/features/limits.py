"""Closes at the exchange's price limits, judged on raw prices by the rules of that day and exchange."""

from __future__ import annotations

import numpy as np
import polars as pl

from vnfleet.market.grid import PriceGrid, price_grid
from vnfleet.market.rules import SUSPENSION_SESSIONS, Exchange


def with_limit_state(bars: pl.DataFrame) -> pl.DataFrame:
    """Add `limit_state`: +1 closed at or above the ceiling, -1 at or below the floor, else 0, null without reference.

    bars : close_vnd, reference_vnd, gap_sessions, session, exchange (of that day); rows keep their order.
    Raises `BadDataError` on a session outside the recorded rules.
    """
    # references are whole VND; chained factors leave dust that would push an exact limit to the next tick
    reference_vnd = bars.get_column("reference_vnd").round().fill_null(float("nan")).to_numpy()
    close_vnd = bars.get_column("close_vnd").to_numpy()
    wide = bars.select((pl.col("gap_sessions") > SUSPENSION_SESSIONS).fill_null(value=False)).to_series().to_numpy()
    state = np.full(bars.height, np.nan)
    for grid, rows in _rows_of_grids(bars):
        floor_vnd, ceiling_vnd = grid.limits_vnd(reference_vnd[rows], wide[rows])
        at_limit = (close_vnd[rows] >= ceiling_vnd).astype(np.float64) - (close_vnd[rows] <= floor_vnd)
        moved = close_vnd[rows] != reference_vnd[rows]
        state[rows] = np.where(np.isfinite(reference_vnd[rows]), at_limit * moved, np.nan)
    return bars.with_columns(limit_state=pl.Series(state, nan_to_null=True))


def _rows_of_grids(bars: pl.DataFrame) -> list[tuple[PriceGrid, np.ndarray]]:
    """Return the row numbers under each set of rules; there are few, however many days."""
    days = bars.select("exchange", "session").unique()
    grids = [price_grid(Exchange(exchange), session) for exchange, session in days.iter_rows()]
    known = {id(grid): grid for grid in grids}
    days = days.with_columns(grid=pl.Series([id(grid) for grid in grids], dtype=pl.Int64))
    placed = bars.select("exchange", "session").join(
        days, on=["exchange", "session"], maintain_order="left", how="left"
    )
    of_row = placed.get_column("grid").to_numpy()
    return [(grid, np.flatnonzero(of_row == key)) for key, grid in known.items()]
