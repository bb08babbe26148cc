"""Cores are chosen from what fake machines tell about themselves."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import UsageError
from vnfleet.training.machine.cores import (
    as_ranges,
    core_map,
    parse_cpu_list,
    parse_processor_cores,
    performance_cores,
    pin,
    usable_cpus,
    windows_core_map,
    windows_pin,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="affinity calls of Linux")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fake sysfs trees are read on Linux only")


def write(root: Path, files: Mapping[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="ascii")


def machine(root: Path, cores: Sequence[tuple[int, ...]]) -> int:
    """Write a topology whose physical cores hold the given logical CPUs; return how many CPUs there are."""
    for cpus in cores:
        for cpu in cpus:
            siblings = ",".join(str(one) for one in cpus)
            write(root, {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": siblings})
    count = sum(len(cpus) for cpus in cores)
    write(root, {"sys/devices/system/cpu/online": f"0-{count - 1}"})
    return count


def i7_14700(root: Path) -> range:
    """8 P-cores with two threads each (CPUs 0-15) and 12 E-cores (16-27)."""
    pairs = [(2 * core, 2 * core + 1) for core in range(8)]
    count = machine(root, [*pairs, *[(cpu,) for cpu in range(16, 28)]])
    write(root, {"sys/devices/cpu_core/cpus": "0-15", "sys/devices/cpu_atom/cpus": "16-27"})
    return range(count)


def test_an_i7_14700_computes_on_one_thread_of_each_of_its_8_performance_cores(tmp_path: Path) -> None:
    found = core_map(tmp_path, i7_14700(tmp_path))
    assert found.cores == (0, 2, 4, 6, 8, 10, 12, 14)
    assert "hybrid" in found.words
    assert "16-27" in found.words


def test_an_i5_13400_numbers_its_siblings_last_and_still_gives_6_cores(tmp_path: Path) -> None:
    # Some firmware numbers first threads, then E-cores, then second threads: P-cores are 0-5 with siblings 10-15.
    machine(tmp_path, [*[(core, core + 10) for core in range(6)], *[(cpu,) for cpu in range(6, 10)]])
    write(tmp_path, {"sys/devices/cpu_core/cpus": "0-5,10-15", "sys/devices/cpu_atom/cpus": "6-9"})
    assert performance_cores(tmp_path, range(16)) == (0, 1, 2, 3, 4, 5)


def test_a_hybrid_without_the_hybrid_folders_is_told_by_its_clocks(tmp_path: Path) -> None:
    machine(tmp_path, [*[(2 * core, 2 * core + 1) for core in range(4)], *[(cpu,) for cpu in range(8, 12)]])
    clocks = [5_300_000] * 4 + [5_400_000] * 4 + [4_200_000] * 4  # two favoured cores are no kind of their own
    write(
        tmp_path,
        {f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq": clock for cpu, clock in enumerate(clocks)},
    )
    assert performance_cores(tmp_path, range(12)) == (0, 2, 4, 6)


def test_big_little_takes_the_big_cores(tmp_path: Path) -> None:
    machine(tmp_path, [(cpu,) for cpu in range(8)])
    capacities = [446] * 4 + [1024] * 4
    write(tmp_path, {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": value for cpu, value in enumerate(capacities)})
    found = core_map(tmp_path, range(8))
    assert found.cores == (4, 5, 6, 7)
    assert "capacity" in found.words


def test_three_arm_clusters_keep_the_prime_core_and_those_near_it(tmp_path: Path) -> None:
    machine(tmp_path, [(cpu,) for cpu in range(8)])
    capacities = [325] * 4 + [828] * 3 + [1024]
    write(tmp_path, {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": value for cpu, value in enumerate(capacities)})
    assert performance_cores(tmp_path, range(8)) == (4, 5, 6, 7)


def test_an_amd_desktop_gives_one_thread_of_each_core_however_favoured(tmp_path: Path) -> None:
    machine(tmp_path, [(core, core + 8) for core in range(8)])
    clocks = [5_750_000, 5_700_000, 5_650_000, 5_600_000, 5_500_000, 5_450_000, 5_400_000, 5_250_000] * 2
    write(
        tmp_path,
        {f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq": clock for cpu, clock in enumerate(clocks)},
    )
    found = core_map(tmp_path, range(16))
    assert found.cores == tuple(range(8))
    assert "alike" in found.words


def test_a_virtual_machine_that_tells_nothing_uses_all_it_may(tmp_path: Path) -> None:
    assert performance_cores(tmp_path, range(4)) == (0, 1, 2, 3)


def test_a_clock_that_only_some_cores_tell_decides_nothing(tmp_path: Path) -> None:
    machine(tmp_path, [(cpu,) for cpu in range(4)])
    write(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": 5_000_000})
    assert performance_cores(tmp_path, range(4)) == (0, 1, 2, 3)


def test_affinity_is_honoured_and_a_second_thread_stands_in_for_a_forbidden_first(tmp_path: Path) -> None:
    i7_14700(tmp_path)
    assert performance_cores(tmp_path, {1, 2, 3, 20}) == (1, 2)


def test_a_process_confined_to_efficiency_cores_uses_those(tmp_path: Path) -> None:
    i7_14700(tmp_path)
    found = core_map(tmp_path, {16, 17})
    assert found.cores == (16, 17)
    assert "none of those is allowed" in found.words


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/box/cpu.max": "250000 100000"}, 2),
        ({"sys/fs/cgroup/box/cpu.max": "max 100000"}, 8),
        ({"sys/fs/cgroup/cpu.max": "50000 100000", "sys/fs/cgroup/box/cpu.max": "max 100000"}, 1),
    ],
    ids=["2.5 cores round down", "no quota", "half a core above us is still one core"],
)
def test_a_quota_of_the_control_group_cuts_the_cores(
    tmp_path: Path, files: Mapping[str, object], expected: int
) -> None:
    cpus = i7_14700(tmp_path)
    write(tmp_path, {"proc/self/cgroup": "0::/box", **files})
    assert len(performance_cores(tmp_path, cpus)) == expected


def test_a_version_1_quota_counts_and_minus_one_means_none(tmp_path: Path) -> None:
    cpus = i7_14700(tmp_path)
    write(tmp_path, {"proc/self/cgroup": "4:cpu,cpuacct:/box\n3:memory:/box"})
    folder = "sys/fs/cgroup/cpu,cpuacct/box"
    write(tmp_path, {f"{folder}/cpu.cfs_quota_us": 300_000, f"{folder}/cpu.cfs_period_us": 100_000})
    assert performance_cores(tmp_path, cpus) == (0, 2, 4)
    write(tmp_path, {f"{folder}/cpu.cfs_quota_us": -1})
    assert len(performance_cores(tmp_path, cpus)) == 8


def test_no_allowed_core_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no core"):
        core_map(tmp_path, ())


def test_this_machine_has_a_core() -> None:
    assert set(performance_cores()) <= set(usable_cpus())
    assert performance_cores()


@linux_only
def test_pinning_holds_and_an_impossible_core_is_refused() -> None:
    before = os.sched_getaffinity(0)
    try:
        first = min(before)
        assert pin((first,))
        assert os.sched_getaffinity(0) == {first}
        with pytest.raises(UsageError, match="pin_cores"):
            pin((100_000,))
    finally:
        assert pin(tuple(before))  # every thread of the test process goes back
    assert os.sched_getaffinity(0) == before


def test_pinning_to_nothing_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        pin(())


@pytest.mark.parametrize(("text", "expected"), [("0-3,8\n", {0, 1, 2, 3, 8}), ("", set()), ("5", {5}), ("x,2", {2})])
def test_kernel_lists_are_read(text: str, expected: set[int]) -> None:
    assert parse_cpu_list(text) == expected


@given(st.sets(st.integers(0, 300)))
def test_what_people_read_is_what_the_kernel_writes(cpus: set[int]) -> None:
    assert parse_cpu_list(as_ranges(cpus)) == cpus


# Windows: a buffer as GetLogicalProcessorInformationEx fills it, and a kernel that answers from it.


def core_record(grade: int, mask: int, group: int = 0) -> bytes:
    """One core: relation 0, 48 bytes, SMT flag, efficiency class, 20 reserved, one group, its mask."""
    flags = 1 if mask.bit_count() > 1 else 0
    return struct.pack("<IIBB20xHQH6x", 0, 48, flags, grade, 1, mask, group)


class FakeWindows:
    def __init__(self, records: bytes, mask: int, *, obeys: bool = True) -> None:
        self.records, self.mask, self.obeys = records, mask, obeys

    def processor_cores(self) -> bytes:
        return self.records

    def affinity_mask(self) -> int:
        return self.mask

    def set_affinity_mask(self, mask: int) -> bool:
        if self.obeys:
            self.mask = mask
        return self.obeys


HYBRID = b"".join(core_record(1, 0b11 << 2 * core) for core in range(8)) + b"".join(
    core_record(0, 1 << cpu) for cpu in range(16, 28)
)


def test_windows_takes_the_cores_of_the_higher_efficiency_class() -> None:
    found = windows_core_map(FakeWindows(HYBRID, (1 << 28) - 1))
    assert found.cores == (0, 2, 4, 6, 8, 10, 12, 14)
    assert "hybrid" in found.words


def test_windows_affinity_is_honoured() -> None:
    assert windows_core_map(FakeWindows(HYBRID, 0b1010)).cores == (1, 3)
    assert windows_core_map(FakeWindows(HYBRID, 1 << 20)).cores == (20,)


def test_a_plain_windows_processor_uses_all_its_cores() -> None:
    records = b"".join(core_record(0, 0b11 << 2 * core) for core in range(6))
    found = windows_core_map(FakeWindows(records, (1 << 12) - 1))
    assert found.cores == (0, 2, 4, 6, 8, 10)
    assert "alike" in found.words


def test_windows_groups_are_numbered_in_sixty_fours_and_other_records_are_passed_over() -> None:
    other = struct.pack("<II24x", 3, 32)  # a package record
    assert list(parse_processor_cores(other + core_record(0, 0b11, group=1))) == [(0, [64, 65])]


@pytest.mark.parametrize("cut", [1, 7, 40, 47])
def test_a_torn_windows_buffer_ends_quietly(cut: int) -> None:
    assert list(parse_processor_cores(core_record(0, 1) + core_record(0, 2)[:cut])) == [(0, [0])]


def test_windows_that_tells_nothing_falls_back_to_all_cores() -> None:
    assert windows_core_map(FakeWindows(b"", 0)).cores == usable_cpus()


def test_windows_pins_with_a_mask() -> None:
    kernel = FakeWindows(HYBRID, (1 << 28) - 1)
    assert windows_pin(kernel, (0, 2, 14))
    assert kernel.mask == 0b100_0000_0000_0101
    assert not windows_pin(kernel, (70,))
    with pytest.raises(UsageError, match="pinned"):
        windows_pin(FakeWindows(HYBRID, 1, obeys=False), (0,))
