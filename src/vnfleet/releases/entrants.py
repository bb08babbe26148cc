"""Who races: the candidate among a recipe's strategies, and the simple rules that it must beat."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.releases.race import LABELS, Runner, common_sessions, runner_of
from vnfleet.releases.verdict import Check


def required(daily_ic: pl.DataFrame, model_id: str, name: str) -> Runner:
    """Return the forecaster `model_id`; raises `BadDataError` when it never ranked anything."""
    runner = runner_of(daily_ic, model_id, name)
    if runner is None:
        raise BadDataError(
            "a forecaster in the race has no daily rank IC",
            where=f"{name} ({model_id})",
            fix="evaluate it on the same walk-forward sessions first",
        )
    return runner


def choose_strategy(daily_ic: pl.DataFrame, candidates: Mapping[str, str]) -> tuple[Runner, tuple[Check, ...]]:
    """Return the candidate and why: models per symbol only where they rank no worse than the pooled one."""
    if not candidates or set(candidates) - set(LABELS):
        raise UsageError(
            "the gate needs a candidate of a known strategy", expected=sorted(LABELS), found=list(candidates)
        )
    if len(set(candidates) - {"pooled"}) > 1:
        raise UsageError(
            "one strategy with models per symbol may race the pooled model, not several", found=sorted(candidates)
        )
    runners = {name: required(daily_ic, model_id, name) for name, model_id in candidates.items()}
    if len(runners) == 1:
        return next(iter(runners.values())), ()
    own, pooled = next(runner for name, runner in runners.items() if name != "pooled"), runners["pooled"]
    sessions = common_sessions(own, pooled)
    mine, theirs = own.mean_over(sessions), pooled.mean_over(sessions)
    chosen = own if sessions and mine >= theirs else pooled
    relation = "no worse than" if chosen is own else "worse than"
    figures = f"{mine:.3f} against {theirs:.3f}"
    words = f"{own.label} rank {relation} {pooled.label} ({figures}): the candidate is {chosen.label}"
    return chosen, (Check(name="strategy", passed=None, value=mine - theirs, limit=0.0, words=words),)


def rank_baselines(
    daily_ic: pl.DataFrame, baselines: Mapping[str, str], candidate: Runner
) -> tuple[list[Runner], tuple[Check, ...]]:
    """Return the ranking baselines, best mean on the candidate's sessions first, and a note on each silent one."""
    runners = {name: runner_of(daily_ic, model_id, name) for name, model_id in baselines.items()}
    ranked = [runner for runner in runners.values() if runner is not None]
    if not ranked:
        raise UsageError(
            "no baseline ranks anything, and models are not promoted unopposed",
            found=sorted(baselines),
            fix="race at least the 1-day reversal",
        )
    silent = tuple(
        Check(name=f"baseline_{name}", passed=None, words=f"{name} ranks nothing: reported, never serves")
        for name, runner in runners.items()
        if runner is None
    )
    return sorted(ranked, key=lambda one: -one.mean_over(common_sessions(one, candidate))), silent
