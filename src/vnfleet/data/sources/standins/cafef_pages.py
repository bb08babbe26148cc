"""A stand-in of CafeF's price-history pages (PriceHistory.ashx), quirks of 2025-26 included.

- requests are MM/DD/YYYY, replies dd/mm/yyyy; a date in another format is ignored and the newest rows come back;
- at most 20 rows a page; a range is silently cut to the `cut_days` before EndDate, TotalCount included;
- a refusal is HTTP 200 with `Success` false; the old address (without /du-lieu) redirects and drops the query;
- until 15:15 ICT the row of today has close 0, its price in the value field and a nonsensical change; the index `--`;
- the change and the unit of the value field follow the vintage: "2025" `4(4.09 %)`, VND; "2026" `-2,70 (-4,08%)`, bn.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

import polars as pl

from vnfleet.core.clock import ICT, Clock, SystemClock
from vnfleet.data.sources.base import INDEX_SYMBOL, RawHistory
from vnfleet.data.sources.sessions import FINAL_FROM
from vnfleet.data.sources.standins.server import Answer, Request

Vintage = Literal["2025", "2026"]
PATH = "/Ajax/PageNew/DataHistory/PriceHistory.ashx"
NEW_ROOT = "/du-lieu"
_PAGE_CAP = 20


@dataclass(slots=True)
class CafefPagesVendor:
    """Answers requests for pages of `history`; hand it to a `StandIn`, ask `stand_in.url + "/du-lieu"`.

    history : may be replaced between requests (a vendor re-bases, corrects, adds a session). clock : the vendor's own.
    cut_days : the longest range that is served.
    """

    history: RawHistory
    vintage: Vintage = "2026"
    clock: Clock = field(default_factory=SystemClock)
    cut_days: int = 90
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _told: dict[str, tuple[RawHistory, list[_Row]]] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        if request.path == PATH:
            return Answer(status=301, headers={"Location": NEW_ROOT + PATH})
        if request.path != NEW_ROOT + PATH:
            return Answer(status=404, body=b"not found", content_type="text/plain")
        symbol = request.params.get("Symbol", "").strip().upper()
        if not symbol:
            return _json({"Data": None, "Message": "symbol is null or empty", "Success": False})
        rows = self._visible(symbol)
        start, end = (_asked_date(request.params, name) for name in ("StartDate", "EndDate"))
        if start is not None and end is not None:
            start = max(start, end - timedelta(days=self.cut_days))
            rows = [row for row in rows if start <= row.session <= end]
        size = min(_asked_number(request.params, "PageSize", _PAGE_CAP), _PAGE_CAP)
        first = (_asked_number(request.params, "PageIndex", 1) - 1) * size
        page = [row.told for row in rows[first : first + size]]
        return _json(envelope(page, len(rows)))

    def _visible(self, symbol: str) -> list[_Row]:
        """Return the rows of `symbol` up to now, newest first, that of today as it looks during the session."""
        now = self.clock.now().astimezone(ICT)
        rows = [row for row in self._all(symbol) if row.session <= now.date()]
        if rows and rows[0].session == now.date() and now.time() < FINAL_FROM:
            rows[0] = _in_session(rows[0], is_index=symbol == INDEX_SYMBOL)
        return rows

    def _all(self, symbol: str) -> list[_Row]:
        with self._lock:
            history, rows = self._told.get(symbol, (None, []))
            if history is not self.history:
                rows = _rows_of(self.history, symbol, self.vintage)
                self._told[symbol] = (self.history, rows)
            return rows


@dataclass(frozen=True, slots=True)
class _Row:
    session: date
    told: dict[str, object]


def envelope(rows: list[dict[str, object]], total: int) -> dict[str, object]:
    """Return the reply around `rows`."""
    data = {"TotalCount": total, "Index": INDEX_SYMBOL, "Data": rows}
    return {"Data": data, "Message": None, "Success": True}


def _json(reply: dict[str, object]) -> Answer:
    return Answer(body=json.dumps(reply).encode(), content_type="application/json; charset=utf-8")


EMPTY = _json(envelope([], 0))
"""A well-formed answer without rows, also the answer for an unknown symbol."""


def _asked_date(params: Mapping[str, str], name: str) -> date | None:
    try:
        return datetime.strptime(params.get(name, ""), "%m/%d/%Y").replace(tzinfo=ICT).date()
    except ValueError:
        return None


def _asked_number(params: Mapping[str, str], name: str, default: int) -> int:
    text = params.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else default


def _rows_of(history: RawHistory, symbol: str, vintage: Vintage) -> list[_Row]:
    if symbol == INDEX_SYMBOL:
        points = pl.col("close_points")
        names = ("open", "high", "low", "close", "adjusted")
        told = history.index.select("session", *(points.alias(name) for name in names), volume=pl.lit(0))
        told = told.with_columns(reference=pl.col("close").shift(1))
    else:
        bars = history.bars.filter(pl.col("symbol") == symbol)
        names = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
        told = bars.select(
            "session",
            *((pl.col(name) / 1000).round(3).alias(name.split("_")[0]) for name in names),
            volume="volume_shares",
            reference=(pl.col("stated_reference_vnd") / 1000).round(3),
        ).with_columns(reference=pl.col("reference").fill_null(pl.col("close").shift(1)))
    rows = [_Row(row["session"], _fields(symbol, row, vintage)) for row in told.sort("session").iter_rows(named=True)]
    return rows[::-1]


def _fields(symbol: str, row: Mapping[str, object], vintage: Vintage) -> dict[str, object]:
    close, reference, volume, session = row["close"], row["reference"], row["volume"], row["session"]
    assert isinstance(session, date)
    value = close * volume * 1000 if isinstance(close, float) and isinstance(volume, int) else 0.0
    return {
        "Symbol": symbol,
        "Ngay": f"{session:%d/%m/%Y}",
        "GiaDieuChinh": row["adjusted"],
        "GiaDongCua": close,
        "ThayDoi": _change_text(close, reference, vintage),
        "KhoiLuongKhopLenh": volume,
        "GiaTriKhopLenh": value if vintage == "2025" else round(value / 1e9, 2),
        "KLThoaThuan": 0,
        "GtThoaThuan": 0,
        "GiaMoCua": row["open"],
        "GiaCaoNhat": row["high"],
        "GiaThapNhat": row["low"],
    }


def _change_text(close: object, reference: object, vintage: Vintage) -> str:
    if not isinstance(close, float) or not isinstance(reference, float) or not reference:
        return "--"
    change = close - reference
    percent = 100 * change / reference
    if vintage == "2025":
        return f"{round(change, 2):g}({percent:.2f} %)"
    return f"{change:.2f} ({percent:.2f}%)".replace(".", ",")


def _in_session(row: _Row, *, is_index: bool) -> _Row:
    """Return the row as it looks before the close: 25/08/2025, FPT and VNINDEX."""
    told = dict(row.told)
    if is_index:
        told |= {"GiaDongCua": "--", "GiaDieuChinh": "--", "ThayDoi": "--"}
    else:
        price = told["GiaDongCua"]
        told |= {"GiaDongCua": 0.0, "GiaTriKhopLenh": price, "ThayDoi": "-99(-100.00 %)"}
    return _Row(row.session, told)
