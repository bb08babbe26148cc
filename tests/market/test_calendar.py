"""The expected calendar against the closures measured on real data, and against those data themselves."""

from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.market.calendar import (
    CLOSED_TOO,
    PROBABLY_CLOSED,
    REVIEWED_TO,
    CalendarOverrides,
    closed_weekdays,
    decided_sessions,
    is_expected_session,
    standing,
    trading_sessions,
)

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "market_sessions_2012_20261001.csv"
HOSE_OUTAGE = {date(2018, 1, 23), date(2018, 1, 24)}  # HNX traded, so the days are in the real list

# Every closed weekday to 2026-10-01, MM-DD, as measured on VNINDEX and whole-market bars of four feeds.
CLOSED = {
    2012: "01-02 01-23 01-24 01-25 01-26 01-27 04-02 04-30 05-01 09-03 12-31",
    2013: "01-01 02-11 02-12 02-13 02-14 02-15 04-19 04-29 04-30 05-01 09-02",
    2014: "01-01 01-28 01-29 01-30 01-31 02-03 02-04 02-05 04-09 04-30 05-01 05-02 09-01 09-02",
    2015: "01-01 01-02 02-16 02-17 02-18 02-19 02-20 02-23 04-28 04-29 04-30 05-01 09-02",
    2016: "01-01 02-08 02-09 02-10 02-11 02-12 04-18 05-02 05-03 09-02",
    2017: "01-02 01-26 01-27 01-30 01-31 02-01 04-06 05-01 05-02 09-04",
    2018: "01-01 02-14 02-15 02-16 02-19 02-20 04-25 04-30 05-01 09-03 12-31",
    2019: "01-01 02-04 02-05 02-06 02-07 02-08 04-15 04-29 04-30 05-01 09-02",
    2020: "01-01 01-23 01-24 01-27 01-28 01-29 04-02 04-30 05-01 09-02",
    2021: "01-01 02-10 02-11 02-12 02-15 02-16 04-21 04-30 05-03 09-02 09-03",
    2022: "01-03 01-31 02-01 02-02 02-03 02-04 04-11 05-02 05-03 09-01 09-02",
    2023: "01-02 01-20 01-23 01-24 01-25 01-26 05-01 05-02 05-03 09-01 09-04",
    2024: "01-01 02-08 02-09 02-12 02-13 02-14 04-18 04-29 04-30 05-01 09-02 09-03",
    2025: "01-01 01-27 01-28 01-29 01-30 01-31 04-07 04-30 05-01 05-02 09-01 09-02",
    2026: "01-01 01-02 02-16 02-17 02-18 02-19 02-20 04-27 04-30 05-01 08-31 09-01 09-02",
}
MEASURED_CLOSED = {date.fromisoformat(f"{year}-{day}") for year, days in CLOSED.items() for day in days.split()}


def test_sessions_a_year_equal_the_measured_ones() -> None:
    counts = Counter(day.year for day in trading_sessions(date(2012, 1, 1), date(2025, 12, 31)))
    measured = [250, 250, 247, 248, 251, 250, 248, 250, 252, 250, 249, 249, 250, 249]
    assert [counts[year] for year in range(2012, 2026)] == measured
    assert len(trading_sessions(date(2026, 1, 1), date(2026, 10, 1))) == 183


def test_closed_weekdays_are_the_measured_ones_and_the_outage_of_hose() -> None:
    assert len(MEASURED_CLOSED) == 171
    assert {day for day in closed_weekdays() if day <= REVIEWED_TO} == MEASURED_CLOSED | HOSE_OUTAGE


@pytest.mark.parametrize("day", [date(2024, 5, 4), date(2026, 8, 22), date(2026, 2, 7), date(2026, 3, 8)])
def test_make_up_saturdays_and_phantom_weekends_are_no_sessions(day: date) -> None:
    assert standing(day).reason == "weekend"
    assert not is_expected_session(day)


def test_ends_are_included_and_an_empty_range_is_empty() -> None:
    assert trading_sessions(date(2024, 2, 7), date(2024, 2, 15)) == [date(2024, 2, 7), date(2024, 2, 15)]
    assert trading_sessions(date(2024, 2, 15), date(2024, 2, 7)) == []


def test_unrecorded_years_are_refused() -> None:
    with pytest.raises(BadDataError, match="not known"):
        trading_sessions(date(2027, 12, 1), date(2028, 1, 1))
    with pytest.raises(BadDataError, match="not known"):
        is_expected_session(date(2011, 12, 30))
    with pytest.raises(BadDataError, match="not known"):
        decided_sessions([date(2027, 12, 30)], date(2027, 12, 1), date(2028, 1, 4))


def test_vietnam_culture_day_is_probably_closed_until_the_data_decide() -> None:
    day = date(2026, 11, 24)
    said = standing(day)
    assert (said.is_session, said.is_certain) == (False, False)
    assert "probably closed" in said.reason
    week = [date(2026, 11, number) for number in (23, 25, 26, 27)]
    assert trading_sessions(date(2026, 11, 23), date(2026, 11, 27)) == week
    traded = [date(2026, 11, 23), day, date(2026, 11, 25)]
    assert decided_sessions(traded, date(2026, 11, 23), date(2026, 11, 27)) == sorted({*week, day})


def test_days_after_the_last_review_are_said_to_be_uncertain() -> None:
    assert standing(date(2026, 9, 30)).is_certain
    for day in (date(2026, 10, 5), date(2027, 2, 8)):  # a plain Monday, a Tet day whose swaps are not announced
        assert not standing(day).is_certain
    assert "not checked" in standing(date(2026, 10, 5)).reason


def test_every_closure_has_a_reason() -> None:
    assert standing(date(2024, 2, 12)).reason.startswith("public holiday: ")
    for day, reason in CLOSED_TOO.items():
        assert standing(day).reason == reason
    assert all(day > REVIEWED_TO for day in PROBABLY_CLOSED)


def test_overrides_close_and_open_days_and_data_win_over_both() -> None:
    overrides = CalendarOverrides(extra_closed=(date(2026, 12, 31),), extra_open=(date(2026, 11, 24),))
    assert is_expected_session(date(2026, 12, 31))
    assert not is_expected_session(date(2026, 12, 31), overrides)
    assert standing(date(2026, 11, 24), overrides).is_session
    assert date(2026, 12, 31) in closed_weekdays(overrides)
    assert date(2026, 12, 31) not in closed_weekdays()
    seen = [date(2026, 11, 23), date(2026, 11, 25), date(2026, 12, 31)]
    assert decided_sessions(seen, date(2026, 11, 23), date(2026, 12, 31), overrides) == seen


@pytest.mark.parametrize(
    "days",
    [
        {"extra_closed": (date(2026, 12, 31),), "extra_open": (date(2026, 12, 31),)},
        {"extra_open": (date(2026, 12, 26),)},  # a Saturday
        {"extra_closed": (date(2031, 1, 2),)},
    ],
)
def test_impossible_overrides_are_refused(days: dict[str, tuple[date, ...]]) -> None:
    with pytest.raises(ValueError, match=r"extra_|overrides"):
        CalendarOverrides(**days)


@given(
    seen=st.sets(st.dates(date(2025, 1, 1), date(2026, 12, 31)), max_size=40),
    start=st.dates(date(2025, 1, 1), date(2026, 12, 31)),
    length=st.integers(0, 200),
)
def test_between_the_first_and_last_day_of_data_only_data_decide(seen: set[date], start: date, length: int) -> None:
    end = min(start + timedelta(days=length), date(2026, 12, 31))
    decided = decided_sessions(seen, start, end)
    real = {day for day in seen if day.weekday() < 5}
    assert decided == sorted(set(decided))
    for day in (start + timedelta(days=offset) for offset in range((end - start).days + 1)):
        inside = bool(real) and min(real) <= day <= max(real)
        assert (day in decided) == (day in real if inside else is_expected_session(day))


@pytest.mark.real_data
def test_calendar_equals_the_real_sessions_of_fifteen_years() -> None:
    if not REAL.exists():
        pytest.skip("the real session list is not here")
    real = {date.fromisoformat(line) for line in REAL.read_text(encoding="utf-8").split()}
    first, last = date(2012, 1, 1), REVIEWED_TO
    assert max(real) == last
    weekdays = {first + timedelta(days=offset) for offset in range((last - first).days + 1)}
    weekdays = {day for day in weekdays if day.weekday() < 5}
    for day in sorted(weekdays):
        assert is_expected_session(day) == (day in real and day not in HOSE_OUTAGE), f"{day}: {standing(day).reason}"
    assert weekdays - real == MEASURED_CLOSED
    assert len(weekdays - real) == 171
    assert decided_sessions(real, first, last) == sorted(real)
