"""The worker that a notebook starts: it leaves with its notebook, and says where the work stands."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vnfleet.cycle.session import progress_line, work
from vnfleet.cycle.training_state import RecoveryManager, TrainingState
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import Mailbox, WorkerStatus
from vnfleet.remote.leases import LeaseRecord


def worker_status(published: Any, **more: Any) -> WorkerStatus:
    said = {"worker_id": "w1", "beat": 1, "heartbeat_at": datetime.now(UTC), "state": "training"}
    return WorkerStatus(**{**said, "job_id": published.job.job_id, "unit_id": published.units[0].unit_id, **more})


def start(published: Any, workdir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vnfleet.cycle.session", "--remote", str(published.folder)]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir), "--idle-exit-minutes", "1", "--lease-seconds", "60"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(seen: Callable[[], object]) -> None:
    end = time.monotonic() + 60.0
    while not seen():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.parametrize("published", [400], indirect=True)  # epochs: still training when it is told to leave
def test_a_worker_gives_its_unit_back_when_its_notebook_is_gone(published: Any, tmp_path: Path) -> None:
    with start(published, tmp_path / "work") as running:
        wait_for(lambda: list(published.folder.glob("checkpoints/*/stages/*/*/manifest.json")))
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(timeout=60) == 130
        assert running.stdout is not None
        assert b"goes on from its last checkpoint" in running.stdout.read()
    (lease,) = published.folder.glob("status/*/*.lease.json")
    assert LeaseRecord.model_validate_json(lease.read_bytes()).state == "released"
    state = RecoveryManager(FolderTransfer(published.folder), tmp_path / "other").load_training_state()
    assert state.unit == published.units[0].unit_id
    assert state.step > 0
    assert state.epoch > 0


def test_the_state_is_that_of_the_worker_heard_of_last(published: Any, tmp_path: Path) -> None:
    remote = FolderTransfer(published.folder)
    mailbox = Mailbox(remote)
    manager = RecoveryManager(remote, tmp_path)
    first = manager.load_training_state()
    assert (first.unit, first.finished_units, first.total_units, first.completed_symbols) == ("", 0, 2, ())
    mailbox.report(worker_status(published))
    assert manager.load_training_state().sentence.endswith("fold live select 0 at its start")
    mailbox.report(worker_status(published, stage="backbone", step=18, steps=36, eta_seconds=90.0, progress_frac=0.5))
    state = manager.load_training_state()
    assert (state.words, state.stage, state.step, state.epoch) == ("fold live select 0", "backbone", 18, 3)
    assert TrainingState.model_validate_json((tmp_path / "training_state.json").read_bytes()) == state
    assert "0 of 2 units | fold live select 0: backbone 18/36 (50%), 2 min left" in progress_line(mailbox)
    mailbox.close(published.job.job_id, "done")
    assert "no open job" in manager.load_training_state().sentence
    assert progress_line(mailbox) == "waiting for a job"


def test_a_state_on_a_drive_that_cannot_be_written_is_still_told(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vnfleet.core.errors import RemoteError  # noqa: PLC0415

    def refuse(*_: object) -> None:
        raise RemoteError("read-only")

    remote = FolderTransfer(published.folder)
    monkeypatch.setattr(remote, "write_text", refuse)
    assert RecoveryManager(remote, tmp_path).load_training_state().total_units == 2


def test_what_is_said_stays_and_progress_overwrites_itself(published: Any, tmp_path: Path) -> None:
    said: list[str] = []
    Mailbox(FolderTransfer(published.folder)).close(published.job.job_id, "nothing to do")
    told = work(FolderTransfer(published.folder), tmp_path, write=said.append, idle_exit_seconds=0.0, lease_seconds=3.0)
    assert told.published == ()
    assert all(text.startswith("\r") for text in said)
