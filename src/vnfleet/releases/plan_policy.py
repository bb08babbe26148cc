"""The written plan's gate, model by model, beside what models without any skill score on it.

Null shares: `evaluation.md` section 7, zero-skill models on real HOSE prices, long or flat, costs in, one year: 35 %
(36 of 102) pass accuracy, 26 % Sharpe, 5.5 % drawdown, 15 % accuracy and Sharpe, 1.9 % all three. Nobody measured the
null of RMSE: forecasting 0 for every stock already passes wherever returns are small.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.releases.verdict import PlanCriterion, PlanPolicyReport

NUMBERS_SCHEMA: Final[dict[str, pl.DataType]] = {
    "symbol": pl.String(),
    "accuracy_frac": pl.Float64(),
    "sharpe": pl.Float64(),
    "max_drawdown_frac": pl.Float64(),
    "rmse": pl.Float64(),
}
ACCURACY_AND_SHARPE_NULL_FRAC: Final = 0.15
THREE_NULL_FRAC: Final = 0.019
TRULY_SKILLED_THREE_FRAC: Final = 0.079
MEAN_ACCURACY_TARGETS: Final = (0.54, 0.55)
NOTHING_MEASURED: Final = "the written plan's own limits: no models were measured against them"


class _Limit(NamedTuple):
    name: str
    column: str
    limit: float
    above: bool
    null_pass_frac: float | None
    words: str


_LIMITS: Final = (
    _Limit("accuracy", "accuracy_frac", 0.52, True, 0.353, "accuracy above 52 %"),
    _Limit("sharpe", "sharpe", 0.8, True, 0.26, "Sharpe above 0.8"),
    _Limit("max_drawdown", "max_drawdown_frac", 0.10, False, 0.055, "drawdown under 10 %"),
    _Limit("rmse", "rmse", 0.03, False, None, "RMSE under 0.03"),
)
_ACCURACY, _SHARPE, _DRAWDOWN, _RMSE = _LIMITS


def plan_policy_report(numbers: pl.DataFrame | None = None) -> PlanPolicyReport:
    """Judge every model by the plan's own limits.

    Parameters
    ----------
    numbers : one row per model with `NUMBERS_SCHEMA` (drawdown as a fraction of either sign; null where unknown).
        None gives an empty report, for sets that nobody simulated.

    Raises
    ------
    BadDataError
        On missing columns or a symbol listed twice.
    """
    table = _checked(numbers)
    criteria = tuple(_criterion(table, limit) for limit in _LIMITS)
    pair, three, every = (
        _share(table, limits)
        for limits in ((_ACCURACY, _SHARPE), (_ACCURACY, _SHARPE, _DRAWDOWN), (_ACCURACY, _SHARPE, _DRAWDOWN, _RMSE))
    )
    known = table.get_column("accuracy_frac").drop_nulls().to_list()
    mean_accuracy = sum(known) / len(known) if known else None
    reached = [None if mean_accuracy is None else mean_accuracy >= target for target in MEAN_ACCURACY_TARGETS]
    return PlanPolicyReport(
        num_models=table.height,
        criteria=criteria,
        accuracy_and_sharpe_frac=pair,
        accuracy_and_sharpe_null_frac=ACCURACY_AND_SHARPE_NULL_FRAC,
        three_frac=three,
        three_null_frac=THREE_NULL_FRAC,
        all_frac=every,
        mean_accuracy_frac=mean_accuracy,
        reaches_mean_54=reached[0],
        reaches_mean_55=reached[1],
        words=_words(criteria, (pair, three, every), mean_accuracy) if table.height else NOTHING_MEASURED,
    )


def _checked(numbers: pl.DataFrame | None) -> pl.DataFrame:
    if numbers is None:
        return pl.DataFrame(schema=NUMBERS_SCHEMA)
    missing = [name for name in NUMBERS_SCHEMA if name not in numbers.columns]
    if missing:
        raise BadDataError("the plan's numbers lack columns", expected=list(NUMBERS_SCHEMA), found=numbers.columns)
    table = numbers.select(pl.col(name).cast(dtype) for name, dtype in NUMBERS_SCHEMA.items())
    if table.get_column("symbol").is_duplicated().any():
        raise BadDataError("the plan's numbers list a symbol twice")
    floats = pl.col(pl.Float64)
    return table.with_columns(pl.when(floats.is_finite()).then(floats)).with_columns(pl.col("max_drawdown_frac").abs())


def _passes(limit: _Limit) -> pl.Expr:
    column = pl.col(limit.column)
    return column > limit.limit if limit.above else column < limit.limit


def _criterion(table: pl.DataFrame, limit: _Limit) -> PlanCriterion:
    known = table.get_column(limit.column).count()
    passing = table.filter(_passes(limit)).height
    null = "nobody measured what luck passes" if limit.null_pass_frac is None else f"luck: {limit.null_pass_frac:.1%}"
    return PlanCriterion(
        name=limit.name,
        limit=limit.limit,
        num_models=known,
        num_passing=passing,
        pass_frac=passing / known if known else None,
        null_pass_frac=limit.null_pass_frac,
        words=f"{limit.words}: {passing} of {known} models ({null})" if known else f"{limit.words}: not measured",
    )


def _share(table: pl.DataFrame, limits: tuple[_Limit, ...]) -> float | None:
    """Return the share of models passing all `limits`, among those with all of these numbers."""
    known = table.drop_nulls([limit.column for limit in limits])
    return known.filter([_passes(limit) for limit in limits]).height / known.height if known.height else None


def _words(criteria: tuple[PlanCriterion, ...], shares: tuple[float | None, ...], mean_accuracy: float | None) -> str:
    pair, three, every = shares
    lines = ["the written plan's own limits (shown, not decisive; luck = models without any skill):"]
    lines += [f"- {criterion.words}" for criterion in criteria]
    if pair is not None:
        lines.append(f"- accuracy and Sharpe together: {pair:.0%} (luck: {ACCURACY_AND_SHARPE_NULL_FRAC:.0%})")
    if three is not None:
        lines.append(
            f"- accuracy, Sharpe and drawdown together: {three:.1%} "
            f"(luck: {THREE_NULL_FRAC:.1%}; truly skilled models: only {TRULY_SKILLED_THREE_FRAC:.1%})"
        )
    if every is not None:
        lines.append(f"- all four limits: {every:.1%}")
    if mean_accuracy is not None:
        reached = [
            f"{target:.0%} {'reached' if mean_accuracy >= target else 'missed'}" for target in MEAN_ACCURACY_TARGETS
        ]
        lines.append(f"- mean accuracy {mean_accuracy:.1%}: {', '.join(reached)}")
    return "\n".join(lines)
