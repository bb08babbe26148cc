from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.evaluation.sharpe import (
    deflated_sharpe,
    drawdown_at_volatility,
    expected_max_sharpe,
    probabilistic_sharpe,
)

YEAR = 252


def normal_like(sharpe_252: float, num_sessions: int = YEAR) -> np.ndarray:
    """Return returns with skew 0 and kurtosis 3: a sixth up, a sixth down, the rest at the mean."""
    steps = np.zeros(num_sessions)
    steps[: num_sessions // 6] = 1.0
    steps[num_sessions // 6 : 2 * (num_sessions // 6)] = -1.0
    return np.asarray(0.01 * (steps / steps.std(ddof=1) + sharpe_252 / math.sqrt(YEAR)))


@pytest.mark.parametrize(("num_trials", "expected"), [(1, 0.0), (10, 1.57), (102, 2.54), (289, 2.88), (1000, 3.26)])
def test_the_best_of_many_trials_without_skill(num_trials: int, expected: float) -> None:
    assert expected_max_sharpe(num_trials, 1.0) == pytest.approx(expected, abs=0.006)
    assert expected_max_sharpe(num_trials, 0.25) == pytest.approx(expected / 4, abs=0.002)


def test_the_best_of_many_trials_is_what_simulation_shows() -> None:
    best = np.random.default_rng(1).standard_normal((20000, 102)).max(axis=1).mean()
    # the published formula is an extreme-value limit, 1 % above the exact mean at 102
    assert expected_max_sharpe(102, 1.0) == pytest.approx(best, rel=0.02)
    # evaluation.md: the best of 102 accounts without skill shows an annual Sharpe ratio of 2.5 over one year
    assert expected_max_sharpe(102, 1 / math.sqrt(YEAR - 1)) * math.sqrt(YEAR) == pytest.approx(2.5, abs=0.05)


def test_published_values_of_one_year_at_a_sharpe_ratio_of_0_8() -> None:
    assert probabilistic_sharpe(normal_like(0.8)) == pytest.approx(0.79, abs=0.003)
    assert probabilistic_sharpe(normal_like(0.8), benchmark_sharpe_252=0.8) == pytest.approx(0.5, abs=1e-9)
    assert probabilistic_sharpe(normal_like(0.8), benchmark_sharpe_252=1.6) == pytest.approx(0.21, abs=0.003)


def test_the_worked_example_of_bailey_and_lopez_de_prado() -> None:
    # 2014, section "A numerical example": annual Sharpe 2.5 over 5 years of 250 sessions, skew -3, kurtosis 10, best of
    # 100 trials whose annual Sharpe ratios vary by 1/2: benchmark 0.1132 per session and DSR 0.9004
    assert expected_max_sharpe(100, math.sqrt(0.5 / 250)) == pytest.approx(0.1132, abs=1e-4)
    returns = with_moments(sharpe=2.5 / math.sqrt(250), skew=-3.0, kurtosis=10.0001, num_sessions=1250)
    assert deflated_sharpe(returns, num_trials=100, trial_sharpe_sd=math.sqrt(0.5 / 250)) == pytest.approx(
        0.9004, abs=2e-3
    )


def with_moments(*, sharpe: float, skew: float, kurtosis: float, num_sessions: int) -> np.ndarray:
    """Return two-point returns of that skewness; a two-point law of skew s has kurtosis 1 + s^2."""
    assert kurtosis == pytest.approx(1 + skew**2, abs=1e-3)
    share_down = 0.5 - 0.5 * abs(skew) / math.sqrt(4 + skew**2)
    steps = np.ones(num_sessions)
    steps[: round(num_sessions * share_down)] = 1 - 1 / share_down
    steps = steps - steps.mean()
    return np.asarray(steps / steps.std(ddof=1) + sharpe)


def test_deflation_costs_what_the_search_could_have_found() -> None:
    returns = normal_like(2.0, 504)
    assert deflated_sharpe(returns, num_trials=1) == pytest.approx(probabilistic_sharpe(returns))
    found = [deflated_sharpe(returns, num_trials=trials) for trials in (1, 10, 102, 1000)]
    assert found == sorted(found, reverse=True)
    by_hand = probabilistic_sharpe(returns, benchmark_sharpe_252=2.54 * math.sqrt(YEAR / 503))
    assert found[2] == pytest.approx(by_hand, abs=0.002)
    assert deflated_sharpe(returns, num_trials=102, trial_sharpe_sd=0.0) == pytest.approx(found[0])


def test_one_in_twenty_accounts_without_skill_passes_alone_and_hardly_any_best_of_102_when_deflated() -> None:
    rng = np.random.default_rng(4)
    returns = 0.01 * rng.standard_t(5, (400, YEAR))
    passed = np.mean([probabilistic_sharpe(row) > 0.95 for row in returns])
    assert passed == pytest.approx(0.05, abs=0.033)  # 3 Monte-Carlo standard errors
    searches = 0.01 * rng.standard_normal((200, 102, YEAR))
    sharpe = searches.mean(axis=2) / searches.std(axis=2)
    best = [rows[index] for rows, index in zip(searches, sharpe.argmax(axis=1), strict=True)]
    assert np.mean([probabilistic_sharpe(row) > 0.95 for row in best]) > 0.95
    assert np.mean([deflated_sharpe(row, num_trials=102) > 0.95 for row in best]) <= 0.02


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 1000))
def test_the_size_of_the_account_does_not_matter(scale: float, seed: int) -> None:
    returns = np.random.default_rng(seed).normal(0.0005, 0.01, 60)
    assert probabilistic_sharpe(scale * returns) == pytest.approx(probabilistic_sharpe(returns), abs=1e-9)
    assert drawdown_at_volatility(scale * returns, target_volatility_frac=0.1) == pytest.approx(
        drawdown_at_volatility(returns, target_volatility_frac=0.1), abs=1e-9
    )


def test_skewed_returns_are_judged_with_their_own_moments() -> None:
    returns = np.random.default_rng(7).lognormal(0, 0.5, 300) - 1.05
    sharpe = returns.mean() / returns.std(ddof=1)
    skew, kurtosis = scipy.stats.skew(returns), scipy.stats.kurtosis(returns, fisher=False)
    z = sharpe * math.sqrt(299) / math.sqrt(1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    assert probabilistic_sharpe(returns) == pytest.approx(scipy.stats.norm.cdf(z), abs=1e-12)


def test_an_account_that_does_nothing_has_shown_nothing() -> None:
    idle = np.zeros(100)
    assert probabilistic_sharpe(idle) == 0.5
    assert deflated_sharpe(idle, num_trials=40) < 0.05
    assert drawdown_at_volatility(idle, target_volatility_frac=0.1) == 0.0
    # a constant gain is an error of the data or interest, not a Sharpe ratio of 1e15
    assert probabilistic_sharpe(np.full(100, 0.1)) == 0.5


def test_drawdown_by_hand() -> None:
    # volatility of (+, -, -, +) x 1 %: sd ddof 1 = 0.01 sqrt(4/3), a year sqrt(252) of it; the target doubles each move
    returns = 0.01 * np.array([1.0, -1.0, -1.0, 1.0])
    target = 0.02 * math.sqrt(4 / 3) * math.sqrt(YEAR)
    assert drawdown_at_volatility(returns, target_volatility_frac=target) == pytest.approx(1 - 0.98 * 0.98)
    # the start is a peak: a loss on the first day counts
    assert drawdown_at_volatility(-returns, target_volatility_frac=target) == pytest.approx(0.02)
    ruin = drawdown_at_volatility(returns, target_volatility_frac=200 * target)
    assert ruin == 1.0


@pytest.mark.parametrize("returns", [[0.01, 0.02], [0.01, float("nan"), 0.0], [[0.01, 0.02, 0.03]]])
def test_returns_that_cannot_be_judged_are_refused(returns: list[float]) -> None:
    with pytest.raises(ValueError, match="finite number per session"):
        probabilistic_sharpe(returns)


def test_a_search_without_trials_and_a_target_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 trial"):
        expected_max_sharpe(0, 1.0)
    with pytest.raises(ValueError, match="at least 1 trial"):
        deflated_sharpe(normal_like(1.0), num_trials=3, trial_sharpe_sd=float("nan"))
    with pytest.raises(ValueError, match="above 0"):
        drawdown_at_volatility(normal_like(1.0), target_volatility_frac=0.0)
