"""The worker's command: where it takes its remote from."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vnfleet.cli.main import main
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import WorkerStatus


@pytest.fixture(autouse=True)
def _nothing_personal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VNFLEET_REMOTE__REMOTE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the remotes that workers were started for; none of them does anything."""
    seen: list[Path] = []

    def run(remote: FolderTransfer, *_: object, **__: object) -> SimpleNamespace:
        seen.append(remote.root)
        return SimpleNamespace(worker_id="w", published=(), failed={})

    monkeypatch.setattr("vnfleet.cycle.worker.run_worker", run)
    return seen


@pytest.mark.parametrize("way", ["option", "file", "environment"])
def test_a_worker_takes_its_remote_from_the_command_line_or_the_settings(
    way: str, asked: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    words = ["worker", "--once", "--workdir", str(tmp_path / "w")]
    if way != "environment":
        named = home if way == "file" else other
        (tmp_path / "vnfleet.toml").write_text(f'[remote]\nremote = "{named.as_posix()}"\n', encoding="utf-8")
    else:
        monkeypatch.setenv("VNFLEET_REMOTE__REMOTE", str(home))
    assert main([*words, "--remote", str(home)] if way == "option" else words) == 0
    assert asked == [home]


def test_a_worker_without_a_remote_says_both_ways_to_name_one(
    asked: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "--once", "--workdir", str(tmp_path / "w")]) == 2
    said = capsys.readouterr().err
    assert "no remote is named" in said
    assert "--remote gdrive:VN-Quant-Training" in said
    assert "[remote] in vnfleet.toml" in said
    assert "VNFLEET_REMOTE__REMOTE" in said
    assert asked == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_a_worker_that_a_service_manager_stops_says_so(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    command = [sys.executable, "-m", "vnfleet.cli", "worker", "--remote", str(drive), "--workdir", str(tmp_path / "w")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        end = time.monotonic() + 60.0
        while not (told := list(drive.glob("status/workers/*.json"))):
            assert time.monotonic() < end, "the worker did not tell that it is there"
            time.sleep(0.05)
        running.terminate()
        assert running.wait(timeout=60) == 130
    assert WorkerStatus.model_validate_json(told[0].read_bytes()).state == "stopped"
