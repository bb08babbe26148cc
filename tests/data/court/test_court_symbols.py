"""Symbols: who may be used, who may be traded, and reasons that say what really happened. Units, grids, the market."""

from datetime import date

import polars as pl
import pytest

from vnfleet.data.court.quality import MARKET, QualityReport, examine
from vnfleet.data.sources.base import RawHistory, raw_history
from vnfleet.market.calendar import trading_sessions

DAYS = trading_sessions(date(2022, 6, 1), date(2023, 6, 30))
SYMBOLS = tuple(f"T{first}{second}" for first in "ABCDE" for second in "ABCDE")


def market() -> RawHistory:
    """Twenty-five calm names on HOSE's ticks and lots."""
    bars = pl.DataFrame({"symbol": SYMBOLS}).join(
        pl.DataFrame({"session": DAYS, "step": range(len(DAYS))}), how="cross"
    )
    close = 20_050.0 + 50 * (pl.col("step") % 5)
    bars = bars.with_columns(
        open_vnd=close,
        high_vnd=close + 50,
        low_vnd=close - 50,
        close_vnd=close,
        adjusted_close_vnd=(close / 10).round() * 10,
        volume_shares=100_000 + 100 * (pl.col("step") % 37),
    )
    return raw_history(bars, pl.DataFrame({"session": DAYS, "close_points": [1200.0] * len(DAYS)}), None)


def judged(bars: pl.DataFrame) -> QualityReport:
    history = market()
    return examine(raw_history(bars, history.index, None), DAYS[-1], DAYS).report


def changed(symbol: str, days: list[date], **values: object) -> pl.DataFrame:
    where = (pl.col("symbol") == symbol) & pl.col("session").is_in(days)
    bars = market().bars
    return bars.with_columns(
        pl.when(where).then(pl.lit(value).cast(bars.schema[name])).otherwise(name).alias(name)
        for name, value in values.items()
    )


def row_of(report: QualityReport, symbol: str) -> dict[str, object]:
    return report.symbols.filter(pl.col("symbol") == symbol).row(0, named=True)


def test_a_calm_market_is_accepted_whole_and_live() -> None:
    report = judged(market().bars)
    assert report.accepted == report.live == SYMBOLS
    assert report.rows.is_empty()


def test_a_suspended_symbol_is_retired_and_its_past_stays() -> None:
    flat = dict.fromkeys(("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd"), 20050.0)
    report = judged(changed("TAA", DAYS[-12:], **flat, volume_shares=0))
    assert row_of(report, "TAA")["verdict"] == "retired"
    assert "TAA" in report.accepted
    assert "TAA" not in report.live
    assert str(row_of(report, "TAA")["reasons"]).startswith("suspended: the newest 12 rows have no volume")
    assert report.rows.filter(pl.col("check") == "stale_tail")["session"].to_list() == [DAYS[-12]]


def test_nine_quiet_rows_are_no_suspension() -> None:
    flat = dict.fromkeys(("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd"), 20050.0)
    assert "TAA" in judged(changed("TAA", DAYS[-9:], **flat, volume_shares=0)).live


def test_masked_rows_are_named_in_the_reason_instead_of_asking_for_newer_prices() -> None:
    bars = market().bars
    twice = pl.concat([bars, bars.filter(pl.col("symbol") == "TAA").with_columns(pl.col("close_vnd") + 50)])
    reason = str(row_of(judged(twice), "TAA")["reasons"])
    assert reason.startswith("0 traded sessions, at least 100 needed")
    assert f"({len(DAYS)} rows masked: conflict {len(DAYS)})" in reason
    no_volume = row_of(judged(changed("TBB", DAYS, volume_shares=None)), "TBB")
    assert f"({len(DAYS)} rows masked: volume {len(DAYS)})" in str(no_volume["reasons"])
    assert no_volume["verdict"] == "quarantine"


def test_a_history_that_contradicts_itself_too_often_is_quarantined() -> None:
    report = judged(changed("TAA", DAYS[20:90], volume_shares=-5))
    assert row_of(report, "TAA")["verdict"] == "quarantine"
    assert "contradicts itself" in str(row_of(report, "TAA")["reasons"])


@pytest.mark.parametrize("factor", [10.0, 100.0, 1000.0, 0.001])
def test_a_bar_in_another_unit_is_brought_back(factor: float) -> None:
    where = (pl.col("symbol") == "TAA") & (pl.col("session") == DAYS[150])
    names = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
    bars = market().bars.with_columns(
        pl.when(where).then(pl.col(name) * factor).otherwise(name).alias(name) for name in names
    )
    examined = examine(raw_history(bars, market().index, None), DAYS[-1], DAYS)
    assert examined.report.rows.select("symbol", "session", "check", "verdict").rows() == [
        ("TAA", DAYS[150], "price_unit", "repair")
    ]
    right = market().bars.filter(where).row(0, named=True)
    repaired = examined.bars.filter(where).row(0, named=True)
    assert [repaired[name] for name in names] == pytest.approx([right[name] for name in names])


def test_a_fall_to_a_tenth_that_the_adjusted_close_does_not_share_is_left_alone() -> None:
    where = (pl.col("symbol") == "TAA") & (pl.col("session") >= DAYS[150])
    names = ("open_vnd", "high_vnd", "low_vnd", "close_vnd")
    bars = market().bars.with_columns(
        pl.when(where).then(pl.col(name) / 10).otherwise(name).alias(name) for name in names
    )
    examined = examine(raw_history(bars, market().index, None), DAYS[-1], DAYS)
    assert examined.report.rows.filter(pl.col("check") == "price_unit").is_empty()
    assert examined.events["factor_step"].to_list() == pytest.approx([10.0], rel=1e-3)


def test_a_close_off_the_tick_and_a_volume_off_the_lot_are_noticed() -> None:
    assert judged(changed("TAA", [DAYS[150]], close_vnd=20_053.0)).rows.select("symbol", "session", "check").rows() == [
        ("TAA", DAYS[150], "tick")
    ]
    assert judged(changed("TAA", [DAYS[150]], volume_shares=100_007)).rows.select("session", "check").rows() == [
        (DAYS[150], "lot")
    ]


def test_adjusted_prices_told_as_raw_are_named_once_for_the_symbol() -> None:
    names = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
    bars = market().bars.with_columns(
        pl.when(pl.col("symbol") == "TAA").then(pl.col(name) * 0.8137).otherwise(name).alias(name) for name in names
    )
    rows = judged(bars).rows
    assert rows.select("symbol", "session", "check").rows() == [("TAA", None, "not_raw")]


def test_a_column_that_vanishes_for_everybody_is_a_drift() -> None:
    bars = market().bars.with_columns(open_vnd=pl.when(pl.col("session") >= DAYS[200]).then(None).otherwise("open_vnd"))
    rows = judged(bars).rows.filter(pl.col("check") == "drift")
    assert rows.select("symbol", "session", "severity").rows() == [(MARKET, DAYS[200], "error")]
    assert rows["evidence"][0].startswith("open_vnd is absent in 100.0 %")


def test_a_newest_session_with_a_third_of_the_volumes_was_read_too_early() -> None:
    early = pl.when(pl.col("session") == DAYS[-1]).then(30_000).otherwise("volume_shares")
    rows = judged(market().bars.with_columns(volume_shares=early)).rows
    assert rows.select("symbol", "session", "check").rows() == [(MARKET, DAYS[-1], "in_session")]
    late = pl.when(pl.col("session") == DAYS[-2]).then(30_000).otherwise("volume_shares")
    assert judged(market().bars.with_columns(volume_shares=late)).rows.is_empty()


def test_a_price_without_trade_that_is_not_the_carried_close_is_noted() -> None:
    flat = dict.fromkeys(("open_vnd", "high_vnd", "low_vnd"), 20500.0)
    rows = judged(changed("TAA", [DAYS[150]], **flat, volume_shares=0)).rows
    assert ("not_final", "info", "accept") in rows.select("check", "severity", "verdict").rows()
