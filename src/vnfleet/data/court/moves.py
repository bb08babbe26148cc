"""The court's hearing of moves: closes that are not final, adjustment steps that are wrong or missing.

Witnesses, and what each is worth:

- *the stated reference* of the next session names the final close where the symbol is on HOSE or HNX; on UPCoM it is an
  average price, which only has to lie within the day's range. A day on which most references that differ are in truth
  the open, or lie where no close of the day before can have been, is no witness at all. On an ex-date the reference
  proves a step when it is not the previous close; when it is, it proves nothing (for years CafeF put the previous close
  there on every ex-date).
- *a second vendor* is compared on returns (`excursions`). It may be the one who errs: where the stated reference, or
  the band, sides with the primary vendor, the primary is right. Its silence about a step counts for nothing once it
  was caught without a step of that symbol that the reference proves, or lacks many steps of the market (it adjusts
  for other things). Where the band refuses both readings, neither is taken.
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

from vnfleet.data.court.closes import SAME_CLOSE_LOG, rule_on_closes
from vnfleet.data.court.days import with_days
from vnfleet.data.court.evidence import with_evidence
from vnfleet.data.court.excursions import Parting, partings
from vnfleet.data.court.findings import FINDING_SCHEMA, findings, said
from vnfleet.data.court.opinions import Opinion
from vnfleet.data.court.steps import rule_on_steps

SAME_UNIT_LOG10 = 0.004


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
    heard = rule_on_steps(rule_on_closes(heard)).with_columns(other_unit=_other_unit())
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


def _findings(heard: pl.DataFrame) -> list[pl.DataFrame]:
    """Return what was ruled, with the evidence."""
    own = pl.col("vendor_step")

    def of(condition: pl.Expr, check: str, severity: str, verdict: str, text: pl.Expr) -> pl.DataFrame:
        return findings(heard.filter(condition.fill_null(value=False)), check, severity, verdict, text)

    closes, steps = pl.col("close_ruling"), pl.col("step_ruling")
    chained = pl.col("decided_step").round(4)
    small = (pl.col("final_close_vnd") / pl.col("close_vnd")).log().abs() <= SAME_CLOSE_LOG
    told = said("stored close {}; {}", "close_vnd", "close_reason")
    found = [
        of((closes == "repair") & small, "last_tick", "info", "repair", told),
        of((closes == "repair") & ~small, "not_final", "error", "repair", told),
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
