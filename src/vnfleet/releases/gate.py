"""The gate for a new recipe and for the first release: is it skill, and more of it than what runs today has.

Everything is decided on the daily rank IC of all walk-forward sessions, paired by session (1 is a perfect ranking of a
session's stocks, 0 a coin flip). No model is judged alone: per-symbol tests cannot tell skill from luck
(`evaluation.md` section 4). The weekly refresh is in `refresh`, the records are in `verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from vnfleet.releases.account_facts import AccountFacts, account_sentence, judge_account
from vnfleet.releases.entrants import choose_strategy, rank_baselines, required
from vnfleet.releases.plan_gate import decide_by_plan
from vnfleet.releases.plan_null import null_pass_shares
from vnfleet.releases.plan_policy import NullShares, plan_policy_report
from vnfleet.releases.race import (
    GateLimits,
    GatePolicy,
    Runner,
    common_sessions,
    judge_enough,
    judge_lead,
    judge_skill,
    judge_years,
    may_serve_alone,
    shared_among,
)
from vnfleet.releases.refresh import RefreshFacts, RefreshLimits, decide_refresh, rank_agreement
from vnfleet.releases.verdict import Check, GateDecision, Outcome, PlanCriterion, PlanPolicyReport
from vnfleet.releases.vetoes import judge_vetoes, vetoed_symbols

__all__ = [
    "AccountFacts",
    "Champion",
    "Check",
    "GateDecision",
    "GateLimits",
    "GatePolicy",
    "NullShares",
    "PlanCriterion",
    "PlanPolicyReport",
    "RefreshFacts",
    "RefreshLimits",
    "decide_by_plan",
    "decide_recipe",
    "decide_refresh",
    "null_pass_shares",
    "plan_policy_report",
    "rank_agreement",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """What runs today: `model_id` names its daily rank IC, `serving` is a strategy or a baseline's name."""

    model_id: str
    serving: str


def decide_recipe(
    daily_ic: pl.DataFrame,
    *,
    candidates: Mapping[str, str],
    baselines: Mapping[str, str],
    champion: Champion | None = None,
    plan: PlanPolicyReport | None = None,
    limits: GateLimits | None = None,
    account: AccountFacts | None = None,
    baseline_accounts: Mapping[str, AccountFacts] | None = None,
    vetoes: Mapping[str, float] | None = None,
    leaks: tuple[Check, ...] = (),
    told: tuple[str, ...] = (),
) -> GateDecision:
    """Decide whether a new recipe (the first release when `champion` is None) goes live, and what serves.

    The candidate is promoted when no leak was found, it has skill, no losing year, a lead over both the champion and
    the best baseline that luck rarely makes, an account whose lead over equal weight is real and whose losses are
    bearable, and not more than half of its models are vetoed. Otherwise a baseline with skill (and such an account)
    serves if there is no champion, or if it beats the champion in the same way; failing that, everything stays as it
    is. After a leak nothing changes at all: no figure can be trusted. Under the policy "plan" see `plan_gate`.

    The best of several is lucky more often than a single one. So a candidate chosen from two strategies has half of the
    significance for each of its tests, and each simple rule its share among all rules and strategies (Bonferroni).
    Without this the better of two equally skilled strategies beats its equal in 8 to 10 % of synthetic factories.

    Parameters
    ----------
    daily_ic
        Frame [model_id, session, rank_ic] of one horizon, one row per model and walk-forward session; null or NaN
        rank_ic (a session without a ranking) is left out.
    candidates
        "pooled" and/or one strategy with models per symbol -> its model_id.
    baselines
        Name -> model_id; one without any rank IC (always-up) is reported and cannot serve.
    champion
        What runs today; None for a first release.
    plan
        The written plan's numbers to show beside the decision.
    limits
        How much proof is needed.
    account
        The simulated account of the candidate (of the better strategy where two race); None leaves its checks out.
    baseline_accounts
        Name -> simulated account of a baseline; one that is given is held to the same account checks.
    vetoes
        Symbol -> z of its own model's shrunk accuracy against a coin flip; asked of models per symbol only.
    leaks
        The leak prover's checks, names starting with "leak". A failed one (passed False) blocks; one that only warns
        must come with passed None.
    told
        Further sentences for people: sessions no model saw, mean accuracies beside the plan's marks.

    Raises
    ------
    UsageError
        Without a candidate, or when no baseline ranks: nothing is promoted unopposed.
    BadDataError
        When a candidate or the champion has no rank IC, or a session appears twice.
    ValueError
        When a leak check's name does not start with "leak".
    """
    if any(not check.name.startswith("leak") for check in leaks):
        raise ValueError('names of leak checks must start with "leak"')
    rule, shown = limits or GateLimits(), plan or plan_policy_report()
    candidate, strategy_checks = choose_strategy(daily_ic, candidates)
    today = (
        None if champion is None else replace(required(daily_ic, champion.model_id, champion.serving), runs_today=True)
    )
    ranked, silent_checks = rank_baselines(daily_ic, baselines, candidate)
    best = ranked[0]
    sessions = common_sessions(candidate, best, *([today] if today else []))
    own_vetoes = {} if candidate.name == "pooled" else dict(vetoes or {})
    has_pooled = "pooled" in candidates
    contest = (
        *_contest(candidate, best, today, shared_among(rule, len(candidates))),
        *(judge_account(candidate.label, account, rule) if account is not None else ()),
        *([judge_vetoes(candidate, own_vetoes, rule, has_pooled=has_pooled)] if own_vetoes else ()),
    )
    simulated = baseline_accounts or {}
    account_checks = {
        runner.name: judge_account(runner.label, simulated[runner.name], rule, prefix=f"{runner.name}_")
        for runner in ranked
        if runner.name in simulated
    }
    rivals = shared_among(rule, len(ranked) + len(candidates))
    leaking = tuple(check for check in leaks if check.passed is False)
    winner = None if leaking else _winner(candidate, ranked, today, contest, account_checks, rivals)
    models = f"the {shown.num_models} models" if shown.num_models else "the models"
    no_rule = "after a leak no simple rule may serve either"
    if not (leaking or winner or today):
        no_rule = _no_rule(best, account_checks, rivals)
    serving = winner.name if winner else (champion.serving if champion else "")
    decided = bool(leaking) or len(sessions) >= rule.min_sessions
    outcome: Outcome = "deploy" if winner else ("keep" if decided else "undecided")
    sentences = (account_sentence(candidate, account, today),) if account is not None else ()
    decision = GateDecision(
        kind="first" if champion is None else "recipe",
        outcome=outcome,
        serving=serving,
        serves_baseline=serving in baselines,
        sentence=_sentence(candidate, winner, today, _reasons((*leaking, *contest), _REASONS), models, no_rule),
        checks=(
            *strategy_checks,
            *contest,
            *(check for name in dict.fromkeys((best.name, serving)) for check in account_checks.get(name, ())),
            *silent_checks,
            *leaks,
        ),
        plan=shown,
        num_sessions=len(sessions),
        candidate_id=candidate.model_id,
        champion_id=champion.model_id if champion else None,
        vetoed=vetoed_symbols(own_vetoes, rule) if winner is candidate else (),
        told=(*sentences, *told),
    )
    if rule.policy == "fleet":
        return decision
    return decide_by_plan(
        decision,
        strategy=candidate.name,
        has_pooled=has_pooled,
        serving_today=champion.serving if champion else "",
        baseline_serves_today=champion is not None and champion.serving in baselines,
        account=account,
    )


def _contest(candidate: Runner, best: Runner, today: Runner | None, limits: GateLimits) -> tuple[Check, ...]:
    """Ask everything a candidate must pass; all True promotes it."""
    rivals = [best] if today is None else [best, today]
    sessions = common_sessions(candidate, *rivals)
    checks = [
        judge_enough(sessions, limits),
        judge_skill(candidate, limits),
        judge_lead("beats_best_baseline", candidate, best, sessions, limits),
    ]
    if today is not None:
        checks.append(judge_lead("beats_champion", candidate, today, sessions, limits))
    return (*checks, judge_years(candidate, limits))


def _winner(
    candidate: Runner,
    ranked: list[Runner],
    today: Runner | None,
    contest: tuple[Check, ...],
    account_checks: Mapping[str, tuple[Check, ...]],
    limits: GateLimits,
) -> Runner | None:
    """Return what starts to serve, or None when nothing changes; `limits` hold each simple rule's share of the luck."""
    if all(check.passed for check in contest):
        return candidate

    def fit(runner: Runner) -> bool:
        checks = account_checks.get(runner.name, ())
        return all(check.passed for check in checks) and may_serve_alone(runner, limits)

    best = ranked[0]
    if today is None:
        return next((runner for runner in ranked if fit(runner)), None)
    if best.model_id == today.model_id or not fit(best):
        return None
    lead = judge_lead("baseline_beats_champion", best, today, common_sessions(best, today), limits)
    return best if lead.passed else None


def _no_rule(best: Runner, account_checks: Mapping[str, tuple[Check, ...]], limits: GateLimits) -> str:
    """Say which questions the best simple rule failed; `limits` hold its share of the luck."""
    checks = (judge_skill(best, limits), judge_years(best, limits), *account_checks.get(best.name, ()))
    asked = tuple(check.model_copy(update={"name": check.name.removeprefix(f"{best.name}_")}) for check in checks)
    fails = "fails too" if any(check.passed is False for check in asked) else "is not proven either"
    return f"the best simple rule, {best.label}, {fails}: {_reasons(asked, _RULE_REASONS)}"


def _reasons(checks: tuple[Check, ...], told: Mapping[str, str]) -> str:
    """Say why `checks` are not passed; one that could not be judged speaks for itself, it did not fail."""
    return "; ".join(
        (_UNDECIDED if check.passed is None else told).get(check.name, check.words)
        for check in checks
        if check.passed is not True
    )


def _sentence(
    candidate: Runner, winner: Runner | None, today: Runner | None, reasons: str, models: str, no_rule: str
) -> str:
    if winner is candidate:
        against = "every simple rule" if today is None else "every simple rule and what ran until today"
        return f"Deploy: {candidate.label} ranked stocks better than {against}, by more than luck explains."
    if winner is not None:
        return f"Deploy {winner.name}: it serves, and {models} run in shadow, because {reasons}."
    if today is None:
        return f"Nothing goes live: {reasons}; {no_rule}."
    return f"Keep {today.label}: {reasons}."


_UNDECIDED = {"enough_sessions": "there are too few common trading days to decide"}
_REASONS = {
    "skill": "the new models are not proven better than a coin flip",
    "beats_best_baseline": "the new models are not proven better than the best simple rule",
    "beats_champion": "the new models are not proven better than what runs today",
    "no_losing_year": "the new models are not proven to rank the right way round in every year",
    "account_lead": "their simulated account is not proven to lead equal weight once all variants tried are counted",
    "bearable_losses": "their simulated account lost too much for its risk",
    "vetoes": "too many of the new models rank worse than a coin flip",
}
_RULE_REASONS = {
    "skill": "it is not proven better than a coin flip",
    "no_losing_year": "it ranked the wrong way round in a year",
    "account_lead": "its simulated account is not proven to lead equal weight once all variants tried are counted",
    "bearable_losses": "its simulated account lost too much for its risk",
}
