"""Expected trading sessions of HOSE; the data have the last word.

Weekends are never sessions, not even "make-up" working Saturdays. Public holidays come from the `holidays` package
(country VN, MIT); `CLOSED_TOO` adds what it does not know, a user's `CalendarOverrides` what nobody knew in time:
official lists change late (2026-01-02 was announced as a trading day and was closed). Where data are at hand they win:
see `decided_sessions`. HNX and UPCoM keep the same days apart from the outage of HOSE in January 2018.

Checked against the real sessions from 2012-01-03 to `REVIEWED_TO`; later days are what the published holidays say.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import holidays

from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO, refuse_unknown_day

REVIEWED_TO = date(2026, 10, 1)
"""Last day that was compared with real sessions; on later days a swap or a new holiday may still be announced."""

CLOSED_TOO: dict[date, str] = {
    date(2012, 12, 31): "bridge day; no vendor has a bar",
    date(2014, 1, 28): "Tet began a day early; no vendor has a bar",
    date(2014, 2, 5): "Tet ended a day late; no vendor has a bar",
    date(2018, 1, 23): "HOSE closed after the auction fault of 2018-01-22 (HNX was open)",
    date(2018, 1, 24): "HOSE closed after the auction fault of 2018-01-22 (HNX was open)",
    date(2026, 1, 2): "announced as a trading day, closed in all data",
}
PROBABLY_CLOSED: dict[date, str] = {
    date(2026, 11, 24): "Vietnam Culture Day, a new holiday by Resolution 80-NQ/TW; no exchange notice, data decide",
}
_SATURDAY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarOverrides:
    """What a user knows better than the tables here.

    extra_closed : days without a session. extra_open : days with one, whatever holidays say.

    Raises `ValueError` for a day in both, a weekend with a session, or a day outside the recorded years.
    """

    extra_closed: tuple[date, ...] = ()
    extra_open: tuple[date, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no calendar can say."""
        both = sorted(set(self.extra_closed) & set(self.extra_open))
        if both:
            raise ValueError(f"extra_closed and extra_open both name {both[0]}")
        for day in (*self.extra_closed, *self.extra_open):
            if not KNOWN_FROM <= day <= KNOWN_TO:
                raise ValueError(f"overrides must lie in {KNOWN_FROM} to {KNOWN_TO}, found {day}")
        weekends = [day for day in self.extra_open if day.weekday() >= _SATURDAY]
        if weekends:
            raise ValueError(f"extra_open names a weekend, {weekends[0]}: the market never trades on one")


NO_OVERRIDES = CalendarOverrides()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the calendar says about one day.

    is_certain : False where the exchange may still decide otherwise: wait for data before you rely on it.
    reason : in words, for a person.
    """

    is_session: bool
    is_certain: bool
    reason: str


def standing(day: date, overrides: CalendarOverrides = NO_OVERRIDES) -> Standing:
    """Return whether HOSE is expected to trade on `day`, how sure that is, and why.

    Raises `BadDataError` outside the years whose holidays are recorded.
    """
    refuse_unknown_day(day)
    closure = _closure(day, overrides)
    if closure is not None:
        return closure
    if day in overrides.extra_open:
        return Standing(is_session=True, is_certain=True, reason="open by your calendar override")
    if day <= REVIEWED_TO:
        return Standing(is_session=True, is_certain=True, reason="trading day")
    return Standing(
        is_session=True,
        is_certain=False,
        reason=f"trading day; days after {REVIEWED_TO} are not checked against real sessions yet",
    )


def _closure(day: date, overrides: CalendarOverrides) -> Standing | None:
    """Return why `day` is closed, or None."""
    certain, reason = True, None
    if day.weekday() >= _SATURDAY:
        reason = "weekend"
    elif day in overrides.extra_closed:
        reason = "closed by your calendar override"
    elif day in overrides.extra_open:
        reason = None
    elif day in PROBABLY_CLOSED:
        certain, reason = False, f"probably closed: {PROBABLY_CLOSED[day]}"
    elif day in CLOSED_TOO:
        reason = CLOSED_TOO[day]
    elif day in _public_holidays(day.year):
        certain, reason = day <= REVIEWED_TO, f"public holiday: {_public_holidays(day.year)[day]}"
    return None if reason is None else Standing(is_session=False, is_certain=certain, reason=reason)


def is_expected_session(day: date, overrides: CalendarOverrides = NO_OVERRIDES) -> bool:
    """Return whether HOSE is expected to trade on `day`; raises `BadDataError` as `standing` does."""
    return standing(day, overrides).is_session


def trading_sessions(start: date, end: date, overrides: CalendarOverrides = NO_OVERRIDES) -> list[date]:
    """Return the expected sessions from `start` to `end`, both included, ascending; empty when `end` is before `start`.

    Raises `BadDataError` outside the years whose holidays are recorded.
    """
    refuse_unknown_day(start)
    refuse_unknown_day(end)
    return [day for day in _days(start, end) if is_expected_session(day, overrides)]


def decided_sessions(
    seen: Collection[date], start: date, end: date, overrides: CalendarOverrides = NO_OVERRIDES
) -> list[date]:
    """Return the sessions from `start` to `end`, ascending: as the data have it, then as the calendar expects it.

    seen : days on which the market traded by the data. Between the first and the last of them they alone decide, even
        against an override; weekends in them are a vendor's phantoms. Days before and after come from the calendar.

    Raises `BadDataError` when the calendar is needed outside the years whose holidays are recorded.
    """
    real = sorted(day for day in set(seen) if day.weekday() < _SATURDAY)
    if not real:
        return trading_sessions(start, end, overrides)
    first, last = real[0], real[-1]
    one = timedelta(days=1)
    before = trading_sessions(start, min(end, first - one), overrides) if start < first else []
    after = trading_sessions(max(start, last + one), end, overrides) if end > last else []
    return [*before, *(day for day in real if start <= day <= end), *after]


@lru_cache(maxsize=8)
def closed_weekdays(overrides: CalendarOverrides = NO_OVERRIDES) -> tuple[date, ...]:
    """Return every weekday of the recorded years on which no session is expected, ascending."""
    return tuple(
        day
        for day in _days(KNOWN_FROM, KNOWN_TO)
        if day.weekday() < _SATURDAY and not is_expected_session(day, overrides)
    )


@lru_cache(maxsize=64)
def _public_holidays(year: int) -> dict[date, str]:
    return dict(holidays.country_holidays("VN", years=year))


def _days(start: date, end: date) -> list[date]:
    return [start + timedelta(days=offset) for offset in range((end - start).days + 1)]
