"""The simulated account as a witness: is its lead over equal weight real, and were its losses bearable.

Why the drawdown is taken at one volatility and not as it came: a fully invested Vietnamese account falls with its
market. Equal weight of 102 stocks lost over 10 % from a peak in nearly every year, with or without skill
(`evaluation.md` section 7), so a plain limit rejects every honest account or none. Scaled to 10 % volatility a year a
loss says how long and how steadily money was lost. Even so the market itself sets the scale: equal weight lost 31 % in
2018-2024, accounts with a rank IC of 0.06 26 % (median), and up to 38 % when their history was dealt anew in blocks
(`benchmarks/gate_calibration_*.md`). The default limit of 45 % lets such accounts pass nearly always and stops one that
bleeds for years; it proves no skill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vnfleet.evaluation.sharpe import deflated_sharpe, drawdown_at_volatility
from vnfleet.releases.race import GateLimits, Runner
from vnfleet.releases.verdict import Check
from vnfleet.trading.metrics import account_metrics, sharpe_252

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccountFacts:
    """What following one forecaster would have done with money, costs and market rules in.

    Parameters
    ----------
    returns_T : daily returns of its simulated account, fractions, one per session in order.
    active_returns_T : the same minus the daily returns of equal weight of the same universe.
    num_trials : variants recorded so far on these sessions, this one included; the gate adds `prior_trials`.
    trial_sharpe_sd : standard deviation of the Sharpe ratios per session of their leads over equal weight; at least
        what luck gives to variants as alike as `trial_likeness` says is taken.
    old_returns_T : daily returns of the account that follows what runs today, same sessions; None without one.

    Raises
    ------
    ValueError
        When the series differ in length, hold NaN or a loss of everything, or no trial is recorded.
    """

    returns_T: Floats
    active_returns_T: Floats
    num_trials: int = 1
    trial_sharpe_sd: float | None = None
    old_returns_T: Floats | None = None

    def __post_init__(self) -> None:
        for name in ("returns_T", "active_returns_T", "old_returns_T"):
            values = getattr(self, name)
            if values is not None and (values.shape != self.returns_T.shape or not np.isfinite(values).all()):
                raise ValueError(f"{name} must hold one finite return for each of {self.returns_T.size} sessions")
            if values is not None and (values <= -1).any():
                raise ValueError(f"{name} holds a loss of everything: fractions are expected, 0.01 for 1 %")
        if self.num_trials < 1:
            raise ValueError("an account that is judged was tried at least once: num_trials must be 1 or more")


def judge_account(label: str, facts: AccountFacts, limits: GateLimits, prefix: str = "") -> tuple[Check, Check]:
    """Ask whether the account's lead over equal weight is real and its losses bearable; names start with `prefix`."""
    return _judge_lead(label, facts, limits, prefix), _judge_losses(label, facts, limits, prefix)


def account_sentence(runner: Runner, facts: AccountFacts, today: Runner | None) -> str:
    """Return the accounts of new, old and equal weight in one sentence; no figures where there are no sessions."""
    named = [(runner.label, facts.returns_T)]
    if today is not None and facts.old_returns_T is not None:
        named.append((today.label, facts.old_returns_T))
    named.append(("equal weight of the same stocks", facts.returns_T - facts.active_returns_T))
    parts = "; ".join(f"{name} {_figures(returns_T)}" for name, returns_T in named)
    return f"simulated account over {facts.returns_T.size:,} days, costs and market rules in: {parts}"


def _judge_lead(label: str, facts: AccountFacts, limits: GateLimits, prefix: str) -> Check:
    name, limit, count = f"{prefix}account_lead", limits.min_deflated_sharpe, facts.active_returns_T.size
    if count < limits.min_proof_sessions:
        words = f"{label}: the account ran {count} days only, too few to prove that it leads equal weight"
        return Check(name=name, passed=None, limit=limit, words=words)
    trials = limits.prior_trials + facts.num_trials
    # the spread of recorded near-twins may say more, never less, than what luck gives to variants that alike
    spread = max(facts.trial_sharpe_sd or 0.0, math.sqrt((1 - limits.trial_likeness) / (count - 1)))
    value = deflated_sharpe(facts.active_returns_T, num_trials=trials, trial_sharpe_sd=spread)
    annual = sharpe_252(facts.active_returns_T) or 0.0
    words = (
        f"{label}: the account's lead over equal weight has a Sharpe ratio of {annual:.2f} a year over {count} days; "
        f"as the best of {trials} variants it is real with {value:.0%} probability ({limit:.0%} are needed)"
    )
    return Check(name=name, passed=value > limit, value=value, limit=limit, words=words)


def _judge_losses(label: str, facts: AccountFacts, limits: GateLimits, prefix: str) -> Check:
    name, limit, target = f"{prefix}bearable_losses", limits.max_drawdown_frac, limits.target_volatility_frac
    if facts.returns_T.size < limits.min_proof_sessions:
        words = f"{label}: the account ran {facts.returns_T.size} days only, too few to know its losses"
        return Check(name=name, passed=None, limit=limit, words=words)
    value = drawdown_at_volatility(facts.returns_T, target_volatility_frac=target)
    words = (
        f"{label}: at {target:.0%} volatility a year the account would have lost {value:.0%} from its peak "
        f"(under {limit:.0%} is bearable)"
    )
    return Check(name=name, passed=value < limit, value=value, limit=limit, words=words)


def _figures(returns_T: Floats) -> str:
    metrics = account_metrics(np.concatenate(([1.0], np.cumprod(1.0 + returns_T))))
    if metrics.annual_return_frac is None:
        return "without a single day"
    sharpe = "none" if metrics.sharpe_252 is None else f"{metrics.sharpe_252:.2f}"
    return f"{metrics.annual_return_frac:+.1%} a year (Sharpe {sharpe}, worst loss {metrics.max_drawdown_frac:.0%})"
