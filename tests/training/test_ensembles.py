"""The plan's ensemble of three depths, through units, forecasts and files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vnfleet.evaluation.splits import Fold
from vnfleet.model.artifact import read_artifact
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import run_unit
from vnfleet.training.forecast import fold_models, forecast_fold
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.model_set import write_model_set
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe, TrainingConfig


def silent(stage: str, done: int, total: int, note: str) -> None:
    del stage, done, total, note


def test_the_plans_three_are_4_5_and_6_layers_with_dropout_10_15_and_20_percent() -> None:
    from vnfleet.cycle.config import preset_config  # noqa: PLC0415 - the preset is wired above the training room

    plan = preset_config("plan")
    shapes = [Recipe(plan.model, plan.training).member_config(seed) for seed in range(3)]
    assert [(shape.num_layers, shape.dropout) for shape in shapes] == [(4, 0.10), (5, 0.15), (6, 0.20)]
    assert {shape.receptive_field_sessions for shape in shapes} == {60}


def test_deeper_streaming_members_see_no_further() -> None:
    deep = Recipe(training=TrainingConfig(ensemble="depths"))
    fields = [deep.member_config(seed).receptive_field_sessions for seed in range(3)]
    assert fields == [59, 58, 57]
    assert deep.context_sessions == 58


@pytest.mark.parametrize("strategy", ["pooled", "separate"])
def test_members_of_different_depth_are_trained_averaged_and_stored_together(
    strategy: str, recipe: Recipe, data: TrainingData, fold: Fold, tmp_path: Path
) -> None:
    training = dataclasses.replace(
        recipe.training,
        strategy=strategy,  # type: ignore[arg-type]
        ensemble="depths",
        max_epochs=2,
    )
    deep = Recipe(recipe.model, training, recipe.objective)
    few = dataclasses.replace(fold, universe=fold.universe[:5])
    for unit in fold_units(deep, data, few):
        run_unit(unit, deep, data, tmp_path, silent, MachineConfig(num_threads=1))
    models = fold_models(deep, few, data, tmp_path, deep.training.strategy)
    assert [member.config.num_layers for member in models.ensembles[0].members] == [2, 3]
    frame = forecast_fold(deep, few, data, tmp_path, deep.training.strategy, few.test, "m")
    assert frame.height > 100
    (path, *_) = write_model_set(tmp_path / "set", deep, few, data, tmp_path, deep.training.strategy, few.universe[:2])
    again = read_artifact(path)
    assert [member.config.dropout for member in again.ensemble.members] == [0.1, 0.15]
