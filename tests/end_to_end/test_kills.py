"""kill -9 anywhere, run again: the same weights, and never a mixed release."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vnfleet.cycle.weekly import Week
from vnfleet.releases.deploy import current_release
from vnfleet.releases.registry import list_releases

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Factory

pytestmark = [
    pytest.mark.xdist_group("kills"),  # by themselves: the longest of all
    pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a POSIX signal"),
]
DIE = "import os, signal\ndef die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)\n"
KILLS_IN_DEPLOY = {
    "while files are copied": (
        "import vnfleet.releases.registry as r, shutil\ncopies = []\ncopy = shutil.copyfile\n"
        "def some(a, b, **k):\n    copies.append(a)\n    die() if len(copies) == 7 else copy(a, b, **k)\n"
        "r.shutil.copyfile = some\n"
    ),
    "before the pointer moves": "import vnfleet.cycle.steps.releasing as r\nr.make_current = die\n",
    "after the pointer moved": "import vnfleet.cycle.steps.releasing as r\nr.prune = die\n",
}


def weights(week: Week) -> str:
    return next(step.text("weights_sha256") for step in week.steps if step.name == "train")


def _any(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "the moment to kill never came"
        time.sleep(0.01)


def test_when_training_is_killed_twice_the_weights_are_those_of_an_unbroken_run(
    finished: tuple[Factory, Week], new_factory: Factory
) -> None:
    checkpoints = new_factory.workdir / "checkpoints"
    stages = ("*/backbone/*", "*/deltas-*/*")
    for stage in stages:
        process = new_factory.start()
        wait_for(partial(_any, checkpoints, stage), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (new_factory.workdir / "models_prod" / "current").exists()
    week = new_factory.run()
    assert weights(week) == weights(finished[1])
    assert week.current_release_id == finished[1].current_release_id


@pytest.mark.parametrize("moment", KILLS_IN_DEPLOY)
def test_when_the_deploy_is_killed_the_set_is_the_old_one_or_the_new_one(
    moment: str, finished: tuple[Factory, Week], factory: Factory
) -> None:
    unbroken = finished[0].deployed()
    shutil.rmtree(factory.workdir / "models_prod")
    for step in ("deploy", "predict", "report"):
        shutil.rmtree(factory.workdir / "logs" / "cycles" / "2023-W10" / step)
    process = factory.start(before=DIE + KILLS_IN_DEPLOY[moment])
    said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, said
    models_prod = factory.workdir / "models_prod"
    now = current_release(models_prod)
    whole = [release.release_id for release in list_releases(models_prod, verified=True)]
    assert now is None or now.release_id in whole
    week = factory.run()
    assert week.current_release_id == finished[1].current_release_id
    after = factory.deployed()
    pointer = ("current",)
    assert {name: sha for name, sha in after.items() if name not in pointer} == {
        name: sha for name, sha in unbroken.items() if name not in pointer
    }


def test_while_one_week_runs_a_second_is_told_to_wait_and_ctrl_c_ends_in_one_line(new_factory: Factory) -> None:
    process = new_factory.start()
    try:
        wait_for((new_factory.workdir / "logs" / "cycles" / "2023-W10" / "collect").is_dir, process)
        second = new_factory.start("--json")
        out, err = second.communicate(timeout=60)
        assert second.returncode == 5, err
        assert "at work here" in json.loads(out)["error"]
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "run the same command again" in said[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux to give the worker one thread")
def test_a_worker_in_another_process_trains_the_same_weights(
    finished: tuple[Factory, Week], new_factory: Factory, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    same_threads = "import os, sys\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"  # bit-equal needs it
    code = f"{same_threads}from vnfleet.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    where = ["--remote", str(remote), "--workdir", str(tmp_path / "worker")]
    worker = subprocess.Popen(
        [sys.executable, "-c", code, "worker", *where, "--poll-seconds", "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    environ = {"VNFLEET_REMOTE__POLL_SECONDS": "0.5"}
    try:
        before = "import os\n" + "".join(f"os.environ[{name!r}] = {value!r}\n" for name, value in environ.items())
        process = new_factory.start("--mode", "hybrid", "--remote", str(remote), "--json", before=before)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    finally:
        worker.send_signal(signal.SIGINT)
        said = worker.communicate(timeout=60)
    steps = {step["step"]: step for step in json.loads(out)["steps"]}
    assert "4 of 4 from the remote" in steps["train"]["summary"], (steps["train"], said)
    assert steps["train"]["facts"]["weights_sha256"] == weights(finished[1])
    assert json.loads(out)["as_of"] == new_factory.first_week.isoformat()


@pytest.mark.prove
@pytest.mark.parametrize("kills", [6, pytest.param(30, marks=pytest.mark.prove)])
def test_when_the_week_is_killed_at_random_moments_it_ends_as_if_it_never_was(
    kills: int, finished: tuple[Factory, Week], new_factory: Factory
) -> None:
    moments = random.Random(20260101)
    for _ in range(kills):
        process = new_factory.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moments.uniform(0.5, 12.0))
        process.kill()
        process.communicate()
        whole = [release.release_id for release in list_releases(new_factory.workdir / "models_prod", verified=True)]
        now = current_release(new_factory.workdir / "models_prod")
        assert now is None or now.release_id in whole
    week = new_factory.run()
    assert weights(week) == weights(finished[1])
    assert week.current_release_id == finished[1].current_release_id
