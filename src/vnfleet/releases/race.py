"""Forecasters against each other on the same sessions: daily rank IC, paired, judged by block bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Final, Literal

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.evaluation.skill import PairedDifference, paired_difference
from vnfleet.releases.verdict import Check

LABELS: Final = {
    "adapted": "the per-symbol adapted models",
    "separate": "the separate models of each symbol",
    "pooled": "the shared pooled model",
}
ALWAYS_FROM: Final = 0.95
GatePolicy = Literal["fleet", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """How much proof a recipe needs.

    Parameters
    ----------
    block_sessions : block length of the bootstrap; 5-session labels overlap, so neighbours are resampled together.
    significance : a lead counts when luck alone makes one as large less often than this; shared where several race
        (`shared_among`). 0.03, because few blocks of persistent results make the test too sure of itself: with 0.05
        stated, the rank checks promoted 7 % of 400 synthetic factories by luck in a year (`gate_calibration_*.md`).
    min_sessions : fewer common sessions leave the contest undecided (a year of trading).
    min_year_sessions : a calendar year with fewer sessions cannot block a release.
    min_proof_sessions : fewer sessions of its own prove nothing about any forecaster.
    num_resamples, seed : of the bootstrap.
    policy : "fleet" (the checks of `gate`) or "plan" (the written plan's thresholds, model by model: `plan_gate`).
    min_deflated_sharpe : how probable it must be that the account's lead over equal weight is real, after allowing for
        every variant ever tried.
    target_volatility_frac, max_drawdown_frac : scaled to this volatility a year, the account may not have lost more
        than this from a peak. A brake on broken accounts, not a proof of skill: see `account_facts`.
    veto_z : models whose accuracy, shrunk to the pool's, lies this many standard errors from a coin flip (or further
        below) do not serve; the pooled model serves their symbols.
    prior_trials : variants tried before the recorded ones. `benchmarks/trials.md` lists some 30 by the developers (4
        settings, 6 pairs of penalties, 16 epoch rules, a floor of LightGBM, rebuilt data, first looks at features);
        rounded up to 40 for what nobody wrote down.
    trial_likeness : how alike the variants are (correlation of their results): the best of many twins is less of a
        lucky draw than the best of many strangers. Over five years the 95 % interval of a rank IC reaches 0.020 to
        either side (`weekly_cycle_2core_202611.md`), that of the difference of two variants 0.0055 (`trials.md`), so
        they are correlated by 1 - (0.0055 / 0.020)^2 / 2 = 0.96; 0.8 is cautious, as accounts hold the top of the
        ranking only. Used only where nobody measured the spread of the trials' Sharpe ratios.
    """

    block_sessions: int = 15
    significance: float = 0.03
    min_sessions: int = 250
    min_year_sessions: int = 60
    min_proof_sessions: int = 60
    num_resamples: int = 2000
    seed: int = 0
    policy: GatePolicy = "fleet"
    min_deflated_sharpe: float = 0.95
    target_volatility_frac: float = 0.10
    max_drawdown_frac: float = 0.45
    veto_z: float = -2.0
    prior_trials: int = 40
    trial_likeness: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.significance < 1:
            raise ValueError(f"significance must lie between 0 and 1, found {self.significance}")
        if min(self.block_sessions, self.min_year_sessions, self.num_resamples) < 1:
            raise ValueError("block_sessions, min_year_sessions and num_resamples must be at least 1")
        if min(self.min_sessions, self.min_proof_sessions) < 2 * self.block_sessions:
            raise ValueError("min_sessions and min_proof_sessions must be at least two blocks: the test needs them")
        if self.policy not in ("fleet", "plan"):
            raise ValueError(f'policy must be "fleet" or "plan", found {self.policy!r}')
        for name in ("min_deflated_sharpe", "target_volatility_frac", "max_drawdown_frac"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, found {getattr(self, name)}")
        if self.veto_z >= 0 or self.prior_trials < 0 or not 0 <= self.trial_likeness < 1:
            raise ValueError("veto_z must be below 0, prior_trials not negative, trial_likeness at least 0 and under 1")


@dataclass(frozen=True, slots=True)
class Runner:
    """One forecaster in the race; `daily` holds its rank IC by session, ascending, at least one.

    `runs_today` only changes what people read: the champion may bear the same name as its challenger.
    """

    name: str
    model_id: str
    daily: Mapping[date, float]
    runs_today: bool = False

    @property
    def label(self) -> str:
        """What people call it."""
        label = LABELS.get(self.name, self.name)
        return f"what runs today ({label})" if self.runs_today else label

    @property
    def mean(self) -> float:
        """Mean rank IC over its own sessions."""
        return self.mean_over(tuple(self.daily))

    def mean_over(self, sessions: tuple[date, ...]) -> float:
        """Return the mean rank IC over `sessions`, 0 without any."""
        return sum(self.daily[session] for session in sessions) / max(len(sessions), 1)

    def years(self, min_sessions: int) -> dict[int, float]:
        """Return the mean rank IC of every calendar year with at least `min_sessions`."""
        by_year: dict[int, list[float]] = {}
        for session, value in self.daily.items():
            by_year.setdefault(session.year, []).append(value)
        return {year: sum(values) / len(values) for year, values in by_year.items() if len(values) >= min_sessions}


def runner_of(daily_ic: pl.DataFrame, model_id: str, name: str) -> Runner | None:
    """Return the forecaster `model_id` of a daily rank IC frame, or None when it never ranked anything.

    Raises `BadDataError` when a session appears twice (two horizons in one frame, say).
    """
    rows = daily_ic.filter(pl.col("model_id") == model_id, pl.col("rank_ic").is_finite()).sort("session")
    if rows.get_column("session").is_duplicated().any():
        raise BadDataError("a daily rank IC frame repeats a session", where=model_id, fix="keep one horizon")
    if rows.is_empty():
        return None
    daily = dict(zip(rows.get_column("session").to_list(), rows.get_column("rank_ic").to_list(), strict=True))
    return Runner(name, model_id, daily)


def common_sessions(first: Runner, *others: Runner) -> tuple[date, ...]:
    """Return the sessions on which all of them ranked, ascending."""
    return tuple(session for session in first.daily if all(session in other.daily for other in others))


def judge_enough(sessions: tuple[date, ...], limits: GateLimits) -> Check:
    """Ask whether there is enough common history to decide at all; not judged (None) when there is not."""
    count, limit = len(sessions), limits.min_sessions
    enough = count >= limit
    words = f"{count} trading days on which all of them ranked ({limit} are needed to decide)"
    return Check(name="enough_sessions", passed=True if enough else None, value=count, limit=limit, words=words)


def judge_skill(runner: Runner, limits: GateLimits) -> Check:
    """Ask whether it ranks better than a coin flip."""
    name, count = "skill", len(runner.daily)
    if count < limits.min_proof_sessions:
        words = f"{runner.label} ranked on {count} days only: too few to prove skill"
        return Check(name=name, passed=None, limit=limits.significance, words=words)
    sessions = tuple(runner.daily)
    test = _paired(list(runner.daily.values()), [0.0] * count, limits)
    words = (
        f"{runner.label}: mean rank correlation with what followed {runner.mean_over(sessions):.3f} over {count} days "
        f"(1 = perfect, 0 = coin flip); {_luck(test.p_one_sided, limits)} {_asked(limits)}"
    )
    passed = test.mean_difference > 0 and test.p_one_sided < limits.significance
    return Check(name=name, passed=passed, value=test.p_one_sided, limit=limits.significance, words=words)


def judge_lead(name: str, runner: Runner, rival: Runner, sessions: tuple[date, ...], limits: GateLimits) -> Check:
    """Ask whether `runner` ranks better than `rival` on the same sessions; not judged under `min_sessions`."""
    mine, theirs = runner.mean_over(sessions), rival.mean_over(sessions)
    relation = "better than" if mine > theirs else "no better than"
    figures = (
        f"{runner.label} ranked {relation} {rival.label}: {mine:.3f} against {theirs:.3f} over {len(sessions)} days"
    )
    if len(sessions) < limits.min_sessions:
        words = f"{figures}, too few to decide"
        return Check(name=name, passed=None, limit=limits.significance, words=words)
    test = _paired(
        [runner.daily[session] for session in sessions], [rival.daily[session] for session in sessions], limits
    )
    passed = test.mean_difference > 0 and test.p_one_sided < limits.significance
    words = f"{figures}; {_luck(test.p_one_sided, limits)} {_asked(limits)}" if mine > theirs else figures
    return Check(name=name, passed=passed, value=test.p_one_sided, limit=limits.significance, words=words)


def judge_years(runner: Runner, limits: GateLimits) -> Check:
    """Ask whether no calendar year with enough sessions shows it ranking the wrong way round."""
    name, years = "no_losing_year", runner.years(limits.min_year_sessions)
    if not years:
        words = f"{runner.label}: no calendar year with {limits.min_year_sessions} days that could speak against it"
        return Check(name=name, passed=True, limit=0.0, words=words)
    worst = min(years, key=lambda year: years[year])
    losing = sorted(year for year, value in years.items() if value < 0)
    if losing:
        when = ", ".join(map(str, losing))
        words = f"{runner.label} ranked the wrong way round in {when} (worst: {years[worst]:.3f} in {worst})"
    else:
        words = f"{runner.label} ranked the right way round in every year (worst: {years[worst]:.3f} in {worst})"
    return Check(name=name, passed=not losing, value=years[worst], limit=0.0, words=words)


def may_serve_alone(runner: Runner, limits: GateLimits) -> bool:
    """Return True when a baseline has proven skill of its own and no losing year: what may serve without the models."""
    return judge_years(runner, limits).passed is True and judge_skill(runner, limits).passed is True


def shared_among(limits: GateLimits, num_rivals: int) -> GateLimits:
    """Return the limits for the best of `num_rivals`: each may be lucky, so each gets its share of the significance.

    Bonferroni's correction; without it the best of six independent rules without skill would seem to have some in one
    race in four (1 - 0.95^6).
    """
    return replace(limits, significance=limits.significance / max(num_rivals, 1))


def _paired(a: list[float], b: list[float], limits: GateLimits) -> PairedDifference:
    return paired_difference(
        a, b, block_sessions=limits.block_sessions, num_resamples=limits.num_resamples, seed=limits.seed
    )


def _luck(p_value: float, limits: GateLimits) -> str:
    """Say a p-value as a trader would: how often luck alone does as well."""
    if p_value >= ALWAYS_FROM:
        return "luck alone does as well nearly always"
    if p_value > 0.1:
        return f"luck alone does as well {p_value:.0%} of the time"
    if p_value * (1 + limits.num_resamples) < 1.5:
        return f"luck alone did not do as well in any of {limits.num_resamples:,} tries"
    return f"luck alone does as well about once in {round(1 / p_value):,} tries"


def _asked(limits: GateLimits) -> str:
    """Say how rarely luck alone may do as well, in the words of `_luck`."""
    return f"(at most once in {round(1 / limits.significance):,} tries is asked for)"
