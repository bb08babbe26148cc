"""Closes at the limits, with limits worked out by hand from the exchanges' rules."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from vnfleet.features.limits import with_limit_state

EXCHANGES = {"HO": "HOSE", "HN": "HNX", "UP": "UPCOM"}


def _state(
    symbol: str, session: date, reference_vnd: float | None, close_vnd: float, gap_sessions: int = 1
) -> float | None:
    bars = pl.DataFrame(
        {
            "symbol": [symbol],
            "session": [session],
            "reference_vnd": pl.Series([reference_vnd], dtype=pl.Float64),
            "close_vnd": [close_vnd],
            "gap_sessions": [gap_sessions],
            "exchange": [EXCHANGES[symbol]],
        }
    )
    state: float | None = with_limit_state(bars).item(0, "limit_state")
    return state


@pytest.mark.parametrize(
    ("symbol", "session", "reference", "close", "expected"),
    [
        ("HO", date(2018, 3, 1), 20_000, 21_400, 1.0),  # +7 %
        ("HO", date(2018, 3, 1), 20_000, 21_350, 0.0),
        ("HO", date(2018, 3, 1), 20_000, 18_600, -1.0),  # -7 %
        ("HO", date(2018, 3, 1), 20_000, 18_650, 0.0),
        ("HO", date(2018, 3, 1), 20_150, 21_550, 1.0),  # 21,560.5 down to the tick of 50
        ("HO", date(2018, 3, 1), 20_150, 18_750, -1.0),  # 18,739.5 up to the tick of 50
        ("HO", date(2018, 3, 1), 9_850, 10_500, 1.0),  # 10,539.5: the tick of the limit's own range
        ("HO", date(2012, 6, 1), 20_000, 21_000, 1.0),  # +5 % before 2013-01-15
        ("HO", date(2015, 6, 1), 5_000, 5_300, 1.0),  # 5,350 down to the tick of 100 before 2016-09-12
        ("HO", date(2012, 6, 1), 1_500, 1_600, 1.0),  # the band holds no tick: one tick up is the ceiling
        ("HN", date(2018, 3, 1), 20_000, 21_400, 0.0),
        ("HN", date(2018, 3, 1), 20_000, 22_000, 1.0),  # +10 %
        ("UP", date(2018, 3, 1), 20_000, 17_000, -1.0),  # -15 %
        ("HO", date(2018, 3, 1), 20_000, 20_000, 0.0),
    ],
)
def test_a_close_at_its_limit_is_flagged(
    symbol: str, session: date, reference: float, close: float, expected: float
) -> None:
    assert _state(symbol, session, reference, close) == expected


def test_dust_in_a_chained_reference_loses_no_limit() -> None:
    assert _state("HO", date(2018, 3, 1), 19_999.999999999996, 21_400) == 1.0


def test_after_a_long_suspension_the_wide_band_holds() -> None:
    assert _state("HO", date(2018, 3, 1), 20_000, 21_400, gap_sessions=26) == 0.0
    assert _state("HO", date(2018, 3, 1), 20_000, 24_000, gap_sessions=26) == 1.0  # +20 %
    assert _state("HO", date(2018, 3, 1), 20_000, 21_400, gap_sessions=25) == 1.0


def test_without_a_reference_nothing_is_known() -> None:
    assert _state("HO", date(2018, 3, 1), None, 21_400) is None


def test_rows_keep_their_order_and_columns() -> None:
    days = [date(2018, 3, 1) + timedelta(days=n) for n in range(3)]
    bars = pl.DataFrame(
        {
            "symbol": ["UP", "HO", "HN"],
            "session": days[::-1],
            "reference_vnd": [20_000.0, 20_000.0, 20_000.0],
            "close_vnd": [21_400.0, 21_400.0, 22_000.0],
            "gap_sessions": [1, 1, 1],
            "exchange": ["UPCOM", "HOSE", "HNX"],
        }
    )
    flagged = with_limit_state(bars)
    assert flagged.columns == [*bars.columns, "limit_state"]
    assert flagged.get_column("symbol").to_list() == ["UP", "HO", "HN"]
    assert flagged.get_column("limit_state").to_list() == [0.0, 1.0, 1.0]
