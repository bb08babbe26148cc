"""One random schedule of a desktop and its workers, and what must hold in it; `play` is the whole of it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import types
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from pydantic import ValidationError
from tests.remote.faulty_store import Door, FaultyStore, Weather, Write
from tests.remote.simulation import START, Process, VirtualLock, World

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import Manifest, is_whole, sealing, verify
from vnfleet.cycle.remote_training import RemoteTraining, train_remotely
from vnfleet.cycle.worker import StepProgress, WorkerReport, run_worker
from vnfleet.remote import leases
from vnfleet.remote.carrying import CheckpointSink
from vnfleet.remote.jobs import JobRecord, UnitRecord
from vnfleet.remote.leases import LeaseRecord, LeaseTimes
from vnfleet.remote.shards import package_id

TIMES = LeaseTimes(lease_seconds=180.0, heartbeat_seconds=45.0, settle_seconds=3.0)
STAGES = ("base", "head")
STEPS, INTERVAL, STEP_SECONDS = 6, 3, 15.0
UPLOAD_SECONDS = 30.0  # within which a checkpoint is on a remote that answers in less than a second
RACE_SECONDS = 10.0
DEADLINE_SECONDS = 5 * 3600.0
GRACE_SECONDS = 900.0
CALM_AFTER_SECONDS = 1.2 * 3600.0
MOST_LATE_SECONDS = 900.0


@dataclass(slots=True)
class Seen:
    """What a schedule came to: broken rules, and counts of what happened in it."""

    seed: int
    broken: list[str] = field(default_factory=list)
    kills: int = 0
    restarts: int = 0
    takeovers: int = 0
    steps: int = 0
    steps_again: int = 0
    published: int = 0
    withdrawn: int = 0
    seconds: float = 0.0
    most_lost_steps: int = 0
    reason: str = ""
    wrong: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Claimed:
    """A claim as the store saw it."""

    worker: str
    token: int
    at: float


class Schedule:
    """The machines, the remote and the judge of one schedule; an honest one has a remote that does not lie.

    Honest does not mean kind: machines die, sleep, drop off the net and have wrong clocks all the same. In a rough one
    they all begin at once, and sleep and die often.
    """

    def __init__(self, seed: int, root: Path, *, honest: bool, rough: bool) -> None:
        self.seen, self.root, self.honest = Seen(seed), root, honest
        self.world = World(seed)
        self.random = random.Random(f"schedule {seed}")
        self.weather = self._weather()
        self.store = FaultyStore(self.weather, random.Random(f"store {seed}"), lambda: self.world.seconds, self._told)
        self.lives: dict[str, Process] = {}
        self.offline: dict[str, list[tuple[float, float]]] = {}
        self.skews = {name: self.random.choice((0.0, 0.0, 5.0, -7200.0, 3600.0, 18000.0)) for name in self._names()}
        self.rough = rough
        self.own_bits = self.random.random() < 0.5  # machines of different kinds: the same work, other last bits
        self.num_workers = 3 if rough else self.random.choice((1, 2, 2, 3))
        self.rescued = self.random.random() < 0.85
        self.stopping = False
        self.outcome: RemoteTraining | None = None
        self.reports: list[WorkerReport] = []
        self.kept: dict[str, bytes] = {}
        self.made: dict[str, set[bytes]] = {}
        self.position: dict[str, tuple[str, int]] = {}
        self.local_best: dict[tuple[str, str], int] = {}
        self.done_steps: set[tuple[str, int]] = set()
        self.proved: set[tuple[str, str, int]] = set()  # claims that settled: unit, worker, token
        self.claims: dict[str, list[Claimed]] = {}
        self.job = self._job()

    # What there is.

    def _names(self) -> list[str]:
        return ["desk", *(f"w{number}" for number in range(4))]

    def _weather(self) -> Weather:
        dice = self.random
        if self.honest:
            return Weather()
        bursts = []
        for _ in range(dice.choice((0, 1, 2))):
            start = dice.uniform(0, CALM_AFTER_SECONDS)
            bursts.append((start, start + dice.uniform(20, 600)))

        def some(most: float) -> float:
            return dice.choice((0.0, 0.0, dice.uniform(0, most)))

        return Weather(
            slow_frac=some(0.03),
            slow_seconds=dice.uniform(5, 300),
            stale_frac=some(0.5),
            stale_seconds=dice.uniform(1, 90),
            bursts=tuple(bursts),
            lies_until=CALM_AFTER_SECONDS,
            torn=some(0.05),
            silently_torn=some(0.02),
            unthanked=some(0.05),
            cut=some(0.05),
            damaged=some(0.02),
            lost_move=some(0.5),
            double=some(0.3),
        )

    def _job(self) -> JobRecord:
        package = self.root / "desk.0" / "package"
        with sealing(package, "training-data", {}) as scratch:
            (scratch / "values.bin").write_bytes(b"\0" * 64)
        select = UnitRecord(unit_id="select", fold_id="2022", body={"kind": "select"})
        members = (
            UnitRecord(unit_id=f"member{one}", fold_id="2022", depends_on=("select",), body={"kind": "m", "seed": one})
            for one in range(2)
        )
        return JobRecord(
            recipe={},
            folds=({"fold_id": "2022"},),
            units=(select, *members),
            data_id=package_id(verify(package, "training-data")),
            data_kind="training-data",
            result_kind="unit",
            source_id="code",
        )

    # The machines.

    def start(self, machine: str) -> Process:
        """Boot a machine with the disk it had."""
        before = self.lives.get(machine)
        number = 0 if before is None else before.number + 1
        disk = self.root / f"{machine}.{number}"
        disk.mkdir(exist_ok=True)
        process = Process(self.world, machine, number, disk, skew_seconds=self.skews[machine])
        self.lives[machine] = process
        self.seen.restarts += number > 0
        self.world.spawn(process, "main", lambda: self._desk(process) if machine == "desk" else self._work(process))
        return process

    def door(self, process: Process) -> Door:
        """Return the remote as a machine reaches it."""
        windows = self.offline.setdefault(process.machine, [])
        return Door(
            self.store,
            process.machine,
            process.sleep,
            lambda: any(start <= self.world.seconds < stop for start, stop in windows),
        )

    def _desk(self, process: Process) -> None:
        self.outcome = train_remotely(
            self.job,
            process.disk / "package",
            self.door(process),
            process.disk,
            poll_seconds=30.0,
            grace_seconds=GRACE_SECONDS,
            deadline=START + timedelta(seconds=DEADLINE_SECONDS + self.skews["desk"]),
            timing=process,
        )

    def _work(self, process: Process) -> None:
        runner = functools.partial(self.run, process)
        report = run_worker(
            self.door(process),
            process.disk,
            runner=runner,
            worker_id=process.machine,
            source_id="code",
            times=TIMES,
            poll_seconds=20.0,
            should_stop=lambda: self.stopping,
            timing=process,
        )
        self.reports.append(report)
        self.seen.published += len(report.published)

    def run(
        self,
        process: Process,
        unit: UnitRecord,
        job: JobRecord,
        package: Path,
        units_root: Path,
        progress: StepProgress,
        sink: CheckpointSink,
        /,
    ) -> Path:
        """Two stages of steps, the second built on the end of the first; the result is a hash over all of it."""
        verify(package, job.data_kind)
        folder = units_root / unit.unit_id
        target = folder / "result"
        if is_whole(target, job.result_kind):
            return target
        needed = {}
        for name in unit.depends_on:
            verify(units_root / name / "result", job.result_kind)
            needed[name] = _sha((units_root / name / "result" / "w").read_bytes())
        state = _sha(json.dumps([unit.body, needed], sort_keys=True).encode())
        self._begins(process, unit, folder)
        for stage in STAGES:
            state = self._stage(process, unit, folder / stage, state, progress, sink)
        with sealing(target, job.result_kind, {"unit": unit.body}) as scratch:
            payload = json.dumps({"state": state, "needed": needed}).encode()
            (scratch / "w").write_bytes(payload)
            (scratch / "z").write_bytes(state.encode() * 2)
        self.made.setdefault(unit.unit_id, set()).add(payload)
        self.position.pop(process.machine, None)
        return target

    def _stage(
        self,
        process: Process,
        unit: UnitRecord,
        folder: Path,
        stands_on: str,
        progress: StepProgress,
        sink: CheckpointSink,
    ) -> str:
        newest = next(
            (path for path in sorted(folder.glob("ckpt-*"), reverse=True) if is_whole(path, "checkpoint")), None
        )
        state, begin = stands_on, 0
        if newest is not None:
            facts = json.loads((newest / "state.json").read_text())
            begin, state = facts["step"], facts["state"]
            if facts["stands_on"] != stands_on:
                self.break_rule(f"mixed stages: {unit.unit_id}/{folder.name} goes on from a stage built on another")
        key = (process.machine, unit.unit_id)
        for step in range(begin + 1, STEPS + 1):
            process.sleep(STEP_SECONDS)
            self.seen.steps += 1
            mark = (f"{unit.unit_id}/{folder.name}", step)
            self.seen.steps_again += mark in self.done_steps
            self.done_steps.add(mark)
            self.position[process.machine] = (unit.unit_id, _rank(folder.name, step))
            state = _sha(f"{state} {step} {process.machine if self.own_bits else ''}".encode())
            if step % INTERVAL == 0:
                target = folder / f"ckpt-{step:08d}"
                with sealing(target, "checkpoint", {}) as scratch:
                    facts = {"step": step, "state": state, "stands_on": stands_on}
                    (scratch / "state.json").write_text(json.dumps(facts))
                self.local_best[key] = _rank(folder.name, step)
                chance = 0.4 if step == STEPS else 0.06
                if self.rough and process.machine in {"w0", "w1", "w2"} and self.random.random() < chance:
                    soon = self.world.seconds + self.random.uniform(0, 5)
                    self._plan_death(process.machine, soon, comes_back=self.random.random() < 0.6)
                process.sleep(0.0)
                sink.saved(target)
            progress(folder.name, step, STEPS, "")
        return state

    def _begins(self, process: Process, unit: UnitRecord, folder: Path) -> None:
        """Judge from where a unit goes on."""
        found = [
            _rank(path.parent.name, int(path.name.removeprefix("ckpt-")))
            for path in folder.glob("*/ckpt-*")
            if is_whole(path, "checkpoint")
        ]
        begin = max(found, default=0)
        self.seen.takeovers += begin > 0
        self.local_best[process.machine, unit.unit_id] = begin
        if not self.honest or process.machine == "desk":
            return
        claim = next(
            (one for one in reversed(self.claims.get(unit.unit_id, [])) if one.worker == process.machine), None
        )
        if claim is None:
            return
        there = self._carried(process, unit.unit_id, claim.at)
        if begin < there:
            self.break_rule(f"lost work: {unit.unit_id} begins at {begin}, {there} was on the remote")

    def _carried(self, process: Process, unit_id: str, at: float) -> int:
        """Return how far those carried checkpoints are that were whole on the remote from a moment on until now.

        Only those count that were built on the very results this machine has: a set is never mixed.
        """
        unit = next(unit for unit in self.job.units if unit.unit_id == unit_id)
        results = {name: process.disk / "checkpoints" / name / "result" for name in unit.depends_on}
        here = {name: verify(folder, "unit").content_sha256 for name, folder in results.items()}
        ranks: list[tuple[int, int]] = []
        for name in self.store.names(f"checkpoints/{unit_id}/stages/"):
            if name.endswith("/manifest.json") and name.count("/") == 5 and self.store.truth(name, at) is not None:
                manifest = self._manifest(self.store.truth(name))
                if manifest is not None and manifest.kind == "carried-checkpoint":
                    facts: dict[str, Any] = manifest.meta
                    if facts["built_on"] == here:
                        ranks.append((facts["token"], _rank(facts["stage"], facts["step"])))
        token = max((token for token, _ in ranks), default=0)
        return max((rank for one, rank in ranks if one == token), default=0)

    # What happens to them.

    def plan(self) -> None:
        """Decide what will happen."""
        dice = self.random
        self.start("desk")
        workers = [f"w{number}" for number in range(self.num_workers)]
        for name in workers:
            begins = 20.0 if self.rough else dice.choice((0.0, dice.uniform(0, 600), dice.uniform(0, 3600)))
            self.world.at(begins, functools.partial(self.start, name))  # type: ignore[arg-type]
            if self.rough:
                self.world.at(dice.uniform(30, 300), functools.partial(self._freeze, name))
                for _ in range(2):
                    self._plan_death(name, begins + dice.uniform(30, 900), comes_back=dice.random() < 0.8)
            for _ in range(dice.choice((0, 1, 1, 2))):
                self._plan_death(name, begins + dice.uniform(30, 2400), comes_back=dice.random() < 0.7)
        if self.rescued:
            self.world.at(dice.uniform(0, 600), functools.partial(self.start, "w3"))  # type: ignore[arg-type]
        for name in ("desk", *workers):
            if dice.random() < 0.35:
                start = dice.uniform(0, CALM_AFTER_SECONDS)
                self.offline.setdefault(name, []).append((start, start + dice.uniform(10, 600)))
            if dice.random() < 0.35:
                self.world.at(dice.uniform(30, CALM_AFTER_SECONDS), functools.partial(self._freeze, name))
        if dice.random() < 0.3:
            self._plan_death("desk", dice.uniform(30, 3600), comes_back=True)

    def _plan_death(self, name: str, at: float, *, comes_back: bool) -> None:
        back = self.random.uniform(5, 60 if self.rough else 900)

        def die() -> None:
            process = self.lives.get(name)
            if process is None or process.dead or all(task.is_over for task in process.tasks):
                return
            self._judge_kill(process)
            self.seen.kills += 1
            self.world.kill(process)
            if name == "desk":
                self.look_at_desk(process.disk.with_name(f"desk.{process.number + 1}"))
            if comes_back:
                self.world.at(self.world.seconds + back, functools.partial(self.start, name))  # type: ignore[arg-type]

        self.world.at(at, die)

    def _freeze(self, name: str) -> None:
        process = self.lives.get(name)
        if process is not None:
            process.frozen_until = self.world.seconds + self.random.uniform(20, 1200)

    def _judge_kill(self, process: Process) -> None:
        """A kill costs no more than what was trained since the last checkpoint, and what was not sent of it yet."""
        place = self.position.get(process.machine)
        if place is None or process.machine == "desk":
            return
        unit_id, rank = place
        best = self.local_best.get((process.machine, unit_id), 0)
        self.seen.most_lost_steps = max(self.seen.most_lost_steps, rank - best)
        if rank - best > INTERVAL:
            self.break_rule(f"lost work: {rank - best} steps of {unit_id} were in no checkpoint of the machine")
        trouble = [stop for start, stop in self.offline.get(process.machine, []) if start <= self.world.seconds]
        quiet = self.world.seconds - max([*trouble, process.frozen_until, 0.0])
        claims = self.claims.get(unit_id, [])
        if not self.honest or quiet < 2 * INTERVAL * STEP_SECONDS or not claims or claims[-1].worker != process.machine:
            return
        if self.world.seconds - claims[-1].at < INTERVAL * STEP_SECONDS + UPLOAD_SECONDS:
            return
        lost = rank - self._carried(process, unit_id, self.world.seconds)
        if lost > INTERVAL + UPLOAD_SECONDS / STEP_SECONDS and not self._has_result(unit_id):
            self.break_rule(f"lost work: {lost} steps of {unit_id} were not on the remote when {process.machine} died")

    def _has_result(self, unit_id: str) -> bool:
        return self.store.truth(f"checkpoints/{unit_id}/result/manifest.json") is not None

    # The judge.

    def break_rule(self, text: str) -> None:
        """Take note of a broken rule."""
        self.seen.broken.append(f"{self.world.seconds:.0f} s: {text}")

    def _told(self, write: Write) -> None:
        parts = write.name.split("/")
        if write.name.endswith(".lease.json"):
            lease = _lease(write.payload)
            known = self.claims.setdefault(parts[-1].removesuffix(".lease.json"), [])
            if lease is not None and lease.beat == 0 and lease.state == "held":
                known.append(Claimed(lease.worker_id, lease.token, write.at))
            if lease is not None and lease.beat == 1:
                self.proved.add((lease.unit_id, lease.worker_id, lease.token))
        elif parts[0] == "checkpoints" and parts[-1] == "manifest.json" and write.writer != "desk":
            manifest = self._manifest(write.payload)
            if manifest is not None and parts[2] == "result":
                published: Any = manifest.meta.get("published", {})
                self._judge_fence(parts[1], write, published.get("token", 0), "a result")
                self._judge_whole("/".join(parts[:-1]), manifest)
            elif manifest is not None and manifest.kind == "carried-checkpoint":
                token: Any = manifest.meta["token"]
                self._judge_fence(parts[1], write, token, "a checkpoint")
                self._judge_whole("/".join(parts[:-1]), manifest)
        elif parts[0] == "quarantine":
            self.seen.withdrawn += parts[-1] == "manifest.json"
            if self.honest and not self.own_bits:
                self.break_rule(f"something was refused although nothing lied: {write.name}")

    def _judge_fence(self, unit_id: str, write: Write, token: int, what: str) -> None:
        """Whoever was superseded for as long as a lease lives, by everybody's view, must not begin to write."""
        name = f"status/{self.job.job_id}/{unit_id}.lease.json"
        stale = self.weather.stale_seconds if self.weather.stale_frac else 0.0
        start = write.begun - TIMES.lease_seconds - stale
        first = _lease(self.store.truth(name, start))
        others = [first, *(_lease(one.payload) for one in self.store.history(name) if start < one.at <= write.begun)]
        if all(one is not None and _supersedes(one, token, write.writer) for one in others):
            self.break_rule(
                f"fence: {write.writer} wrote {what} of {unit_id} with token {token} after losing its lease"
            )

    def _judge_whole(self, name: str, manifest: Manifest) -> None:
        """The manifest comes last: what it names is there when it lands."""
        if not self.honest or self.own_bits:
            return
        for file, sha in manifest.files.items():
            payload = self.store.truth(f"{name}/{file}")
            if payload is None or _sha(payload) != sha:
                self.break_rule(f"the manifest of {name} was written before {file}")

    def _judge_holders(self) -> None:
        """Of two who raced for one token only one may believe that it won.

        A token can come again later: a holder that slept in the middle of a renewal puts its old record over that of
        its successor when it wakes. One of the two then finds out at its next heartbeat, as with any lost lease.
        """
        if not self.honest:
            return
        for unit_id, claims in self.claims.items():
            for one in claims:
                near = (two for two in claims if abs(two.at - one.at) < RACE_SECONDS)
                rivals = [two for two in near if two.token == one.token and two.worker != one.worker]
                if any({(unit_id, who.worker, who.token) for who in (one, rival)} <= self.proved for rival in rivals):
                    self.break_rule(f"two holders of {unit_id} under token {one.token}")
                    return

    def _manifest(self, payload: bytes | None) -> Manifest | None:
        try:
            return None if payload is None else Manifest.model_validate_json(payload)
        except (ValidationError, ValueError):
            return None

    def look_at_desk(self, disk: Path) -> None:
        """What the desktop has once it keeps."""
        for unit in self.job.units:
            folder = disk / "checkpoints" / unit.unit_id / "result"
            if not is_whole(folder, "unit"):
                if unit.unit_id in self.kept:
                    self.break_rule(f"lost model: the desktop had {unit.unit_id} and has it no more")
                continue
            payload = (folder / "w").read_bytes()
            if self.kept.setdefault(unit.unit_id, payload) != payload:
                self.break_rule(f"double publish: the desktop's {unit.unit_id} became another one")
            if payload not in self.made.get(unit.unit_id, set()):
                self.break_rule(f"the desktop has a {unit.unit_id} that nobody made")

    def play(self) -> Seen:
        """Play it through and judge the end."""
        self.plan()
        limit = DEADLINE_SECONDS + MOST_LATE_SECONDS
        came_back = self.world.run(lambda: self.outcome is not None or bool(self.lives["desk"].crashed), limit)
        self.seen.seconds = self.world.seconds
        desk = self.lives["desk"]
        if not came_back or self.outcome is None:
            self.break_rule(f"the desktop did not come back: {desk.crashed}")
        else:
            self._judge_end(desk, self.outcome)
            self.world.run(lambda: self.world.seconds > self.seen.seconds + 600, limit + 900)
            self.stopping = True
            alive = [one for one in self.lives.values() if not one.dead]
            self.world.run(lambda: all(task.is_over for one in alive for task in one.tasks), limit + 7200)
            self.look_at_desk(desk.disk)
        for process in self.lives.values():
            if not process.dead:
                self.world.kill(process)
            for error in process.crashed:
                self.break_rule(f"{process.machine} crashed: {type(error).__name__}: {error}")
        self._judge_holders()
        for report in self.reports:
            for unit_id, why in report.failed.items():
                if self.honest or not why.startswith("BadDataError"):
                    self.break_rule(f"{unit_id} failed on {report.worker_id}: {why}")
        self.seen.wrong = self.store.wrong
        return self.seen

    def _judge_end(self, desk: Process, outcome: RemoteTraining) -> None:
        self.seen.reason = outcome.reason
        self.look_at_desk(desk.disk)
        ids = [unit.unit_id for unit in self.job.units]
        if sorted([*outcome.finished, *outcome.open_units]) != sorted(ids):
            self.break_rule(f"lost model: {outcome}")
        unseen = not self.honest and outcome.reason.startswith("no worker showed")  # the desktop saw nothing for long
        if self.rescued and outcome.open_units and not unseen and "does not answer" not in outcome.reason:
            self.break_rule(f"a worker was there and {outcome.open_units} came back: {outcome.reason}")
        done = set(outcome.finished)
        whole = {one for one in ids if is_whole(desk.disk / "checkpoints" / one / "result", "unit")}
        if not done <= whole:
            self.break_rule(f"lost model: {sorted(done - whole)} told as finished")
        units_root = desk.disk / "checkpoints"
        home = Process(self.world, "desk", 99, desk.disk)
        for unit in self.job.units:
            if unit.unit_id not in done:
                _at_home(self, home, unit, desk.disk / "package", units_root)
        self.look_at_desk(desk.disk)
        for unit in self.job.units:
            facts = json.loads((units_root / unit.unit_id / "result" / "w").read_bytes())
            for name in unit.depends_on:
                if facts["needed"][name] != _sha((units_root / name / "result" / "w").read_bytes()):
                    self.break_rule(f"mixed set: {unit.unit_id} was built on another {name}")


class _Nowhere:
    def saved(self, checkpoint: Path, /) -> None:
        del checkpoint


def _at_home(schedule: Schedule, home: Process, unit: UnitRecord, package: Path, units_root: Path) -> None:
    """What the desktop's caller does with a unit that came back, in no time."""
    object.__setattr__(home, "dead", False)
    runner = functools.partial(schedule.run, _Still(home))  # type: ignore[arg-type]
    try:
        runner(unit, schedule.job, package, units_root, lambda *_: None, _Nowhere())
    except BadDataError as error:
        schedule.break_rule(f"what came back cannot be trained here: {error}")


class _Still:
    """A machine whose time stands still."""

    def __init__(self, process: Process) -> None:
        self.machine = process.machine

    def sleep(self, seconds: float) -> None:
        del seconds


def _sha(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _rank(stage: str, step: int) -> int:
    return STAGES.index(stage) * STEPS + step


def _lease(payload: bytes | None) -> LeaseRecord | None:
    try:
        return None if payload is None else LeaseRecord.model_validate_json(payload)
    except (ValidationError, ValueError):
        return None


def _supersedes(lease: LeaseRecord, token: int, worker: str) -> bool:
    return lease.token > token or (lease.token == token and lease.worker_id != worker)


def play(seed: int, root: Path, *, honest: bool | None = None, rough: bool | None = None) -> Seen:
    """Play one schedule; every third remote is honest, every second life rough, unless told otherwise."""
    root.mkdir(parents=True)
    locks = types.SimpleNamespace(Lock=VirtualLock)
    with mock.patch.object(leases, "threading", locks), mock.patch.object(os, "fsync"):
        is_honest = seed % 3 == 0 if honest is None else honest
        return Schedule(seed, root, honest=is_honest, rough=seed % 2 == 0 if rough is None else rough).play()
