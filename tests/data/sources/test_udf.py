from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
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
from vnfleet.data.sources.standins.udf import UdfVendor
from vnfleet.data.sources.udf import Udf
from vnfleet.data.sources.web import Politeness, SourceAnswerError, SourceRefusedError, SourceUnavailableError

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "cafef_price_history_2012_2024.parquet"
VENDORS = ("vndirect_dchart", "ssi", "vps", "dnse")
AS_OF = date(2026, 11, 20)
EVENING = FixedClock(datetime(2026, 11, 20, 11, 0, tzinfo=UTC))  # 18:00 in Vietnam
FAST = Politeness(requests_per_second=math.inf, first_wait_seconds=0.0, timeout_seconds=20.0)
TOLD = ("symbol", "session", "adjusted_close_vnd", "volume_shares")
every_vendor = pytest.mark.parametrize("vendor", VENDORS)
two_vendors = pytest.mark.parametrize("vendor", ["ssi", "dnse"])  # the two replies that differ most


@pytest.fixture(scope="module")
def market() -> RawHistory:
    """Five stocks since January 2026."""
    market = SimulatedMarket(num_symbols=5, start=date(2026, 1, 5), late_listing_frac=0.0)
    return SimulatedSource(market).fetch(None, AS_OF)


def told(history: RawHistory) -> pl.DataFrame:
    """All that a chart feed says about stocks."""
    return history.bars.select(TOLD)


def source(server: StandIn, vendor: str, **changes: object) -> Udf:
    given: dict[str, object] = {"politeness": FAST, "clock": EVENING, "base_url": server.url} | changes
    return Udf(vendor=vendor, **given)  # type: ignore[arg-type]


def stand_in(
    vendor: str, history: RawHistory, faults: Mapping[int, FaultKind] | None = None, **changes: object
) -> StandIn:
    feed = UdfVendor(vendor=vendor, history=history, **({"clock": EVENING} | changes))  # type: ignore[arg-type]
    return StandIn(feed.answer, faults=faults, empty=feed.empty, retry_after="0")


def names_of(history: RawHistory) -> list[str]:
    return history.listings.get_column("symbol").to_list()


def replying(body: object) -> StandIn:
    return StandIn(lambda _: Answer(body=json.dumps(body).encode()))


# --- what comes back ------------------------------------------------------------------------------------------------


@every_vendor
def test_every_feed_tells_the_same_days_closes_and_volumes_adjusted_only(vendor: str, market: RawHistory) -> None:
    with stand_in(vendor, market) as server:
        got = source(server, vendor).fetch(names_of(market), AS_OF)
    assert_frame_equal(told(got), told(market))
    raw = got.bars.select("open_vnd", "high_vnd", "low_vnd", "close_vnd", "stated_reference_vnd", "exchange")
    assert raw.null_count().row(0) == (got.bars.height,) * 6
    assert dict(got.bars.schema) == RAW_SCHEMA
    assert got.listings.is_empty()


@every_vendor
def test_the_index_is_in_points_once_a_day_without_the_days_known_to_be_wrong(vendor: str, market: RawHistory) -> None:
    with stand_in(vendor, market) as server:
        got = source(server, vendor).fetch(["XAA"], AS_OF)
    assert_frame_equal(got.index, market.index)


@pytest.mark.real_data
@every_vendor
def test_real_rows_survive_the_way_over_the_wire(vendor: str) -> None:
    if not REAL.is_file():
        pytest.skip("real prices are not part of the project")
    rows = pl.scan_parquet(REAL).filter(pl.col("Symbol").is_in(["HPG", INDEX_SYMBOL])).collect()
    rows = rows.with_columns(session=pl.col("Ngay").str.to_date("%d/%m/%Y"))
    stock = rows.filter(pl.col("Symbol") == "HPG")
    bars = stock.select(
        "session",
        symbol="Symbol",
        open_vnd=pl.col("GiaMoCua") * 1000,
        high_vnd=pl.col("GiaCaoNhat") * 1000,
        low_vnd=pl.col("GiaThapNhat") * 1000,
        close_vnd=pl.col("GiaDongCua") * 1000,
        adjusted_close_vnd=pl.col("GiaDieuChinh") * 1000,
        volume_shares=pl.col("KhoiLuongKhopLenh"),
    )
    points = rows.filter(pl.col("Symbol") == INDEX_SYMBOL).select("session", close_points="GiaDongCua")
    with stand_in(vendor, raw_history(bars, points, None)) as server:
        got = source(server, vendor).fetch(["HPG"], date(2024, 12, 31))
    first = {"vndirect_dchart": date(2013, 1, 2)}.get(vendor, date(2012, 1, 1))
    kept = stock.filter(pl.col("session") >= first).sort("session")
    assert got.bars.get_column("session").to_list() == kept.get_column("session").to_list()
    difference = got.bars.get_column("adjusted_close_vnd") - kept.get_column("GiaDieuChinh") * 1000
    assert difference.abs().max() == pytest.approx(0.0, abs=0.01)
    # Ex-date of the 30 % stock dividend with 500 VND cash: 17.77 -> 17.58 thousand VND adjusted.
    ex = got.bars.filter(pl.col("session").is_between(date(2022, 6, 16), date(2022, 6, 17)))
    assert ex.get_column("adjusted_close_vnd").to_list() == [17_770.0, 17_580.0]
    wrong = {date(2018, 8, 22), date(2020, 12, 25)} if vendor in {"ssi", "vps"} else set()
    expected = points.filter(pl.col("session") >= first, ~pl.col("session").is_in(sorted(wrong))).sort("session")
    assert_frame_equal(got.index, expected)
    # Plunge of VNINDEX on 2020-03-09: -6.28 %.
    plunge = got.index.filter(pl.col("session").is_between(date(2020, 3, 6), date(2020, 3, 9)))
    close = plunge.get_column("close_points").to_list()
    assert close[1] / close[0] - 1 == pytest.approx(-0.0628, abs=0.00005)


STAMPS = [
    ("17:00 the evening before, midnight in Vietnam", -7 * 3600),
    ("midnight UTC", 0),
    ("02:00 UTC", 2 * 3600),
    ("the close", 8 * 3600),
    ("last second of the day in Vietnam", 17 * 3600 - 1),
]


@pytest.mark.parametrize(("name", "offset"), STAMPS, ids=[name for name, _ in STAMPS])
def test_a_bar_belongs_to_its_day_in_vietnam_whatever_hour_the_vendor_stamps(name: str, offset: int) -> None:
    midnights = [int(datetime(2026, 11, day, tzinfo=UTC).timestamp()) for day in (18, 19, 20)]
    reply = {"s": "ok", "t": [stamp + offset for stamp in midnights], "c": [20.1, 20.2, 20.3], "v": [1, 2, 3]}
    with replying(reply | {"o": reply["c"], "h": reply["c"], "l": reply["c"]}) as server:
        got = source(server, "vndirect_dchart").fetch(["FPT"], AS_OF, since={"FPT": date(2026, 11, 16)})
    assert got.bars.get_column("session").to_list() == [date(2026, 11, day) for day in (18, 19, 20)], name
    assert got.bars.get_column("adjusted_close_vnd").to_list() == [20_100.0, 20_200.0, 20_300.0]


def test_of_two_index_bars_a_day_the_placeholder_goes(market: RawHistory) -> None:
    day = int(datetime(2026, 11, 19, tzinfo=UTC).timestamp())
    stamps = [day, day + 7200, day + 86400, day + 86400]
    reply = {"s": "ok", "t": stamps, "c": [1700.0, 1712.5, 1720.25, 1712.5], "v": [0, 9, 8, 0]}
    feed = UdfVendor(vendor="vps", history=market, clock=EVENING)

    def answer(request: Request) -> Answer:
        is_index = request.params["symbol"] == INDEX_SYMBOL
        return Answer(body=json.dumps(reply).encode()) if is_index else feed.answer(request)

    with StandIn(answer) as server:
        got = source(server, "vps").fetch(["XAA"], AS_OF, since={"XAA": date(2026, 11, 16)})
    assert got.index.rows() == [(date(2026, 11, 19), 1712.5), (date(2026, 11, 20), 1720.25)]


@every_vendor
def test_index_bars_known_to_be_wrong_are_left_out_of_the_two_feeds_that_have_them(vendor: str) -> None:
    days = [date(2018, 8, 21), date(2018, 8, 22), date(2018, 8, 23), date(2020, 12, 25), date(2020, 12, 28)]
    index = pl.DataFrame({"session": days, "close_points": [960.0, 960.5, 970.0, 1067.0, 1099.0]})
    bars = pl.DataFrame({"symbol": "FPT", "session": days, "close_vnd": 42_000.0, "adjusted_close_vnd": 20_000.0})
    rest = pl.lit(None, pl.Float64)
    bars = bars.with_columns(open_vnd=rest, high_vnd=rest, low_vnd=rest, volume_shares=pl.lit(5))
    with stand_in(vendor, raw_history(bars, index, None)) as server:
        got = source(server, vendor).fetch(["FPT"], AS_OF)
    kept = [day for day in days if vendor in {"vndirect_dchart", "dnse"} or day not in {days[1], days[3]}]
    assert got.index.get_column("session").to_list() == kept
    assert got.bars.get_column("session").to_list() == days


def test_a_long_flat_tail_without_volume_is_kept_for_the_court() -> None:
    midnights = [int(datetime(2026, 10, day, tzinfo=UTC).timestamp()) for day in range(1, 20)]
    reply = {"s": "ok", "t": midnights, "c": [31.0] * 19, "v": [500] * 3 + [0] * 16}
    with replying(reply) as server:
        got = source(server, "vndirect_dchart").fetch(["FLC"], AS_OF, since={"FLC": date(2026, 10, 1)})
    assert got.bars.get_column("volume_shares").to_list() == [500] * 3 + [0] * 16


@every_vendor
def test_an_unknown_symbol_has_no_bars_and_the_others_have_all(vendor: str, market: RawHistory) -> None:
    with stand_in(vendor, market) as server:
        got = source(server, vendor).fetch(["XAA", "QQQ", "XAB"], AS_OF)
    assert_frame_equal(told(got), told(market.only(["XAA", "XAB"])))


@every_vendor
def test_symbols_that_all_are_unknown_are_refused_by_name(vendor: str, market: RawHistory) -> None:
    with stand_in(vendor, market) as server, pytest.raises(SourceAnswerError, match="knows none of the symbols"):
        source(server, vendor).fetch(["QQQ", "QQR"], AS_OF)


def test_dchart_is_asked_without_an_accept_header_and_the_others_with_one(market: RawHistory) -> None:
    for vendor in VENDORS:
        with stand_in(vendor, market) as server:
            source(server, vendor).fetch(["XAA"], AS_OF)
            sent = {"accept" in request.headers for request in server.requests}
        assert sent == {vendor != "vndirect_dchart"}


@settings(max_examples=8, deadline=None)
@given(cap=st.integers(10, 200))
def test_a_feed_that_silently_holds_back_all_but_its_newest_bars_is_walked_to_the_beginning(
    market: RawHistory, cap: int
) -> None:
    with stand_in("ssi", market, max_bars=cap) as server:
        got = source(server, "ssi").fetch(["XAA", "XAB"], AS_OF)
    assert_frame_equal(told(got), told(market.only(["XAA", "XAB"])))
    assert_frame_equal(got.index, market.index)


@every_vendor
def test_an_update_asks_once_a_symbol_and_gets_the_days_asked_for(vendor: str, market: RawHistory) -> None:
    since = dict.fromkeys(names_of(market), date(2026, 8, 3))
    with stand_in(vendor, market) as server:
        got = source(server, vendor).fetch(list(since), AS_OF, since=since)
        assert len(server.requests) == 6
        assert source(server, vendor).plan(list(since), AS_OF, since=since).requests == 6
    assert_frame_equal(told(got), told(market).filter(pl.col("session") >= date(2026, 8, 3)))


def test_a_bootstrap_costs_little_more_than_one_request_a_symbol() -> None:
    many = SimulatedMarket(num_symbols=80, start=date(2026, 1, 5), late_listing_frac=0.3)
    history = SimulatedSource(many).fetch(None, AS_OF)
    names = history.bars.get_column("symbol").unique().to_list()
    with stand_in("ssi", history) as server:
        got = source(server, "ssi").fetch(names, AS_OF)
        spare = len(server.requests) - len(names) - 1
        assert len(server.requests) <= source(server, "ssi").plan(names, AS_OF).requests
    assert_frame_equal(told(got), told(history))
    # Only a reply at least as long as all before it needs the question whether there are older bars.
    longest = history.bars.group_by("symbol").len().get_column("len").max()
    ties = history.bars.group_by("symbol").len().filter(pl.col("len") == longest).height
    assert spare <= ties + 10


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


@every_vendor
@pytest.mark.parametrize(
    ("machine_zone", "utc", "newest"),
    [
        ("America/Los_Angeles", (3, 30), date(2026, 11, 19)),
        ("Pacific/Kiritimati", (8, 14), date(2026, 11, 19)),
        ("America/Los_Angeles", (8, 15), AS_OF),
    ],
    indirect=["machine_zone"],
)
@pytest.mark.usefixtures("machine_zone")
def test_todays_bar_is_kept_from_1515_in_vietnam_wherever_the_machine_stands(
    market: RawHistory, vendor: str, utc: tuple[int, int], newest: date
) -> None:
    clock = FixedClock(datetime(2026, 11, 20, *utc, tzinfo=UTC))
    since = dict.fromkeys(["XAA", "XAB"], date(2026, 11, 2))
    with stand_in(vendor, market, clock=clock) as server:
        got = source(server, vendor, clock=clock).fetch(list(since), AS_OF, since=since)
    days = pl.col("session").is_between(date(2026, 11, 2), newest)
    assert_frame_equal(told(got), told(market.only(list(since))).filter(days))
    assert got.index.get_column("session").max() == newest


def test_bars_beyond_the_days_asked_for_are_dropped(market: RawHistory) -> None:
    feed = UdfVendor(vendor="vps", history=market, clock=EVENING)

    def answer(request: Request) -> Answer:
        return feed.answer(replace(request, params={**request.params, "from": "0", "to": "99999999999"}))

    with StandIn(answer) as server:
        got = source(server, "vps").fetch(["XAA"], date(2026, 11, 18), since={"XAA": date(2026, 11, 10)})
    days = pl.col("session").is_between(date(2026, 11, 10), date(2026, 11, 18))
    assert_frame_equal(told(got), told(market.only(["XAA"])).filter(days))


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


@every_vendor
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_changes_nothing(vendor: str, market: RawHistory, fault: FaultKind) -> None:
    since = dict.fromkeys(names_of(market), date(2026, 8, 3))
    patience = replace(FAST, timeout_seconds=0.3 if fault == FaultKind.STALL_MID_BODY else 20.0)
    with stand_in(vendor, market, faults={2: fault}) as server:
        got = source(server, vendor, politeness=patience).fetch(list(since), AS_OF, since=since)
        assert len(server.requests) >= 7, "one of them was asked for again"
    assert_frame_equal(told(got), told(market).filter(pl.col("session") >= date(2026, 8, 3)))


@every_vendor
@pytest.mark.parametrize("fault", [FaultKind.FORBIDDEN, FaultKind.CAPTCHA])
def test_a_refusal_stops_everything_at_once(vendor: str, market: RawHistory, fault: FaultKind) -> None:
    with stand_in(vendor, market, faults={1: fault}) as server:
        with pytest.raises(SourceRefusedError, match=rf"{vendor} refuses(.|\n)*next: "):
            source(server, vendor).fetch(names_of(market), AS_OF, since=dict.fromkeys(names_of(market), AS_OF))
        assert len(server.requests) == 2


def test_ssi_refusing_a_data_centre_says_where_to_collect_from(market: RawHistory) -> None:
    with stand_in("ssi", market, datacentre=True) as server:
        with pytest.raises(SourceRefusedError, match=r"Colab(.|\n)*home") as caught:
            source(server, "ssi").fetch(names_of(market), AS_OF)
        assert len(server.requests) == 1
    assert caught.value.status == 403


def test_a_wait_longer_than_reasonable_is_a_refusal(market: RawHistory) -> None:
    feed = UdfVendor(vendor="vps", history=market, clock=EVENING)
    with StandIn(feed.answer, faults={0: FaultKind.TOO_MANY}, retry_after="86400") as server:
        with pytest.raises(SourceRefusedError, match="429"):
            source(server, "vps").fetch(["XAA"], AS_OF)
        assert len(server.requests) == 1


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
@two_vendors
def test_a_fault_that_stays_is_refused_by_name(
    vendor: str, market: RawHistory, fault: FaultKind, error: type[Exception]
) -> None:
    since = dict.fromkeys(names_of(market), date(2026, 8, 3))
    politeness = replace(FAST, attempts=2, timeout_seconds=0.15 if fault == FaultKind.STALL_MID_BODY else 20.0)
    with stand_in(vendor, market, faults=dict.fromkeys(range(1, 99), fault)) as server:
        with pytest.raises(error):
            source(server, vendor, politeness=politeness).fetch(list(since), AS_OF, since=since)
        assert len(server.requests) <= 3


def test_a_bootstrap_that_was_refused_in_the_middle_goes_on_where_it_stopped(
    market: RawHistory, tmp_path: Path
) -> None:
    short = RawHistory(market.bars, market.index, market.listings)
    with stand_in("vps", short) as server:
        source(server, "vps").fetch(names_of(market), AS_OF)
        needed = len(server.requests)
    with stand_in("vps", short, faults={needed - 2: FaultKind.FORBIDDEN}) as server:
        with pytest.raises(SourceRefusedError):
            source(server, "vps", cache=tmp_path).fetch(names_of(market), AS_OF)
        before = len(server.requests)
        got = source(server, "vps", cache=tmp_path).fetch(names_of(market), AS_OF)
        assert len(server.requests) - before < needed / 2
    assert_frame_equal(told(got), told(market))


GOOD: dict[str, object] = {
    "s": "ok",
    "t": [1795046400, 1795132800],  # 2026-11-19 and 20, 00:00 UTC
    "o": [20.0, 20.0],
    "h": [20.0, 20.0],
    "l": [20.0, 20.0],
    "c": [20.0, 20.1],
    "v": [100, 200],
}


def test_the_reply_that_the_wrong_ones_are_made_of_is_good() -> None:
    with replying(GOOD) as server:
        got = source(server, "vndirect_dchart").fetch(["FPT"], AS_OF, since={"FPT": date(2026, 11, 9)})
    assert got.bars.get_column("session").to_list() == [date(2026, 11, 19), date(2026, 11, 20)]


WRONG: list[tuple[str, Callable[[dict[str, object]], object], str]] = [
    ("a list", lambda _: [1, 2], "no object"),
    ("an error", lambda _: {"s": "error", "errmsg": "bad symbol"}, "bad symbol"),
    ("no arrays", lambda _: {"s": "ok"}, "no arrays"),
    ("lengths", lambda good: good | {"c": [20.0]}, "different lengths"),
    ("text", lambda good: good | {"c": ["a", "b"]}, "no numbers"),
    ("milliseconds", lambda good: good | {"t": [1795046400000, 1795132800000]}, "no seconds"),
    ("null stamp", lambda good: good | {"t": [None, 1795132800]}, "no seconds"),
    ("another symbol", lambda good: good | {"symbol": "HPG"}, "bars of HPG"),
    ("range ignored", lambda good: good | {"t": [1111111111, 1111197511]}, "outside the days asked for"),
    ("VND", lambda good: good | {"c": [20000.0, 20100.0]}, "another unit"),
]


@pytest.mark.parametrize(("spoil", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_reply_of_another_shape_or_unit_is_refused(
    spoil: Callable[[dict[str, object]], object], message: str
) -> None:
    politeness = replace(FAST, attempts=2)
    with replying(spoil(GOOD)) as server, pytest.raises(SourceAnswerError, match=message):
        source(server, "vndirect_dchart", politeness=politeness).fetch(["FPT"], AS_OF, since={"FPT": date(2026, 11, 9)})


def test_an_index_told_in_thousandths_is_refused(market: RawHistory) -> None:
    milli = replace(market, index=market.index.with_columns(pl.col("close_points") * 1000))
    with stand_in("vndirect_dchart", milli) as server, pytest.raises(SourceAnswerError, match="than points"):
        source(server, "vndirect_dchart").fetch(["XAA"], AS_OF)


def test_an_envelope_that_does_not_say_success_is_refused() -> None:
    down = {"code": "ERROR", "message": "down", "data": None}
    with replying(down) as server, pytest.raises(SourceAnswerError, match="SUCCESS"):
        source(server, "ssi", politeness=replace(FAST, attempts=2)).fetch(["XAA"], AS_OF)


def test_a_feed_cannot_be_asked_for_everything() -> None:
    with pytest.raises(UsageError, match="cannot list"):
        Udf(vendor="ssi").fetch(None, AS_OF)
    with pytest.raises(UsageError, match="cannot list"):
        Udf(vendor="ssi").plan(None, AS_OF)


def test_a_vendor_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="tcbs"):
        Udf(vendor="tcbs")
