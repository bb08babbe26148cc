"""AdamW, clipping, averaging and loss scaling for a stack of models whose parameters are rows of one matrix.

Every row is treated exactly as if its model were trained alone: own norm, own rate, own step count. A row that is not
`ok` (its gradient is not finite, or it took no part in the step) keeps every number it had; that is decided on the
device, without waiting for it.

Axes: M models, P numbers of one model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from vnfleet.core.errors import BadDataError

Schedule = Literal["onecycle", "cosine", "constant"]

# Numbers of one visit: what stays in a core's cache (per thread), and what fills an accelerator.
_BLOCK_CPU = 2**15
_BLOCK_ACCELERATOR = 2**24
_CLIP_EPSILON = 1e-6
INITIAL_LOSS_SCALE = 2.0**16
GROWTH_INTERVAL_STEPS = 2000


def learning_rate_at(step: int, total: int, peak: float, warmup_frac: float, schedule: Schedule) -> float:
    """Return the learning rate of one step (0 .. total - 1) of a cycle of `total` steps.

    ``onecycle`` (Smith and Topin 2018): cosine from peak / 25 up to `peak` over the warm-up (at least one step), then
    cosine down to peak / 1e4. ``cosine``: linear warm-up that reaches `peak` at the first step after it, then cosine
    to 0 at step `total`. ``constant``: the same warm-up, then `peak`.
    """
    warmup = round(warmup_frac * total)
    if schedule == "onecycle":
        warmup = max(1, warmup)
        if step < warmup:
            return _cosine(peak / 25.0, peak, step / warmup)
        return _cosine(peak, peak / 1e4, (step - warmup) / max(1, total - warmup))
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak if schedule == "constant" else _cosine(peak, 0.0, (step - warmup) / max(1, total - warmup))


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def clip_rows(grad_MP: Tensor, limit: float, scale_M: Tensor | None = None) -> Tensor:
    """Scale every row of `grad_MP`, in place, to a norm of at most `limit`; return the norms before it, [M].

    With `scale_M` the rows are gradients of losses that were multiplied by it: they are divided by it in the same
    visit, and the norms returned are those after the division. A row that is not finite has a norm that is not finite
    and is left without meaning.
    """
    norm_M: Tensor = torch.linalg.vector_norm(grad_MP, dim=1)
    if scale_M is not None:
        norm_M = norm_M / scale_M
    factor_M = (limit / (norm_M + _CLIP_EPSILON)).clamp(max=1.0)
    grad_MP.mul_((factor_M if scale_M is None else factor_M / scale_M).unsqueeze(1))
    return norm_M


class FlatAdamW:
    """AdamW (Loshchilov and Hutter 2019) on the rows of one matrix.

    On a CPU every row goes through torch's fused kernel; on an accelerator all rows are updated at once, in plain
    operations or, `compiled`, in one kernel. Each number is computed in the same way whatever the stack and the number
    of threads, so that neither changes a bit of it.

    Parameters
    ----------
    value_MP : the parameters, contiguous, changed in place.
    decay_P : 1.0 where weight decay applies, 0.0 where it does not.
    weight_decay, betas, eps : as in `torch.optim.AdamW`.
    compiled : fuse the update of all rows into one kernel with `torch.compile`; needs a compiler.

    Attributes
    ----------
    exp_avg_MP, exp_avg_sq_MP : the moments.
    steps_M : steps taken by each model, int64.
    """

    def __init__(
        self,
        value_MP: Tensor,
        decay_P: Tensor,
        weight_decay: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        compiled: bool = False,
    ) -> None:
        assert value_MP.ndim == 2
        assert decay_P.shape == value_MP.shape[1:]
        self.value_MP = value_MP
        self.weight_decay_P = (weight_decay * decay_P).to(value_MP)
        self.betas, self.eps = betas, eps
        self.exp_avg_MP, self.exp_avg_sq_MP = torch.zeros_like(value_MP), torch.zeros_like(value_MP)
        self.steps_M = torch.zeros(len(value_MP), dtype=torch.int64, device=value_MP.device)
        self._row_by_row = value_MP.device.type == "cpu" and not compiled
        self._decay_runs = _equal_runs(weight_decay * decay_P) if self._row_by_row else []
        self._update: Callable[..., None] = _compiled_update() if compiled else _update
        self._compiled = compiled

    @torch.no_grad()
    def step(self, grad_MP: Tensor, rate_M: Tensor, ok_M: Tensor | None = None) -> None:
        """Take one step at the learning rates `rate_M`; rows that are not `ok_M` (default: all are) stay as they are.

        `grad_MP` is only read.
        """
        if ok_M is None:
            ok_M = torch.ones_like(self.steps_M, dtype=torch.bool)
        self.steps_M += ok_M
        if self._row_by_row:
            for row in ok_M.nonzero().flatten().tolist():
                self._step_row(row, grad_MP[row], float(rate_M[row]))
        else:
            self._step_together(grad_MP, rate_M, ok_M)

    def _step_row(self, row: int, grad_P: Tensor, rate: float) -> None:
        lengths = [length for length, _ in self._decay_runs]
        rows = (self.value_MP[row], grad_P, self.exp_avg_MP[row], self.exp_avg_sq_MP[row])
        runs = list(zip(*(torch.split(row_P, lengths) for row_P in rows), strict=True))
        steps = self.steps_M[row].float()
        for decay in {decay for _, decay in self._decay_runs}:
            chosen = [run for run, (_, own) in zip(runs, self._decay_runs, strict=True) if own == decay]
            value, grad, exp_avg, exp_avg_sq = (list(tensors) for tensors in zip(*chosen, strict=True))
            torch._fused_adamw_(  # the kernel of torch.optim.AdamW(fused=True), without its bookkeeping
                value,
                grad,
                exp_avg,
                exp_avg_sq,
                [],
                [steps] * len(value),
                lr=rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
            )

    def _step_together(self, grad_MP: Tensor, rate_M: Tensor, ok_M: Tensor) -> None:
        value_MP, (beta1, beta2) = self.value_MP, self.betas
        # In double precision, as torch.optim does it: 1 - 0.999 ** 1 has 4 good digits in float32.
        taken_M, part_M = self.steps_M.clamp_min(1).double(), ok_M.double()
        scalars_KM = torch.stack(
            [
                1.0 - (1.0 - beta1) * part_M,
                (1.0 - beta1) * part_M,
                1.0 - (1.0 - beta2) * part_M,
                (1.0 - beta2) * part_M,
                rate_M * part_M,
                rate_M * part_M / (1.0 - beta1**taken_M),
                (1.0 - beta2**taken_M).sqrt(),
            ]
        )
        scalars_KM1 = scalars_KM.to(value_MP.dtype).unsqueeze(2)
        width = value_MP.shape[1] if self._compiled else _block_columns(value_MP)
        for start in range(0, value_MP.shape[1], width):
            columns = slice(start, start + width)
            self._update(
                value_MP[:, columns],
                grad_MP[:, columns],
                self.exp_avg_MP[:, columns],
                self.exp_avg_sq_MP[:, columns],
                self.weight_decay_P[columns],
                scalars_KM1,
                self.eps,
            )

    def keep(self, rows: Tensor, value_MP: Tensor) -> None:
        """Keep the models at `rows`; `value_MP` is the matrix of just their parameters."""
        assert value_MP.shape == (len(rows), self.value_MP.shape[1])
        self.value_MP = value_MP
        self.exp_avg_MP = self.exp_avg_MP[rows]
        self.exp_avg_sq_MP = self.exp_avg_sq_MP[rows]
        self.steps_M = self.steps_M[rows]

    def state(self) -> dict[str, Tensor]:
        """Return the live state tensors by name: save them, or copy them, before the next step."""
        return {"exp_avg": self.exp_avg_MP, "exp_avg_sq": self.exp_avg_sq_MP, "steps": self.steps_M}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `state` returned, from any device; raises `BadDataError` when it does not fit."""
        _copy_state("optimiser", self.state(), state)


def _equal_runs(values_P: Tensor) -> list[tuple[int, float]]:
    """Return length and value of every run of equal numbers."""
    values, lengths = torch.unique_consecutive(values_P, return_counts=True)
    return list(zip(lengths.tolist(), values.tolist(), strict=True))


def _block_columns(value_MP: Tensor) -> int:
    """Return how many columns of all rows are visited at once."""
    if value_MP.device.type == "cpu":
        return max(256, _BLOCK_CPU * max(2, torch.get_num_threads()) // len(value_MP))
    return max(256, _BLOCK_ACCELERATOR // len(value_MP))


def _update(
    value_MP: Tensor,
    grad_MP: Tensor,
    exp_avg_MP: Tensor,
    exp_avg_sq_MP: Tensor,
    weight_decay_P: Tensor,
    scalars_KM1: Tensor,
    eps: float,
) -> None:
    """One AdamW step in place; the scalars of a row that takes no part are 0 for what is new and 1 for what is old."""
    keep1_M1, take1_M1, keep2_M1, take2_M1, rate_M1, step_M1, root_bias2_M1 = scalars_KM1.unbind(0)
    grad_MP = torch.nan_to_num(grad_MP, 0.0, 0.0, 0.0)  # infinity times 0 is not 0
    value_MP.mul_(1.0 - rate_M1 * weight_decay_P)
    exp_avg_MP.mul_(keep1_M1).add_(grad_MP * take1_M1)
    exp_avg_sq_MP.mul_(keep2_M1).add_(grad_MP.square_().mul_(take2_M1))
    denominator_MP = exp_avg_sq_MP.sqrt().div_(root_bias2_M1).add_(eps)
    value_MP.sub_((exp_avg_MP / denominator_MP).mul_(step_M1))


@cache
def _compiled_update() -> Callable[..., None]:
    # dynamic: a stack that shrinks must not compile anew for every size.
    return torch.compile(_update, dynamic=True, fullgraph=True)


class Ema:
    """Exponential moving average of parameters, without the pull of the starting point.

    After n updates `shadow_MP` is sum_i d^(n-i) value_i / sum_i d^(n-i), the zero-started average divided by
    1 - d^n, kept directly in that form: it can be read at any time, and the first update replaces the initial
    parameters altogether. A decay of 0 is the last value.
    """

    def __init__(self, value_MP: Tensor, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay must lie in [0, 1), found {decay}")
        self.decay = decay
        self.shadow_MP = value_MP.detach().clone()
        self.updates_M = torch.zeros(len(value_MP), dtype=torch.int64, device=value_MP.device)

    @torch.no_grad()
    def update(self, value_MP: Tensor, ok_M: Tensor | None = None) -> None:
        """Take in the parameters after a step; rows that are not `ok_M` (default: all are) stay as they are."""
        if ok_M is None:
            ok_M = torch.ones_like(self.updates_M, dtype=torch.bool)
        self.updates_M += ok_M
        share_M = (1.0 - self.decay) / (1.0 - self.decay ** self.updates_M.clamp_min(1).double())
        share_M1 = torch.where(ok_M, share_M, 0.0).to(value_MP.dtype).unsqueeze(1)
        width = _block_columns(value_MP)
        for start in range(0, value_MP.shape[1], width):
            columns = slice(start, start + width)
            self.shadow_MP[:, columns].mul_(1.0 - share_M1).add_(value_MP[:, columns] * share_M1)

    def keep(self, rows: Tensor) -> None:
        """Keep the models at `rows`."""
        self.shadow_MP, self.updates_M = self.shadow_MP[rows], self.updates_M[rows]

    def state(self) -> dict[str, Tensor]:
        """Return the live state tensors by name: save them, or copy them, before the next update."""
        return {"shadow": self.shadow_MP, "updates": self.updates_M}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `state` returned, from any device; raises `BadDataError` when it does not fit."""
        _copy_state("weight average", self.state(), state)


class LossScale:
    """Loss scaling for fp16 (Micikevicius et al. 2018), one scale per model, kept on the device.

    The loss is multiplied by the scale before the backward pass and the gradient divided by it after, so that small
    gradients survive fp16. A model whose gradient overflowed skips the step and halves its scale; after 2,000 good
    steps in a row the scale doubles.

    Usage of one step::

        torch.autograd.backward(scale.scaled(loss_M).sum())
        norm_M = clip_rows(grad_MP, limit, scale.scale_M)
        ok_M = norm_M.isfinite() & used_M
        optimiser.step(grad_MP, rate_M, ok_M)
        scale.update(norm_M.isfinite(), used_M)

    With `enabled` False the scale is 1 for good and `update` does nothing: one code path for every precision.
    """

    def __init__(
        self,
        num_models: int,
        *,
        device: torch.device | str = "cpu",
        enabled: bool = True,
        growth_interval_steps: int = GROWTH_INTERVAL_STEPS,
    ) -> None:
        self.enabled = enabled
        self.growth_interval_steps = growth_interval_steps
        self.scale_M = torch.full((num_models,), INITIAL_LOSS_SCALE if enabled else 1.0, device=device)
        self.good_steps_M = torch.zeros(num_models, dtype=torch.int64, device=device)

    def scaled(self, loss_M: Tensor) -> Tensor:
        """Return the losses to call backward on."""
        return loss_M * self.scale_M.to(loss_M.dtype) if self.enabled else loss_M

    @torch.no_grad()
    def update(self, finite_M: Tensor, used_M: Tensor | None = None) -> None:
        """Adapt the scales to what the step met; models not in `used_M` (default: all are) took no part in it."""
        if not self.enabled:
            return
        if used_M is None:
            used_M = torch.ones_like(finite_M)
        good_M = torch.where(finite_M, self.good_steps_M + 1, 0)
        grows_M = good_M == self.growth_interval_steps
        doubled_M = torch.where((self.scale_M * 2.0).isfinite(), self.scale_M * 2.0, self.scale_M)
        scale_M = torch.where(finite_M, torch.where(grows_M, doubled_M, self.scale_M), self.scale_M * 0.5)
        self.scale_M = torch.where(used_M, scale_M, self.scale_M)
        self.good_steps_M = torch.where(used_M, torch.where(grows_M, 0, good_M), self.good_steps_M)

    def check(self, where: str) -> None:
        """Raise `BadDataError` when a scale fell below 1. This waits for the device: call it once in a while."""
        low = (self.scale_M < 1.0).nonzero().flatten().tolist()
        if low:
            raise BadDataError(
                "the gradients overflow fp16 at every loss scale, training stopped",
                expected="a loss scale of at least 1",
                found=f"{float(self.scale_M.min()):g} in {len(low)} of {len(self.scale_M)} models (rows {low[:5]})",
                where=where,
                fix='lower the learning rate, or train in float32 (precision = "float32" in [machine])',
            )

    def keep(self, rows: Tensor) -> None:
        """Keep the models at `rows`."""
        self.scale_M, self.good_steps_M = self.scale_M[rows], self.good_steps_M[rows]

    def state(self) -> dict[str, Tensor]:
        """Return the live state tensors by name: save them, or copy them, before the next update."""
        return {"scale": self.scale_M, "good_steps": self.good_steps_M}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy in what `state` returned, from any device; raises `BadDataError` when it does not fit."""
        _copy_state("loss scale", self.state(), state)


def _copy_state(what: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
        return {name: (*tensor.shape, tensor.dtype) for name, tensor in sorted(tensors.items())}

    if shapes(own) != shapes(given):
        raise BadDataError(
            f"the saved state of the {what} does not fit this stack",
            expected=shapes(own),
            found=shapes(given),
            fix="start the stage anew: it was saved by another recipe or another stack",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])
