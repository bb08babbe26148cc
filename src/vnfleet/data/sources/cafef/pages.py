"""CafeF's price history, symbol by symbol and page by page (PriceHistory.ashx): slow, capped, deep.

What the service does (2026): dates are asked as MM/DD/YYYY and told as dd/mm/yyyy, a wrong format is ignored; at most
20 rows a page; a range is silently cut to about three months, its total too; refusals come with status 200; the old
host drops the question. Sources: the project's reference on data sources, section 4 (four independent probes).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl

from vnfleet.core.clock import ICT, Clock, SystemClock
from vnfleet.core.errors import UsageError
from vnfleet.data.sources.base import (
    INDEX_SYMBOL,
    RAW_SCHEMA,
    FetchPlan,
    Progress,
    RawHistory,
    no_progress,
    raw_history,
)
from vnfleet.data.sources.cafef.fields import without_unfinished
from vnfleet.data.sources.cafef.walk import StoppedError, Walk
from vnfleet.data.sources.cafef.windows import FIRST_SESSION, ExpectedSessions, Unproven, unproven, windows
from vnfleet.data.sources.web import Politeness, SourceAnswerError, WebClient

_LOGGER = logging.getLogger(__name__)
_DAY_SECONDS = 86_400.0
_PATH = "/Ajax/PageNew/DataHistory/PriceHistory.ashx"


@dataclass(frozen=True, slots=True, kw_only=True)
class CafefPages:
    """The pages of CafeF as a source.

    A history is taken as whole when `earliest` is reached, or after `stop_after_empty_windows` calendar quarters in a
    row without a row (each told twice): listings, transfers and suspensions leave shorter holes. What is older than
    such a hole is not found.

    base_url : the address before `/Ajax`. politeness : how it is asked. cache : a folder of its own for pages of closed
    quarters, so that whole histories that were interrupted go on; kept for `keep_days`, and used only while the
    vendor's adjusted prices keep their base. earliest : first day of interest. clock : decides which bar is not final
    yet. sleep : injectable.
    """

    base_url: str = "https://cafef.vn/du-lieu"
    politeness: Politeness = field(default_factory=Politeness)
    cache: Path | None = None
    earliest: date = FIRST_SESSION
    stop_after_empty_windows: int = 8
    keep_days: float = 3.0
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if self.stop_after_empty_windows < 1:
            raise ValueError("stop_after_empty_windows must be at least 1")

    @property
    def name(self) -> str:
        """Name of the raw store's folder."""
        return "cafef_pages"

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return the bars of `symbols` and VNINDEX up to `as_of`; what could not be proved whole is logged.

        Raises `UsageError` when no symbols are named; `SourceError` when a page cannot be had: nothing is returned
        then, and pages of whole histories that came before it are not asked for again.
        """
        history, gaps = self.fetch_proven(symbols, as_of, since=since, progress=progress)
        for gap in gaps:
            _LOGGER.info("%s", gap)
        if gaps:
            _LOGGER.warning("%d of the symbols asked for have sessions without a row, %s", len(gaps), gaps[0])
        return history

    def fetch_proven(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> tuple[RawHistory, tuple[Unproven, ...]]:
        """Return what `fetch` returns and, by symbol, the sessions of the market that it has no row for."""
        names = _named(symbols)
        with WebClient(self.politeness, cache=self.cache, sleep=self.sleep) as client:
            client.forget(older_than_seconds=self.keep_days * _DAY_SECONDS)
            return _Fetch(self, client, as_of, since or {}, progress, names).run()

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return what `fetch` would ask for, if every symbol were as old as the market."""
        names = _named(symbols)
        expected = ExpectedSessions()
        firsts = _firsts(names, since or {}, self.earliest)
        requests = sum(_estimate(firsts[name], self.earliest, as_of, expected) for name in firsts)
        host = urlsplit(self.base_url).netloc
        plan_seconds = self.politeness.seconds_for(requests)
        whole = sum(first is None for name, first in firsts.items() if name != INDEX_SYMBOL)
        return FetchPlan(
            requests=requests,
            host=host,
            seconds=plan_seconds,
            sentence=f"ask {host} for {len(names)} symbols and {INDEX_SYMBOL}, {whole} from the beginning: up to "
            f"{requests:,} pages",
        )

    @property
    def url(self) -> str:
        """Address of the service."""
        return self.base_url.rstrip("/") + _PATH


class _Fetch:
    """One fetch: the index first, then the symbols, several at once if politeness allows."""

    def __init__(
        self,
        source: CafefPages,
        client: WebClient,
        as_of: date,
        since: Mapping[str, date],
        progress: Progress,
        names: Sequence[str],
    ) -> None:
        self._source = source
        self._client = client
        self._now = source.clock.now()
        self._last = min(as_of, self._now.astimezone(ICT).date())
        self._firsts = _firsts(names, since, source.earliest)
        self._expected = ExpectedSessions()
        self._stop = threading.Event()
        self._tally = _Tally(
            {
                name: _estimate(first, source.earliest, self._last, self._expected)
                for name, first in self._firsts.items()
            },
            progress,
        )

    def run(self) -> tuple[RawHistory, tuple[Unproven, ...]]:
        index = self._symbol(INDEX_SYMBOL)
        if index.is_empty():
            raise SourceAnswerError(
                "CafeF has no rows of the market index: something is wrong with the service",
                expected=f"{INDEX_SYMBOL} up to {self._last}",
                where=self._source.url,
                fix="use another source, and tell the authors",
            )
        self._expected = ExpectedSessions(index.get_column("session"))
        parts = self._symbols([name for name in self._firsts if name != INDEX_SYMBOL])
        bars = pl.concat([pl.DataFrame(schema=RAW_SCHEMA), *parts.values()])
        points = index.select("session", close_points="close_vnd")
        return raw_history(bars, points, None), tuple(self._gaps({INDEX_SYMBOL: index, **parts}))

    def _symbols(self, names: Sequence[str]) -> dict[str, pl.DataFrame]:
        parts: dict[str, pl.DataFrame] = {}
        with ThreadPoolExecutor(self._source.politeness.max_concurrent) as pool:
            futures = {pool.submit(self._symbol, name): name for name in names}
            try:
                for future in as_completed(futures):
                    parts[futures[future]] = future.result()
            except BaseException:
                self._stop.set()
                for future in futures:
                    future.cancel()
                raise
        return {name: parts[name] for name in names}

    def _symbol(self, name: str) -> pl.DataFrame:
        if self._stop.is_set():
            raise StoppedError
        walk = Walk(
            client=self._client,
            url=self._source.url,
            symbol=name,
            expected=self._expected,
            asked=lambda: self._tally.asked(name),
            stop=self._stop,
            keep_seconds=self._source.keep_days * _DAY_SECONDS,
        )
        first = self._firsts[name]
        if first is None:
            bars = walk.whole(self._source.earliest, self._last, self._source.stop_after_empty_windows)
        else:
            bars = walk.since(first, self._last)
        self._tally.finished(name)
        return without_unfinished(bars, self._now)

    def _gaps(self, parts: Mapping[str, pl.DataFrame]) -> Iterator[Unproven]:
        newest = without_unfinished(pl.DataFrame({"session": [self._last]}), self._now)
        due_until = self._last if newest.height else self._last - timedelta(days=1)
        for name, bars in parts.items():
            sessions = bars.get_column("session").to_list()
            begins = self._firsts[name] or min(sessions, default=self._source.earliest)
            gap = unproven(name, sessions, begins, due_until, self._expected)
            if gap is not None:
                yield gap


class _Tally:
    """Counts pages for the progress bar: estimates of symbols under way give way to what they took."""

    def __init__(self, estimates: Mapping[str, int], progress: Progress) -> None:
        self._left = dict(estimates)
        self._done = 0
        self._progress = progress
        self._lock = threading.Lock()

    def asked(self, name: str) -> None:
        with self._lock:
            self._done += 1
            self._left[name] = max(0, self._left[name] - 1)
            self._tell(name)

    def finished(self, name: str) -> None:
        with self._lock:
            self._left[name] = 0
            self._tell(name)

    def _tell(self, name: str) -> None:
        self._progress(self._done, self._done + sum(self._left.values()), name)


def _named(symbols: Sequence[str] | None) -> list[str]:
    if symbols is None:
        raise UsageError(
            "CafeF's pages cannot list all symbols", expected="named symbols", fix="name them, or use cafef_bulk"
        )
    return [name for name in dict.fromkeys(symbols) if name != INDEX_SYMBOL]


def _firsts(names: Sequence[str], since: Mapping[str, date], earliest: date) -> dict[str, date | None]:
    """Return the first day wanted by symbol, None for the whole history; the index as far back as any symbol."""
    firsts = {name: max(earliest, since[name]) if name in since else None for name in names}
    known = [first for first in firsts.values() if first is not None]
    index = since.get(INDEX_SYMBOL, min(known, default=None)) if len(known) == len(firsts) else None
    return {INDEX_SYMBOL: index, **firsts}


def _estimate(first: date | None, earliest: date, last: date, expected: ExpectedSessions) -> int:
    """Return how many pages a symbol takes that traded all the time, one more for the check of a whole history."""
    return sum(expected.pages(window) for window in windows(first or earliest, last)) + (first is None)
