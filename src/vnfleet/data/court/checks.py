"""The court's checks of single bars: each finds rows, says what to do with them and keeps the evidence.

The repairs, in order, on rows that are not masked:

- an open that is absent or zero becomes the previous traded close, moved into the day's own range: known before the
  day and never outside what was traded (the close would smuggle the day's outcome into the entry price);
- prices in another unit are brought back to the symbol's (`units`);
- an absent high or low, or one that contradicts the other prices (a vendor's high and low can leave out the opening
  auction), becomes the highest or lowest of open, high, low and close.
"""

from __future__ import annotations

import polars as pl

from vnfleet.data.court.findings import FINDING_SCHEMA, findings, said
from vnfleet.data.court.units import with_one_unit
from vnfleet.market.rules import KNOWN_TO, Exchange, wide_band_frac

__all__ = ["FINDING_SCHEMA", "STALE_REPEATS", "check_bars", "findings", "said"]

STALE_REPEATS = 5
"""From this many identical bars with volume in a row, the feed is taken as frozen."""
_WIDEST = max(wide_band_frac(exchange, KNOWN_TO) for exchange in Exchange)
MAX_DAY_RANGE = (1 + _WIDEST) / (1 - _WIDEST)
"""Highest over lowest price of a day that any band allows."""
MAX_VOLUME_SHARES = 10_000_000_000
"""More shares in one session than the largest company on HOSE has."""
_OHLC = ("open_vnd", "high_vnd", "low_vnd", "close_vnd")
_SATURDAY_ISO = 6


def check_bars(bars: pl.DataFrame) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Return the usable bars, repaired, one per symbol and session, and the findings.

    `told_low_vnd` and `told_high_vnd` are added: the range before it was repaired.

    bars : `RAW_SCHEMA`, sorted by symbol and session.
    """
    found: list[pl.DataFrame] = []
    bars = _without_duplicates(bars, found)
    bars = _without_masked(bars, found)
    bars = _repaired(bars, found).drop("previous_close")
    return with_one_unit(bars, found), found


def _without_duplicates(bars: pl.DataFrame, found: list[pl.DataFrame]) -> pl.DataFrame:
    key = ("symbol", "session")
    follows = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in key)
    precedes = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(-1)) for name in key)
    repeated = bars.select(follows | precedes).to_series()  # the bars are sorted: rows of one session are neighbours
    several = bars.filter(repeated)
    if several.is_empty():
        return bars
    distinct = several.unique(maintain_order=True)
    per_session = distinct.group_by(key, maintain_order=True).agg(
        count=pl.len(), text=pl.col("close_vnd").cast(pl.String).fill_null("-").str.join(" and ")
    )
    one, conflict = per_session.filter(pl.col("count") == 1), per_session.filter(pl.col("count") > 1)
    found.append(findings(one, "duplicate", "info", "repair", pl.lit("identical rows, one kept")))
    found.append(
        findings(conflict, "conflict", "error", "mask", said("rows of one session disagree, closes {}", "text"))
    )
    kept = distinct.join(conflict, on=key, how="anti")
    return pl.concat([bars.filter(~repeated), kept]).sort(key)


def _without_masked(bars: pl.DataFrame, found: list[pl.DataFrame]) -> pl.DataFrame:
    bars = bars.with_columns(
        stale=pl.all_horizontal(
            pl.col(name).eq_missing(pl.col(name).shift(1)) for name in ("symbol", *_OHLC, "volume_shares")
        )
        & (pl.col("volume_shares") > 0)
    ).with_columns(
        repeats=pl.when("stale").then(pl.int_range(pl.len()).over(pl.col("stale").rle_id()) + 2).otherwise(1)
    )
    spread = pl.max_horizontal(_positive(name) for name in _OHLC) / pl.min_horizontal(_positive(name) for name in _OHLC)
    masks = (
        ("weekend", pl.col("session").dt.weekday() >= _SATURDAY_ISO, pl.lit("the market never trades on weekends")),
        ("price", _positive("close_vnd").is_null(), said("no positive close: o {} h {} l {} c {}", *_OHLC)),
        (
            "volume",
            pl.col("volume_shares").is_null() | ~pl.col("volume_shares").is_between(0, MAX_VOLUME_SHARES),
            said("volume {}", "volume_shares"),
        ),
        (
            "range",
            spread > MAX_DAY_RANGE,
            said("too far apart for any band: o {} h {} l {} c {}", *_OHLC),
        ),
        ("stale", pl.col("repeats") >= STALE_REPEATS, said("{} identical bars with volume in a row", "repeats")),
    )
    masked = pl.lit(value=False)
    for check, condition, evidence in masks:
        found.append(findings(bars.filter(condition & ~masked), check, "error", "mask", evidence))
        masked |= condition
    return bars.filter(~masked).drop("stale", "repeats")


def _positive(name: str) -> pl.Expr:
    return pl.when(pl.col(name) > 0).then(pl.col(name))


def _repaired(bars: pl.DataFrame, found: list[pl.DataFrame]) -> pl.DataFrame:
    traded_close = pl.when(pl.col("volume_shares") > 0).then(pl.col("close_vnd"))
    bars = bars.with_columns(
        *(_positive(name) for name in _OHLC),
        told_low_vnd=pl.min_horizontal(_positive("low_vnd"), _positive("high_vnd")),
        told_high_vnd=pl.max_horizontal(_positive("low_vnd"), _positive("high_vnd")),
        previous_close=traded_close.forward_fill().shift(1).over("symbol"),
    )
    one_price = (pl.col("high_vnd") == pl.col("low_vnd")) & (pl.col("open_vnd") == pl.col("low_vnd"))
    found.append(
        findings(
            bars.filter((pl.col("volume_shares") == 0) & one_price & (pl.col("close_vnd") != pl.col("low_vnd"))),
            "not_final",
            "info",
            "accept",
            said("no volume; the day's price is {}, the stored close {}", "low_vnd", "close_vnd"),
        )
    )
    no_open = pl.col("open_vnd").is_null()
    low = pl.min_horizontal("low_vnd", "high_vnd", "close_vnd")
    high = pl.max_horizontal("low_vnd", "high_vnd", "close_vnd")
    opened = pl.col("previous_close").fill_null(pl.col("close_vnd")).clip(low, high)
    found.append(
        findings(
            bars.filter(no_open & (pl.col("volume_shares") > 0)).with_columns(opened=opened),
            "open",
            "warn",
            "repair",
            said("no open; {} = previous close within the day's range", "opened"),
        )
    )
    bars = bars.with_columns(open_vnd=pl.when(no_open).then(opened).otherwise("open_vnd"))
    top, bottom = pl.max_horizontal(_OHLC), pl.min_horizontal(_OHLC)
    broken = pl.col("high_vnd").ne_missing(top) | pl.col("low_vnd").ne_missing(bottom)
    found.append(
        findings(
            bars.filter(broken & (pl.col("volume_shares") > 0)),
            "ohlc",
            "warn",
            "repair",
            said("high and low must enclose open and close: o {} h {} l {} c {}", *_OHLC),
        )
    )
    return bars.with_columns(high_vnd=top, low_vnd=bottom)
