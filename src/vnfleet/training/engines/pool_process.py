"""One process of the pool: ``python -m vnfleet.training.engines.pool_process``, orders on stdin, reports on stdout.

Both are JSON lines. The first order is a `Setup`; each further one a unit. The end of stdin means that the parent is
gone, and the process ends at once: a checkpoint is whole or absent, so nothing is damaged by that. Heavy modules are
imported after the process is kept on its cores, so that their thread pools see them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from vnfleet.training.engines.crossing import ErrorRecord, record_error

PROGRESS_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_ORPHANED = 3


class Setup(BaseModel):
    """The first order: what all units of this process share.

    cores : keep the process on these; empty means anywhere.
    parent : process id of the pool.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    machine: dict[str, JsonValue]
    package: Path
    units_root: Path
    cores: tuple[int, ...]
    parent: int


class ProgressReport(BaseModel):
    """`done` of `total` steps of a stage."""

    kind: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int
    note: str


class LogReport(BaseModel):
    """A warning or error of the log."""

    kind: Literal["log"] = "log"
    logger: str
    level: int
    text: str


class DoneReport(BaseModel):
    """The unit at hand is finished."""

    kind: Literal["done"] = "done"


class FailedReport(BaseModel):
    """The unit at hand, or the setup, ended with an error."""

    kind: Literal["failed"] = "failed"
    error: ErrorRecord


Report = ProgressReport | LogReport | DoneReport | FailedReport
REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


class Reporter:
    """Writes reports as lines; progress at most every `PROGRESS_SECONDS`, but always the last step of a stage."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._next = 0.0

    def send(self, report: Report) -> None:
        """Write one report; a parent that is gone ends the process."""
        try:
            with self._lock:
                self._stream.write(report.model_dump_json() + "\n")
                self._stream.flush()
        except OSError:
            os._exit(_ORPHANED)

    def progress(self, stage: str, done: int, total: int, note: str) -> None:
        """Report a step, unless one was reported just now."""
        now = time.monotonic()
        if now >= self._next or done >= total:
            self._next = now + PROGRESS_SECONDS
            self.send(ProgressReport(stage=stage, done=done, total=total, note=note))


class _LogToParent(logging.Handler):
    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.send(LogReport(logger=record.name, level=record.levelno, text=record.getMessage()))


def main() -> None:
    """Serve orders until the parent closes stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    reporter = Reporter(_private_stdout())
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, orders), daemon=True).start()
    logging.getLogger().addHandler(_LogToParent(reporter))
    try:
        setup = Setup.model_validate_json(orders.get())
        _die_with(setup.parent)
        _serve(setup, orders, reporter)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        reporter.send(FailedReport(error=record_error(error)))


def _serve(setup: Setup, orders: queue.SimpleQueue[str], reporter: Reporter) -> None:
    if setup.cores:
        from vnfleet.training.machine.cores import pin  # noqa: PLC0415

        pin(setup.cores)
    from vnfleet.training.dataset import load_training_data  # noqa: PLC0415
    from vnfleet.training.engines.local import run_unit  # noqa: PLC0415
    from vnfleet.training.machine.config import MachineConfig  # noqa: PLC0415
    from vnfleet.training.plan import WorkUnit  # noqa: PLC0415
    from vnfleet.training.recipe import Recipe  # noqa: PLC0415

    recipe = Recipe.from_json(setup.recipe)
    machine = TypeAdapter(MachineConfig).validate_python(setup.machine)
    data = load_training_data(setup.package, mapped=True)
    while True:
        unit = WorkUnit.model_validate_json(orders.get())
        try:
            run_unit(unit, recipe, data, setup.units_root, reporter.progress, machine)
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            reporter.send(FailedReport(error=record_error(error)))
        else:
            reporter.send(DoneReport())


def _private_stdout() -> IO[str]:
    """Return the real stdout for reports and send everything that others print there to stderr."""
    private = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(private, "w", encoding="utf-8", newline="\n")


def _listen(stream: IO[str], orders: queue.SimpleQueue[str]) -> None:
    """Pass on lines of stdin; at its end the parent is gone or done with us."""
    for line in stream:
        orders.put(line)
    os._exit(0)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, even while Python cannot listen."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return
    if os.getppid() != parent:
        os._exit(_ORPHANED)


if __name__ == "__main__":
    main()
