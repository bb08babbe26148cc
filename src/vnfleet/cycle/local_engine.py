"""Where the mailbox meets the real training code: a job made from a plan of work, and a unit run from its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import canonical_json, source_sha256
from vnfleet.cycle.remote_training import plan_job
from vnfleet.cycle.worker import StepProgress
from vnfleet.evaluation.splits import Fold
from vnfleet.remote.jobs import JobRecord, UnitRecord
from vnfleet.training.dataset import PACKAGE_KIND, TrainingData, load_training_data
from vnfleet.training.engines.local import run_unit
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import UNIT_KIND


class LocalEngine:
    """`UnitRunner` with the real training code; keeps the data package of the last unit in memory."""

    def __init__(self) -> None:
        self._loaded: tuple[Path, TrainingData] | None = None

    def __call__(
        self, unit: UnitRecord, job: JobRecord, package: Path, units_root: Path, progress: StepProgress, /
    ) -> Path:
        """Decode the job's JSON and run the unit; raises `BadDataError` when the job contradicts itself."""
        work_unit = WorkUnit.model_validate(unit.body)
        recipe = Recipe.from_json(canonical_json(job.recipe))
        if work_unit.unit_id != unit.unit_id:
            raise BadDataError(
                "a unit's id does not match its contents", expected=unit.unit_id, found=work_unit.unit_id
            )
        if self._loaded is None or self._loaded[0] != package:
            self._loaded = (package, load_training_data(package))
        return run_unit(work_unit, recipe, self._loaded[1], units_root, progress)


def training_source_id() -> str:
    """Return the hash of the code that decides what a unit's result is."""
    return source_sha256("vnfleet.features", "vnfleet.model", "vnfleet.training")


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
    )
