"""What a network is rewarded for: rank IC of its score, its return path, its volatility.

Axes: S symbols, O decision sessions, H horizons.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vnfleet.model.stockformer import Forecast
from vnfleet.training.recipe import TrainingConfig

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of one batch.

    Rank target_SO with labelled_SO, path_SOH in label units (NaN where unknown), primary_S marking the universe.
    """

    target_SO: Tensor
    labelled_SO: Tensor
    path_SOH: Tensor
    primary_S: Tensor


def session_correlation(score_SO: Tensor, target_SO: Tensor, weight_SO: Tensor) -> Tensor:
    """Return per session the Pearson correlation of score and target over the symbols with weight 1; shape [O]."""
    count_O = weight_SO.sum(0).clamp_min(1.0)
    score = (score_SO - (score_SO * weight_SO).sum(0) / count_O) * weight_SO
    target = (target_SO - (target_SO * weight_SO).sum(0) / count_O) * weight_SO
    covariance_O = (score * target).sum(0)
    # Inside the root, so that a session without labels has gradient 0, not NaN.
    return covariance_O / (score.square().sum(0) * target.square().sum(0) + _EPSILON).sqrt()


def _rank_loss(score_SO: Tensor, target_SO: Tensor, counted_SO: Tensor, config: TrainingConfig) -> Tensor:
    enough_O = counted_SO.sum(0) >= config.min_labels_per_session
    if not bool(enough_O.any()):
        return score_SO.sum() * 0.0
    weight_SO = (counted_SO & enough_O).float()
    squared = ((score_SO - target_SO).square() * weight_SO).sum() / weight_SO.sum()
    return config.mse_weight * squared - session_correlation(score_SO, target_SO, weight_SO)[enough_O].mean()


def loss_of(forecast: Forecast, labels: Labels, config: TrainingConfig) -> Tensor:
    """Return the training loss of one batch.

    loss = rank part + path_weight Huber(path) + volatility_weight Gaussian NLL, where the NLL sees the path forecast as
    a constant. The rank part, -mean IC + mse_weight MSE(score, rank), is taken over all symbols and over the primary
    ones and mixed by `primary_share`; sessions under `min_labels_per_session` labels have none.
    """
    total = forecast.score_SO.sum() * 0.0
    primary_SO = labels.labelled_SO & labels.primary_S.unsqueeze(-1)
    for share, counted_SO in ((1.0 - config.primary_share, labels.labelled_SO), (config.primary_share, primary_SO)):
        if share > 0.0:
            total = total + share * _rank_loss(forecast.score_SO, labels.target_SO, counted_SO, config)
    known_SOH = torch.isfinite(labels.path_SOH) & labels.labelled_SO.unsqueeze(-1)
    if bool(known_SOH.any()):
        actual, expected = labels.path_SOH[known_SOH], forecast.path_SOH[known_SOH]
        sd = forecast.volatility_SOH[known_SOH]
        nll = (0.5 * ((actual - expected.detach()) / sd).square() + sd.log()).mean()
        total = total + config.path_weight * functional.huber_loss(expected, actual)
        total = total + config.volatility_weight * nll
    return total
