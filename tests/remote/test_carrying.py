"""Checkpoints travel beside the training, and the next holder of a unit goes on from them."""

import json
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vnfleet.core.sealed import sealing, verify
from vnfleet.remote.carried import listed_checkpoints, local_progress, remove_checkpoints, units_with_checkpoints
from vnfleet.remote.carrying import Carrier
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.leases import HeldLease, LeaseDesk, LeaseRecord, LeaseTimes
from vnfleet.remote.rclone import RemoteFullError, RemoteUnavailableError
from vnfleet.remote.timing import Recurring
from vnfleet.remote.transfer import Transfer

TIMES = LeaseTimes(lease_seconds=100.0, heartbeat_seconds=10.0, settle_seconds=0.0)
LEASE = "status/j/u.lease.json"


class ByHand:
    """Time that stands still; what recurs is done when a test asks for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def every(self, seconds: float, name: str, work: Callable[[], None]) -> Recurring:
        assert seconds > 0
        assert name
        assert callable(work)
        return Never()


class Never:
    def wake(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Machine:
    """One worker's disk with one unit on it."""

    def __init__(self, root: Path, remote: Transfer, worker_id: str, timing: ByHand) -> None:
        self.root, self.remote, self.timing = root / worker_id, remote, timing
        held = LeaseDesk(remote, worker_id, TIMES, timing).claim("status/j", "u")
        assert held is not None
        self.held: HeldLease = held
        self.said: list[str] = []
        self.folder = self.root / "checkpoints" / "u"
        self.carrier = self.new_carrier()

    def new_carrier(self, built_on: dict[str, str] | None = None) -> Carrier:
        carrier = Carrier(
            self.remote,
            "u",
            self.held,
            self.folder,
            self.root / "outbox",
            built_on=built_on or {},
            timing=self.timing,
            say=self.said.append,
        )
        carrier.forget_what_was_built_on_others()
        carrier.start()
        return carrier

    def save(self, step: int, stage: str = "fit", *, carry: bool = True) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "environment.json").write_text(json.dumps({"made_by": self.root.name}))
        checkpoint = self.folder / stage / f"ckpt-{step:08d}"
        with sealing(checkpoint, "checkpoint", {"stage_key": f"u/{stage}"}) as scratch:
            (scratch / "state.json").write_text(f"{stage} {step} by {self.root.name}")
        self.carrier.saved(checkpoint)
        if carry:
            self.carrier.carry()
            self.timing.sleep(20.0)  # what is sent at once is sent no more often than that
        return checkpoint

    def steps(self) -> dict[str, int]:
        return dict(local_progress(self.folder).steps)

    def restore(self) -> bool:
        return self.carrier.restore(self.root / "quarantine") is not None


@pytest.fixture
def timing() -> ByHand:
    return ByHand()


def on_remote(remote: Transfer, stage: str = "fit") -> list[tuple[int, int]]:
    names = listed_checkpoints(remote, "u").get(stage, [])
    return [(int(name[1:7]), int(name[9:17])) for name in names]


def test_the_next_holder_goes_on_from_the_newest_checkpoint_of_every_stage(
    remote: Transfer, tmp_path: Path, timing: ByHand
) -> None:
    first = Machine(tmp_path, remote, "a", timing)
    for step, stage in ((10, "backbone"), (20, "backbone"), (5, "deltas-10")):
        first.save(step, stage)
    first.held.release()
    second = Machine(tmp_path, remote, "b", timing)
    assert second.restore()
    assert second.steps() == {"backbone": 20, "deltas-10": 5}
    for stage, step in second.steps().items():
        got = second.folder / stage / f"ckpt-{step:08d}"
        assert verify(got, "checkpoint") == verify(first.folder / stage / got.name, "checkpoint")
    assert json.loads((second.folder / "environment.json").read_text()) == {"made_by": "a"}


def test_the_last_two_of_a_stage_stay_on_the_remote(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    machine = Machine(tmp_path, plain_remote, "a", timing)
    for step in (10, 20, 30, 40):
        machine.save(step)
    assert on_remote(plain_remote) == [(1, 30), (1, 40)]
    assert units_with_checkpoints(plain_remote) == {"u"}
    remove_checkpoints(plain_remote, "u")
    assert units_with_checkpoints(plain_remote) == frozenset()


def test_checkpoints_in_quick_succession_are_not_all_sent(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    machine = Machine(tmp_path, plain_remote, "a", timing)
    for step in (10, 20, 30, 40):
        machine.save(step, carry=False)
        machine.carrier.carry()
        timing.sleep(3.0)
    assert on_remote(plain_remote) == [(1, 10)]
    timing.sleep(10.0)
    machine.carrier.carry()
    assert on_remote(plain_remote) == [(1, 10), (1, 40)]


def test_the_newest_one_of_a_stage_waits_and_training_never_does(tmp_path: Path, timing: ByHand) -> None:
    remote = Unreachable(tmp_path / "remote")
    machine = Machine(tmp_path, remote, "a", timing)
    remote.reachable = False
    for step in (10, 20):
        machine.save(step, "backbone", carry=False)
    for step in (10, 20, 30):
        machine.save(step, "deltas")
    assert on_remote(remote, "deltas") == []
    machine.folder.rename(machine.root / "gone")  # what waits does not depend on the trainer's own files
    remote.reachable = True
    machine.carrier.carry()
    assert on_remote(remote, "backbone") == [(1, 20)]
    assert on_remote(remote, "deltas") == [(1, 30)]
    assert machine.said == []
    assert list((machine.root / "outbox").rglob("ckpt-*")) == []


class Unreachable(FolderTransfer):
    reachable = True

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        if not self.reachable:
            raise RemoteUnavailableError("unplugged")
        super().put_folder(source, name, files)


def test_it_is_carried_in_a_thread_of_its_own(tmp_path: Path, plain_remote: FolderTransfer) -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(FolderTransfer):
        def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
            entered.set()
            assert release.wait(30)
            super().put_folder(source, name, files)

    held = LeaseDesk(plain_remote, "a", TIMES).claim("status/j", "u")
    assert held is not None
    slow = Slow(plain_remote.root)
    carrier = Carrier(slow, "u", held, tmp_path / "u", tmp_path / "outbox", built_on={})
    carrier.start()
    for step in (1, 2, 3):
        checkpoint = tmp_path / "u" / "fit" / f"ckpt-{step:08d}"
        with sealing(checkpoint, "checkpoint", {}) as scratch:
            (scratch / "state.json").write_text(str(step))
        carrier.saved(checkpoint)
        assert entered.wait(30)  # the first is under way and stuck; the others are taken without waiting for it
    release.set()
    while (1, 3) not in on_remote(plain_remote):
        threading.Event().wait(0.05)
    carrier.stop()
    assert on_remote(plain_remote) == [(1, 1), (1, 3)]


def test_a_worker_that_lost_its_lease_carries_nothing_more(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    machine = Machine(tmp_path, plain_remote, "a", timing)
    machine.save(10)
    taken = LeaseRecord.model_validate_json(plain_remote.read_text(LEASE)).model_copy(
        update={"worker_id": "b", "token": 2}
    )
    plain_remote.write_text(LEASE, taken.model_dump_json())
    machine.save(20)  # the payload goes, the manifest does not
    machine.save(30)
    assert on_remote(plain_remote) == [(1, 10)]


def test_what_a_late_worker_still_sent_does_not_displace_its_successor(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    late = Machine(tmp_path, plain_remote, "late", timing)
    late.save(10)
    lease = plain_remote.read_text(LEASE)
    late.held.release()
    successor = Machine(tmp_path, plain_remote, "b", timing)
    assert successor.restore()
    successor.save(20)
    successors = plain_remote.read_text(LEASE)
    plain_remote.write_text(LEASE, lease)  # a stale read makes the late one believe it still holds the unit
    late.held._lost_to = None
    late.save(90)
    plain_remote.write_text(LEASE, successors)
    assert on_remote(plain_remote) == [(1, 10), (1, 90), (2, 20)]
    successor.held.release()
    third = Machine(tmp_path, plain_remote, "c", timing)
    assert third.restore()
    assert third.steps() == {"fit": 20}


def test_a_damaged_checkpoint_is_passed_over(plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand) -> None:
    first = Machine(tmp_path, plain_remote, "a", timing)
    first.save(10)
    first.save(20)
    newest = listed_checkpoints(plain_remote, "u")["fit"][-1]
    plain_remote.write_text(f"checkpoints/u/stages/fit/{newest}/checkpoint/state.json", "torn")
    first.held.release()
    second = Machine(tmp_path, plain_remote, "b", timing)
    assert second.restore()
    assert second.steps() == {"fit": 10}
    assert "passed over" in second.said[0]


def test_the_checkpoint_of_another_unit_is_not_taken(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    first = Machine(tmp_path, plain_remote, "a", timing)
    first.save(10)
    name = listed_checkpoints(plain_remote, "u")["fit"][0]
    plain_remote.move(f"checkpoints/u/stages/fit/{name}", f"checkpoints/u/stages/other/{name}")
    first.held.release()
    assert not Machine(tmp_path, plain_remote, "b", timing).restore()


def test_what_is_further_here_is_kept(plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand) -> None:
    machine = Machine(tmp_path, plain_remote, "a", timing)
    machine.save(10)
    machine.save(20, carry=False)
    machine.carrier.stop()
    machine.held.release()
    again = Machine(tmp_path, plain_remote, "a", timing)
    assert not again.restore()
    assert again.steps() == {"fit": 20}


def test_what_was_built_on_other_results_is_begun_again(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    machine = Machine(tmp_path, plain_remote, "a", timing)
    machine.carrier = machine.new_carrier({"select": "1" * 64})
    machine.save(10)
    same = machine.new_carrier({"select": "1" * 64})
    assert machine.steps() == {"fit": 10}
    assert same.restore(tmp_path / "q") is None  # it is here
    other = machine.new_carrier({"select": "2" * 64})
    assert machine.steps() == {}
    assert other.restore(tmp_path / "q") is None  # those on the remote were built on the first one too
    assert machine.steps() == {}


def test_a_full_remote_costs_the_copies_not_the_training(tmp_path: Path, timing: ByHand) -> None:
    class Full(FolderTransfer):
        def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
            raise RemoteFullError("the remote is full", where=name, found=f"{len(files)} files of {source.name}")

    machine = Machine(tmp_path, Full(tmp_path / "remote"), "a", timing)
    machine.save(10)
    assert "full" in machine.said[0]


def test_stages_that_stand_on_each_other_are_taken_over_together(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    """The end of the first stage never came there: the second one stands on it and is not taken without it."""
    first = Machine(tmp_path, plain_remote, "a", timing)
    first.save(10, "base")
    first.save(20, "base", carry=False)
    first.carrier._waiting.clear()
    first.save(5, "head")
    first.held.release()
    second = Machine(tmp_path, plain_remote, "b", timing)
    assert second.restore()
    assert second.steps() == {"base": 10}


def test_what_was_never_sent_before_a_restart_is_sent_after_it(
    plain_remote: FolderTransfer, tmp_path: Path, timing: ByHand
) -> None:
    first = Machine(tmp_path, plain_remote, "a", timing)
    first.save(10, "base")
    first.save(20, "base", carry=False)  # killed here
    again = Machine(tmp_path, plain_remote, "a", timing)
    assert not again.restore()
    again.carrier.start()
    again.save(5, "head")
    again.held.release()
    second = Machine(tmp_path, plain_remote, "b", timing)
    assert second.restore()
    assert second.steps() == {"base": 20, "head": 5}
