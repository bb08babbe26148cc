"""Accounts, vetoes and leaks at the gate: the ranks are proven in every test, the rest decides."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from vnfleet.releases.gate import AccountFacts, Champion, Check, GateDecision, GateLimits, decide_recipe

T = 750
IDS = {"adapted": "recipe-a", "pooled": "recipe-p"}
BASELINES = {"ridge": "b-ridge", "reversal_1d": "b-rev"}
LEAK = Check(name="leak_truncation", passed=False, words="forecasts change when the future is cut off")
WARNING = Check(name="leak_too_good", passed=None, words="the ranking is better than such data usually allow")


def proven(means: Mapping[str, float] | None = None) -> pl.DataFrame:
    """Daily rank ICs whose means are exact and whose noise nobody could mistake for them."""
    wanted = means or {"recipe-a": 0.11, "recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04}
    days = [date(2020, 1, 1) + timedelta(days=place) for place in range(T)]
    frames = []
    for number, (name, mean) in enumerate(wanted.items()):
        noise = np.random.default_rng(number).standard_normal(T)
        values = mean + 0.05 * (noise - noise.mean())
        frames.append(pl.DataFrame({"model_id": name, "session": days, "rank_ic": values}))
    return pl.concat(frames)


def returns(sharpe: float, *, volatility: float = 0.2, seed: int = 0, count: int = T) -> np.ndarray:
    """Daily returns whose annual Sharpe ratio and volatility are exactly these."""
    noise = np.random.default_rng(seed).standard_normal(count)
    standard = (noise - noise.mean()) / noise.std(ddof=1)
    return np.asarray(volatility * (standard / math.sqrt(252) + sharpe / 252))


def account(lead: float, *, own: float = 1.0, **facts: object) -> AccountFacts:
    return AccountFacts(
        returns_T=returns(own),
        active_returns_T=returns(lead, volatility=0.1, seed=1),
        **facts,  # type: ignore[arg-type]
    )


def check(decision: GateDecision, name: str) -> Check:
    return next(one for one in decision.checks if one.name == name)


def test_a_proven_account_lets_the_ranks_decide_and_is_told() -> None:
    decision = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, account=account(3.0))
    assert (decision.outcome, decision.serving) == ("deploy", "adapted")
    assert check(decision, "account_lead").passed is True
    assert check(decision, "bearable_losses").passed is True
    assert "equal weight of the same stocks" in decision.told[0]
    assert any("simulated account over 750 days" in line for line in decision.lines())


def test_the_lead_must_survive_the_number_of_trials() -> None:
    # Bailey & Lopez de Prado by hand, normal returns nearly: z = (SR - SR0) sqrt(T - 1) / sqrt(1 + SR^2 / 2)
    sharpe, trials = 1.3 / math.sqrt(252), 41
    gamma = 0.5772156649
    best = (1 - gamma) * norm.ppf(1 - 1 / trials) + gamma * norm.ppf(1 - 1 / (trials * math.e))
    expected = {}
    for likeness in (0.0, 0.8):
        hurdle = best * math.sqrt((1 - likeness) / (T - 1))
        expected[likeness] = norm.cdf((sharpe - hurdle) * math.sqrt(T - 1) / math.sqrt(1 + sharpe**2 / 2))
        decision = decide_recipe(
            proven(),
            candidates=IDS,
            baselines=BASELINES,
            account=account(1.3),
            limits=GateLimits(trial_likeness=likeness),
        )
        found = check(decision, "account_lead")
        assert found.value == pytest.approx(expected[likeness], abs=0.02)
        assert found.passed is (found.value is not None and found.value > 0.95)
        assert "best of 41 variants" in found.words
    assert expected[0.0] < expected[0.8]


def test_recorded_trials_add_to_those_of_the_developers() -> None:
    few, many = (
        decide_recipe(
            proven(), candidates=IDS, baselines=BASELINES, account=account(1.6, num_trials=n, trial_sharpe_sd=0.02)
        )
        for n in (1, 5000)
    )
    lead_few, lead_many = check(few, "account_lead"), check(many, "account_lead")
    assert (lead_few.value or 0) > (lead_many.value or 0)
    assert "best of 5040 variants" in lead_many.words


def test_an_account_that_only_luck_explains_leaves_the_rule_in_charge() -> None:
    decision = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, account=account(0.3))
    assert (decision.outcome, decision.serving, decision.serves_baseline) == ("deploy", "ridge", True)
    assert "once all variants tried are counted" in decision.sentence


def test_a_baseline_is_held_to_the_same_account_checks_where_its_account_is_known() -> None:
    poor, rich = account(0.1), account(3.0)
    first = decide_recipe(
        proven(), candidates=IDS, baselines=BASELINES, account=poor, baseline_accounts={"ridge": poor}
    )
    assert first.serving == "reversal_1d"  # proven by its ranks, nobody simulated it
    both = {"ridge": poor, "reversal_1d": poor}
    none = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, account=poor, baseline_accounts=both)
    assert (none.outcome, none.serving) == ("keep", "")
    assert check(none, "ridge_account_lead").passed is False
    assert none.sentence.endswith(
        "; the best simple rule, ridge, fails too: its simulated account is not proven to lead equal weight once all "
        "variants tried are counted."
    )
    served = decide_recipe(
        proven(), candidates=IDS, baselines=BASELINES, account=poor, baseline_accounts={"ridge": rich}
    )
    assert served.serving == "ridge"


def test_an_account_that_bled_for_years_is_refused() -> None:
    falling = np.concatenate([returns(4.0, count=150), returns(-2.5, count=600, seed=3)])
    facts = AccountFacts(returns_T=falling, active_returns_T=returns(3.0, volatility=0.1))
    decision = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, account=facts)
    losses = check(decision, "bearable_losses")
    wealth = np.cumprod(1 + falling * 0.1 / (falling.std(ddof=1) * math.sqrt(252)))
    assert losses.value == pytest.approx(float((1 - wealth / np.maximum.accumulate(wealth)).max()), abs=1e-12)
    assert losses.passed is False
    assert decision.serving != "adapted"


def test_a_short_account_proves_nothing() -> None:
    short = AccountFacts(returns_T=returns(1.0, count=40), active_returns_T=returns(9.0, count=40))
    decision = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, account=short)
    assert check(decision, "account_lead").passed is None
    assert decision.serves_baseline
    assert "the account ran 40 days only, too few to prove that it leads equal weight" in decision.sentence
    assert "the account ran 40 days only, too few to know its losses" in decision.sentence
    assert "lost too much" not in decision.sentence
    assert "not proven to lead" not in decision.sentence
    rules = dict.fromkeys(BASELINES, short)
    none = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, account=short, baseline_accounts=rules)
    assert none.serving == ""
    assert "; the best simple rule, ridge, is not proven either: ridge: the account ran 40 days only" in none.sentence
    assert "lost too much" not in none.sentence


def test_new_and_old_account_stand_in_one_sentence() -> None:
    facts = AccountFacts(
        returns_T=np.full(252, 0.0),
        active_returns_T=np.full(252, -0.001),
        old_returns_T=np.full(252, 1.1 ** (1 / 252) - 1),
    )
    decision = decide_recipe(
        proven({"recipe-p": 0.12, "old": 0.05, "b-ridge": 0.04, "b-rev": 0.03}),
        candidates={"pooled": "recipe-p"},
        baselines=BASELINES,
        champion=Champion(model_id="old", serving="adapted"),
        account=facts,
    )
    text = decision.told[0]
    assert "the shared pooled model +0.0% a year" in text
    assert "what runs today (the per-symbol adapted models) +10.0% a year" in text
    assert "equal weight of the same stocks +28.6% a year" in text  # 1.001^252


def test_series_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="active_returns_T"):
        AccountFacts(returns_T=np.zeros(5), active_returns_T=np.zeros(4))
    with pytest.raises(ValueError, match="old_returns_T"):
        AccountFacts(returns_T=np.zeros(5), active_returns_T=np.zeros(5), old_returns_T=np.full(5, np.nan))
    with pytest.raises(ValueError, match="loss of everything"):
        AccountFacts(returns_T=np.full(5, -1.5), active_returns_T=np.zeros(5))
    with pytest.raises(ValueError, match="num_trials"):
        AccountFacts(returns_T=np.zeros(5), active_returns_T=np.zeros(5), num_trials=0)


def test_vetoed_symbols_are_served_by_the_pooled_model_and_named() -> None:
    vetoes = {"AAA": -2.5, "BBB": -2.0, "CCC": 0.3, "DDD": 4.0}
    decision = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, vetoes=vetoes)
    assert (decision.serving, decision.vetoed) == ("adapted", ("AAA",))  # -2.0 is not beyond the limit
    assert any("pooled model" in line and "AAA" in line for line in decision.lines())


def test_more_than_half_vetoed_fails_the_strategy() -> None:
    half = dict.fromkeys(("AAA", "BBB"), -3.0) | dict.fromkeys(("CCC", "DDD"), 0.0)
    assert decide_recipe(proven(), candidates=IDS, baselines=BASELINES, vetoes=half).serving == "adapted"
    most = half | {"CCC": -2.01}
    decision = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, vetoes=most)
    assert (decision.serving, decision.vetoed) == ("ridge", ())
    assert "rank worse than a coin flip" in decision.sentence


def test_vetoes_are_not_asked_of_the_pooled_model_and_need_one() -> None:
    pooled_wins = {"recipe-a": 0.09, "recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04}
    decision = decide_recipe(proven(pooled_wins), candidates=IDS, baselines=BASELINES, vetoes={"AAA": -9.0})
    assert (decision.serving, decision.vetoed) == ("pooled", ())
    alone = decide_recipe(
        proven(), candidates={"adapted": "recipe-a"}, baselines=BASELINES, vetoes={"AAA": -9.0, "BBB": 0.0, "CCC": 0.0}
    )
    assert alone.serves_baseline
    assert "no pooled model" in check(alone, "vetoes").words


def test_after_a_leak_nothing_changes() -> None:
    first = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, leaks=(WARNING, LEAK))
    assert (first.outcome, first.serving) == ("keep", "")
    assert "forecasts change when the future is cut off" in first.sentence
    assert first.sentence.endswith("; after a leak no simple rule may serve either.")
    means = {"recipe-a": 0.11, "recipe-p": 0.10, "old": 0.01, "b-ridge": 0.08, "b-rev": 0.04}
    change = decide_recipe(
        proven(means),
        candidates=IDS,
        baselines=BASELINES,
        champion=Champion(model_id="old", serving="pooled"),
        leaks=(LEAK,),
    )
    assert (change.outcome, change.serving) == ("keep", "pooled")
    warned = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, leaks=(WARNING,))
    assert warned.deploys
    assert any("better than such data usually allow" in line for line in warned.lines())
    with pytest.raises(ValueError, match="leak"):
        decide_recipe(proven(), candidates=IDS, baselines=BASELINES, leaks=(Check(name="x", passed=True, words=""),))


def test_decisions_of_earlier_versions_still_load() -> None:
    decision = decide_recipe(proven(), candidates=IDS, baselines=BASELINES, told=("nobody saw 750 days",))
    assert GateDecision.model_validate(decision.as_json()) == decision
    old = json.loads(json.dumps(decision.as_json()))
    for name in ("vetoed", "told"):
        del old[name]
    for name in ("all_null_frac", "num_null_models", "passing", "failing"):
        del old["plan"][name]
    loaded = GateDecision.model_validate(old)
    assert (loaded.vetoed, loaded.told) == ((), ())
    assert loaded.lines()[0] == decision.sentence
