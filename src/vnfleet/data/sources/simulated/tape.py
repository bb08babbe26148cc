"""The engine of the simulated market: HOSE-like daily bars with a planted signal of known strength.

The signal. Every symbol carries a state made of its own past bars alone::

    u_t = clip(log return_t / EWMA volatility_{t-1}, -3, 3)        close to close, corporate actions taken out
    v_t = clip(log(traded value_t) - EWMA log traded value_{t-1}, -2, 2)
    state_t = 0.9 state_{t-1} + u_t v_t                            half-life 6.6 sessions, 88 % of its weight within 20

so a rise on rising volume lifts it, a rise on falling volume lowers it (and a fall the other way round). It moves the
*open to close* part of the next session by ``kappa * volatility * cross-sectional z-score(state)``; the opening gap
knows nothing of it. Neither the last return nor the last volume says anything alone: their product does, over weeks.

Prices follow a latent value; what a price limit or the tick cuts off comes with the next opening gap.
Causality: see `draw`; nothing here looks at a later session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from vnfleet.data.sources.simulated.market import (
    SESSIONS_PER_YEAR,
    Draws,
    Floats,
    Integers,
    SimulatedMarket,
    Tape,
    Traits,
    draw,
    traits_of,
)
from vnfleet.market.grid import PriceGrid, price_grid
from vnfleet.market.rules import Exchange, lot_shares

Flags = NDArray[np.bool_]

STATE_DECAY = 0.9
_VALUE_DECAY = 0.9
_VARIANCE_DECAY = 0.94
_MAX_MOVE = 3.0
_MAX_SURPRISE = 2.0
# Realised rank IC = 1.76 kappa / sqrt(1 + (2.47 kappa)^2), fitted to runs of 60 symbols over 7 years (4 seeds each at
# kappa 0.05, 0.1, 0.2, 0.3: IC 0.088, 0.170, 0.313, 0.424); `_kappa_of` is its inverse.
_IC_PER_KAPPA = 1.76
_IC_SATURATION = 2.47
_GAP = 0.25**0.5  # a quarter of the variance is the opening gap
_DAY = 0.75**0.5
_MARKET_DRIFT = 0.0003
_MARKET_VOLATILITY = 0.010
_SECTOR_VOLATILITY = 0.005
_ALPHA, _BETA = 0.08, 0.90  # GARCH(1,1) of market and symbols
_CASH_DIVIDENDS_PER_YEAR = 0.6
_STOCK_DIVIDENDS_PER_YEAR = 0.3
_SPLITS_PER_YEAR = 0.03
_STOCK_DIVIDEND_FRACS = np.array([0.05, 0.08, 0.10, 0.15, 0.20, 0.30])
_MIN_PRICE_TO_SPLIT_VND = 30_000.0


@dataclass(slots=True)
class _World:
    """What one session hands to the next; arrays [S] unless scalar."""

    traits: Traits
    grid: PriceGrid
    lot: int
    kappa: float
    close_vnd: Floats
    carry: Floats  # log of latent value over close
    variance: Floats
    market_variance: float
    slow_value: Floats
    suspended_for: Integers
    seen: Flags
    mean_log_value: Floats
    mean_square: Floats
    state: Floats
    capital: Floats
    index_points: float = 900.0


def simulate(market: SimulatedMarket, sessions: Sequence[date]) -> Tape:
    """Run `market` over `sessions`; a longer run begins with exactly the same rows."""
    traits = traits_of(market)
    draws = draw(market, len(sessions))
    tape = Tape.blank(len(sessions), market.num_symbols)
    world = _first_world(market, traits, sessions[0]) if sessions else None
    for place, session in enumerate(sessions):
        assert world is not None
        world.grid, world.lot = price_grid(Exchange.HOSE, session), lot_shares(Exchange.HOSE, session)
        _one_session(world, market, draws, tape, place)
    return tape


def _first_world(market: SimulatedMarket, traits: Traits, first: date) -> _World:
    size = market.num_symbols
    grid = price_grid(Exchange.HOSE, first)
    close_vnd = grid.nearest_vnd(traits.first_price_vnd)
    square = traits.daily_volatility_frac**2
    return _World(
        traits=traits,
        grid=grid,
        lot=lot_shares(Exchange.HOSE, first),
        kappa=_kappa_of(market.signal_rank_ic),
        close_vnd=close_vnd,
        carry=np.zeros(size),
        variance=square.copy(),
        market_variance=_MARKET_VOLATILITY**2,
        slow_value=np.zeros(size),
        suspended_for=np.zeros(size, dtype=np.int64),
        seen=np.zeros(size, dtype=bool),
        mean_log_value=traits.log_traded_value.copy(),
        mean_square=square + (traits.beta * _MARKET_VOLATILITY) ** 2 + _SECTOR_VOLATILITY**2,
        state=np.zeros(size),
        capital=close_vnd * traits.shares_outstanding,
    )


def _kappa_of(rank_ic: float) -> float:
    ratio = _IC_SATURATION / _IC_PER_KAPPA
    return float(rank_ic / _IC_PER_KAPPA / np.sqrt(1.0 - (ratio * rank_ic) ** 2))


def _one_session(world: _World, market: SimulatedMarket, draws: Draws, tape: Tape, place: int) -> None:
    grid = world.grid
    chance_S6 = draws.chance_TS6[place]
    trading = _who_trades(world, market, chance_S6, place)
    reference = (
        _reference(world, grid, chance_S6, trading & world.seen) if market.corporate_actions else world.close_vnd
    )
    step = reference / world.close_vnd

    gap, day, surprise = _moves(world, draws, place, trading)
    limits = grid.limits_vnd(reference)
    latent_open = np.log(reference) + world.carry + gap
    latent_close = latent_open + day
    opened = np.clip(grid.nearest_vnd(np.exp(latent_open)), *limits)
    closed = np.clip(grid.nearest_vnd(np.exp(latent_close)), *limits)
    reach_S2 = np.abs(draws.range_TS2[place]) * np.sqrt(world.variance)[:, None]
    high, low = _range(grid, opened, closed, limits, reach_S2)
    log_value = _log_traded_value(world, draws.value_TS2[place], surprise, locked=high == low)
    volume = np.maximum(np.round(np.exp(log_value) / closed / world.lot), 1.0).astype(np.int64) * world.lot

    tape.open_TS[place] = np.where(trading, opened, np.nan)
    tape.high_TS[place] = np.where(trading, high, np.nan)
    tape.low_TS[place] = np.where(trading, low, np.nan)
    tape.close_TS[place] = np.where(trading, closed, np.nan)
    tape.volume_TS[place] = np.where(trading, volume, 0)
    tape.step_TS[place] = step
    _advance_index(world, trading & world.seen, closed, reference)
    _advance_state(world, trading, np.log(closed / reference), np.log(closed * volume))
    world.carry = np.where(trading, latent_close - np.log(closed), world.carry)
    world.close_vnd = np.where(trading, closed, world.close_vnd)
    world.seen |= trading
    tape.state_TS[place] = np.where(trading, world.state, np.nan)
    tape.index_T[place] = round(world.index_points, 2)


def _who_trades(world: _World, market: SimulatedMarket, chance_S6: Floats, place: int) -> Flags:
    starts = (
        (chance_S6[:, 0] < market.suspensions_per_year / SESSIONS_PER_YEAR) & (world.suspended_for == 0) & world.seen
    )
    length = 3 + (chance_S6[:, 1] * 13).astype(np.int64)
    world.suspended_for = np.where(starts, length, np.maximum(world.suspended_for - 1, 0))
    open_for_trade: Flags = (place >= world.traits.listing_index) & (world.suspended_for == 0)
    return open_for_trade & (chance_S6[:, 2] >= world.traits.absent_frac)


def _reference(world: _World, grid: PriceGrid, chance_S6: Floats, can: Flags) -> Floats:
    """Reference prices of the session: the last close, less what an ex-date takes off, on the tick."""
    which, size, close = chance_S6[:, 3] * SESSIONS_PER_YEAR, chance_S6[:, 4], world.close_vnd
    cash = which < _CASH_DIVIDENDS_PER_YEAR
    stock = ~cash & (which < _CASH_DIVIDENDS_PER_YEAR + _STOCK_DIVIDENDS_PER_YEAR)
    split = ~cash & ~stock & (which < _CASH_DIVIDENDS_PER_YEAR + _STOCK_DIVIDENDS_PER_YEAR + _SPLITS_PER_YEAR)
    paid_vnd = np.maximum(np.round(close * (0.02 + 0.05 * size) / 100) * 100, 100)
    new_frac = np.where(split, 1.0, _STOCK_DIVIDEND_FRACS[(size * len(_STOCK_DIVIDEND_FRACS)).astype(np.int64)])
    happens = can & (cash & (paid_vnd < 0.12 * close) | stock | split & (close > _MIN_PRICE_TO_SPLIT_VND))
    after = np.where(cash, close - paid_vnd, close / (1.0 + new_frac))
    return np.where(happens, grid.nearest_vnd(after), close)


def _moves(world: _World, draws: Draws, place: int, trading: Flags) -> tuple[Floats, Floats, Floats]:
    """Log moves of the opening gap and of the day, and the size of the symbol's own move in standard deviations."""
    market_gap, market_day = np.sqrt(world.market_variance) * draws.market_T2[place] * (_GAP, _DAY)
    sector_S2 = _SECTOR_VOLATILITY * draws.sector_TK2[place][world.traits.sector_index] * (_GAP, _DAY)
    volatility = np.sqrt(world.variance)
    own_S2 = volatility[:, None] * draws.idiosyncratic_TS2[place] * (_GAP, _DAY)
    beta = world.traits.beta
    gap = beta * market_gap + sector_S2[:, 0] + own_S2[:, 0]
    day = beta * (market_day + _MARKET_DRIFT) + sector_S2[:, 1] + own_S2[:, 1]
    if trading.any():
        state = world.state - world.state[trading].mean()
        z = state / (np.sqrt(np.mean(state[trading] ** 2)) + 1e-9)
        day += world.kappa * volatility * np.clip(z, -_MAX_MOVE, _MAX_MOVE)
    own = own_S2.sum(axis=1)
    market_move = market_gap + market_day
    base = world.traits.daily_volatility_frac**2
    moved = (1 - _ALPHA - _BETA) * base + _ALPHA * np.minimum(own**2, 16 * world.variance) + _BETA * world.variance
    world.market_variance = (
        (1 - _ALPHA - _BETA) * _MARKET_VOLATILITY**2 + _ALPHA * market_move**2 + _BETA * world.market_variance
    )
    surprise = np.abs(own) / volatility
    world.variance = np.where(trading, moved, world.variance)
    return gap, day, surprise


def _range(
    grid: PriceGrid, opened: Floats, closed: Floats, limits: tuple[Floats, Floats], reach_S2: Floats
) -> tuple[Floats, Floats]:
    floor, ceiling = limits
    top, bottom = np.maximum(opened, closed), np.minimum(opened, closed)
    high = np.clip(grid.nearest_vnd(top * np.exp(0.5 * reach_S2[:, 0])), top, ceiling)
    low = np.clip(grid.nearest_vnd(bottom * np.exp(-0.5 * reach_S2[:, 1])), floor, bottom)
    locked_up, locked_down = bottom == ceiling, top == floor  # opened and closed at the limit: no other price was made
    return np.where(locked_down, floor, high), np.where(locked_up, ceiling, low)


def _log_traded_value(world: _World, noise_S2: Floats, surprise: Floats, *, locked: Flags) -> Floats:
    world.slow_value = 0.97 * world.slow_value + 0.085 * noise_S2[:, 0]
    usual = world.traits.log_traded_value + world.slow_value
    return usual + 0.6 * noise_S2[:, 1] + 0.25 * (surprise - 0.8) - 0.9 * locked


def _advance_index(world: _World, counted: Flags, closed: Floats, reference: Floats) -> None:
    before = world.capital[counted].sum()
    world.capital = np.where(counted, world.capital * closed / reference, world.capital)
    if before > 0:
        world.index_points *= world.capital[counted].sum() / before


def _advance_state(world: _World, trading: Flags, log_return: Floats, log_value: Floats) -> None:
    # On its first session a symbol has no past: its value is its own mean, so that day adds nothing to the state.
    mean_log_value = np.where(world.seen, world.mean_log_value, log_value)
    move = np.clip(log_return / np.sqrt(world.mean_square), -_MAX_MOVE, _MAX_MOVE)
    surprise = np.clip(log_value - mean_log_value, -_MAX_SURPRISE, _MAX_SURPRISE)
    world.state = np.where(trading, STATE_DECAY * world.state + move * surprise, world.state)
    world.mean_log_value = np.where(
        trading, _VALUE_DECAY * mean_log_value + (1 - _VALUE_DECAY) * log_value, mean_log_value
    )
    square = _VARIANCE_DECAY * world.mean_square + (1 - _VARIANCE_DECAY) * log_return**2
    world.mean_square = np.where(trading, square, world.mean_square)
