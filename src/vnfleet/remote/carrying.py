"""Checkpoints on their way: carried to the remote while training goes on, and fetched by whoever takes a unit over.

::

    checkpoints/<unit_id>/stages/<stage>/t<token>-s<step>-<claim>/    one checkpoint, sealed, manifest last

A checkpoint counts only when its manifest is there and its hashes hold. Its name and its manifest hold the fencing
token of the lease it was made under: of one stage the highest token counts, then the highest step, so that a worker
which lost its lease and has not noticed yet never displaces the work of its successor. Names are never used twice.
Stages that stand on each other are taken over together: the end of one from here with the next from there would be
the work of nobody.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from vnfleet.core.atomic import discard, replace
from vnfleet.core.errors import BadDataError, RemoteError, ResourceError
from vnfleet.core.ids import canonical_json, short_id
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, is_whole, sealing, verify
from vnfleet.remote.carried import (
    BUILT_ON_NAME,
    CARRIED_KIND,
    CHECKPOINT_KIND,
    ENVIRONMENT_NAME,
    KEPT_CHECKPOINTS,
    LOCAL_NAME,
    STAGE_NAME,
    Candidate,
    CarriedFacts,
    Progress,
    carried_content,
    cuts_of,
    empty_unit,
    link,
    link_folder,
    listed_checkpoints,
    local_progress,
    newest_checkpoints,
    newest_contents,
    rank_of,
    remember_built_on,
    stages_of,
)
from vnfleet.remote.leases import HeldLease, LeaseLostError
from vnfleet.remote.parcels import fetch_sealed, send_sealed, sent_manifest
from vnfleet.remote.rclone import RemoteUnavailableError
from vnfleet.remote.timing import Recurring, SystemTiming, Timing
from vnfleet.remote.transfer import Transfer

_INNER = "checkpoint"
_LOOK_SECONDS, _PAUSE_SECONDS = 10.0, 20.0


class CheckpointSink(Protocol):
    """Told of every new checkpoint (`training.checkpoint.CheckpointSink`)."""

    def saved(self, checkpoint: Path, /) -> None:
        """Take note of `checkpoint`, a sealed folder ``<unit>/<stage>/ckpt-<step>`` that may be gone soon."""
        ...


class Carrier:
    """The checkpoints of one unit under one lease, between its local folder and the remote. A `CheckpointSink`.

    Parameters
    ----------
    folder : the unit's folder ``checkpoints/<unit_id>`` on this machine.
    outbox : a folder of this machine for what is about to be sent (on the same disk: nothing is copied then).
    built_on : content hashes of the results this unit depends on; what was built on others is not taken over.
    say : told what a person should know.
    """

    def __init__(
        self,
        remote: Transfer,
        unit_id: str,
        held: HeldLease,
        folder: Path,
        outbox: Path,
        *,
        built_on: Mapping[str, str],
        timing: Timing | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._remote, self._unit_id, self._held, self._folder = remote, unit_id, held, folder
        self._outbox = outbox / f"{unit_id}-t{held.token}"
        self._built_on, self._timing, self._say = dict(built_on), timing or SystemTiming(), say
        self._claim = short_id([held.worker_id, held.token])[:6]
        self._lock = threading.Lock()
        self._waiting: dict[str, Path] = {}
        self._known: dict[str, list[str]] = {}
        self._beside: dict[str, dict[str, str]] = {}
        self._order = 0
        self._sent_at = -math.inf
        self._loop: Recurring | None = None
        self._gave_up = False

    # The training thread.

    def saved(self, checkpoint: Path, /) -> None:
        """Put `checkpoint` into the outbox in place of an older one of its stage that still waits; never blocks."""
        stage = checkpoint.parent.name
        if self._gave_up or LOCAL_NAME.fullmatch(checkpoint.name) is None or STAGE_NAME.fullmatch(stage) is None:
            return
        self._order += 1
        kept = self._outbox / f"{self._order:06d}" / checkpoint.name
        try:
            link_folder(checkpoint, kept / _INNER)
            environment = self._folder / ENVIRONMENT_NAME
            if environment.is_file():
                shutil.copyfile(environment, kept / ENVIRONMENT_NAME)
            self._beside[kept.parent.name] = newest_contents(self._folder, without=stage)
        except (
            OSError,
            BadDataError,
        ) as error:  # no room here: the checkpoint itself is safe, only its copy does not travel
            discard(kept.parent)
            self._say(f"a checkpoint of {self._unit_id} could not be put aside for sending: {error}")
            return
        with self._lock:
            older = self._waiting.pop(stage, None)
            self._waiting[stage] = kept
        if older is not None:
            discard(older.parent)
        if self._loop is not None:
            self._loop.wake()

    def start(self) -> None:
        """Begin to carry in the background, first what is here and not there (ask `restore` before)."""
        discard(self._outbox)
        for stage, checkpoint in newest_checkpoints(self._folder).items():
            step = int(checkpoint.name.removeprefix("ckpt-"))
            if all(rank_of(name)[1] != step for name in self._known.get(stage, [])):
                self.saved(checkpoint)  # made here before a restart and never sent: what follows stands on it
        self._loop = self._timing.every(_LOOK_SECONDS, "checkpoints", self.carry)

    def stop(self) -> None:
        """Stop carrying; what still waits is dropped."""
        if self._loop is not None:
            self._loop.stop()
            self._loop = None
        discard(self._outbox)

    # The background.

    def carry(self) -> None:
        """Send what waits, the stage that waited longest first, unless something was sent just now.

        A remote that does not answer is tried again later.
        """
        if self._timing.monotonic() - self._sent_at < _PAUSE_SECONDS:
            return  # every call costs a cloud drive's quota and this machine's time; the newest goes next time
        with self._lock:
            stages = list(self._waiting)
        for stage in stages:
            if self._gave_up:
                return
            with self._lock:
                kept = self._waiting.pop(stage)  # a newer one may wait meanwhile, this one is not taken away
            try:
                self._held.check()
                self._send(stage, kept)
                self._sent_at = self._timing.monotonic()
            except RemoteUnavailableError:
                self._wait_again(stage, kept)
                return
            except LeaseLostError:
                self._gave_up = True  # the unit's own thread meets it at its next step
                return
            except (RemoteError, BadDataError, ResourceError, OSError) as error:
                self._say(f"checkpoint {kept.name} of {self._unit_id} was not sent: {error}")
            discard(kept.parent)

    def _wait_again(self, stage: str, kept: Path) -> None:
        with self._lock:
            if stage not in self._waiting:
                self._waiting = {stage: kept, **self._waiting}
                return
        discard(kept.parent)

    def _send(self, stage: str, kept: Path) -> None:
        step = int(kept.name.removeprefix("ckpt-"))
        facts = CarriedFacts(
            unit_id=self._unit_id,
            stage=stage,
            step=step,
            token=self._held.token,
            order=int(kept.parent.name),
            worker_id=self._held.worker_id,
            built_on=self._built_on,
            beside=self._beside[kept.parent.name],
        )
        parcel = kept.parent / "parcel"
        if not is_whole(parcel, CARRIED_KIND):
            verify(kept / _INNER, CHECKPOINT_KIND)
            with sealing(parcel, CARRIED_KIND, facts.model_dump(mode="json")) as scratch:
                for path in sorted(kept.iterdir()):
                    link(path, scratch / path.name)
        name = f"t{facts.token:06d}-s{step:08d}-{self._claim}"
        send_sealed(parcel, self._remote, f"{stages_of(self._unit_id)}/{stage}/{name}", CARRIED_KIND, self._held.renew)
        names = self._known.setdefault(stage, [])
        if name not in names:
            names.append(name)
        names.sort(key=rank_of)
        for old in names[:-KEPT_CHECKPOINTS]:
            self._remove(stage, old)
            names.remove(old)

    def _remove(self, stage: str, name: str) -> None:
        """Remove one checkpoint from the remote, its manifest first; it is only a matter of space."""
        place = f"{stages_of(self._unit_id)}/{stage}/{name}"
        with contextlib.suppress(RemoteError):
            self._remote.delete(f"{place}/{MANIFEST_NAME}")
            self._remote.purge(place)

    # Before and after training.

    def restore(self, quarantine: Path) -> Progress | None:
        """Bring the newest whole checkpoints of the unit here if they are further than those here; None otherwise.

        The numeric environment they were made in comes with them. Damaged ones are passed over: the one before counts.
        """
        listed = listed_checkpoints(self._remote, self._unit_id)
        self._known = {stage: list(names) for stage, names in listed.items()}
        here = local_progress(self._folder)
        claimed = Progress(steps={stage: rank_of(names[-1])[1] for stage, names in listed.items() if names})
        if claimed.rank <= here.rank:
            return None
        inbox = self._outbox.with_name(f"{self._outbox.name}-in")
        discard(inbox)
        try:
            found = self._fetch(listed, inbox, quarantine)
            there = Progress(steps={stage: facts.step for stage, facts in found.items()})
            if there.rank <= here.rank:
                return None
            self._install(found, inbox)
        finally:
            discard(inbox)
        return there

    def _fetch(self, listed: Mapping[str, list[str]], inbox: Path, quarantine: Path) -> dict[str, CarriedFacts]:
        """Bring the stages that count and stand on each other to `inbox`; {} when there are none."""
        candidates = [one for stage, names in sorted(listed.items()) for one in self._candidates(stage, names)]
        damaged: set[str] = set()
        for cut in cuts_of(candidates):
            if damaged.isdisjoint(one.name for one in cut.values()):
                discard(inbox)
                wrong = [one.name for one in cut.values() if not self._fetched(one, inbox, quarantine)]
                if not wrong:
                    return {stage: one.facts for stage, one in cut.items()}
                damaged.update(wrong)
        return {}

    def _candidates(self, stage: str, names: Sequence[str]) -> Iterator[Candidate]:
        for name in names:
            place = f"{stages_of(self._unit_id)}/{stage}/{name}"
            try:
                manifest = sent_manifest(self._remote, place)
                if manifest is not None:
                    facts = self._accept(manifest, place, (stage, *rank_of(name)[:2]))
                    yield Candidate(name=place, facts=facts, content_sha256=carried_content(manifest, _INNER))
            except BadDataError as error:
                self._say(f"a checkpoint of {self._unit_id} is passed over: {error.what}")

    def _fetched(self, wanted: Candidate, inbox: Path, quarantine: Path) -> bool:
        """Bring one checkpoint to `inbox`; return whether it is whole and the one that was wanted."""
        target = inbox / wanted.facts.stage
        try:
            manifest = fetch_sealed(self._remote, wanted.name, target, CARRIED_KIND, quarantine=quarantine)
            if manifest is not None and carried_content(manifest, _INNER) == wanted.content_sha256:
                verify(target / _INNER, CHECKPOINT_KIND)
                return True
        except BadDataError as error:
            self._say(f"a checkpoint of {self._unit_id} is passed over: {error.what}")
        return False

    def _accept(self, manifest: Manifest, place: str, expected: tuple[str, int, int]) -> CarriedFacts:
        try:
            facts = CarriedFacts.model_validate(manifest.meta)
        except ValidationError as error:
            raise BadDataError("a carried checkpoint does not say what it is", where=place) from error
        if facts.unit_id != self._unit_id or (facts.stage, facts.token, facts.step) != expected:
            raise BadDataError("a checkpoint lies under the name of another", where=place)
        if facts.built_on != self._built_on:
            raise BadDataError("a checkpoint was built on other results", where=place)
        return facts

    def _install(self, found: Mapping[str, CarriedFacts], inbox: Path) -> None:
        """Replace what is here: the environment of the newest checkpoint first, then the stages in their order."""
        empty_unit(self._folder)
        remember_built_on(self._folder, self._built_on)
        newest = max(found, key=lambda stage: (found[stage].token, found[stage].order))
        environment = inbox / newest / ENVIRONMENT_NAME
        if environment.is_file():
            replace(environment, self._folder / ENVIRONMENT_NAME)
        for stage, facts in sorted(found.items(), key=lambda item: (item[1].token, item[1].order)):
            target = self._folder / stage / f"ckpt-{facts.step:08d}"
            target.parent.mkdir(parents=True, exist_ok=True)
            replace(inbox / stage / _INNER, target)

    def forget_what_was_built_on_others(self) -> None:
        """Empty the unit's folder here when what is in it was built on other results than those it has to be built on.

        A folder that does not say what it was built on is kept: it was made on this machine without a worker.
        """
        record = self._folder / BUILT_ON_NAME
        now = canonical_json(self._built_on)
        if record.is_file() and record.read_text(encoding="utf-8") != now:
            empty_unit(self._folder)
        remember_built_on(self._folder, self._built_on)
