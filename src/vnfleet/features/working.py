"""The long frame all features are computed from: adjusted bars, plus what the market did on the same sessions.

Axes: S symbols, T sessions (market axis).
"""

from __future__ import annotations

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.panel import Panel
from vnfleet.features.feature import own
from vnfleet.features.limits import with_limit_state

_VND_PER_BILLION = 1e9
_QUOTES = ("open_vnd", "high_vnd", "low_vnd", "close_vnd")
_INDEX_MAY_BE_OLD = (
    "10d"  # the index is quoted every session; a hole of days is a vendor's, a longer one is not bridged
)


def working_frame(panel: Panel) -> pl.DataFrame:
    """Return one row per row of `panel.bars`, in the same order, with the columns that features read.

    open, high, low, close : adjusted prices (raw * factor); high and low are widened to hold open and close, so that
    shares of the range stay within their bounds whatever a vendor wrote.
    shares : volume on the same basis (volume / factor). value_bn : traded value, billion VND.
    ret_log : ln of close over the previous traded close, null on the first row.
    gap_sessions, gap_days : market sessions and calendar days since the previous traded session.
    market_log, market_ret_log : log level of the equal-weight market, and its change since the symbol's previous
    traded session. index_log : ln of VNINDEX. market_ret_5, market_vol_20, breadth : the market's state that session.
    limit_state : +1 closed at the raw ceiling, -1 at the raw floor, else 0.

    Raises `BadDataError` when the panel has no index at all.
    """
    if panel.index.height == 0:
        raise BadDataError(
            "a panel has no VNINDEX, so no feature cube can be built",
            where=f"panel of {panel.as_of}",
            fix="collect VNINDEX together with the symbols",
        )
    bars = _adjusted(panel)
    bars = bars.join(_market(panel, bars), on="session", how="left", maintain_order="left")
    bars = bars.with_columns(market_ret_log=own(pl.col("market_log").diff()))
    return with_limit_state(bars)


def _adjusted(panel: Panel) -> pl.DataFrame:
    factor = pl.col("factor")
    sessions = pl.DataFrame({"session": panel.sessions}, schema={"session": pl.Date()}).with_row_index("session_index")
    return (
        panel.bars.join(sessions, on="session", how="left", maintain_order="left")
        .with_columns(
            open=pl.col("open_vnd") * factor,
            high=pl.max_horizontal(_QUOTES) * factor,
            low=pl.min_horizontal(_QUOTES) * factor,
            close=pl.col("close_vnd") * factor,
            shares=pl.col("volume_shares") / factor,
            value_bn=pl.col("close_vnd") * pl.col("volume_shares") / _VND_PER_BILLION,
        )
        .with_columns(
            ret_log=own((pl.col("close") / pl.col("close").shift()).log()),
            gap_sessions=own(pl.col("session_index").cast(pl.Int64).diff()),
            gap_days=own(pl.col("session").diff().dt.total_days()),
        )
    )


def _market(panel: Panel, bars: pl.DataFrame) -> pl.DataFrame:
    """Return one row per market session: the equal-weight market, its state, and VNINDEX.

    Only moves between consecutive market sessions count, so that a name back from suspension brings no stale jump.
    The sums run down the symbol axis in numpy: their order, hence their last bit, does not depend on later sessions.
    """
    moves_ST = np.full((len(panel.symbols), len(panel.sessions)), np.nan)
    consecutive = pl.when(pl.col("gap_sessions") == 1).then(pl.col("ret_log"))
    moves_ST[panel.positions()] = bars.select(consecutive.fill_null(float("nan"))).to_series().to_numpy()
    known_T = np.isfinite(moves_ST).sum(axis=0)
    count_T = np.where(known_T > 0, known_T, np.nan)
    return_T = np.log1p(np.nansum(np.expm1(moves_ST), axis=0) / count_T)
    breadth_T = np.nansum(np.sign(moves_ST), axis=0) / count_T
    market = pl.DataFrame(
        {
            "session": pl.Series(panel.sessions, dtype=pl.Date),
            "market_move": pl.Series(return_T, nan_to_null=True),
            "market_log": np.cumsum(np.nan_to_num(return_T)),
            "breadth": pl.Series(breadth_T, nan_to_null=True),
        }
    ).with_columns(
        market_ret_5=pl.col("market_log").diff(5),
        market_vol_20=pl.col("market_move").rolling_std(20, ddof=0),
    )
    index = panel.index.sort("session").select("session", index_log=pl.col("close_points").log())
    return market.join_asof(index, on="session", strategy="backward", tolerance=_INDEX_MAY_BE_OLD)
