"""The vectorised price grid says exactly what the exact one-price rules say."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.market.grid import price_grid
from vnfleet.market.rules import Exchange, price_limits_vnd, tick_vnd

EXCHANGES = st.sampled_from(list(Exchange))
DAYS = st.dates(date(2012, 1, 1), date(2027, 12, 31))
PRICES_VND = st.integers(1, 40_000).map(lambda tens: 10.0 * tens)


@given(exchange=EXCHANGES, day=DAYS, prices=st.lists(PRICES_VND, min_size=1, max_size=20), wide=st.booleans())
def test_limits_and_ticks_equal_the_exact_rules(exchange: Exchange, day: date, prices: list[float], wide: bool) -> None:
    grid, array = price_grid(exchange, day), np.array(prices)
    floor, ceiling = grid.limits_vnd(array, np.full(len(prices), wide))
    exact = [price_limits_vnd(exchange, price, day, wide_band=wide) for price in prices]
    assert list(zip(floor, ceiling, strict=True)) == exact
    assert grid.tick_vnd(array).tolist() == [tick_vnd(exchange, price, day) for price in prices]


def test_limits_forgive_the_dust_of_binary_arithmetic() -> None:
    # 10,000 VND +7 % is 10,700 exactly; a reference that went through a factor and back must not lose a tick.
    dusty = np.array([10_000.0 * 0.87 / 0.87 - 1e-9])
    floor, ceiling = price_grid(Exchange.HOSE, date(2024, 1, 2)).limits_vnd(dusty)
    assert (floor[0], ceiling[0]) == (9_300.0, 10_700.0)


def test_nearest_price_by_hand() -> None:
    grid = price_grid(Exchange.HOSE, date(2024, 1, 2))
    nearest = grid.nearest_vnd(np.array([9_994.0, 10_020.0, 10_030.0, 50_060.0, 2.0, np.nan]))
    assert nearest[:5].tolist() == [9_990.0, 10_000.0, 10_050.0, 50_100.0, 10.0]
    assert np.isnan(nearest[5])


def test_days_outside_the_known_range_are_refused() -> None:
    with pytest.raises(BadDataError):
        price_grid(Exchange.HOSE, date(2011, 12, 30))
