"""The overlap check: does what a vendor tells now stand on the same base as what is stored.

At every corporate action a vendor scales its whole adjusted past. Rows on the new base that are appended to rows on the
old one make a jump that never happened, and nothing raises. So the sessions that are told *and* stored are compared: a
told part of a history is believed only where all of them agree exactly; where one does not, the symbol must be told
whole.

A raw close may be corrected (the adjusted close moves with it): that is not another base. An event that a vendor
corrects far back, before the first session of a told part, is not seen; a whole retelling (`--full`) finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.actions.steps import ROUNDING_HALF_VND

REBASED_FRAC = 0.005
"""A median shift of the adjusted closes beyond this is another base; a smaller one is called a correction."""
_SAME_FRAC = 1e-9
_KEY = ("symbol", "session")
_NAMED = 5
_GAP = "told from {first_told} on, stored to {last_stored}: what lies between is not known"
_NO_OVERLAP = "no stored session is told again, its base is not known"
_REBASED = "another base (x{factor:.4f}), but {untold} of {stored} stored sessions are not told again"
_CORRECTED = "{moved} of {overlap} adjusted closes differ, but {untold} of {stored} stored sessions are not told again"
_OTHER_RAW = "{corrected} of {overlap} raw closes differ (median x{raw_factor:.4g}), {same} agree"

OVERLAP_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "stored": pl.Int64(),
    "told": pl.Int64(),
    "overlap": pl.Int64(),
    "same": pl.Int64(),
    "moved": pl.Int64(),
    "corrected": pl.Int64(),
    "untold": pl.Int64(),
    "untold_known": pl.Int64(),
    "told_known": pl.Int64(),
    "factor": pl.Float64(),
    "raw_factor": pl.Float64(),
    "old_level": pl.Float64(),
    "new_level": pl.Float64(),
    "last_moved": pl.Date(),
    "first_told": pl.Date(),
    "last_stored": pl.Date(),
}


@dataclass(frozen=True, slots=True)
class Rebased:
    """A symbol whose vendor tells its past on another base now.

    factor : new over old adjusted close, median of the overlap. overlap_sessions : how many were compared.
    old_level, new_level : adjusted over raw close on the newest session in both; 1.0 was the base when it was fresh.
    last_moved : newest session with another adjusted close; the first ex-date since lies after it.
    """

    symbol: str
    factor: float
    overlap_sessions: int
    old_level: float
    new_level: float
    last_moved: date


class PartialHistoryError(BadDataError):
    """Part of a history that cannot stand beside what is stored; `symbols` must be fetched whole."""

    def __init__(self, refused: dict[str, str], where: object) -> None:
        self.refused = refused
        super().__init__(
            f"part of the history of {len(refused)} symbols does not fit what is stored; nothing was merged",
            expected="the adjusted closes that are stored, or every stored session told again",
            found=few([f"{symbol}: {reason}" for symbol, reason in refused.items()], "; "),
            where=where,
            fix="fetch these symbols whole (`vnfleet collect` does so by itself; --full does it for all)",
        )

    @property
    def symbols(self) -> tuple[str, ...]:
        """The refused symbols, sorted."""
        return tuple(sorted(self.refused))


def few(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names as text, and how many more there are."""
    more = len(names) - _NAMED
    return separator.join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def split_repeated(bars: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that are alone in their session, and the others; `bars` sorted by symbol and session."""
    follows = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in _KEY)
    precedes = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(-1)) for name in _KEY)
    repeated = bars.select(follows | precedes).to_series()
    if not repeated.any():
        return bars, bars.clear()
    return bars.filter(~repeated), bars.filter(repeated)


def compare_overlap(stored: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return `OVERLAP_SCHEMA`, one row per symbol that is both stored and told.

    stored, told : `RAW_SCHEMA`, sorted by symbol and session. Sessions that either side contradicts itself on are no
    evidence. Counts are sessions: `moved` have the same raw and another adjusted close (or levels that no rounding
    explains), `corrected` another raw close; `untold` are stored and not told, `untold_known` those with an adjusted
    close. Nulls and closes that are not positive agree with each other and are evidence of nothing else.
    """
    columns = (*_KEY, "close_vnd", "adjusted_close_vnd")
    before, _ = split_repeated(stored.select(columns))
    after, _ = split_repeated(told.select(columns))
    both = after.join(before, on=_KEY, how="inner", suffix="_stored", maintain_order="left")
    close, close_stored = _positive("close_vnd"), _positive("close_vnd_stored")
    adjusted, adjusted_stored = _positive("adjusted_close_vnd"), _positive("adjusted_close_vnd_stored")
    known = (adjusted.is_not_null() & adjusted_stored.is_not_null()).fill_null(value=False)
    equal = ((adjusted / adjusted_stored - 1.0).abs() <= _SAME_FRAC).fill_null(value=False)
    raw_equal = close.eq_missing(close_stored)
    gap = (adjusted / close - adjusted_stored / close_stored).abs()
    rounding = ROUNDING_HALF_VND / close + ROUNDING_HALF_VND / close_stored
    judged = both.select(
        *_KEY,
        same=raw_equal & (equal | (adjusted.is_null() & adjusted_stored.is_null())),
        moved=known & ~equal & (raw_equal | (gap > rounding).fill_null(value=True)),
        corrected=~raw_equal,
        untouched=known & raw_equal,
        ratio=adjusted / adjusted_stored,
        raw_ratio=close / close_stored,
        old_level=adjusted_stored / close_stored,
        new_level=adjusted / close,
    )
    seen = judged.group_by("symbol").agg(
        pl.len().alias("overlap"),
        pl.col("same", "moved", "corrected").sum(),
        factor=pl.col("ratio").filter("untouched").median(),
        raw_factor=pl.col("raw_ratio").median(),
        old_level=pl.col("old_level").filter("untouched").last(),
        new_level=pl.col("new_level").filter("untouched").last(),
        last_moved=pl.col("session").filter("moved").max(),
    )
    has_adjusted = (pl.col("adjusted_close_vnd") > 0).fill_null(value=False)
    untold = (
        stored.join(told.select(_KEY), on=_KEY, how="anti")
        .group_by("symbol")
        .agg(untold=pl.len(), untold_known=has_adjusted.sum())
    )
    return (
        told.group_by("symbol")
        .agg(told=pl.len(), told_known=has_adjusted.sum(), first_told=pl.col("session").min())
        .join(stored.group_by("symbol").agg(stored=pl.len(), last_stored=pl.col("session").max()), on="symbol")
        .join(seen, on="symbol", how="left")
        .join(untold, on="symbol", how="left")
        .with_columns(pl.col("overlap", "same", "moved", "corrected", "untold", "untold_known").fill_null(0))
        .select(pl.col(name).cast(dtype) for name, dtype in OVERLAP_SCHEMA.items())
        .sort("symbol")
    )


def moved_bases(overlaps: pl.DataFrame) -> tuple[Rebased, ...]:
    """Return the re-based symbols of `OVERLAP_SCHEMA`."""
    shifted = overlaps.filter((pl.col("moved") > 0) & ((pl.col("factor") - 1.0).abs() > REBASED_FRAC))
    return tuple(
        Rebased(
            symbol=row["symbol"],
            factor=row["factor"],
            overlap_sessions=row["overlap"],
            old_level=row["old_level"],
            new_level=row["new_level"],
            last_moved=row["last_moved"],
        )
        for row in shifted.iter_rows(named=True)
    )


def refusals(overlaps: pl.DataFrame, max_forgotten_frac: float) -> dict[str, str]:
    """Return why symbols of `OVERLAP_SCHEMA` cannot be merged, by symbol.

    max_forgotten_frac : share of the stored sessions that a history on another base may leave untold.
    """
    forgiven = pl.col("untold") <= max_forgotten_frac * pl.col("stored")
    partial = pl.col("untold") > 0
    moved, overlap = pl.col("moved") > 0, pl.col("overlap") > 0
    rebased = (pl.col("factor") - 1.0).abs() > REBASED_FRAC
    both_known = (pl.col("untold_known") > 0) & (pl.col("told_known") > 0)
    checks = (
        (_GAP, ~overlap & (pl.col("first_told") > pl.col("last_stored"))),
        (_NO_OVERLAP, ~overlap & both_known),
        (_REBASED, partial & ~forgiven & moved & rebased),
        (_CORRECTED, partial & ~forgiven & moved),
        (_OTHER_RAW, partial & overlap & ~moved & (pl.col("same") < pl.max_horizontal(1, "corrected"))),
    )
    refused: dict[str, str] = {}
    for text, condition in checks:
        for row in overlaps.filter(condition.fill_null(value=False)).iter_rows(named=True):
            values = {name: float("nan") if value is None else value for name, value in row.items()}
            refused.setdefault(row["symbol"], text.format(**values))
    return dict(sorted(refused.items()))


def _positive(name: str) -> pl.Expr:
    return pl.when(pl.col(name) > 0).then(pl.col(name))
