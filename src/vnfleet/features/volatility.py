"""How much a symbol moves: realised, range-based, downside and true-range volatility, per session (not annualised)."""

from __future__ import annotations

import math

import polars as pl
import polars_talib as talib

from vnfleet.features.feature import Feature, mean, own

_OPEN, _HIGH, _LOW, _CLOSE, _RET = (pl.col(name) for name in ("open", "high", "low", "close", "ret_log"))
_HIGH_LOW_SQUARED = (_HIGH / _LOW).log().pow(2)
_OPEN_CLOSE_SQUARED = (_CLOSE / _OPEN).log().pow(2)
_GARMAN_KLASS = 0.5 * _HIGH_LOW_SQUARED - (2 * math.log(2) - 1) * _OPEN_CLOSE_SQUARED

VOLATILITY_FEATURES: tuple[Feature, ...] = (
    Feature(
        name="vol_20",
        formula="standard deviation (n - 1) of ret_1 over 20 sessions",
        lookback_sessions=20,
        unit="log return per session",
        source="realised volatility; low-volatility effect, Ang et al. 2006",
        expression=own(_RET.rolling_std(20)),
    ),
    Feature(
        name="parkinson_vol_5",
        formula="sqrt(mean over 5 sessions of ln(high / low)^2 / (4 ln 2))",
        lookback_sessions=4,
        unit="log return per session",
        source="Parkinson 1980",
        expression=(mean(_HIGH_LOW_SQUARED, 5).clip(lower_bound=0.0) / (4 * math.log(2))).sqrt(),
    ),
    Feature(
        name="garman_klass_vol_20",
        formula="sqrt(max(0, mean over 20 sessions of 0.5 ln(high / low)^2 - (2 ln 2 - 1) ln(close / open)^2))",
        lookback_sessions=19,
        unit="log return per session",
        source="Garman and Klass 1980",
        expression=mean(_GARMAN_KLASS, 20).clip(lower_bound=0.0).sqrt(),
    ),
    Feature(
        name="downside_vol_20",
        formula="sqrt(mean over 20 sessions of min(ret_1, 0)^2)",
        lookback_sessions=20,
        unit="log return per session",
        source="semi-deviation; Sortino and van der Meer 1991",
        expression=mean(_RET.clip(upper_bound=0.0).pow(2), 20).clip(lower_bound=0.0).sqrt(),
    ),
    Feature(
        name="atr_14",
        formula="Wilder's average true range (14) / close",
        lookback_sessions=14,
        unit="fraction of the price",
        source="Wilder 1978; TA-Lib ATR",
        expression=own(talib.atr(_HIGH, _LOW, _CLOSE, timeperiod=14)) / _CLOSE,
        remembers=True,
    ),
)
