"""Symbols whose own model does not serve: a veto only, because no model can be proven alone (`evaluation.md` 3, 7)."""

from __future__ import annotations

from collections.abc import Mapping

from vnfleet.releases.race import GateLimits, Runner
from vnfleet.releases.verdict import Check

NAMED = 12


def vetoed_symbols(vetoes: Mapping[str, float], limits: GateLimits) -> tuple[str, ...]:
    """Return the symbols whose shrunk accuracy lies further below a coin flip than `veto_z` allows, sorted."""
    return tuple(sorted(symbol for symbol, z in vetoes.items() if z < limits.veto_z))


def judge_vetoes(candidate: Runner, vetoes: Mapping[str, float], limits: GateLimits, *, has_pooled: bool) -> Check:
    """Ask whether most models of the set may serve; the rest gives way to the pooled model.

    More than half vetoed is no accident of some symbols: the strategy fails. So does a single veto where no pooled
    model was fitted that could stand in.
    """
    vetoed = vetoed_symbols(vetoes, limits)
    share = len(vetoed) / len(vetoes)
    passed = share <= 0.5 and (has_pooled or not vetoed)
    words = f"{candidate.label}: {len(vetoed)} of {len(vetoes)} ranked worse than a coin flip beyond doubt"
    if vetoed:
        stand_in = "the pooled model serves them" if has_pooled else "and no pooled model can stand in for them"
        words += f" ({named(vetoed)}): {stand_in if passed or not has_pooled else 'more than half, the strategy fails'}"
    return Check(name="vetoes", passed=passed, value=share, limit=0.5, words=words)


def named(symbols: tuple[str, ...]) -> str:
    """Return the first few symbols for a sentence."""
    return ", ".join(symbols[:NAMED]) + (f" and {len(symbols) - NAMED} more" if len(symbols) > NAMED else "")
