"""The rows a unit trains on: features, presence and forward returns on one market axis, and their identity.

Axes: S symbols (sorted), T sessions, F features, H horizons (1 .. H sessions).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from vnfleet.core.ids import arrays_sha256, canonical_json, sha256_hex
from vnfleet.core.sealed import sealing, verify
from vnfleet.model.ensemble import Scaler, eligible_sessions

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
        arrays = {
            "values": self.values_STF[alive_S, :stop],
            "present": self.present_ST[alive_S, :stop],
            "returns": self.returns_HST[:, alive_S, :stop],
        }
        return sha256_hex((canonical_json(names) + arrays_sha256(arrays)).encode())[:16]


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


def load_training_data(folder: Path) -> TrainingData:
    """Return the package sealed in `folder` after checking every hash; raises `BadDataError` otherwise."""
    meta = verify(folder, PACKAGE_KIND).meta
    arrays = [
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("values_STF", "present_ST", "returns_HST")
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
class Prepared:
    """What one fit reads: scaled features, where a loss is allowed, and targets; all before the fit's last session.

    target_ST is the cross-sectional rank of the longest-horizon return, scaled to unit sd (0 where no label);
    labelled_ST marks its labels; path_HST are returns in units of label_scale_H, NaN where unknown.
    """

    scaler: Scaler
    label_scale_H: np.ndarray
    scaled_STF: np.ndarray
    present_ST: np.ndarray
    eligible_ST: np.ndarray
    labelled_ST: np.ndarray
    target_ST: np.ndarray
    path_HST: np.ndarray


def prepare(data: TrainingData, fit: range, stop: int, context_sessions: int) -> Prepared:
    """Fit scaler and label scale on the sessions of `fit` and return everything before session index `stop`.

    Nothing at or after `stop` is read. Features are scaled by training rows only.
    """
    present_ST = data.present_ST[:, :stop]
    fit_rows_ST = np.zeros_like(present_ST)
    fit_rows_ST[:, fit.start : fit.stop] = present_ST[:, fit.start : fit.stop]
    scaler = Scaler.fit(data.values_STF[:, :stop][fit_rows_ST])
    returns_HST = data.returns_HST[:, :, :stop]
    label_scale_H = np.asarray(
        [max(float(np.nanstd(returns_ST[fit_rows_ST])), 1e-6) for returns_ST in returns_HST], dtype=np.float32
    )
    eligible_ST = eligible_sessions(present_ST, context_sessions)
    labelled_ST = eligible_ST & np.isfinite(returns_HST[-1])
    return Prepared(
        scaler=scaler,
        label_scale_H=label_scale_H,
        scaled_STF=scaler.apply(data.values_STF[:, :stop], present_ST),
        present_ST=np.ascontiguousarray(present_ST),
        eligible_ST=eligible_ST,
        labelled_ST=labelled_ST,
        target_ST=rank_target(returns_HST[-1], labelled_ST),
        path_HST=np.clip(returns_HST / label_scale_H[:, None, None], -8.0, 8.0),
    )


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
