"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from vnfleet.reporting import formats

THIN = "\N{NARROW NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("value", "digits", "signed", "expected"),
    [
        (1234.5, 2, False, "1,234.50"),
        (0.1084, 3, True, "+0.108"),
        (-0.1084, 3, True, "−0.108"),
        (-0.0001, 2, True, "0.00"),
        (None, 2, False, "–"),
        (float("nan"), 2, False, "–"),
    ],
)
def test_number(value: float | None, digits: int, signed: bool, expected: str) -> None:
    assert formats.number(value, digits, signed=signed) == expected


def test_percent_is_a_hundred_times_the_fraction() -> None:
    assert formats.percent(0.538) == f"53.8{THIN}%"
    assert formats.percent(-0.0712, 2, signed=True) == f"−7.12{THIN}%"
    assert formats.percent_range(0.529, 0.546) == f"52.9 to 54.6{THIN}%"
    assert formats.percent_range(None, 0.5) == "–"


def test_times_and_sizes() -> None:
    assert formats.duration(3.44) == "3.4 s"
    assert formats.duration(125) == "2 min 05 s"
    assert formats.duration(4320) == "1 h 12 min"
    assert formats.memory(812.4) == "812 MiB"
    assert formats.memory(3276.8) == "3.2 GiB"


def test_dates_are_in_words_and_moments_in_vietnam() -> None:
    assert formats.day(date(2026, 11, 20)) == "Friday 20 November 2026"
    assert formats.moment(datetime(2026, 11, 22, 19, 30, tzinfo=UTC)) == "2026-11-23 02:30 ICT"


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(48.34e9, "48.3 bn VND"), (1e9, "1.0 bn VND"), (290e6, "290 m VND"), (0.0, "0 m VND"), (None, "–")],
)
def test_money_is_in_billions_or_millions(amount: float | None, expected: str) -> None:
    assert formats.vnd(amount) == expected
