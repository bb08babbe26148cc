"""Moving bytes to and from a remote folder; the only place that runs rclone.

rclone moves bytes and nothing more: whether they are the right ones is decided by our SHA-256 manifests, because on
remotes without hashes `rclone check` reports success on corrupted data.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.remote.rclone import (
    INSTALL_FIX,
    Fault,
    RemoteAbsentError,
    as_error,
    classify,
    failure_messages,
    find_rclone,
    rclone_version,
)

MAX_TEXT_BYTES = 16 * 2**20
# --ignore-times: without hashes rclone skips a changed file of equal size, and our status files often have equal size.
_FLAGS = (
    "--use-json-log",
    "--retries=1",
    "--low-level-retries=2",
    "--ignore-times",
    "--contimeout=15s",
    "--timeout=60s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file on the remote: POSIX path relative to the listed folder, size in bytes, modification time as told."""

    path: str
    size_bytes: int
    modified: str


class _Listed(BaseModel):
    """One record of `rclone lsjson`."""

    model_config = ConfigDict(extra="ignore")

    Path: str
    Size: int
    ModTime: str = ""
    IsDir: bool


_LISTING = TypeAdapter(list[_Listed])


class Transfer(Protocol):
    """A remote folder. Names are POSIX paths relative to it; every call may raise `RemoteError`.

    Reading what is not there raises `RemoteAbsentError`; a remote that does not answer, `RemoteUnavailableError`.
    """

    def put_file(self, source: Path, name: str) -> None:
        """Upload one file as `name`, over whatever is there."""
        ...

    def get_file(self, name: str, target: Path) -> None:
        """Download one file to `target`."""
        ...

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        """Upload the listed `files` of `source` into the folder `name`."""
        ...

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        """Download the listed `files` of the folder `name` into `target`; absent ones are left out silently."""
        ...

    def list(self, name: str, pattern: str | None = None) -> tuple[Entry, ...]:
        """Return the files below `name`, sorted by path, at any depth; empty when the folder is not there."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether a file or folder `name` is there."""
        ...

    def move(self, name: str, new_name: str) -> None:
        """Rename a file or folder on the remote (not atomic)."""
        ...

    def read_text(self, name: str) -> str:
        """Return a small UTF-8 file (at most 16 MiB)."""
        ...

    def write_text(self, name: str, text: str) -> None:
        """Write a small UTF-8 file, over whatever is there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often rclone is tried; all times in seconds. The pause doubles after every attempt."""

    small_seconds: float = 180.0
    folder_seconds: float = 3600.0
    attempts: int = 4
    pause_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.small_seconds, self.folder_seconds) <= 0 or self.pause_seconds < 0:
            raise ValueError(f"patience needs positive times and at least one attempt: {self}")


class RcloneTransfer:
    """`Transfer` through the rclone binary, one process per call.

    Parameters
    ----------
    remote : any rclone path: ``gdrive:VN-Quant-Training``, a connection string, or a local folder.
    binary : the rclone to run; found by `find_rclone` when None. Versions before 1.60 are refused.
    patience : time limits and attempts.

    Raises
    ------
    UsageError : `remote` is empty. RemoteError : rclone is missing or too old.
    """

    def __init__(self, remote: str, *, binary: Path | None = None, patience: Patience | None = None) -> None:
        if not remote.strip() or remote.startswith("-"):
            raise UsageError(
                "this is no rclone path", found=repr(remote), expected="gdrive:VN-Quant-Training or a folder"
            )
        self.remote = remote
        self._binary = binary or find_rclone()
        self._patience = patience or Patience()
        rclone_version(self._binary)

    def put_file(self, source: Path, name: str) -> None:
        """Upload one file as `name`, over whatever is there."""
        self._run(["copyto", str(source), self._at(name)], self._patience.folder_seconds)

    def get_file(self, name: str, target: Path) -> None:
        """Download one file to `target`."""
        self._run(["copyto", self._at(name), str(target)], self._patience.folder_seconds)

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        """Upload the listed `files` of `source` into the folder `name`."""
        self._copy(str(source), self._at(name), files)

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        """Download the listed `files` of the folder `name` into `target`; absent ones are left out silently."""
        self._copy(self._at(name), str(target), files)

    def list(self, name: str, pattern: str | None = None) -> tuple[Entry, ...]:
        """Return the files below `name` that match rclone's `pattern`, by path; () without a folder."""
        command = ["lsjson", "--recursive", "--files-only", "--no-mimetype", "--fast-list"]
        if pattern is not None:
            command.append(f"--include={pattern}")
        try:
            answer = self._run([*command, self._at(name)])
        except RemoteAbsentError:
            return ()
        try:
            listed = _LISTING.validate_json(answer)
        except ValidationError as error:
            raise RemoteError("rclone gave a listing that cannot be read", where=self._at(name)) from error
        entries = [Entry(path=one.Path, size_bytes=one.Size, modified=one.ModTime) for one in listed]
        return tuple(sorted(entries, key=lambda entry: entry.path))

    def exists(self, name: str) -> bool:
        """Return whether a file or folder `name` is there."""
        try:
            return self._run(["lsjson", "--stat", self._at(name)]).strip() not in ("", "null")
        except RemoteAbsentError:
            return False

    def move(self, name: str, new_name: str) -> None:
        """Rename a file or folder on the remote (not atomic)."""
        self._run(["moveto", self._at(name), self._at(new_name)], self._patience.folder_seconds)

    def read_text(self, name: str) -> str:
        """Return a small UTF-8 file; raises `RemoteError` when it is not text or over 16 MiB."""
        where = self._at(name)
        text = self._run(["cat", f"--count={MAX_TEXT_BYTES + 1}", where])
        if len(text) > MAX_TEXT_BYTES:
            raise RemoteError(
                "a file on the remote is far too long", where=where, expected=f"<= {MAX_TEXT_BYTES} bytes"
            )
        return text

    def write_text(self, name: str, text: str) -> None:
        """Write a small UTF-8 file, over whatever is there (through a temporary name where the remote can)."""
        with tempfile.TemporaryDirectory(prefix="vnfleet-") as folder:
            source = Path(folder) / "text"
            source.write_bytes(text.encode())
            self._run(["copyto", str(source), self._at(name)])

    def _copy(self, source: str, target: str, files: Sequence[str]) -> None:
        for name in files:
            stay_inside(name)
        if files:
            command = ["copy", "--files-from-raw=-", "--no-traverse", source, target]
            self._run(command, self._patience.folder_seconds, stdin="\n".join(files) + "\n")

    def _at(self, name: str) -> str:
        stay_inside(name)
        return f"{self.remote}{name}" if self.remote.endswith((":", "/", "\\")) else f"{self.remote}/{name}"

    def _run(self, command: Sequence[str], seconds: float | None = None, stdin: str = "") -> str:
        """Run rclone until it succeeds, fails for good, or the attempts are used up; return its output."""
        limit = self._patience.small_seconds if seconds is None else seconds
        for attempt in range(1, self._patience.attempts + 1):
            if attempt > 1:
                time.sleep(self._patience.pause_seconds * 2 ** (attempt - 2))
            try:
                done = subprocess.run(  # noqa: S603
                    [self._binary, *_FLAGS, *command],
                    input=stdin.encode(),
                    capture_output=True,
                    timeout=limit,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                messages: tuple[str, ...] = (f"no end after {limit:.0f} s (timeout)",)
                fault = Fault.PASSING
            except OSError as error:
                raise RemoteError("rclone cannot be run", where=self._binary, found=error, fix=INSTALL_FIX) from error
            else:
                if done.returncode == 0:
                    return _as_text(done.stdout, command[-1])
                messages = failure_messages(done.stderr.decode(errors="replace"))
                fault = classify(done.returncode, messages)
            if fault is not Fault.PASSING:
                break
        raise as_error(fault, messages, command[-1])


def _as_text(output: bytes, where: str) -> str:
    try:
        return output.decode()
    except UnicodeDecodeError as error:
        raise RemoteError("a file on the remote is not text", where=where) from error


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
