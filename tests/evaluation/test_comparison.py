from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.evaluation.comparison import (
    diebold_mariano,
    long_run_variance,
    model_confidence_set,
    superior_predictive_ability,
)

NOISE = np.random.default_rng(12)


def overlapping(num_sessions: int, num_models: int, seed: int, *, horizon: int = 5) -> np.ndarray:
    """Return losses [T, K] that overlap like 5-session labels and share the market's luck."""
    rng = np.random.default_rng(seed)
    shape = (num_sessions + horizon - 1, num_models)
    steps = rng.standard_normal(shape) + rng.standard_normal((shape[0], 1))
    sums = np.cumsum(np.vstack((np.zeros(num_models), steps)), axis=0)
    return np.asarray(sums[horizon:] - sums[:-horizon])


@pytest.mark.parametrize("rectangular", [False, True])
def test_long_run_variance_by_brute_force(rectangular: bool) -> None:
    values = NOISE.standard_normal(30).cumsum()
    centred = values - values.mean()
    expected = 0.0
    for row in range(30):
        for column in range(30):
            lag = abs(row - column)
            weight = (1.0 if rectangular else 1 - lag / 5) if lag <= 4 else 0.0
            expected += weight * centred[row] * centred[column] / 30
    assert long_run_variance(values, lags=4, rectangular=rectangular) == pytest.approx(expected)


def test_one_session_ahead_is_students_paired_t_test() -> None:
    a, b = NOISE.standard_normal((2, 80))
    found = diebold_mariano(a, b, horizon_sessions=1)
    reference = scipy.stats.ttest_rel(a, b, alternative="less")
    assert found.statistic == pytest.approx(reference.statistic)
    assert found.p_one_sided == pytest.approx(reference.pvalue)
    assert found.mean_difference == pytest.approx((a - b).mean())
    assert found.num_sessions == 80


def test_five_sessions_ahead_is_the_hac_regression_on_a_constant_with_the_correction_of_1997() -> None:
    losses = overlapping(200, 2, 3)
    difference = losses[:, 0] - losses[:, 1]
    regression = sm.OLS(difference, np.ones(200)).fit(
        cov_type="HAC", cov_kwds={"maxlags": 4, "kernel": "uniform", "use_correction": False}
    )
    correction = np.sqrt((200 + 1 - 10 + 5 * 4 / 200) / 200)
    found = diebold_mariano(losses[:, 0], losses[:, 1], horizon_sessions=5)
    assert found.statistic == pytest.approx(correction * regression.tvalues[0])
    assert found.p_one_sided == pytest.approx(scipy.stats.t.cdf(found.statistic, 199))


def test_where_rectangular_weights_fail_bartletts_are_taken() -> None:
    zigzag = np.array([1.0, -1.0] * 20) + 0.05 * NOISE.standard_normal(40)
    assert long_run_variance(zigzag, lags=1, rectangular=True) < 0
    regression = sm.OLS(zigzag, np.ones(40)).fit(cov_type="HAC", cov_kwds={"maxlags": 1, "use_correction": False})
    found = diebold_mariano(zigzag, np.zeros(40), horizon_sessions=2)
    assert found.statistic == pytest.approx(np.sqrt((40 + 1 - 4 + 2 / 40) / 40) * regression.tvalues[0])


def test_one_in_twenty_pairs_of_equal_models_seem_different() -> None:
    pairs = [overlapping(250, 2, seed) for seed in range(1000)]
    found = [diebold_mariano(pair[:, 0], pair[:, 1], horizon_sessions=5).p_one_sided < 0.05 for pair in pairs]
    assert np.mean(found) == pytest.approx(0.05, abs=0.021)  # 3 Monte-Carlo standard errors


@given(seed=st.integers(0, 100), shift=st.floats(-5, 5), scale=st.floats(0.01, 100))
def test_sides_mirror_each_other_and_units_do_not_matter(seed: int, shift: float, scale: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 40))
    found, mirrored = diebold_mariano(a, b, horizon_sessions=3), diebold_mariano(b, a, horizon_sessions=3)
    assert found.p_one_sided + mirrored.p_one_sided == pytest.approx(1)
    moved = diebold_mariano(shift + scale * a, shift + scale * b, horizon_sessions=3)
    assert moved.statistic == pytest.approx(found.statistic, rel=1e-6, abs=1e-9)


def test_equal_losses_are_no_evidence() -> None:
    losses = NOISE.standard_normal(60)
    found = diebold_mariano(losses, losses + 1e-17, horizon_sessions=5)
    assert (found.statistic, found.p_one_sided) == (0.0, 1.0)
    found = diebold_mariano(losses - 0.5, losses, horizon_sessions=5)
    assert found.mean_difference == pytest.approx(-0.5)
    assert found.p_one_sided == 1.0


def test_a_search_among_models_without_skill_finds_something_once_in_twenty() -> None:
    spa, reality_check = [], []
    for seed in range(100):
        losses = overlapping(120, 7, seed)
        losses[:, 4:6] += 0.5  # bad ones in the search
        found = superior_predictive_ability(losses[:, :6], losses[:, 6], num_resamples=150, seed=seed)
        spa.append(found.p_spa < 0.05)
        reality_check.append(found.p_reality_check < 0.05)
    # 3 Monte-Carlo standard errors of 100 searches are 6.5 percentage points
    assert np.mean(spa) <= 0.115
    assert np.mean(reality_check) <= 0.115
    assert np.mean(spa) > 0


def test_a_model_with_skill_is_found_among_many_without_it() -> None:
    losses = overlapping(500, 12, 4)
    losses[:, 3] -= 1.5
    found = superior_predictive_ability(losses[:, :11], losses[:, 11])
    assert found.p_spa < 0.01
    assert found.p_reality_check < 0.02
    # without that one the best of the rest proves nothing
    assert superior_predictive_ability(np.delete(losses, 3, axis=1)[:, :10], losses[:, 11]).p_spa > 0.05


def test_a_noisy_failure_blinds_whites_check_and_not_hansens() -> None:
    losses = 0.2 * NOISE.standard_normal((300, 3))
    losses[:, 0] -= 0.06
    losses[:, 1] = 30 * losses[:, 1] + 3
    found = superior_predictive_ability(losses[:, :2], losses[:, 2])
    assert found.p_spa < 0.01
    assert found.p_reality_check > 0.2


def test_whites_check_by_brute_force() -> None:
    losses, benchmark = NOISE.standard_normal((200, 4)), NOISE.standard_normal(200) + 0.15
    found = superior_predictive_ability(losses, benchmark, block_sessions=1, num_resamples=4000)
    leads = benchmark[:, None] - losses
    picks = np.random.default_rng(99).integers(0, 200, (4000, 200))
    simulated = (leads[picks].mean(axis=1) - leads.mean(axis=0)).max(axis=1)
    assert found.p_reality_check == pytest.approx(np.mean(simulated > leads.mean(axis=0).max()), abs=0.03)
    spread = leads.std(axis=0)
    simulated = ((leads[picks].mean(axis=1) - leads.mean(axis=0)) / spread).max(axis=1)
    assert found.p_spa == pytest.approx(np.mean(simulated > (leads.mean(axis=0) / spread).max()), abs=0.03)


def test_a_search_of_copies_of_the_benchmark_proves_nothing() -> None:
    benchmark = NOISE.standard_normal(60)
    found = superior_predictive_ability(np.column_stack((benchmark, benchmark)), benchmark)
    assert (found.p_spa, found.p_reality_check) == (1.0, 1.0)
    better = np.column_stack((benchmark, benchmark - 0.5 + 0.01 * NOISE.standard_normal(60)))
    assert superior_predictive_ability(better, benchmark).p_spa < 0.01


def test_the_best_model_stays_in_the_set_and_bad_ones_leave() -> None:
    losses = overlapping(500, 5, 6)
    losses[:, 2] -= 0.1
    losses[:, [0, 4]] += 3.0
    kept = model_confidence_set(losses, ["bad", "equal", "best", "alike", "worse"])
    assert "best" in kept
    assert set(kept) <= {"equal", "best", "alike"}


def test_equal_models_are_rarely_told_apart() -> None:
    sets = [
        model_confidence_set(overlapping(150, 3, seed), "abc", size=0.1, num_resamples=150, seed=seed)
        for seed in range(80)
    ]
    assert np.mean([len(kept) < 3 for kept in sets]) <= 0.2  # 3 Monte-Carlo standard errors above 10 %
    assert np.mean(["a" in kept for kept in sets]) >= 0.9


def test_copies_stay_or_leave_together() -> None:
    losses = overlapping(300, 2, 8)
    twins = np.column_stack((losses[:, 0], losses[:, 1] + 3, losses[:, 0], losses[:, 1] + 3))
    assert model_confidence_set(twins, ["a", "b", "copy of a", "copy of b"]) == ("a", "copy of a")
    assert model_confidence_set(twins[:, [0, 2]], ["a", "copy of a"]) == ("a", "copy of a")
    assert model_confidence_set(losses[:, :1], ["alone"]) == ("alone",)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 30))
def test_same_seed_same_answer_whatever_the_unit(seed: int) -> None:
    losses = overlapping(60, 4, seed)
    names = ["a", "b", "c", "d"]
    assert model_confidence_set(losses, names, num_resamples=99) == model_confidence_set(
        1000 * losses + 7, names, num_resamples=99
    )
    first = superior_predictive_ability(losses[:, :3], losses[:, 3], num_resamples=99, seed=seed)
    assert superior_predictive_ability(losses[:, :3], losses[:, 3], num_resamples=99, seed=seed) == first
    assert 0 < first.p_spa <= 1


def test_losses_that_cannot_be_judged_are_refused() -> None:
    good = NOISE.standard_normal((60, 2))
    with pytest.raises(ValueError, match="same sessions"):
        diebold_mariano(good[:, 0], good[:50, 1], horizon_sessions=1)
    with pytest.raises(ValueError, match="finite"):
        diebold_mariano([np.nan] * 60, good[:, 1], horizon_sessions=1)
    with pytest.raises(ValueError, match="horizon"):
        diebold_mariano(good[:, 0], good[:, 1], horizon_sessions=0)
    with pytest.raises(ValueError, match="two blocks"):
        superior_predictive_ability(good[:29], good[:29, 0])
    with pytest.raises(ValueError, match="benchmark must cover"):
        superior_predictive_ability(good, good[:50, 0])
    with pytest.raises(ValueError, match="table"):
        superior_predictive_ability(good[:, 0], good[:, 0])
    with pytest.raises(ValueError, match="different names"):
        model_confidence_set(good, ["a", "a"])
    with pytest.raises(ValueError, match="size"):
        model_confidence_set(good, ["a", "b"], size=0.0)
