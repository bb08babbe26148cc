"""The commands of the shared folder: what they ask for, what they print, and their exit codes."""

import json
import os
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vnfleet.cli import remote
from vnfleet.cli.main import app, main
from vnfleet.core.errors import RemoteError
from vnfleet.cycle.remote_steps import setup_steps
from vnfleet.releases.registry import ReleaseContents, build_release
from vnfleet.remote.entries import Space
from vnfleet.remote.folder import FolderTransfer

SYMBOLS = ("FPT", "HPG", "VCB")
if "remote" not in {group.typer_instance.info.name for group in app.registered_groups if group.typer_instance}:
    remote.register(app)


@pytest.fixture(autouse=True)
def _no_personal_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)
    monkeypatch.chdir(tmp_path)  # a vnfleet.toml of the person who runs the tests counts nothing


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "VN-Quant-Training"


class Desk:
    """One machine: runs commands in its work directory and keeps what they said."""

    def __init__(self, workdir: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.workdir, self.home, self._capsys = workdir, home, capsys
        self.out = self.err = ""

    def run(self, *words: str, shared: str | None = None) -> int:
        code = main(["remote", *words, "--remote", shared or str(self.home), "--workdir", str(self.workdir)])
        self.out, self.err = self._capsys.readouterr()
        return code

    def document(self, *words: str) -> dict[str, Any]:
        assert self.run(*words, "--json") == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        assert (found["ok"], found["exit_code"]) == (True, 0)
        return found

    def release(self, name: str = "a") -> str:
        """Build a release whose model files are no models."""
        paths = {symbol: self.workdir / name / f"{symbol}.pt" for symbol in SYMBOLS}
        for symbol, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{symbol} {name}", encoding="utf-8")
        contents = ReleaseContents(artifacts=paths, serving=dict.fromkeys(SYMBOLS, "pooled"))
        return build_release(self.workdir / "models_prod", date(2026, 11, 20), contents)


@pytest.fixture
def desk(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path / "desk", home, capsys)


def test_init_then_check_then_audit(desk: Desk) -> None:
    made = desk.document("init")
    assert made["folders"] == ["data", "models", "checkpoints", "configs", "logs", "status"]
    assert len(made["wheel_sha256"]) == 64
    found = desk.document("check")
    assert (found["missing"], found["releases"]) == ([], [])
    assert found["seconds"]["in all"] < 300  # the plan's daily test has five minutes
    assert desk.document("audit")["waste"] == []
    assert desk.run("init") == 0
    assert "next: vnfleet remote check" in desk.out
    assert "[remote]" in desk.out
    assert desk.run("check") == 0
    assert "the remote gives back what is written to it" in desk.out
    assert desk.run("audit") == 0
    assert "nothing there that nobody needs" in desk.out


def test_a_check_of_an_unprepared_folder_names_the_fix(desk: Desk) -> None:
    desk.home.mkdir()
    assert desk.run("check") == 0
    assert "colab_training_setup.py is not there" in desk.out
    assert "vnfleet remote init" in desk.out


def test_a_remote_that_is_not_there_is_exit_code_7_with_the_fix(desk: Desk) -> None:
    assert desk.run("check", shared=str(desk.home / "not" / "mounted")) == 7
    assert "mount the drive" in desk.err
    assert desk.run("check", "--json", shared="nobody:VN-Quant-Training") == 7
    document = json.loads(desk.out)
    assert (document["ok"], document["exit_code"]) == (False, 7)
    assert "rclone config" in document["error"]


def test_without_a_remote_it_says_where_to_name_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remote", "check", "--workdir", str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err
    assert "no remote is named" in said
    assert "vnfleet remote setup" in said


def test_the_remote_of_the_settings_is_the_default(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "vnfleet.toml").write_text(f'[remote]\nremote = "{desk.home.as_posix()}"\n', encoding="utf-8")
    assert main(["remote", "init", "--workdir", str(desk.workdir)]) == 0
    assert (desk.home / "colab_training_setup.py").is_file()


def test_a_bare_drive_is_refused_before_its_top_folder_is_filled(desk: Desk) -> None:
    assert desk.run("init", shared="gdrive:") == 2
    assert "gdrive:VN-Quant-Training" in desk.err


@pytest.mark.parametrize(
    "words", [(), ("--up", "--down"), ("--both", "--up"), ("--down", "--anew"), ("--both", "--release", "x")]
)
def test_sync_needs_one_direction_that_fits(words: tuple[str, ...], desk: Desk) -> None:
    assert desk.run("sync", *words) == 2


def test_sync_up_sends_the_release_and_a_dry_run_sends_nothing(desk: Desk) -> None:
    release_id = desk.release()
    (desk.workdir / "reports").mkdir()
    (desk.workdir / "reports" / "2026-W47.html").write_text("<p>", encoding="utf-8")
    desk.home.mkdir()
    told = desk.document("sync", "--up", "--dry-run")
    assert told["models"]["sent"] == {"release_id": release_id}
    assert [one["path"] for one in told["files"]["up"]] == ["reports/2026-W47.html"]
    assert list(desk.home.iterdir()) == []
    done = desk.document("sync", "--up")
    assert done["models"]["sent"]["files"] == 5
    assert (desk.home / "models" / release_id / "manifest.json").is_file()
    again = desk.document("sync", "--both")
    assert (again["models"]["sent"]["files"], again["files"]["equal"]) == (0, 1)
    assert [one["release_id"] for one in desk.document("check")["releases"]] == [release_id]


def test_sync_down_judges_what_came_and_refuses_what_are_no_models(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.release()
    desk.home.mkdir()
    assert desk.run("sync", "--up") == 0
    other = Desk(tmp_path / "other", desk.home, capsys)
    assert other.run("sync", "--down", "--dry-run") == 0
    assert "would be brought here and judged" in other.out
    assert other.run("sync", "--down") == 3
    assert "a file is not a vnfleet model" in other.err
    assert not list((other.workdir / "models").glob("*.pt"))


def test_sync_down_brings_a_good_release(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id = desk.release()
    desk.home.mkdir()
    assert desk.run("sync", "--up") == 0
    other = Desk(tmp_path / "other", desk.home, capsys)
    monkeypatch.setattr("vnfleet.cycle.received.judge_received", lambda *_: (3, "3 models are whole"))
    assert other.run("sync", "--down") == 0
    assert f"vnfleet deploy {release_id}" in other.out
    assert main(["deploy", release_id, "--workdir", str(other.workdir)]) == 0
    capsys.readouterr()
    assert other.run("sync", "--down", "--release", release_id) == 0
    assert "is here already" in other.out
    assert other.run("sync", "--down", "--release", "../x") == 2


def test_settings_of_another_vnfleet_stay_out(desk: Desk) -> None:
    (desk.home / "configs").mkdir(parents=True)
    (desk.home / "configs" / "training_config.json").write_text('{"unknown_key": 1}', encoding="utf-8")
    found = desk.document("sync", "--down")
    assert found["files"]["down"] == []
    assert "refused" in found["files"]["conflict"][0]["why"]
    assert not (desk.workdir / "configs" / "training_config.json").exists()


def torn_upload(home: Path) -> Path:
    path = home / "models" / ".FPT_stockformer.pt.tmp-0123abcd"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 2048)
    os.utime(path, (0, 0))
    return path


def test_audit_removes_only_when_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = torn_upload(desk.home)
    assert desk.run("audit") == 0
    assert "half written" in desk.out
    assert "2.0 KiB could go" in desk.out
    assert desk.run("audit", "--clean") == 2  # nobody is at the keyboard
    assert "--clean --yes" in desk.err
    assert path.exists()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    answers = [False, True]
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answers.pop(0))
    assert desk.run("audit", "--clean") == 0
    assert path.exists()
    assert desk.run("audit", "--clean") == 0
    assert not path.exists()
    torn_upload_again = torn_upload(desk.home / "x")
    assert desk.document("audit", "--clean", "--yes")["freed_bytes"] == 2048
    assert not torn_upload_again.exists()


def test_the_trash_is_told_and_never_emptied(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.home.mkdir()
    monkeypatch.setattr(FolderTransfer, "about", lambda _: Space(used_bytes=3 * 2**30, trashed_bytes=2**30))
    assert desk.run("audit") == 0
    assert "used 3.0 GiB, in the trash 1.0 GiB" in desk.out
    assert "rclone cleanup" in desk.out


def test_setup_walks_through_a_client_id_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["remote", "setup", "--workdir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for words in ("client_id=", "Publish the app", "scope=drive", "vnfleet remote init", "crypt", "/content/drive"):
        assert words in said
    assert main(["remote", "setup", "--json", "--workdir", str(tmp_path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["steps"]) == 5


def test_setup_says_how_to_install_rclone_where_it_is_missing() -> None:
    def missing() -> object:
        raise RemoteError("rclone is not installed", fix="install it with pip")

    assert setup_steps(missing)[0].lines == ("rclone is not installed", "Do: install it with pip")


@pytest.mark.parametrize("command", ["setup", "init", "check", "sync", "audit"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remote", command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"Example:  vnfleet remote {command}" in said
    assert "--json" in said
    assert "--workdir" in said
