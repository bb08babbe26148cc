"""One symbol's way through CafeF's pages: backwards, window by window, trusting no total and no silence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta

import polars as pl

from vnfleet.data.sources.cafef.replies import Question, Row, bars_of, base_of, rows_of
from vnfleet.data.sources.cafef.windows import PAGE_SIZE, ExpectedSessions, Window, windows
from vnfleet.data.sources.web import SourceAnswerError, WebClient

_HEADERS: dict[str, str | None] = {"Referer": "https://cafef.vn/"}
_ASKED_AGAIN = "told twice"


class StoppedError(Exception):
    """Another symbol failed: this one stops where it is."""


@dataclass(slots=True)
class Walk:
    """Reads the pages of one symbol.

    asked : called once a page. stop : set when the fetch is over. keep_seconds : age from which a page of a closed
    quarter that was kept on disk is asked for again; pages of the newest quarter are never kept.

    vintage : identifies the vendor's adjustment base, by the newest page of the newest closed quarter with rows, which
    is always asked afresh. Kept pages of another base are never used, so bases cannot mix; "" keeps nothing.
    """

    client: WebClient
    url: str
    symbol: str
    expected: ExpectedSessions
    asked: Callable[[], None]
    stop: threading.Event
    keep_seconds: float
    vintage: str = field(default="", init=False)
    _anchor: Window | None = field(default=None, init=False)
    _closed_until: date = field(default=date.min, init=False)

    def whole(self, first: date, last: date, stop_after: int) -> pl.DataFrame:
        """Return every bar from `first` to `last`; ends after `stop_after` quarters in a row without any.

        Raises `SourceAnswerError` when the vendor changes the adjustment base again and again while it is read.
        """
        for _ in range(2):
            rows = self._whole(windows(first, last), stop_after)
            if self._anchor is None or not self.vintage or base_of(self._page(self._anchor, 1)) == self.vintage:
                return bars_of(rows, self.symbol)
        raise SourceAnswerError(
            f"CafeF changed the adjusted prices of {self.symbol} while they were read",
            where=self.url,
            fix="run the same command again in some minutes",
        )

    def _whole(self, newest_first: list[Window], stop_after: int) -> list[Row]:
        """Return all rows; everything is read between the first look at the anchor and the caller's second one."""
        self.vintage, self._anchor = "", None
        rows: list[Row] = []
        num_empty = 0
        for window in newest_first[1:]:
            self._closed_until = max(self._closed_until, window.end)
            if not self.vintage:
                self._anchor = window
            found = self.window(window)
            rows += found
            num_empty = 0 if found else num_empty + 1
            if num_empty == stop_after:
                break
        return rows + [row for window in newest_first[:1] for row in self.window(window)]

    def since(self, first: date, last: date) -> pl.DataFrame:
        """Return every bar from `first` to `last`; nothing is kept on disk."""
        return bars_of([row for window in windows(first, last) for row in self.window(window)], self.symbol)

    def window(self, window: Window) -> list[Row]:
        """Return the rows of one window, newest first.

        An empty answer is believed when told twice. While the market had sessions before the oldest row (the range was
        cut, a page was lost, or the symbol is younger), what lies before it is asked for as a window of its own, until
        that is empty.
        """
        rows = older = self._asked(window)
        while older and not self._covered(window, older):
            older = self._asked(Window(window.start, older[-1].session - timedelta(days=1)))
            rows = rows + older
        return rows

    def _asked(self, window: Window) -> list[Row]:
        return self._pages(window) or self._pages(window, _ASKED_AGAIN)

    def _pages(self, window: Window, again: str = "") -> list[Row]:
        page = self._page(window, 1, again=again)
        rows, index = page, 1
        while len(page) >= PAGE_SIZE and not self._covered(window, rows):
            index += 1
            page = self._page(window, index, again=again, before=page[-1].session)
            rows = rows + page
        return rows

    def _covered(self, window: Window, rows: list[Row]) -> bool:
        return not self.expected.between(window.start, rows[-1].session - timedelta(days=1))

    def _page(self, window: Window, index: int, *, again: str = "", before: date | None = None) -> list[Row]:
        """Return one page, newest row first."""
        if self.stop.is_set():
            raise StoppedError
        params = {
            "Symbol": self.symbol,
            "StartDate": f"{window.start:%m/%d/%Y}",
            "EndDate": f"{window.end:%m/%d/%Y}",
            "PageIndex": str(index),
            "PageSize": str(PAGE_SIZE),
        }
        where = f"{self.url}, {self.symbol} {window.start} to {window.end}, page {index}"
        question = Question(self.symbol, window, before, where)
        is_anchor = window == self._anchor and index == 1
        keep = bool(self.vintage) and window.end <= self._closed_until and not is_anchor
        understood: list[list[Row]] = []

        def check(reply: object) -> None:
            understood.append(rows_of(reply, question))

        self.client.get_json(
            self.url,
            params,
            headers=_HEADERS,
            cache_seconds=self.keep_seconds if keep else None,
            vintage=f"{self.vintage} {again}",
            check=check,
        )
        rows = sorted(understood[-1], key=lambda row: row.session, reverse=True)
        self.asked()
        if is_anchor and not self.vintage and rows:
            self.vintage = base_of(rows)
        return rows
