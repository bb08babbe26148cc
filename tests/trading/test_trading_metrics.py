"""Account figures and benchmarks against hand sums."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.panel import Panel
from vnfleet.market.calendar import trading_sessions
from vnfleet.trading.benchmarks import equal_weight_equity, index_equity
from vnfleet.trading.metrics import account_metrics

SESSIONS = trading_sessions(date(2023, 3, 1), date(2023, 3, 31))


def test_figures_of_three_days_by_hand() -> None:
    # returns +10 %, -10 %, +20 %: mean 0.0666..., deviations 0.0333, -0.1666, 0.1333: variance 0.0466.../2
    metrics = account_metrics(np.array([100.0, 110.0, 99.0, 118.8]), np.array([0.0, 100.0, 0.0, 113.9]))
    assert metrics.total_return_frac == pytest.approx(0.188)
    assert metrics.annual_return_frac == pytest.approx(1.188**84 - 1)
    assert metrics.annual_volatility_frac == pytest.approx(np.sqrt(0.0466666667 / 2 * 252))
    assert metrics.sharpe_252 == pytest.approx((0.2 / 3) / np.sqrt(0.0466666667 / 2) * np.sqrt(252))
    assert metrics.max_drawdown_frac == pytest.approx(0.1)
    assert metrics.turnover_per_year == pytest.approx(213.9 / 2 / 106.95 * 84)
    assert metrics.num_sessions == 3
    assert metrics.capacity_vnd is None
    assert account_metrics(np.array([100.0, 110.0]), capacity_vnd=5e9).capacity_vnd == 5e9


def test_a_flat_account_has_no_sharpe_ratio_and_no_drawdown() -> None:
    metrics = account_metrics(np.full(5, 7.0))
    assert (metrics.sharpe_252, metrics.max_drawdown_frac, metrics.total_return_frac) == (None, 0.0, 0.0)
    assert metrics.turnover_per_year is None
    assert account_metrics(np.array([7.0])).annual_return_frac is None


def test_an_account_that_reached_zero_has_no_figures() -> None:
    with pytest.raises(UsageError):
        account_metrics(np.array([1.0, 0.0]))


def test_equal_weight_is_the_mean_of_adjusted_returns_of_listed_names(make_panel: Callable[..., Panel]) -> None:
    split = [(10_000.0, 10_000.0, 100, 1.0), (10_000.0, 11_000.0, 100, 1.0), (5_500.0, 5_500.0, 100, 2.0)]
    hole = [(20_000.0, 20_000.0, 100, 1.0), None, (22_000.0, 22_000.0, 100, 1.0)]
    late = [None, (30_000.0, 30_000.0, 100, 1.0), (30_000.0, 33_000.0, 100, 1.0)]
    panel = make_panel(SESSIONS[:3], {"AAA": split, "BBB": hole, "CCC": late, "DDD": split})
    equity = equal_weight_equity(panel, ["AAA", "BBB", "CCC"], SESSIONS[0], SESSIONS[2], start_vnd=100.0)
    # day 1: AAA +10 %, BBB absent 0; day 2: AAA 0 (a split), BBB +10 % at last, CCC +10 %
    assert equity["equity_vnd"].to_list() == pytest.approx([100.0, 105.0, 105.0 * (1 + 0.2 / 3)])
    assert equity["session"].to_list() == list(SESSIONS[:3])


def test_the_index_account_follows_the_index(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(SESSIONS[:4], {"AAA": [(10_000.0, 10_000.0, 100, 1.0)] * 4})  # index 1000, 1010, 1020, 1030
    equity = index_equity(panel, SESSIONS[1], SESSIONS[3], start_vnd=101.0)
    assert equity["equity_vnd"].to_list() == pytest.approx([101.0, 102.0, 103.0])


def test_a_panel_without_index_says_so(make_panel: Callable[..., Panel]) -> None:
    panel = make_panel(SESSIONS[:4], {"AAA": [(10_000.0, 10_000.0, 100, 1.0)] * 4})
    bare = Panel(
        as_of=panel.as_of,
        sessions=panel.sessions,
        symbols=panel.symbols,
        bars=panel.bars,
        index=panel.index.filter(pl.lit(value=False)),
        listings=panel.listings,
        quality=panel.quality,
        data_id=panel.data_id,
    )
    with pytest.raises(BadDataError):
        index_equity(bare, SESSIONS[0], SESSIONS[3])
