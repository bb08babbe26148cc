"""Would a feed make the stored record worse? Reasons in words; none means it may be merged.

The store is append-only, so a bad feed erases nothing, but it can freeze symbols, put zeros or another unit in front of
good prices, and tomorrow's panel would be served from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date

import polars as pl

from vnfleet.data.record.overlap import few, split_repeated
from vnfleet.data.sources.base import RawHistory

RECENT_SESSIONS = 10
"""A symbol with a row within so many of the last stored sessions is alive."""
_KEY = ("symbol", "session")
_USUAL_SESSIONS = 20
_FEWEST_JUMPS = 3
_LEAST_FACTOR, _MOST_FACTOR = 0.55, 1.45
"""Single symbols jump further (ex-dates of stock dividends and splits), never many of them at once."""
_PRICE = pl.col("price") > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How much worse a feed may look than what is stored (fractions).

    lost_symbols : symbols alive before that it no longer tells (one is always forgiven). new_sessions : of the usual
    number of symbols, the least that new sessions must have on average, and `newest_session` the newest of them (an
    exchange's outage leaves about a tenth). session_told : of the symbols stored on a session, the least told again.
    changed_closes, changed_volumes : stored closes (volumes) told otherwise, the newest stored session left out: it is
    often corrected. changed_symbols : the most changed symbols that are left out of these shares (at least one, but
    fewer than half): single oddities are the court's affair. absent_prices : closes that are absent or not positive,
    beyond the stored share; absent_prices_at_first : while nothing is stored. contradictions : sessions of a symbol
    told twice and differently, beyond the stored share; contradictions_at_first : while nothing is stored, and in the
    new sessions beyond the stored share. swapped, swapped_at_first : the same for a high below the low. new_volumes :
    of the usual share of bars with volume, the least that new sessions must have. jumps : symbols whose new closes do
    not continue the stored ones (three are always needed). index_move : of a new index bar; HOSE's band is 7 %.
    """

    lost_symbols: float = 0.05
    new_sessions: float = 0.55
    newest_session: float = 0.7
    session_told: float = 0.5
    changed_closes: float = 0.02
    changed_volumes: float = 0.2
    changed_symbols: float = 0.05
    absent_prices: float = 0.01
    absent_prices_at_first: float = 0.5
    contradictions: float = 0.01
    contradictions_at_first: float = 0.2
    swapped: float = 0.05
    swapped_at_first: float = 0.2
    new_volumes: float = 0.5
    jumps: float = 0.05
    index_move: float = 0.15

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
    before, after = before.until(as_of), after.until(as_of)
    told, stored = _priced(after.bars), _priced(before.bars)
    if told.is_empty():
        return ("the feed tells no bar at all",)
    reasons = [*_absent(stored, told, limit), *_malformed(before.bars, after.bars, limit)]
    if stored.height:
        both = _side_by_side(stored, told)
        is_raw = _tells_raw(after.bars)
        reasons += [
            *_older(before, after),
            *_lost(stored, told, limit),
            *_thin_sessions(stored, told, limit),
            *_without_volume(stored, told, limit),
            *_jumps(stored, told, limit, is_raw=is_raw and _tells_raw(before.bars)),
            *_untold_sessions(both, limit),
            *_changed(both, stored.get_column("session").max(), limit, is_raw=is_raw),
            *_other_index(before.index, after.index),
            *_index_jumps(before.index, after.index, limit),
        ]
    return tuple(reasons)


def _priced(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, session, price (raw close, adjusted where a source has no raw ones), adjusted, volume.

    Rows that say the same of one session are one.
    """
    price = "close_vnd" if _tells_raw(bars) else "adjusted_close_vnd"
    columns = {"price": pl.col(price), "adjusted": pl.col("adjusted_close_vnd"), "volume": pl.col("volume_shares")}
    priced = bars.select(*_KEY, **columns).sort(_KEY, maintain_order=True)
    alone, several = split_repeated(priced)
    return pl.concat([alone, several.unique()]).sort(_KEY) if several.height else priced


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
    num_symbols = pl.col("symbol").filter(_PRICE).n_unique()  # not rows: a session may be told twice
    usual = stored.filter(_PRICE).group_by("session").agg(count=num_symbols).sort("session").tail(_USUAL_SESSIONS)
    num_usual = float(usual.get_column("count").median() or 0.0)  # type: ignore[arg-type]
    counts = told.filter(pl.col("session") > last).group_by("session").agg(count=num_symbols).sort("session")
    if counts.is_empty() or not num_usual:
        return
    session, count = counts.row(-1)
    if count < limit.newest_session * num_usual:
        yield f"only {count} symbols have a price on {session}, the newest session; {num_usual:.0f} are usual"
    mean = counts.get_column("count").sum() / counts.height
    if mean < limit.new_sessions * num_usual:
        yield f"new sessions have {mean:.0f} symbols with a price on average; {num_usual:.0f} are usual"


def _without_volume(stored: pl.DataFrame, told: pl.DataFrame, limit: Tolerance) -> Iterator[str]:
    days = stored.get_column("session").unique().sort()
    share = (pl.col("volume") > 0).fill_null(value=False).mean()
    usual = stored.filter(pl.col("session") >= days[-min(_USUAL_SESSIONS, len(days))]).select(share).item()
    new = told.filter(pl.col("session") > days[-1]).select(share).item()
    if new is not None and new < limit.new_volumes * usual:
        yield f"{new:.0%} of the bars of new sessions have volume; {usual:.0%} are usual"


def _jumps(stored: pl.DataFrame, told: pl.DataFrame, limit: Tolerance, *, is_raw: bool) -> Iterator[str]:
    """Judge the first new close of each symbol against its last stored one, then the second new one, and so on.

    Adjusted closes are compared with what is told of the stored sessions: those stand on the same base.
    """
    days = stored.get_column("session").unique().sort()
    recent = (pl.col("session") >= days[-min(RECENT_SESSIONS, len(days))]) & (pl.col("session") <= days[-1])
    known = split_repeated(stored if is_raw else told)[0].filter(recent & _PRICE)
    latest = known.group_by("symbol").agg(pl.col("session", "price").last())
    new = split_repeated(told)[0].filter((pl.col("session") > days[-1]) & _PRICE).join(latest, on="symbol", how="semi")
    columns = (*_KEY, "price")
    moves = (
        pl.concat([latest.select(columns), new.select(columns)])
        .sort(_KEY)
        .select(
            *_KEY,
            place=pl.int_range(pl.len()).over("symbol"),
            factor=pl.col("price") / pl.col("price").shift(1).over("symbol"),
        )
        .filter(~pl.col("factor").is_between(_LEAST_FACTOR, _MOST_FACTOR))
    )
    for (place,), jumped in moves.sort("place", "symbol").group_by("place", maintain_order=True):
        if jumped.height < _FEWEST_JUMPS or jumped.height <= limit.jumps * latest.height:
            continue
        since, median = jumped.select(pl.col("session").min(), pl.col("factor").median()).row(0)
        noun = "first new closes" if place == 1 else f"new closes of {since}"
        yield (
            f"the {noun} of {jumped.height} of {latest.height} symbols do not continue the ones before "
            f"(median x{median:.4g}): {few(jumped.get_column('symbol').to_list())}"
        )
        return  # one is enough


def _side_by_side(stored: pl.DataFrame, told: pl.DataFrame) -> pl.DataFrame:
    """Return the stored rows within what is told of their symbol, with price_now, volume_now and `again`.

    Sessions that either side contradicts itself on are left out.
    """
    spans = told.group_by("symbol").agg(first=pl.col("session").min(), last=pl.col("session").max())
    alone, several = split_repeated(told)
    now = alone.select(*_KEY, price_now="price", volume_now="volume", again=pl.lit(value=True))
    return (
        split_repeated(stored)[0]
        .join(several, on=_KEY, how="anti")
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
    closes, ratio, worst = _share_changed(settled, "price", limit)
    if is_raw and closes > limit.changed_closes:
        yield (
            f"{closes:.1%} of {settled.height:,} stored closes are told otherwise (median x{ratio:.4g}), "
            f"most of {few(worst)}"
        )
    volumes, _, worst = _share_changed(settled, "volume", limit)
    if volumes > limit.changed_volumes:
        yield f"{volumes:.0%} of {settled.height:,} stored volumes are told otherwise, most of {few(worst)}"


def _share_changed(settled: pl.DataFrame, column: str, limit: Tolerance) -> tuple[float, float, list[str]]:
    """Return the changed share and the median factor without the most changed symbols; and the changed symbols."""
    changed = pl.col(f"{column}_now").ne_missing(pl.col(column))
    counts = settled.group_by("symbol").agg(count=changed.sum()).sort("count", "symbol", descending=[True, False])
    num_odd = min(max(1, int(limit.changed_symbols * counts.height)), (counts.height - 1) // 2)
    share, ratio = (
        settled.join(counts.head(num_odd), on="symbol", how="anti")
        .select(
            changed.mean(),
            ratio=(pl.col(f"{column}_now") / pl.col(column)).filter(pl.col(f"{column}_now") > 0).median(),
        )
        .row(0)
    )
    return share, ratio or 0.0, counts.filter(pl.col("count") > 0).get_column("symbol").to_list()


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


def _malformed(stored: pl.DataFrame, told: pl.DataFrame, limit: Tolerance) -> Iterator[str]:
    """Judge `RAW_SCHEMA` rows that contradict each other or themselves: all that is told, and the new sessions."""
    kinds: tuple[tuple[str, Callable[[pl.DataFrame], pl.DataFrame], float, float], ...] = (
        (
            "are told several times, differently",
            _contradicted,
            limit.contradictions,
            limit.contradictions_at_first,
        ),
        ("have a high below the low", _swapped, limit.swapped, limit.swapped_at_first),
    )
    last = stored.get_column("session").max()
    parts = [("", told)] if last is None else [("", told), ("new ", told.filter(pl.col("session") > pl.lit(last)))]
    for text, faulty, more, at_first in kinds:
        usual = faulty(stored).height / max(1, _num_keys(stored))
        for noun, part in parts:
            bad = faulty(part)
            share = bad.height / max(1, _num_keys(part))
            if share > usual + (at_first if last is None or noun else more):
                named = few(bad.get_column("symbol").unique().sort().to_list())
                yield f"{share:.1%} of the {noun}sessions of symbols {text} ({named}); {usual:.1%} of the stored"
                break


def _num_keys(bars: pl.DataFrame) -> int:
    alone, several = split_repeated(bars)
    return alone.height + several.select(_KEY).n_unique()


def _contradicted(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol and session of the different rows of one session."""
    several = split_repeated(bars)[1].unique()
    return several.group_by(_KEY).len().filter(pl.col("len") > 1).select(_KEY)


def _swapped(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.filter((pl.col("low_vnd") > pl.col("high_vnd")) & (pl.col("high_vnd") > 0)).select(_KEY).unique()


def _other_index(before: pl.DataFrame, after: pl.DataFrame) -> Iterator[str]:
    both = after.join(before, on="session", suffix="_was")
    ratio = both.select((pl.col("close_points") / pl.col("close_points_was")).median()).item()
    if ratio is not None and abs(ratio - 1.0) > 0.005:
        yield f"the market index is told in another unit or on another base (median x{ratio:.4g})"


def _index_jumps(before: pl.DataFrame, after: pl.DataFrame, limit: Tolerance) -> Iterator[str]:
    last = before.get_column("session").max()
    if last is None:
        return
    new = pl.col("session") > pl.lit(last)
    move = pl.col("close_points") / pl.col("close_points").shift(1) - 1.0
    moved = pl.concat([before, after.filter(new)]).sort("session").with_columns(move=move)
    wide = moved.filter(new & (pl.col("move").abs() > limit.index_move))
    if wide.height:
        session, _, first = wide.row(0)
        yield f"the market index moves {first:+.1%} on {session}, no market day does (new bars: {wide.height} such)"
