"""The fifty features, in the order of the cube's last axis. Order and names are part of every artifact."""

from __future__ import annotations

from vnfleet.features.feature import MAX_LOOKBACK_SESSIONS, Feature
from vnfleet.features.price import PRICE_FEATURES
from vnfleet.features.relative import CALENDAR_FEATURES, LIMIT_FEATURES, MARKET_FEATURES, RELATIVE_FEATURES
from vnfleet.features.trend import TREND_FEATURES
from vnfleet.features.volatility import VOLATILITY_FEATURES
from vnfleet.features.volume import VOLUME_FEATURES

__all__ = ["FEATURES", "FEATURE_NAMES", "MAX_LOOKBACK_SESSIONS", "Feature"]

FEATURES: tuple[Feature, ...] = (
    *PRICE_FEATURES,
    *VOLATILITY_FEATURES,
    *VOLUME_FEATURES,
    *TREND_FEATURES,
    *RELATIVE_FEATURES,
    *LIMIT_FEATURES,
    *MARKET_FEATURES,
    *CALENDAR_FEATURES,
)
FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
