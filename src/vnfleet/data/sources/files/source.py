"""Prices from files on disk: which files, in which form, joined into one history."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import INDEX_SYMBOL, FetchPlan, Progress, RawHistory, no_progress, raw_history
from vnfleet.data.sources.cafef.sets import newest_set, read_set
from vnfleet.data.sources.cafef.zips import BulkName
from vnfleet.data.sources.files.bars import PRICES, Basis, read_bars
from vnfleet.data.sources.files.layouts import OUR_NAMES
from vnfleet.data.sources.files.listings import read_listings
from vnfleet.data.sources.files.tables import SUFFIXES
from vnfleet.data.sources.files.units import Unit, scale_to_vnd

_LOGGER = logging.getLogger(__name__)
_INDICES = frozenset(
    {"VNINDEX", "VN30", "VN30INDEX", "HNX-INDEX", "UPCOM-INDEX", "HNX30-INDEX", "HNXINDEX", "UPINDEX", "VN100"}
)


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Daily bars from `path`, a file or a folder (searched to the bottom) of files of one kind.

    - *CafeF zips*: the three `Upto` files of a day; of several days the newest complete one is read.
    - *CafeF rows* (CSV, Parquet): the fields of its price-history API (`Ngay` dd/mm/yyyy, `GiaDongCua` ...), thousand
      VND, any order.
    - *AmiBroker*: `<Ticker>,<DTYYYYMMDD>,<Open>...` or `Ticker,Date/Time,Open...`; covered warrants are skipped.
    - *Plain*: symbol, date, open, high, low, close, volume and optionally adj_close, reference, exchange.

    CSV may be separated by comma, semicolon or tab. A file without a symbol column holds one symbol, named by the file
    (or, for `PriceHistory.csv`, by its folder). Market indices among the symbols are set apart; VNINDEX is the index.

    path : the file or folder.
    listings : optional CSV with symbol, exchange and sector (CafeF's `Symbol`, `CategoryName` are understood).
    unit : unit of plain and AmiBroker prices; "auto" decides by their size and refuses when unsure. CafeF's prices are
        thousand VND.
    columns : our name (`OUR_NAMES`) -> name in the files, for plain files with other names.
    basis : "raw" prices as they were traded, or "adjusted" ones: then only the adjusted close is told, raw prices stay
        null (a second opinion).
    """

    path: Path
    listings: Path | None = None
    unit: Unit = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    basis: Basis = "raw"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - set(OUR_NAMES)):
            raise ValueError(f"columns: {', '.join(unknown)} is none of {', '.join(OUR_NAMES)}")
        theirs = [name.strip().lower() for name in self.columns.values()]
        if repeated := sorted({name for name in theirs if theirs.count(name) > 1}):
            raise ValueError(f"columns: {', '.join(repeated)} is named more than once")

    @property
    def name(self) -> str:
        """Name of the raw store's folder."""
        return "files"

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return that nothing is asked of anybody."""
        return FetchPlan(requests=0, host="", seconds=0.0, sentence=f"read {self.path}; nothing is asked of anybody")

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return the bars up to and including `as_of`; `symbols` None means all, `since` changes nothing.

        Raises `BadDataError` naming the file when one is missing, truncated, lacks columns, holds a symbol that cannot
        be one, or has an unclear unit.
        """
        files = self._files()
        if BulkName.parse(files[0].name):
            history = read_set(newest_set(files), as_of, symbols, progress)
            listings = read_listings(self.listings)
            if listings is not None:
                history = RawHistory(history.bars, history.index, raw_history(history.bars, None, listings).listings)
            if history.bars.is_empty():
                raise self._nothing_wanted(symbols, as_of)
            return history
        return self._fetch_tables(files, symbols, as_of, progress)

    def _fetch_tables(
        self, files: Sequence[Path], symbols: Sequence[str] | None, as_of: date, progress: Progress
    ) -> RawHistory:
        parts = []
        for number, path in enumerate(files):
            progress(number, len(files), f"reading {path.name}")
            parts.append(read_bars(path, self.columns, self.basis))
        is_cafef = {cafef for _, cafef in parts}
        if len(is_cafef) > 1:
            raise _mixture(self.path, "CafeF files and plain files")
        bars = pl.concat([frame for frame, _ in parts]).filter(pl.col("session") <= as_of)
        stocks = bars.filter(~pl.col("symbol").is_in(_INDICES))
        if symbols is not None:
            stocks = stocks.filter(pl.col("symbol").is_in(list(symbols)))
        if stocks.is_empty():
            raise self._nothing_wanted(symbols, as_of)
        scale = scale_to_vnd(stocks, "thousand_vnd" if is_cafef.pop() else self.unit, self.path)
        stocks = stocks.with_columns((pl.col(name) * scale).round(2) for name in PRICES)
        if self.basis == "adjusted":
            others = [name for name in PRICES if name != "adjusted_close_vnd"]
            stocks = stocks.with_columns(
                *(pl.lit(None, pl.Float64).alias(name) for name in others),
                adjusted_close_vnd=pl.coalesce("adjusted_close_vnd", "close_vnd"),
            )
        index = bars.filter(pl.col("symbol") == INDEX_SYMBOL).select("session", close_points="close_vnd")
        _LOGGER.info("%s: %d bars of %d symbols", self.path, stocks.height, stocks.get_column("symbol").n_unique())
        return raw_history(stocks, index, read_listings(self.listings))

    def _files(self) -> list[Path]:
        """Return the zips of one set's folder, or all tables; never both."""
        if self.path.is_file():
            name = BulkName.parse(self.path.name)
            return [self.path] if name is None else _zips(self.path.parent.iterdir(), name.day)
        inside = [
            path
            for path in (self.path.rglob("*") if self.path.is_dir() else ())
            if path.is_file() and not path.name.startswith(".") and path != self.listings
        ]
        tables = sorted(path for path in inside if path.suffix.lower() in SUFFIXES)
        zips = _zips(inside)
        if tables and zips:
            raise _mixture(self.path, f"CafeF zips and other price files (such as {tables[0].name})")
        if not tables and not zips:
            raise BadDataError(
                "there are no price files here",
                expected="a .parquet or .csv file, a folder of them, or CafeF's three Upto zips",
                where=self.path,
                fix="give the path of your price files in the configuration, or run `vnfleet demo` for simulated data",
            )
        return tables or zips

    def _nothing_wanted(self, symbols: Sequence[str] | None, as_of: date) -> BadDataError:
        return BadDataError(
            "a file has no bars of the stocks asked for",
            expected=f"rows up to {as_of}" + (f" of {len(symbols)} symbols" if symbols is not None else ""),
            where=self.path,
            fix="check the path, the symbols and the date",
        )


def _zips(paths: Iterable[Path], day: date | None = None) -> list[Path]:
    named = [(path, BulkName.parse(path.name)) for path in paths]
    return sorted(path for path, name in named if name is not None and (day is None or name.day == day))


def _mixture(path: Path, of_what: str) -> BadDataError:
    return BadDataError(f"a folder mixes {of_what}", where=path, fix="keep one format a folder")
