"""Both attention forms against independent references, and the masks that keep absence and the future out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vnfleet.model.stockformer import Deltas, Stockformer, StockformerConfig, preset, sinusoidal_positions

SMALL = StockformerConfig(num_features=6, d_model=16, num_heads=2, d_ff=32, band_sessions=7, dropout=0.0)
WINDOW = StockformerConfig(
    num_features=6, d_model=16, num_heads=2, d_ff=32, num_layers=3, attention="window", window_sessions=12, head="mlp"
)


def network_of(config: StockformerConfig, seed: int = 0) -> Stockformer:
    torch.manual_seed(seed)
    network = Stockformer(config)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def inputs(num_sessions: int, num_symbols: int = 5, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_STF = torch.randn(num_symbols, num_sessions, 6, generator=generator)
    present_ST = torch.rand(num_symbols, num_sessions, generator=generator) > 0.15
    return x_STF * present_ST.unsqueeze(-1), present_ST


@pytest.mark.parametrize("config", [SMALL, WINDOW], ids=["streaming", "window"])
@pytest.mark.parametrize("num_outputs", [1, 5, 70])
def test_every_output_equals_the_network_run_on_its_own_receptive_field(
    config: StockformerConfig, num_outputs: int
) -> None:
    network = network_of(config)
    receptive = config.receptive_field_sessions
    x_STF, present_ST = inputs(num_outputs + receptive - 1)
    present_ST[:, receptive - 1 :] = True
    with torch.inference_mode():
        together = network(x_STF, present_ST, num_outputs)
        for output in range(num_outputs):
            own = slice(output, output + receptive)
            alone = network(x_STF[:, own], present_ST[:, own], 1)
            torch.testing.assert_close(together.score_SO[:, output], alone.score_SO[:, 0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together.path_SOH[:, output], alone.path_SOH[:, 0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                together.volatility_SOH[:, output], alone.volatility_SOH[:, 0], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("config", [SMALL, WINDOW], ids=["streaming", "window"])
def test_later_sessions_change_no_earlier_output(config: StockformerConfig) -> None:
    network = network_of(config)
    x_STF, present_ST = inputs(40 + config.context_sessions)
    present_ST[:] = True
    poisoned = x_STF.clone()
    poisoned[:, -10:] = 1e3
    with torch.inference_mode():
        before = network(x_STF, present_ST, 40).score_SO
        after = network(poisoned, present_ST, 40).score_SO
    torch.testing.assert_close(before[:, :30], after[:, :30], atol=0.0, rtol=0.0)
    assert not torch.allclose(before[:, 30:], after[:, 30:])


@pytest.mark.parametrize("config", [SMALL, WINDOW], ids=["streaming", "window"])
def test_what_stands_on_an_absent_session_does_not_matter(config: StockformerConfig) -> None:
    network = network_of(config)
    x_STF, present_ST = inputs(20 + config.context_sessions)
    poisoned = torch.where(present_ST.unsqueeze(-1), x_STF, torch.full_like(x_STF, 50.0))
    with torch.inference_mode():
        clean = network(x_STF, present_ST, 20).score_SO
        dirty = network(poisoned, present_ST, 20).score_SO
    seen_SO = present_ST[:, -20:]
    torch.testing.assert_close(clean[seen_SO], dirty[seen_SO], atol=1e-5, rtol=1e-5)


def test_the_default_sees_exactly_59_sessions() -> None:
    config = StockformerConfig(num_features=6, d_model=16, num_heads=2, d_ff=32)
    assert config.receptive_field_sessions == 59
    network = network_of(config)
    x_STF, present_ST = inputs(60)
    present_ST[:] = True
    for moved, changes in ((0, False), (1, True)):
        other = x_STF.clone()
        other[:, moved] += 100.0
        with torch.inference_mode():
            a = network(x_STF, present_ST, 2).score_SO[:, 1]
            b = network(other, present_ST, 2).score_SO[:, 1]
        assert bool((a != b).any()) is changes


def test_window_mode_equals_the_library_encoder_with_the_same_weights() -> None:
    network = network_of(WINDOW)
    width, window = WINDOW.d_model, WINDOW.window_sessions
    weights = network.weights_of(0)
    layer = nn.TransformerEncoderLayer(
        width, WINDOW.num_heads, WINDOW.d_ff, 0.0, "gelu", batch_first=True, norm_first=True
    )
    reference = nn.TransformerEncoder(layer, WINDOW.num_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
    for index, theirs in enumerate(reference.layers):
        state = below(weights, f"layers.{index}.")
        theirs.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat([state["query.weight"], state["key_value.weight"]]),
                "self_attn.in_proj_bias": torch.cat([state["query.bias"], state["key_value.bias"]]),
                "self_attn.out_proj.weight": state["out.weight"],
                "self_attn.out_proj.bias": state["out.bias"],
                "linear1.weight": state["expand.weight"],
                "linear1.bias": state["expand.bias"],
                "linear2.weight": state["contract.weight"],
                "linear2.bias": state["contract.bias"],
                "norm1.weight": state["norm1.weight"],
                "norm1.bias": state["norm1.bias"],
                "norm2.weight": state["norm2.weight"],
                "norm2.bias": state["norm2.bias"],
            }
        )
    assert reference.norm is not None
    reference.norm.load_state_dict(below(weights, "norm."))
    reference.eval()
    x_STF, present_ST = inputs(window)
    present_ST[:, -1] = True
    with torch.no_grad():
        embedded = x_STF @ weights["embed.weight"].T + weights["embed.bias"] + sinusoidal_positions(window, width)
        context = reference(embedded, src_key_padding_mask=~present_ST)[:, -1]
        expected = context @ weights["score.weight"][0]
        found = network(x_STF, present_ST, 1).score_SO[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [SMALL, WINDOW], ids=["streaming", "window"])
def test_zero_deltas_are_the_backbone_and_a_delta_moves_only_its_symbol(config: StockformerConfig) -> None:
    network = network_of(config)
    x_STF, present_ST = inputs(8 + config.context_sessions)
    deltas = Deltas.zeros(5, config)
    with torch.inference_mode():
        pooled = network(x_STF, present_ST, 8)
        torch.testing.assert_close(network(x_STF, present_ST, 8, deltas).score_SO, pooled.score_SO)
        for tensor in deltas.tensors().values():
            tensor[2] += 0.3
        moved = network(x_STF, present_ST, 8, deltas)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(moved.score_SO[others], pooled.score_SO[others])
    torch.testing.assert_close(moved.path_SOH[others], pooled.path_SOH[others])
    assert not torch.allclose(moved.score_SO[2], pooled.score_SO[2])
    assert not torch.allclose(moved.path_SOH[2], pooled.path_SOH[2])


def test_the_plan_preset_has_the_plans_shape_and_size() -> None:
    config = preset("plan")
    shape = (config.window_sessions, config.d_model, config.num_heads, config.num_layers, config.d_ff)
    assert shape == (60, 128, 8, 4, 512)
    size = sum(parameter.numel() for parameter in Stockformer(config).parameters())
    assert 0.80e6 < size < 0.90e6  # the plan's "about 0.85 M"


def test_a_shape_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        StockformerConfig(d_model=10, num_heads=4)
    with pytest.raises(ValueError, match="must have 13 sessions"):
        network_of(SMALL)(torch.zeros(1, 12, 6), torch.ones(1, 12, dtype=torch.bool), 1)


def test_centred_deltas_sum_to_zero_over_symbols() -> None:
    deltas = Deltas(*(torch.randn_like(tensor) for tensor in Deltas.zeros(7, SMALL).tensors().values()))
    for tensor in deltas.centred().tensors().values():
        torch.testing.assert_close(tensor.sum(0), torch.zeros_like(tensor[0]), atol=1e-5, rtol=0.0)
    assert float(deltas.centred().squared_norm_S().sum()) < float(deltas.squared_norm_S().sum())
