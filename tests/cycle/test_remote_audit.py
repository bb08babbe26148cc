"""What lies on a remote that nobody needs: told, removed only when asked, and never what someone may need."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from vnfleet.core.sealed import MANIFEST_NAME, sealing, verify
from vnfleet.cycle.remote_audit import Audit, audit, clean, modified_at
from vnfleet.cycle.wheel import SETUP_NAME
from vnfleet.remote.entries import Entry
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord
from vnfleet.remote.shards import package_id

NOW = datetime(2026, 11, 23, tzinfo=UTC)


class Home:
    """A remote whose files are as old as a test says."""

    def __init__(self, root: Path) -> None:
        self.root = root / "home"
        self.remote = FolderTransfer(self.root)
        self.scratch = root

    def put(self, name: str, *, days: float = 30.0, text: str = "0123456789") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.age(name, days)

    def age(self, name: str, days: float) -> None:
        path = self.root / name
        for one in [path] if path.is_file() else path.rglob("*"):
            moment = (NOW - timedelta(days=days)).timestamp()
            os.utime(one, (moment, moment))

    def job(self, value: int, *, state: str = "open", days: float = 30.0) -> JobRecord:
        """Publish a job of two units with data of its own."""
        package = self.scratch / f"package{value}"
        with sealing(package, "training-data", {"n": value}) as folder:
            (folder / "values.bin").write_bytes(np.full(64, value, dtype=np.uint8).tobytes())
        job = JobRecord(
            recipe={},
            folds=(),
            units=tuple(UnitRecord(unit_id=f"unit{value}{end}", fold_id="2026", body={}) for end in "ab"),
            data_id=package_id(verify(package, "training-data")),
            data_kind="training-data",
            result_kind="unit",
            source_id="s",
        )
        mailbox = Mailbox(self.remote)
        mailbox.publish(job, package)
        if state == "closed":
            mailbox.close(job.job_id, "done")
        self.put(f"status/{job.job_id}/unit{value}a.lease.json", days=days)
        self.put(f"checkpoints/unit{value}a/result/w", days=days)
        for name in (f"jobs/{job.job_id}", f"data/packages/{job.data_id}.json"):
            self.age(name, days)
        return job

    def audit(self) -> Audit:
        return audit(self.remote, NOW, keep_releases=2)

    def paths(self) -> set[str]:
        return {entry.path for entry in self.remote.list(".", leftovers=True)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def kinds(found: Audit) -> list[str]:
    return [one.kind for one in found.waste]


def test_an_empty_home_has_space_and_no_waste(home: Home) -> None:
    home.root.mkdir()
    found = home.audit()
    assert found.waste == ()
    assert (found.space.total_bytes or 0) >= (found.space.free_bytes or 0) > 0


def test_sizes_are_told_by_folder(home: Home) -> None:
    home.put("models/notes.txt")
    home.put("data/a/b", text="123")
    home.put(SETUP_NAME, text="1")
    assert home.audit().sizes == {"": (1, 1), "data": (1, 3), "models": (1, 10)}


def test_old_and_unfinished_releases_go_the_newest_stay(home: Home) -> None:
    ids = [f"2026-11-{day:02d}-{seq:03d}-0123abcd" for day, seq in ((6, 1), (13, 2), (20, 10))]
    for name in ids:
        home.put(f"models/{name}/FPT_stockformer.pt")
        home.put(f"models/{name}/{MANIFEST_NAME}")
    torn, arriving = "2026-11-20-003-00000000", "2026-11-20-011-00000000"
    home.put(f"models/{torn}/FPT_stockformer.pt", days=2)
    home.put(f"models/{arriving}/FPT_stockformer.pt", days=0.1)
    found = home.audit()
    assert {one.folders[0]: (one.kind, one.num_bytes) for one in found.removable} == {
        f"models/{ids[0]}": ("old release", 20),
        f"models/{torn}": ("unfinished release", 10),
    }
    assert clean(home.remote, found.waste) == 30
    assert {path.split("/")[1] for path in home.paths()} == {ids[1], ids[2], arriving}
    assert home.audit().waste == ()


def test_what_an_open_job_needs_stays_and_what_a_closed_one_left_goes(home: Home) -> None:
    closed = home.job(1, state="closed")
    working = home.job(2, days=20)
    found = home.audit()
    assert sorted(kinds(found)) == ["closed job", "old data", "orphan"]
    clean(home.remote, found.waste)
    left = home.paths()
    assert not [path for path in left if closed.job_id in path or "unit1a" in path or closed.data_id in path]
    assert {f"jobs/{working.job_id}/state.json", f"data/packages/{working.data_id}.json"} <= left
    assert "checkpoints/unit2a/result/w" in left
    assert Mailbox(home.remote).open_jobs() == (working,)
    package = home.scratch / "again"
    assert Mailbox(home.remote).fetch_data(working, package, home.scratch / "quarantine") is not None
    assert home.audit().waste == ()


def test_the_newest_package_stays_even_when_no_job_is_open(home: Home) -> None:
    job = home.job(1, state="closed", days=400)
    clean(home.remote, home.audit().waste)
    assert f"data/packages/{job.data_id}.json" in home.paths()
    assert [path for path in home.paths() if path.startswith("data/objects/")]


def test_young_things_stay_whatever_they_are(home: Home) -> None:
    home.put("checkpoints/unit9/result/w", days=13)
    home.put("models/.x.pt.tmp-0123abcd", days=0.5)
    home.put("quarantine/unit9/manifest.json", days=13)
    home.put("status/workers/w.json", days=13)
    assert home.audit().waste == ()


def test_objects_are_left_alone_while_a_package_cannot_be_read(home: Home) -> None:
    home.job(2)
    home.put("data/objects/" + "0" * 64)
    assert "old data" in kinds(home.audit())
    home.put("data/packages/damaged.json", days=0.1, text="{")
    assert "old data" not in kinds(home.audit())


def test_leftovers_probes_workers_and_quarantine_go(home: Home) -> None:
    for name in ("models/.a.pt.tmp-0123abcd", "data/b.partial", "status/probes/x.bin"):
        home.put(name, days=2)
    for name in ("status/workers/w.json", "quarantine/unit9/manifest.json"):
        home.put(name)
    found = home.audit()
    assert sorted(kinds(found)) == ["leftover", "probe", "quarantine", "worker"]
    told: list[str] = []
    assert clean(home.remote, found.waste, told=told.append) == 50
    assert len(told) == 4
    assert home.paths() == set()


def test_only_the_wheel_that_the_script_installs_stays(home: Home) -> None:
    old, new = "vnfleet-0.0.9-py3-none-any.whl", "vnfleet-0.1.0-py3-none-any.whl"
    home.put(old)
    home.put(new)
    assert home.audit().waste == ()  # without a script nobody knows which one counts
    home.put(SETUP_NAME, text=f'WHEEL_NAME = "{new}"')
    found = home.audit()
    assert [one.files for one in found.removable] == [(old,)]


def test_strangers_and_doubles_are_told_and_never_touched(home: Home) -> None:
    home.put("holiday.jpg")
    home.put("Photos/a.jpg")
    home.put("configs/a.json")
    home.put("configs/a (1).json")
    found = home.audit()
    assert kinds(found) == ["doubled", "stranger"]
    assert found.removable == ()
    before = home.paths()
    assert clean(home.remote, found.waste) == 0
    assert home.paths() == before


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        (f"{1763856000 * 10**9:020d}", datetime(2025, 11, 23, tzinfo=UTC)),
        ("2025-11-23T00:00:00.123456789Z", datetime(2025, 11, 23, 0, 0, 0, 123456, tzinfo=UTC)),
        ("2025-11-23T07:00:00+07:00", datetime(2025, 11, 23, tzinfo=UTC)),
        ("", None),
        ("yesterday", None),
    ],
)
def test_times_of_folders_and_of_rclone_are_understood(told: str, meant: datetime | None) -> None:
    assert modified_at(Entry(path="a", size_bytes=1, modified=told)) == meant
