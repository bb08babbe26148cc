"""Packs of cells, and the index that says which pack holds which part of a package of training data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vnfleet.core.ids import sha256_of_file
from vnfleet.core.sealed import Manifest
from vnfleet.remote.cells import Layout

INDEX_SCHEMA_VERSION = 1
PACK_BYTES = 32 * 2**20
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Run(BaseModel):
    """Cells of one block, one after the other: symbols, bytes of each cell, first hex digits of each one's SHA-256."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    block: str
    cell_bytes: int = Field(ge=1)
    symbols: tuple[str, ...]
    cells: tuple[str, ...]

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if len(self.symbols) != len(self.cells):
            raise ValueError("a run needs one hash per symbol")
        return self


class Pack(BaseModel):
    """One object: its hash, its size in bytes, and the cells in it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: Sha256
    size_bytes: int = Field(ge=0)
    runs: tuple[Run, ...]

    def cells(self) -> Iterator[tuple[str, str, str, int, int]]:
        """Yield block, symbol, short hash, offset and size of every cell."""
        offset = 0
        for run in self.runs:
            for symbol, short in zip(run.symbols, run.cells, strict=True):
                yield run.block, symbol, short, offset, run.cell_bytes
                offset += run.cell_bytes


class PackageIndex(BaseModel):
    """What a package is made of. `manifest` is the text of its manifest; of two packs with a cell the later counts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = INDEX_SCHEMA_VERSION
    manifest: str
    layouts: tuple[Layout, ...]
    packs: tuple[Pack, ...]

    def read_manifest(self) -> Manifest:
        """Return the package's manifest; raises `ValidationError` (a `ValueError`) when it is none."""
        return Manifest.model_validate_json(self.manifest)

    def whole_files(self) -> dict[str, str]:
        """Return the files that travel whole, with the object that holds each."""
        cut = {layout.name for layout in self.layouts}
        return {name: sha for name, sha in self.read_manifest().files.items() if name not in cut}

    def objects(self) -> frozenset[str]:
        """Return every object that is needed."""
        return frozenset(pack.sha256 for pack in self.packs) | frozenset(self.whole_files().values())


@dataclass(slots=True)
class Packer:
    """Writes cells into packs of about `PACK_BYTES` in a folder; each ends under the name of its hash."""

    folder: Path
    _packs: list[Pack] = field(default_factory=list)
    _runs: list[tuple[str, int, list[str], list[str]]] = field(default_factory=list)
    _file: IO[bytes] | None = None
    _size_bytes: int = 0

    def add(self, block: str, symbol: str, short: str, payload: bytes) -> None:
        """Append one cell."""
        if self._file is None:
            self._file = (self.folder / "pack").open("wb")
        self._file.write(payload)
        self._size_bytes += len(payload)
        if not self._runs or self._runs[-1][0] != block:
            self._runs.append((block, len(payload), [], []))
        self._runs[-1][2].append(symbol)
        self._runs[-1][3].append(short)
        if self._size_bytes >= PACK_BYTES:
            self._close()

    def finish(self) -> tuple[Pack, ...]:
        """Return what was packed."""
        self._close()
        return tuple(self._packs)

    def _close(self) -> None:
        if self._file is None:
            return
        self._file.close()
        sha = sha256_of_file(self.folder / "pack")
        (self.folder / "pack").rename(self.folder / sha)
        runs = tuple(
            Run(block=block, cell_bytes=size, symbols=tuple(symbols), cells=tuple(cells))
            for block, size, symbols, cells in self._runs
        )
        self._packs.append(Pack(sha256=sha, size_bytes=self._size_bytes, runs=runs))
        self._file, self._size_bytes, self._runs = None, 0, []
