"""What workers leave open is trained here in the time there is: members are given up, finished ones never."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vnfleet.core.clock import FixedClock
from vnfleet.core.errors import RemoteError
from vnfleet.cycle.config import CycleConfig, RemoteConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.remote_training import RemoteTraining
from vnfleet.cycle.runner import SilentObserver
from vnfleet.cycle.steps import remote_fitting
from vnfleet.cycle.steps.planning import PlanOfWork, with_fewer_seeds
from vnfleet.cycle.steps.remote_fitting import how_to_help, trained_remotely
from vnfleet.cycle.workdir import Folders
from vnfleet.training.dataset import TrainingData
from vnfleet.training.machine.budget import BudgetChoice
from vnfleet.training.machine.work import MachineFacts, new_record, read_work, write_work
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe

SATURDAY = datetime(2026, 11, 21, 1, 45, tzinfo=UTC)  # two days to Monday 08:45 in Vietnam
HOURS = 48
CONFIG = dataclasses.replace(CycleConfig(), remote=RemoteConfig(mode="hybrid", remote="nowhere"))


def unit(seed: int) -> WorkUnit:
    ranges: Any = {"train": (0, 1), "valid": (2, 3), "refit": (0, 3)}
    return WorkUnit(kind="member", fold_id="live", seed=seed, universe=("FPT",), recipe_id="r", data_id="d", **ranges)


UNITS = [unit(seed) for seed in range(3)]


@pytest.fixture
def plan(tmp_path: Path) -> PlanOfWork:
    layout = SimpleNamespace(processes=1, threads=1, seconds_per_step=0.1, compiled=False)
    budget = BudgetChoice(
        asked_seeds=3,
        asked_epochs=8,
        asked_seconds=1.0,
        num_seeds=3,
        max_epochs=8,
        expected_seconds=1.0,
        seconds_left=None,
    )
    machine = MachineFacts.here(num_cores=1, device="cpu")
    path = tmp_path / "work.json"
    write_work(path, new_record("key", now=SATURDAY, machine=machine, layout=layout, budget=budget, units=UNITS))
    return PlanOfWork(
        recipe=Recipe(),
        processes=1,
        threads=1,
        compiled=False,
        seconds_per_step=0.1,
        words="here",
        path=path,
        key="key",
    )


@pytest.fixture
def week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeekContext:
    monkeypatch.setattr(remote_fitting, "sealed_package", lambda *_: tmp_path)
    monkeypatch.setattr(remote_fitting, "training_job", lambda *_: None)
    monkeypatch.setattr(remote_fitting, "open_remote", lambda *_, **__: None)
    monkeypatch.setattr(remote_fitting, "reserved_seconds", lambda _: 3600.0)
    return WeekContext(
        config=CONFIG,
        folders=Folders(tmp_path),
        as_of=SATURDAY.date(),
        clock=FixedClock(SATURDAY),
        observer=SilentObserver(),
    )


def went(monkeypatch: pytest.MonkeyPatch, *open_units: WorkUnit, hours_a_unit: float = 1.0) -> dict[str, object]:
    """Let workers leave `open_units` open, each of which takes so many hours here; return what they were asked."""
    asked: dict[str, object] = {}
    ids = tuple(one.unit_id for one in open_units)

    def train_remotely(*_: object, **terms: object) -> RemoteTraining:
        asked.update(terms)
        done = tuple(one.unit_id for one in UNITS if one.unit_id not in ids)
        return RemoteTraining(job_id="job", finished=done, open_units=ids, reason="no worker came")

    monkeypatch.setattr(remote_fitting, "train_remotely", train_remotely)
    monkeypatch.setattr(
        remote_fitting, "training_seconds", lambda _week, _plan, units: hours_a_unit * 3600 * len(units)
    )
    return asked


def trained(week: WeekContext, plan: PlanOfWork) -> tuple[PlanOfWork, str]:
    return trained_remotely(week, plan, UNITS, cast("TrainingData", None), ())


def test_by_default_workers_have_until_monday_morning_less_what_the_rest_of_the_week_needs(
    week: WeekContext, plan: PlanOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = went(monkeypatch)
    trained(week, plan)
    deadline = asked["deadline"]
    assert isinstance(deadline, datetime)
    assert (deadline - SATURDAY).total_seconds() == (HOURS - 1) * 3600


def test_what_fits_is_trained_here_whole(week: WeekContext, plan: PlanOfWork, monkeypatch: pytest.MonkeyPatch) -> None:
    went(monkeypatch, *UNITS, hours_a_unit=15.0)
    kept, words = trained(week, plan)
    assert kept == plan
    assert words == "0 of 3 from the remote, 3 trained here: no worker came"


def test_what_does_not_fit_before_monday_is_given_up_member_by_member(
    week: WeekContext, plan: PlanOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    went(monkeypatch, *UNITS, hours_a_unit=20.0)
    kept, _ = trained(week, plan)
    assert kept.recipe.training.num_seeds == 2
    assert "2 seeds only" in kept.words
    record = read_work(plan.path, "key")
    assert record is not None
    assert record.budget.num_seeds == 2  # a resumed week keeps to it
    assert record.unit_ids == (UNITS[0].unit_id, UNITS[1].unit_id)


def test_members_that_came_back_cost_no_time(
    week: WeekContext, plan: PlanOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    went(monkeypatch, UNITS[1], UNITS[2], hours_a_unit=20.0)
    kept, _ = trained(week, plan)
    assert kept.recipe.training.num_seeds == 3


def test_a_remote_that_refuses_does_not_cost_the_week(
    week: WeekContext, plan: PlanOfWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> RemoteTraining:
        raise RemoteError("the remote no longer accepts the stored login")

    monkeypatch.setattr(remote_fitting, "train_remotely", refuse)
    kept, words = trained(week, plan)
    assert kept == plan
    assert "everything trained here" in words


def test_the_owner_is_told_where_the_work_waits() -> None:
    said = how_to_help("gdrive:VN-Quant-Training", 6)
    assert "vnfleet worker --remote gdrive:VN-Quant-Training" in said
    assert "https://drive.google.com/drive/search?q=colab_training.ipynb" in said
    assert "google" not in how_to_help("/mnt/nas/VN-Quant-Training", 6)


def test_fewer_seeds_are_another_recipe_with_the_same_members(plan: PlanOfWork) -> None:
    fewer = with_fewer_seeds(plan, 1, UNITS)
    assert fewer.recipe.recipe_id != plan.recipe.recipe_id
    assert fewer.recipe.unit_recipe_id == plan.recipe.unit_recipe_id
