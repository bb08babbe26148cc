"""Which unit may start when, and how often a lost one is tried."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError, ResourceError
from vnfleet.core.sealed import sealing
from vnfleet.training.engines.crossing import UnitFailedError
from vnfleet.training.engines.job import UnitQueue, memory_share_gib
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.plan import WorkUnit
from vnfleet.training.unit_result import UNIT_KIND, result_folder


def make_unit(seed: int, *needs: WorkUnit) -> WorkUnit:
    return WorkUnit(
        kind="member" if needs else "select",
        fold_id="2020",
        seed=seed,
        train=(0, 1),
        valid=(1, 2),
        refit=(0, 2),
        universe=(),
        recipe_id="r",
        data_id="d",
        depends_on=tuple(unit.unit_id for unit in needs),
    )


def finish(root: Path, unit: WorkUnit) -> None:
    with sealing(result_folder(root, unit.unit_id), UNIT_KIND, {}):
        pass


def save_checkpoint(root: Path, unit: WorkUnit, step: int) -> None:
    (root / unit.unit_id / "backbone" / f"ckpt-{step:08d}").mkdir(parents=True)


@given(order=st.permutations(range(6)), num_at_once=st.integers(1, 4), choices=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_every_unit_runs_once_and_after_what_it_needs(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], num_at_once: int, choices: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("queue")
    first, second = make_unit(0), make_unit(1)
    members = [make_unit(seed, first) for seed in (2, 3)] + [make_unit(seed, first, second) for seed in (4, 5)]
    units = [[first, second, *members][index] for index in order]
    waiting = UnitQueue(units, root)
    running: list[WorkUnit] = []
    ended: list[str] = []
    while not waiting.is_done:
        for unit in waiting.ready()[: num_at_once - len(running)]:
            assert set(unit.depends_on) <= set(ended)
            waiting.started(unit)
            running.append(unit)
        unit = running.pop(choices.randrange(len(running)))  # type: ignore[attr-defined]
        finish(root, unit)
        waiting.finished(unit)
        ended.append(unit.unit_id)
    assert sorted(ended) == sorted(unit.unit_id for unit in units)


def test_a_need_that_nobody_trains_is_refused(tmp_path: Path) -> None:
    select = make_unit(0)
    with pytest.raises(BadDataError, match="neither finished nor planned"):
        UnitQueue([make_unit(1, select)], tmp_path)
    finish(tmp_path, select)
    assert len(UnitQueue([make_unit(1, select)], tmp_path).ready()) == 1


def test_the_third_loss_in_a_row_ends_the_job_and_the_last_try_runs_alone(tmp_path: Path) -> None:
    unlucky, other = make_unit(0), make_unit(1)
    waiting = UnitQueue([unlucky, other], tmp_path)
    for attempt in (2, 3):
        waiting.started(unlucky)
        assert f"try {attempt} of 3" in waiting.lost(unlucky, "killed", is_memory=True)
    waiting.started(other)
    assert waiting.ready() == ()
    finish(tmp_path, other)
    waiting.finished(other)
    assert waiting.ready() == (unlucky,)
    waiting.started(unlucky)
    with pytest.raises(ResourceError, match=unlucky.unit_id):
        waiting.lost(unlucky, "killed", is_memory=True)


def test_nothing_starts_beside_a_unit_that_runs_alone(tmp_path: Path) -> None:
    unlucky, other = make_unit(0), make_unit(1)
    waiting = UnitQueue([unlucky, other], tmp_path)
    for _ in range(2):
        waiting.started(unlucky)
        waiting.lost(unlucky, "killed", is_memory=False)
    assert waiting.ready() == (unlucky,)
    waiting.started(unlucky)
    assert waiting.ready() == ()


def test_a_loss_after_a_new_checkpoint_counts_as_the_first(tmp_path: Path) -> None:
    unit = make_unit(0)
    waiting = UnitQueue([unit], tmp_path)
    for step in range(6):
        waiting.started(unit)
        save_checkpoint(tmp_path, unit, step)
        assert "try 2 of 3" in waiting.lost(unit, "the machine is gone", is_memory=False)
    for _ in range(2):
        waiting.started(unit)
        error = None
        try:
            waiting.lost(unit, "the machine is gone", is_memory=False)
        except UnitFailedError as caught:
            error = caught
    assert error is not None
    assert "the machine is gone" in str(error)


def test_an_end_without_a_result_is_an_error(tmp_path: Path) -> None:
    unit = make_unit(0)
    waiting = UnitQueue([unit], tmp_path)
    waiting.started(unit)
    with pytest.raises(UnitFailedError, match="without a whole result"):
        waiting.finished(unit)


def test_processes_side_by_side_share_the_memory() -> None:
    machine = MachineConfig(device="cpu", memory_limit_gib=12.0)
    assert [memory_share_gib(machine, number) for number in (1, 2, 3)] == [12.0, 6.0, 4.0]
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert memory_share_gib(MachineConfig(device="cpu"), 1) == 0.0
    assert 0.0 < memory_share_gib(MachineConfig(device="cpu"), 4) <= everything / 4


def test_a_damaged_result_is_open_again_and_no_ground_to_build_on(tmp_path: Path) -> None:
    first = make_unit(0)
    member = make_unit(1, first)
    with sealing(result_folder(tmp_path, first.unit_id), UNIT_KIND, {}) as scratch:
        (scratch / "selection.json").write_text("{}")
    assert UnitQueue([first, member], tmp_path).finished_before == (first,)
    (result_folder(tmp_path, first.unit_id) / "selection.json").write_text("{ ")
    again = UnitQueue([first, member], tmp_path)
    assert again.finished_before == ()
    assert again.ready() == (first,)
    with pytest.raises(BadDataError, match="neither finished nor planned"):
        UnitQueue([member], tmp_path)
