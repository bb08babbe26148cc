"""The pool: several processes on this machine, each training one unit at a time with its own threads and cores.

Processes are plain ``python -m`` children that speak JSON lines, so they start the same from a command, a notebook or a
script, on Linux, macOS and Windows. They share the training data through memory-mapped files. A process that dies
takes nothing with it: its unit goes on from the newest checkpoint in a fresh one. Children never outlive the parent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

import vnfleet
from vnfleet.training.engines.crossing import raise_recorded
from vnfleet.training.engines.job import (
    AGAIN_STAGE,
    DONE_STAGE,
    EngineJob,
    Told,
    UnitQueue,
    memory_share_gib,
    unit_words,
)
from vnfleet.training.engines.pool_process import (
    REPORTS,
    DoneReport,
    FailedReport,
    LogReport,
    ProgressReport,
    Report,
    Setup,
)
from vnfleet.training.machine.memory import hand_back_freed
from vnfleet.training.plan import WorkUnit

_MODULE = "vnfleet.training.engines.pool_process"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_LISTEN_SECONDS = 1.0  # Windows delivers Ctrl-C only between waits
_STDERR_LINES = 12


def run_units(units: Sequence[WorkUnit], job: EngineJob, told: Told) -> None:
    """Finish every unit, several side by side, each one after those it depends on.

    `told` is called in this thread. Call from a thread that lives until this returns: on Linux the children die with
    the thread that started them.

    Raises
    ------
    VnfleetError
        Of the same class and words as in the process where it happened; the other processes are stopped first.
    ResourceError
        When a unit's process was killed three times in a row without getting any further.
    UnitFailedError
        On an error that vnfleet did not foresee; its traceback is attached as a note.
    """
    waiting = UnitQueue(units, job.units_root)
    for unit in waiting.finished_before:
        told(unit.unit_id, DONE_STAGE, 1, 1, "reused")
    hand_back_freed()  # what building features left behind is memory for the children
    crew = _Crew(job)
    try:
        while not waiting.is_done:
            _hand_out(waiting, crew)
            process, report = crew.next_report()
            _hear(process, report, waiting, crew, told)
    finally:
        crew.stop()


def _hand_out(waiting: UnitQueue, crew: _Crew) -> None:
    """Start as many ready units as there are free processes."""
    while (ready := waiting.ready()) and (process := crew.free_process()) is not None:
        waiting.started(ready[0])
        process.work_on(ready[0])


def _hear(process: _Process, report: Report | None, waiting: UnitQueue, crew: _Crew, told: Told) -> None:
    """Act on one report; None means that the process ended."""
    unit = process.unit
    if isinstance(report, LogReport):
        logging.getLogger(report.logger).log(report.level, "%s", report.text)
    elif isinstance(report, FailedReport):
        raise_recorded(report.error, unit_words(unit) if unit is not None else "a training process")
    elif isinstance(report, ProgressReport) and unit is not None:
        told(unit.unit_id, report.stage, report.done, report.total, report.note)
    elif isinstance(report, DoneReport) and unit is not None:
        process.unit = None
        waiting.finished(unit)
        told(unit.unit_id, DONE_STAGE, 1, 1, "")
    elif report is None:
        how = process.bury()
        crew.forget(process)
        if unit is not None:
            words = waiting.lost(unit, how.words, is_memory=how.is_memory)
            told(unit.unit_id, AGAIN_STAGE, 0, 1, words)


@dataclass(frozen=True, slots=True)
class _Death:
    """How a process ended; `is_memory` where the system ends processes like that when memory runs out."""

    words: str
    is_memory: bool


class _Process:
    """One child and what it works on."""

    def __init__(self, place: int, job: EngineJob, inbox: queue.SimpleQueue[tuple[_Process, Report | None]]) -> None:
        self.place = place
        self.unit: WorkUnit | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in bury()
        with _no_interrupts():
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
                env=_environment(job.num_threads),
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._orders = self._child.stdin
        self._reader = threading.Thread(target=self._listen, args=(self._child.stdout, inbox), daemon=True)
        self._reader.start()
        self._order(_setup(place, job).model_dump_json())

    def work_on(self, unit: WorkUnit) -> None:
        """Give the next unit."""
        self.unit = unit
        self._order(unit.model_dump_json())

    def stop(self) -> None:
        """Kill the child: its checkpoints are whole or absent."""
        self._child.kill()
        self.bury()

    def bury(self) -> _Death:
        """Wait for the ended child and return how it ended."""
        code = self._child.wait()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._orders.close()
        last_words = _last_lines(self._errors)
        self._errors.close()
        if code < 0:
            name = signal.Signals(-code).name if -code in {int(known) for known in signal.Signals} else str(-code)
            is_memory = -code in (signal.SIGKILL, signal.SIGBUS)
            why = ", as the system does when memory runs out" if is_memory else ""
            return _Death(f"its process was ended by signal {name}{why}{last_words}", is_memory)
        return _Death(f"its process ended with exit code {code}{last_words}", is_memory=False)

    def _order(self, line: str) -> None:
        with contextlib.suppress(OSError):  # a dead child: its end is reported by the reader
            self._orders.write(line + "\n")
            self._orders.flush()

    def _listen(self, reports: IO[str], inbox: queue.SimpleQueue[tuple[_Process, Report | None]]) -> None:
        with reports:
            for line in reports:
                with contextlib.suppress(ValidationError):  # a line torn by a kill
                    inbox.put((self, REPORTS.validate_json(line)))
        inbox.put((self, None))


class _Crew:
    """The processes of a job, started when there is work for them."""

    def __init__(self, job: EngineJob) -> None:
        self._job = job
        self._inbox: queue.SimpleQueue[tuple[_Process, Report | None]] = queue.SimpleQueue()
        self._processes: dict[int, _Process] = {}

    def free_process(self) -> _Process | None:
        """Return a process without a unit, a new one where there is room, or None."""
        for process in self._processes.values():
            if process.unit is None:
                return process
        for place in range(self._job.num_processes):
            if place not in self._processes:
                self._processes[place] = _Process(place, self._job, self._inbox)
                return self._processes[place]
        return None

    def next_report(self) -> tuple[_Process, Report | None]:
        """Wait for the next report of any process."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=_LISTEN_SECONDS)

    def forget(self, process: _Process) -> None:
        """Leave the place of an ended process free for a fresh one."""
        self._processes.pop(process.place, None)

    def stop(self) -> None:
        """End all processes."""
        while self._processes:
            _, process = self._processes.popitem()
            process.stop()


def _setup(place: int, job: EngineJob) -> Setup:
    cores = job.cores_by_process
    machine = dataclasses.replace(
        job.machine,
        processes=1,
        num_threads=job.num_threads,
        memory_limit_gib=memory_share_gib(job.machine, job.num_processes),
    )
    return Setup(
        recipe=job.recipe.to_json(),
        machine=dataclasses.asdict(machine),
        package=job.package.resolve(),
        units_root=job.units_root.resolve(),
        cores=cores[place] if job.machine.pin_cores and place < len(cores) else (),
        parent=os.getpid(),
    )


def _environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a child: its number of threads, and this very vnfleet where it is not installed."""
    environment = dict(os.environ)
    environment.update(dict.fromkeys(_THREAD_VARIABLES, str(num_threads)))
    home = Path(vnfleet.__file__).parents[1]
    if home.name not in ("site-packages", "dist-packages"):
        former = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(home) if not former else os.pathsep.join((str(home), former))
    return environment


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from a child that is being started: it inherits the mask, and the parent stops it in order."""
    if sys.platform == "win32":
        yield  # there the child gets its own process group
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _last_lines(stream: IO[bytes]) -> str:
    """Return the last lines a child wrote to stderr, below a colon, or nothing."""
    stream.seek(0)
    lines = stream.read().decode(errors="replace").splitlines()[-_STDERR_LINES:]
    return ":\n    " + "\n    ".join(lines) if any(line.strip() for line in lines) else ""
