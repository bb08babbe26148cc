"""Which way to VNDirect's prices takes fewer requests: whole boards for some sessions, or symbol by symbol."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import polars as pl

from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Exchange

FIRST_PRICES = date(2013, 1, 1)
"""finfo has raw prices from 2013 on."""
SESSIONS_A_REQUEST: Mapping[Exchange, int] = {Exchange.HOSE: 10, Exchange.HNX: 14, Exchange.UPCOM: 5}
"""Sessions of a whole board that fit on one page: 5,000 rows over about 410, 320 and 890 stocks (end of 2026)."""
LATE_SESSIONS = 5

Window = tuple[date, date]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How the prices will be asked for.

    alone : symbols asked one by one, each since its day (None = its whole history). boards : exchange and window, one
    request each.
    """

    alone: Mapping[str, date | None]
    boards: tuple[tuple[Exchange, Window], ...] = ()

    @property
    def requests(self) -> int:
        """How many requests that takes."""
        return len(self.alone) + len(self.boards)


def route_to(wanted: Sequence[str] | None, until: date, since: Mapping[str, date], floors: Sequence[Exchange]) -> Route:
    """Return the route with the fewest requests to `wanted` (None: everybody since `FIRST_PRICES`).

    Boards are asked from one day on, the earliest of the symbols that rely on them: symbols that are wanted from an
    earlier day, or from their beginning, are asked alone. floors : exchanges whose boards would be needed.
    """
    if wanted is None:
        return Route(
            alone={}, boards=_boards(max(FIRST_PRICES, min(since.values(), default=FIRST_PRICES)), until, floors)
        )
    alone: dict[str, date | None] = {symbol: None for symbol in wanted if symbol not in since}
    dated = sorted((since[symbol], symbol) for symbol in wanted if symbol in since)
    if not dated or not floors or dated[0][0] > until:
        return Route(alone=alone | {symbol: day for day, symbol in dated if day <= until})
    sessions = trading_sessions(max(dated[0][0], FIRST_PRICES), until)
    best, best_cost = len(dated), len(dated)
    for taken, (day, _) in enumerate(dated):
        num_sessions = len(sessions) - bisect.bisect_left(sessions, day)
        cost = taken + sum(-(-num_sessions // SESSIONS_A_REQUEST[floor]) for floor in floors)
        if cost < best_cost and day >= FIRST_PRICES:
            best, best_cost = taken, cost
    alone |= {symbol: day for day, symbol in dated[:best]}
    if best == len(dated):
        return Route(alone=alone)
    return Route(alone=alone, boards=_boards(dated[best][0], until, floors))


def _boards(start: date, until: date, floors: Sequence[Exchange]) -> tuple[tuple[Exchange, Window], ...]:
    """Return windows that leave no day out, weekends and holidays between sessions included."""
    sessions = trading_sessions(start, until)
    boards: list[tuple[Exchange, Window]] = []
    for floor in floors:
        starts = [start, *sessions[SESSIONS_A_REQUEST[floor] :: SESSIONS_A_REQUEST[floor]]] if sessions else []
        ends = [following - timedelta(days=1) for _, following in pairwise(starts)]
        boards += [(floor, window) for window in zip(starts, [*ends, until], strict=True)] if starts else []
    return tuple(boards)


def halves_of(window: Window) -> tuple[Window, Window]:
    """Return the two halves of a window of two days or more."""
    start, end = window
    middle = start + (end - start) // 2
    return (start, middle), (middle + timedelta(days=1), end)


def late_on_boards(rows: pl.DataFrame, since: Mapping[str, date]) -> dict[str, date]:
    """Return the symbols of `since` whose board rows begin `LATE_SESSIONS` sessions after their day, later, or never.

    Such a symbol came from another exchange, was suspended, or is no plain stock: it has to be asked for alone.
    rows : (code, date) of the boards, dates as yyyy-mm-dd.
    """
    sessions = rows.get_column("date").unique().sort().to_list()
    firsts = dict(rows.group_by("code").agg(pl.col("date").min()).iter_rows())
    late: dict[str, date] = {}
    for symbol, day in since.items():
        due = bisect.bisect_left(sessions, day.isoformat())
        came = bisect.bisect_left(sessions, firsts[symbol]) if symbol in firsts else len(sessions)
        if symbol not in firsts or came - due >= LATE_SESSIONS:
            late[symbol] = day
    return late
