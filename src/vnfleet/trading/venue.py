"""A panel as the account sees it: whole dong, the day's limits, ticks, lots and delivery, and what one share became.

Axes: T sessions (market axis), S symbols (sorted). NaN where a symbol did not trade.

What daily bars cannot tell: the reference price of UPCoM is the volume-weighted average of the previous session, and
the panel gives the previous close for all three exchanges, so the limits of an UPCoM name lie around its last close.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.errors import BadDataError
from vnfleet.data.actions.corporate import CORPORATE_SCHEMA, CorporateKind
from vnfleet.data.panel import Panel
from vnfleet.market.grid import PriceGrid, price_grid
from vnfleet.market.rules import SUSPENSION_SESSIONS, Exchange, lot_shares, odd_lots_trade, settlement

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Cells = tuple[Integers, Integers]

STEP_TOLERANCE_FRAC = 0.005
"""An action counts only where the panel's own step is that of the actions, this closely."""
_ENDLESS_SHARES = 10**15


class Venue(NamedTuple):
    """What an order meets; a named tuple because compiled code reads it.

    open_TS, close_TS : raw prices in VND. volume_TS : shares, 0 without a trade.
    step_TS : what one share held since the previous trade is worth in today's shares (factor over previous factor).
    growth_TS : how many shares it has become; dividend_TS : the VND it has paid. 1 and 0 as a rule.
    floor_TS, ceiling_TS : price limits in VND; NaN on a symbol's first session, when there is no reference.
    open_tick_TS, close_tick_TS : the price step in VND at the open and at the close.
    lot_TS : round lot in shares. odd_TS : whether fewer shares than that can be sold.
    ready_T : when shares bought on t may first be sold, in half sessions: 2 u is the open of u, 2 u + 1 its close.
    """

    open_TS: Floats
    close_TS: Floats
    volume_TS: Integers
    step_TS: Floats
    growth_TS: Floats
    dividend_TS: Floats
    floor_TS: Floats
    ceiling_TS: Floats
    open_tick_TS: Floats
    close_tick_TS: Floats
    lot_TS: Integers
    odd_TS: Flags
    ready_T: Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which rules of the market an account meets, all of them unless said otherwise; off to see what each one costs.

    Parameters
    ----------
    fees : the broker's fee on both sides.
    tax : the tax on sales.
    lots : purchases in round lots, odd shares sold only where they have a board; off: any whole number of shares.
    limits : the daily price band, its locked ends, ticks, and no trade without a reference price; off: any price.
    delivery : shares are sold after they have arrived only; off: at once.
    participation : an order takes at most a fraction of the day's volume; off: any number of shares is there.
    """

    fees: bool = True
    tax: bool = True
    lots: bool = True
    limits: bool = True
    delivery: bool = True
    participation: bool = True

    def at(self, venue: Venue) -> Venue:
        """Return `venue` without the rules that are switched off (fees and tax are not the venue's)."""
        shape = venue.close_TS.shape
        changed = venue
        if not self.lots:
            changed = changed._replace(lot_TS=np.ones(shape, dtype=np.int64), odd_TS=np.ones(shape, dtype=np.bool_))
        if not self.limits:
            dong_TS = np.ones(shape)
            changed = changed._replace(floor_TS=np.full(shape, -np.inf), ceiling_TS=np.full(shape, np.inf))
            changed = changed._replace(open_tick_TS=dong_TS, close_tick_TS=dong_TS)
        if not self.delivery:
            changed = changed._replace(ready_T=np.zeros_like(venue.ready_T))
        if not self.participation:
            changed = changed._replace(volume_TS=np.full(shape, _ENDLESS_SHARES, dtype=np.int64))
        return changed


def venue_of(panel: Panel, actions: pl.DataFrame | None = None) -> Venue:
    """Return the venue of `panel`.

    actions : `CORPORATE_SCHEMA`; a step of kind cash dividend pays cash per share (the announced amount where one is
        confirmed, else what the step implies) and leaves the shares as they are. All other steps, and all without
        `actions`, multiply the shares.

    Raises `BadDataError` when the rules of one of the days are not known, or `actions` lacks a column.
    """
    columns, rows = panel.positions()
    open_TS, close_TS, factor_TS, reference_TS, shares_TS = (
        _laid_out(panel, name, (rows, columns))
        for name in ("open_vnd", "close_vnd", "factor", "reference_vnd", "volume_shares")
    )
    open_TS, close_TS = np.rint(open_TS), np.rint(close_TS)
    traded_TS = np.isfinite(close_TS)
    previous_TS = _previous_trade(traded_TS)
    step_TS = np.ones(close_TS.shape)
    again = np.nonzero(traded_TS & (previous_TS >= 0))
    step_TS[again] = factor_TS[again] / factor_TS[previous_TS[again], again[1]]
    growth_TS, dividend_TS = step_TS.copy(), np.zeros(step_TS.shape)
    if actions is not None:
        _pay_dividends(panel, actions, growth_TS, dividend_TS, close_TS, previous_TS)
    absent_TS = np.arange(len(panel.sessions))[:, None] - previous_TS - 1
    wide_TS = (absent_TS > SUSPENSION_SESSIONS) & (previous_TS >= 0)
    floor_TS, ceiling_TS, open_tick_TS, close_tick_TS = (np.full(close_TS.shape, np.nan) for _ in range(4))
    lot_TS, odd_TS = np.ones(close_TS.shape, dtype=np.int64), np.zeros(close_TS.shape, dtype=np.bool_)
    for grid, exchange, where in _listed(panel, (rows, columns)):
        # The exchange announces references on the tick; after an event ours is an estimate within a few dong.
        floor_TS[where], ceiling_TS[where] = grid.limits_vnd(grid.nearest_vnd(reference_TS[where]), wide_TS[where])
        open_tick_TS[where], close_tick_TS[where] = grid.tick_vnd(open_TS[where]), grid.tick_vnd(close_TS[where])
        lot_T = np.array([lot_shares(exchange, session) for session in panel.sessions])
        odd_T = np.array([odd_lots_trade(exchange, session) for session in panel.sessions])
        lot_TS[where], odd_TS[where] = lot_T[where[0]], odd_T[where[0]]
    return Venue(
        open_TS=open_TS,
        close_TS=close_TS,
        volume_TS=np.nan_to_num(shares_TS).astype(np.int64),
        step_TS=step_TS,
        growth_TS=growth_TS,
        dividend_TS=dividend_TS,
        floor_TS=floor_TS,
        ceiling_TS=ceiling_TS,
        open_tick_TS=open_tick_TS,
        close_tick_TS=close_tick_TS,
        lot_TS=lot_TS,
        odd_TS=odd_TS,
        ready_T=_ready(panel.sessions),
    )


def _laid_out(panel: Panel, column: str, cells: Cells) -> Floats:
    """Return `column` as [T, S]; like `panel.matrix`, for several columns without finding the cells again."""
    values_TS = np.full((len(panel.sessions), len(panel.symbols)), np.nan)
    values_TS[cells] = panel.bars.get_column(column).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return values_TS


def _previous_trade(traded_TS: Flags) -> Integers:
    """Return the index of the last session before t on which the symbol traded, -1 for none."""
    index_TS = np.where(traded_TS, np.arange(len(traded_TS))[:, None], -1)
    last_TS = np.maximum.accumulate(index_TS, axis=0)
    previous_TS = np.full_like(last_TS, -1)
    previous_TS[1:] = last_TS[:-1]
    return previous_TS


def _ready(sessions: Sequence[date]) -> Integers:
    rules = [settlement(session) for session in sessions]
    halves = [
        2 * (place + rule.delay_sessions) + (0 if rule.sellable_at_open else 1) for place, rule in enumerate(rules)
    ]
    return np.array(halves, dtype=np.int64)


def _listed(panel: Panel, cells: Cells) -> Iterator[tuple[PriceGrid, Exchange, Cells]]:
    """Yield each exchange's grids with the cells of the bars that fall under them."""
    rows, columns = cells
    exchange_of_row = panel.bars.get_column("exchange")
    for exchange in sorted(Exchange(name) for name in exchange_of_row.unique()):
        there = (exchange_of_row == exchange.value).to_numpy()
        grids = [price_grid(exchange, session) for session in panel.sessions]
        grid_T = np.array([id(grid) for grid in grids])  # one object for all sessions under the same rules
        for name, grid in {id(grid): grid for grid in grids}.items():
            inside = there & (grid_T[rows] == name)
            yield grid, exchange, (rows[inside], columns[inside])


def _pay_dividends(
    panel: Panel,
    actions: pl.DataFrame,
    growth_TS: Floats,
    dividend_TS: Floats,
    close_TS: Floats,
    previous_TS: Integers,
) -> None:
    """Turn the part of each step that was paid in cash from shares into VND per share, in place.

    An action is applied on the first traded session from its own on; several of one gap one after the other.
    """
    lacking = sorted(set(CORPORATE_SCHEMA) - set(actions.columns))
    if lacking:
        raise BadDataError("corporate actions lack columns", expected=list(CORPORATE_SCHEMA), found=actions.columns)
    sessions, symbols = pl.Series(panel.sessions, dtype=pl.Date), pl.Series(panel.symbols, dtype=pl.String)
    known = actions.filter(pl.col("symbol").is_in(panel.symbols), pl.col("session") <= sessions[-1])
    known = known.sort("symbol", "session")
    known = known.with_columns(
        row=sessions.search_sorted(known.get_column("session")),
        place=symbols.search_sorted(known.get_column("symbol")),
        in_cash=pl.col("kind") == CorporateKind.CASH_DIVIDEND.value,
        told=pl.when("confirmed").then("cash_vnd"),
    )
    gaps: dict[tuple[int, int], list[tuple[float, bool, float | None]]] = {}
    for t, s, step, in_cash, told in known.select("row", "place", "factor_step", "in_cash", "told").iter_rows():
        traded = t
        while traded < len(close_TS) and np.isnan(close_TS[traded, s]):
            traded += 1
        if traded < len(close_TS) and previous_TS[traded, s] >= 0:
            gaps.setdefault((traded, s), []).append((step, in_cash, told))
    for (t, s), steps in gaps.items():
        whole = float(np.prod([step for step, _, _ in steps]))
        if abs(growth_TS[t, s] / whole - 1.0) > STEP_TOLERANCE_FRAC:
            continue  # not the panel's step: value is kept by shares, as without announcements
        close_vnd, shares = close_TS[previous_TS[t, s], s], 1.0
        for step, in_cash, told in steps:
            if in_cash:
                dividend_TS[t, s] += shares * (close_vnd * (1.0 - 1.0 / step) if told is None else told)
                growth_TS[t, s] /= step
            else:
                shares *= step
            close_vnd /= step
