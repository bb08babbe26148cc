"""What a weekly report is made from: frames and words, no torch, no paths to read.

Every frame names its columns below; `ReportInputs` refuses a frame that lacks one. Fractions are fractions
(0.021 is 2.1 %), nulls mean "not known" and are shown as a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING

import polars as pl

from vnfleet.evaluation.metrics import SUMMARY_SCHEMA
from vnfleet.evaluation.reliability import RELIABILITY_SCHEMA, SELECTIVE_SCHEMA
from vnfleet.evaluation.scorecard import SCORECARD_SCHEMA
from vnfleet.evaluation.symbols import SYMBOLS_SCHEMA

if TYPE_CHECKING:
    from vnfleet.releases.gate import GateDecision

SUMMARY_COLUMNS = tuple(SUMMARY_SCHEMA)  # `evaluation.metrics.summarise`, unchanged
MONTHLY_IC_COLUMNS = ("model_id", "horizon_sessions", "month", "rank_ic", "low", "high")
PER_SYMBOL_COLUMNS = ("symbol", "serving")
EQUITY_COLUMNS = ("series", "session", "equity_vnd")
SIM_METRICS_COLUMNS = ("series", "total_return_frac")
REFUSED_COLUMNS = ("reason", "count")
QUALITY_ROWS_COLUMNS = ("check", "severity", "verdict", "count", "example")
QUALITY_SYMBOLS_COLUMNS = ("symbol", "verdict", "reasons")
STEPS_COLUMNS = ("step", "seconds", "peak_memory_mib", "reused")
LEAK_CHECKS_SCHEMA: Mapping[str, pl.DataType] = {
    "name": pl.String(),
    "passed": pl.Boolean(),
    "blocks": pl.Boolean(),
    "words": pl.String(),
}
WATERFALL_SCHEMA: Mapping[str, pl.DataType] = {
    "step": pl.String(),
    "words": pl.String(),
    "annual_return_frac": pl.Float64(),
    "sharpe_252": pl.Float64(),
}


def _no_rows(schema: Mapping[str, pl.DataType]) -> Callable[[], pl.DataFrame]:
    """Return what makes a frame without rows: the part of the page made from it is then left out."""
    return lambda: pl.DataFrame(schema=dict(schema))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """Everything one weekly report shows.

    Parameters
    ----------
    cycle_id, as_of, created_at : the week, the last session of data, the moment of writing (aware).
    workdir_name : name shown to the reader, not a path.
    market_is_simulated : True puts a banner on top: nothing here is about real companies.
    decision : what the gate decided and why.
    previous_release_id, deployed_release_id : what served before, what serves from now on (equal when kept).
    changes : what changed since last week, one sentence each.
    summary : `evaluation.metrics.summarise` as it is, of every model that raced.
    monthly_ic : `evaluation.metrics.monthly_rank_ic` as it is.
    serving_model_id : the model_id in `summary` and `monthly_ic` that serves.
    horizon_sessions : the horizon whose rows of both frames are shown.
    per_symbol : one row per symbol: symbol, serving, and as far as known sector, company, rank, accuracy_frac,
        sharpe_252, max_drawdown_frac, rmse_frac, num_sessions, plan_verdict, expected_return_frac, direction_prob,
        score.
    equity : series, session, equity_vnd; the first session of a series is its start.
    sim_metrics : series, total_return_frac, annual_return_frac, annual_volatility_frac, sharpe_252,
        max_drawdown_frac, turnover_per_year and, as far as known, capacity_vnd.
    refused_orders : reason, count.
    quality_rows : check, severity, verdict, count, example.
    quality_symbols : symbol, verdict, reasons.
    steps : step, seconds, peak_memory_mib, reused; in the order they ran.
    warnings : what the reader must keep in mind (survivorship and the like), one sentence each.
    model_names : (model_id, name for people) pairs; a model without one is shown by its id.
    proof_lines : what the tests of skill said and the smallest edge these data could have shown, one sentence each.
    num_trials : how many variants were tried on these data; None where nobody counted.
    scorecard : `evaluation.scorecard.scorecard`, group_kind "all", "year", "sector" and "liquidity" together.
    reliability, selective : the frames of `evaluation.reliability`, as they are.
    symbols_shrunk : `evaluation.symbols.shrunk_symbols`, as it is.
    leak_checks : name, passed (null: not judged), blocks, words; in the order they ran.
    waterfall : step, words, annual_return_frac, sharpe_252; the ideal account first, then one market rule more in
        each row, the real account last.

    The last eight may be missing: the page then leaves out what it would have made of them.

    Raises
    ------
    ValueError : a frame lacks a required column, or `created_at` has no time zone.
    """

    cycle_id: str
    as_of: date
    created_at: datetime
    workdir_name: str
    market_is_simulated: bool
    decision: GateDecision
    previous_release_id: str | None
    deployed_release_id: str | None
    changes: tuple[str, ...]
    summary: pl.DataFrame
    monthly_ic: pl.DataFrame
    serving_model_id: str
    per_symbol: pl.DataFrame
    equity: pl.DataFrame
    sim_metrics: pl.DataFrame
    refused_orders: pl.DataFrame
    quality_rows: pl.DataFrame
    quality_symbols: pl.DataFrame
    steps: pl.DataFrame
    warnings: tuple[str, ...] = ()
    horizon_sessions: int = 5
    model_names: tuple[tuple[str, str], ...] = ()
    proof_lines: tuple[str, ...] = ()
    num_trials: int | None = None
    scorecard: pl.DataFrame = field(default_factory=_no_rows(SCORECARD_SCHEMA))
    reliability: pl.DataFrame = field(default_factory=_no_rows(RELIABILITY_SCHEMA))
    selective: pl.DataFrame = field(default_factory=_no_rows(SELECTIVE_SCHEMA))
    symbols_shrunk: pl.DataFrame = field(default_factory=_no_rows(SYMBOLS_SCHEMA))
    leak_checks: pl.DataFrame = field(default_factory=_no_rows(LEAK_CHECKS_SCHEMA))
    waterfall: pl.DataFrame = field(default_factory=_no_rows(WATERFALL_SCHEMA))

    def __post_init__(self) -> None:
        """Refuse frames without the columns the report cannot do without."""
        if self.created_at.tzinfo is None:
            raise ValueError("created_at must carry a time zone")
        required = (
            ("summary", self.summary, SUMMARY_COLUMNS),
            ("monthly_ic", self.monthly_ic, MONTHLY_IC_COLUMNS),
            ("per_symbol", self.per_symbol, PER_SYMBOL_COLUMNS),
            ("equity", self.equity, EQUITY_COLUMNS),
            ("sim_metrics", self.sim_metrics, SIM_METRICS_COLUMNS),
            ("refused_orders", self.refused_orders, REFUSED_COLUMNS),
            ("quality_rows", self.quality_rows, QUALITY_ROWS_COLUMNS),
            ("quality_symbols", self.quality_symbols, QUALITY_SYMBOLS_COLUMNS),
            ("steps", self.steps, STEPS_COLUMNS),
            ("scorecard", self.scorecard, tuple(SCORECARD_SCHEMA)),
            ("reliability", self.reliability, tuple(RELIABILITY_SCHEMA)),
            ("selective", self.selective, tuple(SELECTIVE_SCHEMA)),
            ("symbols_shrunk", self.symbols_shrunk, tuple(SYMBOLS_SCHEMA)),
            ("leak_checks", self.leak_checks, tuple(LEAK_CHECKS_SCHEMA)),
            ("waterfall", self.waterfall, tuple(WATERFALL_SCHEMA)),
        )
        for name, frame, columns in required:
            missing = [column for column in columns if column not in frame.columns]
            if missing:
                raise ValueError(f"the report's {name} frame lacks {missing}; it has {frame.columns}")
