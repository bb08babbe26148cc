"""A symbol against the market and its peers, price limits, the market's own state, the calendar."""

from __future__ import annotations

import polars as pl

from vnfleet.features.feature import Feature, mean, own, ratio

_CLOSE, _RET, _MARKET = pl.col("close"), pl.col("ret_log"), pl.col("market_ret_log")
_STILL = 1e-12  # variance of a market that does not move: no beta can be told

_MARKET_VARIANCE_60 = mean(_MARKET * _MARKET, 60) - mean(_MARKET, 60).pow(2)
_COVARIANCE_60 = mean(_RET * _MARKET, 60) - mean(_RET, 60) * mean(_MARKET, 60)
_VARIANCE_60 = mean(_RET * _RET, 60) - mean(_RET, 60).pow(2)
_BETA_60 = pl.when(_MARKET_VARIANCE_60 <= _STILL).then(0.0).otherwise(_COVARIANCE_60 / _MARKET_VARIANCE_60)


def _ranked(name: str, lookback_sessions: int, source: str) -> Feature:
    value = pl.col(name)
    others = (value.count().over("session") - 1).cast(pl.Float64)
    return Feature(
        name=f"rank_{name}",
        formula=f"rank of {name} among the symbols of the session, ties averaged, scaled to -0.5..0.5, 0 when alone",
        lookback_sessions=lookback_sessions,
        unit="cross-sectional rank, -0.5..0.5",
        source=source,
        expression=ratio(value.rank("average").over("session") - 1.0, others, otherwise=0.5) - 0.5,
        per_session=True,
    )


RELATIVE_FEATURES: tuple[Feature, ...] = (
    Feature(
        name="rel_ret_5",
        formula="ret_5 - return of the equal-weight market over the same sessions",
        lookback_sessions=5,
        unit="log return",
        source="market-relative reversal; Lehmann 1990",
        expression=own((_CLOSE / _CLOSE.shift(5)).log() - pl.col("market_log").diff(5)),
    ),
    Feature(
        name="rel_vnindex_20",
        formula="ret_20 - ln(VNINDEX / VNINDEX at the symbol's session -20)",
        lookback_sessions=20,
        unit="log return",
        source="market-relative momentum",
        expression=own((_CLOSE / _CLOSE.shift(20)).log() - pl.col("index_log").diff(20)),
    ),
    Feature(
        name="beta_60",
        formula="covariance of ret_1 and the equal-weight market's return / its variance over 60 sessions, 0 if still",
        lookback_sessions=60,
        unit="slope",
        source="market model; Sharpe 1963; Frazzini and Pedersen 2014",
        expression=_BETA_60,
    ),
    Feature(
        name="idio_vol_60",
        formula="standard deviation (n) of ret_1 not explained by beta_60 over 60 sessions",
        lookback_sessions=60,
        unit="log return per session",
        source="idiosyncratic volatility; Ang et al. 2006",
        expression=(_VARIANCE_60 - _BETA_60 * _COVARIANCE_60).clip(lower_bound=0.0).sqrt(),
    ),
    _ranked("ret_1", 1, "one-session reversal, ranked"),
    _ranked("volume_z_20", 19, "volume surge, ranked; Gervais, Kaniel and Mingelgrin 2001"),
    _ranked("vol_20", 20, "low-volatility effect, ranked; Ang et al. 2006"),
    _ranked("amihud_20", 20, "illiquidity premium, ranked; Amihud 2002"),
)

LIMIT_FEATURES: tuple[Feature, ...] = (
    Feature(
        name="limit_state",
        formula="+1 if the raw close is at the ceiling, -1 at the floor, else 0 (band and tick of that day)",
        lookback_sessions=1,
        unit="flag",
        source="price limits and continuation; Veeraraghavan et al. 2007; market.rules",
        expression=pl.col("limit_state"),
    ),
    Feature(
        name="limit_balance_20",
        formula="mean of limit_state over 20 sessions",
        lookback_sessions=20,
        unit="share of sessions, -1..1",
        source="price limits and continuation; Veeraraghavan et al. 2007; market.rules",
        expression=mean(pl.col("limit_state"), 20),
    ),
)

MARKET_FEATURES: tuple[Feature, ...] = (
    Feature(
        name="market_ret_5",
        formula="log return of the equal-weight market over 5 market sessions",
        lookback_sessions=5,
        unit="log return",
        source="market state",
        expression=pl.col("market_ret_5"),
    ),
    Feature(
        name="market_vol_20",
        formula="standard deviation (n) of the equal-weight market's return over 20 market sessions",
        lookback_sessions=20,
        unit="log return per session",
        source="market state",
        expression=pl.col("market_vol_20"),
    ),
    Feature(
        name="breadth",
        formula="share of symbols that rose minus share that fell",
        lookback_sessions=1,
        unit="share of symbols, -1..1",
        source="advance-decline balance",
        expression=pl.col("breadth"),
    ),
)

CALENDAR_FEATURES: tuple[Feature, ...] = (
    Feature(
        name="day_of_week",
        formula="Monday -0.5, Friday 0.5, in equal steps",
        lookback_sessions=0,
        unit="-0.5..0.5",
        source="day-of-the-week effect; French 1980",
        expression=(pl.col("session").dt.weekday().cast(pl.Float64) - 1.0) / 4.0 - 0.5,
    ),
    Feature(
        name="gap_days",
        formula="ln(calendar days since the previous traded session)",
        lookback_sessions=1,
        unit="log days",
        source="holidays, week-ends and suspensions",
        expression=pl.col("gap_days").cast(pl.Float64).log(),
    ),
)
