"""How a plan of work is handed to the engines."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import SilentObserver
from vnfleet.cycle.steps.planning import PlanOfWork, run_plan
from vnfleet.cycle.workdir import Folders
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData, load_training_data
from vnfleet.training.engines.job import EngineJob, memory_share_gib
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import plan_units
from vnfleet.training.recipe import Recipe

SYMBOLS = tuple(f"S{number:02d}" for number in range(24))


@pytest.fixture
def data() -> TrainingData:
    generator = np.random.default_rng(1)
    return TrainingData(
        tuple(date(2022, 1, 3) + timedelta(days=day) for day in range(60)),
        SYMBOLS,
        ("a", "b"),
        generator.standard_normal((24, 60, 2)).astype(np.float32),
        np.ones((24, 60), dtype=bool),
        generator.standard_normal((5, 24, 60)).astype(np.float32),
    )


def test_the_pool_gets_the_planned_layout_the_sealed_rows_and_the_memory_of_the_whole_machine(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MachineConfig(processes=0, num_threads=0, memory_limit_gib=1.0, checkpoint_minutes=3.0)
    world = SimpleNamespace(
        config=dataclasses.replace(CycleConfig(), machine=machine),
        folders=Folders(tmp_path),
        observer=SilentObserver(),
        cube=lambda: SimpleNamespace(cube_id="cube"),
    )
    fold = Fold(
        fold_id="2022", train=range(30), valid=range(35, 45), refit=range(45), test=range(50, 60), universe=SYMBOLS
    )
    units = plan_units(Recipe(), data, (fold,))
    jobs: list[EngineJob] = []
    monkeypatch.setattr("vnfleet.training.engines.pool.run_units", lambda _units, job, _told: jobs.append(job))
    monkeypatch.setattr("vnfleet.cycle.steps.planning.performance_cores", lambda: (0, 1, 2, 3))
    plan = PlanOfWork(
        recipe=Recipe(),
        processes=2,
        threads=2,
        compiled=False,
        seconds_per_step=0.0,
        words="",
        path=tmp_path / "work.json",
        key="",
    )
    run_plan(cast("WeekContext", world), plan, units, data)
    (job,) = jobs
    assert (job.num_processes, job.num_threads) == (2, 2)
    assert sorted(core for cores in job.cores_by_process for core in cores) == [0, 1, 2, 3]
    assert job.machine.checkpoint_minutes == 3.0
    assert load_training_data(job.package).rows_id(60) == data.rows_id(60)
    assert memory_share_gib(job.machine, job.num_processes) == 0.5  # each process once, not twice, its part of 1 GiB
