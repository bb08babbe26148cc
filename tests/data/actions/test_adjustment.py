"""Factors: steps recovered through the vendor's rounding, chained forward, refused when raw prices say otherwise."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vnfleet.data.actions.adjustment import chain_factors
from vnfleet.market.calendar import trading_sessions

DAYS = trading_sessions(date(2018, 1, 2), date(2023, 12, 29))


def bars(
    raw: list[float] | np.ndarray,
    levels: list[float] | np.ndarray,
    *,
    symbol: str = "AAA",
    days: list[date] | None = None,
    volume: list[int] | None = None,
) -> pl.DataFrame:
    """Bars as a vendor tells them: adjusted = raw * level, rounded to 10 VND."""
    raw = np.asarray(raw, dtype=float)
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(raw),
            "session": days or DAYS[: len(raw)],
            "close_vnd": raw,
            "adjusted_close_vnd": np.round(raw * np.asarray(levels), -1),
            "volume_shares": volume or [1000] * len(raw),
        }
    )


def test_without_events_the_factor_is_one() -> None:
    chained, events = chain_factors(bars([20000.0, 20100.0, 19900.0], [0.777, 0.777, 0.777]))
    assert chained.get_column("factor").to_list() == [1.0, 1.0, 1.0]
    assert not chained.get_column("break_before").any()
    assert events.is_empty()


def test_a_bonus_issue_raises_the_factor_from_its_day_on() -> None:
    # a 1-for-4 bonus: 25,000 becomes 20,000, the vendor scales everything before by 0.8
    chained, events = chain_factors(bars([25000.0, 25000.0, 20000.0, 20400.0], [0.8, 0.8, 1.0, 1.0]))
    assert chained.get_column("factor").to_list() == pytest.approx([1.0, 1.0, 1.25, 1.25], rel=3e-4)
    adjusted = chained.select(pl.col("close_vnd") * pl.col("factor")).to_series().to_numpy()
    assert adjusted[1:] / adjusted[:-1] - 1 == pytest.approx([0.0, 0.0, 0.02], abs=5e-4)
    assert events.select("symbol", "session", "kind").rows() == [("AAA", DAYS[2], "adjustment")]


def test_every_symbol_begins_at_one() -> None:
    first = bars([25000.0, 20000.0], [0.8, 1.0], symbol="AAA")
    second = bars([5000.0, 5000.0], [0.5, 0.5], symbol="BBB")
    chained, _ = chain_factors(pl.concat([first, second]))
    assert chained.group_by("symbol", maintain_order=True).agg(pl.col("factor").first()).get_column(
        "factor"
    ).to_list() == [1.0, 1.0]


@st.composite
def vendor_histories(draw: st.DrawFn) -> tuple[pl.DataFrame, list[int], list[float]]:
    """A calm history with dividends and bonuses: bars, the rows at which they fall, their true sizes."""
    length = draw(st.integers(30, 120))
    seed = draw(st.integers(0, 2**32 - 1))
    gaps = draw(st.lists(st.integers(6, 25), max_size=4))
    rows = [row for row in np.cumsum(gaps).tolist() if row < length]
    sizes = [draw(st.floats(1.02, 1.4)) for _ in rows]
    rng = np.random.default_rng(seed)
    forward = np.ones(length)
    for row, size in zip(rows, sizes, strict=True):
        forward[row:] *= size
    fair = 20000.0 * np.cumprod(1 + rng.uniform(-0.03, 0.03, length))
    raw = np.maximum(np.round(fair / forward * 2, -2) / 2, 3000.0)
    if np.any(raw <= 3000.0):
        raw += 3000.0
    return bars(raw, forward / forward[-1]), rows, sizes


@settings(max_examples=60, deadline=None)
@given(vendor_histories())
def test_steps_are_recovered_within_the_vendors_rounding(history: tuple[pl.DataFrame, list[int], list[float]]) -> None:
    given_bars, rows, sizes = history
    chained, events = chain_factors(given_bars)
    # A move of the raw price that offsets the step is not known to the vendor either: only levels are compared.
    assert [DAYS.index(day) for day in events.get_column("session")] == rows
    adjusted = given_bars.get_column("adjusted_close_vnd").to_numpy()
    for (step,), row, size in zip(events.select("factor_step").iter_rows(), rows, sizes, strict=True):
        assert step == pytest.approx(size, rel=2 * 5.6 / adjusted[max(0, row - 6) : row + 1].min())
    assert chained.get_column("factor")[0] == 1.0


@settings(max_examples=40, deadline=None)
@given(vendor_histories(), st.data())
def test_a_later_event_changes_no_earlier_row(
    history: tuple[pl.DataFrame, list[int], list[float]], data: st.DataObject
) -> None:
    given_bars, _, _ = history
    end = data.draw(st.integers(1, given_bars.height))
    whole, _ = chain_factors(given_bars)
    part, _ = chain_factors(given_bars.head(end))
    assert_frame_equal(whole.head(end), part, check_exact=True)


def test_ten_dong_rounding_makes_no_events() -> None:
    raw = np.round(np.random.default_rng(5).uniform(970, 1030, 1000), -1)
    _, events = chain_factors(bars(raw, np.full(1000, 0.4321)))
    assert events.is_empty()


@pytest.mark.parametrize("length", [1, 2])
def test_a_factor_that_flips_for_a_session_or_two_is_not_chained(length: int) -> None:
    levels = [0.8] * 5 + [0.86] * length + [0.8] * 5
    chained, events = chain_factors(bars([20000.0] * len(levels), levels))
    assert chained.get_column("factor").to_list() == [1.0] * len(levels)
    assert events.select("session", "kind").rows() == [(DAYS[5], "flip")]
    assert events.get_column("factor_step")[0] == pytest.approx(0.86 / 0.8, rel=1e-3)


def test_two_real_events_close_together_are_both_chained() -> None:
    levels = [0.8] * 5 + [0.9] * 2 + [1.0] * 3
    raw = [10000.0 / level for level in levels]
    _, events = chain_factors(bars(raw, levels))
    assert events.get_column("kind").to_list() == ["adjustment", "adjustment"]


def test_a_step_against_time_is_not_chained() -> None:
    chained, events = chain_factors(bars([20000.0] * 10, [0.9] * 5 + [0.85] * 5))
    assert chained.get_column("factor").to_list() == [1.0] * 10
    assert events.get_column("kind").to_list() == ["wrong_way"]


def test_a_step_the_raw_price_contradicts_is_not_chained() -> None:
    # HAX 2022-06-21: raw +5 %, and a vendor step of 18.5 % that belongs a month later
    raw = [17100.0] * 300 + [17950.0] * 3
    chained, events = chain_factors(bars(raw, [0.6] * 300 + [0.711] * 3))
    assert chained.get_column("factor").to_list() == [1.0] * 303
    assert events.get_column("kind").to_list() == ["contradicted"]


def test_a_missed_event_is_absorbed_and_marked() -> None:
    # MWG 2021-08-30: the bonus is missing from the vendor's factor, raw 164,500 -> 110,600
    raw = [164500.0] * 80 + [110600.0] * 5
    chained, events = chain_factors(bars(raw, [0.443] * 85))
    assert chained.get_column("break_before").arg_true().to_list() == [80]
    assert chained.get_column("factor").to_list() == pytest.approx([1.0] * 80 + [164500 / 110600] * 5)
    assert events.select("session", "kind").rows() == [(DAYS[80], "unexplained")]


def test_a_name_proven_on_hose_is_held_to_its_band() -> None:
    # closes such as 20,150 exist only with HOSE's tick of 50
    raw = [20150.0] * 30 + [18100.0] * 3
    chained, _ = chain_factors(bars(raw, [1.0] * 33))
    assert chained.get_column("break_before").arg_true().to_list() == [30]


def test_a_ten_percent_day_of_a_possible_hnx_name_is_believed() -> None:
    raw = [20000.0] * 80 + [22000.0, 24200.0, 21800.0]
    chained, events = chain_factors(bars(raw, [1.0] * 83))
    assert not chained.get_column("break_before").any()
    assert events.is_empty()


def test_a_wide_move_after_a_long_suspension_is_believed() -> None:
    days = DAYS[:80] + DAYS[106:108]  # 26 sessions without a trade
    raw = [20000.0] * 80 + [26000.0, 26000.0]
    _, events = chain_factors(bars(raw, [1.0] * 82, days=days))
    assert events.is_empty()
    _, events = chain_factors(bars(raw, [1.0] * 82, days=DAYS[:80] + DAYS[105:107]))
    assert events.get_column("kind").to_list() == ["unexplained"]


def test_an_event_on_a_day_without_trade_counts_from_the_next_trade() -> None:
    raw, levels = [25000.0, 25000.0, 20000.0, 20000.0], [0.8, 0.8, 1.0, 1.0]
    chained, events = chain_factors(bars(raw, levels, volume=[1000, 1000, 0, 1000]))
    assert chained.get_column("factor").to_list() == pytest.approx([1.0, 1.0, 1.25, 1.25], rel=3e-4)
    assert events.get_column("session").to_list() == [DAYS[3]]


def test_without_vendor_adjustment_prices_are_taken_as_adjusted() -> None:
    given_bars = bars([20000.0, 20400.0, 20100.0], [1.0] * 3).with_columns(adjusted_close_vnd=pl.lit(None, pl.Float64))
    chained, events = chain_factors(given_bars)
    assert chained.get_column("factor").to_list() == [1.0, 1.0, 1.0]
    assert events.is_empty()


def test_no_bars_give_no_factors() -> None:
    chained, events = chain_factors(bars([20000.0], [1.0]).clear())
    assert chained.is_empty()
    assert {"factor", "break_before"} <= set(chained.columns)
    assert events.columns == ["symbol", "session", "factor_step", "kind"]


def decided(
    given: pl.DataFrame, *, step: dict[int, float] | None = None, close: dict[int, float] | None = None
) -> pl.DataFrame:
    """The bars with what a court decided, by row."""
    rows = range(given.height)
    return given.with_columns(
        decided_step=pl.Series([(step or {}).get(row) for row in rows], dtype=pl.Float64),
        final_close_vnd=pl.Series([(close or {}).get(row) for row in rows], dtype=pl.Float64),
    )


def test_a_decided_step_replaces_the_vendors_and_is_an_event_of_its_own() -> None:
    # the vendor says x1.0336, the court x1.0167 (VNM 2019-09-16)
    given_bars = bars([122100.0] * 5 + [121500.0] * 5, [0.6] * 5 + [0.6 * 1.0336] * 5)
    chained, events = chain_factors(decided(given_bars, step={5: 1.0167}))
    assert chained.get_column("factor").to_list() == pytest.approx([1.0] * 5 + [1.0167] * 5)
    assert events.select("session", "factor_step", "kind").rows() == [(DAYS[5], 1.0167, "repaired")]
    assert {"decided_step", "final_close_vnd"}.isdisjoint(chained.columns)


def test_a_step_decided_away_is_told_as_the_vendor_claimed_it() -> None:
    given_bars = bars([20500.0] * 5 + [20200.0] * 5, [0.6] * 5 + [0.624] * 5)
    chained, events = chain_factors(decided(given_bars, step={5: 1.0}))
    assert chained.get_column("factor").to_list() == [1.0] * 10
    assert events.get_column("kind").to_list() == ["contradicted"]
    assert events.get_column("factor_step")[0] == pytest.approx(1.04, rel=2e-3)


def test_a_vendors_step_that_was_decided_for_stays_an_adjustment() -> None:
    given_bars = bars([25000.0] * 5 + [20000.0] * 5, [0.8] * 5 + [1.0] * 5)
    _, events = chain_factors(decided(given_bars, step={5: 1.25}))
    assert events.get_column("kind").to_list() == ["adjustment"]


def test_a_final_close_replaces_the_stored_one_and_makes_no_step() -> None:
    given_bars = bars([20000.0, 20000.0, 20400.0, 20100.0], [0.8] * 4)
    chained, events = chain_factors(decided(given_bars, close={2: 20200.0}))
    assert chained.get_column("close_vnd").to_list() == [20000.0, 20000.0, 20200.0, 20100.0]
    assert chained.get_column("factor").to_list() == [1.0] * 4
    assert events.is_empty()


def test_a_fall_over_a_session_the_vendor_lacks_is_believed() -> None:
    # HPG 2020-03-12: the row of the 11th is missing, two limit-down days in one move
    raw = [20150.0] * 30 + [17900.0] * 3
    chained, _ = chain_factors(bars(raw, [1.0] * 33, days=DAYS[:30] + DAYS[31:34]))
    assert not chained.get_column("break_before").any()
    chained, _ = chain_factors(bars(raw, [1.0] * 33))
    assert chained.get_column("break_before").arg_true().to_list() == [30]
