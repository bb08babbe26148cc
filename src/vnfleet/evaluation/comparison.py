"""Whose losses are smaller, and does the lead survive the search? Two models, one against many, the set of the best.

Losses are daily means, one per session in order, smaller is better (1 - rank IC, say), without NaN; models are compared
on the same sessions. Series that cannot be judged raise `ValueError`: NaN, different lengths, too few sessions.

`superior_predictive_ability` and `model_confidence_set` are the tests of `arch.bootstrap` with circular blocks. A block
bootstrap is too sure of itself: observed leads are first made smaller by the two corrections of `skill`, the fixed-b
factor and that of the taper, pooled over the models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from vnfleet.evaluation.skill import BLOCK_SESSIONS, Floats, fixed_b_factor

NUM_RESAMPLES = 1000
CONFIDENCE_SET_SIZE = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTest:
    """Mean of loss a - loss b (negative: a is better) and p = P(a lead of a at least this large | no difference)."""

    mean_difference: float
    statistic: float
    p_one_sided: float
    num_sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTest:
    """P(the best of all variants beats the benchmark by as much | none is truly better), by Hansen and by White."""

    p_spa: float
    p_reality_check: float


def long_run_variance(values_T: ArrayLike, *, lags: int, rectangular: bool = False) -> float:
    """Return the variance of sqrt(T) x mean: autocovariances (divided by T) up to `lags`, both sides.

    Bartlett weights 1 - k / (lags + 1) (Newey & West 1987): never negative. Rectangular weights are 1: no taper, but
    the result may be negative.
    """
    centred = np.asarray(values_T, dtype=np.float64)
    centred = centred - centred.mean()
    total = float(centred @ centred)
    for lag in range(1, min(lags, centred.size - 1) + 1):
        weight = 1.0 if rectangular else 1 - lag / (lags + 1)
        total += 2 * weight * float(centred[lag:] @ centred[:-lag])
    return float(total / centred.size)


def diebold_mariano(loss_a_T: ArrayLike, loss_b_T: ArrayLike, *, horizon_sessions: int) -> LossTest:
    """Test whether a loses less than b (Diebold & Mariano 1995, as corrected by Harvey, Leybourne & Newbold 1997).

    Forecasts h sessions ahead overlap for h - 1 lags: the variance of a - b takes these with rectangular weights, and
    Bartlett weights where that comes out at or below 0. The statistic is multiplied by
    sqrt((T + 1 - 2h + h (h - 1) / T) / T) and held against Student's t with T - 1 degrees of freedom. Without any
    variation of a - b there is no noise to judge by: statistic 0, p 1. Differences that remember more than h - 1
    sessions make p too small: hold it beside the block bootstrap of `skill.paired_difference`.
    """
    loss_a, loss_b = np.asarray(loss_a_T, dtype=np.float64), np.asarray(loss_b_T, dtype=np.float64)
    if horizon_sessions < 1:
        raise ValueError(f"a horizon is at least 1 session, found {horizon_sessions}")
    if loss_a.shape != loss_b.shape or loss_a.ndim != 1 or loss_a.size < 2 * horizon_sessions + 1:
        raise ValueError("paired losses must be two series of the same sessions, longer than two horizons")
    size, lags = loss_a.size, horizon_sessions - 1
    difference = _finite(loss_a) - _finite(loss_b)
    mean = float(difference.mean())
    if _is_dust(difference - mean, scale=float(np.abs(loss_a).max() + np.abs(loss_b).max())):
        return LossTest(mean_difference=mean, statistic=0.0, p_one_sided=1.0, num_sessions=size)
    variance = long_run_variance(difference, lags=lags, rectangular=True)
    if variance <= 0:
        variance = long_run_variance(difference, lags=lags)
    correction = math.sqrt((size + 1 - 2 * horizon_sessions + horizon_sessions * lags / size) / size)
    statistic = correction * mean / math.sqrt(variance / size)
    return LossTest(
        mean_difference=mean,
        statistic=statistic,
        p_one_sided=float(stdtr(size - 1, statistic)),
        num_sessions=size,
    )


def superior_predictive_ability(
    losses_TK: ArrayLike,
    benchmark_T: ArrayLike,
    *,
    block_sessions: int = BLOCK_SESSIONS,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> SearchTest:
    """Test whether the best of K variants truly beats the benchmark, allowing for the search among them.

    `losses_TK` must hold every variant ever evaluated on these sessions: leaving out the failures makes p too small.
    `p_spa` is the consistent p of Hansen (2005, *JBES* 23), each lead divided by its standard error, hopeless variants
    ignored; `p_reality_check` that of White (2000, *Econometrica* 68): raw leads, every variant counts, so adding bad
    ones raises it. Both count the observation itself, so they are never 0; variants equal to the benchmark are left
    out, p is 1 when all are.
    """
    losses, benchmark = _loss_table(losses_TK, block_sessions), _finite(benchmark_T)
    if benchmark.shape != losses.shape[:1]:
        raise ValueError(f"the benchmark must cover the {losses.shape[0]} sessions of the losses")
    leads = benchmark[:, None] - losses
    spread = np.sqrt([long_run_variance(lead, lags=block_sessions - 1) for lead in leads.T])
    differs = spread > 1e-12 * float(np.abs(losses).max() + np.abs(benchmark).max())
    if not differs.any():
        return SearchTest(p_spa=1.0, p_reality_check=1.0)
    leads = _humbled(leads[:, differs], block_sessions)
    run = {"block_sessions": block_sessions, "num_resamples": num_resamples, "seed": seed}
    return SearchTest(
        p_spa=_search_pvalue(leads / spread[differs], "consistent", **run),
        p_reality_check=_search_pvalue(leads, "upper", **run),
    )


def model_confidence_set(
    losses_TK: ArrayLike,
    names: Sequence[str],
    *,
    size: float = CONFIDENCE_SET_SIZE,
    block_sessions: int = BLOCK_SESSIONS,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[str, ...]:
    """Return the names, in their order, that hold the best model with probability 1 - `size`, at least one.

    Hansen, Lunde & Nason (2011, *Econometrica* 79), range statistic: the worst model leaves until those left are too
    alike to tell apart. A large set means the data cannot decide, not that all are good. Models with equal losses stay
    or leave together. Of five equal models with overlapping losses some leave 13 to 16 % of the time at 500 and 250
    sessions, not 10; each one stays 95 % of the time. Memory: a few times num_resamples x K^2 numbers.
    """
    losses = _loss_table(losses_TK, block_sessions)
    if len(names) != losses.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"{losses.shape[1]} columns of losses need as many different names, found {list(names)}")
    if not 0 < size < 1:
        raise ValueError(f"size must lie between 0 and 1, found {size}")
    twin_of_K = _first_equal_column(losses)
    distinct = sorted(set(twin_of_K))
    if len(distinct) == 1:
        return tuple(names)
    # what all models share on a session cancels in every comparison and would only blur the corrections
    distinct_losses = losses[:, distinct] - losses[:, distinct].mean(axis=1, keepdims=True)
    from arch.bootstrap import MCS  # noqa: PLC0415 - two seconds that only this test needs

    test = MCS(
        _humbled(distinct_losses, block_sessions),
        size,
        reps=num_resamples,
        block_size=block_sessions,
        method="R",
        bootstrap="circular",
        seed=seed,
    )
    test.compute()
    kept = {distinct[index] for index in np.asarray(test.included, dtype=np.int64)}
    return tuple(name for name, twin in zip(names, twin_of_K, strict=True) if twin in kept)


def _search_pvalue(leads_TK: Floats, kind: str, *, block_sessions: int, num_resamples: int, seed: int) -> float:
    # arch names a studentised test but compares raw means: the caller divides by the standard errors instead
    from arch.bootstrap import SPA  # noqa: PLC0415 - two seconds that only this test needs

    test = SPA(
        np.zeros(leads_TK.shape[0]),
        -leads_TK,
        block_size=block_sessions,
        reps=num_resamples,
        bootstrap="circular",
        studentize=False,
        seed=seed,
    )
    test.compute()
    return (1 + round(float(test.pvalues[kind]) * num_resamples)) / (1 + num_resamples)


def _humbled(values_TK: Floats, block_sessions: int) -> Floats:
    """Return the columns with their means made smaller by the corrections of `skill`, deviations untouched."""
    half = max(1, round(block_sessions / 2))
    whole, inner = (
        sum(long_run_variance(column, lags=lags) for column in values_TK.T) for lags in (block_sessions - 1, half - 1)
    )
    taper = math.sqrt(max(1.0, 2 - inner / whole))
    widening = taper * fixed_b_factor(block_sessions / values_TK.shape[0])
    return np.asarray(values_TK - values_TK.mean(axis=0) * (1 - 1 / widening), dtype=np.float64)


def _first_equal_column(losses_TK: Floats) -> list[int]:
    """Return for each column the first one equal to it up to rounding: twins have no variance to divide by."""
    first: list[int] = []
    for column, loss in enumerate(losses_TK.T):
        twins = (
            other
            for other in dict.fromkeys(first)
            if _is_dust(loss - losses_TK[:, other], scale=float(np.abs(loss).max()))
        )
        first.append(next(twins, column))
    return first


def _is_dust(values: Floats, *, scale: float) -> bool:
    return bool((np.abs(values) <= 1e-12 * scale).all())


def _finite(values: ArrayLike) -> Floats:
    series = np.asarray(values, dtype=np.float64)
    if not np.isfinite(series).all():
        raise ValueError("losses must be finite numbers: drop sessions that some model lacks first")
    return series


def _loss_table(losses_TK: ArrayLike, block_sessions: int) -> Floats:
    losses = _finite(losses_TK)
    if losses.ndim != 2 or losses.shape[1] < 1:
        raise ValueError("losses must be a table [sessions, models] with at least one model")
    if block_sessions < 1 or losses.shape[0] < 2 * block_sessions:
        raise ValueError(f"{losses.shape[0]} sessions are fewer than two blocks of {block_sessions}")
    return losses
