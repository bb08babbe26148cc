from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
import scipy.signal
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.evaluation.direction import DirectionTest, pesaran_timmermann

HORIZON = 5


def market(num_sessions: int, num_symbols: int, seed: int, *, drift: float = 0.3) -> np.ndarray:
    """Return overlapping 5-session moves [T, S] of symbols that move together, rising more often than falling."""
    rng = np.random.default_rng(seed)
    shape = (num_sessions + HORIZON - 1, num_symbols)
    moves = rng.standard_normal(shape) + 0.5 * rng.standard_normal((shape[0], 1)) + drift
    sums = np.cumsum(np.vstack((np.zeros(num_symbols), moves)), axis=0)
    return np.asarray(sums[HORIZON:] - sums[:-HORIZON])


def opinions(num_sessions: int, num_symbols: int, seed: int, *, memory: float = 0.9) -> np.ndarray:
    """Return persistent forecasts [T, S], mostly about the whole market, that know nothing."""
    rng = np.random.default_rng(seed)
    shocks = rng.standard_normal((num_sessions, num_symbols)) + rng.standard_normal((num_sessions, 1))
    return np.asarray(scipy.signal.lfilter([1.0], [1.0, -memory], shocks, axis=0))


def judged(call: np.ndarray, up: np.ndarray) -> DirectionTest:
    session_N = np.repeat(np.arange(call.shape[0]), call.shape[1])
    return pesaran_timmermann(call.ravel(), up.ravel(), session_N, horizon_sessions=HORIZON)


def test_rates_by_hand() -> None:
    call = np.array([1, 1, 1, 0] * 10, dtype=bool)
    up = np.array([1, 1, 0, 0] * 10, dtype=bool)
    found = pesaran_timmermann(call, up, np.arange(40), horizon_sessions=1)
    # hits: first, second and fourth of four; calls up 3/4, ups 1/2 -> 3/4 x 1/2 + 1/4 x 1/2
    assert (found.hit_rate, found.expected_rate) == (0.75, 0.5)
    assert (found.num_rows, found.num_sessions) == (40, 40)


def test_statistic_is_the_slope_test_clustered_over_time_up_to_the_fixed_b_factor() -> None:
    # Pesaran & Timmermann 2009: regress the outcome on the call; Driscoll & Kraay errors, Newey-West over session sums
    call, up = opinions(400, 20, 1) > 0, market(400, 20, 2) > 0
    found = judged(call, up)
    lags = 26  # 1.3 sqrt(400)
    slope = sm.OLS(up.ravel().astype(float), sm.add_constant(call.ravel().astype(float))).fit(
        cov_type="hac-groupsum",
        cov_kwds={"time": np.repeat(np.arange(400), 20), "maxlags": lags, "use_correction": False},
    )
    share = (lags + 1) / 400
    widening = (1.96 + 2.9694 * share + 0.416 * share**2 - 0.5324 * share**3) / 1.96
    assert found.statistic == pytest.approx(slope.tvalues[1] / widening, rel=0.03)


def test_a_twentieth_of_the_models_that_know_nothing_pass_where_a_binomial_lets_a_fifth_through() -> None:
    passed, naive = [], []
    for run in range(400):
        call, up = opinions(250, 30, 2 * run) > 0.5, market(250, 30, 2 * run + 1) > 0
        found = judged(call, up)
        assert found.p_one_sided is not None
        passed.append(found.p_one_sided < 0.05)
        naive.append((found.hit_rate - found.expected_rate) / np.sqrt(0.25 / found.num_rows) > 1.645)
    assert np.mean(passed) == pytest.approx(0.05, abs=0.033)  # 3 Monte-Carlo standard errors
    assert np.mean(naive) > 0.2


def test_a_bull_market_and_an_optimist_are_not_skill() -> None:
    rng = np.random.default_rng(3)
    call, up = rng.random((300, 30)) < 0.9, market(300, 30, 4, drift=0.6) > 0
    found = judged(call, up)
    assert found.hit_rate > 0.6
    assert found.expected_rate == pytest.approx(found.hit_rate, abs=0.02)
    assert found.p_one_sided is not None
    assert found.p_one_sided > 0.05


def test_true_skill_is_found() -> None:
    moves = market(500, 40, 5)
    own_share = moves - moves.mean(axis=1, keepdims=True)
    call = own_share + 15 * np.random.default_rng(6).standard_normal(moves.shape) > 0
    found = judged(call, moves > 0)
    assert found.hit_rate > found.expected_rate
    assert found.statistic is not None
    assert found.p_one_sided is not None
    assert found.statistic > 3
    assert found.p_one_sided < 0.001


def test_the_opposite_call_is_as_bad_as_the_call_is_good_and_rows_may_come_in_any_order() -> None:
    call, up = opinions(100, 20, 7) > 0, market(100, 20, 8) > 0
    found, opposite = judged(call, up), judged(~call, up)
    assert found.statistic is not None
    assert opposite.statistic == pytest.approx(-found.statistic)
    days = np.repeat([np.datetime64(date(2024, 1, 1) + timedelta(days=day)) for day in range(100)], 20)
    mixed = np.random.default_rng(9).permutation(2000)
    shuffled = pesaran_timmermann(call.ravel()[mixed], up.ravel()[mixed], days[mixed], horizon_sessions=HORIZON)
    assert shuffled.statistic == pytest.approx(found.statistic)


def test_calls_that_never_change_have_nothing_to_test() -> None:
    up = market(60, 10, 10) > 0
    for call in (np.ones_like(up), np.zeros_like(up)):
        found = judged(call, up)
        assert found.statistic is None
        assert found.p_one_sided is None
        assert found.hit_rate == pytest.approx(found.expected_rate)
    assert judged(up, np.ones_like(up)).p_one_sided is None


@given(copies=st.integers(2, 5), seed=st.integers(0, 100))
def test_the_same_symbol_many_times_is_no_more_proof(copies: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    call, up = rng.random((40, 3)) < 0.6, rng.random((40, 3)) < 0.5
    once, often = judged(call, up), judged(np.tile(call, copies), np.tile(up, copies))
    assert often.statistic == pytest.approx(once.statistic)
    assert often.num_rows == copies * once.num_rows


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(ValueError, match="one value per row"):
        pesaran_timmermann([True], [True, False], [1, 2], horizon_sessions=1)
    with pytest.raises(ValueError, match="True or False"):
        pesaran_timmermann([0.5] * 40, [1] * 40, range(40), horizon_sessions=1)
    with pytest.raises(ValueError, match="too few"):
        pesaran_timmermann([True] * 40, [True] * 40, range(40), horizon_sessions=25)
    with pytest.raises(ValueError, match="too few"):
        pesaran_timmermann([True] * 40, [True] * 40, [1] * 40, horizon_sessions=1)
