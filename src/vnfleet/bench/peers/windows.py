"""The training windows of one symbol, the way the written plan cuts them: 60 sessions in, the returns that follow out.

Axes: N windows, W sessions of a window, F features, H horizons, T sessions of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vnfleet.model.ensemble import Scaler, eligible_sessions
from vnfleet.training.dataset import TrainingData

_LABEL_CLIP_SD = 8.0


class WindowBatch(NamedTuple):
    """Scaled features [N, W, F], absence [N, W] and returns in label units [N, H], NaN where unknown."""

    x_NWF: Tensor
    absent_NW: Tensor
    path_NH: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolWindows:
    """One symbol: its own scaler and label scale, fitted on its own training rows, and where its windows end."""

    symbol: str
    window_sessions: int
    x_TF: Tensor
    absent_T: Tensor
    path_TH: Tensor
    eligible_T: np.ndarray
    ends_N: np.ndarray

    def batch(self, ends: Sequence[int] | np.ndarray, device: str = "cpu") -> WindowBatch:
        """Return the windows that end at `ends` (indices on T)."""
        last_N = torch.as_tensor(np.asarray(ends, dtype=np.int64))
        index_NW = last_N.unsqueeze(1) - torch.arange(self.window_sessions - 1, -1, -1)
        return WindowBatch(
            self.x_TF[index_NW].to(device), self.absent_T[index_NW].to(device), self.path_TH[last_N].to(device)
        )


def symbol_windows(data: TrainingData, symbol: str, fit: range, window_sessions: int) -> SymbolWindows:
    """Return the windows of `symbol` that may teach a fit on the decision sessions `fit`; nothing later is scaled on.

    A window counts when the symbol traded on its last session, has a whole window of history and its longest return is
    known. `ends_N` may be empty.
    """
    row = data.symbols.index(symbol)
    present_T = data.present_ST[row]
    fitted_T = np.zeros_like(present_T)
    fitted_T[fit.start : fit.stop] = present_T[fit.start : fit.stop]
    own = data.values_STF[row]
    scaler = Scaler.fit(own[fitted_T] if fitted_T.any() else own[:1])
    x_TF = scaler.apply(own[None], present_T[None])[0]
    returns_HT = data.returns_HST[:, row]
    seen_HT = np.where(fitted_T, returns_HT, np.nan)
    counted_H = np.isfinite(seen_HT).sum(1)
    sd_H = np.asarray([np.nanstd(one) if count > 1 else 1.0 for one, count in zip(seen_HT, counted_H, strict=True)])
    path_HT = np.clip(returns_HT / np.maximum(sd_H, 1e-6)[:, None], -_LABEL_CLIP_SD, _LABEL_CLIP_SD)
    eligible_T = eligible_sessions(present_T[None], window_sessions - 1)[0]
    teaching_T = eligible_T & np.isfinite(returns_HT[-1]) & fitted_T
    return SymbolWindows(
        symbol=symbol,
        window_sessions=window_sessions,
        x_TF=torch.from_numpy(x_TF),
        absent_T=torch.from_numpy(~present_T),
        path_TH=torch.from_numpy(np.ascontiguousarray(path_HT.T, dtype=np.float32)),
        eligible_T=eligible_T,
        ends_N=np.flatnonzero(teaching_T),
    )
