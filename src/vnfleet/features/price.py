"""Returns over several spans, and the shape of today's candle."""

from __future__ import annotations

import polars as pl

from vnfleet.features.feature import Feature, own, ratio

RETURN_SPANS = (1, 2, 3, 5, 10, 20, 60, 120)

_OPEN, _HIGH, _LOW, _CLOSE = (pl.col(name) for name in ("open", "high", "low", "close"))
_RANGE = _HIGH - _LOW


def _returned(span: int) -> Feature:
    return Feature(
        name=f"ret_{span}",
        formula=f"ln(close / close[-{span}])",
        lookback_sessions=span,
        unit="log return",
        source="momentum and reversal; Jegadeesh 1990, Jegadeesh and Titman 1993",
        expression=own((_CLOSE / _CLOSE.shift(span)).log()),
    )


PRICE_FEATURES: tuple[Feature, ...] = (
    *(_returned(span) for span in RETURN_SPANS),
    Feature(
        name="overnight_gap",
        formula="ln(open / close[-1])",
        lookback_sessions=1,
        unit="log return",
        source="overnight against intraday returns; Lou, Polk and Skouras 2019",
        expression=own((_OPEN / _CLOSE.shift()).log()),
    ),
    Feature(
        name="open_to_close",
        formula="ln(close / open)",
        lookback_sessions=0,
        unit="log return",
        source="overnight against intraday returns; Lou, Polk and Skouras 2019",
        expression=(_CLOSE / _OPEN).log(),
    ),
    Feature(
        name="high_low_range",
        formula="ln(high / low)",
        lookback_sessions=0,
        unit="log ratio",
        source="Parkinson 1980",
        expression=(_HIGH / _LOW).log(),
    ),
    Feature(
        name="close_location",
        formula="(close - low) / (high - low), 0.5 when high = low",
        lookback_sessions=0,
        unit="share of the range, 0..1",
        source="Williams %R of one session; Chaikin's close location",
        expression=ratio(_CLOSE - _LOW, _RANGE, otherwise=0.5),
    ),
    Feature(
        name="wick_balance",
        formula="(upper wick - lower wick) / (high - low) = (high + low - open - close) / (high - low), 0 if flat",
        lookback_sessions=0,
        unit="share of the range, -1..1",
        source="candlestick shadows, signed",
        expression=ratio(_HIGH + _LOW - _OPEN - _CLOSE, _RANGE, otherwise=0.0),
    ),
)
