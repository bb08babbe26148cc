"""The plan of work: which units to train, in which order, each with an identity that says whether it is already done.

Per fold one `select` unit (epochs, lambda and calibration, from the validation tail) and one `member` unit per seed
(a refit on train + validation for the selected epochs); with strategy `separate` also one unit per seed and shard of
symbols. Units of a finished fold keep their ids next week, and do not depend on how many seeds there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from vnfleet.core.ids import short_id
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData
from vnfleet.training.recipe import Recipe

UNIT_SCHEMA_VERSION = 2
SHARD_SYMBOLS = 26  # symbols of one `separate` unit: four units a seed for 102, to be shared by machines

Kind = Literal["select", "member", "separate"]


class WorkUnit(BaseModel):
    """One piece of training, the same wherever it is run. Ranges are [start, stop) session indices."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = UNIT_SCHEMA_VERSION
    kind: Kind
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
    def words(self) -> str:
        """What the unit is, for people."""
        doing = {"select": "selection", "member": f"member {self.seed}", "separate": f"separate {self.seed}"}
        shard = f" ({self.universe[0]}..{self.universe[-1]})" if self.kind == "separate" and self.universe else ""
        return f"fold {self.fold_id} {doing[self.kind]}{shard}"

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
    """Return the units of one fold: `select` first, then one `member` per seed, then the shards of `separate`."""
    data_id = data.rows_id(fold.refit.stop)

    def unit(kind: Kind, seed: int, universe: tuple[str, ...], depends_on: tuple[str, ...] = ()) -> WorkUnit:
        return WorkUnit(
            kind=kind,
            fold_id=fold.fold_id,
            seed=seed,
            train=(fold.train.start, fold.train.stop),
            valid=(fold.valid.start, fold.valid.stop),
            refit=(fold.refit.start, fold.refit.stop),
            universe=universe,
            recipe_id=recipe.unit_recipe_id,
            data_id=data_id,
            depends_on=depends_on,
        )

    seeds = range(recipe.training.num_seeds)
    select = unit("select", 0, fold.universe)
    members = [unit("member", seed, fold.universe, (select.unit_id,)) for seed in seeds]
    if recipe.training.strategy != "separate":
        return (select, *members)
    known = tuple(symbol for symbol in fold.universe if symbol in set(data.symbols))
    shards = [known[start : start + SHARD_SYMBOLS] for start in range(0, len(known), SHARD_SYMBOLS)]
    return (select, *members, *(unit("separate", seed, shard) for seed in seeds for shard in shards))


def units_of(recipe: Recipe, data: TrainingData, fold: Fold, kind: Kind) -> tuple[WorkUnit, ...]:
    """Return the units of one kind of a fold."""
    return tuple(unit for unit in fold_units(recipe, data, fold) if unit.kind == kind)
