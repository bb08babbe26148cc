"""The Stockformer: a transformer over the last sessions of one symbol, in two forms of the same layers.

``window``     every (symbol, session) is encoded from its own 60 sessions, sinusoidal positions, full attention;
               the last layer computes only the query that is used (the plan's architecture, pre-norm).
``streaming``  each layer attends to the last `band_sessions` sessions with a distance bias (ALiBi, Press et al. 2022,
               arXiv 2108.12409), so a session is encoded once and shared by all later ones. L layers of band B see
               R = L (B - 1) + 1 sessions, and the output at t is exactly that of the layers run on those R sessions.

One module may hold M equal networks: every parameter has a leading model axis and S = M x N sequences are flat and
model-major (`model.fleet`). Pooled training has M = 1 and one sequence per symbol.

Axes: S sequences (symbols), T input sessions, O output sessions (the last O of T), F features, D width, H horizons.
A session on which a symbol is absent is masked as an attention key and its output means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vnfleet.model.fleet import StackedLinear, StackedNorm, fill_as_if_alone

BLOCK_SESSIONS = 32
MASKED = -1e9
_MIN_VOLATILITY = 1e-3

Dropout = Callable[[Tensor, int], Tensor]


def no_dropout(x: Tensor, site: int) -> Tensor:
    """Return `x` as it is: inference, or a model without dropout."""
    del site
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class StockformerConfig:
    """Shape of the network.

    Attributes
    ----------
    attention : "streaming" (default) or "window".
    window_sessions : sessions seen in window mode.
    band_sessions : sessions each streaming layer attends to, itself included.
    horizon_sessions : the judged horizon, the longest of the return path.
    path_sessions : the horizons of the return path, ascending up to `horizon_sessions`; empty means each of them.
    head : "linear" reads the context directly; "mlp" is the plan's D-2D-D-H head with LayerNorm.
    score : "own" has a head of its own; "return" is the return head's longest horizon (models of one symbol).
    """

    num_features: int = 50
    attention: Literal["streaming", "window"] = "streaming"
    window_sessions: int = 60
    band_sessions: int = 30
    d_model: int = 64
    num_heads: int = 4
    num_layers: int = 2
    d_ff: int = 256
    dropout: float = 0.2
    horizon_sessions: int = 5
    path_sessions: tuple[int, ...] = ()
    head: Literal["linear", "mlp"] = "linear"
    score: Literal["own", "return"] = "own"

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        for name in ("num_features", "d_model", "num_heads", "num_layers", "d_ff", "horizon_sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
        if self.band_sessions < 2 or self.window_sessions < 2:
            raise ValueError("band_sessions and window_sessions must be at least 2")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), found {self.dropout}")
        path = self.path_sessions
        if path and (path[-1] != self.horizon_sessions or path[0] < 1 or list(path) != sorted(set(path))):
            raise ValueError(
                f"path_sessions must rise from 1 or more to horizon_sessions ({self.horizon_sessions}), "
                f"found {list(path)}"
            )

    @property
    def horizons(self) -> tuple[int, ...]:
        """The horizons of the return path in sessions, ascending; the last one is judged."""
        return self.path_sessions or tuple(range(1, self.horizon_sessions + 1))

    @property
    def num_horizons(self) -> int:
        """How many returns the path has."""
        return len(self.horizons)

    @property
    def receptive_field_sessions(self) -> int:
        """Sessions that one output can depend on."""
        if self.attention == "window":
            return self.window_sessions
        return self.num_layers * (self.band_sessions - 1) + 1

    @property
    def context_sessions(self) -> int:
        """Sessions needed before the first output."""
        return self.receptive_field_sessions - 1


def preset(name: Literal["desktop", "plan"]) -> StockformerConfig:
    """Return the named shape: `desktop` (fast, the default) or `plan` (the written plan's architecture)."""
    if name == "desktop":
        return StockformerConfig()
    return StockformerConfig(
        attention="window", d_model=128, num_heads=8, num_layers=4, d_ff=512, dropout=0.1, head="mlp"
    )


@dataclass(frozen=True, slots=True)
class Deltas:
    """What makes one symbol's model differ from the shared backbone: theta_s = theta + delta_s, no intercepts.

    input_scale_SF is relative to 1; norm_gain_SND covers the 2L + 1 LayerNorms; score_weight_SD and path_weight_SHD
    belong to the last linear map of each head.
    """

    input_scale_SF: Tensor
    norm_gain_SND: Tensor
    score_weight_SD: Tensor
    path_weight_SHD: Tensor

    @staticmethod
    def zeros(num_symbols: int, config: StockformerConfig) -> Deltas:
        """Return deltas under which every symbol equals the backbone."""
        width = config.d_model
        return Deltas(
            torch.zeros(num_symbols, config.num_features),
            torch.zeros(num_symbols, 2 * config.num_layers + 1, width),
            torch.zeros(num_symbols, width),
            torch.zeros(num_symbols, config.num_horizons, width),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the four tensors by name."""
        return {
            "input_scale": self.input_scale_SF,
            "norm_gain": self.norm_gain_SND,
            "score_weight": self.score_weight_SD,
            "path_weight": self.path_weight_SHD,
        }

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor]) -> Deltas:
        """Inverse of `tensors`."""
        return Deltas(tensors["input_scale"], tensors["norm_gain"], tensors["score_weight"], tensors["path_weight"])

    def select(self, index_S: Tensor) -> Deltas:
        """Return the deltas of the symbols at `index_S`."""
        return Deltas(*(tensor[index_S] for tensor in self.tensors().values()))

    def centred(self) -> Deltas:
        """Return the deltas less their mean over symbols: what is common to all belongs to the backbone."""
        return Deltas(*(tensor - tensor.mean(0) for tensor in self.tensors().values()))

    def squared_norm_S(self) -> Tensor:
        """Return |delta_s|^2 per symbol."""
        return torch.stack([tensor.flatten(1).square().sum(1) for tensor in self.tensors().values()]).sum(0)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Raw outputs of one pass: score_SO, path_SOH and volatility_SOH in units of the label scale."""

    score_SO: Tensor
    path_SOH: Tensor
    volatility_SOH: Tensor


class _Layer(nn.Module):
    """One pre-norm transformer layer; `attend` decides which keys a query sees."""

    def __init__(self, config: StockformerConfig, models: int) -> None:
        super().__init__()
        width = config.d_model
        self.norm1 = StackedNorm(models, width)
        self.query = StackedLinear(models, width, width)
        self.key_value = StackedLinear(models, width, 2 * width)
        self.out = StackedLinear(models, width, width)
        self.norm2 = StackedNorm(models, width)
        self.expand = StackedLinear(models, width, config.d_ff)
        self.contract = StackedLinear(models, config.d_ff, width)

    def forward(
        self,
        h_STD: Tensor,
        num_queries: int,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        gains: tuple[Tensor, Tensor] | None,
        dropout: Dropout,
        site: int,
    ) -> Tensor:
        normed = self.norm1(h_STD, gains[0] if gains else None)
        key, value = self.key_value(normed).chunk(2, dim=-1)
        attended = attend(self.query(normed[:, -num_queries:]), key, value)
        h_STD = h_STD[:, -num_queries:] + dropout(self.out(attended), site)
        hidden = functional.gelu(self.expand(self.norm2(h_STD, gains[1] if gains else None)))
        return h_STD + dropout(self.contract(hidden), site + 1)


class Stockformer(nn.Module):
    """M networks of one shape; `forward` serves both attention forms and pooled, adapted and separate models."""

    def __init__(self, config: StockformerConfig, num_models: int = 1) -> None:
        super().__init__()
        self.config = config
        width, horizons, models = config.d_model, config.num_horizons, num_models
        self.embed = StackedLinear(models, config.num_features, width)
        self.layers = nn.ModuleList(_Layer(config, models) for _ in range(config.num_layers))
        self.norm = StackedNorm(models, width)
        self.score = StackedLinear(models, width, 1, bias=False) if config.score == "own" else None
        self.path_body: nn.Module = nn.Identity()
        self.volatility_body: nn.Module = nn.Identity()
        volatility_width = width
        if config.head == "mlp":
            volatility_width = width // 2
            self.path_body = nn.Sequential(
                StackedLinear(models, width, 2 * width),
                StackedNorm(models, 2 * width),
                nn.GELU(),
                StackedLinear(models, 2 * width, width),
                nn.GELU(),
            )
            self.volatility_body = nn.Sequential(StackedLinear(models, width, volatility_width), nn.GELU())
        self.path = StackedLinear(models, width, horizons)
        self.volatility = StackedLinear(models, volatility_width, horizons)

    @property
    def num_models(self) -> int:
        """How many networks this module holds."""
        return len(self.embed.weight)

    def weights_of(self, model: int) -> dict[str, Tensor]:
        """Return copies of one network's parameters by name, without the model axis."""
        return {name: parameter.detach()[model].clone() for name, parameter in self.named_parameters()}

    def load_weights(self, weights: Sequence[dict[str, Tensor]]) -> None:
        """Set the parameters of every network from what `weights_of` or `initial_weights` returned."""
        if len(weights) != self.num_models:
            raise ValueError(f"expected the weights of {self.num_models} models, found {len(weights)}")
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                for model, own in enumerate(weights):
                    parameter[model].copy_(own[name])

    def forward(
        self,
        x_STF: Tensor,
        present_ST: Tensor,
        num_outputs: int,
        deltas: Deltas | None = None,
        dropout: Dropout = no_dropout,
    ) -> Forecast:
        """Forecast the last `num_outputs` sessions of `x_STF` (scaled features, 0 where absent).

        `x_STF` must hold exactly `config.context_sessions` sessions before the first output.
        """
        expected = num_outputs + self.config.context_sessions
        if x_STF.shape[1] != expected:
            raise ValueError(f"x_STF must have {expected} sessions for {num_outputs} outputs, found {x_STF.shape[1]}")
        if deltas is not None:
            x_STF = x_STF * (1.0 + deltas.input_scale_SF).unsqueeze(1)
        if self.config.attention == "streaming":
            context_SOD = self._stream(x_STF, present_ST, num_outputs, deltas, dropout)
        else:
            context_SOD = self._windows(x_STF, present_ST, num_outputs, deltas, dropout)
        final_gain = None if deltas is None else deltas.norm_gain_SND[:, -1]
        with torch.autocast(x_STF.device.type, enabled=False):
            return self._heads(self.norm(context_SOD.to(self.embed.weight.dtype), final_gain), deltas)

    def _heads(self, context_SOD: Tensor, deltas: Deltas | None) -> Forecast:
        path_input = self.path_body(context_SOD)
        path_SOH = self.path(path_input)
        if deltas is not None:
            path_SOH = path_SOH + torch.einsum("sod,shd->soh", path_input, deltas.path_weight_SHD)
        score_SO = path_SOH[..., -1] if self.score is None else self.score(context_SOD).squeeze(-1)
        if deltas is not None:
            score_SO = score_SO + torch.einsum("sod,sd->so", context_SOD, deltas.score_weight_SD)
        volatility_SOH = functional.softplus(self.volatility(self.volatility_body(context_SOD))) + _MIN_VOLATILITY
        return Forecast(score_SO, path_SOH, volatility_SOH)

    def _gains(self, deltas: Deltas | None, layer: int, repeat: int = 1) -> tuple[Tensor, Tensor] | None:
        if deltas is None:
            return None
        gains = deltas.norm_gain_SND[:, 2 * layer : 2 * layer + 2]
        if repeat > 1:
            gains = gains.repeat_interleave(repeat, dim=0)
        return gains[:, 0], gains[:, 1]

    def _stream(
        self, x_STF: Tensor, present_ST: Tensor, num_outputs: int, deltas: Deltas | None, dropout: Dropout
    ) -> Tensor:
        config = self.config
        h_STD = dropout(self.embed(x_STF), 0)
        for index, layer in enumerate(self.layers):
            num_queries = num_outputs + (config.num_layers - 1 - index) * (config.band_sessions - 1)
            bias = band_bias(present_ST[:, -(num_queries + config.band_sessions - 1) :], num_queries, config)

            def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor = bias) -> Tensor:
                return banded_attention(query, key, value, bias, config)

            h_STD = layer(h_STD, num_queries, attend, self._gains(deltas, index), dropout, 1 + 2 * index)
        return h_STD

    def _windows(
        self, x_STF: Tensor, present_ST: Tensor, num_outputs: int, deltas: Deltas | None, dropout: Dropout
    ) -> Tensor:
        config = self.config
        window, num_symbols = config.window_sessions, x_STF.shape[0]
        x_NWF = x_STF.unfold(1, window, 1).transpose(2, 3).reshape(-1, window, config.num_features)
        absent_NW = ~present_ST.unfold(1, window, 1).reshape(-1, window)
        bias_N1QK = torch.zeros(absent_NW.shape, device=x_STF.device).masked_fill_(absent_NW, MASKED)[:, None, None, :]
        h_NWD: Tensor = self.embed(x_NWF) + sinusoidal_positions(window, config.d_model).to(x_NWF)
        h_NWD = dropout(h_NWD, 0)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            query, key, value = (_split_heads(tensor, config.num_heads) for tensor in (query, key, value))
            return torch.flatten(mixed_values(query, key, value, bias_N1QK).transpose(1, 2), start_dim=2)

        for index, layer in enumerate(self.layers):
            num_queries = 1 if index == config.num_layers - 1 else window
            gains = self._gains(deltas, index, repeat=num_outputs)
            h_NWD = layer(h_NWD, num_queries, attend, gains, dropout, 1 + 2 * index)
        return h_NWD.reshape(num_symbols, num_outputs, config.d_model)


def initial_weights(config: StockformerConfig, seed: int) -> dict[str, Tensor]:
    """Return the parameters a network with that seed starts from, by name, float32, without the model axis."""
    network = Stockformer(config)
    fill_as_if_alone(network, torch.Generator().manual_seed(seed))
    return network.weights_of(0)


def weight_shapes(config: StockformerConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of one network by name."""
    with torch.device("meta"):
        return {name: tuple(parameter.shape[1:]) for name, parameter in Stockformer(config).named_parameters()}


def _split_heads(x_NTD: Tensor, num_heads: int) -> Tensor:
    return x_NTD.view(*x_NTD.shape[:-1], num_heads, -1).transpose(1, 2)


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Return the sine and cosine position code of Vaswani et al. 2017, shape [length, width]."""
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    code = torch.zeros(length, width)
    code[:, 0::2] = torch.sin(position * rate)
    code[:, 1::2] = torch.cos(position * rate)[:, : width // 2]
    return code


def _blocks(num_queries: int, band_sessions: int) -> tuple[int, int, int]:
    """Return how many blocks queries make, the rows of each, and how many blocks of keys lie before one at most."""
    rows = min(BLOCK_SESSIONS, num_queries)
    return -(-num_queries // rows), rows, -(-(band_sessions - 1) // rows)


def _key_blocks(x_SKX: Tensor, blocks: int, rows: int, back: int) -> Tensor:
    """Return for each block of queries the keys its bands can reach, whole blocks: [S, blocks, (back + 1) rows, X].

    Blocks are cut and joined instead of unfolded: the backward pass of an overlapping view is slow.
    """
    padding = (blocks + back) * rows - x_SKX.shape[1]
    padded = functional.pad(x_SKX, (0, 0, 0, padding))
    cut = padded.view(x_SKX.shape[0], blocks + back, rows, x_SKX.shape[2])
    return torch.cat([cut[:, first : first + blocks] for first in range(back + 1)], dim=2)


def band_bias(present_ST: Tensor, num_queries: int, config: StockformerConfig) -> Tensor:
    """Return the additive attention bias per block, shape [S, blocks, heads, rows, keys of a block].

    Inside the band a key costs slope x distance (slopes 2^(-8 i / heads)); outside, and where absent, it is masked.
    """
    band, device = config.band_sessions, present_ST.device
    blocks, rows, back = _blocks(num_queries, band)
    row = torch.arange(rows, device=device).unsqueeze(1)
    column = torch.arange((back + 1) * rows, device=device).unsqueeze(0)
    distance = row + band - 1 - column
    slopes = 2.0 ** (-8.0 * torch.arange(1, config.num_heads + 1, device=device) / config.num_heads)
    bias_HQK = -slopes[:, None, None] * distance
    bias_HQK = bias_HQK.masked_fill((distance < 0) | (distance >= band), MASKED)
    present_SBK = _key_blocks(present_ST.unsqueeze(-1), blocks, rows, back).squeeze(-1)
    absent = torch.zeros(present_SBK.shape, device=device).masked_fill_(~present_SBK, MASKED)
    return bias_HQK + absent[:, :, None, None, :]


def banded_attention(
    query_SQD: Tensor, key_SKD: Tensor, value_SKD: Tensor, bias_SBHQK: Tensor, config: StockformerConfig
) -> Tensor:
    """Attend each of Q queries to the `band_sessions` keys that end at its own session; K = Q + band - 1.

    Queries go in blocks of 32 sessions against the blocks of keys their bands can reach, so work grows linearly with
    sessions.
    """
    heads, (num_queries, width) = config.num_heads, query_SQD.shape[1:]
    blocks, rows, back = _blocks(num_queries, config.band_sessions)
    query, key, value = (
        part.view(part.shape[0], blocks, -1, heads, width // heads).transpose(2, 3)  # S B H Q|K d
        for part in (
            functional.pad(query_SQD, (0, 0, 0, blocks * rows - num_queries)),
            _key_blocks(key_SKD, blocks, rows, back),
            _key_blocks(value_SKD, blocks, rows, back),
        )
    )
    mixed = mixed_values(*(part.flatten(0, 1) for part in (query, key, value, bias_SBHQK))).view(query.shape)
    return mixed.transpose(2, 3).flatten(3).flatten(1, 2)[:, :num_queries]


def mixed_values(query_NHQd: Tensor, key_NHKd: Tensor, value_NHKd: Tensor, bias_NHQK: Tensor) -> Tensor:
    """Return softmax(query key^T / sqrt(d) + bias) value.

    On a GPU the library's fused kernel does it; on a CPU its backward pass takes several times as long as plain
    products in bf16.
    """
    if query_NHQd.is_cuda:
        bias_NHQK = bias_NHQK.to(query_NHQd.dtype)
        return functional.scaled_dot_product_attention(query_NHQd, key_NHKd, value_NHKd, attn_mask=bias_NHQK)
    logits_NHQK = torch.matmul(query_NHQd * (query_NHQd.shape[-1] ** -0.5), key_NHKd.transpose(-1, -2))
    with torch.autocast(query_NHQd.device.type, enabled=False):  # else the softmax would be copied to float32 and back
        weights_NHQK = torch.softmax(logits_NHQK + bias_NHQK.to(logits_NHQK.dtype), dim=-1)
    return torch.matmul(weights_NHQK, value_NHKd)
