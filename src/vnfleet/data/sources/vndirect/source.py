"""VNDirect's finfo as a source: raw and adjusted bars, reference prices, the exchange of each day, announced events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import polars as pl

from vnfleet.core.clock import Clock, SystemClock
from vnfleet.data.actions.announced import as_announced
from vnfleet.data.sources.base import INDEX_SYMBOL, FetchPlan, Progress, RawHistory, no_progress, raw_history
from vnfleet.data.sources.sessions import last_final_day
from vnfleet.data.sources.vndirect.finfo import HOST, Finfo, refuse_dead_host
from vnfleet.data.sources.vndirect.questions import EVENT_KINDS, FIRST_DAY, FLOORS, Asking, day_of
from vnfleet.data.sources.vndirect.route import route_to
from vnfleet.data.sources.web import Politeness, WebClient
from vnfleet.market.rules import Exchange

_PAR_VND = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vndirect:
    """Daily bars of VNDirect's finfo; prices in thousand VND there, VND here.

    Two ways lead to the same rows: a whole exchange for some sessions in one request (which also brings names that were
    delisted later), or one symbol with all its history. `fetch` takes the one with fewer requests, symbol by symbol,
    and asks alone for a symbol whose board rows begin late (it came from another exchange, or is no plain stock).

    base_url : of the service; tests and demonstrations give a stand-in's. cache : folder for the replies of a
    bootstrap, so that it resumes in the middle. clock : today's rows before 15:15 ICT are not asked for.
    """

    politeness: Politeness = field(default_factory=Politeness)
    cache: Path | None = None
    base_url: str = HOST
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        refuse_dead_host(self.base_url)

    @property
    def name(self) -> str:
        """Name of the raw store's folder."""
        return "vndirect"

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return at most how many requests `fetch` makes, if no board is larger than expected and nothing fails.

        Where the symbols are listed is not known before asking: all three boards are counted.
        """
        until = last_final_day(as_of, self.clock)
        route = route_to(_wanted(symbols, since), until, since or {}, tuple(Exchange))
        how = [f"{len(route.alone)} symbols one by one"] if route.alone else []
        if route.boards:
            how.append(f"whole boards from {route.boards[0][1][0]} in {len(route.boards)} requests")
        requests = 3 + route.requests  # the list of stocks, and VNINDEX on at most two pages
        return FetchPlan(
            requests=requests,
            host=HOST.removeprefix("https://"),
            seconds=self.politeness.seconds_for(requests),
            sentence=f"ask VNDirect finfo, up to {until}, for {' and '.join([*how, 'the list of stocks'])}",
        )

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return the rows up to the last session that is final; `symbols` None means every stock ever on the boards.

        Volume is the matched volume (`nmVolume`), the stated reference is `basicPrice`, the exchange that day's floor.
        A symbol the vendor does not know has no rows and no listing.

        Raises `SourceError` when the service refuses, fails, or answers something else than what was asked.
        """
        until = last_final_day(as_of, self.clock)
        with WebClient(self.politeness, cache=self.cache) as web:
            asking = Asking(finfo=Finfo(web=web, base_url=self.base_url), until=until, progress=progress)
            listed = asking.listed()
            wanted = _wanted(symbols, since, listed)
            floors = tuple(Exchange) if wanted is None else _floors_of(wanted, listed)
            route = route_to(wanted, until, since or {}, floors)
            rows = asking.prices(route, wanted, since or {})
            wholly = None in route.alone.values() or wanted is None
            index = asking.index(FIRST_DAY if wholly else min((since or {}).values(), default=FIRST_DAY))
        return raw_history(_bars(rows), index, _listings(listed, rows))

    def announced(self, symbols: Sequence[str] | None, as_of: date, progress: Progress = no_progress) -> pl.DataFrame:
        """Return announced cash dividends, stock dividends and bonus issues, `ANNOUNCED_SCHEMA`, by symbol and ex-date.

        Ex-dates from about 2021 up to a year ahead; an event disclosed after `as_of` is not known yet and left out. The
        service tells no rights issues and no splits. Each event is served twice (VN, EN_GB) and returned once.

        Raises `SourceError`, see `fetch`.
        """
        with WebClient(self.politeness, cache=self.cache) as web:
            asking = Asking(finfo=Finfo(web=web, base_url=self.base_url), until=as_of, progress=progress)
            events = asking.events(symbols)
        return _announced(events if symbols is None else events.filter(pl.col("code").is_in(list(symbols))), as_of)


def _wanted(
    symbols: Sequence[str] | None, since: Mapping[str, date] | None, listed: pl.DataFrame | None = None
) -> tuple[str, ...] | None:
    """Return the stocks to ask for; None: all that ever were on the boards (no `since`, no symbols)."""
    if symbols is None and not since:
        return None
    everybody = (*(since or {}), *(listed.get_column("code").to_list() if listed is not None else ()))
    names = everybody if symbols is None else symbols
    return tuple(sorted({name.upper() for name in names} - {INDEX_SYMBOL}))


def _floors_of(wanted: Sequence[str], listed: pl.DataFrame) -> tuple[Exchange, ...]:
    floors = set(listed.filter(pl.col("code").is_in(list(wanted))).get_column("floor").replace(FLOORS).to_list())
    return tuple(exchange for exchange in Exchange if exchange.value in floors)


def _vnd(column: str) -> pl.Expr:
    return (pl.col(column) * 1000).round(2)


def _bars(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        pl.col("code").alias("symbol"),
        day_of("date").alias("session"),
        *(_vnd(name).alias(f"{name}_vnd") for name in ("open", "high", "low", "close")),
        _vnd("adClose").alias("adjusted_close_vnd"),
        pl.when(pl.col("basicPrice") > 0).then(_vnd("basicPrice")).alias("stated_reference_vnd"),
        pl.col("nmVolume").round().cast(pl.Int64, strict=False).alias("volume_shares"),
        _exchange().alias("exchange"),
    )


def _exchange() -> pl.Expr:
    return pl.col("floor").replace_strict(FLOORS, default=None, return_dtype=pl.String)


def _listings(listed: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Return where each symbol with rows is listed today, or was when it traded last."""
    newest = rows.sort("date").group_by("code", maintain_order=True).agg(pl.col("floor").last())
    known = pl.concat([newest, listed.join(newest, on="code", how="semi")])
    return known.select(symbol="code", exchange=_exchange(), sector=pl.lit("")).drop_nulls("exchange")


def _announced(events: pl.DataFrame, as_of: date) -> pl.DataFrame:
    kind = pl.col("type").str.to_uppercase().replace_strict(EVENT_KINDS, default=None, return_dtype=pl.String)
    is_cash = kind == "cash_dividend"
    stated = pl.when(pl.col("dividend") > 0).then(pl.col("dividend"))
    known = (
        events.with_columns(disclosed=pl.coalesce(day_of("disclosureDate"), day_of("effectiveDate")))
        .filter(pl.col("disclosed") <= as_of)
        .select(
            pl.col("code").alias("symbol"),
            day_of("effectiveDate").alias("ex_date"),
            kind.alias("kind"),
            pl.when(is_cash).then(pl.coalesce(stated, pl.col("ratio") / 100 * _PAR_VND)).alias("cash_vnd"),
            pl.when(~is_cash).then(pl.col("ratio") / 100).alias("ratio_frac"),
            pl.lit("vndirect").alias("source"),
        )
    )
    # An event without a date or an amount yet says nothing that prices could confirm.
    return as_announced(known.drop_nulls("ex_date").filter((pl.col("cash_vnd") > 0) | (pl.col("ratio_frac") > 0)))
