"""The optional file that says where each symbol is listed and in which sector."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.files.tables import read_table
from vnfleet.market.rules import Exchange

_NAMES = {"Symbol": "symbol", "Exchange": "exchange", "Sector": "sector", "CategoryName": "sector"}


def read_listings(path: Path | None) -> pl.DataFrame | None:
    """Return symbol, exchange (HOSE when absent) and sector ("" when absent); None without a file.

    Raises `BadDataError` when the file is missing, lacks the symbols or names an exchange that is none.
    """
    if path is None:
        return None
    if not path.is_file():
        raise BadDataError("the listings file is missing", expected="a CSV with symbol, exchange, sector", where=path)
    table, _ = read_table(path)
    for old, new in _NAMES.items():
        table = table.rename({old: new}) if old in table.columns and new not in table.columns else table
    if "symbol" not in table.columns:
        raise BadDataError("a listings file lacks columns", expected="symbol", found=table.columns, where=path)
    listings = table.select(
        pl.col("symbol").str.strip_chars().str.to_uppercase(),
        *(
            (pl.col(name) if name in table.columns else pl.lit(None, pl.String)).fill_null(default).alias(name)
            for name, default in (("exchange", Exchange.HOSE.value), ("sector", ""))
        ),
    )
    return listings.with_columns(exchanges_of(listings.get_column("exchange"), path))


def exchanges_of(column: pl.Series, path: Path) -> pl.Series:
    """Return the names of exchanges as ours (HSX is HOSE), null where absent; raises `BadDataError` on any other."""
    names = column.cast(pl.String).str.strip_chars().str.to_uppercase().replace("HSX", Exchange.HOSE.value)
    known = [exchange.value for exchange in Exchange]
    strange = column.filter(names.is_not_null() & ~names.is_in(known))
    if strange.len():
        raise BadDataError("a file names an unknown exchange", expected=known, found=strange[0], where=path)
    return names
