"""`bench plan`: the written plan's own rows of speed, memory, accuracy and cost, beside what this machine does.

Every cell is marked: claimed by the plan, measured in this run, or estimated from what was measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from vnfleet.bench.fitted_fold import Say, fitted, layout_of
from vnfleet.bench.fleet import Bench
from vnfleet.bench.labels import longest_histories
from vnfleet.bench.literal import PLAN_MODELS, LiteralRun, run_literal
from vnfleet.bench.material import Material
from vnfleet.bench.peak import matmul_peak
from vnfleet.bench.recipes import PLAN_BATCH_WINDOWS, PLAN_EPOCHS, counts_of, plan_network, window_recipe
from vnfleet.bench.report import MachineFacts
from vnfleet.bench.scores import Score, score_of, separate_predictions
from vnfleet.bench.table import (
    NOTHING,
    Cell,
    Mark,
    Table,
    claimed,
    counts_text,
    number_cell,
    rough_cell,
    seconds_cell,
    words,
)
from vnfleet.bench.weekly import estimate_weekly
from vnfleet.cycle.measure import gib
from vnfleet.training.forecast import forecast_fold
from vnfleet.training.machine.cards import Card, Precision, find_card
from vnfleet.training.machine.memory import bytes_per_model
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe

_HOUR = 3600.0
_MINUTE = 60.0
_BF16_FROM: Final = (8, 0)
FIVE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One machine of the plan's tables: its claims as written (the figure is the better end), and the card it has."""

    name: str
    card: str | None
    one_model: tuple[str, float] | None
    all_models: tuple[str, float] | None
    memory: str | None
    cost: str | None


PLAN_ROWS: Final = (
    PlanRow(
        name="Colab A100",
        card="A100 40 GB",
        one_model=("15-20 min", 15 * _MINUTE),
        all_models=("26-34 h", 26 * _HOUR),
        memory="52 GB RAM and 40 GB VRAM available",
        cost="$50 a month",
    ),
    PlanRow(
        name="Colab V100",
        card="V100 16 GB",
        one_model=("25-35 min", 25 * _MINUTE),
        all_models=("42-60 h", 42 * _HOUR),
        memory=None,
        cost="$10 a month",
    ),
    PlanRow(
        name="Colab T4",
        card="T4",
        one_model=("45-60 min", 45 * _MINUTE),
        all_models=("76-102 h", 76 * _HOUR),
        memory="12 GB RAM, 16 GB VRAM, batch at most 16",
        cost="free",
    ),
    PlanRow(
        name="i7-14700",
        card=None,
        one_model=("30-45 min", 30 * _MINUTE),
        all_models=("51-77 h", 51 * _HOUR),
        memory="about 3 GB per model, batch 4",
        cost="$0",
    ),
    PlanRow(
        name="RTX 5070 Ti at home", card="RTX 5070 Ti", one_model=None, all_models=None, memory="16 GB VRAM", cost=None
    ),
)
"""The plan's "Performance Benchmarks", and the home GPU of its machine configuration, for which it claims nothing."""

ACCURACY_CLAIMS: Final = (
    ("1 symbol", "52-56 % in 30-45 min on a CPU"),
    ("5 symbols", "52-56 % in 2-4 h on a CPU"),
    ("102 symbols", "54-58 % in 26-30 h on an A100"),
)

_QUICK_NOTE = (
    "--quick trains nothing to its end, with one seed and few epochs: times follow from short slices and nothing is "
    "scored. For measured times and accuracies run the same command without --quick."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Models of some symbols fitted and scored on the judged year: counts, seconds with their mark, and the score."""

    what: str
    counts: str
    seconds: float
    mark: Mark
    score: Score | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRun:
    """What was measured for the plan's page.

    Attributes
    ----------
    literal : the plan to the letter, usually a slice. weekly_seconds : the default recipe's fit of one fold.
    share : of the matmul peak that the literal job reached here.
    """

    literal: LiteralRun
    single: Fitted
    five: Fitted
    all_models: Fitted
    weekly_seconds: float
    weekly_mark: Mark
    weekly_gib: float
    share: float
    precision: Precision


def plan_tables(
    bench: Bench,
    material: Material,
    recipe: Recipe,
    machine: MachineFacts,
    *,
    seconds: float,
    quick: bool,
    say: Say,
) -> tuple[Table, ...]:
    """Return the plan's tables; `quick` trains nothing to its end: times are estimated and accuracies left out.

    `machine` are facts from before the run: on a busy machine no other card is guessed from what was reached here.
    """
    run = _run_plan(bench, material, recipe, seconds=seconds, quick=quick, say=say)
    here = f"here, {_this(bench, run, machine)}"
    return (
        _speed(run, here, is_busy=machine.is_busy, quick=quick),
        _memory(bench, run, here),
        _accuracy(bench, run, quick=quick),
    )


def _run_plan(bench: Bench, material: Material, recipe: Recipe, *, seconds: float, quick: bool, say: Say) -> PlanRun:
    say("the plan to the letter, a slice")
    literal = run_literal(bench, seconds=seconds, say=say)
    peak = matmul_peak(literal.rate.device, literal.rate.precision)
    symbols = longest_histories(bench, FIVE)
    one_label_seconds = literal.seconds / literal.labels
    if quick:
        say("one model alone, a slice")
        alone = bench.separate(window_recipe(bench.model), symbols[:1], seconds)
        five = (
            one_label_seconds * sum(bench.labels_of(symbols, plan_network(bench.model).context_sessions)) * PLAN_EPOCHS
        )
        say("the weekly job, some steps")
        weekly = estimate_weekly(bench, recipe)
        what = f"{recipe.training.strategy}, {recipe.model.attention}"
        return PlanRun(
            literal=literal,
            single=_estimated("separate, window", counts_text(1, 1, PLAN_EPOCHS), alone.whole_seconds),
            five=_estimated("separate, window", counts_text(len(symbols), 1, PLAN_EPOCHS), five),
            all_models=_estimated(what, counts_of(recipe, len(bench.fold.universe)), weekly.seconds),
            weekly_seconds=weekly.seconds,
            weekly_mark="estimated",
            weekly_gib=weekly.peak_gib,
            share=literal.rate.gflops / peak.measured_gflops,
            precision=literal.rate.precision,
        )
    say("one model alone, then five, end to end")
    one, several = (_separate(bench, material, names, say) for names in (symbols[:1], symbols))
    say("the weekly job, end to end")
    together, gib_used = _together(bench, material, recipe, say)
    return PlanRun(
        literal=literal,
        single=one,
        five=several,
        all_models=together,
        weekly_seconds=together.seconds,
        weekly_mark="measured",
        weekly_gib=gib_used,
        share=literal.rate.gflops / peak.measured_gflops,
        precision=literal.rate.precision,
    )


def _estimated(what: str, counts: str, seconds: float) -> Fitted:
    return Fitted(what=what, counts=counts, seconds=seconds, mark="estimated", score=None)


def _separate(bench: Bench, material: Material, symbols: Sequence[str], say: Say) -> Fitted:
    """Train the plan's network of each symbol end to end: select with early stopping, refit, forecast the year."""
    recipe = window_recipe(bench.model)
    fold = replace(bench.fold, universe=tuple(symbols))
    units = tuple(unit for unit in fold_units(recipe, bench.data, fold) if unit.kind == "separate")
    with fitted(bench, recipe, units, layout_of(bench, recipe, units), say) as done:
        start = time.perf_counter()
        predictions = separate_predictions(recipe, fold, bench.data, done.units_root, units, "separate")
        seconds = done.seconds + time.perf_counter() - start
    score = score_of(predictions, replace(material, judged=fold))
    counts = counts_of(recipe, len(symbols))
    return Fitted(what="separate, window", counts=counts, seconds=seconds, mark="measured", score=score)


def _together(bench: Bench, material: Material, recipe: Recipe, say: Say) -> tuple[Fitted, float]:
    """Train the default recipe of all symbols, forecast the year; return it and the peak memory in GiB."""
    fold, strategy = bench.fold, recipe.training.strategy
    units = fold_units(recipe, bench.data, fold)
    with fitted(bench, recipe, units, layout_of(bench, recipe, units), say) as done:
        start = time.perf_counter()
        predictions = forecast_fold(recipe, fold, bench.data, done.units_root, strategy, fold.test, strategy)
        seconds = done.seconds + time.perf_counter() - start
        what, counts = f"{strategy}, {recipe.model.attention}", counts_of(recipe, len(fold.universe))
        score = score_of(predictions, material)
    return Fitted(what=what, counts=counts, seconds=seconds, mark="measured", score=score), done.peak_gib


def _speed(run: PlanRun, here: str, *, is_busy: bool, quick: bool) -> Table:
    """Return the plan's training speed beside ours; each heading names the models, seeds and epochs behind it."""
    letter = run.literal
    counts = counts_text(letter.num_models, 1, PLAN_EPOCHS)
    rows: list[tuple[Cell, ...]] = []
    for row in PLAN_ROWS:
        seconds = None if is_busy else _on_card(run, find_card(row.card) if row.card else None)
        rows.append(
            (
                words(row.name),
                _claim(row.one_model),
                _claim(row.all_models),
                NOTHING,
                NOTHING if seconds is None else rough_cell(seconds),
                NOTHING,
                claimed(row.cost),
            )
        )
    rows.append(
        (
            words(here),
            NOTHING,
            NOTHING,
            seconds_cell(run.single.seconds, run.single.mark),
            seconds_cell(letter.seconds, "measured" if letter.rate.finished else "estimated"),
            seconds_cell(run.weekly_seconds, run.weekly_mark),
            NOTHING,
        )
    )
    alone = (
        "one fit of all its epochs, from a slice"
        if quick
        else "end to end with the plan's early stopping, selection and refit"
    )
    guess = (
        "No estimates for cards: this machine was busy before the run, so its share of the peak means nothing."
        if is_busy
        else (
            "Estimated for a card, to one digit: as if it reached the share of its matmul peak that this machine "
            f"reached ({run.share:.1%} in {run.precision}). A rough guess: small models rarely fill a large card, and "
            "a CPU is not one."
        )
    )
    return Table(
        title="Training speed",
        columns=(
            "machine",
            f"claimed: 1 model x {PLAN_EPOCHS} epochs",
            f"claimed: {PLAN_MODELS} models x {PLAN_EPOCHS} epochs",
            f"alone: {run.single.counts}",
            f"to the letter: {counts}",
            f"weekly job: {run.all_models.counts}",
            "cost",
        ),
        rows=tuple(rows),
        notes=(
            *((_QUICK_NOTE,) if quick else ()),
            (
                f"Claimed: the plan's section Performance Benchmarks, {PLAN_EPOCHS} epochs; nobody measured it, as far "
                "as is known. Its counts are not those of this run: read the headings before comparing."
            ),
            (
                f"Alone: separate, window, {alone}. To the letter: separate, window, in stacks, no early stopping, "
                f"symbols without a label before validation left out. Weekly job: {run.all_models.what}, one fold."
            ),
            guess,
            "i7-14700: run this command there; nothing here says what it reaches.",
        ),
    )


def _memory(bench: Bench, run: PlanRun, here: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in PLAN_ROWS:
        card = find_card(row.card) if row.card else None
        needed = NOTHING
        if card is not None:
            one = bytes_per_model(plan_network(bench.model), PLAN_BATCH_WINDOWS, 1, _precision_on(card))
            fits = max(1, int(0.8 * card.memory_gib * 1024**3 // one))
            stack = min(run.literal.num_models, fits)
            needed = Cell(f"{gib(stack * one):.1f} GiB for a stack of {stack}", gib(stack * one), "estimated")
        rows.append((words(row.name), claimed(row.memory), needed, NOTHING))
    letter = run.literal
    used = letter.gpu_gib or letter.peak_gib
    rows.append(
        (
            words(here),
            NOTHING,
            Cell(f"{used:.2f} GiB for a stack of {letter.rate.num_models}", used, "measured"),
            number_cell(run.weekly_gib, run.weekly_mark, ".2f", "GiB"),
        )
    )
    return Table(
        title="Peak memory",
        columns=(
            "machine",
            "claimed by the plan",
            f"to the letter: {counts_text(letter.num_models, 1, PLAN_EPOCHS)}",
            f"weekly job: {run.all_models.counts}, all processes",
        ),
        rows=tuple(rows),
        notes=(
            "Estimated for a card from the product's memory model of one training step; groups shrink to what it has.",
            "Processes: resident memory, shared pages counted once. GPU: what torch held.",
        ),
    )


def _accuracy(bench: Bench, run: PlanRun, *, quick: bool) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (scope, claim), ours in zip(ACCURACY_CLAIMS, (run.single, run.five, run.all_models), strict=True):
        score = ours.score
        rows.append(
            (
                words(scope),
                claimed(claim),
                words(f"{ours.counts}, {ours.what}"),
                seconds_cell(ours.seconds, ours.mark),
                NOTHING if score is None else score.absolute_cell(),
                NOTHING if score is None else score.relative_cell(),
                NOTHING if score is None else score.rank_ic_cell(),
            )
        )
    return Table(
        title=f"Accuracy on {bench.fold.fold_id}" + (": times only, --quick scores nothing" if quick else ""),
        columns=(
            "claimed for",
            "claimed accuracy and time",
            "estimated here" if quick else "run here",
            "time here",
            "absolute accuracy [95 %], base rate",
            "market-relative accuracy [95 %]",
            "rank IC [95 %]",
        ),
        rows=tuple(rows),
        notes=(
            *((_QUICK_NOTE,) if quick else ()),
            "5-session return from the next open, decided at the close; forecast by models that never saw the year.",
            "Absolute accuracy means nothing without the base: what calling one side always would have reached.",
            "Rank IC needs a cross-section, so 1 and 5 symbols have none worth the name.",
        ),
    )


def _on_card(run: PlanRun, card: Card | None) -> float | None:
    """Return the seconds of the literal job on a card at this machine's share of the peak; None without a card."""
    if card is None:
        return None
    flops = run.literal.labels * run.literal.rate.flops_per_label
    return flops / (run.share * card.peak_tflops(_precision_on(card)) * 1e12)


def _precision_on(card: Card) -> Precision:
    return "bf16" if card.capability >= _BF16_FROM else "fp16"


def _claim(claim: tuple[str, float] | None) -> Cell:
    return NOTHING if claim is None else Cell(claim[0], claim[1], "claimed")


def _this(bench: Bench, run: PlanRun, facts: MachineFacts) -> str:
    if run.literal.rate.device != "cpu" and facts.accelerator:
        return facts.accelerator
    return f"{bench.machine.num_threads or facts.cores} cores of {facts.processor}"
