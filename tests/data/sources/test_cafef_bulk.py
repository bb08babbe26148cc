"""CafeF's bulk download against a stand-in: what is asked, what is kept, and every way it goes wrong."""

import io
import math
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import FetchPlan, Progress, RawHistory, Source, no_progress, raw_history
from vnfleet.data.sources.cafef.bulk import CafefBulk
from vnfleet.data.sources.cafef.sets import newest_set, read_set
from vnfleet.data.sources.cafef.zips import BulkKind, BulkName, read_zip
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.data.sources.standins.cafef_bulk import BulkFiles, bulk_zips, cafef_bulk_stand_in, path_of
from vnfleet.data.sources.standins.server import Answer, FaultKind, Request, StandIn
from vnfleet.data.sources.web import (
    Politeness,
    SourceAnswerError,
    SourceError,
    SourceMissingError,
    SourceRefusedError,
    SourceUnavailableError,
)

FRIDAY, THURSDAY, WEDNESDAY = date(2019, 6, 14), date(2019, 6, 13), date(2019, 6, 12)
BOLD = Politeness(requests_per_second=math.inf, first_wait_seconds=0.0, timeout_seconds=0.3)
DATA = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture(scope="module")
def market() -> RawHistory:
    source = SimulatedSource(SimulatedMarket(num_symbols=6, start=date(2018, 1, 2)))
    history = source.fetch(None, FRIDAY)
    return replace(history, bars=history.bars.with_columns(exchange=pl.lit("HOSE")))


@pytest.fixture
def files(market: RawHistory) -> BulkFiles:
    folder = BulkFiles()
    folder.publish(market, FRIDAY)
    return folder


def name_of(kind: BulkKind, day: date = FRIDAY) -> BulkName:
    return BulkName(kind=kind, day=day)


def asked(server: StandIn) -> list[str]:
    return [request.path.rpartition("/")[2] for request in server.requests]


def source_for(server: StandIn, folder: Path, politeness: Politeness = BOLD) -> CafefBulk:
    return CafefBulk(workdir=folder, base_url=server.url, politeness=politeness)


def swollen(body: bytes) -> bytes:
    """A zip with three megabytes more in it, so that half of it is worth resuming."""
    buffer = io.BytesIO(body)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("notes.bin", random.Random(1).randbytes(3 * 2**20))
    return buffer.getvalue()


def test_three_requests_bring_the_whole_market(market: RawHistory, files: BulkFiles, tmp_path: Path) -> None:
    with StandIn(files.answer) as server:
        source: Source = source_for(server, tmp_path)
        history = source.fetch(None, FRIDAY, since={"XAA": THURSDAY})
        assert asked(server) == [
            "CafeF.Index.Upto14062019.zip",
            "CafeF.SolieuGD.Raw.Upto14062019.zip",
            "CafeF.SolieuGD.Upto14062019.zip",
        ]
        assert {request.path.split("/")[3] for request in server.requests} == {"20190614"}
    assert history.bars.equals(market.bars)
    assert history.index.equals(market.index)
    assert source.name == "cafef_bulk"


def test_the_second_fetch_transfers_nothing(files: BulkFiles, tmp_path: Path) -> None:
    with StandIn(files.answer) as server:
        first = source_for(server, tmp_path).fetch(None, FRIDAY)
        second = source_for(server, tmp_path).fetch(None, FRIDAY)
        assert all("if-none-match" in request.headers for request in server.requests[3:])
        assert len(server.requests) == 6
    assert second.bars.equals(first.bars)


def test_a_weekend_falls_back_to_the_last_day_with_files(files: BulkFiles, tmp_path: Path) -> None:
    with StandIn(files.answer) as server:
        history = source_for(server, tmp_path).fetch(["XAB"], date(2019, 6, 16))
        assert asked(server)[:3] == [
            "CafeF.Index.Upto16062019.zip",
            "CafeF.Index.Upto15062019.zip",
            "CafeF.Index.Upto14062019.zip",
        ]
    assert history.bars.get_column("session").max() == FRIDAY
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["20190614"]


@pytest.mark.parametrize("kind", list(BulkKind))
def test_an_incomplete_newest_set_is_passed_over(market: RawHistory, tmp_path: Path, kind: BulkKind) -> None:
    with cafef_bulk_stand_in(market, [WEDNESDAY, FRIDAY], missing=[(FRIDAY, kind)]) as server:
        history = source_for(server, tmp_path).fetch(None, FRIDAY)
    assert history.bars.get_column("session").max() == WEDNESDAY
    assert history.index.get_column("session").max() == WEDNESDAY


def test_an_older_set_is_removed_once_a_newer_one_is_whole(market: RawHistory, tmp_path: Path) -> None:
    with cafef_bulk_stand_in(market, [WEDNESDAY, FRIDAY]) as server:
        source = source_for(server, tmp_path)
        (tmp_path / "20190601").mkdir()
        (tmp_path / "20190601" / "my notes.txt").touch()
        source.fetch(None, WEDNESDAY)
        source.fetch(None, FRIDAY)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["20190601", "20190614"]


def test_a_set_that_is_too_old_is_refused_with_what_was_there(market: RawHistory, tmp_path: Path) -> None:
    with cafef_bulk_stand_in(market, [WEDNESDAY, FRIDAY], missing=[(FRIDAY, BulkKind.ADJUSTED)]) as server:
        source = replace(source_for(server, tmp_path), max_age_days=3)
        with pytest.raises(SourceMissingError, match=r"new enough[\s\S]*2019-06-14 \(Index and SolieuGD.Raw only\)"):
            source.fetch(None, date(2019, 6, 16))
        assert source.fetch(None, date(2019, 6, 15)).bars.get_column("session").max() == WEDNESDAY


def test_no_rows_of_the_symbols_asked_for_are_refused(files: BulkFiles, tmp_path: Path) -> None:
    with StandIn(files.answer) as server, pytest.raises(BadDataError, match=r"no rows of the stocks[\s\S]*ZZZ"):
        source_for(server, tmp_path).fetch(["ZZZ"], FRIDAY)


def test_403_and_a_captcha_stop_at_once_with_advice(files: BulkFiles, tmp_path: Path) -> None:
    for fault in (FaultKind.FORBIDDEN, FaultKind.CAPTCHA):
        with StandIn(files.answer, faults={1: fault}) as server:
            with pytest.raises(SourceRefusedError, match=r"next: ask nothing for some hours"):
                source_for(server, tmp_path / fault.name).fetch(None, FRIDAY)
            assert len(server.requests) == 2


def test_429_is_waited_for_once_and_refused_when_the_wait_is_long(files: BulkFiles, tmp_path: Path) -> None:
    with StandIn(files.answer, faults={1: FaultKind.TOO_MANY}, retry_after="0") as server:
        assert source_for(server, tmp_path / "short").fetch(None, FRIDAY).bars.height
        assert len(server.requests) == 4
    with StandIn(files.answer, faults={1: FaultKind.TOO_MANY}, retry_after="3600") as server:
        with pytest.raises(SourceRefusedError, match="3600"):
            source_for(server, tmp_path / "long").fetch(None, FRIDAY)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "fault",
    [
        FaultKind.UNAVAILABLE,
        FaultKind.CUT_MID_BODY,
        FaultKind.STALL_MID_BODY,
        FaultKind.TRUNCATED,
        FaultKind.HTML,
        FaultKind.WRONG_ENCODING,
        FaultKind.EMPTY,
        FaultKind.REPEATED,
    ],
)
def test_one_bad_answer_is_asked_again(market: RawHistory, files: BulkFiles, tmp_path: Path, fault: FaultKind) -> None:
    empty = Answer(body=b"", content_type="application/x-zip-compressed")
    with StandIn(files.answer, faults={1: fault}, empty=empty) as server:
        assert source_for(server, tmp_path).fetch(None, FRIDAY).bars.equals(market.bars)
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (FaultKind.UNAVAILABLE, "out of order"),
        (FaultKind.CUT_MID_BODY, "failed or broke off"),
        (FaultKind.STALL_MID_BODY, "was silent for 0.3 s"),
        (FaultKind.TRUNCATED, r"something else than a whole zip[\s\S]*truncated or damaged"),
        (FaultKind.HTML, "web page instead of a file"),
        (FaultKind.WRONG_ENCODING, r"something else than a whole zip"),
        (FaultKind.EMPTY, r"something else than a whole zip[\s\S]*an empty file"),
    ],
)
def test_a_fault_that_stays_is_named_and_leaves_no_file(
    files: BulkFiles, tmp_path: Path, fault: FaultKind, message: str
) -> None:
    empty = Answer(body=b"", content_type="application/x-zip-compressed")
    with StandIn(files.answer, faults=dict.fromkeys(range(1, 9), fault), empty=empty) as server:
        with pytest.raises(SourceError, match=message) as refusal:
            source_for(server, tmp_path, replace(BOLD, attempts=2)).fetch(None, FRIDAY)
        assert "CafeF.SolieuGD.Raw.Upto14062019.zip" in str(refusal.value)
        assert len(server.requests) == 3
    assert not list(tmp_path.rglob("*/CafeF.SolieuGD.Raw*"))


def test_a_web_page_that_calls_itself_a_zip_is_refused(files: BulkFiles, tmp_path: Path) -> None:
    files.put(name_of(BulkKind.ADJUSTED), b"<html><body>Bao tri he thong</body></html>")
    with StandIn(files.answer) as server, pytest.raises(SourceAnswerError, match=r"a web page: .*Bao tri"):
        source_for(server, tmp_path).fetch(None, FRIDAY)


def test_a_whole_zip_with_wrong_rows_is_refused_and_asked_for_anew(
    market: RawHistory, files: BulkFiles, tmp_path: Path
) -> None:
    good = bulk_zips(market, FRIDAY)[name_of(BulkKind.INDEX)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source, zipfile.ZipFile(buffer, "w") as target:
        for member in source.namelist():
            target.writestr(member, source.read(member).decode("utf-8-sig").encode("utf-16"))
    files.put(name_of(BulkKind.INDEX), buffer.getvalue())
    with StandIn(files.answer) as server:
        with pytest.raises(SourceAnswerError, match=r"files of 2019-06-14 cannot be used[\s\S]*not in UTF-8"):
            source_for(server, tmp_path).fetch(None, FRIDAY)
        files.put(name_of(BulkKind.INDEX), good)
        assert source_for(server, tmp_path).fetch(None, FRIDAY).bars.equals(market.bars)


def replacing(files: BulkFiles, after: int, newer: Mapping[BulkName, bytes]) -> Callable[[Request], Answer]:
    """Answer from `files`, whose content is replaced right after the answer number `after`."""
    count = iter(range(1000))

    def answer(request: Request) -> Answer:
        told = files.answer(request)
        if next(count) == after:
            for name, body in newer.items():
                files.put(name, body)
        return told

    return answer


def test_a_set_that_is_replaced_while_it_is_downloaded_is_never_mixed(market: RawHistory, tmp_path: Path) -> None:
    dearer = replace(market, bars=market.bars.with_columns(pl.col("^.*_vnd$") * 2))
    old, new = (
        {name: swollen(body) for name, body in bulk_zips(history, FRIDAY).items()} for history in (market, dearer)
    )
    files = BulkFiles()
    for name, body in old.items():
        files.put(name, body)
    with StandIn(replacing(files, 1, new), faults={1: FaultKind.CUT_MID_BODY}) as server:
        history = source_for(server, tmp_path).fetch(None, FRIDAY)
        resumed = server.requests[2]
        assert resumed.headers["range"].startswith("bytes=")
        assert "if-range" in resumed.headers
    assert history.bars.select("symbol", "session", "close_vnd", "volume_shares").equals(
        dearer.bars.select("symbol", "session", "close_vnd", "volume_shares")
    )
    assert (tmp_path / "20190614" / name_of(BulkKind.RAW).file_name).read_bytes() == new[name_of(BulkKind.RAW)]


def test_a_set_that_is_replaced_between_two_files_is_asked_for_once_more(market: RawHistory, tmp_path: Path) -> None:
    files = BulkFiles()
    for name, body in bulk_zips(market.until(THURSDAY), FRIDAY).items():
        files.put(name, body)
    with StandIn(replacing(files, 1, bulk_zips(market, FRIDAY))) as server:
        history = source_for(server, tmp_path).fetch(None, FRIDAY)
        assert len(server.requests) == 6
        assert all("if-none-match" in request.headers for request in server.requests[3:])
    assert history.bars.equals(market.bars)
    assert history.index.equals(market.index)


def test_raw_of_one_vintage_and_adjusted_of_another_are_refused(market: RawHistory, tmp_path: Path) -> None:
    files = BulkFiles()
    for name, body in bulk_zips(market, FRIDAY).items():
        files.put(name, body)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, rows in _members_without_newest(bulk_zips(market, FRIDAY)[name_of(BulkKind.ADJUSTED)]).items():
            archive.writestr(member, rows)
    files.put(name_of(BulkKind.ADJUSTED), buffer.getvalue())
    with StandIn(files.answer) as server, pytest.raises(SourceAnswerError, match="adjusted on 2019-06-13"):
        source_for(server, tmp_path).fetch(None, FRIDAY)
    assert not (tmp_path / "20190614").exists()


def _members_without_newest(body: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return {
            name: b"".join(line for line in archive.read(name).splitlines(keepends=True) if b",20190614," not in line)
            if "HSX" in name
            else archive.read(name)
            for name in archive.namelist()
        }


KILLED = """
import math, sys
from datetime import date
from pathlib import Path
from vnfleet.data.sources.cafef.bulk import CafefBulk
from vnfleet.data.sources.web import Politeness
polite = Politeness(requests_per_second=math.inf, timeout_seconds=60)
CafefBulk(workdir=Path(sys.argv[1]), base_url=sys.argv[2], politeness=polite).fetch(None, date(2019, 6, 14))
"""


def test_kill_9_in_the_middle_of_a_download_loses_nothing(market: RawHistory, tmp_path: Path) -> None:
    files = BulkFiles()
    bodies = {name: swollen(body) for name, body in bulk_zips(market, FRIDAY).items()}
    for name, body in bodies.items():
        files.put(name, body)
    raw = name_of(BulkKind.RAW)
    part = tmp_path / "20190614" / f".{raw.file_name}.part"
    with StandIn(files.answer, faults={1: FaultKind.STALL_MID_BODY}) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), server.url])
        until = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size >= 2**20):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        kept = part.stat().st_size
        assert not (part.parent / raw.file_name).exists()
        history = source_for(server, tmp_path).fetch(None, FRIDAY)
        index, resumed, adjusted = server.requests[2:]
    assert history.bars.equals(market.bars)
    assert "if-none-match" in index.headers  # answered with 304: not a byte again
    assert resumed.headers["range"] == f"bytes={kept}-"
    assert 2**20 <= kept <= len(bodies[raw]) // 2
    assert "range" not in adjusted.headers
    assert (part.parent / raw.file_name).read_bytes() == bodies[raw]


@dataclass
class Elsewhere:
    """A source that knows one transferred stock."""

    history: RawHistory
    asked: list[tuple[tuple[str, ...], date]] = field(default_factory=list)
    name: str = "elsewhere"

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        assert since is None
        progress(1, 1, "asked elsewhere")
        self.asked.append((tuple(symbols or ()), as_of))
        return self.history.until(as_of)

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        assert since is None
        return FetchPlan(requests=7, host="elsewhere.vn", seconds=7.0, sentence=f"7 pages of {symbols} until {as_of}")


@pytest.fixture
def moved(market: RawHistory) -> Iterator[StandIn]:
    with cafef_bulk_stand_in(market, [FRIDAY], transfers={"XAB": date(2019, 1, 2)}) as server:
        yield server


def test_a_transferred_stock_comes_whole_from_the_other_source(
    market: RawHistory, moved: StandIn, tmp_path: Path
) -> None:
    alone = source_for(moved, tmp_path).fetch(["XAB"], FRIDAY).bars
    assert alone.get_column("session").min() == date(2019, 1, 2)
    told = market.bars.with_columns(exchange=pl.lit("HNX"), volume_shares=pl.col("volume_shares") + 1)
    other = Elsewhere(raw_history(told, None, None))
    source = replace(source_for(moved, tmp_path), transferred=other, transferred_symbols=("XAB",))
    history = source.fetch(None, date(2019, 6, 16))
    assert other.asked == [(("XAB",), FRIDAY)]
    is_moved = pl.col("symbol") == "XAB"
    assert history.bars.filter(is_moved).equals(told.filter(is_moved))
    assert history.bars.filter(~is_moved).equals(market.bars.filter(~is_moved))
    assert history.bars.equals(history.bars.sort("symbol", "session"))
    assert history.listings.filter(is_moved).rows() == [("XAB", "HOSE", "")]
    source.fetch(["XAA"], FRIDAY)
    assert len(other.asked) == 1


def test_a_replacement_that_knows_less_is_refused(market: RawHistory, moved: StandIn, tmp_path: Path) -> None:
    for told in (
        market.bars.filter(pl.col("session") < FRIDAY),
        market.bars.filter(pl.col("session") > date(2019, 2, 1)),
        market.bars.filter(pl.col("symbol") != "XAB"),
    ):
        source = replace(
            source_for(moved, tmp_path),
            transferred=Elsewhere(raw_history(told, None, None)),
            transferred_symbols=("XAB",),
        )
        with pytest.raises(SourceAnswerError, match=r"knows less[\s\S]*XAB from 2019-01-02"):
            source.fetch(None, FRIDAY)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_age_days"):
        CafefBulk(workdir=tmp_path, max_age_days=-1)
    with pytest.raises(ValueError, match="need a source"):
        CafefBulk(workdir=tmp_path, transferred_symbols=("ACB",))


def test_the_plan_tells_requests_and_bytes_and_asks_nothing(
    market: RawHistory, files: BulkFiles, tmp_path: Path
) -> None:
    with StandIn(files.answer) as server:
        source = replace(source_for(server, tmp_path, Politeness(requests_per_second=2.0)), max_age_days=4)
        plan = source.plan(None, FRIDAY)
        assert (plan.requests, plan.seconds) == (15, 7.5)
        assert "about 88 MB" in plan.sentence
        assert "here already" not in plan.sentence
        assert plan.host in server.url
        assert not server.requests
        source.fetch(None, FRIDAY)
        assert "those of 2019-06-14 are here already" in source.plan(None, date(2019, 6, 16)).sentence
        assert len(server.requests) <= plan.requests
    both = replace(source, transferred=Elsewhere(market), transferred_symbols=("XAB",))
    assert both.plan(None, FRIDAY).requests == 22
    assert "XAB from elsewhere: 7 pages of ('XAB',) until 2019-06-14" in both.plan(None, FRIDAY).sentence
    assert both.plan(["XAA"], FRIDAY).requests == 15


def test_progress_names_each_step(files: BulkFiles, tmp_path: Path) -> None:
    told: list[str] = []
    with StandIn(files.answer) as server:
        source_for(server, tmp_path).fetch(None, FRIDAY, progress=lambda _done, _total, doing: told.append(doing))
    assert told[0] == "looking for CafeF's files of 2019-06-14"
    assert "CafeF.SolieuGD.Raw.Upto14062019.zip" in told
    assert "joining raw and adjusted prices" in told


def test_the_stand_in_adjusts_on_the_base_of_its_own_day(tmp_path: Path) -> None:
    days = [WEDNESDAY, THURSDAY, FRIDAY]
    bars = pl.DataFrame(
        {
            "symbol": ["HPG"] * 3,
            "session": days,
            **{f"{name}_vnd": [31000.0, 23200.0, 23500.0] for name in ("open", "high", "low", "close")},
            "adjusted_close_vnd": [23850.0, 23200.0, 23500.0],
            "volume_shares": [1, 2, 3],
        }
    )
    index = pl.DataFrame({"session": days, "close_points": [900.0, 901.0, 902.0]})
    history = raw_history(bars, index, None)
    for day, adjusted in ((WEDNESDAY, [31000.0]), (FRIDAY, [23850.0, 23200.0, 23500.0])):
        folder = tmp_path / str(day)
        folder.mkdir()
        for name, body in bulk_zips(history, day).items():
            (folder / name.file_name).write_bytes(body)
        told = read_set(newest_set(folder.iterdir()), day)
        assert told.bars.get_column("adjusted_close_vnd").to_list() == adjusted
        assert told.bars.get_column("close_vnd").to_list() == [31000.0, 23200.0, 23500.0][: len(adjusted)]
    assert path_of(name_of(BulkKind.RAW)) == "/data/ami_data/20190614/CafeF.SolieuGD.Raw.Upto14062019.zip"


def test_the_stand_in_has_the_quirks_of_the_real_files(market: RawHistory, tmp_path: Path) -> None:
    zips = bulk_zips(market, date(2019, 6, 15))
    for name, body in zips.items():
        (tmp_path / name.file_name).write_bytes(body)
    with zipfile.ZipFile(tmp_path / "CafeF.SolieuGD.Raw.Upto15062019.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert list(members) == [f"CafeF.RAW_{board}.Upto15.06.2019.csv" for board in ("HSX", "HNX", "UPCOM")]
    hsx = members["CafeF.RAW_HSX.Upto15.06.2019.csv"]
    assert hsx.startswith(b"\xef\xbb\xbf<Ticker>,<DTYYYYMMDD>,<Open>,<High>,<Low>,<Close>,<Volume>\r\n")
    assert b"\r\nCFPT2601,2019" in hsx
    index = read_zip(tmp_path / "CafeF.Index.Upto15062019.zip").filter(pl.col("symbol") == "VNINDEX")
    assert index.get_column("session")[0].isoweekday() == 6  # the phantom
    assert bulk_zips(market, date(2019, 6, 15)) == zips


@pytest.mark.real_data
def test_real_prices_survive_the_journey(tmp_path: Path) -> None:
    path = DATA / "cafef_price_history_2012_2024.parquet"
    if not path.exists():
        pytest.skip("needs the price files of ../shared/data")
    day = date(2013, 6, 28)
    table = pl.read_parquet(path).filter(pl.col("Symbol") < "D", pl.col("Ngay").str.slice(6) < "2014")
    table.vstack(pl.read_parquet(path).filter(pl.col("Symbol") == "VNINDEX")).write_parquet(tmp_path / "some.parquet")
    given = FilesSource(tmp_path / "some.parquet").fetch(None, day)
    with cafef_bulk_stand_in(given, [day]) as server:
        told = source_for(server, tmp_path / "cache").fetch(None, day)
    raw = ["symbol", "session", "open_vnd", "high_vnd", "low_vnd", "close_vnd", "volume_shares"]
    assert told.bars.select(raw).equals(given.bars.select(raw))
    assert told.index.equals(given.index)
    assert told.bars.height > 10_000


def test_an_unavailable_server_is_not_a_day_without_files(files: BulkFiles, tmp_path: Path) -> None:
    with StandIn(files.answer, faults=dict.fromkeys(range(9), FaultKind.UNAVAILABLE)) as server:
        with pytest.raises(SourceUnavailableError):
            source_for(server, tmp_path, replace(BOLD, attempts=2)).fetch(None, FRIDAY)
        assert len(server.requests) == 2
