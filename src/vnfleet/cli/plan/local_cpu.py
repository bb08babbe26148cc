"""``scripts/local_cpu_training.py``: models of a few symbols on this CPU, the written plan's way."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vnfleet.cli.options import parsed_date, settings_of
from vnfleet.cli.plan.running import (
    PLAN_SYMBOLS,
    collected_features,
    on_cpu,
    parser_of,
    run_script,
    symbols_of,
    validated,
)
from vnfleet.cli.terminal import Terminal, watching
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.cycle.artifact_check import measure_inference
from vnfleet.cycle.config import CycleConfig, preset_config
from vnfleet.cycle.own_models import featured_week, refuse_unknown, train_own_models
from vnfleet.cycle.workdir import Folders
from vnfleet.features.cube import FeatureCube

EPOCHS, BATCH_SIZE, ACCUMULATION = 50, 4, 8  # the plan's recipe for a CPU
_EXAMPLE = "python scripts/local_cpu_training.py --symbols FPT VCB HPG --epochs 50 --batch-size 4"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code.

    0 done; 2 a flag or setting means nothing; 3 bad data, or with ``--validate-only`` a model file that must not be
    used; 4 with ``--validate-only``: whole, but not above the plan's accuracy.
    """
    parser = parser_of(
        "Train models of a few symbols on this CPU, each on its own history (no GPU, no drive).", _EXAMPLE
    )
    parser.add_argument("--epochs", type=int, help=f"at most so many; early stopping may end sooner (default {EPOCHS})")
    parser.add_argument(
        "--batch-size",
        type=int,
        help=f"windows of 60 sessions in a batch of one model (default {BATCH_SIZE}, {ACCUMULATION} batches a step)",
    )
    parser.add_argument("--validate-only", action="store_true", help="train nothing, judge the files in models/")
    parser.add_argument(
        "--optimize-inference", action="store_true", help="measure the fastest way to forecast here, and keep to it"
    )
    return run_script(parser, arguments, _run)


def _run(terminal: Terminal, given: argparse.Namespace, workdir: Path) -> int:
    symbols = symbols_of(given.symbols) or PLAN_SYMBOLS
    folders = Folders(workdir)
    if given.validate_only:
        useless = {"--epochs": given.epochs, "--batch-size": given.batch_size, "--as-of": given.as_of}
        for flag, value in useless.items():
            if value is not None:
                raise UsageError(f"{flag} has no effect with --validate-only", fix=f"leave {flag} out")
        cube = collected_features(workdir, cpu_config(workdir, given.config))
        code = validated(terminal, folders.models, symbols, cube)
        if given.optimize_inference:
            _optimise(terminal, folders, symbols, cube)
        return code
    config = cpu_config(workdir, given.config, epochs=given.epochs, batch_size=given.batch_size)
    with watching(terminal) as observer:
        week = featured_week(workdir, config=config, as_of=parsed_date(given.as_of), observer=observer)
        refuse_unknown(symbols, week.cube().symbols)
        paths = train_own_models(week, symbols)
    terminal.say(f"{len(paths)} models in {folders.models}, prices to {week.as_of}")
    validated(terminal, folders.models, symbols, week.cube())
    if given.optimize_inference:
        _optimise(terminal, folders, symbols, week.cube())
    return 0


def cpu_config(
    workdir: Path, file: Path | None = None, *, epochs: int | None = None, batch_size: int | None = None
) -> CycleConfig:
    """Return the plan's recipe for a CPU with the settings of `workdir` over it, and models of single symbols always.

    Only there a batch is a number of windows and an epoch is one pass over a symbol's history.
    """
    plan = preset_config("plan")
    training = replace(plan.training, max_epochs=EPOCHS, chunk_sessions=BATCH_SIZE, accumulation=ACCUMULATION)
    overrides: dict[str, dict[str, object | None]] = {
        "model": {"attention": "window"},
        "training": {"strategy": "separate", "max_epochs": epochs, "chunk_sessions": batch_size},
    }
    return on_cpu(settings_of(workdir, file, overrides, base=replace(plan, training=training)))


def _optimise(terminal: Terminal, folders: Folders, symbols: Sequence[str], cube: FeatureCube | None) -> None:
    if cube is None:
        raise BadDataError("there are no prices here to measure forecasts on", fix="vnfleet collect")
    choice = measure_inference(folders, symbols, cube)
    for figure in choice.figures:
        terminal.say(f"{figure.path:<10} {figure.seconds_per_set * 1e3:.1f} ms for the newest session")
    terminal.say(f"forecasts are computed with {choice.path} from now on ({folders.configs / 'inference.json'})")
