"""A stand-in of VNDirect's finfo service: stock_prices, vnmarket_prices, stocks and events, `q=field:op:value~...`.

Written from the service's own field list and samples of its replies, not from the client, so that the two check each
other.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import time
from http import HTTPStatus

import polars as pl

from vnfleet.core.clock import ICT, Clock, SystemClock
from vnfleet.data.sources.base import INDEX_SYMBOL, RawHistory
from vnfleet.data.sources.standins.server import Answer, Request

PAGE_CAP = 5000
EVENT_SCHEMA: dict[str, pl.DataType] = {
    "code": pl.String(),
    "type": pl.String(),
    "effectiveDate": pl.String(),
    "disclosureDate": pl.String(),
    "dividend": pl.Float64(),
    "ratio": pl.Float64(),
}
"""What a caller tells about an event, in the service's own words; each is served twice, in VN and in EN_GB."""
_TRADING_ENDS = time(15, 0)
_BAND = 0.07


@dataclass(frozen=True, slots=True, kw_only=True)
class VndirectVendor:
    """finfo over `history`; give `answer` and `empty` to a `StandIn`.

    clock : before 15:00 ICT today's rows are served unfinished, later sessions are never served.
    events : `EVENT_SCHEMA`. delisted : symbols that have prices but are no longer among the listed stocks.
    warrants : covered warrants served beside the stocks of HOSE on every session (their rows fill the pages).
    unstable_ties : rows of equal sort key come in another order on every page, as a sharded index may answer.
    """

    history: RawHistory
    clock: Clock = field(default_factory=SystemClock)
    events: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EVENT_SCHEMA))
    delisted: frozenset[str] = frozenset()
    warrants: int = 0
    unstable_ties: bool = False
    page_cap: int = PAGE_CAP
    _tables: dict[str, pl.DataFrame] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        prices = _prices(self.history, self.warrants)
        tables = {
            "/v4/stock_prices": prices,
            "/v4/vnmarket_prices": _market(self.history),
            "/v4/stocks": _stocks(prices, self.delisted),
            "/v4/events": _events(self.events),
        }
        object.__setattr__(self, "_tables", tables)

    @property
    def empty(self) -> Answer:
        """The service's own well-formed answer without a row."""
        return _page([], 1, 20, 0)

    def answer(self, request: Request) -> Answer:
        """Return what the service would send."""
        table = self._tables.get(request.path)
        if table is None:
            body = b'{"code":"FFv4-101","message":"This resource is not found"}'
            return Answer(status=HTTPStatus.NOT_FOUND, body=body)
        conditions = [_condition(text) for text in request.params.get("q", "").split("~") if text]
        table = table.filter(conditions) if conditions else table
        if "date" in table.columns:
            table = self._as_of_now(table)
        page = int(request.params.get("page", "1"))
        size = min(int(request.params.get("size", "20")), self.page_cap)
        rows = self._sorted(table, request.params.get("sort", ""), page).slice((page - 1) * size, size)
        if fields := request.params.get("fields"):
            rows = rows.select(fields.split(","))
        return _page(rows.to_dicts(), page, size, table.height)

    def _as_of_now(self, table: pl.DataFrame) -> pl.DataFrame:
        now = self.clock.now().astimezone(ICT)
        today = now.date().isoformat()
        table = table.filter(pl.col("date") <= today)
        if now.time() >= _TRADING_ENDS:
            return table
        unfinished = pl.col("date") == today
        return table.with_columns(
            pl.when(unfinished).then(pl.lit("10:30:00")).otherwise(pl.col("time")).alias("time"),
            pl.when(unfinished).then(pl.col("open")).otherwise(pl.col("close")).alias("close"),
            pl.when(unfinished).then((pl.col("nmVolume") / 2).floor()).otherwise(pl.col("nmVolume")).alias("nmVolume"),
        )

    def _sorted(self, table: pl.DataFrame, sort: str, page: int) -> pl.DataFrame:
        if not sort:
            return table
        column, _, order = sort.partition(":")
        backwards = order != "asc"  # without a word the newest come first
        if self.unstable_ties and page % 2 == 0:
            table = table.reverse()
        return table.sort(column, descending=backwards, maintain_order=True)


def _condition(text: str) -> pl.Expr:
    name, *rest = text.split(":")
    operator, value = (rest[0], rest[1]) if len(rest) == 2 else ("eq", rest[0])
    if operator == "gte":
        return pl.col(name) >= value
    if operator == "lte":
        return pl.col(name) <= value
    return pl.col(name).str.to_uppercase().is_in([part.upper() for part in value.split(",")])


def _page(rows: list[dict[str, object]], page: int, size: int, total: int) -> Answer:
    pages = math.ceil(total / size)
    body = {"data": rows, "currentPage": page, "size": size, "totalElements": total, "totalPages": pages}
    return Answer(body=json.dumps(body).encode(), content_type="application/json;charset=UTF-8")


def _thousand(name: str) -> pl.Expr:
    return (pl.col(name) / 1000).round(2)


def _prices(history: RawHistory, warrants: int) -> pl.DataFrame:
    """Return every row of stock_prices: thousand VND, volumes as floating-point numbers, dates as text."""
    floors = history.listings.select(code="symbol", listed_on="exchange")
    reference = pl.coalesce("stated_reference_vnd", pl.col("close_vnd").shift(1).over("symbol"), "close_vnd")
    factor = pl.when(pl.col("close_vnd") > 0).then(pl.col("adjusted_close_vnd") / pl.col("close_vnd"))
    names = ("open", "high", "low", "close")
    bars = history.bars.with_columns(reference=reference).select(
        pl.col("symbol").alias("code"),
        pl.col("session").cast(pl.String).alias("date"),
        pl.lit("15:11:03").alias("time"),
        pl.col("exchange"),
        pl.lit("STOCK").alias("type"),
        _thousand("reference").alias("basicPrice"),
        (pl.col("reference") * (1 + _BAND) / 1000).round(2).alias("ceilingPrice"),
        (pl.col("reference") * (1 - _BAND) / 1000).round(2).alias("floorPrice"),
        *(_thousand(f"{name}_vnd").alias(name) for name in names),
        _thousand("close_vnd").alias("average"),
        *((pl.col(f"{name}_vnd") * factor / 1000).round(4).alias(f"ad{name.title()}") for name in names[:3]),
        (pl.col("adjusted_close_vnd") / 1000).round(4).alias("adClose"),
        (pl.col("adjusted_close_vnd") / 1000).round(4).alias("adAverage"),
        ((pl.col("close_vnd") - pl.col("reference")) / 1000).round(2).alias("change"),
        pl.col("volume_shares").cast(pl.Float64).alias("nmVolume"),
        (pl.col("volume_shares") * pl.col("close_vnd")).alias("nmValue"),
        pl.lit(0.0).alias("ptVolume"),
        pl.lit(0.0).alias("ptValue"),
    )
    bars = bars.join(floors, on="code", how="left", maintain_order="left")
    floor = pl.coalesce("exchange", "listed_on", pl.lit("HOSE")).alias("floor")
    bars = bars.with_columns(floor).drop("exchange", "listed_on").sort("code", "date")
    if not warrants:
        return bars
    days = bars.unique("date", maintain_order=True)
    serial = pl.DataFrame({"serial": range(warrants)})
    code = "C" + pl.col("serial").cast(pl.String).str.zfill(4)
    covered = days.join(serial, how="cross").with_columns(code.alias("code"), type=pl.lit("CW"), floor=pl.lit("HOSE"))
    return pl.concat([bars, covered.drop("serial")]).sort("code", "date")


def _market(history: RawHistory) -> pl.DataFrame:
    points = pl.col("close_points")
    return history.index.select(
        pl.lit(INDEX_SYMBOL).alias("code"),
        pl.col("session").cast(pl.String).alias("date"),
        pl.lit("15:11:03").alias("time"),
        pl.lit("HOSE").alias("floor"),
        *(points.alias(name) for name in ("open", "high", "low", "close")),
        (points - points.shift(1)).round(2).alias("change"),
        pl.lit(1e8).alias("nmVolume"),
    )


def _stocks(prices: pl.DataFrame, delisted: frozenset[str]) -> pl.DataFrame:
    newest = prices.filter(pl.col("type") == "STOCK").unique("code", keep="last", maintain_order=True)
    gone = pl.col("code").is_in(list(delisted))
    return newest.select(
        "code",
        "type",
        "floor",
        pl.when(gone).then(pl.lit("DELISTED")).otherwise(pl.lit("LISTED")).alias("status"),
        ("Company " + pl.col("code")).alias("companyName"),
        ("VN000000" + pl.col("code")).alias("isin"),
    )


def _events(events: pl.DataFrame) -> pl.DataFrame:
    twice = [
        events.with_columns(
            (pl.lit(f"{locale}-") + pl.int_range(pl.len()).cast(pl.String)).alias("id"),
            group=pl.lit("investorRight"),
            locale=pl.lit(locale),
        )
        for locale in ("VN", "EN_GB")
    ]
    return pl.concat(twice)
