"""The append-only record of what each source said, and when.

`<root>/<source>/<symbol>/rev-000001-20251122T084500Z.parquet`: a revision holds only the rows that were new or changed
that day, and is written once, whole or not at all. For every session the newest revision known by then wins, so the
past can be read as it was known. After `WHOLE_AFTER` revisions of a symbol the next one repeats all of it. The index
lives in the folder "VNINDEX", the listings in "_listings".

No symbol ever holds rows on two bases (`record.overlap`): a told part is merged only where it agrees with what is
stored; a re-based history only when it is told whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.lock import holding
from vnfleet.data.record.changes import differing_rows, forgotten_rows, in_order, updated
from vnfleet.data.record.overlap import (
    OVERLAP_SCHEMA,
    PartialHistoryError,
    Rebased,
    compare_overlap,
    moved_bases,
    refusals,
)
from vnfleet.data.record.revisions import (
    Revision,
    append_revision,
    read_current,
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
)

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_FIX = "restore this file from a backup, or delete its folder and run vnfleet collect --full"
_LISTINGS = "_listings"
_KEY = ("symbol", "session")
_SYMBOLS_AT_ONCE = 256
WHOLE_AFTER = 24
_WRITERS = 4  # a write mostly waits for the disk


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge wrote.

    new_rows, changed_rows : bars whose session was unknown before, or known with other values (index rows included).
    symbols : symbols with a new revision (the index counts, the listings do not).
    rebased : symbols told on another base than the stored one, whole. corrected : symbols with a few other adjusted
        closes. forgotten_rows : sessions those no longer tell; their adjusted close is unknown from now on.
    """

    new_rows: int
    changed_rows: int
    symbols: int
    rebased: tuple[Rebased, ...] = ()
    corrected: tuple[str, ...] = ()
    forgotten_rows: int = 0


@dataclass(frozen=True, slots=True)
class _Changes:
    """Rows to write, `RAW_SCHEMA` sorted; how many of their sessions are new; what was forgotten; the comparison."""

    rows: pl.DataFrame
    new_rows: int
    forgotten_rows: int
    overlaps: pl.DataFrame


@dataclass(frozen=True, slots=True)
class RawStore:
    """Revisions of raw histories under `root`, a folder per source and symbol."""

    root: Path

    def merge(
        self, source_name: str, history: RawHistory, known_at: datetime, *, max_forgotten_frac: float = 0.0
    ) -> MergeReport:
        """Add what is new or changed in `history`, learned at `known_at` (aware); the same again writes nothing.

        Sessions the source no longer mentions stay. A killed merge leaves whole revisions only; running it again
        completes it.

        max_forgotten_frac : a history on another base must tell every stored session again, but for this share of them:
            these keep their raw prices, their adjusted close becomes unknown (the event ledger has the steps).

        Raises `PartialHistoryError` (nothing is written) when the rows of a symbol do not fit what is stored,
        `BusyError` while another process merges, `ResourceError` on a full disk and `BadDataError` when `known_at`
        lies before a revision that is already there.
        """
        if known_at.tzinfo is None:
            raise ValueError("known_at must be time-zone aware")
        known_at = known_at.astimezone(UTC)
        folder = self.root / _folder_name(source_name)
        with holding(folder / ".lock", "merging prices"):
            remove_unfinished(folder, "*/.rev-*")
            self.refuse_older(source_name, known_at)
            changes = self._changes(folder, history.bars, max_forgotten_frac)
            index = _news(folder / INDEX_SYMBOL, history.index, "session")
            listings = _news(folder / _LISTINGS, history.listings, "symbol")
            parts = [
                (folder / str(symbol), rows)
                for (symbol,), rows in changes.rows.partition_by("symbol", as_dict=True, maintain_order=True).items()
            ]
            others = [(folder / INDEX_SYMBOL, index[0]), (folder / _LISTINGS, listings[0])]
            _append_all(parts + [part for part in others if part[1].height], known_at)
        rebased = moved_bases(changes.overlaps)
        moved = changes.overlaps.filter(pl.col("moved") > 0).get_column("symbol").to_list()
        return MergeReport(
            new_rows=changes.new_rows + index[1],
            changed_rows=changes.rows.height - changes.new_rows + index[0].height - index[1],
            symbols=len(parts) + (index[0].height > 0),
            rebased=rebased,
            corrected=tuple(sorted(set(moved) - {each.symbol for each in rebased})),
            forgotten_rows=changes.forgotten_rows,
        )

    def read(self, source_name: str, as_of: date, known_at: datetime | None = None) -> RawHistory:
        """Return the history up to `as_of` as it was known at `known_at` (None: as it is known now).

        Raises `BadDataError` when nothing is stored, or naming the revision that is damaged.
        """
        folder = self.root / _folder_name(source_name)
        history = _read(folder, known_at)
        if history.bars.is_empty():
            raise BadDataError(
                f"the raw store has nothing from source {source_name!r}"
                + (f" known by {known_at}" if known_at else ""),
                where=folder,
                fix="run `vnfleet collect` first",
            )
        return history.until(as_of)

    def has(self, source_name: str, known_at: datetime | None = None) -> bool:
        """Return whether anything from a source was stored by `known_at` (None: ever)."""
        folder = self.root / _folder_name(source_name)
        return any(revisions_in(folder / symbol, known_at) for symbol in _symbols_in(folder))

    def refuse_older(self, source_name: str, known_at: datetime) -> None:
        """Raise `BadDataError` when something was stored after `known_at`: the clock of this machine went back."""
        folder = self.root / _folder_name(source_name)
        for name in (*_symbols_in(folder), INDEX_SYMBOL, _LISTINGS):
            for revision in revisions_in(folder / name)[-1:]:
                if known_at.replace(microsecond=0) < revision.known_at:
                    raise BadDataError(
                        "prices were stored later than this machine's clock says it is now",
                        expected=f"{revision.known_at:%Y-%m-%d %H:%M:%S} UTC or later",
                        found=f"{known_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
                        where=revision.path,
                        fix="set the clock of this machine right",
                    )

    def symbols(self, source_name: str) -> list[str]:
        """Return the symbols on record from a source, sorted; none when nothing is stored."""
        return sorted(_symbols_in(self.root / _folder_name(source_name)))

    def overlaps(self, source_name: str, history: RawHistory) -> pl.DataFrame:
        """Return how `history` compares with what is stored: `OVERLAP_SCHEMA`, no row for symbols not stored yet."""
        folder = self.root / _folder_name(source_name)
        compared = [
            compare_overlap(stored, told) for stored, told in _groups(folder, in_order(history.bars)) if stored.height
        ]
        return pl.concat(compared) if compared else pl.DataFrame(schema=OVERLAP_SCHEMA)

    def _changes(self, folder: Path, bars: pl.DataFrame, max_forgotten_frac: float) -> _Changes:
        """Return what `bars` change; raises `PartialHistoryError` and `BadDataError` as `merge` does."""
        rows, overlaps, new_rows, num_forgotten = [bars.clear()], [pl.DataFrame(schema=OVERLAP_SCHEMA)], 0, 0
        for stored, told in _groups(folder, in_order(bars)):
            differing, num_new = differing_rows(stored, told)
            if stored.height:
                compared = compare_overlap(stored, told)
                overlaps.append(compared)
                forgotten = forgotten_rows(stored, told, compared)
                num_forgotten += forgotten.height
                differing = in_order(pl.concat([differing, forgotten])) if forgotten.height else differing
            rows.append(differing)
            new_rows += num_new
        judged = pl.concat(overlaps)
        refused = refusals(judged, max_forgotten_frac)
        if refused:
            raise PartialHistoryError(refused, folder)
        return _Changes(rows=pl.concat(rows), new_rows=new_rows, forgotten_rows=num_forgotten, overlaps=judged)


def _read(folder: Path, known_at: datetime | None) -> RawHistory:
    bars = _current_bars(folder, sorted(_symbols_in(folder)), known_at)
    return RawHistory(
        bars=bars,
        index=read_current(
            {INDEX_SYMBOL: revisions_in(folder / INDEX_SYMBOL, known_at)}, INDEX_SCHEMA, "session", _FIX
        ),
        listings=read_current({_LISTINGS: revisions_in(folder / _LISTINGS, known_at)}, LISTINGS_SCHEMA, "symbol", _FIX),
    )


def _current_bars(folder: Path, symbols: list[str], known_at: datetime | None = None) -> pl.DataFrame:
    revisions = {symbol: revisions_in(folder / symbol, known_at) for symbol in symbols}
    bars = read_current(revisions, RAW_SCHEMA, "session", _FIX, OPTIONAL_COLUMNS)
    found = bars.get_column("symbol").rle().struct.field("value").to_list()
    if found != [symbol for symbol in symbols if revisions[symbol]]:
        _refuse_strangers(revisions)
    return bars


def _refuse_strangers(revisions: Mapping[str, Sequence[Revision]]) -> None:
    """Raise `BadDataError` naming the revision that holds another symbol's rows."""
    for symbol, those in revisions.items():
        for revision in those:
            rows = read_revision(revision.path, RAW_SCHEMA, "the raw store", _FIX, OPTIONAL_COLUMNS)
            others = sorted(set(rows.get_column("symbol")) - {symbol})
            if others:
                raise BadDataError(
                    "a revision of the raw store holds another symbol's rows",
                    expected=symbol,
                    found=others[0],
                    where=revision.path,
                    fix=_FIX,
                )


def _symbols_in(folder: Path) -> Iterator[str]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in (INDEX_SYMBOL, _LISTINGS):
            yield path.name


def _groups(folder: Path, told: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (stored, told) of some symbols at a time, both sorted by symbol and session."""
    counts = told.get_column("symbol").rle().struct.unnest()
    ends = counts.get_column("len").cum_sum().to_list()
    symbols = [_folder_name(symbol) for symbol in counts.get_column("value").to_list()]
    there = set(_symbols_in(folder))
    for begin in range(0, len(symbols), _SYMBOLS_AT_ONCE):
        group = symbols[begin : begin + _SYMBOLS_AT_ONCE]
        first = ends[begin - 1] if begin else 0
        rows = told.slice(first, ends[begin + len(group) - 1] - first)
        yield _current_bars(folder, [symbol for symbol in group if symbol in there]), rows


def is_storable(name: str) -> bool:
    """Return whether a symbol can be a folder of the raw store: on any system, and none of its own folders."""
    return bool(_FOLDER_NAME.fullmatch(name)) and not _RESERVED.fullmatch(name) and name.upper() != INDEX_SYMBOL


def _folder_name(name: str) -> str:
    if not is_storable(name):
        raise BadDataError(
            "a name cannot be a folder of the raw store",
            expected="letters, digits, '.', '_' and '-', at most 32, none reserved",
            found=name,
        )
    return name


def _news(folder: Path, rows: pl.DataFrame, key: str) -> tuple[pl.DataFrame, int]:
    """Return the rows of the index or the listings that are new or other, and how many are new."""
    schema = INDEX_SCHEMA if folder.name == INDEX_SYMBOL else LISTINGS_SCHEMA
    current = read_current({folder.name: revisions_in(folder)}, schema, key, _FIX)
    other = (
        rows.select(list(schema))
        .unique(maintain_order=True)
        .join(current, on=list(schema), how="anti", nulls_equal=True)
    )
    other = other.sort(key)
    return other, other.join(current, on=key, how="anti").height


def _append_all(parts: list[tuple[Path, pl.DataFrame]], known_at: datetime) -> None:
    with ThreadPoolExecutor(_WRITERS) as writers:
        waiting = [writers.submit(_append, folder, rows, known_at) for folder, rows in parts]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            writers.shutdown(cancel_futures=True)
            raise


def _append(folder: Path, rows: pl.DataFrame, known_at: datetime) -> None:
    """Write the next revision; a whole one when many must be read otherwise."""
    whole = "symbol" in rows.columns and "session" in rows.columns and len(revisions_in(folder)) >= WHOLE_AFTER
    if whole:
        rows = in_order(updated(_current_bars(folder.parent, [folder.name]), rows, _KEY))
    append_revision(folder, rows, known_at, "prices", whole=whole)
