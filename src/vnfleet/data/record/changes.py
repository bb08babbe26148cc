"""What a telling changes in stored bars, row by row."""

from __future__ import annotations

import polars as pl

from vnfleet.data.record.overlap import split_repeated
from vnfleet.data.sources.base import RAW_SCHEMA

_KEY = ("symbol", "session")


def in_order(bars: pl.DataFrame) -> pl.DataFrame:
    """Return `bars` sorted by symbol and session; contradicting rows of one session keep their order."""
    return bars.sort(_KEY, maintain_order=True)


def differing_rows(stored: pl.DataFrame, told: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the rows of all told sessions that are new or told otherwise, and how many of them are new."""
    if stored.is_empty():
        once, again = split_repeated(told)
        rows = told if again.is_empty() else in_order(pl.concat([once, again.unique(maintain_order=True)]))
        return rows, rows.height
    once, again = split_repeated(told)
    stored_once, stored_again = split_repeated(stored)
    several = pl.concat([again.select(_KEY), stored_again.select(_KEY)]).unique()
    if several.height:
        once = once.join(several, on=_KEY, how="anti", maintain_order="left")
    values = [name for name in RAW_SCHEMA if name not in _KEY]
    both = once.join(stored_once.with_columns(_stored=True), on=_KEY, how="left", suffix="_was", maintain_order="left")
    other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_was")) for name in values)
    new = both.get_column("_stored").is_null()
    rows = once.filter(both.select(other).to_series() | new)
    if several.is_empty():
        return rows, int(new.sum())
    told = told.join(several, on=_KEY, how="semi").unique(maintain_order=True)
    stored = stored.join(several, on=_KEY, how="semi")
    columns = list(RAW_SCHEMA)
    unlike = [
        told.join(stored, on=columns, how="anti", nulls_equal=True),
        stored.join(told, on=columns, how="anti", nulls_equal=True),
    ]
    disputed = told.join(pl.concat(unlike).select(_KEY).unique(), on=_KEY, how="semi")
    num_new = int(new.sum()) + disputed.join(stored.select(_KEY), on=_KEY, how="anti").height
    return in_order(pl.concat([rows, disputed])), num_new


def forgotten_rows(stored: pl.DataFrame, told: pl.DataFrame, compared: pl.DataFrame) -> pl.DataFrame:
    """Return, with an unknown adjusted close, the stored rows that a history on another base does not tell again."""
    moved = compared.filter((pl.col("moved") > 0) & (pl.col("untold_known") > 0)).select("symbol")
    if moved.is_empty():
        return stored.clear()
    return (
        stored.join(moved, on="symbol", how="semi")
        .filter(pl.col("adjusted_close_vnd") > 0)
        .join(told.select(_KEY), on=_KEY, how="anti")
        .with_columns(adjusted_close_vnd=pl.lit(None, pl.Float64))
    )


def updated(stored: pl.DataFrame, rows: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
    """Return `stored` with all rows of the keys in `rows` replaced by them; not sorted."""
    return pl.concat([stored.join(rows.select(key), on=key, how="anti"), rows])
