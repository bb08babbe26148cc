"""The written plan's snippets, word for word, on a small market: what they promise happens."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from vnfleet.core.errors import UsageError
from vnfleet.core.sealed import verify
from vnfleet.cycle.drive import upload_package
from vnfleet.cycle.own_models import refuse_unknown
from vnfleet.cycle.worker import WorkerReport, run_worker
from vnfleet.model.artifact import artifact_name, read_artifact
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.leases import LeaseTimes
from vnfleet.training.machine.config import MachineConfig

QUICK = LeaseTimes(lease_seconds=60.0, heartbeat_seconds=1.0, settle_seconds=0.05)
PREPARE = """\
from local_cpu_training import LocalDataPreparation
from hybrid_training_orchestrator import LocalDataPreparation, ColabTrainingOrchestrator

# Prepare data locally
prep = LocalDataPreparation('./data')
prep.collect_data(['HPG', 'VCB', 'FPT'])
prep.engineer_features(['HPG', 'VCB', 'FPT'])
package = prep.prepare_training_data_package(['HPG', 'VCB', 'FPT'])

# Sync to Colab
orchestrator = ColabTrainingOrchestrator()
orchestrator.upload_data_to_drive(package, 'VN-Quant-Training/data')
"""
TRAIN = ["--symbols", "FPT", "VCB", "HPG", "--epochs", "50", "--batch-size", "4"]
HYBRID = ["--mode", "hybrid", "--symbols", "HPG", "VCB", "FPT", "MWG", "SAB", "MSN", "VNM", "VJC"]


def test_local_data_collection_and_upload(empty_desk: Any) -> None:
    done = empty_desk.run("-c", PREPARE)
    assert done.returncode == 0, done.stdout + done.stderr
    (there,) = (empty_desk.remote / "data" / "training_package").iterdir()
    (here,) = (empty_desk.folder / "data" / "training_package").glob("[0-9a-f]*")
    sent = verify(there, "training-package").files
    assert sent == verify(here, "training-package").files
    assert all(any(symbol in name for name in sent) for symbol in ("HPG", "VCB", "FPT"))

    # what a drive damages is sent again, and a package that is there is not
    remote = FolderTransfer(empty_desk.remote)
    next(path for path in there.rglob("*") if "HPG" in path.name).write_bytes(b"x")
    assert upload_package(here, remote, "data").files == sent
    assert verify(there, "training-package").files == sent
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    upload_package(here, remote, "data")
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before


def test_cpu_training_only(desk: Any) -> None:
    done = desk.script("local_cpu_training.py", *TRAIN)
    assert done.returncode == 0, done.stdout + done.stderr
    for symbol in ("FPT", "VCB", "HPG"):
        artifact = read_artifact(desk.folder / "models" / artifact_name(symbol))
        assert artifact.strategy == "separate"
        assert {member.config.attention for member in artifact.ensemble.members} == {"window"}
        assert f"{symbol:<5}" in done.stdout
    assert not (desk.folder / "models_prod").exists()


def test_full_hybrid_training(desk: Any) -> None:
    desk.settings(epochs=1)
    finished = threading.Event()
    reports: list[WorkerReport] = []

    def work() -> None:
        reports.append(
            run_worker(
                FolderTransfer(desk.remote),
                desk.folder.parent / "worker",
                machine=MachineConfig(num_threads=1, device="cpu"),
                times=QUICK,
                poll_seconds=0.2,
                should_stop=finished.is_set,
            )
        )

    worker = threading.Thread(target=work)
    worker.start()
    try:
        done = desk.script("hybrid_training_orchestrator.py", *HYBRID)
    finally:
        finished.set()
        worker.join(timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert reports
    assert reports[0].published
    assert "from the remote" in done.stdout
    assert len(list((desk.folder / "models").glob("*_stockformer.pt"))) == 8
    assert "ends before the gate" in done.stdout


def test_the_snippets_are_the_plans(request: pytest.FixtureRequest) -> None:
    """The texts above are in the plan as they stand (where its file is at hand)."""
    named = os.environ.get("VNFLEET_PLAN")
    found = [Path(named)] if named else list(request.config.rootpath.parent.glob("shared/reference/the-plan.md"))
    if not found or not found[0].is_file():
        pytest.skip("the written plan is not at hand (VNFLEET_PLAN names it)")
    plan = found[0].read_text(encoding="utf-8")
    assert PREPARE in plan
    words = plan.replace("\\\n", " ").split()
    for flags in (TRAIN, HYBRID):
        assert " ".join(flags) in " ".join(words)


def test_a_symbol_that_was_not_collected_is_named_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean HPG"):
        refuse_unknown(["HPX"], ["HPG", "VCB"])
