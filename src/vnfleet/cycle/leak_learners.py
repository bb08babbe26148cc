"""The learners that the leak prover fits: ridge, LightGBM, and the week's own recipe made small.

They go the way the week's models go: features, labels, folds, units, ensembles; only the numbers are small.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import polars as pl
import torch

from vnfleet.cycle.config import CycleConfig
from vnfleet.data.outcomes import forward_returns
from vnfleet.data.panel import Panel
from vnfleet.evaluation.leaks import Fitted, FittedScaler, Learner, dealt_anew
from vnfleet.evaluation.splits import Fold
from vnfleet.features.cube import FeatureCube, build_cube
from vnfleet.model.baselines import BaselineData, BaselineName, fit_baseline
from vnfleet.model.baselines.scorers import LinearScorer
from vnfleet.model.ensemble import Calibration, Ensemble, eligible_sessions, forecast_ensembles, prediction_rows
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import run_unit
from vnfleet.training.forecast import fold_models
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import MIN_CROSS_SECTION, Recipe
from vnfleet.training.unit_result import read_ensemble, read_selection

FoldOf = Callable[[Panel], Fold]

_SEED = 0
_EPOCHS, _PATIENCE_EPOCHS, _PENALTIES = 3, 1, 2
_KEPT_CUBES = 4
_BAND_SESSIONS = 10
_MACHINE = MachineConfig(device="cpu", processes=1, num_threads=1, precision="float32", compile="off")


class Cubes:
    """Feature cubes of panels, the newest few kept: several checks ask for the same one."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, FeatureCube] = OrderedDict()

    def of(self, panel: Panel) -> FeatureCube:
        """Return the features of `panel`."""
        if panel.data_id not in self._kept:
            self._kept[panel.data_id] = build_cube(panel)
            if len(self._kept) > _KEPT_CUBES:
                self._kept.popitem(last=False)
        return self._kept[panel.data_id]


def small_recipe(config: CycleConfig, num_symbols: int) -> Recipe:
    """Return the week's recipe with one seed and one layer: the same steps in a moment.

    What the week leaves to its validation tail is left to it here too: two penalties where there are several, and a few
    epochs to stop at where there is patience (without it one epoch does, as nothing is chosen). A choice that the test
    sets make can then be seen.
    """
    patient = config.training.patience_epochs > 0
    model = dataclasses.replace(
        config.model,
        d_model=16,
        num_heads=2,
        num_layers=1,
        d_ff=32,
        band_sessions=min(config.model.band_sessions, _BAND_SESSIONS),
        window_sessions=min(config.model.window_sessions, _BAND_SESSIONS),
    )
    training = dataclasses.replace(
        config.training,
        num_seeds=1,
        ensemble="seeds",
        max_epochs=min(_EPOCHS, config.training.max_epochs) if patient else 1,
        patience_epochs=_PATIENCE_EPOCHS if patient else 0,
        delta_penalties=config.training.delta_penalties[:_PENALTIES],
        delta_epochs=1,
    )
    least = max(MIN_CROSS_SECTION, min(config.objective.min_labels_per_session, num_symbols // 2))
    return Recipe(model, training, dataclasses.replace(config.objective, min_labels_per_session=least))


def baseline_learner(
    name: BaselineName, config: CycleConfig, fold_of: FoldOf, cubes: Cubes, num_shuffles: int
) -> Learner:
    """Return a baseline as the prover fits it."""

    def fit(seen: Panel, shuffle: int | None) -> Fitted:
        cube, fold = cubes.of(seen), fold_of(seen)
        data = BaselineData(
            values_STF=cube.values_STF,
            present_ST=cube.present_ST,
            returns_HST=_labels(seen, config.model.horizons, shuffle),
            horizons=config.model.horizons,
            symbols=seen.symbols,
            sessions=seen.sessions,
            feature_names=cube.names,
        )
        fitted = fit_baseline(name, data, fold, _SEED, horizon_sessions=config.horizon_sessions)

        def forecast(served: Panel) -> pl.DataFrame:
            now = cubes.of(served)
            return fitted.predict(
                now.values_STF,
                now.present_ST,
                served.symbols,
                served.sessions,
                _judged(fold, served),
                model_id=name,
                fold_id=fold.fold_id,
                feature_names=now.names,
            )

        return Fitted(forecast=forecast, scaler=_scaler_of(fitted.scorer))

    return Learner(name=name, fit=fit, num_shuffles=num_shuffles)


def stockformer_learner(recipe: Recipe, fold_of: FoldOf, cubes: Cubes, scratch: Path, num_shuffles: int) -> Learner:
    """Return the recipe's first strategy as the prover fits it; units are trained in folders of their own.

    On labels dealt anew the shared network is fitted, each time from other initial weights.
    """

    def fit(seen: Panel, shuffle: int | None) -> Fitted:
        cube, fold = cubes.of(seen), fold_of(seen)
        returns_HST = _labels(seen, recipe.model.horizons, shuffle).astype(np.float32)
        data = TrainingData(seen.sessions, seen.symbols, cube.names, cube.values_STF, cube.present_ST, returns_HST)
        root = Path(mkdtemp(dir=scratch))  # a finished unit of another world must never be taken for this one
        with _torch_as_it_was():
            symbols, ensembles, choices = (
                _trained(recipe, data, fold, root) if shuffle is None else _reseeded(recipe, data, fold, root, shuffle)
            )
        place = {symbol: index for index, symbol in enumerate(data.symbols)}
        rows = np.asarray([place[symbol] for symbol in symbols], dtype=np.int64)

        def forecast(served: Panel) -> pl.DataFrame:
            now, sessions = cubes.of(served), _judged(fold, served)
            present_ST = now.present_ST[rows]
            eligible_ST = eligible_sessions(present_ST, ensembles[0].context_sessions)
            with _torch_as_it_was():
                torch.set_num_threads(1)
                said = forecast_ensembles(ensembles, now.values_STF[rows], present_ST, sessions)
            return prediction_rows(
                said,
                [ensemble.calibration for ensemble in ensembles],
                eligible_ST[:, sessions.start : sessions.stop],
                symbols,
                served.sessions[sessions.start : sessions.stop],
                recipe.model.horizon_sessions,
                "stockformer",
                fold.fold_id,
            )

        scaler = ensembles[0].scaler if len(ensembles) == 1 else None
        return Fitted(
            forecast=forecast,
            scaler=None if scaler is None else FittedScaler(mean_F=scaler.mean_F, sd_F=scaler.sd_F),
            choices=choices,
        )

    return Learner(name="stockformer", fit=fit, context_sessions=recipe.context_sessions, num_shuffles=num_shuffles)


def _trained(
    recipe: Recipe, data: TrainingData, fold: Fold, root: Path
) -> tuple[tuple[str, ...], tuple[Ensemble, ...], str]:
    """Return the symbols and finished ensembles of the recipe's first strategy, and what its choices were made by."""
    for unit in fold_units(recipe, data, fold):
        run_unit(unit, recipe, data, root, lambda *_: None, _MACHINE)
    models = fold_models(recipe, fold, data, root, recipe.strategies[0])
    choices = repr((models.selection, models.valid_accuracy, models.valid_rank_ic))
    return models.symbols, models.ensembles, choices


def _reseeded(
    recipe: Recipe, data: TrainingData, fold: Fold, root: Path, seed: int
) -> tuple[tuple[str, ...], tuple[Ensemble, ...], str]:
    """Return the symbols and the shared ensemble, fitted from the initial weights of `seed`, and what it chose by.

    A network that learned nothing ranks as its initial weights do: with the same ones in every shuffle their luck would
    be taken for knowledge. Deltas are not fitted: the shared ensemble has none.
    """
    recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, strategy="pooled"))
    select, member, *_ = fold_units(recipe, data, fold)
    select = select.model_copy(update={"seed": seed})
    member = member.model_copy(update={"seed": seed, "depends_on": (select.unit_id,)})
    for unit in (select, member):
        run_unit(unit, recipe, data, root, lambda *_: None, _MACHINE)
    selection = read_selection(root, select.unit_id)
    calibration = Calibration(*selection.calibration_pooled)
    shape = recipe.member_config(seed)
    ensemble = read_ensemble(root, [(member.unit_id, shape)], data.feature_names, calibration, adapted=False)
    return data.symbols, (ensemble,), repr(selection)


def _labels(panel: Panel, horizons: tuple[int, ...], shuffle: int | None) -> np.ndarray:
    returns_HST = forward_returns(panel, horizons)
    return returns_HST if shuffle is None else dealt_anew(returns_HST, shuffle)


def _judged(fold: Fold, served: Panel) -> range:
    """Return the fold's test sessions that the served panel holds."""
    return range(fold.test.start, min(fold.test.stop, len(served.sessions)))


def _scaler_of(scorer: object) -> FittedScaler | None:
    if not isinstance(scorer, LinearScorer):
        return None
    return FittedScaler(mean_F=scorer.mean_F, sd_F=scorer.sd_F, labelled_only=True)


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Leave torch's threads and strictness as they were: a small fit must not slow down what follows."""
    threads, strictness = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(strictness)
