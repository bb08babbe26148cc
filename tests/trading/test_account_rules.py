"""The account on panels small enough to do every sum by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl
import pytest

from vnfleet.core.errors import UsageError
from vnfleet.data.panel import Panel
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Costs
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import AccountTerms, SimulationResult, simulate

MakePanel = Callable[..., Panel]
MakePredictions = Callable[..., pl.DataFrame]

BEST_ONE = TopKPolicy(max_positions=1, enter_above=0.5, exit_below=0.5)
FREE = Costs(fee_frac=0.0, sell_tax_frac=0.0)
SESSIONS = trading_sessions(date(2023, 3, 1), date(2023, 3, 31))
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
    ("start", "sell_at_close", "sessions_held"),
    [
        (date(2023, 3, 1), False, 3),  # in the account at noon of T+2: the next opening order is on T+3
        (date(2023, 3, 1), True, 2),  # the closing auction of T+2 is in time
        (date(2021, 3, 1), False, 3),  # T+3 before 2022-08-29
        (date(2021, 3, 1), True, 3),
        (date(2022, 8, 25), True, 3),  # bought on 2022-08-26, the last day of T+3
        (date(2022, 8, 26), True, 2),  # bought on 2022-08-29, the first day of T+2
    ],
)
def test_shares_are_locked_until_delivery(
    make_panel: MakePanel, make_predictions: MakePredictions, start: date, sell_at_close: bool, sessions_held: int
) -> None:
    sessions = trading_sessions(start, date(start.year, 12, 30))[:8]
    panel = make_panel(sessions, {"AAA": [FLAT] * 8, "BBB": [FLAT] * 8})
    scores = make_predictions(sessions, {"AAA": [2.0] + [1.0] * 7, "BBB": [1.0] + [2.0] * 7})
    terms = AccountTerms(start_cash_vnd=10_000_000, costs=FREE, sell_at_close=sell_at_close)
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


@pytest.mark.parametrize(
    ("factor", "price_after", "shares_after", "cash_paid"),
    [
        (2.0, 5_000.0, 2_000, 0),  # split in two
        (1.15, 8_695.652, 1_100, 434_782),  # 15 % stock dividend: 1,150 shares, 50 paid out at 10,000 / 1.15
        (1.9999, 5_000.25, 2_000, -501),  # the same split, its factor a little off: 1,999.8 shares count as 2,000 ...
    ],
)
def test_a_corporate_action_keeps_the_value_and_whole_lots(
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
    paid = result.conversions["cash_vnd"].item()
    assert result.conversions["shares"].item() == shares_after - 1_000
    assert paid == pytest.approx(cash_paid, abs=1 if cash_paid >= 0 else 600)
    reference = 10_000.0 / factor
    assert shares_after * reference + paid == pytest.approx(10_000_000, abs=1.0)
    assert result.equity["cash_vnd"].to_list() == [10_500_000, 500_000, 500_000, 500_000 + paid, 500_000 + paid]


def test_odd_shares_of_the_lot_change_of_2021_are_paid_out(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    sessions = trading_sessions(date(2020, 12, 28), date(2021, 1, 8))[:6]
    panel = make_panel(sessions, {"AAA": [FLAT] * 6, "BBB": [FLAT] * 6})
    scores = make_predictions(sessions, {"AAA": [2.0] * 5, "BBB": [1.0] * 5})
    result = simulate(panel, scores, BEST_ONE, terms=AccountTerms(start_cash_vnd=12_370_000, costs=FREE))
    assert _trades(result) == [(sessions[1], "AAA", "buy", 1_230, 10_000)]
    assert list(result.conversions.iter_rows()) == [(date(2021, 1, 4), "AAA", -30, 300_000)]
    assert result.equity["equity_vnd"].to_list() == [12_370_000.0] * 6


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
