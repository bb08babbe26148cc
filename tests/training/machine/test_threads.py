"""The layout of processes and threads follows from step times; fakes give the times."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import UsageError
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.threads import (
    candidate_threads,
    choose_layout,
    measure_layout,
    share_cores,
    step_timer,
)

EIGHT = tuple(range(0, 16, 2))
SCALES_WELL = {1: 8.0, 2: 4.0, 4: 2.0, 8: 1.0}
SCALES_BADLY = {1: 8.0, 2: 6.0, 4: 5.0, 8: 4.9}
AUTO = MachineConfig()


def test_one_unit_gets_the_threads_that_are_fastest_alone() -> None:
    layout = choose_layout(SCALES_WELL, EIGHT, 1, AUTO)
    assert (layout.processes, layout.threads, layout.cores_by_process) == (1, 8, (EIGHT,))
    assert layout.seconds_per_step == 1.0


def test_many_units_that_scale_badly_run_side_by_side() -> None:
    layout = choose_layout(SCALES_BADLY, EIGHT, 8, AUTO)
    # 8 at once on one thread: 8 s. 4 on two, twice: 12 s. 2 on four, four times: 20 s. One on all, eight times: 39 s.
    assert (layout.processes, layout.threads) == (8, 1)
    assert layout.cores_by_process == tuple((core,) for core in EIGHT)
    assert "8 x 1" in layout.words


def test_perfect_scaling_keeps_one_process() -> None:
    assert choose_layout(SCALES_WELL, EIGHT, 8, AUTO).processes == 1


def test_few_units_are_not_spread_thinner_than_they_are_many() -> None:
    layout = choose_layout(SCALES_BADLY, EIGHT, 3, AUTO)
    # 3 at once on two threads: 6 s. 3 on one: 8 s. Two rounds of 2 on four: 10 s.
    assert (layout.processes, layout.threads) == (3, 2)
    assert layout.cores_by_process == ((0, 2), (4, 6), (8, 10))


def test_a_gain_under_5_percent_is_not_worth_another_process() -> None:
    assert choose_layout({1: 1.94, 2: 1.0}, (0, 1), 2, AUTO).processes == 1
    assert choose_layout({1: 1.80, 2: 1.0}, (0, 1), 2, AUTO).processes == 2


def test_memory_bounds_the_processes_and_the_words_say_so() -> None:
    layout = choose_layout(SCALES_BADLY, EIGHT, 8, AUTO, bytes_per_process=3, available=7)
    assert layout.processes == 2
    assert "memory allows 2 processes" in layout.words
    assert choose_layout(SCALES_BADLY, EIGHT, 8, AUTO, bytes_per_process=9, available=7).processes == 1


def test_settings_are_taken_as_they_are() -> None:
    fixed = MachineConfig(processes=2, num_threads=3)
    assert candidate_threads(8, fixed) == (3,)
    layout = choose_layout({3: 1.0}, EIGHT, 5, fixed)
    assert (layout.processes, layout.threads, layout.cores_by_process) == (2, 3, ((0, 2, 4), (6, 8, 10)))


def test_fixed_processes_leave_their_threads_to_the_measurement() -> None:
    assert candidate_threads(8, MachineConfig(processes=2)) == (1, 2, 4)
    assert candidate_threads(7, MachineConfig(processes=2)) == (1, 2, 3)


def test_more_processes_than_cores_share_all_of_them() -> None:
    layout = choose_layout({1: 1.0}, (0, 1), 4, MachineConfig(processes=4))
    assert layout.cores_by_process == share_cores((0, 1), 4, 1) == ((0, 1),) * 4


def test_without_pinning_no_cores_are_named() -> None:
    assert choose_layout(SCALES_WELL, EIGHT, 1, MachineConfig(pin_cores=False)).cores_by_process == ()


@pytest.mark.parametrize(("cores", "expected"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_powers_of_two_and_all_cores_are_tried(cores: int, expected: tuple[int, ...]) -> None:
    assert candidate_threads(cores, AUTO) == expected


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 2"):
        candidate_threads(2, MachineConfig(processes=2, num_threads=2))


def test_every_candidate_is_measured_once() -> None:
    asked: list[int] = []

    def step(threads: int) -> float:
        asked.append(threads)
        return SCALES_BADLY[threads]

    layout = measure_layout(step, EIGHT, 8, AUTO)
    assert asked == [1, 2, 4, 8]
    assert layout == choose_layout(SCALES_BADLY, EIGHT, 8, AUTO)


@given(
    st.dictionaries(st.sampled_from([1, 2, 4, 8, 12]), st.floats(0.01, 100.0), min_size=1),
    st.integers(12, 16),
    st.integers(1, 40),
)
def test_no_other_layout_would_be_much_sooner(seconds: Mapping[int, float], cores: int, units: int) -> None:
    layout = choose_layout(seconds, range(cores), units, AUTO)
    assert layout.processes * layout.threads <= cores
    assert layout.processes <= units
    used = [core for share in layout.cores_by_process for core in share]
    assert len(used) == len(set(used)) == layout.processes * layout.threads
    own = math.ceil(units / layout.processes) * layout.seconds_per_step
    for threads, one in seconds.items():
        side_by_side = min(cores // threads, units)
        # Every waived process gives away 5 % at most, and at most four counts are compared.
        assert own <= math.ceil(units / side_by_side) * one / 0.95 + 1e-9


def test_a_step_is_timed_warm_with_its_threads_and_they_are_put_back() -> None:
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])  # three rounds of 5, 2 and 3 seconds
    seen: list[int] = []
    before = torch.get_num_threads()
    timed = step_timer(lambda: seen.append(torch.get_num_threads()), clock=lambda: next(ticks))
    assert timed(2) == 2.0
    assert seen == [2, 2, 2, 2]
    assert torch.get_num_threads() == before
