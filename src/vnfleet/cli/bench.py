"""The `bench` commands: how fast this machine trains and forecasts, and the plan's own figures beside it."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vnfleet.cli import options as o
from vnfleet.cli.terminal import Terminal, terminal_of, watching
from vnfleet.core.errors import UsageError

if TYPE_CHECKING:
    from datetime import date

    from vnfleet.bench.material import Material
    from vnfleet.bench.report import BenchReport, MachineFacts
    from vnfleet.bench.table import Table

_FILES = "--source files --path prices.parquet --as-of 2024-12-31"
BENCH_FOLDER = "bench"
_EARLIEST_YEAR = 2000
_TWO_COLUMNS = 2
_WRAPS_FROM = 12
"""Cells of more characters are wrapped between words rather than widening a table."""
_BORDER = 3
"""Characters that a table spends on each column besides its text."""

Job = Annotated[
    Literal["labels", "weekly", "literal", "growth", "peers"], typer.Option("--job", help="What is measured.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Small slices: a first idea in a minute or two.")]
Whole = Annotated[bool, typer.Option("--whole", help="Run the literal job to its end, not a slice of it.")]
Seconds = Annotated[
    float | None, typer.Option("--seconds", min=0.5, help="Length of a measured slice (default: 30, quick: 4).")
]
PeerMinutes = Annotated[
    float, typer.Option("--peer-minutes", min=0.1, help="The plan's loop and vmap are extrapolated after so long.")
]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Epochs of the plan's loop and vmap among the peers.")]
Exchange = Annotated[
    Path | None,
    typer.Option("--exchange", help="Folder for peers that run outside: see benchmarks/neuralforecast_peer.py."),
]
Year = Annotated[int | None, typer.Option("--year", min=_EARLIEST_YEAR, help="The judged year (default: the newest).")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder that gets the dated page of the record.")]
ModelsFolder = Annotated[
    Path | None, typer.Option("--models-folder", help="Trained models, such as work/models (default: untrained ones).")
]

Given = dict[str, dict[str, object | None]]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    bench = typer.Typer(no_args_is_help=True, help="Measure this machine; every figure says where it comes from.")
    bench.command("train", epilog=f"Example:  vnfleet bench train --job labels {_FILES}")(train)
    bench.command("infer", epilog="Example:  vnfleet bench infer --models-folder work/models")(infer)
    bench.command("plan", epilog=f"Example:  vnfleet bench plan {_FILES} --year 2021 --out benchmarks")(plan)
    app.add_typer(bench, name=BENCH_FOLDER)


def train(
    context: typer.Context,
    job: Job = "labels",
    quick: Quick = False,
    whole: Whole = False,
    seconds: Seconds = None,
    peer_minutes: PeerMinutes = 2.0,
    epochs: Epochs = 100,
    exchange: Exchange = None,
    year: Year = None,
    source: o.SourceKind = None,
    path: o.SourcePath = None,
    listings: o.Listings = None,
    as_of: o.AsOf = None,
    seeds: o.Seeds = None,
    models: o.Models = None,
    out: Out = None,
    config: o.Config = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Measure training: labels per second, the weekly job, the plan's literal job, growth, or peers.

    Prices come from the options or from vnfleet.toml; without any, a simulated market of the plan's size is used.
    Everything stays in the workdir's bench folder.
    """
    terminal = terminal_of(context, workdir, as_json=as_json)
    if whole and job != "literal":
        raise UsageError("--whole is for --job literal", found=f"--job {job}")
    if exchange is not None and job != "peers":
        raise UsageError("--exchange is for --job peers", found=f"--job {job}")
    day = o.parsed_date(as_of)
    from vnfleet.bench.train import BenchOptions, run_train_bench  # noqa: PLC0415 - torch loads only when needed

    options = BenchOptions(
        quick=quick,
        whole=whole,
        seconds=seconds or 0.0,
        peer_minutes=peer_minutes,
        epochs=epochs,
        exchange=exchange,
    )
    given = _given(source, path, listings, seeds, models)
    machine, material = _prepared(terminal, config, given, day, year, quick=quick)
    report = run_train_bench(
        job, material, options, scratch=_scratch(workdir), command=_command(), say=terminal.note, machine=machine
    )
    return _shown(terminal, report, out)


def plan(
    context: typer.Context,
    quick: Quick = False,
    seconds: Seconds = None,
    year: Year = None,
    source: o.SourceKind = None,
    path: o.SourcePath = None,
    listings: o.Listings = None,
    as_of: o.AsOf = None,
    seeds: o.Seeds = None,
    models: o.Models = None,
    out: Out = None,
    config: o.Config = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Show the written plan's own figures of speed, memory, accuracy and cost, claimed, measured or estimated."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    day = o.parsed_date(as_of)
    from vnfleet.bench.train import BenchOptions, run_plan_bench  # noqa: PLC0415 - torch loads only when needed

    options = BenchOptions(quick=quick, seconds=seconds or 0.0)
    given = _given(source, path, listings, seeds, models)
    machine, material = _prepared(terminal, config, given, day, year, quick=quick)
    report = run_plan_bench(
        material, options, scratch=_scratch(workdir), command=_command(), say=terminal.note, machine=machine
    )
    return _shown(terminal, report, out)


def infer(
    context: typer.Context,
    quick: Quick = False,
    models_folder: ModelsFolder = None,
    source: o.SourceKind = None,
    path: o.SourcePath = None,
    listings: o.Listings = None,
    as_of: o.AsOf = None,
    models: o.Models = None,
    out: Out = None,
    config: o.Config = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Measure forecasting of a whole set: float32, bf16, compiled, ONNX and int8, with how well the ranks agree."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    day = o.parsed_date(as_of)
    from vnfleet.bench.infer import model_files  # noqa: PLC0415 - torch loads only when needed
    from vnfleet.bench.train import run_infer_report  # noqa: PLC0415
    from vnfleet.cycle.inference import INFERENCE_NAME  # noqa: PLC0415
    from vnfleet.cycle.workdir import Folders  # noqa: PLC0415

    if models_folder is not None:
        model_files(models_folder)  # a wrong folder is refused before prices are gathered
    given = _given(source, path, listings, None, models)
    machine, material = _prepared(terminal, config, given, day, quick=quick)
    report = run_infer_report(
        material,
        quick=quick,
        models=models_folder,
        scratch=_scratch(workdir),
        command=_command(),
        choice=Folders(workdir).configs / INFERENCE_NAME,
        say=terminal.note,
        machine=machine,
    )
    return _shown(terminal, report, out)


def _given(
    source: str | None, path: Path | None, listings: Path | None, seeds: int | None, models: int | None
) -> Given:
    return {
        "source": {"kind": source, "path": path, "listings": listings},
        "training": {"num_seeds": seeds},
        "universe": {"models": models},
    }


def _material(
    terminal: Terminal,
    file: Path | None,
    given: Given,
    day: date | None,
    year: int | None,
    *,
    quick: bool,
) -> Material:
    """Gather the prices of the command line, else of the settings; the built-in simulated market where neither has any.

    A simulated market that the settings name is theirs: its size, universe and folds stay as written.
    """
    from vnfleet.bench.gathering import gather  # noqa: PLC0415 - torch loads only when needed
    from vnfleet.bench.material import SIMULATED_AS_OF, simulated_config  # noqa: PLC0415
    from vnfleet.settings import find_settings  # noqa: PLC0415

    asked = given["source"]
    if asked["path"] is not None and asked["kind"] is None:
        asked["kind"] = "files"
    found = find_settings(file, terminal.workdir)
    config = o.settings_of(terminal.workdir, found, given)
    source, is_asked = config.source, asked["kind"] is not None
    if found is not None:
        terminal.note(f"settings: {found}")
    no_prices = source.kind == "files" and source.path is None
    if no_prices or (source.kind == "simulated" and found is None and is_asked):
        config, day = simulated_config(config, quick=quick), day or SIMULATED_AS_OF
        why = "no prices are given or set in vnfleet.toml" if no_prices else "vnfleet.toml names no other"
        terminal.note(f"{why}: the built-in simulated market of {config.simulated.num_symbols} symbols up to {day}")
    with watching(terminal) as observer:
        return gather(config, terminal.workdir / BENCH_FOLDER, as_of=day, year=year, observer=observer)


def _prepared(
    terminal: Terminal,
    file: Path | None,
    given: Given,
    day: date | None,
    year: int | None = None,
    *,
    quick: bool,
) -> tuple[MachineFacts, Material]:
    """Return the facts of the machine, taken before the command keeps it busy itself, and the prices.

    A machine that others keep busy already is warned of.
    """
    from vnfleet.bench.report import MachineFacts  # noqa: PLC0415 - torch loads only when needed

    machine = MachineFacts.here()
    if machine.warning:
        terminal.note(machine.warning)
    return machine, _material(terminal, file, given, day, year, quick=quick)


def _scratch(workdir: Path) -> Path:
    return workdir / BENCH_FOLDER / "scratch"


def _command() -> str:
    return shlex.join(["vnfleet", *sys.argv[1:]])


def _shown(terminal: Terminal, report: BenchReport, out: Path | None) -> int:
    """Print the tables or the document, write the page where that was asked for, and return the exit code."""
    terminal.say(report.machine.sentence)
    if report.machine.warning:
        terminal.say(report.machine.warning)
    terminal.say(f"data: {report.data}")
    for table in report.tables:
        _print(terminal, table)
    from vnfleet.bench.table import LEGEND  # noqa: PLC0415

    terminal.say(LEGEND)
    page = None if out is None else report.write(out)
    if page is not None:
        terminal.say(f"Record: {page}")
    document = {**report.as_json(), "page": None if page is None else str(page)}
    terminal.document({"ok": True, "exit_code": 0, **document})
    return 0


def _print(terminal: Terminal, table: Table) -> None:
    """Print a table, or row by row where the window is too narrow for its columns, then its notes."""
    narrow = shutil.get_terminal_size().columns < _width(table)
    if not narrow or len(table.columns) == _TWO_COLUMNS:
        terminal.table(table.title, table.columns, table.rows)
    elif not terminal.as_json:
        terminal.say(f"\n{table.title}")
        for row in table.rows:
            terminal.say(f"  {table.columns[0]}: {row[0]}")
            for name, cell in zip(table.columns[1:], row[1:], strict=True):
                terminal.say(f"      {name}: {cell}")
    for note in table.notes:
        terminal.say(f"  {note}")


def _width(table: Table) -> int:
    """Return the characters across that `table` needs to be read: whole words, and short cells on one line."""

    def needed(texts: list[str]) -> int:
        longest_word = max(len(word) for text in texts for word in text.split() or [""])
        return max(longest_word, min(_WRAPS_FROM, max(map(len, texts))))

    columns = zip(*([str(cell) for cell in cells] for cells in (table.columns, *table.rows)), strict=True)
    return 1 + sum(needed(list(texts)) + _BORDER for texts in columns)
