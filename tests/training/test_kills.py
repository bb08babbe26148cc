"""Kill -9 at random moments, inside writes too: the same bits in the end (`make prove` has the full count)."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vnfleet.core.sealed import verify
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData, save_training_data
from vnfleet.training.engines.local import run_unit
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import units_of
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import UNIT_KIND, result_folder

SCRIPT = Path(__file__).with_name("run_one_unit.py")
ONE_THREAD = MachineConfig(num_threads=1)


def silent(stage: str, done: int, total: int, note: str) -> None:
    del stage, done, total, note


def survived(folder: Path, kills: int, generator: random.Random) -> int:
    """Start the unit's process again and again, kill it `kills` times, let it end; return the kills that hit it."""
    hits = 0
    stages = folder / "units"
    while hits < kills:
        process = subprocess.Popen([sys.executable, str(SCRIPT), str(folder)])
        before = len(list(stages.rglob("ckpt-*")))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            # wait for life, then for a moment of its own: between steps, inside a write, at the end of a stage
            if len(list(stages.rglob("ckpt-*"))) != before or list(stages.rglob(".ckpt-*")):
                time.sleep(generator.uniform(0.0, 0.25))
                break
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        hits += 1
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True)
    return hits


@pytest.mark.parametrize("strategy", ["pooled", "separate"])
@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.prove)])
def test_killed_at_random_moments_it_ends_at_the_same_bits(
    kills: int, strategy: str, recipe: Recipe, data: TrainingData, fold: Fold, tmp_path: Path
) -> None:
    training = dataclasses.replace(
        recipe.training,
        strategy=strategy,  # type: ignore[arg-type]
        num_seeds=1,
        max_epochs=20 + 4 * kills,
        patience_epochs=0,
    )
    long = Recipe(recipe.model, training, recipe.objective)
    few = dataclasses.replace(fold, universe=fold.universe[:8]) if strategy == "separate" else fold
    unit = units_of(long, data, few, "separate" if strategy == "separate" else "select")[0]
    whole = run_unit(unit, long, data, tmp_path / "whole", silent, ONE_THREAD)
    folder = tmp_path / "killed"
    save_training_data(folder / "package", data)
    (folder / "recipe.json").write_text(long.to_json())
    (folder / "unit.json").write_text(unit.model_dump_json())
    hits = survived(folder, kills, random.Random(kills))
    assert hits == kills, "the unit ended before it could be killed so often"
    again = result_folder(folder / "units", unit.unit_id)
    if strategy == "separate":
        expected = verify(whole, UNIT_KIND).meta["weights_sha256"]
        assert verify(again, UNIT_KIND).meta["weights_sha256"] == expected
    else:
        assert (again / "selection.json").read_bytes() == (whole / "selection.json").read_bytes()
