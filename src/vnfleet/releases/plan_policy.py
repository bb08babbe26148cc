"""The written plan's gate, model by model, beside what models without any skill score on it.

Null shares are counted on shuffled forecasts by the same rule on the same prices where somebody did (`plan_null`).
Otherwise they are quoted: `evaluation.md` section 7, zero-skill models on real HOSE prices, long or flat, costs in, one
year: 35 % (36 of 102) pass accuracy, 26 % Sharpe, 5.5 % drawdown, 15 % accuracy and Sharpe, 1.9 % all three. RMSE is
not in that list: forecasting 0 for every stock passes wherever returns are small.
"""

from __future__ import annotations

from collections.abc import Sequence
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
TRULY_SKILLED_THREE_FRAC: Final = 0.079
MEAN_ACCURACY_TARGETS: Final = (0.54, 0.55)
NOTHING_MEASURED: Final = "the written plan's own limits: no models were measured against them"
_SHOWN: Final = "the written plan's own limits (shown, not decisive; luck = models without any skill):"
_DECIDING: Final = "the written plan's own limits (they decide under this policy; luck = models without any skill):"


class _Limit(NamedTuple):
    name: str
    column: str
    limit: float
    above: bool
    words: str


_LIMITS: Final = (
    _Limit("accuracy", "accuracy_frac", 0.52, True, "accuracy above 52 %"),
    _Limit("sharpe", "sharpe", 0.8, True, "Sharpe above 0.8"),
    _Limit("max_drawdown", "max_drawdown_frac", 0.10, False, "drawdown under 10 %"),
    _Limit("rmse", "rmse", 0.03, False, "RMSE under 0.03"),
)


class NullShares(NamedTuple):
    """Shares of models without any skill that pass: each limit, and several together; None where nothing is known.

    `num_models` counts the models they were counted on, None for figures quoted from elsewhere.
    """

    accuracy: float | None
    sharpe: float | None
    max_drawdown: float | None
    rmse: float | None
    accuracy_and_sharpe: float
    three: float
    every: float | None
    num_models: int | None = None


QUOTED: Final = NullShares(
    accuracy=0.353, sharpe=0.26, max_drawdown=0.055, rmse=None, accuracy_and_sharpe=0.15, three=0.019, every=None
)


def plan_policy_report(numbers: pl.DataFrame | None = None, *, null: NullShares | None = None) -> PlanPolicyReport:
    """Judge every model by the plan's own limits.

    Parameters
    ----------
    numbers : one row per model with `NUMBERS_SCHEMA` (drawdown as a fraction of either sign; null where unknown).
        None gives an empty report, for sets that nobody simulated.
    null : what models without skill score by the same rule (`plan_null.null_pass_shares`); None: figures quoted from
        elsewhere.

    Raises
    ------
    BadDataError
        On missing columns or a symbol listed twice.
    """
    table, luck = _checked(numbers), null or QUOTED
    criteria = tuple(_criterion(table, limit, getattr(luck, limit.name)) for limit in _LIMITS)
    pair, three, every = together = _together(table)
    known = table.get_column("accuracy_frac").drop_nulls().to_list()
    mean_accuracy = sum(known) / len(known) if known else None
    reached = [None if mean_accuracy is None else mean_accuracy >= target for target in MEAN_ACCURACY_TARGETS]
    passing = table.filter([_passes(limit) for limit in _LIMITS]).get_column("symbol").sort().to_list()
    return PlanPolicyReport(
        num_models=table.height,
        criteria=criteria,
        accuracy_and_sharpe_frac=pair,
        accuracy_and_sharpe_null_frac=luck.accuracy_and_sharpe,
        three_frac=three,
        three_null_frac=luck.three,
        all_frac=every,
        mean_accuracy_frac=mean_accuracy,
        reaches_mean_54=reached[0],
        reaches_mean_55=reached[1],
        words=_words(criteria, together, luck, mean_accuracy) if table.height else NOTHING_MEASURED,
        all_null_frac=luck.every,
        num_null_models=luck.num_models,
        passing=tuple(passing),
        failing=tuple(sorted(set(table.get_column("symbol").to_list()) - set(passing))),
    )


def pass_shares(numbers: pl.DataFrame) -> NullShares:
    """Return the shares of the models in `numbers` (`NUMBERS_SCHEMA`) that pass: null shares when none has skill.

    Raises `BadDataError` on missing columns, a symbol listed twice, or no model with accuracy, Sharpe and drawdown.
    """
    table = _checked(numbers)
    alone = {limit.name: _share(table, [limit]) for limit in _LIMITS}
    pair, three, every = _together(table)
    if pair is None or three is None:
        raise BadDataError("no model has an accuracy, a Sharpe ratio and a drawdown: nothing to count shares on")
    return NullShares(
        accuracy=alone["accuracy"],
        sharpe=alone["sharpe"],
        max_drawdown=alone["max_drawdown"],
        rmse=alone["rmse"],
        accuracy_and_sharpe=pair,
        three=three,
        every=every,
        num_models=table.height,
    )


def as_deciding(report: PlanPolicyReport) -> PlanPolicyReport:
    """Return the report with words that say that its limits decide."""
    return report.model_copy(update={"words": report.words.replace(_SHOWN, _DECIDING)})


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


def _criterion(table: pl.DataFrame, limit: _Limit, null_pass_frac: float | None) -> PlanCriterion:
    known = table.get_column(limit.column).count()
    passing = table.filter(_passes(limit)).height
    null = "nobody measured what luck passes" if null_pass_frac is None else f"luck: {null_pass_frac:.1%}"
    were = "was" if table.height - known == 1 else "were"
    missing = f"; {table.height - known} of {table.height} {were} not judged" if known < table.height else ""
    return PlanCriterion(
        name=limit.name,
        limit=limit.limit,
        num_models=known,
        num_passing=passing,
        pass_frac=passing / known if known else None,
        null_pass_frac=null_pass_frac,
        words=f"{limit.words}: {passing} of {known} models ({null}){missing}"
        if known
        else f"{limit.words}: not measured",
    )


def _share(table: pl.DataFrame, limits: Sequence[_Limit]) -> float | None:
    """Return the share of models passing all `limits`, among those with all of these numbers."""
    known = table.drop_nulls([limit.column for limit in limits])
    return known.filter([_passes(limit) for limit in limits]).height / known.height if known.height else None


def _together(table: pl.DataFrame) -> tuple[float | None, float | None, float | None]:
    """Return the shares passing accuracy and Sharpe, those and drawdown, and all four limits."""
    first, second, third = _LIMITS[:2], _LIMITS[:3], _LIMITS
    return _share(table, first), _share(table, second), _share(table, third)


def _words(
    criteria: tuple[PlanCriterion, ...],
    shares: tuple[float | None, float | None, float | None],
    luck: NullShares,
    mean_accuracy: float | None,
) -> str:
    pair, three, every = shares
    lines = [_SHOWN]
    lines += [f"- {criterion.words}" for criterion in criteria]
    if pair is not None:
        lines.append(f"- accuracy and Sharpe together: {pair:.0%} (luck: {luck.accuracy_and_sharpe:.0%})")
    if three is not None:
        lines.append(
            f"- accuracy, Sharpe and drawdown together: {three:.1%} "
            f"(luck: {luck.three:.1%}; truly skilled models: only {TRULY_SKILLED_THREE_FRAC:.1%})"
        )
    if every is not None:
        lines.append(f"- all four limits: {every:.1%}" + ("" if luck.every is None else f" (luck: {luck.every:.1%})"))
    if luck.num_models is not None:
        lines.append(
            f"- luck was counted on {luck.num_models:,} models whose forecasts were shuffled, same rule and days"
        )
    if mean_accuracy is not None:
        reached = [
            f"{target:.0%} {'reached' if mean_accuracy >= target else 'missed'}" for target in MEAN_ACCURACY_TARGETS
        ]
        lines.append(f"- mean accuracy {mean_accuracy:.1%}: {', '.join(reached)}")
    return "\n".join(lines)
