"""Append-only revisions: `rev-000001-20251122T084500Z.parquet`, each written once, whole or not at all.

The raw store and the event ledger are both made of them. The stamp in the name is when vnfleet learned the rows.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from vnfleet.core.atomic import TMP_MARK, write_bytes
from vnfleet.core.errors import BadDataError

_REVISION = re.compile(r"rev-(\d{6})-(\d{8}T\d{6}Z)\.parquet")
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Revision:
    """One file of a record: its place in the order, and when it was learned (UTC)."""

    path: Path
    number: int
    known_at: datetime


def revisions_in(folder: Path, known_at: datetime | None = None) -> list[Revision]:
    """Return the revisions of a folder known by `known_at` (None: all), oldest first; unfinished files do not count."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _REVISION.fullmatch(path.name)
        if match:
            stamp = datetime.strptime(match[2], _STAMP).replace(tzinfo=UTC)
            if known_at is None or stamp <= known_at:
                found.append(Revision(path=path, number=int(match[1]), known_at=stamp))
    return sorted(found, key=lambda revision: revision.number)


def append_revision(folder: Path, rows: pl.DataFrame, known_at: datetime, what: str) -> None:
    """Write `rows`, learned at `known_at` (aware), as the next revision of `folder`; `what` names them in an error.

    Raises `BadDataError` when `known_at` lies before a revision that is already there.
    """
    known_at = known_at.astimezone(UTC).replace(microsecond=0)
    last = next(reversed(revisions_in(folder)), None)
    if last is not None and known_at < last.known_at:
        raise BadDataError(
            f"{what} are dated before {what} that are already recorded",
            expected=f"{last.known_at:{_STAMP}} or later",
            found=f"{known_at:{_STAMP}}",
            where=last.path,
            fix="set the clock of this machine right",
        )
    number = 1 if last is None else last.number + 1
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd")
    write_bytes(folder / f"rev-{number:06d}-{known_at:{_STAMP}}.parquet", buffer.getvalue())


def read_revision(
    path: Path, schema: dict[str, pl.DataType], record: str, fix: str, optional: Collection[str] = ()
) -> pl.DataFrame:
    """Return the rows of one revision of `record`; raises `BadDataError` with `fix` when it is damaged or foreign.

    optional : columns that revisions written by older versions lack; they are null there.
    """
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadDataError(
            f"a revision of {record} cannot be read", found=str(error).splitlines()[0][:200], where=path, fix=fix
        ) from error
    absent = [name for name in optional if name in schema and name not in table.columns]
    if absent:
        table = table.with_columns(pl.lit(None, schema[name]).alias(name) for name in absent).select(list(schema))
    if table.schema != pl.Schema(schema):
        raise BadDataError(
            f"a revision of {record} has other columns", expected=schema, found=table.schema, where=path, fix=fix
        )
    return table


def remove_unfinished(folder: Path, pattern: str) -> None:
    """Delete what killed writers left below `folder`; it was never part of a record."""
    for stale in folder.glob(f"{pattern}{TMP_MARK}*"):
        stale.unlink(missing_ok=True)
