"""What every source hands over: raw daily bars in VND, the market index and the listings, nothing judged yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import polars as pl

from vnfleet.core.errors import BadDataError

RAW_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "open_vnd": pl.Float64(),
    "high_vnd": pl.Float64(),
    "low_vnd": pl.Float64(),
    "close_vnd": pl.Float64(),
    "adjusted_close_vnd": pl.Float64(),
    "volume_shares": pl.Int64(),
}
INDEX_SCHEMA: dict[str, pl.DataType] = {"session": pl.Date(), "close_points": pl.Float64()}
LISTINGS_SCHEMA: dict[str, pl.DataType] = {"symbol": pl.String(), "exchange": pl.String(), "sector": pl.String()}
INDEX_SYMBOL = "VNINDEX"


@dataclass(frozen=True, slots=True)
class RawHistory:
    """What a source knew about some symbols up to one day; as the vendor tells it, faults included.

    bars : `RAW_SCHEMA`, sorted by symbol and session. Raw prices in VND, null when absent; the vendor's own adjusted
        close, null if it has none; a session may occur twice when the vendor contradicts itself.
    index : `INDEX_SCHEMA`, the VNINDEX close in points, one row a session, ascending.
    listings : `LISTINGS_SCHEMA`; a symbol that is absent is taken as listed on HOSE with sector "".
    """

    bars: pl.DataFrame
    index: pl.DataFrame
    listings: pl.DataFrame

    def until(self, session: date) -> RawHistory:
        """Return the rows up to and including `session`; listings carry no dates and stay."""
        return RawHistory(
            bars=self.bars.filter(pl.col("session") <= session),
            index=self.index.filter(pl.col("session") <= session),
            listings=self.listings,
        )


class Source(Protocol):
    """A vendor, a file or a simulation that can be asked for history."""

    @property
    def name(self) -> str:
        """Short lower-case name, also the folder of its raw store."""
        ...

    def fetch(self, symbols: Sequence[str] | None, as_of: date) -> RawHistory:
        """Return rows up to and including `as_of` only; `symbols` None means all the source has.

        Raises `BadDataError` when what is there cannot be understood.
        """
        ...


def raw_history(bars: pl.DataFrame, index: pl.DataFrame | None, listings: pl.DataFrame | None) -> RawHistory:
    """Return a `RawHistory` with exact schemas, sorted, NaN and infinity as null, index bars without a price dropped.

    Raises `BadDataError` when a column is missing or cannot be cast.
    """
    index = pl.DataFrame(schema=INDEX_SCHEMA) if index is None else _conform(index, INDEX_SCHEMA, "index")
    listings = (
        pl.DataFrame(schema=LISTINGS_SCHEMA) if listings is None else _conform(listings, LISTINGS_SCHEMA, "listings")
    )
    key_missing = pl.any_horizontal(pl.col("symbol", "session").is_null())
    conformed = _conform(bars, RAW_SCHEMA, "bars")
    if conformed.select(key_missing.any()).item():
        raise BadDataError("a bar has no symbol or no session", found=conformed.filter(key_missing).row(0))
    return RawHistory(
        bars=conformed.sort(list(RAW_SCHEMA)),
        index=index.filter(pl.col("close_points") > 0)
        .unique("session", keep="last", maintain_order=True)
        .sort("session"),
        listings=listings.unique("symbol", keep="last", maintain_order=True).sort("symbol"),
    )


def _conform(frame: pl.DataFrame, schema: dict[str, pl.DataType], noun: str) -> pl.DataFrame:
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise BadDataError(f"{noun} lack columns", expected=list(schema), found=frame.columns)
    try:
        result = frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise BadDataError(f"{noun} have a column of the wrong type", found=str(error).splitlines()[0]) from error
    floats = [name for name, dtype in schema.items() if dtype == pl.Float64()]
    return result.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats)
