"""Answers kept on disk, so that a long fetch that was interrupted goes on where it stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vnfleet.core.atomic import write_bytes
from vnfleet.core.ids import canonical_json, sha256_hex


@dataclass(frozen=True, slots=True)
class ResponseCache:
    """Bodies of answers under `folder`, each behind the SHA-256 of itself; damaged ones count as absent.

    now : seconds since the epoch, compared with the age of the files.
    """

    folder: Path
    now: Callable[[], float] = time.time

    def path_of(self, url: str, params: Mapping[str, str], vintage: str) -> Path:
        """Return where the answer to a GET of `url` with `params` lies; answers of another `vintage` lie elsewhere."""
        key = sha256_hex(canonical_json(["GET", url, dict(params), vintage]).encode())
        return self.folder / key[:2] / key

    def read(self, path: Path, max_age_seconds: float | None) -> bytes | None:
        """Return the body at `path`; None when it is absent, too old (None: never) or damaged."""
        try:
            if max_age_seconds is not None and self.now() - path.stat().st_mtime > max_age_seconds:
                return None
            digest, _, body = path.read_bytes().partition(b"\n")
        except OSError:
            return None
        return body if sha256_hex(body).encode() == digest else None

    def write(self, path: Path, body: bytes) -> None:
        """Keep `body` at `path`, whole or not at all."""
        write_bytes(path, sha256_hex(body).encode() + b"\n" + body)

    def forget(self, older_than_seconds: float) -> None:
        """Remove bodies older than that; a file that vanishes meanwhile is no matter."""
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if self.now() - path.stat().st_mtime > older_than_seconds:
                    path.unlink()
