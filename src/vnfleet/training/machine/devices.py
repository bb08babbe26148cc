"""Which device trains, in which precision, and whether it can compile: decided from facts, in words a person can check.

``bf16`` keeps the range of float32 and needs no loss scaling: tensor cores from sm_80, tiles (AMX) on a CPU.
``fp16`` needs loss scaling: tensor cores of sm_70 and sm_75 (V100, T4).
``float32`` everywhere else. Weights and optimiser are float32 always.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from vnfleet.core.errors import UsageError
from vnfleet.training.machine.cards import Precision
from vnfleet.training.machine.config import MachineConfig

_BF16_FROM = (8, 0)
_FP16_FROM = (7, 0)
_TRITON_FROM = (7, 0)
_CPU = "CPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """Facts of one GPU: the driver's name, compute capability (8, 0) = sm_80, and memory."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int

    @property
    def sm(self) -> str:
        """The architecture as torch writes it."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


class CudaFacts(Protocol):
    """What is asked about GPUs; fakes stand in where there is none."""

    def accelerators(self) -> Sequence[Accelerator]:
        """Return the visible GPUs, none without a driver."""
        ...

    def arch_list(self) -> Sequence[str]:
        """Return the architectures the installed torch carries code for, such as sm_80 and compute_90."""
        ...


class TorchCuda:
    """The facts as torch.cuda tells them."""

    def accelerators(self) -> Sequence[Accelerator]:
        """See `CudaFacts`."""
        if not torch.cuda.is_available():
            return ()
        found = []
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            found.append(
                Accelerator(name=facts.name, capability=(facts.major, facts.minor), memory_bytes=facts.total_memory)
            )
        return found

    def arch_list(self) -> Sequence[str]:
        """See `CudaFacts`."""
        return torch.cuda.get_arch_list()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """What training runs on.

    Attributes
    ----------
    device : "cpu" or "cuda:0", as torch names it.
    name : of the card or processor kind, for people and for `cards.find_card`.
    capability : of a GPU, None on a CPU.
    memory_bytes : of a GPU, 0 on a CPU (its memory is `memory.available_bytes`).
    precision : of matrix products.
    loss_scaling : True where gradients would underflow without it (fp16).
    tf32 : True where float32 products may round their inputs to TF32; never when float32 was asked for by name.
    words : the reason, one sentence.
    """

    device: str
    name: str
    capability: tuple[int, int] | None
    memory_bytes: int
    precision: Precision
    loss_scaling: bool
    tf32: bool
    words: str

    @property
    def on_cuda(self) -> bool:
        """True on a GPU."""
        return self.device != "cpu"


def has_tiles() -> bool:
    """Return whether this CPU multiplies bf16 tiles (AMX): the only CPUs where bf16 gains."""
    return bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001 - torch has no public name for it


def choose_device(
    config: MachineConfig, cuda: CudaFacts | None = None, tiles: Callable[[], bool] = has_tiles
) -> DeviceChoice:
    """Return the device, precision and reason for `config` on this machine.

    Raises
    ------
    UsageError
        A GPU is asked for and none is visible, the installed torch carries no code for the one there is, or the device
        cannot multiply in the precision asked for.
    """
    cuda = cuda or TorchCuda()
    cards = cuda.accelerators() if config.device != "cpu" else ()
    if not cards:
        if config.device == "cuda":
            raise UsageError(
                "no GPU is visible",
                expected='a CUDA device, because [machine] says device = "cuda"',
                found=f"torch {torch.__version__}, {'no driver or card' if cuda.arch_list() else 'built without CUDA'}",
                fix='install a torch build with CUDA and the driver of the card, or set device = "auto"',
            )
        return _on_cpu(config, has_tiles=tiles())
    card = cards[0]
    if not runs_on(card.capability, cuda.arch_list()):
        raise UsageError(
            f"the installed torch has no code for {card.name}",
            expected=card.sm,
            found=f"torch {torch.__version__} with {', '.join(cuda.arch_list()) or 'no CUDA architecture'}",
            fix=f'install a torch build with {card.sm} ({_build_for(card.capability)}), or set device = "cpu"',
        )
    return _on_card(config, card)


def runs_on(capability: tuple[int, int], arch_list: Sequence[str]) -> bool:
    """Return whether code for any of `arch_list` runs on a card of `capability`.

    ``sm_86`` is machine code for 8.6 and later minors of 8; ``sm_90a`` for exactly that; ``sm_100f`` for its family;
    ``compute_90`` is compiled by the driver for 9.0 and everything later.
    Source: CUDA programming guide, "Application Compatibility" and "Feature Set Compiler Targets".
    """
    for entry in arch_list:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", entry)
        if match is None:
            continue
        own = (int(match[2]), int(match[3]))
        if match[4] == "a":
            fits = capability == own
        elif match[1] == "sm" or match[4] == "f":
            fits = capability[0] == own[0] and capability[1] >= own[1]
        else:
            fits = capability >= own
        if fits:
            return True
    return False


def _build_for(capability: tuple[int, int]) -> str:
    """Return which published builds carry the architecture (as of torch 2.11: cu126 has sm_50-90, cu128 sm_75-120)."""
    if capability >= (10, 0):
        return "CUDA 12.8 or newer builds"
    if capability < (7, 5):
        return "CUDA 12.6 builds"
    return "any CUDA 12 build"


def _on_card(config: MachineConfig, card: Accelerator) -> DeviceChoice:
    best: Precision = "float32"
    if card.capability >= _BF16_FROM:
        best, why = "bf16", f"{card.sm} multiplies bf16 on tensor cores"
    elif card.capability >= _FP16_FROM:
        best, why = "fp16", f"{card.sm} multiplies fp16 but not bf16 on tensor cores, so with loss scaling"
    else:
        why = f"{card.sm} has no tensor cores"
    precision = best if config.precision == "auto" else config.precision
    if (precision == "bf16" and best != "bf16") or (precision == "fp16" and best == "float32"):
        raise UsageError(
            f"{card.name} cannot multiply {precision}",
            expected=f"{best}: {why}",
            found=f'precision = "{precision}" in [machine]',
            fix='set precision = "auto"',
        )
    asked = config.precision != "auto"
    if asked:
        why = f"asked for; {best} would be chosen: {why}" if precision != best else f"asked for: {why}"
    return DeviceChoice(
        device="cuda:0",
        name=card.name,
        capability=card.capability,
        memory_bytes=card.memory_bytes,
        precision=precision,
        loss_scaling=precision == "fp16",
        tf32=card.capability >= _BF16_FROM and not (asked and precision == "float32"),
        words=f"{card.name}, {precision}: {why}",
    )


def _on_cpu(config: MachineConfig, *, has_tiles: bool) -> DeviceChoice:
    if config.precision == "fp16":
        raise UsageError(
            "fp16 is for GPUs", found='precision = "fp16" in [machine] on a CPU', fix='set precision = "auto"'
        )
    best: Precision = "bf16" if has_tiles else "float32"
    why = "this CPU multiplies bf16 tiles (AMX)" if has_tiles else "this CPU has no bf16 tiles (AMX), so bf16 is slower"
    precision = best if config.precision == "auto" else config.precision
    if config.precision != "auto":
        why = f"asked for; {best} would be chosen: {why}" if precision != best else f"asked for: {why}"
    return DeviceChoice(
        device="cpu",
        name=_CPU,
        capability=None,
        memory_bytes=0,
        precision=precision,
        loss_scaling=False,
        tf32=False,
        words=f"{_CPU}, {precision}: {why}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilers:
    """Where compilers are looked for: a PATH search, Python's headers, importable modules, the environment."""

    which: Callable[[str], str | None] = shutil.which
    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None
    headers: Path = Path(sysconfig.get_paths()["include"])
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    on_windows: bool = sys.platform == "win32"


def can_compile(choice: DeviceChoice, compilers: Compilers | None = None) -> tuple[bool, str]:
    """Return whether torch.compile can build kernels for `choice` here, and the reason in words.

    A CPU needs a C++ compiler and Python's headers (torch links its kernels against them); a GPU needs Triton, sm_70 or
    later, and on Linux a C compiler for Triton's launchers. Whether it gains is measured elsewhere.
    """
    compilers = compilers or Compilers()
    if choice.on_cuda:
        assert choice.capability is not None
        if choice.capability < _TRITON_FROM:
            return False, f"Triton needs sm_70 or later, {choice.name} is older"
        if not compilers.has_module("triton"):
            return False, "Triton is not installed"
        if compilers.on_windows:  # Triton for Windows brings its own compiler
            return True, "Triton is installed"
        variable, language, names = "CC", "C", ["cc", "gcc", "clang"]
    else:
        variable, language, names = "CXX", "C++", ["cl"] if compilers.on_windows else ["g++", "clang++"]
    named = compilers.environment.get(variable, "")
    found = next((path for name in ([named] if named else names) if (path := compilers.which(name))), None)
    if found is None:
        looked = f"{variable}={named}" if named else ", ".join(names)
        return False, f"no {language} compiler found (looked for {looked})"
    if not (compilers.headers / "Python.h").is_file():
        return False, f"Python's headers are missing ({compilers.headers / 'Python.h'})"
    return True, f"{Path(found).name} is found" + (" and Triton is installed" if choice.on_cuda else "")
