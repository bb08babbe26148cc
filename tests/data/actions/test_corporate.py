"""Corporate kinds: round sums and round ratios found through the vendor's rounding, announcements believed first."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.data.actions.adjustment import EVENTS_SCHEMA, chain_factors
from vnfleet.data.actions.announced import ANNOUNCED_SCHEMA
from vnfleet.data.actions.corporate import CORPORATE_SCHEMA, MISSING_SCHEMA, CorporateActions, corporate_actions
from vnfleet.data.court.quality import examine
from vnfleet.data.sources.files import FilesSource
from vnfleet.market.calendar import trading_sessions

DATA = Path(__file__).parents[3].parent / "shared" / "data"
DAYS = trading_sessions(date(2018, 1, 2), date(2023, 12, 29))
EX_ROW = 40
EX_DATE = DAYS[EX_ROW]


def told(reference: float, *, before: float = 100_000.0, symbol: str = "AAA", level: float = 1.0) -> pl.DataFrame:
    """60 bars at `before`, from `EX_DATE` on at the reference price; adjusted on `level`, rounded to 10 VND."""
    close = np.array([before] * EX_ROW + [reference] * 20)
    adjusted = np.round(np.where(np.arange(60) < EX_ROW, close * reference / before, close) * level, -1)
    return pl.DataFrame(
        {
            "symbol": [symbol] * 60,
            "session": DAYS[:60],
            "close_vnd": close,
            "adjusted_close_vnd": adjusted,
            "volume_shares": [1000] * 60,
        }
    )


def named(bars: pl.DataFrame, announced: pl.DataFrame | None = None, covered: date | None = None) -> CorporateActions:
    _, events = chain_factors(bars)
    return corporate_actions(events, bars, announced, covered)


def announced(*rows: tuple[str, date, str, float | None, float | None]) -> pl.DataFrame:
    return pl.DataFrame([(*row, "vndirect") for row in rows], schema=ANNOUNCED_SCHEMA, orient="row")


@pytest.mark.parametrize(
    ("reference", "kind", "cash", "ratio"),
    [
        (98_500.0, "cash_dividend", 1500.0, None),
        (99_200.0, "cash_dividend", 800.0, None),
        (100_000.0 / 1.15, "stock_dividend_or_bonus", None, 0.15),
        (50_000.0, "stock_dividend_or_bonus", None, 1.0),
        (25_000.0, "split", None, 3.0),
        ((100_000.0 - 1000.0) / 1.15, "rights_or_mixed", None, None),  # FPT's way: 10 % in cash and 15 % in shares
        ((100_000.0 + 0.37 * 14_000.0) / 1.37, "rights_or_mixed", None, None),
    ],
)
def test_round_sums_are_cash_and_round_ratios_are_shares(
    reference: float, kind: str, cash: float | None, ratio: float | None
) -> None:
    row = named(told(reference)).actions.row(0, named=True)
    assert (row["session"], row["kind"]) == (EX_DATE, kind)
    assert row["cash_vnd"] == cash
    assert row["ratio_frac"] == (None if ratio is None else pytest.approx(ratio))
    assert row["previous_close_vnd"] == 100_000.0
    assert (row["confirmed"], row["announced_ex_date"]) == (None, None)


def test_what_rounding_hides_is_unknown() -> None:
    # at 1,500 VND adjusted the vendor's 10 VND leave 17.4 % to 18.8 % new shares, or 4,440 to 4,740 VND
    row = named(told(25_400.0, before=30_000.0, level=0.05)).actions.row(0, named=True)
    assert row["kind"] == "unknown"
    assert row["probability"] < 0.7


def test_an_announcement_confirms_and_its_kind_wins() -> None:
    bars = told(25_400.0, before=30_000.0, level=0.05)
    got = named(bars, announced(("AAA", DAYS[EX_ROW + 1], "stock_dividend", None, 0.18)))
    row = got.actions.row(0, named=True)
    assert (row["kind"], row["confirmed"], row["probability"]) == ("stock_dividend_or_bonus", True, 1.0)
    assert (row["announced_ex_date"], row["announced_source"]) == (DAYS[EX_ROW + 1], "vndirect")
    assert (row["cash_vnd"], row["ratio_frac"]) == (None, 0.18)
    assert got.missing.is_empty()
    assert got.unconfirmed.is_empty()


def test_cash_and_shares_of_one_day_are_confirmed_together() -> None:
    both = announced(("AAA", EX_DATE, "cash_dividend", 1000.0, None), ("AAA", EX_DATE, "bonus", None, 0.15))
    row = named(told(99_000.0 / 1.15), both).actions.row(0, named=True)
    assert (row["kind"], row["confirmed"]) == ("rights_or_mixed", True)
    assert (row["cash_vnd"], row["ratio_frac"]) == (1000.0, 0.15)


def test_rights_confirm_any_step_up_to_that_of_a_bonus() -> None:
    rights = announced(("AAA", EX_DATE, "rights", None, 0.37))
    row = named(told((100_000.0 + 0.37 * 14_000.0) / 1.37), rights).actions.row(0, named=True)
    assert (row["kind"], row["confirmed"]) == ("rights_or_mixed", True)
    too_much = named(told(50_000.0), rights)
    assert too_much.actions.row(0, named=True)["confirmed"] is False
    assert too_much.missing.is_empty()  # rights at the market price imply no step at all


@pytest.mark.parametrize(
    "row",
    [
        ("AAA", EX_DATE, "stock_dividend", None, 0.25),  # another size
        ("AAA", DAYS[EX_ROW + 4], "stock_dividend", None, 0.15),  # too far away
        ("BBB", EX_DATE, "stock_dividend", None, 0.15),
    ],
)
def test_what_does_not_agree_does_not_confirm(row: tuple[str, date, str, float | None, float | None]) -> None:
    got = named(told(100_000.0 / 1.15), announced(row), DAYS[0])
    assert got.actions.get_column("confirmed").to_list() == [False]
    assert got.unconfirmed.height == 1
    assert got.missing.height == (row[0] == "AAA")


def test_steps_before_the_announcements_begin_are_not_called_unconfirmed() -> None:
    later = announced(("AAA", DAYS[EX_ROW + 10], "cash_dividend", 100.0, None))
    got = named(told(100_000.0 / 1.15), later)
    assert got.actions.get_column("confirmed").to_list() == [None]
    assert got.unconfirmed.is_empty()
    assert got.missing.is_empty()  # 100 VND of 87,000: too little to need a step


def test_an_announced_action_without_a_step_is_a_missing_adjustment() -> None:
    # as MWG on 2021-08-30: the bonus is in the raw prices, the vendor's adjusted close fell with them
    close = np.array([100_000.0] * EX_ROW + [67_000.0] * 20)
    bars = told(100_000.0).with_columns(close_vnd=close, adjusted_close_vnd=close)
    got = named(bars, announced(("AAA", EX_DATE, "bonus", None, 0.5)))
    assert got.actions.is_empty()
    assert got.missing.row(0, named=True) == {
        "symbol": "AAA",
        "ex_date": EX_DATE,
        "kind": "stock_dividend_or_bonus",
        "implied_step": 1.5,
        "absorbed": True,
        "source": "vndirect",
    }
    assert got.quarantined.get_column("reason").to_list() == ["unexplained"]
    # and one that nobody adjusted, nor the prices show
    quiet = named(told(100_000.0), announced(("AAA", EX_DATE, "bonus", None, 0.5)))
    assert quiet.missing.get_column("absorbed").to_list() == [False]


def test_an_announcement_outside_the_history_is_not_missing() -> None:
    outside = announced(("AAA", date(2017, 6, 1), "bonus", None, 0.5), ("AAA", date(2030, 6, 3), "bonus", None, 0.5))
    assert named(told(100_000.0), outside).missing.is_empty()


def test_wrong_way_and_rounding_steps_are_quarantined() -> None:
    bars = told(100_000.0)
    events = pl.DataFrame(
        [
            ("AAA", DAYS[10], 0.9, "wrong_way"),
            ("AAA", DAYS[20], 0.97, "adjustment"),
            ("AAA", DAYS[30], 1.0004, "adjustment"),
            ("AAA", DAYS[40], 1.3, "flip"),
        ],
        schema=EVENTS_SCHEMA,
        orient="row",
    )
    got = corporate_actions(events, bars)
    assert got.actions.is_empty()
    assert got.quarantined.get_column("reason").to_list() == ["wrong_way", "wrong_way", "rounding", "flip"]


def test_no_events_are_no_actions() -> None:
    got = named(told(100_000.0))
    assert got.actions.schema == pl.Schema(CORPORATE_SCHEMA)
    assert got.missing.schema == pl.Schema(MISSING_SCHEMA)
    assert got.actions.is_empty()


@settings(max_examples=40, deadline=None)
@given(
    cash=st.integers(5, 50).map(lambda hundreds: 100.0 * hundreds),
    ratio=st.sampled_from([0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0]),
    before=st.integers(600, 2000).map(lambda hundreds: 100.0 * hundreds),
    late=st.integers(-3, 3),
)
def test_whatever_was_announced_is_confirmed_by_its_own_step(
    cash: float, ratio: float, before: float, late: int
) -> None:
    rows: list[tuple[str, date, str, float | None, float | None]] = [
        ("AAA", DAYS[EX_ROW + late], "cash_dividend", cash, None)
    ]
    if ratio:
        rows.append(("AAA", DAYS[EX_ROW + late], "stock_dividend", None, ratio))
    got = named(told((before - cash) / (1 + ratio), before=before), announced(*rows))
    assert got.actions.get_column("confirmed").to_list() == [True]
    assert got.missing.is_empty()


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here")
def test_dividends_that_were_published_are_found_in_real_prices() -> None:
    as_of = date(2024, 12, 31)
    source = FilesSource(DATA / "cafef_price_history_2012_2024.parquet", DATA / "universe_289.csv")
    examined = examine(source.fetch(None, as_of), as_of, None)
    actions = corporate_actions(examined.events, examined.bars).actions
    published = {  # what the companies announced: VND a share, new shares per old one
        ("VNM", date(2022, 7, 6)): ("cash_dividend", 2450.0),
        ("VNM", date(2023, 8, 3)): ("cash_dividend", 2450.0),
        ("VNM", date(2021, 6, 7)): ("cash_dividend", 1100.0),
        ("FPT", date(2022, 8, 24)): ("cash_dividend", 1000.0),
        ("FPT", date(2023, 8, 24)): ("cash_dividend", 1000.0),
        ("DGC", date(2022, 12, 19)): ("cash_dividend", 3000.0),
        ("MWG", date(2022, 6, 16)): ("stock_dividend_or_bonus", 1.0),
        ("HPG", date(2024, 5, 23)): ("stock_dividend_or_bonus", 0.1),
        ("HPG", date(2019, 6, 4)): ("stock_dividend_or_bonus", 0.3),
        ("FPT", date(2024, 6, 12)): ("rights_or_mixed", None),  # 15 % in shares and 1,000 VND
        ("VCB", date(2021, 12, 22)): ("rights_or_mixed", None),  # 27.6 % in shares and 1,200 VND
        ("HPG", date(2022, 6, 17)): ("rights_or_mixed", None),  # 30 % in shares and 500 VND
    }
    rows = {(row["symbol"], row["session"]): row for row in actions.iter_rows(named=True)}
    for key, (kind, amount) in published.items():
        row = rows[key]
        assert (key, row["kind"]) == (key, kind)
        assert (row["cash_vnd"] or row["ratio_frac"]) == (None if amount is None else pytest.approx(amount))
    counts = dict(actions.group_by("kind").len().iter_rows())
    assert counts["cash_dividend"] / actions.height == pytest.approx(0.66, abs=0.03)
    assert counts["unknown"] / actions.height < 0.15
