"""Trees boosted on rank targets with LightGBM: the setting, the fit with and without a validation year, the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from vnfleet.model.baselines.rows import Floats, LabelledRows, mean_daily_correlation

BOOST_THREADS = 1
"""Trees are bit-equal only for a fixed number of threads. One: LightGBM's threads spin while they wait, and on two
shared cores two of them took 1.5 s a round where one took 0.14 s (413k rows, 50 features; 0.055 s of CPU)."""

_MIN_LEAVES = 20  # as many leaves as this could always be made of the rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostSetting:
    """How trees are grown, and how validation ends their number.

    Attributes
    ----------
    num_seeds : so many fits, alike but for their random rows and features, are averaged by their scores.
    learning_rate, num_leaves, feature_frac, row_frac, lambda_l2, max_bin : as in LightGBM.
    min_rows_in_leaf : a leaf holds at least this many rows (symbol and session), but never more than a 20th of all, so
        that trees grow in a small universe too.
    max_rounds : the most trees. patience_rounds : validation may be without a new best for this many.
    min_rounds : the fewest trees: a turbulent validation year may like 3 best, and a baseline that weak would flatter
        the rest. At most `patience_rounds`, which sees to it that they exist.
    """

    num_seeds: int = 3
    learning_rate: float = 0.1
    num_leaves: int = 31
    min_rows_in_leaf: int = 1500
    feature_frac: float = 0.6
    row_frac: float = 0.6
    lambda_l2: float = 10.0
    max_bin: int = 127
    max_rounds: int = 200
    min_rounds: int = 30
    patience_rounds: int = 30

    def __post_init__(self) -> None:
        """Refuse a floor that patience cannot guarantee, and no fit at all."""
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds must be at least 1, found {self.num_seeds}")
        if not 1 <= self.min_rounds <= self.patience_rounds <= self.max_rounds:
            raise ValueError(
                "min_rounds <= patience_rounds <= max_rounds is needed, found "
                f"{self.min_rounds}, {self.patience_rounds}, {self.max_rounds}"
            )

    def seeds(self, seed: int) -> range:
        """Return the seeds of the fits that are averaged; no two values of `seed` share one."""
        return range(seed * self.num_seeds, (seed + 1) * self.num_seeds)

    def parameters(self, seed: int, num_rows: int) -> dict[str, str | int | float | bool]:
        """Return the setting in LightGBM's words, for a fit on `num_rows` rows."""
        return {
            "objective": "regression",
            "metric": "none",
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": max(1, min(self.min_rows_in_leaf, num_rows // _MIN_LEAVES)),
            "feature_fraction": self.feature_frac,
            "bagging_fraction": self.row_frac,
            "bagging_freq": 1,
            "lambda_l2": self.lambda_l2,
            "max_bin": self.max_bin,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": BOOST_THREADS,
            "verbosity": -1,
            "seed": seed,
        }


BOOST = BoostSetting()
"""The setting of the product's baseline; how it was chosen is in benchmarks/lightgbm_tuning_202611.md."""


class BoostedScorer:
    """The mean of several fits, always read back from their own text, so that a stored one scores bit-equal."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        self._boosters = tuple(lgb.Booster(model_str=text) for text in self.texts)
        self.num_features = int(self._boosters[0].num_feature())
        if any(booster.num_feature() != self.num_features for booster in self._boosters):
            raise ValueError("the fits that are averaged expect different numbers of features")

    def score(self, features_NF: NDArray[np.float32]) -> Floats:
        """Return the sum of the trees, averaged over the fits."""
        total_N = np.zeros(len(features_NF))
        if len(features_NF):
            for booster in self._boosters:
                total_N += np.asarray(booster.predict(features_NF, num_threads=BOOST_THREADS), dtype=np.float64)
        return total_N / len(self._boosters)


def fit_boosted(rows: LabelledRows, rounds: Sequence[int], seed: int, setting: BoostSetting = BOOST) -> BoostedScorer:
    """Return trees fitted for exactly `rounds` rounds, one number per fit."""
    texts = []
    for own, wanted in zip(setting.seeds(seed), rounds, strict=True):
        booster = lgb.train(
            setting.parameters(own, len(rows.target_N)), lgb.Dataset(rows.features_NF, rows.target_N), wanted
        )
        texts.append(booster.model_to_string())
    return BoostedScorer(texts)


def fit_boosted_stopping(
    train: LabelledRows, valid: LabelledRows, seed: int, setting: BoostSetting = BOOST
) -> tuple[BoostedScorer, tuple[int, ...]]:
    """Return trees fitted on `train`, and the rounds of each fit, stopped on the mean daily correlation in `valid`."""

    def correlation(score_N: NDArray[np.float64], _valid: lgb.Dataset) -> tuple[str, float, bool]:
        return "mean_daily_correlation", mean_daily_correlation(np.asarray(score_N, dtype=np.float64), valid), True

    texts, rounds = [], []
    for own in setting.seeds(seed):
        dataset = lgb.Dataset(train.features_NF, train.target_N)
        booster = lgb.train(
            setting.parameters(own, len(train.target_N)),
            dataset,
            setting.max_rounds,
            valid_sets=[lgb.Dataset(valid.features_NF, valid.target_N, reference=dataset)],
            feval=correlation,
            callbacks=[lgb.early_stopping(setting.patience_rounds, verbose=False)],
            keep_training_booster=True,  # otherwise the trees after the best round are gone already
        )
        rounds.append(max(setting.min_rounds, booster.best_iteration))  # patience saw to it that they exist
        texts.append(booster.model_to_string(num_iteration=rounds[-1]))
    return BoostedScorer(texts), tuple(rounds)
