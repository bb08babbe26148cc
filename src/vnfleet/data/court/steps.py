"""The ruling on adjustment steps: the vendor's, another one (`moves`), or doubt."""

from __future__ import annotations

import polars as pl

from vnfleet.data.court.evidence import fits
from vnfleet.data.court.excursions import Parting
from vnfleet.data.court.findings import said
from vnfleet.data.court.rulings import ruled
from vnfleet.data.court.suspicions import SEEN_STEP, SPOKEN_WINDOW_STEPS, STEP_SAME_LOG, with_suspicions

NO_STEP_FRAC = 0.0005
MAX_SILENT_FRAC = 0.15
"""A second vendor that lacks more of the steps than this adjusts for other things (not for cash, for example)."""


def rule_on_steps(heard: pl.DataFrame) -> pl.DataFrame:
    """Add step_ruling ("own" | "repair" | "disputed" | null), decided_step and step_reason."""
    own, other, stated = pl.col("vendor_step"), pl.col("other_step"), pl.col("reference_step")
    parted = (pl.col("parting") == int(Parting.STEP)).fill_null(value=False)
    covered = pl.col("parting").is_not_null()
    settled = pl.col("close_ruling").shift(1).over("symbol").is_in(["repair", "mask"]).fill_null(value=False)
    speaks = (stated != 1.0) & pl.col("regular") & ~pl.col("day_mute") & ~settled
    speaks |= (stated != 1.0) & ~pl.col("day_mute") & ((own != 1.0) | parted)
    speaks = speaks.fill_null(value=False)
    heard = heard.with_columns(speaks=speaks)
    own_gap, other_gap = (stated / own).log().abs(), (stated / other).log().abs()
    near_own = pl.col("speaks") & (own_gap <= STEP_SAME_LOG) & (own_gap <= 2 * other_gap + 0.001)
    near_other = pl.col("speaks") & ((stated / other).log().abs() <= STEP_SAME_LOG)
    own_fits, other_fits, stated_fits = fits(own), fits(other), fits(stated)
    silent_other = (other.log().abs() <= STEP_SAME_LOG) & (own != 1.0)
    caught = (parted & near_own & silent_other & own_fits).fill_null(value=False)
    heard = heard.with_columns(caught_before=caught.cast(pl.Int32).cum_sum().shift(1).over("symbol").fill_null(0) > 0)
    heard = heard.join(_silence(heard, parted & silent_other), on="session", how="left", maintain_order="left")
    backwards = (own == 1.0) & (other < 1.0)
    stated_differs = (
        pl.col("speaks") & pl.col("regular") & (own != 1.0) & ((stated / own).log().abs() > 2 * STEP_SAME_LOG)
    )
    one_says = (
        (
            parted & other_fits & ~own_fits,
            "repair",
            other,
            said("{} says x{}, the band refuses x{}", "other", other.round(4), own.round(4)),
        ),
        (
            parted & near_own,
            "own",
            own,
            said("{} says x{}, the reference x{}", "other", other.round(4), stated.round(4)),
        ),
        (
            parted & own_fits & ~other_fits,
            "own",
            own,
            said("{} says x{}, which the band refuses", "other", other.round(4)),
        ),
        (
            parted & near_other,
            "repair",
            other,
            said("{} says x{}, the reference x{}", "other", other.round(4), stated.round(4)),
        ),
        (
            parted & silent_other & pl.col("caught_before"),
            "own",
            own,
            said("{} has missed steps of this symbol before", "other"),
        ),
        (
            parted & silent_other & (pl.col("silence") > MAX_SILENT_FRAC),
            "own",
            own,
            said("{} lacks {} % of the steps", "other", (100 * pl.col("silence")).round(0)),
        ),
        (
            parted & ~own_fits & ~other_fits & pl.col("adjacent"),
            "disputed",
            own,
            said("{} says x{}, and the band refuses both", "other", other.round(4)),
        ),
        (parted & backwards, "own", own, said("{} says x{}, against time", "other", other.round(4))),
        (parted, "repair", other, said("{} says x{}", "other", other.round(4))),
        (
            ~covered & pl.col("missing_step") & ~pl.col("opened_at_reference"),
            "disputed",
            own,
            said("the stated reference is {}, the open {}", "reference_vnd", "open_vnd"),
        ),
        (~covered & pl.col("missing_step"), "repair", stated, said("the stated reference is {}", "reference_vnd")),
        (~covered & pl.col("told_before"), "disputed", own, pl.lit("the stated reference had it the session before")),
        (
            ~covered & stated_differs & stated_fits & ~own_fits,
            "repair",
            stated,
            said("the reference says x{}, the band refuses x{}", stated.round(4), own.round(4)),
        ),
        (~covered & stated_differs, "disputed", own, said("the reference says x{}", stated.round(4))),
        (
            ~covered & pl.col("unfollowed"),
            "disputed",
            own,
            said("prices opened and closed nearer the unadjusted close: {}", "open_vnd"),
        ),
        (
            ~covered & pl.col("on_hose") & pl.col("adjacent") & (own != 1.0) & ~own_fits,
            "disputed",
            own,
            said("even so the move is {}, beyond the band", (pl.col("gross") * own - 1.0).round(3)),
        ),
        (
            ~covered & pl.col("off_limits"),
            "disputed",
            own,
            said("the close {} is beyond the limits of the reference {}", "close_vnd", "previous_vnd"),
        ),
        (
            ~covered & pl.col("below_average"),
            "disputed",
            own,
            said("the reference {} is an average below all prices of the day before", "reference_vnd"),
        ),
        (pl.col("untraded_step"), "disputed", own, pl.lit("no trade that day: chained at the next")),
        (
            pl.col("follows_untraded_step"),
            "disputed",
            own,
            pl.lit("the vendor's step of a session before, without a trade, counts here"),
        ),
        (
            ~covered & pl.col("unspoken"),
            "disputed",
            own,
            pl.lit("the stated reference is the previous close, unlike at other steps of that time"),
        ),
    )
    heard = ruled(with_suspicions(heard), one_says, "step").rename({"step_value": "decided_step"})
    return heard.with_columns(
        decided_step=pl.when(pl.col("step_ruling").is_in(["repair", "own"])).then(
            pl.when((pl.col("decided_step") - 1.0).abs() < NO_STEP_FRAC).then(1.0).otherwise("decided_step")
        )
    )


def _silence(heard: pl.DataFrame, silent: pl.Expr) -> pl.DataFrame:
    """Return session, silence: the share of the steps before it that the second vendor does not have, 0 while few."""
    by_day = (
        heard.filter((pl.col("vendor_step") > SEEN_STEP) & pl.col("parting").is_not_null())
        .group_by("session")
        .agg(silent=silent.sum(), count=pl.len())
        .sort("session")
    )
    silent_before, before = pl.col("silent").cum_sum().shift(1), pl.col("count").cum_sum().shift(1)
    return by_day.select(
        "session", silence=pl.when(before >= SPOKEN_WINDOW_STEPS).then(silent_before / before).otherwise(0.0)
    )
