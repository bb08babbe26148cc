"""What this machine can do at best: the rate of large matrix products, and how a benchmark waits for a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from vnfleet.training.machine.cards import Precision, find_card, matmul_tflops

_CPU_SIZE, _CUDA_SIZE = 2048, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The best rate of matrix products in one precision.

    Attributes
    ----------
    threads : CPU threads that computed it, 0 on a GPU.
    measured_gflops : seen here.
    sheet_gflops : on the card's data sheet, None for cards that are not known and CPUs.
    """

    device: str
    precision: Precision
    threads: int
    measured_gflops: float
    sheet_gflops: float | None = None

    @property
    def sentence(self) -> str:
        """The peak in words."""
        where = self.device if self.threads == 0 else f"{self.threads} CPU thread{'s' if self.threads > 1 else ''}"
        sheet = "" if self.sheet_gflops is None else f" (data sheet: {self.sheet_gflops:,.0f})"
        return f"matrix products in {self.precision} on {where}: {self.measured_gflops:,.0f} GFLOP/s{sheet}"


def matmul_peak(device: str, precision: Precision, *, seconds: float = 1.0, size: int = 0) -> Peak:
    """Return the best rate of square matrix products on `device`, with the threads this process has set.

    "float32" is measured without TF32.
    """
    on_cpu = device == "cpu"
    size = size or (_CPU_SIZE if on_cpu else _CUDA_SIZE)
    tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    try:
        measured = matmul_tflops(device, precision, size=size, seconds=seconds) * 1e3
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    card = None if on_cpu else find_card(torch.cuda.get_device_name(device))
    return Peak(
        device=device,
        precision=precision,
        threads=torch.get_num_threads() if on_cpu else 0,
        measured_gflops=measured,
        sheet_gflops=card.peak_tflops(precision) * 1e3 if card is not None else None,
    )


@contextmanager
def ordinary_kernels() -> Iterator[None]:
    """Let peers use any kernel while the block runs: exact repetition is our promise, not theirs."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def synchronise(device: str) -> None:
    """Wait until `device` has finished what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
