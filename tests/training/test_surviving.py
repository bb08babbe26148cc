"""What a unit survives: other machines, too little memory, full disks, damaged and foreign checkpoints."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from vnfleet.core.errors import BadDataError, ResourceError
from vnfleet.core.sealed import verify
from vnfleet.evaluation.splits import Fold
from vnfleet.training.checkpoint import CheckpointRule
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import is_finished, run_unit
from vnfleet.training.environment import ENVIRONMENT_NAME, NumericEnvironment, frozen_environment
from vnfleet.training.forecast import forecast_fold
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.devices import DeviceChoice
from vnfleet.training.objectives import count_labels
from vnfleet.training.plan import WorkUnit, fold_units
from vnfleet.training.recipe import ObjectiveConfig, Recipe
from vnfleet.training.trainer import Progress
from vnfleet.training.unit_result import UNIT_KIND

SMALL_STEPS = MachineConfig(num_threads=1, checkpoint_frac=0.05)


class MachineLostError(Exception):
    """Stands for a lost machine."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    del stage, done, total, note


def lost_after(steps: int) -> Progress:
    count = 0

    def progress(stage: str, done: int, total: int, note: str) -> None:
        del stage, done, total, note
        nonlocal count
        count += 1
        if count == steps:
            raise MachineLostError

    return progress


@pytest.fixture(scope="module")
def pooled(recipe: Recipe) -> Recipe:
    return Recipe(recipe.model, dataclasses.replace(recipe.training, strategy="pooled", num_seeds=1))


@pytest.fixture(scope="module")
def units(pooled: Recipe, data: TrainingData, fold: Fold) -> tuple[WorkUnit, ...]:
    return fold_units(pooled, data, fold)


def scores(recipe: Recipe, fold: Fold, data: TrainingData, root: Path) -> np.ndarray:
    return forecast_fold(recipe, fold, data, root, "pooled", fold.test, "m").get_column("score").to_numpy()


@pytest.fixture(scope="module")
def reference(
    pooled: Recipe,
    data: TrainingData,
    fold: Fold,
    units: tuple[WorkUnit, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> np.ndarray:
    root = tmp_path_factory.mktemp("reference")
    for unit in units:
        run_unit(unit, pooled, data, root, silent, SMALL_STEPS)
    return scores(pooled, fold, data, root)


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"num_threads": 2},
        {"precision": "float32"},
        {"device": "cuda:0", "device_name": "Tesla T4", "precision": "fp16"},
    ],
    ids=["threads", "precision", "came from a GPU"],
)
def test_a_unit_begun_elsewhere_goes_on_here_within_tolerance(
    elsewhere: dict[str, object],
    pooled: Recipe,
    data: TrainingData,
    fold: Fold,
    units: tuple[WorkUnit, ...],
    reference: np.ndarray,
    tmp_path: Path,
) -> None:
    run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)
    with pytest.raises(MachineLostError):
        run_unit(units[1], pooled, data, tmp_path, lost_after(9), SMALL_STEPS)
    path = tmp_path / units[1].unit_id / ENVIRONMENT_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | elsewhere))
    result = run_unit(units[1], pooled, data, tmp_path, silent, SMALL_STEPS)
    recorded = NumericEnvironment.model_validate(verify(result, UNIT_KIND).meta["environment"])
    assert recorded.device == "cpu"
    assert bool(recorded.changes) is ("device" in elsewhere)
    agreement = float(spearmanr(scores(pooled, fold, data, tmp_path), reference).statistic)
    assert agreement > 0.99


def test_what_changes_with_the_machine_is_recorded_in_words(tmp_path: Path) -> None:
    def gpu(config: MachineConfig) -> DeviceChoice:
        del config
        return DeviceChoice(
            device="cuda:0",
            name="Tesla T4",
            capability=(7, 5),
            memory_bytes=1 << 34,
            precision="fp16",
            loss_scaling=True,
            tf32=False,
            words="a T4",
        )

    first = frozen_environment(tmp_path, SMALL_STEPS)
    assert first.now.changes == ()
    moved = frozen_environment(tmp_path, SMALL_STEPS, choose=gpu)
    assert (moved.now.device, moved.now.precision) == ("cuda:0", "fp16")
    assert moved.now.changes == ("went on on Tesla T4 after CPU",)
    again = frozen_environment(tmp_path, SMALL_STEPS, choose=gpu)
    assert again.now == moved.now
    back = frozen_environment(tmp_path, SMALL_STEPS)
    assert back.now.device == "cpu"
    assert back.now.precision == first.now.precision
    assert len(back.now.changes) == 2


def test_when_memory_runs_out_batches_are_cut_and_the_change_is_recorded(
    pooled: Recipe,
    data: TrainingData,
    fold: Fold,
    units: tuple[WorkUnit, ...],
    reference: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)
    honest = count_labels
    calls = 0

    def starved(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls in (5, 6):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 1 bytes")
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("vnfleet.training.trainer.count_labels", starved)
    result = run_unit(units[1], pooled, data, tmp_path, silent, SMALL_STEPS)
    recorded = NumericEnvironment.model_validate(verify(result, UNIT_KIND).meta["environment"])
    assert recorded.splits == 4
    assert [change.split(":")[0] for change in recorded.changes] == ["memory ran out in backbone, step 4"] * 2
    agreement = float(spearmanr(scores(pooled, fold, data, tmp_path), reference).statistic)
    assert agreement > 0.9  # the dropout masks differ from there on, nothing else does


def test_memory_that_is_never_enough_ends_in_words(
    pooled: Recipe,
    data: TrainingData,
    units: tuple[WorkUnit, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def starved(*_: object) -> object:
        raise MemoryError

    monkeypatch.setattr("vnfleet.training.trainer.count_labels", starved)
    with pytest.raises(ResourceError, match="memory ran out even with the smallest batches"):
        run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)


def test_nearly_full_memory_cuts_batches_before_it_is_too_late(
    pooled: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(["ok", "ok", "over"])
    monkeypatch.setattr("vnfleet.training.machine.memory.MemoryWatch.check", lambda _: next(looks, "ok"))
    result = run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)
    recorded = NumericEnvironment.model_validate(verify(result, UNIT_KIND).meta["environment"])
    assert recorded.splits == 2
    assert "memory is nearly full" in recorded.changes[0]


def test_a_full_disk_pauses_with_words_and_the_unit_goes_on_later(
    pooled: Recipe,
    data: TrainingData,
    fold: Fold,
    units: tuple[WorkUnit, ...],
    reference: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)
    saves = 0

    def full(*arguments: object, **options: object) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(*arguments, **options)  # type: ignore[arg-type]

    from safetensors.torch import save_file as honest  # noqa: PLC0415

    with monkeypatch.context() as patch:
        patch.setattr("vnfleet.training.checkpoint.save_file", full)
        with pytest.raises(ResourceError, match="the disk is full"):
            run_unit(units[1], pooled, data, tmp_path, silent, SMALL_STEPS)
    folder = tmp_path / units[1].unit_id / "backbone"
    assert len(list(folder.glob("ckpt-*"))) == 2, "the checkpoints before it are whole"
    run_unit(units[1], pooled, data, tmp_path, silent, SMALL_STEPS)
    np.testing.assert_array_equal(scores(pooled, fold, data, tmp_path), reference)


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "empty"])
def test_a_damaged_or_foreign_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    damage: str,
    pooled: Recipe,
    data: TrainingData,
    fold: Fold,
    units: tuple[WorkUnit, ...],
    reference: np.ndarray,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)
    with pytest.raises(MachineLostError):
        run_unit(units[1], pooled, data, tmp_path, lost_after(9), SMALL_STEPS)
    newest = max((tmp_path / units[1].unit_id / "backbone").glob("ckpt-*"))
    tensors = newest / "tensors.safetensors"
    payload = tensors.read_bytes()
    if damage == "torn":
        tensors.write_bytes(payload[: len(payload) // 2])
    elif damage == "flipped":
        tensors.write_bytes(payload[:-9] + bytes([payload[-9] ^ 1]) + payload[-8:])
    elif damage == "foreign":
        manifest = newest / "manifest.json"
        manifest.write_text(manifest.read_text().replace(units[1].unit_id, "0123456789abcdef"))
    else:
        (newest / "manifest.json").write_text("")
    with caplog.at_level(logging.WARNING):
        run_unit(units[1], pooled, data, tmp_path, silent, SMALL_STEPS)
    assert newest.name in caplog.text
    assert "using the one before it" in caplog.text
    np.testing.assert_array_equal(scores(pooled, fold, data, tmp_path), reference)


@pytest.mark.parametrize("damage", ["flipped", "missing", "no manifest", "a file"])
def test_a_damaged_finished_unit_is_made_again(
    damage: str, pooled: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], tmp_path: Path
) -> None:
    result = run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)
    selection = result / "selection.json"
    whole = selection.read_bytes()
    assert is_finished(tmp_path, units[0])
    if damage == "flipped":
        selection.write_bytes(whole[:-2] + b" }")
    elif damage == "missing":
        selection.unlink()
    elif damage == "no manifest":
        (result / "manifest.json").unlink()
        (result / "manifest.json").mkdir()
    else:
        shutil.rmtree(result)
        result.write_text("a file")
    assert not is_finished(tmp_path, units[0])
    run_unit(units[0], pooled, data, tmp_path, silent, SMALL_STEPS)
    assert is_finished(tmp_path, units[0])
    assert selection.read_bytes() == whole
    assert not list(result.parent.glob(".result*")), "the damaged one was left lying about"


def test_too_few_symbols_for_a_cross_section_are_refused_with_the_reason(
    recipe: Recipe, data: TrainingData, fold: Fold, tmp_path: Path
) -> None:
    strict = Recipe(recipe.model, recipe.training, ObjectiveConfig(min_labels_per_session=37))
    with pytest.raises(BadDataError, match="a cross-sectional loss on so few symbols is noise"):
        run_unit(fold_units(strict, data, fold)[0], strict, data, tmp_path, silent, SMALL_STEPS)


def test_a_checkpoint_is_due_at_the_first_of_epochs_minutes_and_share() -> None:
    rule = CheckpointRule(epochs=20, minutes=20.0, frac=0.05)
    rule.start(100, 3, 1000.0)
    assert not rule.is_due(149, 22, 1000, 1000.0 + 1199.0)
    assert rule.is_due(150, 4, 1000, 1001.0)
    assert rule.is_due(101, 23, 1000, 1001.0)
    assert rule.is_due(101, 3, 1000, 1000.0 + 1200.0)
