"""Checkpoints of one stage: the newest whole one counts, and a damaged one never stands in the way of a whole one."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vnfleet.core.sealed import sealing, verify
from vnfleet.training.checkpoint import CHECKPOINT_KIND, StageCheckpoints, StageState

KEY = "unit/backbone"


def state_at(step: int) -> StageState:
    tensors = {"result": torch.full((1, 3), float(step)), "value": torch.ones(1, 3)}
    return StageState(tensors, step=step, history=[[0.1]], best_epoch=[1], active=[0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reseal(path: Path, change: Callable[[Path], object]) -> None:
    """Change a checkpoint and seal it again: whole by its hashes, wrong all the same."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    (copy / "manifest.json").unlink()
    change(copy)
    with sealing(path, CHECKPOINT_KIND, {"stage_key": KEY}) as scratch:
        shutil.copytree(copy, scratch, dirs_exist_ok=True)
    shutil.rmtree(copy)


class Sink:
    """Reads every checkpoint it is told of."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def saved(self, checkpoint: Path, /) -> None:
        verify(checkpoint, CHECKPOINT_KIND)
        self.steps.append(int(checkpoint.name.removeprefix("ckpt-")))


def test_when_all_are_damaged_the_new_ones_are_kept_though_their_steps_are_lower(tmp_path: Path) -> None:
    sink = Sink()
    checkpoints = StageCheckpoints(tmp_path, KEY, sink)
    for step in (80, 90, 100):
        checkpoints.save(state_at(step))
    assert names(tmp_path) == ["ckpt-00000090", "ckpt-00000100"]
    for path in tmp_path.iterdir():
        (path / "tensors.safetensors").write_bytes(b"torn")
    assert checkpoints.latest() is None
    assert not list(tmp_path.glob("ckpt-*")), "the damaged ones were not moved aside"
    for step in (10, 20, 30):
        checkpoints.save(state_at(step))
        found = checkpoints.latest()
        assert found is not None
        assert found.step == step
    assert names(tmp_path) == ["ckpt-00000020", "ckpt-00000030"]
    assert sink.steps == [80, 90, 100, 10, 20, 30]


def test_one_that_could_not_be_moved_aside_still_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = StageCheckpoints(tmp_path, KEY, Sink())
    checkpoints.save(state_at(100))
    (tmp_path / "ckpt-00000100" / "manifest.json").write_text("")

    def held(*_: object) -> None:
        raise PermissionError("held by a virus scanner")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", held)
        assert checkpoints.latest() is None
    checkpoints.save(state_at(10))
    assert names(tmp_path) == ["ckpt-00000010"]


def _without(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        tensors = dict(state_at(100).tensors)
        del tensors[name]
        save_file(tensors, folder / "tensors.safetensors")

    return change


def _facts(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        facts = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(change(facts)))

    return written


@pytest.mark.parametrize(
    "change",
    [
        _facts(list),
        _facts(lambda facts: {name: value for name, value in facts.items() if name != "active"}),
        _facts(lambda facts: facts | {"step": "many"}),
        _facts(lambda facts: facts | {"active": [7]}),
        _facts(lambda facts: facts | {"best_epoch": []}),
        lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "state.json").unlink(),
        _without("value"),
        _without("result"),
    ],
    ids=[
        "list",
        "lacks a key",
        "no number",
        "no such model",
        "contradiction",
        "no text",
        "no facts",
        "value",
        "result",
    ],
)
def test_a_whole_checkpoint_that_says_nonsense_is_refused_by_name(
    change: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = StageCheckpoints(tmp_path, KEY)
    checkpoints.save(state_at(90))
    checkpoints.save(state_at(100))
    reseal(tmp_path / "ckpt-00000100", change)
    with caplog.at_level(logging.WARNING):
        found = checkpoints.latest()
    assert found is not None
    assert found.step == 90
    assert "ckpt-00000100 refused, using the one before it" in caplog.text


def test_a_file_or_a_folder_in_the_wrong_place_is_refused_too(tmp_path: Path) -> None:
    checkpoints = StageCheckpoints(tmp_path, KEY)
    checkpoints.save(state_at(90))
    checkpoints.save(state_at(100))
    manifest = tmp_path / "ckpt-00000100" / "manifest.json"
    manifest.unlink()
    manifest.mkdir()
    (tmp_path / "ckpt-00000110").write_text("a file")
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 90
    checkpoints.save(state_at(95))
    assert names(tmp_path) == ["ckpt-00000090", "ckpt-00000095"]


def test_when_no_model_is_left_in_the_stack_only_the_result_is_needed(tmp_path: Path) -> None:
    checkpoints = StageCheckpoints(tmp_path, KEY)
    done = state_at(5)
    done.active.clear()
    del done.tensors["value"]
    checkpoints.save(done)
    found = checkpoints.latest()
    assert found is not None
    assert found.result_MP.tolist() == [[5.0, 5.0, 5.0]]
