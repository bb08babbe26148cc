"""How large an account the orders fit into, by hand and by trying every size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import UsageError
from vnfleet.trading.capacity import portfolio_capacity_vnd


def test_one_order_fits_while_it_is_no_more_than_its_share_of_the_day() -> None:
    # a twentieth of the equity, a tenth of 2 billion traded: 200 million is a twentieth of 4 billion
    assert portfolio_capacity_vnd(np.array([0.05]), np.array([2e9]), 0.10) == pytest.approx(4e9)


def test_nine_orders_in_ten_must_fit() -> None:
    traded = np.array([1e9] * 8 + [4e8, 1e6])  # the thinnest is given up, the next one decides
    assert portfolio_capacity_vnd(np.full(10, 0.1), traded, 0.10) == pytest.approx(4e8)
    assert portfolio_capacity_vnd(np.full(9, 0.1), traded[1:], 0.10) == pytest.approx(1e6)  # of nine, all must fit


def test_days_without_a_trade_and_orders_of_nothing_say_nothing_about_size() -> None:
    requested, traded = np.array([0.1, np.nan, 0.0]), np.array([0.0, np.nan, 1e9])
    assert portfolio_capacity_vnd(requested, traded, 0.10) is None
    assert portfolio_capacity_vnd(np.append(requested, 0.1), np.append(traded, 1e9), 0.10) == pytest.approx(1e9)
    assert portfolio_capacity_vnd(np.array([]), np.array([]), 0.10) is None


@settings(max_examples=200, deadline=None)
@given(
    orders=st.lists(st.tuples(st.floats(1e-4, 1.0), st.floats(1e6, 1e12)), min_size=1, max_size=40),
    limit=st.floats(0.01, 1.0),
)
def test_it_is_the_largest_size_at_which_nine_in_ten_fit(orders: list[tuple[float, float]], limit: float) -> None:
    requested, traded = (np.array(column) for column in zip(*orders, strict=True))
    capacity = portfolio_capacity_vnd(requested, traded, limit)
    assert capacity is not None

    def share_fitting(account_vnd: float) -> float:
        return float(np.mean(account_vnd * requested <= limit * traded * (1 + 1e-12)))

    assert share_fitting(capacity) >= 0.9 - 1e-12
    assert share_fitting(capacity * (1 + 1e-9)) < 0.9 - 1e-12


@pytest.mark.parametrize(
    ("requested", "traded", "limit"),
    [([0.1], [1e9, 1e9], 0.1), ([-0.1], [1e9], 0.1), ([np.nan], [1e9], 0.1), ([0.1], [-1.0], 0.1), ([0.1], [1e9], 0.0)],
)
def test_orders_that_cannot_be_are_refused(requested: list[float], traded: list[float], limit: float) -> None:
    with pytest.raises(UsageError):
        portfolio_capacity_vnd(np.array(requested), np.array(traded), limit)
