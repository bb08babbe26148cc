"""Walk-forward forecasts: the finished models of a fold, run over its judged sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.evaluation.splits import Fold
from vnfleet.model.ensemble import Calibration, Ensemble, eligible_sessions, forecast_ensembles, prediction_rows
from vnfleet.training.dataset import TrainingData, rank_target
from vnfleet.training.plan import fold_units, units_of
from vnfleet.training.recipe import Recipe, Strategy
from vnfleet.training.unit_result import Selection, read_ensemble, read_selection, read_separate


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldModels:
    """The finished models of a fold under one strategy.

    ensembles : one that serves all `symbols`, its deltas in their order, or one for each of them.
    valid_accuracy : by symbol, on the validation tail.
    valid_rank_ic : of the set, on the validation tail.
    selection : what the tail decided for the shared backbone.
    """

    symbols: tuple[str, ...]
    ensembles: tuple[Ensemble, ...]
    valid_accuracy: dict[str, float]
    valid_rank_ic: float
    selection: Selection


def fold_models(recipe: Recipe, fold: Fold, data: TrainingData, units_root: Path, strategy: Strategy) -> FoldModels:
    """Return the finished models of a fold: `pooled` covers every symbol of the data, the others its universe.

    Raises `BadDataError` when a unit is not finished or not whole.
    """
    select, *others = fold_units(recipe, data, fold)
    selection = read_selection(units_root, select.unit_id)
    known = tuple(symbol for symbol in fold.universe if symbol in set(data.symbols))
    if strategy == "separate":
        units = units_of(recipe, data, fold, "separate")
        models = read_separate(
            units_root, [(unit.unit_id, recipe.separate_config(unit.seed)) for unit in units], data.feature_names
        )
        said = {symbol: models[symbol].valid_score_O for symbol in known}
        return FoldModels(
            symbols=known,
            ensembles=tuple(models[symbol].ensemble for symbol in known),
            valid_accuracy={symbol: models[symbol].valid_accuracy for symbol in known},
            valid_rank_ic=valid_rank_ic(recipe, fold, data, said),
            selection=selection,
        )
    adapted = strategy == "adapted"
    ensemble = read_ensemble(
        units_root,
        [(unit.unit_id, recipe.member_config(unit.seed)) for unit in others if unit.kind == "member"],
        data.feature_names,
        Calibration(*(selection.calibration_adapted if adapted else selection.calibration_pooled)),
        adapted=adapted,
    )
    return FoldModels(
        symbols=known if adapted else data.symbols,
        ensembles=(ensemble,),
        valid_accuracy=selection.valid_accuracy_by_symbol,
        valid_rank_ic=selection.valid_rank_ic,
        selection=selection,
    )


def valid_rank_ic(recipe: Recipe, fold: Fold, data: TrainingData, scores: Mapping[str, np.ndarray]) -> float:
    """Return the mean rank correlation per session of the scores of models that were judged one by one; 0 if none."""
    place = {symbol: index for index, symbol in enumerate(data.symbols)}
    score_SO = np.stack(list(scores.values()))
    returns_SO = data.returns_HST[-1, [place[symbol] for symbol in scores], fold.valid.start : fold.valid.stop]
    known_SO = np.isfinite(score_SO) & np.isfinite(returns_SO)
    ranks_SO, targets_SO = rank_target(score_SO, known_SO), rank_target(returns_SO, known_SO)
    least = min(recipe.objective.min_labels_per_session, max(2, len(scores)))
    values = [
        float(np.corrcoef(ranks_SO[known_SO[:, column], column], targets_SO[known_SO[:, column], column])[0, 1])
        for column in np.flatnonzero(known_SO.sum(0) >= least)
        if np.ptp(ranks_SO[known_SO[:, column], column]) and np.ptp(targets_SO[known_SO[:, column], column])
    ]
    return float(np.mean(values)) if values else 0.0


def forecast_fold(
    recipe: Recipe, fold: Fold, data: TrainingData, units_root: Path, strategy: Strategy, sessions: range, model_id: str
) -> pl.DataFrame:
    """Return the predictions of a fold's models for `sessions` (indices on the market axis).

    Only features up to each session are read.
    """
    models = fold_models(recipe, fold, data, units_root, strategy)
    place = {symbol: index for index, symbol in enumerate(data.symbols)}
    rows = np.asarray([place[symbol] for symbol in models.symbols], dtype=np.int64)
    values_STF, present_ST = data.values_STF[rows], data.present_ST[rows]
    forecast = forecast_ensembles(models.ensembles, values_STF, present_ST, sessions)
    eligible_ST = eligible_sessions(present_ST, models.ensembles[0].context_sessions)
    return prediction_rows(
        forecast,
        [ensemble.calibration for ensemble in models.ensembles],
        eligible_ST[:, sessions.start : sessions.stop],
        models.symbols,
        data.sessions[sessions.start : sessions.stop],
        recipe.model.horizon_sessions,
        model_id,
        fold.fold_id,
    )


def symbols_with_models(models: FoldModels, symbols: Sequence[str]) -> dict[str, tuple[Ensemble, int]]:
    """Return for each of `symbols` its ensemble and its row in that ensemble's deltas."""
    shared = len(models.ensembles) == 1
    return {
        symbol: (models.ensembles[0 if shared else row], row)
        for row, symbol in enumerate(models.symbols)
        if symbol in set(symbols)
    }
