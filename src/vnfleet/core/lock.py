"""One process at a time: an advisory lock on a file, released by the system when its holder dies."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vnfleet.core.errors import BusyError

if sys.platform == "win32":
    import msvcrt

    def _take(handle: IO[str]) -> None:
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(handle: IO[str]) -> None:
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def holding(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; `doing` is shown to whoever finds it taken.

    Raises `BusyError` naming the holder when another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        try:
            _take(handle)
        except OSError as error:
            holder = path.with_suffix(".holder")
            found = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise BusyError(
                "another vnfleet process is at work here",
                where=path.parent,
                found=found,
                fix="wait for it, then run again",
            ) from error
        path.with_suffix(".holder").write_text(f"process {os.getpid()}: {doing}", encoding="utf-8")
        yield
