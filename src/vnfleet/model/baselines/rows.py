"""What a baseline learns from: the labelled rows of all symbols, session by session.

Axes: S symbols, T sessions, F features, H horizons, N rows (session-major).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.errors import BadDataError

Floats = NDArray[np.float64]

MIN_LABELS = 10
"""A session with fewer labelled symbols has no meaningful ranks and is not learned from."""


class FoldParts(Protocol):
    """The part of `evaluation.splits.Fold` that fitting needs (rooms of one floor do not import each other)."""

    @property
    def fold_id(self) -> str:
        """Name of the fold."""
        ...

    @property
    def train(self) -> range:
        """Decision sessions to fit on while choosing settings."""
        ...

    @property
    def valid(self) -> range:
        """Decision sessions that choose settings and calibration."""
        ...

    @property
    def refit(self) -> range:
        """Decision sessions of the final fit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineData:
    """Features and returns on the market axis.

    `values_STF` are features known at the close of t, meaningful where `present_ST`; `returns_HST` are fractions over
    `horizons` sessions from the next open, NaN where unknown. `sessions` and `symbols` name the axes. Raises
    `ValueError` when shapes and names disagree.
    """

    values_STF: NDArray[np.float32]
    present_ST: NDArray[np.bool_]
    returns_HST: NDArray[np.floating]
    horizons: tuple[int, ...]
    symbols: tuple[str, ...]
    sessions: tuple[date, ...]
    feature_names: tuple[str, ...]

    def __post_init__(self) -> None:
        axes = (len(self.symbols), len(self.sessions))
        expected = ((*axes, len(self.feature_names)), axes, (len(self.horizons), *axes))
        found = (self.values_STF.shape, self.present_ST.shape, self.returns_HST.shape)
        if expected != found:
            raise ValueError(f"values, present and returns must have shapes {expected}, found {found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """Rows with features and a known return, ordered by session then symbol.

    `target_N` is the rank of the return within its session in [-0.5, 0.5]; `group_N` numbers the sessions from 0.
    """

    features_NF: NDArray[np.float32]
    target_N: Floats
    returns_N: Floats
    group_N: NDArray[np.int64]


def labelled_rows(data: BaselineData, part: range, horizon_sessions: int, purpose: str) -> LabelledRows:
    """Return the rows of the decision sessions `part`; `BadDataError` when there are none."""
    if horizon_sessions not in data.horizons:
        raise BadDataError("the returns lack a horizon", expected=horizon_sessions, found=data.horizons)
    cut = slice(part.start, part.stop)
    returns_ST = data.returns_HST[data.horizons.index(horizon_sessions), :, cut].astype(np.float64)
    usable_ST = data.present_ST[:, cut] & np.isfinite(returns_ST)
    usable_ST &= usable_ST.sum(axis=0) >= MIN_LABELS
    session_N, symbol_N = np.nonzero(usable_ST.T)
    if session_N.size == 0:
        raise BadDataError(
            f"no rows to {purpose} on",
            expected=f"sessions with at least {MIN_LABELS} symbols that have features and a return",
            found=f"none in sessions {part.start}..{part.stop - 1}",
        )
    returns_N = returns_ST[symbol_N, session_N]
    return LabelledRows(
        features_NF=data.values_STF[symbol_N, session_N + part.start],
        target_N=_centred_ranks(returns_N, session_N),
        returns_N=returns_N,
        group_N=np.unique(session_N, return_inverse=True)[1].astype(np.int64),
    )


def mean_daily_correlation(score_N: Floats, rows: LabelledRows) -> float:
    """Return the mean over sessions of the Pearson correlation of score and target rank; equal scores count as 0."""
    group_N = rows.group_N
    count_G = np.bincount(group_N)
    score_N = score_N - (np.bincount(group_N, score_N) / count_G)[group_N]
    target_N = rows.target_N - (np.bincount(group_N, rows.target_N) / count_G)[group_N]
    covariance_G = np.bincount(group_N, score_N * target_N)
    scale_G = np.sqrt(np.bincount(group_N, score_N**2) * np.bincount(group_N, target_N**2))
    return float(np.divide(covariance_G, scale_G, out=np.zeros_like(scale_G), where=scale_G > 1e-12).mean())


def _centred_ranks(values_N: Floats, group_N: NDArray[np.int64]) -> Floats:
    frame = pl.DataFrame({"value": values_N, "group": group_N})
    rank = (pl.col("value").rank() - 1) / (pl.len() - 1) - 0.5
    return frame.select(rank.over("group")).to_series().to_numpy()
