"""What lies on a remote, and which names may be used there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vnfleet.core.atomic import TMP_MARK
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.remote.rclone import RemoteDamagedError

MAX_TEXT_BYTES = 16 * 2**20
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file on the remote: POSIX path relative to the listed folder, size in bytes, modification time as told.

    A remote may hold two files of one name (Google Drive does); each is an entry of its own.
    """

    path: str
    size_bytes: int
    modified: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Space on a remote in bytes; None where the remote does not tell. The trash counts as used."""

    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    trashed_bytes: int | None = None


def as_text(payload: bytes, where: object) -> str:
    """Return a small file as UTF-8 text; raises `RemoteDamagedError` when it is longer than 16 MiB or no text."""
    if len(payload) > MAX_TEXT_BYTES:
        raise RemoteDamagedError(
            "a file on the remote is far too long", where=where, expected=f"<= {MAX_TEXT_BYTES} bytes"
        )
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise RemoteDamagedError("a file on the remote is not text", where=where) from error


def must_be_here(source: Path) -> None:
    """Refuse to send what is no file of this machine: otherwise it would be told as missing on the remote."""
    if not source.is_file():
        raise BadDataError("a file that should be sent is not here", where=source)


def is_leftover(path: str) -> bool:
    """Return whether a file is what a killed writer left: our temporary files and rclone's partial ones."""
    name = PurePosixPath(path).name
    return TMP_MARK in name or name.endswith(_PARTIAL)


def stay_inside(name: str) -> None:
    """Refuse a remote name that could leave its folder or be read as something else."""
    path = PurePosixPath(name)
    if (
        not name
        or path.is_absolute()
        or ".." in path.parts
        or any(mark in name for mark in ("\\", ":", "\n", "\r", "\0"))
    ):
        raise UsageError("this name may not be used on a remote", found=repr(name))


def not_the_root(name: str) -> None:
    """Refuse a name that means the whole remote."""
    stay_inside(name)
    if not PurePosixPath(name).parts:
        raise UsageError("the whole remote is never removed", fix="name a folder of it")
