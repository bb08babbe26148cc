"""Kill a process with -9 at one disk operation after the other while it packs, and look at the disk each time.

Run by test_package_kills.py: `kill_while_packing.py pack|increment|apply FOLDER STRIDE`, where FOLDER holds the
packages `old` and `new` and the increment `step`, and STRIDE is how many operations lie between two kills. The process
that forks never touches polars, whose threads would not survive it. Prints the number of kills; the child after the
last one came through.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from vnfleet.data.package import (
    CubeIdentity,
    apply_update,
    open_package,
    open_update,
    read_package,
    write_package,
    write_update,
)

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def arm(step: int) -> None:
    steps = count(1)

    def audit(event: str, args: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if (event in CHANGES or writes) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def act(action: str, folder: Path, run: Path, before: Callable[[], None] = lambda: None) -> None:
    """Do what is killed; `before` is called when everything needed is in memory."""
    if action == "pack":
        found = read_package(folder / "new")
        facts = found.package.facts
        cube = CubeIdentity(cube_id=facts.cube_id, features_sha256=facts.features_sha256)
        before()
        write_package(found.panel, found.events, run, source=facts.source, known_at=facts.known_at, cube=cube)
    elif action == "increment":
        old, new = open_package(folder / "old"), open_package(folder / "new")
        before()
        write_update(old, new, run)
    else:
        before()
        apply_update(run / "old", folder / "step")


def look(action: str, folder: Path, run: Path) -> None:
    """What a kill left is whole or does not count, doing it again completes it, and nothing unfinished stays."""
    expected = open_package(folder / "new").package_id
    target = run / expected
    if target.exists():
        check(action, target)
    act(action, folder, run)
    check(action, target)
    assert not list(run.glob(".*.tmp-*")), "something unfinished stayed"
    if action == "apply":
        read_package(run / "old")


def check(action: str, target: Path) -> None:
    if action == "increment":
        open_update(target)
    else:
        assert read_package(target).package.package_id == target.name


def in_a_child(work: Callable[[], None]) -> bool:
    """Return whether the child that did `work` was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}, f"the child failed with {code}"
    return code != 0


def main(action: str, folder: Path, stride: int) -> None:
    run = folder / f"run-{action}"
    for kills, step in enumerate(count(1, stride)):
        run.mkdir()
        if action == "apply":
            shutil.copytree(folder / "old", run / "old")
        died = in_a_child(lambda step=step: act(action, folder, run, lambda: arm(step)))  # type: ignore[misc]
        assert not in_a_child(lambda: look(action, folder, run))
        shutil.rmtree(run)
        if not died:
            sys.stdout.write(f"{kills}\n")
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
