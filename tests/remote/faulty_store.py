"""A shared remote in memory that lies as drives do, seeded: every machine has its own door to it.

What may go wrong is a `Weather`. All waiting goes through the door's `wait`, so that the store lives in virtual time;
whoever is killed dies in there, before or after what it was doing took effect, or between two files of a folder.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vnfleet.remote.entries import Entry, Space, as_text, is_leftover, must_be_here, not_the_root, stay_inside
from vnfleet.remote.patterns import Pattern
from vnfleet.remote.rclone import RemoteAbsentError, RemoteUnavailableError

_checked = functools.lru_cache(maxsize=4096)(stay_inside)
_pattern = functools.lru_cache(maxsize=64)(Pattern)
Window = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How a remote behaves. Fractions are chances per call; times are seconds.

    latency : a call takes up to this long; slow ones (slow_frac) up to slow_seconds. stale_frac, stale_seconds : how
    often, and for how long at most, others see what was there before a change; listings may be as old for everybody.
    bursts : when calls are refused (refused_frac of them). lies_until : after it only latency and bursts are left.
    torn : half of an upload lands and it is told as failed; silently_torn : ... as done. unthanked : an upload lands
    and is told as failed. cut : a download ends in the middle, told as failed; damaged : bits change, told as done.
    lost_move : a rename is told as done and is not. double : a new file becomes a second one of its name.
    """

    latency: float = 0.8
    slow_frac: float = 0.0
    slow_seconds: float = 0.0
    stale_frac: float = 0.0
    stale_seconds: float = 0.0
    bursts: tuple[Window, ...] = ()
    refused_frac: float = 0.9
    lies_until: float = float("inf")
    torn: float = 0.0
    silently_torn: float = 0.0
    unthanked: float = 0.0
    cut: float = 0.0
    damaged: float = 0.0
    lost_move: float = 0.0
    double: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A file from a moment on; payload None: gone. Others see it at `seen_at`, listings show it at `listed_at`."""

    at: float
    payload: bytes | None
    writer: str
    seen_at: float
    listed_at: float
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A file that was written: when the call began and when it took effect, by which machine."""

    name: str
    payload: bytes
    writer: str
    begun: float
    at: float


@dataclass(slots=True)
class FaultyStore:
    """What all doors lead to. `told` hears of every write; `wrong` counts what went wrong, by kind."""

    weather: Weather
    random: random.Random
    clock: Callable[[], float]
    told: Callable[[Write], None] = lambda _: None
    wrong: dict[str, int] = field(default_factory=dict)
    _files: dict[str, list[list[Version]]] = field(default_factory=dict)
    _order: int = 0

    def truth(self, name: str, at: float | None = None) -> bytes | None:
        """Return what a file really held at a moment (None: now)."""
        versions = [one for history in self._files.get(name, []) for one in history if at is None or one.at <= at]
        newest = {id(history): history for history in self._files.get(name, [])}
        if len(newest) <= 1:
            return versions[-1].payload if versions else None
        last = [[one for one in history if at is None or one.at <= at] for history in newest.values()]
        alive = [one[-1] for one in last if one and one[-1].payload is not None]
        return max(alive, key=lambda one: one.order).payload if alive else None

    def history(self, name: str) -> list[Version]:
        """Return all that a name ever held, oldest first."""
        found = [one for history in self._files.get(name, []) for one in history]
        return sorted(found, key=lambda one: one.order)

    def names(self, prefix: str = "") -> list[str]:
        """Return what is really there now."""
        return sorted(name for name in self._files if name.startswith(prefix) and self.truth(name) is not None)

    def known(self, name: str) -> list[str]:
        """Return the file of that name and those below it that ever were."""
        return sorted(path for path in self._files if path == name or path.startswith(f"{name}/"))

    def chance(self, frac: float, kind: str) -> bool:
        """Return whether something goes wrong now."""
        if not frac or self.clock() >= self.weather.lies_until or self.random.random() >= frac:
            return False
        self.wrong[kind] = self.wrong.get(kind, 0) + 1
        return True

    def visible(self, name: str, machine: str) -> list[tuple[list[Version], Version]]:
        """Return the files of one name as a machine sees them when it asks for the name, newest last."""
        now = self.clock()
        found = []
        for history in self._files.get(name, ()):
            seen = next((one for one in reversed(history) if one.writer == machine or one.seen_at <= now), None)
            if seen is not None and seen.payload is not None:
                found.append((history, seen))
        return sorted(found, key=lambda pair: pair[1].order)

    def listed(self, prefix: str) -> list[tuple[str, Version]]:
        """Return the files below `prefix` as a listing shows them."""
        now = self.clock()
        found = []
        for name, histories in self._files.items():
            if name.startswith(prefix):
                for history in histories:
                    shown = next((one for one in reversed(history) if one.listed_at <= now), None)
                    if shown is not None and shown.payload is not None:
                        found.append((name, shown))
        return found

    def put(self, name: str, payload: bytes | None, machine: str, begun: float) -> None:
        """Let a file have new contents from now on, or be gone, as that machine can bring it about."""
        histories = self._files.setdefault(name, [])
        seen = self.visible(name, machine)
        if payload is None:
            for history, _ in seen:
                history.append(self._version(None, machine))
            return
        if not seen or (self._is_new(seen) and self.chance(self.weather.double, "double")):
            if not histories or self._alive(histories):
                histories.append([])
            target = histories[-1]
        else:
            target = seen[-1][0]
        target.append(self._version(payload, machine))
        self.told(Write(name=name, payload=payload, writer=machine, begun=begun, at=self.clock()))

    def _is_new(self, seen: list[tuple[list[Version], Version]]) -> bool:
        return len(seen) == 1 and len(seen[0][0]) == 1

    def _alive(self, histories: list[list[Version]]) -> bool:
        return any(history and history[-1].payload is not None for history in histories)

    def _version(self, payload: bytes | None, machine: str) -> Version:
        self._order += 1
        now = self.clock()
        late = [
            self.random.uniform(0.0, self.weather.stale_seconds) if self.chance(self.weather.stale_frac, kind) else 0.0
            for kind in ("stale reading", "stale listing")
        ]
        return Version(
            at=now, payload=payload, writer=machine, seen_at=now + late[0], listed_at=now + late[1], order=self._order
        )


@dataclass(slots=True)
class Door:
    """`Transfer` to the store from one machine, which `is_offline` at times."""

    store: FaultyStore
    machine: str
    wait: Callable[[float], None]
    is_offline: Callable[[], bool] = lambda: False

    def put_file(self, source: Path, name: str) -> None:
        must_be_here(source)
        self._put(name, source.read_bytes())

    def get_file(self, name: str, target: Path) -> None:
        target.write_bytes(self._get(name))

    def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
        for file in files:
            must_be_here(source / file)
        for file in files:
            self._put(f"{name}/{file}", (source / file).read_bytes())

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        for file in files:
            self._call(name)
            if self.store.visible(_flat(f"{name}/{file}"), self.machine):
                payload = self._downloaded(f"{name}/{file}")
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes(payload)

    def list(self, name: str, pattern: str | None = None, *, leftovers: bool = False) -> tuple[Entry, ...]:
        self._call(name)
        wanted, prefix = _pattern(pattern), "" if _flat(name) == "" else f"{_flat(name)}/"
        entries = [
            Entry(path=path.removeprefix(prefix), size_bytes=len(one.payload or b""), modified=f"{one.at:020.6f}")
            for path, one in self.store.listed(prefix)
            if wanted.matches(path.removeprefix(prefix)) and (leftovers or not is_leftover(path))
        ]
        return tuple(sorted(entries, key=lambda entry: (entry.path, entry.modified, entry.size_bytes)))

    def exists(self, name: str) -> bool:
        self._call(name)
        return any(self.store.visible(path, self.machine) for path in self.store.known(_flat(name)))

    def move(self, name: str, new_name: str) -> None:
        begun = self._call(name)
        seen = [(path, self.store.visible(path, self.machine)) for path in self.store.known(_flat(name))]
        seen = [(path, versions) for path, versions in seen if versions]
        if not seen:
            raise RemoteAbsentError("not on the remote", where=name)
        if self.store.chance(self.store.weather.lost_move, "lost move"):
            return
        for path, versions in seen:
            history, newest = versions[-1]
            self.store.put(_flat(new_name) + path.removeprefix(_flat(name)), newest.payload, self.machine, begun)
            history.append(self.store._version(None, self.machine))
        self._rest()

    def read_text(self, name: str) -> str:
        return as_text(self._get(name), name)

    def write_text(self, name: str, text: str) -> None:
        self._put(name, text.encode())

    def make_folder(self, name: str) -> None:
        self._call(name)

    def delete(self, name: str) -> None:
        begun = self._call(name)
        self.store.put(_flat(name), None, self.machine, begun)

    def purge(self, name: str) -> None:
        not_the_root(name)
        begun = self._call(name)
        for path in self.store.known(_flat(name)):
            self.store.put(path, None, self.machine, begun)
        self._rest()

    def about(self) -> Space:
        self._call(".")
        return Space()

    def _call(self, name: str) -> float:
        """Go there; return when this began."""
        _checked(name)
        weather, begun = self.store.weather, self.store.clock()
        slow = self.store.chance(weather.slow_frac, "slow")
        self.wait(self.store.random.uniform(0.0, weather.slow_seconds if slow else weather.latency))
        if self.is_offline():
            self.store.wrong["offline"] = self.store.wrong.get("offline", 0) + 1
            raise RemoteUnavailableError("no way to the remote", where=name)
        now = self.store.clock()
        refused = self.store.random.random() < weather.refused_frac
        if refused and any(start <= now < stop for start, stop in weather.bursts):
            self.store.wrong["refused"] = self.store.wrong.get("refused", 0) + 1
            raise RemoteUnavailableError("the remote asks to slow down (403)", where=name)
        return begun

    def _rest(self) -> None:
        """Wait for the answer: who dies here does not know that it was done."""
        if self.store.random.random() < 0.3:
            self.wait(self.store.random.uniform(0.0, self.store.weather.latency))

    def _put(self, name: str, payload: bytes) -> None:
        _checked(name)
        begun = self._call(name)
        weather, half = self.store.weather, payload[: len(payload) // 2]
        if self.store.chance(weather.torn, "torn"):
            self.store.put(_flat(name), half, self.machine, begun)
            raise RemoteUnavailableError("the connection broke during an upload", where=name)
        silently = self.store.chance(weather.silently_torn, "silently torn")
        self.store.put(_flat(name), half if silently else payload, self.machine, begun)
        if self.store.chance(weather.unthanked, "unthanked"):
            raise RemoteUnavailableError("the connection broke after an upload", where=name)
        self._rest()

    def _get(self, name: str) -> bytes:
        self._call(name)
        return self._downloaded(name)

    def _downloaded(self, name: str) -> bytes:
        weather, seen = self.store.weather, self.store.visible(_flat(name), self.machine)
        if not seen:
            raise RemoteAbsentError("not on the remote", where=name)
        payload = seen[-1][1].payload or b""
        if self.store.chance(weather.cut, "cut"):
            raise RemoteUnavailableError("the connection broke during a download", where=name)
        if payload and self.store.chance(weather.damaged, "damaged"):
            at = self.store.random.randrange(len(payload))
            payload = payload[:at] + bytes([payload[at] ^ 0x55]) + payload[at + 1 :]
        return payload


def _flat(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in {"", "."})
