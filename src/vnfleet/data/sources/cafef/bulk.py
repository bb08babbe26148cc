"""The whole market in three requests: CafeF's bulk files, fetched, kept and read.

The three files of a day appear one after the other on CafeF's file server, so the newest *complete* day is taken. They
lack what a stock did before it moved to another exchange (ACB starts on 2020-12-14 there), so such symbols come whole
from another source; two sources are never joined inside one symbol.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import polars as pl

from vnfleet.core.clock import Clock, SystemClock
from vnfleet.core.errors import BadDataError
from vnfleet.core.lock import holding
from vnfleet.data.sources.base import FetchPlan, Progress, RawHistory, Source, no_progress
from vnfleet.data.sources.cafef.sets import BulkSet, read_set
from vnfleet.data.sources.cafef.zips import BulkKind, BulkName, check_zip
from vnfleet.data.sources.sessions import last_final_day
from vnfleet.data.sources.web import (
    Politeness,
    SourceAnswerError,
    SourceMissingError,
    WebClient,
)

HOST = "https://cafef1.mediacdn.vn"
_MEGABYTES = {BulkKind.ADJUSTED: 50.0, BulkKind.RAW: 38.0, BulkKind.INDEX: 0.2}
_ORDER = (BulkKind.INDEX, BulkKind.RAW, BulkKind.ADJUSTED)
"""The small file is asked for first: on a day without files nothing big is asked for."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CafefBulk:
    """CafeF's bulk files as a `Source`.

    workdir : folder where the newest set is kept, about 90 MB; older sets in it are removed once a newer one is whole.
    base_url : the file server. politeness : how it is asked. max_age_days : a set older than that is refused.
    clock : today's rows before 15:15 ICT are not kept. transferred, transferred_symbols : the source asked for the
    whole history of symbols that changed their exchange, and those symbols.
    """

    workdir: Path
    base_url: str = HOST
    politeness: Politeness = field(default_factory=Politeness)
    max_age_days: int = 14
    transferred: Source | None = None
    transferred_symbols: tuple[str, ...] = ()
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        if self.max_age_days < 0:
            raise ValueError(f"max_age_days must be at least 0, not {self.max_age_days}")
        if self.transferred_symbols and self.transferred is None:
            raise ValueError("transferred_symbols need a source, `transferred`, to be asked for")

    @property
    def name(self) -> str:
        """Name of the raw store's folder."""
        return "cafef_bulk"

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return what a fetch would ask for: three files, and one question for each day that has none yet."""
        most = len(_ORDER) * (self.max_age_days + 1)
        host = self.base_url.partition("://")[2]
        size = f"about {sum(_MEGABYTES.values()):.0f} MB"
        sentence = f"3 files of {host}, {size}, and a small question for each day without files"
        if kept := self._kept_day(as_of):
            sentence += f"; those of {kept} are here already: nothing is transferred if they are still the newest"
        seconds = self.politeness.seconds_for(most)
        if wanted := self._transferred_among(symbols):
            assert self.transferred is not None
            other = self.transferred.plan(wanted, as_of)
            most, seconds = most + other.requests, seconds + other.seconds
            sentence += f"; the whole history of {', '.join(wanted)} from {self.transferred.name}: {other.sentence}"
        return FetchPlan(requests=most, host=host, seconds=seconds, sentence=sentence)

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return everything up to and including the day of the newest complete set; `since` changes nothing.

        Symbols that the files do not have are absent from the answer. A killed fetch goes on where it stopped.

        Raises `SourceError` when the server refuses, is silent, has no complete set of the last `max_age_days` days, or
        its files cannot be understood (they are then forgotten, so that the next fetch asks for them anew);
        `BadDataError` when none of `symbols` is there; and what `transferred` raises.
        """
        as_of = last_final_day(as_of, self.clock)
        with holding(self.workdir / ".lock", "fetching CafeF's bulk files"):
            bulk, history = self._newest_history(symbols, as_of, progress)
        history = self._with_transferred(history, self._transferred_among(symbols), bulk.day, progress)
        if history.bars.is_empty():
            raise BadDataError(
                "CafeF's files have no rows of the stocks asked for",
                expected=f"rows up to {as_of}",
                found=", ".join(sorted(symbols or ())[:10]),
                where=bulk.raw,
                fix="check the symbols and the date",
            )
        if absent := sorted(set(symbols or ()) - set(history.bars.get_column("symbol").unique())):
            _LOGGER.warning("CafeF's files of %s do not have %s", bulk.day, ", ".join(absent))
        return history

    def _transferred_among(self, symbols: Sequence[str] | None) -> tuple[str, ...]:
        return tuple(
            symbol for symbol in sorted(set(self.transferred_symbols)) if symbols is None or symbol in set(symbols)
        )

    def _path(self, name: BulkName) -> Path:
        return self.workdir / name.folder / name.file_name

    def _kept_day(self, as_of: date) -> date | None:
        """Return the newest day whose three files are here."""
        days = (as_of - timedelta(days=age) for age in range(self.max_age_days + 1))
        return next((day for day in days if all(self._path(name).is_file() for name in _names(day))), None)

    def _newest_history(
        self, symbols: Sequence[str] | None, as_of: date, progress: Progress
    ) -> tuple[BulkSet, RawHistory]:
        """Fetch and read; once more when the files do not fit together and were just being replaced."""
        bulk, _ = self._newest(as_of, progress)
        try:
            return bulk, read_set(bulk, bulk.day, symbols, progress)
        except BadDataError as error:
            _LOGGER.warning("%s; asking whether the files were replaced meanwhile", str(error).splitlines()[0])
            problem = error
        bulk, has_changed = self._newest(as_of, progress)
        if has_changed:
            try:
                return bulk, read_set(bulk, bulk.day, symbols, progress)
            except BadDataError as error:
                problem = error
        shutil.rmtree(bulk.raw.parent, ignore_errors=True)
        raise SourceAnswerError(
            f"CafeF's files of {bulk.day} cannot be used",
            found=str(problem),
            where=self.base_url,
            fix="run the same command again later, or use another source",
        ) from problem

    def _newest(self, as_of: date, progress: Progress) -> tuple[BulkSet, bool]:
        """Fetch the three files of the newest complete day; also return whether any of them is new here."""
        incomplete = []
        with WebClient(self.politeness) as client:
            for age in range(self.max_age_days + 1):
                day = as_of - timedelta(days=age)
                progress(age, 0, f"looking for CafeF's files of {day}")
                came: dict[BulkKind, bool] = {}
                try:
                    for kind in _ORDER:
                        came[kind] = self._download(client, BulkName(kind=kind, day=day), progress)
                except SourceMissingError:
                    with contextlib.suppress(OSError):
                        (self.workdir / BulkName(kind=kind, day=day).folder).rmdir()  # an empty one
                    if came:
                        incomplete.append(f"{day} ({' and '.join(came)} only)")
                        _LOGGER.info("CafeF's files of %s are not complete yet", day)
                    continue
                self._forget_older(day)
                adjusted, raw, index = (self._path(name) for name in _names(day))
                return BulkSet(day=day, adjusted=adjusted, raw=raw, index=index), any(came.values())
        raise SourceMissingError(
            "CafeF has no complete set of bulk files that is new enough",
            expected=f"three Upto files of one day from {as_of - timedelta(days=self.max_age_days)} to {as_of}",
            found="; ".join(incomplete) or "none",
            where=self.base_url,
            fix="try again tomorrow, raise max_age_days, or use another source",
        )

    def _download(self, client: WebClient, name: BulkName, progress: Progress) -> bool:
        url = f"{self.base_url}/data/ami_data/{name.folder}/{name.file_name}"
        return client.download(url, self._path(name), progress=progress, check=partial(_check, name=name, url=url))

    def _forget_older(self, day: date) -> None:
        for path in self.workdir.glob("*/CafeF.*.zip"):
            name = BulkName.parse(path.name)
            if name is not None and name.day < day and path.parent.name == name.folder:
                shutil.rmtree(path.parent, ignore_errors=True)

    def _with_transferred(
        self, history: RawHistory, wanted: tuple[str, ...], until: date, progress: Progress
    ) -> RawHistory:
        """Replace whole symbols by what the other source says of them."""
        if not wanted:
            return history
        assert self.transferred is not None
        other = self.transferred.fetch(wanted, until, progress=progress)
        of_wanted = pl.col("symbol").is_in(wanted)
        bars = other.bars.filter(of_wanted)
        _refuse_shorter(history.bars.filter(of_wanted), bars, self.transferred.name)
        added = other.listings.filter(of_wanted & ~pl.col("symbol").is_in(history.listings.get_column("symbol")))
        return RawHistory(
            bars=pl.concat([history.bars.filter(~of_wanted), bars]).sort("symbol", "session", maintain_order=True),
            index=history.index,
            listings=pl.concat([history.listings, added]).sort("symbol"),
        )


def _names(day: date) -> list[BulkName]:
    return [BulkName(kind=kind, day=day) for kind in BulkKind]


def _check(path: Path, *, name: BulkName, url: str) -> None:
    try:
        check_zip(path, name)
    except BadDataError as error:
        raise SourceAnswerError(
            "CafeF sent something else than a whole zip",
            expected=name.file_name,
            found=str(error),
            where=url,
            fix="run the same command again later, or use another source",
            again=True,
        ) from error


def _refuse_shorter(bulk: pl.DataFrame, other: pl.DataFrame, source: str) -> None:
    """Refuse a replacement that knows less than what it replaces."""
    spans = [
        rows.group_by("symbol").agg(pl.col("session").min().alias("first"), pl.col("session").max().alias("last"))
        for rows in (bulk, other)
    ]
    short = (
        spans[0]
        .join(spans[1], on="symbol", how="left", suffix="_other")
        .filter(
            pl.col("first_other").is_null()
            | (pl.col("first_other") > pl.col("first"))
            | (pl.col("last_other") < pl.col("last"))
        )
        .sort("symbol")
    )
    if short.height:
        symbol, first, last, first_other, last_other = short.row(0)
        raise SourceAnswerError(
            "the other source knows less of a transferred stock than CafeF's bulk files",
            expected=f"{symbol} from {first} or earlier to {last}",
            found=f"{first_other} to {last_other}" if first_other else "no rows",
            where=source,
            fix=f"take {symbol} out of transferred_symbols, or ask {source} again later",
        )
