"""Losses against SciPy and hand sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from vnfleet.model.stockformer import Forecast
from vnfleet.training.objectives import Labels, loss_of, session_correlation
from vnfleet.training.recipe import TrainingConfig


def test_session_correlation_is_pearson_over_the_labelled_symbols() -> None:
    generator = np.random.default_rng(0)
    score, target = generator.standard_normal((2, 50, 4))
    weight = generator.random((50, 4)) > 0.3
    found = session_correlation(*(torch.from_numpy(array.astype(np.float32)) for array in (score, target, weight)))
    for column in range(4):
        keep = weight[:, column]
        expected = stats.pearsonr(score[keep, column], target[keep, column]).statistic
        assert float(found[column]) == pytest.approx(expected, abs=1e-5)


def forecast_of(score_SO: torch.Tensor) -> Forecast:
    shape = (*score_SO.shape, 2)
    return Forecast(score_SO, torch.zeros(shape), torch.ones(shape))


def test_a_perfect_score_earns_minus_one_and_thin_sessions_earn_nothing() -> None:
    target = torch.randn(40, 3)
    labelled = torch.ones(40, 3, dtype=torch.bool)
    labelled[10:, 2] = False
    labels = Labels(target, labelled, torch.full((40, 3, 2), torch.nan), torch.ones(40, dtype=torch.bool))
    config = TrainingConfig(mse_weight=0.0)
    assert float(loss_of(forecast_of(target * 7.0), labels, config)) == pytest.approx(-1.0, abs=1e-4)
    upside_down = target.clone()
    upside_down[:, 2] = -target[:, 2]
    assert float(loss_of(forecast_of(upside_down), labels, config)) == pytest.approx(-1.0, abs=1e-4)


def test_the_rank_part_mixes_all_symbols_and_the_primary_ones_by_share() -> None:
    generator = np.random.default_rng(1)
    score, target = generator.standard_normal((2, 80, 2)).astype(np.float32)
    primary = np.arange(80) < 35
    labels = Labels(
        torch.from_numpy(target),
        torch.ones(80, 2, dtype=torch.bool),
        torch.full((80, 2, 2), torch.nan),
        torch.from_numpy(primary),
    )
    everyone = np.mean([stats.pearsonr(score[:, day], target[:, day]).statistic for day in range(2)])
    chosen = np.mean([stats.pearsonr(score[primary, day], target[primary, day]).statistic for day in range(2)])
    config = TrainingConfig(mse_weight=0.0, primary_share=0.25)
    found = float(loss_of(forecast_of(torch.from_numpy(score)), labels, config))
    assert found == pytest.approx(-(0.75 * everyone + 0.25 * chosen), abs=1e-5)


def test_path_and_volatility_parts_match_hand_sums() -> None:
    labels = Labels(
        torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.tensor([[[0.5, 3.0]]]), torch.ones(1).bool()
    )  # one symbol: no rank part
    forecast = Forecast(torch.zeros(1, 1), torch.zeros(1, 1, 2), torch.tensor([[[1.0, 2.0]]]))
    huber = (0.5 * 0.5**2 + (3.0 - 0.5)) / 2
    nll = (0.5 * 0.5**2 + 0.0 + 0.5 * 1.5**2 + np.log(2.0)) / 2
    config = TrainingConfig(path_weight=0.3, volatility_weight=0.7)
    assert float(loss_of(forecast, labels, config)) == pytest.approx(0.3 * huber + 0.7 * nll, rel=1e-6)


def test_the_volatility_part_does_not_pull_on_the_path() -> None:
    path = torch.zeros(1, 1, 1, requires_grad=True)
    volatility = torch.ones(1, 1, 1, requires_grad=True)
    labels = Labels(
        torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.full((1, 1, 1), 2.0), torch.ones(1).bool()
    )
    loss = loss_of(Forecast(torch.zeros(1, 1), path, volatility), labels, TrainingConfig(path_weight=0.0))
    torch.autograd.backward(loss)
    assert path.grad is not None
    assert float(path.grad.abs().sum()) == 0.0
    assert volatility.grad is not None
    assert float(volatility.grad.abs().sum()) > 0.0


def test_a_cross_sectional_loss_on_few_symbols_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 20"):
        TrainingConfig(min_labels_per_session=10)
