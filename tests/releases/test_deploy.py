"""The pointer to what is live: moved whole or not at all, and back again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from vnfleet.core import atomic
from vnfleet.core.clock import FixedClock
from vnfleet.core.errors import BadDataError, BusyError, ResourceError, UsageError
from vnfleet.core.lock import holding
from vnfleet.releases.deploy import current_release, deploy, newest_verified_release, open_current, prune, rollback
from vnfleet.releases.registry import ReleaseContents, build_release, list_releases, lock_path

CLOCK = FixedClock(datetime(2026, 11, 15, 20, 0, tzinfo=UTC))
SYMBOLS = ("AAA", "BBB")
KILL_SCRIPT = Path(__file__).parent / "kill_at_every_line.py"


def build(prod: Path, text: str, symbols: tuple[str, ...] = SYMBOLS) -> str:
    source = prod.parent / f"trained-{text}"
    source.mkdir(parents=True, exist_ok=True)
    artifacts = {symbol: source / symbol for symbol in symbols}
    for symbol, path in artifacts.items():
        path.write_text(f"{symbol} {text}", encoding="utf-8")
    contents = ReleaseContents(artifacts=artifacts, serving=dict.fromkeys(symbols, "pooled"))
    return build_release(prod, date(2026, 11, 13), contents)


def put_live(prod: Path, release_id: str) -> None:
    deploy(prod, release_id, clock=CLOCK, expected_symbols=SYMBOLS)


def live(prod: Path) -> str | None:
    now = current_release(prod)
    return now.release_id if now else None


@pytest.fixture
def prod(tmp_path: Path) -> Path:
    return tmp_path / "models_prod"


def test_deploy_points_at_the_release_and_remembers_the_one_before(prod: Path) -> None:
    assert current_release(prod) is None
    first, second = build(prod, "v1"), build(prod, "v2")
    put_live(prod, first)
    pointer = deploy(prod, second, clock=CLOCK, expected_symbols=SYMBOLS)
    assert current_release(prod) == pointer
    assert (pointer.release_id, pointer.previous_release_id) == (second, first)
    assert pointer.deployed_at == CLOCK.at


def test_deploying_what_is_live_changes_nothing(prod: Path) -> None:
    first, second = build(prod, "v1"), build(prod, "v2")
    put_live(prod, first)
    put_live(prod, second)
    before = (prod / "current").read_bytes()
    later = FixedClock(datetime(2027, 1, 1, tzinfo=UTC))
    pointer = deploy(prod, second, clock=later, expected_symbols=SYMBOLS)
    assert pointer.previous_release_id == first
    assert (prod / "current").read_bytes() == before


def test_rollback_walks_back_and_never_forward(prod: Path) -> None:
    ids = [build(prod, f"v{number}") for number in range(3)]
    for release_id in ids:
        put_live(prod, release_id)
    assert rollback(prod, clock=CLOCK).release_id == ids[1]
    assert rollback(prod, clock=CLOCK).release_id == ids[0]
    with pytest.raises(UsageError, match="first release"):
        rollback(prod, clock=CLOCK)
    assert live(prod) == ids[0]


def test_rollback_without_anything_live_says_so(prod: Path) -> None:
    with pytest.raises(UsageError, match="no release is live"):
        rollback(prod, clock=CLOCK)


def test_rollback_to_a_damaged_or_absent_release_keeps_the_current_one(prod: Path) -> None:
    first, second = build(prod, "v1"), build(prod, "v2")
    put_live(prod, first)
    put_live(prod, second)
    folder = prod / "releases" / first
    (folder / "AAA_stockformer.pt").write_text("torn", encoding="utf-8")
    with pytest.raises(BadDataError, match="the current one stays"):
        rollback(prod, clock=CLOCK)
    folder.rename(prod / "gone")
    with pytest.raises(BadDataError, match=rf"no such release(.|\n)*{second}"):
        rollback(prod, clock=CLOCK)
    assert live(prod) == second


@pytest.mark.parametrize("damage", ["changed", "removed", "manifest"])
def test_a_damaged_release_never_goes_live(prod: Path, damage: str) -> None:
    first, second = build(prod, "v1"), build(prod, "v2")
    put_live(prod, first)
    folder = prod / "releases" / second
    if damage == "changed":
        (folder / "BBB_stockformer.pt").write_text("BBB v3", encoding="utf-8")
    elif damage == "removed":
        (folder / "BBB_stockformer.pt").unlink()
    else:
        (folder / "manifest.json").write_text('{"kind": "rel', encoding="utf-8")
    with pytest.raises(BadDataError):
        put_live(prod, second)
    assert live(prod) == first
    newest = newest_verified_release(prod)
    assert newest is not None
    assert newest.release_id == first


def test_fewer_than_the_configured_symbols_never_go_live(prod: Path) -> None:
    full, part = build(prod, "v1"), build(prod, "v2", ("AAA",))
    put_live(prod, full)
    with pytest.raises(UsageError, match=r"fewer than the configured(.|\n)*BBB"):
        put_live(prod, part)
    assert live(prod) == full


def test_a_damaged_pointer_is_reported_not_guessed(prod: Path) -> None:
    first = build(prod, "v1")
    put_live(prod, first)
    (prod / "current").write_text('{"release_id": ', encoding="utf-8")
    with pytest.raises(BadDataError, match="pointer"):
        current_release(prod)
    with pytest.raises(BadDataError, match="pointer"):
        prune(prod, 1)
    (prod / "current").unlink()
    (prod / "current").mkdir()
    with pytest.raises(BadDataError, match="pointer"):
        current_release(prod)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_live_release_that_cannot_be_opened_tells_the_way_out(prod: Path, damage: str) -> None:
    put_live(prod, build(prod, "v1"))
    now = current_release(prod)
    assert now is not None
    folder = prod / "releases" / now.release_id
    if damage == "changed":
        next(folder.glob("*.pt")).write_text("v2", encoding="utf-8")
    else:
        folder.rename(prod / "elsewhere")
    with pytest.raises(BadDataError, match=r"gone or damaged[\s\S]*next: vnfleet rollback; or delete"):
        open_current(prod, now)


def test_readers_of_synced_drives_take_the_highest_number_that_verifies(prod: Path) -> None:
    assert newest_verified_release(prod) is None
    first, second, third = (build(prod, f"v{number}") for number in range(3))
    put_live(prod, first)
    (prod / "releases" / third / "AAA_stockformer.pt").unlink()  # still being synced
    newest = newest_verified_release(prod)
    assert newest is not None
    assert newest.release_id == second


def test_prune_keeps_the_newest_the_live_one_and_its_predecessor(prod: Path) -> None:
    ids = [build(prod, f"v{number}") for number in range(6)]
    put_live(prod, ids[0])
    put_live(prod, ids[2])
    leftover = prod / "releases" / f".{ids[5]}{atomic.TMP_MARK}1234"
    leftover.mkdir()
    assert prune(prod, 2) == (ids[1], ids[3])
    assert [release.release_id for release in list_releases(prod, verified=True)] == [ids[0], ids[2], ids[4], ids[5]]
    assert not leftover.exists()
    assert prune(prod, 2) == ()
    assert rollback(prod, clock=CLOCK).release_id == ids[0]
    with pytest.raises(UsageError, match="at least one"):
        prune(prod, 0)


def test_two_processes_never_move_the_pointer_at_once(prod: Path) -> None:
    first = build(prod, "v1")
    with holding(lock_path(prod), "deploying elsewhere"):
        for attempt in (lambda: put_live(prod, first), lambda: prune(prod, 1), lambda: build(prod, "v2")):
            with pytest.raises(BusyError):
                attempt()


@pytest.mark.parametrize("broken", ["replace", "fsync", "write"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_the_old_release_live(
    prod: Path, monkeypatch: pytest.MonkeyPatch, broken: str, code: int
) -> None:
    first, second = build(prod, "v1"), build(prod, "v2")
    put_live(prod, first)
    before = sorted(path.name for path in prod.iterdir())

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if broken == "write":
            patch.setattr(Path, "write_bytes", fail)
        else:
            patch.setattr(os, broken, fail)
        with pytest.raises(ResourceError if code == errno.ENOSPC else OSError):
            put_live(prod, second)
        with pytest.raises(UsageError):
            rollback(prod, clock=CLOCK)
    assert live(prod) == first
    assert sorted(path.name for path in prod.iterdir()) == before
    put_live(prod, second)
    assert live(prod) == second


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a process at every step")
@pytest.mark.parametrize(
    ("unit", "fewest"), [("disk", 4), pytest.param("line", 100, marks=pytest.mark.prove)], ids=["disk", "line"]
)
@pytest.mark.parametrize("action", ["deploy", "rollback", "build", "prune"])
def test_kill_9_at_any_step_leaves_the_old_or_the_new_release_whole(
    tmp_path: Path, action: str, unit: str, fewest: int
) -> None:
    command = [sys.executable, str(KILL_SCRIPT), action, unit, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) >= fewest, "the kills did not happen"
