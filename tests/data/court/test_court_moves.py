"""Moves: closes that are not final and steps that are wrong, by the reference, a second vendor, bands and the day."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.data.actions.events import EventLedger
from vnfleet.data.court.checks import check_bars
from vnfleet.data.court.opinions import OPINION_SCHEMA, Opinion, opinion_of
from vnfleet.data.court.quality import Examination, examine
from vnfleet.data.sources.base import RawHistory, raw_history
from vnfleet.market.calendar import trading_sessions

DAYS = trading_sessions(date(2022, 1, 4), date(2023, 6, 30))
SYMBOLS = tuple(f"S{letter}X" for letter in "ABCDEFGH")
AT = 200
BONUS = 150  # row of a 1-for-4 bonus in SAX: x1.25


def market(seed: int = 1, *, references: bool = True) -> RawHistory:
    """Eight HOSE names (closes on the 50 tick), true closes, true adjusted closes, true references."""
    rng = np.random.default_rng(seed)
    frames = []
    for place, symbol in enumerate(SYMBOLS):
        fair = 20_000 * np.cumprod(1 + rng.uniform(-0.015, 0.015, len(DAYS)))
        level = np.where(np.arange(len(DAYS)) < BONUS, 0.8, 1.0) if place == 0 else np.ones(len(DAYS))
        close = np.round(fair / level / 50) * 50
        reference = np.concatenate([[np.nan], close[:-1] * level[:-1] / level[1:]])
        reference = np.round(reference / 50) * 50
        open_ = np.where(np.isnan(reference), close, reference)
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * len(DAYS),
                    "session": DAYS,
                    "open_vnd": open_,
                    "high_vnd": np.maximum(open_, close) + 100,
                    "low_vnd": np.minimum(open_, close) - 100,
                    "close_vnd": close,
                    "adjusted_close_vnd": np.round(close * level, -1),
                    "stated_reference_vnd": reference if references else np.full(len(DAYS), np.nan),
                    "volume_shares": 100_000 + 100 * np.arange(len(DAYS)),
                }
            )
        )
    index = pl.DataFrame({"session": DAYS, "close_points": [1200.0] * len(DAYS)})
    return raw_history(pl.concat(frames), index, None)


def told(history: RawHistory, symbols: list[str] | str, row: int, factor: float, *, before: bool = False) -> RawHistory:
    """The history with closes of a session (or adjusted closes of all sessions before it) off by a factor."""
    names = [symbols] if isinstance(symbols, str) else symbols
    of_symbol = pl.col("symbol").is_in(names)
    if before:
        where, columns = of_symbol & (pl.col("session") < DAYS[row]), ("adjusted_close_vnd",)
        values = {name: (pl.col(name) * factor / 10).round() * 10 for name in columns}
    else:
        where = of_symbol & (pl.col("session") == DAYS[row])
        wrong = (pl.col("close_vnd") * factor / 50).round() * 50
        values = {
            "close_vnd": wrong,
            "adjusted_close_vnd": pl.col("adjusted_close_vnd") * wrong / pl.col("close_vnd"),
            "high_vnd": pl.max_horizontal("high_vnd", wrong),
            "low_vnd": pl.min_horizontal("low_vnd", wrong),
        }
    bars = history.bars.with_columns(
        pl.when(where).then(value).otherwise(name).alias(name) for name, value in values.items()
    )
    return RawHistory(bars, history.index, history.listings)


def said(examined: Examination, symbol: str, row: int) -> list[tuple[str, str]]:
    rows = examined.report.rows.filter((pl.col("symbol") == symbol) & (pl.col("session") == DAYS[row]))
    return rows.select("check", "verdict").rows()


def close_of(history: RawHistory | Examination, symbol: str, row: int) -> float:
    return float(
        history.bars.filter((pl.col("symbol") == symbol) & (pl.col("session") == DAYS[row]))["close_vnd"].item()
    )


def adjusted_return(examined: Examination, symbol: str, row: int) -> float:
    rows = examined.bars.filter((pl.col("symbol") == symbol) & pl.col("session").is_in(DAYS[row - 1 : row + 1]))
    values = (rows["close_vnd"] * rows["factor"]).to_list()
    return float(values[1] / values[0] - 1)


def court(history: RawHistory, *opinions: Opinion, as_of: date = DAYS[-1]) -> Examination:
    return examine(history, as_of, DAYS, opinions)


TRUE = market()
OTHER = opinion_of("other", TRUE)


def test_a_true_market_with_references_and_a_second_vendor_has_no_findings() -> None:
    assert court(TRUE, OTHER).report.rows.is_empty()
    assert court(TRUE).report.rows.is_empty()


def test_a_close_that_the_next_reference_denies_is_repaired_to_it() -> None:
    examined = court(told(TRUE, "SBX", AT, 1.02))
    assert said(examined, "SBX", AT) == [("not_final", "repair")]
    assert close_of(examined, "SBX", AT) == close_of(TRUE, "SBX", AT)
    assert examined.report.rows.height == 1


def test_a_repaired_close_is_enclosed_by_high_and_low() -> None:
    early = told(TRUE, "SBX", AT, 1.02)
    narrow = early.bars.with_columns(
        pl.when((pl.col("symbol") == "SBX") & (pl.col("session") == DAYS[AT]))
        .then("close_vnd")
        .otherwise(name)
        .alias(name)
        for name in ("high_vnd", "low_vnd", "open_vnd")
    )
    examined = court(RawHistory(narrow, early.index, early.listings))
    row = examined.bars.filter((pl.col("symbol") == "SBX") & (pl.col("session") == DAYS[AT])).row(0, named=True)
    assert row["low_vnd"] <= row["close_vnd"] <= row["high_vnd"]


def test_two_early_days_in_a_row_are_both_repaired_with_a_second_vendor() -> None:
    early = told(told(TRUE, "SBX", AT, 1.02), "SBX", AT + 1, 0.985)
    examined = court(early, OTHER)
    assert said(examined, "SBX", AT) == said(examined, "SBX", AT + 1) == [("not_final", "repair")]
    for row in (AT, AT + 1):
        assert close_of(examined, "SBX", row) == close_of(TRUE, "SBX", row)


def test_without_references_a_lone_contradiction_about_a_close_is_masked() -> None:
    plain = market(references=False)
    examined = court(told(plain, "SBX", AT, 1.02), OTHER)
    assert said(examined, "SBX", AT) == [("not_final", "mask")]
    assert examined.bars.filter((pl.col("symbol") == "SBX") & (pl.col("session") == DAYS[AT])).is_empty()


def test_without_references_a_whole_early_day_is_repaired_to_the_second_vendor() -> None:
    plain = market(references=False)
    names = ["SBX", "SCX", "SDX", "SEX"]
    examined = court(told(plain, names, AT, 1.02), OTHER)
    for name in names:
        assert said(examined, name, AT) == [("not_final", "repair")]
        assert close_of(examined, name, AT) == pytest.approx(close_of(TRUE, name, AT), abs=10)


def test_a_second_vendor_whose_close_the_reference_denies_is_not_believed() -> None:
    examined = court(TRUE, opinion_of("other", told(TRUE, "SBX", AT, 1.02)))
    assert said(examined, "SBX", AT) == [("opinion", "accept")]
    assert close_of(examined, "SBX", AT) == close_of(TRUE, "SBX", AT)


def test_a_day_whose_references_are_its_opens_is_no_witness() -> None:
    opens = TRUE.bars.with_columns(open_vnd=pl.col("open_vnd") + 150.0)
    mute = opens.with_columns(
        stated_reference_vnd=pl.when(pl.col("session") == DAYS[AT]).then("open_vnd").otherwise("stated_reference_vnd")
    )
    rows = court(RawHistory(mute, TRUE.index, TRUE.listings)).report.rows
    assert rows.filter(pl.col("check") == "not_final").is_empty()


def test_a_missing_session_is_not_blamed_on_the_close_before_it() -> None:
    # the reference of the row after the hole is the close of the missing session
    holed = TRUE.bars.filter((pl.col("symbol") != "SBX") | (pl.col("session") != DAYS[AT]))
    examined = court(RawHistory(holed, TRUE.index, TRUE.listings))
    assert examined.report.rows.get_column("check").to_list() == ["missing_session"]


@pytest.mark.parametrize(("factor", "check"), [(1 / 1.1, "wrong_step"), (1.1, "wrong_step")])
def test_a_step_that_never_was_is_removed_on_the_second_vendors_word(factor: float, check: str) -> None:
    examined = court(told(TRUE, "SBX", AT, factor, before=True), OTHER)
    assert said(examined, "SBX", AT) == [(check, "repair")]
    assert adjusted_return(examined, "SBX", AT) == pytest.approx(adjusted_return(court(TRUE), "SBX", AT), abs=1e-9)


def test_a_missed_bonus_is_chained_from_the_second_vendors_return() -> None:
    # 1-for-4: true step 1.25; the vendor's adjusted closes before it are those of the raw prices
    missed = told(TRUE, "SAX", BONUS, 1.25, before=True)
    examined = court(missed, OTHER)
    assert said(examined, "SAX", BONUS) == [("missing_step", "repair")]
    assert adjusted_return(examined, "SAX", BONUS) == pytest.approx(
        adjusted_return(court(TRUE), "SAX", BONUS), abs=2e-3
    )
    event = examined.events.filter(pl.col("symbol") == "SAX")
    assert event.select("session", "kind").rows() == [(DAYS[BONUS], "repaired")]
    assert event["factor_step"].item() == pytest.approx(1.25, rel=2e-3)


def test_a_missed_bonus_is_chained_from_the_reference_when_nobody_else_is_heard() -> None:
    examined = court(told(TRUE, "SAX", BONUS, 1.25, before=True))
    assert said(examined, "SAX", BONUS) == [("missing_step", "repair")]
    assert not examined.bars["break_before"].any()


def test_a_bonus_adjusted_a_session_late_is_put_where_it_belongs() -> None:
    late = TRUE.bars.with_columns(
        adjusted_close_vnd=pl.when((pl.col("symbol") == "SAX") & (pl.col("session") == DAYS[BONUS]))
        .then((pl.col("adjusted_close_vnd") * 0.8 / 10).round() * 10)
        .otherwise("adjusted_close_vnd")
    )
    examined = court(RawHistory(late, TRUE.index, TRUE.listings), OTHER)
    assert said(examined, "SAX", BONUS) == [("missing_step", "repair")]
    assert said(examined, "SAX", BONUS + 1) == [("wrong_step", "repair")]
    for row in (BONUS, BONUS + 1):
        expected = adjusted_return(court(TRUE), "SAX", row)
        assert adjusted_return(examined, "SAX", row) == pytest.approx(expected, abs=2e-3)


def test_a_second_vendor_without_the_bonus_is_not_believed_nor_about_the_next_one() -> None:
    blind = opinion_of("blind", told(TRUE, "SAX", BONUS, 1.25, before=True))
    examined = court(TRUE, blind)
    assert said(examined, "SAX", BONUS) == [("opinion", "accept")]
    assert examined.events["kind"].to_list() == ["adjustment"]
    # a later step without any reference: CafeF put the previous close there for years
    later = BONUS + 60
    scale = pl.when((pl.col("symbol") == "SAX") & (pl.col("session") >= DAYS[later])).then(1 / 1.05).otherwise(1.0)
    raw = {name: (pl.col(name) * scale / 50).round() * 50 for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd")}
    bars = TRUE.bars.with_columns(**raw)
    silent = (
        pl.when((pl.col("symbol") == "SAX") & (pl.col("session") > DAYS[0]))
        .then(pl.col("close_vnd").shift(1).over("symbol"))
        .otherwise("stated_reference_vnd")
    )
    bonus = (pl.col("symbol") == "SAX") & (pl.col("session") == DAYS[BONUS])
    bars = bars.with_columns(
        stated_reference_vnd=pl.when(bonus).then("stated_reference_vnd").otherwise(silent),
        adjusted_close_vnd=pl.when((pl.col("symbol") == "SAX") & (pl.col("session") < DAYS[later]))
        .then((pl.col("adjusted_close_vnd") / 1.05 / 10).round() * 10)
        .when(pl.col("symbol") == "SAX")
        .then("close_vnd")
        .otherwise("adjusted_close_vnd"),
    )
    blind_bars = bars.select("symbol", "session", "volume_shares", adjusted_close_vnd="close_vnd").select(
        *OPINION_SCHEMA
    )
    examined = court(RawHistory(bars, TRUE.index, TRUE.listings), Opinion("blind", blind_bars))
    assert said(examined, "SAX", later) == [("opinion", "accept")]
    assert "missed steps of this symbol before" in examined.report.rows["evidence"].to_list()[-1]


def test_a_parting_on_the_newest_session_waits_for_the_next() -> None:
    early = told(TRUE, "SBX", AT, 1.02)
    newest = court(early, OTHER, as_of=DAYS[AT])
    assert said(newest, "SBX", AT) == [("opinion", "accept")]
    assert close_of(newest, "SBX", AT) == close_of(early, "SBX", AT)
    assert close_of(court(early, OTHER, as_of=DAYS[AT + 1]), "SBX", AT) == close_of(TRUE, "SBX", AT)


FAULTY = told(
    told(told(told(TRUE, "SBX", AT, 1.02), "SCX", AT + 20, 1.1, before=True), "SAX", BONUS, 1.25, before=True),
    "SDX",
    260,
    0.98,
)


@settings(max_examples=15, deadline=None)
@given(st.integers(140, len(DAYS) - 1), st.booleans())
def test_a_later_session_changes_nothing_older_than_two_sessions(row: int, two: bool) -> None:
    opinions = (OTHER,) if two else ()
    whole, cut = court(FAULTY, *opinions), court(FAULTY, *opinions, as_of=DAYS[row])
    old = pl.col("session") < DAYS[row - 1]
    assert cut.bars.filter(old).equals(whole.bars.filter(old))


def test_the_event_ledger_keeps_the_vendors_steps_and_changes_no_ruling(
    tmp_path: Path,
) -> None:
    bogus = told(TRUE, "SBX", AT, 1 / 1.1, before=True)
    ledger = EventLedger(tmp_path, "files")
    ledger.record(check_bars(bogus.bars)[0], datetime(2023, 7, 3, tzinfo=UTC))
    learned = ledger.read()
    assert learned is not None
    kept = learned.rows.filter(pl.col("step") != 1.0).select("symbol", "session").rows()
    assert kept == [("SAX", DAYS[BONUS]), ("SBX", DAYS[AT])]
    remembered = RawHistory(learned.placed(bogus.bars), bogus.index, bogus.listings)
    assert court(remembered, OTHER).bars.equals(court(bogus, OTHER).bars)


def test_a_volume_told_in_another_unit_is_repaired_from_the_second_vendor() -> None:
    where = (pl.col("symbol") == "SBX") & (pl.col("session") == DAYS[AT])
    bars = TRUE.bars.with_columns(
        volume_shares=pl.when(where).then(pl.col("volume_shares") * 10).otherwise("volume_shares")
    )
    examined = court(RawHistory(bars, TRUE.index, TRUE.listings), OTHER)
    assert said(examined, "SBX", AT) == [("volume_unit", "repair")]
    assert examined.bars.filter(where)["volume_shares"].item() == TRUE.bars.filter(where)["volume_shares"].item()


def test_the_first_opinion_that_covers_a_row_is_heard_about_it() -> None:
    short = Opinion("short", OTHER.bars.filter(pl.col("session") < DAYS[100]))
    examined = court(told(TRUE, "SBX", AT, 1 / 1.1, before=True), short, OTHER)
    assert said(examined, "SBX", AT) == [("wrong_step", "repair")]
    assert "other says" in examined.report.rows["evidence"][0]


def test_an_opinion_keeps_one_positive_close_a_session_and_refuses_other_columns() -> None:
    rows = TRUE.bars.filter(pl.col("symbol") == "SBX").head(4)
    twice = pl.concat([rows, rows[1:2].with_columns(adjusted_close_vnd=pl.lit(1.0)), rows[2:3]])
    zero = twice.with_columns(
        adjusted_close_vnd=pl.when(pl.col("session") == DAYS[0]).then(0.0).otherwise("adjusted_close_vnd")
    )
    opinion = opinion_of("x", raw_history(zero, None, None))
    assert opinion.bars["session"].to_list() == [DAYS[2], DAYS[3]]
    raw_only = raw_history(rows.with_columns(adjusted_close_vnd=pl.lit(None)), None, None)
    assert opinion_of("raw", raw_only).bars["adjusted_close_vnd"].to_list() == rows["close_vnd"].to_list()
    with pytest.raises(BadDataError, match="opinion"):
        Opinion("x", rows)


def test_a_session_that_nobody_has_does_not_make_the_closes_before_it_wrong() -> None:
    # 2025-02-03 at CafeF: no row and no index bar, and every reference of the next day is the close of the missing one
    holed = TRUE.bars.filter(pl.col("session") != DAYS[AT])
    examined = court(RawHistory(holed, TRUE.index.filter(pl.col("session") != DAYS[AT]), TRUE.listings))
    assert examined.report.rows.select("symbol", "session", "check").rows() == [("*", DAYS[AT], "market_hole")]


def dividends(seed: int = 3) -> RawHistory:
    """Fifteen cash dividends of 3 % in each of six names; the reference is the previous close on every ex-date."""
    rng = np.random.default_rng(seed)
    frames = []
    for place in range(6):
        forward = np.ones(len(DAYS))
        for row in range(60 + place, len(DAYS), 20):
            forward[row:] *= 1.03
        fair = 30_000 * np.cumprod(1 + rng.uniform(-0.015, 0.015, len(DAYS)))
        close = np.round(fair / forward / 50) * 50
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [f"D{place}X"] * len(DAYS),
                    "session": DAYS,
                    "open_vnd": close,
                    "high_vnd": close + 100,
                    "low_vnd": close - 100,
                    "close_vnd": close,
                    "adjusted_close_vnd": np.round(close * forward / forward[-1], -1),
                    "stated_reference_vnd": np.concatenate([[np.nan], close[:-1]]),
                    "volume_shares": 100_000 + 100 * np.arange(len(DAYS)),
                }
            )
        )
    return raw_history(pl.concat(frames), TRUE.index, None)


def test_a_vendor_that_does_not_adjust_for_cash_is_soon_no_longer_heard_about_missing_steps() -> None:
    history = dividends()
    # a vendor that misses every step is not heard at all (see test_hearing): this one misses those of two symbols
    told = pl.when(pl.col("symbol").is_in(["D0X", "D1X"])).then("close_vnd").otherwise("adjusted_close_vnd")
    unadjusted = history.bars.select("symbol", "session", told.alias("adjusted_close_vnd"), "volume_shares")
    rows = court(history, Opinion("no_cash", unadjusted)).report.rows
    followed = rows.filter(pl.col("check") == "wrong_step")
    refused = rows.filter((pl.col("check") == "opinion") & pl.col("evidence").str.contains("lacks"))
    assert refused.height > followed.height
    assert followed["session"].max() < refused["session"].min()  # type: ignore[operator]


def test_where_the_band_refuses_both_vendors_neither_is_followed() -> None:
    # the raw price falls by a fifth, our vendor has no step, the other adjusts twice over
    where = (pl.col("symbol") == "SBX") & (pl.col("session") >= DAYS[AT])
    names = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
    bars = TRUE.bars.with_columns(
        *(pl.when(where).then((pl.col(name) * 0.8 / 50).round() * 50).otherwise(name).alias(name) for name in names),
    ).with_columns(
        stated_reference_vnd=pl.when(where)
        .then(pl.col("close_vnd").shift(1).over("symbol"))
        .otherwise("stated_reference_vnd")
    )
    double = bars.select(
        "symbol",
        "session",
        pl.when(where).then(pl.col("close_vnd") * 1.5625).otherwise("close_vnd").alias("adjusted_close_vnd"),
        "volume_shares",
    )
    examined = court(RawHistory(bars, TRUE.index, TRUE.listings), Opinion("twice", double))
    assert ("disputed_step", "accept") in said(examined, "SBX", AT)
    assert examined.bars.filter(where & pl.col("break_before"))["session"].to_list() == [DAYS[AT]]
