"""A Colab session in a box: an empty environment, a stand-in for google.colab, and a drive with a published job."""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from vnfleet.cycle.local_engine import training_job
from vnfleet.cycle.wheel import build_wheel, setup_script
from vnfleet.evaluation.splits import Fold
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import JobRecord, Mailbox
from vnfleet.training.dataset import TrainingData, save_training_data
from vnfleet.training.plan import WorkUnit, plan_units
from vnfleet.training.recipe import ObjectiveConfig, Recipe, TrainingConfig

HERE = Path(__file__).parent
NAME = "VN-Quant-Training"
EPOCHS = 6


@pytest.fixture
def empty_python(tmp_path: Path) -> Path:
    """Return the Python of an environment without vnfleet that needs no download: its libraries are those here."""
    folder = tmp_path / "session"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return folder / "bin" / "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A shared folder as `vnfleet remote init` and a published job leave it, and what the desktop would train."""

    drive: Path
    job: JobRecord
    data: TrainingData
    recipe: Recipe
    units: tuple[WorkUnit, ...]

    @property
    def folder(self) -> Path:
        return self.drive / NAME

    def results(self) -> set[str]:
        return {path.parents[1].name for path in self.folder.glob("checkpoints/*/result/manifest.json")}


@dataclass(slots=True, kw_only=True)
class Session:
    """A machine that comes and goes; `run` starts its notebook and returns the process."""

    python: Path
    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write_notebook(self, cells: list[tuple[str, str]]) -> Path:
        path = self.root / "notebook.ipynb"
        made: list[dict[str, object]] = [
            {"cell_type": kind, "id": f"cell{place}", "metadata": {}, "source": text}
            | ({"execution_count": None, "outputs": []} if kind == "code" else {})
            for place, (kind, text) in enumerate(cells)
        ]
        path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        return path

    def start(self, notebook: Path) -> subprocess.Popen[str]:
        kernels = self.root / "jupyter" / "kernels" / "session"
        kernels.mkdir(parents=True, exist_ok=True)
        command = [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": command, "display_name": "session", "language": "python"}
        (kernels / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        folder = self.root / "content"
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "JUPYTER_PATH": str(self.root / "jupyter")}
        environment |= {"PYTHONPATH": str(HERE / "standins"), "IPYTHONDIR": str(self.root / "ipython")}
        return subprocess.Popen(
            [sys.executable, HERE / "run_notebook.py", notebook, "session", folder, self.pid_file],
            env={**environment, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def pid_file(self) -> Path:
        return self.root / "kernel.pid"

    def outputs(self, notebook: Path) -> str:
        """Return all that the cells printed or returned."""
        told = []
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                told.append("".join(output.get("text", "") or output.get("data", {}).get("text/plain", "")))
                told += output.get("traceback", [])
        return "\n".join(told)


@pytest.fixture
def session(empty_python: Path, tmp_path: Path) -> Callable[[str], Session]:
    """Return a maker of sessions: each a new machine with the same drive."""

    def make(name: str) -> Session:
        root = tmp_path / name
        root.mkdir()
        return Session(
            python=empty_python,
            root=root,
            environment={"VNFLEET_WORKDIR": str(root / "work"), "VNFLEET_IDLE_EXIT_MINUTES": "0"},
        )

    return make


@pytest.fixture
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Published:
    epochs = getattr(request, "param", EPOCHS)
    generator = np.random.default_rng(7)
    num_symbols, num_sessions, num_features = 24, 160, 4
    returns_HST = generator.normal(0.0, 0.02, (5, num_symbols, num_sessions)).astype(np.float32)
    for horizon in range(5):
        returns_HST[horizon, :, num_sessions - horizon - 1 :] = np.nan
    data = TrainingData(
        tuple(date(2022, 1, 3) + timedelta(days=day) for day in range(num_sessions)),
        tuple(f"S{number:02d}" for number in range(num_symbols)),
        tuple(f"feature_{number}" for number in range(num_features)),
        generator.standard_normal((num_symbols, num_sessions, num_features)).astype(np.float32),
        np.ones((num_symbols, num_sessions), dtype=bool),
        returns_HST,
    )
    recipe = Recipe(
        StockformerConfig(num_features=4, d_model=8, num_heads=2, d_ff=16, band_sessions=4, num_layers=1),
        TrainingConfig(
            num_seeds=1, max_epochs=epochs, chunk_sessions=16, delta_epochs=1, delta_penalties=(0.1,), valid_sessions=30
        ),
        ObjectiveConfig(min_labels_per_session=20),
    )
    fold = Fold(
        fold_id="live",
        train=range(90),
        valid=range(95, 125),
        refit=range(125),
        test=range(159, 160),
        universe=data.symbols,
    )
    units = plan_units(recipe, data, (fold,))
    save_training_data(tmp_path / "package", data)
    job = training_job(recipe, (fold,), units, tmp_path / "package")
    drive = tmp_path / "drive"
    folder = drive / NAME
    folder.mkdir(parents=True)
    Mailbox(FolderTransfer(folder)).publish(job, tmp_path / "package")
    wheel = build_wheel(folder)
    pinned = setup_script(wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest())
    (folder / "colab_training_setup.py").write_text(pinned, encoding="utf-8")
    return Published(drive=drive, job=job, data=data, recipe=recipe, units=units)
