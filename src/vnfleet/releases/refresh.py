"""The gate for an ordinary week: the same recipe on newer data goes live unless a safety check fails.

Weights a week younger cannot be proven better in a week; what can be seen is whether something broke on the way.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection
from dataclasses import dataclass

import polars as pl

from vnfleet.releases.plan_policy import plan_policy_report
from vnfleet.releases.verdict import Check, GateDecision, PlanPolicyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshLimits:
    """When a refreshed set is too strange to serve.

    Parameters
    ----------
    agreement_sessions : sessions over which the new and the current scores are compared.
    min_agreement_sessions : fewer common sessions are no ground for a verdict.
    min_agreement : mean daily rank correlation of new and current scores. Two fits of one recipe share all but a week
        of their data; under 0.5 they share less than a quarter of their ranking, so it is another model: a swapped
        feature, a broken scaler, a failed unit.
    ic_sds : validation IC may fall this many standard deviations under the mean of the previous live fits.
    min_ic_sd : floor of that deviation: validation windows of neighbouring weeks overlap almost wholly, so a few
        calm weeks would otherwise forbid any honest move.
    min_ic_history : fewer previous fits give no standard deviation; then only "above zero" is asked.
    """

    agreement_sessions: int = 60
    min_agreement_sessions: int = 20
    min_agreement: float = 0.5
    ic_sds: float = 3.0
    min_ic_sd: float = 0.01
    min_ic_history: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.min_agreement_sessions <= self.agreement_sessions:
            raise ValueError("min_agreement_sessions must lie between 1 and agreement_sessions")
        if not -1 <= self.min_agreement <= 1:
            raise ValueError(f"min_agreement is a correlation, found {self.min_agreement}")
        if self.min_ic_history < 2 or self.ic_sds <= 0 or self.min_ic_sd < 0:
            raise ValueError("min_ic_history must be at least 2, ic_sds above 0, min_ic_sd not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFacts:
    """What is known about a refreshed set.

    Parameters
    ----------
    serving, serves_baseline : what serves today and goes on serving.
    artifact_problems : one line per artifact that did not verify; empty when all did.
    expected_symbols, present_symbols : configured symbols, and those the new set has an artifact for.
    agreement, agreement_sessions : from `rank_agreement`; None without a current set.
    validation_ic : of the new fit; None when it has none.
    validation_ic_history : of the previous live fits of this recipe, oldest first.
    """

    serving: str
    serves_baseline: bool
    artifact_problems: tuple[str, ...]
    expected_symbols: Collection[str]
    present_symbols: Collection[str]
    agreement: float | None
    agreement_sessions: int
    validation_ic: float | None
    validation_ic_history: tuple[float, ...]
    candidate_id: str | None = None
    champion_id: str | None = None


def rank_agreement(new: pl.DataFrame, current: pl.DataFrame, num_sessions: int = 60) -> tuple[float | None, int]:
    """Return (mean daily Spearman correlation of two prediction frames' scores, sessions used), newest sessions only.

    Compared on common (symbol, session, horizon); null scores and sessions where one side is constant are left out.
    (None, 0) when nothing is common.
    """
    key = ["symbol", "session", "horizon_sessions"]
    both = new.drop_nulls("score").join(current.drop_nulls("score"), on=key, suffix="_current")
    ranks = pl.corr(pl.col("score").rank(), pl.col("score_current").rank())
    daily = both.group_by("session").agg(ranks.alias("agreement")).filter(pl.col("agreement").is_finite())
    newest = daily.sort("session").tail(num_sessions).get_column("agreement").to_list()
    return (statistics.fmean(newest), len(newest)) if newest else (None, 0)


def decide_refresh(
    facts: RefreshFacts,
    *,
    ledger_veto: Callable[[], str | None] | None = None,
    plan: PlanPolicyReport | None = None,
    limits: RefreshLimits | None = None,
    leaks: tuple[Check, ...] = (),
    told: tuple[str, ...] = (),
) -> GateDecision:
    """Decide whether the same recipe on newer data replaces the current set: yes, unless a safety check fails.

    `ledger_veto` returns the reason why live results forbid a change, or None; without a ledger it is not asked and
    not listed. A check that cannot be judged (no current set, no history) does not stop a refresh. `leaks` are the leak
    prover's blocking checks: a failed one keeps the current set. `told` are sentences for people.
    """
    rule, shown = limits or RefreshLimits(), plan or plan_policy_report()
    checks = [_artifacts(facts), _coverage(facts), _agreement(facts, rule), _validation(facts, rule), *leaks]
    if ledger_veto is not None:
        checks.append(_ledger(ledger_veto()))
    failed = [check for check in checks if check.passed is False]
    if failed:
        sentence = f"Keep what runs today: {'; '.join(check.words for check in failed)}."
    else:
        sentence = "Deploy: the same recipe on newer data, and nothing about the new set looks broken."
    return GateDecision(
        kind="refresh",
        outcome="keep" if failed else "deploy",
        serving=facts.serving,
        serves_baseline=facts.serves_baseline,
        sentence=sentence,
        checks=tuple(checks),
        plan=shown,
        num_sessions=facts.agreement_sessions,
        candidate_id=facts.candidate_id,
        champion_id=facts.champion_id,
        told=told,
    )


def _artifacts(facts: RefreshFacts) -> Check:
    count = len(facts.artifact_problems)
    words = f"{count} model files are damaged: {facts.artifact_problems[0]}" if count else "every model file verifies"
    return Check(name="artifacts_verify", passed=not count, value=count, limit=0, words=words)


def _coverage(facts: RefreshFacts) -> Check:
    missing = sorted(set(facts.expected_symbols) - set(facts.present_symbols))
    total = len(set(facts.expected_symbols))
    words = f"{total - len(missing)} of {total} configured symbols have a new model"
    if missing:
        words += f", missing: {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}"
    return Check(name="all_symbols", passed=not missing, value=total - len(missing), limit=total, words=words)


def _agreement(facts: RefreshFacts, limits: RefreshLimits) -> Check:
    name, limit = "agrees_with_current", limits.min_agreement
    if facts.agreement is None or facts.agreement_sessions < limits.min_agreement_sessions:
        words = f"only {facts.agreement_sessions} days to compare the new ranking with the current one"
        return Check(name=name, passed=None, limit=limit, words=words)
    passed = facts.agreement >= limit
    like = "like" if passed else "unlike"
    words = (
        f"the new set ranks {like} the current one: correlation {facts.agreement:.2f} "
        f"over {facts.agreement_sessions} days, at least {limit:.2f} expected"
    )
    return Check(name=name, passed=passed, value=facts.agreement, limit=limit, words=words)


def _validation(facts: RefreshFacts, limits: RefreshLimits) -> Check:
    name, value, history = "validation_as_usual", facts.validation_ic, facts.validation_ic_history
    if value is None:
        return Check(name=name, passed=False, words="the new set has no validation result")
    floor, usual = 0.0, "above zero"
    if len(history) >= limits.min_ic_history:
        mean = statistics.fmean(history)
        spread = max(statistics.stdev(history), limits.min_ic_sd)
        floor = max(0.0, mean - limits.ic_sds * spread)
        usual = f"above {floor:.3f}, given {mean:.3f} on average over {len(history)} earlier fits"
    passed = value > floor
    words = f"validation rank correlation {value:.3f}{'' if passed else ' is too low'} (expected {usual})"
    return Check(name=name, passed=passed, value=value, limit=floor, words=words)


def _ledger(reason: str | None) -> Check:
    words = "live results raise no objection" if reason is None else f"live results object: {reason}"
    return Check(name="ledger", passed=reason is None, words=words)
