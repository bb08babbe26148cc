"""The panel: the market axis, matrices, cuts, and the promise that the past does not change."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.axis import market_sessions
from vnfleet.data.panel import PANEL_SCHEMA, Panel, PanelStore, build_panel
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import RawHistory, raw_history
from vnfleet.market.calendar import trading_sessions

DAYS = trading_sessions(date(2024, 1, 2), date(2024, 12, 31))
AS_OF = DAYS[-1]
MONDAY = datetime(2025, 1, 6, tzinfo=UTC)


def market(num_symbols: int = 6, seed: int = 1) -> RawHistory:
    """Random walks; S0 has a 25 % bonus on session 200, S1 does not trade on sessions 100-104 (rows without volume)."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(num_symbols):
        fair = 20000 * np.cumprod(1 + rng.uniform(-0.03, 0.03, len(DAYS)))
        level = np.where(np.arange(len(DAYS)) < 200, 0.8, 1.0) if number == 0 else np.ones(len(DAYS))
        close = np.round(fair / level, -2)
        volume = 1000 + np.arange(len(DAYS))
        if number == 1:
            volume[100:105] = 0
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [f"S{number}"] * len(DAYS),
                    "session": DAYS,
                    "open_vnd": close,
                    "high_vnd": close + 100,
                    "low_vnd": close - 100,
                    "close_vnd": close,
                    "adjusted_close_vnd": np.round(close * level, -1),
                    "volume_shares": volume,
                }
            )
        )
    index = pl.DataFrame({"session": DAYS, "close_points": np.linspace(1100.0, 1300.0, len(DAYS))})
    listings = pl.DataFrame({"symbol": ["S0"], "exchange": ["HNX"], "sector": ["Bank"]})
    return raw_history(pl.concat(frames), index, listings)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return build_panel(market(), AS_OF)


def test_bars_hold_one_row_per_traded_session(panel: Panel) -> None:
    assert panel.bars.schema == pl.Schema(PANEL_SCHEMA)
    assert panel.symbols == tuple(f"S{number}" for number in range(6))
    assert panel.sessions == tuple(DAYS)
    counts = panel.bars.group_by("symbol", maintain_order=True).len().get_column("len").to_list()
    assert counts == [len(DAYS), len(DAYS) - 5, *[len(DAYS)] * 4]
    assert panel.bars.equals(panel.bars.sort("symbol", "session"))


def test_reference_is_the_previous_close_on_todays_basis(panel: Panel) -> None:
    rows = panel.bars.filter(pl.col("symbol") == "S0")
    before, today = rows.row(199, named=True), rows.row(200, named=True)
    assert today["reference_vnd"] == pytest.approx(before["close_vnd"] * 0.8, rel=1e-3)
    assert rows.row(150, named=True)["reference_vnd"] == pytest.approx(rows.row(149, named=True)["close_vnd"])
    assert rows.row(0, named=True)["reference_vnd"] is None


def test_matrices_have_nan_where_a_symbol_did_not_trade_and_cannot_be_written(panel: Panel) -> None:
    close_ST = panel.matrix("close_vnd")
    assert close_ST.shape == (6, len(DAYS))
    assert np.isnan(close_ST[1, 100:105]).all()
    assert np.isfinite(close_ST[[0, 2, 3, 4, 5]]).all()
    with pytest.raises(ValueError, match="read-only"):
        close_ST[0, 0] = 1.0
    assert np.allclose(panel.matrix("adj_close"), close_ST * panel.matrix("factor"), equal_nan=True)
    assert np.allclose(panel.matrix("traded_value_vnd"), close_ST * panel.matrix("volume_shares"), equal_nan=True)
    assert panel.matrix("adj_close")[0, 200] == pytest.approx(close_ST[0, 200] * 1.25, rel=1e-3)


@pytest.mark.parametrize("column", ["adj_volume", "symbol", "session", ""])
def test_an_unknown_column_is_refused(panel: Panel, column: str) -> None:
    with pytest.raises(UsageError, match="no such column"):
        panel.matrix(column)


def test_listings_are_complete_and_default_to_hose(panel: Panel) -> None:
    assert panel.listings.rows()[:2] == [("S0", "HNX", "Bank"), ("S1", "HOSE", "")]


def test_restrict_keeps_the_axis_and_refuses_strangers(panel: Panel) -> None:
    part = panel.restrict(["S3", "S0"])
    assert part.symbols == ("S0", "S3")
    assert part.sessions == panel.sessions
    assert np.array_equal(part.matrix("close_vnd"), panel.matrix("close_vnd")[[0, 3]])
    assert part.data_id != panel.data_id
    with pytest.raises(BadDataError, match="XYZ"):
        panel.restrict(["XYZ"])


def test_until_equals_serving_the_earlier_day(tmp_path: Path) -> None:
    RawStore(tmp_path / "data" / "raw").merge("files", market(), MONDAY)
    store = PanelStore(tmp_path, "files")
    whole = store.serve(AS_OF)
    for day in (DAYS[180], DAYS[199], DAYS[200], DAYS[201], DAYS[240]):
        served, cut = store.serve(day), whole.until(day)
        assert cut.sessions == served.sessions
        assert cut.bars.equals(served.bars)
        assert cut.data_id == served.data_id
        assert cut.as_of == day


def test_serving_is_deterministic_and_knows_only_what_was_known(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data" / "raw")
    raw.merge("files", market(), MONDAY)
    store = PanelStore(tmp_path, "files")
    first = store.serve(AS_OF)
    assert store.serve(AS_OF).data_id == first.data_id
    raw.merge("files", market(seed=2), MONDAY + timedelta(days=7))
    assert store.serve(AS_OF).data_id != first.data_id
    assert store.serve(AS_OF, MONDAY).data_id == first.data_id


def test_a_store_without_usable_symbols_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="vnfleet collect"):
        PanelStore(tmp_path, "files").serve(AS_OF)
    RawStore(tmp_path / "data" / "raw").merge("files", market(), MONDAY)
    with pytest.raises(BadDataError, match="no symbol is fit") as refusal:
        PanelStore(tmp_path, "files").serve(date(2025, 3, 3))
    assert "2024-12-31" in str(refusal.value)


def axis(traded: dict[date, int], symbols: int, index: list[date]) -> list[date]:
    rows = [
        (f"S{number:02d}", day, 100 if number < count else 0)
        for day, count in traded.items()
        for number in range(symbols)
    ]
    bars = pl.DataFrame(rows, schema={"symbol": pl.String, "session": pl.Date, "volume_shares": pl.Int64}, orient="row")
    closes = pl.DataFrame(
        {"session": index, "close_points": [1.0] * len(index)},
        schema={"session": pl.Date, "close_points": pl.Float64},
    )
    return market_sessions(bars.sort("symbol", "session"), closes).to_list()


def test_a_session_needs_an_index_bar_or_a_fifth_of_the_living_symbols() -> None:
    monday, tuesday, wednesday, saturday = (date(2024, 6, day) for day in (3, 4, 5, 8))
    assert axis({monday: 4, tuesday: 3}, 20, []) == [monday]
    assert axis({monday: 4, tuesday: 3}, 20, [tuesday, wednesday]) == [monday, tuesday, wednesday]
    assert axis({monday: 3, tuesday: 2}, 5, []) == [monday]  # never fewer than three
    assert axis({monday: 5, saturday: 5}, 5, [saturday]) == [monday]


def test_symbols_silent_for_long_no_longer_count_as_alive() -> None:
    monday = date(2024, 6, 3)
    late = monday + timedelta(days=70)
    rows = [(f"S{number:02d}", monday, 100) for number in range(20)] + [
        (f"S{number:02d}", late, 100) for number in (0, 1, 2)
    ]
    bars = pl.DataFrame(rows, schema=["symbol", "session", "volume_shares"], orient="row").sort("symbol", "session")
    assert market_sessions(bars, pl.DataFrame(schema={"session": pl.Date, "close_points": pl.Float64})).to_list() == [
        monday,
        late,
    ]
