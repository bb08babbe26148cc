"""How politely a vendor is asked: so many requests a second and at once per host, a budget of retries."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vnfleet.core.errors import RemoteError


class SourceError(RemoteError):
    """A vendor could not be asked, or did not answer what was asked.

    status : the HTTP status, if there was one. again : whether asking again may help. wait_seconds : how long the
    vendor wants us to wait first.
    """

    def __init__(
        self,
        what: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        where: object | None = None,
        fix: str | None = None,
        status: int | None = None,
        again: bool = False,
        wait_seconds: float | None = None,
    ) -> None:
        super().__init__(what, expected=expected, found=found, where=where, fix=fix)
        self.status = status
        self.again = again
        self.wait_seconds = wait_seconds


class SourceRefusedError(SourceError):
    """The vendor does not want to be asked (401, 403, 429, captcha): stop at once, for all requests to that host."""


class SourceUnavailableError(SourceError):
    """The vendor did not answer in time, broke off or was out of order, and the retries are used up."""


class SourceAnswerError(SourceError):
    """The vendor answered something else than what was asked for: HTML, another encoding, a cut body, wrong rows."""


class SourceMissingError(SourceAnswerError):
    """The vendor has no such thing (404, 410)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Politeness:
    """How a vendor is asked.

    requests_per_second : of one host, `math.inf` lifts the limit. max_concurrent : requests to one host at once.
    attempts : of one request. retry_budget : retries of all requests of one client together. first_wait_seconds,
    max_wait_seconds : the wait before a retry doubles from the first to the second, shortened at random by up to half;
    a vendor that asks for a longer wait than the second has refused. timeout_seconds : silence that counts as failure.
    """

    requests_per_second: float = 1.0
    max_concurrent: int = 1
    attempts: int = 5
    retry_budget: int = 50
    first_wait_seconds: float = 1.0
    max_wait_seconds: float = 60.0
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.requests_per_second > 0:
            raise ValueError(f"requests_per_second must be positive, not {self.requests_per_second}")
        if self.max_concurrent < 1 or self.attempts < 1 or self.retry_budget < 0:
            raise ValueError("max_concurrent and attempts must be at least 1, retry_budget at least 0")
        if not 0 <= self.first_wait_seconds <= self.max_wait_seconds:
            raise ValueError("first_wait_seconds must lie between 0 and max_wait_seconds")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be positive, not {self.timeout_seconds}")

    def seconds_for(self, num_requests: int) -> float:
        """Return how long so many requests to one host take at the polite rate."""
        return 0.0 if math.isinf(self.requests_per_second) else num_requests / self.requests_per_second


class HostLimit:
    """Turns at one host: at most `max_concurrent` at once, evenly spaced, none after a refusal.

    sleep, clock : seconds; injectable, so that nobody waits in tests.
    """

    def __init__(self, politeness: Politeness, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._interval_seconds = politeness.seconds_for(1)
        self._slots = threading.BoundedSemaphore(politeness.max_concurrent)
        self._lock = threading.Lock()
        self._next_at = -math.inf
        self._sleep = sleep
        self._clock = clock
        self.refusal: SourceRefusedError | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn; raises the host's earlier refusal instead of asking again."""
        with self._slots:
            self._raise_refusal()
            with self._lock:
                now = self._clock()
                at = max(now, self._next_at)
                self._next_at = at + self._interval_seconds
            if at > now:
                self._sleep(at - now)
                self._raise_refusal()
            yield

    def hold(self, seconds: float) -> None:
        """Give no turn for so many seconds."""
        with self._lock:
            self._next_at = max(self._next_at, self._clock() + seconds)

    def _raise_refusal(self) -> None:
        if self.refusal is not None:
            raise self.refusal
