"""Asking the sources: the preferred one first, the next when it fails, then everybody who is only heard.

Every source keeps its own history in the raw store. A week is served from one of them, whole: two vendors are never
spliced inside a series.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol, runtime_checkable

import polars as pl

from vnfleet.core.errors import BadDataError, RemoteError, UsageError
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.sources import TELLS_EVERYTHING, Sources
from vnfleet.cycle.workdir import Folders
from vnfleet.data.actions.announced import AnnouncedStore
from vnfleet.data.actions.events import LedgerReport
from vnfleet.data.panel import PanelStore
from vnfleet.data.record.collection import Collected, collect_into, plan_of
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import FetchPlan, Progress, RawHistory, Source, no_progress
from vnfleet.data.sources.files.listings import read_listings
from vnfleet.data.universe import UniverseChoice, collected_universe, traded_values

_QUARTER_MONTHS = 3
_PLAN_LATER = FetchPlan(
    requests=0, host="", seconds=0.0, sentence="the symbols of the panel, known after the first collection"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A source that did not answer, or answered what must not be used, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What a collection came to.

    source : whose history the week is served from; `failures` : the sources asked before it.
    opinions : names of second opinions that are on record; `silent` : those that did not answer this time, or did not
    tell their announced actions.
    announced : how many announced corporate actions were learned. ledger : what the event ledger learned.
    known_at : when all this was learned (UTC, whole seconds); the record is read as of this moment.
    newest : the newest session on record up to the day asked for.
    """

    source: str
    collected: Collected
    failures: tuple[Failure, ...]
    opinions: tuple[str, ...]
    silent: tuple[Failure, ...]
    announced: int
    ledger: LedgerReport
    known_at: datetime
    newest: date | None

    @property
    def sentence(self) -> str:
        """The collection in one line for a person."""
        parts = [self.collected.sentence + self.ledger.corrections]
        parts += [f"{failure.source} failed ({failure.reason}), served by {self.source}" for failure in self.failures]
        parts += [f"{', '.join(self.opinions)} heard"] if self.opinions else []
        parts += [f"{failure.source} was silent ({failure.reason})" for failure in self.silent]
        return "; ".join(parts)


@runtime_checkable
class Announcing(Protocol):
    """A source that also tells corporate actions before they happen."""

    def announced(self, symbols: Sequence[str] | None, as_of: date, progress: Progress = no_progress) -> pl.DataFrame:
        """Return `ANNOUNCED_SCHEMA` up to and including `as_of`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """One collection: what to ask of whom, into which work directory."""

    config: CycleConfig
    folders: Folders
    sources: Sources
    as_of: date
    known_at: datetime
    full: bool = False
    accept_degraded: bool = False
    progress: Progress = no_progress

    def plans(self) -> tuple[tuple[str, FetchPlan], ...]:
        """Return (source, what it would be asked) of everybody who would be asked first; asks nothing."""
        primary = self.sources.primaries[0]
        symbols = self._store.symbols(primary.name) or self._named_symbols(primary.name)
        asked = [(primary, self._primary_symbols(primary)), *((opinion, symbols) for opinion in self.sources.opinions)]
        return tuple(
            (source.name, plan_of(self._store, source, wanted, self.as_of, full=self.full))
            if wanted is None or wanted
            else (source.name, _PLAN_LATER)
            for source, wanted in asked
        )

    def run(self) -> Gathered:
        """Ask, merge and record; raises what the last source of the preference raised when all of them fail."""
        source, collected, failures = self._first_that_answers()
        ledger = PanelStore(self.folders.workdir, source.name).record_events(self.known_at)
        history = self._store.read(source.name, self.as_of)
        choice = universe_of(history, self.config, self.as_of)
        symbols = choice.symbols if choice is not None else history.bars.get_column("symbol").unique().sort().to_list()
        newest = history.bars.get_column("session").max()
        heard, silent = self._hear(source.name, symbols, {failure.source: failure for failure in failures})
        down = {failure.source for failure in (*failures, *silent)}
        announced, untold = self._learn_announced(
            [one for one in (source, *self.sources.opinions) if one.name not in down], symbols
        )
        return Gathered(
            source=source.name,
            collected=collected,
            failures=failures,
            opinions=heard,
            silent=(*silent, *untold),
            announced=announced,
            ledger=ledger,
            known_at=self.known_at,
            newest=newest if isinstance(newest, date) else None,
        )

    def _primary_symbols(self, source: Source) -> Sequence[str] | None:
        """Return what is asked of `source`: None (all it has), or the listed symbols, the pinned, those on record."""
        if source.name in TELLS_EVERYTHING:
            return None
        wanted = self._named_symbols(source.name)
        if wanted or source.name == "vndirect":  # finfo tells its own listings
            return wanted or None
        raise UsageError(
            f"{source.name} is asked symbol by symbol, and no symbols are named",
            expected="listings in [source], or pinned symbols in [universe]",
            fix="--listings symbols.csv (a column `symbol`), or --source cafef_bulk, which tells the whole market",
        )

    def _named_symbols(self, source_name: str) -> list[str]:
        """Return the pinned symbols, those of the listings and those on record from a source."""
        listings = read_listings(self.config.source.listings)
        wanted = set(self.config.universe.pinned) | set(self._store.symbols(source_name))
        wanted |= set() if listings is None else set(listings.get_column("symbol").to_list())
        return sorted(wanted)

    def _first_that_answers(self) -> tuple[Source, Collected, tuple[Failure, ...]]:
        failures: list[Failure] = []
        for source in self.sources.primaries:
            try:
                return source, self._collect(source, self._primary_symbols(source)), tuple(failures)
            except (RemoteError, BadDataError) as error:
                failures.append(Failure(source=source.name, reason=error.what))
                last = error
        if len(failures) > 1:
            last.add_note("sources that failed before: " + "; ".join(f"{one.source}: {one.reason}" for one in failures))
        raise last

    def _hear(
        self, source_name: str, symbols: Sequence[str], failed: Mapping[str, Failure]
    ) -> tuple[tuple[str, ...], tuple[Failure, ...]]:
        """Collect the second opinions; one that fails is silent, its earlier record still counts.

        source_name : who serves; a vendor does not confirm itself. failed : sources that failed already in this
            collection; they are not asked again.
        """
        silent: list[Failure] = []
        others = [opinion for opinion in self.sources.opinions if opinion.name != source_name]
        for opinion in others:
            if opinion.name in failed:
                silent.append(failed[opinion.name])
                continue
            try:
                self._collect(opinion, symbols)
            except (RemoteError, BadDataError) as error:
                silent.append(Failure(source=opinion.name, reason=error.what))
        on_record = tuple(opinion.name for opinion in others if self._store.has(opinion.name))
        return on_record, tuple(silent)

    def _learn_announced(self, sources: Sequence[Source], symbols: Sequence[str]) -> tuple[int, tuple[Failure, ...]]:
        """Record announced actions; they confirm what prices show, so a source that fails here stops nothing."""
        learned, untold = 0, []
        for source in sources:
            if isinstance(source, Announcing):
                try:
                    told = source.announced(symbols, self.as_of, self.progress)
                except (RemoteError, BadDataError) as error:
                    untold.append(Failure(source=f"{source.name}'s list of corporate actions", reason=error.what))
                else:
                    learned += AnnouncedStore(self.folders.announced, source.name).record(told, self.known_at)
        return learned, tuple(untold)

    def _collect(self, source: Source, symbols: Sequence[str] | None) -> Collected:
        return collect_into(
            self._store,
            source,
            symbols,
            self.as_of,
            self.known_at,
            full=self.full,
            progress=self.progress,
            accept_degraded=self.accept_degraded,
        )

    @property
    def _store(self) -> RawStore:
        return RawStore(self.folders.raw)


def universe_of(history: RawHistory, config: CycleConfig, as_of: date) -> UniverseChoice | None:
    """Return which symbols stand behind features and training; None when there are too few to choose from.

    Chosen before each judged year and at the last turn of a quarter, like an index: a choice that moved every week
    would change every cross-sectional feature of the past, and every finished fold with it.
    """
    universe = config.universe
    if history.bars.get_column("symbol").n_unique() <= universe.collected:
        return None
    review = date(as_of.year, as_of.month - (as_of.month - 1) % _QUARTER_MONTHS, 1) - timedelta(days=1)
    years = config.folds.years or range(as_of.year - config.folds.newest + 1, as_of.year + 1)
    values = traded_values(history.bars)
    days = values.filter(pl.col("traded_value_vnd") > 0).get_column("session").unique().sort()
    enough = [date(year, 1, 1) for year in years if (days < date(year, 1, 1)).sum() >= universe.window_sessions]
    return collected_universe(
        values,
        review if (days <= review).sum() >= universe.window_sessions else as_of,
        count=universe.collected,
        window_sessions=universe.window_sessions,
        days_of_folds=[day for day in enough if day <= review],
        pinned=universe.pinned,
    )
