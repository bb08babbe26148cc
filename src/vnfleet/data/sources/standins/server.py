"""The HTTP server under every stand-in vendor: counts what it is asked and misbehaves on request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from vnfleet.core.ids import sha256_hex

_LONGEST_STALL_SECONDS = 60.0
_PAGE = b"<!DOCTYPE html><html><head><title>CafeF</title></head><body><h1>The page moved</h1></body></html>"
_CAPTCHA = (
    b"<!DOCTYPE html><html><head><title>Security Check</title></head>"
    b"<body>Please complete the captcha to continue.</body></html>"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in: method, path without the query, query parameters, headers (lower-case names)."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back.

    static : the body is a file: it gets an ETag, and Range and If-None-Match are honoured.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    static: bool = False


class FaultKind(StrEnum):
    """What a vendor does instead of answering."""

    FORBIDDEN = "403"
    TOO_MANY = "429 with Retry-After"
    UNAVAILABLE = "503"
    CUT_MID_BODY = "connection dropped half way through the announced length"
    STALL_MID_BODY = "half of the body, then silence"
    TRUNCATED = "half of the body with a matching length"
    HTML = "a 200 page instead of the data"
    CAPTCHA = "a 200 page that asks for a captcha"
    WRONG_ENCODING = "the body in UTF-16"
    EMPTY = "a well-formed answer with nothing in it"
    REPEATED = "the previous answer again"


_INSTEAD = {
    FaultKind.FORBIDDEN: Answer(status=403, body=b"Forbidden", content_type="text/plain"),
    FaultKind.UNAVAILABLE: Answer(status=503, body=b"busy", content_type="text/plain"),
    FaultKind.HTML: Answer(body=_PAGE, content_type="text/html; charset=utf-8"),
    FaultKind.CAPTCHA: Answer(body=_CAPTCHA, content_type="text/html; charset=utf-8"),
}


class StandIn:
    """A server on 127.0.0.1 and a free port, alive inside a `with` block; answers in threads.

    answer : called with each request, possibly from several threads at once.
    faults : what goes wrong, by number of the request (the first is 0).
    latency_seconds : waited before every answer.
    empty : the vendor's well-formed empty answer, for `FaultKind.EMPTY`.
    retry_after : value of the header that comes with `FaultKind.TOO_MANY`.

    An exception inside `answer` is sent as a 500 and raised again when the block ends.
    """

    def __init__(
        self,
        answer: Callable[[Request], Answer],
        *,
        faults: Mapping[int, FaultKind] | None = None,
        latency_seconds: float = 0.0,
        empty: Answer | None = None,
        retry_after: str = "1",
    ) -> None:
        self._answer = answer
        self._faults = dict(faults or {})
        self._latency_seconds = latency_seconds
        self._empty = empty or Answer(body=b"{}")
        self._retry_after = retry_after
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._previous: Answer | None = None
        self._errors: list[Exception] = []
        self._closing = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Base address, without a slash at the end."""
        assert self._server is not None, "a stand-in is alive inside its `with` block only"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> list[Request]:
        """What was asked so far, in order."""
        with self._lock:
            return list(self._requests)

    def __enter__(self) -> Self:
        handler = type("_Handler", (_Handler,), {"stand_in": self})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        if self._errors and error is None:
            raise self._errors[0]

    def respond(self, request: Request) -> tuple[Answer, FaultKind | None]:
        """Return what to send for `request` and the fault to play while sending it."""
        with self._lock:
            fault = self._faults.get(len(self._requests))
            self._requests.append(request)
        self._closing.wait(self._latency_seconds)
        replaced = self._instead(fault)
        if replaced is not None:
            return replaced, fault
        try:
            answer = self._answer(request)
        except Exception as error:  # noqa: BLE001 - a bug of the stand-in belongs to whoever started it
            self._errors.append(error)
            return Answer(status=500, body=str(error).encode()), None
        if fault == FaultKind.TRUNCATED:
            answer = replace(answer, body=answer.body[: len(answer.body) // 2], static=False)
        elif fault == FaultKind.WRONG_ENCODING:
            answer = replace(answer, body=_utf16(answer.body), static=False)
        else:
            with self._lock:
                self._previous = answer
        return answer, fault

    def _instead(self, fault: FaultKind | None) -> Answer | None:
        if fault == FaultKind.TOO_MANY:
            return Answer(status=429, headers={"Retry-After": self._retry_after})
        if fault == FaultKind.EMPTY:
            return self._empty
        if fault == FaultKind.REPEATED:
            with self._lock:
                return self._previous
        return _INSTEAD.get(fault) if fault is not None else None

    def stall(self) -> None:
        """Be silent until the stand-in closes (at most a minute)."""
        self._closing.wait(_LONGEST_STALL_SECONDS)


def _utf16(body: bytes) -> bytes:
    try:
        return body.decode().encode("utf-16")
    except UnicodeDecodeError:
        return body.decode("latin-1").encode("utf-16")


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client hangs up."""


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        parts = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=parts.path,
            params=dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        answer, fault = self.stand_in.respond(request)
        self._send(_conditional(answer, request), fault)

    do_GET = do_POST = do_HEAD = _handle

    def _send(self, answer: Answer, fault: FaultKind | None) -> None:
        self.send_response(answer.status, HTTPStatus(answer.status).phrase)
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = b"" if self.command == "HEAD" else answer.body
        if fault in {FaultKind.CUT_MID_BODY, FaultKind.STALL_MID_BODY}:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == FaultKind.STALL_MID_BODY:
                self.stand_in.stall()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(body)
        self.wfile.flush()


def _conditional(answer: Answer, request: Request) -> Answer:
    """Honour If-None-Match, If-Modified-Since, Range and If-Range for a static answer."""
    if not answer.static or answer.status != HTTPStatus.OK:
        return answer
    etag = answer.headers.get("ETag") or f'"{sha256_hex(answer.body)[:16]}"'
    headers = {**answer.headers, "ETag": etag, "Accept-Ranges": "bytes"}
    asked = request.headers
    modified = answer.headers.get("Last-Modified")
    known = asked["if-none-match"] == etag if "if-none-match" in asked else modified == asked.get("if-modified-since")
    if known and ("if-none-match" in asked or modified is not None):
        return replace(answer, status=304, body=b"", headers=headers)
    start = _range_start(asked.get("range", ""))
    if start is None or asked.get("if-range", etag) not in {etag, modified}:
        return replace(answer, headers=headers)
    size = len(answer.body)
    if start >= size:
        return replace(answer, status=416, body=b"", headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    return replace(answer, status=206, body=answer.body[start:], headers=headers)


def _range_start(header: str) -> int | None:
    first, _, last = header.removeprefix("bytes=").partition("-")
    return int(first) if header.startswith("bytes=") and first.isdigit() and not last else None
