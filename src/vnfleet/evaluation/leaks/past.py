"""Does the past depend on the future? Truncated, poisoned and refitted pipelines must say the same about it.

Axes: S symbols, T sessions, F features or forecast figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.evaluation.leaks.report import LeakCheck

Floats = NDArray[np.floating]
Built = Callable[[int], Floats]
"""Gives what a pipeline says of sessions 0..t (or more) in another world, for a session index t; NaN = absent."""

TOLERANCE = 1e-5
"""Of a figure's own size, or 1 if that is larger: rounding of float32, nothing that could be traded on."""
_FIGURES = ("score", "direction_prob", "expected_return_frac", "volatility_frac")


def truncation(what: str, whole_STF: Floats, built: Built, cuts: Sequence[int]) -> LeakCheck:
    """Check that data cut after session t give the same figures at and before t as all of the data.

    Catches centred windows, shift(-1), normalisation over the whole history, interpolation.
    """
    return _unchanged("truncation", what, "cutting the data there", whole_STF, built, cuts)


def future_poison(what: str, whole_STF: Floats, built: Built, cuts: Sequence[int]) -> LeakCheck:
    """Check that wild prices after session t move no figure at or before t.

    Sees what truncation cannot: a pipeline that behaves well only when the data end.
    """
    return _unchanged("future_poison", what, "other prices after it", whole_STF, built, cuts)


def fit_poison(what: str, clean: pl.DataFrame, others: Sequence[pl.DataFrame]) -> LeakCheck:
    """Check that a fit cannot tell one future from another.

    clean : forecasts of a model fitted on the true prices. others : forecasts from the same clean features, of models
    fitted on worlds whose prices differ from the first test session on, and with them every label whose window reaches
    it. They must be equal to the bit. Catches a missing purge, a scaler or threshold fitted on all data, a choice of
    epochs or penalties by the test set, and symbols chosen with what is known today.
    """
    key = ["symbol", "session"]
    figures = [name for name in _FIGURES if name in clean.columns]
    changed = 0
    for other in others:
        both = clean.select(*key, *figures).join(
            other.select(*key, *figures), on=key, how="full", suffix="_other", coalesce=True
        )
        unequal = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_other")) for name in figures)
        changed += both.filter(unequal).height
    total = clean.height * len(others)
    if total == 0:
        return LeakCheck(name=f"fit_poison:{what}", passed=None, words="no forecasts to compare", limit=0.0)
    words = (
        f"{changed:,} of {total:,} forecasts change when prices from the first test session on are others: the fit has "
        "seen the future"
        if changed
        else f"{total:,} forecasts stay the same to the last bit whatever prices follow the first test session"
    )
    return LeakCheck(name=f"fit_poison:{what}", passed=not changed, value=float(changed), limit=0.0, words=words)


def forecast_figures(forecasts: pl.DataFrame, symbols: Sequence[str], sessions: Sequence[date]) -> Floats:
    """Return the figures of a prediction frame as float64 [S, T, 4], NaN where a figure or a row is absent."""
    rows = pl.Series("symbol", symbols, dtype=pl.String).search_sorted(forecasts.get_column("symbol")).to_numpy()
    columns = pl.Series("session", sessions, dtype=pl.Date).search_sorted(forecasts.get_column("session")).to_numpy()
    figures_STF = np.full((len(symbols), len(sessions), len(_FIGURES)), np.nan)
    figures_STF[rows, columns] = forecasts.select(pl.col(_FIGURES).fill_null(float("nan"))).to_numpy()
    return figures_STF


def _unchanged(name: str, what: str, world: str, whole_STF: Floats, built: Built, cuts: Sequence[int]) -> LeakCheck:
    """Compare sessions 0..t of `whole_STF` with those of another world, for every t of `cuts`."""
    largest, changed, compared, first_moved = 0.0, 0, 0, None
    for cut in cuts:
        before, after = whole_STF[:, : cut + 1], built(cut)[:, : cut + 1]
        difference = _difference(before, after)
        compared += int((np.isfinite(before) | np.isfinite(after)).sum())
        moved = int((difference > TOLERANCE).sum())
        if moved and first_moved is None:
            first_moved = cut
        changed += moved
        largest = max(largest, float(difference.max(initial=0.0)))
    full_name = f"{name}:{what}"
    if not compared:
        return LeakCheck(name=full_name, passed=None, limit=TOLERANCE, words="there is nothing to compare")
    words = (
        f"{changed:,} of {compared:,} figures at or before a session change with {world}; first at session "
        f"{first_moved}"
        if changed
        else f"{compared:,} figures at and before {len(cuts)} sessions do not change with {world}"
    )
    return LeakCheck(name=full_name, passed=not changed, value=largest, limit=TOLERANCE, words=words)


def _difference(before: Floats, after: Floats) -> Floats:
    """Return |a - b| relative to the larger of |a| and 1; 1 where only one of them is known, or sizes differ."""
    if before.shape != after.shape:
        return np.ones(before.shape)
    one, other = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    known, other_known = np.isfinite(one), np.isfinite(other)
    both = known & other_known
    difference = np.zeros(one.shape)
    difference[both] = np.abs(one[both] - other[both]) / np.maximum(np.abs(one[both]), 1.0)
    difference[known != other_known] = 1.0
    return difference
