"""The written plan's recipe as a plain PyTorch loop over one symbol.

`nn.TransformerEncoder`, batches of 4 windows, 8 of them accumulated, float32, eager, one step after the other. It is
written the way PyTorch's own tutorials write such a loop, without anything that slows it down on purpose: the data lie
in memory, no worker processes, no logging.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vnfleet.bench.peak import synchronise
from vnfleet.bench.peers.windows import SymbolWindows
from vnfleet.model.stockformer import StockformerConfig, sinusoidal_positions

_MIN_VOLATILITY = 1e-3
_FORECAST_WINDOWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecipe:
    """The plan's training settings on a CPU; a GPU takes 32 windows a batch and accumulates nothing."""

    epochs: int = 100
    batch_windows: int = 4
    accumulation: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    warmup_epochs: int = 5
    clip_norm: float = 1.0

    @property
    def windows_per_step(self) -> int:
        """Windows behind one optimiser step."""
        return self.batch_windows * self.accumulation


class PlanNetwork(nn.Module):
    """The plan's network out of PyTorch's own layers; the shapes are those of `Stockformer` with window attention.

    The encoder normalises first and ends with a norm, as the fleet's does, so that both have the same parameters.
    """

    def __init__(self, config: StockformerConfig) -> None:
        super().__init__()
        width, horizons = config.d_model, config.num_horizons
        self.embed = nn.Linear(config.num_features, width)
        layer = nn.TransformerEncoderLayer(
            width,
            config.num_heads,
            config.d_ff,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.num_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(config.dropout)
        self.path = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.LayerNorm(2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
            nn.GELU(),
            nn.Linear(width, horizons),
        )
        self.volatility = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, horizons))
        self.register_buffer("positions", sinusoidal_positions(config.window_sessions, width), persistent=False)

    def forward(self, x_NWF: Tensor, absent_NW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the return path and the volatility [N, H] in label units, from the last session of each window."""
        positions: Tensor = self.get_buffer("positions")
        hidden = self.dropout(self.embed(x_NWF) + positions)
        context = self.encoder(hidden, src_key_padding_mask=absent_NW)[:, -1]
        return self.path(context), functional.softplus(self.volatility(context)) + _MIN_VOLATILITY


def path_loss(path_NH: Tensor, volatility_NH: Tensor, actual_NH: Tensor) -> Tensor:
    """Return Huber loss of the path plus Gaussian likelihood with the path as a constant, over the known returns."""
    known_NH = torch.isfinite(actual_NH)
    weight_NH = known_NH / known_NH.sum().clamp_min(1)
    actual_NH = torch.where(known_NH, actual_NH, 0.0)
    huber_NH = functional.huber_loss(path_NH, actual_NH, reduction="none")
    nll_NH = 0.5 * ((actual_NH - path_NH.detach()) / volatility_NH).square() + volatility_NH.log()
    return ((huber_NH + nll_NH) * weight_NH).sum()


@dataclass(slots=True)
class PlainRun:
    """How far a loop came: optimiser steps, labels seen, seconds it took, and whether it ran to its end."""

    steps: int = 0
    labels: int = 0
    seconds: float = 0.0
    finished: bool = False

    @property
    def labels_per_second(self) -> float:
        """Training labels per second."""
        return self.labels / self.seconds if self.seconds else 0.0


def new_network(config: StockformerConfig, seed: int, device: str) -> PlanNetwork:
    """Return a network initialised from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PlanNetwork(config).to(device)


def fit_plain(
    network: PlanNetwork,
    windows: SymbolWindows,
    recipe: PlanRecipe,
    *,
    seed: int = 0,
    device: str = "cpu",
    max_seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> PlainRun:
    """Train `network` on one symbol until the recipe is done or `max_seconds` are over; one step at least.

    The first step warms up: unless it is the only one, neither its labels nor its time count.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps_per_epoch = max(1, math.ceil(len(windows.ends_N) / recipe.windows_per_step))
    total, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_share(step, warmup, total))
    run = PlainRun()
    network.train()
    warm_labels, start, warm_end = 0, clock(), 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for ends in _steps(windows.ends_N, recipe, seed):
            optimiser.zero_grad(set_to_none=True)
            parts = np.array_split(ends, math.ceil(len(ends) / recipe.batch_windows))
            for part in parts:
                batch = windows.batch(part, device)
                path_NH, volatility_NH = network(batch.x_NWF, batch.absent_NW)
                loss = path_loss(path_NH, volatility_NH, batch.path_NH)
                torch.autograd.backward(loss / len(parts))
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimiser.step()
            schedule.step()
            run.steps += 1
            run.labels += len(ends)
            if run.steps == 1:
                synchronise(device)
                warm_labels, warm_end = run.labels, clock()
            if clock() - start > max_seconds:
                break
        else:
            run.finished = True
    synchronise(device)
    end = clock()
    network.eval()
    if run.steps == 1:
        run.seconds = end - start
    else:
        run.seconds, run.labels = end - warm_end, run.labels - warm_labels
    return run


def forecast_plain(
    network: PlanNetwork, windows: SymbolWindows, sessions: range, device: str = "cpu"
) -> dict[int, float]:
    """Return the forecast of the longest return, in label units, per eligible session of `sessions`."""
    ends = [t for t in sessions if windows.eligible_T[t]]
    scores: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(ends), _FORECAST_WINDOWS):
            batch = windows.batch(ends[start : start + _FORECAST_WINDOWS], device)
            path_NH, _ = network(batch.x_NWF, batch.absent_NW)
            scores += path_NH[:, -1].tolist()
    return dict(zip(ends, scores, strict=True))


def _steps(ends_N: np.ndarray, recipe: PlanRecipe, seed: int) -> Iterator[np.ndarray]:
    """Yield the windows of each optimiser step: every window once per epoch, in a new order."""
    generator = np.random.default_rng(seed)
    for _ in range(recipe.epochs):
        order_N = generator.permutation(ends_N)
        for start in range(0, len(order_N), recipe.windows_per_step):
            yield order_N[start : start + recipe.windows_per_step]


def rate_share(step: int, warmup: int, total: int) -> float:
    """Return the learning rate as a share of its peak: up in a line, then down along a cosine."""
    if step < warmup:
        return (step + 1) / max(1, warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
