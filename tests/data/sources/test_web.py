from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vnfleet.data.sources.standins.server import Answer, FaultKind, Request, StandIn
from vnfleet.data.sources.web import (
    Politeness,
    SourceAnswerError,
    SourceMissingError,
    SourceRefusedError,
    SourceUnavailableError,
    WebClient,
)

DATA = {"rows": list(range(100))}
BODY = json.dumps(DATA).encode()
FILE = bytes(range(256)) * 20_000  # 5 MB: more than fits the buffers of a socket


@dataclass
class FakeTime:
    """A clock that only moves when somebody sleeps."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def answered(_: Request) -> Answer:
    return Answer(body=BODY)


def hasty(**settings: float) -> Politeness:
    return Politeness(**({"requests_per_second": math.inf, "timeout_seconds": 5.0} | settings))  # type: ignore[arg-type]


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def client(fake_time: FakeTime) -> Iterator[WebClient]:
    with WebClient(hasty(), sleep=fake_time.sleep, clock=fake_time.clock) as web:
        yield web


def always(kind: FaultKind) -> dict[int, FaultKind]:
    return dict.fromkeys(range(100), kind)


# ---------------------------------------------------------------- rate and settings


def test_requests_to_one_host_are_evenly_spaced(fake_time: FakeTime) -> None:
    polite = Politeness(requests_per_second=2.0)
    with StandIn(answered) as vendor, WebClient(polite, sleep=fake_time.sleep, clock=fake_time.clock) as web:
        web.get_json(vendor.url)
        assert fake_time.slept == []
        web.get_json(vendor.url)
        web.get_json(vendor.url)
        fake_time.now += 10.0  # the caller was busy: no turn is saved up, none is waited for
        web.get_json(vendor.url)
    assert fake_time.slept == [0.5, 0.5]


def test_no_more_requests_at_once_than_allowed() -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def counted(_: Request) -> Answer:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.01)
        with lock:
            at_once -= 1
        return Answer(body=BODY)

    with StandIn(counted) as vendor, WebClient(hasty(max_concurrent=3)) as web:
        threads = [threading.Thread(target=web.get_json, args=(vendor.url,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(vendor.requests) == 12
    assert most == 3


@pytest.mark.parametrize(
    "setting",
    [
        {"requests_per_second": 0.0},
        {"requests_per_second": math.nan},
        {"max_concurrent": 0},
        {"attempts": 0},
        {"retry_budget": -1},
        {"first_wait_seconds": 61.0},
        {"timeout_seconds": 0.0},
    ],
)
def test_impossible_politeness_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Politeness(**setting)  # type: ignore[arg-type]


def test_the_polite_time_of_many_requests() -> None:
    assert Politeness(requests_per_second=0.5).seconds_for(1445) == 2890.0
    assert hasty().seconds_for(10**6) == 0.0


# ---------------------------------------------------------------- refusals


def test_a_403_stops_at_once_and_for_all(client: WebClient, fake_time: FakeTime) -> None:
    with StandIn(answered, faults={0: FaultKind.FORBIDDEN}) as vendor:
        with pytest.raises(SourceRefusedError, match="403 Forbidden") as refusal:
            client.get_json(f"{vendor.url}/prices", {"symbol": "FPT"})
        assert refusal.value.status == 403
        assert "ordinary connection" in str(refusal.value)
        assert "/prices" in str(refusal.value)
        with pytest.raises(SourceRefusedError):
            client.get_json(f"{vendor.url}/other")
        assert len(vendor.requests) == 1
    assert fake_time.slept == []


@pytest.mark.parametrize("status", [401, 403])
def test_unauthorised_is_a_refusal(client: WebClient, status: int) -> None:
    with StandIn(lambda _: Answer(status=status)) as vendor, pytest.raises(SourceRefusedError):
        client.get_json(vendor.url)


def test_a_429_waits_as_long_as_it_is_told(client: WebClient, fake_time: FakeTime) -> None:
    with StandIn(answered, faults={0: FaultKind.TOO_MANY}, retry_after="7") as vendor:
        assert client.get_json(vendor.url) == DATA
        assert len(vendor.requests) == 2
    assert fake_time.slept == [7.0]


def test_a_second_429_is_a_refusal(client: WebClient) -> None:
    with StandIn(answered, faults=always(FaultKind.TOO_MANY)) as vendor:
        with pytest.raises(SourceRefusedError, match="429"):
            client.get_json(vendor.url)
        assert len(vendor.requests) == 2


@pytest.mark.parametrize("retry_after", ["3600", "", "Wed, 25 Nov 2026 07:28:00 GMT"])
def test_a_429_that_wants_too_much_or_says_nothing_is_a_refusal(client: WebClient, retry_after: str) -> None:
    with StandIn(answered, faults={0: FaultKind.TOO_MANY}, retry_after=retry_after) as vendor:
        with pytest.raises(SourceRefusedError, match="429"):
            client.get_json(vendor.url)
        assert len(vendor.requests) == 1


def test_a_captcha_page_stops_at_once(client: WebClient) -> None:
    with StandIn(answered, faults={0: FaultKind.CAPTCHA}) as vendor:
        with pytest.raises(SourceRefusedError, match="captcha"):
            client.get_json(vendor.url)
        assert len(vendor.requests) == 1


def test_a_captcha_page_with_status_503_stops_at_once_too(client: WebClient) -> None:
    page = Answer(status=503, body=b"<html>Security Check</html>", content_type="text/html")
    with StandIn(lambda _: page) as vendor:
        with pytest.raises(SourceRefusedError, match="captcha"):
            client.get_json(vendor.url)
        assert len(vendor.requests) == 1


# ---------------------------------------------------------------- accidents


@pytest.mark.parametrize(
    "kind",
    [FaultKind.UNAVAILABLE, FaultKind.CUT_MID_BODY, FaultKind.TRUNCATED, FaultKind.HTML, FaultKind.WRONG_ENCODING],
)
def test_an_accident_is_survived_by_asking_again(client: WebClient, fake_time: FakeTime, kind: FaultKind) -> None:
    with StandIn(answered, faults={0: kind, 1: kind}) as vendor:
        assert client.get_json(vendor.url) == DATA
        assert len(vendor.requests) == 3
    first, second = fake_time.slept
    assert 0.5 <= first <= 1.0
    assert 1.0 <= second <= 2.0


def test_silence_in_the_middle_of_a_body_is_survived(fake_time: FakeTime) -> None:
    with (
        StandIn(answered, faults={0: FaultKind.STALL_MID_BODY}) as vendor,
        WebClient(hasty(timeout_seconds=0.2), sleep=fake_time.sleep) as web,
    ):
        assert web.get_json(vendor.url) == DATA


def test_lasting_silence_is_named(fake_time: FakeTime) -> None:
    with (
        StandIn(answered, faults=always(FaultKind.STALL_MID_BODY)) as vendor,
        WebClient(hasty(timeout_seconds=0.1, attempts=2), sleep=fake_time.sleep) as web,
        pytest.raises(SourceUnavailableError, match=r"silent for 0\.1 s"),
    ):
        web.get_json(vendor.url)


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        (FaultKind.UNAVAILABLE, SourceUnavailableError, "503 Service Unavailable"),
        (FaultKind.CUT_MID_BODY, SourceUnavailableError, "broke off"),
        (FaultKind.TRUNCATED, SourceAnswerError, r"no whole JSON(?s:.*)\{\"rows\": \[0, 1"),
        (FaultKind.HTML, SourceAnswerError, r"web page(?s:.*)<!DOCTYPE html>"),
        (FaultKind.WRONG_ENCODING, SourceAnswerError, "another encoding"),
    ],
)
def test_a_lasting_fault_is_named_with_its_address(
    client: WebClient, kind: FaultKind, error: type[Exception], says: str
) -> None:
    with StandIn(answered, faults=always(kind)) as vendor:
        with pytest.raises(error, match=says) as raised:
            client.get_json(f"{vendor.url}/prices")
        assert "/prices" in str(raised.value)
        assert len(vendor.requests) == 5


def test_a_server_that_is_not_there_is_named(fake_time: FakeTime) -> None:
    with StandIn(answered) as vendor:
        gone = vendor.url
    with (
        WebClient(hasty(attempts=3), sleep=fake_time.sleep) as web,
        pytest.raises(SourceUnavailableError, match="connection to a vendor failed"),
    ):
        web.get_json(gone)
    assert len(fake_time.slept) == 2


def test_the_retry_budget_is_shared_by_all_requests(fake_time: FakeTime) -> None:
    faults = {0: FaultKind.UNAVAILABLE, 2: FaultKind.UNAVAILABLE, 4: FaultKind.UNAVAILABLE}
    with StandIn(answered, faults=faults) as vendor, WebClient(hasty(retry_budget=2), sleep=fake_time.sleep) as web:
        web.get_json(f"{vendor.url}/a")
        web.get_json(f"{vendor.url}/b")
        with pytest.raises(SourceUnavailableError):
            web.get_json(f"{vendor.url}/c")
        assert [request.path for request in vendor.requests] == ["/a", "/a", "/b", "/b", "/c"]


@pytest.mark.parametrize(("status", "error"), [(404, SourceMissingError), (400, SourceAnswerError)])
def test_a_wrong_question_is_not_repeated(client: WebClient, status: int, error: type[SourceAnswerError]) -> None:
    with StandIn(lambda _: Answer(status=status)) as vendor:
        with pytest.raises(error) as raised:
            client.get_json(vendor.url)
        assert raised.value.status == status
        assert len(vendor.requests) == 1


def test_a_byte_order_mark_is_no_other_encoding(client: WebClient) -> None:
    with StandIn(lambda _: Answer(body=b"\xef\xbb\xbf" + BODY)) as vendor:
        assert client.get_json(vendor.url) == DATA


# ---------------------------------------------------------------- redirects and headers


def test_a_redirect_that_keeps_the_question_is_followed(client: WebClient) -> None:
    def moved(request: Request) -> Answer:
        if request.path == "/old":
            return Answer(status=301, headers={"Location": f"/new?symbol={request.params['symbol']}"})
        return Answer(body=json.dumps(dict(request.params)).encode())

    with StandIn(moved) as vendor:
        assert client.get_json(f"{vendor.url}/old", {"symbol": "FPT"}) == {"symbol": "FPT"}


def test_a_redirect_that_drops_the_question_is_an_error_that_says_so(client: WebClient) -> None:
    with StandIn(lambda _: Answer(status=301, headers={"Location": "/new"})) as vendor:
        with pytest.raises(SourceAnswerError, match="drops the question") as raised:
            client.get_json(f"{vendor.url}/old", {"symbol": "FPT"})
        assert f"{vendor.url}/new" in str(raised.value)
        assert len(vendor.requests) == 1


def test_redirects_in_circles_end(client: WebClient) -> None:
    with (
        StandIn(lambda _: Answer(status=302, headers={"Location": "/"})) as vendor,
        pytest.raises(SourceAnswerError, match="circles"),
    ):
        client.get_json(f"{vendor.url}/")


def test_headers_can_be_added_and_taken_away(client: WebClient) -> None:
    with StandIn(answered) as vendor:
        client.get_json(vendor.url, headers={"Accept": None, "Referer": "https://cafef.vn/"})
        (request,) = vendor.requests
    assert "accept" not in request.headers
    assert request.headers["referer"] == "https://cafef.vn/"
    assert "vnfleet" in request.headers["user-agent"]


# ---------------------------------------------------------------- kept answers


def kept_client(tmp_path: Path) -> WebClient:
    return WebClient(hasty(attempts=1), cache=tmp_path / "cache")


def test_a_final_answer_is_asked_for_once(tmp_path: Path) -> None:
    with StandIn(answered) as vendor:
        for _ in range(3):
            with kept_client(tmp_path) as web:
                assert web.get_json(vendor.url, {"page": "1"}, final=True) == DATA
        with kept_client(tmp_path) as web:
            web.get_json(vendor.url, {"page": "2"}, final=True)
            web.get_json(vendor.url, {"page": "1"}, final=True, vintage="re-based")
            web.get_json(vendor.url, {"page": "1"})
        assert len(vendor.requests) == 4


@pytest.mark.parametrize("damage", [b"", b"rubbish", BODY, b"0" * 64 + b"\n" + BODY])
def test_a_damaged_kept_answer_is_asked_for_again(tmp_path: Path, damage: bytes) -> None:
    with StandIn(answered) as vendor, kept_client(tmp_path) as web:
        web.get_json(vendor.url, final=True)
        (kept,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        kept.write_bytes(damage)
        assert web.get_json(vendor.url, final=True) == DATA
        assert web.get_json(vendor.url, final=True) == DATA
        assert len(vendor.requests) == 2


def test_a_kept_answer_is_used_until_it_is_too_old(tmp_path: Path) -> None:
    with StandIn(answered) as vendor, kept_client(tmp_path) as web:
        web.get_json(vendor.url, cache_seconds=60)
        web.get_json(vendor.url, cache_seconds=60)
        assert len(vendor.requests) == 1
        (kept,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        a_minute_ago = time.time() - 61
        os.utime(kept, (a_minute_ago, a_minute_ago))
        web.get_json(vendor.url, cache_seconds=60)
        assert len(vendor.requests) == 2
        os.utime(kept, (a_minute_ago, a_minute_ago))
        web.forget(older_than_seconds=60)
        assert not kept.exists()


def test_an_answer_that_fails_its_check_is_asked_for_again_and_never_kept(tmp_path: Path) -> None:
    bodies = iter([b'"too short"', BODY])

    def refuse_text(value: object) -> None:
        if isinstance(value, str):
            raise SourceAnswerError("text", again=True)

    with (
        StandIn(lambda _: Answer(body=next(bodies))) as vendor,
        WebClient(hasty(first_wait_seconds=0.0), cache=tmp_path) as web,
    ):
        assert web.get_json(vendor.url, final=True, check=refuse_text) == DATA
        assert web.get_json(vendor.url, final=True, check=refuse_text) == DATA
        assert len(vendor.requests) == 2


# ---------------------------------------------------------------- downloads


def served(body: Callable[[], bytes] = lambda: FILE, **headers: str) -> Callable[[Request], Answer]:
    return lambda _: Answer(body=body(), content_type="application/zip", headers=headers, static=True)


def test_a_file_is_fetched_once_while_it_stays_the_same(client: WebClient, tmp_path: Path) -> None:
    bodies = [FILE]
    target = tmp_path / "new" / "prices.zip"
    told: list[tuple[int, int]] = []
    with StandIn(served(lambda: bodies[-1])) as vendor:
        assert client.download(vendor.url, target, progress=lambda done, total, _: told.append((done, total)))
        assert target.read_bytes() == FILE
        assert not client.download(vendor.url, target)
        assert "if-none-match" in vendor.requests[1].headers
        bodies.append(FILE + b"more")
        assert client.download(vendor.url, target)
        assert target.read_bytes() == FILE + b"more"
        target.unlink()
        assert client.download(vendor.url, target)  # a note without its file is no reason not to fetch
    assert told[-1] == (len(FILE), len(FILE))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {path.name for path in target.parent.iterdir()} == {"prices.zip", ".prices.zip.json"}


def test_a_file_from_another_address_is_fetched(client: WebClient, tmp_path: Path) -> None:
    target = tmp_path / "prices.zip"
    with StandIn(served()) as vendor:
        assert client.download(f"{vendor.url}/monday", target)
        assert client.download(f"{vendor.url}/tuesday", target)
        assert "if-none-match" not in vendor.requests[1].headers


def test_last_modified_serves_where_there_is_no_etag(client: WebClient, tmp_path: Path) -> None:
    day = "Fri, 20 Nov 2026 08:00:00 GMT"

    def dated(request: Request) -> Answer:
        if request.headers.get("if-modified-since") == day:
            return Answer(status=304)
        return Answer(body=FILE, content_type="application/zip", headers={"Last-Modified": day})

    with StandIn(dated) as vendor:
        assert client.download(vendor.url, tmp_path / "prices.zip")
        assert not client.download(vendor.url, tmp_path / "prices.zip")


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    target = tmp_path / "prices.zip"
    with StandIn(served(), faults={0: FaultKind.CUT_MID_BODY}) as vendor:
        with WebClient(hasty(attempts=1)) as web, pytest.raises(SourceUnavailableError):
            web.download(vendor.url, target)
        assert not target.exists()
        so_far = (tmp_path / ".prices.zip.part").stat().st_size
        assert 0 < so_far < len(FILE)
        with WebClient(hasty()) as web:
            assert web.download(vendor.url, target)
        assert vendor.requests[1].headers["range"] == f"bytes={so_far}-"
    assert target.read_bytes() == FILE


def test_a_file_that_changed_meanwhile_is_fetched_whole(client: WebClient, tmp_path: Path) -> None:
    bodies = iter([FILE, FILE[::-1]])
    with StandIn(served(lambda: next(bodies)), faults={0: FaultKind.CUT_MID_BODY}) as vendor:
        assert client.download(vendor.url, tmp_path / "prices.zip")
    assert (tmp_path / "prices.zip").read_bytes() == FILE[::-1]


def test_a_finished_part_that_was_not_renamed_is_fetched_again(client: WebClient, tmp_path: Path) -> None:
    target = tmp_path / "prices.zip"
    with StandIn(served()) as vendor:
        client.download(vendor.url, target)
        target.rename(tmp_path / ".prices.zip.part")
        (tmp_path / ".prices.zip.json").rename(tmp_path / ".prices.zip.part.json")
        assert client.download(vendor.url, target)  # 416 first: nothing is left to send
    assert target.read_bytes() == FILE


@pytest.mark.parametrize("kind", [FaultKind.HTML, FaultKind.UNAVAILABLE, FaultKind.CUT_MID_BODY, FaultKind.TRUNCATED])
def test_a_failed_download_leaves_the_old_file(fake_time: FakeTime, tmp_path: Path, kind: FaultKind) -> None:
    target = tmp_path / "prices.zip"
    target.write_bytes(b"old")

    def whole(path: Path) -> None:
        if path.stat().st_size != len(FILE):
            raise SourceAnswerError("a zip is cut", again=True)

    polite = hasty(attempts=2)
    with StandIn(served(), faults=always(kind)) as vendor, WebClient(polite, sleep=fake_time.sleep) as web:
        with pytest.raises((SourceAnswerError, SourceUnavailableError)):
            web.download(vendor.url, target, check=whole)
        assert len(vendor.requests) == 2
    assert target.read_bytes() == b"old"


def test_a_missing_file_is_told_apart(client: WebClient, tmp_path: Path) -> None:
    with StandIn(lambda _: Answer(status=404)) as vendor, pytest.raises(SourceMissingError):
        client.download(vendor.url, tmp_path / "prices.zip")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the stand-in itself


def test_a_bug_of_a_stand_in_is_not_hidden(client: WebClient) -> None:
    def broken(_: Request) -> Answer:
        raise KeyError("symbol")

    with (
        pytest.raises(KeyError, match="symbol"),
        StandIn(broken) as vendor,
        contextlib.suppress(SourceUnavailableError),
    ):
        client.get_json(vendor.url)
