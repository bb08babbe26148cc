"""Who is heard: a second vendor whose returns are another market's is no witness, and may rewrite nothing.

An opinion is tested on the very returns that the moves are judged by (`excursions`): between neighbouring rows that
both vendors have. Between honest vendors at most 2 % of them differ by 0.2 % or more, rounding included, and at most
0.4 % by 2 %. Rows that lie a session off, under another symbol, still, or in noise differ in most.

Point in time: a quarter is judged by its rows so far. The verdict on the running quarter, and with it what was
repaired there after an opinion, may change until it is over; so may the verdict on quarters before the first that has
`MIN_RETURNS`, and whether an opinion is adjusted at all while it has told few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from vnfleet.data.court.excursions import ROUNDED_FRAC, ROUNDING_HALF_VND
from vnfleet.data.court.findings import findings
from vnfleet.data.court.market import MARKET
from vnfleet.data.court.opinions import Opinion

DIFFERENT_LOG = 0.005
MAX_DIFFERENT_FRAC = 0.05
MIN_RETURNS = 200
SPARED_SESSIONS = 3
"""So many sessions of a quarter, the worst, do not count: closes that are not final come for the whole market."""
TRAILING_QUARTERS = 4
"""A quarter with fewer than `MIN_RETURNS` is judged together with those before it, so many in all."""
SAME_LEVEL_LOG = 1e-7
STEP_LOG = 0.01
SAME_LOG = 0.003
MIN_STEPS = 8


def hear(opinions: Sequence[Opinion], bars: pl.DataFrame) -> tuple[tuple[Opinion, ...], list[pl.DataFrame]]:
    """Return what of `opinions` may be heard about `bars`, in their order, and a finding for each refusal.

    bars : checked rows with `vendor_step`, sorted by symbol and session, one row a symbol and session.

    An opinion that is not heard for a while becomes several, one before and one after: no return leads across. One
    that does not know the vendor's steps (unadjusted closes) is not heard at all.
    """
    own = bars.select(
        "symbol",
        "session",
        raw=pl.col("close_vnd").log(),
        level=pl.col("vendor_step").log().cum_sum().over("symbol"),
        traded=pl.col("volume_shares") > 0,
    )
    heard: list[Opinion] = []
    found: list[pl.DataFrame] = []
    for opinion in opinions:
        returns = _returns(own, opinion)
        steps = returns.filter(pl.col("step").abs() > STEP_LOG)
        missed = steps.filter(((pl.col("other") - pl.col("raw")).abs() <= SAME_LOG) & (pl.col("apart") > SAME_LOG))
        if steps.height >= MIN_STEPS and 2 * missed.height > steps.height:
            text = f"{opinion.source} does not know {missed.height} of {steps.height} steps: it is not adjusted"
            found.append(_refusal(opinion.bars.get_column("session").min(), f"{text}, and not heard at all"))
            continue
        for first, last, refused, share in _runs(opinion, returns).iter_rows():
            part = opinion.bars.filter(pl.col("session").dt.truncate("1q").is_between(first, last))
            if not refused:
                heard.append(Opinion(opinion.source, part))
                continue
            text = f"{opinion.source} differs by more than {DIFFERENT_LOG:.1%} in {share:.0%} of the returns"
            when = _quarter(first) if first == last else f"{_quarter(first)} to {_quarter(last)}"
            found.append(_refusal(part.get_column("session").min(), f"{text} of {when}, and is not heard there"))
    return tuple(heard), found


def _returns(own: pl.DataFrame, opinion: Opinion) -> pl.DataFrame:
    """Return symbol, session, logs of raw return, step and the other's return; `apart` of adjusted ones, `noise`.

    Only where the primary traded on both rows.
    """
    other = pl.col("adjusted_close_vnd")
    tens = opinion.bars.select((((other / 10.0).round() * 10.0 - other).abs() < 0.01).mean()).item()
    grain_vnd = ROUNDING_HALF_VND if (tens or 0.0) >= ROUNDED_FRAC else 0.0
    both = own.join(opinion.bars.drop("volume_shares"), on=("symbol", "session"), how="inner").sort("symbol", "session")
    follows = pl.col("symbol") == pl.col("symbol").shift(1)
    return (
        both.select(
            "symbol",
            "session",
            raw=pl.col("raw").diff(),
            step=pl.col("level").diff(),
            other=other.log().diff(),
            noise=grain_vnd / other + grain_vnd / other.shift(1),
            counts=follows & pl.col("traded") & pl.col("traded").shift(1),
        )
        .filter("counts")
        .with_columns(apart=(pl.col("other") - pl.col("raw") - pl.col("step")).abs())
        .drop("counts")
    )


def _runs(opinion: Opinion, returns: pl.DataFrame) -> pl.DataFrame:
    """Return runs of the opinion's quarters with one verdict: first, last (their first days), refused, share apart."""
    days = (
        returns.filter(pl.col("step").abs() < SAME_LEVEL_LOG)
        .group_by("session")
        .agg(
            differ=(pl.col("apart") > DIFFERENT_LOG + pl.col("noise")).sum().cast(pl.Int64), of=pl.len().cast(pl.Int64)
        )
        .with_columns(quarter=pl.col("session").dt.truncate("1q"))
        .sort("session")
        .with_columns(place=pl.col("differ").rank("ordinal", descending=True).over("quarter"))
        .filter(pl.col("place") > SPARED_SESSIONS)
    )
    counted = days.group_by("quarter").agg(pl.col("differ", "of").sum())
    told = opinion.bars.select(quarter=pl.col("session").dt.truncate("1q")).unique()
    few = pl.col("of") < MIN_RETURNS
    judged = (
        told.join(counted, on="quarter", how="left")
        .sort("quarter")
        .with_columns(pl.col("differ", "of").fill_null(0))
        .with_columns(
            pl.when(few)
            .then(pl.col(name).rolling_sum(TRAILING_QUARTERS, min_samples=1))
            .otherwise(name)
            .alias(f"weighed_{name}")
            for name in ("differ", "of")
        )
        .with_columns(
            share=pl.when(pl.col("weighed_of") >= MIN_RETURNS).then(pl.col("weighed_differ") / pl.col("weighed_of"))
        )
        .with_columns(pl.col("share").backward_fill().fill_null(0.0))
        .with_columns(refused=pl.col("share") > MAX_DIFFERENT_FRAC)
    )
    return (
        judged.group_by(pl.col("refused").rle_id().alias("run"), maintain_order=True)
        .agg(
            first=pl.col("quarter").min(),
            last=pl.col("quarter").max(),
            refused=pl.col("refused").first(),
            share=pl.when(pl.col("of").sum() >= MIN_RETURNS)
            .then(pl.col("differ").sum() / pl.col("of").sum())
            .otherwise(pl.col("share").mean()),
        )
        .drop("run")
    )


def _quarter(day: date) -> str:
    return f"{day.year}Q{(day.month + 2) // 3}"


def _refusal(session: object, text: str) -> pl.DataFrame:
    row = pl.DataFrame({"symbol": [MARKET], "session": [session]}, schema={"symbol": pl.String, "session": pl.Date})
    return findings(row, "opinion_unheard", "warn", "accept", pl.lit(text))
