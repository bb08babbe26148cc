"""Commands that run the cycle: the whole week, a part of it, or the demo."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from vnfleet.cli import options as o
from vnfleet.cli.terminal import Terminal, terminal_of, watching
from vnfleet.core.errors import ExitCode

if TYPE_CHECKING:
    from vnfleet.cycle.weekly import Week

_FILES = "--source files --path prices.parquet --as-of 2024-12-31"
_CYCLE = (
    "The whole week: collect, check, features, train, evaluate, backtest, gate, deploy, predict, report. "
    "Run it again after any interruption: it continues and repeats nothing finished. "
    "Exit code 4: the gate kept the old set."
)
_PARTS: Final = {
    "collect": ("Fetch prices into the raw store; a changed past is a new revision, nothing is overwritten.", _FILES),
    "check": ("Collect, then judge every row and symbol, and serve the panel.", _FILES),
    "features": ("Collect, check, then build the 50 features.", _FILES),
    "train": (
        "Everything up to the trained models in models/; finished units are reused.",
        f"{_FILES} --symbols FPT VCB HPG",
    ),
    "evaluate": ("Everything up to the walk-forward scores beside every baseline.", f"{_FILES} --folds 2022-2024"),
    "backtest": ("Everything up to the simulated account under Vietnamese rules.", f"{_FILES} --folds 2022-2024"),
    "cycle": (
        _CYCLE,
        _FILES,
    ),
}
_DEMO_WORKDIR = Path("vnfleet-demo")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("demo", epilog="Example:  vnfleet demo")(demo)
    for name, (text, example) in _PARTS.items():
        app.command(name, help=text, epilog=f"Example:  vnfleet {name} {example}")(_part(name))


def demo(context: typer.Context, workdir: o.Workdir = _DEMO_WORKDIR, as_json: o.Json = False) -> int:
    """Run the real week, small, on a simulated market with a planted signal; no network, account or data needed."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.demo import DEMO_AS_OF, demo_config  # noqa: PLC0415 - torch loads only when needed
    from vnfleet.cycle.weekly import run_cycle  # noqa: PLC0415
    from vnfleet.settings import write_resolved  # noqa: PLC0415

    config = demo_config()
    terminal.say("A simulated market with a planted signal, then the real week on it. Nothing here is a real company.")
    with watching(terminal) as observer:
        week = run_cycle(
            config,
            workdir=workdir,
            as_of=DEMO_AS_OF,
            observer=observer,
            once_locked=lambda: write_resolved(config, workdir / "configs"),
        )
    return _shown(terminal, week)


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
            "training": {"num_seeds": seeds},
            "universe": {"models": models},
            "remote": {"mode": mode, "remote": remote},
        }
        overrides = {
            table: {key: value for key, value in keys.items() if value is not None} for table, keys in given.items()
        }
        day, only = o.parsed_date(as_of), o.parsed_symbols(symbols)
        from vnfleet.cycle.weekly import run_cycle  # noqa: PLC0415 - torch loads only when needed
        from vnfleet.settings import find_settings, load_settings, write_resolved  # noqa: PLC0415

        settings = load_settings(
            file=find_settings(config, workdir), environ=os.environ, overrides=overrides, preset=preset
        )
        with watching(terminal) as observer:
            week = run_cycle(
                settings,
                workdir=workdir,
                as_of=day,
                symbols=only,
                last_step="report" if last_step == "cycle" else last_step,
                observer=observer,
                once_locked=lambda: write_resolved(settings, workdir / "configs"),
            )
        return _shown(terminal, week)

    return run


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
