"""What each rule costs; and the account without rules against an independent library."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from vnfleet.data.panel import Panel
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Costs
from vnfleet.trading.portfolio import TopKPolicy, prediction_matrix, target_weights
from vnfleet.trading.simulator import AccountTerms, SimulationResult, planned, simulate
from vnfleet.trading.venue import Rules
from vnfleet.trading.waterfall import NO_RULES, RULE_WORDS, WATERFALL_SCHEMA, waterfall

MakePanel = Callable[..., Panel]
MakePredictions = Callable[..., pl.DataFrame]
SESSIONS = trading_sessions(date(2023, 3, 1), date(2024, 12, 31))
NAMES = tuple("ABCDEF")


def _market(make_panel: MakePanel, make_predictions: MakePredictions, seed: int) -> tuple[Panel, pl.DataFrame]:
    """A year of six random walks in whole dong, moves of 4 %, and scores that change slowly."""
    rng = np.random.default_rng(seed)
    sessions, bars, scores = SESSIONS[:250], {}, {}
    for name in NAMES:
        close_T = 20_000 * np.exp(np.cumsum(rng.normal(0.0, 0.04, len(sessions))))
        open_T = close_T * np.exp(rng.normal(0.0, 0.02, len(sessions)))
        volume_T = rng.integers(1_000, 200_000, len(sessions))
        bars[name] = [
            (float(round(opened)), float(round(closed)), int(volume), 1.0)
            for opened, closed, volume in zip(open_T, close_T, volume_T, strict=True)
        ]
        scores[name] = np.cumsum(rng.normal(size=len(sessions) - 1)).tolist()
    return make_panel(sessions, bars), make_predictions(sessions, scores)


@pytest.mark.parametrize("seed", [1, 2])
def test_without_rules_the_account_equals_an_independent_library(
    make_panel: MakePanel, make_predictions: MakePredictions, seed: int
) -> None:
    panel, predictions = _market(make_panel, make_predictions, seed)
    # three to four of six slots filled: the rest in cash, so that no order waits for money
    policy = TopKPolicy(max_positions=6, enter_above=0.5, exit_below=0.3, resize_band_frac=1e-12)
    terms = AccountTerms(start_cash_vnd=10**15, buys_at="close", sells_at="close")
    result = planned(panel, predictions, policy, terms=terms).carried_out(NO_RULES)
    weights_TS = target_weights(panel, prediction_matrix(panel, predictions, "score"), policy)
    assert 0.4 < weights_TS.sum(axis=1).mean() < 0.8
    assert result.refused["cash"] == 0
    assert result.trades.height > 500
    expected_T = _by_bt(panel, weights_TS)
    equity_T = result.equity["equity_vnd"].to_numpy() / 10**15
    assert np.ptp(equity_T) > 0.1
    np.testing.assert_allclose(equity_T, expected_T, rtol=1e-9)


def _by_bt(panel: Panel, weights_TS: np.ndarray) -> np.ndarray:
    """Growth [T] of bt's portfolio that buys, at each close, what the last close's weights and prices called for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bt's own, on import and when it runs
        import bt  # noqa: PLC0415
        import pandas as pd  # noqa: PLC0415

        index = pd.to_datetime(list(panel.sessions))
        prices = pd.DataFrame(panel.matrix("close_vnd").T, index=index, columns=list(panel.symbols))
        weights = pd.DataFrame(weights_TS, index=index, columns=list(panel.symbols))

        class SizedYesterday(bt.Algo):  # type: ignore[misc, unused-ignore]
            def __call__(self, target: bt.Strategy) -> bool:
                place = index.get_loc(target.now)
                if place == 0:
                    return False
                before = index[place - 1]
                drift = prices.loc[target.now] / prices.loc[before]
                equity = float(target.values.loc[before]) / target.value  # noqa: PD011
                target.temp["weights"] = (weights.loc[before] * drift * equity).to_dict()
                return True

        strategy = bt.Strategy("oracle", [SizedYesterday(), bt.algos.Rebalance()])
        test = bt.Backtest(
            strategy,
            prices,
            initial_capital=1e6,
            commissions=lambda _quantity, _price: 0.0,
            integer_positions=False,
            progress_bar=False,
        )
        bt.run(test)
        return np.asarray(test.strategy.values.loc[index] / 1e6)  # noqa: PD011


def test_rules_are_added_one_by_one_up_to_the_real_account(
    make_panel: MakePanel, make_predictions: MakePredictions
) -> None:
    panel, predictions = _market(make_panel, make_predictions, 3)
    policy = TopKPolicy(max_positions=6, enter_above=0.5, exit_below=0.3, resize_band_frac=0.01)
    terms = AccountTerms(start_cash_vnd=2_000_000_000)
    table = waterfall(planned(panel, predictions, policy, terms=terms))
    assert dict(table.schema) == WATERFALL_SCHEMA
    assert table["step"].to_list() == ["ideal", *RULE_WORDS]
    assert set(RULE_WORDS) == set(Rules.__slots__)
    real = simulate(panel, predictions, policy, terms=terms).metrics
    assert table["annual_return_frac"][-1] == real.annual_return_frac
    assert table["sharpe_252"][-1] == real.sharpe_252
    ideal = planned(panel, predictions, policy, terms=terms).carried_out(NO_RULES).metrics
    assert table["annual_return_frac"][0] == ideal.annual_return_frac
    assert ideal.annual_return_frac is not None
    assert real.annual_return_frac is not None
    assert table["cost_frac"][0] == 0.0
    assert table["cost_frac"].sum() == pytest.approx(ideal.annual_return_frac - real.annual_return_frac)
    costs = dict(table.select("step", "cost_frac").iter_rows())
    assert costs["fees"] > 0
    assert costs["tax"] > 0
    assert costs["limits"] != 0
    assert costs["participation"] != 0


def test_fees_and_tax_cost_what_the_turnover_says(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    flat = (10_000.0, 10_000.0, 10**9, 1.0)
    sessions = SESSIONS[:253]
    panel = make_panel(sessions, {"AAA": [flat] * 253, "BBB": [flat] * 253})
    score_T = [2.0 if place % 8 < 4 else 0.0 for place in range(252)]
    predictions = make_predictions(sessions, {"AAA": score_T, "BBB": [1.0] * 252})
    policy = TopKPolicy(max_positions=2, enter_above=0.5, exit_below=0.5)
    terms = AccountTerms(start_cash_vnd=10**12, costs=Costs(fee_frac=0.002, sell_tax_frac=0.001))
    table = waterfall(planned(panel, predictions, policy, terms=terms))
    # half the money changes between the names every fourth session: 62 full turns (buy and sell) of one half
    annual = dict(table.select("step", "annual_return_frac").iter_rows())
    result = simulate(panel, predictions, policy, terms=terms)
    sold = result.trades.filter(pl.col("side") == "sell").height
    bought = result.trades.height - sold
    assert annual["ideal"] == 0.0
    assert annual["fees"] == pytest.approx((1 - 0.001) ** (sold + bought) - 1, abs=2e-3)
    assert annual["tax"] == pytest.approx((1 - 0.001) ** (sold + bought) * (1 - 0.0005) ** sold - 1, abs=2e-3)
    assert annual["participation"] == pytest.approx(annual["tax"], abs=1e-4)


def _one_turn(make_panel: MakePanel, make_predictions: MakePredictions, rules: Rules) -> SimulationResult:
    """Buy A at an open at the ceiling between ticks of thin volume, and want to leave the next session."""
    thin, flat = 3_050, (10_000.0, 10_000.0, 10**6, 1.0)
    bars = [(10_000.0, 10_000.0, thin, 1.0), (10_700.0, 10_700.0, thin, 1.0), *[(10_710.0, 10_700.0, thin, 1.0)] * 5]
    panel = make_panel(SESSIONS[:7], {"AAA": bars, "BBB": [flat] * 7})
    predictions = make_predictions(SESSIONS, {"AAA": [2.0] + [0.0] * 5, "BBB": [1.0] * 6})
    policy = TopKPolicy(max_positions=2, enter_above=0.5, exit_below=0.5)
    return planned(panel, predictions, policy, terms=AccountTerms(start_cash_vnd=20_010_000)).carried_out(rules)


def test_every_rule_can_be_switched_off_alone(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    def of_a(rules: Rules) -> list[tuple[int, str, int, int, int, int]]:
        trades = _one_turn(make_panel, make_predictions, rules).trades.filter(pl.col("symbol") == "AAA")
        names = ("side", "shares", "price_vnd", "fee_vnd", "tax_vnd")
        return [(SESSIONS.index(row[0]), *row[1:]) for row in trades.select("session", *names).iter_rows()]

    assert of_a(Rules()) == []  # no purchase at the ceiling, and then it is no longer wanted
    # 20,010,000 / 2 / 10,000 = 1,000.5 shares; the sale is refused once, delivered for the open of session 4
    free = replace(NO_RULES)
    assert of_a(free) == [(1, "buy", 1_000, 10_700, 0, 0), (2, "sell", 1_000, 10_710, 0, 0)]
    assert of_a(replace(free, fees=True)) == [
        (1, "buy", 1_000, 10_700, 16_050, 0),
        (2, "sell", 1_000, 10_710, 16_065, 0),
    ]
    assert of_a(replace(free, tax=True))[1] == (2, "sell", 1_000, 10_710, 0, 10_710)
    assert of_a(replace(free, delivery=True))[1] == (4, "sell", 1_000, 10_710, 0, 0)
    assert of_a(replace(free, participation=True))[0] == (1, "buy", 305, 10_700, 0, 0)
    assert of_a(replace(free, participation=True, lots=True))[0] == (1, "buy", 300, 10_700, 0, 0)
    assert of_a(replace(free, limits=True)) == []
