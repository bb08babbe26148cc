"""The loop's schedule and batches, and exact resume wherever it is interrupted."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError, BusyError
from vnfleet.core.lock import holding
from vnfleet.core.sealed import verify
from vnfleet.evaluation.splits import Fold
from vnfleet.training.batches import PooledBatches, epoch_chunks
from vnfleet.training.dataset import TrainingData, prepare, save_training_data
from vnfleet.training.engines.local import run_unit
from vnfleet.training.forecast import fold_models, forecast_fold
from vnfleet.training.plan import WorkUnit, fold_units
from vnfleet.training.recipe import ObjectiveConfig, Recipe
from vnfleet.training.unit_result import UNIT_KIND, read_selection, result_folder


def silent(stage: str, done: int, total: int, note: str) -> None:
    del stage, done, total, note


def weights_of(folder: Path) -> str:
    return str(verify(folder, UNIT_KIND).meta["weights_sha256"])


@pytest.fixture(scope="module")
def units(recipe: Recipe, data: TrainingData, fold: Fold) -> tuple[WorkUnit, ...]:
    return fold_units(recipe, data, fold)


@pytest.fixture(scope="module")
def trained(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("units")
    for unit in units:
        run_unit(unit, recipe, data, root, silent)
    return root


@given(st.integers(0, 50), st.integers(5, 400), st.integers(1, 64), st.integers(0, 9), st.integers(0, 9))
def test_an_epoch_visits_each_session_at_most_once_and_nearly_all(
    start: int, length: int, chunk: int, seed: int, epoch: int
) -> None:
    sessions = range(start, start + length)
    chunks = epoch_chunks(sessions, chunk, seed, epoch)
    visited = [session for each in chunks for session in each]
    assert len(visited) == len(set(visited))
    assert set(visited) <= set(sessions)
    assert chunk < 4 or len(visited) >= length - 6
    assert chunks == epoch_chunks(sessions, chunk, seed, epoch)


def test_a_batch_carries_its_context_and_only_labelled_symbols(data: TrainingData) -> None:
    prepared = prepare(data, range(100), 145, 10, ObjectiveConfig())
    batches = PooledBatches(
        data=prepared.on("cpu"),
        labelled_ST=prepared.labelled_ST,
        sessions=range(40, 56),
        chunk_sessions=64,
        accumulation=1,
        context_sessions=10,
        primary_S=np.arange(36) < 4,
        seed=0,
    )
    epoch = next(e for e in range(100) if epoch_chunks(range(40, 56), 64, 0, e) == [range(40, 56)])
    (batch,) = batches.parts([0], [(epoch, 0)], 1)
    assert 5 not in batch.symbol_S.tolist()
    assert batch.x_STF.shape == (35, 26, 6)
    assert batch.labels.primary_S.tolist() == [True] * 4 + [False] * 31
    first = int(batch.symbol_S[0])
    np.testing.assert_array_equal(batch.x_STF[0].numpy(), prepared.scaled_STF[first, 30:56])
    np.testing.assert_array_equal(batch.labels.path_SOH[0, :, 1].numpy(), prepared.path_HST[1, first, 40:56])
    parts = batches.parts([0], [(epoch, 0)], 4)
    assert [part.x_STF.shape[1] for part in parts] == [14] * 4
    torch.testing.assert_close(torch.cat([part.labels.target_SO for part in parts], 1), batch.labels.target_SO)


def test_training_finds_the_planted_signal(
    recipe: Recipe, data: TrainingData, fold: Fold, units: tuple[WorkUnit, ...], trained: Path
) -> None:
    selection = read_selection(trained, units[0].unit_id)
    assert selection.valid_rank_ic > 0.25
    assert 1 <= selection.epochs <= recipe.training.max_epochs
    frame = forecast_fold(recipe, fold, data, trained, "adapted", fold.test, "m")
    rows = [data.symbols.index(symbol) for symbol in frame["symbol"]]
    columns = [data.sessions.index(session) for session in frame["session"]]
    outcome = data.returns_HST[-1][rows, columns]
    known = np.isfinite(outcome)
    assert float(np.corrcoef(frame["score"].to_numpy()[known], outcome[known])[0, 1]) > 0.25
    right = (frame["direction_prob"].to_numpy() >= 0.5) == (outcome > 0)
    assert float(right[known].mean()) > 0.55


def test_the_plans_window_form_trains_through_the_same_units(
    recipe: Recipe, data: TrainingData, fold: Fold, tmp_path: Path
) -> None:
    model = dataclasses.replace(recipe.model, attention="window", window_sessions=10, head="mlp")
    plan = Recipe(model, dataclasses.replace(recipe.training, num_seeds=1, max_epochs=2, chunk_sessions=8))
    units = fold_units(plan, data, fold)
    for unit in units:
        run_unit(unit, plan, data, tmp_path, silent)
    assert read_selection(tmp_path, units[0].unit_id).valid_rank_ic > 0.1
    frame = forecast_fold(plan, fold, data, tmp_path, "adapted", fold.test, "m")
    assert set(frame["session"]) == set(data.sessions[fold.test.start : fold.test.stop])


def test_a_finished_unit_is_not_trained_again(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], trained: Path
) -> None:
    before = (result_folder(trained, units[1].unit_id) / "manifest.json").stat().st_mtime_ns

    def loud(stage: str, done: int, total: int, note: str) -> None:
        raise AssertionError((stage, done, total, note))

    run_unit(units[1], recipe, data, trained, loud)
    assert (result_folder(trained, units[1].unit_id) / "manifest.json").stat().st_mtime_ns == before


def test_a_damaged_result_is_made_again(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / units[0].unit_id).symlink_to(trained / units[0].unit_id)
    damaged = result_folder(tmp_path, units[1].unit_id)
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text('{"kind": "un')
    run_unit(units[1], recipe, data, tmp_path, silent)
    assert weights_of(damaged) == weights_of(result_folder(trained, units[1].unit_id))


class MachineLostError(Exception):
    """Stands for a lost machine."""


@pytest.mark.parametrize("stop_after", [1, 2, 9, 15, 23])
def test_an_interrupted_member_ends_at_the_same_bits(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], trained: Path, tmp_path: Path, stop_after: int
) -> None:
    (tmp_path / units[0].unit_id).symlink_to(trained / units[0].unit_id)
    count = 0

    def failing(stage: str, done: int, total: int, note: str) -> None:
        del stage, done, total, note
        nonlocal count
        count += 1
        if count == stop_after:
            raise MachineLostError

    with pytest.raises(MachineLostError):
        run_unit(units[1], recipe, data, tmp_path, failing)
    resumed = run_unit(units[1], recipe, data, tmp_path, silent)
    assert weights_of(resumed) == weights_of(result_folder(trained, units[1].unit_id))


def test_an_interrupted_selection_decides_the_same(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], trained: Path, tmp_path: Path
) -> None:
    count = 0

    def failing(stage: str, done: int, total: int, note: str) -> None:
        del stage, done, total, note
        nonlocal count
        count += 1
        if count in (8, 25):
            raise MachineLostError

    for _ in range(2):
        with pytest.raises(MachineLostError):
            run_unit(units[0], recipe, data, tmp_path, failing)
    run_unit(units[0], recipe, data, tmp_path, silent)
    assert read_selection(tmp_path, units[0].unit_id) == read_selection(trained, units[0].unit_id)


def test_kill_9_in_the_middle_and_a_damaged_checkpoint_change_nothing(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], trained: Path, tmp_path: Path
) -> None:
    root = tmp_path / "units"
    root.mkdir()
    (root / units[0].unit_id).symlink_to(trained / units[0].unit_id)
    save_training_data(tmp_path / "package", data)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    (tmp_path / "unit.json").write_text(units[2].model_dump_json())
    script = Path(__file__).with_name("run_one_unit.py")
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    backbone = root / units[2].unit_id / "backbone"
    deadline = time.monotonic() + 60
    while len(list(backbone.glob("ckpt-*"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoints = sorted(backbone.glob("ckpt-*"))
    assert checkpoints, "the process ended before it could be killed"
    torn = checkpoints[-1] / "tensors.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    resumed = run_unit(units[2], recipe, data, root, silent)
    assert weights_of(resumed) == weights_of(result_folder(trained, units[2].unit_id))


def test_what_comes_after_the_fold_changes_no_weight(
    recipe: Recipe, data: TrainingData, fold: Fold, units: tuple[WorkUnit, ...], trained: Path, tmp_path: Path
) -> None:
    poisoned = dataclasses.replace(data, values_STF=data.values_STF.copy(), returns_HST=data.returns_HST.copy())
    poisoned.values_STF[:, fold.test.start :] *= 100.0
    poisoned.returns_HST[:, :, fold.test.start :] = 9.0
    assert [unit.unit_id for unit in fold_units(recipe, poisoned, fold)] == [unit.unit_id for unit in units]
    (tmp_path / units[0].unit_id).symlink_to(trained / units[0].unit_id)
    result = run_unit(units[1], recipe, poisoned, tmp_path, silent)
    assert weights_of(result) == weights_of(result_folder(trained, units[1].unit_id))


def test_a_non_finite_loss_stops_the_unit_and_names_the_step(
    recipe: Recipe, data: TrainingData, tmp_path: Path
) -> None:
    broken = dataclasses.replace(data, values_STF=data.values_STF.copy())
    broken.values_STF[3, 50, 2] = np.nan
    fold = Fold(
        fold_id="x",
        train=range(100),
        valid=range(105, 145),
        refit=range(145),
        test=range(150, 151),
        universe=data.symbols,
    )
    with pytest.raises(BadDataError, match="not finite"):
        run_unit(fold_units(recipe, broken, fold)[0], recipe, broken, tmp_path, silent)


def test_other_rows_or_another_recipe_are_refused(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], tmp_path: Path
) -> None:
    other = dataclasses.replace(data, returns_HST=data.returns_HST * 2)
    with pytest.raises(BadDataError, match="other rows"):
        run_unit(units[0], recipe, other, tmp_path, silent)
    with pytest.raises(BadDataError, match="another recipe"):
        run_unit(units[0], Recipe(), data, tmp_path, silent)


def test_two_processes_on_one_unit_one_works_the_other_says_who(
    recipe: Recipe, data: TrainingData, units: tuple[WorkUnit, ...], tmp_path: Path
) -> None:
    with (
        holding(tmp_path / units[0].unit_id / "unit.lock", "training elsewhere"),
        pytest.raises(BusyError, match="training elsewhere"),
    ):
        run_unit(units[0], recipe, data, tmp_path, silent)


def test_an_ensemble_is_the_mean_of_its_members_in_score_sd(
    recipe: Recipe, data: TrainingData, fold: Fold, trained: Path
) -> None:
    models = fold_models(recipe, fold, data, trained, "pooled")
    (ensemble,) = models.ensembles
    assert len(ensemble.members) == 2
    assert (ensemble.calibration.intercept, ensemble.calibration.slope) == models.selection.calibration_pooled
    together = forecast_fold(recipe, fold, data, trained, "pooled", fold.test, "m")
    assert together["symbol"].n_unique() == len(data.symbols)
    assert set(together["fold_id"]) == {"2020"}


def test_a_recipe_survives_json_and_its_id_knows_its_settings(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()).recipe_id == recipe.recipe_id
    other = Recipe(recipe.model, dataclasses.replace(recipe.training, max_epochs=6))
    assert other.recipe_id != recipe.recipe_id
    seeds = Recipe(recipe.model, dataclasses.replace(recipe.training, num_seeds=7))
    assert seeds.recipe_id != recipe.recipe_id
    assert seeds.unit_recipe_id == recipe.unit_recipe_id
