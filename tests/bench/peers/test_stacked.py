"""vmap over stacked models does what each model would do alone."""

from dataclasses import replace

import torch

from vnfleet.bench.peers.plain import PlanRecipe, path_loss
from vnfleet.bench.peers.stacked import VmapFleet
from vnfleet.bench.peers.windows import symbol_windows
from vnfleet.bench.recipes import plan_network
from vnfleet.cycle.config import CycleConfig
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData


def test_one_step_of_the_stack_is_one_step_of_each(data: TrainingData, fold: Fold, config: CycleConfig) -> None:
    shape = replace(
        plan_network(config.model), d_model=16, num_heads=2, num_layers=2, d_ff=32, window_sessions=20, dropout=0.0
    )
    windows = [symbol_windows(data, symbol, fold.train, 20) for symbol in ("S00", "S01")]
    fleet = VmapFleet(shape, [4, 9])
    alone = [fleet.network_of(model, shape).train() for model in range(2)]
    recipe = PlanRecipe(epochs=1, warmup_epochs=0, batch_windows=len(windows[0].ends_N) + 5, accumulation=1)
    run = fleet.fit(windows, recipe)
    assert run.steps == 1
    for model, network in enumerate(alone):
        optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        longest = max(len(own.ends_N) for own in windows)
        ends = [*windows[model].ends_N]
        batch = windows[model].batch(ends)
        path_NH, volatility_NH = network(batch.x_NWF, batch.absent_NW)
        if len(ends) == longest:
            torch.autograd.backward(path_loss(path_NH, volatility_NH, batch.path_NH))
            torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimiser.step()
            after = fleet.network_of(model, shape).state_dict()
            # the order of windows differs, so sums do too, and Adam's first step divides by tiny gradients
            largest = max(float((after[name] - own).abs().max()) for name, own in network.state_dict().items())
            assert largest < 2e-4
            return
    raise AssertionError("no symbol had the longest history")
