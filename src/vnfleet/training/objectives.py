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
    """Targets of one batch: rank target_SO with labelled_SO, and path_SOH in label units (NaN where unknown)."""

    target_SO: Tensor
    labelled_SO: Tensor
    path_SOH: Tensor


def session_correlation(score_SO: Tensor, target_SO: Tensor, weight_SO: Tensor) -> Tensor:
    """Return per session the Pearson correlation of score and target over the symbols with weight 1; shape [O]."""
    count_O = weight_SO.sum(0).clamp_min(1.0)
    score = (score_SO - (score_SO * weight_SO).sum(0) / count_O) * weight_SO
    target = (target_SO - (target_SO * weight_SO).sum(0) / count_O) * weight_SO
    covariance_O = (score * target).sum(0)
    # Inside the root, so that a session without labels has gradient 0, not NaN.
    return covariance_O / (score.square().sum(0) * target.square().sum(0) + _EPSILON).sqrt()


def loss_of(forecast: Forecast, labels: Labels, config: TrainingConfig) -> Tensor:
    """Return the training loss of one batch.

    loss = -mean IC + mse_weight MSE(score, rank) + path_weight Huber(path) + volatility_weight Gaussian NLL, where the
    NLL sees the path forecast as a constant. Sessions under `min_labels_per_session` labels have no rank part.
    """
    enough_O = labels.labelled_SO.sum(0) >= config.min_labels_per_session
    weight_SO = (labels.labelled_SO & enough_O).float()
    total = forecast.score_SO.sum() * 0.0
    if bool(enough_O.any()):
        correlation_O = session_correlation(forecast.score_SO, labels.target_SO, weight_SO)
        squared = (forecast.score_SO - labels.target_SO).square()
        total = total - correlation_O[enough_O].mean()
        total = total + config.mse_weight * (squared * weight_SO).sum() / weight_SO.sum()
    known_SOH = torch.isfinite(labels.path_SOH) & labels.labelled_SO.unsqueeze(-1)
    if bool(known_SOH.any()):
        actual, expected = labels.path_SOH[known_SOH], forecast.path_SOH[known_SOH]
        sd = forecast.volatility_SOH[known_SOH]
        nll = (0.5 * ((actual - expected.detach()) / sd).square() + sd.log()).mean()
        total = total + config.path_weight * functional.huber_loss(expected, actual)
        total = total + config.volatility_weight * nll
    return total
