"""VNDirect's finfo service as a client sees it: questions ``q=field:op:value~...``, pages, and proof that all came.

Facts from public clients and live probes of 2026, nothing is documented by the vendor: host ``api-finfo``; replies
``{"data", "currentPage", "size", "totalElements", "totalPages"}``; ``sort=name:asc``; prices in thousand VND, volumes
as floating-point numbers; VNINDEX under ``vnmarket_prices`` only; events twice (VN and EN_GB).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from urllib.parse import urlsplit

import polars as pl

from vnfleet.core.errors import UsageError
from vnfleet.data.sources.web import SourceAnswerError, WebClient

HOST = "https://api-finfo.vndirect.com.vn"
DEAD_HOSTS = frozenset({"finfo-api.vndirect.com.vn"})
"""The old name resolves to a private address of the vendor since 2026."""
PAGE_ROWS = 5000
MAX_PAGES = 200

PRICE_FIELDS: dict[str, pl.DataType] = {
    "code": pl.String(),
    "date": pl.String(),
    "floor": pl.String(),
    "type": pl.String(),
    "basicPrice": pl.Float64(),
    "open": pl.Float64(),
    "high": pl.Float64(),
    "low": pl.Float64(),
    "close": pl.Float64(),
    "adClose": pl.Float64(),
    "nmVolume": pl.Float64(),
}
MARKET_FIELDS: dict[str, pl.DataType] = {"code": pl.String(), "date": pl.String(), "close": pl.Float64()}
STOCK_FIELDS: dict[str, pl.DataType] = {"code": pl.String(), "floor": pl.String()}
EVENT_FIELDS: dict[str, pl.DataType] = {
    "code": pl.String(),
    "type": pl.String(),
    "effectiveDate": pl.String(),
    "disclosureDate": pl.String(),
    "dividend": pl.Float64(),
    "ratio": pl.Float64(),
}
_OPTIONAL = frozenset({"floor", "type", "basicPrice", "dividend", "ratio", "effectiveDate", "disclosureDate"})
_LATER = "collect again later, or from another source"

Complaint = Callable[[pl.DataFrame], str | None]
"""Says what is wrong with the rows of a reply, None when nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page: its rows in the fields asked for (dates still text) and how many rows there are in all."""

    rows: pl.DataFrame
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: the resource, the conditions, the fields wanted, the order and what would be a wrong answer.

    cache_seconds : how long a kept reply may serve (to resume a bootstrap); None keeps nothing.
    """

    resource: str
    q: str
    fields: Mapping[str, pl.DataType]
    sort: str
    wrong: Complaint
    cache_seconds: float | None = None


def refuse_dead_host(base_url: str) -> None:
    """Raise `UsageError` when `base_url` is the host VNDirect has given up."""
    if urlsplit(base_url).hostname in DEAD_HOSTS:
        raise UsageError(
            "this VNDirect host is out of service: it resolves to a private address since 2026",
            expected=HOST,
            found=base_url,
            fix="leave the address out of the configuration: the right one is the default",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finfo:
    """Questions to finfo through `web`; every reply is checked before it is believed or kept.

    A reply that is odd is asked for again (by `web`, within its budget): another shape, rows of something else, a page
    seen before. An empty reply is asked for once more and then believed: a symbol or a day can have no rows.
    """

    web: WebClient
    base_url: str = HOST

    def page(self, question: Question, number: int = 1, also_wrong: Complaint | None = None) -> Page:
        """Return page `number` of the rows that answer `question`.

        Raises `SourceError`; `SourceAnswerError` when the reply stays wrong.
        """
        where = f"{self.base_url}/v4/{question.resource}?q={question.q} page {number}"
        page = Page(rows=pl.DataFrame(schema=dict(question.fields)), total=0)

        def check(reply: object) -> None:
            nonlocal page
            page = _read(reply, question.fields, number, where)
            complaint = question.wrong(page.rows) or (also_wrong(page.rows) if also_wrong else None)
            if complaint:
                raise SourceAnswerError(
                    f"VNDirect answers something else than what was asked: {complaint}",
                    expected=question.q,
                    found=page.rows.row(0) if page.rows.height else "no rows",
                    where=where,
                    fix=_LATER,
                    again=True,
                )

        params = {"q": question.q, "sort": question.sort, "size": str(PAGE_ROWS), "page": str(number)}
        url = f"{self.base_url}/v4/{question.resource}"
        self.web.get_json(url, params, cache_seconds=question.cache_seconds, check=check)
        if page.rows.is_empty():
            self.web.get_json(url, params, check=check)
        return page

    def whole(self, question: Question, key: tuple[str, ...]) -> pl.DataFrame:
        """Return the rows of all pages; `key` names the columns that tell rows apart.

        Raises `SourceAnswerError` when the rows are fewer or more than the vendor says, or pages overlap.
        """
        first = self.page(question)
        parts, have = [first.rows], first.rows.height
        while have < first.total and len(parts) < MAX_PAGES:
            page = self.page(question, len(parts) + 1, _seen_before(pl.concat(parts), key))
            parts.append(page.rows)
            have += page.rows.height
        if have != first.total:
            raise SourceAnswerError(
                "VNDirect tells another number of rows than it promised",
                expected=f"{first.total} rows",
                found=f"{have} rows on {len(parts)} pages",
                where=f"{self.base_url}/v4/{question.resource}?q={question.q}",
                fix=_LATER,
            )
        return pl.concat(parts)


def _seen_before(seen: pl.DataFrame, key: tuple[str, ...]) -> Complaint:
    def wrong(rows: pl.DataFrame) -> str | None:
        if rows.is_empty():
            return "an empty page although rows are missing"
        return "rows of an earlier page" if rows.join(seen, on=list(key), how="semi", nulls_equal=True).height else None

    return wrong


def _read(reply: object, fields: Mapping[str, pl.DataType], number: int, where: str) -> Page:
    def refused(expected: str, found: object) -> SourceAnswerError:
        return SourceAnswerError(
            "VNDirect's reply has another shape than it used to",
            expected=expected,
            found=str(found)[:200],
            where=where,
            fix="the vendor may have changed its service: collect from another source and report this",
            again=True,
        )

    if not isinstance(reply, dict) or not isinstance(reply.get("data"), list):
        raise refused("an object with a list `data`", reply)
    rows, total = reply["data"], reply.get("totalElements")
    if not isinstance(total, int) or not all(isinstance(row, dict) for row in rows):
        raise refused("rows as objects and their number as `totalElements`", reply)
    if rows and reply.get("currentPage", number) != number:
        raise refused(f"page {number}", f"page {reply['currentPage']}")
    missing = set(fields) - _OPTIONAL - set(rows[0]) if rows else set()
    if missing:
        raise refused(f"the fields {', '.join(sorted(set(fields) - _OPTIONAL))}", f"no {', '.join(sorted(missing))}")
    try:
        frame = pl.DataFrame(rows, schema=dict(fields))
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise refused("texts and numbers in their usual fields", str(error).splitlines()[0]) from error
    return Page(rows=frame.with_columns(pl.col(pl.String).str.strip_chars()), total=total)


def only(column: str, values: frozenset[str]) -> Complaint:
    """Return the check that `column` holds nothing but `values`, in whatever case."""

    def wrong(rows: pl.DataFrame) -> str | None:
        strangers = rows.filter(~pl.col(column).str.to_uppercase().is_in(list(values)).fill_null(value=False))
        return f"{column} {strangers.item(0, column)}" if strangers.height else None

    return wrong


def between(column: str, start: date, end: date) -> Complaint:
    """Return the check that the days in `column` can be read and lie between `start` and `end`, both included."""

    def wrong(rows: pl.DataFrame) -> str | None:
        days = rows.get_column(column).str.head(10).str.to_date("%Y-%m-%d", strict=False)
        strangers = rows.filter(~days.is_between(start, end).fill_null(value=False))
        return f"a row of {strangers.item(0, column)}" if strangers.height else None

    return wrong


def all_of(*complaints: Complaint) -> Complaint:
    """Return the check that asks all of `complaints` in turn."""

    def wrong(rows: pl.DataFrame) -> str | None:
        return next((said for said in (complaint(rows) for complaint in complaints) if said), None)

    return wrong
