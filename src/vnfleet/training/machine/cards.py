"""GPUs known by name: how fast they multiply at best and how much memory they carry.

Dense peaks in TFLOP/s with float32 accumulation, as the data sheets of the makers give them (sheets that print figures
with sparsity are halved). They are ceilings to measure against, never forecasts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["float32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of GPU; a peak of 0 means the card cannot multiply in that form.

    Attributes
    ----------
    pattern : matches the name the driver gives, whole.
    capability : compute capability, (8, 0) = sm_80.
    memory_gib : as sold.
    float32_tflops, tf32_tflops, fp16_tflops, bf16_tflops : dense peaks.
    """

    name: str
    pattern: str
    capability: tuple[int, int]
    memory_gib: float
    float32_tflops: float
    tf32_tflops: float
    fp16_tflops: float
    bf16_tflops: float

    def peak_tflops(self, precision: Precision, *, tf32: bool = False) -> float:
        """Return the dense peak of matrix products in `precision`; `tf32` speaks for float32 only."""
        if precision == "bf16":
            return self.bf16_tflops
        if precision == "fp16":
            return self.fp16_tflops
        return self.tf32_tflops or self.float32_tflops if tf32 else self.float32_tflops


def _card(
    name: str,
    pattern: str,
    capability: tuple[int, int],
    memory_gib: float,
    peaks: tuple[float, float, float, float],
) -> Card:
    float32, tf32, fp16, bf16 = peaks
    return Card(
        name=name,
        pattern=pattern,
        capability=capability,
        memory_gib=memory_gib,
        float32_tflops=float32,
        tf32_tflops=tf32,
        fp16_tflops=fp16,
        bf16_tflops=bf16,
    )


# Peaks in the order float32, TF32, fp16, bf16.
CARDS: tuple[Card, ...] = (
    _card("T4", r"(Tesla|NVIDIA) T4", (7, 5), 16, (8.1, 0.0, 65.0, 0.0)),
    _card("V100 16 GB", r"Tesla V100-SXM\d-16GB", (7, 0), 16, (15.7, 0.0, 125.0, 0.0)),
    _card("V100 32 GB", r"Tesla V100-SXM\d-32GB(-LS)?", (7, 0), 32, (15.7, 0.0, 125.0, 0.0)),
    _card("V100 PCIe 16 GB", r"Tesla V100-PCIE-16GB", (7, 0), 16, (14.0, 0.0, 112.0, 0.0)),
    _card("V100 PCIe 32 GB", r"Tesla V100-PCIE-32GB", (7, 0), 32, (14.0, 0.0, 112.0, 0.0)),
    _card("L4", r"NVIDIA L4", (8, 9), 24, (30.3, 60.5, 121.0, 121.0)),
    _card("A100 40 GB", r"(NVIDIA )?A100-(SXM\d|PCIE)-40GB", (8, 0), 40, (19.5, 156.0, 312.0, 312.0)),
    _card("A100 80 GB", r"NVIDIA A100(-SXM\d-80GB| 80GB PCIe)", (8, 0), 80, (19.5, 156.0, 312.0, 312.0)),
    _card("H100", r"NVIDIA H100( SXM\d)? 80GB HBM3", (9, 0), 80, (66.9, 494.7, 989.4, 989.4)),
    _card("H100 PCIe", r"NVIDIA H100 PCIe", (9, 0), 80, (51.2, 378.0, 756.0, 756.0)),
    _card("H100 NVL", r"NVIDIA H100 NVL", (9, 0), 94, (60.0, 417.5, 835.5, 835.5)),
    _card("H200", r"NVIDIA H200", (9, 0), 141, (66.9, 494.7, 989.4, 989.4)),
    _card("H200 NVL", r"NVIDIA H200 NVL", (9, 0), 141, (60.0, 417.5, 835.5, 835.5)),
    _card("RTX 5070 Ti", r"NVIDIA GeForce RTX 5070 Ti", (12, 0), 16, (43.9, 43.9, 87.9, 87.9)),
)


def find_card(name: str) -> Card | None:
    """Return the card of that driver name or of that short name here; None for any other, MIG slices included."""
    wanted = name.strip()
    return next((card for card in CARDS if wanted == card.name or re.fullmatch(card.pattern, wanted)), None)


def matmul_tflops(
    device: str,
    precision: Precision,
    *,
    size: int = 4096,
    seconds: float = 0.5,
    clock: Callable[[], float] | None = None,
) -> float:
    """Return the TFLOP/s of square matrix products of `size` on `device`, the best of several short rounds.

    The peak to compare with where the card is not known by name, and always on a CPU.
    """
    clock = clock or time.perf_counter
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(size, size, generator=generator).to(device=device, dtype=DTYPES[precision]) for _ in range(2)
    )
    out = torch.empty_like(left)
    best, spent, rounds = float("inf"), 0.0, 0
    while rounds < 3 or spent < seconds:
        start = clock()
        torch.matmul(left, right, out=out)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        took = max(clock() - start, 1e-9)
        spent, rounds = spent + took, rounds + 1
        best = min(best, took) if rounds > 1 else best  # the first round warms up
    return 2.0 * size**3 / best / 1e12


def peak_tflops(
    name: str, precision: Precision, *, tf32: bool = False, measure: Callable[[], float]
) -> tuple[float, Literal["data sheet", "measured"]]:
    """Return the peak to judge speed by, and where it comes from: the card's sheet, else `measure()`."""
    card = find_card(name)
    peak = card.peak_tflops(precision, tf32=tf32) if card else 0.0
    return (peak, "data sheet") if peak else (measure(), "measured")
