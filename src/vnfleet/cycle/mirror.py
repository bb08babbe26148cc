"""Releases on the remote: ``models/<release_id>/``, the same sealed folder as here, its manifest sent last.

What is sent is looked at again before the manifest lands: a folder without a manifest does not count anywhere. What is
brought back lands below ``models/``, is proved by its hashes, judged by `received`, and only then takes its place:
its model files as the latest set in ``models/``, the whole of it among the releases of ``models_prod/``. Nothing goes
live by being downloaded: `vnfleet deploy` does that.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from vnfleet.core.atomic import discard, fsync_folder, replace, write_file
from vnfleet.core.errors import BadDataError, RemoteError, UsageError, VnfleetError
from vnfleet.core.ids import sha256_of_file
from vnfleet.core.lock import holding
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, is_whole, verify
from vnfleet.cycle.workdir import Folders
from vnfleet.releases.deploy import current_release
from vnfleet.releases.registry import (
    ARTIFACT_SUFFIX,
    KIND,
    list_releases,
    lock_path,
    open_release,
    releases_folder,
)
from vnfleet.remote.opening import open_remote
from vnfleet.remote.parcels import fetch_sealed, sent_manifest, set_aside
from vnfleet.remote.transfer import Transfer

MODELS = "models"
INCOMING = "incoming"
REPLACED = "replaced-by-"
_RELEASE_ID = re.compile(r"(?P<as_of>\d{4}-\d{2}-\d{2})-(?P<seq>\d{3,9})-[0-9a-f]{8}")
_LOOKS = 10
_LOOK_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredRelease:
    """A release as the listing of the remote shows it; its hashes are proved when it is fetched.

    num_models counts its model files, num_bytes everything; without a manifest it does not count. `newest` is the
    latest modification time that the remote tells, in its own words.
    """

    release_id: str
    has_manifest: bool
    num_models: int
    num_bytes: int
    newest: str

    @property
    def order(self) -> tuple[str, int]:
        """Later data first of all, then the sequence number."""
        return order_of(self.release_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What mirroring came to: files and bytes that had to travel, of so many; sent is False when all was there."""

    release_id: str
    sent_files: int
    sent_bytes: int
    num_files: int
    sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A release that was brought here: where it is, and what the judge said of it."""

    release_id: str
    folder: Path
    num_models: int
    words: str


def order_of(release_id: str) -> tuple[str, int]:
    """Return what releases are ordered by: the day of their data, then their number.

    Raises `UsageError` for a name that is no release's.
    """
    match = _RELEASE_ID.fullmatch(release_id)
    if match is None:
        raise UsageError("this is no release", found=repr(release_id), expected="<as_of>-<seq>-<hash8>")
    return match["as_of"], int(match["seq"])


def is_release_id(name: str) -> bool:
    """Return whether a folder is named like a release, with a day that exists."""
    match = _RELEASE_ID.fullmatch(name)
    if match is None:
        return False
    try:
        date.fromisoformat(match["as_of"])
    except ValueError:
        return False
    return True


def releases_there(remote: Transfer) -> tuple[MirroredRelease, ...]:
    """Return the releases on the remote, oldest first, from one listing; unfinished ones too."""
    files: dict[str, list[tuple[str, int, str]]] = {}
    for entry in remote.list(MODELS):
        name, _, inside = entry.path.partition("/")
        if inside and is_release_id(name):
            files.setdefault(name, []).append((inside, entry.size_bytes, entry.modified))
    found = [
        MirroredRelease(
            release_id=name,
            has_manifest=any(path == MANIFEST_NAME for path, _, _ in listed),
            num_models=len({path for path, _, _ in listed if "/" not in path and path.endswith(ARTIFACT_SUFFIX)}),
            num_bytes=sum(size for _, size, _ in listed),
            newest=max(modified for _, _, modified in listed),
        )
        for name, listed in files.items()
    ]
    return tuple(sorted(found, key=lambda one: (one.order, one.release_id)))


def release_to_mirror(models_prod: Path) -> str | None:
    """Return the release that other machines should have: the live one, else the newest; None when there is none."""
    now = current_release(models_prod)
    if now is not None:
        return now.release_id
    known = list_releases(models_prod)
    return known[-1].release_id if known else None


def mirror_release(
    models_prod: Path,
    release_id: str,
    remote: Transfer,
    *,
    anew: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Mirrored:
    """Send a release to ``models/<release_id>/``: what is missing there or of another size, then the manifest.

    Running it again sends only what is missing. `anew` sends every file again: where a download failed its hashes, the
    remote holds other bytes of the same length.

    Raises `BadDataError` or `UsageError` when the release here is damaged or unknown; `RemoteError` when the remote
    does not take it, or does not show what was sent within ten looks a second apart: then no manifest is written.
    """
    release = open_release(models_prod, release_id)
    manifest = verify(release.folder, KIND)
    name = f"{MODELS}/{release_id}"
    sizes = {file: (release.folder / file).stat().st_size for file in manifest.files}
    there = _listed(remote, name)
    wrong = sorted(sizes) if anew else _wrong(sizes, there)
    told: Manifest | None = None
    if MANIFEST_NAME in there:
        with contextlib.suppress(BadDataError):  # damaged there: it is written anew below
            told = sent_manifest(remote, name)
    if not wrong and told == manifest and len(there[MANIFEST_NAME]) == 1:
        return Mirrored(release_id=release_id, sent_files=0, sent_bytes=0, num_files=len(sizes) + 1, sent=False)
    if MANIFEST_NAME in there:  # while it is repaired it must not count
        remote.delete(f"{name}/{MANIFEST_NAME}")
    for file in wrong:
        if len(there.get(file, ())) > 1:  # two files of one name: nobody could say which one is read
            remote.delete(f"{name}/{file}")
    if wrong:
        remote.put_folder(release.folder, name, wrong)
    _must_show(remote, name, sizes, sleep)
    remote.put_file(release.folder / MANIFEST_NAME, f"{name}/{MANIFEST_NAME}")
    manifest_bytes = (release.folder / MANIFEST_NAME).stat().st_size
    return Mirrored(
        release_id=release_id,
        sent_files=len(wrong) + 1,
        sent_bytes=sum(sizes[file] for file in wrong) + manifest_bytes,
        num_files=len(sizes) + 1,
        sent=True,
    )


def mirror_in_words(models_prod: Path, remote: str, *, bandwidth_limit: str = "") -> str:
    """Mirror the live release to the remote that `remote` names and return how it went, in words.

    Never fails: a release is live whether or not the drive answers, and the next run sends what is missing.
    """
    try:
        release_id = release_to_mirror(models_prod)
        if release_id is None:
            return "no release to mirror"
        done = mirror_release(models_prod, release_id, open_remote(remote, bandwidth_limit=bandwidth_limit))
    except VnfleetError as error:
        return f"the live release is not mirrored: {error.what}" + (f" (next: {error.fix})" if error.fix else "")
    if not done.sent:
        return f"{release_id} is on the remote, all {done.num_files} files"
    return f"{release_id} is on the remote: {done.sent_files} of {done.num_files} files sent, {done.sent_bytes} bytes"


def release_to_fetch(folders: Folders, remote: Transfer) -> str | None:
    """Return the newest finished release on the remote that is newer than every release here; None when none is."""
    there = [one for one in releases_there(remote) if one.has_manifest]
    here = [order_of(one.release_id) for one in list_releases(folders.models_prod)]
    if not there or (here and there[-1].order <= max(here)):
        return None
    return there[-1].release_id


def is_here(folders: Folders, release_id: str) -> bool:
    """Return whether a release is whole here, every file of it."""
    order_of(release_id)
    return is_whole(releases_folder(folders.models_prod) / release_id, KIND)


def fetch_release(
    folders: Folders, release_id: str, remote: Transfer, *, judge: Callable[[Path], tuple[int, str]]
) -> Fetched:
    """Bring a release here; the caller holds the lock of the work directory.

    It lands in ``models/incoming/``, is proved by its hashes and given to `judge`, which returns the number of models
    and a sentence or raises `BadDataError`. Then its model files become the latest set in ``models/`` (those that were
    there move to ``models/replaced-by-<release_id>/``), and the release itself goes to ``models_prod/releases/``.
    A kill at any moment leaves files of one set in ``models/``; running it again finishes.

    Raises `RemoteError` when it is not whole on the remote, `BadDataError` when it is damaged or refused: it is then in
    the folder ``quarantine/`` of the work directory.
    """
    order_of(release_id)
    incoming = folders.models / INCOMING / release_id
    quarantine = folders.workdir / "quarantine"

    def accept(manifest: Manifest) -> None:
        if manifest.meta.get("release_id") != release_id:
            raise BadDataError("this is another release", expected=release_id, found=manifest.meta.get("release_id"))

    try:
        manifest = fetch_sealed(remote, f"{MODELS}/{release_id}", incoming, KIND, quarantine=quarantine, accept=accept)
    except BadDataError as error:
        raise BadDataError(
            "a release on the remote is damaged, nothing of it is used",
            found=" ".join(str(error).split()),
            where=f"{MODELS}/{release_id}; what came is in {quarantine}",
            fix="on the machine that made it: vnfleet remote sync --up --anew",
        ) from error
    if manifest is None:
        raise RemoteError("there is no such finished release on the remote", where=f"{MODELS}/{release_id}")
    try:
        num_models, words = judge(incoming)
    except BadDataError:
        set_aside(incoming, quarantine)
        raise
    _lay_out(folders.models, incoming, release_id)
    with holding(lock_path(folders.models_prod), "taking in a release"):
        target = releases_folder(folders.models_prod) / release_id
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged, or it would have been found
            set_aside(target, quarantine)
        replace(incoming, target)
    with contextlib.suppress(OSError):  # another one is on its way
        incoming.parent.rmdir()
    return Fetched(release_id=release_id, folder=target, num_models=num_models, words=words)


def _listed(remote: Transfer, name: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for entry in remote.list(name):
        found.setdefault(entry.path, []).append(entry.size_bytes)
    return found


def _wrong(sizes: dict[str, int], there: dict[str, list[int]]) -> list[str]:
    return sorted(file for file, size in sizes.items() if there.get(file) != [size])


def _must_show(remote: Transfer, name: str, sizes: dict[str, int], sleep: Callable[[float], None]) -> None:
    """Wait until the remote lists every file once with its size; listings of drives come late."""
    wrong: list[str] = []
    for look in range(_LOOKS):
        if look:
            sleep(_LOOK_PAUSE_SECONDS)
        wrong = _wrong(sizes, _listed(remote, name))
        if not wrong:
            return
    raise RemoteError(
        "the remote does not show what was sent to it",
        where=name,
        found=f"{len(wrong)} of {len(sizes)} files are missing, doubled or of another size, such as {wrong[0]}",
        fix="run the same command again: only what is missing is sent",
    )


def _lay_out(models: Path, source: Path, release_id: str) -> None:
    """Make the model files of `source` the set in `models`; never a mixture: what is not of it moves away first."""
    wanted = {path.name: path for path in source.glob(f"*{ARTIFACT_SUFFIX}")}
    kept: set[str] = set()
    before = models / f"{REPLACED}{release_id}"
    for path in sorted(models.glob(f"*{ARTIFACT_SUFFIX}")):
        if path.name in wanted and sha256_of_file(path) == sha256_of_file(wanted[path.name]):
            kept.add(path.name)
            continue
        before.mkdir(exist_ok=True)
        replace(path, before / path.name)
    for name in sorted(wanted.keys() - kept):
        shown = wanted[name]

        def copy(temporary: Path, shown: Path = shown) -> None:
            shutil.copyfile(shown, temporary)

        write_file(models / name, copy)
    fsync_folder(models)
    for older in models.glob(f"{REPLACED}*"):  # one set back is kept
        if before.is_dir() and older != before:
            discard(older)
