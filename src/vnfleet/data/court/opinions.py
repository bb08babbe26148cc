"""Second opinions: what another vendor says about the same sessions, compared on returns and never on levels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import RawHistory

OPINION_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "adjusted_close_vnd": pl.Float64(),
    "volume_shares": pl.Int64(),
}


@dataclass(frozen=True, slots=True)
class Opinion:
    """The adjusted closes of one other vendor.

    source : the vendor's name, for the evidence.
    bars : `OPINION_SCHEMA`, sorted by symbol and session, one row each; adjusted closes on any basis (only ratios of
        neighbouring rows are used), positive; volume null where the vendor has none. Rows without a usable close are
        not there.
    """

    source: str
    bars: pl.DataFrame

    def __post_init__(self) -> None:
        if self.bars.schema != pl.Schema(OPINION_SCHEMA):
            raise BadDataError(
                "an opinion has other columns than it must",
                expected=list(OPINION_SCHEMA),
                found=self.bars.columns,
                where=self.source,
                fix="make it with vnfleet.data.court.opinions.opinion_of",
            )

    def until(self, session: date) -> Opinion:
        """Return what was said up to and including `session`."""
        return Opinion(self.source, self.bars.filter(pl.col("session") <= session))


def opinion_of(source_name: str, history: RawHistory) -> Opinion:
    """Return what `history` of another vendor says: its adjusted closes, or its raw ones where it has no adjusted ones.

    A vendor without any adjusted close is taken at its raw prices, as the court does with a primary source. Sessions
    that the vendor tells twice, with different closes, are left out: it contradicts itself there.
    """
    bars = history.bars
    adjusted = pl.col("adjusted_close_vnd") if bars.get_column("adjusted_close_vnd").is_not_null().any() else None
    told = (
        bars.select(
            "symbol",
            "session",
            (pl.col("close_vnd") if adjusted is None else adjusted).alias("adjusted_close_vnd"),
            "volume_shares",
        )
        .filter(pl.col("adjusted_close_vnd") > 0)
        .unique()
    )
    once = told.filter(pl.col("adjusted_close_vnd").n_unique().over("symbol", "session") == 1)
    rows = once.unique(("symbol", "session"), keep="first", maintain_order=False)
    return Opinion(source_name, rows.cast(pl.Schema(OPINION_SCHEMA)).sort("symbol", "session"))
