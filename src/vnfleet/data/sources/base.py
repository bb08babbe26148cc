"""What every source hands over: raw daily bars in VND, the market index and the listings, nothing judged yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    "stated_reference_vnd": pl.Float64(),
    "volume_shares": pl.Int64(),
    "exchange": pl.String(),
}
OPTIONAL_COLUMNS = ("stated_reference_vnd", "exchange")
"""Columns of `RAW_SCHEMA` that a source, or an older revision of the raw store, may lack: null then."""
INDEX_SCHEMA: dict[str, pl.DataType] = {"session": pl.Date(), "close_points": pl.Float64()}
LISTINGS_SCHEMA: dict[str, pl.DataType] = {"symbol": pl.String(), "exchange": pl.String(), "sector": pl.String()}
INDEX_SYMBOL = "VNINDEX"


@dataclass(frozen=True, slots=True)
class RawHistory:
    """What a source knew about some symbols up to one day; as the vendor tells it, faults included.

    bars : `RAW_SCHEMA`, sorted by symbol and session. Raw prices in VND, null when absent (all null: a vendor that
        tells adjusted prices only, good for cross-checks); the vendor's own adjusted close, null if it has none;
        `stated_reference_vnd`, the reference price of that session as the vendor states it (finfo's basicPrice; CafeF's
        close minus change, a hint only), null if it does not; volume_shares: matched shares, never adjusted;
        `exchange`: where the symbol was listed *that day* ("HOSE", "HNX", "UPCOM"), null when the vendor does not say.
        A session may occur twice when the vendor contradicts itself.
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

    def only(self, symbols: Sequence[str]) -> RawHistory:
        """Return the history of `symbols` alone; the index stays."""
        wanted = pl.col("symbol").is_in(list(symbols))
        return RawHistory(bars=self.bars.filter(wanted), index=self.index, listings=self.listings.filter(wanted))


Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being asked for); `total` 0 while it is not known."""


def no_progress(done: int, total: int, doing: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """What a fetch would ask for, before anything is asked (`vnfleet collect --dry-run`).

    requests : at most so many; 0 for files and simulations. host : "" for those. seconds : at the polite rate.
    sentence : in words, for a person.
    """

    requests: int
    host: str
    seconds: float
    sentence: str


class Source(Protocol):
    """A vendor, a file or a simulation that can be asked for history."""

    @property
    def name(self) -> str:
        """Short lower-case name, also the folder of its raw store."""
        ...

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return rows up to and including `as_of` only; `symbols` None means all the source has.

        since : first session wanted of a symbol; absent symbols, and None, mean the whole history. A source that always
            tells everything may ignore it; one that asks symbol by symbol saves requests with it.

        Raises `BadDataError` when what is there cannot be understood; a vendor reached over the network raises
        `SourceError` (see `vnfleet.data.sources.web`).
        """
        ...

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return what `fetch` with the same arguments would ask for; asks nothing itself."""
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
    absent = [name for name in OPTIONAL_COLUMNS if name not in bars.columns]
    conformed = _conform(bars.with_columns(pl.lit(None).alias(name) for name in absent), RAW_SCHEMA, "bars")
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
