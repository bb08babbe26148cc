"""What happened after a decision: returns from the next open to the close `h` sessions after the decision.

Axes: H horizons, S symbols, T decision sessions (market axis).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import polars as pl

from vnfleet.core.errors import UsageError
from vnfleet.core.frames import OUTCOME_SCHEMA, as_outcome_frame
from vnfleet.data.panel import Panel


def forward_returns(panel: Panel, horizons: Sequence[int]) -> np.ndarray:
    """Return r_h(t) = adj_close(t+h) / adj_open(t+1) - 1 as float64 [H, S, T], NaN where unknown.

    `t+h` counts sessions of the market axis. Unknown: the symbol did not trade at t+1 or t+h, the sessions lie beyond
    the panel, or one of its rows in t+1..t+h carries `break_before` (at t+1 too: such a day's own prices are in doubt).
    """
    if not horizons or min(horizons) < 1:
        raise UsageError("horizons count sessions from 1", found=list(horizons))
    open_ST, close_ST = panel.matrix("adj_open"), panel.matrix("adj_close")
    num_symbols, num_sessions = open_ST.shape
    breaks_ST = np.nan_to_num(panel.matrix("break_before")).cumsum(axis=1)
    returns_HST = np.full((len(horizons), num_symbols, num_sessions), np.nan)
    for position, horizon in enumerate(horizons):
        if horizon >= num_sessions:
            continue
        entry = slice(1, num_sessions - horizon + 1)
        exit_ = slice(horizon, num_sessions)
        returns_ST = close_ST[:, exit_] / open_ST[:, entry] - 1.0
        returns_ST[breaks_ST[:, exit_] != breaks_ST[:, : num_sessions - horizon]] = np.nan
        returns_HST[position, :, : num_sessions - horizon] = returns_ST
    return returns_HST


def outcome_frame(panel: Panel, horizon_sessions: int, symbols: Sequence[str]) -> pl.DataFrame:
    """Return the known outcomes of `symbols` as an outcome frame (`core.frames.OUTCOME_SCHEMA`).

    `benchmark_return_frac` is the cross-sectional median return over *all* panel symbols with an outcome that session;
    `known_on` is session t+h. Rows whose return is unknown are left out.
    """
    returns_ST = forward_returns(panel, [horizon_sessions])[0]
    with warnings.catch_warnings():  # a session without any outcome has no median, and no rows either
        warnings.simplefilter("ignore", category=RuntimeWarning)
        benchmark_T = np.nanmedian(returns_ST, axis=0) if len(panel.symbols) else np.full(len(panel.sessions), np.nan)
    wanted = np.isin(np.array(panel.symbols, dtype=object), list(symbols))
    rows, columns = np.nonzero(np.isfinite(returns_ST) & wanted[:, None])
    sessions = pl.Series("session", panel.sessions, dtype=pl.Date)
    frame = pl.DataFrame(
        {
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(rows),
            "session": sessions.gather(columns),
            "horizon_sessions": pl.Series(np.full(len(rows), horizon_sessions), dtype=pl.Int32),
            "return_frac": returns_ST[rows, columns],
            "benchmark_return_frac": benchmark_T[columns],
            "known_on": sessions.gather(columns + horizon_sessions),
        },
        schema=OUTCOME_SCHEMA,
    )
    return as_outcome_frame(frame)
