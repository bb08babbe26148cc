"""The ruling on closes: final, repaired to what the witnesses say (`moves`), or masked."""

from __future__ import annotations

import polars as pl

from vnfleet.data.court.days import MANY_SYMBOLS
from vnfleet.data.court.evidence import SAME_VND
from vnfleet.data.court.excursions import Parting
from vnfleet.data.court.findings import said
from vnfleet.data.court.rulings import ruled

SAME_CLOSE_LOG = 0.002
"""The second vendor's close, read from its returns, and a stated reference this near are the same."""
MANY_FRAC = 0.02
"""With so many of those a second vendor covers, closes parting on one day are the primary feed's, read too early."""


def rule_on_closes(heard: pl.DataFrame) -> pl.DataFrame:
    """Add close_ruling ("final" | "repair" | "mask" | null), final_close_vnd and close_reason."""
    close, other = pl.col("close_vnd"), pl.col("other_close_vnd")
    stated = pl.col("next_reference_vnd")  # null unless it is a witness of this row's close
    parted = (pl.col("parting") == int(Parting.CLOSE)).fill_null(value=False)
    heard_other = pl.col("parting").is_not_null()
    sides_with_own = ((stated - close).abs() <= SAME_VND).fill_null(value=False)
    sides_with_other = ((stated / other).log().abs() <= SAME_CLOSE_LOG).fill_null(value=False)
    agreed = heard_other & ~parted & (pl.col("parting") != int(Parting.OPEN))
    alone = pl.col("next_dissents") & ~agreed & ~parted
    feed_was_early = pl.col("never_set") | pl.col("range_cut")
    rulings = (
        (
            parted & sides_with_own,
            "final",
            close,
            said("{} tells {}, the next reference {}", "other", other.round(0), stated),
        ),
        (parted & sides_with_other, "repair", stated, said("{} and the next reference say {}", "other", stated)),
        (parted & pl.col("next_dissents"), "repair", stated, said("the next reference says {}", stated)),
        (
            parted & (feed_was_early | pl.col("others_parted")),
            "repair",
            (other / 10.0).round() * 10.0,
            said("{} says {}, and so it was with many that day", "other", other.round(0)),
        ),
        (
            parted & (pl.col("vendor_step") == 1.0),
            "mask",
            pl.lit(None, pl.Float64),
            said("{} says {}, nothing says who is right", "other", other.round(0)),
        ),
        (alone, "repair", stated, said("the next session's reference is {}", stated)),
        (
            feed_was_early & ~heard_other & (pl.col("vendor_step") == 1.0),
            "mask",
            pl.lit(None, pl.Float64),
            pl.when("never_set")
            .then(pl.lit("the close is the day's reference, as with most UPCoM names that day: it was never set"))
            .otherwise(
                said(
                    "the next reference, an average, is {}, the day's range {} to {}",
                    "raw_next_reference_vnd",
                    "told_low_vnd",
                    "told_high_vnd",
                )
            ),
        ),
    )
    many = parted.sum().over("session")
    heard = heard.with_columns(
        others_parted=(many >= MANY_SYMBOLS) & (many >= MANY_FRAC * heard_other.sum().over("session"))
    )
    return (
        ruled(heard, rulings, "close")
        .rename({"close_value": "final_close_vnd"})
        .with_columns(final_close_vnd=pl.when(pl.col("close_ruling") == "repair").then(pl.col("final_close_vnd")))
    )
