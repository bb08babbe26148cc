"""The plan of work: which units to train, in which order, each with an identity that says whether it is already done.

Per fold one `select` unit (epochs, lambda and calibration, from the validation tail) and one `member` unit per seed
(a refit on train + validation for the selected epochs). Units of a finished fold keep their ids next week.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vnfleet.core.ids import short_id
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData
from vnfleet.training.recipe import Recipe

UNIT_SCHEMA_VERSION = 1


class WorkUnit(BaseModel):
    """One piece of training, the same wherever it is run. Ranges are [start, stop) session indices."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = UNIT_SCHEMA_VERSION
    kind: Literal["select", "member"]
    fold_id: str
    seed: int
    train: tuple[int, int]
    valid: tuple[int, int]
    refit: tuple[int, int]
    universe: tuple[str, ...]
    recipe_id: str
    data_id: str
    depends_on: tuple[str, ...] = ()

    @property
    def unit_id(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of this record."""
        return short_id(self.model_dump(mode="json"))


def plan_units(recipe: Recipe, data: TrainingData, folds: Sequence[Fold]) -> tuple[WorkUnit, ...]:
    """Return the units of all folds in dependency order: a fold's `select` before its members."""
    units: list[WorkUnit] = []
    for fold in folds:
        units.extend(fold_units(recipe, data, fold))
    return tuple(units)


def fold_units(recipe: Recipe, data: TrainingData, fold: Fold) -> tuple[WorkUnit, ...]:
    """Return the units of one fold: `select` first, then one `member` per seed."""
    data_id = data.rows_id(fold.refit.stop)

    def unit(kind: Literal["select", "member"], seed: int, depends_on: tuple[str, ...]) -> WorkUnit:
        return WorkUnit(
            kind=kind,
            fold_id=fold.fold_id,
            seed=seed,
            train=(fold.train.start, fold.train.stop),
            valid=(fold.valid.start, fold.valid.stop),
            refit=(fold.refit.start, fold.refit.stop),
            universe=fold.universe,
            recipe_id=recipe.recipe_id,
            data_id=data_id,
            depends_on=depends_on,
        )

    select = unit("select", 0, ())
    return (select, *(unit("member", seed, (select.unit_id,)) for seed in range(recipe.training.num_seeds)))
