"""The policy "plan": thresholds decide, and what luck passes stands beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from vnfleet.releases.gate import (
    AccountFacts,
    Champion,
    Check,
    GateDecision,
    GateLimits,
    PlanPolicyReport,
    RefreshFacts,
    decide_by_plan,
    decide_recipe,
    decide_refresh,
    plan_policy_report,
)
from vnfleet.releases.plan_policy import NullShares, pass_shares

PLAN = GateLimits(policy="plan")
GOOD = {"accuracy_frac": 0.55, "sharpe": 1.0, "max_drawdown_frac": 0.05, "rmse": 0.02}
COUNTED = NullShares(
    accuracy=0.4,
    sharpe=0.3,
    max_drawdown=0.1,
    rmse=0.2,
    accuracy_and_sharpe=0.2,
    three=0.05,
    every=0.01,
    num_models=1020,
)


def numbers(*rows: Mapping[str, float | None]) -> pl.DataFrame:
    named = [{"symbol": symbol, **row} for symbol, row in zip(("AAA", "BBB", "CCC"), rows, strict=False)]
    return pl.DataFrame(named, schema_overrides={"sharpe": pl.Float64, "rmse": pl.Float64})


def daily(means: dict[str, float], count: int = 300) -> pl.DataFrame:
    days = [date(2022, 1, 1) + timedelta(days=place) for place in range(count)]
    noise = {name: np.random.default_rng(place).normal(0, 0.1, count) for place, name in enumerate(means)}
    return pl.concat(
        pl.DataFrame({"model_id": name, "session": days, "rank_ic": mean + noise[name] - noise[name].mean()})
        for name, mean in means.items()
    )


def decide(
    plan: PlanPolicyReport | None,
    account: AccountFacts | None = None,
    *,
    champion: bool = False,
    leaks: tuple[Check, ...] = (),
) -> GateDecision:
    return decide_recipe(
        daily({"a": 0.0, "p": -0.001, "old": 0.0, "rule": 0.0}),
        candidates={"adapted": "a", "pooled": "p"},
        baselines={"rule": "rule"},
        champion=Champion(model_id="old", serving="rule") if champion else None,
        plan=plan,
        limits=PLAN,
        account=account,
        leaks=leaks,
    )


def accounts(new: float, old: float) -> AccountFacts:
    noise = 0.01 * np.random.default_rng(0).standard_normal(300)
    return AccountFacts(returns_T=noise + new, active_returns_T=noise, old_returns_T=noise + old)


def test_the_plans_thresholds_deploy_a_set_without_any_skill() -> None:
    decision = decide(plan_policy_report(numbers(GOOD, {**GOOD, "sharpe": 0.7}, {**GOOD, "rmse": None}), null=COUNTED))
    assert (decision.gate_policy, decision.outcome, decision.serving) == ("plan", "deploy", "adapted")
    assert decision.vetoed == (
        "BBB",
        "CCC",
    )  # a model that fails, or is unknown, is not deployed: the pooled one serves
    text = "\n".join(decision.lines())
    assert "without any skill 1.0% pass all four" in text
    assert 'by the policy "fleet": Nothing goes live' in text
    assert "they decide under this policy" in text
    assert "counted on 1,020 models" in text


@pytest.mark.parametrize(
    ("rows", "failed"),
    [
        ((GOOD, {**GOOD, "accuracy_frac": 0.52}), "plan_mean_accuracy"),  # mean 53.5 %
        (({**GOOD, "sharpe": 0.8}, {**GOOD, "max_drawdown_frac": 0.10}), "plan_models"),
    ],
)
def test_one_unmet_demand_keeps_everything(rows: tuple[Mapping[str, float | None], ...], failed: str) -> None:
    decision = decide(plan_policy_report(numbers(*rows)))
    assert (decision.outcome, decision.serving, decision.vetoed) == ("keep", "", ())
    assert [check.name for check in decision.checks if check.passed is False] == [failed]


def test_a_mean_accuracy_of_exactly_54_percent_is_enough() -> None:
    assert decide(plan_policy_report(numbers({**GOOD, "accuracy_frac": 0.54}))).deploys


def test_the_new_backtest_may_not_be_worse_than_the_old() -> None:
    good = plan_policy_report(numbers(GOOD))
    assert decide(good, accounts(0.001, 0.001), champion=True).deploys
    worse = decide(good, accounts(0.001, 0.0011), champion=True)
    assert (worse.outcome, worse.serving, worse.serves_baseline) == ("keep", "rule", True)
    unknown = decide(good, champion=True)
    assert (unknown.outcome, unknown.serving, unknown.deploys) == ("undecided", "rule", False)


def test_nothing_measured_is_undecided_and_a_leak_still_blocks() -> None:
    assert decide(None).outcome == "undecided"
    leak = Check(name="leak_poison", passed=False, words="the future moves the past")
    leaked = decide(plan_policy_report(numbers(GOOD)), leaks=(leak,))
    assert leaked.outcome == "keep"
    assert "the future moves the past" in leaked.sentence


def test_in_an_ordinary_week_the_safety_checks_stand_beside_the_plans() -> None:
    facts = RefreshFacts(
        serving="adapted",
        serves_baseline=False,
        artifact_problems=(),
        expected_symbols=("AAA",),
        present_symbols=("AAA",),
        agreement=None,
        agreement_sessions=0,
        validation_ic=0.1,
        validation_ic_history=(),
        champion_id="2026-11-13-0041",
    )
    good = plan_policy_report(numbers(GOOD))

    def by_plan(facts: RefreshFacts) -> GateDecision:
        return decide_by_plan(
            decide_refresh(facts, plan=good),
            strategy="adapted",
            has_pooled=True,
            serving_today="adapted",
            baseline_serves_today=False,
            account=accounts(0.001, 0.001),
        )

    assert (by_plan(facts).outcome, by_plan(facts).kind) == ("deploy", "refresh")
    damaged = by_plan(replace(facts, artifact_problems=("AAA: wrong shape",)))
    assert damaged.outcome == "keep"
    assert "AAA: wrong shape" in damaged.sentence


def test_counted_null_shares_replace_the_quoted_ones() -> None:
    quoted, counted = plan_policy_report(numbers(GOOD)), plan_policy_report(numbers(GOOD), null=COUNTED)
    assert [one.null_pass_frac for one in quoted.criteria] == [0.353, 0.26, 0.055, None]
    assert [one.null_pass_frac for one in counted.criteria] == [0.4, 0.3, 0.1, 0.2]
    assert (counted.accuracy_and_sharpe_null_frac, counted.three_null_frac, counted.all_null_frac) == (0.2, 0.05, 0.01)
    assert (quoted.num_null_models, counted.num_null_models) == (None, 1020)


def test_shares_are_counted_by_hand() -> None:
    found = pass_shares(numbers(GOOD, {**GOOD, "accuracy_frac": 0.5}, {**GOOD, "max_drawdown_frac": 0.2, "rmse": None}))
    assert found == NullShares(
        accuracy=2 / 3,
        sharpe=1.0,
        max_drawdown=2 / 3,
        rmse=1.0,
        accuracy_and_sharpe=2 / 3,
        three=1 / 3,
        every=1 / 2,
        num_models=3,
    )
