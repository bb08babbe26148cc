"""Budgets and deadlines: decided before the first step, told in words, and kept when the week goes on later."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from vnfleet.core.clock import FixedClock
from vnfleet.core.errors import UsageError
from vnfleet.cycle.weekly import Week, run_cycle
from vnfleet.training.machine.config import MachineConfig

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Factory

pytestmark = pytest.mark.xdist_group("end_to_end")
SATURDAY = datetime(2023, 3, 11, 2, tzinfo=UTC)


def train(factory: Factory, machine: MachineConfig, now: datetime = SATURDAY) -> Week:
    training = dataclasses.replace(factory.config.training, num_seeds=2, max_epochs=4, learning_rate=3e-3)
    config = dataclasses.replace(factory.config, training=training, machine=machine)
    return run_cycle(
        config, workdir=factory.workdir, as_of=factory.first_week, last_step="train", clock=FixedClock(now)
    )


def test_a_budget_that_is_too_small_gives_up_seeds_then_epochs_says_so_and_ends_with_a_valid_set(
    factory: Factory,
) -> None:
    machine = MachineConfig(processes=1, num_threads=1, budget_minutes=0.01)
    week = train(factory, machine)
    trained = week.steps[-1]
    words = trained.text("plan_of_work")
    assert "asked for 2 seeds and at most 4 epochs" in words
    assert "training 1 seed and at most 2 epochs" in words
    assert "not even the quickest valid set fits: started all the same" in words
    assert trained.facts["epochs"] == 2
    assert len(list((factory.workdir / "models").glob("*_stockformer.pt"))) == factory.models
    later = train(factory, machine, SATURDAY.replace(hour=20))
    assert later.steps[-1].reused
    assert later.steps[-1].text("recipe_id") == trained.text("recipe_id")


def test_a_generous_deadline_gives_nothing_up(factory: Factory) -> None:
    machine = MachineConfig(processes=1, num_threads=1, deadline="2023-03-13T08:45")
    words = train(factory, machine).steps[-1].text("plan_of_work")
    assert "fits, nothing is given up" in words
    late = train(factory, machine, SATURDAY.replace(day=20))
    assert late.steps[-1].text("plan_of_work") == words, "a week that goes on after its deadline goes on"


def test_a_deadline_that_has_passed_is_refused_before_anything_is_trained(new_factory: Factory) -> None:
    machine = MachineConfig(processes=1, num_threads=1, deadline="2023-03-10T08:45")
    with pytest.raises(UsageError, match="passed"):
        train(new_factory, machine)
    assert not list(new_factory.workdir.rglob("environment.json"))
