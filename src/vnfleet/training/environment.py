"""The numeric environment of a unit, frozen before step 1 and used again on resume: same results need the same one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import BadDataError
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.cores import performance_cores
from vnfleet.training.machine.devices import DeviceChoice, choose_device

ENVIRONMENT_NAME = "environment.json"
MAX_SPLITS = 64  # parts of a batch
_log = logging.getLogger(__name__)


class NumericEnvironment(BaseModel):
    """What decides the last bits of a result.

    num_threads : CPU threads. precision : of matrix products. splits : parts each batch is cut into for memory.
    group_size : models of one stack (`separate`). compiled : whether the network is compiled.
    changes : in words, what had to be changed after step 1: from there on results agree within tolerance only.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    torch_version: str
    cpu_capability: str
    device: str = Field(pattern=r"^(cpu|cuda(:\d+)?)$")
    device_name: str
    num_threads: int = Field(ge=1)
    precision: Literal["float32", "bf16", "fp16"]
    tf32: StrictBool = False
    compiled: StrictBool = False
    group_size: int = Field(default=0, ge=0)
    splits: int = Field(default=1, ge=1, le=MAX_SPLITS)
    changes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.device == "cpu" and self.precision == "fp16":
            raise ValueError("fp16 is for GPUs")
        return self

    @property
    def device_type(self) -> Literal["cpu", "cuda"]:
        """The kind of device, as autocast wants it."""
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def autocast_type(self) -> torch.dtype | None:
        """The type of matrix products, None for float32."""
        return {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    def apply(self) -> None:
        """Set the threads of this process, deterministic kernels, and TF32 where it was chosen."""
        torch.set_num_threads(self.num_threads)
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import the compiler first
        # Nothing here reads memory it did not write; filling it first costs a seventh of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self.device_type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products need
            torch.backends.cuda.matmul.allow_tf32 = self.tf32


def this_machine(config: MachineConfig) -> NumericEnvironment:
    """Return the environment a new unit gets here; raises `UsageError` when the device asked for cannot be used."""
    choice = choose_device(config)
    return NumericEnvironment(
        torch_version=torch.__version__,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        device=choice.device,
        device_name=choice.name,
        num_threads=config.num_threads or len(performance_cores()),
        precision=choice.precision,
        tf32=choice.tf32,
    )


@dataclass(slots=True)
class FrozenEnvironment:
    """The environment recorded in a unit's folder."""

    folder: Path
    now: NumericEnvironment

    def change(self, why: str, **fields: object) -> None:
        """Record that some fields had to change, and why."""
        _log.warning("%s: %s", self.folder.name, why)
        self.now = self.now.model_copy(update={**fields, "changes": (*self.now.changes, why)})
        write_text(self.folder / ENVIRONMENT_NAME, self.now.model_dump_json(indent=1))


def frozen_environment(
    folder: Path,
    config: MachineConfig,
    *,
    extras: Callable[[NumericEnvironment], NumericEnvironment] = lambda environment: environment,
    choose: Callable[[MachineConfig], DeviceChoice] = choose_device,
) -> FrozenEnvironment:
    """Return the environment recorded in `folder`, or record this machine's there first, completed by `extras`.

    On another machine the recorded threads and precision are kept as far as it can; where the recorded device or
    precision is not to be had, or torch or the CPU's instructions are others, what is used instead is recorded, and
    results agree within tolerance only.

    Raises `BadDataError` when the record is damaged or says what cannot be.
    """
    path = folder / ENVIRONMENT_NAME
    if not path.exists():
        environment = extras(this_machine(config))
        write_text(path, environment.model_dump_json(indent=1))
        return FrozenEnvironment(folder, environment)
    recorded = _recorded(path)
    frozen = FrozenEnvironment(folder, recorded)
    software = {"torch_version": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    words = [
        f"{name.replace('_', ' ')} {now} after {before}"
        for name, now in software.items()
        if now != (before := getattr(recorded, name))
    ]
    if words:
        frozen.change(f"went on with {', '.join(words)}", **software)
    choice = choose(config)
    moved = choice.on_cuda != (recorded.device_type == "cuda")
    if moved or choice.name != recorded.device_name:
        frozen.change(
            f"went on on {choice.name} after {recorded.device_name}",
            device=choice.device,
            device_name=choice.name,
            precision=choice.precision if moved else recorded.precision,
            tf32=choice.tf32,
            compiled=recorded.compiled and not moved,
        )
    elif choice.device != recorded.device:
        frozen.now = frozen.now.model_copy(update={"device": choice.device})
    return frozen


def _recorded(path: Path) -> NumericEnvironment:
    fix = f"delete the folder {path.parent}: its unit begins again"
    if path.is_dir():
        raise BadDataError("a recorded environment is damaged", where=path, found="a folder", fix=fix)
    try:
        return NumericEnvironment.model_validate_json(path.read_bytes().decode())
    except ValueError as error:  # ValidationError and UnicodeDecodeError are such
        found = "; ".join(str(error).splitlines()[:3])
        raise BadDataError("a recorded environment is damaged", where=path, found=found, fix=fix) from error
