"""A complete set of CafeF bulk files of one day, read into one history: raw, adjusted and index belong together."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import INDEX_SYMBOL, RAW_SCHEMA, Progress, RawHistory, no_progress, raw_history
from vnfleet.data.sources.cafef.zips import BulkKind, BulkName, read_zip

_LOGGER = logging.getLogger(__name__)
_SATURDAY_ISO = 6
_KEY = ("symbol", "session")
_PRICES = ("open", "high", "low", "close")
_LONGEST_BREAK_DAYS = 14
"""Days without a session that a file may end with; the longest Tet break took 11."""
_ALWAYS_FINE_UNPAIRED = 2_000
_MOST_UNPAIRED_FRAC = 0.01
_VND_PER_THOUSAND = 1000.0
_PARTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSet:
    """The three `Upto` files of one day."""

    day: date
    adjusted: Path
    raw: Path
    index: Path


def newest_set(paths: Iterable[Path]) -> BulkSet:
    """Return the newest day of which all three `Upto` files are among `paths`; other files are passed over.

    Raises `BadDataError` saying which files are missing when no day is complete.
    """
    found: dict[date, dict[BulkKind, Path]] = {}
    daily = 0
    for path in paths:
        name = BulkName.parse(path.name)
        daily += name is not None and not name.upto
        if name is not None and name.upto:
            found.setdefault(name.day, {})[name.kind] = path
    complete = [day for day, parts in found.items() if len(parts) == len(BulkKind)]
    if complete:
        day = max(complete)
        parts = found[day]
        for later in sorted(other for other in found if other > day):
            _LOGGER.warning("CafeF files of %s are not complete; those of %s are read", later, day)
        return BulkSet(day=day, adjusted=parts[BulkKind.ADJUSTED], raw=parts[BulkKind.RAW], index=parts[BulkKind.INDEX])
    if not found:
        raise BadDataError(
            "there are no whole CafeF histories here",
            expected="the three files CafeF.SolieuGD.Upto, CafeF.SolieuGD.Raw.Upto and CafeF.Index.Upto of one day",
            found=f"{daily} files of single days, which cannot be joined: every file adjusts on its own base",
            fix="download the three Upto files of one day into one folder",
        )
    day = max(found)
    raise BadDataError(
        "no day has all three CafeF files",
        expected=", ".join(BulkName(kind=kind, day=day).file_name for kind in BulkKind),
        found=", ".join(path.name for path in found[day].values()),
        where=next(iter(found[day].values())).parent,
        fix="download the missing files of that day into the same folder",
    )


def read_set(
    bulk: BulkSet, as_of: date, symbols: Collection[str] | None = None, progress: Progress = no_progress
) -> RawHistory:
    """Return the history of a set up to and including `as_of`.

    Raw prices (VND), volume and exchange come from the raw file, the adjusted close from the adjusted file; a row that
    only one file has keeps null for the other (a few hundred are normal). VNINDEX comes from the index file. Weekend
    rows are CafeF's phantoms and are dropped. Listings tell each symbol's newest exchange, without a sector.

    Raises `BadDataError` naming the file when one cannot be read, when the raw and the adjusted file end on different
    days or differ in more than 1 % of their rows, or when a file ends long before the day in its name.
    """
    progress(0, 4, f"reading {bulk.raw.name}")
    raw = _without_weekends(read_zip(bulk.raw), bulk.raw)
    progress(1, 4, f"reading {bulk.adjusted.name}")
    adjusted = _without_weekends(read_zip(bulk.adjusted), bulk.adjusted)
    progress(2, 4, f"reading {bulk.index.name}")
    index = _without_weekends(read_zip(bulk.index), bulk.index).filter(pl.col("symbol") == INDEX_SYMBOL)
    _refuse_other_vintage(bulk, raw, adjusted, index)
    if symbols is not None:
        wanted = pl.col("symbol").is_in(list(symbols))
        raw, adjusted = raw.filter(wanted), adjusted.filter(wanted)
    progress(3, 4, "joining raw and adjusted prices")
    bars = _bars(bulk, raw, adjusted, as_of)
    del raw, adjusted
    listings = bars.group_by("symbol").agg(pl.col("exchange").last(), sector=pl.lit(""))  # bars are in order of time
    index = index.filter(pl.col("session") <= as_of).select("session", close_points="close")
    empty = raw_history(bars.clear(), index, listings)
    progress(4, 4, "read")
    return RawHistory(bars=bars, index=empty.index, listings=empty.listings)


def _bars(bulk: BulkSet, raw: pl.DataFrame, adjusted: pl.DataFrame, as_of: date) -> pl.DataFrame:
    """Join and sort some symbols at a time: the whole market at once would take twice the memory."""
    symbols = pl.concat([raw.get_column("symbol"), adjusted.get_column("symbol")]).unique().sort()
    size = max(1, -(-symbols.len() // _PARTS))
    parts = [raw_history(pl.DataFrame(schema=RAW_SCHEMA), None, None).bars]
    num_rows = num_without_raw = num_without_adjusted = 0
    for first in range(0, symbols.len(), size):
        names = symbols[first : first + size]
        here = pl.col("symbol").is_between(pl.lit(names[0]), pl.lit(names[-1]))
        paired = _paired(raw.filter(here), adjusted.filter(here))
        num_rows += paired.height
        num_without_raw += paired.filter(~pl.col("in_raw")).height
        num_without_adjusted += paired.filter(~pl.col("in_adjusted")).height
        parts.append(raw_history(paired.filter(pl.col("session") <= as_of), None, None).bars)
    _refuse_strangers(bulk, num_rows, num_without_raw, num_without_adjusted)
    return pl.concat(parts)


def _without_weekends(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    kept = rows.filter(pl.col("session").dt.weekday() < _SATURDAY_ISO)
    if kept.height < rows.height:
        _LOGGER.info("%s: %d rows on weekends dropped", path.name, rows.height - kept.height)
    return kept


def _refuse_other_vintage(bulk: BulkSet, raw: pl.DataFrame, adjusted: pl.DataFrame, index: pl.DataFrame) -> None:
    if index.is_empty():
        raise BadDataError("the index file has no VNINDEX", where=bulk.index, fix="download it again")
    ends = {
        path: day
        for path, rows in ((bulk.raw, raw), (bulk.adjusted, adjusted), (bulk.index, index))
        if isinstance(day := rows.get_column("session").max(), date)
    }
    for path, end in ends.items():
        if end > bulk.day or bulk.day - end > timedelta(days=_LONGEST_BREAK_DAYS):
            raise BadDataError(
                "a CafeF file does not end where its name says",
                expected=f"the newest session shortly before or on {bulk.day}",
                found=f"the newest session is {end}",
                where=path,
                fix="download it again, or use an older set",
            )
    if ends.get(bulk.raw) != ends.get(bulk.adjusted):
        raise BadDataError(
            "the raw and the adjusted file of one day are not of one day",
            expected="both end on the same session",
            found=f"raw ends on {ends.get(bulk.raw)}, adjusted on {ends.get(bulk.adjusted)}",
            where=f"{bulk.raw} and {bulk.adjusted.name}",
            fix="download both again, or use an older set",
        )


def _paired(raw: pl.DataFrame, adjusted: pl.DataFrame) -> pl.DataFrame:
    """Return RAW columns plus in_raw and in_adjusted; one row a key and file row, in no order."""
    told = raw.select(
        *_KEY,
        *((pl.col(name) * _VND_PER_THOUSAND).round(2).alias(f"{name}_vnd") for name in _PRICES),
        pl.col("volume").alias("volume_shares"),
        "exchange",
        in_raw=pl.lit(value=True),
    )
    other = adjusted.select(
        *_KEY,
        (pl.col("close") * _VND_PER_THOUSAND).round(2).alias("adjusted_close_vnd"),
        pl.col("exchange").alias("exchange_adjusted"),
        in_adjusted=pl.lit(value=True),
    )
    return (
        _without_repeats(told)
        .join(_without_repeats(other), on=list(_KEY), how="full", coalesce=True)
        .with_columns(
            pl.coalesce("exchange", "exchange_adjusted").alias("exchange"),
            pl.col("in_raw", "in_adjusted").fill_null(value=False),
        )
        .drop("exchange_adjusted")
    )


def _without_repeats(rows: pl.DataFrame) -> pl.DataFrame:
    """Drop rows told twice alike; contradicting ones stay."""
    return rows.unique() if rows.select(_KEY).is_duplicated().any() else rows


def _refuse_strangers(bulk: BulkSet, num_rows: int, num_without_raw: int, num_without_adjusted: int) -> None:
    strangers = num_without_raw + num_without_adjusted
    told = f"{num_without_raw:,} rows without raw and {num_without_adjusted:,} without adjusted prices"
    if strangers:
        _LOGGER.info("CafeF %s: %s", bulk.day, told)
    if strangers > max(_ALWAYS_FINE_UNPAIRED, _MOST_UNPAIRED_FRAC * num_rows):
        raise BadDataError(
            "the raw and the adjusted file do not tell of the same sessions",
            expected=f"at most {_MOST_UNPAIRED_FRAC:.0%} of the rows in one file only",
            found=f"{told}, of {num_rows:,}",
            where=f"{bulk.raw} and {bulk.adjusted.name}",
            fix="download both again, or use an older set",
        )
