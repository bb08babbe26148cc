"""What turns a row of features into a score: a constant, one feature, its direction, a linear rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vnfleet.model.baselines.rows import Floats, LabelledRows

_CLIP = 5.0
_CHUNK_ROWS = 65536

RIDGE_PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Ridge penalties per row, in units of a standardised feature's variance."""


class Scorer(Protocol):
    """A fitted rule; higher scores mean higher expected rank."""

    def score(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return one score per row."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantScorer:
    """Every row scores 0: no cross-sectional opinion."""

    def score(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return zeros."""
        return np.zeros(len(features_NF))


@dataclass(frozen=True, slots=True)
class FeatureScorer:
    """One feature times a sign."""

    position: int
    sign: float

    def score(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return sign * feature."""
        return self.sign * features_NF[:, self.position].astype(np.float64)


@dataclass(frozen=True, slots=True)
class DirectionScorer:
    """1 where one feature times a sign is above 0, else -1: unchanged is not up."""

    position: int
    sign: float

    def score(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return 1 or -1."""
        return np.where(self.sign * features_NF[:, self.position] > 0, 1.0, -1.0)


@dataclass(frozen=True, slots=True)
class LinearScorer:
    """A linear rule on features standardised with `mean_F` and `sd_F` and clipped to +-5."""

    mean_F: Floats
    sd_F: Floats
    weight_F: Floats

    def score(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return the linear combination; the constant term, equal for all rows, is left out."""
        return _standardised(features_NF, self.mean_F, self.sd_F) @ self.weight_F

    def arrays(self) -> Mapping[str, Floats]:
        """Return the arrays to store."""
        return {"mean_F": self.mean_F, "sd_F": self.sd_F, "weight_F": self.weight_F}


def fit_ridges(rows: LabelledRows, penalties: tuple[float, ...]) -> list[LinearScorer]:
    """Return one ridge per penalty (per row), all from one pass over the rows."""
    mean_F = rows.features_NF.mean(axis=0, dtype=np.float64)
    sd_F = rows.features_NF.std(axis=0, dtype=np.float64)
    sd_F = np.where(sd_F > 1e-12, sd_F, 1.0)
    num_rows, num_features = rows.features_NF.shape
    gram_FF, moment_F, total_F = np.zeros((num_features, num_features)), np.zeros(num_features), np.zeros(num_features)
    for start in range(0, num_rows, _CHUNK_ROWS):  # float64 only a chunk at a time
        part_NF = _standardised(rows.features_NF[start : start + _CHUNK_ROWS], mean_F, sd_F)
        target_N = rows.target_N[start : start + _CHUNK_ROWS]
        gram_FF += part_NF.T @ part_NF
        moment_F += part_NF.T @ target_N
        total_F += part_NF.sum(axis=0)
    # centring after clipping takes the constant term out of the solution
    centre_F = total_F / num_rows
    gram_FF = gram_FF / num_rows - np.outer(centre_F, centre_F)
    moment_F = moment_F / num_rows - centre_F * rows.target_N.mean()
    return [
        LinearScorer(mean_F, sd_F, np.linalg.solve(gram_FF + penalty * np.eye(num_features), moment_F))
        for penalty in penalties
    ]


def _standardised(features_NF: NDArray[np.float32], mean_F: Floats, sd_F: Floats) -> Floats:
    return np.clip((features_NF - mean_F) / sd_F, -_CLIP, _CLIP)
