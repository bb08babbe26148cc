"""When the desktop waits and when it takes the work back, in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import JsonValue

from vnfleet.core.clock import ICT
from vnfleet.core.sealed import sealing, verify
from vnfleet.cycle.pace import Pace, seconds_left, seeds_that_fit
from vnfleet.cycle.remote_training import RemoteTraining, deadline_of, train_remotely
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord, WorkerStatus
from vnfleet.remote.rclone import RemoteUnavailableError
from vnfleet.remote.shards import index_name, package_id
from vnfleet.remote.timing import Recurring

START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Virtual:
    """Time that moves when someone sleeps; `then` is called after each sleep with the seconds since the start."""

    def __init__(self, then: Callable[[float], None] = lambda _: None) -> None:
        self.seconds, self.then = 0.0, then

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.then(self.seconds)

    def every(self, seconds: float, name: str, work: Callable[[], None]) -> Recurring:
        raise AssertionError((seconds, name, work))


class Scene:
    def __init__(self, root: Path) -> None:
        self.root, self.remote = root, FolderTransfer(root / "remote")
        self.mailbox = Mailbox(self.remote)
        self.package = root / "package"
        with sealing(self.package, "training-data", {}) as scratch:
            (scratch / "values.bin").write_bytes(b"1")
        select = UnitRecord(unit_id="select", fold_id="2022", body={"kind": "select"})
        members = (
            UnitRecord(
                unit_id=f"member{seed}", fold_id="2022", depends_on=("select",), body={"kind": "member", "s": seed}
            )
            for seed in range(3)
        )
        self.job = JobRecord(
            recipe={},
            folds=(),
            units=(select, *members),
            data_id=package_id(verify(self.package, "training-data")),
            data_kind="training-data",
            result_kind="unit",
            source_id="s",
        )

    def result(self, number: int, text: str = "w", *, built_on: str | None = None, where: Path | None = None) -> str:
        """Publish (or put to `where`) the result of one unit; return its content hash."""
        unit = self.job.units[number]
        folder = where or self.root / "made" / unit.unit_id / text
        meta: dict[str, JsonValue] = {"unit": dict(unit.body)}
        with sealing(folder, "unit", meta) as scratch:
            (scratch / "w").write_text(f"{unit.unit_id} {text}")
        if where is None:
            ids = {} if built_on is None else {"select": built_on}
            self.mailbox.send_result(self.job, unit.unit_id, folder, built_on=ids, by={"worker_id": "w"})
        return verify(folder, "unit").content_sha256

    def status(self, beat: float, **more: object) -> WorkerStatus:
        record = {"worker_id": "w", "beat": int(beat), "heartbeat_at": START, "state": "training", **more}
        status = WorkerStatus.model_validate(record)
        self.mailbox.report(status)
        return status

    def train(
        self,
        timing: Virtual,
        *,
        deadline: datetime | None = None,
        wait_seconds: float | None = None,
        seconds_here: float | None = None,
        notes: list[str] | None = None,
        poll_seconds: float = 60.0,
    ) -> RemoteTraining:
        told = [] if notes is None else notes
        return train_remotely(
            self.job,
            self.package,
            self.remote,
            self.root / "desk",
            poll_seconds=poll_seconds,
            grace_seconds=900.0,
            deadline=deadline,
            wait_seconds=wait_seconds,
            seconds_here=None if seconds_here is None else lambda units: seconds_here * len(units) / 4,
            progress=lambda _, __, note: told.append(note),
            timing=timing,
        )


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def working(scene: Scene, **more: object) -> Virtual:
    """A worker that beats for ever and gets nowhere."""
    usual = {"select": 600, "member": 3600}
    facts = {"job_id": scene.job.job_id, "unit_id": "select", "seconds_by_kind": usual, **more}

    def then(seconds: float) -> None:
        scene.status(seconds, **facts)

    return Virtual(then)


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("", datetime(2026, 11, 22, 20, tzinfo=ICT), datetime(2026, 11, 23, 8, 45, tzinfo=ICT)),
        ("", datetime(2026, 11, 23, 8, 44, tzinfo=ICT), datetime(2026, 11, 23, 8, 45, tzinfo=ICT)),
        ("", datetime(2026, 11, 23, 8, 45, tzinfo=ICT), datetime(2026, 11, 30, 8, 45, tzinfo=ICT)),
        ("", datetime(2026, 11, 23, 1, 44, tzinfo=UTC), datetime(2026, 11, 23, 8, 45, tzinfo=ICT)),
        ("2026-11-25T07:00", datetime(2026, 11, 23, 20, tzinfo=ICT), datetime(2026, 11, 25, 7, tzinfo=ICT)),
        ("2026-11-20T07:00", datetime(2026, 11, 23, 20, tzinfo=ICT), datetime(2026, 11, 23, 20, tzinfo=ICT)),
    ],
)
def test_the_deadline_is_monday_morning_unless_another_is_named(text: str, now: datetime, expected: datetime) -> None:
    assert deadline_of(text, now) == expected


def test_no_worker_means_no_waiting_beyond_the_grace(scene: Scene) -> None:
    timing = Virtual()
    back = scene.train(timing)
    assert back.open_units == ("select", "member0", "member1", "member2")
    assert "no worker" in back.reason
    assert 900 <= timing.seconds <= 960


def test_it_is_taken_back_while_there_is_time_to_train_it_here(scene: Scene) -> None:
    timing = working(scene)
    back = scene.train(timing, deadline=START + timedelta(hours=8), seconds_here=3 * 3600.0, poll_seconds=600.0)
    assert "here takes as long" in back.reason
    left = 8 * 3600 - timing.seconds
    assert 3 * 3600 <= left <= 3.5 * 3600


def test_workers_that_are_nearly_done_are_waited_for(scene: Scene) -> None:
    timing = working(scene, eta_seconds=60, seconds_by_kind={"select": 60, "member": 60})
    back = scene.train(timing, deadline=START + timedelta(hours=8), seconds_here=3 * 3600.0, poll_seconds=600.0)
    assert 8 * 3600 - timing.seconds <= 3600  # these never get done, so at the very end it is taken back
    assert len(back.open_units) == 4


def test_what_cannot_be_done_in_time_comes_back_early(scene: Scene) -> None:
    timing = working(scene)
    notes: list[str] = []
    back = scene.train(timing, deadline=START + timedelta(hours=2), notes=notes)
    assert "workers need 3 h" in back.reason
    assert timing.seconds < 3600
    assert "about 3 h" in notes[-1]


def test_waiting_ends_after_the_time_that_was_given(scene: Scene) -> None:
    timing = working(scene)
    back = scene.train(timing, wait_seconds=1800.0)
    assert back.reason == "waited for 30 min"
    assert 1800 <= timing.seconds <= 1860


def test_finished_ones_are_kept_when_the_rest_comes_back(scene: Scene) -> None:
    def then(seconds: float) -> None:
        scene.status(seconds)
        if seconds == 60.0:
            scene.result(1, built_on=scene.result(0))

    back = scene.train(Virtual(then), wait_seconds=600.0)
    assert back.finished == ("select", "member0")
    assert back.open_units == ("member1", "member2")


def test_a_set_is_never_mixed(scene: Scene) -> None:
    """A second holder of the selection came out with other bytes after the first one's had been taken."""
    seen: list[bool] = []

    def then(seconds: float) -> None:
        scene.status(seconds)
        select = scene.root / "desk" / "checkpoints" / "select" / "result" / "w"
        if seconds == 60.0:
            scene.result(0, "first")
        elif seconds == 180.0:
            scene.remote.purge("checkpoints/select/result")
            scene.result(1, built_on=scene.result(0, "second"))
        elif seconds == 300.0:
            seen.append("member0" in scene.mailbox.results_listed())
            seen.append("first" in scene.remote.read_text("checkpoints/select/result/w"))
            scene.result(1, "again", built_on=verify(select.parent, "unit").content_sha256)

    back = scene.train(Virtual(then), wait_seconds=900.0)
    assert seen == [False, True]  # the stranger was put aside, and the remote has what lies here
    assert back.finished == ("select", "member0")
    units = scene.root / "desk" / "checkpoints"
    assert (units / "select/result/w").read_text() == "select first"
    assert (units / "member0/result/w").read_text() == "member0 again"


def test_what_was_finished_here_replaces_another_one_on_the_remote(scene: Scene) -> None:
    scene.result(0, "theirs")
    ours = scene.result(0, "ours", where=scene.root / "desk" / "checkpoints" / "select" / "result")
    scene.train(Virtual(), wait_seconds=60.0)
    followed = scene.mailbox.follow_result(scene.job, "select", scene.root / "worker", scene.root / "q")
    assert followed == ours


def test_a_selection_that_vanished_or_was_torn_is_brought_back(scene: Scene) -> None:
    seen: list[str] = []
    name = "checkpoints/select/result/manifest.json"

    def then(seconds: float) -> None:
        scene.status(seconds)
        if seconds == 60.0:
            scene.result(0)
        elif seconds == 180.0:
            scene.remote.write_text(name, "{torn")
            assert scene.mailbox.follow_result(scene.job, "select", scene.root / "worker", scene.root / "q") is None
            assert not scene.remote.exists(name)  # a worker that met it opened the unit again
        elif seconds == 300.0:
            assert scene.mailbox.follow_result(scene.job, "select", scene.root / "worker", scene.root / "q")
            seen.append("brought back")

    scene.train(Virtual(then), wait_seconds=400.0)
    assert seen == ["brought back"]


def test_checkpoints_of_finished_units_are_removed_at_the_end(scene: Scene) -> None:
    for unit in ("select", "member1"):
        scene.remote.write_text(f"checkpoints/{unit}/stages/fit/t000001-s00000010-abcdef/manifest.json", "{}")
    scene.result(0)
    scene.train(Virtual(), wait_seconds=60.0)
    assert [entry.path for entry in scene.remote.list("checkpoints", "/*/stages/**")] == [
        "member1/stages/fit/t000001-s00000010-abcdef/manifest.json"
    ]


def test_what_is_left_is_shared_out_among_the_workers(scene: Scene) -> None:
    units, job_id = scene.job.units, scene.job.job_id
    known = {"seconds_by_kind": {"select": 100.0, "member": 1000.0}}
    busy = scene.status(1, job_id=job_id, unit_id="select", eta_seconds=40.0, **known)
    idle = scene.status(1, worker_id="v")
    assert seconds_left(units, [], job_id) is None
    assert seconds_left(units, [idle], job_id) is None  # nothing is known of any unit
    assert seconds_left(units, [busy], job_id) == pytest.approx(40.0 + 3 * 1000.0)
    assert seconds_left(units, [busy, idle], job_id) == pytest.approx(2000.0)
    assert seconds_left((), [busy], job_id) == 0.0


def test_the_pace_of_a_unit_counts_from_where_it_went_on() -> None:
    timing = Virtual()
    pace = Pace(timing)
    assert pace.eta_seconds is None
    timing.sleep(5)
    pace.step("fit", 80, 100)  # restored from a checkpoint
    assert pace.eta_seconds is None
    timing.sleep(10)
    pace.step("fit", 85, 100)
    assert pace.eta_seconds == pytest.approx(30.0)
    assert pace.resumed
    fresh = Pace(timing, usual_seconds=100.0)
    timing.sleep(20)
    fresh.step("fit", 1, 10)
    assert fresh.eta_seconds == pytest.approx(80.0)
    assert not fresh.resumed


def test_a_smaller_budget_means_fewer_members() -> None:
    @dataclass(frozen=True)
    class Unit:
        unit_id: str
        seed: int

    units = [Unit("select", 0), Unit("member0", 0), Unit("member1", 1), Unit("member2", 2)]

    def fitting(seconds: float, *open_units: str) -> int:
        return seeds_that_fit(units, open_units, seconds_here=lambda ids: 100.0 * len(ids), seconds=seconds)

    assert fitting(400, "select", "member0", "member1", "member2") == 3
    assert fitting(399, "select", "member0", "member1", "member2") == 2
    assert fitting(10, "select", "member0", "member1", "member2") == 1
    assert fitting(100, "member1") == 3
    assert fitting(99, "member2") == 2


def test_a_crowded_remote_is_given_the_grace_to_take_the_job(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FolderTransfer.write_text

    def crowded(self: FolderTransfer, name: str, text: str) -> None:
        if timing.seconds < 300:
            raise RemoteUnavailableError("403")
        real(self, name, text)

    monkeypatch.setattr(FolderTransfer, "write_text", crowded)
    timing = Virtual()
    assert "could not be published" not in scene.train(timing, wait_seconds=60.0).reason
    assert timing.seconds >= 360


def test_what_the_remote_tore_or_lost_of_a_job_is_published_again(scene: Scene) -> None:
    job_id, package = scene.job.job_id, index_name(scene.job.data_id)
    healed: list[bool] = []

    def then(seconds: float) -> None:
        scene.status(seconds)
        if seconds == 60.0:
            scene.remote.write_text(f"jobs/{job_id}/state.json", "{torn")
            scene.remote.delete(package)
        elif seconds == 420.0:
            healed.append(Mailbox(scene.remote).open_jobs() == (scene.job,) and scene.remote.exists(package))

    scene.train(Virtual(then), wait_seconds=600.0)
    assert healed == [True]
