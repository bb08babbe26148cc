import json
import os
from pathlib import Path

import pytest
from pydantic import JsonValue, ValidationError

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import sealing, verify
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord, parse_job, ready_units, result_name
from vnfleet.remote.parcels import send_sealed, sent_manifest
from vnfleet.remote.shards import index_name, package_id, send_package
from vnfleet.remote.transfer import Transfer


def package(folder: Path, symbols: list[JsonValue] | None = None) -> Path:
    with sealing(folder, "training-data", {"symbols": symbols or ["FPT", "VCB"]}) as scratch:
        (scratch / "values.bin").write_bytes(b"1234")
    return folder


def job_of(folder: Path) -> JobRecord:
    return JobRecord(
        recipe={"learning_rate": 0.1 + 0.2},
        folds=({"fold_id": "2022"},),
        units=(
            UnitRecord(unit_id="select0", fold_id="2022", body={"seed": 0}),
            UnitRecord(unit_id="member0", fold_id="2022", depends_on=("select0",), body={"seed": 1}),
        ),
        data_id=package_id(verify(folder, "training-data")),
        data_kind="training-data",
        result_kind="unit",
        source_id="s",
    )


def test_a_published_job_is_read_back_and_can_be_closed_and_opened(remote: Transfer, tmp_path: Path) -> None:
    job = job_of(package(tmp_path / "p"))
    desktop, worker = Mailbox(remote), Mailbox(remote)
    desktop.publish(job, tmp_path / "p")
    assert worker.open_jobs() == (job,)
    assert worker.fetch_data(job, tmp_path / "in", tmp_path / "q").meta == {"symbols": ["FPT", "VCB"]}
    desktop.close(job.job_id, "deadline")
    assert worker.open_jobs() == ()
    assert worker.open_jobs() == ()
    desktop.publish(job, tmp_path / "p")
    assert worker.open_jobs() == (job,)


def test_the_data_id_covers_the_axes_too(tmp_path: Path) -> None:
    # Equal bytes under other symbols are other data.
    one, other = (
        verify(package(tmp_path / "a"), "training-data"),
        verify(package(tmp_path / "b", ["VCB", "FPT"]), "training-data"),
    )
    assert one.content_sha256 == other.content_sha256
    assert package_id(one) != package_id(other)


def test_a_package_that_is_not_the_jobs_data_is_refused_on_both_sides(
    plain_remote: FolderTransfer, tmp_path: Path
) -> None:
    job = job_of(package(tmp_path / "p"))
    other = package(tmp_path / "other", ["VCB", "FPT"])
    with pytest.raises(BadDataError, match="not the job's data"):
        Mailbox(plain_remote).publish(job, other)
    send_package(other, plain_remote, "training-data")
    theirs = package_id(verify(other, "training-data"))
    plain_remote.move(index_name(theirs), index_name(job.data_id))
    with pytest.raises(BadDataError, match="not the job's data"):
        Mailbox(plain_remote).fetch_data(job, tmp_path / "in", tmp_path / "q")


def test_absent_data_name_the_fix(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="not on the remote"):
        Mailbox(plain_remote).fetch_data(job_of(package(tmp_path / "p")), tmp_path / "in", tmp_path / "q")


def test_a_job_that_was_tampered_with_is_left_alone(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    job = job_of(package(tmp_path / "p"))
    Mailbox(plain_remote).publish(job, tmp_path / "p")
    changed = job.model_dump(mode="json") | {"recipe": {"learning_rate": 9.0}}
    plain_remote.write_text(f"jobs/{job.job_id}/job.json", json.dumps(changed))
    assert Mailbox(plain_remote).open_jobs() == ()
    plain_remote.write_text(f"jobs/{job.job_id}/job.json", "{torn")
    assert Mailbox(plain_remote).open_jobs() == ()


def test_a_job_of_a_newer_vnfleet_says_so(tmp_path: Path) -> None:
    newer = job_of(package(tmp_path / "p")).model_dump(mode="json") | {"schema_version": 99}
    with pytest.raises(BadDataError, match="upgrade"):
        parse_job(json.dumps(newer))


@pytest.mark.parametrize("unit_id", ["../up", "a/b", "", ".hidden", "a b", "C:x", "x" * 81])
def test_ids_that_are_no_folder_names_are_refused(unit_id: str) -> None:
    with pytest.raises(ValidationError):
        UnitRecord(unit_id=unit_id, fold_id="2022", body={})


def test_units_stand_in_dependency_order(tmp_path: Path) -> None:
    job = job_of(package(tmp_path / "p"))
    with pytest.raises(ValidationError, match="stands before"):
        JobRecord.model_validate(job.model_dump() | {"units": tuple(reversed(job.units))})
    assert [unit.unit_id for unit in ready_units(job, frozenset())] == ["select0"]
    assert [unit.unit_id for unit in ready_units(job, frozenset({"select0"}))] == ["member0"]


def test_the_result_of_another_unit_is_quarantined_on_both_sides(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    job = job_of(package(tmp_path / "p"))
    mailbox = Mailbox(plain_remote)
    with sealing(tmp_path / "r", "unit", {"unit": {"seed": 1}}) as scratch:
        (scratch / "w").write_text("w")
    send_sealed(tmp_path / "r", plain_remote, "checkpoints/select0/result", "unit")
    assert mailbox.results_listed() == {"select0"}
    assert mailbox.fetch_result(job, "select0", tmp_path / "units", tmp_path / "q") is None
    assert mailbox.results_listed() == frozenset()
    assert len(list((tmp_path / "q").iterdir())) == 1
    assert plain_remote.list("quarantine") != ()
    send_sealed(tmp_path / "r", plain_remote, "checkpoints/member0/result", "unit")
    assert mailbox.fetch_result(job, "member0", tmp_path / "units", tmp_path / "q") == tmp_path / "units/member0/result"


def sealed_result(folder: Path, unit: UnitRecord, text: str) -> Path:
    with sealing(folder, "unit", {"unit": unit.body}) as scratch:
        (scratch / "w").write_text(text)
    return folder


def content(folder: Path) -> str:
    return verify(folder, "unit").content_sha256


def test_a_result_built_on_other_results_is_put_aside(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    job = job_of(package(tmp_path / "p"))
    select, member = job.units
    ours, theirs = (sealed_result(tmp_path / name, select, name) for name in ("ours", "theirs"))
    made = sealed_result(tmp_path / "member", member, "m")
    mailbox = Mailbox(plain_remote)

    def fetched() -> Path | None:
        root, built_on = tmp_path / "units", {"select0": content(ours)}
        return mailbox.fetch_result(job, "member0", root, tmp_path / "q", built_on=built_on)

    for built_on in ({"select0": content(theirs)}, {}):
        mailbox.send_result(job, "member0", made, built_on=built_on, by={"worker_id": "w", "token": 1})
        assert fetched() is None
        assert mailbox.results_listed() == frozenset()
    mailbox.send_result(job, "member0", made, built_on={"select0": content(ours)}, by={"worker_id": "w", "token": 2})
    assert fetched() == tmp_path / "units/member0/result"
    manifest = sent_manifest(plain_remote, result_name("member0"))
    assert manifest is not None
    assert manifest.meta["published"] == {
        "worker_id": "w",
        "token": 2,
        "job_id": job.job_id,
        "built_on": {"select0": content(ours)},
    }


def test_a_worker_builds_on_the_result_that_is_on_the_remote(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    job = job_of(package(tmp_path / "p"))
    mailbox, units = Mailbox(plain_remote), tmp_path / "units"
    assert mailbox.follow_result(job, "select0", units, tmp_path / "q") is None
    own = content(sealed_result(units / "select0" / "result", job.units[0], "made here"))
    assert mailbox.follow_result(job, "select0", units, tmp_path / "q") is None  # nobody else could build on it
    others = sealed_result(tmp_path / "other", job.units[0], "made there")
    mailbox.send_result(job, "select0", others, built_on={}, by={"worker_id": "w"})
    assert mailbox.follow_result(job, "select0", units, tmp_path / "q") == content(others) != own
    assert (units / "select0" / "result" / "w").read_text() == "made there"


def test_a_status_of_an_older_worker_is_read(plain_remote: FolderTransfer) -> None:
    old = {
        "worker_id": "w",
        "beat": 3,
        "heartbeat_at": "2026-11-23T00:00:00Z",
        "state": "training",
        "progress_frac": 0.5,
    }
    plain_remote.write_text("status/workers/w.json", json.dumps(old))
    (status,) = Mailbox(plain_remote).worker_statuses()
    assert (status.eta_seconds, status.steps, status.device) == (None, 0, "")


def test_files_that_are_no_text_or_have_a_strangers_name_stop_nobody(
    plain_remote: FolderTransfer, tmp_path: Path
) -> None:
    job = job_of(package(tmp_path / "p"))
    mailbox = Mailbox(plain_remote)
    mailbox.publish(job, tmp_path / "p")
    names = ["jobs/noise/state.json", f"jobs/{job.job_id[:-1]}/job.json", "status/workers/noise.json"]
    if os.name != "nt":
        names += ["jobs/a:b/state.json", "status/workers/a:b.json"]
    for name in (*names, result_name("select0") + "/manifest.json"):
        path = plain_remote.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xfe")
    plain_remote.write_text(f"jobs/{job.job_id[:-1]}/state.json", '{"state": "open"}')
    assert Mailbox(plain_remote).open_jobs() == (job,)
    assert mailbox.worker_statuses() == ()
    assert mailbox.fetch_result(job, "select0", tmp_path / "units", tmp_path / "q") is None
    assert mailbox.results_listed() == frozenset()
