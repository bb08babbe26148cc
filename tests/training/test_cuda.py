"""The GPU branches, on a GPU: they skip where there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from vnfleet.core.sealed import verify
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import run_unit
from vnfleet.training.forecast import forecast_fold
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe, Strategy
from vnfleet.training.unit_result import UNIT_KIND

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
GPU = MachineConfig(device="cuda", num_threads=1)
CPU = MachineConfig(device="cpu", num_threads=1)


class MachineLostError(Exception):
    """Stands for a lost machine."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    del stage, done, total, note


def recipe_of(recipe: Recipe, strategy: Strategy) -> Recipe:
    return Recipe(recipe.model, dataclasses.replace(recipe.training, strategy=strategy, num_seeds=1), recipe.objective)


@pytest.mark.parametrize("strategy", ["pooled", "separate"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_gpu_trains_what_a_cpu_trains(
    precision: str, strategy: Strategy, recipe: Recipe, data: TrainingData, fold: Fold, tmp_path: Path
) -> None:
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card has no bf16 tensor cores")
    own = recipe_of(recipe, strategy)
    scores = []
    for name, machine in (("gpu", dataclasses.replace(GPU, precision=precision)), ("cpu", CPU)):  # type: ignore[arg-type]
        for unit in fold_units(own, data, fold):
            run_unit(unit, own, data, tmp_path / name, silent, machine)
        frame = forecast_fold(own, fold, data, tmp_path / name, strategy, fold.test, "m")
        scores.append(frame.get_column("score").to_numpy())
    assert float(spearmanr(*scores).statistic) > (0.99 if precision == "float32" else 0.95)


@pytest.mark.parametrize("strategy", ["pooled", "separate"])
@pytest.mark.parametrize("moves", [False, True], ids=["same card", "to the CPU"])
def test_an_interrupted_unit_goes_on(
    strategy: Strategy, recipe: Recipe, data: TrainingData, fold: Fold, tmp_path: Path, *, moves: bool
) -> None:
    own = recipe_of(recipe, strategy)
    units = fold_units(own, data, fold)
    unit = units[1] if strategy == "pooled" else units[-1]
    for root in ("whole", "cut"):
        run_unit(units[0], own, data, tmp_path / root, silent, GPU)
    whole = verify(run_unit(unit, own, data, tmp_path / "whole", silent, GPU), UNIT_KIND).meta["weights_sha256"]
    told = 0

    def lost(stage: str, done: int, total: int, note: str) -> None:
        del stage, done, total, note
        nonlocal told
        told += 1
        if told == 2:
            raise MachineLostError

    with pytest.raises(MachineLostError):
        run_unit(unit, own, data, tmp_path / "cut", lost, GPU)
    again = run_unit(unit, own, data, tmp_path / "cut", silent, CPU if moves else GPU)
    if not moves:
        assert verify(again, UNIT_KIND).meta["weights_sha256"] == whole, "deterministic kernels give the same bits"
        return
    assert "went on on CPU" in str(verify(again, UNIT_KIND).meta["environment"])
