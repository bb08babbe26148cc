"""The price grid of one exchange on one day, for whole arrays of prices: ticks, nearest price, daily limits.

The same rules as `rules.tick_vnd` and `rules.price_limits_vnd`, which are exact but take one price at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vnfleet.market.rules import _TICKS, Exchange, TickLadder, _in_force, band_frac, wide_band_frac

Floats = NDArray[np.float64]
# Prices and limits are whole dong: less than this is binary rounding, not money.
_DUST_VND = 1e-4


@dataclass(frozen=True, slots=True)
class PriceGrid:
    """Ticks and bands in force; arrays of any shape in VND, NaN stays NaN.

    lower_vnd, step_vnd : ascending lower ends of the price ranges and the tick of each.
    """

    lower_vnd: Floats
    step_vnd: Floats
    band_frac: float
    wide_band_frac: float

    def tick_vnd(self, price_vnd: Floats) -> Floats:
        """Return the price step at each price."""
        place = np.searchsorted(self.lower_vnd, np.nan_to_num(price_vnd), side="right") - 1
        return self.step_vnd[np.maximum(place, 0)]

    def nearest_vnd(self, price_vnd: Floats) -> Floats:
        """Return the nearest price on the grid, at least one tick."""
        tick = self.tick_vnd(price_vnd)
        return np.maximum(np.round(price_vnd / tick), 1.0) * tick

    def limits_vnd(self, reference_vnd: Floats, wide: NDArray[np.bool_] | None = None) -> tuple[Floats, Floats]:
        """Return (floor, ceiling) for reference prices; `wide` marks first days and returns after a long absence."""
        band = self.band_frac if wide is None else np.where(wide, self.wide_band_frac, self.band_frac)
        high, low = reference_vnd * (1.0 + band) + _DUST_VND, reference_vnd * (1.0 - band) - _DUST_VND
        tick_high, tick_low, tick = (
            self.tick_vnd(high),
            self.tick_vnd(low + 2 * _DUST_VND),
            self.tick_vnd(reference_vnd),
        )
        ceiling = np.floor(high / tick_high) * tick_high
        floor = np.ceil(low / tick_low) * tick_low
        ceiling = np.where(ceiling <= reference_vnd, np.floor(reference_vnd / tick) * tick + tick, ceiling)
        floor = np.where(floor >= reference_vnd, np.ceil(reference_vnd / tick) * tick - tick, floor)
        return np.maximum(floor, tick_low), ceiling


def price_grid(exchange: Exchange, session: date) -> PriceGrid:
    """Return the grid of `exchange` on `session`; raises `BadDataError` outside the known range."""
    ladder: TickLadder = _in_force(_TICKS[exchange], session)
    return _grid(ladder, band_frac(exchange, session), wide_band_frac(exchange, session))


@lru_cache(maxsize=64)
def _grid(ladder: TickLadder, band: float, wide_band: float) -> PriceGrid:
    lower_vnd = np.array([lower for lower, _ in ladder], dtype=np.float64)
    step_vnd = np.array([step for _, step in ladder], dtype=np.float64)
    return PriceGrid(lower_vnd, step_vnd, band, wide_band)
