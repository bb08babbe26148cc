"""The numeric environment of a unit, frozen before step 1 and used again on resume: same results need the same one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.training.recipe import TrainingConfig

ENVIRONMENT_NAME = "environment.json"


class NumericEnvironment(BaseModel):
    """Library version, processor capability, threads and precision that decide the last bits of a result."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    torch: str
    cpu_capability: str
    num_threads: int
    precision: Literal["float32", "bf16"]

    def apply(self) -> None:
        """Set the thread count of this process; deterministic kernels only."""
        torch.set_num_threads(self.num_threads)
        torch.use_deterministic_algorithms(mode=True)


def this_machine(config: TrainingConfig) -> NumericEnvironment:
    """Return the environment a new unit gets here: all usable cores, bf16 only where the CPU multiplies tiles (AMX)."""
    has_tiles = bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - torch has no public name for it
    precision: Literal["float32", "bf16"] = "bf16" if has_tiles else "float32"
    if config.precision == "float32":
        precision = "float32"
    elif config.precision == "bf16":
        precision = "bf16"
    return NumericEnvironment(
        torch=torch.__version__,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        num_threads=config.num_threads or usable_cores(),
        precision=precision,
    )


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def frozen_environment(folder: Path, config: TrainingConfig) -> NumericEnvironment:
    """Return the environment recorded in `folder`, or record this machine's there first.

    On another machine or library version the recorded threads and precision are kept and results agree within
    tolerance only.
    """
    path = folder / ENVIRONMENT_NAME
    if path.exists():
        try:
            return NumericEnvironment.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise BadDataError("a recorded environment is damaged", where=path, fix="delete its folder") from error
    environment = this_machine(config)
    if environment.num_threads < 1:
        raise UsageError("num_threads must be positive", found=environment.num_threads)
    write_text(path, environment.model_dump_json(indent=1))
    return environment
