"""The calibration of a score against an independent optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special

from vnfleet.model.logistic import fit_logistic, logistic


def test_the_fit_is_the_maximum_of_the_likelihood() -> None:
    generator = np.random.default_rng(0)
    score = generator.standard_normal(20_000)
    up = (generator.random(20_000) < special.expit(-0.2 + 0.5 * score)).astype(float)

    def loss(beta: np.ndarray) -> float:
        logit = beta[0] + beta[1] * score
        return float((np.logaddexp(0.0, logit) - up * logit).sum())

    expected = optimize.minimize(loss, np.zeros(2), method="BFGS").x
    np.testing.assert_allclose(fit_logistic(score, up), expected, atol=1e-3)
    np.testing.assert_allclose(logistic(score), special.expit(score), rtol=1e-12)


def test_it_stays_finite_when_all_went_one_way_or_nothing_is_known() -> None:
    intercept, slope = fit_logistic(np.asarray([-1.0, 1.0, 2.0]), np.ones(3))
    assert np.isfinite([intercept, slope]).all()
    assert intercept > 0
    assert fit_logistic(np.empty(0), np.empty(0)) == (0.0, 0.0)
    assert float(logistic(np.asarray(-1e4))) == pytest.approx(0.0)
