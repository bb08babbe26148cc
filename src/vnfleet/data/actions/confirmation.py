"""The comparison of announced corporate actions with the steps of the factor."""

from __future__ import annotations

from datetime import date
from enum import StrEnum

import polars as pl

from vnfleet.data.actions.announced import ANNOUNCED_SCHEMA, AnnouncedKind

MATCH_SESSIONS = 3
"""A vendor may adjust some sessions off the ex-date."""
MISSING_STEP_FRAC = 0.005
"""Announced actions that imply less than this need no step."""
_TOLERANCE_FRAC = 0.05
_TOLERANCE = 0.001

MISSING_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "ex_date": pl.Date(),
    "kind": pl.String(),
    "implied_step": pl.Float64(),
    "absorbed": pl.Boolean(),
    "source": pl.String(),
}


class CorporateKind(StrEnum):
    """What a step was. An issue of one new share per old one is called a bonus: prices cannot tell it from a split."""

    CASH_DIVIDEND = "cash_dividend"
    STOCK_DIVIDEND_OR_BONUS = "stock_dividend_or_bonus"
    SPLIT = "split"
    RIGHTS_OR_MIXED = "rights_or_mixed"
    UNKNOWN = "unknown"


_ANNOUNCED_AS = {
    AnnouncedKind.CASH_DIVIDEND.value: CorporateKind.CASH_DIVIDEND.value,
    AnnouncedKind.STOCK_DIVIDEND.value: CorporateKind.STOCK_DIVIDEND_OR_BONUS.value,
    AnnouncedKind.BONUS.value: CorporateKind.STOCK_DIVIDEND_OR_BONUS.value,
    AnnouncedKind.SPLIT.value: CorporateKind.SPLIT.value,
    AnnouncedKind.RIGHTS.value: CorporateKind.RIGHTS_OR_MIXED.value,
}


def confirm(
    steps: pl.DataFrame,
    bars: pl.DataFrame,
    announced: pl.DataFrame | None,
    covered_from: date | None,
    absorbed: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return `steps` with confirmed, announced_ex_date and announced_source, and the announced actions without a step.

    steps : symbol, session, factor_step, error, kind, probability, cash_vnd, ratio_frac; where an announcement
        confirms them, the last four become what was announced. absorbed : symbol, session of jumps that the chain took
        into the factor without a step; an announced action near one is missing, but does no harm.
    """
    given = pl.DataFrame(schema=ANNOUNCED_SCHEMA) if announced is None else announced
    placed = _placed(given, bars)
    pairs = _pairs(steps, placed, bars)
    first = covered_from or given.get_column("ex_date").min()
    covered = pl.col("session") >= pl.lit(first, pl.Date)
    joined = steps.join(pairs, on=["symbol", "session"], how="left", maintain_order="left")
    found = pl.col("announced_ex_date").is_not_null()
    result = joined.with_columns(
        confirmed=pl.when(found).then(pl.lit(value=True)).when(covered).then(pl.lit(value=False)),
        kind=pl.when(found).then("announced_kind").otherwise("kind"),
        probability=pl.when(found).then(1.0).otherwise("probability"),
        cash_vnd=pl.when(found).then("announced_cash").otherwise("cash_vnd"),
        ratio_frac=pl.when(found).then("announced_ratio").otherwise("ratio_frac"),
    )
    return result, _missing(placed, pairs, absorbed, bars)


def _placed(announced: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Return one row per symbol and ex-date inside the history: what was announced, and the step it implies.

    Several actions on one day make one reference price: (P - cash) / (1 + new shares). The price of a rights issue is
    not used: its step lies anywhere between none and that of a bonus of the same ratio.
    """
    rights = pl.col("kind") == AnnouncedKind.RIGHTS.value
    days = (
        announced.group_by("symbol", "ex_date", maintain_order=True)
        .agg(
            announced_kind=pl.when(pl.col("kind").replace(_ANNOUNCED_AS).n_unique() > 1)
            .then(pl.lit(CorporateKind.RIGHTS_OR_MIXED.value))
            .otherwise(pl.col("kind").replace(_ANNOUNCED_AS).first()),
            cash=pl.col("cash_vnd").filter(~rights).fill_null(0.0).sum(),
            ratio=pl.col("ratio_frac").filter(~rights).fill_null(0.0).sum(),
            rights=pl.col("ratio_frac").filter(rights).fill_null(0.0).sum(),
            source=pl.col("source").first(),
        )
        .sort("ex_date")
    )
    traded = _traded(bars).sort("session")
    after = days.join_asof(
        traded, left_on="ex_date", right_on="session", by="symbol", strategy="forward", check_sortedness=False
    )
    left = pl.col("previous") - pl.col("cash")
    return (
        after.drop_nulls("previous")  # outside the history there is nothing to confirm
        .filter(left > 0)
        .with_columns(
            low=_implied("previous", "ratio"),
            announced_cash=pl.when(pl.col("cash") > 0).then("cash"),
            announced_ratio=pl.when(pl.col("ratio") + pl.col("rights") > 0).then(pl.col("ratio") + pl.col("rights")),
        )
        .drop("session")
    )


def _implied(close: str, ratio: str | pl.Expr) -> pl.Expr:
    shares = pl.col(ratio) if isinstance(ratio, str) else ratio
    return pl.col(close) * (1.0 + shares) / (pl.col(close) - pl.col("cash"))


def _traded(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, session, position among the symbol's traded sessions and the traded close before."""
    return bars.filter(pl.col("volume_shares") > 0).select(
        "symbol",
        "session",
        position=pl.int_range(pl.len()).over("symbol"),
        previous=pl.col("close_vnd").shift(1).over("symbol"),
    )


def _pairs(steps: pl.DataFrame, placed: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Return which announcement confirms which step, each used once: the nearest that implies its size."""
    close = "previous_close_vnd"  # of the step: the announced day may be one with other prices
    slack = _TOLERANCE + pl.col("error") + _TOLERANCE_FRAC * (pl.col("high") - 1.0)
    agrees = pl.col("factor_step").is_between(pl.col("low") - slack, pl.col("high") + slack)
    away = (pl.col("position") - pl.col("place")).abs()
    return (
        steps.join(_traded(bars).select("symbol", "session", place="position"), on=["symbol", "session"])
        .select("symbol", "session", "factor_step", "error", "place", close)
        .join(placed.drop("low"), on="symbol")
        .filter(pl.col(close) > pl.col("cash"))
        .with_columns(low=_implied(close, "ratio"), high=_implied(close, pl.col("ratio") + pl.col("rights")))
        .filter((away <= MATCH_SESSIONS) & agrees)
        .with_columns(away=away, gap=(pl.col("factor_step") - pl.col("high")).abs())
        .sort("away", "gap", "symbol", "session")
        .unique(["symbol", "session"], keep="first", maintain_order=True)
        .unique(["symbol", "ex_date"], keep="first", maintain_order=True)
        .select(
            "symbol",
            "session",
            "announced_kind",
            "announced_cash",
            "announced_ratio",
            announced_ex_date="ex_date",
            announced_source="source",
        )
    )


def _missing(placed: pl.DataFrame, pairs: pl.DataFrame, absorbed: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Return as `MISSING_SCHEMA` the notable announced actions that no step confirms; rights may imply none."""
    jumps = absorbed.join(_traded(bars).select("symbol", "session", place="position"), on=["symbol", "session"])
    near = (
        placed.join(jumps, on="symbol")
        .filter((pl.col("position") - pl.col("place")).abs() <= MATCH_SESSIONS)
        .select("symbol", "ex_date", absorbed=pl.lit(value=True))
        .unique()
    )
    return (
        placed.filter(pl.col("low") > 1.0 + MISSING_STEP_FRAC)
        .join(pairs, left_on=["symbol", "ex_date"], right_on=["symbol", "announced_ex_date"], how="anti")
        .join(near, on=["symbol", "ex_date"], how="left")
        .with_columns(kind="announced_kind", implied_step="low", absorbed=pl.col("absorbed").fill_null(value=False))
        .select(pl.col(name).cast(dtype) for name, dtype in MISSING_SCHEMA.items())
        .sort("symbol", "ex_date")
    )
