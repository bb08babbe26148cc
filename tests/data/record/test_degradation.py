"""Feeds that lie: what would make the record worse is named; single oddities and real weeks are not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from vnfleet.data.court.checks import MAX_VOLUME_SHARES, check_bars
from vnfleet.data.record.degradation import Tolerance, degradation
from vnfleet.data.sources.base import INDEX_SCHEMA, RawHistory, raw_history
from vnfleet.data.sources.files import FilesSource
from vnfleet.market.calendar import trading_sessions

REAL_DATA = Path(__file__).parents[3].parent / "shared" / "data"
DAYS = trading_sessions(date(2023, 1, 3), date(2023, 12, 29))
LAST, AS_OF = DAYS[-6], DAYS[-1]
SYMBOLS = [f"S{number:02d}" for number in range(40)]
PRICES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
NEW = pl.col("session") > LAST
FIVE = pl.col("symbol") < "S05"
HALF = pl.col("symbol") < "S20"
ODD = pl.col("symbol") == "S03"
EVERYBODY = pl.lit(value=True)
Change = Callable[[pl.DataFrame], pl.DataFrame]


def market() -> pl.DataFrame:
    """Return 40 symbols whose closes lie between 10,000 and 400,000 VND and move by 1 % a day."""
    frames = []
    for number, symbol in enumerate(SYMBOLS):
        close = [10_000.0 * (number + 1) * (1.01 if place % 2 else 1.0) for place in range(len(DAYS))]
        frames.append(
            pl.DataFrame({"symbol": symbol, "session": DAYS, "close_vnd": close, "volume_shares": 1000}).with_columns(
                open_vnd="close_vnd",
                high_vnd=pl.col("close_vnd") * 1.02,
                low_vnd=pl.col("close_vnd") * 0.98,
                adjusted_close_vnd="close_vnd",
            )
        )
    return pl.concat(frames)


MARKET = market()
INDEX = pl.DataFrame({"session": DAYS, "close_points": [1000.0 + place for place in range(len(DAYS))]}, INDEX_SCHEMA)
STORED = raw_history(MARKET.filter(~NEW), INDEX.filter(~NEW), None)
NOTHING = raw_history(MARKET.clear(), None, None)


def scaled(there: pl.Expr, factor: float) -> Change:
    return lambda bars: bars.with_columns(pl.when(there).then(pl.col(name) * factor).otherwise(name) for name in PRICES)


def twice(there: pl.Expr, factor: float = 1.03) -> Change:
    return lambda bars: pl.concat([bars, scaled(there, factor)(bars.filter(there))])


def swapped(there: pl.Expr) -> Change:
    return lambda bars: bars.with_columns(
        high_vnd=pl.when(there).then("low_vnd").otherwise("high_vnd"),
        low_vnd=pl.when(there).then("high_vnd").otherwise("low_vnd"),
    )


def with_volume(there: pl.Expr, volume: int | None) -> Change:
    return lambda bars: bars.with_columns(
        volume_shares=pl.when(there).then(pl.lit(volume, pl.Int64)).otherwise("volume_shares")
    )


def of_the_neighbour(bars: pl.DataFrame) -> pl.DataFrame:
    after = dict(zip(SYMBOLS, [*SYMBOLS[20:], *SYMBOLS[:20]], strict=True))
    return bars.with_columns(symbol=pl.when(NEW).then(pl.col("symbol").replace(after)).otherwise("symbol"))


def reasons(change: Change, before: RawHistory = STORED, index: pl.DataFrame = INDEX) -> str:
    return "; ".join(degradation(before, raw_history(change(MARKET), index, None), AS_OF))


def test_the_next_week_of_the_same_feed_has_no_reason() -> None:
    assert reasons(lambda bars: bars) == ""
    assert reasons(lambda bars: bars, NOTHING) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (twice(HALF), r"^50.0% of the sessions of symbols are told several times, differently \(S00, .*\); 0.0% of"),
        (
            twice(NEW & (pl.col("symbol") < "S15")),
            "^37.5% of the new sessions of symbols are told several times, differently",
        ),
        (with_volume(NEW, 0), r"^0% of the bars of new sessions have volume; 100% are usual$"),
        (with_volume(NEW, None), "^0% of the bars of new sessions have volume"),
        (with_volume(NEW & (pl.col("symbol") >= "S15"), 0), "^38% of the bars of new sessions have volume"),
        (scaled(NEW, 1000.0), r"^the first new closes of 40 of 40 symbols do not continue .* \(median x990.1\): S00"),
        (scaled(NEW & FIVE, 10.0), r"^the first new closes of 5 of 40 .* \(median x(9\.9|10)"),
        (scaled(pl.col("session") > DAYS[-3], 0.001), rf"^the new closes of {DAYS[-2]} of 40 of 40 symbols"),
        (of_the_neighbour, "^the first new closes of .* of 40 symbols do not continue"),
        (swapped(EVERYBODY), "^100.0% of the sessions of symbols have a high below the low"),
        (swapped(NEW), "^100.0% of the new sessions of symbols have a high below the low"),
        (scaled(FIVE & ~NEW, 0.9), r"told otherwise \(median x1\), most of S00, S01, S02, S03, S04$"),
    ],
)
def test_a_feed_that_lies_about_many_symbols_is_named(change: Change, reason: str) -> None:
    found = degradation(STORED, raw_history(change(MARKET), INDEX, None), AS_OF)
    assert pl.Series(found).str.contains(reason).any(), found


@pytest.mark.parametrize(
    "change",
    [
        twice(ODD & NEW),
        twice(EVERYBODY, 1.0),  # identical rows are no contradiction
        with_volume(NEW & HALF, 0),
        scaled(NEW & (pl.col("symbol") < "S02"), 0.5),
        swapped(ODD),
        scaled(ODD, 1000.0),  # one symbol told in another unit: the court's affair
        scaled(FIVE & (pl.col("session") >= AS_OF), 0.7),
    ],
)
def test_what_is_odd_about_few_symbols_is_left_to_the_court(change: Change) -> None:
    assert reasons(change) == ""


def test_good_weeks_pass_after_a_feed_that_told_half_of_the_symbols_twice_was_merged() -> None:
    before = raw_history(twice(HALF)(MARKET).filter(~NEW), INDEX.filter(~NEW), None)
    assert reasons(lambda bars: bars, before) == ""


def test_a_symbol_told_twice_does_not_hide_one_that_is_missing() -> None:
    lacking = MARKET.filter(~NEW | HALF)  # 20 symbols, each told twice: 40 rows
    assert "only 20 symbols have a price" in reasons(lambda _: twice(NEW & HALF)(lacking))


@pytest.mark.parametrize(
    ("there", "refused"), [(EVERYBODY, True), (HALF, True), (pl.col("symbol") < "S06", False), (ODD, False)]
)
def test_the_first_collection_refuses_more_than_a_fifth_of_malformed_sessions(
    there: pl.Expr,
    refused: bool,
) -> None:
    assert ("told several times, differently" in reasons(twice(there), NOTHING)) is refused
    assert ("have a high below the low" in reasons(swapped(there), NOTHING)) is refused


def test_one_of_two_symbols_told_in_another_unit_is_still_a_reason() -> None:
    before, after = (
        STORED.only(["S02", "S03"]),
        scaled(ODD & ~NEW, 1000.0)(MARKET.filter(pl.col("symbol").is_in(["S02", "S03"]))),
    )
    (reason,) = degradation(before, raw_history(after, INDEX, None), AS_OF)
    assert reason.startswith("50.0% of")
    assert reason.endswith("most of S03")


@pytest.mark.parametrize(("factor", "refused"), [(10.0, True), (0.8, True), (1.16, True), (0.9, False), (1.1, False)])
def test_a_new_index_bar_that_leaves_the_band_is_a_reason(factor: float, refused: bool) -> None:
    points = pl.when(pl.col("session") >= DAYS[-3]).then(pl.col("close_points") * factor).otherwise("close_points")
    found = reasons(lambda bars: bars, index=INDEX.with_columns(close_points=points))
    assert (f"on {DAYS[-3]}" in found) is refused
    assert (found == "") is not refused


def test_a_source_of_adjusted_closes_only_is_judged_on_the_base_it_tells() -> None:
    no_raw = [pl.lit(None, pl.Float64).alias(name) for name in PRICES[:-1]]
    before = raw_history(MARKET.filter(~NEW).with_columns(no_raw), INDEX.filter(~NEW), None)
    rebased = scaled(~NEW, 0.5)  # a whole market that splits: its stored sessions are told on the new base
    split = pl.col("adjusted_close_vnd") * 0.5
    assert reasons(lambda bars: bars.with_columns(no_raw).with_columns(adjusted_close_vnd=split), before) == ""
    assert "do not continue" in reasons(lambda bars: rebased(bars).with_columns(no_raw), before)


def test_the_limits_are_settings() -> None:
    lax = Tolerance(jumps=1.0)
    assert degradation(STORED, raw_history(scaled(NEW, 10.0)(MARKET), INDEX, None), AS_OF, lax) == ()
    with pytest.raises(ValueError, match="index_move"):
        Tolerance(index_move=-0.1)


def test_a_volume_of_more_shares_than_any_company_has_is_masked() -> None:
    bars = raw_history(MARKET.filter(ODD).head(3), None, None).bars
    volumes = pl.Series("volume_shares", [MAX_VOLUME_SHARES, MAX_VOLUME_SHARES + 1, 2**62])
    usable, found = check_bars(bars.with_columns(volumes))
    assert usable.get_column("session").to_list() == [DAYS[0]]
    masked = pl.concat(found).filter(pl.col("check") == "volume")
    assert masked.get_column("session").to_list() == [DAYS[1], DAYS[2]]


@pytest.fixture(scope="module")
def real() -> RawHistory:
    if not REAL_DATA.exists():
        pytest.skip("the shared real data is not there")
    source = FilesSource(REAL_DATA / "cafef_price_history_2012_2024.parquet", REAL_DATA / "universe_289.csv")
    return source.fetch(None, date(2024, 12, 31))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (date(2024, 12, 20), date(2024, 12, 27)),
        (date(2022, 4, 1), date(2022, 4, 8)),
        (date(2020, 3, 6), date(2020, 3, 13)),  # limit days
        (date(2020, 12, 31), date(2021, 1, 8)),  # volumes as never before
        (date(2018, 1, 19), date(2018, 1, 26)),  # HOSE stood still for two days
        (date(2015, 1, 5), date(2024, 12, 27)),  # a break of ten years
    ],
)
def test_real_weeks_have_no_reason(real: RawHistory, before: date, after: date) -> None:
    assert degradation(real.until(before), real.until(after), after) == ()
