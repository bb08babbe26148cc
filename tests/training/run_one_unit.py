"""Train one unit in a process of its own, to be killed: `run_one_unit.py FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from vnfleet.training.dataset import load_training_data
from vnfleet.training.engines.local import run_unit
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe


def slowly(stage: str, done: int, total: int, note: str) -> None:
    """Leave the killer time between two steps."""
    del stage, done, total, note
    time.sleep(0.02)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    recipe = Recipe.from_json((folder / "recipe.json").read_text())
    run_unit(
        WorkUnit.model_validate_json((folder / "unit.json").read_text()),
        recipe,
        load_training_data(folder / "package"),
        folder / "units",
        slowly,
        MachineConfig(num_threads=1, checkpoint_frac=0.02),  # many checkpoints: many moments to be killed at
    )
