"""What training would refuse is refused before hours of collecting."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from vnfleet.core.errors import UsageError
from vnfleet.cycle.config import CycleConfig, RemoteConfig
from vnfleet.cycle.steps.planning import check_settings
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import ObjectiveConfig, TrainingConfig

NOW = datetime(2026, 11, 23, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CycleConfig(machine=MachineConfig(deadline="tomorrow")), "deadline cannot be read"),
        (CycleConfig(machine=MachineConfig(deadline="2020-01-01T08:45")), "passed"),
        (CycleConfig(machine=MachineConfig(budget_minutes=1e9)), "budget"),
        (CycleConfig(machine=MachineConfig(processes=500)), "more processes are asked for than there are cores"),
        (CycleConfig(machine=MachineConfig(num_threads=900)), "more threads are asked for than there are cores"),
        (CycleConfig(machine=MachineConfig(engine="ray", ray_address="ray://x:10001")), "Ray Client"),
        (
            CycleConfig(machine=MachineConfig(engine="ray"), remote=RemoteConfig(mode="hybrid", remote="folder")),
            "cannot train the same week",
        ),
        (
            CycleConfig(
                training=TrainingConfig(strategy="separate"),
                objective=ObjectiveConfig(path_weight=0.0, volatility_weight=0.0),
            ),
            "separate models have nothing to learn from",
        ),
    ],
)
def test_impossible_settings_are_refused_at_the_start(config: CycleConfig, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_settings(config, NOW)


def test_the_defaults_are_fine() -> None:
    check_settings(CycleConfig(), NOW)
    check_settings(dataclasses.replace(CycleConfig(), machine=MachineConfig(deadline="08:45")), NOW)
