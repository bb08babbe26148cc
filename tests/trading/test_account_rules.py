"""The account on panels small enough to do every sum by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.actions.corporate import corporate_actions
from vnfleet.data.panel import Panel, judged
from vnfleet.data.sources.files import FilesSource
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Costs
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import AccountTerms, SimulationResult, simulate

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MakePanel = Callable[..., Panel]
MakePredictions = Callable[..., pl.DataFrame]
MakeActions = Callable[..., pl.DataFrame]
Auction = Literal["open", "close"]

BEST_ONE = TopKPolicy(max_positions=1, enter_above=0.5, exit_below=0.5)
FREE = Costs(fee_frac=0.0, sell_tax_frac=0.0)
SESSIONS = trading_sessions(date(2023, 3, 1), date(2023, 3, 31))
SOLD_A, BOUGHT_B = ("AAA", "sell"), ("BBB", "buy")
FLAT = (10_000.0, 10_000.0, 1_000_000, 1.0)


def _trades(result: SimulationResult) -> list[tuple[date, str, str, int, int]]:
    return list(result.trades.select("session", "symbol", "side", "shares", "price_vnd").iter_rows())


def test_fees_tax_and_lots_by_hand(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    bars = [(12_300.0, 12_300.0, 10**6, 1.0), (12_350.0, 12_500.0, 10**6, 1.0), *[(12_600.0, 12_600.0, 10**6, 1.0)] * 4]
    panel = make_panel(SESSIONS[:6], {"AAA": bars, "BBB": [(10_000.0, 10_000.0, 0, 1.0)] * 6})
    scores = make_predictions(SESSIONS, {"AAA": [2.0, 1.0, 1.0, 1.0, 1.0], "BBB": [1.0, 2.0, 2.0, 2.0, 2.0]})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_000_000))
    # 10,000,000 / 12,300 = 813 shares: 8 lots of 100 at 12,350 = 9,880,000; fee 0.15 % = 14,820
    # sold on the third session after at 12,600 = 10,080,000; fee 15,120, tax 0.1 % = 10,080
    assert _trades(result) == [(SESSIONS[1], "AAA", "buy", 800, 12_350), (SESSIONS[4], "AAA", "sell", 800, 12_600)]
    assert result.trades["fee_vnd"].to_list() == [14_820, 15_120]
    assert result.trades["tax_vnd"].to_list() == [0, 10_080]
    assert result.equity["cash_vnd"].to_list() == [10_000_000, *[105_180] * 3, *[10_159_980] * 2]
    assert result.equity["equity_vnd"].to_list() == [
        10_000_000,
        105_180 + 800 * 12_500,
        *[105_180 + 800 * 12_600] * 2,
        *[10_159_980] * 2,
    ]
    assert result.equity["turnover_vnd"].to_list() == [0, 9_880_000, 0, 0, 10_080_000, 0]


@pytest.mark.parametrize(
    ("start", "buys_at", "sells_at", "sessions_held"),
    [
        (date(2023, 3, 1), "open", "open", 3),  # in the account at noon of T+2: the next opening order is on T+3
        (date(2023, 3, 1), "open", "close", 2),  # the closing auction of T+2 is in time
        (date(2023, 3, 1), "close", "close", 2),
        (date(2023, 3, 1), "close", "open", 3),
        (date(2021, 3, 1), "open", "open", 3),  # T+3 before 2022-08-29
        (date(2021, 3, 1), "open", "close", 3),
        (date(2022, 8, 25), "close", "close", 3),  # bought on 2022-08-26, the last day of T+3
        (date(2022, 8, 26), "open", "close", 2),  # bought on 2022-08-29, the first day of T+2
    ],
)
def test_shares_are_locked_until_delivery(
    make_panel: MakePanel,
    make_predictions: MakePredictions,
    start: date,
    buys_at: Auction,
    sells_at: Auction,
    sessions_held: int,
) -> None:
    sessions = trading_sessions(start, date(start.year, 12, 30))[:8]
    panel = make_panel(sessions, {"AAA": [FLAT] * 8, "BBB": [FLAT] * 8})
    scores = make_predictions(sessions, {"AAA": [2.0] + [1.0] * 7, "BBB": [1.0] + [2.0] * 7})
    terms = AccountTerms(start_cash_vnd=10_000_000, costs=FREE, buys_at=buys_at, sells_at=sells_at)
    result = simulate(panel, scores, BEST_ONE, terms=terms)
    sold = result.trades.filter(pl.col("side") == "sell", pl.col("symbol") == "AAA")
    assert sold["session"].to_list() == [sessions[1 + sessions_held]]
    assert result.refused["not_delivered"] == sessions_held - 1


def test_an_open_at_the_ceiling_refuses_the_purchase_and_the_next_one_fills(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    # reference 10,000: ceiling 10,700; next day reference 10,700: ceiling 11,449 rounded down to the 50 tick, 11,400
    bars = [FLAT, (10_700.0, 10_700.0, 10**6, 1.0), (11_350.0, 11_400.0, 10**6, 1.0), (11_400.0, 11_400.0, 10**6, 1.0)]
    panel = make_panel(SESSIONS[:4], {"AAA": bars, "BBB": [FLAT] * 4})
    scores = make_predictions(SESSIONS, {"AAA": [2.0, 2.0, 2.0], "BBB": [1.0, 1.0, 1.0]})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_000_000, costs=FREE))
    assert result.refused["locked_ceiling"] == 1
    assert _trades(result)[0] == (
        SESSIONS[2],
        "AAA",
        "buy",
        800,
        11_350,
    )  # (10^7 / 11,350 = 881; sized at 10,700: 900, cut by cash)
    assert result.refused["cash"] == 1


def test_an_open_at_the_floor_refuses_the_sale_and_an_absent_name_does_not_trade(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    locked = (9_300.0, 9_300.0, 10**6, 1.0)  # floor of 10,000
    bars = [FLAT, FLAT, FLAT, FLAT, locked, None, (9_000.0, 9_100.0, 10**6, 1.0)]
    panel = make_panel(SESSIONS[:7], {"AAA": bars, "BBB": [FLAT] * 7})
    scores = make_predictions(SESSIONS, {"AAA": [2.0, 2.0, 2.0, *[1.0] * 3], "BBB": [1.0, 1.0, 1.0, *[2.0] * 3]})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_000_000, costs=FREE))
    assert result.refused["locked_floor"] == 1
    assert result.refused["absent"] == 1
    sold = [trade for trade in _trades(result) if trade[2] == "sell"]
    assert sold == [(SESSIONS[6], "AAA", "sell", 1_000, 9_000)]
    assert result.equity["equity_vnd"].to_list()[4:6] == [
        9_300_000.0,
        9_300_000.0,
    ]  # the absent day keeps the last price


def test_a_price_outside_the_band_and_a_first_session_are_not_traded(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    panel = make_panel(
        SESSIONS[:3],
        {
            "AAA": [FLAT, (11_000.0, 11_000.0, 10**6, 1.0), (11_000.0, 11_000.0, 10**6, 1.0)],
            "BBB": [FLAT, FLAT, FLAT],
        },
    )
    scores = make_predictions(SESSIONS, {"AAA": [2.0], "BBB": [1.0]})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_000_000))
    assert result.refused["outside_band"] == 1
    assert result.trades.is_empty()
    assert result.metrics.sharpe_252 is None


def test_an_order_takes_at_most_its_share_of_the_volume_and_is_completed_later(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    thin = (10_000.0, 10_000.0, 4_550, 1.0)  # 10 % = 455 shares: 4 lots
    panel = make_panel(SESSIONS[:4], {"AAA": [thin] * 4, "BBB": [FLAT] * 4})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] * 3, "BBB": [1.0] * 3})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_000_000, costs=FREE))
    assert [trade[3] for trade in _trades(result)] == [400, 400, 200][: len(_trades(result))]
    assert result.equity["num_positions"].to_list() == [0, 1, 1, 1]
    # after 800 of 1,000 shares the rest lies inside the resize band of 25 % and is left
    assert len(_trades(result)) == 2


def test_purchases_and_sales_meet_the_auction_they_are_meant_for(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    bar = (10_000.0, 10_100.0, 10**6, 1.0)
    panel = make_panel(SESSIONS[:6], {"AAA": [bar] * 6, "BBB": [bar] * 6})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] + [1.0] * 4, "BBB": [1.0] + [2.0] * 4})
    auctions: tuple[Auction, ...] = ("open", "close")
    for buys_at in auctions:
        for sells_at in auctions:
            terms = AccountTerms(start_cash_vnd=10_250_000, costs=FREE, buys_at=buys_at, sells_at=sells_at)
            trades = _trades(simulate(panel, scores, BEST_ONE, terms=terms))
            prices = {side: {trade[4] for trade in trades if trade[2] == side} for side in ("buy", "sell")}
            assert prices == {
                "buy": {10_000 if buys_at == "open" else 10_100},
                "sell": {10_000 if sells_at == "open" else 10_100},
            }
            # what the sale brings is there for the purchase of the same auction, not for one before it
            sold, bought = (next(one[0] for one in trades if one[1:3] == what) for what in (SOLD_A, BOUGHT_B))
            assert (sold == bought) is not (buys_at == "open" and sells_at == "close")


def test_a_price_between_two_ticks_is_bought_above_and_sold_below(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    odd = (10_020.0, 10_000.0, 10**6, 1.0)  # the tick is 50 from 10,000 on
    panel = make_panel(SESSIONS[:6], {"AAA": [FLAT, *[odd] * 5], "BBB": [FLAT] * 6})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] + [1.0] * 4, "BBB": [1.0] + [2.0] * 4})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_100_000, costs=FREE))
    assert [trade[2:] for trade in _trades(result)[:2]] == [("buy", 1_000, 10_050), ("sell", 1_000, 10_000)]


@pytest.mark.parametrize(
    ("factor", "price_after", "shares_after", "cash_paid"),
    [
        (2.0, 5_000.0, 2_000, 0),  # split in two
        (1.15, 8_695.652, 1_150, 0),  # 15 % stock dividend
        (1.1234, 8_901.549, 1_123, 3_560),  # 1,123.4 shares: 0.4 paid at 10,000 / 1.1234
        (1.9999, 5_000.25, 2_000, -501),  # a split, its factor a little off: 1,999.9 shares count as 2,000
    ],
)
def test_a_corporate_action_keeps_the_value_in_whole_shares(
    make_panel: MakePanel,
    make_predictions: MakePredictions,
    factor: float,
    price_after: float,
    shares_after: int,
    cash_paid: int,
) -> None:
    after = (round(price_after, -1), round(price_after, -1), 10**6, factor)
    panel = make_panel(SESSIONS[:5], {"AAA": [FLAT, FLAT, FLAT, after, after], "BBB": [FLAT] * 5})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] * 4, "BBB": [1.0] * 4})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_500_000, costs=FREE))
    assert result.conversions["cash_vnd"].item() == cash_paid
    assert result.conversions["shares"].item() == shares_after - 1_000
    assert shares_after * 10_000.0 / factor + cash_paid == pytest.approx(10_000_000, abs=1.0)
    expected_cash = [10_500_000, 500_000, 500_000, 500_000 + cash_paid, 500_000 + cash_paid]
    assert result.equity["cash_vnd"].to_list() == expected_cash


def test_new_shares_of_shares_under_way_arrive_with_them(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    half = (5_000.0, 5_000.0, 10**6, 2.0)
    panel = make_panel(SESSIONS[:6], {"AAA": [FLAT, FLAT, *[half] * 4], "BBB": [FLAT] * 6})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] + [0.0] * 4, "BBB": [1.0] * 5})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_000_000, costs=FREE))
    of_a = [trade for trade in _trades(result) if trade[1] == "AAA"]
    assert of_a == [(SESSIONS[1], "AAA", "buy", 1_000, 10_000), (SESSIONS[4], "AAA", "sell", 2_000, 5_000)]
    assert result.refused["not_delivered"] == 2


NINE = (9_000.0, 9_000.0, 10**6, 10 / 9)  # ex 1,000 VND of 10,000
CASH, SHARES = "cash_dividend", "stock_dividend_or_bonus"


@pytest.mark.parametrize(
    ("told", "shares_after", "cash_paid"),
    [
        ([], 1_111, 1_000),  # nobody knows: 1,111.11 shares, the fraction paid at 9,000
        ([("AAA", SESSIONS[3], 10 / 9, CASH, None)], 1_000, 1_000_000),  # what the step implies
        ([("AAA", SESSIONS[3], 10 / 9, CASH, 980.0)], 1_000, 980_000),  # what was announced
        ([("AAA", SESSIONS[3], 10 / 9, SHARES, None)], 1_111, 1_000),
        ([("AAA", SESSIONS[3], 1.5, CASH, None)], 1_111, 1_000),  # a step that these prices do not have
        ([("AAA", SESSIONS[2], 10 / 9, CASH, None)], 1_111, 1_000),  # nor on this session
        ([("ZZZ", SESSIONS[3], 10 / 9, CASH, None)], 1_111, 1_000),
    ],
)
def test_a_dividend_is_paid_in_cash_and_leaves_the_shares(
    make_panel: MakePanel,
    make_predictions: MakePredictions,
    make_actions: MakeActions,
    told: list[tuple[str, date, float, str, float | None]],
    shares_after: int,
    cash_paid: int,
) -> None:
    panel = make_panel(SESSIONS[:5], {"AAA": [FLAT, FLAT, FLAT, NINE, NINE], "BBB": [FLAT] * 5})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] * 4, "BBB": [1.0] * 4})
    terms = AccountTerms(start_cash_vnd=10_500_000, costs=FREE)
    result = simulate(panel, scores, BEST_ONE, terms=terms, actions=make_actions(told))
    session, symbol, shares, cash = result.conversions.row(0)
    assert (session, symbol, shares) == (SESSIONS[3], "AAA", shares_after - 1_000)
    assert cash == pytest.approx(cash_paid, abs=1)
    assert result.equity["equity_vnd"][-1] == 500_000 + cash + shares_after * 9_000


def test_a_dividend_and_an_issue_in_one_gap_are_applied_one_after_the_other(
    make_panel: MakePanel, make_predictions: MakePredictions, make_actions: MakeActions
) -> None:
    # first one new share per share (10,000 -> 5,000), then 500 VND on each of the 2,000 shares (5,000 -> 4,500)
    after = (4_500.0, 4_500.0, 10**6, 2.0 / 0.9)
    panel = make_panel(SESSIONS[:6], {"AAA": [FLAT, FLAT, None, None, after, after], "BBB": [FLAT] * 6})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] * 5, "BBB": [1.0] * 5})
    told = [("AAA", SESSIONS[2], 2.0, SHARES, None), ("AAA", SESSIONS[3], 1 / 0.9, CASH, None)]
    terms = AccountTerms(start_cash_vnd=10_500_000, costs=FREE)
    result = simulate(panel, scores, BEST_ONE, terms=terms, actions=make_actions(told))
    session, _, shares, cash = result.conversions.row(0)
    assert (session, shares) == (SESSIONS[4], 1_000)
    assert cash == pytest.approx(1_000_000, abs=1)


def test_actions_without_their_columns_are_refused(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    panel = make_panel(SESSIONS[:3], {"AAA": [FLAT] * 3})
    with pytest.raises(BadDataError, match="columns"):
        simulate(panel, make_predictions(SESSIONS, {"AAA": [1.0]}), BEST_ONE, actions=pl.DataFrame({"symbol": ["AAA"]}))


def test_odd_shares_of_the_lot_change_of_2021_stay_and_are_valued(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    sessions = trading_sessions(date(2020, 12, 28), date(2021, 1, 15))[:8]
    panel = make_panel(sessions, {"AAA": [FLAT] * 8, "BBB": [FLAT] * 8})
    scores = make_predictions(sessions, {"AAA": [2.0] * 3 + [0.0] * 4, "BBB": [1.0] * 7})
    only_a = TopKPolicy(max_positions=1, enter_above=0.9, exit_below=0.5)
    result = simulate(panel, scores, only_a, terms=AccountTerms(start_cash_vnd=12_370_000, costs=FREE))
    of_a = [trade for trade in _trades(result) if trade[1] == "AAA"]
    assert of_a == [
        (sessions[1], "AAA", "buy", 1_230, 10_000),
        (date(2021, 1, 4), "AAA", "sell", 1_200, 10_000),
    ]
    assert result.conversions.is_empty()
    assert result.equity["num_positions"][-1] == 2  # BBB, and 30 shares of AAA
    assert result.equity["equity_vnd"].to_list() == [12_370_000.0] * 8


@pytest.mark.parametrize(
    ("exchange", "sales"),
    [("HOSE", {date(2022, 9, 9): 1_100, date(2022, 9, 12): 50}), ("HNX", {date(2022, 9, 9): 1_150})],
)
def test_odd_shares_are_sold_from_the_day_they_may_be(
    make_panel: MakePanel, make_predictions: MakePredictions, exchange: str, sales: dict[date, int]
) -> None:
    sessions = trading_sessions(date(2022, 8, 31), date(2022, 9, 30))[:8]
    assert date(2022, 9, 12) == sessions[6]
    price = 8_700.0
    after = (price, price, 10**6, 1.15)
    panel = make_panel(sessions, {"AAA": [FLAT] * 3 + [after] * 5, "BBB": [FLAT] * 8}, exchange=exchange)
    scores = make_predictions(sessions, {"AAA": [2.0] * 4 + [0.0] * 3, "BBB": [1.0] * 7})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_500_000, costs=FREE))
    sold = result.trades.filter(pl.col("symbol") == "AAA", pl.col("side") == "sell")
    assert dict(sold.select("session", "shares").iter_rows()) == sales


def test_the_capacity_is_the_account_whose_orders_are_a_tenth_of_the_volume(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    bar = (10_000.0, 10_000.0, 50_000, 1.0)
    panel = make_panel(SESSIONS[:3], {"AAA": [bar] * 3, "BBB": [bar] * 3})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] * 2, "BBB": [1.0] * 2})
    # the whole account in one order, whether it fits or is cut: a tenth of 500 million dong
    for cash, bought in ((10_000_000, [1_000]), (80_000_000, [5_000, 3_000]), (10_000, [])):
        terms = AccountTerms(start_cash_vnd=cash, costs=FREE)
        result = simulate(panel, scores, TopKPolicy(max_positions=1, enter_above=0.5, exit_below=0.5), terms=terms)
        assert result.trades["shares"].to_list() == bought
        assert result.metrics.capacity_vnd == (pytest.approx(50_000_000) if bought else None)


def test_returns_are_those_of_the_equity(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    rising = [(price, price, 10**6, 1.0) for price in (10_000.0, 10_000.0, 10_500.0, 10_500.0)]
    panel = make_panel(SESSIONS[:4], {"AAA": rising, "BBB": [FLAT] * 4})
    scores = make_predictions(SESSIONS, {"AAA": [2.0] * 3, "BBB": [1.0] * 3})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=10_000_000, costs=FREE))
    assert result.returns_T.tolist() == pytest.approx([0.0, 0.05, 0.0])


@pytest.mark.parametrize(
    "wrong", [{"buys_at": "noon"}, {"sells_at": "noon"}, {"start_cash_vnd": 0}, {"max_participation_frac": 0.0}]
)
def test_terms_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AccountTerms(**wrong)  # type: ignore[arg-type]


def test_two_names_held_equally_without_friction_by_hand(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    def bar(price: float) -> tuple[float, float, int, float]:
        return price, price, 10**9, 1.0

    prices = {"AAA": [20_000.0, 20_000.0, 21_000.0, 20_500.0], "BBB": [10_000.0, 10_000.0, 9_500.0, 10_100.0]}
    prices["CCC"] = [30_000.0] * 4
    panel = make_panel(SESSIONS[:4], {symbol: [bar(price) for price in of] for symbol, of in prices.items()})
    scores = make_predictions(SESSIONS, {"AAA": [3.0] * 3, "BBB": [2.0] * 3, "CCC": [1.0] * 3})
    policy = TopKPolicy(max_positions=2, enter_above=0.4, exit_below=0.4)
    result = simulate(panel, scores, policy, terms=AccountTerms(start_cash_vnd=400_000_000, costs=FREE))
    # 200 million each: 10,000 AAA and 20,000 BBB
    expected = [400e6, 400e6, 10_000 * 21_000 + 20_000 * 9_500, 10_000 * 20_500 + 20_000 * 10_100]
    assert result.equity["equity_vnd"].to_list() == expected
    assert result.equity["cash_vnd"].to_list() == [400_000_000, 0, 0, 0]
    assert result.metrics.total_return_frac == pytest.approx(407 / 400 - 1)


def test_a_range_of_one_session_is_refused(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    panel = make_panel(SESSIONS[:3], {"AAA": [FLAT] * 3})
    scores = make_predictions(SESSIONS, {"AAA": [1.0]})
    with pytest.raises(UsageError):
        simulate(panel, scores, BEST_ONE, first=SESSIONS[2], last=SESSIONS[2])


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here")
def test_every_real_dividend_is_paid_and_nothing_else_changes_the_value(make_predictions: MakePredictions) -> None:
    symbols = ["FPT", "GAS", "HPG", "REE", "VNM"]
    source = FilesSource(DATA / "cafef_price_history_2012_2024.parquet", DATA / "universe_289.csv")
    served = judged(source.fetch(None, date(2024, 12, 31)).only(symbols), date(2024, 12, 31))
    actions = corporate_actions(served.events, served.raw).actions
    in_cash = actions.filter(pl.col("kind") == CASH, pl.col("session") > date(2015, 1, 12))
    assert in_cash.height > 50  # once or twice a year each
    scores = make_predictions([date(2015, 1, 5)], {name: [float(place)] for place, name in enumerate(symbols)})
    kept = TopKPolicy(
        max_positions=5, enter_above=0.0, exit_below=0.0, resize_band_frac=9.0, max_unscored_sessions=9999
    )
    terms = AccountTerms(costs=FREE)
    result = simulate(served.panel, scores, kept, terms=terms, actions=actions, last=date.max)
    held = {row[0]: row[1] for row in result.trades.select("symbol", "shares").iter_rows()}
    assert len(held) == 4  # the worst of five does not enter
    converted = {(row[0], row[1]): row[2:] for row in result.conversions.iter_rows()}
    since = actions.filter(pl.col("session") > date(2015, 1, 6), pl.col("symbol").is_in(held)).sort("session", "symbol")
    names = ("session", "symbol", "kind", "factor_step", "previous_close_vnd")
    for session, symbol, kind, step, close_vnd in since.select(names).iter_rows():
        gained, cash_vnd = converted.pop((session, symbol))
        if kind == CASH:
            assert (gained, cash_vnd) == (0, pytest.approx(held[symbol] * close_vnd * (1 - 1 / step), rel=1e-6, abs=1))
        else:
            assert gained == pytest.approx(held[symbol] * (step - 1), abs=0.51)
        held[symbol] += gained
    assert not converted  # nothing else turned into shares or cash
