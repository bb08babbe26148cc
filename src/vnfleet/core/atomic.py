"""Files that are either whole or absent: temporary file, fsync, rename, fsync of the folder.

A full disk becomes a `ResourceError` and leaves the previous file untouched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from vnfleet.core.errors import ResourceError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_REPLACE_ATTEMPTS = 20
TMP_MARK = ".tmp-"


def is_disk_full(error: BaseException) -> bool:
    """Return True for every way a library says so: an errno, its words alone, or numpy's short write."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return True
    return "No space left" in str(error) or _SHORT_WRITE.fullmatch(str(error)) is not None


@contextlib.contextmanager
def disk_errors_for_people(target: Path) -> Iterator[None]:
    """Translate a full disk or quota met while writing `target` into a `ResourceError`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise ResourceError(
                "the disk is full, nothing was changed",
                where=target,
                fix="free some space and run the same command again: finished work is kept",
            ) from error
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise ResourceError(
                "a file lies where a folder must be, nothing was changed", where=target.parent, fix="move it away"
            ) from error
        raise


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Flush one written file to the disk."""
    with path.open("rb+") as handle:
        os.fsync(handle.fileno())


def replace(source: Path, target: Path) -> None:
    """`os.replace`, tried again for a moment while Windows or a virus scanner holds the target."""
    for attempt in range(_REPLACE_ATTEMPTS):
        try:
            os.replace(source, target)  # noqa: PTH105 - the name the design and the fault tests use
        except PermissionError:
            if attempt == _REPLACE_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * (attempt + 1))
        else:
            fsync_folder(target.parent)
            return


def write_file(target: Path, write: Callable[[Path], None]) -> None:
    """Create `target` through `write(temporary_path)`; on any failure the old file stays as it was."""
    with disk_errors_for_people(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}{TMP_MARK}{uuid.uuid4().hex[:8]}")
        try:
            write(temporary)
            fsync_file(temporary)
            replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(target: Path, payload: bytes) -> None:
    """Write `payload` to `target` atomically and durably."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(payload)

    write_file(target, write)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 `text` to `target` atomically and durably."""
    write_bytes(target, text.encode())
