"""The policy "plan": the written plan's thresholds decide, model by model, then the set. Available, not recommended.

What the plan says: "Accuracy >52%, Sharpe >0.8, Max Drawdown <10%. Run backtest on new vs. old models before
deployment" for a model, "Average accuracy >= 54%" for the set; RMSE < 0.03 stands in its configuration. It does not say
how many models must pass. Read literally, a model that fails is not deployed, so:

- a model passes when all four of its figures do (a figure that nobody knows is no pass);
- the set goes live when its mean accuracy reaches 54 %, its simulated account is not worse than that of what runs today
  (Sharpe ratio on the same sessions; not asked for a first release), and at least one model passes;
- symbols whose own model fails are served by the pooled model of the same recipe where there is one.

The plan knows no baselines, so none can win. The decision always says which share of models without any skill would
have passed by the same rule, and what the policy "fleet" would have done.
"""

from __future__ import annotations

from vnfleet.releases.account_facts import AccountFacts
from vnfleet.releases.plan_policy import MEAN_ACCURACY_TARGETS, as_deciding
from vnfleet.releases.verdict import Check, GateDecision, PlanPolicyReport
from vnfleet.releases.vetoes import named
from vnfleet.trading.metrics import sharpe_252

_REASONS = {
    "plan_mean_accuracy": "the mean accuracy of the models does not reach what the plan asks for",
    "plan_models": "no model passes all of the plan's limits",
    "plan_backtest": "the new simulated account is not shown to be as good as that of what runs today",
}


def decide_by_plan(
    fleet: GateDecision,
    *,
    strategy: str,
    has_pooled: bool,
    serving_today: str,
    baseline_serves_today: bool,
    account: AccountFacts | None,
) -> GateDecision:
    """Turn the fleet's decision about a set into the plan's, by the figures in `fleet.plan`.

    strategy : the candidate's. has_pooled : whether a pooled model of this recipe can serve failing symbols.
    serving_today, baseline_serves_today : what serves ("" when nothing does), and whether it is a baseline.

    `fleet` may also be a refresh: then its safety checks stand beside the plan's, and each of them can stop it. A
    failed leak check keeps everything, as everywhere.
    """
    checks = plan_checks(fleet.plan, account, has_champion=fleet.champion_id is not None)
    kept = [check for check in fleet.checks if fleet.kind == "refresh" or check.name.startswith("leak")]
    lost = [check for check in (*checks, *kept) if check.passed is False]
    deploys = all(check.passed for check in checks) and not lost
    missing = [check.words for check in checks if check.passed is None]
    reasons = "; ".join([*(_REASONS.get(check.name, check.words) for check in lost), *missing])
    own = strategy != "pooled" and has_pooled
    stay = f"Keep {serving_today}" if serving_today else "Nothing goes live"
    go = f"Deploy {strategy}: the set reaches what the written plan asks for (no proof of skill: see what luck passes)."
    by_fleet = f'by the policy "fleet": {fleet.sentence}'
    return fleet.model_copy(
        update={
            "gate_policy": "plan",
            "outcome": "deploy" if deploys else ("keep" if lost else "undecided"),
            "serving": strategy if deploys else serving_today,
            "serves_baseline": baseline_serves_today and not deploys,
            "sentence": go if deploys else f"{stay}: {reasons}.",
            "checks": (*(check for check in fleet.checks if check.name == "strategy"), *checks, *kept),
            "plan": as_deciding(fleet.plan),
            "vetoed": fleet.plan.failing if deploys and own else (),
            "told": (by_fleet, *fleet.told),
        }
    )


def plan_checks(plan: PlanPolicyReport, account: AccountFacts | None, *, has_champion: bool) -> tuple[Check, ...]:
    """Return what the plan asks of a set; passed is None where the figures are missing."""
    checks = (_mean_accuracy(plan), _models(plan))
    return (*checks, _backtest(account)) if has_champion else checks


def _mean_accuracy(plan: PlanPolicyReport) -> Check:
    name, limit, value = "plan_mean_accuracy", MEAN_ACCURACY_TARGETS[0], plan.mean_accuracy_frac
    if value is None:
        return Check(name=name, passed=None, limit=limit, words="nobody measured the accuracy of the models")
    words = f"mean accuracy of the {plan.num_models} models {value:.1%} ({limit:.0%} are asked for)"
    return Check(name=name, passed=value >= limit, value=value, limit=limit, words=words)


def _models(plan: PlanPolicyReport) -> Check:
    name, count = "plan_models", len(plan.passing)
    if not plan.num_models:
        return Check(name=name, passed=None, limit=1, words="nobody measured the models against the plan's limits")
    luck = plan.three_null_frac if plan.all_null_frac is None else plan.all_null_frac
    of_limits = "accuracy, Sharpe and drawdown" if plan.all_null_frac is None else "all four"
    words = (
        f"{count} of {plan.num_models} models pass all of the plan's limits ({named(plan.passing) or 'none'}); "
        f"without any skill {luck:.1%} pass {of_limits}, that is {luck * plan.num_models:.1f} of {plan.num_models}"
    )
    return Check(name=name, passed=count >= 1, value=count, limit=1, words=words)


def _backtest(account: AccountFacts | None) -> Check:
    name = "plan_backtest"
    if account is None or account.old_returns_T is None:
        words = "nobody simulated the accounts of the new set and of what runs today on the same days"
        return Check(name=name, passed=None, words=words)
    new, old = sharpe_252(account.returns_T) or 0.0, sharpe_252(account.old_returns_T) or 0.0
    relation = "not worse than" if new >= old else "worse than"
    words = f"the new account is {relation} that of what runs today: Sharpe ratio {new:.2f} against {old:.2f}"
    return Check(name=name, passed=new >= old, value=new, limit=old, words=words)
