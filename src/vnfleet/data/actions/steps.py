"""The vendor's steps: read from its rounded adjusted closes, or as the event ledger first learned them.

How a contradiction between the two is found: on every recorded row the vendor's interval must meet the level that the
rows before it and the recorded steps lead to. Levels are compared from step to step, not over the whole history: the
rounding errors of many steps add up, to 7 % in one vintage of real prices.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

ROUNDING_HALF_VND = 5.5
"""Half the vendor's rounding step of 10 VND, and a little for binary fractions."""
MAX_FLIP_SESSIONS = 2
CORRECTION_FRAC = 0.005
"""Contradictions up to this, beyond what rounding explains, are not taken for a correction."""
_ROUNDING_OF_A_STEP_VND = 2 * ROUNDING_HALF_VND
"""A recorded step carries the rounding of two adjusted closes of its own vintage."""

STEPS_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "generation": pl.Int32(),
    "session": pl.Date(),
    "step": pl.Float64(),
    "taken_back_on": pl.Date(),
    "reason": pl.String(),
}

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Memory(IntEnum):
    """What the ledger knows about a row: nothing, its step, that it lies inside a flip, or that more was known."""

    NONE = 0
    KNOWN = 1
    AWAY = 2
    CUT = 3


class Contradiction(StrEnum):
    """Why the record of a symbol does not hold from some session on."""

    CORRECTED = "adjusted prices contradict the recorded steps by {gap:+.2%} from {session} on"
    GONE = "the session of a recorded step is no longer there; next is {session}"
    EARLIER = "the history now begins earlier, on {session}"


_NONE, _KNOWN, _AWAY, _CUT = (int(memory) for memory in Memory)
_CONTRADICTIONS = (None, *Contradiction)
_FINE, _CORRECTED, _GONE, _EARLIER = range(len(_CONTRADICTIONS))
_MEMORY_COLUMNS = ("memory", "recorded_step", "recorded_count")


@dataclass(frozen=True, slots=True)
class VendorSteps:
    """The vendor's steps row by row of some bars; what the ledger knew is kept.

    step : 1.0 without a step. flips : the level ratio where a recognised flip begins, else 1.0; it gets no step.
    returned : row on which the flip that begins here was taken back, else -1.
    contradictions : symbol, row, reason of each symbol whose record did not hold; from that row on it was not used.
    """

    step: Floats
    flips: Floats
    returned: Ints
    contradictions: pl.DataFrame


@dataclass(frozen=True, slots=True)
class LearnedSteps:
    """What a ledger knew at some moment.

    rows : `STEPS_SCHEMA` of each symbol's newest generation, sorted by symbol and session. The first and the last row
        of a symbol bound the sessions known, with a step of 1.0 where there was none. A step that is `taken_back_on` a
        later session was a flip: it counts for whoever looks from before that session.
    """

    rows: pl.DataFrame

    def placed(self, bars: pl.DataFrame) -> pl.DataFrame:
        """Return `bars` (sorted by symbol and session) with what is known of each row in three more columns.

        They travel with the rows through the quality court. `recorded_count` counts a symbol's steps so far: a step
        whose session the court masks is missed by it.
        """
        symbols = bars.get_column("symbol")
        edges = [*symbols.ne_missing(symbols.shift(1)).fill_null(value=True).arg_true().to_list(), bars.height]
        slices = {symbols[begin]: (begin, end) for begin, end in pairwise(edges)}
        days = bars.get_column("session").to_physical().to_numpy()
        memory = np.zeros(bars.height, dtype=np.uint8)
        step = np.ones(bars.height)
        count = np.zeros(bars.height, dtype=np.int64)
        for (symbol,), rows in self.rows.group_by("symbol", maintain_order=True):
            if symbol in slices:
                part = slice(*slices[symbol])
                _place(rows, days[part], memory[part], step[part], count[part])
        return bars.with_columns(
            memory=pl.Series(memory), recorded_step=pl.Series(step), recorded_count=pl.Series(count)
        )


def _place(rows: pl.DataFrame, days: Ints, memory: NDArray[np.uint8], step: Floats, count: Ints) -> None:
    """Write what `rows` of one symbol say into its slices; `days` are sessions as day numbers."""
    sessions = rows.get_column("session").to_physical().to_numpy()
    memory[np.searchsorted(days, sessions[0]) : np.searchsorted(days, sessions[-1], side="right")] = _KNOWN
    if memory[-1] == _KNOWN and sessions[-1] > days[-1]:
        memory[-1] = _CUT
    steps = rows.filter(pl.col("step") != 1.0)
    sessions = steps.get_column("session").to_physical().to_numpy()
    backs = steps.get_column("taken_back_on").to_physical().fill_null(np.iinfo(np.int32).max).to_numpy()
    begins, ends = np.searchsorted(days, sessions), np.searchsorted(days, sessions, side="right")
    for value, begin, end, back in zip(steps.get_column("step").to_list(), begins, ends, backs, strict=True):
        step[begin:end] = value
        count[begin:] += 1
        if back <= days[-1]:
            memory[begin : np.searchsorted(days, back)] = _AWAY


def vendor_steps(bars: pl.DataFrame) -> VendorSteps:
    """Return the vendor's steps of `bars`: recorded ones where `LearnedSteps.placed` put them, else read from the bars.

    bars : symbol, session, close_vnd (> 0), adjusted_close_vnd (null or <= 0: unknown); sorted by symbol and session.
    """
    symbols = bars.get_column("symbol")
    starts = symbols.ne_missing(symbols.shift(1)).to_numpy().copy()
    starts[:1] = True
    close = np.array(bars.get_column("close_vnd"))  # copies: numba compiles read-only arrays once more
    adjusted = np.array(bars.get_column("adjusted_close_vnd").fill_null(0.0))
    if _MEMORY_COLUMNS[0] in bars.columns:
        memory, recorded, count = (np.array(bars.get_column(name)) for name in _MEMORY_COLUMNS)
    else:
        memory, recorded, count = np.zeros(len(close), np.uint8), np.ones(len(close)), np.zeros(len(close), np.int64)
    step, flips, returned, verdict, gap = _read_steps(starts, close, adjusted, memory, recorded, count)
    broken = np.flatnonzero(verdict != _FINE)
    if len(broken):
        symbol_of = np.cumsum(starts)
        memory = memory.copy()
        for row in broken:
            memory[row : np.searchsorted(symbol_of, symbol_of[row], side="right")] = _NONE
        step, flips, returned, *_ = _read_steps(starts, close, adjusted, memory, recorded, count)
    sessions = bars.get_column("session")
    reasons = [str(_CONTRADICTIONS[verdict[row]]).format(gap=gap[row], session=sessions[int(row)]) for row in broken]
    contradictions = pl.DataFrame(
        {"symbol": symbols[broken], "row": broken, "reason": reasons},
        schema={"symbol": pl.String(), "row": pl.Int64(), "reason": pl.String()},
    )
    return VendorSteps(step=step, flips=flips, returned=returned, contradictions=contradictions)


def without_memory(bars: pl.DataFrame) -> pl.DataFrame:
    """Return `bars` without the columns of `LearnedSteps.placed`."""
    return bars.drop(_MEMORY_COLUMNS, strict=False)


@numba.njit(cache=True)
def _read_steps(
    starts: Bools, close: Floats, adjusted: Floats, memory: NDArray[np.uint8], recorded: Floats, count: Ints
) -> tuple[Floats, Floats, Ints, Ints, Floats]:
    """Return step, flips and returned as in `VendorSteps`, and per row a contradiction that begins there with its size.

    Unknown rows: intervals are intersected greedily within a symbol. A level of at most `MAX_FLIP_SESSIONS` rows that
    is followed by the level before it is a flip: it gets no step, neither out nor back. Known rows: the recorded steps,
    checked; a flip there, out and back between two recorded steps, is the newest vintage's own and ignored.
    """
    num_rows = len(close)
    step, flips, gap = np.ones(num_rows), np.ones(num_rows), np.zeros(num_rows)
    returned = np.full(num_rows, -1)
    verdict = np.full(num_rows, _FINE)
    low = high = 0.0
    before_low, before_high = np.inf, -np.inf
    begin = first = 0
    known = lost = False  # the level is known; the record does not hold, the rest of the symbol is read again
    flip = -1  # row at which a recorded flip began that is not over
    strays, stray, stray_gap, at_step = 0, 0, 0.0, False  # rows in a row that contradict the record; a step among them
    for row in range(num_rows):
        if starts[row]:
            if strays > 0:
                verdict[stray], gap[stray] = _CORRECTED, stray_gap
            known = lost = False
            before_low, before_high = np.inf, -np.inf
            begin = first = row
            flip, strays = -1, 0
        if lost:
            continue
        if flip >= 0 and memory[row] != _AWAY:
            returned[flip] = row
            before_low, before_high = np.inf, -np.inf
            flip = -1
        stepped = memory[row] != _NONE and not starts[row] and recorded[row] != 1.0
        if memory[row] != _NONE and not starts[row]:
            if memory[row - 1] == _NONE:
                verdict[first], lost, strays = _EARLIER, True, 0
                continue
            if count[row] - count[row - 1] != int(stepped):
                verdict[stray if strays > 0 else row], lost, strays = _GONE, True, 0
                continue
        if memory[row] == _AWAY:
            if stepped:
                flips[row] = recorded[row]
                flip = row
            continue
        if stepped:
            step[row] = recorded[row]
            if known:
                before_low, before_high = low, high
            low, high = low * recorded[row], high * recorded[row]
            begin = row
        if memory[row] == _CUT:  # what follows is not there to tell a flip from a correction
            strays = 0
            continue
        if not adjusted[row] > 0.0:
            continue
        row_low = (adjusted[row] - ROUNDING_HALF_VND) / close[row]
        row_high = (adjusted[row] + ROUNDING_HALF_VND) / close[row]
        overlaps = row_low <= high and row_high >= low
        if not known:
            low, high, known = row_low, row_high, True
        elif memory[row] == _KNOWN:
            slack = 1.0 + CORRECTION_FRAC + _ROUNDING_OF_A_STEP_VND / adjusted[row]
            if row_low <= high * slack and row_high * slack >= low:
                if strays > 0 and (at_step or stepped):
                    verdict[stray], gap[stray], lost = _CORRECTED, stray_gap, True
                strays = 0
                if stepped:
                    low, high = row_low, row_high
                elif overlaps:
                    low, high = max(low, row_low), min(high, row_high)
                continue
            if strays == 0:
                stray, at_step, stray_gap = row, False, (row_low + row_high) / (low + high) - 1.0
            at_step = at_step or stepped
            strays += 1
            if strays > MAX_FLIP_SESSIONS:
                verdict[stray], gap[stray], lost, strays = _CORRECTED, stray_gap, True, 0
        elif overlaps:
            if strays > 0 and at_step:
                verdict[stray], gap[stray], lost = _CORRECTED, stray_gap, True
            strays = 0
            low, high = max(low, row_low), min(high, row_high)
        elif row - begin <= MAX_FLIP_SESSIONS and row_low <= before_high and row_high >= before_low:
            flips[begin] = step[begin]
            step[begin] = 1.0
            returned[begin] = row
            strays = 0
            low, high = max(before_low, row_low), min(before_high, row_high)
            before_low, before_high = np.inf, -np.inf
        elif strays > 0:
            verdict[stray], gap[stray], lost, strays = _CORRECTED, stray_gap, True, 0
        else:
            step[row] = (adjusted[row] / close[row]) / (0.5 * (low + high))
            before_low, before_high = low, high
            low, high = row_low, row_high
            begin = row
    if strays > 0:
        verdict[stray], gap[stray] = _CORRECTED, stray_gap
    return step, flips, returned, verdict, gap
