"""The desktop's side of remote training: publish a job, collect verified results, and know when to stop waiting.

Whatever is still open when the deadline nears, or when no worker shows a sign of life, is returned to the caller, who
trains it on the local CPU. Nothing is lost: finished units are sealed in `checkpoints/` and reused. A result counts
only when it was built on the very results that lie here, so that a set is never mixed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path

from vnfleet.core.atomic import write_text
from vnfleet.core.clock import ICT
from vnfleet.core.errors import BadDataError, RemoteError, UsageError
from vnfleet.core.sealed import verify
from vnfleet.cycle.pace import seconds_left
from vnfleet.remote.carried import remove_checkpoints, units_with_checkpoints
from vnfleet.remote.jobs import JobRecord, Mailbox, UnitRecord, WorkerStatus, ready_units, result_name
from vnfleet.remote.parcels import sent_manifest, withdraw_parcel
from vnfleet.remote.rclone import RemoteAbsentError, RemoteUnavailableError
from vnfleet.remote.shards import send_package
from vnfleet.remote.timing import SystemTiming, Timing
from vnfleet.remote.transfer import Transfer
from vnfleet.training.machine.budget import SLACK_FRAC, duration_words, parse_deadline

_MONDAY, _OPENING = 0, time(8, 45)
_LOOK_AGAIN_SECONDS = 300.0  # how often the desktop looks whether what it published is still there
_SURE = 2.0  # workers that will need half of the time left are trusted with it, although then none is left for here


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTraining:
    """What came back: ids of units with a verified local result, ids still open (in job order), and why it ended.

    sent_bytes : training data that travelled to the remote.
    """

    job_id: str
    finished: tuple[str, ...]
    open_units: tuple[str, ...]
    reason: str
    sent_bytes: int = 0


def deadline_of(text: str, now: datetime) -> datetime:
    """Return the moment by which a week has to be done: `text` as under [machine] deadline, or Monday 08:45 ICT.

    A moment that has passed is `now`: a week that goes on after its deadline waits for nobody.
    """
    if text.strip():
        try:
            return parse_deadline(text, now)
        except UsageError:
            return now
    here = now.astimezone(ICT)
    monday = here.date() + timedelta(days=(_MONDAY - here.weekday()) % 7)
    opening = datetime.combine(monday, _OPENING, ICT)
    return opening if opening > here else opening + timedelta(days=7)


def train_remotely(
    job: JobRecord,
    package: Path,
    remote: Transfer,
    workdir: Path,
    *,
    poll_seconds: float = 30.0,
    grace_seconds: float = 900.0,
    deadline: datetime | None = None,
    wait_seconds: float | None = None,
    seconds_here: Callable[[Sequence[str]], float] | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    timing: Timing | None = None,
) -> RemoteTraining:
    """Publish `job` and collect results into ``workdir/checkpoints/<unit_id>/result`` until it is done or hopeless.

    What is open is returned, with the reason, when

    - no worker showed a heartbeat for `grace_seconds`, or none of those alive can do what is left;
    - `deadline` (aware) or `wait_seconds` is over;
    - `seconds_here` (what training the given units here takes at the least) says that there is just time left for that,
      unless the workers say that they need less than half of it;
    - without `seconds_here`: what the workers still need has not fitted before `deadline` for `grace_seconds`.

    `progress` is told (units finished, units in all, note) after every poll.

    Raises `RemoteError` when the remote refuses for good while the job is published (to stay silent for `grace_seconds`
    is a reason to return instead), and `BadDataError` when `package` is damaged or is not the job's data.
    """
    terms = _Terms(grace_seconds=grace_seconds, deadline=deadline, wait_seconds=wait_seconds, seconds_here=seconds_here)
    desk = _Desk(job, Mailbox(remote), workdir, terms, timing or SystemTiming())
    if desk.is_done():
        return desk.outcome("everything was finished already")
    unpublished = desk.publish(package, poll_seconds)
    if unpublished is not None:
        return desk.outcome(unpublished)
    reason = desk.wait(package, poll_seconds, progress)
    with contextlib.suppress(RemoteError):  # a job that stays open costs a worker's time, never correctness
        desk.mailbox.close(job.job_id, reason)
        desk.tidy()
    return desk.outcome(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """How long is waited; see `train_remotely`."""

    grace_seconds: float
    deadline: datetime | None
    wait_seconds: float | None
    seconds_here: Callable[[Sequence[str]], float] | None


class _Desk:
    """The state of one wait."""

    def __init__(self, job: JobRecord, mailbox: Mailbox, workdir: Path, terms: _Terms, timing: Timing) -> None:
        self.job = job
        self.mailbox = mailbox
        self.sent_bytes = 0
        self._units_root = workdir / "checkpoints"
        self._quarantine = workdir / "quarantine"
        self._published = workdir / "data" / "published_jobs.txt"
        self._terms = terms
        self._timing = timing
        self._beats: dict[str, tuple[int, float]] = {}
        self._started_at = self._alive_at = self._looked_at = timing.monotonic()
        self._late_since: float | None = None
        self._finished = {
            unit.unit_id: content for unit in job.units if (content := self._local(unit.unit_id)) is not None
        }

    def is_done(self) -> bool:
        """Return whether every unit has a verified local result."""
        return len(self._finished) == len(self.job.units)

    def outcome(self, reason: str) -> RemoteTraining:
        """Return what is finished and what is open."""
        ids = [unit.unit_id for unit in self.job.units]
        return RemoteTraining(
            job_id=self.job.job_id,
            finished=tuple(one for one in ids if one in self._finished),
            open_units=tuple(one for one in ids if one not in self._finished),
            reason=reason,
            sent_bytes=self.sent_bytes,
        )

    def publish(self, package: Path, poll_seconds: float) -> str | None:
        """Publish the job and what is finished of it; return why that was not possible, None when it is done.

        Jobs of this work directory that a desktop killed while it waited left open are closed: workers would do them
        first, and nobody waits for them.
        """
        earlier = self._published_before()
        write_text(self._published, "\n".join([*earlier, self.job.job_id]) + "\n")
        while True:
            try:
                self.sent_bytes += self.mailbox.publish(self.job, package)
                for job in self.mailbox.open_jobs() if earlier else ():
                    if job.job_id in earlier:
                        self.mailbox.close(job.job_id, f"its desktop waits for {self.job.job_id} now")
                self.share_local_results()
            except RemoteUnavailableError as error:
                if self._timing.monotonic() - self._started_at >= self._terms.grace_seconds:
                    return f"the job could not be published: {error.what}"
                self._timing.sleep(poll_seconds)
            else:
                write_text(self._published, f"{self.job.job_id}\n")
                self._looked_at = self._started_at = self._alive_at = self._timing.monotonic()
                return None

    def _published_before(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return [one for one in self._published.read_text(encoding="utf-8").split() if one != self.job.job_id]
        return []

    def _publish_what_vanished(self, package: Path) -> None:
        """Send again what a worker put aside as damaged, or what the remote lost or tore, now and then."""
        now = self._timing.monotonic()
        if now - self._looked_at >= min(_LOOK_AGAIN_SECONDS, self._terms.grace_seconds):
            self._looked_at = now
            self.sent_bytes += send_package(package, self.mailbox.remote, self.job.data_kind)
            if all(job.job_id != self.job.job_id for job in self.mailbox.open_jobs()):
                self.sent_bytes += self.mailbox.publish(self.job, package)

    def share_local_results(self, listed: frozenset[str] = frozenset()) -> None:
        """Upload finished local results that open units need and are not `listed`: no worker is to do them again."""
        needed = {one for unit in self.job.units if unit.unit_id not in self._finished for one in unit.depends_on}
        for unit in self.job.units:
            if unit.unit_id in (needed & self._finished.keys()) - listed:
                self._share(unit)

    def _share(self, unit: UnitRecord) -> None:
        """Make the result on the remote the one that lies here: what others build on it has to fit it."""
        name = result_name(unit.unit_id)
        with contextlib.suppress(BadDataError):
            there = sent_manifest(self.mailbox.remote, name)
            if there is not None and there.content_sha256 == self._finished[unit.unit_id]:
                return
        with contextlib.suppress(RemoteAbsentError):
            withdraw_parcel(self.mailbox.remote, name)
        self.mailbox.send_result(
            self.job,
            unit.unit_id,
            self._units_root / unit.unit_id / "result",
            built_on=self._built_on(unit),
            by={"worker_id": "desktop"},
        )

    def wait(self, package: Path, poll_seconds: float, progress: Callable[[int, int, str], None]) -> str:
        """Collect results until there is a reason to stop; return it."""
        while True:
            try:
                self._publish_what_vanished(package)
                listed = self.mailbox.results_listed()
                self._collect(listed)
                self.share_local_results(listed)
                alive = self._alive_workers()
                note = f"{len(alive)} worker(s) alive"
            except RemoteError as error:
                alive, note = {}, f"the remote does not answer: {error.what}"
            left = self._seconds_left(alive)
            words = "" if left is None or self.is_done() else f", they need about {duration_words(left)}"
            progress(len(self._finished), len(self.job.units), note + words)
            reason = self._reason_to_stop(alive, left, note)
            if reason is not None:
                return reason
            self._timing.sleep(poll_seconds)

    def tidy(self) -> None:
        """Remove the checkpoints of finished units from the remote, such as those of a worker that was too late."""
        for unit_id in sorted(units_with_checkpoints(self.mailbox.remote) & self._finished.keys()):
            remove_checkpoints(self.mailbox.remote, unit_id)

    def _collect(self, listed: frozenset[str]) -> None:
        for unit in self.job.units:
            if unit.unit_id in self._finished or unit.unit_id not in listed:
                continue
            if not self._finished.keys() >= set(unit.depends_on):
                continue  # whether it was built on the right ones cannot be said yet
            folder = self.mailbox.fetch_result(
                self.job, unit.unit_id, self._units_root, self._quarantine, built_on=self._built_on(unit)
            )
            if folder is not None:
                self._finished[unit.unit_id] = verify(folder, self.job.result_kind).content_sha256
                with contextlib.suppress(RemoteError):
                    remove_checkpoints(self.mailbox.remote, unit.unit_id)
            else:
                self._share_what_is_needed(unit)

    def _share_what_is_needed(self, unit: UnitRecord) -> None:
        for needed in self.job.units:
            if needed.unit_id in unit.depends_on:
                self._share(needed)

    def _built_on(self, unit: UnitRecord) -> dict[str, str]:
        return {needed: self._finished[needed] for needed in unit.depends_on}

    def _seconds_left(self, alive: Mapping[str, WorkerStatus]) -> float | None:
        able = [status for status in alive.values() if self._refusal(status) is None]
        unfinished = [unit for unit in self.job.units if unit.unit_id not in self._finished]
        return seconds_left(unfinished, able, self.job.job_id)

    def _reason_to_stop(self, alive: Mapping[str, WorkerStatus], left: float | None, note: str) -> str | None:
        if self.is_done():
            return "done"
        now, terms = self._timing.monotonic(), self._terms
        if terms.wait_seconds is not None and now - self._started_at >= terms.wait_seconds:
            return f"waited for {duration_words(terms.wait_seconds)}"
        late = self._too_late(left)
        if late is not None:
            return late
        if alive:
            self._alive_at = now
        elif now - self._alive_at >= terms.grace_seconds:
            return f"no worker showed a heartbeat for {terms.grace_seconds:.0f} s ({note})"
        refusals = [self._refusal(status) for status in alive.values()]
        given_up = [refusal for refusal in refusals if refusal is not None]
        if given_up and len(given_up) == len(refusals):
            return f"no worker can do what is left: {given_up[0]}"
        return None

    def _too_late(self, left: float | None) -> str | None:
        """Return why there is no time left to wait, or None; `left` are the seconds the workers still need."""
        terms = self._terms
        if terms.deadline is None:
            return None
        there_is = (terms.deadline - self._timing.now()).total_seconds()
        if there_is <= 0:
            return "the deadline is near"
        if terms.seconds_here is not None:
            here = terms.seconds_here([unit.unit_id for unit in self.job.units if unit.unit_id not in self._finished])
            if here * (1.0 + SLACK_FRAC) < there_is or (left is not None and _SURE * left <= there_is):
                return None
            return f"the deadline is near: {duration_words(there_is)} are left, training the rest here takes as long"
        now, is_late = self._timing.monotonic(), left is not None and left > there_is
        self._late_since = (now if self._late_since is None else self._late_since) if is_late else None
        if left is None or self._late_since is None or now - self._late_since < terms.grace_seconds:
            return None
        return f"the workers need {duration_words(left)} more, {duration_words(there_is)} are left before the deadline"

    def _refusal(self, status: WorkerStatus) -> str | None:
        """Return why a worker will do nothing more for this job, or None when it may."""
        ready = [unit.unit_id for unit in ready_units(self.job, frozenset(self._finished))]
        if ready and all(unit_id in status.failed for unit_id in ready):
            return status.failed[ready[0]]
        return status.refused_jobs.get(self.job.job_id)

    def _alive_workers(self) -> dict[str, WorkerStatus]:
        """Return workers whose heartbeat moved within the grace period, on this machine's own clock."""
        now = self._timing.monotonic()
        alive: dict[str, WorkerStatus] = {}
        for status in self.mailbox.worker_statuses():
            beat, changed_at = self._beats.get(status.worker_id, (-1, 0.0))
            if beat != status.beat:
                # At first sight only the file's own time tells an old worker from a living one.
                age = (self._timing.now() - status.heartbeat_at).total_seconds() if beat < 0 else 0.0
                changed_at = now - max(0.0, age)
                self._beats[status.worker_id] = (status.beat, changed_at)
            if status.state != "stopped" and now - changed_at < self._terms.grace_seconds:
                alive[status.worker_id] = status
        return alive

    def _local(self, unit_id: str) -> str | None:
        """Return the content hash of a unit's result here; None when there is no whole one."""
        try:
            return verify(self._units_root / unit_id / "result", self.job.result_kind).content_sha256
        except BadDataError:
            return None
