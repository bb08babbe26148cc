"""The plan's loop is the plan's network: PyTorch's own layers compute what our window attention computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vnfleet.bench.peers.plain import PlanNetwork, PlanRecipe, fit_plain, forecast_plain, new_network, rate_share
from vnfleet.bench.peers.windows import symbol_windows
from vnfleet.bench.recipes import plan_network
from vnfleet.cycle.config import CycleConfig
from vnfleet.evaluation.splits import Fold
from vnfleet.model.stockformer import Stockformer, StockformerConfig
from vnfleet.training.dataset import TrainingData


def small_plan(config: CycleConfig) -> StockformerConfig:
    return replace(
        plan_network(config.model), d_model=16, num_heads=2, num_layers=2, d_ff=32, window_sessions=20, dropout=0.0
    )


def copied(source: Stockformer, shape: StockformerConfig) -> PlanNetwork:
    """The same weights in PyTorch's layers."""
    weights = source.weights_of(0)
    plain = PlanNetwork(shape)
    own = plain.state_dict()
    own["embed.weight"], own["embed.bias"] = linear(weights, "embed")
    for layer in range(shape.num_layers):
        ours, theirs = f"layers.{layer}", f"encoder.layers.{layer}"
        pairs = [linear(weights, f"{ours}.query"), linear(weights, f"{ours}.key_value")]
        own[f"{theirs}.self_attn.in_proj_weight"] = torch.cat([pair[0] for pair in pairs])
        own[f"{theirs}.self_attn.in_proj_bias"] = torch.cat([pair[1] for pair in pairs])
        for mine, yours in (("out", "self_attn.out_proj"), ("expand", "linear1"), ("contract", "linear2")):
            own[f"{theirs}.{yours}.weight"], own[f"{theirs}.{yours}.bias"] = linear(weights, f"{ours}.{mine}")
        for mine in ("norm1", "norm2"):
            own[f"{theirs}.{mine}.weight"] = weights[f"{ours}.{mine}.weight"]
            own[f"{theirs}.{mine}.bias"] = weights[f"{ours}.{mine}.bias"]
    own["encoder.norm.weight"], own["encoder.norm.bias"] = weights["norm.weight"], weights["norm.bias"]
    for mine, yours in (("path_body.0", "path.0"), ("path_body.3", "path.3"), ("path", "path.5")):
        own[f"{yours}.weight"], own[f"{yours}.bias"] = linear(weights, mine)
    own["path.1.weight"], own["path.1.bias"] = weights["path_body.1.weight"], weights["path_body.1.bias"]
    for mine, yours in (("volatility_body.0", "volatility.0"), ("volatility", "volatility.2")):
        own[f"{yours}.weight"], own[f"{yours}.bias"] = linear(weights, mine)
    plain.load_state_dict(own)
    return plain.eval()


def linear(weights: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch's layout [out, in] whichever way ours lies."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return (weight if weight.shape[0] == bias.shape[-1] and not is_transposed(name) else weight.T), bias.flatten()


def is_transposed(name: str) -> bool:
    """Whether our weights of square maps lie [in, out]: told by a map that is not square."""
    shape = (
        Stockformer(StockformerConfig(d_model=8, num_heads=2, d_ff=24)).weights_of(0)["layers.0.expand.weight"].shape
    )
    return bool(shape == (8, 24)) and bool(name)


def test_both_networks_have_the_same_parameters_and_outputs(config: CycleConfig) -> None:
    shape = small_plan(config)
    torch.manual_seed(3)
    ours = Stockformer(shape).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    plain = copied(ours, shape)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    x_NWF = torch.randn(6, shape.window_sessions, shape.num_features)
    absent_NW = torch.rand(6, shape.window_sessions) < 0.1
    absent_NW[:, -1] = False
    with torch.no_grad():
        path_NH, volatility_NH = plain(x_NWF, absent_NW)
        forecast = ours(x_NWF, ~absent_NW, 1)
    assert (path_NH - forecast.path_SOH[:, 0]).abs().max() < 1e-5
    assert (volatility_NH - forecast.volatility_SOH[:, 0]).abs().max() < 1e-5


def test_windows_end_at_their_session_and_know_nothing_later(data: TrainingData, fold: Fold) -> None:
    windows = symbol_windows(data, "S03", fold.train, 20)
    row, end = data.symbols.index("S03"), int(windows.ends_N[7])
    fitted = data.values_STF[row, : fold.train.stop][data.present_ST[row, : fold.train.stop]].astype(np.float64)
    expected = np.clip((data.values_STF[row, end - 19 : end + 1] - fitted.mean(0)) / fitted.std(0), -5, 5)
    expected[~data.present_ST[row, end - 19 : end + 1]] = 0.0
    batch = windows.batch([end])
    assert np.abs(batch.x_NWF[0].numpy() - expected).max() < 1e-5
    assert windows.ends_N.max() < fold.train.stop
    later = data.values_STF.copy()
    later[:, fold.train.stop :] = 7.0
    cut = replace(data, values_STF=later)
    assert torch.equal(symbol_windows(cut, "S03", fold.train, 20).batch([end]).x_NWF, batch.x_NWF)


def test_a_late_listing_has_no_window_before_its_twentieth_session(data: TrainingData, fold: Fold) -> None:
    windows = symbol_windows(data, "S05", fold.train, 20)
    first = int(np.flatnonzero(data.present_ST[5])[0])
    assert windows.ends_N.min() >= first + 19


def test_the_loop_learns_and_ends(data: TrainingData, fold: Fold, config: CycleConfig) -> None:
    shape = small_plan(config)
    windows = symbol_windows(data, "S00", fold.train, shape.window_sessions)
    network = new_network(shape, 0, "cpu")
    run = fit_plain(network, windows, PlanRecipe(epochs=3, warmup_epochs=1))
    steps = -(-len(windows.ends_N) // 32)
    assert run.finished
    assert run.steps == 3 * steps
    assert run.labels == 3 * len(windows.ends_N) - 32  # the first step warms up
    scores = forecast_plain(network, windows, fold.test)
    assert set(scores) == {t for t in fold.test if data.present_ST[0, t]}


def test_the_loop_stops_when_its_time_is_over(data: TrainingData, fold: Fold, config: CycleConfig) -> None:
    shape = small_plan(config)
    windows = symbol_windows(data, "S00", fold.train, shape.window_sessions)
    run = fit_plain(new_network(shape, 0, "cpu"), windows, PlanRecipe(), max_seconds=0.0)
    assert (run.steps, run.labels, run.finished) == (1, 32, False)


def test_the_rate_warms_up_and_ends_at_nothing() -> None:
    assert [rate_share(step, 4, 100) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rate_share(52, 4, 100) == pytest.approx(0.5)
    assert rate_share(100, 4, 100) == pytest.approx(0.0)
