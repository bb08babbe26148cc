"""Job 2, the weekly job: the production fit of all models with the default recipe, by the product's own engine."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass

from vnfleet.bench.fitted_fold import Say, fitted, layout_of
from vnfleet.bench.fleet import Bench
from vnfleet.bench.memory import PeakWatch
from vnfleet.bench.recipes import counts_of
from vnfleet.bench.table import Cell, Mark, Table, number_cell, seconds_cell, words
from vnfleet.training.machine.estimate import StepCosts, estimate_work
from vnfleet.training.machine.threads import Layout
from vnfleet.training.model_set import write_model_set
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe

_CLAIMED = (
    ("Colab A100, 102 models one after another (the plan)", "26-34 h", 26.0),
    ("i7-14700, 102 models likewise (the plan)", "51-77 h", 51.0),
)
_QUICK_NOTE = (
    "--quick trains nothing to its end, with one seed and few epochs: times follow from measured steps, memory is that "
    "of the steps. Without --quick the settings' own fit is run whole."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeeklyRun:
    """What the production fit came to: seconds by part and in all, and memory; `mark` says whether it was run whole."""

    layout: Layout
    parts: tuple[tuple[str, float], ...]
    seconds: float
    mark: Mark
    peak_gib: float
    gpu_gib: float | None


def weekly_tables(bench: Bench, recipe: Recipe, *, quick: bool, say: Say) -> tuple[Table, ...]:
    """Return the table of job 2 on the production fold; a `quick` one is estimated from measured steps."""
    run = estimate_weekly(bench, recipe) if quick else run_weekly(bench, recipe, say)
    rows: list[tuple[Cell, ...]] = [(words(name), seconds_cell(seconds, run.mark)) for name, seconds in run.parts]
    rows.append((words("in all, prices and features excluded"), seconds_cell(run.seconds, run.mark)))
    rows.append((words("peak memory, all processes"), number_cell(run.peak_gib, run.mark, ".2f", "GiB")))
    if run.gpu_gib:
        rows.append((words("peak memory of the GPU, this process"), number_cell(run.gpu_gib, run.mark, ".2f", "GiB")))
    rows += [(words(name), Cell(text, hours * 3600.0, "claimed")) for name, text, hours in _CLAIMED]
    training, model = recipe.training, recipe.model
    counts = counts_of(recipe, len(bench.fold.universe))
    notes = (
        (
            f"{training.strategy}, {model.attention} attention, width {model.d_model}, {model.num_layers} layers: "
            f"{counts}."
        ),
        *((_QUICK_NOTE,) if quick else ()),
        f"Layout: {run.layout.words}.",
        "One fold: walk-forward years are extra the first time and reused afterwards.",
        "The plan's 102 models have 0.85 million parameters each and 100 epochs; see the literal job for those.",
    )
    title = f"The weekly job: production fit of {counts}" + (", estimated from measured steps" if quick else "")
    return (Table(title=title, columns=("part", "figure"), rows=tuple(rows), notes=notes),)


def run_weekly(bench: Bench, recipe: Recipe, say: Say) -> WeeklyRun:
    """Run the production fit in a fresh folder: package, units, artifacts; everything is removed afterwards."""
    units = fold_units(recipe, bench.data, bench.fold)
    layout = layout_of(bench, recipe, units)
    models = bench.scratch / "models"
    try:
        with fitted(bench, recipe, units, layout, say) as fold:
            start = time.perf_counter()
            paths = write_model_set(
                models, recipe, bench.fold, bench.data, fold.units_root, recipe.training.strategy, bench.fold.universe
            )
            writing = time.perf_counter() - start
    finally:
        shutil.rmtree(models, ignore_errors=True)
    return WeeklyRun(
        layout=layout,
        parts=(*fold.parts, (f"write {len(paths)} artifacts", writing)),
        seconds=fold.seconds + writing,
        mark="measured",
        peak_gib=fold.peak_gib,
        gpu_gib=fold.gpu_gib,
    )


def estimate_weekly(bench: Bench, recipe: Recipe) -> WeeklyRun:
    """Return what the production fit would take by measured steps; memory is that of the steps."""
    units = fold_units(recipe, bench.data, bench.fold)
    with PeakWatch() as watch:
        layout = layout_of(bench, recipe, units)
    costs = StepCosts.shared(
        layout.seconds_per_step, recipe, num_symbols=len(bench.data.symbols), num_primary=len(bench.fold.universe)
    )
    estimate = estimate_work(
        units,
        recipe,
        costs,
        processes=layout.processes,
        separate_costs=StepCosts.separate(layout.seconds_per_step, recipe),
    )
    return WeeklyRun(
        layout=layout,
        parts=tuple((unit.words, estimate.seconds_by_unit[unit.unit_id]) for unit in units),
        seconds=estimate.seconds,
        mark="estimated",
        peak_gib=watch.peak_gib,
        gpu_gib=watch.gpu_gib,
    )
