"""What one feature is, and the few expressions all families share."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

MAX_LOOKBACK_SESSIONS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One named column of the cube.

    name : unique, lower case. formula : readable text, adjusted prices unless it says raw.
    lookback_sessions : the oldest session read is t - lookback_sessions, counted in the symbol's own traded sessions
        (in market sessions for the market's state).
    unit : what the number measures. source : where the definition comes from.
    expression : over the columns of `working.working_frame` (and, when `per_session`, over earlier features too);
        null or NaN while unknown, never infinite where known.
    remembers : smoothed recursively (Wilder, exponential): `lookback_sessions` is the stated window, after which it
        still remembers the symbol's first session with fading weight.
    per_session : compares the symbols of one session, so it is computed after the others.

    Raises `ValueError` when a text is empty or the look-back lies outside 0..`MAX_LOOKBACK_SESSIONS`.
    """

    name: str
    formula: str
    lookback_sessions: int
    unit: str
    source: str
    expression: pl.Expr = field(repr=False, compare=False)
    remembers: bool = False
    per_session: bool = False

    def __post_init__(self) -> None:
        for label in ("name", "formula", "unit", "source"):
            if not getattr(self, label):
                raise ValueError(f"{label} of feature {self.name!r} is empty")
        if not 0 <= self.lookback_sessions <= MAX_LOOKBACK_SESSIONS:
            raise ValueError(
                f"lookback_sessions of feature {self.name!r} must lie in 0..{MAX_LOOKBACK_SESSIONS}, "
                f"found {self.lookback_sessions}"
            )


def own(expression: pl.Expr) -> pl.Expr:
    """Evaluate `expression` on each symbol's own traded sessions, in order: no interior null can reach it."""
    return expression.over("symbol")


def mean(expression: pl.Expr, sessions: int) -> pl.Expr:
    """Mean over the symbol's last `sessions` traded sessions, today included; null before there are that many."""
    return own(expression.rolling_mean(sessions))


def highest(expression: pl.Expr, sessions: int) -> pl.Expr:
    """Maximum over the symbol's last `sessions` traded sessions."""
    return own(expression.rolling_max(sessions))


def lowest(expression: pl.Expr, sessions: int) -> pl.Expr:
    """Minimum over the symbol's last `sessions` traded sessions."""
    return own(expression.rolling_min(sessions))


def ratio(numerator: pl.Expr, denominator: pl.Expr, *, otherwise: float) -> pl.Expr:
    """Return numerator / denominator, or `otherwise` where the denominator is known and not positive."""
    return pl.when(denominator <= 0.0).then(otherwise).otherwise(numerator / denominator)
