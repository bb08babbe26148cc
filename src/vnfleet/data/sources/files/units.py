"""Whether prices are VND or thousand VND, told by their size; refused, naming the file, when unsure."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from vnfleet.core.errors import BadDataError

Unit = Literal["auto", "vnd", "thousand_vnd"]

CHEAPEST_VND = 500.0
"""No HOSE stock has cost 500,000 VND for long, and hardly any less than 500 VND."""
_SCALES = {"vnd": 1.0, "thousand_vnd": 1000.0}
_WORDS = {"vnd": "VND", "thousand_vnd": "thousand VND"}


def scale_to_vnd(stocks: pl.DataFrame, unit: Unit, path: Path) -> float:
    """Return 1 or 1000, by which the prices of `stocks` (file, symbol, close_vnd) become VND.

    unit : "auto" decides by the size of all closes; "vnd" and "thousand_vnd" are checked, "vnd" loosely (penny stocks).

    Raises `BadDataError` when the sizes do not fit `unit` or, for "auto", fit neither unit, and when one symbol of one
    file has another unit than the rest: then it names them.
    """
    close = stocks.get_column("close_vnd").filter(stocks.get_column("close_vnd") > 0)
    if close.is_empty():
        raise BadDataError("a price file has no positive close", where=path)
    low, high = (float(close.quantile(q) or 0.0) for q in (0.01, 0.99))
    if unit == "vnd" and high > CHEAPEST_VND:
        return _SCALES[unit]
    decided: Unit = "auto"
    if unit == "thousand_vnd" and low < CHEAPEST_VND:
        decided = "thousand_vnd"
    elif unit == "auto" and low >= CHEAPEST_VND:
        decided = "vnd"
    elif unit == "auto" and high <= CHEAPEST_VND:
        decided = "thousand_vnd"
    _refuse_drift(stocks, decided, path)
    if decided != "auto":
        return _SCALES[decided]
    raise BadDataError(
        "the unit of the prices is not clear",
        expected="thousand VND (nearly all closes below 500)"
        if unit == "thousand_vnd"
        else f"VND (closes above {CHEAPEST_VND:.0f})"
        if unit == "vnd"
        else f"VND (nearly all closes above {CHEAPEST_VND:.0f}) or thousand VND (nearly all below)",
        found=f"closes from {low:g} to {high:g}",
        where=path,
        fix="write all files of a folder in one unit; VND is the safer one",
    )


def _refuse_drift(stocks: pl.DataFrame, decided: Unit, path: Path) -> None:
    """Refuse a symbol of a file whose closes all lie on the other side of the border than those of the rest."""
    spans = (
        stocks.filter(pl.col("close_vnd") > 0)
        .group_by("file", "symbol")
        .agg(pl.col("close_vnd").min().alias("low"), pl.col("close_vnd").max().alias("high"))
        .with_columns(
            unit=pl.when(pl.col("low") > CHEAPEST_VND)
            .then(pl.lit("vnd"))
            .when(pl.col("high") < CHEAPEST_VND)
            .then(pl.lit("thousand_vnd"))
        )
        .filter(pl.col("unit").is_not_null())
        .sort("file", "symbol")
    )
    if spans.get_column("unit").n_unique() < 2:
        return
    num_vnd = spans.filter(pl.col("unit") == "vnd").height
    usual = decided if decided != "auto" else ("vnd" if 2 * num_vnd > spans.height else "thousand_vnd")
    strange = spans.filter(pl.col("unit") != usual)
    first = strange.row(0, named=True)
    others = f", and {strange.height - 1} more" if strange.height > 1 else ""
    raise BadDataError(
        "the unit of the prices is not clear: one file or symbol is in another unit than the rest",
        expected=f"{_WORDS[usual]} like the rest",
        found=f"{first['symbol']} with closes from {first['low']:g} to {first['high']:g}{others}",
        where=first["file"] or path,
        fix="write all files of a folder in one unit; if these prices are right as they are, state the unit",
    )
