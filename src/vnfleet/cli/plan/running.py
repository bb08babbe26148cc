"""What the scripts share: where they work, which settings hold, and how errors become exit codes."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vnfleet.cli.options import parsed_symbols
from vnfleet.cli.terminal import Terminal
from vnfleet.core.atomic import in_words
from vnfleet.core.errors import ExitCode, UsageError, VnfleetError
from vnfleet.cycle.artifact_check import ArtifactVerdict, check_artifacts, exit_code_of
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.own_models import featured_week
from vnfleet.cycle.runner import SilentObserver, latest_cycle
from vnfleet.cycle.workdir import Folders
from vnfleet.features.cube import FeatureCube

PLAN_SYMBOLS = ("FPT", "VCB", "HPG")
WORKDIR_VARIABLE = "VNFLEET_WORKDIR"
_INTERRUPTED = 130


def parser_of(description: str, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options that the scripts share."""
    parser = argparse.ArgumentParser(description=description, epilog=f"Example:  {example}", allow_abbrev=False)
    parser.add_argument("--symbols", nargs="+", metavar="SYMBOL", help="such as FPT VCB HPG")
    parser.add_argument("--workdir", type=Path, help=f"default: {WORKDIR_VARIABLE}, or the current folder")
    parser.add_argument("--config", type=Path, help="vnfleet.toml or training_config.json (default: vnfleet.toml)")
    parser.add_argument("--as-of", metavar="DATE", help="last day of data, yyyy-mm-dd (default: what was collected)")
    return parser


def workdir_of(given: Path | None) -> Path:
    """Return the work directory: the one `given`, else that of the environment, else the current folder."""
    return given or Path(os.environ.get(WORKDIR_VARIABLE) or ".")


def symbols_of(words: list[str] | None) -> tuple[str, ...]:
    """Return the symbols of a command line; empty when not given."""
    return parsed_symbols(None if words is None else " ".join(words))


def run_script(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    work: Callable[[Terminal, argparse.Namespace, Path], int],
) -> int:
    """Read the command line and do a script's `work` in its workdir; return the exit code."""
    given = parser.parse_args(arguments)
    workdir = workdir_of(given.workdir)
    return guarded(lambda terminal: work(terminal, given, workdir), workdir)


def guarded(work: Callable[[Terminal], int], workdir: Path) -> int:
    """Run a script's work and return its exit code; what went wrong is said on stderr."""
    terminal = Terminal(workdir=workdir)
    try:
        return int(work(terminal))
    except VnfleetError as error:
        terminal.note(f"error: {error}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        terminal.note("stopped; run the same command again and it continues where it was")
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence, as in `vnfleet.cli.main`
        said = in_words(error)
        if said is not None:
            terminal.note(f"error: {said}")
            return int(said.exit_code)
        traceback.print_exc(file=sys.stderr)
        terminal.note(f"error: a bug in vnfleet: {type(error).__name__}: {error}")
        return int(ExitCode.BUG)


def collected_features(workdir: Path, config: CycleConfig) -> FeatureCube | None:
    """Return the features of what was collected last; None when nothing was. Nothing is fetched."""
    if latest_cycle(Folders(workdir).cycles) is None:
        return None
    return featured_week(workdir, config=config, observer=SilentObserver()).cube()


def validated(terminal: Terminal, models: Path, symbols: tuple[str, ...], cube: FeatureCube | None) -> int:
    """Say what the model files of `symbols` are worth and return the exit code of the verdict."""
    verdicts: tuple[ArtifactVerdict, ...] = check_artifacts(models, symbols, cube)
    for verdict in verdicts:
        terminal.say(f"{verdict.symbol:<5} {verdict.state:<8} {verdict.words}")
    code = exit_code_of(verdicts)
    if code is ExitCode.BAD_DATA:
        terminal.note(f"to make missing models: python scripts/local_cpu_training.py --symbols {' '.join(symbols)}")
    return int(code)


def on_cpu(config: CycleConfig) -> CycleConfig:
    """Return `config` with everything computed on this machine's CPU."""
    try:
        return replace(
            config,
            machine=replace(config.machine, device="cpu"),
            remote=replace(config.remote, mode="local"),
        )
    except ValueError as error:
        raise UsageError("settings contradict each other", found=str(error)) from error
