"""Job 3, the plan to the letter: 102 models, each on its own symbol, window attention, 100 epochs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from vnfleet.bench.fitted_fold import Say
from vnfleet.bench.fleet import Bench, FleetRate
from vnfleet.bench.flops import training_flops_per_label
from vnfleet.bench.labels import longest_histories
from vnfleet.bench.memory import PeakWatch
from vnfleet.bench.peak import matmul_peak
from vnfleet.bench.recipes import PLAN_EPOCHS, plan_network, window_recipe
from vnfleet.bench.table import (
    Cell,
    Mark,
    Table,
    counts_text,
    number_cell,
    rate_cell,
    seconds_cell,
    share_cell,
    words,
)
from vnfleet.core.errors import BadDataError

PLAN_MODELS = 102
CLAIMED = (("Colab A100, by the plan", 26.0, 34.0), ("i7-14700, by the plan", 51.0, 77.0))


def literal_tables(
    bench: Bench, *, seconds: float, whole: bool, say: Say, num_models: int = PLAN_MODELS
) -> tuple[Table, ...]:
    """Return the table of job 3: run to the end when `whole`, else a slice of `seconds`, extrapolated and marked so."""
    run = run_literal(bench, seconds=math.inf if whole else seconds, say=say, num_models=num_models)
    mark: Mark = "measured" if run.rate.finished else "estimated"
    rate, per_label = run.rate, run.rate.flops_per_label
    whole_flops = training_flops_per_label(plan_network(bench.model), 1, every_query=True)
    peak = matmul_peak(rate.device, rate.precision)
    rows: list[tuple[Cell, ...]] = [
        (words("models, each of its own symbol"), words(f"{run.num_models} in stacks of {run.group_size}")),
        (words("labels of an epoch"), number_cell(run.labels / PLAN_EPOCHS, "measured")),
        (words("operations of the job"), Cell(f"{run.labels * per_label / 1e15:.2f} PFLOP", run.labels * per_label)),
        (
            words("the same with every query of the last layer, as plain encoders do"),
            Cell(f"{run.labels * whole_flops / 1e15:.2f} PFLOP", run.labels * whole_flops),
        ),
        (words("labels per second"), rate_cell(rate.labels_per_second, "measured")),
        (words(f"GFLOP/s in {rate.precision}"), rate_cell(rate.gflops, "measured")),
        (words("share of the matmul peak"), share_cell(rate.gflops / peak.measured_gflops, "measured")),
        (words("peak memory of the process"), number_cell(run.peak_gib, "measured", ".2f", "GiB")),
    ]
    if run.gpu_gib is not None:
        rows.append((words("peak memory of the GPU"), number_cell(run.gpu_gib, "measured", ".2f", "GiB")))
    counts = counts_text(run.num_models, 1, PLAN_EPOCHS)
    rows.append((words(f"time for {counts}"), seconds_cell(run.seconds, mark)))
    rows += [
        (
            words(f"{name}, {PLAN_MODELS} models x {PLAN_EPOCHS} epochs"),
            Cell(f"{low:.0f}-{high:.0f} h", low * 3600.0, "claimed"),
        )
        for name, low, high in CLAIMED
    ]
    notes = (
        *(() if rate.finished else (_slice_note(run, counts),)),
        f"Peak: {peak.sentence}.",
        (
            "Every model runs all 100 epochs on the sessions before its validation tail; the plan's early stopping "
            "would end most of them sooner."
        ),
        "Nobody should train this way: models of one symbol each reach a third of the rank IC of a shared one.",
    )
    title = f"The plan to the letter: separate, window, {counts}" + ("" if rate.finished else ", from a slice")
    return (Table(title=title, columns=("what", "figure"), rows=tuple(rows), notes=notes),)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteralRun:
    """What was run of the plan's literal job. `seconds` are those of the whole job, measured or extrapolated."""

    rate: FleetRate
    num_models: int
    group_size: int
    labels: float
    seconds: float
    peak_gib: float
    gpu_gib: float | None


def run_literal(bench: Bench, *, seconds: float, say: Say, num_models: int = PLAN_MODELS) -> LiteralRun:
    """Train the plan's models in as few stacks as memory allows; after `seconds` the first stack is stopped.

    `say` hears each stack when it begins. Symbols without a label before validation have no model and do not count.

    Raises
    ------
    BadDataError
        When no symbol has one.
    """
    recipe = window_recipe(bench.model)
    longest = longest_histories(bench, num_models)
    counts = bench.labels_of(longest, recipe.model.context_sessions).tolist()
    symbols = [symbol for symbol, count in zip(longest, counts, strict=True) if count]
    if not symbols:
        raise BadDataError("no symbol has a label to learn from", where=f"fold {bench.fold.fold_id}")
    size = bench.stack_size(recipe, symbols)
    labels, spent, rates = 0.0, 0.0, []
    with PeakWatch() as watch:
        for start in range(0, len(symbols), size):
            stop = min(start + size, len(symbols))
            say(f"to the letter: models {start + 1} to {stop} of {len(symbols)}")
            begun = time.perf_counter()
            rate = bench.separate(recipe, symbols[start:stop], seconds)
            spent += time.perf_counter() - begun
            rates.append(rate)
            if not rate.finished:
                break
            labels += rate.labels_in_all
    if not rates[-1].finished:
        labels = labels_of_job(bench, symbols)
        spent = labels / rates[-1].labels_per_second
    return LiteralRun(
        rate=rates[-1],
        num_models=len(symbols),
        group_size=size,
        labels=labels,
        seconds=spent,
        peak_gib=watch.peak_gib,
        gpu_gib=watch.gpu_gib,
    )


def _slice_note(run: LiteralRun, counts: str) -> str:
    return (
        f"Run here: {run.rate.seconds:.1f} s of a stack of {run.rate.num_models}, its warm-up aside; the time for "
        f"{counts} is extrapolated from it. --whole runs the job to its end."
    )


def labels_of_job(bench: Bench, symbols: list[str]) -> float:
    """Return the labels of all epochs of these symbols."""
    context = plan_network(bench.model).context_sessions
    return PLAN_EPOCHS * float(bench.labels_of(symbols, context).sum())
