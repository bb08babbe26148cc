"""The mailbox: what the desktop and its workers tell each other through a remote folder.

::

    jobs/<job_id>/job.json, state.json     what is to be done; written by the desktop, state last
    data/packages/<data_id>.json           what a package of training data is made of (`remote.shards`)
    data/objects/<sha256>                  its bytes in packs; only what changed since the last package travels
    status/<job_id>/<unit_id>.lease.json   who works on a unit (`remote.leases`)
    status/workers/<worker_id>.json        heartbeat, state, unit and progress of a worker
    checkpoints/<unit_id>/stages/...       checkpoints of a unit in work (`remote.carrying`)
    checkpoints/<unit_id>/result/          sealed result; the unit counts when it is whole and its hashes hold
    quarantine/                            refused results, for a person to look at

A job is data, never code: recipe, folds and units are JSON that the reader validates before use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import short_id
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, is_whole, verify
from vnfleet.remote.parcels import PUBLISHED, fetch_sealed, send_sealed, sent_manifest, set_aside, withdraw_parcel
from vnfleet.remote.rclone import RemoteAbsentError, RemoteDamagedError
from vnfleet.remote.shards import fetch_package, package_id, send_package
from vnfleet.remote.transfer import Transfer

JOB_SCHEMA_VERSION = 2
MOST_SECONDS = 1e7  # nobody means more than four months
WORKERS = "status/workers"
# What reading a small file of the mailbox meets: absent or renamed since the listing, no text, torn, a stranger's name.
_UNREADABLE = (ValidationError, BadDataError, RemoteAbsentError, RemoteDamagedError, UsageError)
# A path segment and nothing else: ids become folder names on every system.
Segment = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$")]
JsonObject = dict[str, JsonValue]


class UnitRecord(BaseModel):
    """One unit of a job: its identity, what it needs first, and the full work unit as JSON in `body`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    unit_id: Segment
    fold_id: str
    depends_on: tuple[Segment, ...] = ()
    body: JsonObject


class JobRecord(BaseModel):
    """What a worker needs to know, as data. Units stand in dependency order.

    `data_id` is the `package_id` of the sealed training data; `source_id` the hash of the code that planned the units:
    a worker with other code would give a result another name than it deserves, so it leaves the job alone.
    `libraries` are the versions the units were named with; a worker may have others within the range of this vnfleet.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = JOB_SCHEMA_VERSION
    recipe: JsonObject
    folds: tuple[JsonObject, ...]
    units: tuple[UnitRecord, ...]
    data_id: Segment
    data_kind: str
    result_kind: str
    source_id: str
    libraries: dict[str, str] = {}

    @property
    def job_id(self) -> str:
        """Identity of the contents: publishing the same job twice is one job."""
        return short_id(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _dependencies_come_first(self) -> Self:
        seen: set[str] = set()
        for unit in self.units:
            if unit.unit_id in seen or not seen.issuperset(unit.depends_on):
                raise ValueError(f"unit {unit.unit_id} is repeated or stands before what it depends on")
            seen.add(unit.unit_id)
        return self


class JobState(BaseModel):
    """Whether workers may claim units of a job."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: Literal["open", "closed"]
    reason: str = ""


Seconds = Annotated[float, Field(ge=0.0, le=MOST_SECONDS, allow_inf_nan=False)]


class WorkerStatus(BaseModel):
    """What a worker says about itself. `failed` maps units, `refused_jobs` jobs it will not touch to the reason.

    device : what it trains on, in words. stage, step, steps : where the unit is, of so many steps of its present stage.
    eta_seconds : until the unit is done, None while unknown; what later stages take counts once a unit of its kind was
    finished. seconds_by_kind : what units took it so far, by the kind in their body.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    worker_id: Segment
    beat: int
    heartbeat_at: AwareDatetime
    state: Literal["idle", "fetching", "training", "publishing", "stopped"]
    job_id: str = ""
    unit_id: str = ""
    progress_frac: float = Field(default=0.0, ge=0.0, le=1.0)
    stage: str = ""
    step: int = Field(default=0, ge=0)
    steps: int = Field(default=0, ge=0)
    eta_seconds: Seconds | None = None
    seconds_by_kind: dict[str, Seconds] = {}
    device: str = ""
    message: str = ""
    failed: dict[str, str] = {}
    refused_jobs: dict[str, str] = {}


class Mailbox:
    """The protocol above over one `Transfer`; every method may raise `RemoteError`."""

    def __init__(self, remote: Transfer) -> None:
        self.remote = remote
        self._closed: dict[str, str] = {}
        self._jobs: dict[str, JobRecord] = {}

    # Desktop.

    def publish(self, job: JobRecord, package: Path) -> int:
        """Upload what is new in the data package, then the job, then open it; return the bytes of data that travelled.

        Raises `BadDataError` when `package` does not verify or is not the data the job names.
        """
        found = package_id(verify(package, job.data_kind))
        if found != job.data_id:
            raise BadDataError("the package is not the job's data", where=package, expected=job.data_id, found=found)
        sent = send_package(package, self.remote, job.data_kind)
        self.remote.write_text(f"jobs/{job.job_id}/job.json", job.model_dump_json())
        self._set_state(job.job_id, JobState(state="open"))
        return sent

    def close(self, job_id: str, reason: str) -> None:
        """Stop workers from claiming further units of a job; units in work may still finish and count."""
        self._set_state(job_id, JobState(state="closed", reason=reason))

    def worker_statuses(self) -> tuple[WorkerStatus, ...]:
        """Return what workers last said; files that cannot be read are left out."""
        statuses: list[WorkerStatus] = []
        for entry in self.remote.list(WORKERS, "/*.json"):
            try:
                statuses.append(WorkerStatus.model_validate_json(self.remote.read_text(f"{WORKERS}/{entry.path}")))
            except _UNREADABLE:
                continue
        return tuple(statuses)

    # Worker.

    def open_jobs(self) -> tuple[JobRecord, ...]:
        """Return the open jobs, oldest state first. A job file that is damaged is left out; nothing of it is run."""
        jobs: list[JobRecord] = []
        for entry in sorted(self.remote.list("jobs", "/*/state.json"), key=lambda entry: (entry.modified, entry.path)):
            job_id = entry.path.split("/")[0]
            version = f"{entry.modified} {entry.size_bytes}"
            if self._closed.get(job_id) == version:
                continue
            try:
                state = JobState.model_validate_json(self.remote.read_text(f"jobs/{job_id}/state.json"))
                if state.state == "closed":
                    self._closed[job_id] = version
                    continue
                jobs.append(self._read_job(job_id))
            except _UNREADABLE:
                continue
        return tuple(jobs)

    def report(self, status: WorkerStatus) -> None:
        """Publish the status of a worker."""
        self.remote.write_text(f"{WORKERS}/{status.worker_id}.json", status.model_dump_json())

    def fetch_data(self, job: JobRecord, target: Path, quarantine: Path) -> Manifest:
        """Bring the job's data package to `target`, downloading what is not here; `BadDataError` when it is not whole.

        Its packs are kept beside `target` for the next package.
        """
        return fetch_package(self.remote, job.data_id, target, job.data_kind, quarantine=quarantine)

    def follow_result(self, job: JobRecord, unit_id: str, units_root: Path, quarantine: Path) -> str | None:
        """Bring the local result of a unit in line with the one on the remote and return its content hash.

        None when there is no whole one. What a worker builds on must be what everyone else builds on.
        """
        try:
            claimed = sent_manifest(self.remote, result_name(unit_id))
        except BadDataError:
            self._withdraw(unit_id)
            return None
        if claimed is None:
            return None
        target = units_root / unit_id / "result"
        if (
            is_whole(target, job.result_kind)
            and verify(target, job.result_kind).content_sha256 != claimed.content_sha256
        ):
            set_aside(target, quarantine)
        folder = self.fetch_result(job, unit_id, units_root, quarantine)
        return None if folder is None else verify(folder, job.result_kind).content_sha256

    def send_result(
        self,
        job: JobRecord,
        unit_id: str,
        folder: Path,
        *,
        built_on: Mapping[str, str],
        by: Mapping[str, JsonValue],
        before_manifest: Callable[[], None] = lambda: None,
    ) -> bool:
        """Publish a sealed result; return False when one is there. `by` says who made it, `built_on` see `carrying`."""
        published: dict[str, JsonValue] = {**by, "job_id": job.job_id, "built_on": dict(built_on)}
        name = result_name(unit_id)
        return send_sealed(folder, self.remote, name, job.result_kind, before_manifest, published=published)

    # Both.

    def results_listed(self) -> frozenset[str]:
        """Return the units whose result has a manifest (its hashes are proved by `fetch_result`)."""
        entries = self.remote.list("checkpoints", f"/*/result/{MANIFEST_NAME}")
        return frozenset(entry.path.split("/")[0] for entry in entries)

    def fetch_result(
        self,
        job: JobRecord,
        unit_id: str,
        units_root: Path,
        quarantine: Path,
        *,
        built_on: Mapping[str, str] | None = None,
    ) -> Path | None:
        """Return the local folder of a unit's verified result, downloading it if need be; None when there is none.

        A result that fails its hashes twice, belongs to another unit, or was built on other results than `built_on`
        (content hashes by unit; None: not asked), is moved to quarantine here and on the remote, so that the unit is
        open again; None is returned for it too. Whose result it is stands in the manifest: ``meta["unit"]`` is the
        work unit, as the engine wrote it.
        """
        planned = next((unit.body for unit in job.units if unit.unit_id == unit_id), None)

        def accept(manifest: Manifest) -> None:
            if manifest.meta.get("unit") != planned:
                raise BadDataError("this is the result of another unit", where=unit_id, expected=planned)
            if built_on and built_on_of(manifest) != dict(built_on):
                raise BadDataError("this result was built on other results", where=unit_id, expected=dict(built_on))

        target = units_root / unit_id / "result"
        name = result_name(unit_id)
        try:
            manifest = fetch_sealed(self.remote, name, target, job.result_kind, quarantine=quarantine, accept=accept)
        except BadDataError:
            self._withdraw(unit_id)
            return None
        return None if manifest is None else target

    def _withdraw(self, unit_id: str) -> None:
        """Open a unit again whose result must not be used."""
        with contextlib.suppress(RemoteAbsentError):  # someone else was faster
            withdraw_parcel(self.remote, result_name(unit_id))

    def _read_job(self, job_id: str) -> JobRecord:
        if job_id not in self._jobs:
            job = parse_job(self.remote.read_text(f"jobs/{job_id}/job.json"))
            if job.job_id != job_id:
                raise BadDataError("a job file was changed", expected=job_id, found=job.job_id)
            self._jobs[job_id] = job
        return self._jobs[job_id]

    def _set_state(self, job_id: str, state: JobState) -> None:
        self.remote.write_text(f"jobs/{job_id}/state.json", state.model_dump_json())


def built_on_of(manifest: Manifest) -> JsonValue:
    """Return the content hashes of the results that a published one says it was built on; None when it does not say."""
    published = manifest.meta.get(PUBLISHED)
    return published.get("built_on") if isinstance(published, dict) else None


def result_name(unit_id: str) -> str:
    """Return where a unit's result lies on the remote."""
    return f"checkpoints/{unit_id}/result"


def parse_job(text: str) -> JobRecord:
    """Return the job in `text`; raises `BadDataError` on anything else, or on a newer schema."""
    try:
        job = JobRecord.model_validate_json(text)
    except ValidationError as error:
        raise BadDataError("a job file is damaged", found=str(error).splitlines()[:3]) from error
    if job.schema_version > JOB_SCHEMA_VERSION:
        raise BadDataError("a job was written by a newer vnfleet", found=job.schema_version, fix="upgrade vnfleet")
    return job


def ready_units(job: JobRecord, done: frozenset[str]) -> Sequence[UnitRecord]:
    """Return the units of a job that are not done and whose dependencies all are, in job order."""
    return [unit for unit in job.units if unit.unit_id not in done and done.issuperset(unit.depends_on)]
