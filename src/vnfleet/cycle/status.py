"""Where a work directory stands: what serves, how far the last week came, what is still to be trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import MANIFEST_NAME
from vnfleet.cycle.runner import STEPS, StepOutcome, latest_cycle, read_steps
from vnfleet.cycle.workdir import Folders
from vnfleet.releases.deploy import current_release

PLAN_NAME = "plan.json"
_PLAN = TypeAdapter(list[str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `vnfleet status` shows."""

    release_id: str | None
    cycle_id: str | None
    steps: tuple[StepOutcome, ...]
    open_units: tuple[str, ...]
    planned_units: int = 0

    @property
    def missing_steps(self) -> tuple[str, ...]:
        """Steps of the last week that are not finished, in running order."""
        done = {step.name for step in self.steps}
        return tuple(name for name in STEPS if name not in done)

    def as_json(self) -> dict[str, JsonValue]:
        """Return the status as plain JSON values."""
        return {
            "release_id": self.release_id,
            "cycle_id": self.cycle_id,
            "steps": [step_json(step) for step in self.steps],
            "missing_steps": list(self.missing_steps) if self.cycle_id else [],
            "open_units": list(self.open_units),
            "planned_units": self.planned_units,
        }


def look(workdir: Path) -> Status:
    """Return where `workdir` stands; an empty or absent one is a status too. Takes no lock."""
    folders = Folders(workdir)
    now = current_release(folders.models_prod)
    cycle = latest_cycle(folders.cycles)
    units = planned_units(cycle) if cycle is not None else ()
    open_units = tuple(unit for unit in units if not (folders.units / unit / "result" / MANIFEST_NAME).is_file())
    steps = () if cycle is None else read_steps(cycle)
    if open_units:  # what stands there from training on is of an earlier run with other settings
        steps = tuple(step for step in steps if STEPS.index(step.name) < STEPS.index("train"))
    return Status(
        release_id=None if now is None else now.release_id,
        cycle_id=None if cycle is None else cycle.name,
        steps=steps,
        open_units=open_units,
        planned_units=len(units),
    )


def remember_plan(cycle: Path, units: list[str]) -> None:
    """Write down which units the week in folder `cycle` needs, so that open ones can be counted while it runs."""
    write_text(cycle / PLAN_NAME, json.dumps(units))


def planned_units(cycle: Path) -> tuple[str, ...]:
    """Return the units of the week in folder `cycle`; empty before its plan is made."""
    path = cycle / PLAN_NAME
    try:
        return tuple(_PLAN.validate_json(path.read_bytes())) if path.is_file() else ()
    except ValidationError as error:
        raise BadDataError("the plan of a week is damaged", where=path, fix="run the week again") from error


def step_json(step: StepOutcome) -> dict[str, JsonValue]:
    """Return a step as plain JSON values."""
    return {
        "step": step.name,
        "seconds": step.seconds,
        "peak_memory_mib": step.peak_memory_mib,
        "reused": step.reused,
        "summary": step.summary,
        "facts": step.facts,
    }
