"""Which session a week without --as-of is about."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from vnfleet.cycle.weekly import last_close


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (datetime(2026, 11, 20, 8, 29, tzinfo=UTC), date(2026, 11, 19)),  # Friday 15:29 in Vietnam: not final yet
        (datetime(2026, 11, 20, 8, 30, tzinfo=UTC), date(2026, 11, 20)),
        (datetime(2026, 11, 21, 19, 0, tzinfo=UTC), date(2026, 11, 20)),  # Sunday 02:00 in Vietnam
        (datetime(2026, 11, 22, 23, 0, tzinfo=UTC), date(2026, 11, 20)),  # Monday 06:00 in Vietnam
        (datetime(2024, 2, 14, 12, 0, tzinfo=UTC), date(2024, 2, 7)),  # Tet of 2024: closed from 8 to 14 February
        (datetime(2026, 11, 24, 12, 0, tzinfo=UTC), date(2026, 11, 24)),  # probably closed: the data decide
        (datetime(2030, 6, 2, 12, 0, tzinfo=UTC), date(2030, 6, 2)),  # beyond the recorded calendar
    ],
)
def test_the_last_close_is_the_newest_session_whose_prices_are_final(now: datetime, expected: date) -> None:
    assert last_close(now) == expected
