"""Which windows of time CafeF's pages are asked for, which sessions are expected in them, and what stayed unproven."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO

PAGE_SIZE = 20
FIRST_SESSION = date(2000, 7, 28)
"""The first session of the Vietnamese stock market; nothing is older."""
_SATURDAY = 5


@dataclass(frozen=True, slots=True)
class Window:
    """The days from `start` to `end`, both included, inside one calendar quarter."""

    start: date
    end: date


def windows(first: date, last: date) -> list[Window]:
    """Return the calendar quarters from `first` to `last`, clipped to them, newest first.

    Quarters, because CafeF serves about three months at once, and because yesterday's closed quarters are tomorrow's:
    answers kept on disk stay useful.
    """
    found: list[Window] = []
    end = last
    while end >= first:
        start = max(first, date(end.year, (end.month - 1) // 3 * 3 + 1, 1))
        found.append(Window(start, end))
        end = start - timedelta(days=1)
    return found


class ExpectedSessions:
    """The sessions the market should have had: the calendar where it is recorded, elsewhere the index, else weekdays.

    index_sessions : sessions of VNINDEX, used outside the calendar's years; empty while the index itself is read.
    """

    def __init__(self, index_sessions: Iterable[date] = ()) -> None:
        self._index = sorted(day for day in index_sessions if not KNOWN_FROM <= day <= KNOWN_TO)
        self._recorded = trading_sessions(KNOWN_FROM, KNOWN_TO)

    def between(self, start: date, end: date) -> list[date]:
        """Return the sessions from `start` to `end`, both included, ascending."""
        inside = self._recorded[bisect_left(self._recorded, start) : bisect_right(self._recorded, end)]
        before = self._unrecorded(start, min(end, KNOWN_FROM - timedelta(days=1)))
        after = self._unrecorded(max(start, KNOWN_TO + timedelta(days=1)), end)
        return [*before, *inside, *after]

    def _unrecorded(self, start: date, end: date) -> list[date]:
        if self._index:
            return self._index[bisect_left(self._index, start) : bisect_right(self._index, end)]
        days = (start + timedelta(days=offset) for offset in range((end - start).days + 1))
        return [day for day in days if day.weekday() < _SATURDAY]

    def pages(self, window: Window) -> int:
        """Return how many pages the window should fill, at least one."""
        return max(1, -(-len(self.between(window.start, window.end)) // PAGE_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproven:
    """What CafeF's pages could not prove: sessions the market had between two days and the symbol has no row for.

    missing : ascending; every expected session when there is no row at all. A suspended symbol has no rows either: the
    court, or a second vendor, can tell the two apart.
    """

    symbol: str
    first: date
    last: date
    missing: tuple[date, ...]
    expected_sessions: int

    def __str__(self) -> str:
        shown = ", ".join(str(day) for day in self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
        return (
            f"{self.symbol} {self.first} to {self.last}: {len(self.missing)} of {self.expected_sessions} sessions "
            f"without a row ({shown})"
        )


def unproven(
    symbol: str, found: Iterable[date], begins: date, last: date, expected: ExpectedSessions
) -> Unproven | None:
    """Return what is missing of `symbol` from `begins` to `last`; None when every expected session is there."""
    sessions = set(found)
    due = expected.between(begins, last)
    missing = tuple(day for day in due if day not in sessions)
    if not missing:
        return None
    return Unproven(symbol=symbol, first=begins, last=last, missing=missing, expected_sessions=len(due))
