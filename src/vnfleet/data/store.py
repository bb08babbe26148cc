"""The append-only record of what each source said, and when.

`<root>/<source>/<symbol>/rev-000001-20251122T084500Z.parquet`: a revision holds only the rows that were new or changed
that day, and is written once, whole or not at all. For every session the newest revision known by then wins, so the
past can be read as it was known. The index lives in the folder "VNINDEX", the listings in "_listings".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.lock import holding
from vnfleet.data.revisions import (
    Revision,
    append_revision,
    read_revision,
    remove_unfinished,
    revisions_in,
)
from vnfleet.data.sources.base import (
    INDEX_SCHEMA,
    INDEX_SYMBOL,
    LISTINGS_SCHEMA,
    OPTIONAL_COLUMNS,
    RAW_SCHEMA,
    RawHistory,
    raw_history,
)

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_FIX = "restore this file from a backup, or delete it and collect the symbol again"
_LISTINGS = "_listings"


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge wrote.

    new_rows, changed_rows : bars whose session was unknown before, or known with other values (index rows included).
    symbols : symbols with a new revision (the index counts, the listings do not).
    """

    new_rows: int
    changed_rows: int
    symbols: int


@dataclass(frozen=True, slots=True)
class RawStore:
    """Revisions of raw histories under `root`, a folder per source and symbol."""

    root: Path

    def merge(self, source_name: str, history: RawHistory, known_at: datetime) -> MergeReport:
        """Add what is new or changed in `history`, learned at `known_at` (aware); the same again writes nothing.

        Sessions the source no longer mentions stay. A killed merge leaves whole revisions only; running it again
        completes it. Raises `BusyError` while another process merges, `ResourceError` on a full disk and
        `BadDataError` when `known_at` lies before a revision that is already there.
        """
        if known_at.tzinfo is None:
            raise ValueError("known_at must be time-zone aware")
        folder = self.root / _folder_name(source_name)
        new_rows = changed_rows = symbols = 0
        with holding(folder / ".lock", "merging prices"):
            remove_unfinished(folder, "*/.rev-*")
            for name, rows in _parts(history):
                new, changed = _merge_part(folder / name, rows, known_at.astimezone(UTC))
                if name != _LISTINGS:
                    new_rows, changed_rows, symbols = (
                        new_rows + new,
                        changed_rows + changed,
                        symbols + (new + changed > 0),
                    )
        return MergeReport(new_rows=new_rows, changed_rows=changed_rows, symbols=symbols)

    def read(self, source_name: str, as_of: date, known_at: datetime | None = None) -> RawHistory:
        """Return the history up to `as_of` as it was known at `known_at` (None: as it is known now).

        Raises `BadDataError` when nothing is stored, or naming the revision that is damaged.
        """
        folder = self.root / _folder_name(source_name)
        names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        parts: dict[str, list[pl.DataFrame]] = {"bars": [], "index": [], "listings": []}
        for name in names:
            kind = {INDEX_SYMBOL: "index", _LISTINGS: "listings"}.get(name, "bars")
            current = _current(revisions_in(folder / name, known_at), _schema_of(name))
            if current is not None:
                parts[kind].append(current)
        if not parts["bars"]:
            raise BadDataError(
                f"the raw store has nothing from source {source_name!r}"
                + (f" known by {known_at}" if known_at else ""),
                where=folder,
                fix="run `vnfleet collect` first",
            )
        index = pl.concat(parts["index"]) if parts["index"] else None
        listings = pl.concat(parts["listings"]) if parts["listings"] else None
        return raw_history(pl.concat(parts["bars"]), index, listings).until(as_of)


def _parts(history: RawHistory) -> list[tuple[str, pl.DataFrame]]:
    by_symbol = history.bars.partition_by("symbol", as_dict=True, maintain_order=True)
    bars = [(_folder_name(str(key[0])), rows) for key, rows in by_symbol.items()]
    others = [(INDEX_SYMBOL, history.index), (_LISTINGS, history.listings)]
    return bars + [(name, rows) for name, rows in others if rows.height]


def _folder_name(name: str) -> str:
    if not _FOLDER_NAME.fullmatch(name) or _RESERVED.fullmatch(name) or name.upper() == INDEX_SYMBOL:
        raise BadDataError(
            "a name cannot be a folder of the raw store",
            expected="letters, digits, '.', '_' and '-', at most 32, none reserved",
            found=name,
        )
    return name


def _schema_of(name: str) -> dict[str, pl.DataType]:
    return {INDEX_SYMBOL: INDEX_SCHEMA, _LISTINGS: LISTINGS_SCHEMA}.get(name, RAW_SCHEMA)


def _merge_part(folder: Path, rows: pl.DataFrame, known_at: datetime) -> tuple[int, int]:
    """Write what `rows` add to or change in `folder`; return how many rows were new and how many changed."""
    schema = _schema_of(folder.name)
    key = "symbol" if folder.name == _LISTINGS else "session"
    rows = rows.select(list(schema)).unique(maintain_order=True)
    revisions = revisions_in(folder)
    current = _current(revisions, schema)
    if current is None:
        wanted, num_new = rows, rows.height
    else:
        columns = list(schema)
        differing = pl.concat(
            [
                rows.join(current, on=columns, how="anti", nulls_equal=True).get_column(key),
                current.filter(pl.col(key).is_in(rows.get_column(key).implode()))
                .join(rows, on=columns, how="anti", nulls_equal=True)
                .get_column(key),
            ]
        ).unique()
        wanted = rows.filter(pl.col(key).is_in(differing.implode()))
        num_new = wanted.filter(~pl.col(key).is_in(current.get_column(key).implode())).height
    if wanted.is_empty():
        return 0, 0
    append_revision(folder, wanted, known_at, "prices")
    return num_new, wanted.height - num_new


def _current(revisions: Sequence[Revision], schema: dict[str, pl.DataType]) -> pl.DataFrame | None:
    """Return for every key the rows of its newest revision, or None without revisions."""
    if not revisions:
        return None
    key = "session" if "session" in schema else "symbol"
    tables = [
        read_revision(revision.path, schema, "the raw store", _FIX, OPTIONAL_COLUMNS).with_columns(
            revision=pl.lit(revision.number)
        )
        for revision in revisions
    ]
    if len(tables) == 1:
        return tables[0].drop("revision")
    table = pl.concat(tables)
    return table.filter(pl.col("revision") == pl.col("revision").max().over(key)).drop("revision").sort(key)
