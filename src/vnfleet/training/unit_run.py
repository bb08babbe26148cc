"""One unit while it is being worked on: its rows, environment, checkpoints, and how its loss is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vnfleet.model.stockformer import Deltas, Dropout, Forecast, Stockformer, StockformerConfig
from vnfleet.training.batches import Batch
from vnfleet.training.checkpoint import CheckpointRule, CheckpointSink, StageCheckpoints
from vnfleet.training.dataset import TrainingData
from vnfleet.training.environment import FrozenEnvironment
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.memory import MemoryWatch, cuda_bytes, limit_bytes, process_tree_bytes
from vnfleet.training.objectives import loss_of
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import ObjectiveConfig, Recipe
from vnfleet.training.trainer import Progress, StepContext, Workshop


@dataclass(frozen=True, slots=True)
class UnitRun:
    """One unit being worked on: what, on which rows, where its checkpoints go, how, and who is told."""

    unit: WorkUnit
    recipe: Recipe
    data: TrainingData
    folder: Path
    environment: FrozenEnvironment
    machine: MachineConfig
    memory: MemoryWatch
    progress: Progress
    sink: CheckpointSink | None = None

    @property
    def config(self) -> StockformerConfig:
        """The shape of this unit's networks."""
        if self.unit.kind == "separate":
            return self.recipe.separate_config(self.unit.seed)
        return self.recipe.member_config(self.unit.seed)

    @property
    def device(self) -> str:
        """Where the unit is trained."""
        return self.environment.now.device

    @property
    def universe_U(self) -> np.ndarray:
        """Indices of the unit's symbols on the data's symbol axis, in universe order."""
        place = {symbol: index for index, symbol in enumerate(self.data.symbols)}
        return np.asarray([place[symbol] for symbol in self.unit.universe if symbol in place], dtype=np.int64)

    @property
    def primary_S(self) -> np.ndarray:
        """The universe as marks on the data's symbol axis."""
        marks_S = np.zeros(len(self.data.symbols), dtype=bool)
        marks_S[self.universe_U] = True
        return marks_S

    @property
    def min_labels(self) -> int:
        """Labels a session needs to be judged; fewer than in training only when the whole universe is smaller."""
        return min(self.recipe.objective.min_labels_per_session, max(2, len(self.universe_U)))

    def decision_sessions(self, start: int, stop: int) -> range:
        """Return [start, stop) without the sessions that lack their context."""
        return range(min(max(start, self.config.context_sessions), stop), stop)

    def workshop(self, stage: str, objective: ObjectiveConfig) -> Workshop:
        """Return what a stage of this unit is trained with."""
        machine, environment = self.machine, self.environment

        def on_splits(splits: int, why: str) -> None:
            environment.change(f"{why}: every batch is now computed in {splits} parts", splits=splits)

        return Workshop(
            training=self.recipe.training,
            objective=objective,
            checkpoints=StageCheckpoints(self.folder / stage, f"{self.unit.unit_id}/{stage}", self.sink),
            rule=CheckpointRule(
                epochs=machine.checkpoint_epochs, minutes=machine.checkpoint_minutes, frac=machine.checkpoint_frac
            ),
            progress=self.progress,
            memory=self.memory,
            device=self.device,
            scales_loss=environment.now.precision == "fp16",
            compiled=environment.now.compiled and environment.now.device_type == "cuda",
            splits=environment.now.splits,
            on_splits=on_splits,
        )

    def forecaster(self, network: Stockformer) -> Callable[..., Forecast]:
        """Return the forward pass of `network` as this unit computes it: compiled or not."""
        return torch.compile(network, dynamic=True) if self.environment.now.compiled else network

    def loss(
        self,
        forward: Callable[..., Forecast],
        batch: Batch,
        context: StepContext,
        dropout: Dropout,
        deltas: Deltas | None = None,
    ) -> Tensor:
        """Return the loss per model of one batch, with matrix products in the environment's precision."""
        now, objective = self.environment.now, self.objective
        with torch.autocast(now.device_type, dtype=now.autocast_type, enabled=now.autocast_type is not None):
            forecast = forward(batch.x_STF, batch.present_ST, batch.labels.target_SO.shape[1], deltas, dropout)
        return loss_of(forecast, batch.labels, objective, context.counts, len(context.models))

    @property
    def objective(self) -> ObjectiveConfig:
        """The terms of this unit's loss."""
        return self.recipe.objective.own_series() if self.unit.kind == "separate" else self.recipe.objective


def memory_watch(machine: MachineConfig, device: str, tell: Callable[[str], None]) -> MemoryWatch:
    """Return the watch over this process tree's memory, or the card's."""
    if device == "cpu":
        return MemoryWatch(
            limit_bytes(machine.memory_limit_gib), machine.memory_warn_frac, tell=tell, used=process_tree_bytes
        )
    total = torch.cuda.get_device_properties(device).total_memory
    limit = min(total, int(machine.memory_limit_gib * 2**30) or total)
    return MemoryWatch(
        limit, machine.memory_warn_frac, tell=tell, used=lambda: cuda_bytes(device), where="memory of the GPU"
    )
