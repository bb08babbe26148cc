"""Is it skill or luck? Circular block bootstrap of daily series, seeded and vectorised.

Sessions are resampled in blocks of neighbours, all symbols of a session together, because 5-session labels overlap and
symbols move together (Politis & Romano 1992, circular blocks). A plain block bootstrap is too sure of itself: it
estimates the variance from few blocks and tapers the autocorrelation. Its variance is the Bartlett estimate, so
deviations are widened by the fixed-b correction of Kiefer & Vogelsang (2005, *Econometric Theory* 21, Bartlett kernel,
97.5 %) and by a flat-top correction of the taper. At 250 sessions the one-sided 5 % test then rejects 5.2 % of white
noise, 5.5 % of AR(1) noise at 0.5 and 5.9 % of sums over 5 overlapping sessions, instead of 6.7, 7.3 and 7.8 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_SESSIONS = 15
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
_STEP = 1e-4


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


def statistic_intervals(
    sums_TK: ArrayLike,
    statistics: Statistic,
    *,
    block_sessions: int = BLOCK_SESSIONS,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Return (low, high), each [M], of figures that follow from the totals of K daily sums, from one set of resamples.

    `sums_TK` holds one row of finite sums per session, in order (a session without rows: zeros). `statistics` maps
    totals [R, K] to figures [R, M] row by row; it must not change when all totals are multiplied by one number (means,
    ratios, roots of ratios, correlations), and says NaN where totals do not define a figure. A resample that leaves a
    figure undefined says nothing about it (deviation 0); a figure undefined on all sessions has NaN bounds.

    The sessions drawn, and the widening, are those of `mean_interval`: a ratio of two sums gets the same interval. The
    taper is measured on the influence of each session, the derivative of the figure in the weight of that session. Of
    500 series of 250 sessions with AR(1) noise at 0.5, the 95 % interval held the true ICIR in 94 % and MCC in 95 %.

    Raises
    ------
    ValueError
        On NaN or infinity in the sums, or fewer sessions than two blocks.
    """
    sums = np.asarray(sums_TK, dtype=np.float64)
    if sums.ndim != 2 or not np.isfinite(sums).all():
        raise ValueError("daily sums must be finite numbers [sessions, sums]: 0 for a session without rows")
    size = sums.shape[0]
    _check_length(size, block_sessions)
    total_1K = sums.sum(axis=0, keepdims=True)
    observed_M = statistics(total_1K)[0]
    resampled_RK = _resampled_totals(sums, block_sessions, num_resamples, seed)
    deviations_RM = np.nan_to_num(statistics(resampled_RK) - observed_M, nan=0.0)
    influence_TM = (statistics(total_1K + _STEP * sums) - statistics(total_1K - _STEP * sums)) / (2 * _STEP)
    taper_M = [_taper_factor(column, block_sessions) for column in np.nan_to_num(influence_TM, nan=0.0).T]
    wide_RM = deviations_RM * (fixed_b_factor(block_sessions / size) * np.array(taper_M))
    low_M, high_M = np.quantile(wide_RM, _tails(confidence), axis=0)
    return observed_M + low_M, observed_M + high_M


def _resampled_totals(sums_TK: Floats, block: int, num_resamples: int, seed: int) -> Floats:
    """Return the totals [R, K] over each resample's circular blocks, all sums with the same sessions drawn."""
    size = sums_TK.shape[0]
    starts_RB, last = _drawn_starts(size, block, num_resamples, seed)
    cells_RB = np.arange(num_resamples)[:, None] * size + starts_RB[:, :-1]
    times_RT = np.bincount(cells_RB.ravel(), minlength=num_resamples * size).reshape(num_resamples, size)
    tails_RK = _block_sums(sums_TK, last)[starts_RB[:, -1]]
    return np.asarray(times_RT.astype(np.float64) @ _block_sums(sums_TK, block) + tails_RK, dtype=np.float64)


def _block_sums(sums_TK: Floats, block: int) -> Floats:
    """Return the sums over the circular block that starts at each session; shape [T, K]."""
    wrapped = np.concatenate((sums_TK, sums_TK[:block]))
    running = np.concatenate((np.zeros_like(sums_TK[:1]), np.cumsum(wrapped, axis=0)))
    return np.asarray(running[block : block + len(sums_TK)] - running[: len(sums_TK)], dtype=np.float64)


def _drawn_starts(size: int, block: int, num_resamples: int, seed: int) -> tuple[NDArray[np.int64], int]:
    """Return the first session of every block drawn, shape [num_resamples, blocks], and the length of the last one."""
    num_blocks = -(-size // block)
    return np.random.default_rng(seed).integers(0, size, (num_resamples, num_blocks)), size - (num_blocks - 1) * block


def _series(values: ArrayLike, block_sessions: int) -> Floats:
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not np.isfinite(series).all():
        raise ValueError("a daily series must be one finite number per session: drop null sessions first")
    _check_length(series.size, block_sessions)
    return series


def _check_length(size: int, block_sessions: int) -> None:
    if block_sessions < 1 or size < 2 * block_sessions:
        raise ValueError(f"{size} sessions are fewer than two blocks of {block_sessions}")


def _mean(series: Floats, counts: Floats) -> float:
    return float((series * counts).sum() / counts.sum())


def _deviations(series: Floats, counts: Floats, block: int, num_resamples: int, seed: int) -> Floats:
    """Return resampled mean - mean, widened by the fixed-b factor; shape [num_resamples]."""
    size = series.size
    starts_RB, last = _drawn_starts(size, block, num_resamples, seed)
    centred = (series - _mean(series, counts)) * counts
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
    return float((_block_sums(centred, block) ** 2).mean() / block)


def _interval(observed: float, deviations: Floats, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(deviations, _tails(confidence))
    return observed + float(low), observed + float(high)


def _tails(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, found {confidence}")
    tail = (1 - confidence) / 2
    return tail, 1 - tail
