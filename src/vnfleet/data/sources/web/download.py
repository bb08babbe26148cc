"""A file on its way from a vendor: a part that can be continued, then the whole file with a note of its origin."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from vnfleet.core.atomic import disk_errors_for_people, fsync_file, replace, write_text
from vnfleet.core.ids import canonical_json
from vnfleet.data.sources.base import Progress
from vnfleet.data.sources.web.limits import SourceAnswerError


@dataclass(frozen=True, slots=True)
class Download:
    """`url` on its way to `target`.

    Next to `target` lie `.NAME.part` (what came so far), and the notes `.NAME.part.json` and `.NAME.json` (address,
    ETag and Last-Modified of the part and of the whole file).
    """

    url: str
    target: Path
    progress: Progress
    check: Callable[[Path], None] | None

    @property
    def part(self) -> Path:
        """What came so far."""
        return self.target.with_name(f".{self.target.name}.part")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, and a full disk an error for people."""
        with disk_errors_for_people(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            yield

    def headers(self) -> dict[str, str | None]:
        """Return the headers that continue the part, or else ask only for something newer than `target`."""
        headers: dict[str, str | None] = {"Accept-Encoding": "identity"}
        part_etag = self._note(self.part).get("etag", "")
        if self.part.exists() and self.part.stat().st_size and part_etag:
            return headers | {"Range": f"bytes={self.part.stat().st_size}-", "If-Range": part_etag}
        note = self._note(self.target) if self.target.exists() else {}
        for name, header in (("etag", "If-None-Match"), ("modified", "If-Modified-Since")):
            if note.get(name):
                headers[header] = note[name]
        return headers

    def consume(self, response: httpx2.Response) -> bool:
        """Take what came; return whether `target` is new.

        Raises `SourceAnswerError` when it is a web page, does not continue the part, or fails the check.
        """
        if response.status_code == 304:
            return False
        start = self._start(response)
        if response.headers.get("content-type", "").startswith("text/html"):
            raise SourceAnswerError(
                "a vendor answers with a web page instead of a file",
                found=response.read()[:80],
                where=self.url,
                fix="try again later, or fetch the file by hand",
                again=True,
            )
        if not start:
            self.part.unlink(missing_ok=True)
            self._write_note(self.part, response)
        total = start + int(response.headers.get("content-length", 0))
        done = start
        with self.part.open("ab") as handle:
            for chunk in response.iter_bytes(1 << 20):
                handle.write(chunk)
                done += len(chunk)
                self.progress(done, max(total, done), self.target.name)
        self._finish(response)
        return True

    def _start(self, response: httpx2.Response) -> int:
        """Return at which byte the answer begins."""
        if response.status_code == 200:
            return 0
        size = self.part.stat().st_size if self.part.exists() else 0
        span = response.headers.get("content-range", "")
        if response.status_code == 206 and span.startswith(f"bytes {size}-"):
            return size
        self._forget()
        raise SourceAnswerError(
            "a vendor does not continue a file where we stopped",
            expected=f"206 from byte {size}",
            found=f"{response.status_code} {span}",
            where=self.url,
            again=True,
        )

    def _finish(self, response: httpx2.Response) -> None:
        try:
            if self.check is not None:
                self.check(self.part)
        except BaseException:
            self._forget()
            raise
        fsync_file(self.part)
        self._note_path(self.target).unlink(missing_ok=True)  # a note never describes another file than the one there
        replace(self.part, self.target)
        self._write_note(self.target, response)
        self._note_path(self.part).unlink(missing_ok=True)

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self._note_path(self.part).unlink(missing_ok=True)

    def _note_path(self, path: Path) -> Path:
        return path.with_name(f".{path.name.removeprefix('.')}.json")

    def _note(self, path: Path) -> dict[str, str]:
        try:
            note = json.loads(self._note_path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(note, dict) or note.get("url") != self.url:
            return {}
        return {str(name): str(value) for name, value in note.items()}

    def _write_note(self, path: Path, response: httpx2.Response) -> None:
        etag = response.headers.get("etag", "")
        note = {
            "url": self.url,
            "etag": "" if etag.startswith("W/") else etag,  # a weak one does not promise the same bytes
            "modified": response.headers.get("last-modified", ""),
        }
        write_text(self._note_path(path), canonical_json(note))
