"""The mailbox with the real training code: what a worker trains is what this machine would have trained."""

import threading
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import verify
from vnfleet.cycle.local_engine import LocalEngine, training_job
from vnfleet.cycle.remote_training import train_remotely
from vnfleet.cycle.worker import WorkerReport, run_worker
from vnfleet.evaluation.splits import Fold
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.leases import LeaseTimes
from vnfleet.training.dataset import TrainingData, save_training_data
from vnfleet.training.engines.local import run_unit
from vnfleet.training.plan import plan_units
from vnfleet.training.recipe import ObjectiveConfig, Recipe, TrainingConfig
from vnfleet.training.unit_result import UNIT_KIND

QUICK = LeaseTimes(lease_seconds=60.0, heartbeat_seconds=1.0, settle_seconds=0.05)


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
        LocalEngine()(other.units[0], other, tmp_path / "package", tmp_path / "units", lambda *_, **__: None)
