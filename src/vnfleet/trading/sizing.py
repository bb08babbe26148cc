"""How much of each held symbol: shares by inverse volatility, and a basket held smaller when it is wilder than wanted.

Everything at session t is estimated from returns up to the close of t. Volatilities are plain standard deviations
(ddof 1) of daily returns over a trailing window, a year is 252 sessions.
Axes: T sessions (market axis), S symbols (sorted).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from vnfleet.data.panel import Panel
from vnfleet.trading.metrics import SESSIONS_PER_YEAR

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CALMEST = 0.25
"""No held symbol counts as calmer than this fraction of the held symbols' median volatility."""


class DailyReturns(NamedTuple):
    """Close to close returns on the market axis; a named tuple because compiled code reads it.

    returns_TS : fraction, corporate actions taken out, known at the close of t. 0 on a session without a trade and on
        a move that cannot be trusted (`break_before`); the whole move since the last trade when it trades again; NaN
        up to and including the symbol's first session.
    traded_TS : where a return comes from a trade of that session.
    """

    returns_TS: Floats
    traded_TS: Flags


def daily_returns(panel: Panel) -> DailyReturns:
    """Return the daily returns of every symbol of `panel`."""
    close_TS = panel.matrix("adj_close").T
    traded_TS = np.isfinite(close_TS)
    place_TS = np.maximum.accumulate(np.where(traded_TS, np.arange(len(close_TS))[:, None], 0), axis=0)
    last_TS = np.take_along_axis(close_TS, place_TS, axis=0)
    returns_TS = np.full_like(close_TS, np.nan)
    returns_TS[1:] = last_TS[1:] / last_TS[:-1] - 1.0
    broken_TS = np.nan_to_num(panel.matrix("break_before").T) > 0
    returns_TS[broken_TS & np.isfinite(returns_TS)] = 0.0
    return DailyReturns(returns_TS, traded_TS & np.isfinite(returns_TS))


@numba.njit(cache=True)
def inverse_volatility_weights(
    returns: DailyReturns, wanted_TS: Flags, window: int, slot_frac: float, heaviest_frac: float
) -> Floats:
    """Return [T, S]: the held symbols share `slot_frac` each in total, in proportion to 1 / volatility.

    A symbol that traded on less than half of the last `window` sessions has no volatility of its own: it counts like
    the median of the others held. None counts as calmer than `CALMEST` of that median. What `heaviest_frac` takes away
    goes to the others in proportion while they have room, then it stays cash.
    """
    num_sessions, num_symbols = wanted_TS.shape
    weights_TS = np.zeros((num_sessions, num_symbols))
    for t in range(num_sessions):
        held = np.nonzero(wanted_TS[t])[0]
        if held.size == 0:
            continue
        volatility = np.full(held.size, np.nan)
        for place in range(held.size):
            volatility[place] = _own_volatility(returns, t, held[place], window)
        known = volatility[np.isfinite(volatility)]
        middle = np.median(known) if known.size else 0.0
        pull = np.ones(held.size)
        if middle > 0:
            for place in range(held.size):
                own = volatility[place]
                pull[place] = 1.0 / (middle if np.isnan(own) else max(own, CALMEST * middle))
        shared = _shared(pull, held.size * slot_frac, heaviest_frac)
        for place in range(held.size):
            weights_TS[t, held[place]] = shared[place]
    return weights_TS


@numba.njit(cache=True)
def basket_scale(returns: DailyReturns, weights_TS: Floats, window: int, target_frac: float) -> Floats:
    """Return [T] in 0..1: what each row is multiplied by so that its estimated volatility a year is at most the target.

    The estimate holds the row's own weights through the last `window` sessions; before a symbol was listed the others
    stand for it. A basket that is known on less than half of them has no estimate and scale 0: nothing is bought.
    """
    num_sessions = weights_TS.shape[0]
    scale_T = np.ones(num_sessions)
    for t in range(num_sessions):
        held = np.nonzero(weights_TS[t])[0]
        if held.size == 0:
            continue
        total, moves, count = weights_TS[t].sum(), np.zeros(window), 0
        for u in range(max(0, t - window + 1), t + 1):
            weight, move = 0.0, 0.0
            for s in held:
                if not np.isnan(returns.returns_TS[u, s]):
                    weight += weights_TS[t, s]
                    move += weights_TS[t, s] * returns.returns_TS[u, s]
            if weight > 0.5 * total:
                moves[count] = move / weight * total
                count += 1
        if 2 * count < window:
            scale_T[t] = 0.0
            continue
        volatility = _deviation(moves[:count]) * np.sqrt(SESSIONS_PER_YEAR)
        if volatility > target_frac:
            scale_T[t] = target_frac / volatility
    return scale_T


@numba.njit(cache=True)
def _own_volatility(returns: DailyReturns, t: int, s: int, window: int) -> float:
    moves, count, traded = np.zeros(window), 0, 0
    for u in range(max(0, t - window + 1), t + 1):
        if not np.isnan(returns.returns_TS[u, s]):
            moves[count] = returns.returns_TS[u, s]
            count += 1
            traded += returns.traded_TS[u, s]
    return _deviation(moves[:count]) if 2 * traded >= window else np.nan


@numba.njit(cache=True)
def _deviation(moves: Floats) -> float:
    spread = moves - moves.mean()
    return float(np.sqrt((spread * spread).sum() / (moves.size - 1)))


@numba.njit(cache=True)
def _shared(pull: Floats, total: float, heaviest: float) -> Floats:
    """Share `total` in proportion to `pull`, none above `heaviest`; each round fixes those that would exceed it."""
    shared, is_full = np.zeros(pull.size), np.zeros(pull.size, dtype=np.bool_)
    for _ in range(pull.size):
        left = total - heaviest * is_full.sum()
        free = pull[~is_full].sum()
        for place in range(pull.size):
            shared[place] = heaviest if is_full[place] else max(left, 0.0) * pull[place] / free
        over = shared > heaviest * (1.0 + 1e-12)
        if not over.any():
            break
        is_full |= over
        if is_full.all():
            shared[:] = heaviest
            break
    return shared
