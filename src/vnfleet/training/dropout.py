"""Dropout whose masks are a function of (seed, step, site): exact on resume, and free of random-number work per step.

One bank of Bernoulli values is drawn per fit; every site of every step reads it from its own pseudo-random offset.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_BANK_VALUES = 1 << 22


class DropoutBank:
    """Masks for one fit with drop probability `rate`; `at(step)` gives the dropout function of that step."""

    def __init__(self, seed: int, rate: float) -> None:
        self._seed = seed
        self._rate = rate
        generator = torch.Generator().manual_seed(seed)
        keep = torch.rand(2 * _BANK_VALUES, generator=generator) >= rate
        self._bank = keep.float() / (1.0 - rate)

    def at(self, step: int) -> BankDropout:
        """Return the dropout of one optimisation step."""
        return BankDropout(self._bank, self._seed, step, self._rate)


class BankDropout:
    """Dropout of one step: `dropout(x, site)` multiplies x by the mask of that site."""

    def __init__(self, bank: Tensor, seed: int, step: int, rate: float) -> None:
        self._bank, self._seed, self._step, self._rate = bank, seed, step, rate

    def __call__(self, x: Tensor, site: int) -> Tensor:
        """Return x with dropped entries at 0 and kept ones scaled by 1 / (1 - rate)."""
        if not self._rate:
            return x
        digest = hashlib.blake2b(f"{self._seed}:{self._step}:{site}".encode(), digest_size=8).digest()
        offset = int.from_bytes(digest, "little") % _BANK_VALUES
        needed = offset + x.numel()
        bank = self._bank
        if needed > bank.numel():
            bank = bank.repeat(-(-needed // bank.numel()))
        return x * bank[offset:needed].view(x.shape).to(x.dtype)
