"""One tiny week, run once for all tests of this folder; each test works on its own copy."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from vnfleet.core.clock import FixedClock
from vnfleet.cycle.config import CycleConfig, FoldsConfig, SourceConfig, UniverseConfig
from vnfleet.cycle.weekly import Week, run_cycle
from vnfleet.data.sources.simulated import SimulatedMarket
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.releases.gate import GateLimits
from vnfleet.settings import write_resolved
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import TrainingConfig

MODELS = 30


def tiny_config() -> CycleConfig:
    """36 simulated symbols, one judged year, one seed, a network that trains in seconds."""
    return CycleConfig(
        source=SourceConfig(kind="simulated"),
        simulated=SimulatedMarket(
            num_symbols=36,
            start=date(2020, 1, 2),
            signal_rank_ic=0.3,
            late_listing_frac=0.0,
            illiquid_frac=0.0,
            suspensions_per_year=0.0,
        ),
        universe=UniverseConfig(models=MODELS, window_sessions=120),
        folds=FoldsConfig(years=(2022,), min_train_sessions=250),
        model=StockformerConfig(d_model=16, num_heads=2, num_layers=1, d_ff=32, band_sessions=15),
        training=TrainingConfig(num_seeds=1, max_epochs=2, valid_sessions=60, delta_penalties=(1.0,), delta_epochs=1),
        machine=MachineConfig(processes=1, num_threads=1, checkpoint_frac=0.25),
        gate=GateLimits(min_sessions=100, significance=0.2, prior_trials=0, min_deflated_sharpe=0.5),
    )


@dataclass(frozen=True, slots=True)
class Factory:
    """A work directory of the tiny factory, and its settings as a file for the command line."""

    workdir: Path
    settings: Path
    config: CycleConfig
    first_week: date = date(2023, 3, 10)
    next_week: date = date(2023, 3, 17)
    models: int = MODELS

    def run(
        self, as_of: date | None = None, *, config: CycleConfig | None = None, symbols: tuple[str, ...] = ()
    ) -> Week:
        """Run the week in this process, on the Saturday after it."""
        day = as_of or self.first_week
        clock = FixedClock(datetime(day.year, day.month, day.day, 2, tzinfo=UTC) + timedelta(days=1))
        return run_cycle(config or self.config, workdir=self.workdir, as_of=day, symbols=symbols, clock=clock)

    def arguments(self, command: str, *more: str) -> list[str]:
        """Return the command line that does the same."""
        named = ["--config", str(self.settings), "--workdir", str(self.workdir), "--as-of", self.first_week.isoformat()]
        return [command, *named, *more]

    def start(self, *more: str, before: str = "") -> subprocess.Popen[str]:
        """Start the week in another process; `before` is Python that runs there first."""
        code = f"import sys\n{before}\nfrom vnfleet.cli.main import main\nsys.exit(main(sys.argv[1:]))"
        return subprocess.Popen(
            [sys.executable, "-c", code, *self.arguments("cycle", *more)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def deployed(self) -> dict[str, str]:
        """Return the SHA-256 of every file of the deployed set."""
        return self.files("models_prod")

    def files(self, name: str) -> dict[str, str]:
        """Return the SHA-256 of every file below the folder `name`; locks and their holders are not content."""
        folder = self.workdir / name
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".lock")
        }


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_resolved(tiny_config(), tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, settings_file: Path) -> tuple[Factory, Week]:
    """A factory whose first week is done, not to be changed by any test."""
    factory = Factory(tmp_path_factory.mktemp("finished"), settings_file, tiny_config())
    return factory, factory.run()


@pytest.fixture
def factory(finished: tuple[Factory, Week], tmp_path: Path) -> Factory:
    """A copy of the finished factory that a test may change."""
    workdir = tmp_path / "work"
    shutil.copytree(finished[0].workdir, workdir)
    return Factory(workdir, finished[0].settings, tiny_config())


@pytest.fixture
def new_factory(tmp_path: Path, settings_file: Path) -> Factory:
    """A factory that has done nothing yet."""
    return Factory(tmp_path / "new", settings_file, tiny_config())
