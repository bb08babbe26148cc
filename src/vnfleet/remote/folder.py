"""`Transfer` over a folder of this machine without rclone in between: a NAS, Drive for desktop, Colab's mount, a test.

Mounts are slow and lie: a rename may get lost, a file may appear seconds after its manifest, two files may share a
name (the second is then shown as ``name (1).json``), and the mount itself may drop while the program lives.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vnfleet.core.atomic import TMP_MARK, write_file
from vnfleet.core.errors import RemoteError
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
from vnfleet.remote.mounts import flush, flush_folder, refusals, walk
from vnfleet.remote.obstacles import in_the_way
from vnfleet.remote.patterns import Pattern, copies_of
from vnfleet.remote.progress import Meter, Told, parse_bandwidth
from vnfleet.remote.rclone import RemoteAbsentError, RemoteUnavailableError

_BLOCK_BYTES = 2**20
_RENAMES = 4
_RENAME_PAUSE_SECONDS = 0.2
_LATE_PAUSE_SECONDS = 0.5


class FolderTransfer:
    """`Transfer` whose remote is the folder `root`; every file appears whole or not at all.

    Parameters
    ----------
    root : the folder; made at the first write. Once seen it must stay: a mount that drops is an outage, not an
        empty remote, and nothing is written where it was.
    bandwidth_limit : bytes per second as rclone writes them (``4M``, ``10M:1M``), without timetables; "" for none.
    told : called about once a second while files move, and at the end of each transfer.
    late_seconds : how long `get_folder` waits for listed files that are not there yet.
    sleep : how to wait.

    Raises
    ------
    UsageError : the limit means nothing here.
    """

    def __init__(
        self,
        root: Path,
        *,
        bandwidth_limit: str = "",
        told: Told | None = None,
        late_seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.root = root
        self._limits = parse_bandwidth(bandwidth_limit, with_timetable=False)
        self._told = told
        self._late_seconds = late_seconds
        self._sleep = sleep
        self._seen = False

    def put_file(self, source: Path, name: str) -> None:
        """Copy one file to `name`, over whatever is there."""
        self._put([(source, name)])

    def get_file(self, name: str, target: Path) -> None:
        """Copy one file to `target`."""
        with refusals(name):
            path = self._at(name)
            meter = self._meter(1, path.stat().st_size, self._limits.down)
        self._get(path, name, target, meter)

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        """Copy the listed `files` of `source` into the folder `name`."""
        self._put([(source / file, f"{name}/{file}") for file in files])

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        """Copy the listed `files` of the folder `name` into `target`; absent ones are left out silently.

        They are waited for first (`late_seconds`): a mount may show a manifest before the files it names.
        """
        missing = [file for file in files if not self._is_file(f"{name}/{file}")]
        waited_seconds = 0.0
        while missing and waited_seconds < self._late_seconds:
            self._sleep(_LATE_PAUSE_SECONDS)
            waited_seconds += _LATE_PAUSE_SECONDS
            missing = [file for file in missing if not self._is_file(f"{name}/{file}")]
        absent = set(missing)
        there = [file for file in files if file not in absent]
        sizes = [self._size_bytes(f"{name}/{file}") for file in there]
        meter = self._meter(len(there), sum(sizes), self._limits.down)
        for file in there:
            with contextlib.suppress(RemoteAbsentError):  # gone since it was looked for
                self._get(self._at(f"{name}/{file}"), f"{name}/{file}", target / file, meter)

    def list(self, name: str, pattern: str | None = None, *, leftovers: bool = False) -> tuple[Entry, ...]:
        """Return the files below `name` that match `pattern`, by path; () without a folder. Links are left out."""
        wanted = Pattern(pattern)
        entries: list[Entry] = []
        with refusals(name):
            for path, found in walk(self._at(name), "", wanted):
                if leftovers or not is_leftover(path):
                    entries.append(Entry(path=path, size_bytes=found.st_size, modified=f"{found.st_mtime_ns:020d}"))
        return tuple(sorted(entries, key=lambda entry: (entry.path, entry.modified, entry.size_bytes)))

    def exists(self, name: str) -> bool:
        """Return whether a file or folder `name` is there."""
        with refusals(name):
            return self._at(name).exists()

    def move(self, name: str, new_name: str) -> None:
        """Rename a file or folder; a folder that is there takes the files in."""
        with refusals(name):
            source, target = self._at(name), self._at(new_name)
            if source.is_dir() and target.is_dir():
                for path in [path for path in source.rglob("*") if path.is_file()]:
                    self._rename(path, target / path.relative_to(source))
                shutil.rmtree(source)
            else:
                self._rename(source, target)

    def read_text(self, name: str) -> str:
        """Return a small UTF-8 file; raises `RemoteDamagedError` when it is not text or over 16 MiB."""
        with refusals(name), self._at(name).open("rb") as file:
            return as_text(file.read(MAX_TEXT_BYTES + 1), name)

    def write_text(self, name: str, text: str) -> None:
        """Write a small UTF-8 file, over whatever is there."""
        with refusals(name):
            self._write_whole(self._at(name), functools.partial(_write, iter([text.encode()])))

    def make_folder(self, name: str) -> None:
        """Create a folder with its parents; one that is there stays."""
        with refusals(name):
            self._at(name).mkdir(parents=True, exist_ok=True)

    def delete(self, name: str) -> None:
        """Remove one file and the doubles a mount shows of it; one that is not there is no error."""
        with refusals(name):
            path = self._at(name)
            for copy in (path, *copies_of(path)):
                copy.unlink(missing_ok=True)

    def purge(self, name: str) -> None:
        """Remove a folder with all it holds; one that is not there is no error."""
        not_the_root(name)
        with refusals(name):
            folder = self._at(name)
            if folder.exists():
                shutil.rmtree(folder)

    def about(self) -> Space:
        """Return the space of the disk, or of the account behind a mount that tells it."""
        with refusals("."):
            self._at(".")
            there = next(folder for folder in (self.root.absolute(), *self.root.absolute().parents) if folder.is_dir())
            usage = shutil.disk_usage(there)
        return Space(total_bytes=usage.total, used_bytes=usage.used, free_bytes=usage.free)

    def _put(self, pairs: Sequence[tuple[Path, str]]) -> None:
        for source, _ in pairs:
            must_be_here(source)
        meter = self._meter(len(pairs), sum(source.stat().st_size for source, _ in pairs), self._limits.up)
        for source, name in pairs:
            with refusals(name):
                blocks = _blocks(source, meter)
                self._write_whole(self._at(name), functools.partial(_write, blocks))
            meter.file_done()

    def _get(self, path: Path, name: str, target: Path, meter: Meter) -> None:
        # Refusals of the remote are told as such, those of this machine's own disk stay what they are.
        write_file(target, functools.partial(_write, _blocks(path, meter, name)))
        meter.file_done()

    def _write_whole(self, target: Path, write: Callable[[Path], None]) -> None:
        """Create `target` through a temporary file beside it."""
        self._must_be_free(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}{TMP_MARK}{uuid.uuid4().hex[:8]}")
        try:
            write(temporary)
            self._rename(temporary, target)
            self._seen = True
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _must_be_free(self, target: Path) -> None:
        """Refuse to write where a folder of that name stands, or a file in the place of its folder."""
        if target.is_dir():
            raise in_the_way(target, is_folder=True)
        if target.parent.is_dir():
            return
        for parent in target.relative_to(self.root).parents:
            if (self.root / parent).is_file():
                raise in_the_way(self.root / parent, is_folder=False)

    def _rename(self, source: Path, target: Path) -> None:
        """Rename and look whether it happened: mounts lose renames, and Windows refuses while someone reads."""
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _RENAMES + 1):
            try:
                os.replace(source, target)  # noqa: PTH105 - the name the design and the fault tests use
            except PermissionError:
                if attempt == _RENAMES:
                    raise
            except FileNotFoundError:
                if attempt == 1:  # later on: an earlier attempt came through after all
                    raise
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.move(source, target)
            if target.exists() and not source.exists():
                flush_folder(target.parent)
                return
            self._sleep(_RENAME_PAUSE_SECONDS * attempt)
        raise RemoteUnavailableError(
            "the folder lost a file while it was renamed", where=target, fix="check the mount, then run again"
        )

    def _is_file(self, name: str) -> bool:
        with refusals(name):
            return self._at(name).is_file()

    def _size_bytes(self, name: str) -> int:
        try:
            with refusals(name):
                return self._at(name).stat().st_size
        except RemoteAbsentError:
            return 0

    def _meter(self, num_files: int, num_bytes: int, limit: float | None) -> Meter:
        return Meter(
            files_total=num_files, bytes_total=num_bytes, bytes_per_second=limit, told=self._told, sleep=self._sleep
        )

    def _at(self, name: str) -> Path:
        stay_inside(name)
        seen = self._seen  # read first: another thread may make the folder right after it was looked for
        if self.root.is_dir():
            self._seen = True
        elif seen:
            raise RemoteUnavailableError(
                "the shared folder is gone", where=self.root, fix="mount it again, then run again: nothing is lost"
            )
        path = self.root / name
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise RemoteError(
                "a link on the remote leaves its folder", where=path, fix="replace the link by the folder itself"
            )
        return path


def _blocks(source: Path, meter: Meter, name: str = "") -> Iterator[bytes]:
    """Yield a file in blocks, counted; a file of the remote has a `name`, and what hinders it is told as such."""
    with refusals(name) if name else contextlib.nullcontext(), source.open("rb") as reader:
        while block := reader.read(_BLOCK_BYTES):
            yield block
            meter.moved(len(block))


def _write(blocks: Iterator[bytes], target: Path) -> None:
    with target.open("wb") as writer:
        for block in blocks:
            writer.write(block)
        flush(writer)
