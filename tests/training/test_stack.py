"""Models trained as one stack come out as if each had been trained alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vnfleet.model.stockformer import Stockformer, StockformerConfig, initial_weights
from vnfleet.training.batches import Batch, SeparateBatches
from vnfleet.training.checkpoint import CheckpointRule, StageCheckpoints
from vnfleet.training.dataset import Prepared, Resident, TrainingData, prepare_separate
from vnfleet.training.dropout import DropoutBank
from vnfleet.training.machine.memory import MemoryWatch
from vnfleet.training.objectives import loss_of
from vnfleet.training.parameters import ParameterLayout
from vnfleet.training.recipe import ObjectiveConfig, TrainingConfig
from vnfleet.training.separate import seed_of
from vnfleet.training.trainer import Stage, StepContext, Workshop, fit_stage

OBJECTIVE = ObjectiveConfig(direction_weight=0.1).own_series()
SMALL = StockformerConfig(
    num_features=6, d_model=16, num_heads=2, d_ff=32, band_sessions=6, dropout=0.2, score="return"
)
WINDOW = dataclasses.replace(SMALL, attention="window", window_sessions=11, num_layers=3, head="mlp")
SYMBOLS = (0, 5, 8, 9, 11)
EPOCHS = (10, 10, 4, 10, 10)
JUDGED = -1


@pytest.fixture(scope="module")
def prepared(data: TrainingData) -> Prepared:
    """Return rows of which the symbols of the stack have very different histories."""
    present_ST = data.present_ST.copy()
    for symbol, first in zip(SYMBOLS, (0, 60, 90, 30, 10), strict=True):
        present_ST[symbol, :first] = False
    values_STF = np.where(present_ST[..., None], data.values_STF, 0.0).astype(np.float32)
    ragged = dataclasses.replace(data, present_ST=present_ST, values_STF=values_STF)
    return prepare_separate(ragged, range(145), 145, 10, OBJECTIVE)


def train(
    prepared: Prepared,
    config: StockformerConfig,
    members: Sequence[int],
    folder: Path,
    dtype: torch.dtype,
    *,
    max_steps: int | None = None,
) -> tuple[dict[int, list[float]], dict[int, Tensor]]:
    """Train the models at `members` of the stack; return losses per step and fitted rows by member."""
    seeds = tuple(seed_of(f"S{SYMBOLS[member]}", 0) for member in members)
    network = Stockformer(config, len(members)).to(dtype)
    layout = ParameterLayout.of_module(network)
    bank = DropoutBank(config.dropout)
    resident = prepared.on("cpu")
    exact = Resident(
        *(
            tensor.to(dtype) if tensor.is_floating_point() else tensor
            for tensor in (getattr(resident, field.name) for field in dataclasses.fields(resident))
        )
    )
    losses: dict[int, list[float]] = {member: [] for member in members}

    def loss(batch: Batch, at: StepContext) -> Tensor:
        if max_steps is not None and at.step >= max_steps:
            raise KeyboardInterrupt
        dropout = bank.at(at.step, [seeds[model] for model in at.models], at.part)
        forecast = network(batch.x_STF, batch.present_ST, batch.labels.target_SO.shape[1], None, dropout)
        loss_A = loss_of(forecast, batch.labels, OBJECTIVE, at.counts, len(at.models))
        for model, value in zip(at.models, loss_A.tolist(), strict=True):
            losses[members[model]].append(value)
        return loss_A

    is_window = config.attention == "window"
    stage = Stage(
        name="stack",
        models=tuple(f"S{SYMBOLS[member]}" for member in members),
        layout=layout,
        initial_MP=layout.rows([initial_weights(config, seed) for seed in seeds]).to(dtype),
        bind=lambda value_MP, grad_MP: layout.bind(network, value_MP, grad_MP),
        batches=SeparateBatches(
            data=exact,
            labelled_ST=prepared.labelled_ST,
            sessions=range(10, 145),
            outputs=1 if is_window else 8,
            sequences=16 if is_window else 3,
            accumulation=1,
            context_sessions=config.context_sessions,
            symbols=np.asarray([SYMBOLS[member] for member in members]),
            seeds=seeds,
        ),
        loss=loss,
        epochs=tuple(EPOCHS[member] for member in members),
        schedule_epochs=10,
        learning_rate=5e-3,
    )
    shop = Workshop(
        training=TrainingConfig(clip_norm=0.5),
        objective=OBJECTIVE,
        checkpoints=StageCheckpoints(folder, "stack"),
        rule=CheckpointRule(frac=0.2),
        progress=lambda *_: None,
        memory=MemoryWatch(1 << 40, tell=print),
    )
    state = fit_stage(stage, shop)
    return losses, dict(zip(members, state.result_MP, strict=True))


@pytest.mark.parametrize("config", [SMALL, WINDOW], ids=["streaming", "window"])
def test_a_model_in_a_stack_is_the_model_trained_alone(
    prepared: Prepared, config: StockformerConfig, tmp_path: Path
) -> None:
    together, rows = train(prepared, config, range(5), tmp_path / "together", torch.float64)
    lengths = {member: len(values) for member, values in together.items()}
    assert max(lengths.values()) >= 50, "the issue asks for 50 steps"
    assert len(set(lengths.values())) > 2, "histories are ragged, and models leave the stack at different steps"
    for member in range(5):
        alone, own = train(prepared, config, [member], tmp_path / f"alone{member}", torch.float64)
        assert len(alone[member]) == lengths[member]
        np.testing.assert_allclose(alone[member], together[member], atol=1e-9, rtol=0.0)
        torch.testing.assert_close(own[member], rows[member], atol=1e-8, rtol=0.0)


def test_in_float32_the_difference_is_rounding(
    prepared: Prepared, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    together, rows = train(prepared, SMALL, range(5), tmp_path / "together", torch.float32)
    alone, own = train(prepared, SMALL, [3], tmp_path / "alone", torch.float32)
    worst = float(np.abs(np.subtract(alone[3], together[3])).max())
    record_property("float32 loss difference", worst)
    record_property("float32 weight difference", float((own[3] - rows[3]).abs().max()))
    assert worst < 1e-3


def test_an_interrupted_stack_ends_at_the_same_bits_also_after_models_left_it(
    prepared: Prepared, tmp_path: Path
) -> None:
    _, rows = train(prepared, SMALL, range(5), tmp_path / "whole", torch.float32)
    for max_steps in (9, 31, 47):
        with pytest.raises(KeyboardInterrupt):
            train(prepared, SMALL, range(5), tmp_path / "cut", torch.float32, max_steps=max_steps)
    losses, again = train(prepared, SMALL, range(5), tmp_path / "cut", torch.float32)
    assert max(len(values) for values in losses.values()) < 40, "it went on from a checkpoint"
    for member in range(5):
        assert torch.equal(rows[member], again[member])
