"""The doctor: is this machine fit for a week? Versions, cores, memory, disk, rclone, a writable workdir, fresh data."""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import BadDataError, RemoteError, UsageError, VnfleetError
from vnfleet.cycle.measure import gib
from vnfleet.cycle.runner import latest_cycle, read_steps
from vnfleet.cycle.workdir import Folders
from vnfleet.remote.rclone import find_rclone
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.cores import core_map
from vnfleet.training.machine.devices import can_compile, choose_device

LIBRARIES = ("torch", "numpy", "polars", "polars-talib", "lightgbm", "numba")
MIN_MEMORY_GIB = 6.0
MIN_DISK_GIB = 5.0
FRESH_DAYS = 7

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `fix` says what to do when it is not ok."""

    name: str
    state: State
    found: str
    fix: str = ""


def examine(workdir: Path, today: date) -> tuple[Finding, ...]:
    """Return what was found; nothing is changed but a file that is written to `workdir` and removed again."""
    cores = core_map()
    return (
        _python(),
        *_libraries(),
        Finding(name="cores", state="ok", found=f"{len(cores.cores)} to compute on: {cores.words}"),
        *_device(),
        _memory(),
        _disk(workdir),
        _rclone(),
        _writable(workdir),
        *_data(workdir, today),
    )


def _python() -> Finding:
    return Finding(
        name="python", state="ok", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def _libraries() -> Iterator[Finding]:
    for name in LIBRARIES:
        try:
            yield Finding(name=name, state="ok", found=version(name))
        except PackageNotFoundError:
            yield Finding(name=name, state="problem", found="not installed", fix="make install")


def _device() -> Iterator[Finding]:
    """Report what would train here, and whether it can be compiled."""
    try:
        choice = choose_device(MachineConfig())
    except UsageError as error:
        yield Finding(name="device", state="problem", found=f"{error.what}: {error.found}", fix=error.fix or "")
        return
    yield Finding(name="device", state="ok", found=choice.words)
    yield Finding(name="compiler", state="ok", found=can_compile(choice)[1])


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding(name="memory", state="ok", found="unknown on this system")
    total = gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    small = total < MIN_MEMORY_GIB
    fix = f"a full week on 289 symbols needs about {MIN_MEMORY_GIB:.0f} GiB" if small else ""
    return Finding(name="memory", state="warning" if small else "ok", found=f"{total:.1f} GiB", fix=fix)


def _disk(workdir: Path) -> Finding:
    there = next((path for path in (workdir.absolute(), *workdir.absolute().parents) if path.is_dir()), Path())
    free = gib(shutil.disk_usage(there).free)
    small = free < MIN_DISK_GIB
    return Finding(
        name="free disk",
        state="warning" if small else "ok",
        found=f"{free:.1f} GiB",
        fix=f"a full week needs about {MIN_DISK_GIB:.0f} GiB" if small else "",
    )


def _rclone() -> Finding:
    try:
        return Finding(name="rclone", state="ok", found=str(find_rclone().name))
    except RemoteError as error:
        return Finding(
            name="rclone", state="warning", found=error.what, fix="needed by --mode hybrid only: make install"
        )


def _writable(workdir: Path) -> Finding:
    probe = workdir / f".doctor-{uuid.uuid4().hex[:8]}"
    existed = workdir.exists()
    try:
        write_text(probe, "doctor")
        probe.unlink()
        if not existed:
            workdir.rmdir()
    except (OSError, VnfleetError) as error:
        first = str(error).splitlines()[0]
        return Finding(name="workdir", state="problem", found=first, fix="pass a --workdir that can be written")
    return Finding(name="workdir", state="ok", found=f"{workdir} can be written")


def _data(workdir: Path, today: date) -> Iterator[Finding]:
    """Report how old the newest collected session is, as the last cycle recorded it."""
    try:
        cycle = latest_cycle(Folders(workdir).cycles)
        newest = (
            next((step.text("newest_session") for step in read_steps(cycle) if step.name == "collect"), None)
            if cycle
            else None
        )
    except BadDataError as error:
        yield Finding(name="data", state="problem", found=error.what, fix="run vnfleet collect again")
        return
    if newest is None:
        yield Finding(name="data", state="ok", found="nothing collected yet", fix="vnfleet demo, or vnfleet cycle")
        return
    age = (today - date.fromisoformat(newest)).days
    old = age > FRESH_DAYS
    yield Finding(
        name="data",
        state="warning" if old else "ok",
        found=f"to {newest}, {age} days old",
        fix="collect newer prices before the next week" if old else "",
    )
