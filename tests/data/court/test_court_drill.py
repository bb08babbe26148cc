"""The drill: every kind of planted fault is found, and a clean market raises no alarm."""

from datetime import date

import polars as pl
import pytest

from vnfleet.data.court.drill import drill, with_references
from vnfleet.data.court.opinions import Opinion, opinion_of
from vnfleet.data.court.quality import CHECKS, judge
from vnfleet.data.sources.base import RawHistory, raw_history
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.data.sources.simulated.faults import Fault, FaultKind, MarketFaultKind, plant
from vnfleet.market.calendar import trading_sessions

AS_OF = date(2023, 12, 29)
MARKET = SimulatedMarket(seed=5, num_symbols=18, start=date(2020, 1, 2), suspensions_per_year=0.0, illiquid_frac=0.0)
SESSIONS = trading_sessions(MARKET.start, AS_OF)
PER_KIND = 5
NEED_A_SECOND_VENDOR = {"in_session_last_bar", "volume_x10"}


@pytest.fixture(scope="module")
def history() -> RawHistory:
    return with_references(SimulatedSource(MARKET).fetch(None, AS_OF))


@pytest.fixture(scope="module")
def other(history: RawHistory) -> Opinion:
    return opinion_of("other", history)


def test_a_clean_market_raises_no_alarm(history: RawHistory, other: Opinion) -> None:
    assert judge(history, AS_OF, SESSIONS).rows.is_empty()
    assert judge(history, AS_OF, SESSIONS, (other,)).rows.is_empty()


def test_with_a_second_vendor_every_kind_of_fault_is_found(history: RawHistory, other: Opinion) -> None:
    result = drill(history, AS_OF, SESSIONS, (other,), per_kind=PER_KIND)
    assert result.height == len(FaultKind) + len(MarketFaultKind) >= 35
    assert result.filter(pl.col("planted") == 0).is_empty()
    misses = result.filter(pl.col("found") < pl.col("planted") - 1)
    assert misses.is_empty(), misses
    assert int(result["found"].sum()) >= 0.97 * int(result["planted"].sum())


def test_alone_the_court_finds_nearly_all_it_can_find_alone(history: RawHistory) -> None:
    result = drill(history, AS_OF, SESSIONS, per_kind=PER_KIND)
    blind = result.filter(pl.col("kind").is_in(NEED_A_SECOND_VENDOR))
    seen = result.filter(~pl.col("kind").is_in(NEED_A_SECOND_VENDOR))
    assert blind["found"].sum() == 0  # nothing in the vendor's own fields tells
    assert int(seen["found"].sum()) >= 0.9 * int(seen["planted"].sum())
    assert result.filter(pl.col("kind") == "zero_close")["said"].to_list() == [f"price {PER_KIND}"]


def test_everything_the_court_says_has_a_name_and_a_meaning(history: RawHistory, other: Opinion) -> None:
    faults = tuple(
        Fault(kind=kind, symbol=symbol, session=SESSIONS[500])
        for kind, symbol in zip(FaultKind, MARKET.symbols, strict=False)
    )
    faulty = raw_history(plant(history.bars, faults, AS_OF), history.index, None)
    rows = judge(faulty, AS_OF, SESSIONS, (other,)).rows
    assert set(rows["check"]) <= set(CHECKS)
    assert set(rows["severity"]) <= {"info", "warn", "error"}
    assert set(rows["verdict"]) <= {"accept", "repair", "mask", "quarantine"}
    assert rows["evidence"].null_count() == 0


def test_the_same_seed_plants_the_same_faults(history: RawHistory) -> None:
    kinds = (FaultKind.CLOSE_NOT_FINAL, FaultKind.BOGUS_STEP)
    first = drill(history, AS_OF, SESSIONS, seed=3, per_kind=4, kinds=kinds)
    assert first.equals(drill(history, AS_OF, SESSIONS, seed=3, per_kind=4, kinds=kinds))


def test_a_missing_step_is_planted_only_where_there_is_one(history: RawHistory) -> None:
    bars = history.bars.filter(pl.col("symbol") == "XAA")
    level = (bars["adjusted_close_vnd"] / bars["close_vnd"]).to_numpy()
    quiet = next(row for row in range(100, bars.height) if abs(level[row] / level[row - 1] - 1) < 0.005)
    fault = Fault(kind=FaultKind.MISSING_STEP, symbol="XAA", session=bars["session"][quiet])
    assert plant(bars, (fault,), AS_OF).equals(bars)
