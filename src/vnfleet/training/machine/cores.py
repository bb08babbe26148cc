"""Which cores to compute on: one thread per physical performance core, within what this process is allowed.

Matrix products are split evenly, so one slow core holds up all fast ones: on hybrid processors only the performance
cores are used, and never two threads of one core. Linux tells through sysfs, Windows through
GetLogicalProcessorInformationEx; elsewhere (macOS, most virtual machines, WSL) all cores are taken to be equal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vnfleet.core.errors import UsageError
from vnfleet.training.machine.cgroups import quota_cores, read_number, read_words, whole_cores

_CAPACITY_SHARE = 0.75  # capacities are 1024 for the fastest: Arm middle cores lie near 0.5, Intel E-cores near 0.6
_CLOCK_SHARE = 0.85  # Intel E-cores reach 0.72-0.78 of the P-cores' clock; favoured cores of one kind differ by < 10 %
_GROUP_CORES = 64  # Windows numbers logical processors in groups of 64
_RELATION_PROCESSOR_CORE = 0


@dataclass(frozen=True, slots=True)
class CoreMap:
    """The logical CPUs to compute on, one per physical core, and in words why these."""

    cores: tuple[int, ...]
    words: str


def performance_cores(root: Path = Path("/"), affinity: Collection[int] | None = None) -> tuple[int, ...]:
    """Return the logical CPUs to compute on, see `core_map`."""
    return core_map(root, affinity).cores


def core_map(root: Path = Path("/"), affinity: Collection[int] | None = None) -> CoreMap:
    """Return one logical CPU per performance core that this process may use, at least one, in ascending order.

    `root` holds ``proc`` and ``sys``, for fake machines; `affinity` are the logical CPUs allowed, None asks the system
    about this process.
    """
    if sys.platform == "win32":
        return windows_core_map(WindowsKernel())
    allowed = set(usable_cpus() if affinity is None else affinity)
    if not allowed:
        raise UsageError("no core is left to compute on", fix="widen the processor affinity of this process")
    fast, why = _fast_cpus(root, allowed)
    chosen = fast & allowed
    if not chosen:
        chosen, why = allowed, f"{why}; none of those is allowed here, so the allowed ones"
    cores = _one_per_core(root, chosen)
    return _within(cores, why, quota_cores(root))


def usable_cpus() -> tuple[int, ...]:
    """Return the logical CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def pin(cores: Sequence[int]) -> bool:
    """Keep this process, all its threads of now and later, on `cores`; False where the system knows no pinning.

    Call it before the first tensor operation: worker threads inherit it.

    Raises
    ------
    UsageError
        When the system refuses those cores.
    """
    if not cores:
        raise ValueError("pin needs at least one core")
    if sys.platform == "win32":
        return windows_pin(WindowsKernel(), cores)
    if not hasattr(os, "sched_setaffinity"):
        return False
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise UsageError(
            "the process cannot be pinned to these cores",
            expected=f"a subset of {as_ranges(usable_cpus())}",
            found=as_ranges(cores),
            fix="pin_cores = false in [machine] leaves the placement to the system",
        ) from error
    for thread in Path("/proc/self/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a thread may end while we look
            os.sched_setaffinity(int(thread.name), cores)
    return True


def parse_cpu_list(text: str) -> set[int]:
    """Return the CPUs of a kernel list such as ``0-15,18``; anything unreadable counts as absent."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (last or first).isdigit():
            cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def as_ranges(cpus: Iterable[int]) -> str:
    """Return CPUs as a person writes them: ``0-3, 8``."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _fast_cpus(root: Path, allowed: set[int]) -> tuple[set[int], str]:
    """Return the CPUs of the fastest kind in the machine and the words for it."""
    fast = _listed(root / "sys/devices/cpu_core/cpus")
    slow = _listed(root / "sys/devices/cpu_atom/cpus")
    if fast:
        return fast - slow, f"performance cores of a hybrid processor (efficiency cores {as_ranges(slow) or 'none'})"
    folder = root / "sys/devices/system/cpu"
    kinds = (
        ("cpu_capacity", _CAPACITY_SHARE, "cores of the highest capacity"),
        ("cpufreq/cpuinfo_max_freq", _CLOCK_SHARE, "cores of the highest clock"),
    )
    for name, share, words in kinds:
        speeds = {cpu: read_number(folder / f"cpu{cpu}" / name) for cpu in allowed | _present(folder)}
        found = _at_least(speeds, share)
        if found and len(found) < len(speeds):
            return found, words
    return set(allowed), "all cores alike, as far as the system tells"


def _at_least(speeds: Mapping[int, int | None], share: float) -> set[int]:
    """Return the CPUs within `share` of the fastest; nothing when any speed is unknown."""
    known = {cpu: speed for cpu, speed in speeds.items() if speed}
    if len(known) < len(speeds) or not known:
        return set()
    top = max(known.values())
    return {cpu for cpu, speed in known.items() if speed >= share * top}


def _present(folder: Path) -> set[int]:
    return parse_cpu_list(" ".join(read_words(folder / "online")))


def _listed(path: Path) -> set[int]:
    return parse_cpu_list(" ".join(read_words(path)))


def _one_per_core(root: Path, cpus: set[int]) -> tuple[int, ...]:
    """Return the lowest CPU of each physical core; a CPU whose siblings are unknown is its own core."""
    seen: set[int] = set()
    cores = []
    for cpu in sorted(cpus):
        if cpu in seen:
            continue
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        seen |= {cpu} | (_listed(topology / "thread_siblings_list") or _listed(topology / "core_cpus_list"))
        cores.append(cpu)
    return tuple(cores)


def _within(cores: tuple[int, ...], why: str, quota: float | None) -> CoreMap:
    kept = cores[: whole_cores(quota)]
    cut = f", cut to the quota of {quota:g} cores of its control group" if quota and len(kept) < len(cores) else ""
    return CoreMap(kept, f"{why}: {as_ranges(kept)}{cut}")


class WindowsCalls(Protocol):
    """What is asked of the Windows kernel."""

    def processor_cores(self) -> bytes:
        """Return the records of GetLogicalProcessorInformationEx(RelationProcessorCore)."""
        ...

    def affinity_mask(self) -> int:
        """Return the bits of the logical processors this process may use; 0 when it spans processor groups."""
        ...

    def set_affinity_mask(self, mask: int) -> bool:
        """Allow this process the processors of `mask` only; False when refused."""
        ...


def windows_core_map(kernel: WindowsCalls) -> CoreMap:
    """Return the cores of the highest efficiency class (Windows gives fast cores the higher class), one CPU each."""
    found = list(parse_processor_cores(kernel.processor_cores()))
    mask = kernel.affinity_mask()
    if mask:
        found = [(grade, [cpu for cpu in cpus if mask >> cpu & 1]) for grade, cpus in found]
    found = [(grade, cpus) for grade, cpus in found if cpus]
    if not found:
        return CoreMap(usable_cpus(), f"all cores alike, as far as the system tells: {as_ranges(usable_cpus())}")
    grades = sorted({grade for grade, _ in found})
    cores = tuple(sorted(min(cpus) for grade, cpus in found if grade == grades[-1]))
    why = "performance cores of a hybrid processor" if len(grades) > 1 else "all cores alike"
    return _within(cores, why, None)


def windows_pin(kernel: WindowsCalls, cores: Sequence[int]) -> bool:
    """Pin through an affinity mask; False for cores beyond the first processor group, which a mask cannot name."""
    if max(cores) >= _GROUP_CORES:
        return False
    if not kernel.set_affinity_mask(sum(1 << cpu for cpu in set(cores))):
        raise UsageError(
            "the process cannot be pinned to these cores",
            found=as_ranges(cores),
            fix="pin_cores = false in [machine] leaves the placement to the system",
        )
    return True


def parse_processor_cores(records: bytes) -> Iterator[tuple[int, list[int]]]:
    """Yield (efficiency class, logical CPUs) per physical core of a 64-bit Windows buffer.

    Source: SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, PROCESSOR_RELATIONSHIP and GROUP_AFFINITY of winnt.h: relation and
    size (4 bytes each), flags, efficiency class, 20 reserved bytes, group count, then per group mask (8), group (2) and
    6 reserved bytes.
    """
    start = 0
    while start + 8 <= len(records):
        relation, size = struct.unpack_from("<II", records, start)
        if size < 8 or start + size > len(records):
            return
        if relation == _RELATION_PROCESSOR_CORE:
            _, grade, num_groups = struct.unpack_from("<BB20xH", records, start + 8)
            cpus = []
            for index in range(num_groups):
                mask, group = struct.unpack_from("<QH6x", records, start + 32 + 16 * index)
                cpus += [group * _GROUP_CORES + bit for bit in range(_GROUP_CORES) if mask >> bit & 1]
            yield grade, cpus
        start += size


class WindowsKernel:
    """The three calls through kernel32; only ever made on Windows."""

    def processor_cores(self) -> bytes:
        """See `WindowsCalls`."""
        call = _kernel32("GetLogicalProcessorInformationEx")
        length = ctypes.c_uint32(0)
        call(_RELATION_PROCESSOR_CORE, None, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        return buffer.raw if call(_RELATION_PROCESSOR_CORE, buffer, ctypes.byref(length)) else b""

    def affinity_mask(self) -> int:
        """See `WindowsCalls`."""
        process, system = ctypes.c_size_t(0), ctypes.c_size_t(0)
        call = _kernel32("GetProcessAffinityMask")
        done = call(ctypes.c_void_p(-1), ctypes.byref(process), ctypes.byref(system))
        return process.value if done else 0

    def set_affinity_mask(self, mask: int) -> bool:
        """See `WindowsCalls`."""
        return bool(_kernel32("SetProcessAffinityMask")(ctypes.c_void_p(-1), ctypes.c_size_t(mask)))


def _kernel32(name: str) -> Callable[..., int]:
    """Return a kernel32 function; -1 as a process handle means this process."""
    library = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 - absent from ctypes elsewhere than on Windows
    function: Callable[..., int] = getattr(library, name)
    return function
