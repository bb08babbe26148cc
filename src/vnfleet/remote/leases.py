"""Leases on units of work: one small JSON file per unit, a fencing token that only grows, and a heartbeat.

A remote folder knows no atomic "create if absent", so a claim is written, left to settle and read back; the last
writer wins and the others see it. Work begins meanwhile, but nothing that others see: whoever writes renews first, and
a renewal waits until the claim has settled. A holder that cannot prove that it still holds its lease stops. Two workers
may still do the same unit for a while (that costs time, never correctness: results are verified and count once).
Clocks of rented machines differ, by hours too, so a lease is taken over only when it has expired *and* was seen
unchanged for two heartbeats on the observer's own clock, or was seen unchanged for as long as a lease lives.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from vnfleet.core.errors import RemoteError
from vnfleet.remote.rclone import RemoteAbsentError, RemoteDamagedError, RemoteUnavailableError
from vnfleet.remote.timing import SystemTiming, Timing
from vnfleet.remote.transfer import Transfer

LEASE_SUFFIX = ".lease.json"
_TORN = "not text"  # stands for a lease file that is no text: it is watched like any other torn one


class LeaseLostError(RemoteError):
    """Another worker holds the unit now, or this one could not renew its lease in time: stop, publish nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Times in seconds: how long a lease lives unrenewed, how often it is renewed, how long a claim settles."""

    lease_seconds: float = 300.0
    heartbeat_seconds: float = 30.0
    settle_seconds: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_seconds <= self.lease_seconds / 3 or self.settle_seconds < 0:
            raise ValueError(f"a lease must outlive three heartbeats: {self}")


class LeaseRecord(BaseModel):
    """The lease file. `token` grows with every new holder; `beat` with every renewal."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    unit_id: str
    worker_id: str
    token: int = Field(ge=1)
    state: Literal["held", "released"] = "held"
    beat: int = 0
    heartbeat_at: AwareDatetime
    expires_at: AwareDatetime

    def same_claim(self, other: LeaseRecord | None) -> bool:
        """Return whether `other` is the same claim, whatever its heartbeat."""
        return other is not None and (other.worker_id, other.token) == (self.worker_id, self.token)


class LeaseDesk:
    """Claims for one worker in the folder `status/<job_id>/`; no two living workers may have one id."""

    def __init__(self, remote: Transfer, worker_id: str, times: LeaseTimes, timing: Timing | None = None) -> None:
        self._remote = remote
        self._worker_id = worker_id
        self._times = times
        self._timing = timing or SystemTiming()
        self._watched: dict[str, tuple[str, float]] = {}

    def claim(self, folder: str, unit_id: str) -> HeldLease | None:
        """Return the lease on a unit, or None when another worker holds it; a race for it is decided by `renew`."""
        name = f"{folder}/{unit_id}{LEASE_SUFFIX}"
        text = _read_text(self._remote, name)
        before = _parse(text)
        if text is not None and not self._is_free(name, text, before):
            return None
        token = self._next_token(text, before)
        claim = self._fresh(unit_id, token, beat=0)
        written_at = self._timing.monotonic()
        self._remote.write_text(name, claim.model_dump_json())
        self._watched.pop(name, None)
        return HeldLease(self._remote, name, claim, self._times, written_at, self._timing)

    def _next_token(self, text: str | None, before: LeaseRecord | None) -> int:
        """Return a token above every earlier one; what a torn file held is not known, so the seconds since 1970."""
        if text is None:
            return 1
        return int(self._timing.now().timestamp()) if before is None else before.token + 1

    def _is_free(self, name: str, text: str, lease: LeaseRecord | None) -> bool:
        """Return whether a lease file may be taken over: released, our own, or run out while it was watched."""
        if lease is not None and (lease.state == "released" or lease.worker_id == self._worker_id):
            return True  # an id has one living process: what it held before it was killed is free at once
        seen_text, seen_at = self._watched.get(name, (None, 0.0))  # a torn file may be empty: that is seen anew too
        if seen_text != text:
            self._watched[name] = (text, self._timing.monotonic())
            return False
        unchanged_seconds = self._timing.monotonic() - seen_at
        if unchanged_seconds >= self._times.lease_seconds:  # whatever a clock says: no holder goes on after that
            return True
        if lease is None:  # torn or damaged: nobody can renew it, so it only has to stay that way
            return False
        expired = self._timing.now() >= lease.expires_at
        return expired and unchanged_seconds >= 2 * self._times.heartbeat_seconds

    def _fresh(self, unit_id: str, token: int, beat: int) -> LeaseRecord:
        now = self._timing.now()
        expires_at = now + timedelta(seconds=self._times.lease_seconds)
        return LeaseRecord(
            unit_id=unit_id, worker_id=self._worker_id, token=token, beat=beat, heartbeat_at=now, expires_at=expires_at
        )


class HeldLease:
    """A lease this worker holds. `renew` and `check` may be called from different threads."""

    def __init__(
        self,
        remote: Transfer,
        name: str,
        record: LeaseRecord,
        times: LeaseTimes,
        written_at: float,
        timing: Timing | None = None,
    ) -> None:
        self._timing = timing or SystemTiming()
        self._remote = remote
        self._name = name
        self._record = record
        self._times = times
        self._renewed_at = self._written_at = written_at
        self._lost_to: str | None = None
        self._lock = threading.Lock()

    @property
    def token(self) -> int:
        """The fencing token of this claim."""
        return self._record.token

    @property
    def worker_id(self) -> str:
        """Who holds it."""
        return self._record.worker_id

    def check(self) -> None:
        """Raise `LeaseLostError` when the lease is lost or could not be renewed in time (own monotonic clock)."""
        if self._lost_to is None and self._timing.monotonic() - self._renewed_at >= self._times.lease_seconds:
            self._lost_to = "nobody: it ran out before it could be renewed"
        if self._lost_to is not None:
            raise LeaseLostError("the lease on a unit was lost", where=self._name, found=f"now with {self._lost_to}")

    def renew(self) -> None:
        """Write the next heartbeat if the lease is still ours; raises `LeaseLostError` when it is not.

        The first time it waits until the claim has settled and looks whether another one came over it. A remote that
        does not answer is no loss yet: the lease lives until its time runs out.
        """
        with self._lock:
            self.check()
            with contextlib.suppress(RemoteUnavailableError):
                self._renew_if_ours()
            self.check()  # a renewal that took longer than a lease lives proves nothing

    def release(self) -> None:
        """Give the unit back at once (best effort: an unreachable remote lets the lease expire instead)."""
        with self._lock:
            try:
                self.check()
                if self._record.same_claim(_parse(_read_text(self._remote, self._name))):
                    released = self._record.model_copy(update={"state": "released"})
                    self._remote.write_text(self._name, released.model_dump_json())
            except RemoteError:
                return
            finally:
                self._lost_to = self._lost_to or "nobody: it was given back"

    def _renew_if_ours(self) -> None:
        settles_at = self._written_at + self._times.settle_seconds
        if self._timing.monotonic() < settles_at:  # only before the first renewal
            self._timing.sleep(settles_at - self._timing.monotonic())
        started = self._timing.monotonic()
        now = self._timing.now()
        found = _parse(_read_text(self._remote, self._name))
        # A lower token is an old copy of the file, or a holder before us that has not noticed yet: ours counts.
        if found is not None and not self._record.same_claim(found) and found.token >= self._record.token:
            self._lost_to = f"{found.worker_id} (token {found.token})"
        self.check()
        update = {
            "beat": self._record.beat + 1,
            "heartbeat_at": now,
            "expires_at": now + timedelta(seconds=self._times.lease_seconds),
        }
        renewed = self._record.model_copy(update=update)
        self._remote.write_text(self._name, renewed.model_dump_json())
        self._record, self._renewed_at = renewed, started


def _read_text(remote: Transfer, name: str) -> str | None:
    try:
        return remote.read_text(name)
    except RemoteAbsentError:
        return None
    except RemoteDamagedError:
        return _TORN


def _parse(text: str | None) -> LeaseRecord | None:
    if text is None:
        return None
    try:
        return LeaseRecord.model_validate_json(text)
    except ValidationError:
        return None
