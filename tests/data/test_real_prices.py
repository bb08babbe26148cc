"""CafeF's real prices, judged by values and by a vendor that are independent of this code."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from vnfleet.data.court.quality import examine
from vnfleet.data.panel import Panel, PanelStore, build_panel
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import RawHistory
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.universe import most_traded

DATA = Path(__file__).parents[2].parent / "shared" / "data"
AS_OF = date(2024, 12, 31)

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here"),
]


@pytest.fixture(scope="module")
def history() -> RawHistory:
    return FilesSource(DATA / "cafef_price_history_2012_2024.parquet", DATA / "universe_289.csv").fetch(None, AS_OF)


@pytest.fixture(scope="module")
def panel(history: RawHistory, tmp_path_factory: pytest.TempPathFactory) -> Panel:
    workdir = tmp_path_factory.mktemp("work")
    RawStore(workdir / "data" / "raw").merge("files", history, datetime(2025, 8, 22, tzinfo=UTC))
    return PanelStore(workdir, "files").serve(AS_OF)


@pytest.fixture(scope="module")
def returns(panel: Panel) -> pl.DataFrame:
    adjusted = pl.col("close_vnd") * pl.col("factor")
    return panel.bars.with_columns(
        raw=(pl.col("close_vnd") / pl.col("close_vnd").shift(1) - 1).over("symbol"),
        adjusted=(adjusted / adjusted.shift(1) - 1).over("symbol"),
        before=pl.col("session").shift(1).over("symbol"),
    )


@pytest.mark.parametrize(
    ("symbol", "day", "raw", "adjusted"),
    [
        ("HPG", date(2022, 6, 17), 23.2 / 31.0 - 1, 17.58 / 17.77 - 1),
        ("VCB", date(2021, 12, 22), -0.222, 0.004),
        ("VCB", date(2023, 7, 25), -0.123, 0.035),
        ("FPT", date(2024, 6, 12), 132.0 / 146.5 - 1, 0.043),
    ],
)
def test_corporate_actions_are_in_raw_returns_and_not_in_adjusted_ones(
    returns: pl.DataFrame, symbol: str, day: date, raw: float, adjusted: float
) -> None:
    row = returns.filter((pl.col("symbol") == symbol) & (pl.col("session") == day)).row(0, named=True)
    assert row["raw"] == pytest.approx(raw, abs=6e-4)
    assert row["adjusted"] == pytest.approx(adjusted, abs=6e-4)
    assert not row["break_before"]


def test_the_missed_bonus_of_mwg_is_absorbed(returns: pl.DataFrame) -> None:
    row = returns.filter((pl.col("symbol") == "MWG") & (pl.col("session") == date(2021, 8, 30))).row(0, named=True)
    assert row["raw"] == pytest.approx(-0.328, abs=1e-3)
    assert abs(row["adjusted"]) < 1e-9
    assert row["break_before"]


def test_adjusted_returns_agree_with_an_independent_vendor(returns: pl.DataFrame) -> None:
    close = pl.col("close").cast(pl.Float64)
    other = (
        pl.read_parquet(DATA / "second_vendor_adjusted_2015_2024.parquet")
        .filter(pl.col("close") > 0)
        .sort("symbol", "date")
        .with_columns(
            other=(close / close.shift(1) - 1).over("symbol"), other_before=pl.col("date").shift(1).over("symbol")
        )
        .select("symbol", "other", "other_before", session="date")
    )
    both = returns.join(other, on=["symbol", "session"]).filter(pl.col("before") == pl.col("other_before"))
    difference = (both.get_column("adjusted") - both.get_column("other")).abs().to_numpy()
    assert both.height > 290_000
    assert (difference < 0.002).mean() > 0.996  # the vendor's own column: 0.986
    assert (difference > 0.02).mean() < 0.0007


def test_event_rate_and_sizes_are_those_measured_elsewhere(history: RawHistory, panel: Panel) -> None:
    events = examine(history, AS_OF, None).events
    symbols = most_traded(panel, 100, 250, date(2025, 1, 1))
    begin = date(2020, 1, 1)
    chosen = pl.col("symbol").is_in(symbols) & (pl.col("session") >= begin)
    years = panel.bars.filter(chosen).height / 250
    assert events.filter(chosen & (pl.col("kind") == "adjustment")).height / years == pytest.approx(1.06, abs=0.05)
    sizes = events.filter((pl.col("kind") == "adjustment") & (pl.col("session") >= date(2015, 1, 1))).get_column(
        "factor_step"
    )
    assert sizes.median() == pytest.approx(1.055, abs=0.003)
    refused = events.filter(pl.col("kind") != "adjustment")
    assert refused.height < 100  # of 748,000 traded rows


def test_sessions_are_the_real_ones_and_the_index_is_the_real_one(panel: Panel) -> None:
    lines = (DATA / "market_sessions_2012_20261001.csv").read_text(encoding="utf-8").split()
    real = {date.fromisoformat(line) for line in lines if line <= "2024-12-31"}
    assert real - set(panel.sessions) == {date(2018, 1, 23), date(2018, 1, 24)}  # the HOSE outage
    assert set(panel.sessions) <= real
    index = dict(panel.index.iter_rows())
    assert index[date(2022, 4, 4)] == 1524.70
    assert index[date(2022, 11, 15)] == 911.90
    assert date(2024, 5, 17) in panel.sessions
    assert date(2024, 5, 17) not in index


def test_nearly_all_symbols_are_accepted_and_the_past_does_not_change(history: RawHistory, panel: Panel) -> None:
    assert len(panel.symbols) == 289
    assert len(panel.quality.live) == 285
    assert set(panel.quality.symbols.filter(pl.col("verdict") == "retired").get_column("symbol")) == {
        "DSC",
        "HPX",
        "NAB",
        "TCI",
    }
    day = date(2021, 6, 30)
    few = RawHistory(
        history.bars.filter(pl.col("symbol").is_in(["FPT", "HPG", "MWG", "REE"])), history.index, history.listings
    )
    later = examine(few, AS_OF, None).bars.filter(pl.col("session") <= day)
    assert examine(few, day, None).bars.equals(later)


def test_what_was_served_three_years_ago_is_what_is_served_of_it_now(history: RawHistory, panel: Panel) -> None:
    """Repairs, factors and inferred exchanges: later sessions change no row of the past, but for the newest two."""
    cut = date(2021, 12, 31)
    then = build_panel(history.until(cut), cut)
    settled = then.sessions[-3]
    before = then.bars.filter(pl.col("session") <= settled)
    now = panel.bars.filter((pl.col("session") <= settled) & pl.col("symbol").is_in(then.symbols))
    assert before.height > 500_000
    assert now.equals(before)
