"""Append-only revisions: `rev-000001-20251122T084500Z.parquet`, each written once, whole or not at all.

The raw store and the event ledger are both made of them. The stamp in the name is when vnfleet learned the rows. A name
that ends in `-whole` says that the revision repeats all that still holds of those before it, so that reading stays fast
after years of days; they stay, and tell what was known before it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.core.atomic import TMP_MARK, write_bytes
from vnfleet.core.errors import BadDataError

_REVISION = re.compile(r"rev-(\d{6})-(\d{8}T\d{6}Z)(-whole)?\.parquet")
_STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Revision:
    """One file of a record: its place in the order, when it was learned (UTC), whether those before it can be left."""

    path: Path
    number: int
    known_at: datetime
    whole: bool = False


def revisions_in(folder: Path, known_at: datetime | None = None) -> list[Revision]:
    """Return the revisions of a folder known by `known_at` (None: now) that matter, oldest first.

    Unfinished files do not count, nor do those before the newest whole one.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _REVISION.fullmatch(path.name)
        if match:
            try:
                stamp = datetime.strptime(match[2], _STAMP).replace(tzinfo=UTC)
            except ValueError as error:
                raise BadDataError(
                    "the name of a revision has an impossible date", where=path, fix="restore its name from a backup"
                ) from error
            if known_at is None or stamp <= known_at:
                whole = match[3] is not None
                found.append(Revision(path=path, number=int(match[1]), known_at=stamp, whole=whole))
    found.sort(key=lambda revision: revision.number)
    return found[max((place for place, revision in enumerate(found) if revision.whole), default=0) :]


def append_revision(folder: Path, rows: pl.DataFrame, known_at: datetime, what: str, *, whole: bool = False) -> None:
    """Write `rows`, learned at `known_at` (aware), as the next revision of `folder`; `what` names them in an error.

    whole : they repeat all that still holds of the revisions before.

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
    name = f"rev-{number:06d}-{known_at:{_STAMP}}" + ("-whole" if whole else "")
    write_bytes(folder / f"{name}.parquet", buffer.getvalue())


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


def read_current(
    revisions: Mapping[str, Sequence[Revision]],
    schema: dict[str, pl.DataType],
    key: str,
    fix: str,
    optional: Collection[str] = (),
) -> pl.DataFrame:
    """Return what the raw store's `revisions`, by part (oldest first), say now: of every `key` its newest rows.

    Rows come in the order of the parts, sorted by `key` within each. Raises `BadDataError` like `read_revision`.
    """
    files = [revision for part in revisions.values() for revision in part]
    if not files:
        return pl.DataFrame(schema=schema)
    table, counts = _read_all(files, schema, fix, optional)
    if len(files) == len([part for part in revisions.values() if part]):
        return table
    number = np.repeat([revision.number for revision in files], counts)
    part = np.repeat([i for i, each in enumerate(revisions.values()) for _ in each], counts)
    newest = pl.col("_revision") == pl.col("_revision").max().over("_part", key)
    return (
        table.with_columns(_revision=pl.Series(number, dtype=pl.Int32), _part=pl.Series(part, dtype=pl.Int32))
        .filter(newest)
        .sort("_part", key, maintain_order=True)
        .drop("_revision", "_part")
    )


def _read_all(
    files: Sequence[Revision], schema: dict[str, pl.DataType], fix: str, optional: Collection[str]
) -> tuple[pl.DataFrame, list[int]]:
    """Return the rows of all files, one below the other, and how many each has."""
    paths = [revision.path for revision in files]
    try:
        scanned = pl.scan_parquet(paths, include_file_paths="_path", glob=False).collect()
    except (pl.exceptions.PolarsError, OSError):
        scanned = pl.DataFrame()  # one of them is damaged or of an older version: read one by one, which names it
    table = scanned.drop("_path", strict=False)
    if table.schema == pl.Schema(schema):
        runs = scanned.get_column("_path").rle().struct.unnest()
        if runs.height == len(files):
            return table, runs.get_column("len").to_list()
    tables = [read_revision(path, schema, "the raw store", fix, optional) for path in paths]
    return pl.concat(tables), [each.height for each in tables]


def remove_unfinished(folder: Path, pattern: str) -> None:
    """Delete what killed writers left below `folder`; it was never part of a record."""
    for stale in folder.glob(f"{pattern}{TMP_MARK}*"):
        stale.unlink(missing_ok=True)
