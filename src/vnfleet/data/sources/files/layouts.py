"""What the columns of a price file mean: CafeF's fields, AmiBroker's headers, plain names, or the user's mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError

OUR_NAMES: dict[str, str] = {
    "symbol": "symbol",
    "date": "session",
    "open": "open_vnd",
    "high": "high_vnd",
    "low": "low_vnd",
    "close": "close_vnd",
    "volume": "volume_shares",
    "adj_close": "adjusted_close_vnd",
    "reference": "stated_reference_vnd",
    "exchange": "exchange",
}
"""Names of a plain file, which are also the keys of a column mapping, and what they become."""
_REQUIRED = ("date", "open", "high", "low", "close", "volume")
_CAFEF = {
    "Symbol": "symbol",
    "Ngay": "session",
    "GiaMoCua": "open_vnd",
    "GiaCaoNhat": "high_vnd",
    "GiaThapNhat": "low_vnd",
    "GiaDongCua": "close_vnd",
    "KhoiLuongKhopLenh": "volume_shares",
    "GiaDieuChinh": "adjusted_close_vnd",
    "ThayDoi": "change",
}
_CAFEF_REQUIRED = tuple(name for name in _CAFEF if name not in {"Symbol", "ThayDoi"})
_AMIBROKER = {"ticker": "symbol", "dtyyyymmdd": "date", "date/time": "date", "vol": "volume"}
"""AmiBroker's names (in angle brackets in import files) -> plain ones."""
_PLAIN_DATES = ("%Y-%m-%d", "%Y%m%d", "%d/%m/%Y", "%m/%d/%Y")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How to read one table.

    columns : column of the table -> our name; `change` is CafeF's text of the day's change. is_cafef : the unit is
    thousand VND. is_amibroker : the file may hold covered warrants. date_formats : one of them fits.
    """

    columns: dict[str, str]
    is_cafef: bool
    is_amibroker: bool
    date_formats: tuple[str, ...]


def layout_of(table: pl.DataFrame, mapping: Mapping[str, str], path: Path) -> tuple[pl.DataFrame, Layout]:
    """Return the table with tidy column names, and what they mean.

    mapping : plain name -> name in the file; what it leaves out is looked for under its own name.

    Raises `BadDataError` naming the file when a column is missing, there twice, or holds lists or structures.
    """
    names = [name.strip().lstrip("\ufeff") for name in table.columns]
    is_cafef = not mapping and ("Ngay" in names or "GiaDongCua" in names)
    bare = [name.strip("<>").strip().lower() for name in names]
    is_amibroker = not is_cafef and bool({"dtyyyymmdd", "date/time", "ticker"} & set(bare))
    if not is_cafef:
        theirs = {wanted.strip().strip("<>").strip().lower(): ours for ours, wanted in mapping.items()}
        names = [theirs.get(name) or _unmapped(_AMIBROKER.get(name, name), mapping) for name in bare]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise BadDataError(
            "a price file names a column twice", found=", ".join(repeated), where=path, fix="keep one of them"
        )
    if absent := [wanted for ours, wanted in mapping.items() if ours not in names]:
        raise BadDataError(
            "a price file lacks columns that the mapping names",
            expected=", ".join(absent),
            found=", ".join(table.columns[:20]),
            where=path,
            fix="correct the mapping (our name = name in the file)",
        )
    table = table.rename(dict(zip(table.columns, names, strict=True)))
    if nested := [name for name, kind in table.schema.items() if kind.is_nested()]:
        raise BadDataError("a price file has a column that holds no plain values", found=nested[0], where=path)
    if missing := [name for name in (_CAFEF_REQUIRED if is_cafef else _REQUIRED) if name not in names]:
        raise BadDataError(
            "a price file lacks columns",
            expected=f"CafeF's {', '.join(_CAFEF_REQUIRED)} or plain {', '.join(_REQUIRED)} (and adj_close)",
            found=f"no {', '.join(missing)} among {', '.join(table.columns[:20])}",
            where=path,
            fix="rename the columns, name them in a column mapping, or export the file again",
        )
    meanings = _CAFEF if is_cafef else OUR_NAMES
    return table, Layout(
        columns={name: meanings[name] for name in names if name in meanings},
        is_cafef=is_cafef,
        is_amibroker=is_amibroker,
        date_formats=("%d/%m/%Y",) if is_cafef else _PLAIN_DATES,
    )


def _unmapped(name: str, mapping: Mapping[str, str]) -> str:
    """A column that happens to have a name which the mapping gives to another one is not that one."""
    return f"their {name}" if name in mapping else name
