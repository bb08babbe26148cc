"""Oscillators, bands and where the price stands in its recent range."""

from __future__ import annotations

import polars as pl
import polars_talib as talib

from vnfleet.features.feature import Feature, highest, lowest, mean, own, ratio

_HIGH, _LOW, _CLOSE = (pl.col(name) for name in ("high", "low", "close"))

# an exact zero on flat prices: the running variance leaves rounding dust that a ratio would blow up
_DEVIATION_20 = (
    pl.when(highest(_CLOSE, 20) > lowest(_CLOSE, 20))
    .then(own(_CLOSE.rolling_std(20, ddof=0)))
    .when(highest(_CLOSE, 20).is_not_null())
    .then(0.0)
)
_NEVER_MOVED = own(_CLOSE.cum_max() == _CLOSE.cum_min())
_LOW_14, _HIGH_14 = _LOW.rolling_min(14), _HIGH.rolling_max(14)
_STOCH_K = ratio(_CLOSE - _LOW_14, _HIGH_14 - _LOW_14, otherwise=0.5).rolling_mean(3) - 0.5

TREND_FEATURES: tuple[Feature, ...] = (
    Feature(
        name="ma_dist_60",
        formula="ln(close / mean close over 60 sessions)",
        lookback_sessions=59,
        unit="log ratio",
        source="moving-average rules; Brock, Lakonishok and LeBaron 1992",
        expression=(_CLOSE / mean(_CLOSE, 60)).log(),
    ),
    Feature(
        name="rsi_14",
        formula="Wilder's relative strength index (14) / 100 - 0.5, 0 when the price never moved",
        lookback_sessions=14,
        unit="-0.5..0.5",
        source="Wilder 1978; TA-Lib RSI",
        expression=pl.when(_NEVER_MOVED & own(_CLOSE.shift(14)).is_not_null())
        .then(0.0)
        .otherwise(own(talib.rsi(_CLOSE, timeperiod=14)) / 100 - 0.5),
        remembers=True,
    ),
    Feature(
        name="macd_hist",
        formula="(MACD(12, 26) - its 9-session exponential mean) / close",
        lookback_sessions=33,
        unit="fraction of the price",
        source="Appel 1979; TA-Lib MACD histogram",
        expression=own(talib.macd(_CLOSE, fastperiod=12, slowperiod=26, signalperiod=9)).struct.field("macdhist")
        / _CLOSE,
        remembers=True,
    ),
    Feature(
        name="bollinger_position_20",
        formula="(close - mean) / (2 standard deviations (n)) over 20 sessions, 0 when flat",
        lookback_sessions=19,
        unit="half band widths",
        source="Bollinger %b, centred; TA-Lib BBANDS",
        expression=ratio(_CLOSE - mean(_CLOSE, 20), 2 * _DEVIATION_20, otherwise=0.0),
    ),
    Feature(
        name="bollinger_width_20",
        formula="4 standard deviations (n) / mean of close over 20 sessions",
        lookback_sessions=19,
        unit="fraction of the price",
        source="Bollinger band width; TA-Lib BBANDS",
        expression=4 * _DEVIATION_20 / mean(_CLOSE, 20),
    ),
    Feature(
        name="stoch_k_14",
        formula="mean over 3 sessions of (close - low14) / (high14 - low14) - 0.5, where a flat range gives 0",
        lookback_sessions=15,
        unit="-0.5..0.5",
        source="Lane's slow stochastic; TA-Lib STOCH(14, 3, 3)",
        expression=own(_STOCH_K),
    ),
    Feature(
        name="stoch_d_14",
        formula="mean of stoch_k_14 over 3 sessions",
        lookback_sessions=17,
        unit="-0.5..0.5",
        source="Lane's slow stochastic; TA-Lib STOCH(14, 3, 3)",
        expression=own(_STOCH_K.rolling_mean(3)),
    ),
    Feature(
        name="dist_high_20",
        formula="ln(close / highest high over 20 sessions)",
        lookback_sessions=19,
        unit="log ratio",
        source="distance to the high; George and Hwang 2004",
        expression=(_CLOSE / highest(_HIGH, 20)).log(),
    ),
    Feature(
        name="dist_low_20",
        formula="ln(close / lowest low over 20 sessions)",
        lookback_sessions=19,
        unit="log ratio",
        source="distance to the low",
        expression=(_CLOSE / lowest(_LOW, 20)).log(),
    ),
    Feature(
        name="range_position_60",
        formula="(close - low60) / (high60 - low60) - 0.5, 0 when flat",
        lookback_sessions=59,
        unit="-0.5..0.5",
        source="stochastic of 60 sessions",
        expression=ratio(_CLOSE - lowest(_LOW, 60), highest(_HIGH, 60) - lowest(_LOW, 60), otherwise=0.5) - 0.5,
    ),
    Feature(
        name="dist_high_120",
        formula="ln(close / highest high over 120 sessions)",
        lookback_sessions=119,
        unit="log ratio",
        source="nearness to the high; George and Hwang 2004",
        expression=(_CLOSE / highest(_HIGH, 120)).log(),
    ),
)
