"""Expected trading sessions of the Vietnamese stock market; the data have the last word.

Weekends are never sessions, not even "make-up" working Saturdays. Public holidays come from the `holidays` package
(country VN, MIT); `CLOSED_TOO` adds what it does not know.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache

import holidays

from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO, refuse_unknown_day

CLOSED_TOO: dict[date, str] = {
    date(2012, 12, 31): "bridge day; no vendor has a bar",
    date(2014, 1, 28): "Tet began a day early; no vendor has a bar",
    date(2014, 2, 5): "Tet ended a day late; no vendor has a bar",
    date(2018, 1, 23): "HOSE closed after the auction fault of 2018-01-22 (HNX was open)",
    date(2018, 1, 24): "HOSE closed after the auction fault of 2018-01-22 (HNX was open)",
    date(2026, 1, 2): "announced as a trading day, closed in all data",
}
_SATURDAY = 5


@lru_cache(maxsize=64)
def _public_holidays(year: int) -> frozenset[date]:
    return frozenset(holidays.country_holidays("VN", years=year))


def is_expected_session(day: date) -> bool:
    """Return whether HOSE is expected to trade on `day`.

    Raises `BadDataError` outside the years whose holidays are recorded.
    """
    refuse_unknown_day(day)
    return day.weekday() < _SATURDAY and day not in CLOSED_TOO and day not in _public_holidays(day.year)


def trading_sessions(start: date, end: date) -> list[date]:
    """Return the expected sessions from `start` to `end`, both included, ascending; empty when `end` is before `start`.

    Raises `BadDataError` outside the years whose holidays are recorded.
    """
    refuse_unknown_day(start)
    refuse_unknown_day(end)
    days = (start + timedelta(days=offset) for offset in range((end - start).days + 1))
    return [day for day in days if is_expected_session(day)]


@lru_cache(maxsize=1)
def closed_weekdays() -> tuple[date, ...]:
    """Return every weekday of the recorded years on which no session is expected, ascending."""
    days = (KNOWN_FROM + timedelta(days=offset) for offset in range((KNOWN_TO - KNOWN_FROM).days + 1))
    return tuple(day for day in days if day.weekday() < _SATURDAY and not is_expected_session(day))
