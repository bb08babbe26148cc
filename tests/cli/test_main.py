"""What cannot work ends in a line a person can act on: never as a bug, never in a traceback."""

import errno
import json
import os
from pathlib import Path

import pytest

from vnfleet.cli.main import main


@pytest.mark.parametrize("command", ["status", "releases", "predict", "deploy", "rollback"])
@pytest.mark.parametrize("below", [".", "work"])
def test_a_workdir_that_is_a_file(command: str, below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main([command, "--workdir", str(file / below), "--json"]) == 2
    assert "the workdir is not a folder" in json.loads(capsys.readouterr().out)["error"]


def test_no_command_at_all_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "error: no command was given" in capsys.readouterr().err


def test_an_output_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "monday.csv"
    folder.mkdir()
    assert main(["predict", "--output", str(folder), "--workdir", str(tmp_path)]) == 2
    assert "--output is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_what_may_not_be_written_is_no_bug(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))

    monkeypatch.setattr("vnfleet.cycle.status.look", refused)
    assert main(["status", "--workdir", str(tmp_path)]) == 6
    said = capsys.readouterr().err
    assert str(tmp_path / "x") in said
    assert "next:" in said
