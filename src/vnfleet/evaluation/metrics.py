"""How good the forecasts were: daily rank IC, accuracies and errors, per model, year, month and symbol.

Every function takes a prediction and an outcome frame and joins them on (symbol, session, horizon_sessions);
forecasts without a known outcome are left out. Restrict the prediction frame first to score other symbols or years.

Rules, each the same for all models:

rank IC : Spearman correlation over the symbols of a session, average ranks for ties; null when fewer than
    `min_symbols` are scored or when all scores are equal (a model without a cross-sectional opinion has none).
absolute accuracy : the call is up when `direction_prob` >= 0.5; without it when `expected_return_frac` > 0; without
    that when `score` > 0. The outcome is up when the return is > 0: an unchanged price is not up.
relative accuracy : the call is the side of the score against the median score of all the model's forecasts of that
    session (known at decision time), the outcome the side of the return against the benchmark return. A row exactly
    on either median has no side and is left out.
rmse, mae : of `expected_return_frac` against `return_frac`, fractions; null where the model states none.
intervals : 95 % block bootstrap by session, see `skill`; null under two blocks of sessions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from vnfleet.core.frames import OUTCOME_KEY, as_outcome_frame, as_prediction_frame
from vnfleet.evaluation.skill import BLOCK_SESSIONS, Floats, mean_interval

MIN_SYMBOLS = 30
MIN_SESSIONS_OF_SYMBOL = 30
ALL_YEARS = "all"

MODEL_KEY = ("model_id", "horizon_sessions")
SESSION_KEY = (*MODEL_KEY, "session")

SUMMARY_SCHEMA: dict[str, pl.DataType] = {
    "model_id": pl.String(),
    "horizon_sessions": pl.Int32(),
    "year": pl.String(),
    "num_sessions": pl.Int32(),
    "num_rows": pl.Int64(),
    "rank_ic": pl.Float64(),
    "rank_ic_low": pl.Float64(),
    "rank_ic_high": pl.Float64(),
    "icir": pl.Float64(),
    "accuracy_absolute": pl.Float64(),
    "accuracy_absolute_low": pl.Float64(),
    "accuracy_absolute_high": pl.Float64(),
    "base_rate_up": pl.Float64(),
    "base_accuracy": pl.Float64(),
    "accuracy_relative": pl.Float64(),
    "accuracy_relative_low": pl.Float64(),
    "accuracy_relative_high": pl.Float64(),
    "rmse": pl.Float64(),
    "mae": pl.Float64(),
}

MONTHLY_SCHEMA: dict[str, pl.DataType] = {
    "model_id": pl.String(),
    "horizon_sessions": pl.Int32(),
    "month": pl.Date(),
    "rank_ic": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "num_sessions": pl.Int32(),
}
_SUMS = ("num_rows", "num_absolute", "num_up", "num_errors", "squared_error", "absolute_error")


def primary_rows(predictions: pl.DataFrame, universe_of_fold: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Return the predictions whose symbol belongs to the universe of their own fold (the primary scores)."""
    pairs = [(fold_id, symbol) for fold_id, symbols in universe_of_fold.items() for symbol in symbols]
    kept = pl.DataFrame(pairs, schema={"fold_id": pl.String(), "symbol": pl.String()}, orient="row")
    return predictions.join(kept, on=["fold_id", "symbol"], how="semi")


def daily_rank_ic(predictions: pl.DataFrame, outcomes: pl.DataFrame, *, min_symbols: int = MIN_SYMBOLS) -> pl.DataFrame:
    """Return one row per model, horizon and session: rank_ic (null, never NaN) and num_symbols, sorted."""
    return rank_ic_within(scored_rows(predictions, outcomes), SESSION_KEY, min_symbols=min_symbols)


def paired_daily(daily: pl.DataFrame, model_a: str, model_b: str, *, horizon_sessions: int) -> tuple[Floats, Floats]:
    """Return the rank IC of two models on the sessions where both have one, in order, ready for `paired_difference`."""
    at_horizon = daily.filter(pl.col("horizon_sessions") == horizon_sessions, pl.col("rank_ic").is_not_null())
    left, right = (
        at_horizon.filter(pl.col("model_id") == model).select("session", "rank_ic") for model in (model_a, model_b)
    )
    both = left.join(right, on="session", suffix="_b").sort("session")
    return both.get_column("rank_ic").to_numpy(), both.get_column("rank_ic_b").to_numpy()


def summarise(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, min_symbols: int = MIN_SYMBOLS, seed: int = 0
) -> pl.DataFrame:
    """Return the metrics per model, horizon and year (each calendar year, then ``"all"``) as `SUMMARY_SCHEMA`.

    `base_rate_up` is the share of up outcomes among the rows with an absolute call, and `base_accuracy` what the better
    of "always up" and "always down" would have reached on them: read `accuracy_absolute` against it, not against 50 %.
    `icir` is mean over standard deviation (ddof 1) of the daily rank IC, not annualised.
    """
    scored = scored_rows(predictions, outcomes)
    ranks = rank_ic_within(scored, SESSION_KEY, min_symbols=min_symbols)
    daily = _daily_calls(scored).join(ranks, on=list(SESSION_KEY), how="left").sort(SESSION_KEY)
    rows = [
        {"model_id": model_id, "horizon_sessions": horizon, "year": year, **_row(part, seed)}
        for (model_id, horizon), sessions in daily.group_by(MODEL_KEY, maintain_order=True)
        for year, part in _years_and_all(sessions)
    ]
    return pl.DataFrame(rows, schema=SUMMARY_SCHEMA)


def monthly_rank_ic(daily: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """Return the mean rank IC per model, horizon and month of `daily_rank_ic`, with its interval.

    Columns: the model's key, month (its first day), rank_ic, low, high, num_sessions. A month is too
    short for the usual blocks: here a block is as long as the label, the reach of its overlap.
    """
    known = daily.filter(pl.col("rank_ic").is_not_null()).with_columns(month=pl.col("session").dt.truncate("1mo"))
    rows: list[dict[str, object]] = []
    for (model_id, horizon, month), part in known.sort(SESSION_KEY).group_by(*MODEL_KEY, "month", maintain_order=True):
        values = part.get_column("rank_ic").to_numpy()
        low, high = _interval(values, None, seed, block_sessions=int(str(horizon)))
        rows.append(
            {
                "model_id": model_id,
                "horizon_sessions": horizon,
                "month": month,
                "rank_ic": float(values.mean()),
                "low": low,
                "high": high,
                "num_sessions": part.height,
            }
        )
    return pl.DataFrame(rows, schema=MONTHLY_SCHEMA)


def by_symbol(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return per model, horizon and symbol: num_rows, accuracies, base_rate_up, ic, rmse, mae.

    `ic` is the Spearman correlation over time of the score with the return relative to the benchmark, null under
    30 sessions. Luck dominates these figures (one symbol and year: 14 pp are needed to show anything), so they rank
    nothing and veto nothing on their own.
    """
    relative = pl.col("return_frac") - pl.col("benchmark_return_frac")
    both = pl.col("score").is_not_null() & relative.is_not_null()
    correlation = pl.corr(pl.col("score").filter(both).rank(), relative.filter(both).rank())
    return (
        scored_rows(predictions, outcomes)
        .group_by(*MODEL_KEY, "symbol")
        .agg(
            num_rows=pl.len(),
            accuracy_absolute=(pl.col("call_up") == pl.col("up")).mean(),
            base_rate_up=pl.col("up").filter(pl.col("call_up").is_not_null()).mean(),
            accuracy_relative=(pl.col("call_above") == pl.col("above")).mean(),
            ic=pl.when(both.sum() >= MIN_SESSIONS_OF_SYMBOL).then(correlation).fill_nan(None),
            rmse=(pl.col("error") ** 2).mean().sqrt(),
            mae=pl.col("error").abs().mean(),
        )
        .sort(*MODEL_KEY, "symbol")
    )


def scored_rows(predictions: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the forecasts with a known outcome, both frames' columns, and by the rules above what was right.

    Adds up and call_up, above and call_above (booleans, null: the row takes no part) and error (expected minus actual
    return, a fraction). The median behind `call_above` is of all forecasts given, so cut symbols or groups afterwards.
    """
    checked, known = as_prediction_frame(predictions), as_outcome_frame(outcomes)
    relative = pl.col("return_frac") - pl.col("benchmark_return_frac")
    centred = pl.col("score") - pl.col("score").median().over(SESSION_KEY)
    return (
        checked.with_columns(
            call_up=pl.coalesce(
                pl.col("direction_prob") >= 0.5, pl.col("expected_return_frac") > 0, pl.col("score") > 0
            ),
            call_above=pl.when(centred != 0).then(centred > 0),
        )
        .join(known.filter(pl.col("return_frac").is_not_null()), on=list(OUTCOME_KEY), how="inner")
        .with_columns(
            up=pl.col("return_frac") > 0,
            above=pl.when(relative != 0).then(relative > 0),
            error=pl.col("expected_return_frac") - pl.col("return_frac"),
        )
    )


def rank_ic_within(scored: pl.DataFrame, key: Sequence[str], *, min_symbols: int) -> pl.DataFrame:
    """Return the key, rank_ic (null, never NaN) and num_symbols of each group of `scored_rows`, sorted by the key."""
    ranks = (
        scored.filter(pl.col("score").is_not_null())
        .select(*key, "score", "return_frac")
        .with_columns(pl.col("score", "return_frac").rank().over(key))
    )
    enough = pl.col("num_symbols") >= min_symbols
    return (
        ranks.group_by(key)
        .agg(rank_ic=pl.corr("score", "return_frac"), num_symbols=pl.len().cast(pl.Int32))
        .with_columns(rank_ic=pl.when(enough).then(pl.col("rank_ic").fill_nan(None)))
        .select(*key, "rank_ic", "num_symbols")
        .sort(key)
    )


def _daily_calls(scored: pl.DataFrame) -> pl.DataFrame:
    """Return the counts and sums of each session from which pooled accuracies and errors follow."""
    absolute = pl.col("call_up").is_not_null()
    relative = pl.col("call_above").is_not_null() & pl.col("above").is_not_null()
    return (
        scored.group_by(SESSION_KEY)
        .agg(
            num_rows=pl.len(),
            num_absolute=absolute.sum(),
            hits_absolute=(pl.col("call_up") == pl.col("up")).sum(),
            num_up=(absolute & pl.col("up")).sum(),
            num_relative=relative.sum(),
            hits_relative=(pl.col("call_above") == pl.col("above")).sum(),
            num_errors=pl.col("error").count(),
            squared_error=(pl.col("error") ** 2).sum(),
            absolute_error=pl.col("error").abs().sum(),
        )
        .sort(SESSION_KEY)
    )


def _years_and_all(sessions: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the sessions of each calendar year, then all of them."""
    for (year,), part in sessions.group_by(pl.col("session").dt.year(), maintain_order=True):
        yield str(year), part
    yield ALL_YEARS, sessions


def _row(part: pl.DataFrame, seed: int) -> dict[str, object]:
    ics = part.get_column("rank_ic").drop_nulls().to_numpy()
    spread = float(ics.std(ddof=1)) if ics.size > 1 else 0.0
    low, high = _interval(ics, None, seed)
    totals = {name: float(value) for name, value in part.select(pl.col(_SUMS).sum()).row(0, named=True).items()}
    base_rate = _ratio(totals["num_up"], totals["num_absolute"])
    mean_square = _ratio(totals["squared_error"], totals["num_errors"])
    return {
        "num_sessions": part.height,
        "num_rows": int(totals["num_rows"]),
        "rank_ic": float(ics.mean()) if ics.size else None,
        "rank_ic_low": low,
        "rank_ic_high": high,
        "icir": float(ics.mean()) / spread if spread > 0 else None,
        **_accuracy(part, "absolute", seed),
        "base_rate_up": base_rate,
        "base_accuracy": None if base_rate is None else max(base_rate, 1 - base_rate),
        **_accuracy(part, "relative", seed),
        "rmse": None if mean_square is None else mean_square**0.5,
        "mae": _ratio(totals["absolute_error"], totals["num_errors"]),
    }


def _accuracy(part: pl.DataFrame, kind: str, seed: int) -> dict[str, float | None]:
    calls = part.get_column(f"num_{kind}").to_numpy().astype(np.float64)
    hits = part.get_column(f"hits_{kind}").to_numpy().astype(np.float64)
    low, high = _interval(hits / np.maximum(calls, 1), calls, seed)
    name = f"accuracy_{kind}"
    return {name: _ratio(hits.sum(), calls.sum()), f"{name}_low": low, f"{name}_high": high}


def _interval(
    values: Floats, weights: Floats | None, seed: int, block_sessions: int = BLOCK_SESSIONS
) -> tuple[float | None, float | None]:
    if values.size < 2 * block_sessions or (weights is not None and weights.sum() <= 0):
        return None, None
    return mean_interval(values, weights=weights, block_sessions=block_sessions, seed=seed)


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator > 0 else None
