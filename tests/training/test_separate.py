"""One model per symbol: through units, forecasts and files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import verify
from vnfleet.evaluation.splits import Fold
from vnfleet.model.artifact import read_artifact
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import run_unit
from vnfleet.training.forecast import fold_models, forecast_fold
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.model_set import write_model_set
from vnfleet.training.plan import SHARD_SYMBOLS, WorkUnit, fold_units, units_of
from vnfleet.training.recipe import ObjectiveConfig, Recipe
from vnfleet.training.trainer import Progress
from vnfleet.training.unit_result import UNIT_KIND

ONE_THREAD = MachineConfig(num_threads=1)


class MachineLostError(Exception):
    """Stands for a lost machine."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    del stage, done, total, note


@pytest.fixture(scope="module")
def own(recipe: Recipe) -> Recipe:
    training = dataclasses.replace(
        recipe.training, strategy="separate", num_seeds=1, max_epochs=6, patience_epochs=2, runs_per_batch=3
    )
    return Recipe(recipe.model, training, ObjectiveConfig(path_weight=1.0, volatility_weight=0.1))


@pytest.fixture(scope="module")
def short(data: TrainingData) -> TrainingData:
    """Return the data with one symbol that listed shortly before the validation tail."""
    present_ST = data.present_ST.copy()
    present_ST[2, :90] = False
    values_STF = np.where(present_ST[..., None], data.values_STF, 0.0).astype(np.float32)
    return dataclasses.replace(data, present_ST=present_ST, values_STF=values_STF)


@pytest.fixture(scope="module")
def trained(
    own: Recipe, short: TrainingData, fold: Fold, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[WorkUnit, ...]]:
    root = tmp_path_factory.mktemp("separate")
    units = fold_units(own, short, fold)
    for unit in units:
        run_unit(unit, own, short, root, silent, ONE_THREAD)
    return root, units


def test_a_fold_has_a_unit_per_seed_and_shard_beside_the_pooled_ones(
    own: Recipe, short: TrainingData, fold: Fold
) -> None:
    two = Recipe(own.model, dataclasses.replace(own.training, num_seeds=2), own.objective)
    kinds = [(unit.kind, unit.seed, len(unit.universe)) for unit in fold_units(two, short, fold)]
    rest = len(fold.universe) - SHARD_SYMBOLS
    assert kinds == [
        ("select", 0, 32),
        ("member", 0, 32),
        ("member", 1, 32),
        *(("separate", seed, size) for seed in (0, 1) for size in (SHARD_SYMBOLS, rest)),
    ]
    ones = {unit.unit_id for unit in fold_units(own, short, fold)}
    assert ones <= {unit.unit_id for unit in fold_units(two, short, fold)}, "fewer seeds reuse finished units"


def test_every_symbol_gets_its_own_scaler_epochs_and_forecast(
    own: Recipe, short: TrainingData, fold: Fold, trained: tuple[Path, tuple[WorkUnit, ...]]
) -> None:
    root, _ = trained
    models = fold_models(own, fold, short, root, "separate")
    assert models.symbols == fold.universe
    assert len(models.ensembles) == 32
    row = short.symbols.index("S07")
    rows = short.values_STF[row, : fold.refit.stop][short.present_ST[row, : fold.refit.stop]]
    np.testing.assert_allclose(models.ensembles[7].scaler.mean_F, rows.mean(0), atol=1e-5)
    frame = forecast_fold(own, fold, short, root, "separate", fold.test, "m")
    assert set(frame["symbol"]) == set(fold.universe)
    rows_S = [short.symbols.index(symbol) for symbol in frame["symbol"]]
    columns = [short.sessions.index(session) for session in frame["session"]]
    outcome = short.returns_HST[-1][rows_S, columns]
    known = np.isfinite(outcome)
    assert float(np.corrcoef(frame["score"].to_numpy()[known], outcome[known])[0, 1]) > 0.1, "the planted signal"
    np.testing.assert_allclose(frame["score"], frame["expected_return_frac"], atol=1e-6)


def test_the_files_hold_each_symbols_own_weights(
    own: Recipe, short: TrainingData, fold: Fold, trained: tuple[Path, tuple[WorkUnit, ...]], tmp_path: Path
) -> None:
    root, _ = trained
    paths = write_model_set(tmp_path, own, fold, short, root, "separate", fold.universe[:3])
    artifacts = [read_artifact(path) for path in paths]
    assert [artifact.strategy for artifact in artifacts] == ["separate"] * 3
    assert len({artifact.weights_sha256 for artifact in artifacts}) == 3


@pytest.mark.parametrize("attention", ["streaming", "window"])
@pytest.mark.parametrize("stop_after", [3, 9])
def test_an_interrupted_shard_ends_at_the_same_bits(
    attention: Literal["streaming", "window"],
    stop_after: int,
    own: Recipe,
    short: TrainingData,
    fold: Fold,
    tmp_path: Path,
) -> None:
    model = dataclasses.replace(own.model, attention=attention, window_sessions=10)
    recipe = Recipe(model, dataclasses.replace(own.training, max_epochs=3), own.objective)
    few = dataclasses.replace(fold, universe=fold.universe[:4])
    (unit,) = units_of(recipe, short, few, "separate")
    whole = run_unit(unit, recipe, short, tmp_path / "whole", silent, ONE_THREAD)

    def run(progress: Progress) -> Path:
        return run_unit(unit, recipe, short, tmp_path / "cut", progress, ONE_THREAD)

    count = 0

    def lost(stage: str, done: int, total: int, note: str) -> None:
        del stage, done, total, note
        nonlocal count
        count += 1
        if count == stop_after:
            raise MachineLostError

    with pytest.raises(MachineLostError):
        run(lost)
    again = run(silent)
    expected = verify(whole, UNIT_KIND).meta["weights_sha256"]
    assert verify(again, UNIT_KIND).meta["weights_sha256"] == expected


def test_one_seed_of_one_symbol_is_the_same_in_any_shard(
    own: Recipe, short: TrainingData, fold: Fold, tmp_path: Path
) -> None:
    recipe = Recipe(own.model, dataclasses.replace(own.training, max_epochs=2), own.objective)
    exact = dataclasses.replace(ONE_THREAD, precision="float32")
    weights = []
    for universe in (fold.universe[3:4], fold.universe[:6]):
        part = dataclasses.replace(fold, universe=universe)
        (unit,) = units_of(recipe, short, part, "separate")
        (select, member) = fold_units(recipe, short, part)[:2]
        for each in (select, member, unit):
            run_unit(each, recipe, short, tmp_path, silent, exact)
        models = fold_models(recipe, part, short, tmp_path, "separate")
        place = models.symbols.index(fold.universe[3])
        weights.append(models.ensembles[place].members[0].weights)
    alone, together = weights
    for name, tensor in alone.items():
        np.testing.assert_allclose(tensor, together[name], atol=2e-3)


def test_a_symbol_without_a_single_label_is_refused_by_name(
    own: Recipe, data: TrainingData, fold: Fold, tmp_path: Path
) -> None:
    present_ST = data.present_ST.copy()
    present_ST[4, :140] = False
    newcomer = dataclasses.replace(data, present_ST=present_ST)
    (unit, *_) = units_of(own, newcomer, fold, "separate")
    with pytest.raises(BadDataError, match="no session a model of its own could learn from") as caught:
        run_unit(unit, own, newcomer, tmp_path, silent, ONE_THREAD)
    assert "S04" in str(caught.value)
