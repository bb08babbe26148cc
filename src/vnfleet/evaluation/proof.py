"""The proof of skill of one candidate: every test of this room on the same walk-forward forecasts, in words.

Nothing here decides anything; the gate does. A test without enough to go on is None, never an exception: fewer sessions
than two blocks, a model that does not rank or never changes its call, no rivals, no recorded trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, FiniteFloat

from vnfleet.core.errors import BadDataError
from vnfleet.evaluation.comparison import (
    CONFIDENCE_SET_SIZE,
    LossTest,
    diebold_mariano,
    model_confidence_set,
    superior_predictive_ability,
)
from vnfleet.evaluation.direction import DirectionTest, pesaran_timmermann
from vnfleet.evaluation.metrics import paired_daily, scored_rows
from vnfleet.evaluation.power import smallest_detectable
from vnfleet.evaluation.skill import BLOCK_SESSIONS

TWO_BLOCKS: Final = 2 * BLOCK_SESSIONS
SET_COVERAGE: Final = 0.95
NUM_NAMED: Final = 6
MOST_VARIANTS: Final = 50
"""Others than the candidate and its rivals in the set of the best: its memory grows with the square of their number."""
_CALLS: Final = {"absolute": ("call_up", "up"), "relative": ("call_above", "above")}


class RivalTest(BaseModel):
    """Candidate against one rival: Diebold-Mariano on 1 - daily rank IC; `test` is None when they share too little."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    model_id: str
    test: LossTest | None

    @property
    def words(self) -> str:
        """The result in one sentence."""
        if self.test is None:
            return f"{self.name}: too few sessions on which both ranked"
        lead = -self.test.mean_difference
        figures = f"rank correlation {abs(lead):.3f} {'higher' if lead > 0 else 'lower'}"
        return f"{self.name}: {figures} over {self.test.num_sessions:,} sessions; {_luck(self.test.p_one_sided)}"


class Search(BaseModel):
    """Whether the best of all variants tried is better than the best rival, allowing for the number of tries.

    `lead_rank_ic` is that of `best_variant` over `benchmark` on the sessions both ranked; `num_variants` counts those
    that share two blocks of sessions with it, `num_left_out` those that do not and could not be allowed for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    best_variant: str
    lead_rank_ic: FiniteFloat
    num_variants: int
    num_left_out: int
    num_sessions: int
    p_spa: FiniteFloat
    p_reality_check: FiniteFloat

    @property
    def words(self) -> str:
        """The result in one sentence."""
        have = "has" if self.num_left_out == 1 else "have"
        lost = f" ({self.num_left_out} more {have} too few sessions in common)" if self.num_left_out else ""
        best, tries = f"the best of {self.num_variants} variants tried", "with so many tries "
        if self.num_variants == 1:
            best, tries = "the one variant tried", ""
        return (
            f"search: {best}{lost}, {self.best_variant}, ranks "
            f"{abs(self.lead_rank_ic):.3f} {'better' if self.lead_rank_ic > 0 else 'worse'} than {self.benchmark} over "
            f"{self.num_sessions:,} sessions; {tries}{_luck(self.p_spa)} (Hansen's test; White's older "
            f"one: p = {self.p_reality_check:.3f})"
        )


class Proof(BaseModel):
    """What the forecasts prove about `candidate`, and what they could have proved.

    direction_absolute, direction_relative : Pesaran-Timmermann on up or down, and on above or below the market.
    rivals : one test per rival that ranks.
    search : over every variant recorded.
    confidence_set : those that cannot be told from the best of `num_compared`, `CONFIDENCE_SET_SIZE` risk.
    num_not_compared : other variants left out of it, none of which ranked better than the `MOST_VARIANTS` that were in.
    smallest_rank_ic, smallest_accuracy_..._frac : the smallest true rank IC, and accuracy above its mark, that so many
        sessions show four times in five (5 % one-sided).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    horizon_sessions: int
    num_sessions: int
    direction_absolute: DirectionTest | None
    direction_relative: DirectionTest | None
    rivals: tuple[RivalTest, ...]
    search: Search | None
    confidence_set: tuple[str, ...] | None
    num_compared: int
    num_not_compared: int = 0
    smallest_rank_ic: FiniteFloat | None
    smallest_accuracy_absolute_frac: FiniteFloat | None
    smallest_accuracy_relative_frac: FiniteFloat | None

    def lines(self) -> tuple[str, ...]:
        """Return the proof in plain words, one finding a line."""
        told = [
            _direction_words("up or down", self.direction_absolute),
            _direction_words("above or below the market", self.direction_relative),
            *(f"against {rival.words}" for rival in self.rivals),
            self.search.words if self.search else "search: no variant and rival with enough sessions in common",
            self._words_of_the_set(),
        ]
        return (*told, self._limits_of_the_data())

    def _words_of_the_set(self) -> str:
        if self.confidence_set is None:
            return "best models: too little in common to tell any two apart"
        more = len(self.confidence_set) - NUM_NAMED
        names = ", ".join(self.confidence_set[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
        return (
            f"best models: the candidate is {'' if self.candidate in self.confidence_set else 'NOT '}among the "
            f"{len(self.confidence_set)} of {self.num_compared} that cannot be told from the best, right "
            f"{1 - CONFIDENCE_SET_SIZE:.0%} of the time: {names}{self._words_of_those_left_out()}"
        )

    def _words_of_those_left_out(self) -> str:
        if not self.num_not_compared:
            return ""
        return (
            f" (beside the candidate and its rivals only the best {MOST_VARIANTS} other variants were compared; "
            f"{self.num_not_compared:,} that ranked no better were left out)"
        )

    def _limits_of_the_data(self) -> str:
        edges = [
            f"a rank correlation of {self.smallest_rank_ic:.3f}" if self.smallest_rank_ic is not None else "",
            _edge_words("up or down", self.smallest_accuracy_absolute_frac),
            _edge_words("against the market", self.smallest_accuracy_relative_frac),
        ]
        shown = ", ".join(edge for edge in edges if edge)
        if not shown:
            return f"{self.num_sessions:,} sessions with a ranking are too few to prove anything"
        return (
            f"smallest true edge that {self.num_sessions:,} sessions would have shown four times in five: {shown}; "
            "smaller ones are neither proved nor disproved"
        )


def prove_skill(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    daily_ic: pl.DataFrame,
    *,
    candidate: str,
    rivals: Mapping[str, str],
    trials: pl.DataFrame,
    horizon_sessions: int,
) -> Proof:
    """Return everything the tests of this room say about `candidate`.

    Parameters
    ----------
    predictions, outcomes
        Prediction and outcome frame; calls follow the rules of `evaluation.metrics`.
    daily_ic
        Frame of `metrics.daily_rank_ic` with the candidate and its rivals.
    candidate
        Its model_id.
    rivals
        What people call each -> model_id; those that never rank are left out.
    trials
        Frame [model_id, session, rank_ic]: the daily rank IC of every variant ever evaluated on these sessions, bad
        ones too; the candidate counts as one whether it is listed or not, rivals do not. A session a variant lacks
        counts as a lead of 0 over the benchmark, which leaves its own t value as it is.
    horizon_sessions
        The horizon judged.

    Raises
    ------
    BadDataError
        When a frame lacks columns or `trials` repeats a session of a model.
    """
    daily = daily_ic.filter(pl.col("horizon_sessions") == horizon_sessions)
    racing = (candidate, *rivals.values())
    ranks = _by_session(daily, "daily rank IC")
    ranks = ranks.select("session", *(one for one in racing if one in ranks.columns))
    variants = _by_session(trials, "trials")
    variants = variants.drop(one for one in racing if one in variants.columns)
    ranking = {name: model_id for name, model_id in rivals.items() if model_id in ranks.columns}
    own = ranks.get_column(candidate).drop_nulls().to_numpy() if candidate in ranks.columns else np.empty(0)
    scored = scored_rows(
        predictions.filter(pl.col("model_id") == candidate, pl.col("horizon_sessions") == horizon_sessions), outcomes
    )
    table = ranks.join(variants, on="session", how="left").sort("session")
    compared = _confidence_set(table, candidate, ranking)
    return Proof(
        candidate=candidate,
        horizon_sessions=horizon_sessions,
        num_sessions=own.size,
        direction_absolute=_direction(scored, "absolute", horizon_sessions),
        direction_relative=_direction(scored, "relative", horizon_sessions),
        rivals=tuple(
            RivalTest(name=name, model_id=model_id, test=_against(daily, candidate, model_id, horizon_sessions))
            for name, model_id in ranking.items()
        ),
        search=_search(table, candidate, ranking),
        confidence_set=compared[0],
        num_compared=compared[1],
        num_not_compared=compared[2],
        smallest_rank_ic=smallest_detectable(own) if own.size >= TWO_BLOCKS else None,
        smallest_accuracy_absolute_frac=_smallest_accuracy(scored, "absolute"),
        smallest_accuracy_relative_frac=_smallest_accuracy(scored, "relative"),
    )


def _by_session(frame: pl.DataFrame, noun: str) -> pl.DataFrame:
    """Return one column of rank IC per model that has any, one row per session."""
    missing = [name for name in ("model_id", "session", "rank_ic") if name not in frame.columns]
    if missing:
        raise BadDataError(f"the {noun} frame lacks columns", found=frame.columns, expected=missing)
    rows = frame.filter(pl.col("rank_ic").is_finite()).select("model_id", pl.col("session").cast(pl.Date), "rank_ic")
    repeated = rows.filter(rows.select("model_id", "session").is_duplicated())
    if repeated.height:
        raise BadDataError(f"the {noun} frame repeats a session of a model", where=repeated.row(0))
    return rows.pivot("model_id", index="session", values="rank_ic").sort("session")


def _direction(scored: pl.DataFrame, kind: str, horizon_sessions: int) -> DirectionTest | None:
    call, outcome = _CALLS[kind]
    rows = scored.select("session", call, outcome).drop_nulls()
    if rows.get_column("session").n_unique() < max(TWO_BLOCKS, 2 * horizon_sessions):
        return None
    return pesaran_timmermann(
        rows.get_column(call).to_numpy(),
        rows.get_column(outcome).to_numpy(),
        rows.get_column("session").to_numpy(),
        horizon_sessions=horizon_sessions,
    )


def _smallest_accuracy(scored: pl.DataFrame, kind: str) -> float | None:
    call, outcome = _CALLS[kind]
    hits = (
        scored.select("session", call, outcome)
        .drop_nulls()
        .group_by("session")
        .agg(rate=(pl.col(call) == pl.col(outcome)).mean(), calls=pl.len())
        .sort("session")
    )
    if hits.height < TWO_BLOCKS:
        return None
    return smallest_detectable(hits.get_column("rate").to_numpy(), weights=hits.get_column("calls").to_numpy())


def _against(daily: pl.DataFrame, candidate: str, rival: str, horizon_sessions: int) -> LossTest | None:
    mine, theirs = paired_daily(daily, candidate, rival, horizon_sessions=horizon_sessions)
    if mine.size < max(TWO_BLOCKS, 2 * horizon_sessions + 1):
        return None
    return diebold_mariano(1 - mine, 1 - theirs, horizon_sessions=horizon_sessions)


def _search(table: pl.DataFrame, candidate: str, rivals: Mapping[str, str]) -> Search | None:
    """Hold every variant against the rival the candidate leads least, on the sessions these two share."""
    if candidate not in table.columns:
        return None
    shared = {
        name: table.filter(pl.col(candidate).is_not_null(), pl.col(model_id).is_not_null())
        for name, model_id in rivals.items()
    }
    leads = {
        name: float(rows.select((pl.col(candidate) - pl.col(rivals[name])).mean()).item())
        for name, rows in shared.items()
        if rows.height >= TWO_BLOCKS
    }
    if not leads:
        return None
    benchmark = min(leads, key=lambda name: leads[name])
    rows = shared[benchmark].drop("session", *(one for one in rivals.values() if one != rivals[benchmark]))
    best_rank = rows.get_column(rivals[benchmark])
    lead_TK = rows.drop(rivals[benchmark]).select(pl.all() - best_rank)
    known = [name for name in lead_TK.columns if lead_TK.get_column(name).count() >= TWO_BLOCKS]
    mean_lead = {name: float(np.mean(lead_TK.get_column(name).drop_nulls().to_numpy())) for name in known}
    best = max(mean_lead, key=lambda name: mean_lead[name])
    losses = -lead_TK.select(known).fill_null(0.0).to_numpy()
    test = superior_predictive_ability(losses, np.zeros(rows.height))
    return Search(
        benchmark=benchmark,
        best_variant=best,
        lead_rank_ic=mean_lead[best],
        num_variants=len(known),
        num_left_out=lead_TK.width - len(known),
        num_sessions=rows.height,
        p_spa=test.p_spa,
        p_reality_check=test.p_reality_check,
    )


def _confidence_set(
    table: pl.DataFrame, candidate: str, rivals: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, int, int]:
    """Return the set of the best, how many took part, and how many other variants were too many.

    Those that ranked on 95 % of the candidate's sessions can take part: the candidate, its rivals, and of the others
    the `MOST_VARIANTS` with the highest mean rank IC.
    """
    if candidate not in table.columns:
        return None, 0, 0
    rows = table.filter(pl.col(candidate).is_not_null()).drop("session")
    complete = [name for name in rows.columns if rows.get_column(name).count() >= SET_COVERAGE * rows.height]
    mean_ic = rows.select(pl.col(complete).mean()).row(0, named=True)
    others = sorted({*complete} - {candidate, *rivals.values()}, key=lambda name: (-mean_ic[name], name))
    left_out = set(others[MOST_VARIANTS:])
    compared = [name for name in complete if name not in left_out]
    common = rows.select(compared).drop_nulls()
    if len(compared) < 2 or common.height < TWO_BLOCKS:
        return None, len(compared), len(left_out)
    label = {model_id: name for name, model_id in rivals.items()}
    names = [label.get(model_id, model_id) for model_id in compared]
    return model_confidence_set(1 - common.to_numpy(), names), len(compared), len(left_out)


def _luck(p_value: float) -> str:
    """Say a p-value as a trader would: how often luck alone does as well."""
    if p_value > 0.1:
        return f"luck alone does as well {min(p_value, 0.99):.0%} of the time (p = {p_value:.2f})"
    if p_value < 0.001:
        return "luck alone does as well less than once in 1,000 tries"
    return f"luck alone does as well about once in {round(1 / p_value):,} tries (p = {p_value:.3f})"


def _direction_words(what: str, test: DirectionTest | None) -> str:
    if test is None:
        return f"calls of {what}: too few to judge"
    figures = (
        f"calls of {what}: {test.hit_rate:.1%} of {test.num_rows:,} right, {test.expected_rate:.1%} expected of calls "
        "with the same leaning that know nothing"
    )
    if test.p_one_sided is None:
        return f"{figures}; always the same call, so nothing to test"
    return f"{figures}; {_luck(test.p_one_sided)}"


def _edge_words(what: str, edge_frac: float | None) -> str:
    return "" if edge_frac is None else f"{100 * edge_frac:.1f} points of accuracy {what}"
