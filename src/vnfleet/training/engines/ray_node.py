"""What runs on the machines of a Ray cluster: `train_unit` on any of them, the `Keeper` beside the driver.

A machine of the cluster may vanish at any moment and shares no disk with the others. What it needs (the results its
unit depends on, the newest checkpoints) it fetches from the keeper, and what it makes (each new checkpoint, the
result) it brings there: whole sealed folders, verified again on arrival. The keeper writes them where the local engine
would have, so a run that was stopped goes on with either engine.

Everything that travels is text, bytes and arrays of numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from pydantic import TypeAdapter
from ray.exceptions import RayError

from vnfleet.core.atomic import write_bytes
from vnfleet.core.errors import BusyError
from vnfleet.core.lock import holding
from vnfleet.training.engines.crossing import ErrorRecord, raise_recorded, record_error
from vnfleet.training.engines.ray_parcel import (
    CHECKPOINT_KIND,
    drop_old_checkpoints,
    files_of,
    loose_files,
    newest_checkpoints,
    pieces_of,
    receive_folder,
    safe_path,
)

if TYPE_CHECKING:
    from vnfleet.training.dataset import TrainingData
    from vnfleet.training.machine.config import MachineConfig

UNIT_KIND = "unit"  # as in training.unit_result, which needs torch: the keeper does without
RESULT_FOLDER = "result"
LOG_STAGE = "log"
TOLD_SECONDS = 0.25
_STALE_SECONDS = 3600.0

Told = tuple[str, int, str, int, int, str]
"""unit_id, attempt, stage, done, total, note; of a log line: its level in place of `done`."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """One folder on its way: a sealed one of `kind`, or (`kind` empty) loose files to be put into it.

    folder : relative to the root of all units, POSIX.
    files : name and pieces (references into the object store); a sealed folder's manifest is the last.
    """

    folder: str
    kind: str
    files: tuple[tuple[str, tuple[ray.ObjectRef[bytes], ...]], ...]


def pack(root: Path, folder: Path, kind: str, names: Sequence[str]) -> Parcel:
    """Put the files `names` of `folder` into the object store, piece by piece."""
    files = tuple((name, tuple(ray.put(piece) for piece in pieces_of(folder / name))) for name in names)
    return Parcel(folder.relative_to(root).as_posix(), kind, files)


def unpack(root: Path, parcel: Parcel) -> Path:
    """Write a parcel below `root`, piece by piece, and return its folder; a sealed one is verified."""
    folder = safe_path(root, parcel.folder)
    files = ((name, (ray.get(piece) for piece in pieces)) for name, pieces in parcel.files)
    if parcel.kind:
        receive_folder(folder, parcel.kind, files)
    else:
        for name, pieces in files:
            write_bytes(safe_path(folder, name), b"".join(pieces))
    return folder


class Keeper:
    """An actor on the driver's machine that owns the folder of all units; all its state but news is on disk.

    An attempt that was given up (its machine was declared dead but still computes) is no longer listened to.
    """

    def __init__(self, units_root: str) -> None:
        self._root = Path(units_root)
        self._attempts: dict[str, int] = {}
        self._news: list[Told] = []

    def fetch(self, unit_id: str, attempt: int, needs: Sequence[str]) -> list[Parcel]:
        """Return all a machine needs to work on a unit: results it depends on, records, newest checkpoints."""
        self._attempts[unit_id] = attempt
        parcels = []
        for needed in needs:
            result = self._root / needed / RESULT_FOLDER
            parcels.append(pack(self._root, result, UNIT_KIND, files_of(result)))
        own = self._root / unit_id
        parcels.append(pack(self._root, own, "", [path.name for path in loose_files(own)]))
        parcels.extend(
            pack(self._root, folder, CHECKPOINT_KIND, files_of(folder)) for folder in newest_checkpoints(own)
        )
        return parcels

    def keep(self, unit_id: str, attempt: int, parcels: Sequence[Parcel]) -> str:
        """Write what a machine brings; return an error record as JSON, or nothing."""
        if attempt < self._attempts.get(unit_id, 0):
            return record_error(BusyError("another machine took over this unit", found=unit_id)).model_dump_json()
        try:
            for parcel in parcels:
                folder = unpack(self._root, parcel)
                if parcel.kind == CHECKPOINT_KIND:
                    drop_old_checkpoints(folder)
        except RayError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again where the parcel came from
            return record_error(error).model_dump_json()
        return ""

    def tell(self, told: Told) -> None:
        """Take note of progress."""
        if told[1] >= self._attempts.get(told[0], 0):
            self._news.append(told)

    def news(self) -> list[Told]:
        """Return the progress since the last call."""
        news, self._news = self._news, []
        return news


class KeeperSink:
    """A `CheckpointSink` that brings every checkpoint to the keeper, the next one while training goes on.

    One checkpoint is under way at most: a slow line slows the training down instead of filling the memory.
    """

    def __init__(self, keeper: Any, root: Path, unit_id: str, attempt: int) -> None:  # noqa: ANN401 - an actor handle
        self._keeper, self._root, self._unit_id, self._attempt = keeper, root, unit_id, attempt
        self._under_way: list[Any] = []

    def saved(self, checkpoint: Path, /) -> None:
        """Send `checkpoint`, after the one before it has arrived."""
        self._send(checkpoint, CHECKPOINT_KIND)

    def deliver(self, result: Path) -> None:
        """Send the sealed result and wait until it has arrived."""
        self._send(result, UNIT_KIND)
        self.settle()

    def _send(self, folder: Path, kind: str) -> None:
        self.settle()
        own = self._root / self._unit_id
        parcels = [
            pack(self._root, own, "", [path.name for path in loose_files(own)]),
            pack(self._root, folder, kind, files_of(folder)),
        ]
        # the parcels are held here too, so that their pieces live until they have arrived
        self._under_way = [self._keeper.keep.remote(self._unit_id, self._attempt, parcels), parcels]

    def settle(self) -> None:
        """Wait for what is under way; raises the keeper's error, such as a full disk beside the driver."""
        if self._under_way:
            record = ray.get(self._under_way[0])
            self._under_way = []
            raise_if_recorded(record, "the keeper of checkpoints")


def raise_if_recorded(record: str, doing: str) -> None:
    """Raise the error in `record`, if there is one."""
    if record:
        raise_recorded(ErrorRecord.model_validate_json(record), doing)


def train_unit(
    order: dict[str, str],
    names: dict[str, list[str]],
    values: np.ndarray,
    present: np.ndarray,
    returns: np.ndarray,
    keeper: Any,  # noqa: ANN401
) -> str:
    """Train one unit on this machine (a Ray task) and return an error record as JSON, or nothing.

    order : JSON of "unit", "recipe" and "machine", and the number of the "attempt".
    values, present, returns : the training arrays, read-only in the memory all tasks of this machine share.

    Errors of Ray itself are raised: the driver tries again.
    """
    from vnfleet.training.engines.job import memory_share_gib  # noqa: PLC0415
    from vnfleet.training.engines.local import run_unit  # noqa: PLC0415
    from vnfleet.training.machine.config import MachineConfig  # noqa: PLC0415
    from vnfleet.training.plan import WorkUnit  # noqa: PLC0415
    from vnfleet.training.recipe import Recipe  # noqa: PLC0415

    attempt = int(order["attempt"])
    try:
        unit = WorkUnit.model_validate_json(order["unit"])
        recipe = Recipe.from_json(order["recipe"])
        machine = TypeAdapter(MachineConfig).validate_json(order["machine"])
        machine = dataclasses.replace(machine, memory_limit_gib=memory_share_gib(machine, _side_by_side(machine)))
        data = _training_data(names, values, present, returns)
        with _scratch(unit.unit_id) as root, _log_to(keeper, unit.unit_id, attempt):
            for parcel in ray.get(keeper.fetch.remote(unit.unit_id, attempt, unit.depends_on)):
                unpack(root, parcel)
            sink = KeeperSink(keeper, root, unit.unit_id, attempt)
            progress = _Progress(keeper, unit.unit_id, attempt)
            result = run_unit(unit, recipe, data, root, progress, machine, sink)
            sink.deliver(result)
    except RayError:
        raise
    except Exception as error:  # noqa: BLE001 - raised again beside the driver
        return record_error(error).model_dump_json()
    return ""


def _side_by_side(machine: MachineConfig) -> int:
    """Return how many tasks share this machine's memory at most; a task on a GPU has the card for itself."""
    own = ray.get_runtime_context().get_node_id()
    machines = ray.nodes()  # type: ignore[no-untyped-call]
    num_cpus = sum(each["Resources"].get("CPU", 0.0) for each in machines if each["NodeID"] == own)
    return 1 if machine.device == "cuda" else max(int(num_cpus) // machine.num_threads, 1)


def _training_data(
    names: dict[str, list[str]], values: np.ndarray, present: np.ndarray, returns: np.ndarray
) -> TrainingData:
    from vnfleet.training.dataset import TrainingData  # noqa: PLC0415

    return TrainingData(
        tuple(date.fromisoformat(session) for session in names["sessions"]),
        tuple(names["symbols"]),
        tuple(names["features"]),
        values,
        present,
        returns,
    )


class _Progress:
    """Tells the keeper of steps, at most every `TOLD_SECONDS`, always of the last one of a stage."""

    def __init__(self, keeper: Any, unit_id: str, attempt: int) -> None:  # noqa: ANN401
        self._keeper, self._unit_id, self._attempt = keeper, unit_id, attempt
        self._next = 0.0

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._next = now + TOLD_SECONDS
            self._keeper.tell.remote((self._unit_id, self._attempt, stage, done, total, note))


class _LogHandler(logging.Handler):
    def __init__(self, keeper: Any, unit_id: str, attempt: int) -> None:  # noqa: ANN401
        super().__init__(logging.WARNING)
        self._keeper, self._unit_id, self._attempt = keeper, unit_id, attempt

    def emit(self, record: logging.LogRecord) -> None:
        told = (self._unit_id, self._attempt, LOG_STAGE, record.levelno, 0, f"{record.name}: {record.getMessage()}")
        self._keeper.tell.remote(told)


@contextlib.contextmanager
def _log_to(keeper: Any, unit_id: str, attempt: int) -> Iterator[None]:  # noqa: ANN401
    handler = _LogHandler(keeper, unit_id, attempt)
    ours = logging.getLogger("vnfleet")
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


@contextlib.contextmanager
def _scratch(unit_id: str) -> Iterator[Path]:
    """Yield an empty folder for the units of this attempt; what killed attempts left on this machine is removed."""
    base = Path(tempfile.gettempdir()) / "vnfleet-ray"
    own = base / f"{unit_id}-{ray.get_runtime_context().get_node_id()[:12]}-{os.getpid()}"
    _remove_stale(base)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    try:
        with holding(own / "attempt.lock", f"unit {unit_id}"):
            yield own / "units"
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _remove_stale(base: Path) -> None:
    for folder in base.glob("*-*-*"):
        with contextlib.suppress(OSError, BusyError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                with holding(folder / "attempt.lock", "cleaning up"):
                    pass
                shutil.rmtree(folder, ignore_errors=True)
