"""rclone for real over its own servers, an encrypted remote, and servers that refuse, are full or die in the middle."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vnfleet.core.errors import BadDataError, RemoteError, ResourceError
from vnfleet.core.sealed import sealing, verify
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.parcels import fetch_sealed, send_sealed
from vnfleet.remote.progress import TransferProgress
from vnfleet.remote.rclone import RemoteAbsentError, RemoteFullError, RemoteUnavailableError
from vnfleet.remote.running import Patience
from vnfleet.remote.transfer import RcloneTransfer, Transfer

QUICK = Patience(small_seconds=20, folder_seconds=20, attempts=2, pause_seconds=0.01, crowded_pause_seconds=0.02)


class Refusing:
    """A WebDAV server that lets everybody look and answers uploads with one status; counts the uploads."""

    def __init__(self) -> None:
        self.status = 507
        self.uploads = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.uploads += self.command == "PUT"
                answers = {"PROPFIND": 404, "MKCOL": 201, "DELETE": 204}
                self.send_response(answers.get(self.command, outer.status))
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_PUT = do_PROPFIND = do_MKCOL = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    stub = Refusing()
    thread = threading.Thread(target=stub.server.serve_forever, daemon=True)
    thread.start()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()
    thread.join()


@pytest.mark.parametrize("kind", ["sftp", "s3"])
def test_a_remote_behind_a_server_does_all_that_a_folder_does(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    remote: RcloneTransfer = request.getfixturevalue(kind).transfer()
    with sealing(tmp_path / "local", "unit", {"seed": 1}) as scratch:
        (scratch / "weights.bin").write_text("weights")
    assert send_sealed(tmp_path / "local", remote, "checkpoints/u/result", "unit")
    assert not send_sealed(tmp_path / "local", remote, "checkpoints/u/result", "unit")
    assert fetch_sealed(remote, "checkpoints/u/result", tmp_path / "in", "unit", quarantine=tmp_path / "q") is not None
    assert verify(tmp_path / "in", "unit") == verify(tmp_path / "local", "unit")
    remote.write_text("status/một.json", "worker-1")
    remote.write_text("status/một.json", "worker-2")  # of equal length
    assert remote.read_text("status/một.json") == "worker-2"
    (tmp_path / "local" / "weights.bin").write_text("WEIGHTS")
    remote.put_folder(tmp_path / "local", "checkpoints/u/result", ["weights.bin"])
    with pytest.raises(BadDataError, match=r"weights\.bin"):
        fetch_sealed(remote, "checkpoints/u/result", tmp_path / "again", "unit", quarantine=tmp_path / "q")
    remote.move("checkpoints/u/result", "quarantine/bad")
    assert [entry.path for entry in remote.list(".")] == [
        "quarantine/bad/manifest.json",
        "quarantine/bad/weights.bin",
        "status/một.json",
    ]
    assert not remote.exists("checkpoints/u/result")
    assert remote.exists("quarantine/bad")
    remote.purge("quarantine")
    remote.purge("quarantine")
    remote.make_folder("data")
    remote.delete("status/một.json")
    remote.delete("status/một.json")
    assert remote.list(".") == ()
    with pytest.raises(RemoteAbsentError):
        remote.read_text("status/một.json")
    with pytest.raises(RemoteAbsentError):
        remote.get_file("nowhere/x", tmp_path / "x")
    with pytest.raises(RemoteAbsentError):
        remote.move("nowhere/x", "somewhere")
    assert (remote.about().free_bytes is None) == (kind == "s3")  # object stores do not tell


def test_an_equal_file_travels_once_where_the_remote_has_hashes(sftp: Any, tmp_path: Path) -> None:
    told: list[TransferProgress] = []
    remote = sftp.transfer(told=told.append)
    (tmp_path / "weights").write_bytes(b"w" * 10_000)
    remote.put_folder(tmp_path, "p", ["weights"])
    assert told[-1].bytes_done == 10_000
    remote.put_folder(tmp_path, "p", ["weights"])
    assert (told[-1].files_done, told[-1].bytes_done) == (0, 0)


def test_an_encrypted_remote_needs_nothing_special_and_shows_nothing(
    rclone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = subprocess.run([rclone, "obscure", "x"], capture_output=True, text=True, check=True).stdout.strip()
    config = tmp_path / "rclone.conf"
    config.write_text(f"[secret]\ntype = crypt\nremote = {tmp_path / 'drive'}\npassword = {hidden}\n", encoding="utf-8")
    monkeypatch.setenv("RCLONE_CONFIG", str(config))
    remote = RcloneTransfer("secret:VN-Quant-Training", binary=rclone, patience=QUICK)
    with sealing(tmp_path / "local", "unit", {"seed": 1}) as scratch:
        (scratch / "weights.bin").write_text("weights of FPT")
    assert send_sealed(tmp_path / "local", remote, "models/r", "unit")
    got = fetch_sealed(remote, "models/r", tmp_path / "in", "unit", quarantine=tmp_path / "q")
    assert got == verify(tmp_path / "local", "unit")
    stored = [path for path in (tmp_path / "drive").rglob("*") if path.is_file()]
    assert len(stored) == 2
    assert not any("weights" in str(path.relative_to(tmp_path)) or b"FPT" in path.read_bytes() for path in stored)


OTHER_KEY = "the crypt password or salt in `rclone config` is not the one"


@pytest.fixture
def crypts(rclone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RcloneTransfer]:
    """Return a maker of encrypted remotes over one folder: (name, path, password); every name is known to rclone."""
    config = tmp_path / "rclone.conf"
    lines = []
    for name, password in (("right", "one"), ("wrong", "two")):
        hidden = subprocess.run([rclone, "obscure", password], capture_output=True, text=True, check=True).stdout
        lines.append(f"[{name}]\ntype = crypt\nremote = {(tmp_path / 'drive').as_posix()}\npassword = {hidden}\n")
    config.write_text("".join(lines), encoding="utf-8")
    monkeypatch.setenv("RCLONE_CONFIG", str(config))
    return lambda remote: RcloneTransfer(remote, binary=rclone, patience=QUICK)


@pytest.mark.parametrize("path", ["", "VN-Quant-Training"])
def test_another_crypt_password_is_no_empty_remote(
    crypts: Callable[..., RcloneTransfer], tmp_path: Path, path: str
) -> None:
    assert crypts(f"wrong:{path}").list("jobs") == ()  # nothing was written yet, with whatever password
    drive = tmp_path / "drive"
    drive.mkdir()
    (drive / "desktop.ini").write_text("not encrypted, and nobody's fault", encoding="utf-8")
    assert crypts(f"wrong:{path}").list("jobs") == ()
    crypts(f"right:{path}").write_text("jobs/j/state.json", "{}")
    before = sorted(drive.rglob("*"))
    uses: tuple[Callable[[RcloneTransfer], object], ...] = (
        lambda wrong: wrong.list("."),
        lambda wrong: wrong.list("jobs", "/*/state.json"),
        lambda wrong: wrong.write_text("status/worker.json", "{}"),
        lambda wrong: wrong.put_folder(drive, "data/objects", ["desktop.ini"]),
        lambda wrong: wrong.make_folder("status"),
    )
    for use in uses:
        with pytest.raises(RemoteError, match=OTHER_KEY) as caught:
            use(crypts(f"wrong:{path}"))
        assert not isinstance(caught.value, RemoteUnavailableError)
        assert "rclone config" in str(caught.value.fix)
    assert sorted(drive.rglob("*")) == before  # nothing was written with the wrong password
    assert [entry.path for entry in crypts(f"right:{path}").list(".")] == ["jobs/j/state.json"]
    assert crypts(f"right:{path}").list("models") == ()


def test_a_file_that_does_not_decrypt_is_told_as_such(crypts: Callable[..., RcloneTransfer], tmp_path: Path) -> None:
    remote = crypts("right:VN-Quant-Training")
    remote.write_text("status/a.json", "{}")
    (file,) = (path for path in (tmp_path / "drive").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(RemoteUnavailableError, match="cannot be decrypted: it is damaged, or written with another"):
        remote.read_text("status/a.json")


@pytest.mark.parametrize("kind", ["plain", "local", "webdav", "sftp"])
def test_what_stands_in_the_way_of_an_upload_is_named(
    request: pytest.FixtureRequest, rclone: Path, tmp_path: Path, kind: str
) -> None:
    root = tmp_path / "remote"
    if kind == "plain":
        remote: Transfer = FolderTransfer(root)
    elif kind == "local":
        remote = RcloneTransfer(str(root), binary=rclone, patience=QUICK)
    else:
        remote = request.getfixturevalue(kind).transfer()
    (root / "logs" / "week.json").mkdir(parents=True)
    (root / "reports").write_text("a file", encoding="utf-8")
    (tmp_path / "here" / "sub").mkdir(parents=True)
    for name in ("a.json", "week.json", "sub/page.html"):
        (tmp_path / "here" / name).write_text("x", encoding="utf-8")
    folders: tuple[Callable[[], object], ...] = (
        lambda: remote.put_folder(tmp_path / "here", "logs", ["a.json", "week.json"]),
        lambda: remote.put_file(tmp_path / "here" / "a.json", "logs/week.json"),
        lambda: remote.write_text("logs/week.json", "{}"),
    )
    for use in folders if kind in {"plain", "local"} else ():  # rclone's own servers hide or remove such a folder
        with pytest.raises(RemoteError, match="a folder stands on the remote where a file should") as caught:
            use()
        assert "week.json" in str(caught.value)
        assert "rename or remove that folder" in str(caught.value)
    for use in (
        lambda: remote.put_folder(tmp_path / "here", "reports", ["sub/page.html"]),
        lambda: remote.write_text("reports/sub/page.html", "{}"),
    ):
        with pytest.raises(RemoteError, match="a file stands on the remote where a folder should") as caught:
            use()
        assert "rename or remove that file" in str(caught.value)
    assert (root / "logs" / "week.json").is_dir()
    assert (root / "reports").read_text(encoding="utf-8") == "a file"


def test_a_locked_configuration_is_not_asked_for_its_password(
    rclone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rclone.conf").write_text("# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\n" + "A" * 64)
    monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
    with pytest.raises(RemoteError, match="RCLONE_CONFIG_PASS"):
        RcloneTransfer("gdrive:x", binary=rclone, patience=QUICK).read_text("a")


@pytest.mark.parametrize("kind", ["webdav", "sftp", "s3"])
def test_a_wrong_password_is_told_at_once_and_never_shown(request: pytest.FixtureRequest, kind: str) -> None:
    waits: list[float] = []
    remote = request.getfixturevalue(kind).transfer("wrong-password", sleep=waits.append)
    uses: tuple[Callable[[], object], ...] = (
        lambda: remote.list("status"),
        lambda: remote.write_text("status/a", "x"),
    )
    for use in uses:
        with pytest.raises(RemoteError) as caught:
            use()
        assert not isinstance(caught.value, RemoteUnavailableError)
        assert "rclone config" in str(caught.value) or "password or key is wrong" in str(caught.value)
        assert remote.remote.rsplit("=", 1)[-1].split(":")[0] not in str(caught.value)
    assert waits == []


@pytest.mark.parametrize(
    ("status", "error", "words", "uploads"),
    [
        (507, RemoteFullError, "empty the trash", 1),
        (401, RemoteError, "stored login", 1),
        (403, RemoteError, "refused access", 1),
        (429, RemoteUnavailableError, "slow down", 4),
    ],
)
def test_each_refusal_of_a_server_is_retried_as_its_kind_deserves(
    rclone: Path, refusing: Refusing, status: int, error: type[RemoteError], words: str, uploads: int
) -> None:
    refusing.status = status
    waits: list[float] = []
    path = f':webdav,url="http://127.0.0.1:{refusing.server.server_address[1]}":'
    remote = RcloneTransfer(path, binary=rclone, patience=QUICK, sleep=waits.append)
    with pytest.raises(error, match=words) as caught:
        remote.write_text("status/a.json", "x")
    assert type(caught.value) is error
    assert refusing.uploads == uploads  # rclone tries what may pass twice by itself
    assert waits == ([0.02] if status == 429 else [])


def test_a_server_that_dies_in_the_middle_of_a_file_is_an_outage_and_the_next_try_heals_it(
    webdav: Any, tmp_path: Path
) -> None:
    with sealing(tmp_path / "local", "unit", {}) as scratch:
        (scratch / "weights.bin").write_bytes(b"w" * 6_000_000)
    told: list[TransferProgress] = []

    def unplug(progress: TransferProgress) -> None:
        told.append(progress)
        webdav.kill()

    slow = webdav.transfer(told=unplug, bandwidth_limit="2M")
    with pytest.raises(RemoteUnavailableError):
        send_sealed(tmp_path / "local", slow, "p", "unit")
    assert 0 < told[0].bytes_done < told[0].bytes_total == 6_000_000
    webdav.start()
    remote = webdav.transfer()
    assert not remote.exists("p/manifest.json")
    assert fetch_sealed(remote, "p", tmp_path / "in", "unit", quarantine=tmp_path / "q") is None
    assert send_sealed(tmp_path / "local", remote, "p", "unit")
    assert fetch_sealed(remote, "p", tmp_path / "in", "unit", quarantine=tmp_path / "q") is not None


def test_a_download_that_is_cut_leaves_no_file(webdav: Any, tmp_path: Path) -> None:
    with (webdav.root / "big").open("wb") as file:
        file.truncate(200_000_000)  # more than what lies in the buffers of both sides
    slow = webdav.transfer(told=lambda _: webdav.kill(), bandwidth_limit="30M")
    with pytest.raises(RemoteUnavailableError):
        slow.get_file("big", tmp_path / "in" / "big")
    assert not (tmp_path / "in" / "big").exists()


def test_whoever_listens_may_end_a_transfer(webdav: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"w" * 6_000_000)

    def stop(_: TransferProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        webdav.transfer(told=stop, bandwidth_limit="2M").put_file(tmp_path / "big", "big")


def test_a_full_disk_here_is_not_blamed_on_the_remote(rclone: Path, tmp_path: Path) -> None:
    script = tmp_path / "rclone"
    script.write_text(
        '#!/bin/sh\ncase "$*" in *copyto*) echo "write x: no space left on device" >&2; exit 1;; esac\n'
        f'exec {rclone} "$@"\n'
    )
    script.chmod(0o755)
    remote = RcloneTransfer(str(tmp_path / "remote"), binary=script, patience=QUICK)
    with pytest.raises(ResourceError, match="this computer"):
        remote.get_file("x", tmp_path / "x")
    with pytest.raises(RemoteFullError):
        remote.put_file(script, "x")
