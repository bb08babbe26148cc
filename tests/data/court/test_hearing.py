"""The hearing: a second vendor that tells another market's prices changes nothing, an honest one is heard."""

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.data.court.drill import with_references
from vnfleet.data.court.opinions import Opinion, opinion_of
from vnfleet.data.court.quality import Examination, examine
from vnfleet.data.sources.base import RawHistory
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.market.calendar import trading_sessions

AS_OF = date(2022, 12, 30)
MARKET = SimulatedMarket(seed=11, num_symbols=18, start=date(2021, 1, 4), suspensions_per_year=0.0, illiquid_frac=0.0)
SESSIONS = trading_sessions(MARKET.start, AS_OF)
TRUE = with_references(SimulatedSource(MARKET).fetch(None, AS_OF))
GOOD = opinion_of("other", TRUE)
CLOSE = pl.col("adjusted_close_vnd")
SYMBOL = pl.col("symbol")


def court(*opinions: Opinion, history: RawHistory = TRUE, as_of: date = AS_OF) -> Examination:
    return examine(history, as_of, SESSIONS, opinions)


@pytest.fixture(scope="module")
def alone() -> Examination:
    return court()


def telling(bars: pl.DataFrame) -> Opinion:
    return Opinion("other", bars.sort("symbol", "session"))


def noisy(first: date, last: date, *, size: float = 0.02, symbols: int = len(MARKET.symbols)) -> Opinion:
    noise = pl.Series(np.exp(np.random.default_rng(3).normal(0, size, GOOD.bars.height)))
    where = pl.col("session").is_between(first, last) & SYMBOL.is_in(list(MARKET.symbols[:symbols]))
    return telling(GOOD.bars.with_columns(pl.when(where).then(CLOSE * noise).otherwise(CLOSE)))


def frozen(since: date) -> Opinion:
    before = CLOSE.filter(pl.col("session") <= since).last().over("symbol")
    return telling(
        GOOD.bars.with_columns(pl.when(pl.col("session") > since).then(before).otherwise(CLOSE)).drop_nulls()
    )


def shifted() -> Opinion:
    return telling(GOOD.bars.with_columns(CLOSE.shift(1).over("symbol")).drop_nulls())


def shuffled() -> Opinion:
    names = MARKET.symbols
    return telling(GOOD.bars.with_columns(SYMBOL.replace(dict(zip(names, names[1:] + names[:1], strict=True)))))


def unadjusted() -> Opinion:
    return telling(
        TRUE.bars.select("symbol", "session", pl.col("close_vnd").alias(CLOSE.meta.output_name()), "volume_shares")
    )


def refusals(examined: Examination) -> list[str]:
    rows = examined.report.rows.filter(pl.col("check") == "opinion_unheard")
    assert set(rows.select("symbol", "severity", "verdict").rows()) <= {("*", "warn", "accept")}
    return rows.sort("session").get_column("evidence").to_list()


BAD = {
    "a session late": (shifted(), "of 2021Q1 to 2022Q4"),
    "under other symbols": (shuffled(), "of 2021Q1 to 2022Q4"),
    "one noisy quarter": (noisy(date(2022, 4, 1), date(2022, 6, 30)), "of 2022Q2"),
    "noise for months": (noisy(date(2021, 8, 2), date(2022, 4, 29)), "of 2021Q3 to 2022Q2"),
    "frozen": (frozen(date(2022, 7, 5)), "of 2022Q3 to 2022Q4"),
    "not adjusted": (unadjusted(), "steps: it is not adjusted, and not heard at all"),
    "late, every other day": (
        telling(shifted().bars.filter(pl.col("session").dt.day() % 2 == 0)),
        "of 2021Q1 to 2022Q4",
    ),
    "one symbol, another's": (telling(shuffled().bars.filter(SYMBOL.eq(MARKET.symbols[0]))), "of 2021Q1 to 2022Q4"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_vendor_that_tells_other_prices_changes_nothing(kind: str, alone: Examination) -> None:
    opinion, words = BAD[kind]
    examined = court(opinion)
    assert examined.bars.equals(alone.bars)
    assert examined.events.equals(alone.events)
    said = refusals(examined)
    assert len(said) == 1
    assert said[0].startswith("other ")
    assert words in said[0]


def test_an_honest_vendor_is_heard_on_any_basis(alone: Examination) -> None:
    for basis in (1.0, 2.0, 0.37, 0.001):
        examined = court(telling(GOOD.bars.with_columns(CLOSE * basis)))
        assert refusals(examined) == []
        assert examined.bars.equals(alone.bars) or basis < 1.0  # its rounding to 10 VND no longer shows


def early(symbols: int, days: list[date]) -> RawHistory:
    """The primary's closes of some days 1 % off, as if read before the close, without a reference to tell it."""
    where = SYMBOL.is_in(list(MARKET.symbols[:symbols])) & pl.col("session").is_in(days)
    bars = TRUE.bars.with_columns(
        *(
            pl.when(where).then((pl.col(name) * 1.01 / 50).round() * 50).otherwise(name).alias(name)
            for name in ("close_vnd", "adjusted_close_vnd", "high_vnd")
        ),
        stated_reference_vnd=pl.lit(None, pl.Float64),
    )
    return RawHistory(bars, TRUE.index, TRUE.listings)


def test_a_vendor_is_heard_about_whole_days_on_which_the_primary_errs() -> None:
    days = [date(2022, 4, 20), date(2022, 6, 1)]  # 4 of 62 sessions have other returns for all
    examined = court(GOOD, history=early(len(MARKET.symbols), days))
    assert refusals(examined) == []
    rows = examined.report.rows.filter(pl.col("session").is_in(days) & (pl.col("check") == "not_final"))
    assert rows.height > len(MARKET.symbols)


def test_after_a_quarter_that_is_not_heard_the_vendor_is_heard_again() -> None:
    # a close the primary has wrong, before and after the quarter the other has wrong
    before, after = date(2022, 3, 15), date(2022, 8, 16)
    history, quarter = early(1, [before, after]), noisy(date(2022, 4, 1), date(2022, 6, 30))
    found = court(quarter, history=history).report.rows.filter(pl.col("check") == "not_final")
    assert found.get_column("session").to_list() == [before, after]
    unheard = court(quarter, history=early(1, [date(2022, 5, 17)])).report.rows
    assert unheard.filter(pl.col("check") == "not_final").is_empty()


def test_no_return_leads_across_a_quarter_that_is_not_heard() -> None:
    # after the noise the vendor's level is another one: no step of the market, and no reference to tell
    history, quarter = early(0, []), noisy(date(2022, 4, 1), date(2022, 6, 30))
    moved = pl.when(pl.col("session") > date(2022, 6, 30)).then((CLOSE * 0.105).round() * 10).otherwise(CLOSE)
    examined = court(telling(quarter.bars.with_columns(moved)), history=history)
    assert len(refusals(examined)) == 1
    steps = examined.report.rows.filter(pl.col("check").is_in(["missing_step", "wrong_step", "disputed_step"]))
    assert steps.filter(pl.col("session").is_between(date(2022, 6, 30), date(2022, 7, 8))).is_empty()


def test_a_running_quarter_with_too_few_returns_is_judged_with_those_before() -> None:
    lying, honest = noisy(date(2021, 1, 1), AS_OF), noisy(date(2022, 10, 1), AS_OF)
    day = date(2022, 10, 6)  # the fourth session of the quarter
    assert "of 2021Q1 to 2022Q4" in refusals(court(lying, as_of=day))[0]
    assert refusals(court(honest, as_of=day)) == []


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9), st.integers(0, 99))
def test_a_vendor_is_heard_up_to_one_return_in_twenty(percent: int, seed: int) -> None:
    """A close that is off makes two returns differ: 1 % of closes is 2 % of the returns, 10 % of closes is 19 %."""
    rng = np.random.default_rng(seed)
    for share, heard in ((0.01, True), (0.10, False)):
        wrong = pl.Series(rng.random(GOOD.bars.height) < share)
        few = pl.when(wrong).then(CLOSE * (1 + 0.01 * percent)).otherwise(CLOSE)
        assert (refusals(court(telling(GOOD.bars.with_columns(few)))) == []) == heard


def test_without_opinions_or_words_nothing_is_refused() -> None:
    nothing = Opinion("silent", GOOD.bars.clear())
    strangers = Opinion("strange", GOOD.bars.with_columns(pl.lit("ZZZ").add(SYMBOL).alias("symbol")))
    assert refusals(court(nothing, strangers)) == []
