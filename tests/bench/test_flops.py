"""Operations are those that torch itself counts; fused CPU attention, which it does not count, is taken apart."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vnfleet.bench.flops import forward_flops, training_flops_per_label
from vnfleet.bench.peers.plain import PlanNetwork
from vnfleet.bench.recipes import plan_network
from vnfleet.model.stockformer import Stockformer, StockformerConfig, preset

PLAN = plan_network(StockformerConfig())


def counted(config: StockformerConfig, outputs: int) -> int:
    torch.manual_seed(0)
    network = Stockformer(config).eval()
    sessions = outputs + config.context_sessions
    x_STF = torch.randn(1, sessions, config.num_features)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(x_STF, torch.ones(1, sessions, dtype=torch.bool), outputs)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("config", [preset("plan"), PLAN, replace(preset("desktop"), attention="window")])
def test_window_operations_are_those_torch_counts(config: StockformerConfig) -> None:
    assert forward_flops(config, 3) == counted(config, 3)


def test_plain_encoders_compute_every_query_of_the_last_layer() -> None:
    network = PlanNetwork(replace(PLAN, dropout=0.0))
    x_NWF = torch.randn(2, PLAN.window_sessions, PLAN.num_features)
    absent_NW = torch.zeros(2, PLAN.window_sessions, dtype=torch.bool)
    network.train()  # the fast path of eval is one fused operation that is not counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(x_NWF, absent_NW)
    assert forward_flops(PLAN, 2, every_query=True) == int(counter.get_total_flops())


def test_streaming_operations_are_the_maps_torch_counts_and_the_pairs_within_the_band() -> None:
    config, outputs = preset("desktop"), 40
    sessions = outputs + config.context_sessions
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        x_STF = torch.randn(1, sessions, config.num_features)
        Stockformer(config)(x_STF, torch.ones(1, sessions, dtype=torch.bool), outputs)
    by_operation = counter.get_flop_counts()["Global"]
    maps = sum(
        count for operation, count in by_operation.items() if "mm" in str(operation) and "bmm" not in str(operation)
    )
    queries = [outputs + config.band_sessions - 1, outputs]  # blocks compute more pairs and mask them
    pairs = sum(4 * count * config.band_sessions * config.d_model for count in queries)
    assert forward_flops(config, outputs) == maps + pairs


def test_the_plan_to_the_letter_is_five_and_a_half_petaflop() -> None:
    labels = 180_000 * 100  # the plan's samples and epochs
    whole = labels * training_flops_per_label(PLAN, 1, every_query=True)
    assert whole / 1e15 == pytest.approx(5.5, abs=0.1)


def test_streaming_costs_thirty_times_less_than_windows_at_the_same_size() -> None:
    streaming = replace(PLAN, attention="streaming", band_sessions=15)
    ratio = training_flops_per_label(PLAN, 1) / training_flops_per_label(streaming, 64)
    assert 30 < ratio < 50
