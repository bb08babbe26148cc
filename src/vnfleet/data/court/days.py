"""What a whole day says: references that are none, feeds that were read too early."""

from __future__ import annotations

import polars as pl

from vnfleet.data.court.evidence import ROUNDED_CHANGE_VND, SAME_VND

MANY_SYMBOLS = 3
MUTE_MIN_SYMBOLS = 5
MAX_AFTER_HOURS_FRAC = 0.03
"""A close made in the closing auction lies at most so far outside the range stored before it."""
STEP_SAME_FRAC = 0.006
NEVER_SET_FRAC = 0.9
_TICK_VND = 100.0
_IRREGULAR = 0.9


def with_days(heard: pl.DataFrame) -> pl.DataFrame:
    """Return `heard` (`evidence.with_evidence`) with what the stated references of the day and of the next mean.

    dissents : the reference is not the previous close, though it has always been, and no step says why. A whole
        hundred within 50 VND of it may be rounding and counts only among many.
    day_mute : the day's references are no references (they are the opens, or nothing near the day before).
    isolated : dissents, on a day on which hardly another symbol does. next_dissents : the row after it dissents, and
        so this row's close was not final; not so where a missing step explains it better.
    next_reference_vnd : the next reference where it is a witness of this row's close, else null.
    raw_next_reference_vnd : the next reference as stated.
    never_set : an UPCoM name whose close is the day's own reference, on a day when that is so with most of them.
    below_average : an UPCoM name whose reference, an average price, lies below the range of the day before.
    range_cut : no witness of the close, and the day contradicts itself: an UPCoM name whose average price lies outside
        the stored range, on a day when closes were not final; or a close outside the range told, the average within.
    """
    reference, previous = pl.col("reference_vnd"), pl.col("previous_vnd")
    difference = (reference - previous).abs()
    plausible = reference.is_between(
        pl.col("previous_low_vnd") * (1 - MAX_AFTER_HOURS_FRAC),
        pl.col("previous_high_vnd") * (1 + MAX_AFTER_HOURS_FRAC),
    )
    heard = heard.with_columns(
        dissents=(pl.col("regular") & (pl.col("vendor_step") == 1.0) & (difference > SAME_VND)).fill_null(value=False)
    )
    small = difference <= ROUNDED_CHANGE_VND
    whole = ((reference / 100.0).round() * 100.0 - reference).abs() < 0.5
    days = (
        heard.filter("dissents")
        .group_by("session")
        .agg(
            count=pl.len(),
            large=(~small).sum(),
            opens=((reference - pl.col("open_vnd")).abs() < 1.0).mean(),
            plausible=plausible.mean(),
        )
        .select(
            "session",
            "large",
            day_mute=(pl.col("count") >= MUTE_MIN_SYMBOLS) & ((pl.col("opens") > 0.5) | (pl.col("plausible") < 0.5)),
        )
    )
    heard = heard.join(days, on="session", how="left", maintain_order="left").with_columns(
        pl.col("day_mute").fill_null(value=False), num_dissenting=pl.col("large").fill_null(0)
    )
    many = pl.col("num_dissenting") >= MANY_SYMBOLS
    heard = heard.with_columns(
        dissents=pl.col("dissents") & ~pl.col("day_mute") & (many | ~(small & whole)).fill_null(value=False)
    )
    silent = pl.col("silent_reference_vnd")
    joins = (  # on a day with many dissenters, a change of nothing counts as told
        pl.col("regular") & (pl.col("vendor_step") == 1.0) & many & ~pl.col("day_mute") & silent.is_not_null()
    ).fill_null(value=False)
    heard = heard.with_columns(
        dissents=pl.col("dissents") | joins, reference_vnd=pl.when(joins).then(silent).otherwise(reference)
    )
    below = reference < pl.col("previous_low_vnd")
    ahead = pl.col("vendor_step").shift(-1).over("symbol")
    told_late = (ahead > 1.0) & ((ahead / pl.col("reference_step") - 1.0).abs() <= STEP_SAME_FRAC)
    few = ~many
    step_like = few & (pl.col("reference_step") > 1.0) & (below | told_late)
    not_final_before = pl.col("dissents") & plausible & ~step_like.fill_null(value=False)
    witness = pl.col("regular") & ~pl.col("day_mute") & ((pl.col("vendor_step") == 1.0) | pl.col("dissents"))
    heard = heard.with_columns(
        isolated=pl.col("dissents") & few,
        early=not_final_before.fill_null(value=False),
        testimony=pl.when(witness).then(reference),
    )
    heard = heard.with_columns(
        next_dissents=pl.col("early").shift(-1).over("symbol").fill_null(value=False),
        next_reference_vnd=pl.col("testimony").shift(-1).over("symbol"),
        raw_next_reference_vnd=pl.coalesce("reference_vnd", "silent_reference_vnd").shift(-1).over("symbol"),
        bad_day=(pl.col("early").sum().over("session") >= MANY_SYMBOLS),
    )
    return _with_upcom(heard).drop("large", "early", "testimony")


def _with_upcom(heard: pl.DataFrame) -> pl.DataFrame:
    upcom = (pl.col("regularity") < _IRREGULAR).fill_null(value=False)
    traded = pl.col("volume_shares") > 0
    counted = upcom & traded & pl.col("previous_vnd").is_not_null()
    never = (counted & pl.col("unchanged")).sum().over("session")
    of = counted.sum().over("session")
    day = (never >= MUTE_MIN_SYMBOLS) & (never >= NEVER_SET_FRAC * of)
    after = pl.col("raw_next_reference_vnd")
    low, high = pl.col("told_low_vnd"), pl.col("told_high_vnd")
    alien = ((pl.col("close_vnd") < low) | (pl.col("close_vnd") > high)) & after.is_between(low, high)
    outside = (after > high + _TICK_VND) | (after < low - _TICK_VND)
    low_before = pl.col("told_low_vnd").shift(1).over("symbol")
    return heard.with_columns(
        below_average=(
            counted
            & (pl.col("volume_shares").shift(1).over("symbol") > 0)
            & (pl.col("vendor_step") == 1.0)
            & ~pl.col("bad_day")
            & ~pl.col("day_mute")
            & (pl.col("reference_vnd") < low_before * 0.98 - _TICK_VND)
        ).fill_null(value=False),
        never_set=(counted & pl.col("unchanged") & day).fill_null(value=False),
        range_cut=(
            counted
            & (pl.col("vendor_step").shift(-1).over("symbol") == 1.0)
            & ((outside & pl.col("bad_day").shift(-1).over("symbol")) | alien)
        ).fill_null(value=False),
    )
