"""What mounted folders do differently: their refusals in our words, flushing as far as they know it, walking them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vnfleet.core.atomic import is_disk_full
from vnfleet.core.errors import RemoteError
from vnfleet.remote.patterns import Pattern, original_of
from vnfleet.remote.rclone import RemoteAbsentError, RemoteFullError, RemoteUnavailableError

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """Translate what the file system says into the errors of a `Transfer`."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise RemoteAbsentError("not on the remote", where=name, found=error.strerror) from error
        if error.errno in _REFUSED:
            raise RemoteError(
                "the remote refused access", where=name, found=error, fix="check that you may write to this folder"
            ) from error
        if is_disk_full(error):
            raise RemoteFullError(
                "the remote is full",
                where=name,
                found=error.strerror,
                fix="free space there (for Google Drive empty the trash too), then run again: finished work is kept",
            ) from error
        raise RemoteUnavailableError(
            "the shared folder does not answer",
            where=name,
            found=error,
            fix="check the mount or the network, then run again: nothing is lost",
        ) from error


def walk(folder: Path, prefix: str, wanted: Pattern) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and facts of every wanted file below `folder`; what goes away meanwhile is passed over."""
    try:
        with os.scandir(folder) as scan:
            entries = list(scan)
    except (FileNotFoundError, NotADirectoryError):
        return
    names = {entry.name for entry in entries}
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            if entry.is_dir(follow_symlinks=False):
                if wanted.may_hold(f"{prefix}{entry.name}"):
                    yield from walk(folder / entry.name, f"{prefix}{entry.name}/", wanted)
            elif entry.is_file(follow_symlinks=False):
                path = f"{prefix}{original_of(entry.name, names)}"
                if wanted.matches(path):
                    yield path, entry.stat(follow_symlinks=False)


def flush(file: IO[bytes]) -> None:
    """Bring a written file to the disk, as far as the mount knows how."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def flush_folder(folder: Path) -> None:
    """Make a rename durable where folders can be opened and flushed; many mounts know neither."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
