"""The universe of the panel: who qualified when, dead names included, and what is said about survivors."""

import statistics
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.universe import MEMBER_SCHEMA, UniverseChoice, collected_universe, traded_values
from vnfleet.market.calendar import trading_sessions

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "cafef_price_history_2012_2024.parquet"
DAYS = trading_sessions(date(2024, 1, 2), date(2024, 6, 28))[:60]
AS_OF = DAYS[-1]
Market = dict[str, list[float | None]]


def values_of(market: Market) -> pl.DataFrame:
    """One row per symbol and session that has a value; the lists start at the first day."""
    rows = [
        (symbol, DAYS[at], value)
        for symbol, line in market.items()
        for at, value in enumerate(line)
        if value is not None
    ]
    return pl.DataFrame(
        rows,
        schema={"symbol": pl.String, "session": pl.Date, "traded_value_vnd": pl.Float64},
        orient="row",
    )


def small() -> Market:
    """DEAD is the best until it stops after session 20; NEW starts on session 30 and leads; LOW always trails."""
    return {
        "DEAD": [9.0] * 20,
        "LOW": [1.0] * 60,
        "MID": [5.0] * 60,
        "NEW": [None] * 30 + [50.0] * 30,
    }


def choice(market: Market, **settings: object) -> UniverseChoice:
    wanted = {"count": 2, "window_sessions": 10, "days_of_folds": [DAYS[15]], **settings}
    return collected_universe(values_of(market), AS_OF, **wanted)  # type: ignore[arg-type]


def test_a_name_that_died_is_kept_for_the_fold_it_could_be_traded_in() -> None:
    found = choice(small())
    assert found.symbols == ("DEAD", "MID", "NEW")
    today = AS_OF + timedelta(days=1)
    assert found.members.rows() == [
        ("DEAD", DAYS[15], "most_traded", 1, 9.0),
        ("MID", DAYS[15], "most_traded", 2, 5.0),
        ("MID", today, "most_traded", 2, 5.0),
        ("NEW", today, "most_traded", 1, 50.0),
    ]
    assert found.members.schema == pl.Schema(MEMBER_SCHEMA)
    assert choice(small(), days_of_folds=[]).symbols == ("MID", "NEW")


def test_why_a_symbol_is_there_is_said_in_words() -> None:
    found = choice(small(), pinned=["LOW"], count=3)
    assert found.why("LOW") == "LOW is pinned"
    assert found.why("DEAD") == f"DEAD was among the 3 most traded before {DAYS[15]}"
    assert found.why("XYZ") == "XYZ was never among the 3 most traded"


def test_survivorship_names_the_dead_of_each_fold() -> None:
    found = choice(small())
    (fold,) = found.survivorship
    assert (fold.before, fold.num_chosen, fold.stopped) == (DAYS[15], 2, ("DEAD",))
    assert fold.sentence == f"Of the 2 symbols chosen before {DAYS[15]}, 1 (50.0%) are no longer traded: DEAD."
    assert found.stopped_in_source == ("DEAD",)
    assert found.warning is None
    assert found.statement.endswith(f"1 of the 4 symbols of this source have not traded in the 25 sessions to {AS_OF}.")


def test_a_source_of_survivors_only_carries_a_warning() -> None:
    alive = {symbol: line for symbol, line in small().items() if symbol != "DEAD"}
    found = choice(alive)
    assert found.survivorship[0].sentence == f"Of the 2 symbols chosen before {DAYS[15]}, all are still traded."
    assert found.warning is not None
    assert "survivors only" in found.warning
    assert "upper bound" in found.warning
    assert found.statement.endswith(found.warning)


def test_stopped_means_no_trade_in_the_last_25_sessions() -> None:
    def stopped(last: int) -> tuple[str, ...]:
        return choice({**small(), "DEAD": [9.0] * last}).stopped_in_source

    assert stopped(35) == ("DEAD",)  # sessions 35..59 have no trade: 25 of them
    assert stopped(36) == ()


def test_days_without_a_trade_count_as_zero() -> None:
    every_third = [9.0 if at % 3 == 0 else None for at in range(60)]
    found = choice({"MID": [5.0] * 60, "RARE": every_third, "LOW": [1.0] * 60})
    assert "RARE" not in found.symbols  # it traded on 4 of 10 sessions: its median is 0
    assert choice({"MID": [5.0] * 60, "RARE": every_third}).symbols == ("MID",)  # even where nobody else is left


def test_ties_go_to_the_first_name() -> None:
    market: Market = {name: [5.0] * 60 for name in ("CCC", "AAA", "BBB")}
    assert choice(market).symbols == ("AAA", "BBB")


def test_repeated_rows_phantom_weekends_and_absent_values_do_no_harm() -> None:
    clean = values_of(small())
    saturday = DAYS[0] + timedelta(days=5 - DAYS[0].weekday())
    dirty = pl.concat(
        [
            clean,
            clean.head(5),
            pl.DataFrame({"symbol": ["LOW"], "session": [saturday], "traded_value_vnd": [1e12]}),
            pl.DataFrame(
                {
                    "symbol": ["BAD"] * 120 + ["WORSE"] * 60,
                    "session": DAYS * 3,
                    "traded_value_vnd": [float("nan")] * 60 + [float("inf")] * 60 + [-5.0, None] * 30,
                },
                schema=clean.schema,
            ),
        ]
    )
    settings_ = {"count": 2, "window_sessions": 10, "days_of_folds": [DAYS[15]]}
    found = collected_universe(dirty, AS_OF, **settings_)  # type: ignore[arg-type]
    assert found.members.equals(collected_universe(clean, AS_OF, **settings_).members)  # type: ignore[arg-type]


def test_the_value_of_a_raw_bar_is_close_times_shares_and_unknown_stays_unknown() -> None:
    bars = pl.DataFrame(
        {
            "symbol": ["AAA"] * 3,
            "session": DAYS[:3],
            "close_vnd": [20_000.0, None, 21_000.0],
            "adjusted_close_vnd": [1.0, 1.0, 1.0],
            "volume_shares": [300, 300, None],
        }
    )
    assert traded_values(bars).rows() == [("AAA", DAYS[0], 6e6), ("AAA", DAYS[1], None), ("AAA", DAYS[2], None)]


def test_a_given_market_axis_decides_which_sessions_count() -> None:
    """A day on which only the index has a bar is a session too: everybody's value is 0 there."""
    quiet: Market = {
        "AAA": [5.0 if at % 2 else None for at in range(60)],
        "BBB": [1.0 if at % 2 else None for at in range(60)],
    }
    assert choice(quiet, days_of_folds=[]).symbols == ("AAA", "BBB")
    assert choice(quiet, sessions=DAYS, window_sessions=11, days_of_folds=[]).symbols == ("AAA", "BBB")
    assert choice(quiet, sessions=DAYS[:-1], window_sessions=11, days_of_folds=[]).symbols == ()


def test_a_universe_that_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(BadDataError, match="not enough sessions"):
        choice(small(), days_of_folds=[DAYS[9]])
    with pytest.raises(BadDataError, match="pinned"):
        choice(small(), pinned=["XYZ"])
    with pytest.raises(BadDataError, match="lack columns"):
        collected_universe(values_of(small()).drop("session"), AS_OF)
    with pytest.raises(UsageError, match="cannot be chosen"):
        choice(small(), pinned=["LOW"], excluded=["LOW"])
    with pytest.raises(UsageError, match="after the last day"):
        choice(small(), days_of_folds=[AS_OF + timedelta(days=2)])


_lines = st.lists(st.one_of(st.none(), st.integers(1, 9).map(float)), min_size=60, max_size=60)
_markets = st.dictionaries(st.sampled_from(["AAA", "BBB", "CCC", "DDD", "EEE"]), _lines, min_size=1)


@settings(max_examples=25, deadline=None)
@given(market=_markets, count=st.integers(1, 4), fold=st.integers(12, 59), seed=st.integers(0, 99))
def test_the_choice_is_the_union_of_each_days_best_by_hand(market: Market, count: int, fold: int, seed: int) -> None:
    wanted = {"count": count, "window_sessions": 11, "days_of_folds": [DAYS[fold]], "sessions": DAYS}
    shuffled = values_of(market).sample(fraction=1.0, shuffle=True, seed=seed)
    found = collected_universe(shuffled, AS_OF, **wanted)  # type: ignore[arg-type]
    expected: set[str] = set()
    for end in (fold, 60):
        medians = {
            symbol: statistics.median([value or 0.0 for value in line[end - 11 : end]])
            for symbol, line in market.items()
        }
        best = sorted((name for name in medians if medians[name] > 0), key=lambda name: (-medians[name], name))
        expected |= set(best[:count])
    assert found.symbols == tuple(sorted(expected))


@settings(max_examples=25, deadline=None)
@given(market=_markets, later=_markets, fold=st.integers(12, 40))
def test_no_later_day_changes_who_qualified_for_a_fold(market: Market, later: Market, fold: int) -> None:
    def before_the_fold(one: Market) -> list[tuple[object, ...]]:
        found = collected_universe(
            values_of(one), AS_OF, count=3, window_sessions=10, days_of_folds=[DAYS[fold]], sessions=DAYS
        )
        return found.members.filter(pl.col("before") == DAYS[fold]).rows()

    other = {symbol: [*line[:fold], *later.get(symbol, line)[fold:]] for symbol, line in market.items()}
    other["ZZZ"] = [None] * fold + [99.0] * (60 - fold)
    assert before_the_fold(market) == before_the_fold(other)


@settings(max_examples=25, deadline=None)
@given(market=_markets, count=st.integers(1, 4))
def test_pins_are_always_in_exclusions_never_and_a_larger_count_keeps_everybody(market: Market, count: int) -> None:
    names = sorted(name for name, line in market.items() if any(line))
    if not names:
        return
    plain = choice(market, count=count, sessions=DAYS)
    assert set(plain.symbols) <= set(choice(market, count=count + 1, sessions=DAYS).symbols)
    pinned = choice(market, count=count, pinned=names[:1], sessions=DAYS)
    assert names[0] in pinned.symbols
    assert names[0] not in choice(market, count=count, excluded=names[:1], sessions=DAYS).symbols
    assert (pinned.members.group_by("before").len().get_column("len") <= count).all()


@pytest.mark.real_data
def test_the_real_capture_is_one_of_survivors_and_says_so() -> None:
    if not REAL.exists():
        pytest.skip("the real price file carries no licence and is not here")
    values = (
        pl.scan_parquet(REAL)
        .filter(pl.col("Symbol") != "VNINDEX")
        .select(
            symbol="Symbol",
            session=pl.col("Ngay").str.to_date("%d/%m/%Y"),
            traded_value_vnd=pl.col("GiaDongCua").cast(pl.Float64)
            * 1000
            * pl.col("KhoiLuongKhopLenh").cast(pl.Float64),
        )
        .collect()
    )
    starts = [date(year, 1, 3) for year in (2020, 2022, 2024)]
    found = collected_universe(values, date(2024, 12, 31), days_of_folds=starts)
    assert found.num_in_source == 289
    assert found.warning is not None  # the capture holds what was most traded in 2024
    assert [fold.stopped for fold in found.survivorship] == [()] * 3
    assert [fold.num_chosen for fold in found.survivorship] == sorted(fold.num_chosen for fold in found.survivorship)
    assert found.survivorship[0].num_chosen < 289  # many of the 289 were not listed in 2020 yet
    best = found.members.filter((pl.col("before") == date(2025, 1, 1)) & (pl.col("rank") <= 102))
    stated = pl.read_csv(REAL.with_name("universe_289.csv")).head(102)
    common = set(best.get_column("symbol")) & set(stated.get_column("Symbol"))
    assert len(common) == 102  # ranked by the capture itself, over the 250 sessions of 2024
