"""The training package on the shared drive: sent manifest last, then read back and hashed before it is called there."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath

from vnfleet.core.errors import BadDataError, RemoteError
from vnfleet.core.sealed import MANIFEST_NAME, Manifest
from vnfleet.data.package import open_package
from vnfleet.remote.opening import is_folder
from vnfleet.remote.parcels import fetch_sealed, send_sealed
from vnfleet.remote.transfer import Transfer

PACKAGES = "training_package"
_KIND = "training-package"  # of `vnfleet.data.package`
_ATTEMPTS = 2


def name_on_remote(remote: str, path: str) -> str:
    """Return `path` as a name below the configured `remote`.

    The written plan names the shared folder once more (``VN-Quant-Training/data``); where the remote already ends with
    that folder it is not repeated.
    """
    own = remote.replace("\\", "/") if is_folder(remote) else remote.rpartition(":")[2]
    last = PurePosixPath(own).name
    parts = PurePosixPath(path.replace("\\", "/")).parts
    below = parts[1:] if parts and parts[0] == last else parts
    return "/".join(below)


def upload_package(folder: Path, remote: Transfer, name: str) -> Manifest:
    """Send the training package in `folder` to ``<name>/training_package/<package_id>`` and return what lies there.

    All of it is downloaded again and hashed: what a drive says it has stored proves nothing. A copy that is there and
    whole is not sent again; a damaged one is.

    Raises `BadDataError` when the local package is damaged, `RemoteError` when the remote refuses or keeps damaging it.
    """
    package = open_package(folder)
    target = "/".join(part for part in (name, PACKAGES, package.package_id) if part)
    for _ in range(_ATTEMPTS):
        send_sealed(package.folder, remote, target, _KIND)
        with tempfile.TemporaryDirectory(prefix="vnfleet-") as scratch:
            try:
                there = fetch_sealed(
                    remote, target, Path(scratch) / "back", _KIND, quarantine=Path(scratch) / "refused"
                )
            except BadDataError:
                there = None
        if there is not None and dict(there.files) == dict(package.files):
            return there
        remote.delete(f"{target}/{MANIFEST_NAME}")
    raise RemoteError(
        "the remote does not keep the training package as it was sent",
        where=target,
        fix="vnfleet remote check, then run again",
    )
