"""The plan's figures for each symbol alone: accuracy, Sharpe ratio, drawdown and RMSE of a long-or-flat rule.

The rule: enter with all the money at the next open when the expected return of the horizon is greater than the costs of
a round trip; leave at the next open once the expected return is no longer positive and the shares are delivered (from
the third session after the purchase, see `venue`). Fees and tax are paid; no purchase at an open at the ceiling, no
sale at the floor, no trade without a bar; cash earns nothing. Fractions of one symbol: no lots, no volume limit.

Accuracy and RMSE are those of `vnfleet.evaluation.metrics.by_symbol` (up when `direction_prob` >= 0.5, an unchanged
price is not up). These figures are reported because the plan asks for them; on one symbol and a year luck rules them.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.frames import as_prediction_frame
from vnfleet.data.outcomes import outcome_frame
from vnfleet.data.panel import Panel
from vnfleet.evaluation.metrics import by_symbol
from vnfleet.market.rules import Costs
from vnfleet.trading.metrics import max_drawdown_frac, sharpe_252
from vnfleet.trading.portfolio import prediction_matrix
from vnfleet.trading.simulator import DEFAULT_COSTS, session_range
from vnfleet.trading.venue import Venue, venue_of

Floats = NDArray[np.float64]

SINGLE_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "accuracy_frac": pl.Float64(),
    "sharpe_252": pl.Float64(),
    "max_drawdown_frac": pl.Float64(),
    "rmse_frac": pl.Float64(),
    "num_trades": pl.Int32(),
    "num_sessions": pl.Int32(),
}


class _Rule(NamedTuple):
    first: int
    last: int
    enter_above: float
    buy_cost_frac: float
    sell_cost_frac: float


def single_symbol_figures(panel: Panel, predictions: pl.DataFrame, *, costs: Costs = DEFAULT_COSTS) -> pl.DataFrame:
    """Return `SINGLE_SCHEMA`, one row per predicted symbol, sorted; null where a figure is not known.

    predictions : frame of one model at one horizon with `expected_return_frac`. `num_sessions` counts the daily returns
    of the rule, the same for all symbols: from the session after the first prediction to the one after the last.
    `sharpe_252` is null for a symbol that never traded, its drawdown 0.
    """
    expected_TS = prediction_matrix(panel, predictions, "expected_return_frac")
    symbols = predictions.get_column("symbol").unique().sort()
    horizon = int(as_prediction_frame(predictions).get_column("horizon_sessions").item(0))
    judged = by_symbol(predictions, outcome_frame(panel, horizon, symbols.to_list()))
    begin, end = session_range(panel, expected_TS, None, None)
    rule = _Rule(begin, end, costs.round_trip_frac, costs.fee_frac, costs.fee_frac + costs.sell_tax_frac)
    growth_TS, trades_S = _long_or_flat(venue_of(panel), expected_TS, rule)
    place = {symbol: column for column, symbol in enumerate(panel.symbols)}
    rows = []
    for symbol in symbols:
        growth = growth_TS[:, place[symbol]]
        rows.append(
            {
                "symbol": symbol,
                "sharpe_252": sharpe_252(growth - 1.0),
                "max_drawdown_frac": max_drawdown_frac(np.concatenate([[1.0], np.cumprod(growth)])),
                "num_trades": int(trades_S[place[symbol]]),
                "num_sessions": end - begin,
            }
        )
    figures = pl.DataFrame(rows, schema_overrides={"symbol": pl.String, "sharpe_252": pl.Float64})
    accuracy = judged.select("symbol", accuracy_frac="accuracy_absolute", rmse_frac="rmse")
    joined = figures.join(accuracy, on="symbol", how="left").sort("symbol")
    return joined.select(pl.col(name).cast(dtype) for name, dtype in SINGLE_SCHEMA.items())


@numba.njit(cache=True)
def _long_or_flat(venue: Venue, expected_TS: Floats, rule: _Rule) -> tuple[Floats, NDArray[np.int64]]:
    """Return daily growth factors [last - first, S] of the rule in each symbol, and the number of purchases [S]."""
    num_symbols = expected_TS.shape[1]
    growth_TS = np.ones((rule.last - rule.first, num_symbols))
    trades_S = np.zeros(num_symbols, dtype=np.int64)
    for s in range(num_symbols):
        holding, ready, mark, expected = False, 0, np.nan, np.nan
        for t in range(rule.first + 1, rule.last + 1):
            if not np.isnan(expected_TS[t - 1, s]):
                expected = expected_TS[t - 1, s]
            opened, closed = venue.open_TS[t, s], venue.close_TS[t, s]
            if np.isnan(closed):
                continue
            in_band = venue.floor_TS[t, s] <= opened <= venue.ceiling_TS[t, s]
            if holding:
                before = mark / venue.step_TS[t, s]
                if expected <= 0 and ready <= 2 * t and in_band and opened > venue.floor_TS[t, s]:
                    growth_TS[t - rule.first - 1, s] = opened / before * (1.0 - rule.sell_cost_frac)
                    holding = False
                else:
                    growth_TS[t - rule.first - 1, s] = closed / before
            elif (
                not np.isnan(expected_TS[t - 1, s])
                and expected > rule.enter_above
                and in_band
                and opened < venue.ceiling_TS[t, s]
            ):
                growth_TS[t - rule.first - 1, s] = closed / opened / (1.0 + rule.buy_cost_frac)
                holding, ready = True, venue.ready_T[t]
                trades_S[s] += 1
            mark = closed
    return growth_TS, trades_S
