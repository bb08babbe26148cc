"""Logistic regression on one variable (Platt 1999): how a score becomes the probability of a rise, in-fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PRIOR_ROWS = 1.0  # ridge on both coefficients: no effect on real samples, finite when all went one way
_NEWTON_STEPS = 30


def logistic(logit: Floats) -> Floats:
    """Return 1 / (1 + exp(-logit)), in the form that cannot overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logit)), dtype=np.float64)


def fit_logistic(score_N: Floats, up_N: Floats) -> tuple[float, float]:
    """Return (intercept, slope) of P(up | score) by Newton's method; (0, 0), one half, without rows.

    `score_N` must be finite; `up_N` holds 0 and 1.
    """
    design_N2 = np.column_stack((np.ones_like(score_N), score_N))
    weights_2 = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        prob_N = logistic(design_N2 @ weights_2)
        gradient_2 = design_N2.T @ (up_N - prob_N) - _PRIOR_ROWS * weights_2
        curvature_22 = design_N2.T @ (design_N2 * (prob_N * (1 - prob_N))[:, None]) + _PRIOR_ROWS * np.eye(2)
        step_2 = np.linalg.solve(curvature_22, gradient_2)
        weights_2 = weights_2 + step_2
        if np.abs(step_2).max() < 1e-10:
            break
    return float(weights_2[0]), float(weights_2[1])
