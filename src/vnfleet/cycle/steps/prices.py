"""collect, check, features: from a source's prices to the feature cube."""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
from datetime import date
from pathlib import Path

import polars as pl

from vnfleet.core.atomic import write_bytes
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import sha256_of_file, short_id
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import WeekContext, is_sealed, source_of
from vnfleet.cycle.runner import Runner, StepOutcome, StepResult, StepSpec
from vnfleet.data.panel import Panel, PanelStore
from vnfleet.data.sources.base import RawHistory
from vnfleet.data.store import RawStore
from vnfleet.features.cube import CUBE_KIND

QUALITY_ROWS = "rows.parquet"
QUALITY_SYMBOLS = "symbols.parquet"


def collect(runner: Runner, week: WeekContext) -> StepOutcome:
    """Fetch what the source says up to `as_of` and merge it into the raw store."""
    source = source_of(week.config)
    as_of = week.as_of.isoformat()
    inputs = {"source": source.name, "fingerprint": source_fingerprint(week.config), "as_of": as_of}

    def work(_: Path) -> StepResult:
        history = source.fetch(None, week.as_of)
        newest = _newest_session(history, week)
        known_at = week.clock.now()
        merged = RawStore(week.folders.raw).merge(source.name, history, known_at)
        events = PanelStore(week.folders.workdir, source.name).record_events(known_at)
        num_symbols = history.bars.get_column("symbol").n_unique()
        return StepResult(
            summary=f"{num_symbols} symbols, {history.bars.height:,} rows to {newest}; "
            f"{merged.new_rows:,} new, {merged.changed_rows:,} changed{events.corrections}",
            facts={**inputs, "newest_session": newest, "num_symbols": num_symbols, "num_rows": history.bars.height},
        )

    store = week.folders.raw / source.name
    return runner.step(
        StepSpec(name="collect", inputs=dict(inputs), rooms=("data",)), work, still_whole=lambda _: store.is_dir()
    )


def check(runner: Runner, week: WeekContext, collected: StepOutcome) -> StepOutcome:
    """Judge every row and symbol and serve the panel; refuse symbols of a partial run that nobody can model."""

    def work(scratch: Path) -> StepResult:
        panel = week.panel()
        for name, frame in ((QUALITY_ROWS, panel.quality.rows), (QUALITY_SYMBOLS, panel.quality.symbols)):
            buffer = io.BytesIO()
            frame.write_parquet(buffer)
            (scratch / name).write_bytes(buffer.getvalue())
            write_bytes(week.folders.quality / name, buffer.getvalue())
        refused = panel.quality.symbols.filter(pl.col("verdict") != "accept").height
        return StepResult(
            summary=f"{len(panel.symbols)} symbols accepted, {refused} quarantined, {len(panel.sessions)} sessions, "
            f"{panel.quality.rows.height:,} findings",
            facts={
                "data_id": panel.data_id,
                "num_symbols": len(panel.symbols),
                "num_quarantined": refused,
                "num_sessions": len(panel.sessions),
                "first_session": panel.sessions[0].isoformat(),
                "last_session": panel.sessions[-1].isoformat(),
            },
        )

    spec = StepSpec(name="check", inputs={"collected": collected.facts}, rooms=("data", "market"))
    outcome = runner.step(spec, work)
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
        return is_sealed(week.folders.features / found.text("cube_id"), CUBE_KIND)

    inputs = {"data_id": checked.text("data_id"), "checked": checked.key}
    spec = StepSpec(name="features", inputs=dict(inputs), rooms=("features", "market"))
    return runner.step(spec, work, still_whole=still_whole)


def source_fingerprint(config: CycleConfig) -> str:
    """Return the identity of what the source will say: file hashes, or the simulated market's settings."""
    if config.source.kind == "simulated":
        settings: object = json.loads(json.dumps(dataclasses.asdict(config.simulated), default=str))
        return short_id(["simulated", settings])
    named = [path for path in (config.source.path, config.source.listings) if path is not None]
    hashes: list[list[str]] = []
    for root in named:
        inside = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
        for path in inside:
            if not path.is_file():
                raise BadDataError(
                    "there is no such price file",
                    where=path,
                    fix="check --path, or try without data of your own: vnfleet demo",
                )
            hashes.append([path.relative_to(root).as_posix(), sha256_of_file(path)])
    return short_id(["files", hashes])


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


def _newest_session(history: RawHistory, week: WeekContext) -> str:
    """Return the newest session as text; raises `BadDataError` when it is older than `as_of` allows."""
    newest = history.bars.get_column("session").max()
    if not isinstance(newest, date):
        raise BadDataError("the source has no prices", where=week.config.source.path)
    if (week.as_of - newest).days > week.config.source.max_age_days:
        raise BadDataError(
            "the prices are too old for this week",
            expected=f"a session within {week.config.source.max_age_days} days of {week.as_of}",
            found=f"newest session {newest}",
            fix=f"collect newer prices, or judge the past with --as-of {newest}",
        )
    return newest.isoformat()
