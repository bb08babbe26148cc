"""A fold trained in this process with one thread: what every other engine must reproduce to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from vnfleet.core.sealed import verify
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData, save_training_data
from vnfleet.training.engines.job import EngineJob
from vnfleet.training.engines.local import run_unit
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import WorkUnit, fold_units
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import UNIT_KIND, result_folder


@dataclass(frozen=True)
class Scene:
    """A plan of work of one fold, its sealed data, and the weights of every member trained in this process."""

    recipe: Recipe
    package: Path
    units_root: Path
    units: tuple[WorkUnit, ...]
    expected: dict[str, str]

    def job(self, units_root: Path, num_processes: int = 2) -> EngineJob:
        return EngineJob(
            recipe=self.recipe,
            package=self.package,
            units_root=units_root,
            machine=MachineConfig(processes=num_processes, num_threads=1),
        )

    def weights(self, units_root: Path) -> dict[str, str]:
        return weights_of(units_root, self.units)


def weights_of(units_root: Path, units: Sequence[WorkUnit]) -> dict[str, str]:
    return {
        unit.unit_id: str(verify(result_folder(units_root, unit.unit_id), UNIT_KIND).meta["weights_sha256"])
        for unit in units
        if unit.kind == "member"
    }


class Diary:
    """A `Told` that remembers everything."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, int, int, str]] = []

    def __call__(self, unit_id: str, stage: str, done: int, total: int, note: str, /) -> None:
        self.entries.append((unit_id, stage, done, total, note))

    def stages(self, unit_id: str) -> list[str]:
        return [stage for known, stage, *_ in self.entries if known == unit_id]

    def notes(self, stage: str) -> list[str]:
        return [note for _, known, _, _, note in self.entries if known == stage]


@pytest.fixture(scope="session")
def scene(recipe: Recipe, data: TrainingData, fold: Fold, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    longer = Recipe(recipe.model, dataclasses.replace(recipe.training, max_epochs=12, patience_epochs=12))
    units = fold_units(longer, data, fold)
    save_training_data(folder / "package", data)
    for unit in units:
        run_unit(unit, longer, data, folder / "units", lambda *_: None, MachineConfig(num_threads=1))
    return Scene(longer, folder / "package", folder / "units", units, weights_of(folder / "units", units))


@pytest.fixture
def diary() -> Diary:
    return Diary()
