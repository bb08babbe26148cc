"""What the written plan's gate lets through without any skill: the same forecasts, shuffled, by the same rule.

Shuffling gives every symbol the whole forecast series of another one and turns all of them by one random number of
sessions. Level, spread, persistence and the way forecasts of a session move together stay as they were, so the rule
trades as often as with the real ones; what any of them knew about its symbol or its day is gone.

Where there is too little to shuffle or to count, nothing is known about luck on these days: the shares quoted from
elsewhere stand in, told by their lack of `num_models`.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.data.panel import Panel
from vnfleet.market.rules import Costs
from vnfleet.releases.plan_policy import QUOTED, NullShares, pass_shares
from vnfleet.trading.portfolio import prediction_matrix
from vnfleet.trading.simulator import DEFAULT_COSTS
from vnfleet.trading.single import single_symbol_figures

MIN_SESSIONS = 8
_COUNTED_ON = ("accuracy_frac", "sharpe_252", "max_drawdown_frac")


def null_pass_shares(
    panel: Panel, predictions: pl.DataFrame, *, costs: Costs = DEFAULT_COSTS, num_shuffles: int = 10, seed: int = 0
) -> NullShares:
    """Return how many models without skill would pass the plan's limits on these prices and sessions.

    predictions : frame of one model at one horizon, as for `trading.single.single_symbol_figures`. Every shuffle gives
        as many models without skill as there are symbols. With fewer than `MIN_SESSIONS` sessions or two symbols, or
        where no shuffled model has an accuracy, a Sharpe ratio and a drawdown (say, none traded): `nothing_known`.

    Raises `BadDataError` for several models or horizons.
    """
    prediction_matrix(panel, predictions, "expected_return_frac")  # refuses what is no forecast of one model here
    if not _can_shuffle(predictions):
        return nothing_known()
    rng = np.random.default_rng(seed)
    shuffles = (shuffled(predictions, rng) for _ in range(num_shuffles))
    figures = [single_symbol_figures(panel, one, costs=costs) for one in shuffles]
    numbers = pl.concat(
        figure.with_columns(symbol=pl.format("{} in shuffle {}", "symbol", pl.lit(place)))
        for place, figure in enumerate(figures)
    )
    if not numbers.filter(pl.all_horizontal(pl.col(_COUNTED_ON).is_finite())).height:
        return nothing_known()
    return pass_shares(numbers.rename({"sharpe_252": "sharpe", "rmse_frac": "rmse"}))


def nothing_known() -> NullShares:
    """Return the shares where luck cannot be counted on these days: quoted ones, `num_models` None."""
    return QUOTED


def shuffled(predictions: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Return the frame with its forecasts given to other symbols and other sessions; no symbol keeps its own series.

    Symbols move one place along a random circle; sessions turn by a quarter to three quarters of their number. Every
    key of the result is unique, as in the original.

    Raises `BadDataError` under `MIN_SESSIONS` sessions or two symbols.
    """
    checked = as_prediction_frame(predictions)
    symbols = checked.get_column("symbol").unique().sort()
    sessions = checked.get_column("session").unique().sort()
    if not _can_shuffle(checked):
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


def _can_shuffle(predictions: pl.DataFrame) -> bool:
    sessions, symbols = (predictions.get_column(name).n_unique() for name in ("session", "symbol"))
    return sessions >= MIN_SESSIONS and symbols >= 2
