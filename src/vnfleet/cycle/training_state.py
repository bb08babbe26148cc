"""Where a job stands, as the written plan's `training_state.json`: for a person, and for a session that comes back.

Nothing resumes from this file: finished units and checkpoints are found by their hashes. It says what they come to.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import RemoteError
from vnfleet.remote.jobs import JobRecord, JsonObject, Mailbox, UnitRecord, WorkerStatus
from vnfleet.remote.timing import SystemTiming, Timing
from vnfleet.remote.transfer import Transfer

STATE_NAME = "training_state.json"
_ON_REMOTE = f"status/{STATE_NAME}"
_CARRIED = re.compile(r"(?P<unit>[^/]+)/stages/(?P<stage>[^/]+)/t(?P<token>\d+)-s(?P<step>\d+)-[^/]+/manifest\.json")
_LIVE = "live"
_MAX_SILENT_SECONDS = 600.0


class TrainingState(BaseModel):
    """How far a job is.

    Attributes
    ----------
    job_id : the oldest open job; empty when none is open.
    unit : the unit in work, or the one whose checkpoint will be gone on from; empty when there is none. words : what
        it is.
    stage, step : of that unit; step counts within the stage. epoch : finished epochs of the stage; where the
        stage is not judged after each epoch, worked out from the share of its steps.
    completed_symbols : symbols whose live models need no further unit, by name.
    finished_units, total_units : of the job.
    config : the job's recipe. last_update : when this was found out, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    job_id: str = ""
    unit: str = ""
    words: str = ""
    stage: str = ""
    step: int = 0
    epoch: int = 0
    completed_symbols: tuple[str, ...] = ()
    finished_units: int = 0
    total_units: int = 0
    config: JsonObject = {}
    last_update: AwareDatetime

    @property
    def sentence(self) -> str:
        """The state in one line for a person."""
        if not self.job_id:
            return "no open job: publish one on the desktop (vnfleet cycle --mode hybrid)"
        symbols = f"{len(self.completed_symbols)} symbols complete"
        done = f"{self.finished_units} of {self.total_units} units finished, {symbols}"
        if not self.unit:
            return f"job {self.job_id}: {done}"
        at = f"{self.stage} step {self.step}" if self.stage else "its start"
        return f"job {self.job_id}: {done}; {self.words or self.unit} at {at}"


class _CheckpointFacts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    history: list[list[float]]


class _Planned(BaseModel):
    """The part of a work unit that is read here (`training.plan.WorkUnit`)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str = ""
    fold_id: str = ""
    seed: int = 0
    universe: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _At:
    unit_id: str
    stage: str
    step: int
    epoch: int


class RecoveryManager:
    """Reads where the work stands, from the remote and from `workdir`, and writes it down for people."""

    def __init__(self, remote: Transfer, workdir: Path, timing: Timing | None = None) -> None:
        self._mailbox = Mailbox(remote)
        self._workdir = workdir
        self._timing = timing or SystemTiming()

    def load_training_state(self) -> TrainingState:
        """Return the state of the oldest open job; also written to ``training_state.json`` here and on the remote.

        A remote that takes no writes right now only misses its copy. Raises `RemoteError` when it cannot be read.
        """
        jobs = self._mailbox.open_jobs()
        state = self._state_of(jobs[0]) if jobs else TrainingState(last_update=self._timing.now())
        text = state.model_dump_json(indent=1) + "\n"
        write_text(self._workdir / STATE_NAME, text)
        with contextlib.suppress(RemoteError):
            self._mailbox.remote.write_text(_ON_REMOTE, text)
        return state

    def _state_of(self, job: JobRecord) -> TrainingState:
        done = self._mailbox.results_listed()
        worker = self._heard_of_last(job, done)
        at = None if worker is None else _At(worker.unit_id, worker.stage, worker.step, self._epoch(job, worker))
        if at is None or not at.stage:  # a checkpoint tells more than a worker that has not begun to tell
            at = self._left_behind(job, done) or at
        planned = {unit.unit_id: _planned(unit) for unit in job.units}
        now: datetime = self._timing.now()
        return TrainingState(
            job_id=job.job_id,
            unit="" if at is None else at.unit_id,
            words="" if at is None else unit_words(job, at.unit_id),
            stage="" if at is None else at.stage,
            step=0 if at is None else at.step,
            epoch=0 if at is None else at.epoch,
            completed_symbols=_completed(planned.items(), done),
            finished_units=len(done & planned.keys()),
            total_units=len(planned),
            config=job.recipe,
            last_update=now,
        )

    def _heard_of_last(self, job: JobRecord, done: frozenset[str]) -> WorkerStatus | None:
        """Return what the worker last told that has an open unit of this job in hand; None when none was heard of."""
        ours = {unit.unit_id for unit in job.units} - done
        now = self._timing.now()
        busy = [
            status
            for status in self._mailbox.worker_statuses()
            if status.job_id == job.job_id
            and status.unit_id in ours
            and status.state != "stopped"
            and abs((now - status.heartbeat_at).total_seconds()) < _MAX_SILENT_SECONDS
        ]
        return max(busy, key=lambda status: (status.heartbeat_at, status.beat), default=None)

    def _left_behind(self, job: JobRecord, done: frozenset[str]) -> _At | None:
        """Return the open unit of this job that has the newest checkpoint on the remote."""
        ours = {unit.unit_id for unit in job.units} - done
        found: list[tuple[str, int, int, str, str]] = []
        for entry in self._mailbox.remote.list("checkpoints", "/*/stages/*/*/manifest.json"):
            match = _CARRIED.fullmatch(entry.path)
            if match is not None and match["unit"] in ours:
                place = entry.path.removesuffix("/manifest.json")
                found.append((entry.modified, int(match["token"]), int(match["step"]), match["stage"], place))
        if not found:
            return None
        _, _, step, stage, place = max(found)
        epochs = self._judged_epochs(f"checkpoints/{place}/checkpoint/state.json")
        return _At(place.split("/")[0], stage, step, epochs or 0)

    def _epoch(self, job: JobRecord, status: WorkerStatus) -> int:
        here = sorted((self._workdir / "checkpoints" / status.unit_id / status.stage).glob("ckpt-*/state.json"))
        with contextlib.suppress(OSError, ValidationError, IndexError):
            judged = _epochs_in(here[-1].read_text(encoding="utf-8"))
            if judged:
                return judged
        training = job.recipe.get("training")
        epochs = training.get("max_epochs") if isinstance(training, dict) else None
        return int(epochs * status.step / status.steps) if isinstance(epochs, int) and status.steps else 0

    def _judged_epochs(self, name: str) -> int | None:
        try:
            return _epochs_in(self._mailbox.remote.read_text(name))
        except (RemoteError, ValidationError):
            return None


def unit_words(job: JobRecord, unit_id: str) -> str:
    """Return what a unit of a job is, for people; its id when the job does not know it."""
    for unit in job.units:
        if unit.unit_id == unit_id:
            planned = _planned(unit)
            return f"fold {planned.fold_id} {planned.kind} {planned.seed}"
    return unit_id


def _planned(unit: UnitRecord) -> _Planned:
    try:
        return _Planned.model_validate(unit.body)
    except ValidationError:
        return _Planned(fold_id=unit.fold_id)


def _completed(units: Iterable[tuple[str, _Planned]], done: frozenset[str]) -> tuple[str, ...]:
    live = [(unit_id in done, unit.universe) for unit_id, unit in units if unit.fold_id == _LIVE]
    everyone = {symbol for _, universe in live for symbol in universe}
    waiting = {symbol for is_done, universe in live if not is_done for symbol in universe}
    return tuple(sorted(everyone - waiting))


def _epochs_in(text: str) -> int:
    histories: Sequence[Sequence[float]] = _CheckpointFacts.model_validate_json(text).history
    return max((len(history) for history in histories), default=0)
