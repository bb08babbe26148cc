"""The plan's folder on the remote, ``VN-Quant-Training``: made once, and looked at daily.

::

    colab_training_setup.py, vnfleet-*.whl, colab_training.ipynb     what a rented GPU starts from
    data/  models/  checkpoints/  configs/  logs/  status/           see `remote.jobs`, `mirror` and `remote_sync`

The script holds the SHA-256 of the wheel and is written after it, so that it never trusts a wheel that is not whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from vnfleet.core.errors import RemoteError, VnfleetError
from vnfleet.core.ids import sha256_of_file
from vnfleet.cycle.mirror import MirroredRelease, releases_there
from vnfleet.cycle.wheel import NOTEBOOK_NAME, SETUP_NAME, build_wheel, notebook_text, setup_script
from vnfleet.remote.entries import Entry
from vnfleet.remote.rclone import RemoteAbsentError, RemoteDamagedError
from vnfleet.remote.transfer import Transfer

HOME_FOLDERS = ("data", "models", "checkpoints", "configs", "logs", "status")
PROBES = "status/probes"
_PINS = re.compile(r'^WHEEL_(NAME|SHA256) = "(.+)"$', re.MULTILINE)
_PROBE_BYTES = 64 * 2**10
_LOOKS = 20
_LOOK_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A home that was made: its folders, and the size in bytes of each file at its root."""

    folders: tuple[str, ...]
    files: dict[str, int]
    wheel_name: str
    wheel_sha256: str

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values."""
        return {
            "folders": list(self.folders),
            "files": dict(self.files),
            "wheel": self.wheel_name,
            "wheel_sha256": self.wheel_sha256,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeCheck:
    """What a look at the home found.

    seconds : of each thing that was tried. releases : models on the remote, oldest first. missing : what `remote init`
    would make, in words; nothing of it keeps a transfer from working.
    """

    seconds: dict[str, float]
    releases: tuple[MirroredRelease, ...]
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values."""
        return {
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "releases": [
                {
                    "release_id": one.release_id,
                    "finished": one.has_manifest,
                    "models": one.num_models,
                    "bytes": one.num_bytes,
                }
                for one in self.releases
            ],
            "missing": list(self.missing),
        }


def init_home(remote: Transfer, scratch: Path) -> Home:
    """Make the folders and put wheel, notebook and script at the root; safe to run again, nothing else is touched.

    The wheel is built here, without network, and read back and hashed before the script that trusts it is written.
    `scratch` is an empty folder. Raises `RemoteError` when the remote gives back other bytes.
    """
    remote.make_folder(".")
    for folder in HOME_FOLDERS:
        remote.make_folder(folder)
    wheel = build_wheel(scratch)
    sha256 = sha256_of_file(wheel)
    _put_once(remote, wheel, wheel.name)
    back = scratch / "back"
    remote.get_file(wheel.name, back)
    if sha256_of_file(back) != sha256:
        raise _other_bytes(wheel.name)
    files = {wheel.name: wheel.stat().st_size}
    for name, text in ((NOTEBOOK_NAME, notebook_text()), (SETUP_NAME, setup_script(wheel.name, sha256))):
        source = scratch / name
        source.write_text(text, encoding="utf-8", newline="\n")
        _put_once(remote, source, name)
        if remote.read_text(name) != text:
            raise _other_bytes(name)
        files[name] = source.stat().st_size
    return Home(folders=HOME_FOLDERS, files=files, wheel_name=wheel.name, wheel_sha256=sha256)


def check_home(
    remote: Transfer,
    scratch: Path,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> HomeCheck:
    """Write, list, read back and hash a probe, write over it and read that back too, remove it, and list the models.

    The second writing has the length of the first: some remotes go on showing what was there before. Raises
    `RemoteError` with the fix when one of these fails; the probe is removed all the same, as far as possible.
    """
    name = f"{PROBES}/{uuid.uuid4().hex}.bin"
    seconds: dict[str, float] = {}

    def timed(what: str, since: float) -> float:
        now = monotonic()
        seconds[what] = now - since
        return now

    start = monotonic()
    try:
        first = _write_probe(remote, scratch, name)
        then = timed("write", start)
        _must_be_listed(remote, name, sleep)
        then = timed("list", then)
        _must_read(remote, scratch, name, first)
        then = timed("read back", then)
        _must_read(remote, scratch, name, _write_probe(remote, scratch, name))
        then = timed("write over", then)
    except BaseException:
        _remove_quietly(remote, name)
        raise
    remote.delete(name)
    then = timed("remove", then)
    releases = releases_there(remote)
    then = timed("list the models", then)
    missing = _missing(remote, scratch)
    timed("look at the home", then)
    seconds["in all"] = monotonic() - start
    return HomeCheck(seconds=seconds, releases=releases, missing=missing)


def _missing(remote: Transfer, scratch: Path) -> tuple[str, ...]:
    try:
        script = remote.read_text(SETUP_NAME)
    except RemoteAbsentError:
        absent = [f"{folder}/ is not there" for folder in HOME_FOLDERS if not remote.exists(folder)]
        return (*absent, f"{SETUP_NAME} is not there: a Colab session has nothing to start from")
    except RemoteDamagedError:
        return (f"{SETUP_NAME} is damaged: it is no text, and a Colab session cannot start from it",)
    # With the script in place a folder that is not there was only never needed: object stores keep no empty ones.
    pinned = dict(_PINS.findall(script))
    wheel, target = pinned.get("NAME", ""), scratch / "wheel"
    there = {entry.path for entry in root_files(remote)}
    if wheel not in there:
        return (f"{wheel or 'the wheel'} is not there, and {SETUP_NAME} installs no other",)
    remote.get_file(wheel, target)
    if sha256_of_file(target) != pinned.get("SHA256"):
        return (f"{wheel} is another file than the one {SETUP_NAME} installs",)
    if pinned["SHA256"] != sha256_of_file(build_wheel(scratch)):
        return (f"{wheel} is of another vnfleet than the one here, and its workers leave this one's jobs alone",)
    return () if NOTEBOOK_NAME in there else (f"{NOTEBOOK_NAME} is not there",)


def root_files(remote: Transfer) -> tuple[Entry, ...]:
    """Return the files at the root of the home."""
    return tuple(entry for entry in remote.list(".", "/*") if "/" not in entry.path)


def _put_once(remote: Transfer, source: Path, name: str) -> None:
    """Upload a file so that there is one of its name: drives allow two, and show either."""
    if sum(entry.path == name for entry in root_files(remote)) > 1:
        remote.delete(name)
    remote.put_file(source, name)


def _write_probe(remote: Transfer, scratch: Path, name: str) -> str:
    payload = os.urandom(_PROBE_BYTES)
    source = scratch / f"probe-{uuid.uuid4().hex[:8]}"
    source.write_bytes(payload)
    remote.put_file(source, name)
    source.unlink()
    return hashlib.sha256(payload).hexdigest()


def _must_be_listed(remote: Transfer, name: str, sleep: Callable[[float], None]) -> None:
    wanted = name.rpartition("/")[2]
    sizes: list[int] = []
    for look in range(_LOOKS):
        if look:
            sleep(_LOOK_PAUSE_SECONDS)
        sizes = [entry.size_bytes for entry in remote.list(PROBES) if entry.path == wanted]
        if sizes == [_PROBE_BYTES]:
            return
    raise RemoteError(
        "the remote does not list a file that was just written to it",
        where=name,
        expected=f"one file of {_PROBE_BYTES} bytes",
        found=f"sizes {sizes}" if sizes else f"nothing for {_LOOKS * _LOOK_PAUSE_SECONDS:.0f} s",
        fix="wait some minutes and check again; if it stays so, use another remote (`rclone config`)",
    )


def _must_read(remote: Transfer, scratch: Path, name: str, sha256: str) -> None:
    target = scratch / f"probe-{uuid.uuid4().hex[:8]}"
    remote.get_file(name, target)
    found = sha256_of_file(target)
    target.unlink()
    if found != sha256:
        raise _other_bytes(name)


def _other_bytes(name: str) -> RemoteError:
    return RemoteError(
        "the remote gave back other bytes than were written",
        where=name,
        fix="run it again; if it stays so do not use this remote (a mounted drive: restart its program or mount anew)",
    )


def _remove_quietly(remote: Transfer, name: str) -> None:
    try:
        remote.delete(name)
    except VnfleetError:  # the first error is the one to tell
        return
