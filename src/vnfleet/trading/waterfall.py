"""What each rule of the market costs: the same decisions carried out under no rule, one rule more at a time, all."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from vnfleet.trading.simulator import PlannedAccount
from vnfleet.trading.venue import Rules

WATERFALL_SCHEMA: dict[str, pl.DataType] = {
    "step": pl.String(),
    "words": pl.String(),
    "annual_return_frac": pl.Float64(),
    "cost_frac": pl.Float64(),
    "sharpe_252": pl.Float64(),
}
IDEAL = "ideal"
NO_RULES = Rules(fees=False, tax=False, lots=False, limits=False, delivery=False, participation=False)
RULE_WORDS = {
    "fees": "the broker's fee on both sides",
    "tax": "the tax on every sale",
    "lots": "purchases in round lots, odd shares sold only where they have a board",
    "delivery": "shares are sold only after they have been delivered",
    "limits": "the daily price band: no purchase at the ceiling, no sale at the floor, prices on the tick",
    "participation": "an order takes only its share of the day's volume",
}
"""The rules in the order in which they are added."""
_IDEAL_WORDS = "the same orders in the same auctions, with none of the market's rules"


def waterfall(plan: PlannedAccount) -> pl.DataFrame:
    """Return `WATERFALL_SCHEMA`: the ideal account, then one row for each rule added; the last meets them all.

    cost_frac : what the rule took from the annual return of the row above (negative where it helped by chance), 0 in
        the first row. How much a rule costs depends on those added before it. Null where an account is too short.
    """
    rules = NO_RULES
    rows = [(IDEAL, _IDEAL_WORDS, plan.carried_out(rules).metrics)]
    for name, words in RULE_WORDS.items():
        rules = replace(rules, **{name: True})
        rows.append((name, words, plan.carried_out(rules).metrics))
    frame = pl.DataFrame(
        [(step, words, figures.annual_return_frac, None, figures.sharpe_252) for step, words, figures in rows],
        schema=WATERFALL_SCHEMA,
        orient="row",
    )
    annual = pl.col("annual_return_frac")
    cost = pl.when(pl.col("step") == IDEAL).then(0.0).otherwise(annual.shift(1) - annual)
    return frame.with_columns(cost_frac=cost)
