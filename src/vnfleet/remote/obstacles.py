"""What stands in the way of an upload: a folder of the file's name, or a file in the place of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from vnfleet.core.errors import RemoteError
from vnfleet.remote.rclone import RemoteFullError, RemoteUnavailableError, is_known


def in_the_way(where: object, *, is_folder: bool) -> RemoteError:
    """Return the error for a folder `where` a file should be written, or the other way round."""
    found, wanted = ("a folder", "a file") if is_folder else ("a file", "a folder")
    return RemoteError(
        f"{found} stands on the remote where {wanted} should",
        where=where,
        expected=f"{wanted}, or nothing",
        found=found,
        fix=f"see what is in it, then rename or remove that {found[2:]} on the remote and run again",
    )


def may_be_in_the_way(error: RemoteError) -> bool:
    """Return whether something in the way may be why an upload was refused.

    Servers say that in many ways, WebDAV with "404 Not Found"; a dead network or a full disk says what it is.
    """
    if isinstance(error, RemoteFullError):
        return False
    return not (isinstance(error, RemoteUnavailableError) and is_known(str(error.found)))


def obstacle(names: Iterable[str], is_folder: Callable[[str], bool | None]) -> tuple[str, bool] | None:
    """Return the first place that keeps one of the files `names` from being written, and whether it is a folder.

    `is_folder` tells what a name is on the remote; None: nothing.
    """
    seen: set[str] = set()
    for name in names:
        above = [str(parent) for parent in PurePosixPath(name).parents][-2::-1]
        for place in (*above, name):
            if place not in seen and is_folder(place) is (place == name):
                return place, place == name
            seen.add(place)
    return None
