"""The logistic loss on pairs of one session (RankNet, Burges et al. 2005), exact, in bounded memory.

All pairs of N symbols in Z sessions are Z x N x N numbers. They are visited in blocks, loss and gradient in one visit,
so that memory does not grow with the number of pairs. Axes: Z sessions (of any model), N symbols.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

# Pairs of one block: what stays in a core's cache, and what fills an accelerator.
_BLOCK_PAIRS_CPU = 2**17
_BLOCK_PAIRS_ACCELERATOR = 2**24


def pairwise_loss(
    score_ZN: Tensor,
    target_ZN: Tensor,
    everyone_ZN: Tensor,
    primary_ZN: Tensor,
    everyone_weight_Z: Tensor,
    primary_weight_Z: Tensor,
) -> Tensor:
    """Return per session the weighted sum of the mean pair loss over everyone and over the primary symbols; shape [Z].

    A pair is two counted symbols of one session with different targets; it costs log(1 + exp(-(score of the higher -
    score of the lower))). Sessions without pairs cost 0. Scores of symbols that are not counted are never used.

    score_ZN and target_ZN are finite where counted. everyone_ZN and primary_ZN (bool) are the counted symbols of each
    group, the primary ones a part of everyone; the two weights belong to the means of the groups.
    """
    # Ascending, uncounted symbols last: the symbols that one beats are the first `lower` of its row.
    target_ZN, order_ZN = torch.where(everyone_ZN, target_ZN, torch.inf).contiguous().sort(dim=1, stable=True)
    everyone_ZN, primary_ZN = everyone_ZN.gather(1, order_ZN), primary_ZN.gather(1, order_ZN)
    score_ZN = torch.where(everyone_ZN, score_ZN.gather(1, order_ZN), 0.0)
    lower_ZN = torch.where(everyone_ZN, torch.searchsorted(target_ZN, target_ZN), 0)
    primaries_before_ZN = functional.pad(primary_ZN.long().cumsum(1), (1, 0))
    everyone_pairs_Z = lower_ZN.sum(1)
    primary_pairs_Z = torch.where(primary_ZN, primaries_before_ZN.gather(1, lower_ZN), 0).sum(1)
    return cast(
        "Tensor",
        _PairLoss.apply(  # type: ignore[no-untyped-call]
            score_ZN,
            lower_ZN,
            primary_ZN.to(score_ZN.dtype),
            everyone_weight_Z / everyone_pairs_Z.clamp_min(1),
            primary_weight_Z / primary_pairs_Z.clamp_min(1),
        ),
    )


class _PairLoss(torch.autograd.Function):
    """Weighted sum over pairs of sorted sessions; the gradient is made on the way and kept, [Z, N]."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch does not type it
        score_ZN: Tensor,
        lower_ZN: Tensor,
        primary_ZN: Tensor,
        everyone_weight_Z: Tensor,
        primary_weight_Z: Tensor,
    ) -> Tensor:
        """Return the loss [Z]; every pair has its session's weight, and the primary weight on top if both are."""
        num_sessions, num_symbols = score_ZN.shape
        limit = _BLOCK_PAIRS_CPU if score_ZN.device.type == "cpu" else _BLOCK_PAIRS_ACCELERATOR
        height = max(1, limit // max(1, num_sessions * num_symbols))
        place_N = torch.arange(num_symbols, device=score_ZN.device)
        loss_Z, gradient_ZN = score_ZN.new_zeros(num_sessions), torch.zeros_like(score_ZN)
        for start in range(0, num_symbols, height):
            stop = min(start + height, num_symbols)
            high, low = slice(start, stop), slice(0, stop)
            margin = score_ZN[:, high, None] - score_ZN[:, None, low]
            both_primary = (primary_ZN[:, high] * primary_weight_Z[:, None])[:, :, None] * primary_ZN[:, None, low]
            weight = (both_primary + everyone_weight_Z[:, None, None]) * (place_N[low] < lower_ZN[:, high, None])
            loss_Z -= (weight * functional.logsigmoid(margin)).sum((1, 2))
            pull = weight * torch.sigmoid(-margin)
            gradient_ZN[:, high] -= pull.sum(2)
            gradient_ZN[:, low] += pull.sum(1)
        ctx.save_for_backward(gradient_ZN)
        return loss_Z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:  # noqa: ANN401
        """Return the kept gradient, scaled by what came in per session."""
        (gradient_ZN,) = ctx.saved_tensors
        return gradients[0].unsqueeze(1) * gradient_ZN, None, None, None, None
