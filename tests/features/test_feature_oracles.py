"""Every feature against an independent computation: TA-Lib, scipy, or a few lines of numpy on plain arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
import pytest
import talib
from scipy.stats import rankdata

from vnfleet.data.panel import Panel
from vnfleet.features.catalogue import FEATURE_NAMES
from vnfleet.features.cube import feature_frame

SYMBOLS = ("WHOLE", "GAPS", "SPLIT")


@dataclass(frozen=True)
class History:
    """Adjusted arrays of one symbol on its own traded sessions, the newest last, and the features it was given."""

    o: np.ndarray
    h: np.ndarray
    l: np.ndarray  # noqa: E741
    c: np.ndarray
    v: np.ndarray
    value_bn: np.ndarray
    positions: np.ndarray
    given: dict[str, np.ndarray]

    @property
    def r(self) -> np.ndarray:
        return np.diff(np.log(self.c))

    def until(self, end: int) -> History:
        now = slice(0, end + 1)
        return History(
            o=self.o[now],
            h=self.h[now],
            l=self.l[now],
            c=self.c[now],
            v=self.v[now],
            value_bn=self.value_bn[now],
            positions=self.positions[now],
            given={},
        )


def _history(panel: Panel, symbol: str) -> History:
    bars = panel.bars.filter(pl.col("symbol") == symbol)
    raw = {name: bars.get_column(name).to_numpy() for name in bars.columns if name not in ("symbol", "break_before")}
    factor = raw["factor"]
    rows = feature_frame(panel).filter(pl.col("symbol") == symbol)
    return History(
        o=raw["open_vnd"] * factor,
        h=raw["high_vnd"] * factor,
        l=raw["low_vnd"] * factor,
        c=raw["close_vnd"] * factor,
        v=raw["volume_shares"] / factor,
        value_bn=raw["close_vnd"] * raw["volume_shares"] / 1e9,
        positions=np.array([panel.sessions.index(day) for day in bars.get_column("session")]),
        given={name: rows.get_column(name).to_numpy() for name in FEATURE_NAMES},
    )


@pytest.fixture(scope="module", params=SYMBOLS)
def history(request: pytest.FixtureRequest, troubled: Panel) -> History:
    return _history(troubled, request.param)


def test_rsi_is_ta_libs(history: History) -> None:
    np.testing.assert_allclose(history.given["rsi_14"], talib.RSI(history.c, 14) / 100 - 0.5, rtol=1e-9, atol=1e-12)


def test_macd_is_ta_libs(history: History) -> None:
    expected = talib.MACD(history.c, 12, 26, 9)[2] / history.c
    np.testing.assert_allclose(history.given["macd_hist"], expected, rtol=1e-9, atol=1e-12)


def test_atr_is_ta_libs(history: History) -> None:
    expected = talib.ATR(history.h, history.l, history.c, 14) / history.c
    np.testing.assert_allclose(history.given["atr_14"], expected, rtol=1e-9, atol=1e-12)


def test_bollinger_is_ta_libs(history: History) -> None:
    upper, middle, lower = talib.BBANDS(history.c, 20, 2, 2)
    np.testing.assert_allclose(history.given["bollinger_width_20"], (upper - lower) / middle, rtol=1e-7)
    position = (history.c - middle) / ((upper - lower) / 2)
    np.testing.assert_allclose(history.given["bollinger_position_20"], position, rtol=1e-7, atol=1e-7)


def test_stochastic_is_ta_libs(history: History) -> None:
    slow_k, slow_d = talib.STOCH(history.h, history.l, history.c, fastk_period=14, slowk_period=3, slowd_period=3)
    known = np.isfinite(slow_k)  # TA-Lib withholds K until D is known
    np.testing.assert_allclose(history.given["stoch_k_14"][known], slow_k[known] / 100 - 0.5, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.given["stoch_d_14"], slow_d / 100 - 0.5, rtol=1e-9, atol=1e-12)


def _amihud(x: History) -> float:
    return math.log(1e-7 + float((np.abs(x.r[-20:]) / x.value_bn[-20:]).mean()))


def _chaikin(x: History) -> float:
    flow = ((x.c - x.l) - (x.h - x.c)) / (x.h - x.l)
    return float((flow[-20:] * x.v[-20:]).sum() / x.v[-20:].sum())


def _garman_klass(x: History) -> float:
    terms = 0.5 * np.log(x.h / x.l) ** 2 - (2 * math.log(2) - 1) * np.log(x.c / x.o) ** 2
    return math.sqrt(terms[-20:].mean())


def _wicks(x: History) -> float:
    upper = x.h[-1] - max(x.o[-1], x.c[-1])
    lower = min(x.o[-1], x.c[-1]) - x.l[-1]
    return float((upper - lower) / (x.h[-1] - x.l[-1]))


def _volume_z(x: History) -> float:
    logs = np.log(x.v[-20:])
    return float((logs[-1] - logs.mean()) / logs.std())


def _range_position(x: History) -> float:
    low, high = x.l[-60:].min(), x.h[-60:].max()
    return float((x.c[-1] - low) / (high - low) - 0.5)


BY_HAND: dict[str, Callable[[History], float]] = {
    **{f"ret_{n}": lambda x, n=n: math.log(x.c[-1] / x.c[-1 - n]) for n in (1, 2, 3, 5, 10, 20, 60, 120)},  # type: ignore[misc]
    "overnight_gap": lambda x: math.log(x.o[-1] / x.c[-2]),
    "open_to_close": lambda x: math.log(x.c[-1] / x.o[-1]),
    "high_low_range": lambda x: math.log(x.h[-1] / x.l[-1]),
    "close_location": lambda x: float((x.c[-1] - x.l[-1]) / (x.h[-1] - x.l[-1])),
    "wick_balance": _wicks,
    "vol_20": lambda x: float(x.r[-20:].std(ddof=1)),
    "parkinson_vol_5": lambda x: math.sqrt((np.log(x.h / x.l)[-5:] ** 2).mean() / (4 * math.log(2))),
    "garman_klass_vol_20": _garman_klass,
    "downside_vol_20": lambda x: math.sqrt((np.minimum(x.r[-20:], 0) ** 2).mean()),
    "volume_z_20": _volume_z,
    "volume_ratio_5_60": lambda x: math.log(x.v[-5:].mean() / x.v[-60:].mean()),
    "value_ratio_20_120": lambda x: math.log(x.value_bn[-20:].mean() / x.value_bn[-120:].mean()),
    "amihud_20": _amihud,
    "obv_flow_20": lambda x: float((np.sign(x.r[-20:]) * x.v[-20:]).sum() / x.v[-20:].sum()),
    "chaikin_flow_20": _chaikin,
    "ma_dist_60": lambda x: math.log(x.c[-1] / x.c[-60:].mean()),
    "dist_high_20": lambda x: math.log(x.c[-1] / x.h[-20:].max()),
    "dist_low_20": lambda x: math.log(x.c[-1] / x.l[-20:].min()),
    "range_position_60": _range_position,
    "dist_high_120": lambda x: math.log(x.c[-1] / x.h[-120:].max()),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_own_history_features_equal_plain_numpy(history: History, name: str) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):  # zero-range days are tested on their own
        for end in (120, 137, 171, 200, len(history.c) - 1):
            expected = BY_HAND[name](history.until(end))
            assert history.given[name][end] == pytest.approx(expected, rel=1e-7, abs=1e-9), end


def _market_returns(panel: Panel) -> np.ndarray:
    """Equal-weight simple return of each session over the symbols that also traded the session before."""
    close_ST = panel.matrix("adj_close")
    simple_ST = close_ST[:, 1:] / close_ST[:, :-1] - 1
    return np.concatenate([[0.0], np.log1p(np.nanmean(simple_ST, axis=0))])


def test_market_state_and_breadth_equal_plain_numpy(history: History, troubled: Panel) -> None:
    market_T = _market_returns(troubled)
    close_ST = troubled.matrix("adj_close")
    signs_ST = np.sign(close_ST[:, 1:] - close_ST[:, :-1])
    for end in (130, 190, len(history.c) - 1):
        t = history.positions[end]
        assert history.given["market_ret_5"][end] == pytest.approx(market_T[t - 4 : t + 1].sum(), abs=1e-12)
        assert history.given["market_vol_20"][end] == pytest.approx(market_T[t - 19 : t + 1].std(), rel=1e-9)
        assert history.given["breadth"][end] == pytest.approx(np.nanmean(signs_ST[:, t - 1]), abs=1e-12)


def test_market_relative_features_compare_the_same_sessions(history: History, troubled: Panel) -> None:
    level_T = np.cumsum(_market_returns(troubled))
    index_T = np.log(troubled.index.get_column("close_points").to_numpy())
    for end in (130, 199, len(history.c) - 1):
        t, t_5, t_20 = history.positions[[end, end - 5, end - 20]]
        own_5, own_20 = (math.log(history.c[end] / history.c[end - n]) for n in (5, 20))
        assert history.given["rel_ret_5"][end] == pytest.approx(own_5 - (level_T[t] - level_T[t_5]), abs=1e-12)
        assert history.given["rel_vnindex_20"][end] == pytest.approx(own_20 - (index_T[t] - index_T[t_20]), abs=1e-12)
        own_r = np.diff(np.log(history.c[end - 60 : end + 1]))
        market_r = np.diff(level_T[history.positions[end - 60 : end + 1]])
        slope, intercept = np.polyfit(market_r, own_r, 1)
        residual = own_r - slope * market_r - intercept
        assert history.given["beta_60"][end] == pytest.approx(slope, rel=1e-7)
        assert history.given["idio_vol_60"][end] == pytest.approx(math.sqrt((residual**2).mean()), rel=1e-7)


@pytest.mark.parametrize("name", ["ret_1", "volume_z_20", "vol_20", "amihud_20"])
def test_ranks_are_scipys_over_the_symbols_present_that_session(troubled: Panel, name: str) -> None:
    for t in (60, 128, 150, 210, 299):
        rows = (
            feature_frame(troubled).filter(pl.col("session") == troubled.sessions[t]).filter(pl.col(name).is_finite())
        )
        expected = (rankdata(rows.get_column(name).to_numpy()) - 1) / (rows.height - 1) - 0.5
        np.testing.assert_allclose(rows.get_column(f"rank_{name}").to_numpy(), expected, atol=1e-12)


def test_a_symbol_alone_in_its_session_has_the_middle_rank(troubled: Panel) -> None:
    alone = feature_frame(troubled.restrict(["WHOLE"]))
    assert set(alone.get_column("rank_ret_1").to_list()[1:]) == {0.0}


def test_calendar_features_count_days(troubled: Panel) -> None:
    rows = feature_frame(troubled).filter(pl.col("symbol") == "WHOLE")
    day = {s: (d, g) for s, d, g in rows.select("session", "day_of_week", "gap_days").iter_rows()}
    assert day[date(2016, 9, 5)] == (-0.5, pytest.approx(math.log(3)))  # a Monday
    assert day[date(2016, 9, 7)] == (0.0, 0.0)
    assert day[date(2016, 9, 9)] == (0.5, 0.0)
    back = troubled.bars.filter(pl.col("symbol") == "GAPS").with_columns(before=pl.col("session").shift())
    back = back.filter(pl.col("session") > troubled.sessions[228]).head(1)
    gap = (back.item(0, "session") - back.item(0, "before")).days
    assert gap > 30
    rows = feature_frame(troubled).filter((pl.col("symbol") == "GAPS") & (pl.col("session") == back.item(0, "session")))
    assert rows.item(0, "gap_days") == pytest.approx(math.log(gap))


def test_a_price_that_never_moves_has_defined_values(troubled: Panel) -> None:
    last = {name: float(column[-1]) for name, column in _history(troubled, "FLAT").given.items()}
    assert last["close_location"] == 0.5
    assert last["amihud_20"] == pytest.approx(math.log(1e-7))
    still = ("ret_1", "ret_120", "wick_balance", "vol_20", "downside_vol_20", "atr_14", "volume_z_20", "obv_flow_20")
    middle = ("chaikin_flow_20", "rsi_14", "macd_hist", "bollinger_position_20", "bollinger_width_20", "stoch_k_14")
    for name in (*still, *middle, "stoch_d_14", "range_position_60", "dist_high_120", "beta_60", "limit_balance_20"):
        assert last[name] == pytest.approx(0.0, abs=1e-12), name


def test_a_market_that_never_moves_has_no_beta(troubled: Panel) -> None:
    rows = feature_frame(troubled.restrict(["FLAT"]))
    assert rows.get_column("beta_60").to_list()[-1] == 0.0
    assert rows.get_column("idio_vol_60").to_list()[-1] == 0.0


def test_days_locked_at_one_price_leave_every_feature_finite(troubled: Panel) -> None:
    for column in _history(troubled, "LOCKED").given.values():
        assert np.isfinite(column[120:]).all()
    for column in _history(troubled, "FLAT").given.values():
        assert np.isfinite(column[120:]).all()


def test_a_split_is_no_move_and_no_limit(troubled: Panel) -> None:
    split = _history(troubled, "SPLIT")
    # 2:1 on session 170: adjusted prices are the unsplit walk, so the day's return stays an ordinary one
    assert abs(split.given["ret_1"][170]) < 0.1
    assert split.given["limit_state"][170] == 0.0
