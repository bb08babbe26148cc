"""The weekly refresh: deploys unless a safety check fails."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from vnfleet.releases.gate import Check, RefreshFacts, RefreshLimits, decide_refresh, rank_agreement

SYMBOLS = tuple(f"S{number:02d}" for number in range(12))
HEALTHY = RefreshFacts(
    serving="adapted",
    serves_baseline=False,
    artifact_problems=(),
    expected_symbols=SYMBOLS,
    present_symbols=SYMBOLS,
    agreement=0.9,
    agreement_sessions=60,
    validation_ic=0.10,
    validation_ic_history=(0.10, 0.11, 0.09, 0.10),
)


def scores(seed: int, num_sessions: int = 5, first: date = date(2026, 1, 5)) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    days = [first + timedelta(days=offset) for offset in range(num_sessions)]
    rows = [(symbol, day, 5, float(rng.standard_normal())) for day in days for symbol in SYMBOLS]
    return pl.DataFrame(rows, schema=["symbol", "session", "horizon_sessions", "score"], orient="row")


def test_a_healthy_refresh_deploys_what_serves_already() -> None:
    decision = decide_refresh(HEALTHY)
    assert (decision.kind, decision.outcome, decision.serving) == ("refresh", "deploy", "adapted")
    assert all(check.passed for check in decision.checks)


@pytest.mark.parametrize(
    ("facts", "failed"),
    [
        (replace(HEALTHY, artifact_problems=("AAA: wrong shape",)), "artifacts_verify"),
        (replace(HEALTHY, present_symbols=SYMBOLS[1:]), "all_symbols"),
        (replace(HEALTHY, agreement=0.49), "agrees_with_current"),
        (replace(HEALTHY, validation_ic=0.069), "validation_as_usual"),  # 0.10 - 3 x 0.01 (the floor of the sd) = 0.07
        (replace(HEALTHY, validation_ic=0.0, validation_ic_history=()), "validation_as_usual"),
        (replace(HEALTHY, validation_ic=None), "validation_as_usual"),
    ],
)
def test_one_failed_check_keeps_the_current_set(facts: RefreshFacts, failed: str) -> None:
    decision = decide_refresh(facts)
    assert decision.outcome == "keep"
    assert [check.name for check in decision.checks if check.passed is False] == [failed]
    assert decision.sentence.startswith("Keep what runs today: ")


def test_what_cannot_be_judged_does_not_stop_a_refresh() -> None:
    decision = decide_refresh(replace(HEALTHY, agreement=None, agreement_sessions=0, validation_ic_history=()))
    assert decision.deploys
    assert next(check for check in decision.checks if check.name == "agrees_with_current").passed is None


def test_validation_is_judged_by_its_own_spread() -> None:
    wide = replace(HEALTHY, validation_ic=0.05, validation_ic_history=(0.06, 0.14, 0.08, 0.12))
    # mean 0.10, sample sd sqrt((16+16+4+4)/3)/100 = 0.0365: the floor is 0 and 0.05 is inside
    assert decide_refresh(wide).deploys


def test_the_ledger_is_listed_only_when_there_is_one() -> None:
    assert "ledger" not in {check.name for check in decide_refresh(HEALTHY).checks}
    assert decide_refresh(HEALTHY, ledger_veto=lambda: None).deploys
    vetoed = decide_refresh(HEALTHY, ledger_veto=lambda: "8 weeks of live losses")
    assert vetoed.outcome == "keep"
    assert "8 weeks of live losses" in vetoed.sentence


def test_a_leak_keeps_the_current_set_and_a_warning_does_not() -> None:
    warning = Check(name="leak_too_good", passed=None, words="the ranking is better than such data usually allow")
    leak = Check(name="leak_truncation", passed=False, words="forecasts change when the future is cut off")
    assert decide_refresh(HEALTHY, leaks=(warning,), told=("seen by nobody: 20 days",)).told == (
        "seen by nobody: 20 days",
    )
    assert decide_refresh(HEALTHY, leaks=(warning,)).deploys
    kept = decide_refresh(HEALTHY, leaks=(warning, leak))
    assert kept.outcome == "keep"
    assert "forecasts change when the future is cut off" in kept.sentence


def test_missing_symbols_are_named() -> None:
    decision = decide_refresh(replace(HEALTHY, present_symbols=SYMBOLS[2:]))
    assert "10 of 12 configured symbols" in decision.sentence
    assert "S00, S01" in decision.sentence


def test_agreement_is_the_mean_daily_spearman_of_the_newest_sessions() -> None:
    new, current = scores(1), scores(2)
    days = new.get_column("session").unique().sort().to_list()
    expected = [
        spearmanr(
            new.filter(pl.col("session") == day).get_column("score").to_numpy(),
            current.filter(pl.col("session") == day).get_column("score").to_numpy(),
        ).statistic
        for day in days[-3:]
    ]
    agreement, used = rank_agreement(new, current, 3)
    assert used == 3
    assert agreement == pytest.approx(float(np.mean(expected)), abs=1e-12)
    same, all_days = rank_agreement(new, new)
    assert same == pytest.approx(1.0)
    assert all_days == 5


def test_sets_without_common_sessions_have_no_agreement() -> None:
    assert rank_agreement(scores(1), scores(2, first=date(2027, 1, 4))) == (None, 0)


def test_limits_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="min_agreement_sessions"):
        RefreshLimits(min_agreement_sessions=61)
    with pytest.raises(ValueError, match="correlation"):
        RefreshLimits(min_agreement=2.0)
    with pytest.raises(ValueError, match="min_ic_history"):
        RefreshLimits(min_ic_history=1)
