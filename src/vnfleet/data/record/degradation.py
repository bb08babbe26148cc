"""Would a feed make the stored record worse? Reasons in words; none means it may be merged.

The store is append-only, so a bad feed erases nothing, but it can freeze symbols, put zeros or another unit in front of
good prices, and tomorrow's panel would be served from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import polars as pl

from vnfleet.data.record.overlap import few, split_repeated
from vnfleet.data.sources.base import RawHistory

RECENT_SESSIONS = 10
"""A symbol with a row within so many of the last stored sessions is alive."""
_KEY = ("symbol", "session")
_USUAL_SESSIONS = 20
_PRICE = pl.col("price") > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How much worse a feed may look than what is stored (fractions).

    lost_symbols : symbols alive before that it no longer tells (one is always forgiven). new_sessions : of the usual
    number of symbols, the least that new sessions must have on average, and `newest_session` the newest of them (an
    exchange's outage leaves about a tenth). session_told : of the symbols stored on a session, the least told again.
    changed_closes, changed_volumes : stored closes (volumes) told otherwise, the newest stored session left out: it is
    often corrected. absent_prices : closes that are absent or not positive, beyond the stored share;
    absent_prices_at_first : while nothing is stored.
    """

    lost_symbols: float = 0.05
    new_sessions: float = 0.55
    newest_session: float = 0.7
    session_told: float = 0.5
    changed_closes: float = 0.02
    changed_volumes: float = 0.2
    absent_prices: float = 0.01
    absent_prices_at_first: float = 0.5

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


def degradation(
    before: RawHistory, after: RawHistory, as_of: date, tolerance: Tolerance | None = None
) -> tuple[str, ...]:
    """Return why `after` must not be merged over `before`, in words; empty when it may.

    before : what is stored of the symbols that were asked for. after : what the feed tells: the whole past, or a window
        of it; only what it tells is compared. Rows after `as_of` are not looked at. A source without raw prices is
        judged by its adjusted closes.
    """
    limit = tolerance or Tolerance()
    told, stored = _priced(after.until(as_of).bars), _priced(before.until(as_of).bars)
    if told.is_empty():
        return ("the feed tells no bar at all",)
    reasons = [*_absent(stored, told, limit)]
    if stored.height:
        both = _side_by_side(stored, told)
        reasons += [
            *_older(before.until(as_of), after.until(as_of)),
            *_lost(stored, told, limit),
            *_thin_sessions(stored, told, limit),
            *_untold_sessions(both, limit),
            *_changed(both, stored.get_column("session").max(), limit, is_raw=_tells_raw(after.bars)),
            *_other_index(before.index, after.index),
        ]
    return tuple(reasons)


def _priced(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, session, price (raw close, adjusted where a source has no raw ones), adjusted, volume."""
    price = "close_vnd" if _tells_raw(bars) else "adjusted_close_vnd"
    columns = {"price": pl.col(price), "adjusted": pl.col("adjusted_close_vnd"), "volume": pl.col("volume_shares")}
    return bars.select(*_KEY, **columns).sort(_KEY, maintain_order=True)


def _tells_raw(bars: pl.DataFrame) -> bool:
    return bars.get_column("close_vnd").null_count() < bars.height


def _older(before: RawHistory, after: RawHistory) -> Iterator[str]:
    for noun, old, new in (("", before.bars, after.bars), ("index ", before.index, after.index)):
        last, newest = old.get_column("session").max(), new.get_column("session").max()
        if isinstance(last, date) and isinstance(newest, date) and newest < last:
            yield f"the newest {noun}session told is {newest}, {last} is stored already"


def _lost(stored: pl.DataFrame, told: pl.DataFrame, limit: Tolerance) -> Iterator[str]:
    days = stored.get_column("session").unique().sort()
    since = days[-min(RECENT_SESSIONS, len(days))]
    recent = pl.col("session") >= since
    alive = stored.filter(recent & _PRICE).select("symbol").unique()
    lost = alive.join(told.filter(recent), on="symbol", how="anti").get_column("symbol").sort().to_list()
    if len(lost) > max(1.0, limit.lost_symbols * alive.height) or len(lost) == alive.height > 0:
        yield f"{len(lost)} of {alive.height} symbols that traded lately have no bar since {since}: {few(lost)}"


def _thin_sessions(stored: pl.DataFrame, told: pl.DataFrame, limit: Tolerance) -> Iterator[str]:
    last = stored.get_column("session").max()
    usual = stored.filter(_PRICE).group_by("session").len().sort("session").tail(_USUAL_SESSIONS).get_column("len")
    num_usual = float(usual.median() or 0.0)  # type: ignore[arg-type]
    counts = told.filter(pl.col("session") > last).group_by("session").agg(count=_PRICE.sum()).sort("session")
    if counts.is_empty() or not num_usual:
        return
    session, count = counts.row(-1)
    if count < limit.newest_session * num_usual:
        yield f"only {count} symbols have a price on {session}, the newest session; {num_usual:.0f} are usual"
    mean = counts.get_column("count").sum() / counts.height
    if mean < limit.new_sessions * num_usual:
        yield f"new sessions have {mean:.0f} symbols with a price on average; {num_usual:.0f} are usual"


def _side_by_side(stored: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return the stored rows within what is told of their symbol, with price_now, volume_now and `again`.

    Sessions that either side contradicts itself on are left out.
    """
    spans = told.group_by("symbol").agg(first=pl.col("session").min(), last=pl.col("session").max())
    now = split_repeated(told)[0].select(*_KEY, price_now="price", volume_now="volume", again=pl.lit(value=True))
    return (
        split_repeated(stored)[0]
        .join(spans, on="symbol")
        .filter(pl.col("session").is_between("first", "last"))
        .join(now, on=_KEY, how="left")
    )


def _untold_sessions(both: pl.DataFrame, limit: Tolerance) -> Iterator[str]:
    untold = (
        both.group_by("session")
        .agg(stored=pl.len(), again=pl.col("again").sum())
        .filter((pl.col("again") < limit.session_told * pl.col("stored")) & (pl.col("stored") > 1))
        .sort("session")
    )
    if untold.height:
        days = [f"{day}" for day in untold.get_column("session").to_list()]
        yield f"{len(days)} stored sessions are not told again for most symbols: {few(days)}"


def _changed(both: pl.DataFrame, last: object, limit: Tolerance, *, is_raw: bool) -> Iterator[str]:
    settled = both.filter(pl.col("again") & (pl.col("session") < pl.lit(last)) & _PRICE)
    if settled.is_empty():
        return
    closes, volumes, ratio = settled.select(
        pl.col("price_now").ne_missing(pl.col("price")).mean(),
        pl.col("volume_now").ne_missing(pl.col("volume")).mean().alias("volumes"),
        ratio=(pl.col("price_now") / pl.col("price")).filter(pl.col("price_now") > 0).median(),
    ).row(0)
    if is_raw and closes > limit.changed_closes:
        yield f"{closes:.1%} of {settled.height:,} stored closes are told otherwise (median x{ratio or 0.0:.4g})"
    if volumes > limit.changed_volumes:
        yield f"{volumes:.0%} of {settled.height:,} stored volumes are told otherwise"


def _absent(stored: pl.DataFrame, told: pl.DataFrame, limit: Tolerance) -> Iterator[str]:
    for column, noun in (("price", "closes"), ("adjusted", "adjusted closes")):
        bad = (pl.col(column) > 0).fill_null(value=False).not_().mean()
        known = stored.filter(pl.col(column) > 0).height
        if column == "adjusted" and not known:
            continue  # a source without adjusted closes
        share = told.select(bad).item()
        if stored.is_empty():  # nothing good is at stake: single bad symbols are the court's affair
            if share > limit.absent_prices_at_first:
                yield f"{share:.1%} of the {noun} told are absent or not positive"
            continue
        usual = stored.select(bad).item()
        if share > usual + limit.absent_prices:
            worst = told.group_by("symbol").agg(bad=bad).filter(pl.col("bad") > 0).sort("bad", "symbol")
            named = few(worst.get_column("symbol").reverse().to_list())
            yield f"{share:.1%} of the {noun} told are absent or not positive ({named}); {usual:.1%} of the stored are"


def _other_index(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    both = after.join(before, on="session", suffix="_was")
    ratio = both.select((pl.col("close_points") / pl.col("close_points_was")).median()).item()
    if ratio is not None and abs(ratio - 1.0) > 0.005:
        yield f"the market index is told in another unit or on another base (median x{ratio:.4g})"
