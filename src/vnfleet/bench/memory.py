"""The peak memory of this process and its children, watched from a thread."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import torch

from vnfleet.cycle.measure import gib, peak_memory_mib, reset_peak_memory
from vnfleet.training.machine.memory import process_tree_bytes

_MIB_PER_GIB = 1024


class PeakWatch:
    """Watches memory while a `with` block runs; pages that processes share count once.

    Afterwards `peak_gib` holds this process and its children together, and `gpu_gib` what torch held on the GPU at its
    peak in this process, None without one.
    """

    def __init__(self, interval_seconds: float = 0.05) -> None:
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)
        self._peak_bytes = 0
        self.peak_gib = 0.0
        self.gpu_gib: float | None = None

    def __enter__(self) -> Self:
        """Start watching."""
        reset_peak_memory()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching and keep the peak."""
        self._stop.set()
        self._thread.join()
        # The system's own peak of this process misses nothing between two looks.
        self.peak_gib = max(gib(self._peak_bytes), peak_memory_mib() / _MIB_PER_GIB)
        if torch.cuda.is_available():
            self.gpu_gib = gib(torch.cuda.max_memory_reserved())

    def _watch(self) -> None:
        while True:
            self._peak_bytes = max(self._peak_bytes, process_tree_bytes())
            if self._stop.wait(self._interval):
                return
