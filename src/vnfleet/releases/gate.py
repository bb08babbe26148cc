"""The gate for a new recipe and for the first release: is it skill, and more of it than what runs today has.

Everything is decided on the daily rank IC of all walk-forward sessions, paired by session (1 is a perfect ranking of a
session's stocks, 0 a coin flip). No model is judged alone: per-symbol tests cannot tell skill from luck
(`evaluation.md` section 4). The weekly refresh is in `refresh`, the records are in `verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import polars as pl

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.releases.plan_policy import plan_policy_report
from vnfleet.releases.race import (
    LABELS,
    GateLimits,
    Runner,
    common_sessions,
    judge_enough,
    judge_lead,
    judge_skill,
    judge_years,
    may_serve_alone,
    runner_of,
)
from vnfleet.releases.refresh import RefreshFacts, RefreshLimits, decide_refresh, rank_agreement
from vnfleet.releases.verdict import Check, GateDecision, Outcome, PlanCriterion, PlanPolicyReport

__all__ = [
    "Champion",
    "Check",
    "GateDecision",
    "GateLimits",
    "PlanCriterion",
    "PlanPolicyReport",
    "RefreshFacts",
    "RefreshLimits",
    "decide_recipe",
    "decide_refresh",
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
) -> GateDecision:
    """Decide whether a new recipe (the first release when `champion` is None) goes live, and what serves.

    The candidate is promoted when it has skill, no losing year, and a lead over both the champion and the best
    baseline that luck rarely makes. Otherwise a baseline with skill serves if there is no champion, or if it beats the
    champion in the same way; failing that, everything stays as it is.

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

    Raises
    ------
    UsageError
        Without a candidate, or when no baseline ranks: nothing is promoted unopposed.
    BadDataError
        When a candidate or the champion has no rank IC, or a session appears twice.
    """
    rule, shown = limits or GateLimits(), plan or plan_policy_report()
    candidate, strategy_checks = _choose_strategy(daily_ic, candidates)
    today = (
        None if champion is None else replace(_required(daily_ic, champion.model_id, champion.serving), runs_today=True)
    )
    ranked, silent_checks = _rank_baselines(daily_ic, baselines, candidate)
    best = ranked[0]
    sessions = common_sessions(candidate, best, *([today] if today else []))
    contest = _contest(candidate, best, today, rule)
    winner = _winner(candidate, ranked, today, contest, rule)
    serving = winner.name if winner else (champion.serving if champion else "")
    outcome: Outcome = "deploy" if winner else ("keep" if len(sessions) >= rule.min_sessions else "undecided")
    return GateDecision(
        kind="first" if champion is None else "recipe",
        outcome=outcome,
        serving=serving,
        serves_baseline=serving in baselines,
        sentence=_sentence(candidate, winner, today, contest, shown.num_models),
        checks=(*strategy_checks, *contest, *silent_checks),
        plan=shown,
        num_sessions=len(sessions),
        candidate_id=candidate.model_id,
        champion_id=champion.model_id if champion else None,
    )


def _required(daily_ic: pl.DataFrame, model_id: str, name: str) -> Runner:
    runner = runner_of(daily_ic, model_id, name)
    if runner is None:
        raise BadDataError(
            "a forecaster in the race has no daily rank IC",
            where=f"{name} ({model_id})",
            fix="evaluate it on the same walk-forward sessions first",
        )
    return runner


def _choose_strategy(daily_ic: pl.DataFrame, candidates: Mapping[str, str]) -> tuple[Runner, tuple[Check, ...]]:
    """Models per symbol are the candidate only where they rank no worse than the pooled one on the same sessions."""
    if not candidates or set(candidates) - set(LABELS):
        raise UsageError(
            "the gate needs a candidate of a known strategy", expected=sorted(LABELS), found=list(candidates)
        )
    if len(set(candidates) - {"pooled"}) > 1:
        raise UsageError(
            "one strategy with models per symbol may race the pooled model, not several", found=sorted(candidates)
        )
    runners = {name: _required(daily_ic, model_id, name) for name, model_id in candidates.items()}
    if len(runners) == 1:
        return next(iter(runners.values())), ()
    own, pooled = next(runner for name, runner in runners.items() if name != "pooled"), runners["pooled"]
    sessions = common_sessions(own, pooled)
    mine, theirs = own.mean_over(sessions), pooled.mean_over(sessions)
    chosen = own if sessions and mine >= theirs else pooled
    relation = "no worse than" if chosen is own else "worse than"
    figures = f"{mine:.3f} against {theirs:.3f}"
    words = f"{own.label} rank {relation} {pooled.label} ({figures}): the candidate is {chosen.label}"
    return chosen, (Check(name="strategy", passed=None, value=mine - theirs, limit=0.0, words=words),)


def _rank_baselines(
    daily_ic: pl.DataFrame, baselines: Mapping[str, str], candidate: Runner
) -> tuple[list[Runner], tuple[Check, ...]]:
    """Return the ranking baselines, best mean on the candidate's sessions first, and a note on each silent one."""
    runners = {name: runner_of(daily_ic, model_id, name) for name, model_id in baselines.items()}
    ranked = [runner for runner in runners.values() if runner is not None]
    if not ranked:
        raise UsageError(
            "no baseline ranks anything, and models are not promoted unopposed",
            found=sorted(baselines),
            fix="race at least the 1-day reversal",
        )
    silent = tuple(
        Check(name=f"baseline_{name}", passed=None, words=f"{name} ranks nothing: reported, never serves")
        for name, runner in runners.items()
        if runner is None
    )
    return sorted(ranked, key=lambda one: -one.mean_over(common_sessions(one, candidate))), silent


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
    candidate: Runner, ranked: list[Runner], today: Runner | None, contest: tuple[Check, ...], limits: GateLimits
) -> Runner | None:
    """Return what starts to serve, or None when nothing changes."""
    if all(check.passed for check in contest):
        return candidate
    fit = [runner for runner in ranked if may_serve_alone(runner, limits)]
    if today is None:
        return fit[0] if fit else None
    best = ranked[0]
    if best not in fit or best.model_id == today.model_id:
        return None
    lead = judge_lead("baseline_beats_champion", best, today, common_sessions(best, today), limits)
    return best if lead.passed else None


def _sentence(
    candidate: Runner, winner: Runner | None, today: Runner | None, contest: tuple[Check, ...], num_models: int
) -> str:
    models = f"the {num_models} models" if num_models else "the models"
    if winner is candidate:
        against = "every simple rule" if today is None else "every simple rule and what ran until today"
        return f"Deploy: {candidate.label} ranked stocks better than {against}, by more than luck explains."
    reasons = "; ".join(_REASONS[check.name] for check in contest if check.passed is not True)
    if winner is not None:
        return f"Deploy {winner.name}: it serves, and {models} run in shadow, because {reasons}."
    if today is None:
        return f"Nothing goes live: {reasons}, and no simple rule has proven skill either."
    return f"Keep {today.label}: {reasons}."


_REASONS = {
    "enough_sessions": "there are too few common trading days to decide",
    "skill": "the new models are not proven better than a coin flip",
    "beats_best_baseline": "the new models are not proven better than the best simple rule",
    "beats_champion": "the new models are not proven better than what runs today",
    "no_losing_year": "the new models are not proven to rank the right way round in every year",
}
