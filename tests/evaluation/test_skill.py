from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.evaluation.skill import (
    Statistic,
    fixed_b_factor,
    mean_interval,
    paired_difference,
    statistic_intervals,
)

NOISE = np.random.default_rng(11)


def ar1(coefficient: float, sessions: int, runs: int, seed: int) -> np.ndarray:
    shocks = np.random.default_rng(seed).standard_normal((runs, sessions + 100))
    return np.asarray(scipy.signal.lfilter([1.0], [1.0, -coefficient], shocks, axis=1)[:, 100:])


def test_size_is_five_percent_on_autocorrelated_noise() -> None:
    runs = ar1(0.5, 250, 1000, seed=5)
    zeros = np.zeros(250)
    results = [paired_difference(run, zeros, num_resamples=400, seed=seed) for seed, run in enumerate(runs)]
    rejected = np.mean([result.p_one_sided <= 0.05 for result in results])
    covered = np.mean([result.low <= 0 <= result.high for result in results])
    # 3 Monte-Carlo standard errors of 1000 runs: 2.1 percentage points
    assert rejected == pytest.approx(0.05, abs=0.021)
    assert covered == pytest.approx(0.95, abs=0.021)


def test_a_true_difference_is_found() -> None:
    skilled = 0.05 + 0.2 * NOISE.standard_normal(500)
    result = paired_difference(skilled, 0.2 * NOISE.standard_normal(500))
    assert result.p_one_sided < 0.01
    assert 0 < result.low < result.mean_difference < result.high
    assert result.mean_difference == pytest.approx(0.05, abs=0.04)


def test_blocks_of_one_agree_with_scipys_bootstrap_and_the_t_interval() -> None:
    values = NOISE.standard_normal(400)
    low, high = mean_interval(values, block_sessions=1, num_resamples=20000)
    reference = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1)
    student = scipy.stats.t.interval(0.95, 399, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval), abs=0.006)
    assert (low, high) == pytest.approx(student, abs=0.006)


def test_spread_is_the_circular_bartlett_variance() -> None:
    # Politis & Romano 1992: Var* = sum over |k| < b of (1 - |k| / b) gamma_k / n, circular autocovariances gamma
    values = ar1(0.4, 300, 1, seed=8)[0]
    block = 15
    centred = values - values.mean()
    lags = [float((centred * np.roll(centred, lag)).mean()) for lag in range(block)]

    def variance(width: int) -> float:
        return lags[0] + 2 * sum((1 - lag / width) * lags[lag] for lag in range(1, width))

    flat_top = max(1.0, (2 * variance(15) - variance(8)) / variance(15))
    expected = np.sqrt(variance(block) * flat_top / 300) * fixed_b_factor(block / 300)
    low, high = mean_interval(values, num_resamples=20000)
    assert (high - low) / (2 * 1.96) == pytest.approx(expected, rel=0.03)


def test_fixed_b_factor_is_the_simulated_quantile_of_the_bartlett_t_statistic() -> None:
    sessions, width = 300, 30
    noise = np.random.default_rng(2).standard_normal((20000, sessions))
    centred = noise - noise.mean(axis=1, keepdims=True)
    variance = (centred**2).mean(axis=1)
    for lag in range(1, width):
        variance += 2 * (1 - lag / width) * (centred[:, lag:] * centred[:, :-lag]).sum(axis=1) / sessions
    ratio = noise.mean(axis=1) / np.sqrt(variance / sessions)
    assert np.quantile(np.abs(ratio), 0.95) == pytest.approx(1.96 * fixed_b_factor(width / sessions), rel=0.03)
    assert fixed_b_factor(0.0) == 1.0


def test_equal_series_are_no_evidence() -> None:
    values = NOISE.standard_normal(100)
    assert paired_difference(values, values).p_one_sided == 1.0
    assert paired_difference(values, values + 1e-17).p_one_sided == 1.0


@given(shift=st.floats(-3, 3), scale=st.floats(0.01, 100), seed=st.integers(0, 50))
def test_interval_moves_with_shift_and_scale(shift: float, scale: float, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(60)
    low, high = mean_interval(values, num_resamples=200, seed=seed)
    moved = mean_interval(shift + scale * values, num_resamples=200, seed=seed)
    assert moved == pytest.approx((shift + scale * low, shift + scale * high), rel=1e-9, abs=1e-9)


def test_p_values_of_both_sides_add_up_to_one() -> None:
    a, b = NOISE.standard_normal((2, 200))
    sides = paired_difference(a, b).p_one_sided, paired_difference(b, a).p_one_sided
    assert sum(sides) == pytest.approx(1.0, abs=0.05)


def test_weighted_mean_is_the_pooled_ratio() -> None:
    rate, counts = NOISE.uniform(0.4, 0.6, 120), NOISE.integers(1, 9, 120).astype(float)
    low, high = mean_interval(rate, weights=counts)
    assert low < (rate * counts).sum() / counts.sum() < high
    assert mean_interval(rate, weights=np.full(120, 7.0)) == pytest.approx(mean_interval(rate))
    ignored = np.where(np.arange(120) % 2 == 0, rate, 99.0)
    weights = np.where(np.arange(120) % 2 == 0, 1.0, 0.0)
    assert max(mean_interval(ignored, weights=weights)) < 1


def test_same_seed_same_result_other_seed_nearly() -> None:
    values = NOISE.standard_normal(250)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert mean_interval(values, seed=5) == pytest.approx(mean_interval(values, seed=4), abs=0.03)
    assert mean_interval(values, seed=5) != mean_interval(values, seed=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [([1.0] * 29, "two blocks"), ([float("nan")] * 60, "finite"), ([[1.0] * 60], "one finite number")],
)
def test_series_that_cannot_be_judged_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(values)


def test_series_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same sessions"):
        paired_difference(np.zeros(60), np.zeros(61))


def ratio(totals: np.ndarray) -> np.ndarray:
    return np.asarray(totals[:, 0] / totals[:, 1])


def icir(totals: np.ndarray) -> np.ndarray:
    """Mean over standard deviation from the columns: count, sum, sum of squares."""
    mean = totals[:, 1] / totals[:, 0]
    return np.asarray(mean / np.sqrt(totals[:, 2] / totals[:, 0] - mean**2))


def mcc(totals: np.ndarray) -> np.ndarray:
    """Matthews' formula from the columns: true ups, true downs, false ups, false downs."""
    tp, tn, fp, fn = totals.T
    return np.asarray((tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def interval_of(sums: np.ndarray, statistic: Statistic, **how: int) -> tuple[float, float]:
    """The interval of one figure."""
    low, high = statistic_intervals(sums, lambda totals: statistic(totals)[:, None], **how)
    return float(low[0]), float(high[0])


def powers(values: np.ndarray) -> np.ndarray:
    return np.column_stack((np.ones_like(values), values, values**2))


def calls_and_outcomes(noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Daily counts of 40 symbols whose moves share the day's market move; calls right more often than not."""
    up = rng.standard_normal((noise.size, 40)) + noise[:, None] > 0
    call = np.where(rng.random(up.shape) < 0.6, up, ~up)
    return np.column_stack([(call & up).sum(1), (~call & ~up).sum(1), (call & ~up).sum(1), (~call & up).sum(1)])


def test_interval_of_a_ratio_of_sums_is_the_interval_of_the_weighted_mean() -> None:
    rate, counts = NOISE.uniform(0.4, 0.6, 200), NOISE.integers(0, 9, 200).astype(float)
    expected = mean_interval(rate, weights=counts, seed=3)
    assert interval_of(np.column_stack((rate * counts, counts)), ratio, seed=3) == pytest.approx(expected)


def test_intervals_of_icir_and_mcc_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(17)
    runs = ar1(0.5, 250, 500, seed=21)
    sd = 1 / np.sqrt(1 - 0.25)  # of the AR(1)
    true_mcc = 0.6 - 0.4  # half the moves are up, and 60 % of the calls right whichever they are
    covered = {"icir": 0, "mcc": 0}
    for seed, run in enumerate(runs):
        low, high = interval_of(powers(0.25 * sd + run), icir, num_resamples=400, seed=seed)
        covered["icir"] += low <= 0.25 <= high
        low, high = interval_of(calls_and_outcomes(0.7 * run, rng), mcc, num_resamples=400, seed=seed)
        covered["mcc"] += low <= true_mcc <= high
    # 3 Monte-Carlo standard errors of 500 runs: 2.9 percentage points
    assert {name: count / 500 for name, count in covered.items()} == pytest.approx(
        {"icir": 0.95, "mcc": 0.95}, abs=0.029
    )


def test_blocks_of_one_agree_with_scipys_bootstrap_of_a_standardised_mean() -> None:
    values = 0.3 + NOISE.standard_normal(400)
    found = interval_of(powers(values), icir, block_sessions=1, num_resamples=20000)
    reference = scipy.stats.bootstrap(
        (values,),
        lambda x, axis: x.mean(axis=axis) / x.std(axis=axis),
        method="percentile",
        n_resamples=20000,
        rng=1,
    )
    assert found == pytest.approx(tuple(reference.confidence_interval), abs=0.006)


@given(scale=st.floats(0.01, 1000), seed=st.integers(0, 20))
def test_interval_of_a_statistic_does_not_depend_on_the_unit_of_the_sums(scale: float, seed: int) -> None:
    sums = powers(np.random.default_rng(seed).standard_normal(60))
    expected = interval_of(sums, icir, num_resamples=100, seed=seed)
    assert interval_of(scale * sums, icir, num_resamples=100, seed=seed) == pytest.approx(expected, abs=1e-6)


def test_a_statistic_the_data_do_not_define_has_no_interval() -> None:
    def where_called(totals: np.ndarray) -> np.ndarray:
        hits, calls = totals[:, :2].T
        return np.column_stack(
            (np.divide(hits, calls, out=np.full_like(hits, np.nan), where=calls > 0), np.full_like(hits, np.nan))
        )

    rare = np.zeros((300, 2))
    rare[40:44] = [[1, 1], [0, 1], [1, 1], [1, 2]]  # many resamples hold no call at all
    low, high = statistic_intervals(rare, where_called)
    assert 0 < low[0] <= 3 / 5 <= high[0] < 1.5
    assert np.isnan(low[1])
    assert np.isnan(high[1])


@pytest.mark.parametrize(
    ("sums", "message"),
    [(np.ones((29, 2)), "two blocks"), (np.full((60, 2), np.nan), "finite"), (np.ones(60), r"\[sessions, sums\]")],
)
def test_sums_that_cannot_be_judged_are_refused(sums: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval_of(sums, ratio)
