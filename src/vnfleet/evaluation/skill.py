"""Is it skill or luck? Circular block bootstrap of daily series, seeded and vectorised.

Sessions are resampled in blocks of neighbours, all symbols of a session together, because 5-session labels overlap and
symbols move together (Politis & Romano 1992, circular blocks). A plain block bootstrap is too sure of itself: it
estimates the variance from few blocks and tapers the autocorrelation. Its variance is the Bartlett estimate, so
deviations are widened by the fixed-b correction of Kiefer & Vogelsang (2005, *Econometric Theory* 21, Bartlett kernel,
97.5 %) and by a flat-top correction of the taper. At 250 sessions the one-sided 5 % test then rejects 5.2 % of white
noise, 5.5 % of AR(1) noise at 0.5 and 5.9 % of sums over 5 overlapping sessions, instead of 6.7, 7.3 and 7.8 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_SESSIONS = 15
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


class PairedDifference(NamedTuple):
    """Mean of a - b over sessions, its interval, and p = P(a difference this large | no difference)."""

    mean_difference: float
    low: float
    high: float
    p_one_sided: float


def mean_interval(
    values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    block_sessions: int = BLOCK_SESSIONS,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Return (low, high) of the mean of `values`, one per session in order.

    With `weights` the mean is sum(weights * values) / sum(weights), so a daily hit rate weighted by the day's number of
    calls is the pooled accuracy; values of sessions with weight 0 are ignored.

    Raises
    ------
    ValueError
        On NaN, negative weights, or fewer sessions than two blocks.
    """
    series = _series(values, block_sessions)
    counts = np.ones_like(series) if weights is None else _series(weights, block_sessions)
    if counts.shape != series.shape or (counts < 0).any() or counts.sum() <= 0:
        raise ValueError("weights must be one non-negative number per session, not all 0")
    deviations = _deviations(series, counts, block_sessions, num_resamples, seed)
    return _interval(_mean(series, counts), deviations, confidence)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    block_sessions: int = BLOCK_SESSIONS,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Compare two series of the same sessions in the same order, such as the daily rank IC of two models.

    The null distribution is the bootstrap of a - b moved to mean 0; `p_one_sided` is the share of it, the observed
    value included, that is at least the observed mean of a - b: small means a is better.

    Raises
    ------
    ValueError
        On series of different length, NaN, or fewer sessions than two blocks.
    """
    left, right = _series(a, block_sessions), _series(b, block_sessions)
    if left.shape != right.shape:
        raise ValueError(f"paired series must cover the same sessions, found {left.size} and {right.size}")
    difference = left - right
    ones = np.ones_like(difference)
    deviations = _deviations(difference, ones, block_sessions, num_resamples, seed)
    observed = _mean(difference, ones)
    # deviations of equal series are rounding dust: without the tolerance p would be a coin flip instead of 1
    dust = 1e-12 * float(np.abs(left).max() + np.abs(right).max())
    at_least = int((deviations >= observed - dust).sum())
    low, high = _interval(observed, deviations, confidence)
    return PairedDifference(observed, low, high, (1 + at_least) / (1 + num_resamples))


def paired_pvalue(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> float:
    """Return the one-sided p-value that a is better than b; see `paired_difference`."""
    return paired_difference(a, b, seed=seed).p_one_sided


def _series(values: ArrayLike, block_sessions: int) -> Floats:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not np.isfinite(series).all():
        raise ValueError("a daily series must be one finite number per session: drop null sessions first")
    if block_sessions < 1 or series.size < 2 * block_sessions:
        raise ValueError(f"{series.size} sessions are fewer than two blocks of {block_sessions}")
    return series


def _mean(series: Floats, counts: Floats) -> float:
    return float((series * counts).sum() / counts.sum())


def _deviations(series: Floats, counts: Floats, block: int, num_resamples: int, seed: int) -> Floats:
    """Return resampled mean - mean, widened by the fixed-b factor; shape [num_resamples]."""
    size = series.size
    num_blocks = -(-size // block)
    starts_RB = np.random.default_rng(seed).integers(0, size, (num_resamples, num_blocks))
    centred = (series - _mean(series, counts)) * counts
    last = size - (num_blocks - 1) * block
    sums_R = _resampled_sums(centred, starts_RB, block, last)
    counts_R = _resampled_sums(counts, starts_RB, block, last)
    # blocks may hold no call at all when calls are rare: such a resample says nothing, deviation 0
    ratio_R = np.divide(sums_R, counts_R, out=np.zeros_like(sums_R), where=counts_R > 0)
    return ratio_R * (fixed_b_factor(block / size) * _taper_factor(centred, block))


def _resampled_sums(series: Floats, starts_RB: NDArray[np.int64], block: int, last: int) -> Floats:
    """Return the sum over each row's circular blocks; the final block of a row is cut to `last` sessions."""
    running = np.concatenate(([0.0], np.cumsum(np.concatenate((series, series[:block])))))
    whole_RB = running[starts_RB[:, :-1] + block] - running[starts_RB[:, :-1]]
    tail_R = running[starts_RB[:, -1] + last] - running[starts_RB[:, -1]]
    return np.asarray(whole_RB.sum(axis=1) + tail_R, dtype=np.float64)


def fixed_b_factor(share: float) -> float:
    """Return how much wider than normal the 97.5 % point is when blocks are `share` of the sample (1 at 0)."""
    return (1.9600 + 2.9694 * share + 0.4160 * share**2 - 0.5324 * share**3) / 1.9600


def _taper_factor(centred: Floats, block: int) -> float:
    """Return how much wider the deviations are without the taper: flat-top over Bartlett standard error, at least 1.

    2 V(block) - V(block / 2) has the flat-top kernel: it weighs lags up to half a block fully, which covers the label
    overlap (Politis & Romano 1995). It is noisier than V(block), so it may widen the interval but never narrow it.
    """
    half = max(1, round(block / 2))
    bartlett, inner = _block_variance(centred, block), _block_variance(centred, half)
    return 1.0 if bartlett <= 0 else float(np.sqrt(max(1.0, 2 - inner / bartlett)))


def _block_variance(centred: Floats, block: int) -> float:
    """Return the mean squared sum of circular blocks over their length: the bootstrap's variance per session."""
    running = np.concatenate(([0.0], np.cumsum(np.concatenate((centred, centred[:block])))))
    sums = running[block : block + centred.size] - running[: centred.size]
    return float((sums**2).mean() / block)


def _interval(observed: float, deviations: Floats, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, found {confidence}")
    tail = (1 - confidence) / 2
    low, high = np.quantile(deviations, [tail, 1 - tail])
    return observed + float(low), observed + float(high)
