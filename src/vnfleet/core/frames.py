"""The two frames that evaluation, simulator, gate, ledger and report exchange: predictions and outcomes.

Long polars frames, one row per key, null where unknown, never NaN. They know nothing about how they were made.
"""

from __future__ import annotations

import polars as pl

from vnfleet.core.errors import BadDataError

PREDICTION_KEY = ("model_id", "symbol", "session", "horizon_sessions")
PREDICTION_SCHEMA: dict[str, pl.DataType] = {
    "model_id": pl.String(),
    "symbol": pl.String(),
    "session": pl.Date(),
    "horizon_sessions": pl.Int32(),
    "fold_id": pl.String(),
    "score": pl.Float64(),
    "direction_prob": pl.Float64(),
    "expected_return_frac": pl.Float64(),
    "volatility_frac": pl.Float64(),
}
OUTCOME_KEY = ("symbol", "session", "horizon_sessions")
OUTCOME_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "horizon_sessions": pl.Int32(),
    "return_frac": pl.Float64(),
    "benchmark_return_frac": pl.Float64(),
    "known_on": pl.Date(),
}


def as_prediction_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` as a valid prediction frame, sorted by its key.

    Raises `BadDataError` on missing columns, NaN or infinity, duplicate keys, or a probability outside [0, 1].
    """
    checked = _checked(frame, PREDICTION_SCHEMA, PREDICTION_KEY, "prediction")
    outside = checked.filter(~pl.col("direction_prob").is_between(0.0, 1.0))
    if outside.height:
        raise BadDataError("a prediction frame has a probability outside [0, 1]", found=outside.row(0))
    return checked


def as_outcome_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` as a valid outcome frame, sorted by its key; errors as for `as_prediction_frame`."""
    return _checked(frame, OUTCOME_SCHEMA, OUTCOME_KEY, "outcome")


def empty_prediction_frame() -> pl.DataFrame:
    """Return a prediction frame without rows."""
    return pl.DataFrame(schema=PREDICTION_SCHEMA)


def _checked(frame: pl.DataFrame, schema: dict[str, pl.DataType], key: tuple[str, ...], noun: str) -> pl.DataFrame:
    missing = [name for name in schema if name not in frame.columns]
    if missing:
        raise BadDataError(f"a {noun} frame lacks columns", expected=list(schema), found=frame.columns)
    result = frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    floats = [name for name, dtype in schema.items() if dtype == pl.Float64()]
    bad = result.select(pl.col(floats).is_finite().not_().sum()).row(0, named=True)
    for name, count in bad.items():
        if count:
            raise BadDataError(
                f"a {noun} frame has NaN or infinity", where=name, found=f"{count} rows", expected="null"
            )
    if result.select(pl.struct(key).is_duplicated().any()).item():
        raise BadDataError(f"a {noun} frame repeats a key", where=key)
    return result.sort(key)
