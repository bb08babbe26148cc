"""The record of a plan of work: what was decided before the first step, written down once.

A week that is resumed, here or on another machine, reads its decisions back and takes the same ones.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from vnfleet.core.atomic import TMP_MARK, write_text
from vnfleet.core.clock import utc_text
from vnfleet.core.ids import canonical_json, sha256_hex, short_id
from vnfleet.training.machine.budget import BudgetChoice
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe

WORK_NAME = "work.json"
WORK_SCHEMA_VERSION = 1
_NO_PLAN_FIELDS = ("checkpoint_epochs", "checkpoint_minutes", "checkpoint_frac", "memory_warn_frac", "inference")
_log = logging.getLogger(__name__)


def fitted_recipe(recipe: Recipe, choice: BudgetChoice) -> Recipe:
    """Return `recipe` with the seeds and epochs that fit; the same object when nothing was given up."""
    if not choice.is_reduced:
        return recipe
    training = dataclasses.replace(recipe.training, num_seeds=choice.num_seeds, max_epochs=choice.max_epochs)
    return dataclasses.replace(recipe, training=training)


class LayoutFacts(Protocol):
    """What the plan of work needs to know of a measured layout."""

    @property
    def processes(self) -> int:
        """Units side by side."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads of each."""
        ...

    @property
    def seconds_per_step(self) -> float:
        """Seconds of one optimisation step of one unit with that many threads."""
        ...

    @property
    def compiled(self) -> bool:
        """Whether the network is compiled."""
        ...


class LayoutRecord(BaseModel):
    """A layout as it is written down; `seconds_per_step` is 0 where nothing had to be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: int = Field(ge=1)
    threads: int = Field(ge=1)
    seconds_per_step: float = Field(ge=0.0, allow_inf_nan=False)
    compiled: bool = False

    @staticmethod
    def of(layout: LayoutFacts) -> LayoutRecord:
        """Return the record of a measured layout."""
        return LayoutRecord(
            processes=layout.processes,
            threads=layout.threads,
            seconds_per_step=layout.seconds_per_step,
            compiled=layout.compiled,
        )


class MachineFacts(BaseModel):
    """The machine a layout was measured on: enough to see that a week goes on elsewhere, no host names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    architecture: str
    cpu_capability: str
    num_cores: int
    device: str
    torch: str

    @staticmethod
    def here(*, num_cores: int, device: str) -> MachineFacts:
        """Return the facts of this machine, of which `num_cores` cores and `device` (such as "cpu") are used."""
        return MachineFacts(
            system=platform.system(),
            architecture=platform.machine(),
            cpu_capability=torch.backends.cpu.get_cpu_capability(),
            num_cores=num_cores,
            device=device,
            torch=torch.__version__,
        )


class WorkRecord(BaseModel):
    """What was decided before the first step of a plan of work.

    Attributes
    ----------
    key : identity of the plan, see `work_key`.
    made_at : UTC, ISO 8601.
    machine, layout : where the layout was measured, and the layout.
    budget : what is trained in the time there was.
    unit_ids : the units of the plan after the budget, in dependency order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    made_at: str
    machine: MachineFacts
    layout: LayoutRecord
    budget: BudgetChoice
    unit_ids: tuple[str, ...]


def new_record(
    key: str,
    *,
    now: datetime,
    machine: MachineFacts,
    layout: LayoutFacts,
    budget: BudgetChoice,
    units: Sequence[WorkUnit],
) -> WorkRecord:
    """Return the record of a plan of work decided at `now` (aware)."""
    return WorkRecord(
        key=key,
        made_at=utc_text(now),
        machine=machine,
        layout=LayoutRecord.of(layout),
        budget=budget,
        unit_ids=tuple(unit.unit_id for unit in units),
    )


def work_key(recipe: Recipe, machine: MachineConfig, *, data_id: str, fold_ids: Sequence[str]) -> str:
    """Return the identity of a plan of work: the recipe as asked for, its data and folds, and how it may be computed.

    The machine itself is no part of it: a week that moves keeps its decisions.
    """
    settings = {name: value for name, value in dataclasses.asdict(machine).items() if name not in _NO_PLAN_FIELDS}
    return short_id([WORK_SCHEMA_VERSION, recipe.recipe_id, data_id, list(fold_ids), settings])


def plan_of_work(
    path: Path,
    key: str,
    here: MachineFacts,
    *,
    decide: Callable[[], WorkRecord],
    measure: Callable[[], LayoutFacts],
) -> WorkRecord:
    """Return the decisions of the plan `key`: those written down in `path`, else new ones, written down first.

    On another machine than the recorded one the layout is measured again and everything else kept, so that the same
    models come out. A damaged record is named in the log and made anew.

    - path: the record, ``work.json`` in the folder of the week.
    - key: see `work_key`; a record of another plan is replaced.
    - here: this machine.
    - decide: makes the decisions; called only when there are none, so a deadline that passed while a week was
      interrupted does not stop it from going on.
    - measure: measures a layout here.

    Raises
    ------
    ResourceError
        When the disk is full.
    """
    record = read_work(path, key)
    if record is None:
        record = decide()
        assert record.key == key, "the record belongs to another plan"
    elif record.machine != here:
        _log.info("the plan of work moved to another machine: its layout is measured again, its decisions stay")
        record = record.model_copy(update={"machine": here, "layout": LayoutRecord.of(measure())})
    else:
        return record
    write_work(path, record)
    return record


def write_work(path: Path, record: WorkRecord) -> None:
    """Write `record` whole or not at all, with the SHA-256 of its contents; raises `ResourceError` on a full disk."""
    body = record.model_dump(mode="json")
    sealed = {"schema_version": WORK_SCHEMA_VERSION, "sha256": _sha256(body), "work": body}
    write_text(path, json.dumps(sealed, indent=1) + "\n")


def read_work(path: Path, key: str) -> WorkRecord | None:
    """Return the record of the plan `key` in `path`; None when there is none.

    A damaged record, or one of another schema version, is named in the log and counts as none.
    """
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        return None
    except (IsADirectoryError, PermissionError):  # Windows says the latter of a folder
        if not path.is_dir():
            raise
        aside = path.rename(path.with_name(f".{path.name}{TMP_MARK}{uuid.uuid4().hex[:8]}"))
        _refuse(path, f"it is a folder, now {aside.name}")
        return None
    try:
        file = _WorkFile.model_validate_json(payload)
        if _sha256(file.work) != file.sha256:
            _refuse(path, "its contents were changed")
            return None
        record = WorkRecord.model_validate(file.work)
    except ValidationError as error:
        _refuse(path, f"{error.error_count()} fields are not as expected, first {error.errors()[0]['loc']}")
        return None
    except ValueError as error:  # such as NaN
        _refuse(path, str(error))
        return None
    return record if record.key == key else None


class _WorkFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    sha256: str
    work: dict[str, JsonValue]


def _sha256(body: object) -> str:
    return sha256_hex(canonical_json(body).encode())


def _refuse(path: Path, why: str) -> None:
    _log.warning("a plan of work is damaged and made anew: %s (%s)", path, why)
