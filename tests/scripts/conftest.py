"""A small market as files, with the symbols that the written plan names, and settings that train in seconds."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from vnfleet.cycle.weekly import last_close
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
PLAN = ("HPG", "VCB", "FPT", "MWG", "SAB", "MSN", "VNM", "VJC")
NUM_SYMBOLS = 34
SETTINGS = """\
[source]
kind = "files"
path = "{prices}"
unit = "vnd"

[universe]
models = 30
window_sessions = 120
pinned = {pinned}

[folds]
newest = 1
min_train_sessions = 250
train_sessions = 320

[model]
d_model = 8
num_heads = 1
num_layers = 1
d_ff = 16
band_sessions = 15
window_sessions = 15

[training]
num_seeds = 1
patience_epochs = 1
learning_rate = 0.05
valid_sessions = 60
delta_penalties = [1.0]
{epochs}

[machine]
processes = 1
num_threads = 1

[remote]
remote = "{remote}"
grace_minutes = 1
poll_seconds = 0.5
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A folder that scripts run in, as the plan's user would."""

    folder: Path
    prices: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def remote(self) -> Path:
        return self.folder.parent / "drive" / "VN-Quant-Training"

    def settings(self, *, epochs: int | None = None, remote: bool = True) -> None:
        """Write vnfleet.toml; `epochs` None leaves the plan's."""
        text = SETTINGS.format(
            prices=self.prices,
            pinned=list(PLAN),
            remote=self.remote if remote else "",
            epochs="" if epochs is None else f"max_epochs = {epochs}\ndelta_epochs = 1",
        )
        (self.folder / "vnfleet.toml").write_text(text, encoding="utf-8")

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        settings = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "PYTHONPATH": str(SCRIPTS)}
        environment = {name: text for name, text in os.environ.items() if not name.startswith("VNFLEET_")}
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env={**environment, **settings, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as running:
            out, err = running.communicate(timeout=300)
        return subprocess.CompletedProcess(words, running.returncode, out, err)

    def script(self, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.run(SCRIPTS / name, *flags)


@pytest.fixture(scope="session")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two years and more of a market that never existed, up to the last close, and return the file."""
    as_of = last_close(datetime.now(UTC))
    market = SimulatedMarket(
        num_symbols=NUM_SYMBOLS,
        start=as_of - timedelta(days=860),
        signal_rank_ic=0.3,
        late_listing_frac=0.0,
        illiquid_frac=0.0,
        suspensions_per_year=0.0,
    )
    history = SimulatedSource(market).fetch(None, as_of)
    renamed = dict(zip(market.symbols, PLAN, strict=False))
    path = tmp_path_factory.mktemp("market") / "prices.csv"
    bars = history.bars.select(
        pl.col("symbol").replace(renamed),
        pl.col("session").alias("date"),
        *(pl.col(f"{name}_vnd").alias(name) for name in ("open", "high", "low", "close")),
        pl.col("volume_shares").cast(pl.Float64).alias("volume"),
        pl.col("adjusted_close_vnd").alias("adj_close"),
    )
    points = pl.col("close_points")
    index = history.index.select(
        pl.lit("VNINDEX").alias("symbol"),
        pl.col("session").alias("date"),
        *(points.alias(name) for name in ("open", "high", "low", "close")),
        pl.lit(1e6).alias("volume"),
        points.alias("adj_close"),
    )
    pl.concat([bars, index]).write_csv(path)
    return path


@pytest.fixture(scope="session")
def collected(prices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory whose prices were collected and whose features are built; not to be changed."""
    folder = tmp_path_factory.mktemp("collected") / "desk"
    folder.mkdir()
    desk = Desk(folder=folder, prices=prices)
    desk.settings()
    done = desk.run("-m", "vnfleet.cli", "features", "--workdir", ".")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def desk(collected: Path, prices: Path, tmp_path: Path) -> Desk:
    """A copy of the collected work directory that a test may change."""
    folder = tmp_path / "desk"
    shutil.copytree(collected, folder)
    found = Desk(folder=folder, prices=prices)
    found.remote.mkdir(parents=True)
    found.settings()
    return found


@pytest.fixture
def empty_desk(prices: Path, tmp_path: Path) -> Desk:
    """A folder with settings and nothing else."""
    folder = tmp_path / "empty"
    folder.mkdir()
    found = Desk(folder=folder, prices=prices)
    found.remote.mkdir(parents=True)
    found.settings()
    return found
