"""A plan of work as a job that travels: JSON, and the identity of the data it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from vnfleet.core.sealed import verify
from vnfleet.remote.jobs import JobRecord, JsonObject, UnitRecord
from vnfleet.remote.shards import package_id

_JSON_OBJECT: TypeAdapter[JsonObject] = TypeAdapter(JsonObject)


class RecipeLike(Protocol):
    """A recipe that knows its JSON (`training.recipe.Recipe`)."""

    def to_json(self) -> str:
        """Return the recipe as JSON text."""
        ...


class FoldLike(Protocol):
    """A fold that knows its record (`evaluation.splits.Fold`)."""

    def to_record(self) -> dict[str, object]:
        """Return the fold as JSON values."""
        ...


class UnitLike(Protocol):
    """A unit of work (`training.plan.WorkUnit`)."""

    @property
    def unit_id(self) -> str:
        """Identity of the unit."""
        ...

    @property
    def fold_id(self) -> str:
        """Fold the unit belongs to."""
        ...

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Units that must be finished first."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the unit as JSON values for ``mode="json"``."""
        ...


def plan_job(
    *,
    recipe: RecipeLike,
    folds: Sequence[FoldLike],
    units: Sequence[UnitLike],
    package: Path,
    data_kind: str,
    result_kind: str,
    source_id: str,
    libraries: Mapping[str, str] | None = None,
) -> JobRecord:
    """Return the job for `units` on the sealed training data in `package`; raises `BadDataError` when it is damaged."""
    return JobRecord(
        recipe=_JSON_OBJECT.validate_json(recipe.to_json()),
        folds=tuple(_JSON_OBJECT.validate_python(fold.to_record()) for fold in folds),
        units=tuple(
            UnitRecord(
                unit_id=unit.unit_id,
                fold_id=unit.fold_id,
                depends_on=unit.depends_on,
                body=_JSON_OBJECT.validate_python(unit.model_dump(mode="json")),
            )
            for unit in units
        ),
        data_id=package_id(verify(package, data_kind)),
        data_kind=data_kind,
        result_kind=result_kind,
        source_id=source_id,
        libraries=dict(libraries or {}),
    )
