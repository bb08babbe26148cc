"""How good forecasts of the judged year were, as cells: rank IC and market-relative accuracy with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.bench.material import Material
from vnfleet.bench.table import NOTHING, Cell, mean_cell
from vnfleet.evaluation.metrics import ALL_YEARS, MIN_SYMBOLS, primary_rows, summarise
from vnfleet.evaluation.splits import Fold
from vnfleet.model.ensemble import eligible_sessions, forecast_ensembles, prediction_rows
from vnfleet.training.dataset import TrainingData
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import read_separate


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Metrics of one forecaster over the judged year; None where there are none, intervals (low, high)."""

    num_sessions: int
    rank_ic: float | None
    rank_ic_interval: tuple[float | None, float | None]
    icir: float | None
    accuracy_absolute: float | None
    accuracy_absolute_interval: tuple[float | None, float | None]
    base_accuracy: float | None
    accuracy_relative: float | None
    accuracy_relative_interval: tuple[float | None, float | None]

    def rank_ic_cell(self) -> Cell:
        """Return the mean daily rank IC with its interval."""
        return NOTHING if self.rank_ic is None else mean_cell(self.rank_ic, *self.rank_ic_interval)

    def icir_cell(self) -> Cell:
        """Return mean over standard deviation of the daily rank IC."""
        return NOTHING if self.icir is None else Cell(f"{self.icir:.2f}", self.icir, "measured")

    def absolute_cell(self) -> Cell:
        """Return the absolute accuracy with its interval and what calling one side always would have reached."""
        if self.accuracy_absolute is None:
            return NOTHING
        base = "" if self.base_accuracy is None else f", base {self.base_accuracy:.1%}"
        text = f"{self.accuracy_absolute:.1%} {_interval(self.accuracy_absolute_interval)}{base}"
        return Cell(text, self.accuracy_absolute, "measured")

    def relative_cell(self) -> Cell:
        """Return the market-relative accuracy with its interval; a coin reaches 50 %."""
        if self.accuracy_relative is None:
            return NOTHING
        text = f"{self.accuracy_relative:.1%} {_interval(self.accuracy_relative_interval)}"
        return Cell(text, self.accuracy_relative, "measured")


def score_of(predictions: pl.DataFrame, material: Material) -> Score | None:
    """Return the metrics of one model's predictions on the primary symbols of the judged year, None without rows."""
    fold = material.judged
    primary = primary_rows(predictions, {fold.fold_id: fold.universe})
    minimum = min(MIN_SYMBOLS, max(2, len(fold.universe) // 2))
    rows = summarise(primary, material.outcomes, min_symbols=minimum).filter(pl.col("year") == ALL_YEARS)
    if not rows.height:
        return None
    row = rows.row(0, named=True)
    return Score(
        num_sessions=row["num_sessions"],
        rank_ic=row["rank_ic"],
        rank_ic_interval=(row["rank_ic_low"], row["rank_ic_high"]),
        icir=row["icir"],
        accuracy_absolute=row["accuracy_absolute"],
        accuracy_absolute_interval=(row["accuracy_absolute_low"], row["accuracy_absolute_high"]),
        base_accuracy=row["base_accuracy"],
        accuracy_relative=row["accuracy_relative"],
        accuracy_relative_interval=(row["accuracy_relative_low"], row["accuracy_relative_high"]),
    )


def separate_predictions(
    recipe: Recipe, fold: Fold, data: TrainingData, units_root: Path, units: tuple[WorkUnit, ...], model_id: str
) -> pl.DataFrame:
    """Return what finished `separate` units forecast for the judged sessions of `fold`."""
    models = read_separate(
        units_root, [(unit.unit_id, recipe.separate_config(unit.seed)) for unit in units], data.feature_names
    )
    symbols = list(models)
    rows = np.asarray([data.symbols.index(symbol) for symbol in symbols], dtype=np.int64)
    ensembles = [models[symbol].ensemble for symbol in symbols]
    values_STF, present_ST = data.values_STF[rows], data.present_ST[rows]
    forecast = forecast_ensembles(ensembles, values_STF, present_ST, fold.test)
    eligible_ST = eligible_sessions(present_ST, ensembles[0].context_sessions)
    return prediction_rows(
        forecast,
        [ensemble.calibration for ensemble in ensembles],
        eligible_ST[:, fold.test.start : fold.test.stop],
        symbols,
        data.sessions[fold.test.start : fold.test.stop],
        recipe.model.horizon_sessions,
        model_id,
        fold.fold_id,
    )


def _interval(interval: tuple[float | None, float | None]) -> str:
    low, high = interval
    return "[no interval]" if low is None or high is None else f"[{low:.1%}, {high:.1%}]"
