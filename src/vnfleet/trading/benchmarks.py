"""What the money would have done without a model: equal weight of the same universe, and the market index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.errors import BadDataError
from vnfleet.data.panel import Panel


def equal_weight_equity(
    panel: Panel, symbols: Sequence[str], first: date, last: date, start_vnd: float = 1_000_000_000
) -> pl.DataFrame:
    """Return session, equity_vnd of holding `symbols` equally weighted, rebalanced at every close, frictionless.

    A session's return is the mean of close to close returns (corporate actions taken out) over the symbols that have
    traded before; one that does not trade that session counts 0, a move marked `break_before` too. No costs, no lots,
    no limits: a friendly benchmark, not an account.
    """
    chosen = panel.restrict(symbols)
    close_ST = chosen.matrix("adj_close")
    broken_ST = np.nan_to_num(chosen.matrix("break_before")) > 0
    last_ST = _forward_filled(close_ST)
    before_ST = np.full_like(last_ST, np.nan)
    before_ST[:, 1:] = last_ST[:, :-1]
    listed_ST = np.isfinite(before_ST)
    moves_ST = np.where(listed_ST & ~broken_ST, last_ST / before_ST - 1.0, 0.0)
    growth_T = 1.0 + moves_ST.sum(axis=0) / np.maximum(listed_ST.sum(axis=0), 1)
    return _series(panel.sessions, growth_T, first, last, start_vnd)


def index_equity(panel: Panel, first: date, last: date, start_vnd: float = 1_000_000_000) -> pl.DataFrame:
    """Return session, equity_vnd of the market index (VNINDEX, a price index: dividends are not in it).

    A session without an index value keeps the last one. Raises `BadDataError` when there is no index before `first`.
    """
    points = dict(panel.index.select("session", "close_points").iter_rows())
    points_T = _forward_filled(np.array([[points.get(session, np.nan) for session in panel.sessions]]))[0]
    growth_T = np.ones_like(points_T)
    growth_T[1:] = points_T[1:] / points_T[:-1]
    inside = [growth for session, growth in zip(panel.sessions, growth_T, strict=True) if first < session <= last]
    if not np.isfinite(inside).all():
        raise BadDataError("the panel has no market index for these sessions", where=f"{first} to {last}")
    return _series(panel.sessions, growth_T, first, last, start_vnd)


def _forward_filled(values_ST: NDArray[np.float64]) -> NDArray[np.float64]:
    place_ST = np.where(np.isfinite(values_ST), np.arange(values_ST.shape[1]), 0)
    return np.take_along_axis(values_ST, np.maximum.accumulate(place_ST, axis=1), axis=1)


def _series(
    sessions: Sequence[date], growth_T: NDArray[np.float64], first: date, last: date, start_vnd: float
) -> pl.DataFrame:
    """Start with `start_vnd` at the close of the first session inside and grow from there."""
    rows = [place for place, session in enumerate(sessions) if first <= session <= last]
    if not rows:
        raise BadDataError("the panel has no session in this range", where=f"{first} to {last}")
    growth = np.concatenate([[1.0], growth_T[rows[1:]]])
    return pl.DataFrame(
        {
            "session": pl.Series([sessions[row] for row in rows], dtype=pl.Date),
            "equity_vnd": start_vnd * np.cumprod(growth),
        }
    )
