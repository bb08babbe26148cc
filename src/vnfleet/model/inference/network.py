"""A whole set as one module: raw features in, the ensemble's forecast out, so that every path computes the same thing.

Axes: S symbols, T sessions, O output sessions, F features, H horizons; G is 1 where one ensemble serves every symbol,
S where each symbol has its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import arrays_sha256, canonical_json, sha256_hex
from vnfleet.model.ensemble import CLIP_SD, Ensemble
from vnfleet.model.stockformer import Deltas, Stockformer

_DELTAS: Final = ("input_scale", "norm_gain", "score_weight", "path_weight")


class SetForecast(NamedTuple):
    """Score in sd units and probability of a rise [S, O]; return and volatility as fractions [S, O, H]."""

    score_SO: Tensor
    direction_prob_SO: Tensor
    path_SOH: Tensor
    volatility_SOH: Tensor


class SetNetwork(nn.Module):
    """Every member of a set on the last `num_outputs` sessions of raw features, scaled, averaged and in units.

    `ensembles` are as `model.ensemble.forecast_ensembles` takes them, and the numbers are its numbers: one ensemble
    for every symbol (its deltas in the order of the symbols), or one for each symbol, of equal shapes and run as one
    stack. Nothing is left to the caller, so that an exported copy needs neither torch nor this package.

    Attributes
    ----------
    num_sessions : T, what one call reads: the context and the outputs.
    num_deltas : symbols that have deltas, 0 where there are none.
    num_stacked : symbols of a set in which each has its own networks, 0 otherwise; such a set forecasts all or none.

    Raises `BadDataError` when the ensembles do not make one set.
    """

    def __init__(self, ensembles: Sequence[Ensemble], num_outputs: int = 1) -> None:
        super().__init__()
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be at least 1, found {num_outputs}")
        _refuse_misfits(ensembles)
        first = ensembles[0]
        self.num_outputs = num_outputs
        self.num_sessions = first.context_sessions + num_outputs
        self.num_stacked = len(ensembles) if len(ensembles) > 1 else 0
        self.num_deltas = max(
            len(member.deltas.input_scale_SF) if member.deltas is not None else 0 for member in first.members
        )
        self.mean_G1F = nn.Buffer(_tensor([[each.scaler.mean_F] for each in ensembles]))
        self.sd_G1F = nn.Buffer(_tensor([[each.scaler.sd_F] for each in ensembles]))
        self.label_scale_G1H = nn.Buffer(_tensor([[each.label_scale_H] for each in ensembles]))
        self.intercept_G1 = nn.Buffer(_tensor([[each.calibration.intercept] for each in ensembles]))
        self.slope_G1 = nn.Buffer(_tensor([[each.calibration.slope] for each in ensembles]))
        sds = [[[each.members[place].score_sd] for each in ensembles] for place in range(len(first.members))]
        self.score_sd_MG1 = nn.Buffer(_tensor(sds))
        self.members = nn.ModuleList()
        for place, member in enumerate(first.members):
            network = Stockformer(member.config, len(ensembles))
            network.load_weights([each.members[place].weights for each in ensembles])
            self.members.append(network.eval().requires_grad_(requires_grad=False))
            if member.deltas is not None:
                for name, tensor in member.deltas.tensors().items():
                    self.register_buffer(f"{name}_{place}", tensor.detach().clone())

    def forward(self, values_STF: Tensor, present_ST: Tensor, symbol_S: Tensor | None = None) -> SetForecast:
        """Forecast the last `num_outputs` of exactly `num_sessions` sessions.

        `values_STF` are raw features (anything where absent); `symbol_S` (int64) says whose deltas each row has, None
        means row s has deltas s. Rows of absent symbols mean nothing.
        """
        scaled_STF = ((values_STF - self.mean_G1F) / self.sd_G1F).clamp(-CLIP_SD, CLIP_SD)
        scaled_STF = torch.where(present_ST.unsqueeze(-1), scaled_STF, 0.0)
        scores, paths, volatilities = [], [], []
        for place, network in enumerate(self.members):
            assert isinstance(network, Stockformer)
            seen = self.num_outputs + network.config.context_sessions
            forecast = network(
                scaled_STF[:, -seen:], present_ST[:, -seen:], self.num_outputs, self._deltas(place, symbol_S)
            )
            scores.append(forecast.score_SO / self.score_sd_MG1[place])
            paths.append(forecast.path_SOH)
            volatilities.append(forecast.volatility_SOH)
        score_SO = torch.stack(scores).mean(0)
        return SetForecast(
            score_SO,
            torch.sigmoid(self.intercept_G1 + self.slope_G1 * score_SO),
            torch.stack(paths).mean(0) * self.label_scale_G1H,
            torch.stack(volatilities).mean(0) * self.label_scale_G1H,
        )

    def _deltas(self, member: int, symbol_S: Tensor | None) -> Deltas | None:
        if not hasattr(self, f"{_DELTAS[0]}_{member}"):
            return None
        own = Deltas.from_tensors({name: getattr(self, f"{name}_{member}") for name in _DELTAS})
        return own if symbol_S is None else own.select(symbol_S)


def set_sha256(ensembles: Sequence[Ensemble]) -> str:
    """Return the identity of everything that decides a set's forecasts: shapes, features and numbers."""
    first = ensembles[0]
    shapes = [dataclasses.asdict(member.config) for member in first.members]
    numbers = arrays_sha256({name: tensor.numpy() for name, tensor in SetNetwork(ensembles).state_dict().items()})
    return sha256_hex(canonical_json([shapes, list(first.feature_names), numbers]).encode())


def _refuse_misfits(ensembles: Sequence[Ensemble]) -> None:
    if not ensembles or not ensembles[0].members:
        raise BadDataError("a set has no members")
    first = ensembles[0]
    shapes = [member.config for member in first.members]
    for each in ensembles[1:]:
        if [member.config for member in each.members] != shapes or each.feature_names != first.feature_names:
            raise BadDataError("the models of a set have different shapes or features", found=len(ensembles))
    adapted = [member.deltas for each in ensembles for member in each.members if member.deltas is not None]
    if adapted and len(ensembles) > 1:
        raise BadDataError("models with networks of their own cannot have deltas", fix="one ensemble with all deltas")
    counts = {len(deltas.input_scale_SF) for deltas in adapted}
    if len(counts) > 1:
        raise BadDataError("members of an ensemble have deltas for different symbols", found=sorted(counts))


def _tensor(rows: object) -> Tensor:
    return torch.from_numpy(np.asarray(rows, dtype=np.float32))
