from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from vnfleet.evaluation.power import smallest_detectable
from vnfleet.evaluation.skill import paired_difference

NOISE = np.random.default_rng(2)


def test_white_noise_by_hand() -> None:
    # 2.49 standard errors: 1.645 to be significant, 0.842 more to be so four times in five
    values = NOISE.standard_normal(600)
    by_hand = (scipy.stats.norm.ppf(0.95) + scipy.stats.norm.ppf(0.8)) * scipy.stats.sem(values)
    assert smallest_detectable(values, block_sessions=1) == pytest.approx(by_hand, rel=0.05)
    strict = smallest_detectable(values, block_sessions=1, significance=0.01, power=0.9)
    expected = (scipy.stats.norm.ppf(0.99) + scipy.stats.norm.ppf(0.9)) * scipy.stats.sem(values)
    assert strict == pytest.approx(expected, rel=0.05)


def test_an_edge_of_that_size_is_found_four_times_in_five() -> None:
    found = []
    for seed in range(150):
        steps = np.random.default_rng(seed).standard_normal(504)
        noise = np.convolve(steps, np.ones(5), "valid")  # overlapping labels
        edge = smallest_detectable(noise, seed=seed)
        shown = paired_difference(noise + edge, np.zeros(500), num_resamples=400, seed=seed)
        found.append(shown.p_one_sided < 0.05)
    # the noise is estimated anew each time and the widening is a little cautious: near 80 %, not exactly
    assert 0.70 < np.mean(found) < 0.93


def test_overlap_and_fewer_sessions_hide_more() -> None:
    steps = NOISE.standard_normal(1004)
    overlapping = np.convolve(steps, np.ones(5) / np.sqrt(5), "valid")
    assert smallest_detectable(overlapping) > 1.5 * smallest_detectable(steps)
    assert smallest_detectable(steps[:250]) > 1.5 * smallest_detectable(steps)


def test_only_the_noise_counts_and_weights_pool() -> None:
    rate, calls = NOISE.uniform(0.4, 0.6, 300), NOISE.integers(1, 90, 300)
    edge = smallest_detectable(rate, weights=calls)
    assert smallest_detectable(rate + 0.2, weights=calls) == pytest.approx(edge)
    assert smallest_detectable(rate, weights=10 * calls) == pytest.approx(edge)
    assert smallest_detectable(rate, weights=calls) != pytest.approx(smallest_detectable(rate), rel=1e-3)
    ignored = np.where(calls < 45, 9.0, rate)
    assert smallest_detectable(ignored, weights=np.where(calls < 45, 0, calls)) < 1


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="two blocks"):
        smallest_detectable(np.zeros(29))
    with pytest.raises(ValueError, match="significance"):
        smallest_detectable(NOISE.standard_normal(100), significance=0.6)
    with pytest.raises(ValueError, match="power"):
        smallest_detectable(NOISE.standard_normal(100), power=1.0)
