"""The expected calendar against session counts and closures measured on real data."""

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.market.calendar import closed_weekdays, is_expected_session, trading_sessions

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "market_sessions_2012_20261001.csv"


def test_sessions_a_year_equal_the_measured_ones() -> None:
    counts = Counter(day.year for day in trading_sessions(date(2012, 1, 1), date(2025, 12, 31)))
    measured = [250, 250, 247, 248, 251, 250, 248, 250, 252, 250, 249, 249, 250, 249]
    assert [counts[year] for year in range(2012, 2026)] == measured
    assert len(trading_sessions(date(2026, 1, 1), date(2026, 10, 1))) == 183


@pytest.mark.parametrize(
    "day",
    [
        date(2012, 12, 31),
        date(2014, 1, 28),
        date(2014, 2, 5),
        date(2018, 1, 23),
        date(2018, 12, 31),
        date(2024, 2, 14),
        date(2026, 1, 2),
        date(2026, 8, 31),
        date(2024, 5, 4),  # a "make-up" Saturday
        date(2026, 8, 22),  # another
    ],
)
def test_closed_days_are_no_sessions(day: date) -> None:
    assert not is_expected_session(day)


def test_ends_are_included_and_an_empty_range_is_empty() -> None:
    assert trading_sessions(date(2024, 2, 7), date(2024, 2, 15)) == [date(2024, 2, 7), date(2024, 2, 15)]
    assert trading_sessions(date(2024, 2, 15), date(2024, 2, 7)) == []


def test_unrecorded_years_are_refused() -> None:
    with pytest.raises(BadDataError, match="not known"):
        trading_sessions(date(2027, 12, 1), date(2028, 1, 1))
    with pytest.raises(BadDataError, match="not known"):
        is_expected_session(date(2011, 12, 30))


def test_closed_weekdays_are_the_weekdays_without_a_session() -> None:
    measured = [day for day in closed_weekdays() if day <= date(2026, 10, 1)]
    assert len(measured) == 171 + 2  # and the two days of the HOSE outage
    assert all(day.weekday() < 5 for day in measured)


@pytest.mark.real_data
def test_calendar_equals_the_real_sessions_of_fifteen_years() -> None:
    if not REAL.exists():
        pytest.skip("the real session list is not here")
    real = {date.fromisoformat(line) for line in REAL.read_text(encoding="utf-8").split()}
    # HNX traded on the days of the HOSE outage
    assert real - set(trading_sessions(min(real), max(real))) == {date(2018, 1, 23), date(2018, 1, 24)}
    assert set(trading_sessions(min(real), max(real))) <= real
