"""The court: what it repairs, masks, refuses, and what it says about it."""

from datetime import date

import polars as pl
import pytest

from vnfleet.data.court.quality import MARKET, QualityReport, examine, judge
from vnfleet.data.panel import build_panel
from vnfleet.data.sources.base import RAW_SCHEMA, RawHistory, raw_history
from vnfleet.market.calendar import trading_sessions

DAYS = trading_sessions(date(2023, 1, 3), date(2024, 12, 31))
SYMBOLS = ("AAA", "BBB", "CCC", "DDD")


def market(num_sessions: int = 300, *, with_index: bool = True, last: date = DAYS[-1]) -> RawHistory:
    """Four faultless symbols and an index over the last `num_sessions` up to `last`."""
    days = [day for day in DAYS if day <= last][-num_sessions:]
    bars = pl.DataFrame({"symbol": SYMBOLS}).join(
        pl.DataFrame({"session": days, "step": range(len(days))}), how="cross"
    )
    close = 20000.0 + 50 * (pl.col("step") % 7)
    bars = bars.with_columns(
        open_vnd=close - 50,
        high_vnd=close + 100,
        low_vnd=close - 100,
        close_vnd=close,
        adjusted_close_vnd=close,
        volume_shares=1000 + 10 * pl.col("step"),
    )
    index = pl.DataFrame({"session": days, "close_points": [1200.0] * len(days)}) if with_index else None
    return raw_history(bars, index, None)


def changed(history: RawHistory, symbol: str, session: date, **values: float | None) -> RawHistory:
    """The history with some values of one bar replaced."""
    here = (pl.col("symbol") == symbol) & (pl.col("session") == session)
    columns = [pl.when(here).then(pl.lit(value)).otherwise(name).alias(name) for name, value in values.items()]
    return RawHistory(history.bars.with_columns(columns).cast(pl.Schema(RAW_SCHEMA)), history.index, history.listings)


def without(history: RawHistory, *, symbol: str | None = None, days: list[date]) -> RawHistory:
    gone = pl.col("session").is_in(days) & (pl.col("symbol") == symbol if symbol else pl.lit(value=True))
    index = history.index.filter(~pl.col("session").is_in([] if symbol else days))
    return RawHistory(history.bars.filter(~gone), index, history.listings)


def verdict_rows(report: QualityReport, check: str) -> list[tuple[str, date | None, str]]:
    return report.rows.filter(pl.col("check") == check).select("symbol", "session", "verdict").rows()


def bar(history: RawHistory, symbol: str, session: date) -> dict[str, float]:
    rows = build_panel(history, DAYS[-1]).bars.filter((pl.col("symbol") == symbol) & (pl.col("session") == session))
    return rows.row(0, named=True)


def test_a_faultless_market_has_no_findings() -> None:
    report = judge(market(), DAYS[-1], DAYS)
    assert report.rows.filter(pl.col("check") != "market_hole").is_empty()
    assert report.accepted == SYMBOLS
    assert report.symbols.get_column("num_sessions").to_list() == [300] * 4


def test_high_and_low_are_stretched_around_open_and_close() -> None:
    broken = changed(market(), "AAA", DAYS[-5], high_vnd=19000.0, low_vnd=21000.0)
    repaired = bar(broken, "AAA", DAYS[-5])
    prices = [repaired[name] for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd")]
    assert repaired["high_vnd"] == max(prices) == 21000.0
    assert repaired["low_vnd"] == min(prices) == 19000.0
    assert verdict_rows(judge(broken, DAYS[-1], DAYS), "ohlc") == [("AAA", DAYS[-5], "repair")]


def test_an_absent_open_becomes_the_previous_close_within_the_days_range() -> None:
    day, before = DAYS[-5], DAYS[-6]
    history = changed(market(), "AAA", before, close_vnd=20150.0)
    inside = changed(history, "AAA", day, open_vnd=0.0, low_vnd=20000.0, high_vnd=20300.0, close_vnd=20250.0)
    assert bar(inside, "AAA", day)["open_vnd"] == 20150.0
    above = changed(history, "AAA", day, open_vnd=None, low_vnd=20200.0, high_vnd=20300.0, close_vnd=20250.0)
    assert bar(above, "AAA", day)["open_vnd"] == 20200.0
    assert verdict_rows(judge(above, DAYS[-1], DAYS), "open") == [("AAA", day, "repair")]


@pytest.mark.parametrize("close", [0.0, -5.0, None])
def test_a_bar_without_a_positive_close_is_masked(close: float | None) -> None:
    broken = changed(market(), "AAA", DAYS[-5], close_vnd=close)
    assert verdict_rows(judge(broken, DAYS[-1], DAYS), "price") == [("AAA", DAYS[-5], "mask")]
    panel = build_panel(broken, DAYS[-1])
    assert panel.bars.filter((pl.col("symbol") == "AAA") & (pl.col("session") == DAYS[-5])).is_empty()


def test_prices_too_far_apart_for_any_band_are_masked() -> None:
    broken = changed(market(), "AAA", DAYS[-5], open_vnd=20.0)
    assert verdict_rows(judge(broken, DAYS[-1], DAYS), "range") == [("AAA", DAYS[-5], "mask")]


def test_identical_duplicates_are_dropped_and_conflicting_ones_masked() -> None:
    history = market()
    rows = history.bars.filter(pl.col("session") == DAYS[-5])
    twice = pl.concat([history.bars, rows.head(1), rows.tail(1).with_columns(close_vnd=pl.lit(20010.0))])
    report = judge(raw_history(twice, history.index, None), DAYS[-1], DAYS)
    assert verdict_rows(report, "duplicate") == [("AAA", DAYS[-5], "repair")]
    assert verdict_rows(report, "conflict") == [("DDD", DAYS[-5], "mask")]


def test_weekend_bars_are_masked_and_make_no_session() -> None:
    history = market()
    saturday = date(2024, 12, 28)
    rows = history.bars.filter(pl.col("session") == DAYS[-5]).with_columns(session=pl.lit(saturday))
    index = pl.concat([history.index, pl.DataFrame({"session": [saturday], "close_points": [1200.0]})])
    examined = examine(raw_history(pl.concat([history.bars, rows]), index, None), DAYS[-1], DAYS)
    assert len(verdict_rows(examined.report, "weekend")) == 4
    assert saturday not in examined.sessions.to_list()


def test_a_frozen_feed_is_masked_from_the_fifth_identical_bar() -> None:
    history = market()
    frozen = history
    for day in DAYS[-9:-1]:
        frozen = changed(
            frozen,
            "BBB",
            day,
            open_vnd=20000.0,
            high_vnd=20100.0,
            low_vnd=19900.0,
            close_vnd=20000.0,
            volume_shares=500,
        )
    masked = verdict_rows(judge(frozen, DAYS[-1], DAYS), "stale")
    assert masked == [("BBB", day, "mask") for day in DAYS[-5:-1]]


def test_holes_of_one_symbol_are_counted_against_the_market() -> None:
    report = judge(without(market(), symbol="CCC", days=DAYS[-8:-5]), DAYS[-1], DAYS)
    holes = report.rows.filter(pl.col("check") == "missing_session")
    assert holes.select("symbol", "session").rows() == [("CCC", DAYS[-5])]
    assert holes.get_column("evidence")[0].startswith("3 market sessions")
    assert "CCC" in report.accepted


def test_a_whole_market_hole_is_a_warning_only() -> None:
    report = judge(without(market(), days=[DAYS[-8]]), DAYS[-1], DAYS[-100:])
    assert verdict_rows(report, "market_hole") == [(MARKET, DAYS[-8], "accept")]
    assert report.accepted == SYMBOLS


def test_a_session_without_an_index_bar_is_noted() -> None:
    history = market()
    index = history.index.filter(pl.col("session") != DAYS[-8])
    examined = examine(RawHistory(history.bars, index, history.listings), DAYS[-1], DAYS)
    assert verdict_rows(examined.report, "index_missing") == [(MARKET, DAYS[-8], "accept")]
    assert DAYS[-8] in examined.sessions.to_list()


@pytest.mark.parametrize(("missing", "accepted"), [(5, True), (6, False)])
def test_a_gap_over_five_sessions_in_the_last_250_retires(missing: int, accepted: bool) -> None:
    history = market()
    for start in (-240, -30):
        report = judge(without(history, symbol="CCC", days=DAYS[start : start + missing]), DAYS[-1], DAYS)
        assert ("CCC" in report.live) is accepted
        assert "CCC" in report.accepted  # to leave its past out of the panel would be to look ahead
    long_ago = judge(without(history, symbol="CCC", days=DAYS[-290:-270]), DAYS[-1], DAYS)
    assert "CCC" in long_ago.live


def test_fewer_than_a_hundred_sessions_quarantine() -> None:
    assert judge(market(100), DAYS[-1], DAYS).accepted == SYMBOLS
    report = judge(market(99), DAYS[-1], DAYS)
    assert report.accepted == ()
    assert report.symbols.get_column("reasons")[0] == "99 traded sessions, at least 100 needed"


def test_an_old_history_is_retired_after_a_week() -> None:
    assert judge(market(last=date(2024, 12, 24)), DAYS[-1], DAYS).live == SYMBOLS
    report = judge(market(last=date(2024, 12, 23)), DAYS[-1], DAYS)
    assert report.live == ()
    assert report.accepted == SYMBOLS
    assert "last row 2024-12-23" in report.symbols.get_column("reasons")[0]


def test_a_long_tet_does_not_make_histories_old() -> None:
    # closed 2024-02-08 to 2024-02-14; the next session is the 15th
    panel = build_panel(market(last=date(2024, 2, 2)), date(2024, 2, 14))
    assert panel.symbols == SYMBOLS
    assert panel.sessions[-1] == date(2024, 2, 2)


def test_a_source_without_adjusted_closes_is_told() -> None:
    history = market()
    plain = RawHistory(
        history.bars.with_columns(adjusted_close_vnd=pl.lit(None, pl.Float64)), history.index, history.listings
    )
    found = judge(plain, DAYS[-1], DAYS).rows.filter(pl.col("check") == "adjusted_close")
    assert found.get_column("symbol").to_list() == list(SYMBOLS)
    assert found.get_column("session").null_count() == 4
    assert "taken as adjusted" in found.get_column("evidence")[0]


def test_unexplained_jumps_are_reported() -> None:
    history = market()
    fallen = history.bars.with_columns(
        pl.when((pl.col("symbol") == "AAA") & (pl.col("session") >= DAYS[-20]))
        .then(pl.col(name) / 2)
        .otherwise(name)
        .alias(name)
        for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
    )
    report = judge(RawHistory(fallen, history.index, history.listings), DAYS[-1], DAYS)
    assert verdict_rows(report, "unexplained") == [("AAA", DAYS[-20], "repair")]


def test_nothing_after_as_of_is_looked_at() -> None:
    history = market()
    as_of = DAYS[-30]
    report = judge(changed(history, "AAA", DAYS[-5], close_vnd=0.0), as_of, DAYS)
    assert report.rows.equals(judge(history.until(as_of), as_of, DAYS).rows)
    assert report.symbols.get_column("last_session").to_list() == [as_of] * 4


def test_an_empty_market_gives_an_empty_report() -> None:
    history = market()
    report = judge(RawHistory(history.bars.clear(), history.index.clear(), history.listings), DAYS[-1], None)
    assert report.rows.is_empty()
    assert report.symbols.is_empty()
