"""Kill a process at its 1st, 2nd, 3rd ... step while it changes releases, and look at the disk each time.

Run by test_deploy.py in a process of its own (forking is only safe there):
`kill_at_every_line.py deploy|rollback|build|prune disk|line FOLDER`. A step is a disk operation about to happen
("disk") or a line of vnfleet code ("line"). Prints the number of kills; the child after the last one came through.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from types import FrameType

from vnfleet.core import sealed
from vnfleet.core.clock import FixedClock
from vnfleet.releases.deploy import current_release, deploy, newest_verified_release, prune, rollback
from vnfleet.releases.registry import ReleaseContents, build_release, list_releases

CLOCK = FixedClock(datetime(2026, 11, 15, 20, 0, tzinfo=UTC))
SYMBOLS = ("AAA", "BBB")
PACKAGE = str(Path(sealed.__file__).parent.parent)
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def build(root: Path, text: str) -> str:
    source = root / f"trained-{text}"
    source.mkdir(exist_ok=True)
    artifacts = {symbol: source / symbol for symbol in SYMBOLS}
    for symbol, path in artifacts.items():
        path.write_text(f"{symbol} {text}", encoding="utf-8")
    contents = ReleaseContents(artifacts=artifacts, serving=dict.fromkeys(SYMBOLS, "pooled"))
    return build_release(root / "prod", date(2026, 11, 13), contents)


def kill_at(step: int) -> Callable[[], None]:
    """Return what to call at every step: it kills this process at the given one, counted from 1."""
    steps = count(1)

    def tick() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return tick


def arm(unit: str, step: int) -> None:
    tick = kill_at(step)

    def trace(frame: FrameType, event: str, _arg: object) -> object:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            tick()
        return trace

    def audit(event: str, args: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if event in CHANGES or writes:
            tick()

    if unit == "line":
        sys.settrace(trace)  # type: ignore[arg-type]
    else:
        sys.addaudithook(audit)


def act(action: str, prod: Path, ids: list[str]) -> None:
    if action == "deploy":
        deploy(prod, ids[2], clock=CLOCK, expected_symbols=SYMBOLS)
    elif action == "rollback":
        rollback(prod, clock=CLOCK)
    elif action == "build":
        build(prod.parent, "new")
    else:
        prune(prod, 1)


def killed(action: str, unit: str, prod: Path, ids: list[str], step: int) -> bool:
    child = os.fork()
    if child == 0:
        arm(unit, step)
        act(action, prod, ids)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, -signal.SIGKILL}, f"the child failed with {code}"
    return code != 0


def look(action: str, prod: Path, ids: list[str]) -> None:
    """What is live is one of the two allowed releases, every visible release is whole, and the action can be redone."""
    pointer = current_release(prod)
    assert pointer is not None
    allowed = {"deploy": {ids[1], ids[2]}, "rollback": {ids[0], ids[1]}}.get(action, {ids[1]})
    assert pointer.release_id in allowed, pointer
    complete = [release.release_id for release in list_releases(prod, verified=True)]
    assert [release.release_id for release in list_releases(prod)] == complete, "a visible release is not whole"
    assert pointer.release_id in complete
    newest = newest_verified_release(prod)
    assert newest is not None
    assert newest.release_id == complete[-1]
    if pointer.previous_release_id is not None:
        act(action, prod, ids)


def main(action: str, unit: str, folder: Path) -> None:
    template = folder / "template"
    template.mkdir()
    ids = [build(template, f"v{number}") for number in range(4 if action == "prune" else 3)]
    for release_id in ids[:2]:
        deploy(template / "prod", release_id, clock=CLOCK, expected_symbols=SYMBOLS)
    root = folder / "run"
    for step in count(1):
        shutil.copytree(template, root)
        died = killed(action, unit, root / "prod", ids, step)
        look(action, root / "prod", ids)
        shutil.rmtree(root)
        if not died:
            sys.stdout.write(f"{step - 1}\n")
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
