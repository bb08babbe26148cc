"""``scripts/hybrid_training_orchestrator.py``: one run of the written plan's workflow, wherever it trains."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vnfleet.cli.options import parsed_date, settings_of
from vnfleet.cli.plan.running import (
    collected_features,
    on_cpu,
    parser_of,
    run_script,
    symbols_of,
    validated,
    workdir_of,
)
from vnfleet.cli.terminal import Terminal
from vnfleet.cli.week import run_week
from vnfleet.core.errors import BadDataError, ExitCode, UsageError
from vnfleet.core.sealed import Manifest
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.drive import name_on_remote, upload_package
from vnfleet.cycle.weekly import Week
from vnfleet.cycle.wheel import NOTEBOOK_NAME
from vnfleet.cycle.workdir import Folders
from vnfleet.data.package import Package
from vnfleet.model.artifact import ARTIFACT_SUFFIX
from vnfleet.remote.opening import open_remote

MODES = ("local_cpu", "colab_gpu", "hybrid", "validation")
_EXAMPLE = "python scripts/hybrid_training_orchestrator.py --mode hybrid --symbols HPG VCB FPT MWG SAB MSN VNM VJC"


class ColabTrainingOrchestrator:
    """The written plan's orchestrator: what goes to the drive, and what is trained through it.

    workdir : None: VNFLEET_WORKDIR or the current folder. config : None: the settings that hold there.
    """

    def __init__(self, workdir: Path | None = None, *, config: CycleConfig | None = None) -> None:
        self.workdir = workdir_of(workdir)
        self.config = config or settings_of(self.workdir)

    def upload_data_to_drive(self, package: Package | Path | str, path: str) -> Manifest:
        """Send a training package to `path` on the configured remote; return its manifest as it lies there, verified.

        The plan's ``VN-Quant-Training/data`` is ``data`` below ``[remote] remote = "gdrive:VN-Quant-Training"``.

        Raises `UsageError` without a configured remote, `BadDataError` for a damaged package, `RemoteError` when the
        remote refuses.
        """
        remote = self.remote
        folder = package.folder if isinstance(package, Package) else Path(package)
        transfer = open_remote(remote, bandwidth_limit=self.config.remote.bandwidth_limit)
        return upload_package(folder, transfer, name_on_remote(remote, path))

    @property
    def remote(self) -> str:
        """The configured remote; raises `UsageError` when there is none."""
        if not self.config.remote.remote:
            raise UsageError(
                "no remote is configured",
                expected="the shared folder that workers see too",
                fix='remote = "gdrive:VN-Quant-Training" under [remote] in vnfleet.toml, then vnfleet remote init',
            )
        return self.config.remote.remote


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code: those of `vnfleet cycle`, for ``validation`` 3 (bad) and 4 (flagged)."""
    parser = parser_of("Collect, train here or through the shared drive, validate, back-test and deploy.", _EXAMPLE)
    parser.add_argument(
        "--mode",
        choices=MODES,
        required=True,
        help="local_cpu: the week on this CPU; colab_gpu: up to models/, trained by workers; hybrid: the whole week, "
        "trained by workers; validation: train nothing, judge the files in models/",
    )
    parser.add_argument("--schedule", choices=("immediate",), default="immediate", help="when: now")
    return run_script(parser, arguments, _run)


def _run(terminal: Terminal, given: argparse.Namespace, workdir: Path) -> int:
    symbols = symbols_of(given.symbols)
    if given.mode == "validation":
        if given.as_of is not None:
            raise UsageError("--as-of has no effect with --mode validation", fix="leave --as-of out")
        models = Folders(workdir).models
        chosen = symbols or _files_in(models)
        return validated(terminal, models, chosen, collected_features(workdir, settings_of(workdir, given.config)))
    config = _config(workdir, given)
    if given.mode != "local_cpu":
        terminal.say(
            f"trained through {config.remote.remote}: on Colab open {NOTEBOOK_NAME} there and run all, elsewhere "
            f"vnfleet worker --remote {config.remote.remote}; what no worker takes is trained here"
        )
    week = run_week(
        terminal,
        config,
        as_of=parsed_date(given.as_of),
        symbols=symbols,
        last_step="train" if given.mode == "colab_gpu" else "report",
    )
    return _told(terminal, week)


def _config(workdir: Path, given: argparse.Namespace) -> CycleConfig:
    config = settings_of(workdir, given.config)
    if given.mode == "local_cpu":
        return on_cpu(config)
    remote = ColabTrainingOrchestrator(workdir, config=config).remote
    return replace(config, remote=replace(config.remote, mode="hybrid", remote=remote))


def _files_in(models: Path) -> tuple[str, ...]:
    found = sorted(path.name.removesuffix(ARTIFACT_SUFFIX) for path in models.glob(f"*{ARTIFACT_SUFFIX}"))
    if not found:
        raise BadDataError("there are no models to validate", where=models, fix="train first: --mode hybrid")
    return tuple(found)


def _told(terminal: Terminal, week: Week) -> int:
    for step in week.steps:
        terminal.say(f"{step.name:<9} {step.summary}")
    if week.decision is None:
        if week.partial:
            terminal.say("a run on chosen symbols ends before the gate: the deployed set is as it was")
        return int(ExitCode.OK)
    for line in week.decision.lines():
        terminal.say(line)
    return int(ExitCode.OK if week.decision.deploys else ExitCode.GATE_KEPT)
