"""Which texts are folders and which go through rclone."""

import os
from pathlib import Path

import pytest

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.opening import is_folder, open_remote
from vnfleet.remote.progress import TransferProgress
from vnfleet.remote.transfer import RcloneTransfer


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("gdrive:VN-Quant-Training", False),
        ("gdrive:", False),
        (':webdav,url="http://h/":x', False),
        ("my drive:x/y", False),
        ("/content/drive/MyDrive/VN-Quant-Training", True),
        ("C:\\Users\\me\\drive", True),
        ("D:/nas", True),
        ("relative/folder", True),
        ("folder", True),
        ("/mnt/odd:name/x", True),
        ("\\\\server\\share\\vn", True),
    ],
)
def test_a_colon_before_the_first_slash_means_rclone_except_for_drives_of_windows(text: str, folder: bool) -> None:
    assert is_folder(text) is folder


def test_a_folder_needs_no_rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rclone(*_: object, **__: object) -> Path:
        raise RemoteError("rclone is not installed")

    monkeypatch.setattr("vnfleet.remote.transfer.find_rclone", no_rclone)
    told: list[TransferProgress] = []
    remote = open_remote(f" {tmp_path / 'VN-Quant-Training'} ", bandwidth_limit="100M", told=told.append)
    assert isinstance(remote, FolderTransfer)
    (tmp_path / "x").write_text("x")
    remote.put_file(tmp_path / "x", "data/x")
    assert (tmp_path / "VN-Quant-Training" / "data" / "x").read_text() == "x"
    assert told[-1].files_done == 1
    with pytest.raises(RemoteError, match="not installed"):
        open_remote("gdrive:VN-Quant-Training")


def test_anything_else_goes_through_rclone(rclone: Path, tmp_path: Path) -> None:
    assert rclone.is_file()
    remote = open_remote(f":local:{tmp_path}/", bandwidth_limit="100M")
    assert isinstance(remote, RcloneTransfer)
    remote.write_text("status/a", "x")
    assert (tmp_path / "status" / "a").read_text() == "x"


def test_a_drive_that_is_not_mounted_is_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="mount the drive first"):
        open_remote(str(tmp_path / "drive" / "MyDrive" / "VN-Quant-Training"))
    assert not (tmp_path / "drive").exists()


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    remote = open_remote("~/vn")
    assert isinstance(remote, FolderTransfer)
    assert remote.root == tmp_path / "vn"


@pytest.mark.skipif(os.name == "nt", reason="there it is a folder")
def test_a_path_of_windows_elsewhere_names_the_way_in_wsl() -> None:
    with pytest.raises(UsageError, match="/mnt/c/Users/me/drive"):
        open_remote("C:\\Users\\me\\drive")


@pytest.mark.parametrize("text", ["", "  ", "--config=x"])
def test_a_remote_that_is_no_remote_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no remote"):
        open_remote(text)


def test_a_limit_that_means_nothing_is_refused(tmp_path: Path) -> None:
    for text in (str(tmp_path), ":local:x"):
        with pytest.raises(UsageError, match="bandwidth"):
            open_remote(text, bandwidth_limit="fast")
