"""Walk-forward forecasts: the finished ensemble of a fold, run over its judged sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from vnfleet.evaluation.splits import Fold
from vnfleet.model.ensemble import Calibration, Ensemble, eligible_sessions, forecast_ensemble, prediction_rows
from vnfleet.training.dataset import TrainingData
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import Selection, read_ensemble, read_selection

Strategy = Literal["pooled", "adapted"]


def fold_ensemble(
    recipe: Recipe, fold: Fold, data: TrainingData, units_root: Path, strategy: Strategy
) -> tuple[Ensemble, Selection]:
    """Return the finished ensemble of a fold and what its validation tail decided."""
    select, *members = fold_units(recipe, data, fold)
    selection = read_selection(units_root, select.unit_id)
    adapted = strategy == "adapted"
    calibration = Calibration(*(selection.calibration_adapted if adapted else selection.calibration_pooled))
    ensemble = read_ensemble(
        units_root,
        tuple(member.unit_id for member in members),
        recipe.model,
        data.feature_names,
        calibration,
        adapted=adapted,
    )
    return ensemble, selection


def forecast_fold(
    recipe: Recipe, fold: Fold, data: TrainingData, units_root: Path, strategy: Strategy, sessions: range, model_id: str
) -> pl.DataFrame:
    """Return the predictions of a fold's ensemble for `sessions` (indices on the market axis).

    `adapted` covers the fold's universe, `pooled` every symbol of the data; only features up to each session are read.
    """
    ensemble, _ = fold_ensemble(recipe, fold, data, units_root, strategy)
    rows = np.arange(len(data.symbols))
    if strategy == "adapted":
        place = {symbol: index for index, symbol in enumerate(data.symbols)}
        rows = np.asarray([place[symbol] for symbol in fold.universe if symbol in place], dtype=np.int64)
    values_STF, present_ST = data.values_STF[rows], data.present_ST[rows]
    forecast = forecast_ensemble(ensemble, values_STF, present_ST, sessions)
    eligible_ST = eligible_sessions(present_ST, recipe.model.context_sessions)
    return prediction_rows(
        forecast,
        ensemble.calibration,
        eligible_ST[:, sessions.start : sessions.stop],
        [data.symbols[row] for row in rows],
        data.sessions[sessions.start : sessions.stop],
        model_id,
        fold.fold_id,
    )
