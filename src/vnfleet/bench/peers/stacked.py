"""The same models trained side by side with `torch.func`: `vmap` over stacked parameters.

As PyTorch's tutorial on model ensembling does it (docs.pytorch.org, "Model ensembling"). Each model has its own data,
dropout and gradient clipping; a symbol with fewer windows repeats some of them.
Axes: M models, N windows of a step, W sessions, F features, H horizons.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from vnfleet.bench.peak import synchronise
from vnfleet.bench.peers.plain import PlainRun, PlanNetwork, PlanRecipe, path_loss, rate_share
from vnfleet.bench.peers.windows import SymbolWindows
from vnfleet.model.stockformer import StockformerConfig


class VmapFleet:
    """M plain networks as one stack of parameters."""

    def __init__(self, config: StockformerConfig, seeds: Sequence[int], device: str = "cpu") -> None:
        networks = []
        with torch.random.fork_rng():
            for seed in seeds:
                torch.manual_seed(seed)
                networks.append(PlanNetwork(config).to(device))
        self._device = device
        # Torch's fused CPU attention has no rule for vmap: it would run model by model.
        fused = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        self._attention = [SDPBackend.MATH] if device == "cpu" else fused
        self._empty = copy.deepcopy(networks[0]).to("meta")
        parameters, self._buffers = stack_module_state([nn.Module.train(network) for network in networks])
        self.parameters: dict[str, Tensor] = {name: tensor.detach() for name, tensor in parameters.items()}
        self._shared = {name: tensor[0] for name, tensor in self._buffers.items()}
        self._gradients = vmap(grad(self._loss), in_dims=(0, 0, 0, 0), randomness="different")

    def network_of(self, model: int, config: StockformerConfig) -> PlanNetwork:
        """Return one model as a network of its own."""
        network = PlanNetwork(config)
        network.load_state_dict({name: tensor[model].cpu() for name, tensor in self.parameters.items()})
        return network.to(self._device).eval()

    def fit(
        self,
        windows: Sequence[SymbolWindows],
        recipe: PlanRecipe,
        *,
        seed: int = 0,
        max_seconds: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
    ) -> PlainRun:
        """Train model m on `windows[m]` until the recipe is done or `max_seconds` are over; one step at least.

        The first step warms up, as in `fit_plain`. `labels` counts those of all models, repeated windows once.
        """
        longest = max(len(own.ends_N) for own in windows)
        steps_per_epoch = max(1, math.ceil(longest / recipe.windows_per_step))
        optimiser = torch.optim.Adam(
            list(self.parameters.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )
        total, warmup = recipe.epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch
        true_share = sum(len(own.ends_N) for own in windows) / (longest * len(windows))
        generators = [np.random.default_rng([seed, position]) for position in range(len(windows))]
        run, start, warm_end, labels = PlainRun(), clock(), 0.0, 0.0
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for step in range(total):
                if step % steps_per_epoch == 0:
                    orders = [
                        np.resize(generator.permutation(own.ends_N), longest)
                        for generator, own in zip(generators, windows, strict=True)
                    ]
                place = step % steps_per_epoch * recipe.windows_per_step
                parts = [order[place : place + recipe.windows_per_step] for order in orders]
                batches = [own.batch(part, self._device) for own, part in zip(windows, parts, strict=True)]
                self._step(
                    optimiser,
                    torch.stack([batch.x_NWF for batch in batches]),
                    torch.stack([batch.absent_NW for batch in batches]),
                    torch.stack([batch.path_NH for batch in batches]),
                    rate=recipe.learning_rate * rate_share(step, warmup, total),
                    clip_norm=recipe.clip_norm,
                )
                run.steps += 1
                if run.steps == 1:
                    synchronise(self._device)
                    warm_end = clock()
                else:
                    labels += true_share * sum(len(part) for part in parts)
                if clock() - start > max_seconds:
                    break
            else:
                run.finished = True
        synchronise(self._device)
        run.seconds = clock() - (warm_end if run.steps > 1 else start)
        run.labels = round(labels) if run.steps > 1 else sum(len(part) for part in parts)
        return run

    def _loss(self, parameters: dict[str, Tensor], x_NWF: Tensor, absent_NW: Tensor, path_NH: Tensor) -> Tensor:
        path, volatility = functional_call(self._empty, (parameters, self._shared), (x_NWF, absent_NW))
        return path_loss(path, volatility, path_NH)

    def _step(
        self,
        optimiser: torch.optim.Optimizer,
        x_MNWF: Tensor,
        absent_MNW: Tensor,
        path_MNH: Tensor,
        *,
        rate: float,
        clip_norm: float,
    ) -> None:
        with sdpa_kernel(self._attention):
            gradients = self._gradients(self.parameters, x_MNWF, absent_MNW, path_MNH)
        squares_M = torch.stack([tensor.flatten(1).square().sum(1) for tensor in gradients.values()]).sum(0)
        scale_M = (clip_norm / (squares_M.sqrt() + 1e-6)).clamp_max(1.0)
        for name, tensor in self.parameters.items():
            own = gradients[name]
            tensor.grad = own * scale_M.view(-1, *([1] * (own.ndim - 1)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
