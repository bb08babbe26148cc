"""The rows a unit trains on: features, presence and forward returns on one market axis, and their identity.

Axes: S symbols (sorted), T sessions, F features, H horizons (those of the recipe, the last one is judged).
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from vnfleet.core.ids import canonical_json
from vnfleet.core.sealed import sealing, verify
from vnfleet.model.ensemble import Scaler, eligible_sessions
from vnfleet.training.recipe import ObjectiveConfig

PACKAGE_KIND = "training-data"
_RANK_SD = np.sqrt(12.0)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Features values_STF (float32, 0 where absent), present_ST, and returns_HST (float32, NaN where unknown)."""

    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    feature_names: tuple[str, ...]
    values_STF: np.ndarray
    present_ST: np.ndarray
    returns_HST: np.ndarray

    def __post_init__(self) -> None:
        """Refuse arrays that do not share their axes."""
        shape = (len(self.symbols), len(self.sessions))
        if (
            self.values_STF.shape != (*shape, len(self.feature_names))
            or self.present_ST.shape != shape
            or self.returns_HST.shape[1:] != shape
        ):
            raise ValueError(
                f"axes differ: {shape=} features={self.values_STF.shape} "
                f"present={self.present_ST.shape} returns={self.returns_HST.shape}"
            )

    def rows_id(self, stop: int) -> str:
        """Return the identity of the rows before session index `stop`; symbols not yet seen there do not count."""
        alive_S: np.ndarray = np.any(self.present_ST[:, :stop], axis=1)
        names = {
            "sessions": [session.isoformat() for session in self.sessions[:stop]],
            "symbols": [symbol for symbol, alive in zip(self.symbols, alive_S, strict=True) if alive],
            "features": list(self.feature_names),
        }
        digest = hashlib.sha256(canonical_json(names).encode())
        for row in np.flatnonzero(alive_S):  # symbol by symbol: no copy of everything
            for part in (self.values_STF[row, :stop], self.present_ST[row, :stop], self.returns_HST[:, row, :stop]):
                digest.update(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()[:16]


def save_training_data(folder: Path, data: TrainingData) -> str:
    """Seal `data` into `folder` as plain .npy files and return the content hash of the package."""
    meta: dict[str, JsonValue] = {
        "sessions": [session.isoformat() for session in data.sessions],
        "symbols": list(data.symbols),
        "feature_names": list(data.feature_names),
    }
    with sealing(folder, PACKAGE_KIND, meta) as scratch:
        for name in ("values_STF", "present_ST", "returns_HST"):
            np.save(scratch / f"{name}.npy", getattr(data, name), allow_pickle=False)
    return verify(folder, PACKAGE_KIND).content_sha256


def load_training_data(folder: Path, *, mapped: bool = False) -> TrainingData:
    """Return the package sealed in `folder` after checking every hash; raises `BadDataError` otherwise.

    With `mapped` the arrays are read-only maps of the files: processes on one machine share their memory.
    """
    meta = verify(folder, PACKAGE_KIND).meta
    arrays = [
        np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False))
        for name in ("values_STF", "present_ST", "returns_HST")
    ]
    return TrainingData(
        tuple(date.fromisoformat(str(session)) for session in _texts(meta["sessions"])),
        _texts(meta["symbols"]),
        _texts(meta["feature_names"]),
        *arrays,
    )


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list in the package manifest, found {type(value).__name__}")
    return tuple(str(item) for item in value)


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a model measures in: its scaler, and the in-fold sd of returns per horizon [H]."""

    scaler: Scaler
    label_scale_H: np.ndarray

    @staticmethod
    def fit(values_STF: np.ndarray, returns_HST: np.ndarray, fit_rows_ST: np.ndarray) -> Scaling:
        """Return the scaling of the marked rows."""
        label_scale_H = np.asarray([_spread(returns_ST[fit_rows_ST]) for returns_ST in returns_HST], dtype=np.float32)
        return Scaling(Scaler.fit(values_STF[fit_rows_ST]), label_scale_H)


def _spread(returns: np.ndarray) -> float:
    known = returns[np.isfinite(returns)]
    return max(float(known.std()), 1e-6) if known.size else 1.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one fit reads: scaled features, where a loss is allowed, and targets; all before the fit's last session.

    scaling : one for all symbols, or one per symbol (`separate`).
    target_ST is the cross-sectional rank of the longest-horizon return, scaled to unit sd (0 where no label);
    labelled_ST marks its labels; path_HST are returns in units of the label scale, NaN where unknown; up_ST is the
    direction label (1 up, 0 down, 0.5 unchanged, NaN unknown).
    """

    scaling: tuple[Scaling, ...]
    scaled_STF: np.ndarray
    present_ST: np.ndarray
    eligible_ST: np.ndarray
    labelled_ST: np.ndarray
    target_ST: np.ndarray
    path_HST: np.ndarray
    up_ST: np.ndarray

    def on(self, device: str) -> Resident:
        """Return the tensors that batches are cut from, resident on `device` (shared memory on the CPU)."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        return Resident(
            tensor(self.scaled_STF),
            tensor(self.present_ST),
            tensor(self.target_ST),
            tensor(self.labelled_ST),
            tensor(self.path_HST.transpose(1, 2, 0)),
            tensor(self.up_ST),
        )


@dataclass(frozen=True, slots=True)
class Resident:
    """The arrays of `Prepared` as tensors on the training device; path_STH has the horizons last."""

    scaled_STF: Tensor
    present_ST: Tensor
    target_ST: Tensor
    labelled_ST: Tensor
    path_STH: Tensor
    up_ST: Tensor


def prepare(data: TrainingData, fit: range, stop: int, context_sessions: int, objective: ObjectiveConfig) -> Prepared:
    """Fit scaler and label scale on the sessions of `fit` and return everything before session index `stop`.

    Nothing at or after `stop` is read. Features are scaled by training rows only.
    """
    fit_rows_ST = _rows_of(data.present_ST[:, :stop], fit)
    scaling = Scaling.fit(data.values_STF[:, :stop], data.returns_HST[:, :, :stop], fit_rows_ST)
    scaled_STF = scaling.scaler.apply(data.values_STF[:, :stop], data.present_ST[:, :stop])
    return _prepared(data, stop, context_sessions, objective, (scaling,), scaled_STF)


def prepare_separate(
    data: TrainingData,
    fit: range,
    stop: int,
    context_sessions: int,
    objective: ObjectiveConfig,
    market: TrainingData | None = None,
) -> Prepared:
    """Return the same with a scaler and label scale per symbol, each fitted on that symbol's own rows.

    `market` holds every symbol collected: what a direction label "market_relative" compares with (default: `data`).
    """
    fit_rows_ST = _rows_of(data.present_ST[:, :stop], fit)
    scaled_STF = np.zeros((*fit_rows_ST.shape, data.values_STF.shape[2]), dtype=np.float32)
    scalings: list[Scaling] = []
    for row in range(len(data.symbols)):
        own = slice(row, row + 1)
        rows = fit_rows_ST[own] if fit_rows_ST[own].any() else data.present_ST[own, :stop]
        scaling = Scaling.fit(data.values_STF[own, :stop], data.returns_HST[:, own, :stop], rows)
        scaled_STF[own] = scaling.scaler.apply(data.values_STF[own, :stop], data.present_ST[own, :stop])
        scalings.append(scaling)
    prepared = _prepared(data, stop, context_sessions, objective, tuple(scalings), scaled_STF)
    if market is None or objective.direction_target == "absolute":
        return prepared
    returns_ST = market.returns_HST[-1][:, :stop]
    labelled_ST = eligible_sessions(market.present_ST[:, :stop], context_sessions) & np.isfinite(returns_ST)
    up_ST = direction_label(returns_ST, labelled_ST, objective)
    return dataclasses.replace(prepared, up_ST=up_ST[[market.symbols.index(symbol) for symbol in data.symbols]])


def _rows_of(present_ST: np.ndarray, fit: range) -> np.ndarray:
    rows_ST = np.zeros_like(present_ST)
    rows_ST[:, fit.start : fit.stop] = present_ST[:, fit.start : fit.stop]
    return rows_ST


def _prepared(
    data: TrainingData,
    stop: int,
    context_sessions: int,
    objective: ObjectiveConfig,
    scaling: tuple[Scaling, ...],
    scaled_STF: np.ndarray,
) -> Prepared:
    present_ST = np.ascontiguousarray(data.present_ST[:, :stop])
    returns_HST = data.returns_HST[:, :, :stop]
    eligible_ST = eligible_sessions(present_ST, context_sessions)
    labelled_ST = eligible_ST & np.isfinite(returns_HST[-1])
    scale_HS = np.stack([each.label_scale_H for each in scaling], axis=1)
    return Prepared(
        scaling=scaling,
        scaled_STF=scaled_STF,
        present_ST=present_ST,
        eligible_ST=eligible_ST,
        labelled_ST=labelled_ST,
        target_ST=rank_target(returns_HST[-1], labelled_ST),
        path_HST=np.clip(returns_HST / scale_HS[:, :, None], -8.0, 8.0),
        up_ST=direction_label(returns_HST[-1], labelled_ST, objective),
    )


def direction_label(returns_ST: np.ndarray, labelled_ST: np.ndarray, objective: ObjectiveConfig) -> np.ndarray:
    """Return 1 for a rise, 0 for a fall, 0.5 for neither, NaN without label; against the session's median if asked."""
    excess_ST = np.where(labelled_ST, returns_ST, np.nan)
    if objective.direction_target == "market_relative":
        some_T = labelled_ST.any(0)
        excess_ST[:, some_T] -= np.nanmedian(excess_ST[:, some_T], axis=0)
    return np.where(np.isnan(excess_ST), np.nan, 0.5 + 0.5 * np.sign(excess_ST)).astype(np.float32)


def rank_target(returns_ST: np.ndarray, labelled_ST: np.ndarray) -> np.ndarray:
    """Return per session the average rank of each labelled return, centred, of about unit sd; 0 elsewhere."""
    target_ST = np.zeros(returns_ST.shape, dtype=np.float32)
    for column in range(returns_ST.shape[1]):
        rows = np.flatnonzero(labelled_ST[:, column])
        if rows.size:
            _, inverse, counts = np.unique(returns_ST[rows, column], return_inverse=True, return_counts=True)
            average = np.cumsum(counts) - (counts - 1) / 2.0
            target_ST[rows, column] = ((average[inverse] - 0.5) / rows.size - 0.5) * _RANK_SD
    return target_ST
