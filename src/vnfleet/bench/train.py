"""`bench train` and `bench plan`: which job is run on which material, and the dated record of what came out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from vnfleet.bench.fitted_fold import Say
from vnfleet.bench.fleet import Bench
from vnfleet.bench.growth import QUICK_SIZES, SIZES, growth_tables
from vnfleet.bench.infer import run_infer_bench
from vnfleet.bench.labels import labels_tables
from vnfleet.bench.literal import literal_tables
from vnfleet.bench.material import Material
from vnfleet.bench.plan import plan_tables
from vnfleet.bench.race import race_tables
from vnfleet.bench.recipes import PLAN_EPOCHS
from vnfleet.bench.report import BenchReport, MachineFacts
from vnfleet.bench.table import Table
from vnfleet.bench.weekly import weekly_tables
from vnfleet.core.clock import Clock, SystemClock
from vnfleet.cycle.inference import choice_of, write_choice
from vnfleet.training.environment import this_machine
from vnfleet.training.recipe import Recipe

Job = Literal["labels", "weekly", "literal", "growth", "peers"]
TITLES: Final = {
    "labels": "Labels per second",
    "weekly": "The weekly job",
    "literal": "The plan to the letter",
    "growth": "Growth",
    "peers": "Peers",
    "plan": "The plan's own figures",
    "infer": "Forecasting a whole set",
}
QUICK_SECONDS: Final = 4.0
SLICE_SECONDS: Final = 30.0
_QUICK_EPOCHS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """How a benchmark is run.

    Attributes
    ----------
    quick : small slices: a first idea in a minute or two, marked so in the record.
    whole : run the literal job to its end instead of a slice.
    seconds : length of a measured slice; 0 means 30, or 4 when quick.
    peer_minutes : the plan's loop and vmap are stopped after so long and extrapolated.
    epochs : epochs of the plan's loop and vmap among the peers.
    exchange : folder for libraries outside, see `bench.peers.outside`.
    """

    quick: bool = False
    whole: bool = False
    seconds: float = 0.0
    peer_minutes: float = 2.0
    epochs: int = PLAN_EPOCHS
    exchange: Path | None = None

    def __post_init__(self) -> None:
        """Refuse lengths that cannot mean anything."""
        if self.seconds < 0 or self.peer_minutes <= 0 or self.epochs < 1:
            raise ValueError("seconds must not be negative, peer_minutes must be above 0, epochs at least 1")

    @property
    def slice_seconds(self) -> float:
        """Seconds of a measured slice."""
        return self.seconds or (QUICK_SECONDS if self.quick else SLICE_SECONDS)

    @property
    def peer_seconds(self) -> float:
        """Seconds after which a peer is stopped."""
        return self.slice_seconds if self.quick else 60.0 * self.peer_minutes


def run_train_bench(
    job: Job,
    material: Material,
    options: BenchOptions,
    *,
    scratch: Path,
    command: str,
    say: Say = lambda _: None,
    machine: MachineFacts | None = None,
    clock: Clock | None = None,
) -> BenchReport:
    """Run one job on `material` and return its record; `scratch` is emptied before and after.

    `machine` are facts from before anything else was done, so that its load is that of others; by default those of now.

    Raises
    ------
    VnfleetError
        Whatever training raises; `BadDataError` when the prices are too short for the job.
    """
    recipe = recipe_of(material, options)

    def tables() -> tuple[Table, ...]:
        bench = bench_of(material, scratch, live=job == "weekly")
        match job:
            case "labels":
                return labels_tables(bench, seconds=options.slice_seconds, say=say)
            case "weekly":
                return weekly_tables(bench, recipe, quick=options.quick, say=say)
            case "literal":
                return literal_tables(bench, seconds=options.slice_seconds, whole=options.whole, say=say)
            case "growth":
                sizes = QUICK_SIZES if options.quick else SIZES
                return growth_tables(
                    material.data, recipe, bench.machine, scratch, seconds=options.slice_seconds, say=say, sizes=sizes
                )
            case "peers":
                return race_tables(
                    bench,
                    material,
                    recipe,
                    peer_seconds=options.peer_seconds,
                    epochs=options.epochs,
                    exchange=options.exchange,
                    say=say,
                )

    machine = machine or MachineFacts.here()
    return _reported(f"train_{job}", TITLES[job], material, options, scratch, command, machine, clock, tables)


def run_plan_bench(
    material: Material,
    options: BenchOptions,
    *,
    scratch: Path,
    command: str,
    say: Say = lambda _: None,
    machine: MachineFacts | None = None,
    clock: Clock | None = None,
) -> BenchReport:
    """Return the record of the plan's own rows; arguments and errors as for `run_train_bench`."""
    facts = machine or MachineFacts.here()

    def tables() -> tuple[Table, ...]:
        bench = bench_of(material, scratch, live=False)
        recipe = recipe_of(material, options)
        return plan_tables(bench, material, recipe, facts, seconds=options.slice_seconds, quick=options.quick, say=say)

    return _reported("plan", TITLES["plan"], material, options, scratch, command, facts, clock, tables)


def run_infer_report(
    material: Material,
    *,
    quick: bool,
    models: Path | None,
    scratch: Path,
    command: str,
    choice: Path | None = None,
    say: Say = lambda _: None,
    machine: MachineFacts | None = None,
    clock: Clock | None = None,
) -> BenchReport:
    """Return the record of forecasting a whole set; `models` is a folder of trained ones, None takes untrained ones.

    The path for the weekly forecast is written to `choice`, unless the run is quick.
    """

    def tables() -> tuple[Table, ...]:
        environment = this_machine(material.config.machine)
        environment.apply()
        found = run_infer_bench(
            scratch,
            material.data,
            models=models,
            num_symbols=len(material.live.universe),
            num_members=material.config.training.num_seeds,
            quick=quick,
            device=environment.device,
            told=say,
        )
        if choice is not None and not quick:
            shape = "plan" if material.config.model.attention == "window" else "desktop"
            case = next(one for one in found.cases if one.job == "newest session" and (models or one.shape == shape))
            chosen = choice_of(
                case.measurements,
                trained=models is not None,
                num_symbols=case.num_symbols,
                num_members=case.num_members,
                device=environment.device,
                now=(clock or SystemClock()).now(),
            )
            write_choice(choice, chosen)
            say(f"the weekly forecast will be computed by {chosen.path}: {choice}")
        return found.tables()

    options, machine = BenchOptions(quick=quick), machine or MachineFacts.here()
    return _reported("infer", TITLES["infer"], material, options, scratch, command, machine, clock, tables)


def recipe_of(material: Material, options: BenchOptions) -> Recipe:
    """Return the recipe of the settings; a quick run has one seed and few epochs, since it judges nothing."""
    config = material.config
    recipe = Recipe(config.model, config.training, config.objective)
    if not options.quick:
        return recipe
    epochs = min(_QUICK_EPOCHS, recipe.training.max_epochs)
    return replace(recipe, training=replace(recipe.training, num_seeds=1, max_epochs=epochs))


def bench_of(material: Material, scratch: Path, *, live: bool) -> Bench:
    """Return where stages are timed: on the production fold, or on the judged year."""
    return Bench(
        data=material.data,
        model=material.config.model,
        fold=material.live if live else material.judged,
        machine=material.config.machine,
        scratch=scratch,
    )


def _reported(
    name: str,
    title: str,
    material: Material,
    options: BenchOptions,
    scratch: Path,
    command: str,
    machine: MachineFacts,
    clock: Clock | None,
    tables: Callable[[], tuple[Table, ...]],
) -> BenchReport:
    now = (clock or SystemClock()).now()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        found = tables()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return BenchReport(
        name=name,
        title=title,
        tables=found,
        machine=machine,
        data=material.sentence,
        command=command,
        measured_at=now,
        whole=not options.quick,
        code=f"recipe {recipe_of(material, options).recipe_id}",
    )
