"""Where two vendors part: level differences that stay (a step) and those that come back (a close)."""

from __future__ import annotations

from enum import IntEnum

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.data.court.opinions import Opinion

SLACK_LOG = 0.0008
"""Differences of returns up to this are nobody's fault (10 VND ticks of cheap closes come on top)."""
ROUNDING_HALF_VND = 5.5
ROUNDED_FRAC = 0.99
MAX_EXCURSION_ROWS = 2

Floats = NDArray[np.float64]


class Parting(IntEnum):
    """What a row's disagreement looks like."""

    NONE = 0
    CLOSE = 1
    """The vendors part on this row's close alone: they part and come back within `MAX_EXCURSION_ROWS`."""
    STEP = 2
    """The vendors' levels part for good between the row before and this one."""
    OPEN = 3
    """They part on the newest row: what it is will show in the next session."""


def partings(bars: pl.DataFrame, opinion: Opinion) -> pl.DataFrame:
    """Return, for the rows both vendors have, where they part.

    bars : symbol, session, close_vnd, adjusted_close_vnd, vendor_step; sorted, one row a symbol and session.

    Returns symbol, session, `parting` (a `Parting`), `other_step` (the step that the opinion's return implies for the
    row, since the last row both have), `other_close_vnd` (for CLOSE: the close that the opinion's returns imply) and
    `other_volume`. Whether a close or a step is meant shows in the next `MAX_EXCURSION_ROWS` rows, the only look ahead.
    """
    both = (
        bars.select(
            "symbol",
            "session",
            "close_vnd",
            "adjusted_close_vnd",
            traded=pl.col("volume_shares") > 0,
            logs=pl.col("vendor_step").log().cum_sum().over("symbol"),
        )
        .join(
            opinion.bars.rename({"adjusted_close_vnd": "other_vnd", "volume_shares": "other_volume"}),
            on=("symbol", "session"),
            how="inner",
        )
        .sort("symbol", "session")
    )
    if both.is_empty():
        return both.select("symbol", "session", "other_volume").with_columns(
            parting=pl.lit(0, pl.Int64),
            other_step=pl.lit(None, pl.Float64),
            other_close_vnd=pl.lit(None, pl.Float64),
        )
    starts = both.get_column("symbol").ne_missing(both.get_column("symbol").shift(1)).to_numpy().copy()
    starts[0] = True
    other = both.get_column("other_vnd")
    tens = ((other / 10.0).round() * 10.0 - other).abs() < 0.01
    grain_vnd = ROUNDING_HALF_VND if float(tens.sum()) / len(tens) >= ROUNDED_FRAC else 0.0
    adjusted = both.get_column("adjusted_close_vnd").fill_null(0.0).to_numpy()
    with np.errstate(divide="ignore"):
        own_noise = np.where(adjusted > 0, ROUNDING_HALF_VND / adjusted, 0.0)
    kind, correction, close_ratio = _part(
        starts,
        both.get_column("traded").to_numpy().copy(),
        np.log(other.to_numpy() / both.get_column("close_vnd").to_numpy()),
        both.get_column("logs").to_numpy().copy(),
        grain_vnd / other.to_numpy(),
        own_noise,
    )
    return both.select("symbol", "session", "other_volume").with_columns(
        parting=pl.Series(kind),
        other_step=pl.Series(np.exp(correction)),
        other_close_vnd=both.get_column("close_vnd") * pl.Series(np.exp(close_ratio)),
    )


@numba.njit(cache=True)
def _part(
    starts: NDArray[np.bool_], traded: NDArray[np.bool_], raw: Floats, steps: Floats, noise: Floats, own_noise: Floats
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return per row the parting, log of the step the other implies, log of other close over own.

    raw : log of the other's adjusted over own raw close. steps : cumulated log of own vendor's steps.
    """
    size = len(raw)
    kind = np.zeros(size, dtype=np.int64)
    implied = np.zeros(size)
    ratio = np.zeros(size)
    base = 0  # the last row on which the vendors agreed, or where a new level began
    for row in range(size):
        if starts[row]:
            base = row
            continue
        own = steps[row] - steps[base]
        told = raw[row] - raw[base]  # the step the other's return implies since `base`
        implied[row] = told - (steps[row - 1] - steps[base])  # what is left for this row
        slack = _slack(row, base, own, noise, own_noise)
        if kind[row] == 1:  # _CLOSE
            continue
        if abs(told - own) <= slack:
            base = row
            continue
        last = row
        while last + 1 < size and not starts[last + 1] and last - row < MAX_EXCURSION_ROWS:
            last += 1
        if last == row:
            kind[row] = 3
            base = row
            continue
        back = -1
        for later in range(row + 1, last + 1):
            later_own = steps[later] - steps[base]
            if abs(raw[later] - raw[base] - later_own) <= _slack(later, base, later_own, noise, own_noise):
                back = later
                break
        if back > 0:
            # out and back: a close, unless one vendor has a step where the other has it a session or two later
            own_back = steps[back] - steps[back - 1]
            moved_early = abs(own) > slack and abs(told) <= slack
            told_back = raw[back] - raw[back - 1]
            moved_late = abs(own_back) > slack and abs(told_back) <= slack
            idle = True
            for j in range(row, back):
                idle = idle and not traded[j]
            if idle and (moved_early or moved_late):
                continue  # no trade in between: where the step stands makes no difference
            if not moved_early and not moved_late:
                for j in range(row, back):
                    apart = raw[j] - raw[base] - (steps[j] - steps[base])
                    if abs(apart) > _slack(j, base, steps[j] - steps[base], noise, own_noise):
                        kind[j] = 1
                        ratio[j] = apart
                continue
        elif own == 0.0 and abs(raw[row + 1] - raw[base]) <= slack:
            # raw prices come back, and the vendor's step of the next row is what parts them then
            kind[row] = 1
            ratio[row] = told
            continue
        kind[row] = 2
        base = row
    return kind, implied, ratio


@numba.njit(cache=True)
def _slack(row: int, base: int, own: float, noise: Floats, own_noise: Floats) -> float:
    slack = SLACK_LOG + noise[row] + noise[base]
    if own != 0.0:
        slack += own_noise[row] + own_noise[base]
    return float(slack)
