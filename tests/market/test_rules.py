"""Market rules: hand-computed limits, the days on which rules change, and what must hold for every price."""

import math
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.market.rules import (
    KNOWN_FROM,
    KNOWN_TO,
    Costs,
    Exchange,
    band_frac,
    lot_shares,
    odd_lots_trade,
    price_limits_vnd,
    settlement,
    tick_vnd,
    wide_band_frac,
)

HOSE, HNX, UPCOM = Exchange
DAYS = st.dates(KNOWN_FROM, KNOWN_TO)
EXCHANGES = st.sampled_from(list(Exchange))


@pytest.mark.parametrize(
    ("exchange", "day", "band"),
    [
        (HOSE, date(2013, 1, 14), 0.05),
        (HOSE, date(2013, 1, 15), 0.07),
        (HNX, date(2013, 1, 14), 0.07),
        (HNX, date(2013, 1, 15), 0.10),
        (UPCOM, date(2015, 6, 30), 0.10),
        (UPCOM, date(2015, 7, 1), 0.15),
        (HOSE, date(2026, 10, 1), 0.07),
    ],
)
def test_band_changes_on_its_day(exchange: Exchange, day: date, band: float) -> None:
    assert band_frac(exchange, day) == band


def test_first_day_bands_are_wide() -> None:
    assert [wide_band_frac(exchange, date(2024, 1, 2)) for exchange in Exchange] == [0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("exchange", "price", "day", "tick"),
    [
        (HOSE, 49_900, date(2016, 9, 9), 100),
        (HOSE, 50_000, date(2016, 9, 9), 500),
        (HOSE, 100_000, date(2016, 9, 9), 1_000),
        (HOSE, 9_990, date(2016, 9, 12), 10),
        (HOSE, 10_000, date(2016, 9, 12), 50),
        (HOSE, 49_950, date(2016, 9, 12), 50),
        (HOSE, 50_000, date(2016, 9, 12), 100),
        (HNX, 9_900, date(2024, 1, 2), 100),
        (UPCOM, 120_000, date(2024, 1, 2), 100),
    ],
)
def test_tick_follows_price_range_and_day(exchange: Exchange, price: float, day: date, tick: int) -> None:
    assert tick_vnd(exchange, price, day) == tick


@pytest.mark.parametrize(
    ("exchange", "reference", "day", "floor", "ceiling"),
    [
        # 23,200 * 1.07 = 24,824 -> 24,800; * 0.93 = 21,576 -> 21,600 (tick 50)
        (HOSE, 23_200, date(2022, 6, 20), 21_600, 24_800),
        # 49,000 * 1.07 = 52,430 -> 52,400 (tick 100); * 0.93 = 45,570 -> 45,600 (tick 50)
        (HOSE, 49_000, date(2024, 1, 2), 45_600, 52_400),
        # 10,200 * 0.93 = 9,486 -> 9,490 (tick 10); * 1.07 = 10,914 -> 10,900 (tick 50)
        (HOSE, 10_200, date(2024, 1, 2), 9_490, 10_900),
        # exact multiples stay: 10,000 * 1.07 = 10,700 and 9,300, although 1.07 has no exact binary form
        (HOSE, 10_000, date(2024, 1, 2), 9_300, 10_700),
        # 5 % and tick 100 before 2013-01-15: 21,000 and 19,000 of 20,000
        (HOSE, 20_000, date(2013, 1, 14), 19_000, 21_000),
        (HOSE, 20_000, date(2013, 1, 15), 18_600, 21_400),
        # 48,000 * 1.07 = 51,360 -> 51,000 (tick 500); 44,640 -> 44,700 (tick 100)
        (HOSE, 48_000, date(2016, 9, 9), 44_700, 51_000),
        (HOSE, 48_000, date(2016, 9, 12), 44_650, 51_300),
        (HNX, 12_300, date(2024, 1, 2), 11_100, 13_500),
        (UPCOM, 12_300, date(2024, 1, 2), 10_500, 14_100),
        # 1,000 * 1.05 = 1,050 -> 1,000: no room, so one tick each way
        (HOSE, 1_000, date(2012, 6, 1), 900, 1_100),
    ],
)
def test_limits_equal_hand_computation(
    exchange: Exchange, reference: float, day: date, floor: int, ceiling: int
) -> None:
    assert price_limits_vnd(exchange, reference, day) == (floor, ceiling)


def test_wide_limits_use_the_wide_band() -> None:
    assert price_limits_vnd(HOSE, 20_000, date(2024, 1, 2), wide_band=True) == (16_000, 24_000)


@given(EXCHANGES, st.integers(30, 50_000), DAYS)
def test_limits_lie_on_ticks_inside_the_band_and_around_the_reference(exchange: Exchange, tens: int, day: date) -> None:
    reference = tens * 10
    floor, ceiling = price_limits_vnd(exchange, reference, day)
    assert floor < reference < ceiling
    assert floor > 0
    tick = tick_vnd(exchange, reference, day)
    assert floor % tick_vnd(exchange, floor, day) == 0
    assert ceiling % tick_vnd(exchange, ceiling, day) == 0
    band = band_frac(exchange, day)
    # one tick from a reference that is itself up to a tick off the grid
    assert ceiling <= max(reference * (1 + band) + 1e-6, reference + tick)
    assert floor >= min(reference * (1 - band) - 1e-6, reference - 2 * tick, tick)
    widest_tick = max(tick, tick_vnd(exchange, ceiling, day))
    assert ceiling > reference * (1 + band) - widest_tick - 1e-6 or ceiling == reference + tick
    assert floor < reference * (1 - band) + tick + 1e-6


@given(EXCHANGES, st.integers(100, 20_000), st.integers(1, 2_000), DAYS)
def test_limits_grow_with_the_reference(exchange: Exchange, hundreds: int, more: int, day: date) -> None:
    low = price_limits_vnd(exchange, hundreds * 100, day)
    high = price_limits_vnd(exchange, (hundreds + more) * 100, day)
    assert low[0] <= high[0]
    assert low[1] <= high[1]


@given(EXCHANGES, DAYS)
def test_every_known_day_has_every_rule(exchange: Exchange, day: date) -> None:
    assert 0 < band_frac(exchange, day) < wide_band_frac(exchange, day)
    assert lot_shares(exchange, day) in {10, 100}
    assert settlement(day).delay_sessions in {2, 3}


@pytest.mark.parametrize("day", [KNOWN_FROM - timedelta(days=1), KNOWN_TO + timedelta(days=1)])
def test_days_outside_the_tables_are_refused(day: date) -> None:
    for rule in (band_frac, wide_band_frac, lot_shares, odd_lots_trade):
        with pytest.raises(BadDataError, match="2012-01-01 to 2027-12-31"):
            rule(HOSE, day)
    with pytest.raises(BadDataError):
        settlement(day)
    with pytest.raises(BadDataError):
        price_limits_vnd(HOSE, 10_000, day)


def test_hose_lot_grows_tenfold_on_2021_01_04() -> None:
    assert [lot_shares(HOSE, date(2020, 12, 31)), lot_shares(HOSE, date(2021, 1, 4))] == [10, 100]
    assert lot_shares(HNX, date(2015, 1, 5)) == 100


def test_odd_lots_trade_on_hose_from_2022_09_12_and_on_the_others_always() -> None:
    assert [odd_lots_trade(HOSE, date(2022, 9, day)) for day in (9, 12)] == [False, True]
    assert all(odd_lots_trade(exchange, day) for exchange in (HNX, UPCOM) for day in (KNOWN_FROM, KNOWN_TO))


def test_settlement_shortens_on_2022_08_29() -> None:
    before, after = settlement(date(2022, 8, 26)), settlement(date(2022, 8, 29))
    assert (before.delay_sessions, before.sellable_at_open) == (3, True)
    assert (after.delay_sessions, after.sellable_at_open) == (2, False)


@pytest.mark.parametrize("price", [math.nan, math.inf, -1.0])
def test_impossible_prices_are_refused(price: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        tick_vnd(HOSE, price, date(2024, 1, 2))
    with pytest.raises(ValueError, match="must be finite"):
        price_limits_vnd(HOSE, price, date(2024, 1, 2))


def test_costs_of_a_round_trip_are_two_fees_and_one_tax() -> None:
    assert Costs().round_trip_frac == pytest.approx(0.004)
    assert Costs(fee_frac=0.0, sell_tax_frac=0.001).round_trip_frac == pytest.approx(0.001)
    with pytest.raises(ValueError, match="fee_frac"):
        Costs(fee_frac=-0.1)
