"""The record of a benchmark: tables, the command, the machine, the versions and the data, dated."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import JsonValue

from vnfleet.bench.table import LEGEND, Table
from vnfleet.core.atomic import write_text
from vnfleet.core.clock import ICT, utc_text
from vnfleet.cycle.measure import gib

_LIBRARIES = ("vnfleet", "torch", "numpy", "polars", "lightgbm")
_MODEL_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What the figures were taken on. `load` is the load average when the run began, None if unknown."""

    processor: str
    cores: int
    memory_gib: float | None
    accelerator: str | None
    features: tuple[str, ...]
    versions: dict[str, str]
    load: float | None

    @staticmethod
    def here() -> MachineFacts:
        """Return the facts of this machine."""
        return MachineFacts(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_gib=_memory_gib(),
            accelerator=_accelerator(),
            features=(
                torch.backends.cpu.get_cpu_capability(),
                *(("AMX",) if torch.cpu._is_amx_tile_supported() else ()),  # noqa: SLF001 - no public name
            ),
            versions={"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        )

    @property
    def sentence(self) -> str:
        """The machine in one line."""
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.0f} GiB"
        gpu = "no GPU" if self.accelerator is None else self.accelerator
        busy = "" if self.load is None else f"; load average {self.load:.1f} before the run"
        return f"{self.cores} cores of {self.processor} ({', '.join(self.features)}){memory}, {gpu}{busy}"

    @property
    def is_busy(self) -> bool:
        """Whether others already kept every core busy before the run."""
        return self.load is not None and self.load >= self.cores

    @property
    def warning(self) -> str | None:
        """What a reader must know before any figure; None when nothing is wrong."""
        if not self.is_busy:
            return None
        return (
            f"Warning: the machine was busy (load average {self.load:.1f} on {self.cores} cores before the run): rates "
            "are too low and times too long"
        )

    def as_json(self) -> dict[str, JsonValue]:
        """Return the facts as plain JSON."""
        return {
            "processor": self.processor,
            "cores": self.cores,
            "memory_gib": self.memory_gib,
            "accelerator": self.accelerator,
            "features": list(self.features),
            "versions": dict(self.versions),
            "load": self.load,
            "warning": self.warning,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What a benchmark came to. `name` is its file's first word, `whole` False when only a slice was run."""

    name: str
    title: str
    tables: tuple[Table, ...]
    machine: MachineFacts
    data: str
    command: str
    measured_at: datetime
    whole: bool
    code: str

    def as_json(self) -> dict[str, JsonValue]:
        """Return the report as plain JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "whole": self.whole,
            "measured_at": utc_text(self.measured_at),
            "command": self.command,
            "code": self.code,
            "data": self.data,
            "machine": self.machine.as_json(),
            "tables": [table.as_json() for table in self.tables],
        }

    def markdown(self) -> str:
        """Return the report as a page of Markdown."""
        versions = ", ".join(f"{name} {number}" for name, number in self.machine.versions.items())
        kind = "" if self.whole else " (a quick slice: a first idea, not a record)"
        lines = [
            f"# {self.title}, {self.measured_at.astimezone(ICT):%Y-%m-%d}{kind}",
            "",
            f"Machine: {self.machine.sentence}. {versions}.",
            *([f"{self.machine.warning}."] if self.machine.warning else []),
            f"Data: {self.data}.",
            f"Code: {self.code}.",
            "",
            "```",
            self.command,
            "```",
            "",
            f"{LEGEND}.",
            "",
        ]
        return "\n".join(lines) + "\n" + "\n\n".join(table.markdown() for table in self.tables) + "\n"

    def write(self, folder: Path) -> Path:
        """Write the page as ``<name>_<date>.md`` into `folder` and return its path; a page of that day is replaced."""
        path = folder / f"{self.name}_{self.measured_at.astimezone(ICT):%Y%m%d}.md"
        write_text(path, self.markdown())
        return path


def _processor() -> str:
    try:
        found = _MODEL_NAME.search(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _accelerator() -> str | None:
    if not torch.cuda.is_available():
        return None
    facts = torch.cuda.get_device_properties(0)
    return f"{facts.name} (sm_{facts.major}{facts.minor}, {gib(facts.total_memory):.0f} GiB)"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
