"""A panel as the account sees it: prices in whole dong, the day's limits, lots and delivery, session by session.

Axes: T sessions (market axis), S symbols (sorted). NaN where a symbol did not trade.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vnfleet.data.panel import Panel
from vnfleet.market.grid import PriceGrid, price_grid
from vnfleet.market.rules import SUSPENSION_SESSIONS, Exchange, lot_shares, settlement

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Venue(NamedTuple):
    """What an order meets; a named tuple because compiled code reads it.

    open_TS, close_TS : raw prices in VND. volume_TS : shares, 0 without a trade.
    step_TS : what one share held since the previous trade has become (factor over previous factor); 1 as a rule.
    floor_TS, ceiling_TS : price limits in VND; NaN on a symbol's first session, when there is no reference.
    lot_TS : round lot in shares.
    ready_T : when shares bought on t may first be sold, in half sessions: 2 u is the open of u, 2 u + 1 its close.
    """

    open_TS: Floats
    close_TS: Floats
    volume_TS: Integers
    step_TS: Floats
    floor_TS: Floats
    ceiling_TS: Floats
    lot_TS: Integers
    ready_T: Integers


def venue_of(panel: Panel) -> Venue:
    """Return the venue of `panel`; raises `BadDataError` when the rules of one of its days are not known."""
    open_TS, close_TS = (np.rint(panel.matrix(name)).T.copy() for name in ("open_vnd", "close_vnd"))
    factor_TS = panel.matrix("factor").T
    traded_TS = np.isfinite(close_TS)
    previous_TS = _previous_trade(traded_TS)
    step_TS = np.ones_like(close_TS)
    rows, columns = np.nonzero(traded_TS & (previous_TS >= 0))
    before = previous_TS[rows, columns]
    step_TS[rows, columns] = factor_TS[rows, columns] / factor_TS[before, columns]
    absent_TS = np.arange(len(panel.sessions))[:, None] - previous_TS - 1
    limits = _limits(panel, (absent_TS > SUSPENSION_SESSIONS) & (previous_TS >= 0))
    return Venue(
        open_TS=open_TS,
        close_TS=close_TS,
        volume_TS=np.nan_to_num(panel.matrix("volume_shares")).T.astype(np.int64),
        step_TS=step_TS,
        floor_TS=limits[0],
        ceiling_TS=limits[1],
        lot_TS=_lots(panel),
        ready_T=np.array(
            [
                2 * (place + rule.delay_sessions) + (0 if rule.sellable_at_open else 1)
                for place, rule in enumerate(settlement(session) for session in panel.sessions)
            ],
            dtype=np.int64,
        ),
    )


def _previous_trade(traded_TS: NDArray[np.bool_]) -> Integers:
    """Return the index of the last session before t on which the symbol traded, -1 for none."""
    index_TS = np.where(traded_TS, np.arange(len(traded_TS))[:, None], -1)
    last_TS = np.maximum.accumulate(index_TS, axis=0)
    previous_TS = np.full_like(last_TS, -1)
    previous_TS[1:] = last_TS[:-1]
    return previous_TS


def _limits(panel: Panel, wide_TS: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    reference_TS = panel.matrix("reference_vnd").T
    floor_TS, ceiling_TS = np.full_like(reference_TS, np.nan), np.full_like(reference_TS, np.nan)
    for exchange, listed_TS in _listed_on(panel).items():
        for grid, rows in _rows_of_grid(exchange, panel.sessions):
            where = np.zeros_like(listed_TS)
            where[rows] = listed_TS[rows]
            # The exchange announces references on the tick; after an event ours is an estimate within a few dong.
            floor_TS[where], ceiling_TS[where] = grid.limits_vnd(grid.nearest_vnd(reference_TS[where]), wide_TS[where])
    return floor_TS, ceiling_TS


def _rows_of_grid(exchange: Exchange, sessions: Sequence[date]) -> list[tuple[PriceGrid, list[int]]]:
    rows: dict[int, tuple[PriceGrid, list[int]]] = {}
    for row, session in enumerate(sessions):
        grid = price_grid(exchange, session)  # one object for all sessions under the same rules
        rows.setdefault(id(grid), (grid, []))[1].append(row)
    return list(rows.values())


def _lots(panel: Panel) -> Integers:
    lot_TS = np.ones((len(panel.sessions), len(panel.symbols)), dtype=np.int64)
    for exchange, listed_TS in _listed_on(panel).items():
        lot_T = np.array([lot_shares(exchange, session) for session in panel.sessions])
        lot_TS = np.where(listed_TS, lot_T[:, None], lot_TS)
    return lot_TS


def _listed_on(panel: Panel) -> dict[Exchange, NDArray[np.bool_]]:
    """Return for each exchange where symbols traded on it."""
    rows, columns = panel.positions()
    exchange_of_row = panel.bars.get_column("exchange")
    listed = {}
    for exchange in sorted(Exchange(name) for name in exchange_of_row.unique()):
        there = (exchange_of_row == exchange.value).to_numpy()
        listed_TS = np.zeros((len(panel.sessions), len(panel.symbols)), dtype=np.bool_)
        listed_TS[columns[there], rows[there]] = True
        listed[exchange] = listed_TS
    return listed
