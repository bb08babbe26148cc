"""Forecasts of an ensemble: scale, run every member once over all sessions, divide by its score sd, average.

Axes: S symbols, T sessions on the market axis, O forecast sessions, F features, H horizons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import as_prediction_frame, empty_prediction_frame
from vnfleet.model.logistic import logistic
from vnfleet.model.stockformer import Deltas, Forecast, Stockformer, StockformerConfig

CLIP_SD = 5.0
_CHUNK_OUTPUTS = 40_000


@dataclass(frozen=True, slots=True)
class Scaler:
    """Per-feature mean and standard deviation, fitted on training rows of one fold; shape [F], float32."""

    mean_F: np.ndarray
    sd_F: np.ndarray

    @staticmethod
    def fit(values_NF: np.ndarray) -> Scaler:
        """Return the scaler of the given rows; a constant feature gets sd 1 and so becomes 0."""
        mean_F = values_NF.mean(0, dtype=np.float64)
        sd_F = values_NF.std(0, dtype=np.float64)
        sd_F[sd_F < 1e-8] = 1.0
        return Scaler(mean_F.astype(np.float32), sd_F.astype(np.float32))

    def apply(self, values_STF: np.ndarray, present_ST: np.ndarray) -> np.ndarray:
        """Return values in sd units, clipped to +-5, and 0 where the symbol is absent."""
        scaled = (values_STF - self.mean_F) / self.sd_F
        np.clip(scaled, -CLIP_SD, CLIP_SD, out=scaled)
        scaled[~present_ST] = 0.0
        return np.asarray(scaled, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Probability of a rise as a function of the ensemble score: sigmoid(intercept + slope x score)."""

    intercept: float
    slope: float

    def probability(self, score: np.ndarray) -> np.ndarray:
        """Return the probability of a positive return for each score."""
        return logistic(self.intercept + self.slope * score)


@dataclass(frozen=True, slots=True)
class Member:
    """One trained network: shape, weights, per-symbol deltas (None unless adapted) and in-fold score sd."""

    config: StockformerConfig
    weights: dict[str, Tensor]
    deltas: Deltas | None
    score_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Everything a forecast needs: scaler, label scale per horizon, calibration and members."""

    feature_names: tuple[str, ...]
    scaler: Scaler
    label_scale_H: np.ndarray
    calibration: Calibration
    members: tuple[Member, ...]

    @property
    def context_sessions(self) -> int:
        """Sessions needed before the first forecast: the longest of all members."""
        return max(member.config.context_sessions for member in self.members)


@dataclass(frozen=True, slots=True)
class EnsembleForecast:
    """Averages over members: score_SO in sd units, return path and volatility per horizon as fractions [S, O, H]."""

    score_SO: np.ndarray
    path_SOH: np.ndarray
    volatility_SOH: np.ndarray

    def as_tensors(self) -> Forecast:
        """Return the same numbers as tensors that share their memory."""
        return Forecast(*(torch.from_numpy(each) for each in (self.score_SO, self.path_SOH, self.volatility_SOH)))


SetForecaster = Callable[[Sequence[Ensemble], np.ndarray, np.ndarray, range], EnsembleForecast]
"""Computes a pass as `forecast_ensembles` does: ensembles, raw features [S, T, F], presence [S, T], sessions on T."""


def eligible_sessions(present_ST: np.ndarray, context_sessions: int) -> np.ndarray:
    """Return where a forecast is allowed: present, with a whole receptive field since the symbol's first session."""
    num_sessions = present_ST.shape[1]
    first_S = np.where(present_ST.any(1), present_ST.argmax(1), num_sessions)
    enough_ST = np.arange(num_sessions) >= (first_S + context_sessions)[:, None]
    return np.asarray(present_ST & enough_ST)


def run_network(
    network: Stockformer,
    scaled_STF: np.ndarray,
    present_ST: np.ndarray,
    sessions: range,
    deltas: Deltas | None,
) -> EnsembleForecast:
    """Run a network (or a stack) in float32 without gradients over `sessions` (indices on T), in label units.

    Inputs travel to where the network is, chunk by chunk; outputs come back to the CPU.
    """
    context = network.config.context_sessions
    if sessions.start < context:
        raise BadDataError(
            "too little history for a forecast", expected=f">= {context} earlier sessions", found=sessions.start
        )
    step = max(1, _CHUNK_OUTPUTS // max(1, scaled_STF.shape[0]))
    if network.config.attention == "window":
        step = max(1, step // network.config.window_sessions)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    device = network.embed.weight.device
    with torch.inference_mode():
        for start in range(sessions.start, sessions.stop, step):
            stop = min(start + step, sessions.stop)
            x_STF = torch.from_numpy(np.ascontiguousarray(scaled_STF[:, start - context : stop]))
            seen_ST = torch.from_numpy(np.ascontiguousarray(present_ST[:, start - context : stop]))
            forecast = network(x_STF.to(device), seen_ST.to(device), stop - start, deltas)
            parts.append((forecast.score_SO.cpu(), forecast.path_SOH.cpu(), forecast.volatility_SOH.cpu()))
    score, path, volatility = (torch.cat(tensors, dim=1).numpy() for tensors in zip(*parts, strict=True))
    return EnsembleForecast(score, path, volatility)


def forecast_ensembles(
    ensembles: Sequence[Ensemble], values_STF: np.ndarray, present_ST: np.ndarray, sessions: range
) -> EnsembleForecast:
    """Return the averaged forecast of all members for `sessions` (indices on T); rows of absent symbols mean nothing.

    One ensemble serves every symbol, its deltas, where a member has them, in the order of the symbol axis; or there is
    one for each symbol, all of one shape and without deltas, and they are run as one stack.
    """
    first = ensembles[0]
    context = first.context_sessions
    start = sessions.start - context
    if start < 0:
        raise BadDataError(
            "too little history for a forecast", expected=f">= {context} earlier sessions", found=sessions.start
        )
    seen_ST = present_ST[:, start : sessions.stop]
    values_STF = values_STF[:, start : sessions.stop]
    if len(ensembles) == 1:
        scaled_STF = first.scaler.apply(values_STF, seen_ST)
    else:
        own = [
            each.scaler.apply(values_STF[row : row + 1], seen_ST[row : row + 1]) for row, each in enumerate(ensembles)
        ]
        scaled_STF = np.concatenate(own)
    scale_SH = np.stack([each.label_scale_H for each in ensembles])[:, None, :]
    inner = range(context, seen_ST.shape[1])
    outputs: list[EnsembleForecast] = []
    for place, member in enumerate(first.members):
        stack = [each.members[place] for each in ensembles]
        network = Stockformer(member.config, len(stack))
        network.load_weights([each.weights for each in stack])
        output = run_network(network, scaled_STF, seen_ST, inner, member.deltas)
        sd_S1 = np.asarray([[each.score_sd] for each in stack], dtype=np.float32)
        outputs.append(EnsembleForecast(output.score_SO / sd_S1, output.path_SOH, output.volatility_SOH))
    return EnsembleForecast(
        np.mean([output.score_SO for output in outputs], axis=0),
        np.mean([output.path_SOH for output in outputs], axis=0) * scale_SH,
        np.mean([output.volatility_SOH for output in outputs], axis=0) * scale_SH,
    )


def prediction_rows(
    forecast: EnsembleForecast,
    calibrations: Sequence[Calibration],
    eligible_SO: np.ndarray,
    symbols: Sequence[str],
    sessions: Sequence[date],
    horizon_sessions: int,
    model_id: str,
    fold_id: str,
) -> pl.DataFrame:
    """Return the forecast as a prediction frame at the longest horizon, one row per eligible symbol and session.

    One calibration serves every symbol, or there is one for each.
    """
    rows, columns = np.nonzero(eligible_SO)
    if not rows.size:
        return empty_prediction_frame()
    score = forecast.score_SO[rows, columns].astype(np.float64)
    intercept = np.asarray([each.intercept for each in calibrations])[rows if len(calibrations) > 1 else 0]
    slope = np.asarray([each.slope for each in calibrations])[rows if len(calibrations) > 1 else 0]
    frame = pl.DataFrame(
        {
            "model_id": [model_id] * rows.size,
            "symbol": np.asarray(symbols, dtype=object)[rows].tolist(),
            "session": [sessions[column] for column in columns.tolist()],
            "horizon_sessions": [horizon_sessions] * rows.size,
            "fold_id": [fold_id] * rows.size,
            "score": score,
            "direction_prob": logistic(intercept + slope * score),
            "expected_return_frac": forecast.path_SOH[rows, columns, -1].astype(np.float64),
            "volatility_frac": forecast.volatility_SOH[rows, columns, -1].astype(np.float64),
        }
    )
    return as_prediction_frame(frame)
