from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import polars as pl
import pytest

from vnfleet.data.panel import Panel
from vnfleet.features.catalogue import FEATURE_NAMES, FEATURES, MAX_LOOKBACK_SESSIONS, Feature
from vnfleet.features.cube import feature_frame

TODAY = 280
CALENDAR = {"day_of_week", "gap_days"}


class PanelMaker(Protocol):
    def panel(self, bars: pl.DataFrame) -> Panel: ...


def test_there_are_fifty_features_with_unique_names() -> None:
    assert len(FEATURES) == 50
    assert len(set(FEATURE_NAMES)) == 50
    assert len({feature.formula for feature in FEATURES}) == 50


def test_no_feature_looks_back_more_than_120_sessions() -> None:
    assert MAX_LOOKBACK_SESSIONS == 120
    assert max(feature.lookback_sessions for feature in FEATURES) == 120


def test_only_the_recursive_indicators_remember() -> None:
    assert {feature.name for feature in FEATURES if feature.remembers} == {"rsi_14", "macd_hist", "atr_14"}


@pytest.mark.parametrize("lookback", [-1, 121])
def test_a_lookback_outside_the_range_is_refused(lookback: int) -> None:
    with pytest.raises(ValueError, match="lookback_sessions"):
        Feature(name="x", formula="x", lookback_sessions=lookback, unit="x", source="x", expression=pl.lit(0))


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="unit"):
        Feature(name="x", formula="x", lookback_sessions=1, unit="", source="x", expression=pl.lit(0))


@pytest.mark.parametrize("feature", FEATURES, ids=FEATURE_NAMES)
def test_a_feature_is_known_from_its_lookback_on_and_always_after(
    feature: Feature, whole: Panel, known: Callable[[Panel, str], dict[str, np.ndarray]]
) -> None:
    column = known(whole, "S0")[feature.name]
    np.testing.assert_array_equal(np.isfinite(column), np.arange(len(column)) >= feature.lookback_sessions)


def test_poison_older_than_the_lookback_moves_nothing_and_at_the_lookback_does(
    market: PanelMaker, whole: Panel
) -> None:
    clean = _today(whole)
    for lookback in sorted({feature.lookback_sessions for feature in FEATURES}):
        older = _today(market.panel(_poisoned(whole, pl.col("session") < whole.sessions[TODAY - lookback])))
        at = _today(market.panel(_poisoned(whole, pl.col("session") == whole.sessions[TODAY - lookback])))
        for feature in FEATURES:
            if feature.lookback_sessions != lookback or feature.name in CALENDAR:
                continue
            if not feature.remembers:
                np.testing.assert_allclose(
                    older[feature.name], clean[feature.name], rtol=1e-7, atol=1e-9, err_msg=feature.name
                )
            assert not np.allclose(at[feature.name], clean[feature.name], rtol=1e-7, atol=1e-9), feature.name


def _today(panel: Panel) -> dict[str, np.ndarray]:
    rows = feature_frame(panel).filter(pl.col("session") == panel.sessions[TODAY])
    return {name: rows.get_column(name).to_numpy() for name in FEATURE_NAMES}


def _poisoned(panel: Panel, when: pl.Expr) -> pl.DataFrame:
    """Other prices and volumes, different for each symbol: most of them far up, the others far down."""
    number = pl.col("symbol").str.slice(1).cast(pl.Float64)
    scale = pl.when(number % 3 > 0).then(4.0 + number).otherwise(1.0 / (4.0 + number))
    bent = {"open_vnd": 1.0, "high_vnd": 1.2, "low_vnd": 1.1, "close_vnd": 0.9}  # the candle changes its shape as well
    bars = panel.bars.drop("reference_vnd", "break_before")
    return bars.with_columns(
        *(pl.when(when).then(pl.col(c) * scale**power).otherwise(pl.col(c)).alias(c) for c, power in bent.items()),
        pl.when(when).then((pl.col("volume_shares") * scale).cast(pl.Int64) + 1).otherwise(pl.col("volume_shares")),
    )
