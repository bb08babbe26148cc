"""How long a step took and how much memory it needed at its peak."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): writing 5 resets the peak resident set size


def reset_peak_memory() -> None:
    """Start a new memory peak where the system allows it (Linux); elsewhere peaks are of the whole process."""
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")


def peak_memory_mib() -> float:
    """Return the peak resident memory since `reset_peak_memory`, in MiB; 0.0 where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return 0.0
    import resource  # noqa: PLC0415 - absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def gib(num_bytes: float) -> float:
    """Return bytes as GiB."""
    return num_bytes / 1024**3
