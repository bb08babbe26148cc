"""The market axis: on which days there was a session, decided by the data and not by a calendar."""

from __future__ import annotations

import numpy as np
import polars as pl

MIN_TRADED_SYMBOLS = 3
MIN_TRADED_FRAC = 0.2
ALIVE_DAYS = 60
"""A symbol counts as alive this many calendar days after a bar: looking back only, later bars change no earlier day."""
_SATURDAY_ISO = 6


def market_sessions(bars: pl.DataFrame, index: pl.DataFrame) -> pl.Series:
    """Return the sessions of the market, ascending, as a Date series "session".

    A session exists iff the index has a bar, or at least max(3, 20 % of the symbols alive that day) traded; never on a
    weekend.

    bars : symbol, session, volume_shares, sorted by symbol and session, repaired and without masked rows.
    index : session, close_points.
    """
    traded = bars.filter(pl.col("volume_shares") > 0).group_by("session").agg(num_traded=pl.len())
    alive = _alive_by_day(bars)
    by_trade = (
        traded.join(alive, on="session", how="left")
        .filter(
            pl.col("num_traded")
            >= pl.max_horizontal(pl.lit(MIN_TRADED_SYMBOLS), MIN_TRADED_FRAC * pl.col("num_alive").fill_null(0))
        )
        .get_column("session")
    )
    days = pl.concat([by_trade, index.get_column("session")]).unique().sort()
    return days.filter(days.dt.weekday() < _SATURDAY_ISO).alias("session")


def _alive_by_day(bars: pl.DataFrame) -> pl.DataFrame:
    """Return session, num_alive: symbols with a bar on that day or in the `ALIVE_DAYS` before it."""
    if bars.is_empty():
        return pl.DataFrame(schema={"session": pl.Date(), "num_alive": pl.Int64()})
    ordinals = bars.get_column("session").to_physical().to_numpy().astype(np.int64)
    following = bars.select(
        pl.col("session").to_physical().shift(-1).over("symbol").fill_null(np.iinfo(np.int32).max).cast(pl.Int64)
    )
    until = np.minimum(following.to_series().to_numpy(), ordinals + ALIVE_DAYS + 1)
    first = int(ordinals.min())
    change = np.zeros(int(until.max()) - first + 1, dtype=np.int64)
    np.add.at(change, ordinals - first, 1)
    np.add.at(change, until - first, -1)
    days = np.unique(ordinals)
    return pl.DataFrame(
        {
            "session": pl.Series(days.astype(np.int32)).cast(pl.Date),
            "num_alive": np.cumsum(change)[days - first],
        }
    )
