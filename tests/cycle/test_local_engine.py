"""The mailbox with the real training code: what a worker trains is what this machine would have trained."""

import threading
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from vnfleet.core.errors import BadDataError, RemoteError
from vnfleet.core.sealed import verify
from vnfleet.cycle import local_engine
from vnfleet.cycle.local_engine import (
    LocalEngine,
    libraries_here,
    planned_recipe_id,
    recipe_of,
    refusal,
    required_range,
    training_job,
    training_source_id,
    within,
)
from vnfleet.cycle.remote_training import train_remotely
from vnfleet.cycle.worker import StepProgress, WorkerReport, run_worker
from vnfleet.evaluation.splits import Fold
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.remote.carried import units_with_checkpoints
from vnfleet.remote.carrying import CheckpointSink
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord
from vnfleet.remote.leases import LeaseTimes
from vnfleet.training.dataset import TrainingData, save_training_data
from vnfleet.training.engines.local import run_unit
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import plan_units
from vnfleet.training.recipe import ObjectiveConfig, Recipe, TrainingConfig
from vnfleet.training.unit_result import UNIT_KIND

QUICK = LeaseTimes(lease_seconds=60.0, heartbeat_seconds=1.0, settle_seconds=0.05)


class Nowhere:
    def saved(self, checkpoint: Path, /) -> None:
        assert checkpoint.is_dir()


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on one core: tests run side by side."""
    monkeypatch.setattr("vnfleet.training.environment.performance_cores", lambda: (0,))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    generator = np.random.default_rng(7)
    num_symbols, num_sessions, num_features = 24, 120, 4
    returns_HST = generator.normal(0.0, 0.02, (5, num_symbols, num_sessions)).astype(np.float32)
    for horizon in range(5):
        returns_HST[horizon, :, num_sessions - horizon - 1 :] = np.nan
    return TrainingData(
        tuple(date(2022, 1, 3) + timedelta(days=day) for day in range(num_sessions)),
        tuple(f"S{number:02d}" for number in range(num_symbols)),
        tuple(f"feature_{number}" for number in range(num_features)),
        generator.standard_normal((num_symbols, num_sessions, num_features)).astype(np.float32),
        np.ones((num_symbols, num_sessions), dtype=bool),
        returns_HST,
    )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(
        StockformerConfig(num_features=4, d_model=8, num_heads=2, d_ff=16, band_sessions=4, num_layers=1),
        TrainingConfig(
            num_seeds=1,
            max_epochs=2,
            patience_epochs=2,
            chunk_sessions=16,
            delta_epochs=1,
            delta_penalties=(0.1,),
            valid_sessions=30,
        ),
        ObjectiveConfig(min_labels_per_session=20),
    )


@pytest.fixture
def fold(data: TrainingData) -> Fold:
    return Fold(
        fold_id="2022",
        train=range(60),
        valid=range(65, 95),
        refit=range(95),
        test=range(100, 120),
        universe=data.symbols,
    )


def test_a_worker_trains_to_the_same_bytes(data: TrainingData, recipe: Recipe, fold: Fold, tmp_path: Path) -> None:
    units = plan_units(recipe, data, (fold,))
    save_training_data(tmp_path / "package", data)
    job = training_job(recipe, (fold,), units, tmp_path / "package")
    remote = FolderTransfer(tmp_path / "remote")
    finished = threading.Event()
    reports: list[WorkerReport] = []

    def work() -> None:
        reports.append(
            run_worker(remote, tmp_path / "worker", times=QUICK, poll_seconds=0.1, should_stop=finished.is_set)
        )

    worker = threading.Thread(target=work)
    worker.start()
    outcome = train_remotely(job, tmp_path / "package", remote, tmp_path / "desk", poll_seconds=0.2, grace_seconds=60)
    finished.set()
    worker.join()
    assert outcome.reason == "done"
    assert reports[0].published == tuple(unit.unit_id for unit in units)
    for unit in units:
        alone = run_unit(unit, recipe, data, tmp_path / "alone", lambda *_, **__: None)
        brought = verify(tmp_path / "desk" / "checkpoints" / unit.unit_id / "result", UNIT_KIND)
        assert brought.content_sha256 == verify(alone, UNIT_KIND).content_sha256


def test_a_unit_planned_with_other_settings_is_reported(
    data: TrainingData, recipe: Recipe, fold: Fold, tmp_path: Path
) -> None:
    save_training_data(tmp_path / "package", data)
    job = training_job(recipe, (fold,), plan_units(recipe, data, (fold,)), tmp_path / "package")
    other = job.model_copy(update={"recipe": {**job.recipe, "training": {"num_seeds": 2}}})
    with pytest.raises(BadDataError, match="another recipe"):
        LocalEngine()(other.units[0], other, tmp_path / "package", tmp_path / "units", lambda *_, **__: None, Nowhere())


def test_a_unit_goes_on_elsewhere_from_its_checkpoint_to_the_same_bytes(
    data: TrainingData, recipe: Recipe, fold: Fold, tmp_path: Path
) -> None:
    units = plan_units(recipe, data, (fold,))
    save_training_data(tmp_path / "package", data)
    job = training_job(recipe, (fold,), units, tmp_path / "package")
    remote = FolderTransfer(tmp_path / "remote")
    Mailbox(remote).publish(job, tmp_path / "package")
    often = MachineConfig(checkpoint_frac=0.01)
    engine = LocalEngine(often)

    def dies(
        unit: UnitRecord,
        job: JobRecord,
        package: Path,
        units_root: Path,
        progress: StepProgress,
        sink: CheckpointSink,
        /,
    ) -> Path:
        def until_carried(stage: str, done: int, total: int, note: str) -> None:
            progress(stage, done, total, note)
            for _ in range(500):
                if units_with_checkpoints(remote):
                    raise RemoteError("the machine is taken away")
                threading.Event().wait(0.02)

        return engine(unit, job, package, units_root, until_carried, sink)

    with pytest.raises(RemoteError, match="taken away"):
        run_worker(remote, tmp_path / "w1", runner=dies, source_id=training_source_id(), times=QUICK)
    said: list[str] = []
    report = run_worker(remote, tmp_path / "w2", machine=often, times=QUICK, once=True, say=said.append)
    assert report.published == (units[0].unit_id,)
    assert any("goes on from backbone step" in line for line in said)
    alone = run_unit(units[0], recipe, data, tmp_path / "alone", lambda *_, **__: None)
    brought = verify(tmp_path / "w2" / "checkpoints" / units[0].unit_id / "result", UNIT_KIND)
    assert brought.content_sha256 == verify(alone, UNIT_KIND).content_sha256
    (status,) = [one for one in Mailbox(remote).worker_statuses() if one.device]
    assert status.device == LocalEngine(often).device_words


def test_a_worker_uses_its_own_machine(data: TrainingData, recipe: Recipe, fold: Fold, tmp_path: Path) -> None:
    units = plan_units(recipe, data, (fold,))
    save_training_data(tmp_path / "package", data)
    job = training_job(recipe, (fold,), units, tmp_path / "package")
    engine = LocalEngine(MachineConfig(device="cpu", num_threads=2, precision="float32"))
    result = engine(job.units[0], job, tmp_path / "package", tmp_path / "units", lambda *_, **__: None, Nowhere())
    recorded = verify(result, UNIT_KIND).meta["environment"]
    assert isinstance(recorded, dict)
    assert (recorded["num_threads"], recorded["device"]) == (2, "cpu")


def test_a_worker_with_another_torch_does_the_same_units(
    data: TrainingData, recipe: Recipe, fold: Fold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_training_data(tmp_path / "package", data)
    theirs = {**libraries_here(), "torch": "2.999.0"}
    planned_id = planned_recipe_id(recipe, theirs)
    planned = [unit.model_copy(update={"recipe_id": planned_id}) for unit in plan_units(recipe, data, (fold,))[:1]]
    job = training_job(recipe, (fold,), planned, tmp_path / "package").model_copy(update={"libraries": theirs})
    assert refusal(job) is None
    result = LocalEngine()(
        job.units[0], job, tmp_path / "package", tmp_path / "units", lambda *_, **__: None, Nowhere()
    )
    manifest = verify(result, UNIT_KIND)
    assert manifest.meta["unit"] == job.units[0].body
    recorded = manifest.meta["environment"]
    assert isinstance(recorded, dict)
    assert str(recorded["torch_version"]).split("+")[0] == libraries_here()["torch"]
    monkeypatch.setattr(local_engine, "required_range", lambda *_: ">=99")
    assert "needs torch>=99" in str(refusal(job))
    assert "another version" in str(refusal(job.model_copy(update={"source_id": "other"})))


def test_a_name_follows_from_settings_sources_and_versions(
    data: TrainingData, recipe: Recipe, fold: Fold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned_recipe_id(recipe, libraries_here()) == recipe.unit_recipe_id
    save_training_data(tmp_path / "package", data)
    job = training_job(recipe, (fold,), plan_units(recipe, data, (fold,)), tmp_path / "package")
    assert recipe_of(job).unit_recipe_id == recipe.unit_recipe_id
    others = job.model_copy(update={"libraries": {**libraries_here(), "torch": "2.998.0"}})
    assert recipe_of(others).unit_recipe_id != recipe.unit_recipe_id
    monkeypatch.setattr(local_engine, "training_source_id", lambda: "0" * 64)
    assert planned_recipe_id(recipe, libraries_here()) != recipe.unit_recipe_id


@pytest.mark.parametrize(
    ("found", "wanted", "holds"),
    [
        ("2.13.0", ">=2.11", True),
        ("2.11", ">=2.11", True),
        ("2.11.0+cu128", ">=2.11,<3", True),
        ("2.9.1", ">=2.11", False),
        ("3.0", ">=2.11,<3", False),
        ("2.12.1", "!=2.12.1", False),
        ("2.12", "", True),
    ],
)
def test_versions_lie_in_ranges(found: str, wanted: str, *, holds: bool) -> None:
    assert within(found, wanted) is holds


def test_the_range_is_that_of_the_installed_package() -> None:
    assert required_range("vnfleet", "torch") in ("", ">=2.11")
    assert required_range("no-such-package-here", "torch") == ""
