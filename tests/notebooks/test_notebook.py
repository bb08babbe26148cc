"""The Colab notebook as its user runs it, on a drive that is slow and lies, killed in the middle and run again."""

import contextlib
import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import pytest

from vnfleet.core.sealed import verify
from vnfleet.cycle.wheel import notebook_text
from vnfleet.training.engines.local import run_unit
from vnfleet.training.machine.config import MachineConfig

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "colab_training.ipynb"
SECONDS = 120.0


def cells_for(mount: Path, *, lease_seconds: int) -> list[tuple[str, str]]:
    """Return the notebook's cells with another place for the mount and a shorter lease, and nothing else changed."""
    cells = []
    for cell in json.loads(notebook_text())["cells"]:
        text = "".join(cell["source"]).replace("/content/drive", str(mount))
        text = text.replace("all_symbols=True)", f"all_symbols=True, lease_seconds={lease_seconds})")
        cells.append((cell["cell_type"], text))
    return cells


def test_the_notebook_holds_no_logic_and_is_the_one_that_travels() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook_text()
    notebook = json.loads(notebook_text())
    nbformat.validate(notebook)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert not [word for word in ("def ", "for ", "if ", "while ", "try:") if word in code]
    assert not [cell for cell in cells if cell["outputs"]]


@pytest.mark.parametrize("published", [20], indirect=True)
def test_a_session_that_vanishes_is_followed_by_one_that_goes_on(
    published: Any, session: Callable[[str], Any], tmp_path: Path
) -> None:
    first = session("first")
    first.environment["STANDIN_REFUSED"] = "/result/"  # however late the kill comes, no unit is finished by then
    vanish(first, published, seed=3, after=lambda: bool(checkpoints(published)))
    assert published.results() == set()
    said = finish(session("second"), published, seed=4)
    assert re.search(r"[01] of 2 units finished, 0 symbols complete; fold live (select|member) 0", said)
    assert "goes on from" in said
    assert "TrainingState(" in said
    assert_trained_as_here(published, tmp_path / "desktop")


@pytest.mark.prove
@pytest.mark.parametrize("published", [60], indirect=True)
@pytest.mark.parametrize("seed", range(5))
def test_sessions_that_vanish_at_any_moment_lose_nothing(
    seed: int, published: Any, session: Callable[[str], Any], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    for number in range(4):
        until = time.monotonic() + chance.uniform(5.0, 30.0)
        vanish(session(f"s{number}"), published, seed=10 * seed + number, after=partial(is_past, until))
    finish(session("last"), published, seed=10 * seed + 9)
    assert_trained_as_here(published, tmp_path / "desktop")


def is_past(moment: float) -> bool:
    return time.monotonic() > moment


def faults_of(published: Any, seed: int) -> dict[str, str]:
    rates = {"STANDIN_SECONDS": "0.003", "STANDIN_GONE": "0.01", "STANDIN_LOST": "0.02", "STANDIN_SEED": str(seed)}
    return {**rates, "STANDIN_DRIVE": str(published.drive)}


def checkpoints(published: Any) -> list[Path]:
    return list(published.folder.glob("checkpoints/*/stages/*/*/manifest.json"))


def vanish(machine: Any, published: Any, *, seed: int, after: Callable[[], bool]) -> None:
    """Run the notebook and kill the whole machine: the kernel and the worker it started are one process group."""
    machine.environment |= {**faults_of(published, seed), "VNFLEET_IDLE_EXIT_MINUTES": "0.15"}
    notebook = machine.write_notebook(cells_for(machine.root / "mount", lease_seconds=4))
    with machine.start(notebook) as running:
        end = time.monotonic() + SECONDS
        while not (machine.pid_file.exists() and after()) and running.poll() is None:
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(machine.pid_file.read_text(encoding="utf-8")), signal.SIGKILL)
        assert running.wait(timeout=60) in (0, 3)


def finish(machine: Any, published: Any, *, seed: int) -> str:
    machine.environment |= {**faults_of(published, seed), "VNFLEET_IDLE_EXIT_MINUTES": "0.15"}
    notebook = machine.write_notebook(cells_for(machine.root / "mount", lease_seconds=4))
    with machine.start(notebook) as running:
        told, _ = running.communicate(timeout=SECONDS)
    said: str = machine.outputs(notebook)
    assert running.returncode == 0, told + said
    count = len(published.units)
    assert f"{count} of {count} units finished, 24 symbols complete" in said
    return said


def assert_trained_as_here(published: Any, folder: Path) -> None:
    """Every result on the drive is, bit for bit, what this machine makes when nothing interrupts it."""
    assert published.results() == {unit.unit_id for unit in published.units}
    for unit in published.units:
        here = run_unit(unit, published.recipe, published.data, folder, lambda *_: None, MachineConfig())
        there = published.folder / "checkpoints" / unit.unit_id / "result"
        assert verify(there, "unit").files == verify(here, "unit").files


@pytest.fixture(autouse=True)
def _no_processes_left(tmp_path: Path) -> Any:
    yield
    for told in tmp_path.glob("*/kernel.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(told.read_text(encoding="utf-8")), signal.SIGKILL)
