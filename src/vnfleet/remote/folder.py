"""`Transfer` over a folder of this machine (a NAS, a mounted drive, a test) without rclone in between."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from vnfleet.core.atomic import TMP_MARK, write_bytes
from vnfleet.core.errors import RemoteError
from vnfleet.remote.rclone import RemoteAbsentError
from vnfleet.remote.transfer import MAX_TEXT_BYTES, Entry, stay_inside


class FolderTransfer:
    """`Transfer` whose remote is the folder `root`; every file appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_file(self, source: Path, name: str) -> None:
        """Copy one file to `name`, over whatever is there."""
        with _refusals(name):
            write_bytes(self._at(name), source.read_bytes())

    def get_file(self, name: str, target: Path) -> None:
        """Copy one file to `target`."""
        with _refusals(name):
            write_bytes(target, self._at(name).read_bytes())

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        """Copy the listed `files` of `source` into the folder `name`."""
        for file in files:
            self.put_file(source / file, f"{name}/{file}")

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        """Copy the listed `files` of the folder `name` into `target`; absent ones are left out silently."""
        for file in files:
            with contextlib.suppress(RemoteAbsentError):
                self.get_file(f"{name}/{file}", target / file)

    def list(self, name: str, pattern: str | None = None) -> tuple[Entry, ...]:
        """Return the files below `name` that match `pattern`, by path; () without a folder."""
        folder = self._at(name)
        entries: list[Entry] = []
        for path in folder.glob(pattern.lstrip("/") if pattern else "**/*"):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                facts = path.stat()
                if path.is_file() and TMP_MARK not in path.name:
                    relative = path.relative_to(folder).as_posix()
                    entries.append(Entry(path=relative, size_bytes=facts.st_size, modified=f"{facts.st_mtime_ns:020d}"))
        return tuple(sorted(entries, key=lambda entry: entry.path))

    def exists(self, name: str) -> bool:
        """Return whether a file or folder `name` is there."""
        return self._at(name).exists()

    def move(self, name: str, new_name: str) -> None:
        """Rename a file or folder."""
        with _refusals(name):
            source, target = self._at(name), self._at(new_name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)

    def read_text(self, name: str) -> str:
        """Return a small UTF-8 file; raises `RemoteError` when it is not text or over 16 MiB."""
        with _refusals(name):
            path = self._at(name)
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise RemoteError(
                    "a file on the remote is far too long", where=path, expected=f"<= {MAX_TEXT_BYTES} bytes"
                )
            try:
                return path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise RemoteError("a file on the remote is not text", where=path) from error

    def write_text(self, name: str, text: str) -> None:
        """Write a small UTF-8 file, over whatever is there."""
        with _refusals(name):
            write_bytes(self._at(name), text.encode())

    def _at(self, name: str) -> Path:
        stay_inside(name)
        return self.root / name


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Translate what the file system says into the errors of a `Transfer`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise RemoteAbsentError("not on the remote", where=name, found=error.strerror) from error
    except PermissionError as error:
        raise RemoteError(
            "the remote refused access", where=name, found=error, fix="check that you may write to this folder"
        ) from error
