"""Layers of many equal networks at once: every parameter carries a leading model axis, one call serves all models.

Sequences are flat and model-major: of S = M x N sequences, the n-th of model m is row m N + n. With one model these are
the ordinary layers. Axes: M models, S sequences, T sessions, D width.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_NORM_EPSILON: Final = 1e-5


class StackedLinear(nn.Module):
    """x W_m^T + b_m for the sequences of model m; weight [M, out, in], bias [M, out]."""

    def __init__(self, num_models: int, width_in: int, width_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_models, width_out, width_in))
        self.bias = nn.Parameter(torch.zeros(num_models, width_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x [S, ..., in]."""
        if len(self.weight) == 1:
            return functional.linear(x, self.weight[0], None if self.bias is None else self.bias[0])
        rows = x.reshape(len(self.weight), -1, x.shape[-1])
        transposed = self.weight.transpose(1, 2)
        if self.bias is None:
            mapped = torch.bmm(rows, transposed)
        else:
            mapped = torch.baddbmm(self.bias.unsqueeze(1), rows, transposed)
        return mapped.view(*x.shape[:-1], -1)


class StackedNorm(nn.Module):
    """LayerNorm with one gain and one offset per model [M, D]; the gain may carry a per-sequence delta."""

    def __init__(self, num_models: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_models, width))
        self.bias = nn.Parameter(torch.zeros(num_models, width))

    def forward(self, x_STD: Tensor, gain_SD: Tensor | None = None) -> Tensor:
        """Return x normalised over D; `gain_SD` is added to the gain of its sequence."""
        width = (x_STD.shape[-1],)
        if gain_SD is None and len(self.weight) == 1:
            return functional.layer_norm(x_STD, width, self.weight[0], self.bias[0], _NORM_EPSILON)
        normed = functional.layer_norm(x_STD, width, eps=_NORM_EPSILON)
        gain, offset = (_for_sequences(part, x_STD.shape[0]) for part in (self.weight, self.bias))
        if gain_SD is not None:
            gain = gain + gain_SD.unsqueeze(1)
        return torch.addcmul(offset.to(normed.dtype), normed, gain.to(normed.dtype))


def _for_sequences(part_MD: Tensor, num_sequences: int) -> Tensor:
    """Return each model's row for each of its sequences, [S, 1, D]."""
    models, width = part_MD.shape
    return part_MD.unsqueeze(1).expand(models, num_sequences // models, width).reshape(num_sequences, 1, width)


def fill_as_if_alone(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the linear maps of a one-model `module` uniformly in +-1 / sqrt(width in); norms stay the identity."""
    for layer in module.modules():
        if isinstance(layer, StackedLinear):
            bound = 1.0 / math.sqrt(layer.weight.shape[-1])
            for tensor in (layer.weight, layer.bias):
                if tensor is not None:
                    nn.init.uniform_(tensor, -bound, bound, generator=generator)
