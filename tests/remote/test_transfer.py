"""What every remote does alike, with rclone and without; more servers are in `test_servers`."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError, RemoteError, UsageError
from vnfleet.remote.entries import is_leftover, stay_inside
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.progress import TransferProgress
from vnfleet.remote.rclone import RemoteAbsentError
from vnfleet.remote.transfer import RcloneTransfer, Transfer


@pytest.fixture(params=["plain", "webdav"])
def remote(request: pytest.FixtureRequest) -> Transfer:
    chosen: Transfer = request.getfixturevalue(f"{request.param}_remote")
    return chosen


def test_files_and_text_come_back_as_they_were_sent(remote: Transfer, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(256)) * 100)
    remote.put_file(source, "data/một/x.bin")
    remote.get_file("data/một/x.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == source.read_bytes()
    remote.write_text("status/a.json", '{"tên": "cổ phiếu"}')
    assert remote.read_text("status/a.json") == '{"tên": "cổ phiếu"}'
    # Without hashes rclone compares sizes only and would skip a second write of equal length.
    remote.write_text("status/a.json", '{"tên": "cổ phiẾu"}')
    assert remote.read_text("status/a.json") == '{"tên": "cổ phiẾu"}'


def test_folders_carry_only_the_listed_files_and_what_changed(remote: Transfer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    for name in ("a", "inner/b [1] {x}*", "stray"):
        (source / name).write_text(name)
    listed = ["a", "inner/b [1] {x}*"]
    remote.put_folder(source, "parcel", listed)
    assert [entry.path for entry in remote.list("parcel")] == listed
    remote.get_folder("parcel", tmp_path / "back", [*listed, "absent"])
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == ["a", "b [1] {x}*", "inner"]
    (source / "a").write_text("A")  # equal length
    remote.put_folder(source, "parcel", listed)
    remote.get_folder("parcel", tmp_path / "back", listed)
    assert (tmp_path / "back" / "a").read_text() == "A"


def test_a_pattern_narrows_a_listing_and_sizes_are_told(remote: Transfer) -> None:
    remote.write_text("checkpoints/u1/result/manifest.json", "{}")
    remote.write_text("checkpoints/u1/result/weights", "123")
    listed = remote.list("checkpoints", "/*/result/manifest.json")
    assert [(entry.path, entry.size_bytes) for entry in listed] == [("u1/result/manifest.json", 2)]
    assert [entry.path for entry in remote.list("checkpoints", "{weights,nothing}")] == ["u1/result/weights"]
    assert [entry.path for entry in remote.list(".", "/checkpoints/**/w*")] == ["checkpoints/u1/result/weights"]
    assert remote.list("checkpoints", "/*/manifest.json") == ()


def test_what_is_not_there_is_absent_not_an_outage(remote: Transfer, tmp_path: Path) -> None:
    assert remote.list("nowhere") == ()
    assert not remote.exists("nowhere/x")
    with pytest.raises(RemoteAbsentError):
        remote.read_text("nowhere/x")
    with pytest.raises(RemoteAbsentError):
        remote.get_file("nowhere/x", tmp_path / "x")
    with pytest.raises(RemoteAbsentError):
        remote.move("nowhere/x", "somewhere")
    assert not (tmp_path / "x").exists()


def test_files_and_folders_are_removed_and_removing_again_is_no_error(remote: Transfer) -> None:
    for name in ("old/a", "old/inner/b", "older/c", "kept"):
        remote.write_text(name, name)
    remote.delete("old/a")
    remote.delete("old/a")
    assert [entry.path for entry in remote.list("old")] == ["inner/b"]
    remote.purge("old")
    remote.purge("old")
    assert [entry.path for entry in remote.list(".")] == ["kept", "older/c"]
    assert not remote.exists("old/inner/b")


def test_a_folder_or_file_moves_and_leaves_nothing_behind(remote: Transfer) -> None:
    remote.write_text("bad/result/a", "1")
    remote.write_text("bad/note", "2")
    remote.move("bad/result", "quarantine/bad")
    remote.move("bad/note", "quarantine/note")
    assert not remote.exists("bad/result/a")
    assert remote.read_text("quarantine/bad/a") == "1"
    assert remote.read_text("quarantine/note") == "2"


def test_space_is_told_where_the_remote_knows_it(
    plain_remote: FolderTransfer, folder_remote: RcloneTransfer, tmp_path: Path
) -> None:
    for remote in (plain_remote, folder_remote):
        space = remote.about()
        assert space.total_bytes is not None
        assert space.free_bytes is not None
        assert 0 < space.free_bytes <= space.total_bytes
        assert space.trashed_bytes is None
    assert FolderTransfer(tmp_path / "not" / "made").about().free_bytes is not None


@pytest.mark.parametrize("chosen", ["plain", "folder"])
def test_progress_ends_with_all_files_and_bytes(request: pytest.FixtureRequest, tmp_path: Path, chosen: str) -> None:
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / name).write_bytes(b"x" * 50_000)
    request.getfixturevalue(f"{chosen}_remote")
    told: list[TransferProgress] = []
    remote: Transfer = (
        FolderTransfer(tmp_path / "remote", told=told.append)
        if chosen == "plain"
        else RcloneTransfer(str(tmp_path / "remote"), told=told.append)
    )
    remote.put_folder(tmp_path / "source", "p", ["a", "b"])
    assert (told[-1].files_done, told[-1].files_total) == (2, 2)
    assert (told[-1].bytes_done, told[-1].bytes_total) == (100_000, 100_000)
    told.clear()
    remote.get_folder("p", tmp_path / "back", ["a", "b"])
    assert (told[-1].files_done, told[-1].bytes_done) == (2, 100_000)


def test_a_file_that_is_not_here_cannot_be_sent(plain_remote: FolderTransfer, folder_remote: RcloneTransfer) -> None:
    for remote in (plain_remote, folder_remote):
        with pytest.raises(BadDataError, match="not here"):
            remote.put_file(Path("no-such-file"), "x")
        with pytest.raises(BadDataError, match="not here"):
            remote.put_folder(Path("no-such-folder"), "x", ["a"])


def test_binary_is_no_text(plain_remote: FolderTransfer, folder_remote: RcloneTransfer, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd")
    for remote in (plain_remote, folder_remote):
        remote.put_file(tmp_path / "binary", "x")
        with pytest.raises(RemoteError, match="not text"):
            remote.read_text("x")


def test_what_a_killed_writer_left_is_listed_only_when_asked_for(
    plain_remote: FolderTransfer, folder_remote: RcloneTransfer
) -> None:
    left = [".a.json.tmp-0123abcd", "a.json.1x2y3z4w.partial"]
    for name in (*left, "a.json"):
        (plain_remote.root / name).write_text("x")
    for remote in (plain_remote, folder_remote):
        assert [entry.path for entry in remote.list(".")] == ["a.json"]
        assert [entry.path for entry in remote.list(".", leftovers=True)] == sorted([*left, "a.json"])
    assert is_leftover("deep/.x.tmp-1")
    assert not is_leftover("x.tmp-1/file")


@pytest.mark.parametrize("name", [".", "./", "./."])
def test_the_whole_remote_is_never_removed(
    plain_remote: FolderTransfer, folder_remote: RcloneTransfer, name: str
) -> None:
    for remote in (plain_remote, folder_remote):
        remote.write_text("kept", "x")
        with pytest.raises(UsageError, match="never removed"):
            remote.purge(name)
        assert remote.exists("kept")


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
