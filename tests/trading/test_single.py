"""The plan's figures per symbol: the long-or-flat rule by hand, and the whole set quickly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import pytest

from vnfleet.data.panel import Panel, build_panel
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.market.calendar import trading_sessions
from vnfleet.trading.benchmarks import equal_weight_equity
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import simulate
from vnfleet.trading.single import SINGLE_SCHEMA, single_symbol_figures

SESSIONS = trading_sessions(date(2023, 3, 1), date(2023, 4, 28))
MakePanel = Callable[..., Panel]
MakePredictions = Callable[..., pl.DataFrame]


def test_the_rule_by_hand(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    opens = [10_000, 10_000, 10_200, 10_100, 10_300, 10_400, 10_000, 10_000]
    closes = [10_000, 10_100, 10_150, 10_200, 10_350, 10_300, 10_000, 10_000]
    bars = [(float(o), float(c), 1_000, 1.0) for o, c in zip(opens, closes, strict=True)]
    panel = make_panel(SESSIONS[:8], {"AAA": bars, "BBB": bars})
    # AAA: enter at the open of day 1; sign change on day 2, but delivered for the open of day 4 only; 0.3 % on day 4 is
    # no more than the round trip of 0.4 %: no new purchase. BBB never exceeds the round trip.
    scores = make_predictions(
        SESSIONS, {"AAA": [0.02, 0.02, -0.01, -0.01, 0.003, -0.01, -0.01], "BBB": [0.004, *[-0.01] * 6]}
    )
    figures = single_symbol_figures(panel, scores)
    assert dict(figures.schema) == SINGLE_SCHEMA
    growth = np.array([1.01 / 1.0015, 10_150 / 10_100, 10_200 / 10_150, 10_300 / 10_200 * 0.9975, 1.0, 1.0, 1.0])
    expected_sharpe = (growth - 1).mean() / (growth - 1).std(ddof=1) * np.sqrt(252)
    first, second = figures.to_dicts()
    assert first["sharpe_252"] == pytest.approx(expected_sharpe)
    assert (first["num_trades"], first["num_sessions"]) == (1, 7)
    assert first["max_drawdown_frac"] == pytest.approx(0.0)
    assert (second["num_trades"], second["sharpe_252"], second["max_drawdown_frac"]) == (0, None, 0.0)
    # outcomes known for days 0 to 2: close(t+5) / open(t+1) - 1 = +3 %, -1.96 %, -0.99 %
    returns = np.array([0.03, 10_000 / 10_200 - 1, 10_000 / 10_100 - 1])
    assert first["accuracy_frac"] == pytest.approx(2 / 3)
    assert first["rmse_frac"] == pytest.approx(np.sqrt(((returns - [0.02, 0.02, -0.01]) ** 2).mean()))


def test_a_locked_open_and_a_split_are_respected(make_panel: MakePanel, make_predictions: MakePredictions) -> None:
    bars = [
        (10_000.0, 10_000.0, 1_000, 1.0),
        (10_700.0, 10_700.0, 1_000, 1.0),  # open at the ceiling: no purchase
        (10_800.0, 11_000.0, 1_000, 1.0),  # entered here
        (5_500.0, 5_600.0, 1_000, 2.0),  # split in two while holding
        (5_600.0, 5_600.0, 1_000, 2.0),
    ]
    panel = make_panel(SESSIONS[:5], {"AAA": bars})
    figures = single_symbol_figures(panel, make_predictions(SESSIONS, {"AAA": [0.02] * 4}))
    growth = np.array([1.0, 11_000 / 10_800 / 1.0015, 5_600 / 5_500, 1.0])
    assert figures["num_trades"].item() == 1
    assert figures["sharpe_252"].item() == pytest.approx((growth - 1).mean() / (growth - 1).std(ddof=1) * np.sqrt(252))


@pytest.fixture(scope="module")
def oracle() -> tuple[Panel, pl.DataFrame]:
    market = SimulatedMarket(seed=6, num_symbols=102, start=date(2019, 1, 2), suspensions_per_year=0.0)
    source, as_of = SimulatedSource(market), date(2023, 12, 29)
    panel = build_panel(source.fetch(None, as_of), as_of)
    frame = (
        source.oracle(as_of)
        .filter(pl.col("symbol").is_in(panel.symbols))
        .with_columns(
            model_id=pl.lit("oracle"),
            horizon_sessions=pl.lit(5, dtype=pl.Int32),
            fold_id=pl.lit("all"),
            direction_prob=pl.lit(None, dtype=pl.Float64),
            expected_return_frac=0.006 * pl.col("score"),
            volatility_frac=pl.lit(None, dtype=pl.Float64),
        )
    )
    return panel, frame


def test_an_account_that_follows_the_planted_signal_beats_its_universe_after_costs(
    oracle: tuple[Panel, pl.DataFrame],
) -> None:
    panel, predictions = oracle
    result = simulate(panel, predictions, TopKPolicy())
    first, last = result.equity["session"].min(), result.equity["session"].max()
    assert isinstance(first, date)
    assert isinstance(last, date)
    universe = equal_weight_equity(panel, panel.symbols, first, last)
    assert result.equity["equity_vnd"][-1] > 1.5 * universe["equity_vnd"][-1]
    assert result.refused["outside_band"] <= 5


def test_a_planted_signal_shows_in_the_figures_of_every_symbol(oracle: tuple[Panel, pl.DataFrame]) -> None:
    panel, predictions = oracle
    figures = single_symbol_figures(panel, predictions)
    assert figures.height == len(panel.symbols)
    assert figures["accuracy_frac"].mean() > 0.51  # type: ignore[operator]


def test_what_happens_later_changes_nothing_before(oracle: tuple[Panel, pl.DataFrame]) -> None:
    panel, predictions = oracle
    cut = panel.sessions[400]
    whole = simulate(panel, predictions, TopKPolicy())
    early = simulate(panel.until(cut), predictions.filter(pl.col("session") < cut), TopKPolicy())
    assert early.equity.equals(whole.equity.filter(pl.col("session") <= cut))
    assert early.trades.equals(whole.trades.filter(pl.col("session") <= cut))
