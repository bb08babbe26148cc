"""CafeF's own fields of a daily bar: what they mean, in one place for its pages and for files saved from them.

Prices are thousand VND (indices: points), O/H/L/close raw, `GiaDieuChinh` adjusted and rounded to 10 VND;
`KhoiLuongKhopLenh` is matched shares. `GiaTriKhopLenh` changes its unit between vintages and is never read.
"""

from __future__ import annotations

from datetime import datetime

import polars as pl

from vnfleet.core.clock import ICT
from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import RAW_SCHEMA
from vnfleet.data.sources.sessions import FINAL_FROM

PRICES = {
    "GiaMoCua": "open_vnd",
    "GiaCaoNhat": "high_vnd",
    "GiaThapNhat": "low_vnd",
    "GiaDongCua": "close_vnd",
    "GiaDieuChinh": "adjusted_close_vnd",
}
VOLUME = "KhoiLuongKhopLenh"
CHANGE = "ThayDoi"
REQUIRED = ("Symbol", "Ngay", *PRICES, VOLUME)
VND_PER_UNIT = 1000.0
NO_NUMBER = ("", "--", "-")


def cafef_bars(table: pl.DataFrame, where: object, *, unit: float = VND_PER_UNIT) -> pl.DataFrame:
    """Return rows of CafeF's fields as `RAW_SCHEMA`, in the order given, nothing judged.

    table : the columns `REQUIRED` as text or numbers, `ThayDoi` optional. where : for messages. unit : VND (or points)
    of one unit of price. `--` and empty cells are null; `stated_reference_vnd` is close minus change where both are
    known and the close is positive; `exchange` is null: CafeF does not say.

    Raises `BadDataError` naming the column that is missing or holds something else.
    """
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise BadDataError(
            "CafeF's rows lack fields", expected=", ".join(REQUIRED), found=f"no {', '.join(missing)}", where=where
        )
    sessions = table.get_column("Ngay").cast(pl.String).str.strip_chars().str.to_date("%d/%m/%Y", strict=False)
    if sessions.null_count():
        wrong = table.get_column("Ngay").filter(sessions.is_null())[0]
        raise BadDataError("a date of CafeF cannot be read", expected="dd/mm/yyyy", found=wrong, where=where)
    prices = {name: _numbers(table.get_column(field), where) for field, name in PRICES.items()}
    volume = _numbers(table.get_column(VOLUME), where).round().cast(pl.Int64)
    change = table.get_column(CHANGE) if CHANGE in table.columns else pl.Series(CHANGE, [None] * table.height)
    frame = table.select(
        table.get_column("Symbol").cast(pl.String).str.strip_chars().str.to_uppercase().alias("symbol"),
        sessions.alias("session"),
        *((series * unit).round(2).alias(name) for name, series in prices.items()),
        volume.alias("volume_shares"),
        (change_of(change) * unit).alias("change"),
        pl.lit(None, pl.String).alias("exchange"),
    )
    reference = pl.when(pl.col("close_vnd") > 0).then((pl.col("close_vnd") - pl.col("change")).round(2))
    return frame.with_columns(stated_reference_vnd=reference).select(
        pl.col(name).cast(dtype) for name, dtype in RAW_SCHEMA.items()
    )


def change_of(texts: pl.Series) -> pl.Series:
    """Return the change of price in `ThayDoi`, null where there is none.

    Two formats are known: ``4(4.09 %)`` (2025) and ``-2,70 (-4,08%)`` (2026, decimal comma). The last of "." and ","
    is the decimal sign; the percentage is not read.
    """
    number = texts.cast(pl.String).str.extract(r"^\s*([+-]?\d[\d.,]*)").to_frame("number")
    parts = pl.col("number").str.extract_groups(r"^([+-]?[\d.,]*?)[.,]?(\d*)$")
    whole, decimals = parts.struct.field("1").str.replace_all("[.,]", ""), parts.struct.field("2")
    has_sign = pl.col("number").str.contains("[.,]")
    text = pl.when(has_sign).then(whole + "." + decimals).otherwise("number")
    return number.select(text.cast(pl.Float64, strict=False)).to_series().rename("change")


def without_unfinished(bars: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Return `bars` (with `session`) without the session of today in Vietnam, unless it is `FINAL_FROM` or later there.

    now : aware, in any time zone; the time zone of the machine plays no part. Older rows stay, broken or not: judging
    them is the court's work.
    """
    if now.tzinfo is None:
        raise ValueError("the time must be aware: a naive one says nothing about Vietnam")
    local = now.astimezone(ICT)
    return bars if local.time() >= FINAL_FROM else bars.filter(pl.col("session") != local.date())


def _numbers(column: pl.Series, where: object) -> pl.Series:
    if column.dtype.is_numeric():
        return column.cast(pl.Float64)
    texts = column.cast(pl.String).str.strip_chars()
    texts = texts.set(texts.is_in(NO_NUMBER), None)
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() > texts.null_count():
        wrong = texts.filter(numbers.is_null() & texts.is_not_null())[0]
        raise BadDataError("a field of CafeF is not a number", found=wrong, where=f"{where}, {column.name}")
    return numbers
