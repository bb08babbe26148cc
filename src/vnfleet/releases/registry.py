"""Releases at rest: `models_prod/releases/<release_id>/`, sealed folders that are never changed after they are built.

```
<as_of>-<seq>-<hash8>/
  manifest.json            SHA-256 of every file, written last; its meta holds the ids and the gate decision
  serving.json             symbol -> "adapted", "pooled" or the name of a baseline
  {symbol}_stockformer.pt  one per symbol, whether it serves or runs in shadow
  members/<name>/          what serving.json names beside them: saved baselines, another strategy's model set
```
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from vnfleet.core import sealed
from vnfleet.core.atomic import TMP_MARK, disk_errors_for_people
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import canonical_json, sha256_hex, sha256_of_file
from vnfleet.core.lock import holding

KIND: Final = "release"
SERVING_NAME: Final = "serving.json"
ARTIFACT_SUFFIX: Final = "_stockformer.pt"
MEMBERS: Final = "members"
STRATEGIES: Final = ("adapted", "separate", "pooled")
_RELEASE_ID = re.compile(r"(?P<as_of>\d{4}-\d{2}-\d{2})-(?P<seq>\d{3,})-(?P<hash8>[0-9a-f]{8})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SERVING = TypeAdapter(dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseContents:
    """What goes into a release.

    Parameters
    ----------
    artifacts : symbol -> its trained `{symbol}_stockformer.pt`.
    serving : symbol -> a strategy or a baseline of `members`; the same symbols as `artifacts`.
    members : name -> folder copied to `members/<name>` (every baseline that serves, model sets kept in shadow).
    facts : what the release should remember: recipe_id, data_id, cycle_id, the gate decision.
    """

    artifacts: Mapping[str, Path]
    serving: Mapping[str, str]
    members: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.artifacts or set(self.artifacts) != set(self.serving):
            raise ValueError("artifacts and serving must name the same symbols, at least one")
        if odd := [name for name in (*self.artifacts, *self.members) if not _NAME.fullmatch(name)]:
            raise ValueError(f"not usable as a file name: {odd[0]!r}")
        if unknown := sorted(set(self.serving.values()) - set(STRATEGIES) - set(self.members)):
            raise ValueError(f"serving names {unknown[0]!r}, which is no strategy and not among members")


@dataclass(frozen=True, slots=True)
class Release:
    """One complete release on disk."""

    release_id: str
    as_of: date
    seq: int
    folder: Path
    serving: Mapping[str, str]
    facts: Mapping[str, JsonValue]

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols it serves, sorted."""
        return tuple(sorted(self.serving))

    def artifact_path(self, symbol: str, strategy: str | None = None) -> Path:
        """Return the symbol's model file; with `strategy`, the one of a model set kept in members if there is one."""
        name = f"{symbol}{ARTIFACT_SUFFIX}"
        beside = self.folder / MEMBERS / strategy / name if strategy else None
        return beside if beside is not None and beside.is_file() else self.folder / name

    def member_folder(self, name: str) -> Path:
        """Return where the baseline `name` is stored."""
        return self.folder / MEMBERS / name


def releases_folder(models_prod: Path) -> Path:
    """Return the folder of all releases."""
    return models_prod / "releases"


def lock_path(models_prod: Path) -> Path:
    """Return the lock that builders, deployers and pruners share."""
    return models_prod / ".lock"


def release_day(release_id: str) -> date:
    """Return the last session of the data a release was made from, as its name says."""
    return date.fromisoformat(release_id[:10])


def build_release(models_prod: Path, as_of: date, contents: ReleaseContents) -> str:
    """Seal `contents` as a new release and return its id; the same contents of the same date are built only once.

    Raises
    ------
    BadDataError
        When a source file is absent or changes while it is copied.
    ResourceError
        When the disk is full; nothing is left behind.
    BusyError
        When another process builds, deploys or prunes.
    """
    with holding(lock_path(models_prod), "building a release"):
        sources = _sources(contents)
        serving_text = json.dumps(dict(sorted(contents.serving.items())), indent=1) + "\n"
        hashes = {name: sha256_of_file(path) for name, path in sources.items()}
        hashes[SERVING_NAME] = sha256_hex(serving_text.encode())
        hash8 = sha256_hex(canonical_json(hashes).encode())[:8]
        for known in list_releases(models_prod):
            if known.as_of == as_of and known.release_id.endswith(hash8) and _same_files(known.folder, hashes):
                return known.release_id
        seq = 1 + max((_id_parts(folder)[1] for folder in _folders(models_prod)), default=0)
        release_id = f"{as_of.isoformat()}-{seq:03d}-{hash8}"
        meta: dict[str, JsonValue] = {**contents.facts, "release_id": release_id, "as_of": as_of.isoformat()}
        with sealed.sealing(releases_folder(models_prod) / release_id, KIND, meta) as folder:
            _copy(sources, folder)
            (folder / SERVING_NAME).write_text(serving_text, encoding="utf-8", newline="\n")
            _refuse_changed(folder, hashes)
        return release_id


def open_release(models_prod: Path, release_id: str, *, verified: bool = True) -> Release:
    """Return a complete release; with `verified` every file's SHA-256 is checked first.

    Raises
    ------
    UsageError
        When there is no release of that name.
    BadDataError
        When it is incomplete or damaged.
    """
    folder = releases_folder(models_prod) / release_id
    if _RELEASE_ID.fullmatch(release_id) is None or not folder.is_dir():
        known = [known.release_id for known in list_releases(models_prod)]
        raise UsageError(
            "there is no such release", found=release_id, expected=known[-5:] or "a release", where=folder.parent
        )
    manifest = sealed.verify(folder, KIND) if verified else sealed.read_manifest(folder, KIND)
    if manifest is None:
        raise BadDataError("a release is not complete", where=folder, expected=sealed.MANIFEST_NAME)
    if manifest.meta.get("release_id") != release_id:
        raise BadDataError("a release was renamed", where=folder, expected=manifest.meta.get("release_id"))
    as_of, seq = _id_parts(folder)
    return Release(release_id, as_of, seq, folder, _read_serving(folder), manifest.meta)


def list_releases(models_prod: Path, *, verified: bool = False) -> tuple[Release, ...]:
    """Return the usable releases, oldest first; unfinished, renamed and damaged folders are left out.

    Without `verified` only manifests are read, so a damaged model file goes unnoticed until it is opened.
    """
    found = []
    for folder in _folders(models_prod):
        try:
            found.append(open_release(models_prod, folder.name, verified=verified))
        except BadDataError:  # one damaged folder must not hide the others
            continue
    return tuple(found)


def delete_release(models_prod: Path, release_id: str) -> None:
    """Delete one release; the caller holds the lock. A crash leaves a hidden leftover, never half a release."""
    folder = releases_folder(models_prod) / release_id
    hidden = folder.with_name(f".{release_id}{TMP_MARK}pruned")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def sweep_leftovers(models_prod: Path) -> None:
    """Delete what interrupted builds and deletions left behind; the caller holds the lock."""
    for leftover in releases_folder(models_prod).glob(f".*{TMP_MARK}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _folders(models_prod: Path) -> list[Path]:
    """Return the folders named like releases, by sequence number."""
    root = releases_folder(models_prod)
    found = [path for path in root.glob("*") if _RELEASE_ID.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (_id_parts(path)[1], path.name))


def _id_parts(folder: Path) -> tuple[date, int]:
    match = _RELEASE_ID.fullmatch(folder.name)
    if match is None:
        raise BadDataError("a folder is not named like a release", where=folder, expected="<as_of>-<seq>-<hash8>")
    return date.fromisoformat(match["as_of"]), int(match["seq"])


def _sources(contents: ReleaseContents) -> dict[str, Path]:
    """Return the file to copy for every path inside the release."""
    sources = {f"{symbol}{ARTIFACT_SUFFIX}": path for symbol, path in contents.artifacts.items()}
    for name, folder in contents.members.items():
        inside = [path for path in folder.rglob("*") if path.is_file()]
        if not inside:
            raise BadDataError("a member of a release has no files", where=folder, found=name)
        sources |= {f"{MEMBERS}/{name}/{path.relative_to(folder).as_posix()}": path for path in inside}
    if absent := [path for path in sources.values() if not path.is_file()]:
        raise BadDataError("a model file to release is absent", where=absent[0], found=f"{len(absent)} absent")
    return sources


def _copy(sources: Mapping[str, Path], folder: Path) -> None:
    with disk_errors_for_people(folder):
        for name, path in sources.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _refuse_changed(folder: Path, hashes: Mapping[str, str]) -> None:
    for name, expected in hashes.items():
        if sha256_of_file(folder / name) != expected:
            raise BadDataError("a model file changed while it was released", found=name, fix="run the command again")


def _same_files(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Return True when a release holds exactly these files, undamaged."""
    try:
        return sealed.verify(folder, KIND).files == hashes
    except BadDataError:
        return False


def _read_serving(folder: Path) -> dict[str, str]:
    path = folder / SERVING_NAME
    try:
        return _SERVING.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadDataError("a release does not say what serves", where=path) from error
