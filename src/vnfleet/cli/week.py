"""Commands that run the cycle: the whole week, a part of it, or the demo."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from vnfleet.cli import options as o
from vnfleet.cli.terminal import Terminal, duration, terminal_of, watching
from vnfleet.core.errors import ExitCode

if TYPE_CHECKING:
    from datetime import date

    from vnfleet.cycle.config import CycleConfig
    from vnfleet.cycle.weekly import Week

_FILES = "--source files --path prices.parquet --as-of 2024-12-31"
_CYCLE = (
    "The whole week: collect, check, features, train, evaluate, backtest, prove, gate, deploy, predict, report. "
    "Run it again after any interruption: it continues and repeats nothing finished. "
    "Exit code 4: the gate kept the old set."
)
_PARTS: Final = {
    "features": ("Collect, check, then build the 50 features.", _FILES),
    "train": (
        "Everything up to the trained models in models/; finished units are reused.",
        f"{_FILES} --symbols FPT VCB HPG",
    ),
    "evaluate": ("Everything up to the walk-forward scores beside every baseline.", f"{_FILES} --folds 2022-2024"),
    "backtest": ("Everything up to the simulated accounts under Vietnamese rules.", f"{_FILES} --folds 2022-2024"),
    "cycle": (
        _CYCLE,
        _FILES,
    ),
}
Full = Annotated[
    bool, typer.Option("--full", help="Ask for whole histories, not only for what is new and a little before it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be asked of whom, and ask nothing.")]
AcceptDegraded = Annotated[
    bool, typer.Option("--accept-degraded", help="Take a feed that was rejected; only after reading the reasons.")
]
Leaks = Annotated[
    bool,
    typer.Option("--leaks", help="Also prove that no forecast knows its future: cut, poison, shuffle, compare."),
]
_WIDE_TERMINAL = 140
_DEMO_WORKDIR = Path("vnfleet-demo")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("demo", epilog="Example:  vnfleet demo")(demo)
    app.command("collect", epilog="Example:  vnfleet collect --source cafef_bulk --dry-run")(collect)
    app.command("check", epilog=f"Example:  vnfleet check {_FILES} --leaks")(check)
    for name, (text, example) in _PARTS.items():
        app.command(name, help=text, epilog=f"Example:  vnfleet {name} {example}")(_part(name))


def demo(context: typer.Context, workdir: o.Workdir = _DEMO_WORKDIR, as_json: o.Json = False) -> int:
    """Run the real week, small, on a simulated market with a planted signal; no network, account or data needed."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.demo import DEMO_AS_OF, demo_config  # noqa: PLC0415 - torch loads only when needed

    config = demo_config()
    terminal.say("A simulated market with a planted signal, then the real week on it. Nothing here is a real company.")
    return _shown(terminal, run_week(terminal, config, as_of=DEMO_AS_OF))


def collect(
    context: typer.Context,
    source: o.SourceKind = None,
    path: o.SourcePath = None,
    listings: o.Listings = None,
    as_of: o.AsOf = None,
    full: Full = False,
    dry_run: DryRun = False,
    accept_degraded: AcceptDegraded = False,
    config: o.Config = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Fetch prices into the raw store; a changed past is a new revision, nothing is overwritten."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    day = o.parsed_date(as_of)
    from vnfleet.cycle.weekly import plans_of_collection  # noqa: PLC0415 - torch loads only when needed

    settings = o.settings_of(workdir, config, {"source": {"kind": source, "path": path, "listings": listings}})
    if dry_run:
        plans = plans_of_collection(settings, workdir=workdir, as_of=day, full=full)
        rows = [(name, plan.sentence, plan.requests, duration(plan.seconds)) for name, plan in plans]
        terminal.table("What would be asked", ("source", "what", "requests at most", "at the polite rate"), rows)
        asked = [{"source": name, **dataclasses.asdict(plan)} for name, plan in plans]
        terminal.document({"ok": True, "exit_code": 0, "plans": asked})
        return 0
    week = run_week(terminal, settings, as_of=day, last_step="collect", full=full, accept_degraded=accept_degraded)
    return _shown(terminal, week)


def check(
    context: typer.Context,
    source: o.SourceKind = None,
    path: o.SourcePath = None,
    listings: o.Listings = None,
    as_of: o.AsOf = None,
    folds: o.Folds = None,
    symbols: o.Symbols = None,
    models: o.Models = None,
    leaks: Leaks = False,
    config: o.Config = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Collect, then judge every row and symbol; the evidence is on a page in reports/. Exit code 3: a leak."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    given: dict[str, dict[str, object | None]] = {
        "source": {"kind": source, "path": path, "listings": listings},
        "folds": {"years": o.parsed_years(folds)},
        "universe": {"models": models},
    }
    day, only = o.parsed_date(as_of), o.parsed_symbols(symbols)
    settings = o.settings_of(workdir, config, given)
    return _checked(terminal, run_week(terminal, settings, as_of=day, symbols=only, last_step="check", leaks=leaks))


def run_week(
    terminal: Terminal,
    config: CycleConfig,
    *,
    as_of: date | None,
    symbols: tuple[str, ...] = (),
    last_step: str = "report",
    full: bool = False,
    accept_degraded: bool = False,
    leaks: bool = False,
) -> Week:
    """Run the cycle in the terminal's workdir, shown while it runs; once there are prices its settings are written."""
    from vnfleet.cycle.weekly import run_cycle  # noqa: PLC0415 - torch loads only when needed
    from vnfleet.settings import write_resolved  # noqa: PLC0415

    with watching(terminal) as observer:
        return run_cycle(
            config,
            workdir=terminal.workdir,
            as_of=as_of,
            symbols=symbols,
            last_step=last_step,
            full=full,
            accept_degraded=accept_degraded,
            leaks=leaks,
            observer=observer,
            once_collected=lambda: write_resolved(config, terminal.workdir / "configs"),
        )


def _part(last_step: str) -> Callable[..., int]:
    """Return the command that runs the cycle up to `last_step`."""

    def run(
        context: typer.Context,
        source: o.SourceKind = None,
        path: o.SourcePath = None,
        listings: o.Listings = None,
        as_of: o.AsOf = None,
        folds: o.Folds = None,
        seeds: o.Seeds = None,
        symbols: o.Symbols = None,
        models: o.Models = None,
        strategy: o.Strategy = None,
        epochs: o.Epochs = None,
        batch_size: o.BatchSize = None,
        budget_minutes: o.BudgetMinutes = None,
        deadline: o.Deadline = None,
        engine: o.Engine = None,
        address: o.Address = None,
        device: o.Device = None,
        mode: o.Mode = None,
        remote: o.Remote = None,
        preset: o.Preset = None,
        config: o.Config = None,
        workdir: o.Workdir = o.WORKDIR,
        as_json: o.Json = False,
    ) -> int:
        terminal = terminal_of(context, workdir, as_json=as_json)
        given: dict[str, dict[str, object | None]] = {
            "source": {"kind": source, "path": path, "listings": listings},
            "folds": {"years": o.parsed_years(folds)},
            "training": {
                "num_seeds": seeds,
                "strategy": strategy,
                "max_epochs": epochs,
                "chunk_sessions": batch_size,
            },
            "machine": {
                "budget_minutes": budget_minutes,
                "deadline": deadline,
                "engine": engine,
                "ray_address": address,
                "device": device,
            },
            "universe": {"models": models},
            "remote": {"mode": mode, "remote": remote},
        }
        day, only = o.parsed_date(as_of), o.parsed_symbols(symbols)
        settings = o.settings_of(workdir, config, given, preset)
        step = "report" if last_step == "cycle" else last_step
        return _shown(terminal, run_week(terminal, settings, as_of=day, symbols=only, last_step=step))

    return run


def _checked(terminal: Terminal, week: Week) -> int:
    """Print what the court found; return the exit code."""
    from vnfleet.reporting.check_page import CHECK_TABLE_COLUMNS, check_document, check_table  # noqa: PLC0415

    assert week.quality is not None, "a week up to check carries its verdicts"
    columns = len(CHECK_TABLE_COLUMNS) - (shutil.get_terminal_size().columns < _WIDE_TERMINAL)  # no examples then
    rows = [row[:columns] for row in check_table(week.quality)]
    if rows:
        terminal.table(f"What the court found, data to {week.as_of}", CHECK_TABLE_COLUMNS[:columns], rows)
    else:
        terminal.say("The court found nothing.")
    terminal.say(week.steps[-1].summary)
    terminal.say(f"The evidence: {week.check_page}")
    quality = {**check_document(week.quality), "page": str(week.check_page), "all_findings": str(week.all_findings)}
    leaks = week.leaks
    for line in leaks.lines() if leaks is not None else ():
        terminal.say(line)
    code = ExitCode.BAD_DATA if leaks is not None and leaks.has_leak else ExitCode.OK
    document = {"ok": code is ExitCode.OK, "exit_code": int(code), **week.as_json(), "quality": quality}
    terminal.document(document if leaks is None else {**document, "leaks": leaks.model_dump(mode="json")})
    return int(code)


def _shown(terminal: Terminal, week: Week) -> int:
    """Print what the week came to; return the exit code."""
    kept = week.decision is not None and not week.decision.deploys
    for line in week.decision.lines() if week.decision is not None else ():
        terminal.say(line)
    rows = [
        (
            step.name,
            step.summary,
            f"{step.seconds:.1f}",
            f"{step.peak_memory_mib:.0f}",
            "reused" if step.reused else "ran",
        )
        for step in week.steps
    ]
    terminal.table(f"Week {week.cycle_id}, data to {week.as_of}", ("step", "result", "seconds", "MiB", ""), rows)
    if week.predictions is not None:
        terminal.forecasts(week.as_of, week.predictions)
    if week.report is not None:
        terminal.say(f"Report: {week.report}")
    code = ExitCode.GATE_KEPT if kept else ExitCode.OK
    terminal.document({"ok": not kept, "exit_code": int(code), **week.as_json()})
    return int(code)
