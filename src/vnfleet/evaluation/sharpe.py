"""Is a Sharpe ratio more than luck and search? Probabilistic and deflated Sharpe, drawdown at a target.

All functions take returns of consecutive sessions in order, fractions, without NaN (`ValueError` otherwise, and under 3
sessions). Sharpe ratios are per session inside, mean over standard deviation (ddof 1), no risk-free rate; a name ending
in `_252` is annual, sqrt(252) times as large. A series without any spread shows nothing: its Sharpe ratio counts as 0.

Sources: Bailey & Lopez de Prado (2012), "The Sharpe Ratio Efficient Frontier", *Journal of Risk* 15(2); (2014), "The
Deflated Sharpe Ratio", *Journal of Portfolio Management* 40(5).

Caveat: the formulas know skewness and fat tails but take sessions as independent. Autocorrelation of returns at lags 1,
2, ... of sum r makes the z value too large by the factor sqrt(1 + 2 r) (Lo 2002, *Financial Analysts Journal* 58(4)): a
lag-1 autocorrelation of 0.1 turns a stated 0.95 into a true 0.93. Net returns of an account that trades at later opens
have little; never feed returns that overlap, such as 5-session ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from vnfleet.evaluation.skill import Floats

SESSIONS_PER_YEAR = 252
MIN_SESSIONS = 3


def probabilistic_sharpe(returns_T: ArrayLike, *, benchmark_sharpe_252: float = 0.0) -> float:
    """Return the probability (0 to 1) that the true annual Sharpe ratio lies above `benchmark_sharpe_252`.

    PSR(SR*) = Phi((SR - SR*) sqrt(T - 1) / sqrt(1 - skew SR + (kurtosis - 1) / 4 SR^2)), kurtosis 3 for a normal.
    """
    return _probability_above(_Moments.of(returns_T), benchmark_sharpe_252 / math.sqrt(SESSIONS_PER_YEAR))


def expected_max_sharpe(num_trials: int, sharpe_sd: float) -> float:
    """Return the Sharpe ratio the best of `num_trials` independent trials without skill is expected to show.

    `sharpe_sd` is the standard deviation of the Sharpe ratios over the trials, the result has its unit (per session or
    annual). sd ((1 - g) z(1 - 1/N) + g z(1 - 1/(N e))), g Euler's constant, z the normal quantile: 1.57 sd for 10
    trials, 2.54 for 102. One trial is no search: 0. Trials that resemble each other count for fewer than they are, so
    the full count is on the safe side. Raises `ValueError` on fewer than one trial or a negative deviation.
    """
    if num_trials < 1 or not sharpe_sd >= 0:
        raise ValueError(f"a search has at least 1 trial and a deviation >= 0, found {num_trials} and {sharpe_sd}")
    if num_trials == 1:
        return 0.0
    rarity = 1 / num_trials
    return float(-sharpe_sd * ((1 - np.euler_gamma) * ndtri(rarity) + np.euler_gamma * ndtri(rarity / math.e)))


def deflated_sharpe(returns_T: ArrayLike, *, num_trials: int, trial_sharpe_sd: float | None = None) -> float:
    """Return the probability (0 to 1) that the best of `num_trials` has a true Sharpe ratio above 0.

    It is `probabilistic_sharpe` against `expected_max_sharpe`: `num_trials` counts every variant ever evaluated on
    these sessions, this one included. `trial_sharpe_sd` is the standard deviation of their Sharpe ratios **per
    session** (annual / sqrt(252)); None takes 1 / sqrt(T - 1), the deviation among trials without skill.
    """
    moments = _Moments.of(returns_T)
    sharpe_sd = 1 / math.sqrt(moments.num_sessions - 1) if trial_sharpe_sd is None else trial_sharpe_sd
    return _probability_above(moments, expected_max_sharpe(num_trials, sharpe_sd))


def drawdown_at_volatility(returns_T: ArrayLike, *, target_volatility_frac: float) -> float:
    """Return the largest loss from a peak (0 to 1) had the account run at `target_volatility_frac` a year.

    Returns are scaled by one factor for the whole period, target / (ddof 1 standard deviation x sqrt(252)), then
    compounded from 1, which counts as the first peak: what leverage or cash would have made of it in hindsight, a
    yardstick for accounts of different risk, not a strategy. A loss of everything is 1. Returns without any spread
    cannot be scaled and are taken as they are.
    """
    if not target_volatility_frac > 0:
        raise ValueError(f"the target volatility must be above 0, found {target_volatility_frac}")
    returns = _returns(returns_T)
    spread = _spread(returns)
    scale = target_volatility_frac / (spread * math.sqrt(SESSIONS_PER_YEAR)) if spread > 0 else 1.0
    wealth = np.concatenate(([1.0], np.cumprod(np.maximum(1 + scale * returns, 0.0))))
    return float((1 - wealth / np.maximum.accumulate(wealth)).max())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moments:
    """What the formulas need of a return series; `sharpe` per session, `kurtosis` 3 for a normal."""

    num_sessions: int
    sharpe: float
    skew: float
    kurtosis: float

    @classmethod
    def of(cls, returns_T: ArrayLike) -> _Moments:
        returns = _returns(returns_T)
        spread = _spread(returns)
        if spread == 0:
            return cls(num_sessions=returns.size, sharpe=0.0, skew=0.0, kurtosis=3.0)
        standard = (returns - returns.mean()) / returns.std()
        return cls(
            num_sessions=returns.size,
            sharpe=float(returns.mean() / spread),
            skew=float((standard**3).mean()),
            kurtosis=float((standard**4).mean()),
        )

    @property
    def sharpe_variance(self) -> float:
        """Variance of the Sharpe estimate times (T - 1): never below 0, and 0 for some two-point returns."""
        return max(1 - self.skew * self.sharpe + (self.kurtosis - 1) / 4 * self.sharpe**2, 1e-12)


def _probability_above(moments: _Moments, benchmark_sharpe: float) -> float:
    edge = moments.sharpe - benchmark_sharpe
    return float(ndtr(edge * math.sqrt(moments.num_sessions - 1) / math.sqrt(moments.sharpe_variance)))


def _returns(returns_T: ArrayLike) -> Floats:
    returns = np.asarray(returns_T, dtype=np.float64)
    if returns.ndim != 1 or returns.size < MIN_SESSIONS or not np.isfinite(returns).all():
        raise ValueError(f"returns must be one finite number per session, at least {MIN_SESSIONS} of them")
    return returns


def _spread(returns: Floats) -> float:
    """Return the ddof 1 standard deviation, exactly 0 where only rounding dust is left."""
    spread = float(returns.std(ddof=1))
    return spread if spread > 1e-12 * float(np.abs(returns).max()) else 0.0
