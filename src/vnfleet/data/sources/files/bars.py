"""One file as bars in the file's own unit, with every symbol a possible one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.cafef.fields import change_of
from vnfleet.data.sources.cafef.zips import is_member_name
from vnfleet.data.sources.files.layouts import Layout, layout_of
from vnfleet.data.sources.files.listings import exchanges_of
from vnfleet.data.sources.files.tables import dates_of, numbers_of, read_table

Basis = Literal["raw", "adjusted"]

PRICES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd", "stated_reference_vnd")
_SYMBOL = r"^[A-Z0-9][A-Z0-9._-]{0,31}$"
_RESERVED = r"^(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?$"
_WARRANT = r"^C[A-Z][A-Z0-9]{2}\d{4}$"
_OTHER_INDEX_NAMES = {"^VNINDEX": "VNINDEX", "VN-INDEX": "VNINDEX", "^VN30": "VN30"}
_LOGGER = logging.getLogger(__name__)


def read_bars(path: Path, mapping: Mapping[str, str], basis: Basis) -> tuple[pl.DataFrame, bool]:
    """Return symbol, session, `PRICES` in the file's unit, volume_shares, exchange, file; and whether it is CafeF's.

    basis : what the prices of the file are; CafeF's own rows tell both and must be "raw".

    Raises `BadDataError` naming the file.
    """
    if is_member_name(path.name):
        raise BadDataError(
            "a file was unpacked from a CafeF zip",
            expected="the three zips SolieuGD, SolieuGD.Raw and Index of one day, as they were downloaded",
            where=path,
            fix="put the zips there instead: raw and adjusted prices are then told apart by their names",
        )
    table, separator = read_table(path)
    table, layout = layout_of(table, mapping, path)
    if table.is_empty():
        raise BadDataError("a price file has no rows", where=path, fix="export the file again, or take it away")
    if layout.is_cafef and basis != "raw":
        raise BadDataError(
            "CafeF's own rows tell raw and adjusted prices both", where=path, fix='take basis = "adjusted" away'
        )
    columns = {name: meaning for name, meaning in layout.columns.items() if meaning in {*PRICES, "volume_shares"}}
    numbers = numbers_of(table, columns, separator, path)
    absent = [name for name in PRICES if name not in numbers.columns]
    frame = numbers.with_columns(
        *(pl.lit(None, pl.Float64).alias(name) for name in absent),
        _symbols(table, layout, path).alias("symbol"),
        _sessions(table, layout, path).alias("session"),
        _exchanges(table, layout, path).alias("exchange"),
        pl.lit(str(path)).alias("file"),
        pl.col("volume_shares").round().cast(pl.Int64, strict=False),
    )
    if layout.is_cafef:
        frame = _with_reference(frame, table)
    if layout.is_amibroker:
        frame = _without_warrants(frame, path)
    return frame.select("symbol", "session", *PRICES, "volume_shares", "exchange", "file"), layout.is_cafef


def _symbols(table: pl.DataFrame, layout: Layout, path: Path) -> pl.Series:
    column = _named(layout, "symbol")
    if column is None:
        name = (path.parent.name if path.stem.lower() == "pricehistory" else path.stem).upper()
        symbols = pl.repeat(name, table.height, dtype=pl.String, eager=True)
    else:
        symbols = table.get_column(column).cast(pl.String).str.strip_chars().str.to_uppercase()
    symbols = symbols.replace(_OTHER_INDEX_NAMES)
    names = symbols.unique(maintain_order=True)
    possible = names.str.contains(_SYMBOL) & ~names.str.contains(_RESERVED)
    impossible = names.filter(~possible.fill_null(value=False))
    if impossible.len():
        raise BadDataError(
            "a price file has a symbol that cannot be one",
            expected="letters, digits, '.', '_' and '-', at most 32, none reserved by an operating system",
            found="an empty cell" if impossible[0] is None else repr(impossible[0]),
            where=path if column is None else f"{path}, column {column}",
            fix="name the file after its symbol (FPT.csv), or add a symbol column"
            if column is None
            else "correct the symbol, or name the right column in a column mapping",
        )
    return symbols


def _sessions(table: pl.DataFrame, layout: Layout, path: Path) -> pl.Series:
    column = _named(layout, "session")
    assert column is not None
    return dates_of(table.get_column(column), layout.date_formats, path)


def _exchanges(table: pl.DataFrame, layout: Layout, path: Path) -> pl.Series:
    column = _named(layout, "exchange")
    if column is None:
        return pl.repeat(None, table.height, dtype=pl.String, eager=True)
    return exchanges_of(table.get_column(column), path)


def _named(layout: Layout, meaning: str) -> str | None:
    return next((name for name, meant in layout.columns.items() if meant == meaning), None)


def _with_reference(frame: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """CafeF states the reference price as the close minus the day's change (a hint only)."""
    if "ThayDoi" not in table.columns:
        return frame
    change = change_of(table.get_column("ThayDoi"))
    reference = pl.when(pl.col("close_vnd") > 0).then((pl.col("close_vnd") - change).round(5))
    return frame.with_columns(stated_reference_vnd=reference)


def _without_warrants(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    kept = frame.filter(~pl.col("symbol").str.contains(_WARRANT))
    if kept.height < frame.height:
        _LOGGER.info("%s: %d rows of covered warrants left out", path, frame.height - kept.height)
    return kept
