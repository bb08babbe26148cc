"""What is asked of finfo in one fetch: the listed stocks, boards, single histories, the index, the events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from vnfleet.data.sources.base import INDEX_SYMBOL, Progress
from vnfleet.data.sources.vndirect.finfo import (
    EVENT_FIELDS,
    MARKET_FIELDS,
    PRICE_FIELDS,
    STOCK_FIELDS,
    Complaint,
    Finfo,
    Page,
    Question,
    all_of,
    between,
    only,
)
from vnfleet.data.sources.vndirect.route import Route, Window, halves_of, late_on_boards
from vnfleet.data.sources.web import SourceAnswerError, SourceMissingError
from vnfleet.market.rules import Exchange

_LOGGER = logging.getLogger(__name__)
FIRST_DAY = date(2000, 7, 28)
"""First session of the Vietnamese market; asked for as "from the beginning"."""
FIRST_EVENTS = date(2021, 1, 1)
EVENT_DAYS_A_REQUEST = 90
EVENT_DAYS_AHEAD = 365
FLOORS = {"HSX": "HOSE", "HOSE": "HOSE", "HNX": "HNX", "UPCOM": "UPCOM"}
"""The vendor's word for a board -> ours."""
EVENT_KINDS = {"DIVIDEND": "cash_dividend", "STOCKDIV": "stock_dividend", "KINDDIV": "bonus"}
"""The vendor's types of events that change the number of shares or the price -> our kinds."""
_INDEX_GAP_DAYS = 14
_RESUME_SECONDS = 12 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The questions of one fetch, in words of the source."""

    finfo: Finfo
    until: date
    progress: Progress

    def listed(self) -> pl.DataFrame:
        """Return (code, floor) of the stocks listed today."""
        self.progress(0, 0, "the list of stocks")
        q = "type:STOCK~status:LISTED~floor:HOSE,HNX,UPCOM"
        wrong = only("floor", frozenset(FLOORS))
        rows = self.finfo.whole(
            Question(resource="stocks", q=q, fields=STOCK_FIELDS, sort="code:asc", wrong=wrong), key=("code",)
        )
        return self._not_empty(rows, "the list of stocks")

    def prices(self, route: Route, wanted: Sequence[str] | None, since: Mapping[str, date]) -> pl.DataFrame:
        """Return the rows of both ways, `PRICE_FIELDS`; with `wanted` None all that the boards have."""
        done, total = 0, len(route.boards) + len(route.alone)
        parts = [pl.DataFrame(schema=PRICE_FIELDS)]
        for exchange, window in route.boards:
            self.progress(done, total, f"{exchange} from {window[0]} to {window[1]}")
            rows = self._board(exchange, window, resumable=not since)
            parts.append(rows if wanted is None else rows.filter(pl.col("code").is_in(list(wanted))))
            done += 1
        alone = dict(route.alone)
        if wanted is not None and route.boards:
            late = late_on_boards(pl.concat(parts), {symbol: since[symbol] for symbol in wanted if symbol not in alone})
            alone |= late
            total += len(late)
        for symbol, start in alone.items():
            self.progress(done, total, symbol)
            parts.append(self._history(symbol, start))
            done += 1
        self.progress(done, total, "prices")
        return self._not_empty(pl.concat(parts).unique(maintain_order=True), f"prices up to {self.until}")

    def index(self, start: date) -> pl.DataFrame:
        """Return (session, close_points) of VNINDEX from `start`; it has no rows among the stocks."""
        self.progress(0, 0, INDEX_SYMBOL)
        rows = self.finfo.whole(
            Question(
                resource="vnmarket_prices",
                q=f"code:{INDEX_SYMBOL}~{_days('date', start, self.until)}",
                fields=MARKET_FIELDS,
                sort="date:asc",
                wrong=all_of(only("code", frozenset({INDEX_SYMBOL})), between("date", start, self.until)),
            ),
            key=("date",),
        )
        if (self.until - start).days > _INDEX_GAP_DAYS:
            rows = self._not_empty(rows, f"{INDEX_SYMBOL} from {start}")
        return rows.select(day_of("date").alias("session"), close_points="close")

    def events(self, symbols: Sequence[str] | None) -> pl.DataFrame:
        """Return the events of `symbols`, or (if that takes fewer requests, or None) of everybody, `EVENT_FIELDS`."""
        start, end = FIRST_EVENTS, self.until + timedelta(days=EVENT_DAYS_AHEAD)
        windows = [
            (day, min(end, day + timedelta(days=EVENT_DAYS_A_REQUEST - 1)))
            for day in (start + timedelta(days=n) for n in range(0, (end - start).days + 1, EVENT_DAYS_A_REQUEST))
        ]
        parts = [pl.DataFrame(schema=EVENT_FIELDS)]
        if symbols is None or len(symbols) > len(windows):
            for done, window in enumerate(windows):
                self.progress(done, len(windows), f"events from {window[0]} to {window[1]}")
                parts.append(self._halved(window, self._events_between))
            return pl.concat(parts)
        for done, symbol in enumerate(symbols):
            self.progress(done, len(symbols), f"events of {symbol}")
            question = _event_question(f"code:{symbol}", only("code", frozenset({symbol})))
            parts.append(self.finfo.whole(question, key=tuple(EVENT_FIELDS)))
        return pl.concat(parts)

    def _events_between(self, window: Window) -> Page:
        return self.finfo.page(_event_question(_days("effectiveDate", *window), between("effectiveDate", *window)))

    def _board(self, exchange: Exchange, window: Window, *, resumable: bool) -> pl.DataFrame:
        def ask(part: Window) -> Page:
            return self.finfo.page(
                Question(
                    resource="stock_prices",
                    q=f"floor:{exchange}~type:STOCK~{_days('date', *part)}",
                    fields=PRICE_FIELDS,
                    sort="date:asc",
                    wrong=all_of(only("floor", frozenset({exchange.value})), between("date", *part)),
                    cache_seconds=_RESUME_SECONDS if resumable else None,
                )
            )

        return self._halved(window, ask)

    def _history(self, symbol: str, start: date | None) -> pl.DataFrame:
        first = start or FIRST_DAY
        return self.finfo.whole(
            Question(
                resource="stock_prices",
                q=f"code:{symbol}~{_days('date', first, self.until)}",
                fields=PRICE_FIELDS,
                sort="date:asc",
                wrong=all_of(only("code", frozenset({symbol})), between("date", first, self.until)),
                cache_seconds=_RESUME_SECONDS if start is None else None,
            ),
            key=("date",),
        )

    def _halved(self, window: Window, ask: Callable[[Window], Page]) -> pl.DataFrame:
        """Return the rows of `window`; one that does not fit on a page, or is not understood, is asked for in halves.

        Pages of rows with equal dates could overlap, as their order is not promised; windows cannot.
        """
        is_one_day = window[0] == window[1]
        try:
            page = ask(window)
        except SourceAnswerError as error:
            if is_one_day or isinstance(error, SourceMissingError):
                raise
            _LOGGER.warning("%s; asked for in halves", error.what)
        else:
            if page.rows.height >= page.total:
                return page.rows
            if is_one_day:
                raise SourceAnswerError(
                    "VNDirect keeps back rows of a single day",
                    expected=f"{page.total} rows on one page",
                    found=f"{page.rows.height} rows",
                    where=f"{self.finfo.base_url}, {window[0]}",
                    fix="collect these symbols one by one, or from another source",
                )
        return pl.concat([self._halved(half, ask) for half in halves_of(window)])

    def _not_empty(self, rows: pl.DataFrame, what: str) -> pl.DataFrame:
        if rows.is_empty():
            raise SourceAnswerError(
                f"VNDirect has nothing where there must be something: {what}",
                where=self.finfo.base_url,
                fix="check the symbols and the date; collect again later, or from another source",
            )
        return rows


def _days(column: str, start: date, end: date) -> str:
    return f"{column}:{start}" if start == end else f"{column}:gte:{start}~{column}:lte:{end}"


def _event_question(condition: str, wrong: Complaint) -> Question:
    return Question(
        resource="events",
        q=f"{condition}~type:{','.join(EVENT_KINDS)}~locale:EN_GB",
        fields=EVENT_FIELDS,
        sort="effectiveDate:asc",
        wrong=all_of(only("type", frozenset(EVENT_KINDS)), wrong),
    )


def day_of(column: str) -> pl.Expr:
    """Return a text column yyyy-mm-dd (a time may follow) as dates, null where it is none."""
    return pl.col(column).str.head(10).str.to_date("%Y-%m-%d", strict=False)
