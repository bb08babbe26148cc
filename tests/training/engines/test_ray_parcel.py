"""Sealed folders arrive whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import MANIFEST_NAME, sealing, verify
from vnfleet.training.engines import ray_parcel
from vnfleet.training.engines.ray_parcel import (
    drop_old_checkpoints,
    files_of,
    newest_checkpoints,
    pieces_of,
    receive_folder,
    safe_path,
)


def seal(folder: Path, contents: dict[str, bytes], kind: str = "checkpoint") -> Path:
    with sealing(folder, kind, {}) as scratch:
        for name, payload in contents.items():
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_bytes(payload)
    return folder


def send(source: Path, target: Path, *, without: str = "", damaged: str = "") -> None:
    def pieces(name: str) -> list[bytes]:
        found = list(pieces_of(source / name, piece_bytes=7))
        return [*found, b"!"] if name == damaged else found

    receive_folder(target, "checkpoint", [(name, pieces(name)) for name in files_of(source) if name != without])


@given(contents=st.dictionaries(st.sampled_from(["a", "b.bin", "in/c"]), st.binary(max_size=40), min_size=1))
@settings(max_examples=20, deadline=None)
def test_a_folder_arrives_as_it_was_sent(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("parcel")
    send(seal(root / "source", contents), root / "target")
    verify(root / "target", "checkpoint")
    assert {name: (root / "target" / name).read_bytes() for name in contents} == contents


@pytest.mark.parametrize(("without", "damaged"), [("a", ""), (MANIFEST_NAME, ""), ("", "a"), ("", MANIFEST_NAME)])
def test_a_damaged_or_incomplete_folder_leaves_what_was_there(tmp_path: Path, without: str, damaged: str) -> None:
    source = seal(tmp_path / "source", {"a": b"new", "b": b""})
    target = seal(tmp_path / "home" / "target", {"a": b"old"})
    with pytest.raises(BadDataError):
        send(source, target, without=without, damaged=damaged)
    assert (target / "a").read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    send(source, target)
    assert (target / "a").read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../../b", "C:\\x", "a\\b"])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadDataError, match="outside"):
        safe_path(tmp_path, name)


def test_the_newest_whole_checkpoint_of_each_stage_is_handed_out(tmp_path: Path) -> None:
    for stage, step in (("backbone", 3), ("backbone", 12), ("deltas-0.1", 4)):
        seal(tmp_path / stage / f"ckpt-{step:08d}", {"tensors": b"x"})
    seal(tmp_path / "result", {"tensors": b"x"}, "unit")
    assert [path.name for path in newest_checkpoints(tmp_path)] == ["ckpt-00000012", "ckpt-00000004"]
    (tmp_path / "backbone" / "ckpt-00000012" / "tensors").write_bytes(b"y")
    assert [path.name for path in newest_checkpoints(tmp_path)] == ["ckpt-00000003", "ckpt-00000004"]


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(4):
        seal(tmp_path / f"ckpt-{step:08d}", {"tensors": b"x"})
    drop_old_checkpoints(tmp_path / "ckpt-00000003")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt-00000002", "ckpt-00000003"]


def test_one_of_a_later_step_gives_way_to_the_one_just_written(tmp_path: Path) -> None:
    for step in (5, 90, 100, 10):
        newest = seal(tmp_path / f"ckpt-{step:08d}", {"tensors": b"x"})
    drop_old_checkpoints(newest)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt-00000005", "ckpt-00000010"]


def test_the_kinds_are_those_of_the_training_room() -> None:
    from vnfleet.training.checkpoint import CHECKPOINT_KIND  # noqa: PLC0415

    assert ray_parcel.CHECKPOINT_KIND == CHECKPOINT_KIND
