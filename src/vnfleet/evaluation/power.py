"""What could this much data have shown at all? The smallest true edge a series of sessions would have revealed."""

from __future__ import annotations

from numpy.typing import ArrayLike
from scipy.special import ndtri

from vnfleet.evaluation.skill import BLOCK_SESSIONS, CONFIDENCE, mean_interval

NUM_RESAMPLES = 4000


def smallest_detectable(
    values_T: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    significance: float = 0.05,
    power: float = 0.8,
    block_sessions: int = BLOCK_SESSIONS,
    seed: int = 0,
) -> float:
    """Return the smallest true mean that a one-sided test at `significance` finds with probability `power`.

    (z(1 - significance) + z(power)) x standard error, in the unit of `values_T` and above the value of no skill (0 for
    a rank IC, 0.5 or the base rate for an accuracy, where daily hit rates are weighted with the number of calls). The
    standard error is half the width of `skill.mean_interval` over 1.96: blocks of sessions, widened as there. It takes
    the noise from the data and not the mean, so it may be told before and after looking at the result; an edge below
    it that was not found is not disproved.

    Raises `ValueError` as `mean_interval` does: NaN, weights below 0, fewer sessions than two blocks.
    """
    if not 0 < significance < 0.5 < power < 1:
        raise ValueError(f"needs 0 < significance < 0.5 < power < 1, found {significance} and {power}")
    low, high = mean_interval(
        values_T, weights=weights, block_sessions=block_sessions, num_resamples=NUM_RESAMPLES, seed=seed
    )
    error = (high - low) / (2 * ndtri((1 + CONFIDENCE) / 2))
    return float(error * (ndtri(1 - significance) + ndtri(power)))
