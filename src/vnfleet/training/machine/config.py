"""How this machine is used. Nothing here is part of a recipe: the same recipe runs on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Inference = Literal["auto", "float32", "bf16", "compiled", "onnx", "onnx_int8"]


_MOST = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """The `[machine]` table.

    Attributes
    ----------
    engine : "local" (processes here) or "ray" (tasks on a Ray cluster, extra ``vnfleet[ray]``).
    ray_address : the cluster, ``auto`` or ``desktop:6379``; empty starts one here.
    device : "auto" takes a GPU where there is one.
    processes, num_threads : units side by side and CPU threads of each; 0 means measured once per plan of work.
    precision : "auto" takes bf16 where the device multiplies it fast (AMX, sm_80 and later), fp16 with loss scaling on
        older GPUs, else float32. Weights and optimiser are float32 always.
    compile : "auto" compiles the network where a compiler is found and it gains in a short measurement.
    pin_cores : keep processes on performance cores of hybrid CPUs.
    memory_warn_frac : a warning at this share of the memory that may be used.
    memory_limit_gib : memory that may be used; 0 means what the system or container allows.
    checkpoint_epochs, checkpoint_minutes, checkpoint_frac : a checkpoint at the first of so many epochs, minutes, or
        share of the planned steps of a stage, and at each stage's end.
    budget_minutes : the plan of work is fitted to this time before it starts; 0 means no limit.
    deadline : the same as a moment, ``2026-11-23T08:45`` or the next ``08:45``, Vietnam time where it names no zone;
        empty means none.
    inference : how what serves is computed, see `vnfleet.model.inference`; judging is float32 always. "auto" takes the
        path that ``vnfleet bench infer`` found fastest with agreeing ranks on this machine, float32 before that.
    """

    engine: Literal["local", "ray"] = "local"
    ray_address: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 0
    num_threads: int = 0
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    pin_cores: bool = True
    memory_warn_frac: float = 0.85
    memory_limit_gib: float = 0.0
    checkpoint_epochs: int = 20
    checkpoint_minutes: float = 20.0
    checkpoint_frac: float = 0.05
    budget_minutes: float = 0.0
    deadline: str = ""
    inference: Inference = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that cannot mean anything."""
        if not 0 <= self.processes <= _MOST or not 0 <= self.num_threads <= _MOST:
            raise ValueError(f"processes and num_threads must lie between 0 (measured) and {_MOST}")
        if not 0.0 < self.memory_warn_frac <= 1.0:
            raise ValueError(f"memory_warn_frac must lie in (0, 1], found {self.memory_warn_frac}")
        if self.memory_limit_gib < 0.0 or self.budget_minutes < 0.0:
            raise ValueError("memory_limit_gib and budget_minutes must not be negative; 0 means no limit")
        if self.checkpoint_epochs < 1 or self.checkpoint_minutes <= 0.0 or not 0.0 < self.checkpoint_frac <= 1.0:
            raise ValueError(
                "checkpoint_epochs must be at least 1, checkpoint_minutes above 0, checkpoint_frac in (0, 1]"
            )
        if self.budget_minutes and self.deadline:
            raise ValueError("give budget_minutes or deadline, not both")
        if self.ray_address and self.engine != "ray":
            raise ValueError('ray_address is for engine "ray"')
