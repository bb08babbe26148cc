"""The validation figure of a set whose models were judged one by one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData
from vnfleet.training.forecast import valid_rank_ic
from vnfleet.training.recipe import ObjectiveConfig, Recipe


def test_the_figure_is_the_mean_spearman_correlation_per_session(
    data: TrainingData, fold: Fold, recipe: Recipe
) -> None:
    generator = np.random.default_rng(4)
    score_SO = generator.standard_normal((len(fold.universe), len(fold.valid))).astype(np.float32).round(1)  # ties
    score_SO[generator.random(score_SO.shape) < 0.1] = np.nan
    score_SO[:, 7] = np.nan  # nobody
    score_SO[5:, 9] = np.nan  # fewer than the objective asks for
    score_SO[:, 11] = 1.0  # no order
    rule = dataclasses.replace(recipe, objective=ObjectiveConfig(min_labels_per_session=20))
    expected = []
    for column, session in enumerate(fold.valid):
        returns_S = data.returns_HST[-1, : len(fold.universe), session]
        known = np.isfinite(score_SO[:, column]) & np.isfinite(returns_S)
        if known.sum() >= 20 and column != 11:
            expected.append(stats.spearmanr(score_SO[known, column], returns_S[known]).statistic)
    assert len(expected) == len(fold.valid) - 3
    scores = {symbol: score_SO[row] for row, symbol in enumerate(fold.universe)}
    assert valid_rank_ic(rule, fold, data, scores) == pytest.approx(np.mean(expected), abs=1e-6)
    shuffled = dict(sorted(scores.items(), reverse=True))
    assert valid_rank_ic(rule, fold, data, shuffled) == pytest.approx(np.mean(expected), abs=1e-6)


def test_without_a_session_of_enough_symbols_there_is_no_figure(data: TrainingData, fold: Fold, recipe: Recipe) -> None:
    silent = {symbol: np.full(len(fold.valid), np.nan, dtype=np.float32) for symbol in fold.universe}
    assert valid_rank_ic(recipe, fold, data, silent) == 0.0
