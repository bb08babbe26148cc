"""CafeF's bulk download, standing in: zips of any history in the real names, format and quirks.

What the real files do and these do too: a byte-order mark, thousand VND, an adjusted file on the base of its own day, a
phantom weekend row of the index, funds, warrants and bonds between the stocks, no history from before a transfer to
another exchange, files of one day that appear one after the other (`missing`).
"""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Collection, Iterable, Mapping
from datetime import date, timedelta

import polars as pl

from vnfleet.data.sources.base import INDEX_SYMBOL, RawHistory
from vnfleet.data.sources.cafef.zips import BOARDS, HEADER, BulkKind, BulkName
from vnfleet.data.sources.standins.server import Answer, FaultKind, Request, StandIn
from vnfleet.market.rules import Exchange

_ROOT = "/data/ami_data"
_BOM = b"\xef\xbb\xbf"
_COLUMNS = ("symbol", "session", "open", "high", "low", "close", "volume")
_PRICES = ("open", "high", "low", "close")
_BYSTANDERS: dict[Exchange, tuple[str, ...]] = {
    Exchange.HOSE: ("E1VFVN30", "CFPT2601", "CVNM2602"),
    Exchange.HNX: ("BAB122032",),
    Exchange.UPCOM: ("TDP125017",),
}
"""Names that are no stocks: a fund, two warrants, bonds. They also keep an exchange without stocks from being empty."""
_REBASED_FRAC = 0.005
_ROUNDING_VND = 10.0
_STORED_AT = (2000, 1, 1, 0, 0, 0)


class BulkFiles:
    """The folder on CafeF's server: files appear with `publish`, change with `put` and vanish with `withdraw`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bodies: dict[str, bytes] = {}

    def publish(
        self,
        history: RawHistory,
        day: date,
        *,
        missing: Collection[BulkKind] = (),
        transfers: Mapping[str, date] | None = None,
    ) -> None:
        """Put the set of `day` there, without the kinds in `missing`; as `bulk_zips`."""
        for name, body in bulk_zips(history, day, transfers=transfers).items():
            if name.kind not in missing:
                self.put(name, body)

    def put(self, name: BulkName, body: bytes) -> None:
        """Put one file there, or replace it."""
        with self._lock:
            self._bodies[path_of(name)] = body

    def withdraw(self, name: BulkName) -> None:
        """Take one file away."""
        with self._lock:
            del self._bodies[path_of(name)]

    def answer(self, request: Request) -> Answer:
        """Return the file asked for, or 404."""
        with self._lock:
            body = self._bodies.get(request.path)
        if body is None:
            return Answer(status=404, body=b"Not Found", content_type="text/plain")
        return Answer(body=body, content_type="application/x-zip-compressed", static=True)


def cafef_bulk_stand_in(
    history: RawHistory,
    days: Iterable[date],
    *,
    missing: Collection[tuple[date, BulkKind]] = (),
    transfers: Mapping[str, date] | None = None,
    faults: Mapping[int, FaultKind] | None = None,
    latency_seconds: float = 0.0,
) -> StandIn:
    """Return a server that offers the set of each of `days`, cut out of `history`; its `url` is the base address.

    missing : files that have not appeared yet. transfers : first session of a symbol on its present exchange; what lies
    before is lost. faults : what goes wrong, by number of the request.
    """
    files = BulkFiles()
    for day in days:
        files.publish(history, day, missing={kind for absent, kind in missing if absent == day}, transfers=transfers)
    return StandIn(
        files.answer,
        faults=faults,
        latency_seconds=latency_seconds,
        empty=Answer(body=b"", content_type="application/x-zip-compressed"),
    )


def path_of(name: BulkName) -> str:
    """Return where on the server a file lies."""
    return f"{_ROOT}/{name.folder}/{name.file_name}"


def bulk_zips(history: RawHistory, day: date, *, transfers: Mapping[str, date] | None = None) -> dict[BulkName, bytes]:
    """Return the three `Upto` zips of `day`, byte for byte the same for the same history.

    history : raw prices needed; a row without a raw close is left out, rows without an exchange stand where the
        listings put their symbol (HOSE without any). Raises `ValueError` when nothing lies on or before `day`.
    """
    past = history.until(day)
    bars = _on_boards(past, transfers or {})
    if bars.is_empty():
        raise ValueError(f"the history has no raw row on or before {day}")
    zips = {}
    for kind, stocks in ((BulkKind.RAW, _raw(bars)), (BulkKind.ADJUSTED, _adjusted(bars))):
        name = BulkName(kind=kind, day=day)
        newest = stocks.filter(pl.col("session") == pl.col("session").max()).head(1)
        bodies = {}
        for member, exchange in name.members.items():
            assert exchange is not None
            rows = stocks.filter(pl.col("exchange") == exchange.value)
            others = [newest.with_columns(symbol=pl.lit(other)) for other in _BYSTANDERS[exchange]]
            bodies[member] = _csv(pl.concat([rows, *others]))
        zips[name] = _zip(bodies)
    name = BulkName(kind=BulkKind.INDEX, day=day)
    zips[name] = _zip({member: _csv(_index(past, day)) for member in name.members})
    return zips


def _on_boards(history: RawHistory, transfers: Mapping[str, date]) -> pl.DataFrame:
    listed = history.listings.select("symbol", listed_on="exchange")
    bars = history.bars.filter(pl.col("close_vnd").is_not_null()).join(listed, on="symbol", how="left")
    boards = [exchange.value for exchange in BOARDS.values() if exchange is not None]
    bars = bars.with_columns(
        exchange=pl.coalesce("exchange", "listed_on", pl.lit(Exchange.HOSE.value)).replace_strict(
            {board: board for board in boards}, default=Exchange.HOSE.value
        )
    )
    for symbol, first in transfers.items():
        bars = bars.filter((pl.col("symbol") != symbol) | (pl.col("session") >= first))
    return bars


def _raw(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.select(
        "symbol",
        "session",
        "exchange",
        *((pl.col(f"{name}_vnd") / 1000).round(4).alias(name) for name in _PRICES),
        pl.col("volume_shares").alias("volume"),
    )


def _adjusted(bars: pl.DataFrame) -> pl.DataFrame:
    """Rows on the base of their newest session: a later event is not known to an earlier file."""
    factor = pl.col("adjusted_close_vnd") / pl.col("close_vnd")
    usable = pl.when(factor.is_finite() & (factor > 0)).then(factor)
    latest = usable.drop_nulls().last().over("symbol", order_by="session")
    base = pl.when((latest - 1).abs() > _REBASED_FRAC).then(latest).otherwise(1.0).fill_null(1.0)
    close = (pl.col("adjusted_close_vnd") / base / _ROUNDING_VND).round() * _ROUNDING_VND
    bars = bars.filter(pl.col("adjusted_close_vnd").is_not_null()).with_columns(
        told_close=pl.when(base == 1.0).then("adjusted_close_vnd").otherwise(close)
    )
    ratio = pl.when(pl.col("close_vnd") > 0).then(pl.col("told_close") / pl.col("close_vnd")).otherwise(1.0)
    return bars.select(
        "symbol",
        "session",
        "exchange",
        *((pl.col(f"{name}_vnd") * ratio / 1000).round(2).alias(name) for name in _PRICES[:3]),
        (pl.col("told_close") / 1000).round(4).alias("close"),
        pl.col("volume_shares").alias("volume"),
    )


def _index(history: RawHistory, day: date) -> pl.DataFrame:
    points = pl.col("close_points").round(2)
    rows = history.index.select(
        pl.lit(INDEX_SYMBOL).alias("symbol"), "session", *(points.alias(name) for name in _PRICES), volume=pl.lit(0)
    )
    saturday = day - timedelta(days=(day.weekday() + 2) % 7)
    phantom = rows.filter(pl.col("session") == saturday - timedelta(days=1)).with_columns(session=pl.lit(saturday))
    rows = pl.concat([rows, phantom])
    return pl.concat([rows.with_columns(symbol=pl.lit(name)) for name in (INDEX_SYMBOL, "HNX-INDEX", "UPCOM-INDEX")])


def _csv(rows: pl.DataFrame) -> bytes:
    rows = rows.sort("symbol", "session", descending=[False, True]).select(_COLUMNS)
    body = rows.write_csv(include_header=False, line_terminator="\r\n", date_format="%Y%m%d")
    return _BOM + HEADER.encode() + b"\r\n" + body.encode()


def _zip(bodies: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, body in bodies.items():
            archive.writestr(zipfile.ZipInfo(name, _STORED_AT), body, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
