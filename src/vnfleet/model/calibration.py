"""From a score to the probability of a rise: logistic regression on one variable (Platt 1999), fitted in-fold."""

from __future__ import annotations

import numpy as np

from vnfleet.model.ensemble import Calibration

_RIDGE = 1e-3
_MAX_STEPS = 50


def fit_calibration(score: np.ndarray, is_up: np.ndarray) -> Calibration:
    """Return the logistic calibration of `is_up` (bool) on `score` (same shape, finite) by Newton's method.

    A little ridge keeps it finite when the classes are separable; with no rows the probability is one half.
    """
    if not score.size:
        return Calibration(0.0, 0.0)
    design = np.column_stack([np.ones(score.size), score.ravel().astype(np.float64)])
    target = is_up.ravel().astype(np.float64)
    beta = np.zeros(2)
    for _ in range(_MAX_STEPS):
        probability = 1.0 / (1.0 + np.exp(-design @ beta))
        gradient = design.T @ (target - probability) - _RIDGE * beta
        curvature = (design * (probability * (1.0 - probability))[:, None]).T @ design + _RIDGE * np.eye(2)
        change = np.linalg.solve(curvature, gradient)
        beta = beta + change
        if float(np.abs(change).max()) < 1e-10:
            break
    return Calibration(float(beta[0]), float(beta[1]))
