"""Libraries that live in an environment of their own get a folder with frame and fold, and leave their forecasts in it.

``frame.parquet``      unique_id, ds (place on the symbol's own sessions), session, y (1-session return), features
``fold.json``          what may teach and what is judged
``<name>.json``        what a library says about its run, beside ``<name>.parquet`` (symbol, session, score)
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from vnfleet.core.atomic import write_file, write_text
from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.evaluation.splits import Fold
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.training.dataset import TrainingData

FRAME_NAME, FOLD_NAME = "frame.parquet", "fold.json"
RETURN_FEATURE = "ret_1"
FORECAST_COLUMNS = ("symbol", "session", "score")


class OutsideFold(BaseModel):
    """What a library may learn from and what it is judged on.

    Its training rows end with `last_train_session`: everything up to it was known before the first judged session.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    fold_id: str
    features: tuple[str, ...]
    last_train_session: date
    test_sessions: tuple[date, ...]
    universe: tuple[str, ...]
    window_sessions: int
    horizon_sessions: int


class OutsideFacts(BaseModel):
    """What a library's run was: a name for the table, how it was set up, seconds of fitting and of forecasting."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    fold_id: str
    name: str
    setting: str
    fit_seconds: FiniteFloat
    forecast_seconds: FiniteFloat
    seconds_per_step: FiniteFloat
    steps: int
    planned_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideResult:
    """The facts and the forecasts (a prediction frame, model_id = the name) of a library's run."""

    facts: OutsideFacts
    predictions: pl.DataFrame


def write_exchange(folder: Path, data: TrainingData, fold: Fold, like: StockformerConfig) -> Path:
    """Write the frame and the fold into `folder` and return it; results of an earlier fold there are left alone.

    The window and the horizon are those of `like`. Rows are the sessions a symbol traded on, up to the last judged one;
    y is the return of the session just closed.

    Raises
    ------
    BadDataError
        When the features lack the 1-session return.
    """
    if RETURN_FEATURE not in data.feature_names:
        raise BadDataError("outside libraries need the 1-session return", expected=RETURN_FEATURE)
    known_ST = data.present_ST[:, : fold.test.stop]
    symbol_N, session_N = np.nonzero(known_ST)
    place_N = (np.cumsum(known_ST, axis=1) - 1)[symbol_N, session_N]
    values_NF = data.values_STF[symbol_N, session_N]
    columns = {
        "unique_id": pl.Series(data.symbols, dtype=pl.String).gather(symbol_N),
        "ds": pl.Series(place_N, dtype=pl.Int64),
        "session": pl.Series(data.sessions, dtype=pl.Date).gather(session_N),
        "y": pl.Series(values_NF[:, data.feature_names.index(RETURN_FEATURE)]),
    }
    columns |= {name: pl.Series(values_NF[:, place]) for place, name in enumerate(data.feature_names)}
    write_file(folder / FRAME_NAME, pl.DataFrame(columns).write_parquet)
    record = OutsideFold(
        fold_id=fold.fold_id,
        features=data.feature_names,
        last_train_session=data.sessions[fold.test.start - 1],
        test_sessions=tuple(data.sessions[t] for t in fold.test),
        universe=fold.universe,
        window_sessions=like.window_sessions,
        horizon_sessions=like.horizon_sessions,
    )
    write_text(folder / FOLD_NAME, record.model_dump_json(indent=1))
    return folder


def read_results(folder: Path, fold: Fold, horizon_sessions: int) -> tuple[OutsideResult, ...]:
    """Return the results that libraries left in `folder` for `fold`, by name; none when there is no such folder.

    Raises
    ------
    BadDataError
        On a result that cannot be read, or a forecast frame with other columns.
    """
    results = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if path.name == FOLD_NAME:
            continue
        try:
            facts = OutsideFacts.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise BadDataError("a peer's result cannot be read", where=path, found=str(error)) from error
        if facts.fold_id == fold.fold_id:
            results.append(OutsideResult(facts=facts, predictions=_forecasts(path, facts, horizon_sessions)))
    return tuple(results)


def _forecasts(path: Path, facts: OutsideFacts, horizon_sessions: int) -> pl.DataFrame:
    forecasts = path.with_suffix(".parquet")
    try:
        frame = pl.read_parquet(forecasts)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadDataError("a peer's forecasts cannot be read", where=forecasts, found=error) from error
    if missing := [name for name in FORECAST_COLUMNS if name not in frame.columns]:
        raise BadDataError("a peer's forecasts lack columns", where=forecasts, found=missing)
    return score_frame(frame.select(FORECAST_COLUMNS), facts.name, facts.fold_id, horizon_sessions)


def score_frame(scores: pl.DataFrame, model_id: str, fold_id: str, horizon_sessions: int) -> pl.DataFrame:
    """Return rows of (symbol, session, score) as a prediction frame that states nothing but the score."""
    return as_prediction_frame(
        scores.with_columns(
            model_id=pl.lit(model_id),
            fold_id=pl.lit(fold_id),
            horizon_sessions=pl.lit(horizon_sessions, pl.Int32),
            direction_prob=pl.lit(None, pl.Float64),
            expected_return_frac=pl.lit(None, pl.Float64),
            volatility_frac=pl.lit(None, pl.Float64),
        )
    )
