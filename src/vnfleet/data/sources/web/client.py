"""The one HTTP client of all vendors: polite, patient with accidents, deaf to nothing that looks like an answer.

What happens to each kind of answer:

- 401, 403, a captcha page: `SourceRefusedError` at once, and no further request to that host by this client;
- 429: waits as long as it is told, once, if that is not longer than `max_wait_seconds`; otherwise refused;
- 5xx, 408, timeouts, broken connections, HTML or half a body instead of the data: tried again, within the budget;
- 404, 410: `SourceMissingError`; other 4xx: `SourceAnswerError`, both at once;
- a redirect is followed only if the query survives it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx2

from vnfleet.data.sources.base import Progress, no_progress
from vnfleet.data.sources.web.cache import ResponseCache
from vnfleet.data.sources.web.download import Download
from vnfleet.data.sources.web.limits import (
    HostLimit,
    Politeness,
    SourceAnswerError,
    SourceError,
    SourceMissingError,
    SourceRefusedError,
    SourceUnavailableError,
)

T = TypeVar("T")
USER_AGENT = "Mozilla/5.0 (compatible; vnfleet)"
_LOGGER = logging.getLogger(__name__)
_MAX_REDIRECTS = 5
_REFUSED = frozenset({401, 403, 429})
_MISSING = frozenset({404, 410})
_CAPTCHA_MARKS = (b"captcha", b"security check", b"cf-challenge")
_ADVICE = (
    "ask nothing for some hours, then more slowly (requests_per_second); collect from an ordinary connection, not from "
    "a cloud machine or Colab; or use another source"
)


class WebClient:
    """Asks vendors over HTTP; made for one fetch (the retry budget and refusals live as long as the client).

    Can be shared between threads. Use it as a context manager.

    politeness : rates, retries and timeouts. cache : folder for answers that may be kept; None keeps nothing.
    user_agent : sent with every request. transport : of httpx2, for tests. sleep, clock : seconds, monotonic.
    """

    def __init__(
        self,
        politeness: Politeness | None = None,
        *,
        cache: Path | None = None,
        user_agent: str = USER_AGENT,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._politeness = politeness or Politeness()
        self._cache = None if cache is None else ResponseCache(cache)
        self._sleep = sleep
        self._clock = clock
        self._client = httpx2.Client(
            headers={"User-Agent": user_agent},
            timeout=self._politeness.timeout_seconds,
            transport=transport,
            verify=_trusted_authorities(),
        )
        self._lock = threading.Lock()
        self._limits: dict[str, HostLimit] = {}
        self._retries_left = self._politeness.retry_budget
        self._random = random.Random()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def forget(self, *, older_than_seconds: float) -> None:
        """Remove kept answers older than that, so that the cache does not grow for ever."""
        if self._cache is not None:
            self._cache.forget(older_than_seconds)

    def get_json(
        self,
        url: str,
        params: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str | None] | None = None,
        cache_seconds: float | None = None,
        final: bool = False,
        vintage: str = "",
        check: Callable[[object], None] | None = None,
    ) -> object:
        """Return the JSON value (UTF-8, a byte order mark is allowed) that `url` answers.

        headers : added to or, with the value None, taken from the usual ones. cache_seconds : an answer kept on disk is
        used until it is so old. final : the answer never changes, a kept one is used for ever. vintage : kept answers
        of another vintage are not used. check : raises `SourceAnswerError` when the value is not what was asked for;
        the value is neither returned nor kept then (and asked for again if the error says so).

        Raises `SourceError`, see the head of this module.
        """

        def understood(body: bytes) -> object:
            value = _json_of(body, url)
            if check is not None:
                check(value)
            return value

        return self._get(url, params or {}, headers or {}, understood, cache_seconds, final, vintage)

    def download(
        self,
        url: str,
        target: Path,
        *,
        progress: Progress = no_progress,
        check: Callable[[Path], None] | None = None,
    ) -> bool:
        """Fetch the file at `url` to `target`, whole or not at all; return False when `target` is already the newest.

        Asks conditionally when `target` came from the same address, and goes on with a half-finished download when the
        server still has the same file (ETag). progress : in bytes. check : called with the finished temporary file,
        raises `SourceAnswerError` when it is not what was asked for; `target` stays as it was then.

        Raises `SourceError`, see the head of this module; `ResourceError` when the disk is full.
        """
        part = Download(url, target, progress, check)

        def attempt(where: str) -> bool:
            with part.writing():
                return self._ask(url, {}, part.headers(), where, part.consume)

        return self._retrying(url, attempt)

    def _get(
        self,
        url: str,
        params: Mapping[str, str],
        headers: Mapping[str, str | None],
        understood: Callable[[bytes], T],
        cache_seconds: float | None,
        final: bool,
        vintage: str,
    ) -> T:
        cache = self._cache if final or cache_seconds is not None else None
        path = cache.path_of(url, params, vintage) if cache else None
        kept = cache.read(path, None if final else cache_seconds) if cache and path else None
        if kept is not None:
            with contextlib.suppress(SourceAnswerError):  # kept by an older version, say: ask again
                return understood(kept)

        def attempt(where: str) -> tuple[bytes, T]:
            body = self._ask(url, params, headers, where, httpx2.Response.read)
            return body, understood(body)

        body, value = self._retrying(url, attempt)
        if cache and path:
            cache.write(path, body)
        return value

    def _retrying(self, url: str, attempt: Callable[[str], T]) -> T:
        host = httpx2.URL(url).host
        has_waited = False
        for number in range(1, self._politeness.attempts + 1):
            try:
                return attempt(f"{url} (attempt {number} of {self._politeness.attempts})")
            except SourceError as error:
                again = (
                    error.again
                    and number < self._politeness.attempts
                    and not (has_waited and isinstance(error, SourceRefusedError))
                )
                if not again or not self._takes_a_retry():
                    if isinstance(error, SourceRefusedError):
                        self._limit(host).refusal = error
                    raise
                _LOGGER.warning(
                    "%s: %s; asked again (%d of %d)",
                    urlsplit(url).netloc,
                    "; ".join(line.strip() for line in str(error).splitlines()[:2]),
                    number,
                    self._politeness.attempts - 1,
                )
                if error.wait_seconds is None:
                    self._sleep(self._backoff_seconds(number))
                else:
                    has_waited = True
                    self._limit(host).hold(error.wait_seconds)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _takes_a_retry(self) -> bool:
        with self._lock:
            self._retries_left -= 1
            return self._retries_left >= 0

    def _backoff_seconds(self, number: int) -> float:
        longest = min(self._politeness.max_wait_seconds, self._politeness.first_wait_seconds * 2 ** (number - 1))
        return float(longest * self._random.uniform(0.5, 1.0))

    def _limit(self, host: str) -> HostLimit:
        with self._lock:
            if host not in self._limits:
                self._limits[host] = HostLimit(self._politeness, self._sleep, self._clock)
            return self._limits[host]

    def _ask(
        self,
        url: str,
        params: Mapping[str, str],
        headers: Mapping[str, str | None],
        where: str,
        consume: Callable[[httpx2.Response], T],
    ) -> T:
        request = self._client.build_request("GET", url, params=dict(params) or None)
        for name, value in headers.items():
            if value is None:
                request.headers.pop(name, None)
            else:
                request.headers[name] = value
        for _ in range(_MAX_REDIRECTS + 1):
            with self._limit(request.url.host).turn(), self._transport_errors(where):
                response = self._client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        _refuse_captcha(response, where)
                        self._refuse_status(response, where)
                        return consume(response)
                finally:
                    response.close()
            request = _redirected(request, response.next_request, where)
        raise SourceAnswerError("a vendor redirects in circles", found=str(request.url), where=where)

    @contextlib.contextmanager
    def _transport_errors(self, where: str) -> Iterator[None]:
        try:
            yield
        except httpx2.TimeoutException as error:
            raise SourceUnavailableError(
                f"a vendor was silent for {self._politeness.timeout_seconds:g} s",
                where=where,
                fix="try again later, or use another source",
                again=True,
            ) from error
        except httpx2.DecodingError as error:
            raise SourceAnswerError(
                "a vendor's answer cannot be unpacked", found=error, where=where, again=True
            ) from error
        except httpx2.TransportError as error:
            unknown_host = isinstance(error.__cause__, OSError) and "Name or service not known" in str(error)
            raise SourceUnavailableError(
                "the connection to a vendor failed or broke off",
                found="the host is not found: no internet, or no DNS" if unknown_host else str(error) or repr(error),
                where=where,
                fix="check the connection and run the same command again: it goes on where it stopped",
                again=True,
            ) from error

    def _refuse_status(self, response: httpx2.Response, where: str) -> None:
        status = response.status_code
        if response.is_success or status in {304, 416}:
            return
        found = f"{status} {response.reason_phrase}"
        if status in _REFUSED:
            wait = _retry_after_seconds(response)
            again = wait is not None and wait <= self._politeness.max_wait_seconds
            raise SourceRefusedError(
                "a vendor refuses to be asked",
                found=found if wait is None else f"{found}, wait {wait:g} s",
                where=where,
                fix=_ADVICE,
                status=status,
                again=again and status == 429,
                wait_seconds=wait if again else None,
            )
        if status in _MISSING:
            raise SourceMissingError("a vendor has no such thing", found=found, where=where, status=status)
        if response.is_server_error or status == 408:
            raise SourceUnavailableError(
                "a vendor is out of order", found=found, where=where, fix="try again later", status=status, again=True
            )
        raise SourceAnswerError("a vendor does not understand the question", found=found, where=where, status=status)


@functools.cache
def _trusted_authorities() -> ssl.SSLContext:
    """Return the usual certificates, read once: reading them takes longer than a request."""
    return httpx2.create_ssl_context()


def beginning_of(body: bytes) -> str:
    """Return the first bytes of a body in printable form, for error messages."""
    return f"{body[:80]!r}{'...' if len(body) > 80 else ''} ({len(body)} bytes)"


def _json_of(body: bytes, url: str) -> object:
    try:
        value: object = json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        problem, expected = "a vendor's answer is in another encoding, or cut", "JSON in UTF-8"
        raise SourceAnswerError(problem, expected=expected, found=beginning_of(body), where=url, again=True) from error
    except ValueError as error:
        is_page = body.lstrip()[:1] == b"<"
        raise SourceAnswerError(
            "a vendor answers with a web page instead of data" if is_page else "a vendor's answer is no whole JSON",
            expected="JSON",
            found=beginning_of(body),
            where=url,
            fix="try again later; if it stays so, the vendor has changed its service: use another source",
            again=True,
        ) from error
    return value


def _refuse_captcha(response: httpx2.Response, where: str) -> None:
    """Raise when the answer is a page that wants to see a human; some are sent with 503, other error pages say less."""
    is_page = response.headers.get("content-type", "").startswith("text/html")
    if not is_page or not (response.is_success or response.status_code == 503):
        return
    page = response.read().lower()
    if any(mark in page for mark in _CAPTCHA_MARKS):
        raise SourceRefusedError(
            "a vendor wants to see a human (captcha)",
            found=beginning_of(page),
            where=where,
            fix=_ADVICE,
            status=response.status_code,
        )


def _redirected(request: httpx2.Request, target: httpx2.Request | None, where: str) -> httpx2.Request:
    assert target is not None
    if target.url.query != request.url.query:
        raise SourceAnswerError(
            "a vendor redirects to another address and drops the question on the way",
            expected=f"?{request.url.query.decode()}",
            found=str(target.url),
            where=where,
            fix=f"ask {target.url.host} directly: set the new base address in the configuration",
        )
    return target


def _retry_after_seconds(response: httpx2.Response) -> float | None:
    """Return the seconds of Retry-After; a date, or nonsense, counts as none told."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None
