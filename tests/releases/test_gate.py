"""The recipe gate on planted races: AR(1) daily rank ICs whose true means are known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.releases.gate import Champion, Check, GateDecision, GateLimits, decide_recipe

IDS = {"adapted": "recipe-a", "pooled": "recipe-p"}
BASELINES = {"ridge": "b-ridge", "reversal_1d": "b-rev"}
RIDGE = {"ridge": "b-ridge"}
IC_SD = 0.18


def weekdays(start: date, count: int) -> list[date]:
    days = (start + timedelta(days=offset) for offset in range(count * 2))
    return [day for day in days if day.weekday() < 5][:count]


def noise(seed: int, count: int) -> np.ndarray:
    """AR(1) at 0.5 with mean exactly 0 and standard deviation exactly 1, so that a planted mean is the sample mean."""
    shocks = np.random.default_rng(seed).standard_normal(count)
    values = np.zeros(count)
    for index in range(count):
        values[index] = shocks[index] + (0.5 * values[index - 1] if index else 0.0)
    return np.asarray((values - values.mean()) / values.std())


def race(
    means: Mapping[str, float], *, count: int = 750, start: date = date(2020, 1, 2), shared: float = 0.8
) -> pl.DataFrame:
    """Daily ICs that move together (correlation `shared`), as those of forecasters of one market do."""
    days = weekdays(start, count)
    market = noise(1, count)
    frames = []
    for number, (model_id, mean) in enumerate(sorted(means.items())):
        own = noise(100 + number, count)
        values = mean + IC_SD * (np.sqrt(shared) * market + np.sqrt(1 - shared) * own)
        frames.append(pl.DataFrame({"model_id": model_id, "session": days, "rank_ic": values}))
    return pl.concat(frames)


def check(decision: GateDecision, name: str) -> Check:
    return next(one for one in decision.checks if one.name == name)


def test_a_clear_winner_is_the_first_release() -> None:
    daily = race({"recipe-a": 0.11, "recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04})
    decision = decide_recipe(daily, candidates=IDS, baselines=BASELINES)
    assert (decision.kind, decision.outcome, decision.serving) == ("first", "deploy", "adapted")
    assert not decision.serves_baseline
    assert decision.deploys
    assert decision.num_sessions == 750
    assert (decision.candidate_id, decision.champion_id) == ("recipe-a", None)
    assert all(one.passed for one in decision.checks if one.name != "strategy")
    assert "0.110 against 0.050 over 750 days" in check(decision, "beats_best_baseline").words


def test_the_pooled_set_stands_when_adapting_ranks_worse() -> None:
    daily = race({"recipe-a": 0.099, "recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04})
    decision = decide_recipe(daily, candidates=IDS, baselines=BASELINES)
    assert (decision.outcome, decision.serving, decision.candidate_id) == ("deploy", "pooled", "recipe-p")
    assert check(decision, "strategy").value == pytest.approx(-0.001)


def test_the_adapted_set_stands_on_a_tie() -> None:
    daily = race({"recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04})
    twin = daily.filter(pl.col("model_id") == "recipe-p").with_columns(model_id=pl.lit("recipe-a"))
    decision = decide_recipe(pl.concat([daily, twin]), candidates=IDS, baselines=BASELINES)
    assert decision.serving == "adapted"


@pytest.mark.parametrize(
    ("own", "serving", "model_id"), [(0.11, "separate", "recipe-s"), (0.099, "pooled", "recipe-p")]
)
def test_separate_models_race_the_pooled_one_as_adapted_ones_do(own: float, serving: str, model_id: str) -> None:
    daily = race({"recipe-s": own, "recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04})
    decision = decide_recipe(daily, candidates={"separate": "recipe-s", "pooled": "recipe-p"}, baselines=BASELINES)
    assert (decision.outcome, decision.serving, decision.candidate_id) == ("deploy", serving, model_id)
    assert not decision.serves_baseline
    assert check(decision, "strategy").value == pytest.approx(own - 0.10)
    assert "the separate models of each symbol rank" in check(decision, "strategy").words
    assert GateDecision.model_validate(decision.as_json()) == decision


def test_separate_models_without_skill_leave_the_baseline_in_charge() -> None:
    daily = race({"recipe-s": 0.01, "recipe-p": 0.005, "b-ridge": 0.09, "b-rev": 0.04})
    decision = decide_recipe(daily, candidates={"separate": "recipe-s", "pooled": "recipe-p"}, baselines=BASELINES)
    assert (decision.outcome, decision.serving, decision.serves_baseline) == ("deploy", "ridge", True)
    assert decision.candidate_id == "recipe-s"


def test_the_baseline_serves_when_the_models_are_its_equal() -> None:
    daily = race({"recipe-p": 0.08, "b-ridge": 0.08, "b-rev": 0.04})
    decision = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines=BASELINES)
    assert (decision.outcome, decision.serving, decision.serves_baseline) == ("deploy", "ridge", True)
    assert "shadow" in decision.sentence
    assert check(decision, "beats_best_baseline").passed is False


def test_the_better_baseline_serves_not_the_first_named() -> None:
    daily = race({"recipe-p": 0.02, "b-ridge": 0.04, "b-rev": 0.08})
    decision = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines=BASELINES)
    assert decision.serving == "reversal_1d"


def test_nothing_goes_live_when_nothing_has_skill() -> None:
    daily = race({"recipe-a": 0.0, "recipe-p": 0.0, "b-ridge": 0.0, "b-rev": -0.01})
    decision = decide_recipe(daily, candidates=IDS, baselines=BASELINES)
    assert (decision.outcome, decision.serving, decision.serves_baseline) == ("keep", "", False)
    assert decision.sentence.startswith("Nothing goes live: the new models are not proven better than a coin flip; ")
    assert "; the best simple rule, ridge, fails too: it is not proven better than a coin flip" in decision.sentence
    assert not decision.deploys


def test_a_skilled_rule_with_a_losing_year_is_refused_for_that_year_alone() -> None:
    daily = race({"recipe-p": 0.0, "b-ridge": 0.15})
    in_2021 = (pl.col("session").dt.year() == 2021) & (pl.col("model_id") == "b-ridge")
    of_2021 = daily.filter(in_2021).get_column("rank_ic").to_numpy().mean()
    planted = daily.with_columns(
        rank_ic=pl.when(in_2021).then(pl.col("rank_ic") - of_2021 - 0.001).otherwise(pl.col("rank_ic"))
    )
    decision = decide_recipe(planted, candidates={"pooled": "recipe-p"}, baselines={"ridge": "b-ridge"})
    assert (decision.outcome, decision.serving) == ("keep", "")
    assert decision.sentence.endswith(
        "; the best simple rule, ridge, fails too: it ranked the wrong way round in a year."
    )


def test_too_few_days_are_no_failure_of_models_or_rules() -> None:
    daily = race({"recipe-p": 0.30, "b-ridge": 0.10}, count=40)
    decision = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines={"ridge": "b-ridge"})
    assert (decision.outcome, decision.serving) == ("undecided", "")
    assert "there are too few common trading days to decide; " in decision.sentence
    assert "the shared pooled model ranked on 40 days only: too few to prove skill; " in decision.sentence
    assert decision.sentence.endswith(
        "; the best simple rule, ridge, is not proven either: ridge ranked on 40 days only: too few to prove skill."
    )
    assert "not proven better" not in decision.sentence
    assert "fails" not in decision.sentence


def test_skill_and_lead_name_how_rarely_luck_may_do_as_well() -> None:
    daily = race({"recipe-a": 0.11, "recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04})
    alone = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines=BASELINES)
    both = decide_recipe(daily, candidates=IDS, baselines=BASELINES)
    for decision, asked in ((alone, 33), (both, 67)):  # 1 / 0.03, and half of it for each of two strategies
        for name in ("skill", "beats_best_baseline"):
            assert check(decision, name).words.endswith(f" (at most once in {asked} tries is asked for)")
    worse = decide_recipe(race({"recipe-p": 0.01, "b-ridge": 0.05}), candidates={"pooled": "recipe-p"}, baselines=RIDGE)
    assert check(worse, "beats_best_baseline").words.endswith("over 750 days")


def test_a_year_of_sessions_less_one_is_undecided_and_a_full_one_is_not() -> None:
    means = {"recipe-p": 0.30, "b-ridge": 0.0, "b-rev": -0.05}
    kept, promoted = (
        decide_recipe(race(means, count=count), candidates={"pooled": "recipe-p"}, baselines=BASELINES)
        for count in (249, 250)
    )
    assert (kept.outcome, kept.serving) == ("undecided", "")
    assert check(kept, "enough_sessions").passed is None
    assert check(kept, "beats_best_baseline").passed is None
    assert (promoted.outcome, promoted.serving) == ("deploy", "pooled")


def test_the_baseline_serves_while_a_first_release_is_undecided() -> None:
    daily = race({"recipe-p": 0.30, "b-ridge": 0.10, "b-rev": 0.05}, count=200)
    decision = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines=BASELINES)
    assert (decision.outcome, decision.serving) == ("deploy", "ridge")
    assert "too few common trading days" in decision.sentence


def test_only_common_sessions_count() -> None:
    daily = race({"recipe-p": 0.12, "b-ridge": 0.05, "b-rev": 0.03})
    last = weekdays(date(2020, 1, 2), 750)[-200]
    short = daily.filter((pl.col("model_id") != "b-ridge") | (pl.col("session") >= last))
    decision = decide_recipe(short, candidates={"pooled": "recipe-p"}, baselines={"ridge": "b-ridge"})
    assert decision.num_sessions == 200
    assert check(decision, "enough_sessions").passed is None


def test_one_losing_year_blocks_a_proven_winner() -> None:
    daily = race({"recipe-p": 0.15, "b-ridge": 0.03, "b-rev": 0.02})
    in_2021 = (pl.col("session").dt.year() == 2021) & (pl.col("model_id") == "recipe-p")
    of_2021 = daily.filter(in_2021).get_column("rank_ic").to_numpy().mean()
    planted = daily.with_columns(
        rank_ic=pl.when(in_2021).then(pl.col("rank_ic") - of_2021 - 0.001).otherwise(pl.col("rank_ic"))
    )
    decision = decide_recipe(planted, candidates={"pooled": "recipe-p"}, baselines={"ridge": "b-ridge"})
    assert check(decision, "beats_best_baseline").passed is True
    assert check(decision, "no_losing_year").passed is False
    assert check(decision, "no_losing_year").value == pytest.approx(-0.001)
    assert "2021" in check(decision, "no_losing_year").words
    assert decision.serving != "pooled"


def test_a_losing_stub_of_a_year_does_not_block() -> None:
    daily = race({"recipe-p": 0.15, "b-ridge": 0.03, "b-rev": 0.02}, count=262 + 59, start=date(2020, 1, 1))
    stub = (pl.col("session").dt.year() == 2021) & (pl.col("model_id") == "recipe-p")
    assert daily.filter(stub).height == 59
    planted = daily.with_columns(rank_ic=pl.when(stub).then(-0.01).otherwise(pl.col("rank_ic")))
    decision = decide_recipe(planted, candidates={"pooled": "recipe-p"}, baselines=BASELINES)
    assert check(decision, "no_losing_year").passed is True


@pytest.mark.parametrize(
    ("candidate", "champion", "outcome", "serving"),
    [(0.13, 0.08, "deploy", "pooled"), (0.08, 0.13, "keep", "adapted"), (0.10, 0.10, "keep", "adapted")],
)
def test_a_new_recipe_must_beat_the_champion(candidate: float, champion: float, outcome: str, serving: str) -> None:
    daily = race({"recipe-p": candidate, "old-a": champion, "b-ridge": 0.03, "b-rev": 0.02})
    decision = decide_recipe(
        daily,
        candidates={"pooled": "recipe-p"},
        baselines=BASELINES,
        champion=Champion(model_id="old-a", serving="adapted"),
    )
    assert (decision.kind, decision.outcome, decision.serving) == ("recipe", outcome, serving)
    assert decision.champion_id == "old-a"


def test_an_undecided_recipe_keeps_the_champion() -> None:
    daily = race({"recipe-p": 0.3, "old-a": 0.05, "b-ridge": 0.01}, count=120)
    decision = decide_recipe(
        daily,
        candidates={"pooled": "recipe-p"},
        baselines={"ridge": "b-ridge"},
        champion=Champion(model_id="old-a", serving="adapted"),
    )
    assert (decision.outcome, decision.serving, decision.deploys) == ("undecided", "adapted", False)


def test_a_baseline_that_beats_champion_and_candidate_takes_over() -> None:
    daily = race({"recipe-p": 0.05, "old-a": 0.04, "b-ridge": 0.12, "b-rev": 0.02})
    decision = decide_recipe(
        daily,
        candidates={"pooled": "recipe-p"},
        baselines=BASELINES,
        champion=Champion(model_id="old-a", serving="adapted"),
    )
    assert (decision.outcome, decision.serving, decision.serves_baseline) == ("deploy", "ridge", True)


def test_a_serving_baseline_is_kept_until_the_models_beat_it() -> None:
    champion = Champion(model_id="b-ridge", serving="ridge")
    for candidate, expected in ((0.08, ("keep", "ridge", True)), (0.13, ("deploy", "pooled", False))):
        daily = race({"recipe-p": candidate, "b-ridge": 0.08, "b-rev": 0.02})
        decision = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines=BASELINES, champion=champion)
        assert (decision.outcome, decision.serving, decision.serves_baseline) == expected


def test_always_up_is_reported_but_never_races() -> None:
    daily = race({"recipe-p": 0.08, "b-ridge": 0.08})
    silent = daily.filter(pl.col("model_id") == "b-ridge").with_columns(
        model_id=pl.lit("b-up"), rank_ic=pl.lit(None, pl.Float64)
    )
    decision = decide_recipe(
        pl.concat([daily, silent]),
        candidates={"pooled": "recipe-p"},
        baselines={"always_up": "b-up", "ridge": "b-ridge"},
    )
    assert decision.serving == "ridge"
    assert check(decision, "baseline_always_up").passed is None


def test_a_race_without_a_ranking_baseline_or_candidate_is_refused() -> None:
    daily = race({"recipe-p": 0.08, "b-ridge": 0.08})
    with pytest.raises(UsageError, match="unopposed"):
        decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines={"always_up": "b-up"})
    with pytest.raises(UsageError, match="known strategy"):
        decide_recipe(daily, candidates={}, baselines=BASELINES)
    with pytest.raises(UsageError, match="known strategy"):
        decide_recipe(daily, candidates={"stacked": "recipe-p"}, baselines=BASELINES)
    with pytest.raises(UsageError, match="not several"):
        decide_recipe(daily, candidates={"adapted": "recipe-p", "separate": "recipe-p"}, baselines=BASELINES)
    with pytest.raises(BadDataError, match="no daily rank IC"):
        decide_recipe(daily, candidates={"pooled": "absent"}, baselines=BASELINES)
    with pytest.raises(BadDataError, match="repeats a session"):
        decide_recipe(pl.concat([daily, daily]), candidates={"pooled": "recipe-p"}, baselines=BASELINES)


def test_zero_skill_is_promoted_as_rarely_as_the_level_says() -> None:
    limits = GateLimits(num_resamples=400)
    promoted = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        days = weekdays(date(2022, 1, 3), 260)
        rows = [
            pl.DataFrame({"model_id": name, "session": days, "rank_ic": IC_SD * rng.standard_normal(260)})
            for name in ("recipe-p", "b-ridge")
        ]
        decision = decide_recipe(
            pl.concat(rows), candidates={"pooled": "recipe-p"}, baselines={"ridge": "b-ridge"}, limits=limits
        )
        promoted += decision.serving == "pooled"
    # both tests at 5 % one-sided on correlated series: at most 5 %, so 200 trials give at most 17 (binomial 99 %)
    assert promoted <= 17


def test_a_decision_survives_json_and_reads_as_words() -> None:
    daily = race({"recipe-a": 0.11, "recipe-p": 0.10, "b-ridge": 0.05, "b-rev": 0.04})
    decision = decide_recipe(daily, candidates=IDS, baselines=BASELINES)
    assert GateDecision.model_validate(decision.as_json()) == decision
    text = "\n".join(decision.lines())
    assert text.startswith("Deploy: the per-symbol adapted models ranked stocks better than every simple rule")
    assert "[yes]" in text
    for word in ("p-value", "bootstrap", "significan", "null hypothesis"):
        assert word not in text


def test_limits_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="significance"):
        GateLimits(significance=0.0)
    with pytest.raises(ValueError, match="two blocks"):
        GateLimits(min_sessions=20)
    with pytest.raises(ValueError, match="at least 1"):
        GateLimits(block_sessions=0)
    with pytest.raises(ValueError, match="policy"):
        GateLimits(policy="strict")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_drawdown_frac"):
        GateLimits(max_drawdown_frac=1.5)
    with pytest.raises(ValueError, match="veto_z"):
        GateLimits(veto_z=0.5)
    with pytest.raises(ValueError, match="trial_likeness"):
        GateLimits(trial_likeness=1.0)


def test_the_better_of_two_strategies_needs_more_proof_than_a_single_one() -> None:
    leads = (lead / 1000 for lead in range(1, 60))
    for lead in leads:
        daily = race({"recipe-p": 0.08 + lead, "b-ridge": 0.08})
        alone = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines={"ridge": "b-ridge"})
        p_value = check(alone, "beats_best_baseline").value or 0.0
        if p_value < 0.028:
            break
    assert 0.015 < p_value < 0.028
    twin = daily.filter(pl.col("model_id") == "recipe-p").with_columns(model_id=pl.lit("recipe-a"))
    both = decide_recipe(pl.concat([daily, twin]), candidates=IDS, baselines={"ridge": "b-ridge"})
    assert (alone.serving, both.serving) == ("pooled", "ridge")
    assert check(both, "beats_best_baseline").limit == pytest.approx(0.015)


def test_the_best_of_many_simple_rules_needs_more_proof_than_a_single_one() -> None:
    # nobody has skill: without a share of the level each, one of six independent rules is lucky in a quarter of races
    limits = GateLimits(num_resamples=400)
    served = 0
    for trial in range(100):
        rng = np.random.default_rng(1000 + trial)
        days = weekdays(date(2022, 6, 1), 260)
        names = ("recipe-p", *(f"b-{place}" for place in range(6)))
        daily = pl.concat(
            pl.DataFrame({"model_id": name, "session": days, "rank_ic": IC_SD * rng.standard_normal(260)})
            for name in names
        )
        rules = {f"rule {place}": f"b-{place}" for place in range(6)}
        decision = decide_recipe(daily, candidates={"pooled": "recipe-p"}, baselines=rules, limits=limits)
        served += decision.deploys
    assert served <= 11  # binomial 99 % at 5 %
