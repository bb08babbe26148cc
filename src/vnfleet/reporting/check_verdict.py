"""The check in one sentence: is the feed fit to train on, and what differs from the check before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from vnfleet.data.court.quality import MARKET, QualityReport
from vnfleet.reporting.check_inputs import CheckInputs
from vnfleet.reporting.check_summary import by_importance, row_counts, verdict_counts
from vnfleet.reporting.check_words import SYMBOL_VERDICT_WORDS, check_words, said_of
from vnfleet.reporting.formats import number, percent

FINDING_KEY = ("symbol", "session", "check")
_ROW_ACTS = {"repair": "repaired", "mask": "masked", "quarantine": "with the vendor's adjustment refused"}
_FIT_WORDS = {
    "fit": "the feed is fit to train on",
    "care": "the feed is fit to train on, with care",
    "unfit": "the feed is not fit to train on",
}
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Fitness:
    """Whether a feed may be trained on: state "fit", "care" or "unfit", with the reasons that lowered it."""

    state: str
    reasons: tuple[str, ...]


def fitness(inputs: CheckInputs) -> Fitness:
    """Return whether the feed may be trained on by its rule, and why not or only with care."""
    report, rule, num_rows, named = _of_wanted(inputs.report, inputs), inputs.rule, inputs.raw.height, "traded"
    total = report.symbols.height
    if inputs.wanted is not None:
        num_rows, named = inputs.raw.filter(pl.col("symbol").is_in(inputs.wanted)).height, "wanted"
        total = len(set(inputs.wanted))
    symbols = verdict_counts(report)
    live, accepted = total - symbols["retired"], symbols["accept"]
    masked_frac = row_counts(report)["mask"] / num_rows if num_rows else 0.0
    lost_frac = _lost_frac(report, inputs)
    bad: list[str] = []
    care: list[str] = []
    if not accepted:
        bad.append("no symbol was accepted")
    elif accepted < rule.min_accepted_frac * live:
        needed = percent(rule.min_accepted_frac, 0)
        bad.append(f"{percent(accepted / live)} of the {named} symbols were accepted and {needed} are needed")
    elif live - accepted > rule.care_quarantined_frac * live:
        care.append(f"{percent((live - accepted) / live)} of the {named} symbols were not accepted")
    if masked_frac > rule.care_masked_frac:
        heavy = bad if masked_frac > rule.max_masked_frac else care
        heavy.append(f"{percent(masked_frac, 2)} of the rows are masked")
    if lost_frac > rule.care_lost_frac:
        heavy = bad if lost_frac > rule.max_lost_frac else care
        heavy.append(f"{percent(lost_frac)} of the symbols accepted before are not accepted any more")
    care += _market_worries(report, inputs)
    return Fitness("unfit", tuple(bad)) if bad else Fitness("care" if care else "fit", tuple(care))


def _of_wanted(report: QualityReport, inputs: CheckInputs) -> QualityReport:
    if inputs.wanted is None:
        return report
    rows = report.rows.filter(pl.col("symbol").is_in([*inputs.wanted, MARKET]))
    return QualityReport(rows=rows, symbols=report.symbols.filter(pl.col("symbol").is_in(inputs.wanted)))


def _lost_frac(report: QualityReport, inputs: CheckInputs) -> float:
    """Return the share of the symbols accepted by the previous check that are not accepted any more."""
    if inputs.previous is None:
        return 0.0
    accepted = pl.col("verdict") == "accept"
    before = _of_wanted(inputs.previous, inputs).symbols.filter(accepted)
    lost = before.join(report.symbols.filter(accepted), on="symbol", how="anti")
    return lost.height / before.height if before.height else 0.0


def _market_worries(report: QualityReport, inputs: CheckInputs) -> list[str]:
    """Return what is wrong with the whole market lately, one reason per check."""
    since = inputs.as_of - timedelta(days=inputs.rule.recent_days)
    worries = report.rows.filter(
        (pl.col("symbol") == MARKET)
        & ((pl.col("severity") == "error") | (pl.col("check") == "in_session"))
        & (pl.col("session") >= since)
    )
    newest = worries.group_by("check").agg(pl.col("session").max()).sort("check")
    return [f"on {session}: {check_words(check).title.lower()}" for check, session in newest.iter_rows()]


def verdict_sentence(inputs: CheckInputs) -> str:
    """Return the check in one sentence: symbols, what was done to the rows, and whether the feed is fit to train on."""
    symbols, rows = verdict_counts(inputs.report), row_counts(inputs.report)
    parts = [f"{number(symbols['accept'], 0)} of {number(inputs.report.symbols.height, 0)} symbols accepted"]
    parts += [
        f"{number(count, 0)} {said_of(SYMBOL_VERDICT_WORDS, verdict)}"
        for verdict, count in symbols.items()
        if verdict != "accept" and count
    ]
    acts = [f"{number(rows[verdict], 0)} {said_of(_ROW_ACTS, verdict)}" for verdict in _ROW_ACTS if rows[verdict]]
    total = number(inputs.raw.height, 0)
    touched = f"of {total} rows {_and(acts)}" if acts else f"none of {total} rows touched"
    judged = fitness(inputs)
    because = f", because {_and(judged.reasons)}" if judged.reasons else ""
    return f"{_and(parts)}; {touched}: {_FIT_WORDS[judged.state]}{because}."


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the check before: sentences, the findings that are new, the symbols judged otherwise."""

    sentences: tuple[str, ...]
    new: pl.DataFrame
    gone: int


def changes_since(report: QualityReport, previous: QualityReport) -> Changes:
    """Return what changed between two checks, new findings gravest first."""
    new = by_importance(report.rows.join(previous.rows, on=FINDING_KEY, how="anti", nulls_equal=True))
    gone = previous.rows.join(report.rows, on=FINDING_KEY, how="anti", nulls_equal=True)
    both = report.symbols.join(previous.symbols, on="symbol", how="full", suffix="_before", coalesce=True)
    moved = both.filter(pl.col("verdict").ne_missing(pl.col("verdict_before"))).sort("symbol")
    said: list[str] = []
    for (before, now), group in sorted(
        moved.group_by("verdict_before", "verdict"), key=lambda item: tuple(str(part) for part in item[0])
    ):
        names = group.get_column("symbol").sort().to_list()
        said.append(f"{_names(names)} {_moved(before, now, many=len(names) > 1)}.")
    newest, newest_before = (part.symbols.get_column("last_session").max() for part in (report, previous))
    if newest != newest_before:
        said.append(f"Newest session {newest or 'none'!s}, it was {newest_before or 'none'!s}.")
    if new.height or gone.height:
        grave = new.filter(pl.col("severity") == "error").height
        errors = f", {number(grave, 0)} of them errors" if grave else ""
        old = new.filter(pl.col("session") <= newest_before).height if newest_before is not None else 0
        past = f"; {number(old, 0)} of the new ones in sessions the previous check had seen" if old else ""
        said.append(f"{number(new.height, 0)} new findings{errors}, {number(gone.height, 0)} gone{past}.")
    else:
        said.append("The findings are the same as before.")
    counts, before_counts = (dict(part.rows.group_by("check").len().iter_rows()) for part in (report, previous))
    said.extend(
        f"“{check_words(check).title}” was found for the first time ({number(counts[check], 0)})."
        for check in sorted(set(counts) - set(before_counts))
    )
    return Changes(tuple(said), new, gone.height)


def _moved(before: object, now: object, *, many: bool) -> str:
    verb = "are" if many else "is"
    if now is None:
        return f"{verb} no longer told by the source"
    words = said_of(SYMBOL_VERDICT_WORDS, str(now))
    return (
        f"{verb} new: {words}"
        if before is None
        else f"{verb} {words} now, before {said_of(SYMBOL_VERDICT_WORDS, str(before))}"
    )


def _names(names: list[str]) -> str:
    more = len(names) - _NAMED
    return _and(names) if more <= 0 else f"{', '.join(names[:_NAMED])} and {number(more, 0)} more"
