"""The feature cube: fifty float32 numbers per symbol and session, built from one panel.

Axes: S symbols (sorted), T sessions (market axis), F features (catalogue order).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import canonical_json, short_id, source_sha256
from vnfleet.core.sealed import sealing, verify
from vnfleet.data.panel import Panel
from vnfleet.features.catalogue import FEATURE_NAMES, FEATURES
from vnfleet.features.working import working_frame

CUBE_KIND = "feature-cube"


@dataclass(frozen=True, slots=True)
class FeatureCube:
    """Features of every symbol-session, read-only.

    sessions, symbols, names : the axes T, S, F. values_STF : float32, C-contiguous, finite, 0.0 where not present.
    present_ST : bool, the symbol traded that session and all of its features are known; nothing is ever filled.
    cube_id : what it was built from: the panel's data and listings, the names, the source of features and market rules.

    Raises `BadDataError` when arrays and axes do not fit together.
    """

    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    names: tuple[str, ...]
    values_STF: np.ndarray
    present_ST: np.ndarray
    cube_id: str

    def __post_init__(self) -> None:
        shape = (len(self.symbols), len(self.sessions), len(self.names))
        expected = f"float32 {shape} and bool {shape[:2]}"
        values, present = self.values_STF, self.present_ST
        found = f"{values.dtype} {values.shape} and {present.dtype} {present.shape}"
        if found != expected:
            raise BadDataError(
                "a feature cube does not fit its axes", expected=expected, found=found, where=self.cube_id
            )
        self.values_STF.setflags(write=False)
        self.present_ST.setflags(write=False)


def feature_frame(panel: Panel) -> pl.DataFrame:
    """Return symbol, session and the features in float64, one row per row of `panel.bars`, NaN where unknown.

    Indicators run on each symbol's own traded sessions. Raises `BadDataError` when the panel has no index or lies
    outside the recorded market rules.
    """
    return (
        working_frame(panel)
        .lazy()
        .with_columns(f.expression.alias(f.name) for f in FEATURES if not f.per_session)
        .with_columns(f.expression.alias(f.name) for f in FEATURES if f.per_session)
        .select("symbol", "session", pl.col(FEATURE_NAMES).fill_null(float("nan")))
        .collect()
    )


def build_cube(panel: Panel) -> FeatureCube:
    """Return the cube of `panel`: `feature_frame` placed on the market axis; values at t depend on nothing after t.

    Raises `BadDataError` as `feature_frame` does.
    """
    known = feature_frame(panel).select(pl.col(FEATURE_NAMES).cast(pl.Float32)).to_numpy(order="c")
    complete = np.isfinite(known).all(axis=1)
    rows, columns = (positions[complete] for positions in panel.positions())
    shape = (len(panel.symbols), len(panel.sessions))
    values_STF = np.zeros((*shape, len(FEATURES)), dtype=np.float32)
    values_STF[rows, columns] = known[complete]
    present_ST = np.zeros(shape, dtype=np.bool_)
    present_ST[rows, columns] = True
    return FeatureCube(panel.sessions, panel.symbols, FEATURE_NAMES, values_STF, present_ST, cube_id_of(panel))


def cube_id_of(panel: Panel) -> str:
    """Return the identity of the cube that `build_cube` would make of `panel`, without building it.

    The source of the market's rules counts: price limits depend on it.
    """
    source = source_sha256("vnfleet.features", "vnfleet.market")
    return short_id([panel.data_id, source, list(panel.symbols), list(FEATURE_NAMES)])


def save_cube(cube: FeatureCube, root: Path) -> Path:
    """Write `cube` as the sealed folder `root`/<cube_id> (root: data/features of the work directory) and return it."""
    folder = root / cube.cube_id
    with sealing(folder, CUBE_KIND, {"cube_id": cube.cube_id}) as scratch:
        np.save(scratch / "values_STF.npy", cube.values_STF, allow_pickle=False)
        np.save(scratch / "present_ST.npy", cube.present_ST, allow_pickle=False)
        axes = {"sessions": [day.isoformat() for day in cube.sessions], "symbols": cube.symbols, "names": cube.names}
        write_text(scratch / "axes.json", canonical_json(axes))
    return folder


def load_cube(folder: Path) -> FeatureCube:
    """Return the cube saved in `folder`.

    Raises `BadDataError` when the folder is not complete, was changed, or holds other features than the catalogue's.
    """
    manifest = verify(folder, CUBE_KIND)
    axes: dict[str, list[str]] = json.loads((folder / "axes.json").read_text(encoding="utf-8"))
    if tuple(axes["names"]) != FEATURE_NAMES:
        raise BadDataError(
            "a feature cube holds other features than this version's",
            where=folder,
            expected=sorted(set(FEATURE_NAMES) - set(axes["names"])) or "the catalogue's order",
            found=sorted(set(axes["names"]) - set(FEATURE_NAMES)),
            fix="build the features again",
        )
    return FeatureCube(
        sessions=tuple(date.fromisoformat(day) for day in axes["sessions"]),
        symbols=tuple(axes["symbols"]),
        names=tuple(axes["names"]),
        values_STF=np.load(folder / "values_STF.npy", allow_pickle=False),
        present_ST=np.load(folder / "present_ST.npy", allow_pickle=False),
        cube_id=str(manifest.meta["cube_id"]),
    )
