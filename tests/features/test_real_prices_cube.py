"""The cube of real prices: their gaps, splits and locked days, against TA-Lib and against itself cut short."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import talib

from vnfleet.data.panel import Panel, build_panel
from vnfleet.data.sources.files import FilesSource
from vnfleet.features.cube import FeatureCube, build_cube, feature_frame

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SYMBOLS = (
    "AAA",
    "ACB",
    "BID",
    "CTG",
    "DIG",
    "FPT",
    "GAS",
    "HAG",
    "HPG",
    "MBB",
    "MSN",
    "SSI",
    "STB",
    "VCB",
    "VHM",
    "VIC",
)

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the price files of ../shared/data are not here"),
]


@pytest.fixture(scope="module")
def real() -> Panel:
    source = FilesSource(DATA / "cafef_price_history_2012_2024.parquet", DATA / "universe_289.csv")
    as_of = date(2024, 12, 31)
    return build_panel(source.fetch(SYMBOLS, as_of), as_of)


@pytest.fixture(scope="module")
def cube(real: Panel) -> FeatureCube:
    return build_cube(real)


def test_every_traded_session_after_the_warm_up_is_present(cube: FeatureCube, real: Panel) -> None:
    traded_ST = np.isfinite(real.matrix("close_vnd"))
    expected_ST = traded_ST & (traded_ST.cumsum(axis=1) > 120)
    np.testing.assert_array_equal(cube.present_ST, expected_ST)
    assert len(cube.symbols) >= 14


def test_a_cube_of_2018_is_the_first_part_of_the_cube_of_2024(cube: FeatureCube, real: Panel) -> None:
    position = real.sessions.index(date(2018, 2, 5))
    cut = build_cube(real.until(real.sessions[position]))
    np.testing.assert_array_equal(cut.values_STF, cube.values_STF[:, : position + 1])
    np.testing.assert_array_equal(cut.present_ST, cube.present_ST[:, : position + 1])


@pytest.mark.parametrize("symbol", ["HPG", "VIC", "HAG"])
def test_indicators_of_real_prices_are_ta_libs(real: Panel, symbol: str) -> None:
    bars = real.bars.filter(pl.col("symbol") == symbol)
    factor = bars.get_column("factor").to_numpy()
    high, low, close = (bars.get_column(f"{name}_vnd").to_numpy() * factor for name in ("high", "low", "close"))
    rows = feature_frame(real).filter(pl.col("symbol") == symbol)
    expected = {
        "rsi_14": talib.RSI(close, 14) / 100 - 0.5,
        "macd_hist": talib.MACD(close, 12, 26, 9)[2] / close,
        "atr_14": talib.ATR(high, low, close, 14) / close,
    }
    for name, column in expected.items():
        np.testing.assert_allclose(rows.get_column(name).to_numpy(), column, rtol=1e-9, atol=1e-12, err_msg=name)


def test_limit_days_are_as_frequent_as_the_whole_market_shows(cube: FeatureCube) -> None:
    # measured on 102 liquid HOSE names 2013-22: limit-up closes are 2.7 % of stock-days
    state = cube.values_STF[cube.present_ST][:, cube.names.index("limit_state")]
    assert 0.005 < (state == 1).mean() < 0.06
    assert 0.003 < (state == -1).mean() < 0.06
