"""What a stack of models is shown at each step: a function of (seed, epoch, place), so a resumed run sees the same.

Pooled: runs of decision sessions, all symbols of a session together. Separate: for each model its own windows, or runs
of its own sessions, always of one fixed shape, so that a model is shown the same alone and in a stack.
Axes: A models in the stack, S = A x N sequences, T input sessions, O decision sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vnfleet.core.errors import BadDataError
from vnfleet.training.dataset import Resident
from vnfleet.training.objectives import Labels
from vnfleet.training.recipe import MIN_CHUNK_SESSIONS


@dataclass(frozen=True, slots=True)
class Batch:
    """Scaled features with context, presence, and labels of the decision sessions; symbol_S indexes the data's axis."""

    symbol_S: Tensor
    x_STF: Tensor
    present_ST: Tensor
    labels: Labels


class Batches(Protocol):
    """Batches of a stage: how many steps an epoch of a model has, and the parts of one step of some models."""

    def steps_in_epoch(self, model: int, epoch: int) -> int:
        """Return the optimisation steps of one epoch of one model."""
        ...

    def parts(self, models: Sequence[int], places: Sequence[tuple[int, int]], splits: int) -> list[Batch]:
        """Return the batches of one step; `places` are (epoch, step in it) per model, memory is cut by `splits`."""
        ...


def epoch_chunks(sessions: range, chunk_sessions: int, seed: int, epoch: int) -> list[range]:
    """Return the runs of decision sessions of one epoch: a random phase, a random order, every session at most once.

    A function of (seed, epoch) alone, so that a resumed epoch sees what the interrupted one would have seen.
    """
    generator = np.random.default_rng([seed, epoch])
    phase = int(generator.integers(chunk_sessions))
    edges = [sessions.start, *range(sessions.start + phase + 1, sessions.stop, chunk_sessions), sessions.stop]
    chunks = [range(a, b) for a, b in pairwise(edges) if b - a >= MIN_CHUNK_SESSIONS]
    return [chunks[place] for place in generator.permutation(len(chunks))]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledBatches:
    """Batches of one model over all symbols (of `symbols` if given); memory splits by session, never by symbol.

    primary_S marks the universe on the data's symbol axis; labelled_ST is the host's copy of where labels are.
    """

    data: Resident
    labelled_ST: np.ndarray
    sessions: range
    chunk_sessions: int
    accumulation: int
    context_sessions: int
    primary_S: np.ndarray
    seed: int
    symbols: np.ndarray | None = None
    _plans: dict[int, list[range]] = field(default_factory=dict)

    def steps_in_epoch(self, model: int, epoch: int) -> int:
        """Return the number of groups of `accumulation` chunks."""
        del model
        return -(-len(self._chunks(epoch)) // self.accumulation)

    def parts(self, models: Sequence[int], places: Sequence[tuple[int, int]], splits: int) -> list[Batch]:
        """Return the batches of one step, without those that have no label."""
        del models
        epoch, step = places[0]
        chunks = self._chunks(epoch)[step * self.accumulation : (step + 1) * self.accumulation]
        runs = [run for chunk in chunks for run in _cut(chunk, splits)]
        return [batch for run in runs if (batch := self._batch(run)) is not None]

    def _chunks(self, epoch: int) -> list[range]:
        if epoch not in self._plans:
            self._plans[epoch] = epoch_chunks(self.sessions, self.chunk_sessions, self.seed, epoch)
        return self._plans[epoch]

    def _batch(self, run: range) -> Batch | None:
        active_S = np.asarray(self.labelled_ST[:, run.start : run.stop].any(axis=1))
        rows = np.flatnonzero(active_S) if self.symbols is None else self.symbols[active_S[self.symbols]]
        if not rows.size:
            return None
        data = self.data
        rows_S = torch.from_numpy(rows).to(data.scaled_STF.device)
        seen = slice(run.start - self.context_sessions, run.stop)
        own = slice(run.start, run.stop)
        labels = Labels(
            target_SO=data.target_ST[:, own].index_select(0, rows_S),
            labelled_SO=data.labelled_ST[:, own].index_select(0, rows_S),
            path_SOH=data.path_STH[:, own].index_select(0, rows_S),
            up_SO=data.up_ST[:, own].index_select(0, rows_S),
            primary_S=torch.from_numpy(self.primary_S[rows]).to(rows_S.device),
        )
        return Batch(
            rows_S,
            data.scaled_STF[:, seen].index_select(0, rows_S),
            data.present_ST[:, seen].index_select(0, rows_S),
            labels,
        )


def _cut(run: range, splits: int) -> list[range]:
    """Return `run` in up to `splits` runs of nearly equal length."""
    edges = np.linspace(run.start, run.stop, min(splits, len(run)) + 1).round().astype(int).tolist()
    return [range(a, b) for a, b in pairwise(edges)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateBatches:
    """Batches of one model per symbol, each over that symbol's own labelled sessions.

    Attributes
    ----------
    symbols : index on the data's symbol axis per model. seeds : seed per model.
    outputs : decision sessions of one sequence: 1 with window attention, else a run.
    sequences : sequences of one batch of one model. accumulation : batches of a step.
    """

    data: Resident
    labelled_ST: np.ndarray
    sessions: range
    outputs: int
    sequences: int
    accumulation: int
    context_sessions: int
    symbols: np.ndarray
    seeds: tuple[int, ...]
    _spans: dict[int, np.ndarray] = field(default_factory=dict)
    _drawn: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict)

    def steps_in_epoch(self, model: int, epoch: int) -> int:
        """Return the number of groups of `sequences` x `accumulation` sequences."""
        own = self._labelled(model)
        if self.outputs == 1:
            count = own.size
        else:
            length, phase = int(own[-1] - own[0]) + 1, self._phase(model, epoch)
            count = -(-(length + phase) // self.outputs)
        return -(-count // (self.sequences * self.accumulation))

    def parts(self, models: Sequence[int], places: Sequence[tuple[int, int]], splits: int) -> list[Batch]:
        """Return the batches of one step, each of one shape for every model; what a model lacks has no label."""
        group = self.sequences * self.accumulation
        stop_AG = np.zeros((len(models), group), dtype=np.int64)
        length_AG = np.zeros((len(models), group), dtype=np.int64)
        for row, (model, (epoch, step)) in enumerate(zip(models, places, strict=True)):
            stop_G = self._stops(model, epoch)[step * group : (step + 1) * group]
            stop_AG[row, : len(stop_G)] = np.minimum(stop_G, self._labelled(model)[-1] + 1)
            length_AG[row, : len(stop_G)] = self.outputs - (stop_G - stop_AG[row, : len(stop_G)])
        edges = np.linspace(0, group, min(self.accumulation * splits, group) + 1).round().astype(int).tolist()
        rows_A = self.symbols[list(models)]
        return [self._batch(rows_A, stop_AG[:, a:b], length_AG[:, a:b]) for a, b in pairwise(edges)]

    def _labelled(self, model: int) -> np.ndarray:
        """Return the sessions of the stage on which this model's symbol has a label."""
        if model not in self._spans:
            own = slice(self.sessions.start, self.sessions.stop)
            found = np.flatnonzero(self.labelled_ST[self.symbols[model], own]) + self.sessions.start
            if not found.size:
                raise BadDataError("a symbol has no session to learn from", found=f"model {model}")
            self._spans[model] = found
        return self._spans[model]

    def _phase(self, model: int, epoch: int) -> int:
        return int(np.random.default_rng([self.seeds[model], epoch, 1]).integers(self.outputs))

    def _stops(self, model: int, epoch: int) -> np.ndarray:
        """Return the session after each sequence's last one, in the order of that epoch."""
        held = self._drawn.get(model)
        if held is None or held[0] != epoch:
            own = self._labelled(model)
            if self.outputs == 1:
                stops = own + 1
            else:
                first = int(own[0]) - self._phase(model, epoch) + self.outputs
                stops = np.arange(first, int(own[-1]) + 1 + self.outputs, self.outputs)
            order = np.random.default_rng([self.seeds[model], epoch]).permutation(len(stops))
            held = (epoch, stops[order])
            self._drawn[model] = held
        return held[1]

    def _batch(self, rows_A: np.ndarray, stop_AN: np.ndarray, length_AN: np.ndarray) -> Batch:
        data, device = self.data, self.data.scaled_STF.device
        symbol_S = torch.from_numpy(np.repeat(rows_A, stop_AN.shape[1])).to(device)
        stop_S = torch.from_numpy(stop_AN.reshape(-1)).to(device)
        length_S = torch.from_numpy(length_AN.reshape(-1)).to(device)
        width = self.context_sessions + self.outputs
        column_ST = stop_S.unsqueeze(1) + torch.arange(-width, 0, device=device)
        inside_ST = column_ST >= 0
        column_ST = column_ST.clamp_min(0)
        row_S1 = symbol_S.unsqueeze(1)
        present_ST = data.present_ST[row_S1, column_ST] & inside_ST
        column_SO = column_ST[:, -self.outputs :]
        first_S1 = (self.outputs - length_S).unsqueeze(1)
        counted_SO = torch.arange(self.outputs, device=device) >= first_S1
        counted_SO &= stop_S.unsqueeze(1) + torch.arange(-self.outputs, 0, device=device) >= self.sessions.start
        return Batch(
            symbol_S,
            data.scaled_STF[row_S1, column_ST] * present_ST.unsqueeze(-1),
            present_ST,
            Labels(
                target_SO=data.target_ST[row_S1, column_SO],
                labelled_SO=data.labelled_ST[row_S1, column_SO] & counted_SO,
                path_SOH=data.path_STH[row_S1, column_SO],
                up_SO=data.up_ST[row_S1, column_SO],
                primary_S=torch.zeros_like(symbol_S, dtype=torch.bool),
            ),
        )
