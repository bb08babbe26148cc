"""What the account carries through a run: its terms, its book of holdings, and the journal of what happened.

Named tuples of arrays, because compiled code reads and fills them.
Axes: T sessions, S symbols, B buckets of shares under way, R reasons of refusal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vnfleet.trading.venue import Venue

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

REASONS = (
    "absent",
    "no_reference",
    "outside_band",
    "locked_ceiling",
    "locked_floor",
    "not_delivered",
    "participation",
    "cash",
    "below_lot",
)
NUM_BUCKETS = 4
"""A purchase is delivered within 3 sessions, so the bucket of four sessions ago is free again."""


class Terms(NamedTuple):
    """Numbers of a run: session indices (both included), resize band, liquidity, costs, and the auctions traded in."""

    first: int
    last: int
    resize_band_frac: float
    max_participation_frac: float
    fee_frac: float
    sell_tax_frac: float
    buys_at_close: bool
    sells_at_close: bool


class Book(NamedTuple):
    """What the account holds; changed in place. `cash` has one element, `mark_S` the last price on today's basis."""

    cash: Integers
    shares_S: Integers
    underway_BS: Integers
    ready_B: Integers
    mark_S: Floats


class Journal(NamedTuple):
    """What happened; `shares_TS` is positive for purchases and negative for sales, money in dong.

    converted_TS : shares gained or lost by a corporate action; paid_TS : the cash that came with it (dividends, and the
    worth of fractions of a share).
    """

    shares_TS: Integers
    price_TS: Integers
    fee_TS: Integers
    tax_TS: Integers
    converted_TS: Integers
    paid_TS: Integers
    cash_T: Integers
    equity_T: Integers
    positions_T: Integers
    refused_R: Integers


def new_book(venue: Venue, first: int, start_cash_vnd: int) -> Book:
    """Return a book with cash only, at the close of session `first`."""
    num_symbols = venue.close_TS.shape[1]
    mark_S = np.full(num_symbols, np.nan)
    for row in venue.close_TS[: first + 1]:
        mark_S = np.where(np.isfinite(row), row, mark_S)
    return Book(
        cash=np.array([start_cash_vnd], dtype=np.int64),
        shares_S=np.zeros(num_symbols, dtype=np.int64),
        underway_BS=np.zeros((NUM_BUCKETS, num_symbols), dtype=np.int64),
        ready_B=np.zeros(NUM_BUCKETS, dtype=np.int64),
        mark_S=mark_S,
    )


def new_journal(venue: Venue) -> Journal:
    """Return an empty journal for the sessions and symbols of `venue`."""
    num_sessions, num_symbols = venue.close_TS.shape
    per_symbol = [np.zeros((num_sessions, num_symbols), dtype=np.int64) for _ in range(6)]
    per_session = [np.zeros(num_sessions, dtype=np.int64) for _ in range(3)]
    return Journal._make([*per_symbol, *per_session, np.zeros(len(REASONS), dtype=np.int64)])
