"""What a network is rewarded for: order within a session, its return path, its direction, its volatility.

A step may be computed in several parts. The labels of the whole step are counted first, and every part is divided by
those counts, so that the losses and gradients of the parts add up to those of the whole step. Parts may cut the step
by session as they like; sessions with a cross-sectional term keep all their symbols in one part.

Every term is a masked sum of fixed shape: nothing here waits for the device.

Axes: S = M x N sequences of M models (sequence s belongs to model s // N), O decision sessions, H horizons, G the two
groups of symbols a cross-section is taken over (everyone, primary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vnfleet.model.stockformer import Forecast
from vnfleet.training.pairwise import pairwise_loss
from vnfleet.training.recipe import ObjectiveConfig

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of one part of a step.

    Attributes
    ----------
    target_SO : rank target, 0 where there is none; its dtype is the one the loss is computed in.
    labelled_SO : True where there is a label; nothing else is ever counted.
    path_SOH : returns in label units, NaN where unknown.
    up_SO : direction as a probability (1 up, 0 down, 0.5 unchanged), NaN where unknown.
    primary_S : marks the universe.
    """

    target_SO: Tensor
    labelled_SO: Tensor
    path_SOH: Tensor
    up_SO: Tensor
    primary_S: Tensor


@dataclass(frozen=True, slots=True)
class Counts:
    """What each term of a whole step is divided by, per model; int64.

    Attributes
    ----------
    sessions_GM : sessions with enough labels for a cross-sectional term.
    labels_GM : labels of those sessions.
    pair_sessions_GM : those of the sessions whose targets are not all equal.
    path_M : known returns over all horizons.
    direction_M : known directions.
    """

    sessions_GM: Tensor
    labels_GM: Tensor
    pair_sessions_GM: Tensor
    path_M: Tensor
    direction_M: Tensor

    def learns_M(self, config: ObjectiveConfig) -> Tensor:
        """Return bool per model: whether any term with a weight has a label; a step of the others changes nothing."""
        learns_M = torch.zeros_like(self.path_M, dtype=torch.bool)
        for group, share in enumerate(_shares(config)):
            if share > 0.0:
                if config.rank_ic_weight + config.rank_mse_weight > 0.0:
                    learns_M = learns_M | (self.sessions_GM[group] > 0)
                if config.pairwise_weight > 0.0:
                    learns_M = learns_M | (self.pair_sessions_GM[group] > 0)
        if config.path_weight + config.volatility_weight > 0.0:
            learns_M = learns_M | (self.path_M > 0)
        if config.direction_weight > 0.0:
            learns_M = learns_M | (self.direction_M > 0)
        return learns_M


def count_labels(parts: Sequence[Labels], config: ObjectiveConfig, num_models: int) -> Counts:
    """Return the denominators of a whole step that is computed in `parts` (at least one)."""
    assert parts, "a step has at least one part"
    counted = [_count(part, config, num_models) for part in parts]
    return Counts(
        torch.stack([one.sessions_GM for one in counted]).sum(0),
        torch.stack([one.labels_GM for one in counted]).sum(0),
        torch.stack([one.pair_sessions_GM for one in counted]).sum(0),
        torch.stack([one.path_M for one in counted]).sum(0),
        torch.stack([one.direction_M for one in counted]).sum(0),
    )


def loss_of(forecast: Forecast, labels: Labels, config: ObjectiveConfig, counts: Counts, num_models: int) -> Tensor:
    """Return what one part adds to the loss of every model's step; shape [M], in the dtype of the rank target.

    loss = rank_ic_weight x -IC + pairwise_weight RankNet + rank_mse_weight MSE(score, rank target)
         + path_weight Huber or MSE(path) + direction_weight BCE(score as log-odds) + volatility_weight NLL(volatility)

    IC is the mean over sessions of Pearson's correlation of score and rank target; RankNet (Burges et al. 2005) is the
    mean over sessions of the mean over pairs with different targets of log(1 + exp(-(score of the higher - score of
    the lower))). These and the rank MSE are taken over all symbols and over the primary ones, and mixed by
    `primary_share`; sessions under `min_labels_per_session` labels of a group have none of them. The Gaussian NLL sees
    the path forecast as a constant. Forecasts where nothing is counted, NaN included, have gradient 0; a model without
    any label has loss 0.
    """
    score_SO = forecast.score_SO.to(labels.target_SO.dtype)
    loss_M = score_SO.new_zeros(num_models)
    if config.is_cross_sectional:
        loss_M = loss_M + _rank_loss_M(_by_model(score_SO, num_models), labels, config, counts, num_models)
    if config.path_weight + config.volatility_weight > 0.0:
        loss_M = loss_M + _path_loss_M(forecast, labels, config, counts, num_models)
    if config.direction_weight > 0.0:
        known_SO = _known_direction_SO(labels)
        logit_SO, up_SO = torch.where(known_SO, score_SO, 0.0), torch.where(known_SO, labels.up_SO, 0.5)
        entropy_SO = functional.binary_cross_entropy_with_logits(logit_SO, up_SO, reduction="none")
        sum_M = _sum_by_model(torch.where(known_SO, entropy_SO, 0.0), num_models)
        loss_M = loss_M + config.direction_weight * sum_M / counts.direction_M.clamp_min(1)
    return loss_M


def session_correlation(score_NO: Tensor, target_NO: Tensor, counted_NO: Tensor) -> Tensor:
    """Return per session the Pearson correlation of score and target over the counted symbols.

    The symbols lie on the last axis but one; axes before it are kept: [..., N, O] becomes [..., O]. Sessions without
    any variation have correlation 0.
    """
    count_1O = counted_NO.sum(-2, keepdim=True).clamp_min(1)
    score_NO, target_NO = torch.where(counted_NO, score_NO, 0.0), torch.where(counted_NO, target_NO, 0.0)
    score_NO = torch.where(counted_NO, score_NO - score_NO.sum(-2, keepdim=True) / count_1O, 0.0)
    target_NO = torch.where(counted_NO, target_NO - target_NO.sum(-2, keepdim=True) / count_1O, 0.0)
    covariance_O = (score_NO * target_NO).sum(-2)
    # Inside the root, so that a session without labels has gradient 0, not NaN.
    return covariance_O / (score_NO.square().sum(-2) * target_NO.square().sum(-2) + _EPSILON).sqrt()


def _rank_loss_M(score_MNO: Tensor, labels: Labels, config: ObjectiveConfig, counts: Counts, num_models: int) -> Tensor:
    target_MNO = _by_model(labels.target_SO, num_models)
    loss_M = score_MNO.new_zeros(num_models)
    groups = _groups(labels, config, num_models)
    for group, (share, counted_MNO) in enumerate(zip(_shares(config), groups, strict=True)):
        if share > 0.0 and config.rank_ic_weight > 0.0:
            correlation_MO = session_correlation(score_MNO, target_MNO, counted_MNO)
            counted_MO = counted_MNO.any(1)
            mean_M = torch.where(counted_MO, correlation_MO, 0.0).sum(1) / counts.sessions_GM[group].clamp_min(1)
            loss_M = loss_M - share * config.rank_ic_weight * mean_M
        if share > 0.0 and config.rank_mse_weight > 0.0:
            squared_MNO = torch.where(counted_MNO, score_MNO - target_MNO, 0.0).square()
            mean_M = squared_MNO.sum((1, 2)) / counts.labels_GM[group].clamp_min(1)
            loss_M = loss_M + share * config.rank_mse_weight * mean_M
    if config.pairwise_weight > 0.0:
        everyone_ZN, primary_ZN = (_session_rows(counted_MNO) for counted_MNO in groups)
        per_session_GM = config.pairwise_weight / counts.pair_sessions_GM.clamp_min(1).to(score_MNO.dtype)
        weights_GZ = (
            share * per_session_M.repeat_interleave(score_MNO.shape[2])
            for share, per_session_M in zip(_shares(config), per_session_GM.unbind(0), strict=True)
        )
        loss_Z = pairwise_loss(
            _session_rows(score_MNO), _session_rows(target_MNO), everyone_ZN, primary_ZN, *weights_GZ
        )
        loss_M = loss_M + _sum_by_model(loss_Z, num_models)
    return loss_M


def _path_loss_M(
    forecast: Forecast, labels: Labels, config: ObjectiveConfig, counts: Counts, num_models: int
) -> Tensor:
    known_SOH = _known_path_SOH(labels)
    actual_SOH = torch.where(known_SOH, labels.path_SOH, 0.0)
    expected_SOH = torch.where(known_SOH, forecast.path_SOH.to(actual_SOH.dtype), 0.0)
    total_SOH = torch.zeros_like(actual_SOH)
    if config.path_weight > 0.0:
        distance = functional.huber_loss if config.path_loss == "huber" else functional.mse_loss
        total_SOH = total_SOH + config.path_weight * distance(expected_SOH, actual_SOH, reduction="none")
    if config.volatility_weight > 0.0:
        sd_SOH = torch.where(known_SOH, forecast.volatility_SOH.to(actual_SOH.dtype), 1.0)
        nll_SOH = 0.5 * ((actual_SOH - expected_SOH.detach()) / sd_SOH).square() + sd_SOH.log()
        total_SOH = total_SOH + config.volatility_weight * nll_SOH
    # What is not known was set to expected = actual = 0 and sd = 1, which costs nothing.
    return _sum_by_model(total_SOH, num_models) / counts.path_M.clamp_min(1)


def _count(labels: Labels, config: ObjectiveConfig, num_models: int) -> Counts:
    target_MNO = _by_model(labels.target_SO, num_models)
    groups = _groups(labels, config, num_models)
    uneven = []
    for counted_MNO in groups:
        highest_MO = torch.where(counted_MNO, target_MNO, -torch.inf).amax(1)
        lowest_MO = torch.where(counted_MNO, target_MNO, torch.inf).amin(1)
        uneven.append((highest_MO > lowest_MO).sum(1))
    return Counts(
        torch.stack([counted_MNO.any(1).sum(1) for counted_MNO in groups]),
        torch.stack([counted_MNO.sum((1, 2)) for counted_MNO in groups]),
        torch.stack(uneven),
        _sum_by_model(_known_path_SOH(labels), num_models),
        _sum_by_model(_known_direction_SO(labels), num_models),
    )


def _shares(config: ObjectiveConfig) -> tuple[float, float]:
    return 1.0 - config.primary_share, config.primary_share


def _groups(labels: Labels, config: ObjectiveConfig, num_models: int) -> tuple[Tensor, Tensor]:
    """Return the counted symbols of each group, [M, N, O]: labelled, in a session with enough of the group's labels."""
    everyone_MNO = _by_model(labels.labelled_SO, num_models)
    primary_MNO = _by_model(labels.labelled_SO & labels.primary_S.unsqueeze(-1), num_models)

    def enough(member_MNO: Tensor) -> Tensor:
        return member_MNO & (member_MNO.sum(1, keepdim=True) >= config.min_labels_per_session)

    return enough(everyone_MNO), enough(primary_MNO)


def _known_path_SOH(labels: Labels) -> Tensor:
    return labels.path_SOH.isfinite() & labels.labelled_SO.unsqueeze(-1)


def _known_direction_SO(labels: Labels) -> Tensor:
    return labels.up_SO.isfinite() & labels.labelled_SO


def _by_model(tensor_SO: Tensor, num_models: int) -> Tensor:
    return tensor_SO.reshape(num_models, -1, tensor_SO.shape[1])


def _sum_by_model(tensor: Tensor, num_models: int) -> Tensor:
    return tensor.reshape(num_models, -1).sum(1)


def _session_rows(tensor_MNO: Tensor) -> Tensor:
    return tensor_MNO.transpose(1, 2).flatten(0, 1)
