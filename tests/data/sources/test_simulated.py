"""The simulated market: plausible, causal, told like CafeF tells it, with a signal of known strength."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from vnfleet.core.errors import BadDataError
from vnfleet.data.court.quality import judge
from vnfleet.data.sources.base import RAW_SCHEMA
from vnfleet.data.sources.simulated import Fault, FaultKind, SimulatedMarket, SimulatedSource
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Exchange, lot_shares, price_limits_vnd, tick_vnd

AS_OF = date(2022, 6, 30)
MARKET = SimulatedMarket(seed=11, num_symbols=30, start=date(2019, 1, 2), late_listing_frac=0.2)
RAW = [name for name in RAW_SCHEMA if name != "adjusted_close_vnd"]


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return SimulatedSource(MARKET).fetch(None, AS_OF).bars


def test_the_history_has_the_schema_of_every_source_and_lies_on_real_sessions(bars: pl.DataFrame) -> None:
    assert dict(bars.schema) == RAW_SCHEMA
    assert bars.equals(bars.sort("symbol", "session"))
    assert set(bars["session"]) <= set(trading_sessions(MARKET.start, AS_OF))
    assert bars["symbol"].n_unique() == 30
    assert not bars.select("symbol", "session").is_duplicated().any()


def test_every_bar_keeps_to_ticks_lots_and_the_order_of_prices(bars: pl.DataFrame) -> None:
    sample = bars.sample(400, seed=1)
    for row in sample.iter_rows(named=True):
        assert row["low_vnd"] <= min(row["open_vnd"], row["close_vnd"])
        assert row["high_vnd"] >= max(row["open_vnd"], row["close_vnd"])
        for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd"):
            assert row[name] % tick_vnd(Exchange.HOSE, row[name], row["session"]) == 0
        assert row["volume_shares"] > 0
        assert row["volume_shares"] % lot_shares(Exchange.HOSE, row["session"]) == 0


def test_without_corporate_actions_no_price_leaves_the_exact_daily_limits() -> None:
    market = SimulatedMarket(
        seed=5, num_symbols=6, start=date(2020, 1, 2), corporate_actions=False, suspensions_per_year=0
    )
    history = SimulatedSource(market).fetch(None, date(2021, 6, 30)).bars
    locked = 0
    for (_,), of_symbol in history.group_by("symbol"):
        rows = of_symbol.sort("session").to_dicts()
        for before, row in pairwise(rows):
            floor, ceiling = price_limits_vnd(Exchange.HOSE, before["close_vnd"], row["session"])
            assert floor <= row["low_vnd"] <= row["high_vnd"] <= ceiling
            locked += row["low_vnd"] == ceiling or row["high_vnd"] == floor
    assert locked > 0
    assert history["close_vnd"].to_list() == pytest.approx(history["adjusted_close_vnd"].to_list(), abs=5.0)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), weeks=st.integers(1, 30))
def test_a_later_day_leaves_every_earlier_raw_row_as_it_was(seed: int, weeks: int) -> None:
    source = SimulatedSource(SimulatedMarket(seed=seed, num_symbols=5, start=date(2021, 3, 1)))
    early = date(2021, 9, 3)
    before = source.fetch(None, early)
    after = source.fetch(None, early + timedelta(weeks=weeks)).until(early)
    assert before.bars.select(RAW).equals(after.bars.select(RAW))
    assert before.index.equals(after.index)


def test_the_adjusted_close_has_factor_one_on_the_last_day_and_rebases_the_past_at_an_event() -> None:
    source = SimulatedSource(MARKET)
    today = source.fetch(None, AS_OF).bars
    last = today.group_by("symbol").agg(pl.all().sort_by("session").last())
    assert (last["close_vnd"] - last["adjusted_close_vnd"]).abs().max() == 0
    assert (today["adjusted_close_vnd"] % 10 == 0).all()
    year_before = source.fetch(None, date(2021, 6, 30)).bars
    both = year_before.join(today, on=["symbol", "session"], suffix="_later")
    changed = both.filter(pl.col("adjusted_close_vnd_later") < pl.col("adjusted_close_vnd") * 0.99)
    assert changed["symbol"].n_unique() > 10  # most symbols paid something within the year


def test_adjusted_returns_stay_inside_the_band_where_raw_ones_jump(bars: pl.DataFrame) -> None:
    frame = bars.with_columns(
        raw=(pl.col("close_vnd") / pl.col("close_vnd").shift(1).over("symbol") - 1),
        adjusted=(pl.col("adjusted_close_vnd") / pl.col("adjusted_close_vnd").shift(1).over("symbol") - 1),
    )
    assert frame["raw"].min() < -0.15  # type: ignore[operator]
    assert frame["adjusted"].abs().max() < 0.075  # type: ignore[operator]


def test_volatility_clusters_and_volume_follows_it(bars: pl.DataFrame) -> None:
    frame = bars.with_columns(
        move=(pl.col("adjusted_close_vnd") / pl.col("adjusted_close_vnd").shift(1).over("symbol")).log().abs(),
        value=(pl.col("close_vnd") * pl.col("volume_shares")).log(),
    ).with_columns(before=pl.col("move").shift(1).over("symbol"))
    own = frame.select(
        pl.col("move", "before", "value") - pl.col("move", "before", "value").mean().over("symbol")
    ).drop_nulls()
    assert own.select(pl.corr("move", "before")).item() > 0.05
    assert own.select(pl.corr("move", "value")).item() > 0.1


def test_some_symbols_list_late_and_some_are_suspended(bars: pl.DataFrame) -> None:
    sessions = trading_sessions(MARKET.start, AS_OF)
    first = bars.group_by("symbol").agg(pl.col("session").min())["session"]
    assert 1 <= (first > sessions[50]).sum() <= 15
    present = bars.group_by("symbol").agg(pl.len(), first=pl.col("session").min())
    absent = [len([day for day in sessions if day >= row["first"]]) - row["len"] for row in present.to_dicts()]
    assert 5 < sum(count > 0 for count in absent) < 30


def _realised_rank_ic(source: SimulatedSource, as_of: date, score: pl.DataFrame) -> float:
    """Mean daily rank IC on adjusted close(t+5) / open(t+1) - 1, written without the product's own code."""
    history = source.fetch(None, as_of).bars
    factor = pl.col("adjusted_close_vnd") / pl.col("close_vnd")
    sessions = trading_sessions(source.market.start, as_of)
    wide = [
        history.with_columns(value=pl.col(name) * factor)
        .pivot(on="symbol", index="session", values="value", sort_columns=True)
        .sort("session")
        for name in ("open_vnd", "close_vnd")
    ]
    scores = score.pivot(on="symbol", index="session", values="score", sort_columns=True).sort("session")
    assert wide[0]["session"].to_list() == sessions == scores["session"].to_list()
    opened, closed, scored = (frame.drop("session").to_numpy() for frame in (*wide, scores))
    daily = []
    for t in range(30, len(sessions) - 5):
        result = closed[t + 5] / opened[t + 1] - 1
        both = np.isfinite(result) & np.isfinite(scored[t])
        daily.append(np.corrcoef(rankdata(result[both]), rankdata(scored[t][both]))[0, 1])
    return float(np.mean(daily))


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.2])
def test_the_oracle_reaches_the_rank_ic_that_was_asked_for(strength: float) -> None:
    source = SimulatedSource(SimulatedMarket(seed=3, num_symbols=60, start=date(2018, 1, 2), signal_rank_ic=strength))
    as_of = date(2024, 12, 31)
    assert _realised_rank_ic(source, as_of, source.oracle(as_of)) == pytest.approx(strength, abs=0.015)


def test_the_state_follows_from_past_bars_alone_and_one_day_reversal_does_not_find_it() -> None:
    source = SimulatedSource(SimulatedMarket(seed=4, num_symbols=40, start=date(2019, 1, 2), signal_rank_ic=0.15))
    as_of = date(2023, 12, 29)
    rebuilt = []
    for (_symbol,), rows in source.fetch(None, as_of).bars.group_by("symbol", maintain_order=True):
        close = np.log(rows["adjusted_close_vnd"].to_numpy())
        value = np.log(rows["close_vnd"].to_numpy() * rows["volume_shares"].to_numpy())
        moves = np.diff(close, prepend=close[0])
        state, square, usual, states = 0.0, moves[:60].var(), value[0], []
        for move, today in zip(moves, value, strict=True):
            state = 0.9 * state + np.clip(move / np.sqrt(square), -3, 3) * np.clip(today - usual, -2, 2)
            square = 0.94 * square + 0.06 * move**2
            usual = 0.9 * usual + 0.1 * today
            states.append(state)
        rebuilt.append(rows.select("symbol", "session").with_columns(score=pl.Series(states), move=pl.Series(moves)))
    frame = pl.concat(rebuilt)
    both = frame.join(source.oracle(as_of), on=["symbol", "session"], suffix="_oracle").filter(
        pl.col("session") > date(2019, 6, 1)
    )
    assert both.select(pl.corr("score", "score_oracle")).item() > 0.98
    assert _realised_rank_ic(source, as_of, frame.select("symbol", "session", "score")) > 0.12
    reversal = frame.select("symbol", "session", score=-pl.col("move"))
    assert abs(_realised_rank_ic(source, as_of, reversal)) < 0.05


def test_each_fault_is_planted_where_it_was_asked_for_and_nowhere_else(bars: pl.DataFrame) -> None:
    day = date(2021, 5, 12)
    planted = {}
    for symbol, kind in zip(MARKET.symbols, FaultKind, strict=False):
        where = AS_OF if kind is FaultKind.IN_SESSION_LAST_BAR else day
        planted[kind] = Fault(kind=kind, symbol=symbol, session=where)
    faulty_market = SimulatedMarket(
        seed=11, num_symbols=30, start=MARKET.start, late_listing_frac=0.2, faults=tuple(planted.values())
    )
    faulty = SimulatedSource(faulty_market).fetch(None, AS_OF).bars
    clean = ~pl.col("symbol").is_in([fault.symbol for fault in planted.values()])
    assert faulty.filter(clean).equals(bars.filter(clean))

    def at(frame: pl.DataFrame, kind: FaultKind) -> pl.DataFrame:
        fault = planted[kind]
        return frame.filter((pl.col("symbol") == fault.symbol) & (pl.col("session") == fault.session))

    assert at(faulty, FaultKind.ZERO_CLOSE)["close_vnd"].item() == 0
    broken = at(faulty, FaultKind.OHLC_BREAK)
    assert broken["high_vnd"].item() < broken["low_vnd"].item()
    assert at(faulty, FaultKind.MISSING_SESSION).is_empty()
    assert at(faulty, FaultKind.DUPLICATED_ROW).height == 2
    split, whole = at(faulty, FaultKind.UNADJUSTED_SPLIT), at(bars, FaultKind.UNADJUSTED_SPLIT)
    assert split["adjusted_close_vnd"].item() == pytest.approx(whole["adjusted_close_vnd"].item() / 2, abs=5)
    assert split["volume_shares"].item() == 2 * whole["volume_shares"].item()
    wrong, right = at(faulty, FaultKind.WRONG_ADJUSTED), at(bars, FaultKind.WRONG_ADJUSTED)
    assert wrong["adjusted_close_vnd"].item() == pytest.approx(right["adjusted_close_vnd"].item() * 1.05, abs=5)
    partial, final = at(faulty, FaultKind.IN_SESSION_LAST_BAR), at(bars, FaultKind.IN_SESSION_LAST_BAR)
    assert partial["volume_shares"].item() < 0.5 * final["volume_shares"].item()
    later = SimulatedSource(faulty_market).fetch(None, AS_OF + timedelta(days=7))
    assert at(later.bars, FaultKind.IN_SESSION_LAST_BAR).select(RAW).equals(final.select(RAW))


def test_unknown_symbols_and_impossible_markets_are_refused() -> None:
    with pytest.raises(BadDataError, match="ZZZ"):
        SimulatedSource(MARKET).fetch(["XAA", "ZZZ"], AS_OF)
    with pytest.raises(ValueError, match="signal_rank_ic"):
        SimulatedMarket(signal_rank_ic=0.9)
    with pytest.raises(ValueError, match="num_symbols"):
        SimulatedMarket(num_symbols=1)
    with pytest.raises(ValueError, match="faults"):
        SimulatedMarket(faults=(Fault(kind=FaultKind.ZERO_CLOSE, symbol="VNM", session=AS_OF),))


def test_asking_for_some_symbols_gives_the_same_rows_as_asking_for_all(bars: pl.DataFrame) -> None:
    some = SimulatedSource(MARKET).fetch(["XAC", "XAB"], AS_OF)
    assert some.bars.equals(bars.filter(pl.col("symbol").is_in(["XAB", "XAC"])))
    assert some.listings["symbol"].to_list() == ["XAB", "XAC"]
    assert SimulatedSource(MARKET).fetch(None, date(2018, 12, 31)).bars.is_empty()


def test_a_clean_market_passes_the_quality_court_and_only_planted_holes_are_noticed() -> None:
    calm = SimulatedMarket(seed=2, num_symbols=30, suspensions_per_year=0.0, illiquid_frac=0.0)
    usual = SimulatedMarket(seed=2, num_symbols=30, suspensions_per_year=0.3, illiquid_frac=0.1)
    sessions = trading_sessions(calm.start, AS_OF)
    clean = judge(SimulatedSource(calm).fetch(None, AS_OF), AS_OF, sessions)
    assert clean.rows.is_empty()
    assert len(clean.accepted) == 30
    holes = judge(SimulatedSource(usual).fetch(None, AS_OF), AS_OF, sessions)
    assert set(holes.rows["check"]) == {"missing_session"}
    assert len(holes.accepted) >= 20
