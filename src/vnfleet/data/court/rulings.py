"""Rulings: the first of several conditions that holds of a row decides."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

Ruling = tuple[pl.Expr, str, pl.Expr, pl.Expr]
"""Condition, ruling, value (a close or a step), reason; conditions look at the row alone."""


def ruled(heard: pl.DataFrame, rulings: Sequence[Ruling], name: str) -> pl.DataFrame:
    """Add <name>_ruling, <name>_value and <name>_reason by the first ruling whose condition holds; null without one."""
    ruling, price, reason = pl.lit(None, pl.String), pl.lit(None, pl.Float64), pl.lit(None, pl.String)
    for condition, verdict, value, text in reversed(rulings):
        ruling = pl.when(condition).then(pl.lit(verdict)).otherwise(ruling)
        price = pl.when(condition).then(value).otherwise(price)
        reason = pl.when(condition).then(text).otherwise(reason)
    concerned = heard.filter(pl.any_horizontal(condition.fill_null(value=False) for condition, *_ in rulings))
    decided = concerned.select(
        "row",
        ruling.alias(f"{name}_ruling"),
        price.cast(pl.Float64).alias(f"{name}_value"),
        reason.cast(pl.String).alias(f"{name}_reason"),
    )
    return heard.join(decided, on="row", how="left", maintain_order="left")
