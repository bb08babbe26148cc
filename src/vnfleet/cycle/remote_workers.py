"""What the workers of a remote are doing, for the desktop and the notebook."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from vnfleet.core.errors import VnfleetError
from vnfleet.remote.jobs import Mailbox, WorkerStatus
from vnfleet.remote.leases import LeaseTimes
from vnfleet.remote.opening import open_remote
from vnfleet.remote.transfer import Transfer

WORKER_COLUMNS = ("worker", "state", "unit", "progress", "left", "device", "last sign")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker: what it said last, and how many seconds ago by the clocks of both machines.

    is_silent : it should have said more by now; clocks of rented machines differ, so an hour off is not told apart.
    """

    said: WorkerStatus
    seconds_ago: float
    is_silent: bool

    @property
    def state(self) -> str:
        """The state in a word; a silent worker that had not stopped is told as silent."""
        return "silent" if self.is_silent else self.said.state

    def row(self) -> tuple[str | None, ...]:
        """Return what `WORKER_COLUMNS` shows."""
        said = self.said
        works = said.state in {"training", "publishing", "fetching"} and not self.is_silent
        stage = f", {said.stage}" if said.stage else ""
        steps = f" ({said.step} of {said.steps}{stage})" if said.steps else ""
        return (
            said.worker_id,
            self.state,
            said.unit_id or None,
            f"{said.progress_frac:.0%}{steps}" if works else None,
            time_words(said.eta_seconds) if works and said.eta_seconds is not None else None,
            said.device or None,
            f"{time_words(max(self.seconds_ago, 0.0))} ago",
        )

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values."""
        facts: dict[str, JsonValue] = self.said.model_dump(mode="json")
        return {**facts, "silent": self.is_silent, "seconds_ago": round(self.seconds_ago, 1)}


def workers_seen(remote: Transfer, now: datetime, times: LeaseTimes | None = None) -> tuple[WorkerView, ...]:
    """Return the workers of a remote at `now` (aware), those at work first; may raise `RemoteError`.

    A worker that has said nothing for as long as a lease lives is silent; one that stopped is not.
    """
    limit_seconds = (times or LeaseTimes()).lease_seconds
    newest: dict[str, WorkerStatus] = {}
    for said in Mailbox(remote).worker_statuses():  # a drive may hold two files of one name
        known = newest.get(said.worker_id)
        if known is None or known.heartbeat_at < said.heartbeat_at:
            newest[said.worker_id] = said
    views = []
    for said in newest.values():
        seconds = (now - said.heartbeat_at).total_seconds()
        silent = said.state != "stopped" and abs(seconds) > limit_seconds
        views.append(WorkerView(said=said, seconds_ago=seconds, is_silent=silent))
    order = ("training", "publishing", "fetching", "idle", "silent", "stopped")
    return tuple(sorted(views, key=lambda view: (order.index(view.state), view.said.worker_id)))


def look_at_workers(remote: str, now: datetime) -> tuple[tuple[WorkerView, ...], str]:
    """Return the workers of the remote that `remote` names, and why they cannot be seen; "" names none and shows none.

    For a status that must come up without its remote too.
    """
    if not remote:
        return (), ""
    try:
        return workers_seen(open_remote(remote), now), ""
    except VnfleetError as error:
        return (), f"the workers cannot be seen: {error.what}" + (f" (next: {error.fix})" if error.fix else "")


def time_words(seconds: float) -> str:
    """Return a time span for a person: "40 s", "12 min", "3.5 h", "2 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
