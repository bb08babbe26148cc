"""The compiled core of the account: one pass over the sessions in whole dong and whole shares.

A session t goes: corporate actions, orders from the weights wanted at the close of t-1, the opening auction, the
closing auction, valuation at the close. In each auction sales come before purchases, and purchases best first.
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
def run_account(
    venue: Venue, weights_TS: Floats, order_TS: Integers, terms: Terms, book: Book, journal: Journal
) -> None:
    """Run the account from `terms.first` to `terms.last`; `book` and `journal` are filled in place.

    weights_TS : fraction of the equity wanted in each symbol at the close of t, 0 for none, never NaN.
    order_TS : symbol indices, the most wanted first, for scarce cash.
    """
    num_symbols = weights_TS.shape[1]
    orders = np.zeros(num_symbols, dtype=np.int64)
    _value(venue, book, journal, terms.first)
    for t in range(terms.first + 1, terms.last + 1):
        book.ready_B[t % NUM_BUCKETS] = venue.ready_T[t]
        book.underway_BS[t % NUM_BUCKETS] = 0
        for s in range(num_symbols):
            _convert(venue, book, journal, t, s)
            orders[s] = _order(venue, book, journal, terms, weights_TS[t - 1, s], t, s)
        for at_close in (False, True):
            if terms.sells_at_close == at_close:
                for s in range(num_symbols):
                    if orders[s] < 0:
                        _sell(venue, book, journal, terms, t, s, -orders[s])
            if terms.buys_at_close == at_close:
                for place in range(num_symbols):
                    s = order_TS[t - 1, place]
                    if orders[s] > 0:
                        _buy(venue, book, journal, terms, t, s, orders[s])
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
    """Apply what one share has become: whole shares and dividends; a fraction is paid at the reference price."""
    if np.isnan(venue.close_TS[t, s]):
        return
    growth, dividend = venue.growth_TS[t, s], venue.dividend_TS[t, s]
    book.mark_S[s] /= venue.step_TS[t, s]
    held = book.shares_S[s]
    if held == 0 or (growth == 1.0 and dividend == 0.0):
        return
    # The step is an estimate (1.99999 for a split in two): up to half a share is forgiven, its worth taken from cash.
    became = held * growth
    kept = int(became + 0.5)
    if book.cash[0] + held * dividend + (became - kept) * book.mark_S[s] < 0:
        kept = int(became + 1e-6)
    paid = max(int(np.floor(held * dividend + (became - kept) * book.mark_S[s] + 1e-3)), -book.cash[0])
    for b in range(NUM_BUCKETS):  # rounded up: nothing is delivered early
        book.underway_BS[b, s] = int(np.ceil(book.underway_BS[b, s] * growth - 1e-6))
    book.cash[0] += paid
    book.shares_S[s] = kept
    journal.converted_TS[t, s] = kept - held
    journal.paid_TS[t, s] = paid


@numba.njit(cache=True)
def _whole_lots(shares: int, lot: int) -> int:
    return int(shares // lot) * int(lot)


@numba.njit(cache=True)
def _order(venue: Venue, book: Book, journal: Journal, terms: Terms, weight: float, t: int, s: int) -> int:
    """Return the shares to buy (positive) or sell (negative), sized with yesterday's equity and today's reference."""
    held, lot = book.shares_S[s], venue.lot_TS[t, s]
    if weight <= 0.0:
        return -int(held) if venue.odd_TS[t, s] else -_whole_lots(held, lot)
    if np.isnan(book.mark_S[s]):
        return 0
    target = int(journal.equity_T[t - 1] * weight / (book.mark_S[s] * lot) + 1e-9) * int(lot)
    if target == 0 and held < lot:
        journal.refused_R[_BELOW_LOT] += 1
        return 0
    if held > 0 and abs(target - held) <= terms.resize_band_frac * target:
        return 0
    if target < held:
        return -_whole_lots(held - target, lot)
    return _whole_lots(target - held, lot)


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
def _sell(venue: Venue, book: Book, journal: Journal, terms: Terms, t: int, s: int, ordered: int) -> None:
    quote = venue.close_TS[t, s] if terms.sells_at_close else venue.open_TS[t, s]
    tick = venue.close_tick_TS[t, s] if terms.sells_at_close else venue.open_tick_TS[t, s]
    half = 2 * t + (1 if terms.sells_at_close else 0)
    price = np.floor(quote / tick + 1e-9) * tick  # nobody could have paid a price between two ticks
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
    most = int(terms.max_participation_frac * venue.volume_TS[t, s] + 1e-9)
    if delivered < ordered:
        journal.refused_R[_NOT_DELIVERED] += 1
    elif most < ordered:
        journal.refused_R[_PARTICIPATION] += 1
    sold = min(ordered, delivered, most)
    if sold < book.shares_S[s] or not venue.odd_TS[t, s]:  # odd shares go with the last lot
        sold = _whole_lots(sold, venue.lot_TS[t, s])
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
    lot = venue.lot_TS[t, s]
    quote = venue.close_TS[t, s] if terms.buys_at_close else venue.open_TS[t, s]
    tick = venue.close_tick_TS[t, s] if terms.buys_at_close else venue.open_tick_TS[t, s]
    price = np.ceil(quote / tick - 1e-9) * tick
    reason = _obstacle(venue, t, s, price)
    if reason < 0 and price >= venue.ceiling_TS[t, s]:
        reason = _LOCKED_CEILING
    if reason >= 0:
        journal.refused_R[reason] += 1
        return
    affordable = _affordable(book.cash[0], price, terms.fee_frac, lot)
    most = int(terms.max_participation_frac * venue.volume_TS[t, s] / lot + 1e-9) * int(lot)
    if most < ordered:
        journal.refused_R[_PARTICIPATION] += 1
    if affordable < min(ordered, most):
        journal.refused_R[_CASH] += 1
    bought = min(ordered, most, affordable)
    if bought <= 0:
        return
    value = int(bought * price)
    fee = int(value * terms.fee_frac + 0.5)
    book.cash[0] -= value + fee
    book.shares_S[s] += bought
    book.underway_BS[t % NUM_BUCKETS, s] += bought
    journal.shares_TS[t, s], journal.price_TS[t, s] = bought, int(price)
    journal.fee_TS[t, s] = fee


@numba.njit(cache=True)
def _affordable(cash: int, price: float, fee_frac: float, lot: int) -> int:
    """Return the most shares in round lots that `cash` pays for, fee included."""
    shares = int(cash / (price * (1.0 + fee_frac) * lot)) * int(lot)
    value = int(shares * price)
    if value + int(value * fee_frac + 0.5) > cash:  # the division was rounded up: a dong would be lacking
        shares -= int(lot)
    return shares
