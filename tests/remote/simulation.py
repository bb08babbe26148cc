"""A desktop and its workers in virtual time: the real protocol code, one thread at a time, seeded to the last choice.

Every task is a thread that runs until it waits; then the task whose moment comes next goes on. A machine that is killed
keeps its disk as it was at that moment: its folder is renamed first, so that nothing that unwinds can touch it.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vnfleet.core.errors import RemoteError
from vnfleet.remote.timing import Recurring

START = datetime(2026, 11, 22, 3, tzinfo=UTC)


class Killed(BaseException):
    """What a thread of a killed process dies of."""


class World:
    """Virtual time and who runs in it. `random` decides ties; `at` makes things happen to machines."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seconds = 0.0
        self._queue: list[tuple[float, float, int, Task | Callable[[], None]]] = []
        self._count = 0
        self._main = threading.Lock()
        self._main.acquire()
        self._after_death: threading.Lock | None = None

    def at(self, seconds: float, happens: Callable[[], None]) -> None:
        """Have something happen at a moment, outside of every task."""
        self._push(seconds, happens)

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Let time pass until that holds (asked every half minute) or the limit; return whether it holds."""

        def tick() -> None:
            self.at(self.seconds + 30.0, tick)

        tick()
        while not until():
            if self.seconds > limit:
                return False
            self._hand_over(None)
        return True

    def spawn(self, process: Process, name: str, work: Callable[[], None]) -> Task:
        """Start a task now."""
        task = Task(world=self, process=process, name=name, work=work)
        process.tasks.append(task)
        self._push(self.seconds, task)
        return task

    def wait(self, task: Task, seconds: float) -> None:
        """Let `task`, which runs, go on after so many seconds."""
        if task.process.dead:
            raise Killed
        moment = max(self.seconds + seconds, task.process.frozen_until)
        if self._queue and self._queue[0][0] <= moment:
            self._push(moment, task)
            self._hand_over(task)
            if task.process.dead:
                raise Killed
        else:
            self.seconds = moment

    def hurry(self, task: Task) -> None:
        """Let a task that waits go on now."""
        for place, entry in enumerate(self._queue):
            if entry[3] is task:
                self._queue[place] = (min(entry[0], self.seconds), *entry[1:])
                heapq.heapify(self._queue)
                return

    def kill(self, process: Process) -> None:
        """Kill -9; only from outside of tasks."""
        process.dead = True
        gone = process.disk.with_name(f"{process.machine}.{process.number + 1}")
        if process.disk.exists():
            process.disk.rename(gone)
        self._queue = [entry for entry in self._queue if entry[3] not in process.tasks]
        heapq.heapify(self._queue)
        for task in process.tasks:
            if not task.is_over:
                self._after_death = threading.Lock()
                self._after_death.acquire()
                task.go()
                self._after_death.acquire()
                self._after_death = None

    def over(self, task: Task) -> None:
        """Called by a task's thread as its last act."""
        task.is_over = True
        if self._after_death is not None:
            self._after_death.release()
        else:
            self._hand_over(task)

    def _push(self, moment: float, what: Task | Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (moment, self.random.random(), self._count, what))

    def _hand_over(self, me: Task | None) -> None:
        """Give the turn to whoever comes next and wait for one's own, unless one's thread is over."""
        while True:
            moment, _, _, what = self._queue[0] if self._queue else (self.seconds, 0.0, 0, None)
            if not isinstance(what, Task):
                if me is not None:  # what happens to machines happens in the main thread, and so does the end
                    self._main.release()
                    if not me.is_over:
                        me.park()
                    return
                heapq.heappop(self._queue)
                self.seconds = moment
                assert what is not None
                what()
                return
            heapq.heappop(self._queue)
            self.seconds = moment
            if what.process.frozen_until > moment:
                self._push(what.process.frozen_until, what)
                continue
            if what is me:
                return
            what.go()
            if me is None:
                self._main.acquire()
            elif not me.is_over:
                me.park()
            return


class Task:
    """One thread of a process."""

    def __init__(self, *, world: World, process: Process, name: str, work: Callable[[], None]) -> None:
        self.process, self.is_over = process, False
        self._world, self._work = world, work
        self._turn = threading.Lock()
        self._turn.acquire()
        self._thread = _Thread(target=self._run, name=f"{process.machine}-{name}", daemon=True)
        self._thread.task = self
        self._started = False

    def go(self) -> None:
        """Give it the turn."""
        if not self._started:
            self._started = True
            self._thread.start()
        self._turn.release()

    def park(self) -> None:
        """Wait for its turn."""
        self._turn.acquire()

    def _run(self) -> None:
        self.park()
        try:
            if not self.process.dead:
                self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - a fault of the simulation or of the code, told as such
            if not self.process.dead:
                self.process.crashed.append(error)
        finally:
            self._world.over(self)


@dataclass(slots=True)
class Process:
    """One life of a machine: its disk, its clocks (skew in seconds) and its tasks; it is a `Timing` too.

    `number` counts the lives. A frozen one (a suspended machine) goes on later and does not know it.
    """

    world: World
    machine: str
    number: int
    disk: Path
    skew_seconds: float = 0.0
    frozen_until: float = 0.0
    dead: bool = False
    tasks: list[Task] = field(default_factory=list)
    crashed: list[BaseException] = field(default_factory=list)

    def now(self) -> datetime:
        """Return what this machine takes for the time."""
        return START + timedelta(seconds=self.world.seconds + self.skew_seconds)

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self.world.seconds

    def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        self.world.wait(self.me(), seconds)

    def every(self, seconds: float, name: str, work: Callable[[], None]) -> Recurring:
        """Do `work` in a task of its own."""
        return _Repeated(self, seconds, name, work)

    def me(self) -> Task:
        """Return the task that runs."""
        task = running()
        assert task.process is self
        return task


class VirtualLock:
    """A lock that lets virtual time pass for those who wait for it."""

    def __init__(self) -> None:
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            task = running()
            task.process.world.wait(task, 0.1)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False


def running() -> Task:
    """Return the task whose thread this is."""
    thread = threading.current_thread()
    assert isinstance(thread, _Thread)
    return thread.task


class _Thread(threading.Thread):
    task: Task


class _Repeated:
    """`vnfleet.remote.timing._Loop` in virtual time."""

    def __init__(self, process: Process, seconds: float, name: str, work: Callable[[], None]) -> None:
        self._process, self._seconds, self._work = process, seconds, work
        self._stopping = self._wanted = self._rests = False
        self._task = process.world.spawn(process, name, self._run)

    def wake(self) -> None:
        self._wanted = True
        if self._rests:
            self._process.world.hurry(self._task)

    def stop(self) -> None:
        self._stopping = True
        self.wake()
        for seconds in (0.0, *[1.0] * 60):
            if self._task.is_over:
                return
            self._process.sleep(seconds)

    def _run(self) -> None:
        while True:
            if not self._wanted:
                self._rests = True
                self._process.sleep(self._seconds)
                self._rests = False
            if self._stopping:
                return
            self._wanted = False
            try:
                self._work()
            except (RemoteError, OSError):
                continue
