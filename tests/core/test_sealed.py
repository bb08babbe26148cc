"""Sealed folders are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from vnfleet.core import atomic, sealed
from vnfleet.core.errors import BadDataError, ResourceError
from vnfleet.core.sealed import Manifest, is_whole, read_manifest, sealing, verify


def seal(target: Path, text: str = "hello") -> None:
    with sealing(target, "thing", {"by": "test"}) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "a.txt").write_text(text)


def test_a_sealed_folder_verifies_and_keeps_its_facts(tmp_path: Path) -> None:
    seal(tmp_path / "t")
    manifest = verify(tmp_path / "t", "thing")
    assert manifest.meta == {"by": "test"}
    assert list(manifest.files) == ["inner/a.txt"]
    # SHA-256 of "hello", from any other tool.
    assert manifest.files["inner/a.txt"] == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_a_failed_block_leaves_nothing_and_the_old_folder_untouched(tmp_path: Path) -> None:
    seal(tmp_path / "t", "old")
    with pytest.raises(TypeError), sealing(tmp_path / "t", "thing", {}) as scratch:
        (scratch / "a.txt").write_text(None)  # type: ignore[arg-type]
    assert (tmp_path / "t" / "inner" / "a.txt").read_text() == "old"
    verify(tmp_path / "t", "thing")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_sealing_again_replaces_the_folder(tmp_path: Path) -> None:
    seal(tmp_path / "t", "old")
    seal(tmp_path / "t", "new")
    assert (tmp_path / "t" / "inner" / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("step", ["fsync_file", "replace", "write_text"])
def test_a_full_disk_at_any_step_is_said_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    seal(tmp_path / "t", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    monkeypatch.setattr(sealed, step, full)
    with pytest.raises(ResourceError, match="disk is full"):
        seal(tmp_path / "t", "new")
    monkeypatch.undo()
    verify(tmp_path / "t", "thing")
    assert (tmp_path / "t" / "inner" / "a.txt").read_text() == "old"


def test_an_unfinished_folder_is_not_sealed_and_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    assert read_manifest(tmp_path / "t", "thing") is None
    with pytest.raises(BadDataError, match="not complete"):
        verify(tmp_path / "t", "thing")
    seal(tmp_path / "u")
    (tmp_path / "u" / "inner" / "a.txt").write_text("jello")
    with pytest.raises(BadDataError, match=r"a\.txt"):
        verify(tmp_path / "u", "thing")
    (tmp_path / "u" / "inner" / "a.txt").unlink()
    with pytest.raises(BadDataError, match="missing"):
        verify(tmp_path / "u", "thing")
    with pytest.raises(BadDataError, match="another kind"):
        read_manifest(tmp_path / "u", "release")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\\\b", "C:x", "a/../../b"])
def test_a_manifest_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"kind":"thing","files":{{"{name}":"0"}},"meta":{{}}}}')
    with pytest.raises(BadDataError, match="damaged"):
        read_manifest(tmp_path, "thing")


def test_a_newer_schema_and_a_torn_manifest_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version":99,"kind":"thing","files":{},"meta":{}}')
    with pytest.raises(BadDataError, match="newer"):
        read_manifest(tmp_path, "thing")
    (tmp_path / "manifest.json").write_text('{"schema_version":1,"kind":"thi')
    with pytest.raises(BadDataError, match="damaged"):
        read_manifest(tmp_path, "thing")


def test_a_file_is_old_or_new_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f.txt"
    atomic.write_text(target, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(descriptor))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        atomic.write_text(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f.txt"]


def test_a_target_held_for_a_moment_is_replaced_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, calls = os.replace, []

    def held(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) < 3:
            raise PermissionError(errno.EACCES, "held by a virus scanner")
        genuine(source, target)

    monkeypatch.setattr(os, "replace", held)
    atomic.write_text(tmp_path / "f.txt", "text")
    assert (tmp_path / "f.txt").read_text() == "text"
    assert len(calls) == 3


def test_a_manifest_that_is_no_text_or_no_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDataError, match=r"damaged(.|\n)*manifest\.json"):
        read_manifest(tmp_path, "thing")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(BadDataError, match="a folder instead of a file"):
        read_manifest(tmp_path, "thing")


def test_whole_means_every_hash(tmp_path: Path) -> None:
    seal(tmp_path / "t")
    assert is_whole(tmp_path / "t", "thing")
    assert not is_whole(tmp_path / "t", "release")
    assert not is_whole(tmp_path / "absent", "thing")
    (tmp_path / "t" / "inner" / "a.txt").write_text("jello")
    assert not is_whole(tmp_path / "t", "thing")


def test_sealing_replaces_a_file_that_lies_where_the_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a file")
    seal(tmp_path / "t")
    verify(tmp_path / "t", "thing")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "a\tb", "a\x7fb", "", "a//b", "a/", "./a", "d/" + "ă" * 128])
def test_names_that_no_folder_should_hold_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="path with"):
        Manifest(kind="thing", files={name: "0" * 64}, meta={})


def test_the_longest_name_of_a_file_system_is_taken() -> None:
    name = f"Thư mục/{'a' * 255}"
    assert list(Manifest(kind="thing", files={name: "0" * 64}, meta={}).files) == [name]
