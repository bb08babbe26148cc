"""Time as the factory sees it: always aware, always Asia/Ho_Chi_Minh (ICT, UTC+7) when shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

ICT = ZoneInfo("Asia/Ho_Chi_Minh")


class Clock(Protocol):
    """Where the current time comes from; tests pass a fixed one."""

    def now(self) -> datetime:
        """Return the current time, time-zone aware, in UTC."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class FixedClock:
    """A clock that stands still at `at` (aware)."""

    at: datetime

    def now(self) -> datetime:
        """Return the fixed time."""
        return self.at


def cycle_id_of(as_of: date) -> str:
    """Return the ISO week of `as_of` as ``2026-W47``: one cycle a week, named by the week of its data."""
    year, week, _ = as_of.isocalendar()
    return f"{year}-W{week:02d}"


def utc_text(moment: datetime) -> str:
    """Return `moment` as ISO 8601 in UTC with seconds, ending in ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
