from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.clock import ICT, Clock, FixedClock
from vnfleet.core.errors import UsageError
from vnfleet.data.sources.base import INDEX_SYMBOL, RawHistory, raw_history
from vnfleet.data.sources.cafef.fields import cafef_bars
from vnfleet.data.sources.cafef.pages import CafefPages
from vnfleet.data.sources.cafef.windows import windows
from vnfleet.data.sources.standins.cafef_pages import EMPTY, CafefPagesVendor, Vintage
from vnfleet.data.sources.standins.server import Answer, FaultKind, Request, StandIn
from vnfleet.data.sources.web import Politeness, SourceAnswerError, SourceRefusedError, SourceUnavailableError
from vnfleet.market.calendar import trading_sessions

FIRST, LAST = date(2021, 7, 1), date(2022, 6, 30)
NEXT_DAY = FixedClock(datetime(2022, 7, 1, 1, tzinfo=UTC))
REAL = Path(__file__).parents[3].parent / "shared" / "data" / "cafef_price_history_2012_2024.parquet"
HASTE = Politeness(requests_per_second=math.inf, first_wait_seconds=0.0, timeout_seconds=5.0)


def market(symbols: Sequence[str], sessions: Sequence[date]) -> RawHistory:
    """A market on ticks of 50 VND, with one stock dividend of 10 % in the middle."""
    generator = np.random.default_rng(7)
    frames = []
    for symbol in symbols:
        close = 50_000 + 50.0 * generator.integers(-8, 9, len(sessions)).cumsum()
        half = len(sessions) // 2
        factor = np.where(np.arange(len(sessions)) < half, 1 / 1.1, 1.0)
        frames.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * len(sessions),
                    "session": list(sessions),
                    "open_vnd": close - 50,
                    "high_vnd": close + 100,
                    "low_vnd": close - 150,
                    "close_vnd": close,
                    "adjusted_close_vnd": (close * factor / 10).round() * 10,
                    "stated_reference_vnd": [None, *close[:-1]],
                    "volume_shares": generator.integers(1, 10_000, len(sessions)) * 100,
                    "exchange": [None] * len(sessions),
                },
                schema_overrides={"exchange": pl.String},
            )
        )
    points = (1200 + generator.normal(0, 5, len(sessions)).cumsum()).round(2)
    return raw_history(pl.concat(frames), pl.DataFrame({"session": list(sessions), "close_points": points}), None)


SESSIONS = trading_sessions(FIRST, LAST)
TRUTH = market(["FPT", "HPG"], SESSIONS)
ONE = market(["FPT"], SESSIONS)


def pages(vendor: StandIn, **settings: Any) -> CafefPages:
    usual: dict[str, Any] = {
        "politeness": HASTE,
        "earliest": date(2021, 1, 1),
        "clock": NEXT_DAY,
        "sleep": lambda _: None,
    }
    return CafefPages(base_url=f"{vendor.url}/du-lieu", **(usual | settings))


def standing_in(
    history: RawHistory, faults: dict[int, FaultKind] | None = None, clock: Clock = NEXT_DAY, **settings: Any
) -> StandIn:
    return StandIn(CafefPagesVendor(history, clock=clock, **settings), faults=faults, empty=EMPTY)


def same(found: RawHistory, truth: RawHistory) -> bool:
    return found.bars.equals(truth.bars) and found.index.equals(truth.index)


def without(history: RawHistory, gone: Callable[[], pl.Expr]) -> RawHistory:
    return replace(history, bars=history.bars.filter(~gone()))


# ---------------------------------------------------------------- histories are whole


@pytest.mark.parametrize("vintage", ["2025", "2026"])
def test_a_whole_history_is_told_as_it_was(vintage: Vintage) -> None:
    with standing_in(TRUTH, vintage=vintage) as vendor:
        history, gaps = pages(vendor).fetch_proven(["FPT", "HPG"], LAST)
        requests = vendor.requests
    assert same(history, TRUTH)
    assert gaps == ()
    assert {request.params["PageSize"] for request in requests} == {"20"}
    for request in requests:
        start, end = (_us_date(request.params[name]) for name in ("StartDate", "EndDate"))
        assert start <= end <= start + timedelta(days=92)


def _us_date(text: str) -> date:
    month, day, year = text.split("/")
    return date(int(year), int(month), int(day))


@pytest.mark.parametrize("cut_days", [89, 60, 33])
def test_a_range_that_is_cut_in_silence_is_asked_for_again(cut_days: int) -> None:
    with standing_in(ONE, cut_days=cut_days) as vendor:
        history = pages(vendor).fetch(["FPT"], LAST)
    assert same(history, ONE)


def test_several_requests_at_once_tell_the_same() -> None:
    polite = replace(HASTE, max_concurrent=4)
    with standing_in(TRUTH) as vendor:
        history = pages(vendor, politeness=polite).fetch(["HPG", "FPT"], LAST)
    assert same(history, TRUTH)


def test_a_suspension_of_half_a_year_does_not_end_a_history() -> None:
    halted = without(
        TRUTH, lambda: (pl.col("symbol") == "FPT") & pl.col("session").is_between(FIRST, date(2021, 12, 31))
    )
    early = market(["FPT", "HPG"], trading_sessions(date(2021, 1, 4), date(2021, 6, 30)))
    history = raw_history(pl.concat([early.bars, halted.bars]), pl.concat([early.index, halted.index]), None)
    with standing_in(history) as vendor:
        whole, gaps = pages(vendor).fetch_proven(["FPT", "HPG"], LAST)
        shorter = pages(vendor, stop_after_empty_windows=2).fetch(["FPT"], LAST)
    assert whole.bars.drop("stated_reference_vnd").equals(history.bars.drop("stated_reference_vnd"))
    (gap,) = gaps
    assert (gap.symbol, gap.missing) == ("FPT", tuple(trading_sessions(FIRST, date(2021, 12, 31))))
    assert shorter.bars.get_column("session").min() == date(2022, 1, 4)


def test_missing_sessions_are_named() -> None:
    lost = [date(2021, 9, 8), date(2022, 3, 9)]
    with standing_in(without(TRUTH, lambda: (pl.col("symbol") == "HPG") & pl.col("session").is_in(lost))) as vendor:
        _, gaps = pages(vendor).fetch_proven(["FPT", "HPG"], LAST)
    (gap,) = gaps
    assert str(gap) == ("HPG 2021-07-01 to 2022-06-30: 2 of 250 sessions without a row (2021-09-08, 2022-03-09)")


def test_a_symbol_without_any_row_is_named() -> None:
    with standing_in(ONE) as vendor:
        history, gaps = pages(vendor).fetch_proven(["FPT", "XXX"], LAST)
    assert history.bars.get_column("symbol").unique().to_list() == ["FPT"]
    assert [(gap.symbol, len(gap.missing) == gap.expected_sessions) for gap in gaps] == [("XXX", True)]


def test_only_the_windows_needed_are_asked_for() -> None:
    begin = SESSIONS[-80]
    with standing_in(TRUTH) as vendor:
        source = pages(vendor)
        since = {"FPT": begin, "HPG": begin}
        plan = source.plan(["FPT", "HPG"], LAST, since=since)
        history = source.fetch(["FPT", "HPG"], LAST, since=since)
        asked = Counter(request.params["Symbol"] for request in vendor.requests)
    assert same(
        history,
        RawHistory(
            bars=TRUTH.bars.filter(pl.col("session") >= begin).with_columns(
                stated_reference_vnd=pl.col("stated_reference_vnd")
            ),
            index=TRUTH.index.filter(pl.col("session") >= begin),
            listings=TRUTH.listings,
        ),
    )
    # 2022-03-08 .. 2022-06-30: 18 sessions of the first quarter fill one page, 62 of the second four
    assert asked == {INDEX_SYMBOL: 5, "FPT": 5, "HPG": 5}
    assert plan.requests == 15


def test_a_new_symbol_is_read_from_its_beginning_while_others_go_on() -> None:
    with standing_in(TRUTH) as vendor:
        history = pages(vendor).fetch(["FPT", "HPG"], LAST, since={"FPT": SESSIONS[-5]})
    counts = dict(history.bars.group_by("symbol").len().iter_rows())
    assert counts == {"FPT": 5, "HPG": len(SESSIONS)}
    assert history.index.height == len(SESSIONS)


def test_the_past_is_cut_at_as_of() -> None:
    with standing_in(TRUTH) as vendor:
        history = pages(vendor).fetch(["FPT", "HPG"], date(2022, 2, 15))
    assert same(history, TRUTH.until(date(2022, 2, 15)))


def test_progress_ends_where_it_said_it_would() -> None:
    told: list[tuple[int, int]] = []
    with standing_in(TRUTH) as vendor:
        pages(vendor).fetch(["FPT", "HPG"], LAST, progress=lambda done, total, _: told.append((done, total)))
        assert told[-1] == (len(vendor.requests), len(vendor.requests))
    assert all(done <= total for done, total in told)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_plan_asks_nothing_and_says_what_politeness_costs() -> None:
    source = CafefPages(politeness=Politeness(requests_per_second=0.5))
    plan = source.plan(
        [f"S{number:02d}" for number in range(10)], LAST, since={f"S{n:02d}": SESSIONS[-80] for n in range(10)}
    )
    assert (plan.requests, plan.host, plan.seconds) == (55, "cafef.vn", 110.0)
    assert "up to 55 pages" in plan.sentence


def test_all_symbols_cannot_be_asked_for() -> None:
    with pytest.raises(UsageError, match="cannot list all symbols"):
        CafefPages().fetch(None, LAST)


@settings(deadline=None)
@given(st.dates(date(2000, 1, 1), date(2030, 1, 1)), st.integers(0, 3000))
def test_windows_are_quarters_that_cover_every_day_once(first: date, num_days: int) -> None:
    last = first + timedelta(days=num_days)
    days = [
        window.start + timedelta(days=offset)
        for window in reversed(windows(first, last))
        for offset in range((window.end - window.start).days + 1)
    ]
    assert days == [first + timedelta(days=offset) for offset in range(num_days + 1)]
    assert all((window.end - window.start).days <= 91 for window in windows(first, last))


# ---------------------------------------------------------------- faults


def daily(vendor: StandIn, **settings: Any) -> RawHistory:
    """80 sessions of one symbol: requests 0-4 ask for the index, 5-9 for FPT."""
    return pages(vendor, **settings).fetch(["FPT"], LAST, since={"FPT": SESSIONS[-80]})


EXPECTED = RawHistory(
    bars=ONE.bars.filter(pl.col("session") >= SESSIONS[-80]),
    index=ONE.index.filter(pl.col("session") >= SESSIONS[-80]),
    listings=ONE.listings,
)


@pytest.mark.parametrize("number", [0, 6, 9])
@pytest.mark.parametrize(
    "kind",
    [
        FaultKind.TOO_MANY,
        FaultKind.UNAVAILABLE,
        FaultKind.CUT_MID_BODY,
        FaultKind.TRUNCATED,
        FaultKind.HTML,
        FaultKind.WRONG_ENCODING,
        FaultKind.EMPTY,
        FaultKind.REPEATED,
    ],
)
def test_a_fault_in_the_middle_is_survived_with_nothing_lost(kind: FaultKind, number: int) -> None:
    with standing_in(ONE, {number: kind}) as vendor:
        assert same(daily(vendor), EXPECTED)


def test_silence_in_the_middle_of_a_page_is_survived() -> None:
    with standing_in(ONE, {6: FaultKind.STALL_MID_BODY}) as vendor:
        assert same(daily(vendor, politeness=replace(HASTE, timeout_seconds=0.3)), EXPECTED)


@pytest.mark.parametrize("kind", [FaultKind.FORBIDDEN, FaultKind.CAPTCHA])
def test_a_refusal_stops_everything_with_advice(kind: FaultKind) -> None:
    many = [f"S{number:02d}" for number in range(30)]
    with standing_in(market(many, SESSIONS[-30:]), {6: kind}) as vendor:
        with pytest.raises(SourceRefusedError, match="ordinary connection"):
            pages(vendor, politeness=replace(HASTE, max_concurrent=4)).fetch(
                many, LAST, since=dict.fromkeys(many, SESSIONS[-30])
            )
        assert len(vendor.requests) <= 6 + 4


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        (FaultKind.UNAVAILABLE, SourceUnavailableError, "out of order"),
        (FaultKind.HTML, SourceAnswerError, "web page"),
        (FaultKind.EMPTY, SourceAnswerError, "no rows of the market index"),
    ],
)
def test_a_lasting_fault_is_named(kind: FaultKind, error: type[Exception], says: str) -> None:
    with standing_in(ONE, dict.fromkeys(range(100), kind)) as vendor, pytest.raises(error, match=says):
        daily(vendor)


def altered(change: Callable[[Request], Request]) -> StandIn:
    """A vendor that understands something else than what was asked."""
    vendor = CafefPagesVendor(ONE, clock=NEXT_DAY)
    return StandIn(lambda request: vendor(change(request)))


def test_ignored_dates_are_noticed() -> None:
    with (
        altered(lambda asked: replace(asked, params={**asked.params, "StartDate": "2022-03-08"})) as vendor,
        pytest.raises(SourceAnswerError, match="ignored the dates") as raised,
    ):
        pages(vendor).fetch(["FPT"], date(2022, 2, 15))
    assert "FPT" in str(raised.value) or INDEX_SYMBOL in str(raised.value)


def test_a_page_that_comes_for_ever_is_noticed() -> None:
    with (
        altered(lambda asked: replace(asked, params={**asked.params, "PageIndex": "1"})) as vendor,
        pytest.raises(SourceAnswerError, match="sent a page twice"),
    ):
        daily(vendor)


def test_another_symbol_is_noticed() -> None:
    with (
        altered(lambda asked: replace(asked, params={**asked.params, "Symbol": "FPT"})) as vendor,
        pytest.raises(SourceAnswerError, match=r"another symbol(?s:.*)expected: VNINDEX(?s:.*)found: FPT"),
    ):
        daily(vendor)


def test_the_old_host_that_drops_the_question_is_named() -> None:
    with (
        standing_in(ONE) as vendor,
        pytest.raises(SourceAnswerError, match="drops the question"),
    ):
        CafefPages(base_url=vendor.url, politeness=HASTE, clock=NEXT_DAY).fetch(["FPT"], LAST)


def test_a_refusal_with_status_200_is_named() -> None:
    with (
        altered(lambda asked: replace(asked, params={**asked.params, "Symbol": ""})) as vendor,
        pytest.raises(SourceAnswerError, match=r"status 200(?s:.*)symbol is null or empty"),
    ):
        daily(vendor)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("Ngay", "2022-06-30", "date that cannot be read"),
        ("Ngay", "31/06/2022", "date that cannot be read"),
        ("GiaDongCua", "66,2", "GiaDongCua is not a number"),
        ("KhoiLuongKhopLenh", {"value": 1}, "KhoiLuongKhopLenh is not a number"),
        ("GiaDieuChinh", None, "lack fields"),
    ],
)
def test_a_reply_of_another_shape_is_named(field: str, value: object, says: str) -> None:
    vendor = CafefPagesVendor(ONE, clock=NEXT_DAY)

    def reshaped(request: Request) -> Answer:
        answer = vendor(request)
        reply = json.loads(answer.body)
        for row in reply["Data"]["Data"]:
            row[field] = value
            if value is None:
                del row[field]
        return replace(answer, body=json.dumps(reply).encode())

    with StandIn(reshaped) as stand_in, pytest.raises(SourceAnswerError, match=says):
        daily(stand_in, politeness=replace(HASTE, attempts=2))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("[]", "another shape"),
        ("null", "another shape"),
        ('"ok"', "another shape"),
        ('{"Data": {"Data": 3}, "Success": true}', "another shape"),
        ('{"Data": {"Data": []}, "Success": false}', "refuses the question"),
        ('{"Data": [], "Success": true}', "refuses the question"),
        ("{}", "refuses the question"),
    ],
)
def test_a_reply_without_rows_is_named(reply: str, says: str) -> None:
    with StandIn(lambda _: Answer(body=reply.encode())) as vendor, pytest.raises(SourceAnswerError, match=says):
        daily(vendor)


# ---------------------------------------------------------------- today


NOON = datetime(2022, 6, 30, 12, 0, tzinfo=ICT)


@pytest.mark.parametrize(
    "now",
    [
        NOON.astimezone(UTC),
        NOON.astimezone(ZoneInfo("America/Los_Angeles")),  # still 29 June there
        NOON.astimezone(ZoneInfo("Pacific/Kiritimati")),
        datetime(2022, 6, 30, 15, 14, 59, tzinfo=ICT).astimezone(UTC),
        datetime(2022, 6, 30, 0, 30, tzinfo=ICT).astimezone(UTC),  # 29 June, 17:30 UTC
    ],
)
def test_the_unfinished_bar_of_today_is_dropped_whatever_zone_the_machine_is_in(now: datetime) -> None:
    vendor_clock = FixedClock(NOON)
    with standing_in(ONE, clock=vendor_clock) as vendor:
        history, gaps = pages(vendor, clock=FixedClock(now)).fetch_proven(["FPT"], LAST, since={"FPT": SESSIONS[-10]})
    assert history.bars.get_column("session").to_list() == SESSIONS[-10:-1]
    assert history.index.get_column("session").to_list() == SESSIONS[-10:-1]
    assert gaps == ()


def test_the_bar_of_today_is_kept_once_it_is_final() -> None:
    clock = FixedClock(datetime(2022, 6, 30, 8, 15, tzinfo=UTC))  # 15:15 in Vietnam
    with standing_in(ONE, clock=clock) as vendor:
        assert same(daily(vendor, clock=clock), EXPECTED)


def test_a_broken_bar_of_yesterday_is_left_to_the_court() -> None:
    with standing_in(ONE, clock=FixedClock(NOON)) as vendor:
        history = daily(vendor)  # the vendor never came back to it
    broken = history.bars.row(-1, named=True)
    assert (broken["session"], broken["close_vnd"]) == (LAST, 0.0)
    assert broken["stated_reference_vnd"] is None
    assert LAST not in history.index.get_column("session").to_list()  # "--" is no price


# ---------------------------------------------------------------- going on after an interruption


_BOOTSTRAP = """
import math, sys
from datetime import UTC, date, datetime
from pathlib import Path
from vnfleet.core.clock import FixedClock
from vnfleet.data.sources.cafef.pages import CafefPages
from vnfleet.data.sources.web import Politeness

CafefPages(
    base_url=sys.argv[1],
    politeness=Politeness(requests_per_second=math.inf),
    cache=Path(sys.argv[2]),
    earliest=date(2021, 1, 1),
    clock=FixedClock(datetime(2022, 7, 1, 1, tzinfo=UTC)),
).fetch(["FPT", "HPG"], date(2022, 6, 30))
"""


def asked_for(request: Request) -> tuple[str, ...]:
    return tuple(request.params[name] for name in ("Symbol", "StartDate", "EndDate", "PageIndex"))


def test_a_killed_bootstrap_asks_for_no_closed_window_again(tmp_path: Path) -> None:
    with standing_in(TRUTH) as vendor:
        command = [sys.executable, "-c", _BOOTSTRAP, f"{vendor.url}/du-lieu", str(tmp_path)]
        with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as process:
            deadline = time.monotonic() + 60
            while len(vendor.requests) < 45 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            process.kill()
        before = Counter(asked_for(request) for request in vendor.requests)
        assert process.returncode
        assert sum(before.values()) >= 45
        history = pages(vendor, cache=tmp_path).fetch(["FPT", "HPG"], LAST)
        after = Counter(asked_for(request) for request in vendor.requests[sum(before.values()) :])
    assert same(history, TRUTH)
    again = {question for question in after if question in before}
    newest_closed = ("01/01/2022", "03/31/2022", "1")  # proves that the adjustment base is still the same
    closed = {q for q in again if q[2] != "06/30/2022" and q[1:] != newest_closed}
    in_flight = 1
    assert len(closed) <= in_flight
    assert sum(before.values()) + sum(after.values()) > 60  # the first run was really cut short


def rebased(history: RawHistory, factor: float) -> RawHistory:
    adjusted = (pl.col("adjusted_close_vnd") * factor / 10).round() * 10
    return replace(history, bars=history.bars.with_columns(adjusted_close_vnd=adjusted))


def test_kept_pages_of_another_adjustment_base_are_never_mixed_in(tmp_path: Path) -> None:
    vendor = CafefPagesVendor(TRUTH, clock=NEXT_DAY)
    with StandIn(vendor) as stand_in:
        pages(stand_in, cache=tmp_path).fetch(["FPT", "HPG"], LAST)
        vendor.history = rebased(TRUTH, 0.95)
        assert same(pages(stand_in, cache=tmp_path).fetch(["FPT", "HPG"], LAST), vendor.history)


@pytest.mark.parametrize("number", [2, 6, 12, 18, 21, 22])
def test_a_history_that_is_rebased_while_it_is_read_is_of_one_base(number: int) -> None:
    vendor = CafefPagesVendor(ONE, clock=NEXT_DAY)
    count = 0

    def rebasing(request: Request) -> Answer:
        nonlocal count
        count += request.params["Symbol"] == "FPT"
        if count == number:
            vendor.history = rebased(ONE, 0.9)
        return vendor(request)

    with StandIn(rebasing) as stand_in:
        history = pages(stand_in).fetch(["FPT"], LAST)
    assert count > 22  # without the change, 22 requests tell it all, the last to see that nothing changed
    assert same(history, rebased(ONE, 0.9))


def test_pages_kept_from_an_earlier_run_do_not_hide_a_new_base(tmp_path: Path) -> None:
    vendor = CafefPagesVendor(ONE, clock=NEXT_DAY)
    count = 0

    def rebasing(request: Request) -> Answer:
        nonlocal count
        count += request.params["Symbol"] == "FPT"
        if count == first_run + 3:
            vendor.history = rebased(ONE, 0.9)
        return vendor(request)

    first_run = 10**6
    with StandIn(rebasing) as stand_in:
        pages(stand_in, cache=tmp_path).fetch(["FPT"], LAST)  # its last look at the base must not be kept
        first_run = count
        assert same(pages(stand_in, cache=tmp_path).fetch(["FPT"], LAST), rebased(ONE, 0.9))


def test_a_correction_in_the_newest_quarter_is_seen_at_once(tmp_path: Path) -> None:
    vendor = CafefPagesVendor(ONE, clock=NEXT_DAY)
    corrected = pl.when(pl.col("session") == date(2022, 4, 4)).then(1).otherwise(pl.col("volume_shares"))
    with StandIn(vendor) as stand_in:
        pages(stand_in, cache=tmp_path).fetch(["FPT"], LAST)
        vendor.history = replace(ONE, bars=ONE.bars.with_columns(volume_shares=corrected))
        assert same(pages(stand_in, cache=tmp_path).fetch(["FPT"], LAST), vendor.history)


def test_a_vendor_that_never_settles_is_named() -> None:
    vendor = CafefPagesVendor(ONE, clock=NEXT_DAY)
    count = 0

    def restless(request: Request) -> Answer:
        nonlocal count
        count += 1
        vendor.history = rebased(ONE, 1 - count / 1000)
        return vendor(request)

    with StandIn(restless) as stand_in, pytest.raises(SourceAnswerError, match="changed the adjusted prices of FPT"):
        pages(stand_in).fetch(["FPT"], LAST)


def test_kept_pages_grow_old(tmp_path: Path) -> None:
    with standing_in(ONE) as vendor:
        pages(vendor, cache=tmp_path).fetch(["FPT"], LAST)
        first = len(vendor.requests)
        pages(vendor, cache=tmp_path).fetch(["FPT"], LAST)
        second = len(vendor.requests) - first
        pages(vendor, cache=tmp_path, keep_days=0.0).fetch(["FPT"], LAST)
        third = len(vendor.requests) - first - second
    assert second < first / 2
    assert third == first


# ---------------------------------------------------------------- real rows


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason="the shared price files are not here")
@pytest.mark.parametrize("vintage", ["2025", "2026"])
def test_real_rows_survive_the_way_through_the_pages(vintage: Vintage) -> None:
    rows = pl.read_parquet(REAL).filter(
        pl.col("Symbol").is_in(["FPT", "ACB", INDEX_SYMBOL]) & pl.col("Ngay").str.ends_with("2020")
    )
    stocks = cafef_bars(rows.filter(pl.col("Symbol") != INDEX_SYMBOL), REAL)
    index = cafef_bars(rows.filter(pl.col("Symbol") == INDEX_SYMBOL), REAL, unit=1.0)
    truth = raw_history(stocks, index.select("session", close_points="close_vnd"), None)
    with standing_in(truth, vintage=vintage) as vendor:
        history, gaps = pages(vendor, earliest=date(2020, 1, 1)).fetch_proven(["FPT", "ACB"], date(2020, 12, 31))
    assert same(history, truth)
    # known from a second vendor: FPT has no row on 2020-11-24; ACB moved from HNX to HOSE and rested before
    assert {gap.symbol: len(gap.missing) for gap in gaps} == {"FPT": 1, "ACB": 5}
