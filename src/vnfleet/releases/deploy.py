"""What is live: `models_prod/current`, one small pointer file that is swapped whole or not at all.

A release is verified file by file before the pointer moves to it. On synced drives, where a rename is not atomic,
nobody reads the pointer: readers take `newest_verified_release`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from vnfleet.core.atomic import write_text
from vnfleet.core.clock import Clock
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.lock import holding
from vnfleet.releases.registry import (
    Release,
    delete_release,
    list_releases,
    lock_path,
    open_release,
    releases_folder,
    sweep_leftovers,
)

CURRENT_NAME: Final = "current"
_REMEMBERED = 50


class CurrentRelease(BaseModel):
    """The pointer: what is live, what was before it, and what was before that (newest first)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    release_id: str
    previous_release_id: str | None
    deployed_at: AwareDatetime
    earlier_release_ids: tuple[str, ...] = ()


def current_release(models_prod: Path) -> CurrentRelease | None:
    """Return what is live, or None before the first deploy.

    Raises `BadDataError` when the pointer is damaged.
    """
    path = models_prod / CURRENT_NAME
    try:
        return CurrentRelease.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, IsADirectoryError) as error:
        raise BadDataError(
            "the pointer to the current release is damaged",
            where=path,
            found=str(error).splitlines()[0],
            fix="delete it and deploy a release again",
        ) from error


def open_current(models_prod: Path, now: CurrentRelease) -> Release:
    """Return the release that is live; raises `BadDataError` with the way out when it is gone or damaged."""
    try:
        return open_release(models_prod, now.release_id)
    except (UsageError, BadDataError) as error:
        raise BadDataError(
            "the release that serves is gone or damaged",
            found=" ".join(str(error).split()),
            where=releases_folder(models_prod) / now.release_id,
            fix=f"vnfleet rollback; or delete {models_prod / CURRENT_NAME} and run vnfleet cycle",
        ) from error


def deploy(models_prod: Path, release_id: str, *, clock: Clock, expected_symbols: Collection[str]) -> CurrentRelease:
    """Make `release_id` live and return the pointer; deploying what is live already changes nothing.

    Raises
    ------
    UsageError
        When the release is unknown, or lacks any of `expected_symbols` (the configured symbols).
    BadDataError
        When a file of the release is missing or changed; the current release stays.
    ResourceError
        When the disk is full; the current release stays.
    BusyError
        When another process builds, deploys or prunes.
    """
    with holding(lock_path(models_prod), "deploying a release"):
        release = open_release(models_prod, release_id)
        _refuse_partial(release, expected_symbols)
        now = current_release(models_prod)
        if now is not None and now.release_id == release_id:
            return now
        before = () if now is None else (now.release_id, *_before(now))
        return _point(models_prod, release_id, before, clock.now())


def rollback(models_prod: Path, *, clock: Clock) -> CurrentRelease:
    """Go back to the release that was live before the current one and return the pointer.

    Rolling back again goes one further back, never forward to what was left; `deploy` by name does that.

    Raises
    ------
    UsageError
        When nothing is live, or nothing was live before it.
    BadDataError
        When the previous release was pruned or damaged; the current release stays.
    """
    with holding(lock_path(models_prod), "rolling back a release"):
        now = current_release(models_prod)
        if now is None:
            raise UsageError("there is nothing to roll back: no release is live", where=models_prod)
        if now.previous_release_id is None:
            raise UsageError("there is nothing to roll back to", found=f"{now.release_id} is the first release")
        try:
            open_release(models_prod, now.previous_release_id)
        except (UsageError, BadDataError) as error:
            raise BadDataError(
                "the previous release cannot be used, the current one stays",
                found=error.what,
                where=now.previous_release_id,
                fix=f"deploy one of {[release.release_id for release in list_releases(models_prod, verified=True)]}",
            ) from error
        return _point(models_prod, now.previous_release_id, now.earlier_release_ids, clock.now())


def newest_verified_release(models_prod: Path) -> Release | None:
    """Return the release with the highest sequence number whose files all verify, or None: for synced drives."""
    for release in reversed(list_releases(models_prod)):
        try:
            return open_release(models_prod, release.release_id)
        except BadDataError:  # still arriving or damaged: the one before it serves
            continue
    return None


def prune(models_prod: Path, keep_last: int) -> tuple[str, ...]:
    """Delete old releases but the newest `keep_last`, the live one and its predecessor; return the deleted ids.

    Also sweeps what interrupted builds left behind. Damaged folders are left for a person to look at.
    """
    if keep_last < 1:
        raise UsageError("at least one release must be kept", expected=">= 1", found=keep_last)
    with holding(lock_path(models_prod), "pruning releases"):
        now = current_release(models_prod)
        protected = () if now is None else (now.release_id, now.previous_release_id)
        sweep_leftovers(models_prod)
        complete = [release.release_id for release in list_releases(models_prod)]
        doomed = tuple(one for one in complete[:-keep_last] if one not in protected)
        for release_id in doomed:
            delete_release(models_prod, release_id)
    return doomed


def _before(now: CurrentRelease) -> tuple[str, ...]:
    return (now.previous_release_id, *now.earlier_release_ids) if now.previous_release_id else ()


def _point(models_prod: Path, release_id: str, before: tuple[str, ...], at: datetime) -> CurrentRelease:
    """Swap the pointer; `before` lists what was live earlier, newest first."""
    pointer = CurrentRelease(
        release_id=release_id,
        previous_release_id=before[0] if before else None,
        deployed_at=at,
        earlier_release_ids=before[1:_REMEMBERED],
    )
    write_text(models_prod / CURRENT_NAME, pointer.model_dump_json(indent=1) + "\n")
    return pointer


def _refuse_partial(release: Release, expected_symbols: Collection[str]) -> None:
    missing = sorted(set(expected_symbols) - set(release.serving))
    missing += [
        one for one in sorted(set(expected_symbols) & set(release.serving)) if not release.artifact_path(one).is_file()
    ]
    if missing:
        raise UsageError(
            "a release of fewer than the configured symbols never goes live",
            expected=f"{len(set(expected_symbols))} symbols",
            found=f"{len(missing)} missing: {', '.join(missing[:10])}",
            where=release.folder,
            fix="train the missing symbols, or change the configured symbols",
        )
