"""Files that are either whole or absent: temporary file, fsync, rename, fsync of the folder.

A full disk becomes a `ResourceError` and leaves the previous file untouched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from vnfleet.core.errors import ResourceError, VnfleetError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_SPACE_WORDS = ("No space left", "Disk quota exceeded", "not enough space on the disk")
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_RUST_CODE = re.compile(r"\(os error (\d+)\)")  # how libraries written in Rust name an errno
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_REPLACE_ATTEMPTS = 20
TMP_MARK = ".tmp-"


def is_disk_full(error: BaseException) -> bool:
    """Return True for every way a library says so: an errno, its words alone, or numpy's short write."""
    if system_code(error) in _NO_SPACE:
        return True
    said = str(error)
    return any(words in said for words in _NO_SPACE_WORDS) or _SHORT_WRITE.fullmatch(said) is not None


def system_code(error: BaseException) -> int | None:
    """Return the errno of an error of the system; also of one that a library passes on in words only."""
    if isinstance(error, OSError):
        return error.errno
    named = _RUST_CODE.search(str(error)) if os.name != "nt" else None  # Windows has codes of its own
    return int(named[1]) if named else None


def in_words(error: BaseException, target: Path | None = None) -> ResourceError | None:
    """Return a full disk, or a file that may not be used, as people are told of it; None for any other error."""
    if isinstance(error, VnfleetError):
        return None
    if is_disk_full(error):
        return ResourceError(
            "the disk is full, nothing was changed",
            where=target,
            fix="free some space and run the same command again: finished work is kept",
        )
    if isinstance(error, PermissionError) or system_code(error) in _NOT_ALLOWED:
        return ResourceError(
            f"a file may not be used: {error}",
            where=target,
            fix="give your account the right to it, or pass another --workdir",
        )
    return None


@contextlib.contextmanager
def disk_errors_for_people(target: Path) -> Iterator[None]:
    """Translate a full disk or quota met while writing `target` into a `ResourceError`.

    A refusal of the system stays an `OSError` that names its file, unless a library made something else of it.
    """
    try:
        yield
    except Exception as error:
        said = in_words(error, target)
        if said is not None and (is_disk_full(error) or not isinstance(error, OSError)):
            raise said from error
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


def discard(path: Path) -> None:
    """Remove a file or folder that is of no use any more, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def sweep(folder: Path, prefix: str) -> None:
    """Remove what a killed process left in `folder` under names that begin so, once it is a day old."""
    day_ago = time.time() - 86_400.0
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another process was faster
            if path.stat().st_mtime < day_ago:
                discard(path)


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
