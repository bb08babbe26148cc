"""What the written plan's gate lets through without any skill: the same forecasts, shuffled, by the same rule.

Shuffling gives every symbol the whole forecast series of another one and turns all of them by one random number of
sessions. Level, spread, persistence and the way forecasts of a session move together stay as they were, so the rule
trades as often as with the real ones; what any of them knew about its symbol or its day is gone.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.data.panel import Panel
from vnfleet.market.rules import Costs
from vnfleet.releases.plan_policy import NullShares, pass_shares
from vnfleet.trading.simulator import DEFAULT_COSTS
from vnfleet.trading.single import single_symbol_figures

MIN_SESSIONS = 8


def null_pass_shares(
    panel: Panel, predictions: pl.DataFrame, *, costs: Costs = DEFAULT_COSTS, num_shuffles: int = 10, seed: int = 0
) -> NullShares:
    """Return how many models without skill would pass the plan's limits on these prices and sessions.

    predictions : frame of one model at one horizon, as for `trading.single.single_symbol_figures`. Every shuffle gives
    as many models without skill as there are symbols.

    Raises `BadDataError` for several models or horizons, under `MIN_SESSIONS` sessions or under two symbols.
    """
    rng = np.random.default_rng(seed)
    shuffles = (shuffled(predictions, rng) for _ in range(num_shuffles))
    figures = [single_symbol_figures(panel, one, costs=costs) for one in shuffles]
    numbers = pl.concat(
        figure.with_columns(symbol=pl.format("{} in shuffle {}", "symbol", pl.lit(place)))
        for place, figure in enumerate(figures)
    )
    return pass_shares(numbers.rename({"sharpe_252": "sharpe", "rmse_frac": "rmse"}))


def shuffled(predictions: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Return the frame with its forecasts given to other symbols and other sessions; no symbol keeps its own series.

    Symbols move one place along a random circle; sessions turn by a quarter to three quarters of their number. Every
    key of the result is unique, as in the original. Raises as `null_pass_shares` does.
    """
    checked = as_prediction_frame(predictions)
    symbols = checked.get_column("symbol").unique().sort()
    sessions = checked.get_column("session").unique().sort()
    if sessions.len() < MIN_SESSIONS or symbols.len() < 2:
        raise BadDataError(
            "too few forecasts to shuffle",
            expected=f"{MIN_SESSIONS} sessions and 2 symbols or more",
            found=f"{sessions.len()} sessions, {symbols.len()} symbols",
        )
    circle = symbols.gather(rng.permutation(symbols.len()))
    turn = int(rng.integers(sessions.len() // 4, sessions.len() * 3 // 4 + 1))
    days = sessions.gather((np.arange(sessions.len()) + turn) % sessions.len())
    moved = checked.with_columns(
        symbol=pl.col("symbol").replace_strict(circle, circle.gather(np.roll(np.arange(circle.len()), -1))),
        session=pl.col("session").replace_strict(sessions, days, return_dtype=pl.Date),
    )
    return as_prediction_frame(moved)
