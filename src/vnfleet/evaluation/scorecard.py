"""Every metric with its interval, for all rows, per year, or per group of symbols such as sector or liquidity.

What counts as up, as a call and as the benchmark's side is written once, in `metrics`: above all that "up" means a
return > 0, so that an unchanged price is not up. The metrics beyond those of `metrics`:

mcc : Matthews correlation of the calls with what happened (Matthews 1975), absolute and relative; null when all calls,
    or all outcomes, are on one side.
brier : mean squared distance of `direction_prob` from what happened, 1 or 0 (Brier 1950).
brier_skill : 1 - brier / the brier of always saying the share of ups of the same rows; that share is known only
    afterwards, so a small negative figure is what a model without an opinion has. Its interval holds that share fixed.
volatility_coverage_68, _95 : share of the returns within 1 and 1.96 `volatility_frac` of `expected_return_frac`; an
    honest normal forecast has 0.683 and 0.950.

A metric is null where the model does not state what it needs; then num_rows is 0. Intervals are 95 % block bootstraps
by session (`skill.statistic_intervals`); null where fewer than two blocks of sessions hold a row of that metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.evaluation.metrics import ALL_YEARS, MIN_SYMBOLS, MODEL_KEY, rank_ic_within, scored_rows
from vnfleet.evaluation.skill import BLOCK_SESSIONS, Floats, statistic_intervals

ALL = ALL_YEARS
TERCILES = ("most traded", "middle", "least traded")

SCORECARD_SCHEMA: dict[str, pl.DataType] = {
    "model_id": pl.String(),
    "horizon_sessions": pl.Int32(),
    "group_kind": pl.String(),
    "group": pl.String(),
    "metric": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "num_sessions": pl.Int32(),
    "num_rows": pl.Int64(),
}


class _Metric(NamedTuple):
    """Which daily count says how many rows it has, and the range it cannot leave."""

    rows: str
    least: float
    most: float


_METRICS: dict[str, _Metric] = {
    "rank_ic": _Metric("ranked_rows", -1.0, 1.0),
    "icir": _Metric("ranked_rows", -math.inf, math.inf),
    "accuracy_absolute": _Metric("num_absolute", 0.0, 1.0),
    "base_rate_up": _Metric("num_absolute", 0.0, 1.0),
    "base_accuracy": _Metric("num_absolute", 0.5, 1.0),
    "accuracy_relative": _Metric("num_relative", 0.0, 1.0),
    "mcc_absolute": _Metric("num_absolute", -1.0, 1.0),
    "mcc_relative": _Metric("num_relative", -1.0, 1.0),
    "rmse": _Metric("num_errors", 0.0, math.inf),
    "mae": _Metric("num_errors", 0.0, math.inf),
    "brier": _Metric("num_probs", 0.0, 1.0),
    "brier_skill": _Metric("num_probs", -math.inf, 1.0),
    "volatility_coverage_68": _Metric("num_spreads", 0.0, 1.0),
    "volatility_coverage_95": _Metric("num_spreads", 0.0, 1.0),
}
METRICS = tuple(_METRICS)

_GROUP = (*MODEL_KEY, "group")
_SUMS = (
    "has_ic",
    "ic",
    "squared_ic",
    "ranked_rows",
    "num_absolute",
    "right_absolute",
    "called_up",
    "num_up",
    "called_and_up",
    "num_relative",
    "right_relative",
    "called_above",
    "num_above",
    "called_and_above",
    "num_errors",
    "squared_error",
    "absolute_error",
    "num_probs",
    "squared_prob_error",
    "squared_rate_error",
    "num_spreads",
    "within_68",
    "within_95",
)
_TINY_VARIANCE = 1e-12


def scorecard(
    predictions: pl.DataFrame,
    outcomes: pl.DataFrame,
    *,
    groups: pl.DataFrame | None = None,
    group_kind: str = ALL,
    min_symbols: int = MIN_SYMBOLS,
    seed: int = 0,
) -> pl.DataFrame:
    """Return `METRICS` per model, horizon and group as `SCORECARD_SCHEMA`, sorted by model, horizon and group.

    `group_kind` "all" is one group of all rows, "year" the calendar year of the session; any other name is that of
    `groups`, a frame (symbol, group) or, where membership changes, (fold_id, symbol, group). Rows in no group are left
    out. In groups of symbols rank IC is within the group, for which a third of `min_symbols` is enough, while the calls
    stay those of the whole market: above or below the median of all forecasts of the session.

    num_sessions and num_rows count what the metric itself used.

    Raises
    ------
    ValueError
        When `groups` is given for "all" or "year", or absent for another kind.
    BadDataError
        On invalid frames, or groups without the needed columns or with a symbol in two groups.
    """
    scored = _grouped(scored_rows(predictions, outcomes), groups, group_kind)
    enough = min_symbols if groups is None else -(-min_symbols // 3)
    daily = _daily_sums(scored, enough)
    rows = [
        {"model_id": model_id, "horizon_sessions": horizon, "group_kind": group_kind, "group": group, **row}
        for (model_id, horizon, group), part in daily.group_by(_GROUP, maintain_order=True)
        for row in _rows(part, seed)
    ]
    return pl.DataFrame(rows, schema=SCORECARD_SCHEMA)


def liquidity_terciles(traded_value: pl.DataFrame) -> pl.DataFrame:
    """Return (fold_id, symbol, group): each fold's symbols cut into three equal `TERCILES` by median traded value.

    `traded_value` holds fold_id, symbol and median_value_vnd, known before the fold starts. Where three does not divide
    the number of symbols, the more traded groups are one larger; symbols of equal value are taken in alphabetical
    order, and those without a value have no group.

    Raises
    ------
    BadDataError
        On missing columns, a symbol given twice in a fold, or NaN.
    """
    _require(traded_value, ("fold_id", "symbol", "median_value_vnd"), "traded values", ("fold_id", "symbol"))
    value = pl.col("median_value_vnd")
    if traded_value.select(value.cast(pl.Float64).is_nan().any()).item():
        raise BadDataError("a traded value is NaN", where="median_value_vnd", expected="null where unknown")
    place = pl.int_range(pl.len()).over("fold_id") * 3 // pl.len().over("fold_id")
    return (
        traded_value.filter(value.is_not_null())
        .sort("fold_id", value, "symbol", descending=[False, True, False])
        .select("fold_id", "symbol", group=place.replace_strict(dict(enumerate(TERCILES)), return_dtype=pl.String()))
        .sort("fold_id", "symbol")
    )


def _grouped(scored: pl.DataFrame, groups: pl.DataFrame | None, group_kind: str) -> pl.DataFrame:
    if group_kind in {ALL, "year"}:
        if groups is not None:
            raise ValueError(f'"{group_kind}" needs no groups: name the kind of the groups given, such as "sector"')
        year = pl.col("session").dt.year().cast(pl.String())
        return scored.with_columns(group=pl.lit(ALL) if group_kind == ALL else year)
    if groups is None:
        raise ValueError(f'groups of kind "{group_kind}" must be given as a frame (symbol, group)')
    key = ["fold_id", "symbol"] if "fold_id" in groups.columns else ["symbol"]
    _require(groups, (*key, "group"), "groups", tuple(key))
    members = groups.select(pl.col(*key, "group").cast(pl.String())).drop_nulls()
    return scored.join(members, on=key, how="inner")


def _require(frame: pl.DataFrame, columns: tuple[str, ...], noun: str, key: tuple[str, ...]) -> None:
    if missing := [name for name in columns if name not in frame.columns]:
        raise BadDataError(f"{noun} lack columns", expected=list(columns), found=frame.columns, where=missing)
    repeated = frame.filter(pl.struct(key).is_duplicated())
    if repeated.height:
        raise BadDataError(f"{noun} name a symbol twice", found=repeated.select(key).row(0), expected="once", where=key)


def _daily_sums(scored: pl.DataFrame, min_symbols: int) -> pl.DataFrame:
    """Return the group's key, session and `_SUMS`: all metrics are functions of the totals of these sums."""
    key = (*_GROUP, "session")
    absolute = pl.col("call_up").is_not_null()
    relative = pl.col("call_above").is_not_null() & pl.col("above").is_not_null()
    prob_error = (pl.col("direction_prob") - pl.col("up").cast(pl.Float64)) ** 2
    distance = pl.col("error").abs() / pl.col("volatility_frac")
    # a volatility of 0 is a statement too: only a return met exactly lies within it (0 / 0 is NaN)
    spread = pl.when(distance.is_nan()).then(0.0).otherwise(distance)
    ranks = rank_ic_within(scored, key, min_symbols=min_symbols).filter(pl.col("rank_ic").is_not_null())
    ic_sums = ranks.select(
        *key,
        has_ic=pl.lit(1.0),
        ic=pl.col("rank_ic"),
        squared_ic=pl.col("rank_ic") ** 2,
        ranked_rows=pl.col("num_symbols"),
    )
    sums = scored.group_by(key).agg(
        num_absolute=absolute.sum(),
        right_absolute=(pl.col("call_up") == pl.col("up")).sum(),
        called_up=pl.col("call_up").sum(),
        num_up=(absolute & pl.col("up")).sum(),
        called_and_up=(pl.col("call_up") & pl.col("up")).sum(),
        num_relative=relative.sum(),
        right_relative=(pl.col("call_above") == pl.col("above")).sum(),
        called_above=(relative & pl.col("call_above")).sum(),
        num_above=(relative & pl.col("above")).sum(),
        called_and_above=(pl.col("call_above") & pl.col("above")).sum(),
        num_errors=pl.col("error").count(),
        squared_error=(pl.col("error") ** 2).sum(),
        absolute_error=pl.col("error").abs().sum(),
        num_probs=prob_error.count(),
        up_of_probs=(pl.col("up") & pl.col("direction_prob").is_not_null()).sum(),
        squared_prob_error=prob_error.sum(),
        num_spreads=spread.count(),
        within_68=(spread <= 1).sum(),
        within_95=(spread <= 1.96).sum(),
    )
    whole = sums.join(ic_sums, on=key, how="left").with_columns(squared_rate_error=_squared_rate_error())
    return whole.select(*key, pl.col(_SUMS).cast(pl.Float64).fill_null(0.0)).sort(key)


def _rows(part: pl.DataFrame, seed: int) -> list[dict[str, object]]:
    sums_TK = part.select(_SUMS).to_numpy().astype(np.float64)
    totals = dict(zip(_SUMS, sums_TK.sum(axis=0), strict=True))
    num_sessions = {name: int((part.get_column(name) > 0).sum()) for name in {each.rows for each in _METRICS.values()}}
    values = _figures(sums_TK.sum(axis=0, keepdims=True))[0]
    lows, highs = np.full_like(values, np.nan), np.full_like(values, np.nan)
    if max(num_sessions.values()) >= 2 * BLOCK_SESSIONS:
        lows, highs = statistic_intervals(sums_TK, _figures, seed=seed)
        rate, better = METRICS.index("base_rate_up"), METRICS.index("base_accuracy")
        lows[better], highs[better] = _better_side(lows[rate], highs[rate])
    rows: list[dict[str, object]] = []
    for (name, metric), value, low, high in zip(_METRICS.items(), values, lows, highs, strict=True):
        known, judged = math.isfinite(value), num_sessions[metric.rows] >= 2 * BLOCK_SESSIONS
        rows.append(
            {
                "metric": name,
                "value": float(value) if known else None,
                "low": min(max(float(low), metric.least), float(value)) if known and judged else None,
                "high": max(min(float(high), metric.most), float(value)) if known and judged else None,
                "num_sessions": num_sessions[metric.rows],
                "num_rows": int(totals[metric.rows]),
            }
        )
    return rows


def _squared_rate_error() -> pl.Expr:
    """Return each session's summed squared distance from what happened of always saying the share of ups of all rows.

    That share is one number for all sessions: recomputed in every resample it would flatter the resample, and push the
    whole interval of a model as good as the share below 0.
    """
    ups, probs = pl.col("up_of_probs"), pl.col("num_probs")
    rate = (ups.sum() / probs.sum()).over(_GROUP)
    return (ups * (1 - rate) ** 2 + (probs - ups) * rate**2).fill_nan(0.0)


def _better_side(low: float, high: float) -> tuple[float, float]:
    """Return the range of max(rate, 1 - rate) while the rate lies between low and high; NaN gives NaN."""
    ends = max(low, 1 - low), max(high, 1 - high)
    return (0.5 if low < 0.5 < high else min(ends)), max(ends)


def _figures(totals_RK: Floats) -> Floats:
    """Return all metrics [R, M] in the order of `METRICS` from totals [R, K] of `_SUMS`; NaN where undefined."""
    total = dict(zip(_SUMS, totals_RK.T, strict=True))
    base_rate = _ratio(total["num_up"], total["num_absolute"])
    ic = _ratio(total["ic"], total["has_ic"])
    figures = {
        "rank_ic": ic,
        "icir": _icir(ic, total),
        "accuracy_absolute": _ratio(total["right_absolute"], total["num_absolute"]),
        "base_rate_up": base_rate,
        "base_accuracy": np.maximum(base_rate, 1 - base_rate),
        "accuracy_relative": _ratio(total["right_relative"], total["num_relative"]),
        "mcc_absolute": _mcc(total["num_absolute"], total["called_up"], total["num_up"], total["called_and_up"]),
        "mcc_relative": _mcc(
            total["num_relative"], total["called_above"], total["num_above"], total["called_and_above"]
        ),
        "rmse": np.sqrt(_ratio(total["squared_error"], total["num_errors"])),
        "mae": _ratio(total["absolute_error"], total["num_errors"]),
        "brier": _ratio(total["squared_prob_error"], total["num_probs"]),
        "brier_skill": 1 - _ratio(total["squared_prob_error"], total["squared_rate_error"]),
        "volatility_coverage_68": _ratio(total["within_68"], total["num_spreads"]),
        "volatility_coverage_95": _ratio(total["within_95"], total["num_spreads"]),
    }
    return np.stack([figures[name] for name in METRICS], axis=1)


def _icir(mean_R: Floats, total: Mapping[str, Floats]) -> Floats:
    """Return mean over standard deviation (ddof 1) of the daily rank IC, not annualised."""
    sessions = total["has_ic"]
    variance = _ratio(total["squared_ic"] - sessions * mean_R**2, sessions - 1)
    return _ratio(mean_R, np.sqrt(np.where(variance > _TINY_VARIANCE, variance, 0.0)))


def _mcc(rows: Floats, called: Floats, true: Floats, both: Floats) -> Floats:
    spread = called * (rows - called) * true * (rows - true)
    return _ratio(rows * both - called * true, np.sqrt(np.maximum(spread, 0.0)))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=_nans(numerator), where=denominator > 0)


def _nans(like: Floats) -> Floats:
    return np.full_like(like, np.nan)
