"""Walk-forward forecasts as content-addressed folders: a finished year is forecast once, only the newest one grows.

``checkpoints/forecasts/<forecast_id>/predictions.parquet``; the id hashes who forecasts, the fold, and the feature rows
up to the fold's last session, so nothing that happens later can change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from vnfleet.core.frames import as_prediction_frame
from vnfleet.core.ids import arrays_sha256, short_id, source_sha256
from vnfleet.core.sealed import is_whole, sealing, verify
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.user_model import user_model_identity, user_predictions
from vnfleet.evaluation.splits import Fold
from vnfleet.model.baselines import (
    BASELINE_NAMES,
    BaselineData,
    BaselineName,
    FittedBaseline,
    fit_baseline,
    load_baseline,
)
from vnfleet.training.dataset import TrainingData
from vnfleet.training.forecast import forecast_fold
from vnfleet.training.plan import fold_units

FORECAST_KIND = "forecast"
PREDICTIONS_NAME = "predictions.parquet"
BASELINE_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecaster:
    """One entrant of the race: its short name, the `model_id` of its rows, and who makes them.

    kind : "strategy" (the recipe's units), "baseline", or "user" (a model of the user's own).
    """

    name: str
    model_id: str
    kind: Literal["strategy", "baseline", "user"]


def forecasters(week: WeekContext) -> tuple[Forecaster, ...]:
    """Return the entrants: the strategies of the recipe, then every baseline, then the user's own model if any."""
    recipe_id, user = week.recipe.recipe_id, week.config.user_model
    ours = [Forecaster(name=one, model_id=f"{recipe_id}-{one}", kind="strategy") for one in week.recipe.strategies]
    baselines = [Forecaster(name=one, model_id=one, kind="baseline") for one in BASELINE_NAMES]
    guests = [Forecaster(name=user.model_id, model_id=user.model_id, kind="user")] if user.is_given else []
    return (*ours, *baselines, *guests)


def walk_forward(week: WeekContext, told: Callable[[int, int, str], None]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the predictions of every entrant over all judged folds, and the ids of the folders they lie in.

    `told` hears (done, total, what) before each one.
    """
    entrants, folds, data = forecasters(week), week.judged_folds(), week.data()
    guest = user_model_identity(week.config.user_model)
    frames: list[pl.DataFrame] = []
    ids: list[str] = []
    for fold in folds:
        seen = _features_id(data, fold.test.stop)
        rows_id = data.rows_id(fold.refit.stop)
        made_by = {
            "strategy": [unit.unit_id for unit in fold_units(week.recipe, data, fold)],
            "baseline": [rows_id, source_sha256("vnfleet.model.baselines"), str(BASELINE_SEED)],
            "user": [rows_id, *guest],
        }
        for entrant in entrants:
            told(len(ids), len(folds) * len(entrants), f"fold {fold.fold_id} {entrant.name}")
            forecast_id = short_id([entrant.name, entrant.model_id, made_by[entrant.kind], fold.to_record(), seen])
            frames.append(_stored(week.folders.forecasts / forecast_id, partial(_made, week, fold, entrant)))
            ids.append(forecast_id)
    return as_prediction_frame(pl.concat(frames)), tuple(ids)


def live_baseline(week: WeekContext, name: BaselineName) -> tuple[FittedBaseline, Path]:
    """Return a baseline fitted on the live fold and the sealed folder it lies in; fitted at most once."""
    data, fold = week.data(), week.live()
    identity = [name, BASELINE_SEED, data.rows_id(fold.refit.stop), source_sha256("vnfleet.model.baselines")]
    folder = week.folders.units / "baselines" / short_id([*identity, fold.to_record()])
    if not is_whole(folder, "baseline"):
        fit_baseline(
            name,
            baseline_data(data, week.config.model.horizons),
            fold,
            BASELINE_SEED,
            horizon_sessions=week.config.horizon_sessions,
        ).save(folder)
    return load_baseline(folder), folder


def baseline_data(data: TrainingData, horizons: tuple[int, ...]) -> BaselineData:
    """Return the same rows in the shape baselines read."""
    return BaselineData(
        values_STF=data.values_STF,
        present_ST=data.present_ST,
        returns_HST=data.returns_HST,
        horizons=horizons,
        symbols=data.symbols,
        sessions=data.sessions,
        feature_names=data.feature_names,
    )


def _made(week: WeekContext, fold: Fold, entrant: Forecaster) -> pl.DataFrame:
    data = week.data()
    if entrant.kind == "user":
        return user_predictions(week, fold, week.config.user_model)
    for strategy in week.recipe.strategies:
        if entrant.name == strategy:
            return forecast_fold(week.recipe, fold, data, week.folders.units, strategy, fold.test, entrant.model_id)
    name = next(known for known in BASELINE_NAMES if known == entrant.name)
    rows = baseline_data(data, week.config.model.horizons)
    fitted = fit_baseline(name, rows, fold, BASELINE_SEED, horizon_sessions=week.config.horizon_sessions)
    return fitted.predict(
        data.values_STF,
        data.present_ST,
        data.symbols,
        data.sessions,
        fold.test,
        model_id=entrant.model_id,
        fold_id=fold.fold_id,
        feature_names=data.feature_names,
    )


def _stored(folder: Path, make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Return the forecasts sealed in `folder`, making them first when they are not there."""
    if not is_whole(folder, FORECAST_KIND):
        frame = make()
        with sealing(folder, FORECAST_KIND, {"rows": frame.height}) as scratch:
            frame.write_parquet(scratch / PREDICTIONS_NAME)
    verify(folder, FORECAST_KIND)
    return as_prediction_frame(pl.read_parquet(folder / PREDICTIONS_NAME))


def _features_id(data: TrainingData, stop: int) -> str:
    """Return the identity of the feature rows before session index `stop`, without any return of theirs."""
    alive_S = np.asarray(data.present_ST[:, :stop].any(axis=1))
    names = [symbol for symbol, alive in zip(data.symbols, alive_S.tolist(), strict=True) if alive]
    days = [session.isoformat() for session in data.sessions[:stop]]
    arrays = {"values": data.values_STF[alive_S, :stop], "present": data.present_ST[alive_S, :stop]}
    return short_id([names, days, list(data.feature_names), arrays_sha256(arrays)])
