"""Where the mailbox meets the real training code: a job made from a plan of work, and a unit run from its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import canonical_json, short_id, source_sha256
from vnfleet.cycle.planned_job import plan_job
from vnfleet.cycle.worker import StepProgress
from vnfleet.evaluation.splits import Fold
from vnfleet.remote.carrying import CheckpointSink
from vnfleet.remote.jobs import JobRecord, UnitRecord
from vnfleet.training.dataset import PACKAGE_KIND, TrainingData, load_training_data
from vnfleet.training.engines.local import run_unit
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.devices import choose_device
from vnfleet.training.plan import WorkUnit

# What names a unit is the recipe's business; a worker has to say the same of its own sources and libraries.
from vnfleet.training.recipe import _LIBRARIES, _NOT_SOURCES, _SOURCES, Recipe
from vnfleet.training.unit_result import UNIT_KIND

_RANGED = ("torch",)  # what computes a unit on a worker; the others made the rows it is given
_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([0-9][0-9.]*)\s*")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*([^;\[]*)")


@dataclass(frozen=True)
class _AsPlanned(Recipe):
    """A recipe under the identity its planner gave it: sources and settings are equal here, library versions are not.

    What the versions here change is within the tolerance of another machine; the result records them.
    """

    planned_id: str = ""

    @cached_property
    def unit_recipe_id(self) -> str:
        """The identity the units were planned with."""
        return self.planned_id


class LocalEngine:
    """`UnitRunner` with the real training code; keeps the data package of the last unit in memory.

    machine : how this machine is used (device, threads, memory): its own settings, whatever the desktop's are.
    """

    def __init__(self, machine: MachineConfig | None = None) -> None:
        self._machine = machine or MachineConfig()
        self._loaded: tuple[Path, TrainingData] | None = None

    @property
    def device_words(self) -> str:
        """What units are trained on, in words; raises `UsageError` when the device asked for is not there."""
        return choose_device(self._machine).words

    def __call__(
        self,
        unit: UnitRecord,
        job: JobRecord,
        package: Path,
        units_root: Path,
        progress: StepProgress,
        sink: CheckpointSink,
        /,
    ) -> Path:
        """Decode the job's JSON and run the unit; raises `BadDataError` when the job contradicts itself."""
        work_unit = WorkUnit.model_validate(unit.body)
        if work_unit.unit_id != unit.unit_id:
            raise BadDataError(
                "a unit's id does not match its contents", expected=unit.unit_id, found=work_unit.unit_id
            )
        recipe = recipe_of(job)
        if self._loaded is None or self._loaded[0] != package:
            self._loaded = (package, load_training_data(package))
        return run_unit(work_unit, recipe, self._loaded[1], units_root, progress, self._machine, sink)


def recipe_of(job: JobRecord) -> Recipe:
    """Return the job's recipe, named as the desktop named it although library versions here may be others.

    The name is computed again from the settings of the job, the sources here, and the library versions the job says it
    was named with: it comes out as planned only when settings and sources are the same.
    """
    recipe = Recipe.from_json(canonical_json(job.recipe))
    if not job.libraries or job.libraries == libraries_here():
        return recipe
    planned = planned_recipe_id(recipe, job.libraries)
    return _AsPlanned(recipe.model, recipe.training, recipe.objective, planned)


def planned_recipe_id(recipe: Recipe, libraries: Mapping[str, str]) -> str:
    """Return `Recipe.unit_recipe_id` as a machine with equal sources and these library versions computes it."""
    settings = json.loads(recipe.to_json())
    del settings["training"]["num_seeds"]
    return short_id({"settings": settings, "sources": training_source_id(), "libraries": dict(libraries)})


def training_source_id() -> str:
    """Return the hash of the code that decides what a unit's result is: what the recipe counts, and nothing else."""
    return source_sha256(*_SOURCES, without=_NOT_SOURCES)


def libraries_here() -> dict[str, str]:
    """Return the versions of the libraries that name a recipe, as it writes them."""
    return {name: version(name).split("+")[0] for name in _LIBRARIES}


def refusal(job: JobRecord) -> str | None:
    """Return why this machine may not work on `job`, in words; None when it may.

    The sources must be the same; the version of torch may be any that this vnfleet can be installed with.
    """
    if job.source_id != training_source_id():
        return "planned by another version of vnfleet: install the same one on both sides"
    for name in _RANGED:
        here, wanted = libraries_here()[name], required_range("vnfleet", name)
        if not within(here, wanted):
            return f"{name} {here} is installed here, this vnfleet needs {name}{wanted}: install that"
    return None


def required_range(package: str, library: str) -> str:
    """Return the versions of `library` that the installed `package` asks for, such as ``>=2.11,<3``; "" for any."""
    try:
        requirements = requires(package) or []
    except PackageNotFoundError:  # run from the sources without being installed
        return ""
    for text in requirements:
        match = _REQUIREMENT.match(text)
        if match is not None and match[1].lower() == library and "extra ==" not in text:
            return match[2].strip(" ()")
    return ""


def within(found: str, wanted: str) -> bool:
    """Return whether version `found` lies in the range `wanted`; what is no number in a version does not count."""
    clauses = [_CLAUSE.fullmatch(clause) for clause in wanted.split(",") if clause.strip()]
    number = _numbers(found)
    for clause in clauses:
        if clause is None:
            continue
        bound = _numbers(clause[2])
        length = max(len(bound), len(number))
        left, right = (*number, *(0,) * length)[:length], (*bound, *(0,) * length)[:length]
        holds = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "!=": left != right,
            ">": left > right,
            "<": left < right,
        }
        if not holds[clause[1]]:
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def training_job(recipe: Recipe, folds: Sequence[Fold], units: Sequence[WorkUnit], package: Path) -> JobRecord:
    """Return the job for `units` on the training data sealed in `package`; `BadDataError` when that is damaged."""
    return plan_job(
        recipe=recipe,
        folds=folds,
        units=units,
        package=package,
        data_kind=PACKAGE_KIND,
        result_kind=UNIT_KIND,
        source_id=training_source_id(),
        libraries=libraries_here(),
    )
