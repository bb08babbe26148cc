"""The report's tables and small facts: which columns, under which titles, in which unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup, escape

from vnfleet.releases.verdict import PlanCriterion
from vnfleet.reporting.formats import UNKNOWN, duration, number, percent, vnd
from vnfleet.reporting.inputs import ReportInputs

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: where it is read, its title, how its values are written."""

    name: str
    title: str
    text: Callable[[float | None], str] | None = None  # None: words, not a number
    coloured: bool = False
    under: str | None = None  # a second column, written small below
    words: Mapping[str, str] | None = None  # what code words mean; others lose their underscores

    @property
    def numeric(self) -> bool:
        """True for columns that are right-aligned."""
        return self.text is not None

    def show(self, row: Row) -> str:
        """Return the cell of this column in `row`; a dash where the value is not known."""
        value = row.get(self.name)
        if self.text is None:
            words = UNKNOWN if value is None or value == "" else self._said(str(value))
            below = row.get(self.under) if self.under else None
            return Markup("{}<small>{}</small>").format(words, str(below)) if below else words
        known = float(value) if isinstance(value, (int, float)) else None
        words = escape(self.text(known))
        if self.coloured and known:
            words = Markup('<span class="{}">{}</span>').format("pos" if known > 0 else "neg", words)
        below = row.get(self.under) if self.under and known is not None else None
        return Markup("{}<small>{}</small>").format(words, str(below)) if below else words

    def _said(self, value: str) -> str:
        return value if self.words is None else self.words.get(value, value.replace("_", " "))


_REFUSALS = {
    "absent": "no trade in it that session",
    "no_reference": "no reference price yet",
    "outside_band": "opening price outside the day's band",
    "locked_ceiling": "buying at the ceiling: nobody sells",
    "locked_floor": "selling at the floor: nobody buys",
    "not_delivered": "shares not delivered yet",
    "participation": "too large for the day's volume",
    "cash": "not enough cash",
    "below_lot": "less than one lot",
}


def _percent(value: float | None) -> str:
    return percent(value, 1)


def _change(value: float | None) -> str:
    return percent(value, 2, signed=True)


def _whole(value: float | None) -> str:
    return number(value, 0)


SYMBOL_COLUMNS = (
    Column("symbol", "Symbol"),
    Column("company", "Company", under="sector"),
    Column("sector", "Sector", words={}),
    Column("serving", "Served by"),
    Column("rank", "Rank now", _whole),
    Column("score", "Score", lambda value: number(value, 3, signed=True)),
    Column("expected_return_frac", "Expected", _change, coloured=True),
    Column("direction_prob", "P(up)", lambda value: percent(value, 0)),
    Column("accuracy_frac", "Accuracy", _percent),
    Column("accuracy_relative", "Relative", _percent),
    Column("accuracy_shrunk", "Shrunk", _percent, under="shrunk_range"),
    Column("sharpe_252", "Sharpe", number),
    Column("max_drawdown_frac", "Drawdown", lambda value: percent(None if value is None else abs(value), 1)),
    Column("rmse_frac", "RMSE", lambda value: percent(value, 2)),
    Column("num_sessions", "Sessions", _whole),
    Column("plan_verdict", "Passes (plan)"),
)
FORECAST_COLUMNS = tuple(
    column
    for column in SYMBOL_COLUMNS
    if column.name in {"symbol", "sector", "score", "expected_return_frac", "direction_prob"}
)
SIM_COLUMNS = (
    Column("series", "Account"),
    Column("total_return_frac", "Total", lambda value: percent(value, 1, signed=True), coloured=True),
    Column("annual_return_frac", "A year", lambda value: percent(value, 1, signed=True), coloured=True),
    Column("annual_volatility_frac", "Volatility", _percent),
    Column("sharpe_252", "Sharpe", number),
    Column("max_drawdown_frac", "Drawdown", lambda value: percent(None if value is None else abs(value), 1)),
    Column("turnover_per_year", "Turnover", lambda value: UNKNOWN if value is None else f"{number(value, 1)} x"),
    Column("capacity_vnd", "Capacity", vnd),
)
REFUSED_COLUMNS = (Column("reason", "Reason", words=_REFUSALS), Column("count", "Orders", _whole))
QUALITY_COLUMNS = (
    Column("check", "Check", words={}),
    Column("severity", "Severity"),
    Column("verdict", "Done about it"),
    Column("count", "Rows", _whole),
    Column("example", "For example"),
)
QUARANTINE_COLUMNS = (Column("symbol", "Symbol"), Column("reasons", "Why"))

_DONE = (
    ("repair", "repaired"),
    ("mask", "masked"),
    ("quarantine", "where the vendor's adjustment was not believed"),
    ("accept", "noted and kept"),
)
_PLAN_NAMES = {
    "accuracy": "Accuracy above {}",
    "sharpe": "Sharpe above {}",
    "max_drawdown": "Drawdown under {}",
    "rmse": "RMSE under {}",
}


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One limit of the plan: how many pass it, and how many would without skill."""

    name: str
    passing: str
    share: float | None
    null_share: float | None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of the cycle; `width` is its time as percent of the slowest step."""

    name: str
    seconds: float | None
    memory: float | None
    reused: bool
    width: float


@dataclass(frozen=True, slots=True)
class Fact:
    """A small key number."""

    name: str
    value: str
    note: str


def present(columns: tuple[Column, ...], frame: pl.DataFrame) -> tuple[Column, ...]:
    """Return the columns that `frame` has and that are known somewhere in it, without those written below another."""
    known = {name for name in frame.columns if not frame.height or frame.get_column(name).null_count() < frame.height}
    below = {column.under for column in columns if column.name in known}
    return tuple(column for column in columns if column.name in known - below)


def plan_rows(inputs: ReportInputs) -> tuple[PlanRow, ...]:
    """Return the plan's limits with the share that passes and the share that luck passes."""
    plan = inputs.decision.plan
    rows = [
        PlanRow(
            _plan_name(item),
            f"{item.num_passing} of {item.num_models}",
            item.pass_frac,
            item.null_pass_frac,
        )
        for item in plan.criteria
    ]
    together = (
        ("Accuracy and Sharpe together", plan.accuracy_and_sharpe_frac, plan.accuracy_and_sharpe_null_frac),
        ("Accuracy, Sharpe and drawdown together", plan.three_frac, plan.three_null_frac),
        ("All four together", plan.all_frac, plan.all_null_frac),
    )
    return (*rows, *(PlanRow(name, "", share, null) for name, share, null in together))


def _plan_name(item: PlanCriterion) -> str:
    limit = percent(item.limit, 0) if item.name in {"accuracy", "max_drawdown"} else str(item.limit)
    return _PLAN_NAMES.get(item.name, item.name + " {}").format(limit)


def plan_sentence(inputs: ReportInputs) -> str:
    """Return the plan's fleet-wide target in words: the mean accuracy, whether it is enough, whether it decided."""
    plan, decides = inputs.decision.plan, inputs.decision.gate_policy == "plan"
    if not plan.num_models:
        return "No models were measured against the written plan's limits this week."
    mean = f"Mean accuracy of the {plan.num_models} models: {percent(plan.mean_accuracy_frac)}"
    marks = ((plan.reaches_mean_54, "54 %"), (plan.reaches_mean_55, "55 %"))
    reached = ", ".join(f"{name} {'reached' if met else 'missed'}" for met, name in marks if met is not None)
    luck = "Luck often passes these limits and skill often fails them"
    if plan.num_null_models is not None:
        luck += f" (luck: {plan.num_null_models:,} models with shuffled forecasts on the same days)"
    end = "and yet they decided this week, because the policy is “plan”" if decides else "shown, not deciding"
    return f"{mean} ({reached}). {luck}: {end}."


def step_rows(inputs: ReportInputs) -> tuple[StepRow, ...]:
    """Return the steps in order with bars relative to the slowest that was really run."""
    slowest = max((row["seconds"] or 0.0 for row in inputs.steps.iter_rows(named=True)), default=0.0) or 1.0
    return tuple(
        StepRow(
            str(row["step"]),
            row["seconds"],
            row["peak_memory_mib"],
            bool(row["reused"]),
            round(100 * (row["seconds"] or 0.0) / slowest, 1),
        )
        for row in inputs.steps.iter_rows(named=True)
    )


def time_sentence(inputs: ReportInputs) -> str:
    """Return the time of the steps that ran now, and of all of them when nothing could be reused."""
    ran = inputs.steps.filter(~pl.col("reused")).get_column("seconds").drop_nulls().sum()
    everything = inputs.steps.get_column("seconds").drop_nulls().sum()
    if ran == everything:
        return f"{duration(float(ran))} in all."
    return f"{duration(float(ran))} this time, {duration(float(everything))} had nothing been there already."


def facts(inputs: ReportInputs, figures: pl.DataFrame) -> tuple[Fact, ...]:
    """Return the small tiles: the first of `figures` against the two after it, and the symbols."""
    found: list[Fact] = []
    records = list(figures.iter_rows(named=True))
    if records:
        first, others = records[0], records[1:]
        name = str(first["series"])

        def against(column: str, text: Callable[[float | None], str]) -> str:
            return " · ".join(f"{other['series']} {text(other.get(column))}" for other in others[:2])

        found.append(
            Fact(f"{name}, a year", _signed(first.get("annual_return_frac")), against("annual_return_frac", _signed))
        )
        found.append(Fact("Sharpe", number(first.get("sharpe_252")), against("sharpe_252", number)))
        drop = SIM_COLUMNS[5]
        notes = " · ".join(f"{other['series']} {drop.show(other)}" for other in others[:2])
        found.append(Fact("Worst drawdown", drop.show(first), notes))
    left_out = inputs.quality_symbols.filter(pl.col("verdict") != "accept").height
    note = f"{left_out} left out by the data checks" if left_out else "none left out by the data checks"
    found.append(Fact("Symbols", number(inputs.per_symbol.height, 0), note))
    return tuple(found)


def _signed(value: float | None) -> str:
    return percent(value, 1, signed=True)


def quality_sentence(inputs: ReportInputs) -> str:
    """Return what the data checks did, in one sentence."""
    verdicts = inputs.quality_symbols.get_column("verdict")
    accepted = int((verdicts == "accept").sum())
    rows = inputs.quality_rows.group_by("verdict").agg(pl.col("count").sum()).sort("verdict")
    counts = {str(row["verdict"]): int(row["count"]) for row in rows.iter_rows(named=True)}
    did = [f"{number(counts[name], 0)} rows {words}" for name, words in _DONE if counts.get(name)]
    tail = f" {', '.join(did)}." if did else " Nothing had to be repaired."
    return f"{accepted} of {len(verdicts)} symbols passed.{tail}"


def strongest_and_weakest(inputs: ReportInputs, count: int = 8) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return the highest and lowest scored symbols of the latest forecast, and how many were scored."""
    frame = inputs.per_symbol
    if "score" not in frame.columns:
        return frame.clear(), frame.clear(), 0
    ranked = frame.filter(pl.col("score").is_not_null()).sort("score", "symbol", descending=[True, False])
    shown = min(count, ranked.height // 2)
    return ranked.head(shown), ranked.tail(shown).reverse(), ranked.height
