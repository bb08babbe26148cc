"""Sealed folders on their way: payload first, manifest last, and nothing believed before its hashes hold.

A folder on the remote counts only when its manifest is there. A download goes to a scratch folder and is renamed
into place after `core.sealed.verify`; one that fails twice is kept in quarantine for a person to look at.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import JsonValue, ValidationError

from vnfleet.core.atomic import TMP_MARK, disk_errors_for_people, fsync_file, fsync_folder, replace, write_text
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, read_manifest, verify
from vnfleet.remote.entries import stay_inside
from vnfleet.remote.rclone import RemoteAbsentError, RemoteDamagedError
from vnfleet.remote.transfer import Transfer

PUBLISHED = "published"  # in the meta of a manifest on the remote: who sent it, and what it was built on
_ATTEMPTS = 2


def send_sealed(
    folder: Path,
    remote: Transfer,
    name: str,
    kind: str,
    before_manifest: Callable[[], None] = lambda: None,
    *,
    published: Mapping[str, JsonValue] | None = None,
) -> bool:
    """Upload the sealed `folder` as `name`, manifest last; return False when a manifest is already there.

    `before_manifest` runs between payload and manifest and may raise to keep the parcel from counting.
    `published` is added to the manifest on the remote, for whoever fetches it.
    Raises `BadDataError` when the local folder does not verify.
    """
    manifest = verify(folder, kind)
    if remote.exists(f"{name}/{MANIFEST_NAME}"):
        return False
    remote.put_folder(folder, name, sorted(manifest.files))
    before_manifest()
    if published is None:
        remote.put_file(folder / MANIFEST_NAME, f"{name}/{MANIFEST_NAME}")
    else:
        stamped = manifest.model_copy(update={"meta": {**manifest.meta, PUBLISHED: dict(published)}})
        remote.write_text(f"{name}/{MANIFEST_NAME}", stamped.model_dump_json(indent=1))
    return True


def sent_manifest(remote: Transfer, name: str) -> Manifest | None:
    """Return the manifest of the sealed folder `name` as it is on the remote; None when there is none.

    Nothing it says has been proved yet: that is for `fetch_sealed`. Raises `BadDataError` when it cannot be read.
    """
    try:
        return Manifest.model_validate_json(remote.read_text(f"{name}/{MANIFEST_NAME}"))
    except RemoteAbsentError:
        return None
    except (ValidationError, RemoteDamagedError) as error:
        raise BadDataError("a manifest on the remote is damaged", where=name) from error


def fetch_sealed(
    remote: Transfer,
    name: str,
    target: Path,
    kind: str,
    *,
    quarantine: Path,
    accept: Callable[[Manifest], None] = lambda _: None,
) -> Manifest | None:
    """Download the sealed folder `name` to `target` and return its manifest; None when it is not complete there.

    A `target` that already verifies is kept as it is. `accept` may raise `BadDataError` on a manifest of someone else.
    Raises `BadDataError` after a second failed download; what came is then in `quarantine`.
    """
    if (target / MANIFEST_NAME).is_file():
        try:
            manifest = verify(target, kind)
            accept(manifest)
        except BadDataError:
            set_aside(target, quarantine)
        else:
            return manifest
    for attempt in range(1, _ATTEMPTS + 1):
        scratch = target.with_name(f".{target.name}{TMP_MARK}{uuid.uuid4().hex[:8]}")
        try:
            with disk_errors_for_people(target):
                return _fetch_once(remote, name, target, kind, scratch=scratch, accept=accept)
        except RemoteAbsentError:
            return None
        except BadDataError:
            # A manifest that lands while its folder is listed, or one bad connection, deserves one more look.
            if attempt == _ATTEMPTS:
                set_aside(scratch, quarantine)
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return None


def withdraw_parcel(remote: Transfer, name: str) -> str:
    """Move a refused parcel on the remote to `quarantine/`, manifest first, so that it no longer counts.

    Returns the new name.
    """
    new_name = (
        f"quarantine/{name.replace('/', '-')}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    )
    remote.move(f"{name}/{MANIFEST_NAME}", f"{new_name}/{MANIFEST_NAME}")
    if remote.list(name):
        remote.move(name, f"{new_name}/payload")
    return new_name


def _fetch_once(
    remote: Transfer, name: str, target: Path, kind: str, *, scratch: Path, accept: Callable[[Manifest], None]
) -> Manifest:
    try:
        text = remote.read_text(f"{name}/{MANIFEST_NAME}")
    except RemoteDamagedError as error:
        raise BadDataError("a manifest on the remote is damaged", where=name, found=error.what) from error
    scratch.mkdir(parents=True)
    write_text(scratch / MANIFEST_NAME, text)
    # Read before anything else is fetched: a manifest with a path that leaves the folder is refused here.
    claimed = read_manifest(scratch, kind)
    if claimed is None or MANIFEST_NAME in claimed.files:
        raise BadDataError("a manifest on the remote is damaged", where=name)
    try:
        for file in claimed.files:
            stay_inside(file)
    except UsageError as error:
        raise BadDataError("a manifest on the remote names a file that may not be", where=name) from error
    accept(claimed)
    remote.get_folder(name, scratch, sorted(claimed.files))
    manifest = verify(scratch, kind)
    for path in (path for path in scratch.rglob("*") if path.is_file()):
        fsync_file(path)
    if target.exists():
        retired = target.with_name(f".{target.name}{TMP_MARK}old-{uuid.uuid4().hex[:8]}")
        replace(target, retired)
        shutil.rmtree(retired, ignore_errors=True)
    replace(scratch, target)
    fsync_folder(target.parent)
    return manifest


def set_aside(folder: Path, quarantine: Path) -> None:
    """Move what must not be used to `quarantine`, for a person to look at."""
    if folder.exists():
        quarantine.mkdir(parents=True, exist_ok=True)
        replace(folder, quarantine / f"{folder.name.lstrip('.')}-{uuid.uuid4().hex[:8]}")
