"""Time for the two sides of the mailbox: the moment, durations, waiting, and work that recurs in the background.

Everything in this protocol that waits or looks at a clock does it through `Timing`, so that whole schedules of desktops
and workers can be played in virtual time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from vnfleet.core.clock import Clock, SystemClock
from vnfleet.core.errors import RemoteError

_STOP_SECONDS = 60.0


class Recurring(Protocol):
    """Work that recurs until it is stopped."""

    def wake(self) -> None:
        """Have the work done soon, without waiting for its turn."""
        ...

    def stop(self) -> None:
        """End it; a round under way is waited for."""
        ...


class Timing(Protocol):
    """The clocks of one machine. `now` may be wrong by hours on a rented one; `monotonic` only ever grows."""

    def now(self) -> datetime:
        """Return the current time, time-zone aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment of this machine's own."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def every(self, seconds: float, name: str, work: Callable[[], None]) -> Recurring:
        """Do `work` every so many seconds beside the caller; a round that ends in a `RemoteError` was a missed one."""
        ...


class SystemTiming:
    """The machine's own clocks (`clock` for the time of day), and daemon threads for what recurs."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return self._clock.now()

    def monotonic(self) -> float:
        """Return the seconds of the system's monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def every(self, seconds: float, name: str, work: Callable[[], None]) -> Recurring:
        """Do `work` in a daemon thread."""
        return _Loop(seconds, name, work)


class _Loop:
    """A daemon thread that works every `seconds`, and when it is woken."""

    def __init__(self, seconds: float, name: str, work: Callable[[], None]) -> None:
        self._seconds, self._work = seconds, work
        self._wanted = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"vnfleet-{name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """See `Recurring`."""
        self._wanted.set()

    def stop(self) -> None:
        """See `Recurring`; after a minute the thread is left behind (it dies with the process)."""
        self._stopping = True
        self._wanted.set()
        self._thread.join(timeout=_STOP_SECONDS)

    def _run(self) -> None:
        while True:
            self._wanted.wait(self._seconds)
            if self._stopping:
                return
            self._wanted.clear()
            try:
                self._work()
            except (RemoteError, OSError):  # a missed round; what depends on it decides when that is too many
                continue
