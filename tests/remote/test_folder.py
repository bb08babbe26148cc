"""Folders without rclone: what mounts of a drive do that disks do not."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vnfleet.core.errors import RemoteError, ResourceError, UsageError
from vnfleet.core.sealed import sealing
from vnfleet.remote.entries import MAX_TEXT_BYTES
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.parcels import fetch_sealed, send_sealed
from vnfleet.remote.patterns import Pattern
from vnfleet.remote.progress import TransferProgress
from vnfleet.remote.rclone import RemoteAbsentError, RemoteDamagedError, RemoteFullError, RemoteUnavailableError

posix_only = pytest.mark.skipif(os.name == "nt", reason="links and modes of POSIX")


Use = Callable[[], object]


def failing(monkeypatch: pytest.MonkeyPatch, code: int, times: int = 1000) -> None:
    """Let the next `times` flushes of a file fail with a system code."""
    left = [times]
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_two_files_of_one_name_are_two_entries_and_are_removed_together(plain_remote: FolderTransfer) -> None:
    plain_remote.write_text("status/u.lease.json", "one")
    plain_remote.write_text("status/u.lease (1).json", "another")  # how mounts show a double
    plain_remote.write_text("status/plain (2).json", "no double of anything")
    listed = plain_remote.list("status")
    assert [entry.path for entry in listed] == ["plain (2).json", "u.lease.json", "u.lease.json"]
    assert sorted(entry.size_bytes for entry in plain_remote.list("status", "/*.lease.json")) == [3, 7]
    plain_remote.delete("status/u.lease.json")
    assert [entry.path for entry in plain_remote.list("status")] == ["plain (2).json"]


def test_files_that_appear_after_their_manifest_are_waited_for(tmp_path: Path) -> None:
    naps: list[float] = []

    def arrive(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            (tmp_path / "elsewhere").replace(tmp_path / "remote" / "p" / "weights")

    remote = FolderTransfer(tmp_path / "remote", late_seconds=60.0, sleep=arrive)
    with sealing(tmp_path / "local", "unit", {}) as scratch:
        (scratch / "weights").write_text("w")
    send_sealed(tmp_path / "local", remote, "p", "unit")
    (tmp_path / "remote" / "p" / "weights").replace(tmp_path / "elsewhere")
    assert fetch_sealed(remote, "p", tmp_path / "in", "unit", quarantine=tmp_path / "q") is not None
    assert len(naps) == 3


def test_files_that_never_appear_are_left_out_after_the_wait(tmp_path: Path) -> None:
    naps: list[float] = []
    remote = FolderTransfer(tmp_path / "remote", late_seconds=2.0, sleep=naps.append)
    remote.write_text("p/a", "a")
    remote.get_folder("p", tmp_path / "in", ["a", "b"])
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a"]
    assert sum(naps) == 2.0


def test_a_mount_that_drops_is_an_outage_not_an_empty_remote(tmp_path: Path) -> None:
    remote = FolderTransfer(tmp_path / "remote")
    remote.write_text("jobs/j/state.json", "{}")
    (tmp_path / "remote").replace(tmp_path / "unmounted")
    (tmp_path / "x").write_text("x")
    for use in (
        lambda: remote.list("jobs"),
        lambda: remote.exists("jobs"),
        lambda: remote.read_text("jobs/j/state.json"),
        lambda: remote.write_text("a", "b"),
        lambda: remote.put_file(tmp_path / "x", "a"),
        lambda: remote.get_folder("jobs", tmp_path / "in", ["j"]),
        remote.about,
    ):
        with pytest.raises(RemoteUnavailableError, match="mount it again"):
            use()
    assert not (tmp_path / "remote").exists()  # nothing was written where the drive used to be
    (tmp_path / "unmounted").replace(tmp_path / "remote")
    assert remote.read_text("jobs/j/state.json") == "{}"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, RemoteFullError),
        (errno.EDQUOT, RemoteFullError),
        (errno.EIO, RemoteUnavailableError),
        (errno.ENOTCONN, RemoteUnavailableError),
        (errno.ESTALE, RemoteUnavailableError),
        (errno.EROFS, RemoteError),
    ],
)
def test_what_a_mount_refuses_has_its_name_and_leaves_the_old_file(
    plain_remote: FolderTransfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, error: type[RemoteError]
) -> None:
    plain_remote.write_text("a", "old")
    (tmp_path / "new").write_text("new")
    failing(monkeypatch, code)
    uses: tuple[Use, ...] = (
        lambda: plain_remote.write_text("a", "new"),
        lambda: plain_remote.put_file(tmp_path / "new", "a"),
    )
    for use in uses:
        with pytest.raises(RemoteError) as caught:
            use()
        assert type(caught.value) is error
    assert plain_remote.read_text("a") == "old"
    assert [entry.path for entry in plain_remote.list(".", leftovers=True)] == ["a"]


def test_a_full_disk_here_is_not_blamed_on_the_remote(
    plain_remote: FolderTransfer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain_remote.write_text("a", "x")
    failing(monkeypatch, errno.ENOSPC)
    with pytest.raises(ResourceError, match="disk is full"):
        plain_remote.get_file("a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_mount_that_cannot_flush_still_takes_files(
    plain_remote: FolderTransfer, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failing(monkeypatch, code)
    plain_remote.write_text("a", "x")
    assert plain_remote.read_text("a") == "x"


def test_a_rename_that_gets_lost_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    remote = FolderTransfer(tmp_path / "remote", sleep=naps.append)
    real, calls = os.replace, [0]

    def lossy(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] > 2:
            real(source, target)

    monkeypatch.setattr(os, "replace", lossy)
    remote.write_text("a", "x")
    assert remote.read_text("a") == "x"
    assert len(naps) == 2
    calls[0] = -1000
    with pytest.raises(RemoteUnavailableError, match="lost a file"):
        remote.write_text("b", "x")
    assert remote.list(".", leftovers=True) == remote.list(".", "/a")


def test_readers_see_old_or_new_never_half(tmp_path: Path) -> None:
    remote = FolderTransfer(tmp_path / "remote")
    texts = ["a" * 200_000, "b" * 100_000]
    remote.write_text("x", texts[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for text in texts:
                remote.write_text("x", text)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        assert all(remote.read_text("x") in texts for _ in range(100))
    finally:
        stop.set()
        for writer in writers:
            writer.join()


@posix_only
def test_links_do_not_lead_out_of_the_remote(tmp_path: Path) -> None:
    remote = FolderTransfer(tmp_path / "remote")
    remote.write_text("kept", "x")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    (tmp_path / "remote" / "status").symlink_to(tmp_path / "private")
    (tmp_path / "remote" / "link").symlink_to(tmp_path / "private" / "key")
    assert [entry.path for entry in remote.list(".")] == ["kept"]
    for use in (
        lambda: remote.read_text("status/key"),
        lambda: remote.read_text("link"),
        lambda: remote.write_text("status/new", "x"),
        lambda: remote.purge("status"),
    ):
        with pytest.raises(RemoteError, match="leaves its folder"):
            use()
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["key"]


@posix_only
@pytest.mark.skipif(os.name != "nt" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir(mode=0o555)
    with pytest.raises(RemoteError, match="refused access"):
        FolderTransfer(tmp_path / "remote").write_text("a", "x")


def test_a_limit_slows_a_copy_down_and_progress_is_told(tmp_path: Path) -> None:
    naps: list[float] = []
    told: list[TransferProgress] = []
    remote = FolderTransfer(tmp_path / "remote", bandwidth_limit="1M:4M", told=told.append, sleep=naps.append)
    (tmp_path / "big").write_bytes(b"x" * (3 * 2**20))
    remote.put_file(tmp_path / "big", "big")
    assert naps[-1] == pytest.approx(3.0, abs=0.5)  # 3 MiB at 1 MiB/s, with a sleep that does not sleep
    naps.clear()
    remote.get_file("big", tmp_path / "back")
    assert naps[-1] == pytest.approx(0.75, abs=0.25)
    assert (told[-1].files_done, told[-1].bytes_done, told[-1].eta_seconds) == (1, 3 * 2**20, 0.0)
    with pytest.raises(UsageError, match="needs rclone"):
        FolderTransfer(tmp_path, bandwidth_limit="08:00,1M 23:00,off")


def test_moving_into_a_folder_that_is_there_takes_the_files_in(plain_remote: FolderTransfer) -> None:
    for name in ("a/x", "a/inner/y", "b/x", "b/z"):
        plain_remote.write_text(name, name)
    plain_remote.move("a", "b")
    assert [entry.path for entry in plain_remote.list(".")] == ["b/inner/y", "b/x", "b/z"]
    assert plain_remote.read_text("b/x") == "a/x"
    with pytest.raises(RemoteAbsentError):
        plain_remote.move("a", "c")


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        (None, "a/b", True),
        ("/*.json", "a.json", True),
        ("/*.json", "a/b.json", False),
        ("*.json", "a/b.json", True),
        ("b/*.json", "a/b/c.json", True),
        ("b/*.json", "ab/c.json", False),
        ("/a/**", "a/b/c", True),
        ("/a/**", "b/a/c", False),
        ("/?.{json,txt}", "a.txt", True),
        ("/?.{json,txt}", "ab.txt", False),
        ("/a.json", "aXjson", False),
    ],
)
def test_patterns_mean_what_they_mean_to_rclone(pattern: str | None, path: str, matches: bool) -> None:
    assert Pattern(pattern).matches(path) is matches
    if matches and "/" in path:
        assert Pattern(pattern).may_hold(path.rsplit("/", 1)[0])


def test_folders_that_cannot_match_are_not_opened() -> None:
    pattern = Pattern("/*/result/manifest.json")
    assert pattern.may_hold("u1")
    assert pattern.may_hold("u1/result")
    assert not pattern.may_hold("u1/checkpoints")
    assert not pattern.may_hold("u1/result/deeper")


def test_a_folder_that_another_thread_makes_meanwhile_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = FolderTransfer(tmp_path / "remote")
    real = Path.is_dir

    def looked_too_early(path: Path) -> bool:
        if path == remote.root and not remote._seen:
            remote.root.mkdir()
            remote._seen = True  # as a write in another thread does
            return False
        return real(path)

    monkeypatch.setattr(Path, "is_dir", looked_too_early)
    remote.write_text("f", "x")
    assert remote.read_text("f") == "x"


def test_many_missing_files_are_looked_through_once(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    class Counted(str):
        __slots__ = ()
        hashed = 0

        def __hash__(self) -> int:
            Counted.hashed += 1
            return super().__hash__()

        __eq__ = str.__eq__

    plain_remote.write_text("p/here", "here")
    names = [Counted(f"absent{number}") for number in range(200)]
    plain_remote.get_folder("p", tmp_path / "in", [*names, "here"])
    assert (tmp_path / "in" / "here").read_text() == "here"
    assert Counted.hashed < 10 * len(names)  # a set of them for every file would be 200 * 200


@pytest.mark.parametrize("payload", [b"\xff\xfe", b"a" * (MAX_TEXT_BYTES + 1)])
def test_what_is_no_small_text_is_damaged(plain_remote: FolderTransfer, payload: bytes) -> None:
    plain_remote.write_text("noise", "")
    (plain_remote.root / "noise").write_bytes(payload)
    with pytest.raises(RemoteDamagedError):
        plain_remote.read_text("noise")
