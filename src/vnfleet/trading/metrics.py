"""Figures of an account: return, volatility, Sharpe ratio, drawdown, turnover, capacity.

A year is 252 sessions; no interest is earned or subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vnfleet.core.errors import UsageError

Floats = NDArray[np.float64]
SESSIONS_PER_YEAR = 252


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationMetrics:
    """Figures over one run, as fractions; None where the run is too short or too flat to say.

    annual_volatility_frac : standard deviation (ddof 1) of daily returns times sqrt(252).
    sharpe_252 : mean over standard deviation of daily returns times sqrt(252), no interest subtracted.
    max_drawdown_frac : largest loss from an earlier peak, positive (0.12 = lost 12 %).
    turnover_per_year : half of all bought and sold value over the mean equity, per 252 sessions.
    num_sessions : number of daily returns (sessions after the first).
    capacity_vnd : account size up to which nine in ten of the orders, as they were meant, fit whole under the
        participation limit (`vnfleet.trading.capacity`); None without orders.
    """

    total_return_frac: float
    annual_return_frac: float | None
    annual_volatility_frac: float | None
    sharpe_252: float | None
    max_drawdown_frac: float
    turnover_per_year: float | None
    num_sessions: int
    capacity_vnd: float | None = None


def account_metrics(
    equity_vnd: Floats, turnover_vnd: Floats | None = None, *, capacity_vnd: float | None = None
) -> SimulationMetrics:
    """Return the figures of an equity series [T], the first value being its start; all values must be positive.

    turnover_vnd : value bought and sold per session [T]; None when there is no account behind the series.
    capacity_vnd : handed through.
    """
    if equity_vnd.size == 0 or not (equity_vnd > 0).all():
        raise UsageError("an equity series must be positive and not empty", found=equity_vnd[:5])
    returns = equity_vnd[1:] / equity_vnd[:-1] - 1.0
    total = float(equity_vnd[-1] / equity_vnd[0] - 1.0)
    count = returns.size
    volatility = float(returns.std(ddof=1) * np.sqrt(SESSIONS_PER_YEAR)) if count > 1 else None
    turnover = None
    if turnover_vnd is not None and count:
        turnover = float(turnover_vnd.sum() / 2 / equity_vnd.mean() * SESSIONS_PER_YEAR / count)
    return SimulationMetrics(
        total_return_frac=total,
        annual_return_frac=(1.0 + total) ** (SESSIONS_PER_YEAR / count) - 1.0 if count else None,
        annual_volatility_frac=volatility,
        sharpe_252=sharpe_252(returns),
        max_drawdown_frac=max_drawdown_frac(equity_vnd),
        turnover_per_year=turnover,
        num_sessions=count,
        capacity_vnd=capacity_vnd,
    )


def sharpe_252(returns: Floats) -> float | None:
    """Return mean / standard deviation (ddof 1) * sqrt(252) of daily returns; None for under 2 or unchanging ones."""
    if returns.size < 2 or np.ptp(returns) == 0:
        return None
    return float(returns.mean() / returns.std(ddof=1) * np.sqrt(SESSIONS_PER_YEAR))


def max_drawdown_frac(equity: Floats) -> float:
    """Return the largest loss from an earlier peak as a positive fraction."""
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity)))
