"""The vendor's steps as they were first learned, so that a re-based vintage changes no earlier row.

At a corporate action a vendor tells its whole adjusted past anew, rounded anew: steps read from it differ in their last
digits from those read the week before. The ledger therefore keeps each step as it was first read, and a newer vintage
is read only beyond the last session the ledger knows.

`data/events/<source>/rev-000001-20251122T084500Z.parquet`: a revision holds what was learned that day, and is written
once, whole or not at all. Where the newest vintage contradicts a step, the vendor corrected its history: the symbol
gets a new generation, which repeats what still holds and is read anew from the first contradiction on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.core.lock import holding
from vnfleet.data.actions.steps import STEPS_SCHEMA, LearnedSteps, VendorSteps, vendor_steps
from vnfleet.data.record.revisions import append_revision, read_revision, remove_unfinished, revisions_in

_NAMED_CORRECTIONS = 3
_FIX = "restore this file from a backup"


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What a recording wrote: steps first learned, flips recognised as such, and per superseded symbol the reason."""

    new_steps: int
    taken_back: int
    superseded: tuple[tuple[str, str], ...]

    @property
    def corrections(self) -> str:
        """The superseded symbols as the end of a sentence, "" without any."""
        named = [f"{symbol} ({reason})" for symbol, reason in self.superseded[:_NAMED_CORRECTIONS]]
        more = len(self.superseded) - len(named)
        return "; the vendor corrected " * bool(named) + ", ".join(named) + f" and {more} more" * bool(more)


@dataclass(frozen=True, slots=True)
class EventLedger:
    """The ledgers under `root` (data/events), a folder per source."""

    root: Path
    source_name: str

    @property
    def folder(self) -> Path:
        """Where the revisions lie."""
        return self.root / self.source_name

    def read(self, known_at: datetime | None = None) -> LearnedSteps | None:
        """Return what was known at `known_at` (None: now), None when that is nothing.

        Raises `BadDataError` naming a revision that is damaged.
        """
        tables = [
            read_revision(revision.path, STEPS_SCHEMA, "the event ledger", _FIX).with_columns(
                revision=pl.lit(revision.number)
            )
            for revision in revisions_in(self.folder, known_at)
        ]
        if not tables:
            return None
        rows = pl.concat(tables).filter(pl.col("generation") == pl.col("generation").max().over("symbol"))
        newest = rows.sort("symbol", "session", "revision").unique(
            ("symbol", "session"), keep="last", maintain_order=True
        )
        return LearnedSteps(newest.drop("revision"))

    def record(self, bars: pl.DataFrame, known_at: datetime) -> LedgerReport:
        """Add what `bars` (placed, then judged by the court) teach beyond the record; the same again writes nothing.

        Raises `BusyError` while another process records, `ResourceError` on a full disk and `BadDataError` when
        `known_at` (aware) lies before a revision that is already there.
        """
        if known_at.tzinfo is None:
            raise ValueError("known_at must be time-zone aware")
        with holding(self.folder / ".lock", "recording events"):
            remove_unfinished(self.folder, ".rev-*")
            found = vendor_steps(bars)
            rows = _news(bars, found, self.read())
            if rows.height:
                append_revision(self.folder, rows, known_at, "events")
        steps = rows.filter(pl.col("step") != 1.0)
        again = steps.join(found.contradictions, on="symbol", how="anti")
        backs = again.filter(pl.col("taken_back_on").is_not_null()).height
        return LedgerReport(
            new_steps=again.height - backs,
            taken_back=backs,
            superseded=tuple(found.contradictions.select("symbol", "reason").iter_rows()),
        )


def _news(bars: pl.DataFrame, found: VendorSteps, learned: LearnedSteps | None) -> pl.DataFrame:
    """Return as `STEPS_SCHEMA` what `found` adds: rows beyond the record, steps taken back, new generations."""
    known = pl.DataFrame(schema=STEPS_SCHEMA) if learned is None else learned.rows
    ends = known.group_by("symbol").agg(generation=pl.col("generation").first(), through=pl.col("session").max())
    sessions = bars.get_column("session")
    value = np.where(found.flips != 1.0, found.flips, found.step)
    edge = pl.col("symbol").ne_missing(pl.col("symbol").shift(1)) | pl.col("symbol").ne_missing(
        pl.col("symbol").shift(-1)
    )
    rows = (
        bars.select("symbol", "session")
        .with_columns(
            step=pl.Series(value),
            taken_back_on=sessions.gather(pl.Series(found.returned).replace(-1, None)),
            edge=edge,
        )
        .filter(pl.col("edge") | (pl.col("step") != 1.0))
        .join(ends, on="symbol", how="left", maintain_order="left")
        .join(found.contradictions, on="symbol", how="left", maintain_order="left")
    )
    superseded = pl.col("reason").is_not_null()
    through = pl.col("through").fill_null(date.min)
    news = superseded | (pl.col("session") > through) | (pl.col("taken_back_on") > through)
    return (
        rows.with_columns(generation=pl.col("generation").fill_null(1) + superseded.cast(pl.Int32))
        .filter(news)
        .select(pl.col(name).cast(dtype) for name, dtype in STEPS_SCHEMA.items())
    )
