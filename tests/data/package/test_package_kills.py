"""kill -9 at every disk operation of packing, making an increment and applying it: nothing half-written counts."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vnfleet.data.package import write_update

KILL_SCRIPT = Path(__file__).parent / "kill_while_packing.py"


ACTIONS = ["pack", "increment", "apply"]


def kills(sample: Any, pack: Any, folder: Path, action: str, stride: int) -> int:
    """Run the killer on a package of one symbol; return how often it killed."""
    base = pack(folder / "p", sample(1, 30, ["AAA"]))
    new = pack(folder / "p", sample(1, 35, ["AAA"]))
    step = write_update(base, new, folder / "u")
    assert step is not None
    shutil.copytree(base.folder, folder / "old")
    shutil.copytree(new.folder, folder / "new")
    shutil.copytree(step.folder, folder / "step")
    done = subprocess.run(
        [sys.executable, KILL_SCRIPT, action, folder, str(stride)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_kill_while_packing_leaves_whole_packages_only(sample: Any, pack: Any, tmp_path: Path, action: str) -> None:
    assert kills(sample, pack, tmp_path, action, stride=5) >= 4


@pytest.mark.prove
@pytest.mark.parametrize("action", ACTIONS)
def test_a_kill_at_every_disk_operation_of_packing_leaves_whole_packages_only(
    sample: Any, pack: Any, tmp_path: Path, action: str
) -> None:
    assert kills(sample, pack, tmp_path, action, stride=1) >= 20
