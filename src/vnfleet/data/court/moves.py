"""The court's hearing of moves: closes that are not final, adjustment steps that are wrong or missing.

Witnesses, and what each is worth:

- *the stated reference* of the next session names the final close where the symbol is on HOSE or HNX; on UPCoM it is an
  average price, which only has to lie within the day's range. A day on which most references that differ are in truth
  the open, or lie where no close of the day before can have been, is no witness at all. On an ex-date the reference
  proves a step when it is not the previous close; when it is, it proves nothing (for years CafeF put the previous close
  there on every ex-date).
- *a second vendor* is compared on returns (`excursions`). It may be the one who errs: where the stated reference, or
  the band, sides with the primary vendor, the primary is right. A second vendor once caught without a step that the
  reference proves is not believed about missing steps of that symbol from then on.
- *the band*: of two readings of a move, one possible and one not, the possible one is taken.

Nobody sides with anybody: a step is taken from the second vendor (measured: it is right far more often), a close is
not used (masked).

Point in time: a row's close and step may depend on the next session (its stated reference; the second vendor's return
that shows whether a close or a step is meant), through `MAX_EXCURSION_ROWS` rows where a second vendor is heard. What
is repaired with that was public on the day itself. Nothing else looks ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from vnfleet.data.court.checks import FINDING_SCHEMA, findings, said
from vnfleet.data.court.days import MANY_SYMBOLS, with_days
from vnfleet.data.court.evidence import SAME_VND, fits, with_evidence
from vnfleet.data.court.excursions import Parting, partings
from vnfleet.data.court.opinions import Opinion
from vnfleet.data.court.suspicions import STEP_SAME_LOG, with_suspicions

NO_STEP_FRAC = 0.0005
SAME_UNIT_LOG10 = 0.004
MANY_FRAC = 0.02
"""With so many of those a second vendor covers, closes parting on one day are the primary feed's, read too early."""

_Ruling = tuple[pl.Expr, str, pl.Expr, pl.Expr]  # condition, verdict, value, reason


@dataclass(frozen=True, slots=True)
class Rulings:
    """What the court decided about moves.

    bars : the rows that may be used, with `final_close_vnd` and `decided_step` (null: the vendor's stands).
    found : findings, `FINDING_SCHEMA`.
    """

    bars: pl.DataFrame
    found: list[pl.DataFrame]


def rule_on_moves(bars: pl.DataFrame, sessions: pl.Series, opinions: Sequence[Opinion]) -> Rulings:
    """Hear every witness on every move of `bars` (checked rows with `vendor_step`, sorted by symbol and session)."""
    columns = bars.columns
    heard = with_days(with_evidence(bars, sessions)).with_row_index("row")
    heard = _with_opinion(heard, opinions)
    heard = _rule_on_steps(_rule_on_closes(heard)).with_columns(other_unit=_other_unit())
    masked = pl.col("close_ruling") == "mask"
    kept = heard.filter(~masked.fill_null(value=False)) if heard.height else heard
    kept = kept.with_columns(volume_shares=pl.when("other_unit").then("other_volume").otherwise("volume_shares"))
    return Rulings(kept.select(*columns, "final_close_vnd", "decided_step"), _findings(heard))


def _other_unit() -> pl.Expr:
    """Return whether the second vendor's volume is ten, a hundred ... times the row's, or a tenth ... of it."""
    power = (pl.col("volume_shares") / pl.col("other_volume")).log10()
    both = (pl.col("volume_shares") > 0) & (pl.col("other_volume") > 0)
    return (both & (power.round().abs() >= 1) & ((power - power.round()).abs() < SAME_UNIT_LOG10)).fill_null(
        value=False
    )


def _with_opinion(heard: pl.DataFrame, opinions: Sequence[Opinion]) -> pl.DataFrame:
    """Add the first opinion that covers a row: where it parts from the vendor, and who it is."""
    parts = [
        partings(heard, opinion).with_columns(other=pl.lit(opinion.source), rank=pl.lit(rank))
        for rank, opinion in enumerate(opinions)
    ]
    if not parts:
        return heard.with_columns(
            parting=pl.lit(None, pl.Int64),
            other_step=pl.lit(None, pl.Float64),
            other_close_vnd=pl.lit(None, pl.Float64),
            other_volume=pl.lit(None, pl.Int64),
            other=pl.lit(None, pl.String),
        )
    told = pl.concat(parts)
    if len(parts) > 1:
        told = told.sort("symbol", "session", "rank").unique(("symbol", "session"), keep="first", maintain_order=True)
    return heard.join(told.drop("rank"), on=("symbol", "session"), how="left", maintain_order="left")


def _rule_on_closes(heard: pl.DataFrame) -> pl.DataFrame:
    """Add close_ruling ("final" | "repair" | "mask" | null), final_close_vnd and close_reason."""
    close, other = pl.col("close_vnd"), pl.col("other_close_vnd")
    stated = pl.col("next_reference_vnd")  # null unless it is a witness of this row's close
    parted = (pl.col("parting") == int(Parting.CLOSE)).fill_null(value=False)
    heard_other = pl.col("parting").is_not_null()
    sides_with_own = ((stated - close).abs() <= SAME_VND).fill_null(value=False)
    sides_with_other = ((stated / other).log().abs() <= 0.002).fill_null(value=False)
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
        _ruled(heard, rulings, "close")
        .rename({"close_value": "final_close_vnd"})
        .with_columns(final_close_vnd=pl.when(pl.col("close_ruling") == "repair").then(pl.col("final_close_vnd")))
    )


def _ruled(heard: pl.DataFrame, rulings: Sequence[_Ruling], name: str) -> pl.DataFrame:
    """Add <name>_ruling, <name>_value and <name>_reason by the first ruling whose condition holds; null without one."""
    ruling, price, reason = pl.lit(None, pl.String), pl.lit(None, pl.Float64), pl.lit(None, pl.String)
    for condition, verdict, value, text in reversed(rulings):
        ruling = pl.when(condition).then(pl.lit(verdict)).otherwise(ruling)
        price = pl.when(condition).then(value).otherwise(price)
        reason = pl.when(condition).then(text).otherwise(reason)
    concerned = heard.filter(pl.any_horizontal(condition.fill_null(value=False) for condition, *_ in rulings))
    ruled = concerned.select(
        "row",
        ruling.alias(f"{name}_ruling"),
        price.cast(pl.Float64).alias(f"{name}_value"),
        reason.cast(pl.String).alias(f"{name}_reason"),
    )
    return heard.join(ruled, on="row", how="left", maintain_order="left")


def _rule_on_steps(heard: pl.DataFrame) -> pl.DataFrame:
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
    heard = _ruled(with_suspicions(heard), one_says, "step").rename({"step_value": "decided_step"})
    return heard.with_columns(
        decided_step=pl.when(pl.col("step_ruling").is_in(["repair", "own"])).then(
            pl.when((pl.col("decided_step") - 1.0).abs() < NO_STEP_FRAC).then(1.0).otherwise("decided_step")
        )
    )


def _findings(heard: pl.DataFrame) -> list[pl.DataFrame]:
    """Return what was ruled, with the evidence."""
    own = pl.col("vendor_step")

    def of(condition: pl.Expr, check: str, severity: str, verdict: str, text: pl.Expr) -> pl.DataFrame:
        return findings(heard.filter(condition.fill_null(value=False)), check, severity, verdict, text)

    closes, steps = pl.col("close_ruling"), pl.col("step_ruling")
    chained = pl.col("decided_step").round(4)
    found = [
        of(
            closes == "repair", "not_final", "error", "repair", said("stored close {}; {}", "close_vnd", "close_reason")
        ),
        of(closes == "mask", "not_final", "error", "mask", said("stored close {}; {}", "close_vnd", "close_reason")),
        of(closes == "final", "opinion", "info", "accept", said("close {} stands: {}", "close_vnd", "close_reason")),
        of(
            (steps == "repair") & (own == 1.0),
            "missing_step",
            "error",
            "repair",
            said("the vendor has no step; {}; chained x{}", "step_reason", chained),
        ),
        of(
            (steps == "repair") & (own != 1.0),
            "wrong_step",
            "error",
            "repair",
            said("the vendor's step is x{}; {}; chained x{}", own.round(4), "step_reason", chained),
        ),
        of(
            steps == "disputed",
            "disputed_step",
            "warn",
            "accept",
            said("the vendor's step is x{}; {}", own.round(4), "step_reason"),
        ),
        of(steps == "own", "opinion", "info", "accept", said("x{} stands: {}", own.round(4), "step_reason")),
        of(
            pl.col("other_unit"),
            "volume_unit",
            "error",
            "repair",
            said("{} shares; {} tells {}", "volume_shares", "other", "other_volume"),
        ),
        of(
            pl.col("parting") == int(Parting.OPEN),
            "opinion",
            "warn",
            "accept",
            said("{} has another return on the newest session both have; the next one will show why", "other"),
        ),
    ]
    return [frame.cast(pl.Schema(FINDING_SCHEMA)) for frame in found]
