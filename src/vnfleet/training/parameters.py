"""All parameters of M models as one matrix: clipping, moments, averages and checkpoints are operations on its rows.

Axes: M models, P numbers of one model (each parameter starts at a multiple of 16 numbers; the gaps stay 0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

_ALIGNMENT: Final = 16


@dataclass(frozen=True, slots=True)
class ParameterLayout:
    """Where each parameter of a model lies in its row: shapes and offsets by name, and the length of a row."""

    shapes: dict[str, tuple[int, ...]]
    offsets: dict[str, int]
    width: int

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, ...]]) -> ParameterLayout:
        """Return the layout of parameters with these shapes (without model axis), in the given order."""
        offsets: dict[str, int] = {}
        width = 0
        for name, shape in shapes.items():
            offsets[name] = width
            width += -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
        return ParameterLayout(dict(shapes), offsets, width)

    @staticmethod
    def of_module(module: nn.Module) -> ParameterLayout:
        """Return the layout of a module whose parameters carry a leading model axis."""
        return ParameterLayout.of({name: tuple(each.shape[1:]) for name, each in module.named_parameters()})

    def views(self, rows_MP: Tensor) -> dict[str, Tensor]:
        """Return every parameter [M, *shape] as a view of `rows_MP`."""
        return {
            name: rows_MP[:, self.offsets[name] : self.offsets[name] + math.prod(shape)].view(-1, *shape)
            for name, shape in self.shapes.items()
        }

    def rows(self, models: Iterable[Mapping[str, Tensor]]) -> Tensor:
        """Return the matrix of the given models' parameters (without model axis), a copy."""
        each = list(models)
        first = next(iter(each[0].values()))
        rows_MP = torch.zeros(len(each), self.width, dtype=first.dtype, device=first.device)
        views = self.views(rows_MP)
        for row, parameters in enumerate(each):
            for name, view in views.items():
                view[row].copy_(parameters[name])
        return rows_MP

    def model(self, row_P: Tensor) -> dict[str, Tensor]:
        """Return copies of one model's parameters by name, without model axis."""
        return {name: view[0].detach().clone() for name, view in self.views(row_P.unsqueeze(0)).items()}

    def decayed(self, like: Tensor) -> Tensor:
        """Return 1 where weight decay applies, in matrices, else 0; shape [P]."""
        marks_P = torch.zeros(self.width, dtype=like.dtype, device=like.device)
        for name, view in self.views(marks_P.unsqueeze(0)).items():
            if len(self.shapes[name]) >= 2:
                view.fill_(1.0)
        return marks_P

    def bind(self, module: nn.Module, value_MP: Tensor, grad_MP: Tensor | None = None) -> None:
        """Make the parameters of `module` views of `value_MP`, and their gradients views of `grad_MP`."""
        values = self.views(value_MP)
        gradients = None if grad_MP is None else self.views(grad_MP)
        for name, parameter in module.named_parameters():
            parameter.grad = None
            parameter.data = values[name]
            parameter.grad = None if gradients is None else gradients[name]
