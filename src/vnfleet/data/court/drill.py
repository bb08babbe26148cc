"""A fault drill: faults are planted in a history that is known, and the court is asked whether it notices.

Every kind is planted in as many symbols as asked for, one fault a symbol, at seeded sessions; the court sees them all
at once, kind by kind. A fault counts as found when the court says one of the things it should say about that symbol
within a week of the session, and did not say it of the clean history.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl

from vnfleet.data.court.opinions import Opinion
from vnfleet.data.court.quality import MARKET, examine
from vnfleet.data.court.units import LOT_WINDOW_ROWS, LOTS_OF_100_FROM
from vnfleet.data.sources.base import RawHistory, raw_history
from vnfleet.data.sources.simulated.faults import Fault, FaultKind, MarketFaultKind, plant, plant_market, step_of

DRILL_SCHEMA: dict[str, pl.DataType] = {
    "kind": pl.String(),
    "planted": pl.Int32(),
    "found": pl.Int32(),
    "said": pl.String(),
}
_LEAD_ROWS = 320
_TRAIL_ROWS = 30
_WEEK = timedelta(days=7)
_STEPS = ("missing_step", "wrong_step", "disputed_step", "unexplained", "contradicted", "wrong_way", "flip")
_CLOSES = ("not_final", "last_tick", "opinion", "unexplained")
_SHOULD_SAY: dict[FaultKind | MarketFaultKind, tuple[str, ...]] = {
    FaultKind.ZERO_CLOSE: ("price",),
    FaultKind.OHLC_BREAK: ("ohlc",),
    FaultKind.MISSING_SESSION: ("missing_session",),
    FaultKind.DUPLICATED_ROW: ("conflict",),
    FaultKind.UNADJUSTED_SPLIT: _STEPS,
    FaultKind.WRONG_ADJUSTED: ("flip",),
    FaultKind.IN_SESSION_LAST_BAR: _CLOSES,
    FaultKind.REPEATED_ROW: ("duplicate",),
    FaultKind.NEGATIVE_CLOSE: ("price",),
    FaultKind.NO_CLOSE: ("price",),
    FaultKind.ZERO_OPEN: ("open",),
    FaultKind.ZERO_RANGE: ("ohlc",),
    FaultKind.CLOSE_OUT_OF_RANGE: ("ohlc",),
    FaultKind.MIXED_UNITS: ("range",),
    FaultKind.PRICE_X10: ("price_unit",),
    FaultKind.PRICE_X100: ("price_unit",),
    FaultKind.PRICE_IN_THOUSANDS: ("price_unit",),
    FaultKind.VOLUME_X1000: ("volume_spike", "volume_unit"),
    FaultKind.VOLUME_X10: ("volume_spike", "volume_unit"),
    FaultKind.NEGATIVE_VOLUME: ("volume",),
    FaultKind.NO_VOLUME: ("volume",),
    FaultKind.FROZEN_FEED: ("stale",),
    FaultKind.STALE_TAIL: ("stale_tail",),
    FaultKind.WEEKEND_ROW: ("weekend",),
    FaultKind.CLOSE_NOT_FINAL: _CLOSES,
    FaultKind.REPEATED_BAR: (*_CLOSES, *_STEPS),
    FaultKind.BOGUS_STEP: _STEPS,
    FaultKind.BACKWARD_STEP: _STEPS,
    FaultKind.MISSING_STEP: _STEPS,
    FaultKind.DOUBLE_STEP: _STEPS,
    FaultKind.LATE_STEP: _STEPS,
    FaultKind.NO_ADJUSTED: ("adjusted_close",),
    FaultKind.OFF_TICK: ("tick",),
    FaultKind.ODD_LOT: ("lot",),
    FaultKind.ADJUSTED_AS_RAW: ("not_raw",),
    MarketFaultKind.MARKET_HOLE: ("market_hole",),
    MarketFaultKind.COLUMN_GONE: ("drift",),
    MarketFaultKind.READ_IN_SESSION: ("in_session",),
    MarketFaultKind.EARLY_CLOSES: _CLOSES,
}
_NEED_A_STEP = (FaultKind.MISSING_STEP, FaultKind.DOUBLE_STEP, FaultKind.LATE_STEP)
_AT_THE_END = (FaultKind.IN_SESSION_LAST_BAR, FaultKind.STALE_TAIL, MarketFaultKind.READ_IN_SESSION)


def drill(
    history: RawHistory,
    as_of: date,
    calendar_sessions: Sequence[date] | None,
    opinions: Sequence[Opinion] = (),
    *,
    seed: int = 1,
    per_kind: int = 20,
    kinds: Sequence[FaultKind | MarketFaultKind] = tuple(_SHOULD_SAY),
) -> pl.DataFrame:
    """Return `DRILL_SCHEMA`, a row for every kind in the order asked: planted, found, and what was said, by count.

    history : prices taken as right. per_kind : faults of a kind, at most one a symbol (sessions, for market faults).
    """
    clean = examine(history, as_of, calendar_sessions, opinions).report.rows
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        [_try_kind(kind, history, as_of, calendar_sessions, opinions, clean, rng, per_kind) for kind in kinds],
        schema=DRILL_SCHEMA,
        orient="row",
    )


def _try_kind(
    kind: FaultKind | MarketFaultKind,
    history: RawHistory,
    as_of: date,
    calendar_sessions: Sequence[date] | None,
    opinions: Sequence[Opinion],
    clean: pl.DataFrame,
    rng: np.random.Generator,
    per_kind: int,
) -> tuple[str, int, int, str]:
    bars = history.bars
    if isinstance(kind, FaultKind):
        sites = _sites(kind, history, rng, per_kind)
        faults = tuple(Fault(kind=kind, symbol=symbol, session=session) for symbol, session in sites)
        bars = plant(bars, faults, as_of)
    else:
        sites = _market_sites(kind, history, rng, per_kind)
        for _, session in sites:
            bars = plant_market(bars, kind, session)
    index = history.index
    if kind is MarketFaultKind.MARKET_HOLE:
        index = index.filter(~pl.col("session").is_in([session for _, session in sites]))
    faulty = raw_history(bars, index, history.listings)
    told = examine(faulty, as_of, calendar_sessions, opinions).report.rows
    key = ("symbol", "session", "check")
    news = told.filter(pl.col("check").is_in(_SHOULD_SAY[kind])).join(
        clean.select(key), on=key, how="anti", nulls_equal=True
    )
    heard: list[str] = []
    for symbol, session in sites:
        about = pl.col("symbol") == symbol if symbol != MARKET or kind is not MarketFaultKind.EARLY_CLOSES else True
        near = pl.col("session").is_null() | pl.col("session").is_between(session, session + _WEEK)
        if kind is FaultKind.STALE_TAIL:
            near = pl.lit(value=True)
        said = news.filter(about & near)
        if said.height:
            heard.append(str(said["check"][0]))
    counts = sorted({check: heard.count(check) for check in heard}.items(), key=lambda item: -item[1])
    return str(kind), len(sites), len(heard), ", ".join(f"{check} {count}" for check, count in counts)


def _sites(kind: FaultKind, history: RawHistory, rng: np.random.Generator, count: int) -> list[tuple[str, date]]:
    """Return symbols and sessions to plant a kind at: traded, with traded neighbours, far from both ends."""
    sites = []
    traded = history.bars.filter(pl.col("volume_shares") > 0)
    lengths = traded.group_by("symbol").len().filter(pl.col("len") > _LEAD_ROWS + _TRAIL_ROWS).sort("symbol")
    for symbol in rng.permutation(lengths["symbol"].to_numpy()).tolist():
        rows = traded.filter(pl.col("symbol") == symbol)
        session = _session(kind, rows, rng)
        if session is not None:
            sites.append((symbol, session))
        if len(sites) == count:
            break
    return sites


def _session(kind: FaultKind, rows: pl.DataFrame, rng: np.random.Generator) -> date | None:
    days: list[date] = rows["session"].to_list()
    if kind in _AT_THE_END:
        return days[-1]
    inner = range(_LEAD_ROWS, len(days) - _TRAIL_ROWS)
    if kind is FaultKind.ODD_LOT:  # HOSE's lot of 100 is known for what it is a window of rows after it began
        inner = range(max(_LEAD_ROWS, bisect_left(days, LOTS_OF_100_FROM) + LOT_WINDOW_ROWS), len(days) - _TRAIL_ROWS)
    if not inner:
        return None
    symbol = rows["symbol"][0]
    if kind in _NEED_A_STEP:
        level = rows["adjusted_close_vnd"] / rows["close_vnd"]
        jumps = np.flatnonzero(np.abs(np.diff(np.log(level.to_numpy()))) > 0.02) + 1
        steps = [int(row) for row in jumps if row in inner and step_of(rows, symbol, days[row]) > 1.0]
        return days[int(rng.choice(steps))] if steps else None
    return days[int(rng.choice(np.arange(inner.start, inner.stop)))]


def _market_sites(
    kind: FaultKind | MarketFaultKind, history: RawHistory, rng: np.random.Generator, count: int
) -> list[tuple[str, date]]:
    days = history.bars["session"].unique().sort().to_list()
    if kind in _AT_THE_END:
        return [(MARKET, days[-1])]
    if kind is MarketFaultKind.COLUMN_GONE:
        return [(MARKET, days[int(rng.integers(_LEAD_ROWS, len(days) - _TRAIL_ROWS))])]
    chosen = rng.choice(np.arange(_LEAD_ROWS, len(days) - _TRAIL_ROWS, 15), size=count, replace=False)
    return [(MARKET, days[int(row)]) for row in np.sort(chosen)]


def with_references(history: RawHistory) -> RawHistory:
    """Return `history` with the references a vendor would state: the previous close, less what the ex-date takes off.

    For histories that have none, such as the simulated market's. Null on a symbol's first row.
    """
    level = pl.col("adjusted_close_vnd") / pl.col("close_vnd")
    step = (level / level.shift(1)).over("symbol")
    before = pl.col("close_vnd").shift(1).over("symbol")
    stated = pl.when((step - 1.0).abs() > 0.004).then((before / step / 50).round() * 50).otherwise(before)
    return replace(history, bars=history.bars.with_columns(stated_reference_vnd=stated))
