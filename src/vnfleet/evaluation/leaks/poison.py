"""Worlds in which the future is another one: the same panel up to a day, wild prices after it; labels dealt anew.

Axes: H horizons, S symbols, T sessions.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.ids import short_id
from vnfleet.data.panel import Panel

_PRICES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd")


def poisoned(panel: Panel, first: date, seed: int) -> Panel:
    """Return `panel` with everything from session `first` on replaced by wild values; the axes stay as they are.

    Each symbol jumps to another price level and another volume and moves by up to a fifth a session; opens, ranges,
    factors, references and VNINDEX follow. Nothing before `first` changes.
    """
    rng = np.random.default_rng([seed, first.toordinal()])
    later = (pl.col("session") >= first).fill_null(value=False)
    bars = panel.bars.with_row_index("row")
    after = bars.filter(later)
    size, symbols = after.height, after.get_column("symbol").rle_id().to_numpy()
    jump_N = rng.normal(0.0, 1.0, len(panel.symbols) + 1)[symbols]
    walk = pl.DataFrame({"symbol": symbols, "step": rng.normal(0.0, 0.08, size)})
    level_N = np.clip(jump_N + walk.select(pl.col("step").cum_sum().over("symbol")).to_series().to_numpy(), -3, 3)
    close_N = after.get_column("close_vnd").to_numpy() * np.exp(level_N)
    open_N = close_N * np.exp(rng.normal(0.0, 0.05, size))
    spread_N = np.exp(np.abs(rng.normal(0.0, 0.05, size)))
    wild = after.with_columns(
        open_vnd=pl.Series(open_N),
        high_vnd=pl.Series(np.maximum(open_N, close_N) * spread_N),
        low_vnd=pl.Series(np.minimum(open_N, close_N) / spread_N),
        close_vnd=pl.Series(close_N),
        volume_shares=pl.Series((rng.lognormal(12.0, 2.0, size) + 100.0).astype(np.int64)),
        factor=pl.col("factor") * pl.Series(np.exp(rng.normal(0.0, 0.1, len(panel.symbols) + 1)[symbols])),
        reference_vnd=pl.Series(close_N * np.exp(rng.normal(0.0, 0.08, size))),
    )
    index = panel.index.with_columns(
        close_points=pl.when(later)
        .then(pl.col("close_points") * pl.Series(np.exp(rng.normal(0.0, 0.3, panel.index.height))))
        .otherwise(pl.col("close_points"))
    )
    whole = pl.concat([bars.filter(~later), wild]).sort("row").drop("row")
    return replace(panel, bars=whole, index=index, data_id=short_id([panel.data_id, first.isoformat(), seed]))


def dealt_anew(returns_HST: NDArray[np.floating], seed: int) -> NDArray[np.float64]:
    """Return the labels of each session dealt anew to the symbols that have one at the last horizon; [H, S, T].

    A symbol gets all horizons of another one. Each session keeps its returns, so sums, spreads and ranks stay; what
    they have to do with the features is gone. NaN stays where it was at the last horizon.
    """
    rng = np.random.default_rng(seed)
    dealt_HST = np.array(returns_HST, dtype=np.float64)
    for column in range(dealt_HST.shape[2]):
        rows = np.flatnonzero(np.isfinite(dealt_HST[-1, :, column]))
        dealt_HST[:, rows, column] = dealt_HST[:, rng.permutation(rows), column]
    return dealt_HST
