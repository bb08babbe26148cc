"""Which symbols are collected and which get a model: the most traded before a day, never chosen with later days.

One rule for both: the highest median of the daily traded value over a window of market sessions that ends before the
day; a session without a trade counts as 0 VND; ties go to the first name in the alphabet. `most_traded` picks the
models of one fold from a panel. `collected_universe` picks what the panel is made of: everything that qualified before
*any* fold, so that a name that was delisted later is in the folds it could be traded in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.panel import Panel
from vnfleet.market.rules import SUSPENSION_SESSIONS

MEMBER_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "before": pl.Date(),
    "reason": pl.String(),
    "rank": pl.Int32(),
    "median_traded_value_vnd": pl.Float64(),
}
MOST_TRADED, PINNED = "most_traded", "pinned"
_NAMED = 5
_SATURDAY_ISO = 6


def most_traded(
    panel: Panel,
    count: int,
    window_sessions: int,
    before: date,
    *,
    pinned: Sequence[str] = (),
    excluded: Sequence[str] = (),
    eligible: Collection[str] | None = None,
) -> tuple[str, ...]:
    """Return the `count` symbols with the highest median traded value, sorted by name.

    The median is taken over the `window_sessions` market sessions strictly before `before`; a session without a trade
    counts as 0 VND. Ties go to the first name in the alphabet. `pinned` symbols are always in, `excluded` never.

    eligible : only these can be chosen, pinned or not (the live fold passes what can be traded now: a pinned name that
        is suspended this week gives its place to the next in line); None: all.

    Raises `BadDataError` when there are not enough sessions or not enough symbols that traded at all.
    """
    _refuse_impossible(count, window_sessions, pinned, excluded)
    median_of = median_traded_values(panel, window_sessions, before)
    _refuse_absent(pinned, median_of, f"panel of {panel.as_of}")
    if eligible is not None:
        median_of = {symbol: value for symbol, value in median_of.items() if symbol in set(eligible)}
    chosen = _chosen(median_of, count, [symbol for symbol in pinned if symbol in median_of], excluded)
    if len(chosen) < count:
        raise BadDataError(
            "not enough traded symbols for the universe",
            expected=count,
            found=len(chosen),
            where=f"{window_sessions} sessions before {before}",
            fix="lower the number of symbols (--models) or collect more of them",
        )
    return tuple(sorted(chosen))


def median_traded_values(panel: Panel, window_sessions: int, before: date) -> dict[str, float]:
    """Return each symbol's median traded value in VND over the `window_sessions` market sessions before `before`.

    A session without a trade counts as 0 VND. Raises `BadDataError` when there are not enough sessions.
    """
    end = sum(day < before for day in panel.sessions)
    if end < window_sessions:
        raise BadDataError(
            "not enough sessions to choose a universe", expected=window_sessions, found=end, where=f"before {before}"
        )
    value_ST = np.nan_to_num(panel.matrix("traded_value_vnd")[:, end - window_sessions : end])
    return dict(zip(panel.symbols, np.median(value_ST, axis=1).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Survivorship:
    """What became of the symbols chosen before a day: how many there were, and those not traded any more."""

    before: date
    num_chosen: int
    stopped: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """In words, for the report."""
        named = ", ".join(self.stopped[:_NAMED]) + (" ..." if len(self.stopped) > _NAMED else "")
        gone = f"{len(self.stopped)} ({len(self.stopped) / max(self.num_chosen, 1):.1%}) are" if self.stopped else "all"
        end = f"no longer traded: {named}" if self.stopped else "are still traded"
        return f"Of the {self.num_chosen} symbols chosen before {self.before}, {gone} {end}."


@dataclass(frozen=True, slots=True)
class UniverseChoice:
    """The symbols to keep in the panel, and why each is there.

    members : `MEMBER_SCHEMA`, one row per symbol and day it qualified for, sorted by symbol and day. `before` is the
        first day that was not looked at (a fold's start; the day after `as_of` for today's choice), `reason`
        "most_traded" or "pinned", `rank` its place by median traded value, null for a pinned symbol that hardly trades.
    survivorship : one entry per fold start, ascending.
    stopped_in_source : every symbol of the source that has not traded in the last `SUSPENSION_SESSIONS` sessions.
    """

    as_of: date
    count: int
    window_sessions: int
    members: pl.DataFrame
    survivorship: tuple[Survivorship, ...]
    num_in_source: int
    stopped_in_source: tuple[str, ...]

    @property
    def symbols(self) -> tuple[str, ...]:
        """Everything to keep, sorted."""
        return tuple(self.members.get_column("symbol").unique().sort().to_list())

    def why(self, symbol: str) -> str:
        """Return in words why `symbol` is in the universe, or that it is not."""
        rows = self.members.filter(pl.col("symbol") == symbol)
        if rows.is_empty():
            return f"{symbol} was never among the {self.count} most traded"
        if rows.get_column("reason").item(0) == PINNED:
            return f"{symbol} is pinned"
        days = ", ".join(str(day) for day in rows.get_column("before").to_list())
        return f"{symbol} was among the {self.count} most traded before {days}"

    @property
    def warning(self) -> str | None:
        """A sentence that belongs beside every backtest figure, or None when the source knows dead names too."""
        if self.stopped_in_source:
            return None
        return (
            f"None of the {self.num_in_source} symbols of this source has stopped trading: it holds survivors only, "
            "so every figure on the past is an upper bound."
        )

    @property
    def statement(self) -> str:
        """Survivorship in plain words: fold by fold, then the source as a whole."""
        whole = self.warning or (
            f"{len(self.stopped_in_source)} of the {self.num_in_source} symbols of this source have not traded in the "
            f"{SUSPENSION_SESSIONS} sessions to {self.as_of}."
        )
        return " ".join([*(fold.sentence for fold in self.survivorship), whole])


def traded_values(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, session, traded_value_vnd (raw close * matched shares, null where unknown) of raw `bars`."""
    return bars.select("symbol", "session", traded_value_vnd=pl.col("close_vnd") * pl.col("volume_shares"))


def collected_universe(
    values: pl.DataFrame,
    as_of: date,
    *,
    count: int = 289,
    window_sessions: int = 250,
    days_of_folds: Sequence[date] = (),
    pinned: Sequence[str] = (),
    excluded: Sequence[str] = (),
    sessions: Sequence[date] | None = None,
) -> UniverseChoice:
    """Return the union of the `count` most traded symbols before each fold and as of a day, with the reasons.

    A symbol whose median is 0 (it traded in less than half of the window) qualifies only when pinned; there may be
    fewer than `count` of the others. Pinned symbols take places of the count.

    values : symbol, session, traded_value_vnd, any order (see `traded_values`); everything the source has, dead names
        too. Null, NaN and negative values count as 0, of rows that repeat a session the highest; rows after `as_of`
        are not looked at.
    as_of : last day of data; today's choice looks at the sessions up to and including it.
    count : how many qualify for each day.
    window_sessions : how many market sessions before the day are looked at.
    days_of_folds : first test sessions; each is judged by the sessions strictly before it.
    pinned : always in, whatever they trade.
    excluded : never in.
    sessions : the market's sessions; None: the weekdays on which anything in `values` traded.

    Raises `BadDataError` when a column is missing, a day has fewer than `window_sessions` sessions before it, or a
    pinned symbol is unknown; `UsageError` when count, window, pins and exclusions cannot go together, or a fold starts
    after `as_of`.
    """
    _refuse_impossible(count, window_sessions, pinned, excluded)
    today = as_of + timedelta(days=1)
    days = sorted({*days_of_folds, today})
    if days[-1] > today:
        raise UsageError("a fold starts after the last day of data", expected=f"at most {today}", found=days[-1])
    known = _known_values(values, as_of)
    axis = _axis(known, sessions, as_of)
    symbols = known.get_column("symbol").unique().sort()
    frames = []
    for before in days:
        median_of = _medians(known, symbols, _window(axis, before, window_sessions))
        _refuse_absent(pinned, median_of, f"prices up to {as_of}")
        frames.append(_members(median_of, before, count, pinned, excluded))
    members = pl.concat(frames).sort("symbol", "before")
    recent = axis[-SUSPENSION_SESSIONS:]
    alive = known.filter(pl.col("session") >= recent[0]).get_column("symbol").unique()
    stopped = symbols.filter(~symbols.is_in(alive.implode()))
    return UniverseChoice(
        as_of=as_of,
        count=count,
        window_sessions=window_sessions,
        members=members,
        survivorship=tuple(
            _survivorship(before, frame, stopped) for before, frame in zip(days, frames, strict=True) if before != today
        ),
        num_in_source=len(symbols),
        stopped_in_source=tuple(stopped.to_list()),
    )


def _known_values(values: pl.DataFrame, as_of: date) -> pl.DataFrame:
    """Return symbol, session, value of the days with a trade up to `as_of`, one row each."""
    missing = [name for name in ("symbol", "session", "traded_value_vnd") if name not in values.columns]
    if missing:
        raise BadDataError("traded values lack columns", expected=missing, found=values.columns)
    value = pl.col("traded_value_vnd").cast(pl.Float64)
    return (
        values.lazy()
        .filter((pl.col("session") <= as_of) & value.is_finite() & (value > 0))
        .group_by("symbol", "session")
        .agg(value=value.max())
        .sort("symbol", "session")
        .collect()
    )


def _axis(known: pl.DataFrame, sessions: Sequence[date] | None, as_of: date) -> list[date]:
    if sessions is not None:
        return sorted({day for day in sessions if day <= as_of})
    days = known.get_column("session").unique().sort()
    return days.filter(days.dt.weekday() < _SATURDAY_ISO).to_list()


def _window(axis: Sequence[date], before: date, window_sessions: int) -> Sequence[date]:
    past = [day for day in axis if day < before]
    if len(past) < window_sessions:
        raise BadDataError(
            "not enough sessions to choose a universe",
            expected=window_sessions,
            found=len(past),
            where=f"before {before}",
            fix="collect more history, or judge later years",
        )
    return past[-window_sessions:]


def _medians(known: pl.DataFrame, symbols: pl.Series, window: Sequence[date]) -> dict[str, float]:
    days = pl.Series("session", window, dtype=pl.Date)
    rows = known.filter(pl.col("session").is_in(days.implode()))
    value_SW = np.zeros((len(symbols), len(days)))
    places = symbols.search_sorted(rows.get_column("symbol")), days.search_sorted(rows.get_column("session"))
    value_SW[places[0].to_numpy(), places[1].to_numpy()] = rows.get_column("value").to_numpy()
    return dict(zip(symbols.to_list(), np.median(value_SW, axis=1).tolist(), strict=True))


def _members(
    median_of: Mapping[str, float], before: date, count: int, pinned: Sequence[str], excluded: Sequence[str]
) -> pl.DataFrame:
    ranks = {symbol: place for place, symbol in enumerate(_ranked(median_of, excluded), start=1)}
    rows = [
        (symbol, before, PINNED if symbol in pinned else MOST_TRADED, ranks.get(symbol), median_of[symbol])
        for symbol in _chosen(median_of, count, pinned, excluded)
    ]
    return pl.DataFrame(rows, schema=MEMBER_SCHEMA, orient="row")


def _survivorship(before: date, members: pl.DataFrame, stopped: pl.Series) -> Survivorship:
    chosen = members.get_column("symbol").sort()
    gone = chosen.filter(chosen.is_in(stopped.implode()))
    return Survivorship(before=before, num_chosen=len(chosen), stopped=tuple(gone.to_list()))


def _ranked(median_of: Mapping[str, float], excluded: Sequence[str]) -> list[str]:
    """Return the symbols with a median above 0, best first, ties by name."""
    ranked = sorted((-value, symbol) for symbol, value in median_of.items() if value > 0 and symbol not in excluded)
    return [symbol for _, symbol in ranked]


def _chosen(median_of: Mapping[str, float], count: int, pinned: Sequence[str], excluded: Sequence[str]) -> list[str]:
    """Return the pinned symbols, then the best ranked, at most `count`."""
    return list(dict.fromkeys([*pinned, *_ranked(median_of, excluded)]))[:count]


def _refuse_impossible(count: int, window_sessions: int, pinned: Sequence[str], excluded: Sequence[str]) -> None:
    if count < 1 or window_sessions < 1 or set(pinned) & set(excluded) or len(set(pinned)) > count:
        raise UsageError(
            "a universe cannot be chosen like this",
            expected="count >= 1, window_sessions >= 1, at most `count` pinned symbols, none both pinned and excluded",
            found=f"count {count}, window {window_sessions}, pinned {list(pinned)}, excluded {list(excluded)}",
        )


def _refuse_absent(pinned: Sequence[str], known: Collection[str], where: str) -> None:
    absent = sorted(set(pinned) - set(known))
    if absent:
        raise BadDataError("pinned symbols are not among the prices", found=absent, where=where)
