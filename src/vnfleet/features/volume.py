"""How much trades and in which direction. Shares are put on the prices' basis, so splits make no surge."""

from __future__ import annotations

import polars as pl

from vnfleet.features.feature import Feature, highest, lowest, mean, own, ratio

_HIGH, _LOW, _CLOSE, _RET = (pl.col(name) for name in ("high", "low", "close", "ret_log"))
_SHARES, _VALUE = pl.col("shares"), pl.col("value_bn")
_LOG_SHARES = _SHARES.log()
_LEAST_IMPACT = 1e-7  # |return| per billion VND that counts as none: keeps the logarithm finite on flat prices

_CLOSE_LOCATION = ratio(2 * _CLOSE - _HIGH - _LOW, _HIGH - _LOW, otherwise=0.0)

VOLUME_FEATURES: tuple[Feature, ...] = (
    Feature(
        name="volume_z_20",
        formula="(ln shares - mean) / standard deviation (n) over 20 sessions, 0 when all are equal",
        lookback_sessions=19,
        unit="standard deviations",
        source="volume shocks; Gervais, Kaniel and Mingelgrin 2001",
        expression=ratio(
            _LOG_SHARES - mean(_LOG_SHARES, 20),
            pl.when(highest(_SHARES, 20) > lowest(_SHARES, 20))
            .then(own(_LOG_SHARES.rolling_std(20, ddof=0)))
            .when(highest(_SHARES, 20).is_not_null())
            .then(0.0),
            otherwise=0.0,
        ),
    ),
    Feature(
        name="volume_ratio_5_60",
        formula="ln(mean shares over 5 / mean shares over 60 sessions)",
        lookback_sessions=59,
        unit="log ratio",
        source="abnormal turnover; Lee and Swaminathan 2000",
        expression=(mean(_SHARES, 5) / mean(_SHARES, 60)).log(),
    ),
    Feature(
        name="value_ratio_20_120",
        formula="ln(mean traded value over 20 / mean traded value over 120 sessions)",
        lookback_sessions=119,
        unit="log ratio",
        source="attention and turnover trend; Lee and Swaminathan 2000",
        expression=(mean(_VALUE, 20) / mean(_VALUE, 120)).log(),
    ),
    Feature(
        name="amihud_20",
        formula="ln(1e-7 + mean over 20 sessions of |ret_1| / traded value in billion VND)",
        lookback_sessions=20,
        unit="log of return per billion VND",
        source="Amihud 2002",
        expression=(_LEAST_IMPACT + mean(_RET.abs() / _VALUE, 20).clip(lower_bound=0.0)).log(),
    ),
    Feature(
        name="obv_flow_20",
        formula="sum of sign(ret_1) * shares / sum of shares over 20 sessions",
        lookback_sessions=20,
        unit="share of volume, -1..1",
        source="on-balance volume, Granville 1963, bounded",
        expression=mean(_RET.sign() * _SHARES, 20) / mean(_SHARES, 20),
    ),
    Feature(
        name="chaikin_flow_20",
        formula="sum of (2 close - high - low) / (high - low) * shares / sum of shares over 20 sessions, 0 if flat",
        lookback_sessions=19,
        unit="share of volume, -1..1",
        source="Chaikin money flow",
        expression=mean(_CLOSE_LOCATION * _SHARES, 20) / mean(_SHARES, 20),
    ),
)
