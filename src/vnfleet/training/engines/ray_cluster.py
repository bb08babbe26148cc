"""The units of a job as tasks on a Ray cluster: machines may join, vanish and come back while it runs.

This process (the driver) decides what runs when, holds the lock of every unit under way and hears of progress. The
tasks and the `Keeper` that brings checkpoints and results home are in `ray_node`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vnfleet.core.errors import ResourceError, UsageError
from vnfleet.core.lock import holding
from vnfleet.training.dataset import TrainingData, load_training_data
from vnfleet.training.engines.crossing import ErrorRecord, raise_recorded, record_error
from vnfleet.training.engines.job import AGAIN_STAGE, DONE_STAGE, EngineJob, Told, UnitQueue, unit_words
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.cores import usable_cpus
from vnfleet.training.plan import WorkUnit

if TYPE_CHECKING:
    from vnfleet.training.engines.ray_node import Told as NodeTold

MAX_DEFAULT_THREADS = 4
PATIENCE_SECONDS = 600.0
_LISTEN_SECONDS = 0.25
_GOOD_BYE_SECONDS = 5.0
_CONNECT_SECONDS = 10.0
_STORE_BYTES = 256 * 2**20  # of a cluster started here: pieces of checkpoints; more is spilled to the disk
_log = logging.getLogger(__name__)


def run_units(
    units: Sequence[WorkUnit], job: EngineJob, told: Told, *, patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Finish every unit on the cluster at ``machine.ray_address``, or on one started here when that is empty.

    A unit whose worker or machine is lost goes on from its newest checkpoint, on any machine that is left; the
    machines need no common disk. The cluster may have been started already in this process; then it is left running.

    Raises
    ------
    UsageError
        When Ray is not installed, the cluster cannot be reached, or none of its machines can run a unit.
    ResourceError
        When a unit was lost three times in a row without getting any further, or for `patience_seconds` no machine
        that can run a unit was left.
    VnfleetError
        Of the same class and words as on the machine where it happened.
    UnitFailedError
        On an error that vnfleet did not foresee; its traceback is attached as a note.
    """
    ray = _import_ray()
    waiting = UnitQueue(units, job.units_root)
    for unit in waiting.finished_before:
        told(unit.unit_id, DONE_STAGE, 1, 1, "reused")
    if waiting.is_done:
        return
    job.units_root.mkdir(parents=True, exist_ok=True)
    with _connected(ray, job), contextlib.closing(_Driver(ray, job, waiting, told)) as driver:
        driver.run(patience_seconds)


@dataclass(frozen=True, slots=True)
class Share:
    """What one unit takes of a machine."""

    num_cpus: int
    num_gpus: int

    def words(self) -> str:
        """For people."""
        return f"{self.num_cpus} CPU" + (f" and {self.num_gpus} GPU" if self.num_gpus else "")

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Return whether a machine with these resources can run a unit."""
        return resources.get("CPU", 0.0) >= self.num_cpus and resources.get("GPU", 0.0) >= self.num_gpus


def share_of(machine: MachineConfig, machines: Sequence[Mapping[str, float]]) -> Share:
    """Return what a unit takes, given the resources of every machine.

    GPUs are used where ``device`` is "cuda", or "auto" and a machine has one: one whole GPU a unit. Threads are
    ``num_threads``, or (0) as many as the smallest machine that can take part has, at most `MAX_DEFAULT_THREADS`.

    Raises `UsageError` when no machine can run a unit.
    """
    has_gpu = any(resources.get("GPU", 0.0) >= 1 for resources in machines)
    num_gpus = 1 if machine.device == "cuda" or (machine.device == "auto" and has_gpu) else 0
    able = [
        int(each.get("CPU", 0.0)) for each in machines if each.get("GPU", 0.0) >= num_gpus and each.get("CPU", 0.0) >= 1
    ]
    share = Share(machine.num_threads or min([MAX_DEFAULT_THREADS, *able]), num_gpus)
    if not any(share.fits(resources) for resources in machines):
        raise UsageError(
            "no machine of the Ray cluster can train a unit",
            expected=f"{share.words()} on one machine",
            found="; ".join(f"{each.get('CPU', 0):g} CPU, {each.get('GPU', 0):g} GPU" for each in machines) or "none",
            fix="add a machine with `ray start --address=...`, or change device or num_threads under [machine]",
        )
    return share


@dataclass(slots=True)
class _Task:
    """A unit under way: its Ray task, which attempt it is, and the lock of its folder."""

    unit: WorkUnit
    attempt: int
    lock: contextlib.ExitStack


class _Driver:
    """Runs the queue of units on a connected cluster."""

    def __init__(self, ray: ModuleType, job: EngineJob, waiting: UnitQueue, told: Told) -> None:
        from vnfleet.training.engines import ray_node  # noqa: PLC0415

        self._ray, self._job, self._waiting, self._told = ray, job, waiting, told
        self._share = share_of(job.machine, self._machines())
        self._tasks: dict[Any, _Task] = {}
        self._attempts: dict[str, int] = {}
        self._able_at = time.monotonic()
        home = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        keeper = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=home)(ray_node.Keeper)
        self._keeper = keeper.remote(str(job.units_root.resolve()))
        self._news = self._keeper.news.remote()
        self._train = ray.remote(
            num_cpus=self._share.num_cpus, num_gpus=self._share.num_gpus, max_retries=0, scheduling_strategy="SPREAD"
        )(ray_node.train_unit)
        self._order = {"recipe": job.recipe.to_json(), "machine": _machine_json(job.machine, self._share)}
        self._data = _put_data(ray, load_training_data(job.package, mapped=True))
        _log.info("Ray: %d machines, %s for each unit", len(self._machines()), self._share.words())

    def run(self, patience_seconds: float) -> None:
        """Finish every unit."""
        while not self._waiting.is_done:
            for unit in self._waiting.ready():
                self._start(unit)
                if self._waiting.ready() == ():
                    break
            ended, _ = self._ray.wait([*self._tasks, self._news], num_returns=1, timeout=_LISTEN_SECONDS)
            self._hear(wait=False)
            for reference in ended:
                if reference in self._tasks:
                    self._end(reference)
            self._look_for_machines(patience_seconds)

    def close(self) -> None:
        """Stop what is under way; whole checkpoints stay."""
        for reference, task in self._tasks.items():
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
            task.lock.close()
        self._tasks.clear()
        self._ray.wait([self._news], timeout=_GOOD_BYE_SECONDS)  # killed in mid-answer, Ray would complain of it
        self._ray.kill(self._keeper)

    def _start(self, unit: WorkUnit) -> None:
        lock = contextlib.ExitStack()
        lock.enter_context(holding(self._job.units_root / unit.unit_id / "unit.lock", unit_words(unit)))
        self._waiting.started(unit)
        attempt = self._attempts[unit.unit_id] = self._attempts.get(unit.unit_id, 0) + 1
        order = self._order | {"unit": unit.model_dump_json(), "attempt": str(attempt)}
        self._tasks[self._train.remote(order, *self._data, self._keeper)] = _Task(unit, attempt, lock)

    def _end(self, reference: Any) -> None:  # noqa: ANN401 - an ObjectRef
        errors = self._ray.exceptions
        for _ in range(2):  # what was asked for before the task ended, and what it told after that
            self._hear(wait=True)
        task = self._tasks.pop(reference)
        task.lock.close()
        unit = task.unit
        try:
            record = self._ray.get(reference)
        except errors.RayError as error:
            cause: BaseException = error
            while isinstance(cause, errors.RayTaskError):  # an error of the keeper comes wrapped twice
                cause = cause.cause
            if not isinstance(cause, errors.RayError):
                record = record_error(cause)
                raise_recorded(record.model_copy(update={"trace": str(error)}), unit_words(unit))
            words = self._waiting.lost(unit, _how_lost(error), is_memory=isinstance(error, errors.OutOfMemoryError))
            self._told(unit.unit_id, AGAIN_STAGE, 0, 1, words)
            return
        if record:
            raise_recorded(ErrorRecord.model_validate_json(record), unit_words(unit))
        self._waiting.finished(unit)
        self._told(unit.unit_id, DONE_STAGE, 1, 1, "")

    def _hear(self, *, wait: bool) -> None:
        """Pass on the news of the keeper; without `wait` only what has arrived."""
        from vnfleet.training.engines.ray_node import LOG_STAGE  # noqa: PLC0415

        arrived, _ = self._ray.wait([self._news], timeout=None if wait else 0)
        if not arrived:
            return
        news: list[NodeTold] = self._ray.get(self._news)
        self._news = self._keeper.news.remote()
        running = {(task.unit.unit_id, task.attempt) for task in self._tasks.values()}
        for unit_id, attempt, stage, done, total, note in news:
            if stage == LOG_STAGE:
                _log.log(done, "unit %s: %s", unit_id, note)
            elif (unit_id, attempt) in running:
                self._told(unit_id, stage, done, total, note)

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _look_for_machines(self, patience_seconds: float) -> None:
        """Give up when for too long no machine is left that could run anything."""
        if any(self._share.fits(resources) for resources in self._machines()):
            self._able_at = time.monotonic()
        elif time.monotonic() - self._able_at > patience_seconds:
            raise ResourceError(
                "no machine of the Ray cluster is left that can train a unit",
                expected=f"{self._share.words()} on one machine",
                found=f"none for {patience_seconds:.0f} seconds",
                fix='add a machine and run the same command again, or set engine = "local" under [machine]: '
                "both go on from the newest checkpoints",
            )


def _how_lost(error: Exception) -> str:
    """Return the first sentence of an error of Ray."""
    first = str(error).strip().split("\n", 1)[0].split(". ", 1)[0]
    return f"its worker or machine was lost ({type(error).__name__}: {first[:200]})"


def _machine_json(machine: MachineConfig, share: Share) -> str:
    """Return the machine settings for a task: its own share, whatever the driver's machine looks like."""
    own = dataclasses.replace(
        machine, processes=1, num_threads=share.num_cpus, device="cuda" if share.num_gpus else "cpu", pin_cores=False
    )
    return json.dumps(dataclasses.asdict(own))


def _put_data(ray: ModuleType, data: TrainingData) -> tuple[Any, ...]:
    """Put the training arrays into the object store once: a machine fetches them once, its tasks share them."""
    names = {
        "sessions": [session.isoformat() for session in data.sessions],
        "symbols": list(data.symbols),
        "features": list(data.feature_names),
    }
    return (names, *(ray.put(array) for array in (data.values_STF, data.present_ST, data.returns_HST)))


def check_address(ray_address: str) -> None:
    """Refuse what can be refused before anything is computed; raises `UsageError` as `run_units` would."""
    _import_ray()
    _address(ray_address)


def _address(ray_address: str) -> str:
    """Return the address to connect to, empty for a cluster of our own."""
    address = ray_address or os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise UsageError(
            "Ray Client addresses (ray://) are not supported: checkpoints are kept on this machine, so it must be a "
            "member of the cluster",
            found=address,
            fix='run `ray start --address=HOST:6379` here, then set ray_address = "auto" under [machine]',
        )
    return address


@contextlib.contextmanager
def _connected(ray: ModuleType, job: EngineJob) -> Iterator[None]:
    """Connect to the cluster, or start one here; leave it as it was found."""
    if ray.is_initialized():
        yield
        return
    address = _address(job.machine.ray_address)
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            num_cpus = job.machine.processes * job.num_threads or len(usable_cpus())
            store = _STORE_BYTES + 2 * sum(path.stat().st_size for path in job.package.glob("*.npy"))
            ray.init(address="local", num_cpus=num_cpus, object_store_memory=store, include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UsageError(
            "the Ray cluster cannot be reached",
            expected=address or "a cluster started here",
            found=str(error).split("\n", 1)[0],
            fix="start it with `ray start --head` there and `ray start --address=HOST:6379` here; all machines need "
            "the same Ray, Python and token (~/.ray/auth_token)",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise `OSError` at once where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


def _import_ray() -> ModuleType:
    """Return Ray, with its usage reports off; raises `UsageError` when it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415
        import ray.util.scheduling_strategies  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            'engine "ray" needs Ray, which is not installed',
            found=str(error),
            fix="pip install 'vnfleet[ray]', or set engine = \"local\" under [machine]",
        ) from error
    return ray
