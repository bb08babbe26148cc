"""Sealed folders as pieces of bytes that fit a message, and back: whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from vnfleet.core.atomic import TMP_MARK, discard, disk_errors_for_people, fsync_file, fsync_folder, replace
from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import MANIFEST_NAME, verify

CHECKPOINT_KIND = "checkpoint"  # as in training.checkpoint, which needs torch: the keeper does without
PIECE_BYTES = 32 * 2**20
KEPT_CHECKPOINTS = 2


def safe_path(root: Path, name: str) -> Path:
    """Return ``root/name``; raises `BadDataError` when `name` would leave `root`."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise BadDataError("a parcel names a path outside its folder", found=name)
    return root / path


def pieces_of(path: Path, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces; an empty file has none."""
    with path.open("rb") as handle:
        while piece := handle.read(piece_bytes):
            yield piece


def files_of(folder: Path) -> tuple[str, ...]:
    """Return the files of a sealed folder as relative POSIX paths, its manifest last."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return (*(name for name in names if name != MANIFEST_NAME), MANIFEST_NAME)


def receive_folder(target: Path, kind: str, files: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """Write the files of a sealed folder beside `target`, verify every hash, and rename it to `target`.

    A folder that is already there is replaced only after the new one is whole.

    Raises
    ------
    BadDataError
        When a file is missing, damaged or of another kind of folder; nothing is left behind.
    ResourceError
        When the disk is full; nothing was changed.
    """
    with disk_errors_for_people(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}{TMP_MARK}{uuid.uuid4().hex[:8]}")
        scratch.mkdir()
        try:
            for name, pieces in files:
                path = safe_path(scratch, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as handle:
                    handle.writelines(pieces)
                fsync_file(path)
            verify(scratch, kind)
            fsync_folder(scratch)
            retired = target.with_name(f".{target.name}{TMP_MARK}old-{uuid.uuid4().hex[:8]}")
            if target.exists():
                replace(target, retired)
            replace(scratch, target)
            discard(retired)
        finally:
            discard(scratch)


def newest_checkpoints(unit_folder: Path) -> tuple[Path, ...]:
    """Return the newest whole checkpoint of every stage of a unit; damaged ones are passed over."""
    found = []
    for stage in sorted({path.parent for path in unit_folder.glob("*/ckpt-*")}):
        for folder in sorted(stage.glob("ckpt-*"), reverse=True):
            with contextlib.suppress(BadDataError):
                verify(folder, CHECKPOINT_KIND)
                found.append(folder)
                break
    return tuple(found)


def loose_files(unit_folder: Path) -> tuple[Path, ...]:
    """Return the small records beside a unit's stages that a resume needs, such as its numeric environment."""
    return tuple(sorted(path for path in unit_folder.glob("*.json") if path.is_file()))


def drop_old_checkpoints(newest: Path, kept: int = KEPT_CHECKPOINTS) -> None:
    """Keep `newest`, the checkpoint just written, and those before it, `kept` in all.

    One of a later step was refused when the stage went on: it must not stand in the way of whole ones.
    """
    others = sorted((path for path in newest.parent.glob("ckpt-*") if path.name != newest.name), reverse=True)
    before = [path for path in others if path.name < newest.name][: kept - 1]
    for old in others:
        if old not in before:
            discard(old)
