"""Memory is that of this process and its children."""

import multiprocessing

import numpy as np

from vnfleet.bench.memory import PeakWatch

MIB = 1024**2


def _hold(ready: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    held = np.ones(60 * MIB, dtype=np.uint8)
    ready.set()
    done.wait(20)
    assert held[0] == 1


def test_the_peak_sees_memory_that_was_given_back() -> None:
    with PeakWatch() as before:
        pass
    with PeakWatch() as watch:
        block = np.ones(64 * MIB, dtype=np.uint8)
        del block
    assert watch.peak_gib - before.peak_gib > 50 / 1024
    assert watch.gpu_gib is None


def test_children_count() -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    with PeakWatch() as alone:
        pass
    child = context.Process(target=_hold, args=(ready, done))
    with PeakWatch(interval_seconds=0.02) as watch:
        child.start()
        assert ready.wait(60)
        done.wait(0.2)
        done.set()
        child.join(60)
    assert watch.peak_gib - alone.peak_gib > 50 / 1024
