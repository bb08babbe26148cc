"""What the primary vendor's own fields say about its steps when nobody else is heard."""

from __future__ import annotations

import numpy as np
import polars as pl

STEP_SAME_LOG = 0.006
"""Steps closer than this are the same step, told with different rounding."""
SEEN_STEP = 1.004
"""Steps below this are not asked about: rounding of cheap names."""
SUSPECT_MOVE_FRAC = 0.04
"""A step that prices do not follow: open and close nearer to the unadjusted close, and this far from the adjusted."""
SPOKEN_WINDOW_STEPS = 40
SPOKEN_FRAC = 0.9
"""So many of the market's recent steps had a reference other than the previous close: its absence then means much."""


def with_suspicions(heard: pl.DataFrame) -> pl.DataFrame:
    """Return `heard` with what may be wrong about steps.

    missing_step : no step, and a lone reference that only a step explains; opened_at_reference : the open agrees.
    told_before : a step that the stated reference had the session before.
    unfollowed : a step, and prices that opened and closed nearer the unadjusted close.
    unspoken : likewise, if less far, and no reference where the vendor has one for nearly every step of that time.
    off_limits : a close beyond HOSE's limits, and neither step nor reference to explain it.
    untraded_step, follows_untraded_step : a step on a session without a trade, and the next session with one.
    """
    own, stated = pl.col("vendor_step"), pl.col("reference_step")
    ahead = pl.col("vendor_step").shift(-1).over("symbol")
    below = pl.col("reference_vnd") < pl.col("previous_low_vnd")
    told_late = ((ahead / stated).log().abs() <= STEP_SAME_LOG).fill_null(value=False) & (ahead > 1.0)
    gap = pl.col("open_vnd") / pl.col("previous_vnd")
    gap_far = (gap * own).log()
    near_far = (pl.col("gross") * own).log()
    nearer = (
        (gap.log().abs() < gap_far.abs())
        & (pl.col("gross").log().abs() < near_far.abs())
        & (pl.col("volume_shares") > 0)
        & (stated == 1.0)
    )
    unfollowed = nearer & (gap_far.abs() > SUSPECT_MOVE_FRAC) & (near_far.abs() > SUSPECT_MOVE_FRAC)
    high, low = (
        pl.col("previous_vnd") * (1 + pl.col("hose_band_frac")),
        pl.col("previous_vnd") * (1 - pl.col("hose_band_frac")),
    )

    def tick(price: pl.Expr) -> pl.Expr:
        return pl.when(price < 10_000).then(10.0).when(price < 50_000).then(50.0).otherwise(100.0)

    off_limits = (
        pl.col("on_hose")
        & pl.col("adjacent")
        & pl.col("regular")
        & (own == 1.0)
        & (stated == 1.0)
        & (
            (pl.col("close_vnd") > (high / tick(high)).floor() * tick(high) + 0.01)
            | (pl.col("close_vnd") < (low / tick(low)).ceil() * tick(low) - 0.01)
        )
    )
    row = pl.col("row").cast(pl.Int64)
    untraded = (own != 1.0) & (pl.col("volume_shares") == 0)
    last_untraded = pl.when(untraded).then(row).forward_fill().over("symbol")
    last_traded = pl.when(pl.col("volume_shares") > 0).then(row).forward_fill().shift(1).over("symbol")
    heard = heard.join(_speaking_habit(heard), on="session", how="left", maintain_order="left")
    return heard.with_columns(
        opened_at_reference=(below & (gap.log().abs() > (gap * stated).log().abs())).fill_null(value=False),
        missing_step=(pl.col("isolated") & (own == 1.0) & (stated > 1.0) & (below | told_late)).fill_null(value=False),
        told_before=(pl.col("isolated") & (stated > 1.0) & told_late).shift(1).over("symbol").fill_null(value=False),
        unfollowed=(unfollowed & (own > SEEN_STEP)).fill_null(value=False),
        untraded_step=untraded,
        follows_untraded_step=((pl.col("volume_shares") > 0) & (last_untraded > last_traded)).fill_null(value=False),
        off_limits=off_limits.fill_null(value=False),
        unspoken=(
            nearer & (own > SEEN_STEP) & pl.col("regular") & (stated == 1.0) & (pl.col("share") >= SPOKEN_FRAC)
        ).fill_null(value=False),
    )


def _speaking_habit(heard: pl.DataFrame) -> pl.DataFrame:
    """Return session, share: of the market's last `SPOKEN_WINDOW_STEPS` steps before it, those with a reference."""
    by_day = (
        heard.filter((pl.col("vendor_step") > SEEN_STEP) & pl.col("regular") & pl.col("reference_step").is_not_null())
        .group_by("session")
        .agg(spoke=(pl.col("reference_step") != 1.0).sum(), count=pl.len())
        .sort("session")
    )
    spoke = np.concatenate([[0], np.cumsum(by_day.get_column("spoke").to_numpy())])
    count = np.concatenate([[0], np.cumsum(by_day.get_column("count").to_numpy())])
    before = np.arange(by_day.height)
    begin = np.searchsorted(count, count[before] - SPOKEN_WINDOW_STEPS, side="left")
    steps = count[before] - count[begin]
    enough = steps >= SPOKEN_WINDOW_STEPS // 2
    share = np.where(enough, (spoke[before] - spoke[begin]) / np.maximum(steps, 1), 0.0)
    return by_day.select("session", share=pl.Series(share, dtype=pl.Float64))
