"""Dropout whose masks are a function of (model seed, step, site): the same on resume, alone and in a stack.

No step draws random numbers: one bank of Bernoulli values is drawn per drop rate, and every model reads it, at every
site of every step, from its own pseudo-random offset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_BANK_VALUES = 1 << 22


class DropoutBank:
    """Masks for drop probability `rate`; `at(step, seeds)` gives the dropout function of one step of a stack."""

    def __init__(self, rate: float, device: str = "cpu") -> None:
        self.rate = rate
        generator = torch.Generator().manual_seed(round(rate * 1e6))
        keep = torch.rand(2 * _BANK_VALUES, generator=generator) >= rate
        bank = (keep.float() / (1.0 - rate)).to(device)
        self._banks = {bank.dtype: bank}

    def of(self, dtype: torch.dtype) -> Tensor:
        """Return the bank in one precision."""
        if dtype not in self._banks:
            self._banks[dtype] = self._banks[torch.float32].to(dtype)
        return self._banks[dtype]

    def at(self, step: int, seeds: Sequence[int], part: int = 0) -> BankDropout:
        """Return the dropout of one optimisation step (and part of it) for models with the given seeds."""
        return BankDropout(self, tuple(seeds), (step, part), self.rate)


class BankDropout:
    """Dropout of one step: `dropout(x, site)` multiplies the sequences of each model by its mask of that site."""

    def __init__(self, bank: DropoutBank, seeds: tuple[int, ...], step: tuple[int, int], rate: float) -> None:
        self._bank, self._seeds, self._step, self._rate = bank, seeds, step, rate

    def __call__(self, x: Tensor, site: int) -> Tensor:
        """Return x with dropped entries at 0 and kept ones scaled by 1 / (1 - rate)."""
        if not self._rate:
            return x
        needed = x.numel() // len(self._seeds)
        bank = self._bank.of(x.dtype)
        masks = [self._values(bank, seed, site, needed) for seed in self._seeds]
        mask = masks[0] if len(masks) == 1 else torch.cat(masks)
        return x * mask.view(x.shape)

    def _values(self, bank: Tensor, seed: int, site: int, needed: int) -> Tensor:
        digest = hashlib.blake2b(f"{seed}:{self._step}:{site}".encode(), digest_size=8).digest()
        offset = int.from_bytes(digest, "little") % _BANK_VALUES
        if offset + needed > bank.numel():
            bank = bank.repeat(-(-(offset + needed) // bank.numel()))
        return bank[offset : offset + needed]
