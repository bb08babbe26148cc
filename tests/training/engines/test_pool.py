"""The pool trains what this process trains, to the bit, whatever happens to its children."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vnfleet.core.errors import BadDataError, BusyError, ExitCode
from vnfleet.core.lock import holding
from vnfleet.training.engines.job import AGAIN_STAGE, DONE_STAGE
from vnfleet.training.engines.pool import run_units

if TYPE_CHECKING:
    from tests.training.engines.conftest import Diary, Scene

pytestmark = pytest.mark.xdist_group("engines")  # the scene is trained once
linux_only = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to find child processes")


def children_of(parent: int) -> list[int]:
    """Return the processes below `parent`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rsplit(")", 1)[1].split()
            if int(words[1]) == parent and words[0] != "Z":
                found.append(int(path.parent.name))
    return found


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 20.0
    while any(is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [process for process in processes if is_alive(process)]


def pool_children() -> list[int]:
    """Return the pool's processes among this process's children; other tests may have left helpers of libraries."""
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children_of(os.getpid())}
    return [child for child, command in commands.items() if b"pool_process" in command]


class Killer:
    """Passes on what is told and kills the pool's processes at some step of a stage, at most `times` times."""

    def __init__(self, diary: Diary, stage: str, step: int, times: int) -> None:
        self.diary, self.stage, self.step, self.times = diary, stage, step, times
        self.cores: set[int] = set()

    def __call__(self, unit_id: str, stage: str, done: int, total: int, note: str, /) -> None:
        self.diary(unit_id, stage, done, total, note)
        if self.times and stage == self.stage and self.step <= done < total:
            self.times -= 1
            for child in pool_children():
                self.cores |= os.sched_getaffinity(child)
                os.kill(child, signal.SIGKILL)


@linux_only
def test_the_pool_trains_the_same_weights_though_a_process_is_killed(
    scene: Scene, tmp_path: Path, diary: Diary
) -> None:
    killer = Killer(diary, "backbone", 5, 1)
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    run_units(scene.units, dataclasses.replace(scene.job(tmp_path), cores_by_process=((first,), (last,))), killer)
    assert killer.cores == {first}, "the only process at work was not kept on its core"
    assert scene.weights(tmp_path) == scene.expected
    assert killer.times == 0, "everything was over before the kill"
    assert "SIGKILL" in diary.notes(AGAIN_STAGE)[0]
    order = [unit_id for unit_id, stage, *_ in diary.entries if stage == DONE_STAGE]
    assert order[0] == scene.units[0].unit_id
    assert sorted(order) == sorted(unit.unit_id for unit in scene.units)
    diary.entries.clear()
    run_units(scene.units, scene.job(tmp_path), diary)
    assert diary.notes(DONE_STAGE) == ["reused"] * 3
    assert not pool_children()


def test_an_error_in_a_child_keeps_its_class_and_words(scene: Scene, tmp_path: Path, diary: Diary) -> None:
    unit = scene.units[0]
    with (
        holding(tmp_path / unit.unit_id / "unit.lock", "training elsewhere"),
        pytest.raises(BusyError, match="training elsewhere") as busy,
    ):
        run_units([unit], scene.job(tmp_path), diary)
    assert busy.value.exit_code == ExitCode.BUSY
    assert "next: wait for it" in str(busy.value)


def test_damaged_data_are_refused_by_name(scene: Scene, tmp_path: Path, diary: Diary) -> None:
    package = tmp_path / "package"
    shutil.copytree(scene.package, package)
    with (package / "present_ST.npy").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\x07")
    job = dataclasses.replace(scene.job(tmp_path / "units"), package=package)
    with pytest.raises(BadDataError, match="present_ST"):
        run_units(scene.units, job, diary)


@linux_only
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_their_parent_and_their_work_is_kept(
    scene: Scene, tmp_path: Path, how: signal.Signals
) -> None:
    (tmp_path / "package").symlink_to(scene.package)
    (tmp_path / "recipe.json").write_text(scene.recipe.to_json())
    (tmp_path / "unit-0.json").write_text(scene.units[0].model_dump_json())
    script = Path(__file__).with_name("run_pool.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as pool:
        assert pool.stdout is not None
        assert pool.stderr is not None
        pool.stdout.readline()
        children = children_of(pool.pid)
        # Ctrl-C goes to the whole group, as a terminal sends it; kill -9 to the parent alone
        os.kill(-pool.pid if how == signal.SIGINT else pool.pid, how)
        pool.wait(20)
        errors = pool.stderr.read()
    assert children
    wait_until_gone(children)
    if how == signal.SIGINT:
        assert errors.count("KeyboardInterrupt") == 1, errors
