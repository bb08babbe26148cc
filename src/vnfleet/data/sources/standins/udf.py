"""Stand-ins of the four chart feeds: VNDirect dchart, SSI iBoard, VPS and DNSE, each with its own habits.

Written from descriptions and samples of the real replies, not from the client, so that the two check each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, time
from http import HTTPStatus

import polars as pl

from vnfleet.core.clock import ICT, Clock, SystemClock
from vnfleet.data.sources.base import INDEX_SYMBOL, RawHistory
from vnfleet.data.sources.standins.server import Answer, Request

_ARRAYS = ("t", "o", "h", "l", "c", "v")
_TRADING_ENDS = time(15, 0)
_SECURITY_CHECK = b"<html><head><title>Security Check</title></head><body>Access denied</body></html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Habits:
    path: str
    resolution: str
    index_path: str = ""
    enveloped: bool = False
    has_status: bool = True
    names_symbol: bool = False
    empty_status: str = "ok"
    refuses_accept: bool = False
    unknown_is_400: bool = False
    content_type: str = "application/json"
    stock_hour_utc: int = 0
    index_hour_utc: int = 0
    doubled_index: bool = False
    first: date = date(2000, 1, 1)


_HABITS: dict[str, _Habits] = {
    "vndirect_dchart": _Habits(
        path="/dchart/history",
        resolution="D",
        refuses_accept=True,
        content_type="text/plain;charset=UTF-8",
        first=date(2013, 1, 2),
    ),
    "ssi": _Habits(path="/statistics/charts/history", resolution="1D", enveloped=True),
    "vps": _Habits(
        path="/tradingview/history",
        resolution="D",
        names_symbol=True,
        empty_status="no_data",
        index_hour_utc=2,
        doubled_index=True,
    ),
    "dnse": _Habits(
        path="/chart-api/v2/ohlcs/stock",
        index_path="/chart-api/v2/ohlcs/index",
        resolution="1D",
        has_status=False,
        unknown_is_400=True,
        stock_hour_utc=2,
        index_hour_utc=2,
        first=date(2012, 1, 1),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UdfVendor:
    """One chart feed over `history`; give `answer` and `empty` to a `StandIn`.

    vendor : "vndirect_dchart", "ssi", "vps" or "dnse". history : raw bars; the feed tells them adjusted, in thousand
        VND. clock : before 15:00 ICT today's bar is served unfinished, later sessions are never served.
    datacentre : answer everybody as SSI answers a data centre (403, "Security Check").
    max_bars : newest bars that one reply holds at most, as if the feed had a cap.
    """

    vendor: str
    history: RawHistory
    clock: Clock = field(default_factory=SystemClock)
    datacentre: bool = False
    max_bars: int | None = None
    _series: Mapping[str, pl.DataFrame] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.vendor not in _HABITS:
            raise ValueError(f"vendor must be one of {', '.join(_HABITS)}, not {self.vendor!r}")
        object.__setattr__(self, "_series", _series_of(self.history, _HABITS[self.vendor]))

    @property
    def empty(self) -> Answer:
        """The feed's own well-formed answer without a bar."""
        return self._reply("", {name: [] for name in _ARRAYS})

    def answer(self, request: Request) -> Answer:
        """Return what the feed would send."""
        habits = _HABITS[self.vendor]
        if self.datacentre:
            return Answer(status=HTTPStatus.FORBIDDEN, body=_SECURITY_CHECK, content_type="text/html")
        if habits.refuses_accept and "accept" in request.headers:
            return Answer(status=HTTPStatus.NOT_ACCEPTABLE, body=b"Not Acceptable", content_type="text/plain")
        if (
            request.path not in {habits.path, habits.index_path}
            or request.params.get("resolution") != habits.resolution
        ):
            return Answer(status=HTTPStatus.NOT_FOUND, body=b'{"message":"Not Found"}')
        symbol = request.params.get("symbol", "")
        of_index = symbol == INDEX_SYMBOL
        if habits.index_path and of_index != (request.path == habits.index_path):
            symbol = ""
        bars = self._series.get(symbol)
        if bars is None and habits.unknown_is_400:
            return Answer(status=HTTPStatus.BAD_REQUEST, body=b'{"message":"invalid symbol"}')
        if bars is None:
            return self.empty
        bars = self._as_of_now(bars)
        bars = bars.filter(pl.col("t").is_between(int(request.params["from"]), int(request.params["to"])))
        if self.max_bars is not None:
            bars = bars.tail(self.max_bars)
        return self._reply(symbol, {name: bars.get_column(name).to_list() for name in _ARRAYS})

    def _as_of_now(self, bars: pl.DataFrame) -> pl.DataFrame:
        now = self.clock.now().astimezone(ICT)
        bars = bars.filter(pl.col("session") <= now.date())
        if now.time() >= _TRADING_ENDS:
            return bars
        unfinished = pl.col("session") == now.date()
        return bars.with_columns(
            pl.when(unfinished).then(pl.col("o")).otherwise(pl.col("c")).alias("c"),
            pl.when(unfinished).then(pl.col("v") // 2).otherwise(pl.col("v")).alias("v"),
        )

    def _reply(self, symbol: str, arrays: Mapping[str, list[float]]) -> Answer:
        habits = _HABITS[self.vendor]
        reply: dict[str, object] = {"symbol": symbol} if habits.names_symbol else {}
        reply |= arrays
        if habits.has_status:
            reply["s"] = "ok" if arrays["t"] else habits.empty_status
        else:
            reply["nextTime"] = 0
        body: dict[str, object] = {"code": "SUCCESS", "message": "", "data": reply} if habits.enveloped else reply
        return Answer(body=json.dumps(body).encode(), content_type=habits.content_type)


def _series_of(history: RawHistory, habits: _Habits) -> dict[str, pl.DataFrame]:
    """Return symbol -> (session, t, o, h, l, c, v), adjusted, thousand VND with three decimals; index in points."""
    factor = pl.when(pl.col("close_vnd") > 0).then(pl.col("adjusted_close_vnd") / pl.col("close_vnd"))
    columns = {"o": "open_vnd", "h": "high_vnd", "l": "low_vnd"}
    stocks = history.bars.filter(pl.col("session") >= habits.first).select(
        "symbol",
        "session",
        _stamp(habits.stock_hour_utc),
        *((pl.col(name) * factor / 1000).round(3).alias(letter) for letter, name in columns.items()),
        (pl.col("adjusted_close_vnd") / 1000).round(3).alias("c"),
        pl.col("volume_shares").alias("v"),
    )
    series = {str(key[0]): bars.drop("symbol") for key, bars in stocks.partition_by("symbol", as_dict=True).items()}
    points = pl.col("close_points")
    index = history.index.filter(pl.col("session") >= habits.first).select(
        "session",
        _stamp(habits.index_hour_utc),
        *(points.alias(letter) for letter in ("o", "h", "l", "c")),
        pl.lit(1_000_000, pl.Int64).alias("v"),
    )
    if habits.doubled_index:
        before = pl.col("c").shift(1).fill_null(pl.col("c"))
        letters = (before.alias(letter) for letter in ("o", "h", "l", "c"))
        placeholder = index.with_columns(_stamp(0), *letters, v=pl.lit(0, pl.Int64))
        index = pl.concat([placeholder, index]).sort("t")
    return series | {INDEX_SYMBOL: index}


def _stamp(hour_utc: int) -> pl.Expr:
    return (pl.col("session").cast(pl.Datetime("ms")).dt.epoch("s") + hour_utc * 3600).alias("t")
