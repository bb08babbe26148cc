"""Moving bytes to and from a remote folder; with `remote.running` the only place that runs rclone.

rclone moves bytes and nothing more: whether they are the right ones is decided by our SHA-256 manifests, because on
remotes without hashes `rclone check` reports success on corrupted data.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import ValidationError

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.remote.answers import LISTING, STAT, Abilities, About, Listed
from vnfleet.remote.crypt import must_decrypt
from vnfleet.remote.entries import (
    MAX_TEXT_BYTES,
    Entry,
    Space,
    as_text,
    is_leftover,
    must_be_here,
    not_the_root,
    stay_inside,
)
from vnfleet.remote.obstacles import in_the_way, may_be_in_the_way, obstacle
from vnfleet.remote.progress import Told, parse_bandwidth
from vnfleet.remote.rclone import RemoteAbsentError, find_rclone, rclone_version, without_secrets
from vnfleet.remote.running import Patience, Rclone

__all__ = ["Patience", "RcloneTransfer", "Transfer"]

_MOST_COPIES = 16
_MOST_LOOKS = 8  # at files that did not arrive, for what stands in their way
# Always send. Without hashes rclone skips a changed file of equal size, and our status files often have equal size.
_ALWAYS = "--ignore-times"
# Skip what is there with an equal hash; without a hash rclone would compare sizes only, so this needs `_has_hashes`.
_IF_DIFFERENT = "--checksum"


class Transfer(Protocol):
    """A remote folder. Names are POSIX paths relative to it, "." the folder itself; every call may raise `RemoteError`.

    Reading what is not there raises `RemoteAbsentError`, as text what is none, `RemoteDamagedError`; a remote that does
    not answer or asks to slow down, `RemoteUnavailableError`; one without space, `RemoteFullError`.
    """

    def put_file(self, source: Path, name: str) -> None:
        """Upload one file as `name`, over whatever is there."""
        ...

    def get_file(self, name: str, target: Path) -> None:
        """Download one file to `target`."""
        ...

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        """Upload the listed `files` of `source` into the folder `name`; equal ones may be left as they are."""
        ...

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        """Download the listed `files` of the folder `name` into `target`; absent ones are left out silently."""
        ...

    def list(self, name: str, pattern: str | None = None, *, leftovers: bool = False) -> tuple[Entry, ...]:
        """Return the files below `name`, sorted by path, at any depth; empty when the folder is not there.

        Two files of one name are two entries. `pattern` is rclone's: with a leading / it starts at `name`, ``*`` and
        ``?`` stay within a segment, ``**`` does not. Temporary files of a killed writer are told with `leftovers` only.
        """
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

    def make_folder(self, name: str) -> None:
        """Create a folder with its parents; one that is there stays (object stores know none: nothing happens)."""
        ...

    def delete(self, name: str) -> None:
        """Remove one file, every copy of it where names may double; one that is not there is no error."""
        ...

    def purge(self, name: str) -> None:
        """Remove a folder with all it holds, in no order (take a manifest away first); absent is no error."""
        ...

    def about(self) -> Space:
        """Return how much space there is."""
        ...


class RcloneTransfer:
    """`Transfer` through the rclone binary, one process per call.

    Parameters
    ----------
    remote : any rclone path: ``gdrive:VN-Quant-Training``, a connection string, or a local folder.
    binary : the rclone to run; found by `find_rclone` when None. Versions before 1.63 are refused.
    patience : time limits and attempts.
    bandwidth_limit : as rclone's ``--bwlimit``: ``4M`` is 4 MiB/s; "" for none.
    told : called about once a second while files move, from the calling thread; what it raises ends the transfer.
    sleep : how to wait between attempts.

    Raises
    ------
    UsageError : `remote` is empty or the limit means nothing. RemoteError : rclone is missing or too old.
    """

    def __init__(
        self,
        remote: str,
        *,
        binary: Path | None = None,
        patience: Patience | None = None,
        bandwidth_limit: str = "",
        told: Told | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not remote.strip() or remote.startswith("-"):
            raise UsageError(
                "this is no rclone path", found=repr(remote), expected="gdrive:VN-Quant-Training or a folder"
            )
        parse_bandwidth(bandwidth_limit)
        self.remote = remote
        self._decrypts = False
        found = binary or find_rclone()
        rclone_version(found)
        self._rclone = Rclone(
            found, patience=patience or Patience(), bandwidth_limit=bandwidth_limit, told=told, sleep=sleep
        )

    def put_file(self, source: Path, name: str) -> None:
        """Upload one file as `name`, over whatever is there."""
        must_be_here(source)
        with self._uploading(lambda: (name,)):
            self._rclone.carry(["copyto", _ALWAYS, str(source), self._at(name)])

    def get_file(self, name: str, target: Path) -> None:
        """Download one file to `target`."""
        self._must_be_there(name)
        self._rclone.carry(["copyto", _ALWAYS, self._at(name), str(target)], downloading=True)

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        """Upload the listed `files` of `source` into the folder `name`; those there with an equal hash are left."""
        for file in files:
            stay_inside(file)
            must_be_here(source / file)
        with self._uploading(lambda: self._missing(name, files)):
            self._copy(str(source), self._at(name), files, downloading=False)

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        """Download the listed `files` of the folder `name` into `target`; absent ones are left out silently."""
        self._copy(self._at(name), str(target), files, downloading=True)

    def list(self, name: str, pattern: str | None = None, *, leftovers: bool = False) -> tuple[Entry, ...]:
        """Return the files below `name` that match rclone's `pattern`, by path; () without a folder."""
        command = ["lsjson", "--recursive", "--files-only", "--no-mimetype", "--fast-list"]
        if pattern is not None:
            command.append(f"--include={pattern}")
        try:
            answer = self._rclone.answer([*command, self._at(name)])
        except RemoteAbsentError:
            answer = b"[]"
        try:
            listed = LISTING.validate_json(answer)
        except ValidationError as error:
            raise RemoteError("rclone gave a listing that cannot be read", where=self._shown(name)) from error
        if listed:
            self._decrypts = True
        self._must_decrypt()
        entries = [Entry(path=one.Path, size_bytes=one.Size, modified=one.ModTime) for one in listed]
        kept = (entry for entry in entries if leftovers or not is_leftover(entry.path))
        return tuple(sorted(kept, key=lambda entry: (entry.path, entry.modified, entry.size_bytes)))

    def exists(self, name: str) -> bool:
        """Return whether a file or folder `name` is there."""
        found = self._stat(name)
        if found is not None and found.IsDir and self._abilities.Features.BucketBased:
            # An object store calls every path a folder; it is one when something lies below it.
            return (
                self._rclone.answer(["lsjson", "--no-mimetype", "--no-modtime", self._at(name)]).strip(b"[] \n") != b""
            )
        return found is not None

    def move(self, name: str, new_name: str) -> None:
        """Rename a file or folder on the remote (not atomic)."""
        # Servers answer a move of what is absent in many ways: with success (S3), with 403 (WebDAV).
        if not self.exists(name):
            raise RemoteAbsentError("not on the remote", where=self._shown(name))
        self._rclone.carry(["moveto", _ALWAYS, self._at(name), self._at(new_name)])

    def read_text(self, name: str) -> str:
        """Return a small UTF-8 file; raises `RemoteDamagedError` when it is not text or over 16 MiB."""
        payload = self._rclone.answer(["cat", f"--count={MAX_TEXT_BYTES + 1}", self._at(name)])
        if not payload:
            self._must_be_there(name)
        return as_text(payload, self._shown(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a small UTF-8 file, over whatever is there (through a temporary name where the remote can)."""
        with tempfile.TemporaryDirectory(prefix="vnfleet-") as folder:
            source = Path(folder) / "text"
            source.write_bytes(text.encode())
            with self._uploading(lambda: (name,)):
                self._rclone.answer(["copyto", _ALWAYS, str(source), self._at(name)])

    def make_folder(self, name: str) -> None:
        """Create a folder with its parents; nothing happens on object stores."""
        self._must_decrypt()
        self._rclone.answer(["mkdir", self._at(name)])

    def delete(self, name: str) -> None:
        """Remove one file, every copy of it where names may double; one that is not there is no error."""
        copies = _MOST_COPIES if self._abilities.Features.DuplicateFiles else 1
        for _ in range(copies):
            try:
                self._rclone.answer(["deletefile", self._at(name)])
            except RemoteAbsentError:
                return

    def purge(self, name: str) -> None:
        """Remove a folder with all it holds; one that is not there is no error."""
        not_the_root(name)
        try:
            self._rclone.carry(["purge", self._at(name)])
        except RemoteAbsentError:
            return

    def about(self) -> Space:
        """Return how much space there is; nothing is known of remotes that do not tell (S3)."""
        if not self._abilities.Features.About:
            return Space()
        answer = self._rclone.answer(["about", "--json", self.remote])
        try:
            told = About.model_validate_json(answer)
        except ValidationError as error:
            raise RemoteError("rclone told its space in words that cannot be read", where=self._shown(".")) from error
        return Space(total_bytes=told.total, used_bytes=told.used, free_bytes=told.free, trashed_bytes=told.trashed)

    @functools.cached_property
    def _abilities(self) -> Abilities:
        answer = self._rclone.answer(["backend", "features", self.remote])
        try:
            return Abilities.model_validate_json(answer)
        except ValidationError as error:
            raise RemoteError(
                "rclone told its abilities in words that cannot be read", where=self._shown(".")
            ) from error

    def _stat(self, name: str) -> Listed | None:
        try:
            return STAT.validate_json(self._rclone.answer(["lsjson", "--stat", self._at(name)]).strip() or b"null")
        except RemoteAbsentError:
            return None
        except ValidationError as error:
            raise RemoteError("rclone gave an answer that cannot be read", where=self._shown(name)) from error

    def _must_decrypt(self) -> None:
        """Look once, before anything is written or taken for empty, whether the password of a crypt remote fits."""
        if not self._decrypts:
            must_decrypt(self._rclone, self.remote)
            self._decrypts = True

    @contextlib.contextmanager
    def _uploading(self, doubtful: Callable[[], Sequence[str]]) -> Iterator[None]:
        """Say what stands in the way of an upload that was refused; `doubtful` names the files to look at."""
        self._must_decrypt()
        try:
            yield
        except RemoteError as error:
            found = None
            if may_be_in_the_way(error):
                with contextlib.suppress(RemoteError):  # the first error is the one to tell
                    found = obstacle(doubtful(), self._is_folder)
            if found is None:
                raise
            raise in_the_way(self._shown(found[0]), is_folder=found[1]) from error

    def _missing(self, name: str, files: Sequence[str]) -> tuple[str, ...]:
        there = {entry.path for entry in self.list(name)}
        return tuple(f"{name}/{file}" for file in files if file not in there)[:_MOST_LOOKS]

    def _is_folder(self, name: str) -> bool | None:
        found = self._stat(name)
        return None if found is None else found.IsDir

    def _must_be_there(self, name: str) -> None:
        """Raise `RemoteAbsentError` where rclone would not: on an object store it takes what is absent for empty."""
        if self._abilities.Features.BucketBased and not self.exists(name):
            raise RemoteAbsentError("not on the remote", where=self._shown(name))

    def _copy(self, source: str, target: str, files: Sequence[str], *, downloading: bool) -> None:
        for name in files:
            stay_inside(name)
        if not files:
            return
        comparison = _IF_DIFFERENT if self._abilities.Hashes else _ALWAYS
        with tempfile.TemporaryDirectory(prefix="vnfleet-") as folder:
            names = Path(folder) / "names"
            names.write_bytes(("\n".join(files) + "\n").encode())
            command = ["copy", comparison, f"--files-from-raw={names}", "--no-traverse", source, target]
            self._rclone.carry(command, downloading=downloading)

    def _at(self, name: str) -> str:
        stay_inside(name)
        if not PurePosixPath(name).parts:
            return self.remote
        return f"{self.remote}{name}" if self.remote.endswith((":", "/", "\\")) else f"{self.remote}/{name}"

    def _shown(self, name: str) -> str:
        return without_secrets(self._at(name))
