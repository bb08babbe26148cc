"""Collecting: ask for what is new and a little of what is known, compare, and merge only what can be trusted.

1. Windows from the store: of every stored symbol the last `OVERLAP_SESSIONS` sessions are asked for again.
2. The overlap is compared (`record.overlap`). A symbol whose vendor re-based its history (about six a week of 289 are
   normal), corrected it, or left a gap is fetched whole; one that cannot be told whole is held back as it was.
3. A feed that looks worse than what is stored (`record.degradation`) is rejected as a whole, with the reasons.
4. The rest is merged; what was re-based is reported with its factor and the ex-dates since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.data.actions.steps import vendor_steps
from vnfleet.data.record.degradation import Tolerance, degradation
from vnfleet.data.record.overlap import Rebased, few, moved_bases, refusals, split_repeated
from vnfleet.data.record.store import MergeReport, RawStore, is_storable
from vnfleet.data.sources.base import (
    INDEX_SCHEMA,
    LISTINGS_SCHEMA,
    RAW_SCHEMA,
    FetchPlan,
    Progress,
    RawHistory,
    Source,
    no_progress,
)

OVERLAP_SESSIONS = 80
MAX_FORGOTTEN_FRAC = 0.05
"""Share of its stored sessions that a re-based history may no longer tell."""
MAX_REBASED_FRAC = 0.25
REBASED_FRAC_PER_WEEK = 0.05
"""More than this share re-based at once, and per week since the last collection, is a fault of the feed."""
MAX_HELD_FRAC = 0.05
_FEW = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBase:
    """A re-based symbol: adjusted closes of the past were multiplied by `factor`.

    old_level, new_level : the vendor's adjusted over raw close on the newest session known before, then and now.
    ex_dates : sessions from which the vendor steps since; empty where the source has no raw prices to tell them from.
    """

    symbol: str
    factor: float
    old_level: float
    new_level: float
    overlap_sessions: int
    ex_dates: tuple[date, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection did.

    refetched : symbols fetched a second time, whole. held : symbol and reason of each that was left as it was stored.
    newest : the newest session told; None when nothing was asked because a later day is stored already.
    """

    merge: MergeReport
    plan: FetchPlan
    rebased: tuple[NewBase, ...]
    refetched: tuple[str, ...]
    held: tuple[tuple[str, str], ...]
    newest: date | None
    num_symbols: int
    num_rows: int

    @property
    def sentence(self) -> str:
        """The collection in one line for a person."""
        if self.newest is None:
            return "a later day is stored already, nothing was asked"
        bases = [f"{base.symbol} x{base.factor:.4f}" for base in self.rebased]
        told = f"{self.num_symbols} symbols told, {self.num_rows:,} rows to {self.newest}"
        parts = [told, f"{self.merge.new_rows:,} new and {self.merge.changed_rows:,} changed with the index"]
        parts += [f"{len(bases)} re-based and told whole ({few(bases)})"] if bases else []
        parts += [f"{len(self.held)} held back ({few([f'{name}: {why}' for name, why in self.held])})"] * bool(
            self.held
        )
        return "; ".join(parts)


def collect_into(
    store: RawStore,
    source: Source,
    symbols: Sequence[str] | None,
    as_of: date,
    known_at: datetime,
    *,
    full: bool = False,
    progress: Progress = no_progress,
    tolerance: Tolerance | None = None,
    accept_degraded: bool = False,
) -> Collected:
    """Fetch what `source` says of `symbols` (None: all it has) up to `as_of` and merge it, learned at `known_at`.

    full : ask for the whole history of every symbol; many re-based symbols are not suspicious then, and sessions a
        re-based history no longer tells lose their adjusted close instead of holding the symbol back.
    accept_degraded : merge what `degradation` objects to; for a person who has read the reasons.

    Run again after a kill it completes what is missing. Raises `BadDataError` listing the reasons, with nothing merged,
    when the feed is worse than what is stored, what the source raises, and what `RawStore.merge` raises.
    """
    before = _stored(store, source.name, symbols)
    ahead = _known_beyond(before.bars, as_of)
    symbols = symbols if symbols is None else [symbol for symbol in symbols if symbol not in ahead]
    if symbols == [] or (symbols is None and 2 * len(ahead) > before.bars.get_column("symbol").n_unique()):
        return _nothing_asked(as_of)
    store.refuse_older(source.name, known_at)
    before = _without(before, ahead)
    last = before.bars.get_column("session").max()
    since = None if full or last is None else overlap_windows(before.bars)
    plan = source.plan(symbols, as_of, since=since)
    history = _without(source.fetch(symbols, as_of, since=since, progress=progress).until(as_of), ahead)
    odd = [name for name in history.bars.get_column("symbol").unique().sort() if not is_storable(name)]
    history = _without(history, odd)
    allowed = 1.0 if full else MAX_FORGOTTEN_FRAC
    overlaps = store.overlaps(source.name, history)
    refused = refusals(overlaps, allowed)
    _refuse_many_rebased(overlaps, last, as_of, full=full)
    reasons = [] if accept_degraded else list(degradation(before, history, as_of, tolerance))
    refetched = tuple(symbol for symbol in refused if since is not None and not _told_whole(history, since, symbol))
    if refetched and not reasons:
        whole = source.fetch(list(refetched), as_of, since=None, progress=progress).until(as_of)
        history = _replaced(history, whole, refetched)
        overlaps = store.overlaps(source.name, history)
        refused = refusals(overlaps, allowed)
        reasons = [] if accept_degraded else list(degradation(before, history, as_of, tolerance))
    _refuse(reasons + ([] if accept_degraded else _held(refused, overlaps)), f"source {source.name}, {as_of}")
    newest = history.bars.get_column("session").max()
    del before  # whole markets are large
    history = _without(history, list(refused))
    merged = store.merge(source.name, history, known_at, max_forgotten_frac=allowed)
    return Collected(
        merge=merged,
        plan=plan,
        rebased=tuple(_new_base(base, history.bars) for base in merged.rebased),
        refetched=refetched,
        held=(*refused.items(), *((name, "cannot be the name of a folder") for name in odd)),
        newest=newest if isinstance(newest, date) else None,
        num_symbols=history.bars.get_column("symbol").n_unique(),
        num_rows=history.bars.height,
    )


def plan_of(
    store: RawStore, source: Source, symbols: Sequence[str] | None, as_of: date, *, full: bool = False
) -> FetchPlan:
    """Return what `collect_into` with the same arguments would ask for first; asks nothing."""
    stored = _stored(store, source.name, symbols).bars
    return source.plan(symbols, as_of, since=None if full or stored.is_empty() else overlap_windows(stored))


def overlap_windows(stored: pl.DataFrame, sessions: int = OVERLAP_SESSIONS) -> dict[str, date]:
    """Return from which session on each stored symbol must be asked again: `sessions` back, or its first one.

    stored : bars sorted by symbol and session.
    """
    newest = pl.col("session").tail(2 * sessions)  # a session may occur twice
    first = stored.group_by("symbol").agg(newest.unique().sort().tail(sessions).first()).sort("symbol")
    return dict(first.iter_rows())


def _stored(store: RawStore, source_name: str, symbols: Sequence[str] | None) -> RawHistory:
    if not store.has(source_name):
        schemas = (RAW_SCHEMA, INDEX_SCHEMA, LISTINGS_SCHEMA)
        return RawHistory(*(pl.DataFrame(schema=schema) for schema in schemas))
    stored = store.read(source_name, date.max)
    if symbols is None:
        return stored
    wanted = pl.col("symbol").is_in(list(symbols))
    return RawHistory(stored.bars.filter(wanted), stored.index, stored.listings.filter(wanted))


def _known_beyond(stored: pl.DataFrame, as_of: date) -> list[str]:
    """Return the symbols with sessions after `as_of`: an older telling of them has nothing to add."""
    return stored.filter(pl.col("session") > as_of).get_column("symbol").unique().sort().to_list()


def _nothing_asked(as_of: date) -> Collected:
    sentence = f"nothing: prices beyond {as_of} are stored already"
    return Collected(
        merge=MergeReport(new_rows=0, changed_rows=0, symbols=0),
        plan=FetchPlan(requests=0, host="", seconds=0.0, sentence=sentence),
        rebased=(),
        refetched=(),
        held=(),
        newest=None,
        num_symbols=0,
        num_rows=0,
    )


def _refuse_many_rebased(overlaps: pl.DataFrame, last: object, as_of: date, *, full: bool) -> None:
    rebased = moved_bases(overlaps)
    weeks = (as_of - last).days / 7 if isinstance(last, date) else 0.0
    limit = max(MAX_REBASED_FRAC, REBASED_FRAC_PER_WEEK * weeks)
    if full or len(rebased) <= max(_FEW, limit * overlaps.height):
        return
    raise BadDataError(
        "too many symbols changed their base at once; nothing was merged",
        expected=f"at most {limit:.0%} of {overlaps.height} symbols, a few a week are normal",
        found=f"{len(rebased)}: " + few([f"{base.symbol} x{base.factor:.4g}" for base in rebased]),
        fix="if the vendor now adjusts in another way, take its whole history anew: vnfleet collect --full",
    )


def _refuse(reasons: list[str], where: str) -> None:
    if reasons:
        raise BadDataError(
            "the feed is worse than what is stored; nothing was merged",
            expected="prices that go on where the stored ones end",
            found="; ".join(reasons),
            where=where,
            fix="collect again later or from another source, the stored prices are as they were; if you have looked "
            "into it and the feed is right: vnfleet collect --accept-degraded",
        )


def _held(refused: Mapping[str, str], overlaps: pl.DataFrame) -> list[str]:
    if len(refused) <= max(_FEW, MAX_HELD_FRAC * overlaps.height):
        return []
    symbol, reason = next(iter(refused.items()))
    return [
        f"{len(refused)} of {overlaps.height} symbols do not fit what is stored, even told whole: {symbol} {reason}"
    ]


def _told_whole(history: RawHistory, since: Mapping[str, date], symbol: str) -> bool:
    """Return whether a source told more of a symbol than it was asked for: it tells the whole past anyway."""
    first = history.bars.filter(pl.col("symbol") == symbol).get_column("session").min()
    return isinstance(first, date) and symbol in since and first < since[symbol]


def _replaced(history: RawHistory, whole: RawHistory, symbols: Sequence[str]) -> RawHistory:
    bars = pl.concat([_without(history, symbols).bars, whole.bars.filter(pl.col("symbol").is_in(list(symbols)))])
    return RawHistory(bars.sort(list(RAW_SCHEMA)), history.index, history.listings)


def _without(history: RawHistory, symbols: Sequence[str]) -> RawHistory:
    if not symbols:
        return history
    return RawHistory(history.bars.filter(~pl.col("symbol").is_in(list(symbols))), history.index, history.listings)


def _new_base(base: Rebased, told: pl.DataFrame) -> NewBase:
    mine = told.filter(
        (pl.col("symbol") == base.symbol) & (pl.col("close_vnd") > 0) & (pl.col("adjusted_close_vnd") > 0)
    )
    around = pl.concat(
        [
            mine.filter(pl.col("session") <= base.last_moved).tail(OVERLAP_SESSIONS),
            mine.filter(pl.col("session") > base.last_moved),
        ]
    )
    once, _ = split_repeated(around)
    steps = once.filter(pl.Series(vendor_steps(once).step != 1.0)) if once.height else once
    since = steps.filter(pl.col("session") > base.last_moved).get_column("session").to_list()
    return NewBase(
        symbol=base.symbol,
        factor=base.factor,
        old_level=base.old_level,
        new_level=base.new_level,
        overlap_sessions=base.overlap_sessions,
        ex_dates=tuple(since),
    )
