"""The optimiser loop: one stage fits a stack of models, resumes bit for bit, and stops on a non-finite loss.

Every model of the stack has its own data, schedule, clipping, moments and early stopping, as if it were alone; finished
ones leave the stack. Pooled training is a stack of one.
Axes: M models of the stage, A of them still in the stack, P numbers of one model.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vnfleet.core.errors import BadDataError, ResourceError
from vnfleet.training.batches import Batch, Batches
from vnfleet.training.checkpoint import CheckpointRule, StageCheckpoints, StageState
from vnfleet.training.environment import MAX_SPLITS
from vnfleet.training.machine.memory import MemoryWatch, hand_back_freed, is_out_of_memory
from vnfleet.training.objectives import Counts, count_labels
from vnfleet.training.optimiser import Ema, FlatAdamW, LossScale, clip_rows, learning_rate_at
from vnfleet.training.parameters import ParameterLayout
from vnfleet.training.recipe import ObjectiveConfig, TrainingConfig

_STEPS_BETWEEN_SPLITS = 100
_CHECK_EVERY = 16  # on a GPU, reading the health of a step back from the device stalls it
_log = logging.getLogger(__name__)


class Progress(Protocol):
    """Told after every step how far a unit is: stage name, steps done, steps planned at most, a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Show or record the progress; must be quick."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What a loss is told of a step: models in the stack, step, part of it, the step's label counts and labels."""

    models: tuple[int, ...]
    step: int
    part: int
    counts: Counts
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One fit of M models: what to optimise, on which batches, for how long.

    Attributes
    ----------
    name : shown to people and part of the checkpoint key. models : a name per model.
    layout, initial_MP : where parameters lie in a row, and the rows to start from.
    bind : makes the network (or the deltas) use rows of values and gradients.
    loss : loss per model [A] of one batch, with gradients.
    epochs : epochs to run per model. schedule_epochs : length of the learning-rate cycle, `epochs` of it are run.
    judge : figure per model, higher is better, for rows of values and the models they belong to, after each of their
        epochs; None means that nothing is judged.
    """

    name: str
    models: tuple[str, ...]
    layout: ParameterLayout
    initial_MP: Tensor
    bind: Callable[[Tensor, Tensor], None]
    batches: Batches
    loss: Callable[[Batch, StepContext], Tensor]
    epochs: tuple[int, ...]
    schedule_epochs: int
    learning_rate: float
    judge: Callable[[Tensor, Sequence[int]], Sequence[float]] | None = None


@dataclass(slots=True, kw_only=True)
class Workshop:
    """What a stage is trained with: settings, where checkpoints go, memory, and who is told.

    splits : each batch is cut into so many parts that fit memory; raised when memory runs out, told to `on_splits`.
    """

    training: TrainingConfig
    objective: ObjectiveConfig
    checkpoints: StageCheckpoints
    rule: CheckpointRule
    progress: Progress
    memory: MemoryWatch
    device: str = "cpu"
    scales_loss: bool = False
    compiled: bool = False
    splits: int = 1
    on_splits: Callable[[int, str], None] = lambda _splits, _why: None
    clock: Callable[[], float] = time.monotonic


def fit_stage(stage: Stage, shop: Workshop) -> StageState:
    """Run `stage` from its newest checkpoint, or from the start; `state.result_MP` holds the fitted rows.

    With a judge and patience, the rows of each model's best epoch are kept; else those of its last epoch.

    Raises
    ------
    BadDataError
        When a loss or gradient is not finite: training stops before the parameters are touched.
    ResourceError
        When memory runs out however small a batch is cut, or the disk is full.
    """
    with warnings.catch_warnings():
        # Views of a row are no dense blocks; autograd adds into them all the same, in place.
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
        return _Fit(stage, shop).run()


def rehearsal(stage: Stage, shop: Workshop) -> Callable[[], object]:
    """Return a function that does one step of `stage` after the other, for timing; nothing is saved."""
    fit = _Fit(stage, shop)
    stage.bind(fit.value_AP, fit.grad_AP)

    def run() -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
            fit._one_step()  # noqa: SLF001 - our own
        fit.state.step = (fit.state.step + 1) % min(fit.planned_M)

    return run


class _Fit:
    """One running stage."""

    def __init__(self, stage: Stage, shop: Workshop) -> None:
        self.stage, self.shop = stage, shop
        num_models = len(stage.models)
        self.ends_ME = [
            np.cumsum([stage.batches.steps_in_epoch(model, epoch) for epoch in range(stage.schedule_epochs)])
            for model in range(num_models)
        ]
        self.planned_M = [int(ends[epochs - 1]) for ends, epochs in zip(self.ends_ME, stage.epochs, strict=True)]
        if not all(self.planned_M):
            raise BadDataError("too few sessions to train on", where=stage.name)
        self.value_AP = stage.initial_MP.to(shop.device).clone()
        self.grad_AP = torch.zeros_like(self.value_AP)
        self.optimiser = self._new_optimiser()
        self.ema = Ema(self.value_AP, shop.training.ema_decay) if shop.training.ema_decay else None
        self.scale = LossScale(num_models, enabled=shop.scales_loss, device=shop.device)
        self.best_AP = self.value_AP.clone()
        self.result_MP = torch.zeros_like(self.value_AP)
        self.failed_A = torch.zeros(num_models, dtype=torch.bool, device=shop.device)
        self.state = StageState(
            active=list(range(num_models)), history=[[] for _ in stage.models], best_epoch=[0] * num_models
        )
        self.patience = shop.training.patience_epochs
        self.split_at = -_STEPS_BETWEEN_SPLITS

    def _new_optimiser(self) -> FlatAdamW:
        decay_P = self.stage.layout.decayed(self.value_AP)
        return FlatAdamW(self.value_AP, decay_P, self.shop.training.weight_decay, compiled=self.shop.compiled)

    def run(self) -> StageState:
        """Run to the end."""
        shop, state = self.shop, self.state
        saved = shop.checkpoints.latest()
        if saved is not None:
            self._restore(saved)
            state = self.state
        self.stage.bind(self.value_AP, self.grad_AP)
        total = max(self.planned_M)
        shop.rule.start(state.step, self._epochs_done(), shop.clock())
        while state.active:
            loss_A = self._one_step()
            state.step += 1
            ended = self._end_epochs()
            if not state.active or shop.rule.is_due(state.step, self._epochs_done(), total, shop.clock()):
                self._check_health()
                self._save()
                shop.rule.start(state.step, self._epochs_done(), shop.clock())
            if ended:
                hand_back_freed(shop.device)  # batches of many sizes leave holes in the heap
            if ended or shop.device == "cpu" or state.step % _CHECK_EVERY == 0:
                shop.progress(self.stage.name, min(state.step, total), total, self._note(loss_A))
        return state

    def _one_step(self) -> Tensor:
        """Do one optimisation step; when memory runs out on the way to its gradient, begin again in smaller parts."""
        shop = self.shop
        while True:
            try:
                loss_A, learns_A = self._gradient()
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if shop.splits >= MAX_SPLITS:
                    raise ResourceError(
                        "memory ran out even with the smallest batches",
                        where=self.stage.name,
                        fix="free memory, lower [machine] processes, or train on fewer symbols",
                    ) from error
            self._split("memory ran out")
        if learns_A is not None:
            self._update(loss_A, learns_A)
        return loss_A

    def _split(self, why: str) -> None:
        self.shop.splits *= 2
        self.split_at = self.state.step
        self.grad_AP.zero_()
        hand_back_freed(self.shop.device)
        self.shop.on_splits(self.shop.splits, f"{why} in {self.stage.name}, step {self.state.step}")

    def _gradient(self) -> tuple[Tensor, Tensor | None]:
        """Fill the gradient of this step; return the losses, and which models have a label at all (None: no model)."""
        stage, shop, state = self.stage, self.shop, self.state
        lately = state.step - self.split_at < _STEPS_BETWEEN_SPLITS
        if not lately and shop.splits < MAX_SPLITS and shop.memory.check() == "over":
            self._split("memory is nearly full")
        models = tuple(state.active)
        places = [self._place(model) for model in models]
        parts = stage.batches.parts(models, places, shop.splits)
        loss_A = self.value_AP.new_zeros(len(models))
        if not parts:
            return loss_A, None
        counts = count_labels([part.labels for part in parts], shop.objective, len(models))
        labels = torch.stack([part.labels.labelled_SO.sum() for part in parts]).sum()
        self.grad_AP.zero_()
        for index, part in enumerate(parts):
            context = StepContext(models=models, step=state.step, part=index, counts=counts, labels=labels)
            part_loss_A = stage.loss(part, context)
            torch.autograd.backward(self.scale.scaled(part_loss_A).sum())
            loss_A = loss_A + part_loss_A.detach()
        return loss_A, counts.learns_M(shop.objective)

    def _update(self, loss_A: Tensor, learns_A: Tensor) -> None:
        """Clip the gradient and take the step with those models whose loss and gradient are finite."""
        shop, state = self.shop, self.state
        norm_A = clip_rows(self.grad_AP, shop.training.clip_norm, self.scale.scale_M if self.scale.enabled else None)
        finite_A = torch.isfinite(norm_A)
        # With loss scaling an overflowing gradient is a reason to halve the scale, not to stop.
        self.failed_A |= ~torch.isfinite(loss_A) | (~finite_A & (not self.scale.enabled))
        if shop.device == "cpu" or state.step % _CHECK_EVERY == 0:
            self._check_health()
        fine_A = finite_A & torch.isfinite(loss_A) & learns_A
        self.optimiser.step(self.grad_AP, self._rates(state.active), fine_A)
        if self.ema is not None:
            self.ema.update(self.value_AP, fine_A)
        self.scale.update(finite_A, learns_A)

    def _check_health(self) -> None:
        """Stop on a loss or gradient that was not finite; such a step left the parameters as they were."""
        if self.scale.enabled:
            self.scale.check(f"{self.stage.name}, step {self.state.step}")
        if bool(self.failed_A.any()):
            names = [self.stage.models[self.state.active[row]] for row in self.failed_A.nonzero().flatten().tolist()]
            raise BadDataError(
                "the training loss or its gradient is not finite, training stopped",
                where=f"{self.stage.name}, step {self.state.step}",
                found=", ".join(names[:5]),
                fix="look for infinite or absurd values in the features of that symbol: vnfleet check",
            )

    def _rates(self, models: Sequence[int]) -> Tensor:
        training, stage = self.shop.training, self.stage
        rates = [
            learning_rate_at(
                self.state.step,
                int(self.ends_ME[model][-1]),
                stage.learning_rate,
                training.warmup_frac,
                training.schedule,
            )
            for model in models
        ]
        return torch.tensor(rates, dtype=self.value_AP.dtype, device=self.value_AP.device)

    def _place(self, model: int) -> tuple[int, int]:
        """Return (epoch, step in it) of the coming step of one model."""
        ends = self.ends_ME[model]
        epoch = int(np.searchsorted(ends, self.state.step, side="right"))
        return epoch, self.state.step - (int(ends[epoch - 1]) if epoch else 0)

    def _epochs_done(self) -> int:
        """Return the epochs that the furthest model has behind it."""
        return max(int(np.searchsorted(ends, self.state.step, side="right")) for ends in self.ends_ME)

    def _end_epochs(self) -> bool:
        """Judge the models whose epoch ends here, let finished ones leave the stack; return whether any epoch ended."""
        state, judge = self.state, self.stage.judge
        at_end = [row for row, model in enumerate(state.active) if state.step in self.ends_ME[model]]
        if not at_end:
            return False
        self._check_health()
        current_AP = self.value_AP if self.ema is None else self.ema.shadow_MP
        if judge is not None:
            models = [state.active[row] for row in at_end]
            for row, model, figure in zip(at_end, models, judge(current_AP[at_end], models), strict=True):
                history = state.history[model]
                history.append(float(figure))
                if history[-1] >= max(history) or not self.patience:
                    state.best_epoch[model] = len(history)
                    self.best_AP[row] = current_AP[row]
        finished = [row for row in at_end if self._is_finished(state.active[row])]
        for row in finished:
            self.result_MP[state.active[row]] = self.best_AP[row] if judge is not None else current_AP[row]
        if finished:
            self._compact([row for row in range(len(state.active)) if row not in finished])
        return True

    def _is_finished(self, model: int) -> bool:
        if self.state.step >= self.planned_M[model]:
            return True
        history = self.state.history[model]
        return bool(history) and len(history) - self.state.best_epoch[model] >= self.patience > 0

    def _compact(self, rows: list[int]) -> None:
        """Keep only these rows of the stack."""
        self.state.active = [self.state.active[row] for row in rows]
        if not rows:
            return
        kept = torch.tensor(rows, device=self.value_AP.device)
        self.value_AP, self.best_AP = self.value_AP[kept], self.best_AP[kept]
        self.grad_AP = torch.zeros_like(self.value_AP)
        self.failed_A = self.failed_A[kept]
        self.optimiser.keep(kept, self.value_AP)
        self.scale.keep(kept)
        if self.ema is not None:
            self.ema.keep(kept)
        self.stage.bind(self.value_AP, self.grad_AP)

    def _note(self, loss_A: Tensor) -> str:
        figures = [max(history) for history in self.state.history if history]
        words = f"loss {float(loss_A.mean()):.3f}"
        if len(self.stage.models) > 1:
            words += f", {len(self.state.active)} of {len(self.stage.models)} models"
        return words + (f", best validation {float(np.mean(figures)):.4f}" if figures else "")

    def _save(self) -> None:
        tensors = {"result": self.result_MP}
        if self.state.active:
            tensors |= {"value": self.value_AP} | {f"adam/{k}": v for k, v in self.optimiser.state().items()}
            tensors |= {f"scale/{k}": v for k, v in self.scale.state().items()}
            if self.stage.judge is not None:
                tensors["best"] = self.best_AP
            if self.ema is not None:
                tensors |= {f"ema/{k}": v for k, v in self.ema.state().items()}
        self.state.tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        self.shop.checkpoints.save(self.state)

    def _restore(self, saved: StageState) -> None:
        device = self.shop.device
        tensors = {name: tensor.to(device) for name, tensor in saved.tensors.items()}
        self.state = saved
        self.result_MP = tensors["result"]
        if not saved.active:
            return
        self.value_AP = tensors["value"].clone()
        self.grad_AP = torch.zeros_like(self.value_AP)
        self.best_AP = tensors.get("best", self.value_AP).clone()
        self.failed_A = self.failed_A[: len(saved.active)]
        self.optimiser = self._new_optimiser()
        self.optimiser.load_state(_below(tensors, "adam/"))
        self.scale = LossScale(len(saved.active), enabled=self.shop.scales_loss, device=device)
        self.scale.load_state(_below(tensors, "scale/"))
        if self.ema is not None:
            self.ema = Ema(self.value_AP, self.shop.training.ema_decay)
            self.ema.load_state(_below(tensors, "ema/"))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
