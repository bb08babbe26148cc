"""The chart feeds of VNDirect (dchart), SSI, VPS and DNSE: adjusted closes as a second opinion, never as the primary.

All speak TradingView's UDF, ``{s, t, o, h, l, c, v}``, and each in its own way; the profiles hold the differences.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path

import polars as pl

from vnfleet.core.clock import ICT, Clock, SystemClock
from vnfleet.core.errors import UsageError
from vnfleet.core.ids import frame_sha256
from vnfleet.data.sources.base import (
    INDEX_SYMBOL,
    RAW_SCHEMA,
    FetchPlan,
    Progress,
    RawHistory,
    no_progress,
    raw_history,
)
from vnfleet.data.sources.sessions import last_final_day
from vnfleet.data.sources.udf.profiles import PROFILES, UdfProfile
from vnfleet.data.sources.web import Politeness, SourceAnswerError, SourceRefusedError, WebClient

_LOGGER = logging.getLogger(__name__)
_RESUME_SECONDS = 12 * 3600.0
_ICT_HOURS = 7
_NEAR_DAYS = 14
_MAX_TURNS = 60
_MIN_TELLING_BARS = 5
_LAST_SENSIBLE_STAMP = 10**11  # seconds; milliseconds are beyond it
_DEAREST_THOUSAND_VND = 2_000.0
_INDEX_POINTS = (20.0, 20_000.0)
_LATER = "try again later; if it stays so, the vendor has changed its service: use another source"
_BARS_SCHEMA: dict[str, pl.DataType] = {"t": pl.Int64(), "c": pl.Float64(), "v": pl.Float64()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Udf:
    """Adjusted closes and volumes of one chart feed; raw prices, references and exchanges stay null.

    Closes in thousand VND there, VND here (VNINDEX in points). The day of a bar is the day in Vietnam of its stamp,
    whatever hour the vendor stamps. Ten or more flat bars without volume at the end (a suspended stock) are kept: the
    court judges them. What "volume" means is the vendor's affair; it is good for returns to be compared, not for value.

    vendor : "vndirect_dchart", "ssi", "vps" or "dnse". base_url : None for the vendor's own. cache : folder for the
    replies of a bootstrap, so that it resumes in the middle. clock : bars of today before 15:15 ICT are not kept.
    """

    vendor: str
    politeness: Politeness = field(default_factory=Politeness)
    cache: Path | None = None
    base_url: str | None = None
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        if self.vendor not in PROFILES:
            raise ValueError(f"vendor must be one of {', '.join(PROFILES)}, not {self.vendor!r}")

    @property
    def name(self) -> str:
        """Name of the raw store's folder."""
        return self.vendor

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return one request a symbol and one for the index, and one to prove each whole history (seldom needed).

        A feed that holds bars back, or a symbol it does not know, costs further ones.
        """
        stocks = _stocks(symbols, self.vendor)
        num_whole = sum(symbol not in (since or {}) for symbol in stocks)
        requests = len(stocks) + 1 + (num_whole + 1 if num_whole else 0)
        return FetchPlan(
            requests=requests,
            host=PROFILES[self.vendor].host.removeprefix("https://"),
            seconds=self.politeness.seconds_for(requests),
            sentence=f"ask {self.vendor} for the adjusted closes, up to {last_final_day(as_of, self.clock)}, of "
            f"{len(stocks)} symbols one by one and of {INDEX_SYMBOL}",
        )

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return the bars up to the last session that is final; symbols the feed does not know have none.

        Raises `UsageError` when `symbols` is None (a chart feed cannot list what it has), `SourceError` when the feed
        refuses, fails, answers something else than what was asked, or changed its unit.
        """
        profile = PROFILES[self.vendor]
        stocks = _stocks(symbols, self.vendor)
        until = last_final_day(as_of, self.clock)
        parts: dict[str, pl.DataFrame] = {}
        with WebClient(self.politeness, cache=self.cache) as web:
            feed = _Feed(web=web, profile=profile, base_url=self.base_url or profile.host, until=until)
            for done, symbol in enumerate(stocks):
                progress(done, len(stocks) + 1, symbol)
                parts[symbol] = feed.history(symbol, (since or {}).get(symbol))
            progress(len(stocks), len(stocks) + 1, INDEX_SYMBOL)
            earliest = None if any(symbol not in (since or {}) for symbol in stocks) else min((since or {}).values())
            index = feed.history(INDEX_SYMBOL, earliest)
        unknown = [symbol for symbol, bars in parts.items() if bars.is_empty()]
        if unknown:
            _LOGGER.warning("%s has no bars of %s", self.vendor, ", ".join(unknown))
        _refuse_other_content(parts, index, profile, until)
        bars = pl.concat(
            [pl.DataFrame(schema=RAW_SCHEMA)]
            + [_stock_bars(symbol, part) for symbol, part in parts.items() if part.height],
        )
        progress(len(stocks) + 1, len(stocks) + 1, "read")
        return raw_history(bars, _index_bars(index, profile), None)


def _stocks(symbols: Sequence[str] | None, vendor: str) -> tuple[str, ...]:
    stocks = tuple(sorted({symbol.upper() for symbol in symbols or ()} - {INDEX_SYMBOL}))
    if not stocks:
        raise UsageError(
            f"{vendor} is a chart feed and cannot list what it has",
            expected="the symbols to ask for",
            found="none",
            fix="use it as a second opinion beside a source that knows the market (cafef_bulk, vndirect)",
        )
    return stocks


@dataclass(slots=True, kw_only=True)
class _Feed:
    """The questions of one fetch; remembers every reply to notice one that comes twice.

    replies : fingerprint of each reply -> symbol it was given for. longest : most bars that one reply held.
    """

    web: WebClient
    profile: UdfProfile
    base_url: str
    until: date
    replies: dict[str, str] = field(default_factory=dict)
    longest: int = 0

    def history(self, symbol: str, start: date | None) -> pl.DataFrame:
        """Return (t, c, v, session) from `start`, or from the feed's first day, to `until`.

        A feed may hold back all but its newest bars without a word. So a reply that begins long after the first day
        asked for is followed by a question for the days before, unless a longer reply was seen: then this one is whole.
        """
        start = max(start or self.profile.first_day, self.profile.first_day)
        parts, end = [pl.DataFrame(schema=_BARS_SCHEMA | {"session": pl.Date()})], self.until
        while start <= end and len(parts) <= _MAX_TURNS:
            bars = self._window(symbol, start, end, kept=start == self.profile.first_day, must_have=len(parts) == 1)
            if bars.is_empty():
                break
            parts.append(bars)
            first = bars.get_column("session").min()
            assert isinstance(first, date)
            is_whole = (first - start).days <= _NEAR_DAYS or bars.height < self.longest
            self.longest = max(self.longest, bars.height)
            if is_whole:
                break
            end = first - timedelta(days=1)
        return pl.concat(parts).sort("t", maintain_order=True)

    def _window(self, symbol: str, start: date, end: date, *, kept: bool, must_have: bool) -> pl.DataFrame:
        path = self.profile.index_path if symbol == INDEX_SYMBOL else self.profile.stock_path
        url = f"{self.base_url}{path}"
        window = {"from": str(_ict_seconds(start, time.min)), "to": str(_ict_seconds(end, time(23, 59, 59)))}
        params = {"symbol": symbol, "resolution": self.profile.resolution, **window}
        bars = pl.DataFrame(schema=_BARS_SCHEMA | {"session": pl.Date()})

        def check(reply: object) -> None:
            nonlocal bars
            bars = _read(reply, self.profile, symbol, url)
            complaint = self._complaint(symbol, bars, start, end)
            if complaint:
                raise _odd(self.profile, complaint, f"{symbol} from {start} to {end}", url)

        try:
            cached = _RESUME_SECONDS if kept else None
            self.web.get_json(url, params, headers=self.profile.headers, cache_seconds=cached, check=check)
            if bars.is_empty() and must_have:  # an accident, or a symbol without bars: the second time is believed
                self.web.get_json(url, params, headers=self.profile.headers, check=check)
        except SourceRefusedError as error:
            raise SourceRefusedError(
                f"{self.profile.name} refuses to be asked",
                found=error,
                fix=self.profile.advice,
                status=error.status,
            ) from error
        except SourceAnswerError as error:
            if error.status is None or error.status != self.profile.unknown_status:
                raise
            return bars.clear()
        return bars.filter(pl.col("session").is_between(start, end))

    def _complaint(self, symbol: str, bars: pl.DataFrame, start: date, end: date) -> str | None:
        if bars.is_empty():
            return None
        if bars.filter(pl.col("session").is_between(start, end)).is_empty():
            return f"only bars outside the days asked for, {bars.item(0, 'session')} to {bars.item(-1, 'session')}"
        traded = bars.filter(pl.col("v") > 0)
        if traded.height < _MIN_TELLING_BARS:
            return None
        owner = self.replies.setdefault(frame_sha256(bars.select(list(_BARS_SCHEMA))), symbol)
        return f"the bars it gave for {owner}" if owner != symbol else None


def _ict_seconds(day: date, at: time) -> int:
    """Return the stamp of a moment in Vietnam, whatever zone this machine is in."""
    return int(datetime.combine(day, at, tzinfo=ICT).timestamp())


def _odd(profile: UdfProfile, complaint: str, expected: str, url: str) -> SourceAnswerError:
    return SourceAnswerError(
        f"{profile.name} answers something else than what was asked: {complaint}",
        expected=expected,
        where=url,
        fix=_LATER,
        again=True,
    )


def _read(reply: object, profile: UdfProfile, symbol: str, url: str) -> pl.DataFrame:
    """Return (t, c, v, session in Vietnam) of a reply, in its order; raises `SourceAnswerError` on another shape."""

    def odd(complaint: str) -> SourceAnswerError:
        return _odd(profile, complaint, f"a UDF reply about {symbol}", url)

    if profile.enveloped:
        if not isinstance(reply, dict) or reply.get("code") != "SUCCESS":
            raise odd(f"not an envelope with SUCCESS: {str(reply)[:120]}")
        reply = reply.get("data")
    if not isinstance(reply, dict):
        raise odd(f"no object: {str(reply)[:120]}")
    status = reply.get("s")
    if profile.has_status and status not in {"ok", "no_data"}:
        raise odd(f"status {status!r} {reply.get('errmsg', '')}")
    told = str(reply.get("symbol") or symbol)
    if told.upper() != symbol:
        raise odd(f"bars of {told}")
    arrays = {name: reply.get(name) or [] for name in ("t", "c", "v")}
    if status != "no_data" and any(not isinstance(reply.get(name), list) for name in ("t", "c")):
        raise odd(f"no arrays t and c: {str(reply)[:120]}")
    if len({len(array) for array in arrays.values()}) != 1:
        raise odd(f"arrays of different lengths: {', '.join(f'{len(a)} {name}' for name, a in arrays.items())}")
    try:
        frame = pl.DataFrame(arrays, schema=_BARS_SCHEMA, strict=True)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise odd(f"values that are no numbers ({str(error).splitlines()[0][:80]})") from error
    if frame.filter(~pl.col("t").is_between(1, _LAST_SENSIBLE_STAMP).fill_null(value=False)).height:
        raise odd("stamps that are no seconds since 1970")
    day = (pl.from_epoch("t", time_unit="s") + pl.duration(hours=_ICT_HOURS)).dt.date()
    return frame.with_columns(day.alias("session"))


def _refuse_other_content(
    parts: Mapping[str, pl.DataFrame], index: pl.DataFrame, profile: UdfProfile, until: date
) -> None:
    """Raise when there is nothing, or the unit is not the one it used to be."""
    where = f"{profile.host}, up to {until}"
    closes = [part.get_column("c").drop_nulls() for part in parts.values()]
    newest = pl.Series([float(close[-1]) for close in closes if close.len()], dtype=pl.Float64).sort()
    if newest.is_empty():
        raise SourceAnswerError(
            f"{profile.name} knows none of the symbols asked for",
            found=", ".join(list(parts)[:10]),
            where=where,
            fix="check the symbols; use another source",
        )
    typical = float(newest[newest.len() // 2])
    if typical > _DEAREST_THOUSAND_VND:
        raise SourceAnswerError(
            f"{profile.name} tells prices in another unit than it used to",
            expected=f"thousand VND, typically below {_DEAREST_THOUSAND_VND:,.0f}",
            found=f"a typical close of {typical:,.1f}",
            where=where,
            fix="use another source and report this",
        )
    points = index.get_column("c").drop_nulls()
    if points.len() and not _INDEX_POINTS[0] <= float(points[-1]) <= _INDEX_POINTS[1]:
        raise SourceAnswerError(
            f"{profile.name} tells {INDEX_SYMBOL} in another unit than points",
            expected="points",
            found=float(points[-1]),
            where=where,
            fix="use another source and report this",
        )


def _stock_bars(symbol: str, bars: pl.DataFrame) -> pl.DataFrame:
    """Return `RAW_SCHEMA` with the adjusted close and the volume only; a bar told twice in the same words once."""
    told = {"adjusted_close_vnd": (pl.col("c") * 1000).round(2), "volume_shares": pl.col("v").round()}
    columns = [
        pl.lit(symbol).alias(name)
        if name == "symbol"
        else told.get(name, pl.col("session") if name == "session" else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in RAW_SCHEMA.items()
    ]
    return bars.unique(["session", "c", "v"], maintain_order=True).select(columns)


def _index_bars(bars: pl.DataFrame, profile: UdfProfile) -> pl.DataFrame:
    """Return one bar a day: of two, the placeholder (stamped earlier, without volume) is not the real one."""
    real = bars.sort("session", "t", "v", nulls_last=False, maintain_order=True).unique("session", keep="last")
    good = real.filter(~pl.col("session").is_in(sorted(profile.bad_index_days)))
    return good.select("session", close_points="c")
