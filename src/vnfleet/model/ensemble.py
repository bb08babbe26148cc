"""Forecasts of an ensemble: scale, run every member once over all sessions, divide by its score sd, average.

Axes: S symbols, T sessions on the market axis, O forecast sessions, F features, H horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import as_prediction_frame, empty_prediction_frame
from vnfleet.model.logistic import logistic
from vnfleet.model.stockformer import Deltas, Stockformer, StockformerConfig

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
    """One trained network: its weights, its per-symbol deltas (None when pooled) and its in-fold score sd."""

    weights: dict[str, Tensor]
    deltas: Deltas | None
    score_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Everything a forecast needs: shape, scaler, label scale per horizon, calibration and members."""

    config: StockformerConfig
    feature_names: tuple[str, ...]
    scaler: Scaler
    label_scale_H: np.ndarray
    calibration: Calibration
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class EnsembleForecast:
    """Averages over members: score_SO in sd units, return path and volatility per horizon as fractions [S, O, H]."""

    score_SO: np.ndarray
    path_SOH: np.ndarray
    volatility_SOH: np.ndarray


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
    """Run one network in float32 without gradients over `sessions` (indices on T) for all symbols, in label units."""
    context = network.config.context_sessions
    if sessions.start < context:
        raise BadDataError(
            "too little history for a forecast", expected=f">= {context} earlier sessions", found=sessions.start
        )
    step = max(1, _CHUNK_OUTPUTS // max(1, scaled_STF.shape[0]))
    if network.config.attention == "window":
        step = max(1, step // network.config.window_sessions)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    network.eval()
    with torch.inference_mode():
        for start in range(sessions.start, sessions.stop, step):
            stop = min(start + step, sessions.stop)
            x_STF = torch.from_numpy(np.ascontiguousarray(scaled_STF[:, start - context : stop]))
            seen_ST = torch.from_numpy(np.ascontiguousarray(present_ST[:, start - context : stop]))
            forecast = network(x_STF, seen_ST, stop - start, deltas)
            parts.append((forecast.score_SO, forecast.path_SOH, forecast.volatility_SOH))
    score, path, volatility = (torch.cat(tensors, dim=1).numpy() for tensors in zip(*parts, strict=True))
    return EnsembleForecast(score, path, volatility)


def forecast_ensemble(
    ensemble: Ensemble, values_STF: np.ndarray, present_ST: np.ndarray, sessions: range
) -> EnsembleForecast:
    """Return the averaged forecast of all members for `sessions` (indices on T); rows of absent symbols mean nothing.

    Deltas, where a member has them, must be in the order of the symbol axis.
    """
    first = sessions.start - ensemble.config.context_sessions
    if first < 0:
        raise BadDataError(
            "too little history for a forecast",
            expected=f">= {ensemble.config.context_sessions} earlier sessions",
            found=sessions.start,
        )
    seen_ST = present_ST[:, first : sessions.stop]
    scaled_STF = ensemble.scaler.apply(values_STF[:, first : sessions.stop], seen_ST)
    inner = range(ensemble.config.context_sessions, seen_ST.shape[1])
    network = Stockformer(ensemble.config)
    outputs: list[EnsembleForecast] = []
    for member in ensemble.members:
        network.load_state_dict(member.weights)
        output = run_network(network, scaled_STF, seen_ST, inner, member.deltas)
        outputs.append(EnsembleForecast(output.score_SO / member.score_sd, output.path_SOH, output.volatility_SOH))
    return EnsembleForecast(
        np.mean([output.score_SO for output in outputs], axis=0),
        np.mean([output.path_SOH for output in outputs], axis=0) * ensemble.label_scale_H,
        np.mean([output.volatility_SOH for output in outputs], axis=0) * ensemble.label_scale_H,
    )


def prediction_rows(
    forecast: EnsembleForecast,
    calibration: Calibration,
    eligible_SO: np.ndarray,
    symbols: Sequence[str],
    sessions: Sequence[date],
    model_id: str,
    fold_id: str,
) -> pl.DataFrame:
    """Return the forecast as a prediction frame at the longest horizon, one row per eligible symbol and session."""
    rows, columns = np.nonzero(eligible_SO)
    if not rows.size:
        return empty_prediction_frame()
    score = forecast.score_SO[rows, columns].astype(np.float64)
    frame = pl.DataFrame(
        {
            "model_id": [model_id] * rows.size,
            "symbol": np.asarray(symbols, dtype=object)[rows].tolist(),
            "session": [sessions[column] for column in columns.tolist()],
            "horizon_sessions": [forecast.path_SOH.shape[2]] * rows.size,
            "fold_id": [fold_id] * rows.size,
            "score": score,
            "direction_prob": calibration.probability(score),
            "expected_return_frac": forecast.path_SOH[rows, columns, -1].astype(np.float64),
            "volatility_frac": forecast.volatility_SOH[rows, columns, -1].astype(np.float64),
        }
    )
    return as_prediction_frame(frame)
