"""What the page of `vnfleet check` shows: verdicts, prices before and after, corporate actions, who else was heard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, TypeAdapter

from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import StepOutcome
from vnfleet.data.actions.announced import ANNOUNCED_SCHEMA, AnnouncedStore
from vnfleet.data.actions.corporate import CorporateActions, corporate_actions
from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.panel import Served
from vnfleet.reporting.check_page import CheckInputs, inputs_of_panel

QUALITY_ROWS = "rows.parquet"
QUALITY_SYMBOLS = "symbols.parquet"


class RebasedFact(BaseModel):
    """A re-based symbol as the collect step wrote it down."""

    model_config = ConfigDict(frozen=True)

    symbol: str
    factor: float
    overlap_sessions: int
    ex_dates: tuple[date, ...]


_REBASED = TypeAdapter(tuple[RebasedFact, ...])
_PAIRS = TypeAdapter(tuple[tuple[str, str], ...])


def evidence_of(week: WeekContext, collected: StepOutcome, previous: QualityReport | None) -> CheckInputs:
    """Return everything the check page of this week shows; `previous` are the verdicts of the check before."""
    served, record, choice = week.served(), week.record, week.universe()
    assert record is not None, "collect comes first"
    known_at = record.known_at or datetime.now(UTC)
    told = inputs_of_panel(
        served.panel,
        raw=served.raw,
        events=served.events,
        source_names=(record.source, *record.opinions),
        known_at=known_at,
    )
    named = named_actions(week, served)
    return replace(
        told,
        used=served.used,
        corporate=named.actions,
        missing=named.missing,
        wanted=None if choice is None else choice.symbols,
        opinions=pl.concat([opinion.bars for opinion in served.opinions]) if served.opinions else None,
        previous=previous,
        rebased=_REBASED.validate_python(collected.facts.get("rebased", [])),
        warnings=(*_about_vendors(collected), *_about_prices(served), *(() if choice is None else (choice.statement,))),
        market_is_simulated=record.source == "simulated",
    )


def _about_vendors(collected: StepOutcome) -> Iterator[str]:
    """Say who did not answer this time."""
    served_by = collected.text("source")
    for source, reason in _PAIRS.validate_python(collected.facts.get("failures", [])):
        yield f"{source} failed ({reason}); these prices are {served_by}'s, whole, from its own record."
    for source, reason in _PAIRS.validate_python(collected.facts.get("silent", [])):
        yield f"{source} was silent ({reason}); what it said before still counts."


def _about_prices(served: Served) -> Iterator[str]:
    """Say when nobody told adjusted prices."""
    if served.raw.get_column("adjusted_close_vnd").null_count() == served.raw.height > 0:
        yield (
            "The source has no adjusted closes: its prices are taken as adjusted already. If they are raw, every "
            "dividend and issue smaller than the price band stays in as a false loss."
        )


def named_actions(week: WeekContext, served: Served) -> CorporateActions:
    """Return the corporate actions behind the panel's steps, confirmed where a vendor announced them."""
    record = week.record
    assert record is not None, "collect comes first"
    stores = [AnnouncedStore(week.folders.announced, name) for name in (record.source, *record.opinions)]
    frames = [store.read(record.known_at) for store in stores if store.folder.is_dir()]
    announced = pl.concat(frames) if frames else pl.DataFrame(schema=ANNOUNCED_SCHEMA)
    return corporate_actions(served.events, served.raw, announced if announced.height else None)


def read_report(folder: Path) -> QualityReport | None:
    """Return the verdicts written in `folder`, None when there are none that can be read."""
    try:
        rows, symbols = (pl.read_parquet(folder / name) for name in (QUALITY_ROWS, QUALITY_SYMBOLS))
    except (OSError, pl.exceptions.PolarsError):
        return None
    if rows.schema != pl.Schema(QUALITY_ROW_SCHEMA) or symbols.schema != pl.Schema(QUALITY_SYMBOL_SCHEMA):
        return None
    return QualityReport(rows=rows, symbols=symbols)


def check_page_path(week: WeekContext) -> Path:
    """Return where the page of this week's check lies."""
    return week.folders.reports / f"check-{week.as_of}.html"
