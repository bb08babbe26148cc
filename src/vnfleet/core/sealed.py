"""Sealed folders: complete exactly when `manifest.json`, written last, lists every file with its SHA-256.

Units, releases, packages and cycle steps are all sealed folders; this is their one reader and writer.
"""

from __future__ import annotations

import contextlib
import unicodedata
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, field_validator

from vnfleet.core.atomic import (
    TMP_MARK,
    discard,
    disk_errors_for_people,
    fsync_file,
    fsync_folder,
    replace,
    write_text,
)
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import canonical_json, sha256_hex, sha256_of_file

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
_LONGEST_SEGMENT_BYTES = 255  # of file systems in use


class Manifest(BaseModel):
    """What a sealed folder holds: `kind`, SHA-256 per relative POSIX path, and the writer's own facts in `meta`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    kind: str
    files: dict[str, str]
    meta: dict[str, JsonValue]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                raise ValueError(f"path leaves the folder: {name!r}")
            if any(unicodedata.category(mark) == "Cc" for mark in name):
                raise ValueError(f"path with a control character: {name!r}")
            if any(part in {"", "."} or len(part.encode()) > _LONGEST_SEGMENT_BYTES for part in name.split("/")):
                raise ValueError(f"path with an empty or too long segment: {name[:80]!r}")
        return files

    @property
    def content_sha256(self) -> str:
        """Identity of the contents: SHA-256 over the file hashes."""
        return sha256_hex(canonical_json(self.files).encode())


@contextlib.contextmanager
def sealing(target: Path, kind: str, meta: dict[str, JsonValue]) -> Iterator[Path]:
    """Yield a scratch folder; on success seal it and rename it to `target`, on failure leave nothing behind.

    `meta` is read when the block ends, so the block may add to it. A sealed `target` of the same kind that is
    already there is replaced only after the new one is whole.
    """
    with disk_errors_for_people(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}{TMP_MARK}{uuid.uuid4().hex[:8]}")
        scratch.mkdir()
        try:
            yield scratch
            _write_manifest(scratch, kind, meta)
            if target.exists():
                retired = target.with_name(f".{target.name}{TMP_MARK}old-{uuid.uuid4().hex[:8]}")
                replace(target, retired)
                replace(scratch, target)
                discard(retired)
            else:
                replace(scratch, target)
        finally:
            discard(scratch)


def _write_manifest(folder: Path, kind: str, meta: dict[str, JsonValue]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        fsync_file(path)
    for inner in {path.parent for path in paths}:
        fsync_folder(inner)
    files = {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in paths}
    manifest = Manifest(kind=kind, files=files, meta=meta)
    write_text(folder / MANIFEST_NAME, manifest.model_dump_json(indent=1))


def read_manifest(folder: Path, kind: str) -> Manifest | None:
    """Return the manifest of `folder`, or None when the folder is not sealed (absent or never finished).

    Raises `BadDataError` when the manifest is there but damaged, of another kind or of a newer schema.
    """
    path = folder / MANIFEST_NAME
    try:
        payload = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (IsADirectoryError, PermissionError) as error:  # Windows says the latter of a folder
        if not path.is_dir():
            raise
        raise BadDataError("a manifest is damaged", where=path, found="a folder instead of a file") from error
    try:
        manifest = Manifest.model_validate_json(payload.decode())
    except (ValidationError, UnicodeDecodeError) as error:
        raise BadDataError("a manifest is damaged", where=path, found=str(error).splitlines()[0]) from error
    if manifest.kind != kind:
        raise BadDataError("a folder is of another kind", where=folder, expected=kind, found=manifest.kind)
    if manifest.schema_version > SCHEMA_VERSION:
        raise BadDataError(
            "a folder was written by a newer vnfleet",
            where=folder,
            found=manifest.schema_version,
            fix="upgrade vnfleet",
        )
    return manifest


def verify(folder: Path, kind: str) -> Manifest:
    """Return the manifest after checking that every listed file is there with its SHA-256.

    Raises `BadDataError` naming the first missing or changed file.
    """
    manifest = read_manifest(folder, kind)
    if manifest is None:
        raise BadDataError("a folder is not complete", where=folder, expected=MANIFEST_NAME)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BadDataError("a file is missing from a sealed folder", where=path)
        found = sha256_of_file(path)
        if found != expected:
            raise BadDataError(
                "a file in a sealed folder was changed", where=path, expected=expected[:16], found=found[:16]
            )
    return manifest


def is_whole(folder: Path, kind: str) -> bool:
    """Return whether `folder` is sealed and every file in it has its SHA-256; damaged work is to be made again."""
    try:
        verify(folder, kind)
    except BadDataError:
        return False
    return True
