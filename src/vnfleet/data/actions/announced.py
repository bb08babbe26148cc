"""Corporate actions as a vendor announces them, kept append-only like everything else that was learned.

`<root>/<source>/rev-000001-20251122T084500Z.parquet` (root: data/announced): a revision holds the announcements that
were new or told otherwise that day. What a vendor no longer mentions stays: a postponed event is there under both days,
and shows up as one without a step in the prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.lock import holding
from vnfleet.data.record.revisions import append_revision, read_revision, remove_unfinished, revisions_in

ANNOUNCED_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "ex_date": pl.Date(),
    "kind": pl.String(),
    "cash_vnd": pl.Float64(),
    "ratio_frac": pl.Float64(),
    "source": pl.String(),
}
_KEY = ("symbol", "ex_date", "kind")
_FIX = "restore this file from a backup, or delete it and collect again"


class AnnouncedKind(StrEnum):
    """What was announced."""

    CASH_DIVIDEND = "cash_dividend"
    STOCK_DIVIDEND = "stock_dividend"
    BONUS = "bonus"
    RIGHTS = "rights"
    SPLIT = "split"


def as_announced(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` as `ANNOUNCED_SCHEMA`, sorted, identical rows once.

    cash_vnd : VND a share, of cash dividends (of rights: the price to pay, null when not told). ratio_frac : new shares
        per old one, of all others. Raises `BadDataError` when a column is missing, or naming the row that says neither.
    """
    missing = [name for name in ANNOUNCED_SCHEMA if name not in frame.columns]
    if missing:
        raise BadDataError("announcements lack columns", expected=list(ANNOUNCED_SCHEMA), found=frame.columns)
    rows = frame.select(pl.col(name).cast(dtype) for name, dtype in ANNOUNCED_SCHEMA.items())
    is_cash = pl.col("kind") == AnnouncedKind.CASH_DIVIDEND.value
    amount = pl.when(is_cash).then("cash_vnd").otherwise("ratio_frac")
    known = pl.col("kind").is_in([kind.value for kind in AnnouncedKind]) & (amount > 0) & amount.is_finite()
    named = pl.col("symbol").is_not_null() & pl.col("ex_date").is_not_null()
    strange = rows.filter(~(known & named).fill_null(value=False))
    if strange.height:
        raise BadDataError(
            "an announcement says nothing that prices could confirm",
            expected=f"a symbol, an ex-date, one of {', '.join(AnnouncedKind)}, and cash in VND or a ratio above 0",
            found=strange.row(0, named=True),
        )
    return rows.unique(maintain_order=True).sort(list(ANNOUNCED_SCHEMA))


@dataclass(frozen=True, slots=True)
class AnnouncedStore:
    """The announcements of one source under `root`."""

    root: Path
    source_name: str

    @property
    def folder(self) -> Path:
        """Where the revisions lie."""
        return self.root / self.source_name

    def record(self, announced: pl.DataFrame, known_at: datetime) -> int:
        """Add what is new or told otherwise, learned at `known_at` (aware); return how many rows that is.

        Raises `BadDataError` for rows that mean nothing (see `as_announced`) and when `known_at` lies before a revision
        that is already there, `BusyError` while another process records, `ResourceError` on a full disk.
        """
        if known_at.tzinfo is None:
            raise ValueError("known_at must be time-zone aware")
        rows = as_announced(announced)
        with holding(self.folder / ".lock", "recording announcements"):
            remove_unfinished(self.folder, ".rev-*")
            known = self.read()
            columns = list(ANNOUNCED_SCHEMA)
            differing = pl.concat(
                [
                    rows.join(known, on=columns, how="anti", nulls_equal=True),
                    known.join(rows.select(_KEY), on=_KEY, how="semi").join(
                        rows, on=columns, how="anti", nulls_equal=True
                    ),
                ]
            )
            news = rows.join(differing.select(_KEY).unique(), on=_KEY, how="semi", maintain_order="left")
            if news.height:
                append_revision(self.folder, news, known_at, "announcements")
        return news.height

    def read(self, known_at: datetime | None = None) -> pl.DataFrame:
        """Return `ANNOUNCED_SCHEMA` as it was known at `known_at` (None: now); of each event its newest telling.

        Raises `BadDataError` naming a revision that is damaged.
        """
        tables = [
            read_revision(revision.path, ANNOUNCED_SCHEMA, "the announcements", _FIX).with_columns(
                revision=pl.lit(revision.number)
            )
            for revision in revisions_in(self.folder, known_at)
        ]
        if not tables:
            return pl.DataFrame(schema=ANNOUNCED_SCHEMA)
        newest = pl.col("revision") == pl.col("revision").max().over(_KEY)
        return pl.concat(tables).filter(newest).drop("revision").sort(list(ANNOUNCED_SCHEMA))
