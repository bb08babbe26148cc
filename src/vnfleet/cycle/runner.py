"""Content-addressed steps: a step whose key is already sealed is reused, so running again *is* the recovery.

A step's key hashes everything its result depends on: its settings, the content ids it reads and the source of its
room. Its folder ``logs/cycles/<cycle_id>/<step>/`` is sealed last, after its products are in place, and it is reused
only while those products are still whole. A kill at any moment therefore leaves either a finished step or none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import polars as pl
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from vnfleet.core.atomic import TMP_MARK, discard
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import short_id, source_sha256
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, read_manifest, sealing, verify
from vnfleet.cycle.measure import peak_memory_mib, reset_peak_memory

STEP_KIND = "step"
STEPS = (
    "collect",
    "check",
    "features",
    "train",
    "evaluate",
    "backtest",
    "prove",
    "gate",
    "deploy",
    "predict",
    "report",
)
Facts = dict[str, JsonValue]


def frame_facts(frame: pl.DataFrame) -> JsonValue:
    """Return a small frame as a step's fact: one object a row."""
    rows: JsonValue = json.loads(frame.write_json())
    return rows


class StepMeta(BaseModel):
    """What a step's manifest says about it: `facts` are the ids and numbers the next steps read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    key: str
    seconds: float
    peak_memory_mib: float
    summary: str
    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step hands to the runner: one human sentence and its facts."""

    summary: str
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """A finished step: freshly run or `reused`, with its sealed `folder`."""

    name: str
    key: str
    folder: Path
    reused: bool
    seconds: float
    peak_memory_mib: float
    summary: str
    facts: Facts

    def text(self, fact: str) -> str:
        """Return a fact that must be a string; raises `BadDataError` when the step's record is of another shape."""
        value = self.facts.get(fact)
        if not isinstance(value, str):
            raise BadDataError("a step's record lacks a fact", where=self.folder, expected=fact, found=value)
        return value


class Observer(Protocol):
    """Who watches a cycle: the terminal, a log, a test."""

    def step_started(self, name: str) -> None:
        """Tell that a step begins."""
        ...

    def step_finished(self, outcome: StepOutcome) -> None:
        """Tell that a step is sealed, or was reused."""
        ...

    def progress(self, step: str, done: float, total: float, doing: str) -> None:
        """Tell how far a step is: `done` of `total`, in the step's own unit."""
        ...

    def told(self, step: str, sentence: str) -> None:
        """Tell something a person should see before the step goes on."""
        ...


@dataclass(frozen=True, slots=True)
class SilentObserver:
    """Watches and says nothing."""

    def step_started(self, name: str) -> None:
        """Do nothing."""

    def step_finished(self, outcome: StepOutcome) -> None:
        """Do nothing."""

    def progress(self, step: str, done: float, total: float, doing: str) -> None:
        """Do nothing."""

    def told(self, step: str, sentence: str) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """What to run, as plain data: its name, what it depends on, and the rooms whose source code it is made by."""

    name: str
    inputs: Facts
    rooms: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """First 16 hex of the SHA-256 over everything the step depends on."""
        packages = [f"vnfleet.{room}" for room in (*self.rooms, "cycle.steps")]
        return short_id([STEP_KIND, self.name, self.inputs, source_sha256(*packages)])


@dataclass(slots=True)
class Runner:
    """Runs the steps of one cycle in `folder`, under the workdir's lock."""

    folder: Path
    observer: Observer
    outcomes: list[StepOutcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Clear what a killed run left half written."""
        if self.folder.is_dir():
            for rest in self.folder.glob(f".*{TMP_MARK}*"):
                discard(rest)

    def step(
        self,
        spec: StepSpec,
        do: Callable[[Path], StepResult],
        *,
        still_whole: Callable[[StepOutcome], bool] | None = None,
    ) -> StepOutcome:
        """Return the sealed outcome of `spec`, running `do(scratch_folder)` only when it is not there already.

        `still_whole` says whether the products a reused step left outside its folder (a cube, units, a release) are
        still there; when it says no, the step runs again. An error in `do` gains the step's name as a note.
        """
        key = spec.key
        target = self.folder / spec.name
        self.observer.step_started(spec.name)
        found = _read(target)
        if found is not None and found.key == key and (still_whole is None or still_whole(found)):
            outcome = found
        else:
            outcome = self._run(spec.name, key, target, do)
        self.outcomes.append(outcome)
        self.observer.step_finished(outcome)
        return outcome

    def _run(self, name: str, key: str, target: Path, do: Callable[[Path], StepResult]) -> StepOutcome:
        reset_peak_memory()
        started = time.perf_counter()
        meta: Facts = {}
        try:
            with sealing(target, STEP_KIND, meta) as scratch:
                result = do(scratch)
                step = StepMeta(
                    name=name,
                    key=key,
                    seconds=round(time.perf_counter() - started, 3),
                    peak_memory_mib=round(peak_memory_mib(), 1),
                    summary=result.summary,
                    facts=result.facts,
                )
                meta.update(step.model_dump())
        except Exception as error:
            error.add_note(f"while running step {name}")
            raise
        return _outcome(step, target, reused=False)


def read_steps(cycle_folder: Path) -> tuple[StepOutcome, ...]:
    """Return the sealed steps of a cycle in running order; steps not finished are left out."""
    found = (_read(cycle_folder / name) for name in STEPS)
    return tuple(outcome for outcome in found if outcome is not None)


def latest_cycle(cycles: Path) -> Path | None:
    """Return the folder of the newest week under ``logs/cycles`` that finished a step, or None before the first."""
    weeks = sorted(path for path in cycles.glob("[0-9]*-W[0-9]*") if any(path.glob(f"*/{MANIFEST_NAME}")))
    return weeks[-1] if weeks else None


def _read(folder: Path) -> StepOutcome | None:
    """Return the step sealed in `folder`; a damaged record counts as not finished, so the step runs again."""
    try:
        if read_manifest(folder, STEP_KIND) is None:
            return None
        manifest: Manifest = verify(folder, STEP_KIND)
        return _outcome(StepMeta.model_validate(manifest.meta), folder, reused=True)
    except (BadDataError, ValidationError):
        return None


def _outcome(meta: StepMeta, folder: Path, *, reused: bool) -> StepOutcome:
    return StepOutcome(
        name=meta.name,
        key=meta.key,
        folder=folder,
        reused=reused,
        seconds=meta.seconds,
        peak_memory_mib=meta.peak_memory_mib,
        summary=meta.summary,
        facts=meta.facts,
    )
