"""Prices from files on disk: CafeF's own fields, or plain OHLCV; one file or a folder of per-symbol files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import INDEX_SYMBOL, FetchPlan, Progress, RawHistory, no_progress, raw_history
from vnfleet.market.rules import Exchange

Unit = Literal["auto", "vnd", "thousand_vnd"]

_LOGGER = logging.getLogger(__name__)
_CAFEF = {
    "Ngay": "session",
    "GiaMoCua": "open_vnd",
    "GiaCaoNhat": "high_vnd",
    "GiaThapNhat": "low_vnd",
    "GiaDongCua": "close_vnd",
    "GiaDieuChinh": "adjusted_close_vnd",
    "KhoiLuongKhopLenh": "volume_shares",
}
_PLAIN = {
    "date": "session",
    "open": "open_vnd",
    "high": "high_vnd",
    "low": "low_vnd",
    "close": "close_vnd",
    "volume": "volume_shares",
}
_PRICES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
_INDICES = frozenset({"VNINDEX", "VN30", "VN30INDEX", "HNX-INDEX", "UPCOM-INDEX", "HNX30-INDEX", "HNXINDEX", "VN100"})
_SUFFIXES = (".parquet", ".csv")
_DATE_FORMATS = ("%Y-%m-%d", "%Y%m%d", "%d/%m/%Y", "%m/%d/%Y")
# No HOSE stock has cost 500,000 VND for long, and hardly any less than 500 VND.
_CHEAPEST_VND = 500.0
_MAX_UNREADABLE_FRAC = 0.01


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Daily bars from `path`, a Parquet or CSV file, or a folder (searched to the bottom) of such files.

    Two formats are told apart by their columns. *CafeF*: the fields of its price-history API (`Ngay` dd/mm/yyyy,
    `GiaDongCua` ...), thousand VND, any order. *Plain*: symbol, date, open, high, low, close, volume and optionally
    adj_close. A file without a symbol column holds one symbol, named by the file (or, for `PriceHistory.csv`, by its
    folder). Market indices among the symbols are set apart; VNINDEX becomes the index.

    path : the file or folder.
    listings : optional CSV with symbol, exchange and sector (CafeF's `Symbol`, `CategoryName` are understood).
    unit : unit of plain prices; "auto" decides by their size and refuses when unsure. CafeF prices are thousand VND.
    """

    path: Path
    listings: Path | None = None
    unit: Unit = "auto"

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

        Raises `BadDataError` naming the file when one is missing, truncated, lacks columns, or has an unclear unit.
        """
        parts = [_read_bars(path) for path in _files(self.path)]
        is_cafef = {cafef for _, cafef in parts}
        if len(is_cafef) > 1:
            raise BadDataError(
                "a folder mixes CafeF files and plain files", where=self.path, fix="keep one format a folder"
            )
        bars = pl.concat([frame for frame, _ in parts]).filter(pl.col("session") <= as_of)
        stocks = bars.filter(~pl.col("symbol").is_in(_INDICES))
        if symbols is not None:
            stocks = stocks.filter(pl.col("symbol").is_in(list(symbols)))
        if stocks.is_empty():
            raise BadDataError(
                "a file has no bars of the stocks asked for",
                expected=f"rows up to {as_of}" + (f" of {len(symbols)} symbols" if symbols is not None else ""),
                where=self.path,
                fix="check the path, the symbols and the date",
            )
        scale = _scale_to_vnd(stocks, "thousand_vnd" if is_cafef.pop() else self.unit, self.path)
        stocks = stocks.with_columns((pl.col(name) * scale).round(2) for name in _PRICES)
        index = bars.filter(pl.col("symbol") == INDEX_SYMBOL).select("session", close_points="close_vnd")
        _LOGGER.info("%s: %d bars of %d symbols", self.path, stocks.height, stocks.get_column("symbol").n_unique())
        return raw_history(stocks, index, _read_listings(self.listings))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES) if path.is_dir() else []
    if not found:
        raise BadDataError(
            "there are no price files here",
            expected="a .parquet or .csv file, or a folder of them",
            where=path,
            fix="give the path of your price files in the configuration, or run `vnfleet demo` for simulated data",
        )
    return found


def _read_table(path: Path) -> pl.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema=False, null_values=["", "--", "NaN", "nan"], encoding="utf8")
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise BadDataError(
            "a file cannot be read: it is truncated, empty or not what its name says",
            expected=f"a whole {path.suffix or 'price'} file",
            found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            where=path,
            fix="fetch or copy the file again",
        ) from error


def _read_bars(path: Path) -> tuple[pl.DataFrame, bool]:
    """Return (symbol, session, prices in the file's unit, volume) and whether the file is CafeF's."""
    table = _read_table(path)
    names = [name.strip().lstrip("\ufeff") for name in table.columns]
    cafef = "Ngay" in names or "GiaDongCua" in names
    names = names if cafef else [name.lower() for name in names]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadDataError(
            "a price file names a column twice", found=", ".join(repeated), where=path, fix="keep one of them"
        )
    table = table.rename(dict(zip(table.columns, names, strict=True)))
    if nested := [name for name, kind in table.schema.items() if kind.is_nested()]:
        raise BadDataError("a price file has a column that holds no plain values", found=nested[0], where=path)
    columns = _CAFEF if cafef else _PLAIN
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise BadDataError(
            "a price file lacks columns",
            expected=f"CafeF's {', '.join(_CAFEF)} or plain {', '.join(_PLAIN)} (and adj_close)",
            found=f"no {', '.join(missing)} among {', '.join(table.columns[:20])}",
            where=path,
            fix="rename the columns or export the file again",
        )
    if table.is_empty():
        raise BadDataError("a price file has no rows", where=path, fix="export the file again, or take it away")
    symbol_column = "Symbol" if cafef else "symbol"
    if symbol_column not in table.columns:
        table = table.with_columns(pl.lit(_symbol_of(path)).alias(symbol_column))
    adjusted = "GiaDieuChinh" if cafef else "adj_close"
    prices = {column: name for column, name in columns.items() if name != "session"}
    if adjusted in table.columns:
        prices[adjusted] = "adjusted_close_vnd"
    numbers = table.select(_number(table.schema[column], column).alias(name) for column, name in prices.items())
    _refuse_unreadable(table, numbers, prices, path)
    if "adjusted_close_vnd" not in numbers.columns:
        numbers = numbers.with_columns(adjusted_close_vnd=pl.lit(None, pl.Float64))
    sessions = _dates(table.get_column("Ngay" if cafef else "date"), ("%d/%m/%Y",) if cafef else _DATE_FORMATS, path)
    symbols = table.get_column(symbol_column).cast(pl.String).str.strip_chars().str.to_uppercase()
    volume = pl.col("volume_shares").round().cast(pl.Int64, strict=False)
    frame = numbers.with_columns(symbols.alias("symbol"), sessions.alias("session"))
    return frame.select("symbol", "session", *_PRICES, volume), cafef


def _symbol_of(path: Path) -> str:
    return (path.parent.name if path.stem.lower() == "pricehistory" else path.stem).upper()


def _number(dtype: pl.DataType, column: str) -> pl.Expr:
    number = pl.col(column).str.strip_chars() if dtype == pl.String() else pl.col(column)
    number = number.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _refuse_unreadable(table: pl.DataFrame, numbers: pl.DataFrame, prices: dict[str, str], path: Path) -> None:
    for column, name in prices.items():
        unreadable = numbers.get_column(name).is_null() & table.get_column(column).is_not_null()
        if table.schema[column] == pl.String() and unreadable.sum() > _MAX_UNREADABLE_FRAC * table.height:
            raise BadDataError(
                "a price file has values that are not numbers",
                expected="numbers with a decimal point",
                found=table.get_column(column).filter(unreadable)[0],
                where=f"{path}, column {column}",
                fix="export the file with a decimal point and without thousands separators",
            )


def _dates(column: pl.Series, formats: tuple[str, ...], path: Path) -> pl.Series:
    if column.dtype == pl.Date:
        return column
    if column.dtype == pl.Datetime:
        return column.cast(pl.Date)
    texts = column.cast(pl.String).str.strip_chars().str.head(10)
    readings = {form: texts.str.to_date(form, strict=False) for form in formats}
    fitting = [form for form, dates in readings.items() if dates.null_count() == 0]
    if len(fitting) == 1:
        return readings[fitting[0]]
    raise BadDataError(
        "a price file has dates that cannot be read in one way" if fitting else "a price file has unreadable dates",
        expected=" or ".join(fitting or formats).replace("%Y", "yyyy").replace("%m", "mm").replace("%d", "dd"),
        found=(texts[0] if fitting else texts.filter(readings[formats[0]].is_null())[0]) or "an empty cell",
        where=f"{path}, column {column.name}",
        fix="write the dates as yyyy-mm-dd",
    )


def _scale_to_vnd(stocks: pl.DataFrame, unit: Unit, path: Path) -> float:
    """Return 1 or 1000, refusing when the sizes of the prices do not fit `unit` or, for "auto", fit neither unit."""
    close = stocks.get_column("close_vnd").filter(stocks.get_column("close_vnd") > 0)
    if close.is_empty():
        raise BadDataError("a price file has no positive close", where=path)
    low, high = (float(close.quantile(q) or 0.0) for q in (0.01, 0.99))
    if unit == "vnd":
        return 1.0
    if unit == "thousand_vnd" and low < _CHEAPEST_VND:
        return 1000.0
    if unit == "auto" and low >= _CHEAPEST_VND:
        return 1.0
    if unit == "auto" and high <= _CHEAPEST_VND:
        return 1000.0
    raise BadDataError(
        "the unit of the prices is not clear",
        expected="thousand VND (nearly all closes below 500)"
        if unit == "thousand_vnd"
        else f"VND (nearly all closes above {_CHEAPEST_VND:.0f}) or thousand VND (nearly all below)",
        found=f"closes from {low:g} to {high:g}",
        where=path,
        fix="write all files of a folder in one unit; VND is the safer one",
    )


def _read_listings(path: Path | None) -> pl.DataFrame | None:
    if path is None:
        return None
    if not path.is_file():
        raise BadDataError("the listings file is missing", expected="a CSV with symbol, exchange, sector", where=path)
    table = _read_table(path)
    names = {"Symbol": "symbol", "Exchange": "exchange", "Sector": "sector", "CategoryName": "sector"}
    for old, new in names.items():
        table = table.rename({old: new}) if old in table.columns and new not in table.columns else table
    if "symbol" not in table.columns:
        raise BadDataError("a listings file lacks columns", expected="symbol", found=table.columns, where=path)
    listings = table.select(
        pl.col("symbol").str.strip_chars().str.to_uppercase(),
        *(
            (pl.col(name) if name in table.columns else pl.lit(None, pl.String)).fill_null(default).alias(name)
            for name, default in (("exchange", Exchange.HOSE.value), ("sector", ""))
        ),
    ).with_columns(pl.col("exchange").str.strip_chars().str.to_uppercase().replace("HSX", Exchange.HOSE.value))
    strange = listings.filter(~pl.col("exchange").is_in([exchange.value for exchange in Exchange]))
    if strange.height:
        raise BadDataError(
            "a listings file names an unknown exchange",
            expected=[exchange.value for exchange in Exchange],
            found=strange.row(0),
            where=path,
        )
    return listings
