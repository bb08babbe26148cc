"""The proof's tables: what the leak prover found, and what each market rule costs the account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vnfleet.reporting.formats import percent
from vnfleet.reporting.inputs import ReportInputs

Answer = Literal["yes", "no", "warning", "open"]
_SAID: dict[Answer, str] = {"yes": "✓ yes", "no": "✕ NO", "warning": "! warning", "open": "○ not judged"}
_CLAIMS = {
    "truncation": "Cutting off later prices changes nothing",
    "future_poison": "Wild later prices change nothing",
    "fit_poison": "Wild test years change nothing that was fitted",
    "label_gap": "No label reaches over a border",
    "scaler_provenance": "Scaling was learned from training rows only",
    "shuffled_labels": "Shuffled labels teach nothing",
    "random_split": "Not flattered as by a random split",
    "rows_scored": "Every test row is scored",
    "universe": "Symbols were chosen before the test",
    "entry": "Trades come only after the signal",
    "too_good_level": "Not too good to be true",
    "too_good_horizon": "Not too good for its horizon",
    "too_good_lightgbm": "Not too far above LightGBM",
}
"""What each check of `evaluation.leaks` claims; "passed" answers it. An unknown check is shown by its name."""
_GRAVITY: tuple[Answer, ...] = ("no", "warning", "open", "yes")


@dataclass(frozen=True, slots=True)
class LeakRow:
    """One check: its answer, as a class and in words."""

    name: str
    answer: Answer
    said: str
    words: str


@dataclass(frozen=True, slots=True)
class Leaks:
    """What all leak checks come to, and each of them, the gravest answer first."""

    title: str
    summary: str
    rows: tuple[LeakRow, ...]


@dataclass(frozen=True, slots=True)
class CostRow:
    """One step from the ideal account to the real one; `left` and `width` are percent of the drawn width."""

    words: str
    css: Literal["total", "loss", "gain"]
    left: float | None
    width: float
    change_frac: float | None
    annual_return_frac: float | None
    sharpe_252: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """The way from the ideal account to the real one; `zero` is where no return lies, percent of the width."""

    summary: str
    zero: float
    rows: tuple[CostRow, ...]


def leaks(inputs: ReportInputs) -> Leaks | None:
    """Return the leak checks in words; a failed check that does not block is a warning."""
    rows = []
    for row in inputs.leak_checks.iter_rows(named=True):
        passed: bool | None = row["passed"]
        answer: Answer = "open" if passed is None else "yes" if passed else "no" if row["blocks"] else "warning"
        rows.append(LeakRow(_claim(inputs, str(row["name"])), answer, _SAID[answer], str(row["words"] or "")))
    if not rows:
        return None
    counts = {answer: sum(row.answer == answer for row in rows) for answer in _GRAVITY}
    title = "Something leaked" if counts["no"] else "Nothing leaked" if counts["yes"] else "Whether anything leaked"
    tail = [f"{counts['yes']} of {len(rows)} checks found nothing"]
    if counts["no"]:
        tail.insert(0, f"{counts['no']} found a leak: this set must not go live")
    if counts["warning"]:
        tail.append(f"{counts['warning']} gave a warning, which does not block")
    if counts["open"]:
        tail.append(f"{counts['open']} had nothing to judge")
    ordered = sorted(rows, key=lambda row: _GRAVITY.index(row.answer))
    return Leaks(title, f"{'; '.join(tail)}.", tuple(ordered))


def _claim(inputs: ReportInputs, name: str) -> str:
    """Return the claim behind a check's name (``"fit_poison:ridge"``: the check, then of what)."""
    kind, _, what = name.partition(":")
    claim = _CLAIMS.get(kind, kind.replace("_", " "))
    of_what = dict(inputs.model_names).get(what, what.replace("_", " "))
    return f"{claim}: {of_what}" if what else claim


def costs(inputs: ReportInputs) -> Costs | None:
    """Return the yearly return of the ideal account, what each rule then takes or gives, and what is left."""
    records = list(inputs.waterfall.iter_rows(named=True))
    known = [float(row["annual_return_frac"]) for row in records if row["annual_return_frac"] is not None]
    if not known:
        return None
    low, high = min(0.0, *known), max(0.0, *known)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(100 * (value - low) / span, 2)

    rows: list[CostRow] = []
    before: float | None = None
    for row in records:
        value, words = row["annual_return_frac"], str(row["words"] or row["step"])
        start = 0.0 if before is None else before
        change = None if value is None or before is None else value - before
        left = None if value is None else place(min(start, value))
        width = 0.0 if value is None else round(100 * abs(value - start) / span, 2)
        css: Literal["total", "loss", "gain"] = "total" if change is None else "loss" if change < 0 else "gain"
        rows.append(CostRow(words, css, left, width, change, value, row["sharpe_252"]))
        before = before if value is None else value
    last = known[-1]
    left, width = place(min(0.0, last)), round(100 * abs(last) / span, 2)
    rows.append(CostRow("What is left: the real account", "total", left, width, None, last, records[-1]["sharpe_252"]))
    return Costs(_cost_words(rows, known), place(0.0), tuple(rows))


def _cost_words(rows: list[CostRow], known: list[float]) -> str:
    ideal, real = percent(known[0], signed=True), percent(known[-1], signed=True)
    words = f"Without any rule the account would have made {ideal} a year, under all of them {real}."
    losses = [row for row in rows if row.change_frac is not None and row.change_frac < 0]
    if not losses:
        return words
    worst = min(losses, key=lambda row: row.change_frac or 0.0)
    return f"{words} The dearest step: {worst.words.rstrip('.')} ({percent(worst.change_frac, signed=True)})."
