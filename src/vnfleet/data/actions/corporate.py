"""What kind of corporate action each step of the factor was, and whether the vendor announced it.

Without announcements the kind is inferred from the raw close P before the step and the step f alone. A dividend in cash
would be P (1 - 1/f) VND a share, and boards decide round sums; an issue of shares would be f - 1 new shares per old
one, and they decide round ratios. How round the number is, given how exactly the vendor's rounded adjusted closes tell
it, is weighed against the sizes that each kind usually has (`_SIZES`, measured on the 487 most exact steps of 289 HOSE
names, 2012-2024). A number that is neither is a rights issue (its price is not known), or several actions on one day.

Volume policy: volume is what was matched in the order book that day, and is never adjusted. Traded value is raw close
times volume. Share counts of different days are not comparable across a stock dividend; values are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.data.actions.adjustment import EventKind
from vnfleet.data.actions.confirmation import MISSING_SCHEMA, CorporateKind, confirm

__all__ = ["MISSING_SCHEMA", "CorporateActions", "CorporateKind", "corporate_actions"]

CORPORATE_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "factor_step": pl.Float64(),
    "kind": pl.String(),
    "probability": pl.Float64(),
    "previous_close_vnd": pl.Float64(),
    "cash_vnd": pl.Float64(),
    "ratio_frac": pl.Float64(),
    "confirmed": pl.Boolean(),
    "announced_ex_date": pl.Date(),
    "announced_source": pl.String(),
}
QUARANTINED_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "factor_step": pl.Float64(),
    "reason": pl.String(),
}
MIN_PROBABILITY = 0.7
"""Below this the kind is unknown."""
SMALLEST_CASH_VND = 40.0
"""No dividend is smaller; a step that could be, and is below `ROUNDING_STEP_FRAC`, is taken for rounding."""
ROUNDING_STEP_FRAC = 0.005
NOTABLE_STEP_FRAC = 0.005
"""Unannounced steps above this are worth a look."""
_CASH_GRID = ((500.0, 0.42), (100.0, 0.40), (50.0, 0.12), (10.0, 0.03), (1.0, 0.03))
_RATIO_GRID = ((0.1, 0.2), (0.05, 0.3), (0.01, 0.3), (1 / 3, 0.04), (1 / 8, 0.03), (0.005, 0.05), (0.001, 0.04))
_SIZES = ((0.75, 0.021, 0.70), (0.15, 0.20, 0.56), (0.10, 0.25, 0.60))
"""Share, median of f - 1 and its logarithm's standard deviation: cash, shares, rights or several."""
_ROUNDING_HALF_VND = 5.0
_SPLIT_STEP = 3.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorporateActions:
    """The steps with their kinds, and what does not fit together.

    actions : `CORPORATE_SCHEMA`; `confirmed` is null where no announcements cover the day; cash and ratio are the
        announced ones, or the round number the step fits, null where it fits none; `probability` 1.0 if confirmed.
    quarantined : `QUARANTINED_SCHEMA`: steps the chain refused or absorbed, steps against time, and mere rounding.
    missing : `MISSING_SCHEMA`: announced actions without a step in the prices (a missing adjustment).
    """

    actions: pl.DataFrame
    quarantined: pl.DataFrame
    missing: pl.DataFrame

    @property
    def unconfirmed(self) -> pl.DataFrame:
        """The notable steps that nobody announced, although announcements cover their day."""
        return self.actions.filter(~pl.col("confirmed") & (pl.col("factor_step") > 1.0 + NOTABLE_STEP_FRAC))


def corporate_actions(
    events: pl.DataFrame,
    bars: pl.DataFrame,
    announced: pl.DataFrame | None = None,
    covered_from: date | None = None,
) -> CorporateActions:
    """Name the steps of `events`.

    events : `EVENTS_SCHEMA` of `chain_factors`. bars : the bars they were found in (symbol, session, close_vnd,
        adjusted_close_vnd, volume_shares), sorted. announced : `ANNOUNCED_SCHEMA`; an announced action confirms a step
        within three sessions whose size it implies, and its kind wins. covered_from : first day the announcements
        cover; None: their earliest ex-date.
    """
    steps = _with_surroundings(events, bars)
    rounding = _rounding(steps)
    kinds = steps.get_column("kind")
    is_chained = pl.col("kind").is_in([EventKind.ADJUSTMENT.value, EventKind.REPAIRED.value])
    chained = steps.select(is_chained & (pl.col("factor_step") > 1.0)).to_series() & ~rounding
    reason = (
        pl.when(is_chained & (pl.col("factor_step") <= 1.0))
        .then(pl.lit(EventKind.WRONG_WAY.value))
        .when(is_chained)
        .then(pl.lit("rounding"))
        .otherwise("kind")
    )
    quarantined = steps.filter(~chained).with_columns(reason=reason).select(list(QUARANTINED_SCHEMA))
    named = _named(steps.filter(chained))
    absorbed = steps.filter(kinds == EventKind.UNEXPLAINED.value).select("symbol", "session")
    found, missing = confirm(named, bars, announced, covered_from, absorbed)
    return CorporateActions(
        actions=found.select(pl.col(name).cast(dtype) for name, dtype in CORPORATE_SCHEMA.items()).sort(
            "symbol", "session"
        ),
        quarantined=quarantined,
        missing=missing,
    )


def _with_surroundings(events: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Return `events` with the traded close before, and `error`: the relative error of the step by rounding."""
    traded = pl.when(pl.col("volume_shares") > 0)
    adjusted = pl.col("adjusted_close_vnd")
    before = bars.select(
        "symbol",
        "session",
        "adjusted_close_vnd",
        previous_close_vnd=traded.then("close_vnd").forward_fill().shift(1).over("symbol"),
        previous_adjusted=traded.then(adjusted).forward_fill().shift(1).over("symbol"),
    )
    error = _ROUNDING_HALF_VND / adjusted + _ROUNDING_HALF_VND / pl.col("previous_adjusted")
    return events.join(before, on=["symbol", "session"], how="left", maintain_order="left").with_columns(
        error=pl.when(error.is_finite() & (error > 0)).then(error).otherwise(1.0)
    )


def _rounding(steps: pl.DataFrame) -> pl.Series:
    step = pl.col("factor_step")
    least = pl.col("previous_close_vnd") * (1.0 - 1.0 / (step - pl.col("error")))
    small = (step > 1.0) & (step < 1.0 + ROUNDING_STEP_FRAC) & (least < SMALLEST_CASH_VND)
    return steps.select(small.fill_null(value=False)).to_series()


def _named(steps: pl.DataFrame) -> pl.DataFrame:
    """Return `steps` with kind, probability, cash and ratio as inferred from prices alone."""
    step = steps.get_column("factor_step").to_numpy()
    close = steps.get_column("previous_close_vnd").fill_null(float("nan")).to_numpy()
    error = steps.get_column("error").to_numpy()
    cash, ratio = close * (1.0 - 1.0 / step), step - 1.0
    cash_error, ratio_error = close / step * error + 1.0, step * error + 1e-5
    round_cash, cash_fit = _roundness(cash, cash_error, _CASH_GRID)
    round_ratio, ratio_fit = _roundness(ratio, ratio_error, _RATIO_GRID)
    whole = (step >= _SPLIT_STEP - ratio_error) & (np.abs(step - np.round(step)) <= ratio_error)
    possible = np.stack([(cash >= SMALLEST_CASH_VND) & ~whole, np.ones_like(whole), ~whole])
    evidence = np.stack([round_cash, round_ratio, np.ones_like(step)]) * possible
    evidence *= np.stack([_usual(ratio, *size) for size in _SIZES])
    total = evidence.sum(axis=0)
    probability = np.divide(evidence.max(axis=0), total, out=np.zeros_like(total), where=total > 0)
    best = evidence.argmax(axis=0)
    sure = (probability >= MIN_PROBABILITY) & np.isfinite(close)
    split = (best == 1) & whole
    names = np.array(
        [CorporateKind.CASH_DIVIDEND, CorporateKind.STOCK_DIVIDEND_OR_BONUS, CorporateKind.RIGHTS_OR_MIXED]
    )
    kind = np.where(sure, np.where(split, CorporateKind.SPLIT, names[best]), CorporateKind.UNKNOWN)
    is_cash, is_ratio = sure & (best == 0), sure & (best == 1)
    return steps.with_columns(
        kind=pl.Series([str(each) for each in kind], dtype=pl.String),
        probability=pl.Series(probability),
        cash_vnd=pl.Series(np.where(is_cash, cash_fit, np.nan)).fill_nan(None),
        ratio_frac=pl.Series(np.where(is_ratio, ratio_fit, np.nan)).fill_nan(None),
    )


def _roundness(value: Floats, error: Floats, grid: tuple[tuple[float, float], ...]) -> tuple[Floats, Floats]:
    """Return how much more likely `value` is than any other near it, if it is a round number; and that number.

    grid : (distance of the round numbers, how often boards choose them). A grid finer than the error says nothing.
    """
    likely, nearest = np.zeros_like(value), value.copy()
    for distance, share in reversed(grid):
        place = np.round(value / distance)
        fits = (np.abs(value - place * distance) <= error) & (place > 0)
        likely += share * np.where(2 * error >= distance, 1.0, np.where(fits, distance / (2 * error), 0.0))
        nearest = np.where(fits, place * distance, nearest)
    return likely, nearest


def _usual(size: Floats, share: float, median: float, spread: float) -> Floats:
    """Return `share` times the log-normal density of a step's size, up to a common constant."""
    deviation = np.log(np.maximum(size, 1e-9) / median) / spread
    return np.asarray(share * np.exp(-0.5 * deviation**2) / spread)
