"""The optimiser loop: one stage fits one set of parameters, resumes bit for bit, and stops on a non-finite loss.

A batch is a run of decision sessions with all symbols of each session, after its context. Axes: S symbols,
T sessions, O decision sessions of a batch, F features, H horizons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vnfleet.core.errors import BadDataError
from vnfleet.training.checkpoint import StageCheckpoints, StageState
from vnfleet.training.dataset import Prepared
from vnfleet.training.objectives import Labels
from vnfleet.training.recipe import MIN_CHUNK_SESSIONS, TrainingConfig

_CHECKPOINTS_PER_STAGE = 20


class Progress(Protocol):
    """Told after every step how far a unit is: stage name, steps done, steps planned at most, a short note."""

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Show or record the progress; must be quick."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Scaled features with context, presence, and labels of the decision sessions; symbol_S indexes the data's axis."""

    symbol_S: Tensor
    x_STF: Tensor
    present_ST: Tensor
    labels: Labels


def epoch_chunks(sessions: range, chunk_sessions: int, seed: int, epoch: int) -> list[range]:
    """Return the runs of decision sessions of one epoch: a random phase, a random order, every session at most once.

    A function of (seed, epoch) alone, so that a resumed epoch sees what the interrupted one would have seen.
    """
    generator = np.random.default_rng([seed, epoch])
    phase = int(generator.integers(chunk_sessions))
    edges = [sessions.start, *range(sessions.start + phase + 1, sessions.stop, chunk_sessions), sessions.stop]
    chunks = [range(a, b) for a, b in pairwise(edges) if b - a >= MIN_CHUNK_SESSIONS]
    return [chunks[place] for place in generator.permutation(len(chunks))]


def make_batch(
    data: Prepared, chunk: range, context_sessions: int, symbols: np.ndarray | None, primary_S: np.ndarray
) -> Batch | None:
    """Return the batch of one run of sessions over the labelled symbols (of `symbols` if given), or None if empty.

    `primary_S` marks the universe on the data's symbol axis.
    """
    active_S: np.ndarray = np.any(data.labelled_ST[:, chunk.start : chunk.stop], axis=1)
    index_S = np.flatnonzero(active_S)
    if symbols is not None:
        index_S = symbols[active_S[symbols]]
    if not index_S.size:
        return None
    seen = slice(chunk.start - context_sessions, chunk.stop)
    own = slice(chunk.start, chunk.stop)
    labels = Labels(
        torch.from_numpy(data.target_ST[index_S, own]),
        torch.from_numpy(data.labelled_ST[index_S, own]),
        torch.from_numpy(np.ascontiguousarray(data.path_HST[:, index_S, own].transpose(1, 2, 0))),
        torch.from_numpy(primary_S[index_S]),
    )
    return Batch(
        torch.from_numpy(index_S),
        torch.from_numpy(data.scaled_STF[index_S, seen]),
        torch.from_numpy(data.present_ST[index_S, seen]),
        labels,
    )


def learning_rate_at(step: int, total: int, peak: float, warmup_frac: float) -> float:
    """Return one cosine cycle: from peak / 25 up to `peak` over the warm-up, then down to peak / 1e4."""
    warmup = max(1, round(warmup_frac * total))
    if step < warmup:
        low, share = peak / 25.0, step / warmup
        return low + (peak - low) * 0.5 * (1.0 - math.cos(math.pi * share))
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    low = peak / 1e4
    return low + (peak - low) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One fit: what to optimise, on which sessions, for how long.

    Attributes
    ----------
    name : shown to people and part of the checkpoint key.
    parameters : leaf tensors by name, changed in place.
    loss : loss of one batch at one step, with gradients.
    sessions : decision sessions to learn from; chunks get `context_sessions` before their first one.
    symbols : restrict batches to these symbol indices; None means all.
    primary_S : marks the universe on the data's symbol axis.
    schedule_epochs : length of the learning-rate cycle; `epochs` <= `schedule_epochs` of it are run.
    judge : metric after each epoch, higher is better; None means no early stopping.
    """

    name: str
    parameters: dict[str, Tensor]
    loss: Callable[[Batch, int], Tensor]
    sessions: range
    symbols: np.ndarray | None
    primary_S: np.ndarray
    seed: int
    epochs: int
    schedule_epochs: int
    learning_rate: float
    judge: Callable[[], float] | None


def fit_stage(
    stage: Stage,
    data: Prepared,
    context_sessions: int,
    config: TrainingConfig,
    checkpoints: StageCheckpoints,
    progress: Progress,
) -> StageState:
    """Run `stage` from its newest checkpoint, or from the start, and leave its parameters at the result.

    With a judge, the parameters of the best epoch are kept; without one, those of the last epoch.

    Raises
    ------
    BadDataError
        When a loss or gradient is not finite: training stops before the parameters are touched.
    """
    plans = [
        epoch_chunks(stage.sessions, config.chunk_sessions, stage.seed, epoch) for epoch in range(stage.schedule_epochs)
    ]
    if not plans[0]:
        raise BadDataError("too few sessions to train on", found=len(stage.sessions), where=stage.name)
    total = sum(len(plan) for plan in plans)
    planned = sum(len(plan) for plan in plans[: stage.epochs])
    optimiser = _optimiser(stage, config)
    state = checkpoints.latest() or StageState({})
    if state.tensors:
        _restore(stage.parameters, optimiser, state)
    saving = max(1, planned // _CHECKPOINTS_PER_STAGE)
    best = {name: tensor for name, tensor in state.tensors.items() if name.startswith("best/")}
    ends = np.cumsum([len(plan) for plan in plans[: stage.epochs]])
    while not state.done and state.step < planned:
        epoch = int(np.searchsorted(ends, state.step, side="right"))
        chunk = plans[epoch][state.step - (int(ends[epoch - 1]) if epoch else 0)]
        rate = learning_rate_at(state.step, total, stage.learning_rate, config.warmup_frac)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = _step(stage, data, chunk, context_sessions, state.step, optimiser, config)
        state.step += 1
        at_epoch_end = state.step == ends[epoch]
        if at_epoch_end and stage.judge is not None:
            state.history.append(stage.judge())
            if state.history[-1] == max(state.history):
                state.best_epoch = len(state.history)
                best = {f"best/{name}": tensor.detach().clone() for name, tensor in stage.parameters.items()}
            state.done = len(state.history) - state.best_epoch >= config.patience_epochs
        state.done = state.done or state.step == planned
        if state.done or state.step % saving == 0:
            state.tensors = _snapshot(stage.parameters, optimiser) | best
            checkpoints.save(state)
        note = f"loss {loss:.3f}" + (f", best validation rank IC {max(state.history):.4f}" if state.history else "")
        progress(stage.name, state.step, planned, note)
    if stage.judge is not None:
        with torch.no_grad():
            for name, tensor in stage.parameters.items():
                tensor.copy_(state.tensors[f"best/{name}"])
    return state


def _step(
    stage: Stage,
    data: Prepared,
    chunk: range,
    context_sessions: int,
    step: int,
    optimiser: torch.optim.Optimizer,
    config: TrainingConfig,
) -> float:
    batch = make_batch(data, chunk, context_sessions, stage.symbols, stage.primary_S)
    if batch is None:
        return 0.0
    optimiser.zero_grad(set_to_none=True)
    loss = stage.loss(batch, step)
    value = float(loss.detach())
    where = f"{stage.name}, step {step}, sessions {chunk.start}..{chunk.stop - 1}"
    if not math.isfinite(value):
        raise BadDataError("the training loss is not finite, training stopped", where=where, found=value)
    torch.autograd.backward(loss)
    norm = float(torch.nn.utils.clip_grad_norm_(list(stage.parameters.values()), config.clip_norm))
    if not math.isfinite(norm):
        raise BadDataError("a gradient is not finite, training stopped", where=where, found=norm)
    optimiser.step()
    return value


def _optimiser(stage: Stage, config: TrainingConfig) -> torch.optim.AdamW:
    matrices = [tensor for tensor in stage.parameters.values() if tensor.ndim >= 2]
    others = [tensor for tensor in stage.parameters.values() if tensor.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=stage.learning_rate, foreach=True)


_MOMENTS: Sequence[str] = ("step", "exp_avg", "exp_avg_sq")


def _snapshot(parameters: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"param/{name}": tensor.detach().clone() for name, tensor in parameters.items()}
    for name, tensor in parameters.items():
        for moment in _MOMENTS:
            if moment in optimiser.state[tensor]:
                tensors[f"{moment}/{name}"] = optimiser.state[tensor][moment].detach().clone()
    return tensors


def _restore(parameters: dict[str, Tensor], optimiser: torch.optim.Optimizer, state: StageState) -> None:
    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(state.tensors[f"param/{name}"])
            moments = {key: state.tensors[f"{key}/{name}"] for key in _MOMENTS if f"{key}/{name}" in state.tensors}
            if moments:
                optimiser.state[tensor] = {key: value.clone() for key, value in moments.items()}
