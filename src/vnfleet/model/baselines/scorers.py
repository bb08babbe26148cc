"""The four rules that turn a row of features into a score, and how each is fitted and stored.

A scorer learns from labelled rows of one part, with a setting chosen on validation: `candidates` of a fit on train,
then the chosen one fitted on train and validation together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from vnfleet.model.baselines.rows import Floats, LabelledRows, mean_daily_correlation

_CLIP = 5.0
_CHUNK_ROWS = 65536

RIDGE_PENALTIES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Ridge penalties per row, in units of a standardised feature's variance."""

BOOST_ROUNDS = 200
BOOST_PATIENCE = 30
BOOST_MIN_ROUNDS = 30  # a turbulent validation year may like 3 trees best; a baseline that weak would flatter the rest
BOOST_THREADS = 1
"""Trees are bit-equal only for a fixed number of threads. One: LightGBM's threads spin while they wait, and on two
shared cores two of them took 1.5 s a round where one took 0.14 s (413k rows, 50 features; 0.055 s of CPU)."""
_BOOST_PARAMS: dict[str, str | int | float | bool] = {
    "objective": "regression",
    "metric": "none",
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 500,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.6,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "max_bin": 127,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": BOOST_THREADS,
    "verbosity": -1,
}


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


class BoostedScorer:
    """Trees, always read back from their own text, so that a stored model scores bit-equal to the fitted one."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._booster = lgb.Booster(model_str=text)

    @property
    def num_features(self) -> int:
        """Number of features the trees were fitted on."""
        return int(self._booster.num_feature())

    def score(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return the sum of the trees."""
        if not len(features_NF):
            return np.zeros(0)
        return np.asarray(self._booster.predict(features_NF, num_threads=BOOST_THREADS), dtype=np.float64)


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


def fit_boosted(rows: LabelledRows, rounds: int, seed: int) -> BoostedScorer:
    """Return trees fitted for exactly `rounds` rounds."""
    booster = lgb.train({**_BOOST_PARAMS, "seed": seed}, lgb.Dataset(rows.features_NF, rows.target_N), rounds)
    return BoostedScorer(booster.model_to_string())


def fit_boosted_stopping(train: LabelledRows, valid: LabelledRows, seed: int) -> tuple[BoostedScorer, int]:
    """Return trees fitted on `train` and their number of rounds, stopped on the mean daily correlation in `valid`."""

    def correlation(score_N: NDArray[np.float64], _valid: lgb.Dataset) -> tuple[str, float, bool]:
        return "mean_daily_correlation", mean_daily_correlation(np.asarray(score_N, dtype=np.float64), valid), True

    dataset = lgb.Dataset(train.features_NF, train.target_N)
    booster = lgb.train(
        {**_BOOST_PARAMS, "seed": seed},
        dataset,
        BOOST_ROUNDS,
        valid_sets=[lgb.Dataset(valid.features_NF, valid.target_N, reference=dataset)],
        feval=correlation,
        callbacks=[lgb.early_stopping(BOOST_PATIENCE, verbose=False)],
        keep_training_booster=True,  # otherwise the trees after the best round are gone already
    )
    rounds = max(BOOST_MIN_ROUNDS, booster.best_iteration)  # patience saw to it that they exist
    return BoostedScorer(booster.model_to_string(num_iteration=rounds)), rounds


def _standardised(features_NF: NDArray[np.float32], mean_F: Floats, sd_F: Floats) -> Floats:
    return np.clip((features_NF - mean_F) / sd_F, -_CLIP, _CLIP)
