"""Forecasts that came from outside: read from a file, and checked against the rows every entrant is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.frames import PREDICTION_SCHEMA, as_prediction_frame

MIN_COVERED_FRAC = 0.9
"""This fraction of the primary symbols' rows must be forecast, so that nobody races on days of their own choice."""
NEEDED = ("symbol", "session", "score")
OPTIONAL = ("direction_prob", "expected_return_frac", "volatility_frac")
_SAME_FRAC, _SAME_PLACES, _SWAPPED_FRAC = 1e-4, 1.0, 0.01
"""Networks of 2 layers in float32 round by 2e-6 of their session's spread, of 8 layers by 1.4e-5."""
_SAME_DIGITS = 2.0**-22  # of the number itself: the last two of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a model in one fold.

    Attributes
    ----------
    rows : symbol, session of every row to forecast: features known, session judged.
    judged, market : the judged sessions, and all market sessions of the panel, ascending.
    universe : the primary symbols, of whose rows `MIN_COVERED_FRAC` must be there.
    where : who forecast, in words, for messages.
    """

    model_id: str
    fold_id: str
    horizon_sessions: int
    rows: pl.DataFrame
    judged: Sequence[date]
    market: Sequence[date]
    universe: Sequence[str]
    where: str


def existing(path: Path) -> Path:
    """Return `path`; raises `UsageError` when there is no such file."""
    if not path.is_file():
        raise UsageError("there is no such file of forecasts", where=path, fix="check predictions under [user_model]")
    return path


def read_forecasts(path: Path) -> pl.DataFrame:
    """Return the table in a parquet or CSV file.

    Raises `UsageError` when there is no such file and `BadDataError` when it cannot be read.
    """
    existing(path)
    try:
        if path.suffix.lower() == ".csv":
            return pl.read_csv(path, try_parse_dates=True, infer_schema_length=None)
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        found = str(error).partition("\n")[0]
        raise BadDataError("a file of forecasts cannot be read", where=path, found=found) from error


def as_asked(frame: pl.DataFrame, asked: Asked, *, only_judged: bool) -> pl.DataFrame:
    """Return the forecasts of the rows asked for as a prediction frame; other symbols' and rows' are left out.

    only_judged : sessions that are not judged in this fold are refused instead of left out.

    Raises
    ------
    BadDataError
        On missing columns, wrong kinds, several models, other horizons, repeated rows, NaN, days without a market, or
        too few forecasts.
    """
    typed = _typed(frame, asked)
    allowed = pl.Series(asked.judged if only_judged else asked.market, dtype=pl.Date)
    inside_panel = pl.col("session").is_between(asked.market[0], asked.market[-1])
    odd = typed.filter(pl.lit(only_judged) | inside_panel, ~pl.col("session").is_in(allowed.implode()))
    if odd.height:
        raise BadDataError(
            "forecasts are of sessions that this fold does not judge"
            if only_judged
            else "forecasts are dated on days without a market session",
            where=asked.where,
            expected=f"sessions from {asked.judged[0]} to {asked.judged[-1]}" if only_judged else None,
            found=", ".join(str(day) for day in odd.get_column("session").unique().sort().head(3)),
        )
    raced = asked.rows.join(typed, on=["symbol", "session"], how="inner").filter(pl.col("score").is_not_null())
    complete = raced.select(
        pl.lit(asked.model_id).alias("model_id"),
        pl.lit(asked.horizon_sessions).alias("horizon_sessions"),
        pl.lit(asked.fold_id).alias("fold_id"),
        *NEEDED,
        *(pl.col(name) if name in raced.columns else pl.lit(None).alias(name) for name in OPTIONAL),
    )
    try:
        forecasts = as_prediction_frame(complete)
    except BadDataError as error:
        raise BadDataError(error.what, where=asked.where, found=error.found) from error
    _refuse_gaps(forecasts, asked)
    return forecasts


def refuse_look_ahead(whole: pl.DataFrame, early: pl.DataFrame, last: date, where: str) -> None:
    """Refuse forecasts up to `last` that differ from those made without the sessions after it.

    What rounding of float32 does is allowed: a ten-thousandth of the number's distance from the middle of its session,
    or of the median distance where that is larger, and the last digits of the number itself; as long as it stays within
    one place of its rank in its session, and 99 rows in 100 keep theirs and their side of 0 (a probability: of one
    half): only near ties may swap. Level and unit of the numbers do not matter. Raises `UsageError`.
    """
    keys, numbers = ["symbol", "session"], ["score", *OPTIONAL]
    before = whole.filter(pl.col("session") <= last).select(*keys, *numbers)
    joined = before.join(early.select(*keys, *numbers), on=keys, how="full", coalesce=True, suffix="_early")
    moved = joined.filter(pl.any_horizontal(_differs(name) for name in numbers)).sort("session", "symbol")
    if moved.height:
        symbol, session = moved.row(0)[:2]
        raise UsageError(
            "your model's forecasts change when later sessions are taken away: it looks ahead, or draws without a seed",
            where=where,
            expected=f"the same forecasts up to {last} without the sessions after it",
            found=f"{moved.height} of {joined.height} rows differ, such as {symbol} on {session}",
            fix="forecast each session from features up to that session only, and fix every seed",
        )


def _differs(name: str) -> pl.Expr:
    """Return whether column `name` is another number than `name`_early, beyond rounding."""
    now, then = pl.col(name), pl.col(f"{name}_early")
    mark = 0.5 if name == "direction_prob" else 0.0
    distance = (then - then.median()).abs()
    spread = pl.max_horizontal(distance, distance.median()).over("session")
    other_size = (now - then).abs() > _SAME_FRAC * spread + _SAME_DIGITS * then.abs()
    other_side = (now >= mark) != (then >= mark)
    places = (now.rank() - then.rank()).abs().over("session")
    swapped = other_side | (places > 0.0)
    other_place = (places > _SAME_PLACES) | (swapped & (swapped.mean() > _SWAPPED_FRAC))
    differs = pl.any_horizontal(other_size, other_place).fill_null(value=False)
    return differs | (now.is_null() != then.is_null())


def _typed(frame: pl.DataFrame, asked: Asked) -> pl.DataFrame:
    """Return the columns that are read, typed, of the judged horizon."""
    if missing := [name for name in NEEDED if name not in frame.columns]:
        raise BadDataError(
            f"forecasts lack {', '.join(missing)}", where=asked.where, expected=", ".join(NEEDED), found=frame.columns
        )
    if "model_id" in frame.columns and frame.get_column("model_id").n_unique() > 1:
        names = frame.get_column("model_id").unique().sort().to_list()
        raise BadDataError("forecasts are of several models", where=asked.where, expected="one", found=names)
    if "horizon_sessions" in frame.columns and frame.height:
        horizons = frame.get_column("horizon_sessions").unique().sort().to_list()
        frame = frame.filter(pl.col("horizon_sessions") == asked.horizon_sessions)
        if not frame.height:
            raise BadDataError(
                "forecasts are of other horizons",
                where=asked.where,
                expected=f"{asked.horizon_sessions} sessions",
                found=horizons,
            )
    try:
        return frame.select(
            pl.col(name).cast(PREDICTION_SCHEMA[name]) for name in (*NEEDED, *OPTIONAL) if name in frame.columns
        )
    except pl.exceptions.PolarsError as error:
        raise BadDataError(
            "forecasts have a column of a wrong kind",
            where=asked.where,
            expected="symbol: text; session: a date such as 2024-03-29; the others: numbers",
            found=str(error).partition("\n")[0],
        ) from error


def _refuse_gaps(forecasts: pl.DataFrame, asked: Asked) -> None:
    primary = pl.col("symbol").is_in(pl.Series(asked.universe, dtype=pl.String).implode())
    wanted, found = asked.rows.filter(primary).height, forecasts.filter(primary).height
    if found < MIN_COVERED_FRAC * wanted:
        raise BadDataError(
            f"forecasts are missing in fold {asked.fold_id}",
            where=asked.where,
            expected=f"at least {MIN_COVERED_FRAC:.0%} of the {wanted} rows of the primary symbols",
            found=f"{found} rows",
            fix=f"forecast every session from {asked.judged[0]} to {asked.judged[-1]}, or clear [user_model]",
        )
