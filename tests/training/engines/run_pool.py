"""Train the units of a folder in a pool of two processes, to be killed: `run_pool.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from vnfleet.training.engines.job import EngineJob
from vnfleet.training.engines.pool import run_units
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe


def tell(unit_id: str, stage: str, done: int, total: int, note: str) -> None:
    """Let the killer know how far it is."""
    del note
    print(unit_id, stage, done, total, flush=True)  # noqa: T201


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run_units(
        [WorkUnit.model_validate_json(path.read_text()) for path in sorted(folder.glob("unit-*.json"))],
        EngineJob(
            recipe=Recipe.from_json((folder / "recipe.json").read_text()),
            package=folder / "package",
            units_root=folder / "units",
            machine=MachineConfig(processes=2, num_threads=1),
        ),
        tell,
    )
