"""collect, check, features: from a source's prices to the feature cube."""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
from pathlib import Path

import polars as pl
from pydantic import JsonValue

from vnfleet.core.atomic import write_bytes
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import sha256_of_file, short_id
from vnfleet.core.sealed import is_whole
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import Record, WeekContext
from vnfleet.cycle.gathering import Gathered, Gathering
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.sources import sources_of
from vnfleet.cycle.steps.evidence import QUALITY_ROWS, QUALITY_SYMBOLS, check_page_path, evidence_of, read_report
from vnfleet.data.panel import Panel
from vnfleet.data.record.collection import NewBase
from vnfleet.data.record.store import RawStore
from vnfleet.features.cube import CUBE_KIND
from vnfleet.reporting.check_page import write_check_page
from vnfleet.reporting.check_verdict import verdict_sentence


def collect(runner: Runner, week: WeekContext) -> StepOutcome:
    """Ask the sources for what is new up to `as_of`, and merge it into the raw store."""
    config = week.config
    inputs: Facts = {
        "sources": [config.source.kind, *config.source.fallback],
        "opinions": list(config.source.cross_check),
        "fingerprint": source_fingerprint(config),
        "as_of": week.as_of.isoformat(),
    }

    def work(_: Path) -> StepResult:
        gathered = Gathering(
            config=config,
            folders=week.folders,
            sources=sources_of(config, week.folders, week.clock),
            as_of=week.as_of,
            known_at=week.clock.now().replace(microsecond=0),
            full=week.full,
            accept_degraded=week.accept_degraded,
            progress=lambda done, total, doing: week.observer.progress("collect", done, total, doing),
        ).run()
        week.record = Record(source=gathered.source, opinions=gathered.opinions, known_at=gathered.known_at)
        newest = _newest_session(gathered, week)
        facts: Facts = {
            **inputs,
            **week.record.as_facts(),
            "newest_session": newest,
            "num_symbols": gathered.collected.num_symbols,
            "num_rows": gathered.collected.num_rows,
            "announced": gathered.announced,
            "failures": [[failure.source, failure.reason] for failure in gathered.failures],
            "silent": [[failure.source, failure.reason] for failure in gathered.silent],
            "rebased": [_as_fact(base) for base in gathered.collected.rebased],
            "held": [list(held) for held in gathered.collected.held],
        }
        return StepResult(summary=gathered.sentence, facts=facts)

    def still_whole(found: StepOutcome) -> bool:
        return not week.ask_anew and RawStore(week.folders.raw).has(found.text("source"))

    outcome = runner.step(StepSpec(name="collect", inputs=inputs, rooms=("data",)), work, still_whole=still_whole)
    week.record = Record.of_step(outcome)
    return outcome


def check(runner: Runner, week: WeekContext, collected: StepOutcome) -> StepOutcome:
    """Judge every row and symbol, serve the panel and show the evidence on a page."""
    page = check_page_path(week)

    def work(scratch: Path) -> StepResult:
        panel = week.panel()
        previous = read_report(week.folders.quality)
        for name, frame in ((QUALITY_ROWS, panel.quality.rows), (QUALITY_SYMBOLS, panel.quality.symbols)):
            buffer = io.BytesIO()
            frame.write_parquet(buffer)
            (scratch / name).write_bytes(buffer.getvalue())
            write_bytes(week.folders.quality / name, buffer.getvalue())
        inputs = evidence_of(week, collected, previous)
        write_check_page(page, inputs)
        verdicts = panel.quality.symbols.get_column("verdict")
        counted = {name: int((verdicts == name).sum()) for name in ("accept", "retired", "quarantine")}
        choice = week.universe()
        return StepResult(
            summary=verdict_sentence(inputs),
            facts={
                "data_id": panel.data_id,
                "num_symbols": len(panel.symbols),
                "num_retired": counted["retired"],
                "num_quarantined": counted["quarantine"],
                "num_sessions": len(panel.sessions),
                "first_session": panel.sessions[0].isoformat(),
                "last_session": panel.sessions[-1].isoformat(),
                "survivorship": None if choice is None else choice.statement,
                "page_sha256": sha256_of_file(page),
            },
        )

    def still_whole(found: StepOutcome) -> bool:
        return page.is_file() and sha256_of_file(page) == found.text("page_sha256")

    spec = StepSpec(
        name="check",
        inputs={"collected": collected.facts, "calendar": _calendar_facts(week.config)},
        rooms=("data", "market", "reporting"),
    )
    outcome = runner.step(spec, work, still_whole=still_whole)
    if week.only:
        refuse_unknown(week.only, week.panel())
    return outcome


def features(runner: Runner, week: WeekContext, checked: StepOutcome) -> StepOutcome:
    """Build the 50 features, or find them sealed."""

    def work(_: Path) -> StepResult:
        cube = week.cube()
        return StepResult(
            summary=f"{len(cube.names)} features x {len(cube.symbols)} symbols x {len(cube.sessions)} sessions, "
            f"{float(cube.present_ST.mean()):.0%} present",
            facts={"cube_id": cube.cube_id, "num_features": len(cube.names)},
        )

    def still_whole(found: StepOutcome) -> bool:
        return is_whole(week.folders.features / found.text("cube_id"), CUBE_KIND)

    inputs = {"data_id": checked.text("data_id"), "checked": checked.key}
    spec = StepSpec(name="features", inputs=dict(inputs), rooms=("features", "market"))
    return runner.step(spec, work, still_whole=still_whole)


def source_fingerprint(config: CycleConfig) -> str:
    """Return the identity of what the sources will say, as far as that is known without asking: settings and files."""
    settings: list[object] = []
    if "simulated" in (config.source.kind, *config.source.fallback, *config.source.cross_check):
        settings.append(json.loads(json.dumps(dataclasses.asdict(config.simulated), default=str)))
    settings += [config.source.unit, dict(config.source.columns), list(config.source.per_symbol)]
    settings += [dict(config.source.hosts), [config.universe.collected, list(config.universe.pinned)]]
    paths = (config.source.path, config.source.listings, config.source.cross_check_path)
    named = [path for path in paths if path is not None]
    hashes: list[list[str]] = []
    for root in named:
        inside = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        for path in inside:
            if not path.is_file() and (config.source.fallback or path == config.source.cross_check_path):
                hashes.append([path.as_posix(), "absent"])  # the next source, or one opinion less
                continue
            if not path.is_file():
                raise BadDataError(
                    "there is no such price file",
                    where=path,
                    fix="check --path, or try without data of your own: vnfleet demo",
                )
            hashes.append([path.relative_to(root).as_posix(), sha256_of_file(path)])
    return short_id(["sources", settings, hashes])


def refuse_unknown(wanted: tuple[str, ...], panel: Panel) -> None:
    """Raise `UsageError` naming the first symbol the panel does not have, why, and what was perhaps meant."""
    for symbol in wanted:
        if symbol in panel.symbols:
            continue
        judged = panel.quality.symbols.filter(pl.col("symbol") == symbol)
        if judged.height:
            reasons = judged.get_column("reasons").item(0)
            raise UsageError(f"{symbol} is quarantined", found=reasons, fix="see the quality report, or leave it out")
        near = difflib.get_close_matches(symbol, panel.symbols, n=3, cutoff=0.5)
        raise UsageError(
            f"unknown symbol {symbol}",
            expected=f"one of the {len(panel.symbols)} accepted symbols",
            fix=f"did you mean {' or '.join(near)}?" if near else None,
        )


def _newest_session(gathered: Gathered, week: WeekContext) -> str:
    """Return the newest session on record as text; raises `BadDataError` when it is older than `as_of` allows."""
    newest = gathered.newest
    if newest is None:
        raise BadDataError("the source has no prices", where=gathered.source)
    if (week.as_of - newest).days > week.config.source.max_age_days:
        raise BadDataError(
            "the prices are too old for this week",
            expected=f"a session within {week.config.source.max_age_days} days of {week.as_of}",
            found=f"newest session {newest}",
            fix=f"collect newer prices, or judge the past with --as-of {newest}",
        )
    return newest.isoformat()


def _calendar_facts(config: CycleConfig) -> JsonValue:
    days = (config.calendar.extra_closed, config.calendar.extra_open)
    return [[day.isoformat() for day in which] for which in days]


def _as_fact(base: NewBase) -> JsonValue:
    return {
        "symbol": base.symbol,
        "factor": base.factor,
        "overlap_sessions": base.overlap_sessions,
        "ex_dates": [day.isoformat() for day in base.ex_dates],
    }
