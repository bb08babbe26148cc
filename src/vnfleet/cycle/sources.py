"""The configured vendors as sources: who is asked, who steps in, who is only heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from vnfleet.core.clock import Clock
from vnfleet.core.errors import UsageError
from vnfleet.cycle.config import CycleConfig, OpinionKind, PrimaryKind
from vnfleet.cycle.workdir import Folders
from vnfleet.data.sources.base import FetchPlan, Progress, RawHistory, Source, no_progress
from vnfleet.data.sources.cafef.bulk import CafefBulk
from vnfleet.data.sources.cafef.pages import CafefPages
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.sources.simulated import SimulatedSource
from vnfleet.data.sources.udf import Udf
from vnfleet.data.sources.vndirect import Vndirect
from vnfleet.data.sources.web import Politeness
from vnfleet.market.rules import KNOWN_FROM

TELLS_EVERYTHING = ("files", "simulated", "cafef_bulk")
"""Sources that tell all they have at once; the others are asked symbol by symbol."""
_SECOND = "second_"
_TET_DAYS = 14
"""Around Tet the newest set of files is that old."""


@dataclass(frozen=True, slots=True)
class Sources:
    """primaries : in order of preference; the first that answers serves the week. opinions : heard by the court."""

    primaries: tuple[Source, ...]
    opinions: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """A source under a record of its own, so that a second file or market is never mixed with the first."""

    inner: Source

    @property
    def name(self) -> str:
        """Name of the raw store's folder."""
        return _SECOND + self.inner.name

    def plan(self, symbols: Sequence[str] | None, as_of: date, *, since: Mapping[str, date] | None = None) -> FetchPlan:
        """Return the plan of the source inside."""
        return self.inner.plan(symbols, as_of, since=since)

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,
    ) -> RawHistory:
        """Return what the source inside says."""
        return self.inner.fetch(symbols, as_of, since=since, progress=progress)


def sources_of(config: CycleConfig, folders: Folders, clock: Clock) -> Sources:
    """Return the configured sources; raises `UsageError` when files are wanted but none are named."""
    source = config.source
    return Sources(
        primaries=tuple(_source(kind, config, folders, clock) for kind in (source.kind, *source.fallback)),
        opinions=tuple(_opinion(kind, config, folders, clock) for kind in source.cross_check),
    )


def _opinion(kind: OpinionKind, config: CycleConfig, folders: Folders, clock: Clock) -> Source:
    match kind:
        case "files":
            assert config.source.cross_check_path is not None, "checked by SourceConfig"
            return SecondOpinion(FilesSource(config.source.cross_check_path, basis="adjusted"))
        case "simulated":
            return SecondOpinion(_source(kind, config, folders, clock))
        case "vndirect_dchart" | "ssi" | "vps" | "dnse":
            return Udf(
                vendor=kind,
                politeness=_politeness(config),
                cache=folders.cache / kind,
                base_url=config.source.hosts.get(kind),
                clock=clock,
            )
        case _:
            return _source(kind, config, folders, clock)


def _source(kind: PrimaryKind, config: CycleConfig, folders: Folders, clock: Clock) -> Source:
    source, hosts = config.source, config.source.hosts
    match kind:
        case "simulated":
            return SimulatedSource(config.simulated)
        case "files":
            if source.path is None:
                raise UsageError(
                    "no prices are named",
                    expected="--path prices.parquet, or path in [source] of vnfleet.toml",
                    fix="to try without data of your own: vnfleet demo; to fetch: --source cafef_bulk",
                )
            return FilesSource(source.path, source.listings, source.unit, source.columns)
        case "cafef_bulk":
            pages = _source("cafef_pages", config, folders, clock) if source.per_symbol else None
            bulk = CafefBulk(
                workdir=folders.cache / kind,
                politeness=_politeness(config),
                max_age_days=max(_TET_DAYS, source.max_age_days),
                clock=clock,
                transferred=pages,
                transferred_symbols=source.per_symbol,
            )
            return replace(bulk, base_url=hosts[kind]) if kind in hosts else bulk
        case "cafef_pages":
            paged = CafefPages(
                politeness=_politeness(config), cache=folders.cache / kind, clock=clock, earliest=KNOWN_FROM
            )
            return replace(paged, base_url=hosts[kind]) if kind in hosts else paged
        case "vndirect":
            finfo = Vndirect(politeness=_politeness(config), cache=folders.cache / kind, clock=clock)
            return replace(finfo, base_url=hosts[kind]) if kind in hosts else finfo


def _politeness(config: CycleConfig) -> Politeness:
    return Politeness(
        requests_per_second=config.source.requests_per_second, max_concurrent=config.source.max_concurrent
    )
