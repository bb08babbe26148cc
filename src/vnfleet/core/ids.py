"""Identities: canonical JSON, SHA-256 of files, frames, arrays and source code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


def canonical_json(value: object) -> str:
    """Return `value` as JSON with sorted keys, no spaces, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_hex(payload: bytes) -> str:
    """Return the SHA-256 of `payload` in hex."""
    return hashlib.sha256(payload).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def short_id(value: object) -> str:
    """Return the first 16 hex digits of SHA-256 over the canonical JSON of `value`."""
    return sha256_hex(canonical_json(value).encode())[:16]


def frame_sha256(frame: pl.DataFrame) -> str:
    """Return a SHA-256 over column names, types and values; row order counts, row-group layout does not."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame.get_column(name)
        digest.update(f"{name}:{column.dtype}".encode())
        digest.update(column.is_null().to_numpy().tobytes())
        if column.dtype in (pl.String, pl.Categorical):
            digest.update("\x1f".join(column.cast(pl.String).fill_null("").to_list()).encode())
        else:
            digest.update(np.ascontiguousarray(column.to_physical().fill_null(0).to_numpy()).tobytes())
    return digest.hexdigest()


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over sorted (name, dtype, shape, little-endian bytes): independent of any container."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(canonical_json([name, little.dtype.str, list(little.shape)]).encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def source_sha256(*packages: str, without: Sequence[str] = ()) -> str:
    """Return the SHA-256 over the Python sources of the given packages, so that a code change is a new recipe.

    Packages below them named in `without` do not count.
    """
    digest = hashlib.sha256()
    for package in sorted(packages):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(package)
        root = Path(spec.origin).parent
        skipped = {root.joinpath(*name.removeprefix(package + ".").split(".")) for name in without}
        for path in sorted(root.rglob("*.py")):
            if not skipped.isdisjoint(path.parents):
                continue
            digest.update(f"{package}/{path.relative_to(root).as_posix()}".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
