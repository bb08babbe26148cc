"""How the cores are shared out: units side by side and threads of each, from a short measurement of one step.

Small matrices do not fill many cores: two units on four threads each may finish sooner than one after another on eight,
or later. So one real step is timed with 1, 2, 4, ... threads, and the layout that finishes the ready units soonest is
taken once per plan of work, recorded, and used again on resume (threads change the last bits of a result).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from vnfleet.core.errors import UsageError
from vnfleet.training.machine.config import MachineConfig

_WORTH_ANOTHER_PROCESS = 0.05  # each process costs memory and start-up, and shares the caches: it must gain this much
_REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the cores are used.

    Attributes
    ----------
    processes, threads : units side by side, and threads of each.
    cores_by_process : the logical CPUs each process is pinned to; empty lists nothing to pin.
    seconds_per_step : measured for one unit with that many threads; other units at work beside it may slow it.
    words : what was compared and why this won.
    compiled : whether the network is compiled.
    """

    processes: int
    threads: int
    cores_by_process: tuple[tuple[int, ...], ...]
    seconds_per_step: float
    words: str
    compiled: bool = False


def measure_layout(
    step: Callable[[int], float],
    cores: Sequence[int],
    num_ready_units: int,
    config: MachineConfig,
    *,
    bytes_per_process: int = 0,
    available: int = 0,
) -> Layout:
    """Return the layout that finishes `num_ready_units` equal units soonest on `cores`, one logical CPU each.

    `step` runs one step of a typical unit with that many threads and returns its seconds, see `step_timer`. `config`
    may fix `processes` and `num_threads` (above 0), and its `pin_cores` fills `cores_by_process`. There are no more
    processes than fit into `available` bytes at `bytes_per_process` each; 0 knows no limit.

    Raises
    ------
    UsageError
        When more threads are asked for than there are cores.
    """
    thread_counts = candidate_threads(len(cores), config)
    seconds_by_threads = {threads: step(threads) for threads in thread_counts}
    return choose_layout(
        seconds_by_threads,
        cores,
        num_ready_units,
        config,
        bytes_per_process=bytes_per_process,
        available=available,
    )


def candidate_threads(num_cores: int, config: MachineConfig) -> tuple[int, ...]:
    """Return the thread counts worth a measurement: powers of two and all cores of a process, or the one asked for."""
    if num_cores < 1:
        raise ValueError("a layout needs at least one core")
    asked = config.num_threads * max(1, config.processes)
    if asked > num_cores:
        raise UsageError(
            "more threads are asked for than there are cores to compute on",
            expected=f"processes x num_threads of at most {num_cores}",
            found=f"{max(1, config.processes)} x {config.num_threads}",
            fix="set processes and num_threads in [machine] to 0 to have them measured",
        )
    if config.num_threads:
        return (config.num_threads,)
    most = max(1, num_cores // max(1, config.processes))
    powers = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return tuple(sorted({*powers, most}))


def choose_layout(
    seconds_by_threads: Mapping[int, float],
    cores: Sequence[int],
    num_ready_units: int,
    config: MachineConfig,
    *,
    bytes_per_process: int = 0,
    available: int = 0,
) -> Layout:
    """Return the best layout given the seconds of one step by thread count; a pure function of its arguments.

    With t threads, cores // t units run side by side; n units on p processes take ceil(n / p) times as long as one.
    Fewer processes win unless more are at least 5 % sooner.
    """
    if not seconds_by_threads or num_ready_units < 1:
        raise ValueError("a layout needs a measurement and at least one unit")
    fitting = len(cores)
    if bytes_per_process and available:
        fitting = max(1, available // bytes_per_process)
    options = []
    for threads, seconds in seconds_by_threads.items():
        most = max(1, len(cores) // threads)
        processes = config.processes or min(most, num_ready_units, fitting)
        options.append((processes, threads, seconds, math.ceil(num_ready_units / processes) * seconds))
    options.sort(key=lambda option: (option[0], option[3], option[1]))
    best = options[0]
    for option in options[1:]:
        gain = 1.0 if option[0] == best[0] else 1.0 - _WORTH_ANOTHER_PROCESS
        if option[3] < gain * best[3]:
            best = option
    processes, threads, seconds, _ = best
    compared = ", ".join(
        f"{count} x {each} thread{'s' if each > 1 else ''} {needed:.3g} s"
        for count, each, _, needed in sorted(options, key=lambda option: option[1])
    )
    units = "one unit" if num_ready_units == 1 else f"{num_ready_units} units"
    limited = fitting < min(len(cores), num_ready_units) and not config.processes
    memory = f"; memory allows {fitting} process{'es' if fitting > 1 else ''}" if limited else ""
    return Layout(
        processes=processes,
        threads=threads,
        cores_by_process=share_cores(cores, processes, threads) if config.pin_cores else (),
        seconds_per_step=seconds,
        words=f"{processes} x {threads} on {len(cores)} cores, for one step of {units}: {compared}{memory}",
    )


def share_cores(cores: Sequence[int], processes: int, threads: int) -> tuple[tuple[int, ...], ...]:
    """Return neighbouring cores for every process (they share a cache); all cores to all when there are too few.

    A layout that is read back on another machine gets its cores there.
    """
    if processes * threads > len(cores):
        return tuple(tuple(cores) for _ in range(processes))
    return tuple(tuple(cores[start * threads : (start + 1) * threads]) for start in range(processes))


def step_timer(
    run: Callable[[], object], *, repeats: int = _REPEATS, clock: Callable[[], float] = time.perf_counter
) -> Callable[[int], float]:
    """Return a `step` for `measure_layout`: seconds of `run` by torch threads, the best of a few after a warm-up.

    The thread count of the process is put back afterwards.
    """

    def timed(threads: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            run()
            taken = []
            for _ in range(repeats):
                start = clock()
                run()
                taken.append(clock() - start)
        finally:
            torch.set_num_threads(before)
        return min(taken)

    return timed
