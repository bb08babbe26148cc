"""Arrays cut into cells and back, bit for bit: all that a package says of one symbol in one block of sessions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import short_id

_MOST_HEADER_BYTES = 2**15
_FILL_BYTES = 2**20
Size = Annotated[int, Field(ge=1, le=2**40)]


class Layout(BaseModel):
    """How a .npy file is laid out: its header as hex, and which axis counts symbols; the next one counts sessions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    header: str = Field(pattern=r"^([0-9a-f]{2})+$", max_length=2**16)
    dtype: str = Field(pattern=r"^[<>|][biuf]\d{1,2}$")
    shape: tuple[Size, ...]
    axis: int = Field(ge=0)

    @model_validator(mode="after")
    def _has_both_axes(self) -> Self:
        if self.axis + 1 >= len(self.shape):
            raise ValueError("an array without symbols or sessions")
        return self

    @property
    def header_bytes(self) -> bytes:
        """The bytes before the numbers."""
        return bytes.fromhex(self.header)

    @property
    def row_bytes(self) -> int:
        """Bytes of one symbol and session."""
        numbers = math.prod(size for axis, size in enumerate(self.shape) if axis not in (self.axis, self.axis + 1))
        return numbers * np.dtype(self.dtype).itemsize

    def mapped(self, folder: Path, mode: Any) -> np.memmap[Any, Any]:  # noqa: ANN401 - numpy's own names for it
        """Return the array as a map of its file in `folder`."""
        offset = len(self.header_bytes)
        return np.memmap(folder / self.name, dtype=self.dtype, mode=mode, offset=offset, shape=self.shape)

    def at(self, symbol: int, start: int, stop: int) -> tuple[int | slice, ...]:
        """Return the index of one symbol's sessions [start, stop)."""
        return (*(slice(None) for _ in range(self.axis)), symbol, slice(start, stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a package is cut. blocks : sessions [start, stop) by key; a key names the sessions and the arrays' layout."""

    symbols: tuple[str, ...]
    blocks: Mapping[str, tuple[int, int]]
    layouts: tuple[Layout, ...]

    def cell_bytes(self, block: str) -> int:
        """Return the bytes of one cell of `block`."""
        start, stop = self.blocks[block]
        return (stop - start) * sum(layout.row_bytes for layout in self.layouts)


class CellReader:
    """The cells of the arrays in a folder."""

    def __init__(self, folder: Path, cut: Cut) -> None:
        self._cut = cut
        self._arrays = [layout.mapped(folder, "r") for layout in cut.layouts]

    def cell(self, block: str, symbol: int) -> bytes:
        """Return the bytes of one cell."""
        start, stop = self._cut.blocks[block]
        pairs = zip(self._cut.layouts, self._arrays, strict=True)
        return b"".join(
            np.ascontiguousarray(array[layout.at(symbol, start, stop)]).tobytes() for layout, array in pairs
        )


class CellWriter:
    """New arrays in a folder, filled cell by cell."""

    def __init__(self, folder: Path, cut: Cut) -> None:
        self._cut = cut
        for layout in cut.layouts:
            path = folder / layout.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(layout.header_bytes)
                _fill(file, math.prod(layout.shape) * np.dtype(layout.dtype).itemsize)
        self._arrays = [layout.mapped(folder, "r+") for layout in cut.layouts]

    def put(self, block: str, symbol: int, payload: bytes) -> None:
        """Write one cell."""
        start, stop = self._cut.blocks[block]
        offset = 0
        for layout, array in zip(self._cut.layouts, self._arrays, strict=True):
            part = array[layout.at(symbol, start, stop)]
            numbers = np.frombuffer(payload, dtype=layout.dtype, count=part.size, offset=offset)
            part[...] = numbers.reshape(part.shape)
            offset += numbers.nbytes

    def close(self) -> None:
        """Bring everything to the disk."""
        for array in self._arrays:
            array.flush()
        self._arrays = []


def _fill(file: IO[bytes], num_bytes: int) -> None:
    """Write zeros: a file with holes would let a full disk kill the process in the middle of a mapped page (SIGBUS)."""
    for start in range(0, num_bytes, _FILL_BYTES):
        file.write(bytes(min(_FILL_BYTES, num_bytes - start)))


def layouts_of(folder: Path, files: Sequence[str], meta: Mapping[str, JsonValue]) -> tuple[Layout, ...]:
    """Return the layouts of those `files` that are arrays over the symbols and sessions in `meta`."""
    symbols, sessions = _texts(meta, "symbols"), _texts(meta, "sessions")
    found = (_layout(folder, name, len(symbols), len(sessions)) for name in sorted(files))
    return tuple(layout for layout in found if layout is not None)


def cut_of(meta: Mapping[str, JsonValue], layouts: tuple[Layout, ...]) -> Cut:
    """Return how arrays of these layouts are cut: by year, the newest year by month.

    Raises `BadDataError` when the layouts do not fit the axes in `meta`.
    """
    symbols, sessions = _texts(meta, "symbols"), _texts(meta, "sessions")
    for layout in layouts:
        if layout.shape[layout.axis : layout.axis + 2] != (len(symbols), len(sessions)):
            raise BadDataError("an array does not fit its axes", where=layout.name, found=layout.shape)
    newest = sessions[-1][:4] if sessions else ""
    facts = short_id([[one.name, one.dtype, one.axis, one.row_bytes] for one in layouts])
    blocks: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    start = 0
    for name, group in itertools.groupby(sessions, key=lambda day: day[:7] if day[:4] == newest else day[:4]):
        days = list(group)
        blocks[f"{name}:{short_id([facts, days, start if name in seen else 0])}"] = (start, start + len(days))
        seen.add(name)
        start += len(days)
    return Cut(symbols=symbols, blocks=blocks if layouts else {}, layouts=layouts)


def _layout(folder: Path, name: str, num_symbols: int, num_sessions: int) -> Layout | None:
    """Return the layout of one file; None when it is to travel whole."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with (folder / name).open("rb") as file:
        try:
            shape, is_fortran, dtype = readers[np.lib.format.read_magic(file)](file)
        except (ValueError, KeyError):
            return None
        length = file.tell()
        file.seek(0)
        header = file.read(length) if length < _MOST_HEADER_BYTES else b""
    pairs = [axis for axis in range(len(shape) - 1) if shape[axis : axis + 2] == (num_symbols, num_sessions)]
    if is_fortran or dtype.kind not in "biuf" or not pairs or not math.prod(shape) or not header:
        return None
    return Layout(name=name, header=header.hex(), dtype=dtype.str, shape=shape, axis=pairs[0])


def _texts(meta: Mapping[str, JsonValue], name: str) -> tuple[str, ...]:
    value = meta.get(name)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
