from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vnfleet.core.clock import FixedClock
from vnfleet.core.errors import UsageError
from vnfleet.data.sources.base import INDEX_SYMBOL, RAW_SCHEMA, RawHistory, raw_history
from vnfleet.data.sources.simulated import SimulatedSource
from vnfleet.data.sources.simulated.market import SimulatedMarket
from vnfleet.data.sources.standins.server import Answer, FaultKind, Request, StandIn
from vnfleet.data.sources.standins.vndirect import EVENT_SCHEMA, VndirectVendor
from vnfleet.data.sources.vndirect import Vndirect
from vnfleet.data.sources.vndirect import route as finfo_route
from vnfleet.data.sources.vndirect.route import SESSIONS_A_REQUEST, late_on_boards, route_to
from vnfleet.data.sources.web import (
    Politeness,
    SourceAnswerError,
    SourceMissingError,
    SourceRefusedError,
    SourceUnavailableError,
)
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Exchange

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "cafef_price_history_2012_2024.parquet"
AS_OF = date(2026, 11, 20)
EVENING = FixedClock(datetime(2026, 11, 20, 11, 0, tzinfo=UTC))  # 18:00 in Vietnam
MORNING = FixedClock(datetime(2026, 11, 20, 3, 30, tzinfo=UTC))  # 10:30 in Vietnam
FAST = Politeness(requests_per_second=math.inf, first_wait_seconds=0.0, timeout_seconds=20.0)
# The reply when the market is asked about for the first time; the others follow in this order.
LISTED, FIRST_SYMBOL = 0, 1


@pytest.fixture(scope="module")
def market() -> RawHistory:
    """Three stocks on HOSE, two on HNX, one on UPCOM, since May 2025."""
    history = SimulatedSource(SimulatedMarket(num_symbols=6, start=date(2025, 5, 5), late_listing_frac=0.0)).fetch(
        None, AS_OF
    )
    places = dict(zip(history.listings.get_column("symbol"), ("HOSE",) * 3 + ("HNX",) * 2 + ("UPCOM",), strict=True))
    exchange = pl.col("symbol").replace_strict(places, return_dtype=pl.String).alias("exchange")
    return RawHistory(
        bars=history.bars.with_columns(exchange),
        index=history.index,
        listings=history.listings.with_columns(exchange),
    )


def told(history: RawHistory) -> pl.DataFrame:
    """What a faithful vendor would have said about `history`, apart from its reference prices."""
    return history.bars.drop("stated_reference_vnd")


def source(stand_in: StandIn, **changes: object) -> Vndirect:
    given: dict[str, object] = {"politeness": FAST, "clock": EVENING, "base_url": stand_in.url} | changes
    return Vndirect(**given)  # type: ignore[arg-type]


def since_of(history: RawHistory, day: date) -> dict[str, date]:
    return dict.fromkeys(history.listings.get_column("symbol").to_list(), day)


def stand_in(history: RawHistory, faults: Mapping[int, FaultKind] | None = None, **changes: object) -> StandIn:
    vendor = VndirectVendor(history=history, **({"clock": EVENING} | changes))  # type: ignore[arg-type]
    return StandIn(vendor.answer, faults=faults, empty=vendor.empty, retry_after="0")


# --- what comes back ------------------------------------------------------------------------------------------------


def test_every_history_comes_back_in_vnd_with_the_exchange_of_the_day(market: RawHistory) -> None:
    with stand_in(market) as server:
        got = source(server).fetch(market.listings.get_column("symbol").to_list(), AS_OF)
    assert_frame_equal(told(got), told(market))
    assert_frame_equal(got.index, market.index)
    assert_frame_equal(got.listings.drop("sector"), market.listings.drop("sector"))


@pytest.mark.real_data
def test_real_rows_survive_the_way_over_the_wire() -> None:
    if not REAL.is_file():
        pytest.skip("real prices are not part of the project")
    names = ["FPT", "HPG", "ACB"]
    rows = pl.scan_parquet(REAL).filter(pl.col("Symbol").is_in([*names, INDEX_SYMBOL])).collect()
    day = pl.col("Ngay").str.to_date("%d/%m/%Y")
    bars = rows.filter(pl.col("Symbol") != INDEX_SYMBOL).select(
        symbol="Symbol",
        session=day,
        open_vnd=pl.col("GiaMoCua") * 1000,
        high_vnd=pl.col("GiaCaoNhat") * 1000,
        low_vnd=pl.col("GiaThapNhat") * 1000,
        close_vnd=pl.col("GiaDongCua") * 1000,
        adjusted_close_vnd=pl.col("GiaDieuChinh") * 1000,
        volume_shares=pl.col("KhoiLuongKhopLenh"),
    )
    index = rows.filter(pl.col("Symbol") == INDEX_SYMBOL).select(session=day, close_points="GiaDongCua")
    with stand_in(raw_history(bars, index, None)) as server:
        got = source(server).fetch(names, date(2024, 12, 31))
    # FPT on the ex-date of its bonus issue, as every source has it: 146.5 before, then 132.0; adjusted +4.3 %.
    fpt = got.bars.filter(symbol="FPT").sort("session")
    ex = fpt.filter(pl.col("session").is_between(date(2024, 6, 11), date(2024, 6, 12)))
    assert ex.get_column("close_vnd").to_list() == [146_500.0, 132_000.0]
    adjusted = ex.get_column("adjusted_close_vnd").to_list()
    assert adjusted[1] / adjusted[0] - 1 == pytest.approx(0.043, abs=0.0005)
    expected = bars.sort("symbol", "session")
    assert got.bars.height == expected.height
    for name in ("close_vnd", "adjusted_close_vnd", "volume_shares"):
        kept = got.bars.get_column(name).cast(pl.Float64)
        assert (kept - expected.get_column(name).cast(pl.Float64)).abs().max() == pytest.approx(0.0, abs=0.005)
    assert got.index.height == index.height


def test_the_stated_reference_is_the_vendors_base_price_and_null_where_it_has_none(market: RawHistory) -> None:
    def answer(request: Request) -> Answer:
        reply = VndirectVendor(history=market, clock=EVENING).answer(request)
        body = json.loads(reply.body)
        for row in body["data"]:
            if row.get("date") == "2026-11-19":
                row["basicPrice"] = 0
            elif row.get("date") == "2026-11-20":
                row["basicPrice"] = 12.35
        return replace(reply, body=json.dumps(body).encode())

    with StandIn(answer) as server:
        got = source(server).fetch(["XAA"], AS_OF)
    assert got.bars.tail(2).get_column("stated_reference_vnd").to_list() == [None, 12_350.0]


def test_a_history_longer_than_a_page_is_whole(market: RawHistory) -> None:
    with stand_in(market, page_cap=97) as server:
        got = source(server).fetch(["XAB", "XAD"], AS_OF)
        pages = [request.params["page"] for request in server.requests if "code:XAB" in request.params["q"]]
    assert_frame_equal(told(got), told(market.only(["XAB", "XAD"])))
    assert pages == ["1", "2", "3", "4"]


def test_an_unknown_symbol_has_no_rows_and_the_others_have_all(market: RawHistory) -> None:
    with stand_in(market) as server:
        got = source(server).fetch(["XAA", "QQQ", INDEX_SYMBOL], AS_OF)
        asked = [request.params["q"] for request in server.requests]
    assert_frame_equal(told(got), told(market.only(["XAA"])))
    assert sum("code:QQQ" in q for q in asked) == 2, "an empty answer is believed the second time"
    assert not any(INDEX_SYMBOL in q for q in asked if "stock_prices" in q)
    assert got.listings.get_column("symbol").to_list() == ["XAA"]


def test_symbols_that_all_are_unknown_are_refused_by_name(market: RawHistory) -> None:
    with stand_in(market) as server, pytest.raises(SourceAnswerError, match="nothing where there must be something"):
        source(server).fetch(["QQQ"], AS_OF)


# --- the daily update -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def board() -> RawHistory:
    """289 stocks of HOSE over the sessions of half a year."""
    market = SimulatedMarket(num_symbols=289, start=date(2026, 5, 4), late_listing_frac=0.0)
    history = SimulatedSource(market).fetch(None, AS_OF)
    return replace(history, bars=history.bars.with_columns(exchange=pl.lit("HOSE")))


def test_a_daily_update_of_289_symbols_takes_a_dozen_requests_and_tells_what_symbol_by_symbol_tells(
    board: RawHistory,
) -> None:
    overlap = trading_sessions(date(2026, 5, 4), AS_OF)[-80]
    since = since_of(board, overlap)
    with stand_in(board) as server:
        got = source(server).fetch(list(since), AS_OF, since=since)
        updates = len(server.requests)
        alone = [request.params["q"] for request in server.requests if "code:X" in request.params["q"]]
        planned = source(server).plan(list(since), AS_OF, since=since)
    wanted = told(board).filter(pl.col("session") >= overlap)
    assert_frame_equal(told(got).filter(pl.col("session") >= overlap), wanted)
    # The list, 80 sessions at 10 a request, VNINDEX; beside them only names that did not trade when the window began.
    assert updates == 1 + 8 + 1 + len(alone)
    assert len(alone) <= 5
    assert planned.requests <= 1 + 8 + 6 + 16 + 2
    assert planned.host == "api-finfo.vndirect.com.vn"


def test_a_bootstrap_of_289_symbols_takes_one_request_each(board: RawHistory) -> None:
    names = board.listings.get_column("symbol").to_list()
    with stand_in(board) as server:
        got = source(server).fetch(names, AS_OF)
        assert len(server.requests) == 289 + 2
        assert source(server).plan(names, AS_OF).requests >= len(server.requests)
    assert_frame_equal(told(got), told(board))


def test_boards_larger_than_a_page_lose_nothing_even_if_equal_dates_change_their_order(board: RawHistory) -> None:
    since = since_of(board, date(2026, 10, 1))
    with stand_in(board, page_cap=700, unstable_ties=True) as server:
        got = source(server).fetch(list(since), AS_OF, since=since)
        assert {request.params["page"] for request in server.requests if "floor" in request.params["q"]} == {"1"}
    wanted = told(board).filter(pl.col("session") >= date(2026, 10, 1))
    assert_frame_equal(told(got).filter(pl.col("session") >= date(2026, 10, 1)), wanted)


def test_warrants_on_the_board_are_left_aside(market: RawHistory) -> None:
    since = since_of(market, date(2026, 11, 2))
    with stand_in(market, warrants=250) as server:
        got = source(server).fetch(None, AS_OF, since=since)
    assert set(got.bars.get_column("symbol")) == set(since)


def test_a_board_that_is_refused_for_many_days_at_once_is_asked_for_day_by_day(board: RawHistory) -> None:
    vendor = VndirectVendor(history=board, clock=EVENING)

    def answer(request: Request) -> Answer:
        if "floor:HOSE~type" in request.params["q"] and "date:gte" in request.params["q"]:
            return Answer(status=400, body=b'{"message":"bad query"}')
        return vendor.answer(request)

    since = since_of(board, date(2026, 11, 16))
    with StandIn(answer) as server:
        got = source(server).fetch(list(since), AS_OF, since=since)
    wanted = told(board).filter(pl.col("session") >= date(2026, 11, 16))
    assert_frame_equal(told(got).filter(pl.col("session") >= date(2026, 11, 16)), wanted)


def test_a_stock_that_came_from_another_exchange_is_asked_alone_and_keeps_both(board: RawHistory) -> None:
    moved = date(2026, 9, 14)
    there = (pl.col("symbol") == "XBB") & (pl.col("session") < moved)
    floor = pl.when(there).then(pl.lit("HNX")).otherwise(pl.lit("HOSE")).alias("exchange")
    history = replace(board, bars=board.bars.with_columns(floor))
    since = since_of(history, date(2026, 8, 3))
    with stand_in(history) as server:
        got = source(server).fetch(list(since), AS_OF, since=since)
        assert any("code:XBB" in request.params["q"] for request in server.requests)
    exchanges = got.bars.filter(symbol="XBB").group_by("exchange").agg(pl.col("session").min()).sort("exchange")
    assert exchanges.get_column("exchange").to_list() == ["HNX", "HOSE"]
    assert exchanges.get_column("session")[1] >= moved
    assert got.bars.select("symbol", "session").is_unique().all()


def test_a_whole_market_fetch_brings_names_that_were_delisted_later(
    market: RawHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finfo_route, "FIRST_PRICES", date(2026, 9, 1))
    recent = RawHistory(market.bars.filter(pl.col("session") >= date(2026, 10, 1)), market.index, market.listings)
    gone = recent.bars.filter((pl.col("symbol") != "XAC") | (pl.col("session") < date(2026, 11, 2)))
    history = replace(recent, bars=gone)
    with stand_in(history, delisted=frozenset({"XAC"})) as server:
        got = source(server).fetch(None, AS_OF)
    assert_frame_equal(told(got), told(history))
    assert got.listings.filter(symbol="XAC").get_column("exchange").to_list() == ["HOSE"]


# --- how the requests are chosen ------------------------------------------------------------------------------------

DAYS = st.dates(date(2025, 1, 2), AS_OF)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("ABC", min_size=3, max_size=3), st.none() | DAYS, min_size=1, max_size=25))
def test_the_route_asks_for_every_day_of_every_symbol_once_and_never_costs_more_than_either_way(
    wishes: dict[str, date | None],
) -> None:
    since = {symbol: day for symbol, day in wishes.items() if day is not None}
    route = route_to(sorted(wishes), AS_OF, since, tuple(Exchange))
    assert {symbol for symbol, day in wishes.items() if day is None} <= set(route.alone)
    assert route.requests <= len(wishes)
    for exchange in Exchange:
        windows = [window for board, window in route.boards if board == exchange]
        relying = [since[symbol] for symbol in wishes if symbol not in route.alone]
        assert not relying or (windows[0][0] <= min(relying) and windows[-1][1] == AS_OF)
        assert all(following[0] - window[1] == timedelta(days=1) for window, following in pairwise(windows))
        assert all(len(trading_sessions(*window)) <= SESSIONS_A_REQUEST[exchange] for window in windows), (
            "a window holds more sessions than fit on a page"
        )


def test_a_symbol_whose_board_rows_begin_late_or_never_is_found() -> None:
    days = [f"2026-11-{day:02}" for day in (2, 3, 4, 5, 6, 9, 10, 11)]
    rows = pl.DataFrame(
        {"code": ["OLD"] * 8 + ["NEW"] * 3 + ["FEW"] * 4, "date": days + days[5:] + days[4:]},
    )
    since = dict.fromkeys(("OLD", "NEW", "FEW", "NONE"), date(2026, 11, 2))
    assert set(late_on_boards(rows, since)) == {"NEW", "NONE"}


# --- today and the clock --------------------------------------------------------------------------------------------


@pytest.fixture
def machine_zone(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("machine_zone", "utc", "newest"),
    [
        ("UTC", (8, 14), date(2026, 11, 19)),
        ("America/Los_Angeles", (8, 15), AS_OF),
        ("Pacific/Kiritimati", (1, 0), date(2026, 11, 19)),
        ("America/Los_Angeles", (16, 59), AS_OF),
    ],
    indirect=["machine_zone"],
)
@pytest.mark.usefixtures("machine_zone")
def test_todays_row_is_kept_from_1515_in_vietnam_wherever_the_machine_stands(
    market: RawHistory, utc: tuple[int, int], newest: date
) -> None:
    clock = FixedClock(datetime(2026, 11, 20, *utc, tzinfo=UTC))
    since = since_of(market, date(2026, 11, 2))
    with stand_in(market, clock=clock) as server:
        got = source(server, clock=clock).fetch(["XAA"], AS_OF, since=since)
        boards = source(server, clock=clock).fetch(None, AS_OF, since=since)
    wanted = told(market).filter(pl.col("session").is_between(date(2026, 11, 2), newest))
    assert got.bars.get_column("session").max() == newest
    assert_frame_equal(told(boards), wanted)
    assert got.index.get_column("session").max() == newest


def test_an_unfinished_row_that_comes_unasked_is_refused(market: RawHistory) -> None:
    vendor = VndirectVendor(history=market, clock=MORNING)

    def answer(request: Request) -> Answer:
        return vendor.answer(replace(request, params={**request.params, "q": request.params["q"].split("~date")[0]}))

    with StandIn(answer) as server, pytest.raises(SourceAnswerError, match="a row of"):
        source(server, clock=MORNING).fetch(["XAA"], AS_OF, since={"XAA": date(2025, 5, 5)})


def test_a_past_as_of_sees_nothing_later(market: RawHistory) -> None:
    with stand_in(market) as server:
        got = source(server).fetch(["XAA", "XAE"], date(2026, 3, 31))
    assert_frame_equal(told(got), told(market.only(["XAA", "XAE"]).until(date(2026, 3, 31))))


# --- faults ---------------------------------------------------------------------------------------------------------

PASSING = (
    FaultKind.TOO_MANY,
    FaultKind.UNAVAILABLE,
    FaultKind.CUT_MID_BODY,
    FaultKind.STALL_MID_BODY,
    FaultKind.TRUNCATED,
    FaultKind.HTML,
    FaultKind.WRONG_ENCODING,
    FaultKind.EMPTY,
    FaultKind.REPEATED,
)


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("whole", [True, False], ids=["symbol by symbol", "boards"])
def test_a_fault_that_passes_changes_nothing(market: RawHistory, fault: FaultKind, whole: bool) -> None:
    since = None if whole else since_of(market, date(2026, 11, 9))
    names = market.listings.get_column("symbol").to_list()
    begin = date(2025, 5, 5) if whole else date(2026, 11, 9)
    patience = replace(FAST, timeout_seconds=0.3 if fault == FaultKind.STALL_MID_BODY else 20.0)
    with stand_in(market, faults={2: fault}) as server:
        got = source(server, politeness=patience).fetch(names, AS_OF, since=since)
        assert server.requests[2].path == "/v4/stock_prices"
    assert_frame_equal(told(got), told(market).filter(pl.col("session") >= begin))


def test_an_empty_or_repeated_page_in_the_middle_of_a_history_is_asked_for_again(market: RawHistory) -> None:
    for fault in (FaultKind.EMPTY, FaultKind.REPEATED):
        with stand_in(market, faults={3: fault}, page_cap=97) as server:
            got = source(server).fetch(["XAB"], AS_OF)
            assert server.requests[3].params["page"] == "3"
        assert_frame_equal(told(got), told(market.only(["XAB"])))


@pytest.mark.parametrize("fault", [FaultKind.FORBIDDEN, FaultKind.CAPTCHA])
def test_a_refusal_stops_everything_at_once_with_advice(market: RawHistory, fault: FaultKind) -> None:
    with stand_in(market, faults={FIRST_SYMBOL: fault}) as server:
        with pytest.raises(SourceRefusedError, match=r"next: .*(slowly|connection)"):
            source(server).fetch(["XAA", "XAB", "XAC"], AS_OF)
        assert len(server.requests) == 2


def test_a_wait_longer_than_reasonable_is_a_refusal(market: RawHistory) -> None:
    vendor = VndirectVendor(history=market, clock=EVENING)
    with StandIn(vendor.answer, faults={FIRST_SYMBOL: FaultKind.TOO_MANY}, retry_after="86400") as server:
        with pytest.raises(SourceRefusedError, match="429"):
            source(server).fetch(["XAA", "XAB"], AS_OF)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (FaultKind.UNAVAILABLE, SourceUnavailableError),
        (FaultKind.CUT_MID_BODY, SourceUnavailableError),
        (FaultKind.STALL_MID_BODY, SourceUnavailableError),
        (FaultKind.TRUNCATED, SourceAnswerError),
        (FaultKind.HTML, SourceAnswerError),
        (FaultKind.WRONG_ENCODING, SourceAnswerError),
        (FaultKind.REPEATED, SourceAnswerError),
    ],
)
def test_a_fault_that_stays_is_refused_by_name(market: RawHistory, fault: FaultKind, error: type[Exception]) -> None:
    politeness = replace(FAST, attempts=2, timeout_seconds=0.2 if fault == FaultKind.STALL_MID_BODY else 20.0)
    with stand_in(market, faults=dict.fromkeys(range(2, 99), fault)) as server:
        with pytest.raises(error):
            source(server, politeness=politeness).fetch(["XAA", "XAB", "XAC"], AS_OF)
        assert len(server.requests) <= 4, "the list, one history, and two attempts at the next"


def test_a_bootstrap_that_was_refused_in_the_middle_goes_on_where_it_stopped(
    market: RawHistory, tmp_path: Path
) -> None:
    names = market.listings.get_column("symbol").to_list()
    with stand_in(market, faults={5: FaultKind.FORBIDDEN}) as server:
        with pytest.raises(SourceRefusedError):
            source(server, cache=tmp_path).fetch(names, AS_OF)
        before = len(server.requests)
        got = source(server, cache=tmp_path).fetch(names, AS_OF)
        again = [request.params["q"][:8] for request in server.requests[before:]]
    assert again == ["type:STO", "code:XAE", "code:XAF", "code:VNI"]
    assert_frame_equal(told(got), told(market))


def test_a_daily_update_is_never_answered_from_the_disk(market: RawHistory, tmp_path: Path) -> None:
    since = since_of(market, date(2026, 11, 9))
    with stand_in(market) as server:
        source(server, cache=tmp_path).fetch(list(since), AS_OF, since=since)
        once = len(server.requests)
        source(server, cache=tmp_path).fetch(list(since), AS_OF, since=since)
        assert len(server.requests) == 2 * once


def changed(market: RawHistory, **row: object) -> StandIn:
    """finfo with one value of every price row replaced."""
    vendor = VndirectVendor(history=market, clock=EVENING)

    def answer(request: Request) -> Answer:
        reply = vendor.answer(request)
        body = json.loads(reply.body)
        if request.path == "/v4/stock_prices":
            for line in body["data"]:
                line.update(row)
        return replace(reply, body=json.dumps(body).encode())

    return StandIn(answer)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"code": "XAC"}, "code XAC"),
        ({"date": "20/11/2026"}, "a row of 20/11/2026"),
        ({"date": None}, "a row of None"),
        ({"date": "1999-01-04"}, "a row of 1999-01-04"),
        ({"close": {"value": 1}}, "another shape"),
        ({"close": "12,5"}, "another shape"),
    ],
)
def test_rows_of_something_else_are_refused_by_name(market: RawHistory, row: dict[str, object], message: str) -> None:
    with changed(market, **row) as server, pytest.raises(SourceAnswerError, match=message):
        source(server, politeness=replace(FAST, attempts=2)).fetch(["XAA"], AS_OF)


def test_a_service_that_repeats_a_page_under_the_number_of_the_next_is_refused(market: RawHistory) -> None:
    vendor = VndirectVendor(history=market, clock=EVENING, page_cap=97)

    def answer(request: Request) -> Answer:
        reply = json.loads(vendor.answer(replace(request, params={**request.params, "page": "1"})).body)
        return Answer(body=json.dumps(reply | {"currentPage": int(request.params["page"])}).encode())

    with StandIn(answer) as server, pytest.raises(SourceAnswerError, match="rows of an earlier page"):
        source(server, politeness=replace(FAST, attempts=2)).fetch(["XAB"], AS_OF)


@pytest.mark.parametrize("promised", [-1, 1])
def test_another_number_of_rows_than_promised_is_refused(market: RawHistory, promised: int) -> None:
    vendor = VndirectVendor(history=market, clock=EVENING)

    def answer(request: Request) -> Answer:
        reply = json.loads(vendor.answer(request).body)
        return Answer(body=json.dumps(reply | {"totalElements": reply["totalElements"] + promised}).encode())

    with StandIn(answer) as server, pytest.raises(SourceAnswerError, match=r"another number of rows|empty page"):
        source(server, politeness=replace(FAST, attempts=2)).fetch(["XAB"], AS_OF)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"data": null}',
        b'{"data": [], "totalElements": "many"}',
        b'{"data": [1], "totalElements": 1}',
        b'{"data": [{"date": "2026-11-20"}], "totalElements": 1}',
        b'{"data": [], "totalElements": 7}',
    ],
)
def test_an_envelope_of_another_shape_is_refused(body: bytes) -> None:
    with StandIn(lambda _: Answer(body=body)) as server, pytest.raises(SourceAnswerError):
        source(server, politeness=replace(FAST, attempts=2)).fetch(["XAA"], AS_OF)


def test_a_service_that_is_gone_is_told_apart_from_a_question_it_does_not_like(market: RawHistory) -> None:
    since = since_of(market, date(2026, 11, 9))
    vendor = VndirectVendor(history=market, clock=EVENING)

    def answer(request: Request) -> Answer:
        return vendor.answer(request) if request.path == "/v4/stocks" else Answer(status=404, body=b"{}")

    with StandIn(answer) as server:
        with pytest.raises(SourceMissingError):
            source(server).fetch(list(since), AS_OF, since=since)
        assert len(server.requests) == 2


def test_the_old_host_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"private address"):
        Vndirect(base_url="https://finfo-api.vndirect.com.vn")


def test_progress_counts_to_its_end(market: RawHistory) -> None:
    seen: list[tuple[int, int]] = []
    with stand_in(market) as server:
        source(server).fetch(["XAA", "XAB"], AS_OF, progress=lambda done, total, _: seen.append((done, total)))
    assert [pair for pair in seen if pair[1]] == [(0, 2), (1, 2), (2, 2)]


# --- announced events -----------------------------------------------------------------------------------------------

EVENTS = pl.DataFrame(
    [
        # FPT's second-quarter dividend of 2022 as a public probe of the service shows it
        ("FPT", "DIVIDEND", "2022-08-24", "2022-07-21", 1000.0, 10.0),
        ("FPT", "KINDDIV", "2024-06-12", "2024-05-28", None, 15.0),
        ("HPG", "STOCKDIV", "2022-06-17", "2022-06-01", None, 30.0),
        ("HPG", "DIVIDEND", "2022-06-17", "2022-06-01", None, 5.0),
        ("HPG", "MEETING", "2022-04-11", "2022-03-01", None, None),
        ("VNM", "DIVIDEND", "2026-12-18", "2026-11-18", 500.0, 5.0),
        ("VNM", "DIVIDEND", "2026-12-28", "2026-11-23", 900.0, 9.0),
        ("VNM", "DIVIDEND", None, "2026-11-01", 100.0, 1.0),
    ],
    schema=EVENT_SCHEMA,
    orient="row",
)


def test_every_event_is_told_once_in_our_kinds_and_units(market: RawHistory) -> None:
    with stand_in(market, events=EVENTS) as server:
        got = source(server).announced(["FPT", "HPG", "VNM"], AS_OF)
        assert len(server.requests) == 3
    assert got.drop("source").rows() == [
        ("FPT", date(2022, 8, 24), "cash_dividend", 1000.0, None),
        ("FPT", date(2024, 6, 12), "bonus", None, 0.15),
        ("HPG", date(2022, 6, 17), "cash_dividend", 500.0, None),  # 5 % of the par value of 10,000 VND
        ("HPG", date(2022, 6, 17), "stock_dividend", None, 0.30),
        ("VNM", date(2026, 12, 18), "cash_dividend", 500.0, None),  # the one disclosed after the day is not known
    ]


def test_everybodys_events_come_in_windows_and_are_the_same(market: RawHistory) -> None:
    names = [*market.listings.get_column("symbol"), *(f"Y{number:02}" for number in range(60)), "FPT", "HPG"]
    with stand_in(market, events=EVENTS, page_cap=2) as server:
        got = source(server).announced(names, AS_OF)
        everybody = source(server).announced(None, AS_OF)
        assert not any("code" in request.params["q"] for request in server.requests)
    assert got.select("symbol", "ex_date").rows() == [
        ("FPT", date(2022, 8, 24)),
        ("FPT", date(2024, 6, 12)),
        ("HPG", date(2022, 6, 17)),
        ("HPG", date(2022, 6, 17)),
    ]
    assert everybody.height == 5


def test_an_old_as_of_knows_only_what_was_disclosed_by_then(market: RawHistory) -> None:
    with stand_in(market, events=EVENTS) as server:
        got = source(server).announced(["FPT"], date(2024, 5, 27))
    assert got.get_column("kind").to_list() == ["cash_dividend"]


def test_the_rows_have_the_schema_every_source_has(market: RawHistory) -> None:
    with stand_in(market) as server:
        assert dict(source(server).fetch(["XAA"], AS_OF).bars.schema) == RAW_SCHEMA
