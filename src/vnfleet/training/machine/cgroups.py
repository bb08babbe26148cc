"""Where the control groups of this process keep their limits: a container or service may own less than the machine."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as a huge number, rounded down to a page


def read_number(path: Path) -> int | None:
    """Return the integer in `path`, or None where the file is absent, unreadable or holds a word such as "max"."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii").strip())
    return None


def read_words(path: Path) -> list[str]:
    """Return the whitespace-separated words of `path`, none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="ascii").split()
    return []


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield this process's folder under version 2, then under the v1 `controller`, each with all its ancestors.

    Inside a container the path that the kernel names may not be mounted; the ancestors that exist still hold limits.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, inner = line.split(":", 2) if line.count(":") >= 2 else ("", "?", "")
        if controllers == "":
            tops = (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified")
        elif controller in controllers.split(","):
            tops = (root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup" / controller)
        else:
            continue
        parts = [part for part in inner.split("/") if part not in ("", "..")]
        for top in dict.fromkeys(tops):
            for depth in range(len(parts), -1, -1):
                folder = top.joinpath(*parts[:depth])
                if folder.is_dir():
                    yield folder


def quota_cores(root: Path) -> float | None:
    """Return how many cores' worth of time the control groups grant (2.5 = two and a half), None without a quota."""
    quotas = []
    for folder in cgroup_folders(root, "cpu"):
        words = read_words(folder / "cpu.max")  # version 2: "150000 100000" or "max 100000", both in microseconds
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = read_number(folder / "cpu.cfs_quota_us"), read_number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_limit_bytes(root: Path) -> int | None:
    """Return the tightest memory limit of the control groups, None without one."""
    limits = [limit for _, limit in _memory_limits(root)]
    return min(limits, default=None)


def memory_room_bytes(root: Path) -> int | None:
    """Return what may still be taken under every memory limit, None without one.

    Clean file pages count as free: the kernel drops them before it kills anybody.
    """
    rooms = []
    for folder, limit in _memory_limits(root):
        used = read_number(folder / "memory.current")
        if used is None:
            used = read_number(folder / "memory.usage_in_bytes") or 0
        rooms.append(max(0, limit - max(0, used - _inactive_file_bytes(folder))))
    return min(rooms, default=None)


def _memory_limits(root: Path) -> Iterator[tuple[Path, int]]:
    for folder in cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = read_number(folder / name)
            if limit is not None and 0 < limit < _UNLIMITED_BYTES:
                yield folder, limit


def _inactive_file_bytes(folder: Path) -> int:
    words = read_words(folder / "memory.stat")
    values = dict(zip(words[0::2], words[1::2], strict=False))
    for name in ("total_inactive_file", "inactive_file"):  # v1 counts the whole subtree under total_*
        if values.get(name, "").isdigit():
            return int(values[name])
    return 0


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").splitlines()
    return []


def whole_cores(quota: float | None) -> int:
    """Return how many threads can run all the time under `quota`; one at least, no bound without a quota.

    Rounded down: one thread more than the quota pays for and all of them wait for the throttled one.
    """
    return 1 << 16 if quota is None else max(1, math.floor(quota + 1e-9))
