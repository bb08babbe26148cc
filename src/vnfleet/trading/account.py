"""The compiled core of the account: one pass over the sessions in whole dong and whole lots.

A session t goes: corporate actions, orders from what was wanted at the close of t-1, sales, purchases best first,
valuation at the close. With `sell_at_close` the sales come last, at the closing auction.
Axes: T sessions, S symbols, B buckets of shares under way (a purchase is delivered within 3 sessions).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from vnfleet.trading.books import NUM_BUCKETS, REASONS, Book, Journal, Terms
from vnfleet.trading.venue import Venue

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

(
    _ABSENT,
    _NO_REFERENCE,
    _OUTSIDE_BAND,
    _LOCKED_CEILING,
    _LOCKED_FLOOR,
    _NOT_DELIVERED,
    _PARTICIPATION,
    _CASH,
    _BELOW_LOT,
) = range(len(REASONS))


@numba.njit(cache=True)
def run_account(venue: Venue, wanted_TS: Flags, order_TS: Integers, terms: Terms, book: Book, journal: Journal) -> None:
    """Run the account from `terms.first` to `terms.last`; `book` and `journal` are filled in place.

    wanted_TS : symbols wanted at the close of t. order_TS : symbol indices, the most wanted first, for scarce cash.
    """
    num_symbols = wanted_TS.shape[1]
    orders = np.zeros(num_symbols, dtype=np.int64)
    _value(venue, book, journal, terms.first)
    for t in range(terms.first + 1, terms.last + 1):
        book.ready_B[t % NUM_BUCKETS] = venue.ready_T[t]
        book.underway_BS[t % NUM_BUCKETS] = 0
        for s in range(num_symbols):
            _convert(venue, book, journal, t, s)
            orders[s] = _order(venue, book, journal, terms, wanted_TS[t - 1, s], t, s)
        if not terms.sell_at_close:
            for s in range(num_symbols):
                if orders[s] < 0:
                    _sell(venue, book, journal, terms, t, s, -orders[s], venue.open_TS[t, s], 2 * t)
        for place in range(num_symbols):
            s = order_TS[t - 1, place]
            if orders[s] > 0:
                _buy(venue, book, journal, terms, t, s, orders[s])
        if terms.sell_at_close:
            for s in range(num_symbols):
                if orders[s] < 0:
                    _sell(venue, book, journal, terms, t, s, -orders[s], venue.close_TS[t, s], 2 * t + 1)
        _value(venue, book, journal, t)


@numba.njit(cache=True)
def _value(venue: Venue, book: Book, journal: Journal, t: int) -> None:
    equity, positions = book.cash[0], 0
    for s in range(book.shares_S.size):
        if not np.isnan(venue.close_TS[t, s]):
            book.mark_S[s] = venue.close_TS[t, s]
        if book.shares_S[s] > 0:
            equity += int(np.rint(book.shares_S[s] * book.mark_S[s]))
            positions += 1
    journal.cash_T[t], journal.equity_T[t], journal.positions_T[t] = book.cash[0], equity, positions


@numba.njit(cache=True)
def _convert(venue: Venue, book: Book, journal: Journal, t: int, s: int) -> None:
    """Apply what one share has become: whole lots are kept, the rest is paid in cash at the reference price."""
    if np.isnan(venue.close_TS[t, s]):
        return
    step, lot = venue.step_TS[t, s], venue.lot_TS[t, s]
    book.mark_S[s] /= step
    held = book.shares_S[s]
    if held == 0 or (step == 1.0 and held % lot == 0):
        return
    # The step is an estimate (1.99999 for a split in two): half a share is forgiven, its value taken from cash.
    kept = _whole_lots(held * step + 0.5, lot)
    if book.cash[0] + (held * step - kept) * book.mark_S[s] < 0:
        kept = _whole_lots(held * step + 1e-6, lot)
    paid = max(int(np.floor((held * step - kept) * book.mark_S[s] + 1e-3)), -book.cash[0])
    for b in range(NUM_BUCKETS):  # rounded up: nothing is delivered early
        book.underway_BS[b, s] = int(np.ceil(book.underway_BS[b, s] * step - 1e-6))
    book.cash[0] += paid
    book.shares_S[s] = kept
    journal.converted_TS[t, s] = kept - held
    journal.paid_TS[t, s] = paid


@numba.njit(cache=True)
def _whole_lots(shares: float, lot: int) -> int:
    return int(shares // lot) * int(lot)


@numba.njit(cache=True)
def _to_lots(book: Book, step: float, lot: int, s: int, slack: float, apply: bool) -> int:
    delivered, kept = book.shares_S[s], 0
    for b in range(NUM_BUCKETS):
        delivered -= book.underway_BS[b, s]
        lots = int((book.underway_BS[b, s] * step + slack) // lot) * lot
        kept += lots
        if apply:
            book.underway_BS[b, s] = lots
    return kept + int((delivered * step + slack) // lot) * lot


@numba.njit(cache=True)
def _order(venue: Venue, book: Book, journal: Journal, terms: Terms, wanted: bool, t: int, s: int) -> int:
    """Return the shares to buy (positive) or sell (negative), sized with yesterday's equity and today's reference."""
    held, lot = book.shares_S[s], venue.lot_TS[t, s]
    if not wanted:
        return int(-held)
    if np.isnan(book.mark_S[s]):
        return 0
    target = int(journal.equity_T[t - 1] / terms.max_positions / (book.mark_S[s] * lot) + 1e-9) * lot
    if target == 0 and held == 0:
        journal.refused_R[_BELOW_LOT] += 1
        return 0
    if held > 0 and abs(target - held) <= terms.resize_band_frac * target:
        return 0
    return int(target - held)


@numba.njit(cache=True)
def _obstacle(venue: Venue, t: int, s: int, price: float) -> int:
    if np.isnan(price):
        return _ABSENT
    if np.isnan(venue.floor_TS[t, s]):
        return _NO_REFERENCE
    if price < venue.floor_TS[t, s] or price > venue.ceiling_TS[t, s]:
        return _OUTSIDE_BAND
    return -1


@numba.njit(cache=True)
def _most(venue: Venue, terms: Terms, t: int, s: int) -> int:
    lot = venue.lot_TS[t, s]
    return int(terms.max_participation_frac * venue.volume_TS[t, s] / lot + 1e-9) * int(lot)


@numba.njit(cache=True)
def _sell(
    venue: Venue, book: Book, journal: Journal, terms: Terms, t: int, s: int, ordered: int, price: float, half: int
) -> None:
    reason = _obstacle(venue, t, s, price)
    if reason < 0 and price <= venue.floor_TS[t, s]:
        reason = _LOCKED_FLOOR
    if reason >= 0:
        journal.refused_R[reason] += 1
        return
    delivered = book.shares_S[s]
    for b in range(NUM_BUCKETS):
        if book.ready_B[b] > half:
            delivered -= book.underway_BS[b, s]
    most = _most(venue, terms, t, s)
    if delivered < ordered:
        journal.refused_R[_NOT_DELIVERED] += 1
    elif most < ordered:
        journal.refused_R[_PARTICIPATION] += 1
    sold = _whole_lots(min(ordered, delivered, most), venue.lot_TS[t, s])
    if sold <= 0:
        return
    value = int(sold * price)
    fee, tax = int(value * terms.fee_frac + 0.5), int(value * terms.sell_tax_frac + 0.5)
    book.cash[0] += value - fee - tax
    book.shares_S[s] -= sold
    journal.shares_TS[t, s], journal.price_TS[t, s] = -sold, int(price)
    journal.fee_TS[t, s], journal.tax_TS[t, s] = fee, tax


@numba.njit(cache=True)
def _buy(venue: Venue, book: Book, journal: Journal, terms: Terms, t: int, s: int, ordered: int) -> None:
    price, lot = venue.open_TS[t, s], venue.lot_TS[t, s]
    reason = _obstacle(venue, t, s, price)
    if reason < 0 and price >= venue.ceiling_TS[t, s]:
        reason = _LOCKED_CEILING
    if reason >= 0:
        journal.refused_R[reason] += 1
        return
    bought, most = ordered, _most(venue, terms, t, s)
    if most < bought:
        journal.refused_R[_PARTICIPATION] += 1
        bought = most
    affordable = int(book.cash[0] / (price * (1.0 + terms.fee_frac) * lot)) * lot
    if affordable < bought:
        journal.refused_R[_CASH] += 1
        bought = affordable
    if bought <= 0:
        return
    value = int(bought * price)
    fee = int(value * terms.fee_frac + 0.5)
    if value + fee > book.cash[0]:  # the rounded fee can cost the last dong
        bought -= lot
        value = int(bought * price)
        fee = int(value * terms.fee_frac + 0.5)
        if bought <= 0:
            return
    book.cash[0] -= value + fee
    book.shares_S[s] += bought
    book.underway_BS[t % NUM_BUCKETS, s] += bought
    journal.shares_TS[t, s], journal.price_TS[t, s] = bought, int(price)
    journal.fee_TS[t, s] = fee
