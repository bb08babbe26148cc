"""What lies on the remote, what of it nobody needs any more, and how to get the space back.

Nothing is removed by looking. What is offered for removal is old enough that nobody can be at work on it: a killed
upload, a job that is closed, an old release. What nobody of ours wrote is told and never touched.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue, ValidationError

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.sealed import MANIFEST_NAME
from vnfleet.cycle.mirror import MODELS, is_release_id, order_of
from vnfleet.cycle.remote_home import HOME_FOLDERS, PROBES
from vnfleet.cycle.wheel import NOTEBOOK_NAME, SETUP_NAME
from vnfleet.remote.entries import Entry, Space, is_leftover
from vnfleet.remote.jobs import JobRecord, JobState, parse_job
from vnfleet.remote.rclone import RemoteAbsentError, RemoteDamagedError
from vnfleet.remote.shards import OBJECTS, PACKAGES, read_index
from vnfleet.remote.transfer import Transfer

YOUNG = timedelta(hours=24)  # someone may still be at work on it, and clocks may be hours apart
IDLE = timedelta(days=14)
_OURS = {*HOME_FOLDERS, "jobs", "quarantine", "reports"}
_WHEEL = re.compile(r"vnfleet-[^/]+\.whl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waste:
    """Something that could go. kind : one of the words below. files, folders : what is removed, in this order.

    what : a sentence. num_bytes : what it takes. removable : False for what a person must look at first.
    """

    kind: str
    what: str
    num_bytes: int
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    removable: bool = True

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values."""
        return {
            "kind": self.kind,
            "what": self.what,
            "bytes": self.num_bytes,
            "files": list(self.files),
            "folders": list(self.folders),
            "removable": self.removable,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What a look found. sizes : (files, bytes) by top folder, "" for files at the root."""

    space: Space
    sizes: dict[str, tuple[int, int]]
    waste: tuple[Waste, ...]

    @property
    def removable(self) -> tuple[Waste, ...]:
        """What `clean` would remove."""
        return tuple(one for one in self.waste if one.removable)

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values."""
        return {
            "space": {
                "total_bytes": self.space.total_bytes,
                "used_bytes": self.space.used_bytes,
                "free_bytes": self.space.free_bytes,
                "trashed_bytes": self.space.trashed_bytes,
            },
            "folders": {name or ".": {"files": files, "bytes": size} for name, (files, size) in self.sizes.items()},
            "waste": [one.as_json() for one in self.waste],
            "removable_bytes": sum(one.num_bytes for one in self.removable),
        }


def audit(remote: Transfer, now: datetime, *, keep_releases: int = 5) -> Audit:
    """Look at everything at `now` (aware); the newest `keep_releases` finished releases are kept."""
    entries = remote.list(".", leftovers=True)
    sizes: dict[str, tuple[int, int]] = {}
    for entry in entries:
        top = entry.path.split("/")[0] if "/" in entry.path else ""
        files, size = sizes.get(top, (0, 0))
        sizes[top] = (files + 1, size + entry.size_bytes)
    look = _Look(remote=remote, now=now, entries=entries, keep_releases=keep_releases)
    return Audit(space=remote.about(), sizes=dict(sorted(sizes.items())), waste=tuple(look.waste()))


def clean(remote: Transfer, waste: Sequence[Waste], *, told: Callable[[str], None] = lambda _: None) -> int:
    """Remove what is removable of `waste` and return the bytes; on Google Drive they go to the trash first.

    May raise `RemoteError`; what was removed before stays removed, and running it again removes the rest.
    """
    freed = 0
    for one in waste:
        if not one.removable:
            continue
        told(one.what)
        for name in one.files:
            remote.delete(name)
        for name in one.folders:
            remote.delete(f"{name}/{MANIFEST_NAME}")  # what is half removed must not count
            remote.purge(name)
        freed += one.num_bytes
    return freed


def modified_at(entry: Entry) -> datetime | None:
    """Return when a file changed, as the remote tells: ISO 8601 (rclone) or nanoseconds (folders); None if neither."""
    if entry.modified.isdigit():
        return datetime.fromtimestamp(int(entry.modified) / 1e9, UTC)
    try:
        found = datetime.fromisoformat(entry.modified)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@dataclass(slots=True, kw_only=True)
class _Look:
    remote: Transfer
    now: datetime
    entries: Sequence[Entry]
    keep_releases: int
    _open_jobs: tuple[JobRecord, ...] = ()
    _closed: dict[str, JobRecord | None] = field(default_factory=dict)

    def waste(self) -> Iterator[Waste]:
        """Yield what could go."""
        self._read_jobs()
        yield from self._leftovers()
        yield from self._doubled()
        yield from self._releases()
        yield from self._jobs()
        yield from self._units()
        yield from self._data()
        yield from self._wheels()
        yield from self._loose("quarantine", "quarantine", "refused results and checkpoints", IDLE)
        yield from self._loose("probe", PROBES, "what `vnfleet remote check` left when it was stopped", YOUNG)
        yield from self._loose("worker", "status/workers", "what workers said that are gone since", IDLE)
        yield from self._strangers()

    def _read_jobs(self) -> None:
        open_jobs = []
        for job_id in sorted({entry.path.split("/")[1] for entry in self._below("jobs")}):
            try:
                state = JobState.model_validate_json(self.remote.read_text(f"jobs/{job_id}/state.json")).state
                job = parse_job(self.remote.read_text(f"jobs/{job_id}/job.json"))
            except UsageError:  # a stranger's name that no call could remove either
                continue
            except (RemoteAbsentError, RemoteDamagedError, ValidationError, BadDataError):
                self._closed[job_id] = None
                continue
            if state == "open":
                open_jobs.append(job)
            else:
                self._closed[job_id] = job
        self._open_jobs = tuple(open_jobs)

    def _leftovers(self) -> Iterator[Waste]:
        found = [entry for entry in self.entries if is_leftover(entry.path) and self._age(entry) > YOUNG]
        if found:
            yield Waste(
                kind="leftover",
                what=f"{_files(found)} that a killed upload left half written",
                num_bytes=_bytes(found),
                files=tuple(entry.path for entry in found),
            )

    def _doubled(self) -> Iterator[Waste]:
        counted = Counter(entry.path for entry in self.entries)
        twice = sorted(path for path, count in counted.items() if count > 1)
        for path in twice:
            copies = [entry for entry in self.entries if entry.path == path]
            yield Waste(
                kind="doubled",
                what=f"{path} is there {len(copies)} times: look which one is right, in the drive's own web page",
                num_bytes=_bytes(copies[1:]),
                removable=False,
            )

    def _releases(self) -> Iterator[Waste]:
        names = {entry.path.split("/")[1] for entry in self._below(MODELS) if entry.path.count("/") >= 2}
        known = sorted((name for name in names if is_release_id(name)), key=lambda name: (order_of(name), name))
        paths = {entry.path for entry in self.entries}
        whole = [name for name in known if f"{MODELS}/{name}/{MANIFEST_NAME}" in paths]
        for name in known:
            folder = f"{MODELS}/{name}"
            inside = self._below(folder)
            if name not in whole and self._idle(inside, YOUNG):
                words = f"{folder}: {_files(inside)} of a release that was never finished"
                yield Waste(kind="unfinished release", what=words, num_bytes=_bytes(inside), folders=(folder,))
            elif name in whole[: -self.keep_releases]:
                words = f"{folder}: an old version; the newest {self.keep_releases} stay"
                yield Waste(kind="old release", what=words, num_bytes=_bytes(inside), folders=(folder,))

    def _jobs(self) -> Iterator[Waste]:
        for job_id, job in self._closed.items():
            folders = [name for name in (f"jobs/{job_id}", f"status/{job_id}") if self._below(name)]
            inside = [entry for name in folders for entry in self._below(name)]
            if self._idle(inside, IDLE):
                words = f"jobs/{job_id}: {'a closed job' if job else 'a job that cannot be read'}, with its leases"
                yield Waste(kind="closed job", what=words, num_bytes=_bytes(inside), folders=tuple(folders))

    def _units(self) -> Iterator[Waste]:
        needed = {unit.unit_id for job in self._open_jobs for unit in job.units}
        units: dict[str, list[Entry]] = {}
        for entry in self._below("checkpoints"):
            units.setdefault(entry.path.split("/")[1], []).append(entry)
        orphans = {name: inside for name, inside in units.items() if name not in needed and self._idle(inside, IDLE)}
        if orphans:
            inside = [entry for one in orphans.values() for entry in one]
            yield Waste(
                kind="orphan",
                what=f"checkpoints of {len(orphans)} units that no open job needs ({_files(inside)})",
                num_bytes=_bytes(inside),
                folders=tuple(f"checkpoints/{name}" for name in sorted(orphans)),
            )

    def _data(self) -> Iterator[Waste]:
        packages = sorted(self._below(PACKAGES), key=lambda entry: (entry.modified, entry.path))
        wanted = {job.data_id for job in self._open_jobs}
        newest = {_id_of(entry) for entry in packages[-1:]}  # next week's package is built on it
        old = [entry for entry in packages if _id_of(entry) not in wanted | newest and self._age(entry) > IDLE]
        kept = {_id_of(entry) for entry in packages} - {_id_of(entry) for entry in old}
        needed = self._objects_of(kept)
        if needed is None:
            return
        objects = [entry for entry in self._below(OBJECTS) if not is_leftover(entry.path)]
        loose = [e for e in objects if e.path.rpartition("/")[2] not in needed and self._age(e) > YOUNG]
        gone = [*old, *loose]
        if gone:
            words = f"training data that no open job and not the newest package need ({_files(gone)})"
            yield Waste(kind="old data", what=words, num_bytes=_bytes(gone), files=tuple(entry.path for entry in gone))

    def _objects_of(self, data_ids: AbstractSet[str]) -> set[str] | None:
        """Return the objects of packages; None when one cannot be read, so that nothing can be said of any object."""
        found: set[str] = set()
        for data_id in sorted(data_ids):
            index = read_index(self.remote, data_id)
            if index is None:
                return None
            found |= index.objects()
        return found

    def _wheels(self) -> Iterator[Waste]:
        wheels = [entry for entry in self.entries if _WHEEL.fullmatch(entry.path)]
        if len(wheels) < 2:
            return
        try:
            script = self.remote.read_text(SETUP_NAME)
        except (RemoteAbsentError, RemoteDamagedError):
            return
        old = [entry for entry in wheels if entry.path not in script]
        if old and len(old) < len(wheels):
            words = f"{_files(old)}: wheels of earlier vnfleet versions that {SETUP_NAME} no longer installs"
            yield Waste(kind="old wheel", what=words, num_bytes=_bytes(old), files=tuple(entry.path for entry in old))

    def _loose(self, kind: str, folder: str, words: str, age: timedelta) -> Iterator[Waste]:
        found = [entry for entry in self._below(folder) if self._age(entry) > age and not is_leftover(entry.path)]
        if found:
            yield Waste(
                kind=kind,
                what=f"{folder}: {words} ({_files(found)})",
                num_bytes=_bytes(found),
                files=tuple(entry.path for entry in found),
            )

    def _strangers(self) -> Iterator[Waste]:
        at_root = (SETUP_NAME, NOTEBOOK_NAME)
        found = [
            entry
            for entry in self.entries
            if (entry.path.split("/")[0] not in _OURS if "/" in entry.path else entry.path not in at_root)
            and not _WHEEL.fullmatch(entry.path)
            and not is_leftover(entry.path)
        ]
        if found:
            names = sorted({entry.path.split("/")[0] for entry in found})
            words = f"not ours and never touched: {', '.join(names[:5])}{', ...' * (len(names) > 5)} ({_files(found)})"
            yield Waste(kind="stranger", what=words, num_bytes=_bytes(found), removable=False)

    def _below(self, folder: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.path.startswith(f"{folder}/")]

    def _age(self, entry: Entry) -> timedelta:
        """Return how old a file is; one of unknown age counts as new."""
        found = modified_at(entry)
        return timedelta(0) if found is None else self.now - found

    def _idle(self, entries: Sequence[Entry], age: timedelta) -> bool:
        return all(self._age(entry) > age for entry in entries)


def _id_of(entry: Entry) -> str:
    return entry.path.rpartition("/")[2].removesuffix(".json")


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(entry.size_bytes for entry in entries)


def _files(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} file{'s' * (len(entries) != 1)}"
