"""What the page of `vnfleet check` is made from: verdicts, the prices before and after, and who else was heard."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import Protocol

import polars as pl

from vnfleet.data.actions.adjustment import EVENTS_SCHEMA
from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.panel import Panel
from vnfleet.data.sources.base import RAW_SCHEMA

USED_COLUMNS = (
    "symbol",
    "session",
    "open_vnd",
    "high_vnd",
    "low_vnd",
    "close_vnd",
    "volume_shares",
    "factor",
)
CORPORATE_COLUMNS = ("symbol", "session", "factor_step", "kind")
MISSING_COLUMNS = ("symbol", "ex_date", "kind", "implied_step", "absorbed", "source")
OPINION_COLUMNS = ("symbol", "session", "adjusted_close_vnd")
_USED_SCHEMA = {name: pl.Int64() if name == "volume_shares" else pl.Float64() for name in USED_COLUMNS[2:]}


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRule:
    """When a feed is called fit to train on; the page states it.

    min_accepted_frac : accepted symbols among those not retired; below it the feed is not fit.
    max_masked_frac : masked rows among all rows; above it the feed is not fit.
    care_quarantined_frac : quarantined among the symbols not retired; above it the feed is fit "with care".
    care_masked_frac : masked rows among all rows; above it the feed is fit "with care".
    max_lost_frac, care_lost_frac : of the symbols the previous check accepted, those it does not accept any more;
        above these the feed is not fit, or fit "with care": histories that all end at once are a broken feed.
    recent_days : a whole-market error, or a newest day read before its close, this many days before the end or later
        lowers it to "with care".
    """

    min_accepted_frac: float = 0.90
    max_masked_frac: float = 0.01
    care_quarantined_frac: float = 0.03
    care_masked_frac: float = 0.002
    max_lost_frac: float = 0.10
    care_lost_frac: float = 0.02
    recent_days: int = 30

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1."""
        for name in (item.name for item in fields(self) if item.name.endswith("_frac")):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in 0..1, not {getattr(self, name)}")


class Rebasing(Protocol):
    """One symbol whose whole past the vendor told on a new base, as `data.collection` reports it."""

    @property
    def symbol(self) -> str:
        """The symbol."""
        ...

    @property
    def factor(self) -> float:
        """New base over old base."""
        ...

    @property
    def overlap_sessions(self) -> int:
        """How many sessions were compared."""
        ...

    @property
    def ex_dates(self) -> Sequence[date]:
        """The sessions from which the vendor steps since; empty where they are not known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInputs:
    """Everything the page of one check shows.

    Parameters
    ----------
    report : the court's verdicts.
    used : the rows after the court, `USED_COLUMNS` at least (`Panel.bars`, or `Examination.bars` to draw quarantined
        symbols too); adjusted = close_vnd * factor. May be empty when no symbol is fit.
    raw : the same rows before repair, as the vendor told them, `RAW_SCHEMA`.
    events : `EVENTS_SCHEMA`, the steps that were chained or refused.
    source_names : who was asked, the primary first.
    as_of, known_at : the day judged, and the moment of the record it was judged on (aware).
    corporate : `CORPORATE_COLUMNS` and, as far as known, confirmed (Boolean), cash_vnd, ratio_frac, probability,
        announced_source (`CorporateActions.actions`); None, and for steps not in it: the events are shown as they are.
    missing : `MISSING_COLUMNS`, announced actions without a step in the prices; None: nobody announces anything.
    opinions : `OPINION_COLUMNS`, the second vendor's adjusted closes on any base; None: nobody else was heard.
    previous : the verdicts of the check before; None: this is the first.
    rebased : the symbols the vendor re-based in this collection.
    wanted : the symbols that are to be trained on; the feed is called fit or not by them alone. None: all of them (a
        whole market with its hardly traded names is then hardly ever fit).
    warnings : what the reader must keep in mind, one sentence each.
    market_is_simulated : True puts a banner on top.
    rule : when the feed is called fit.

    Raises
    ------
    ValueError : a frame lacks a required column, or `known_at` has no time zone.
    """

    report: QualityReport
    used: pl.DataFrame
    raw: pl.DataFrame
    events: pl.DataFrame
    source_names: tuple[str, ...]
    as_of: date
    known_at: datetime
    corporate: pl.DataFrame | None = None
    missing: pl.DataFrame | None = None
    opinions: pl.DataFrame | None = None
    previous: QualityReport | None = None
    rebased: tuple[Rebasing, ...] = ()
    wanted: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    market_is_simulated: bool = False
    rule: FitRule = field(default_factory=FitRule)

    def __post_init__(self) -> None:
        """Refuse frames without the columns the page cannot do without."""
        if self.known_at.tzinfo is None:
            raise ValueError("known_at must carry a time zone")
        _refuse_without("rows", self.report.rows, QUALITY_ROW_SCHEMA)
        _refuse_without("symbols", self.report.symbols, QUALITY_SYMBOL_SCHEMA)
        _refuse_without("used", self.used, USED_COLUMNS)
        _refuse_without("raw", self.raw, RAW_SCHEMA)
        _refuse_without("events", self.events, EVENTS_SCHEMA)
        if self.corporate is not None:
            _refuse_without("corporate", self.corporate, CORPORATE_COLUMNS)
        if self.missing is not None:
            _refuse_without("missing", self.missing, MISSING_COLUMNS)
        if self.opinions is not None:
            _refuse_without("opinions", self.opinions, OPINION_COLUMNS)


def all_steps(inputs: CheckInputs) -> pl.DataFrame:
    """Return every step of the adjustment: by its corporate kind where that is known, else as the event it is."""
    if inputs.corporate is None:
        return inputs.events
    others = inputs.events.join(inputs.corporate, on=("symbol", "session"), how="anti")
    return pl.concat([inputs.corporate, others], how="diagonal_relaxed")


def inputs_of_panel(
    panel: Panel, *, raw: pl.DataFrame, events: pl.DataFrame, source_names: tuple[str, ...], known_at: datetime
) -> CheckInputs:
    """Return the inputs a served panel allows; add the rest with `dataclasses.replace`."""
    return CheckInputs(
        report=panel.quality,
        used=panel.bars,
        raw=raw,
        events=events,
        source_names=source_names,
        as_of=panel.as_of,
        known_at=known_at,
    )


def nothing_used() -> pl.DataFrame:
    """Return the empty `used` frame of a feed in which no symbol is fit."""
    return pl.DataFrame(schema={"symbol": pl.String(), "session": pl.Date(), **_USED_SCHEMA})


def _refuse_without(name: str, frame: pl.DataFrame, columns: Iterable[str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"the check page's {name} frame lacks {missing}; it has {frame.columns}")
