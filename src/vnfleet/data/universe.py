"""Which symbols a fold trades: the most traded before it, never chosen with its own days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.panel import Panel


def most_traded(
    panel: Panel,
    count: int,
    window_sessions: int,
    before: date,
    *,
    pinned: Sequence[str] = (),
    excluded: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the `count` symbols with the highest median traded value, sorted by name.

    The median is taken over the `window_sessions` market sessions strictly before `before`; a session without a trade
    counts as 0 VND. Ties go to the first name in the alphabet. `pinned` symbols are always in, `excluded` never.

    Raises `BadDataError` when there are not enough sessions or not enough symbols that traded at all.
    """
    if count < 1 or window_sessions < 1 or set(pinned) & set(excluded) or len(set(pinned)) > count:
        raise UsageError(
            "a universe cannot be chosen like this",
            expected="count >= 1, window_sessions >= 1, at most `count` pinned symbols, none both pinned and excluded",
            found=f"count {count}, window {window_sessions}, pinned {list(pinned)}, excluded {list(excluded)}",
        )
    end = sum(day < before for day in panel.sessions)
    if end < window_sessions:
        raise BadDataError(
            "not enough sessions to choose a universe", expected=window_sessions, found=end, where=f"before {before}"
        )
    value_ST = np.nan_to_num(panel.matrix("traded_value_vnd")[:, end - window_sessions : end])
    median_S = np.median(value_ST, axis=1)
    absent = sorted(set(pinned) - set(panel.symbols))
    if absent:
        raise BadDataError("pinned symbols are not in the panel", found=absent, where=f"panel of {panel.as_of}")
    ranked = sorted(
        (
            (-value, symbol)
            for symbol, value in zip(panel.symbols, median_S.tolist(), strict=True)
            if value > 0 and symbol not in excluded and symbol not in pinned
        ),
    )
    chosen = [*dict.fromkeys(pinned), *(symbol for _, symbol in ranked)][:count]
    if len(chosen) < count:
        raise BadDataError(
            "not enough traded symbols for the universe",
            expected=count,
            found=len(chosen),
            where=f"{window_sessions} sessions before {before}",
            fix="lower the number of symbols (--models) or collect more of them",
        )
    return tuple(sorted(chosen))
