"""Settings, logs and reports of the two sides brought together; nothing is ever deleted.

A file that changed on one side since the last time travels to the other. Which side that is is known from what both
held then, kept in ``logs/sync/`` of the work directory: a drive's clock, and its listing's idea of equal, decide
nothing. A file that changed on both sides is left alone and told, unless one direction was asked for: that one wins.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from vnfleet.core.atomic import TMP_MARK, replace, sweep, write_text
from vnfleet.core.errors import UsageError, VnfleetError
from vnfleet.core.ids import sha256_of_file
from vnfleet.core.sealed import MANIFEST_NAME
from vnfleet.remote.entries import stay_inside
from vnfleet.remote.obstacles import in_the_way
from vnfleet.remote.transfer import Transfer

SCOPES = ("configs", "logs", "reports")
STATE_FOLDER = "sync"
# What holds for one machine only, and what this module itself remembers.
_LOCAL_ONLY = ("configs/inference.json", f"logs/{STATE_FOLDER}/")
_SCRATCH = f".sync{TMP_MARK}"
Direction = Literal["up", "down", "both"]
Way = Literal["up", "down", "conflict"]


class Known(BaseModel):
    """What both sides held when a file was last the same on both: our hash, and how the remote listed it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    size_bytes: int
    modified: str


class SyncState(BaseModel):
    """Everything that is known of one remote."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    files: dict[str, Known] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One file that travels or cannot: path as on both sides, which way, its size in bytes, and why in words."""

    path: str
    way: Way
    num_bytes: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a synchronisation did, or would do."""

    moves: tuple[Move, ...]
    num_equal: int
    dry_run: bool

    def of(self, way: Way) -> tuple[Move, ...]:
        """Return the files that went one way."""
        return tuple(move for move in self.moves if move.way == way)

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as plain JSON values."""
        listed: dict[str, JsonValue] = {
            way: [{"path": one.path, "bytes": one.num_bytes, "why": one.why} for one in self.of(way)]
            for way in ("up", "down", "conflict")
        }
        return {**listed, "equal": self.num_equal, "dry_run": self.dry_run}


@dataclass(slots=True)
class Sync:
    """One synchronisation of a work directory with a remote.

    remote_text : how the remote is called; what both sides held is remembered by it. accept : looks at a file that
    came, before it takes its place, and raises a `VnfleetError` to keep it out.
    """

    workdir: Path
    remote: Transfer
    remote_text: str
    accept: Callable[[str, Path], None] = lambda _path, _file: None
    _here: dict[str, tuple[str, int]] = field(default_factory=dict)

    def run(self, direction: Direction, *, dry_run: bool = False) -> Synced:
        """Bring both sides together in `direction` and return what travelled.

        May raise `RemoteError`; what travelled before stays, and running it again does the rest. Bringing files here
        needs the lock of the work directory, which the caller holds.
        """
        state = self._read_state()
        self._here = dict(local_files(self.workdir))
        there, doubled = self._listed()
        same = self._equal_unknown(there, state)
        known = {**state.files, **same}
        moves = [
            Move(path=path, way="conflict", num_bytes=0, why="it is on the remote twice") for path in sorted(doubled)
        ]
        num_equal = 0
        for path in sorted((self._here.keys() | there.keys()) - doubled):
            move = self._decide(path, there.get(path), known.get(path), direction)
            if move is None:
                num_equal += 1
            elif move.way in {"conflict", direction} or direction == "both":
                moves.append(move)
        if not dry_run:
            known |= self._send([move for move in moves if move.way == "up"], there)
            came, refused = self._bring([move for move in moves if move.way == "down"], there)
            known |= came
            moves = [refused.get(move.path, move) for move in moves]
            write_text(self._state_path, SyncState(files=known).model_dump_json(indent=1))
        return Synced(moves=tuple(moves), num_equal=num_equal, dry_run=dry_run)

    def _decide(self, path: str, there: Known | None, known: Known | None, direction: Direction) -> Move | None:
        here = self._here.get(path)
        if there is None:
            assert here is not None
            return Move(path=path, way="up", num_bytes=here[1], why="not on the remote")
        if here is None:
            return Move(path=path, way="down", num_bytes=there.size_bytes, why="not here")
        changed_here = known is None or known.sha256 != here[0]
        changed_there = known is None or (known.size_bytes, known.modified) != (there.size_bytes, there.modified)
        if not changed_here and not changed_there:
            return None
        way: Way = "up" if changed_here else "down"
        why = "it changed here" if changed_here else "it changed on the remote"
        if changed_here and changed_there:
            way = "conflict" if direction == "both" else direction
            why = "it changed on both sides" if known else "it differs, and was never synchronised"
        return Move(path=path, way=way, num_bytes=there.size_bytes if way == "down" else here[1], why=why)

    def _listed(self) -> tuple[dict[str, Known], set[str]]:
        """Return what the remote holds by path, and the paths it holds more than once."""
        there: dict[str, Known] = {}
        doubled: set[str] = set()
        for scope in SCOPES:
            for entry in self.remote.list(scope):
                path = f"{scope}/{entry.path}"
                if not _is_wanted(path):
                    continue
                if path in there:
                    doubled.add(path)
                there[path] = Known(sha256="", size_bytes=entry.size_bytes, modified=entry.modified)
        return there, doubled

    def _equal_unknown(self, there: Mapping[str, Known], state: SyncState) -> dict[str, Known]:
        """Return the files that changed on both sides, as far as can be told, and turn out to be equal."""
        doubtful = []
        for path, listed in there.items():
            here, known = self._here.get(path), state.files.get(path)
            if here is None or here[1] != listed.size_bytes:
                continue
            if known is None or (known.size_bytes, known.modified) != (listed.size_bytes, listed.modified):
                doubtful.append(path)
        equal: dict[str, Known] = {}
        with self._fetched(doubtful) as folder:
            for path in doubtful:
                came = folder.path / path
                if came.is_file() and sha256_of_file(came) == self._here[path][0]:
                    equal[path] = there[path].model_copy(update={"sha256": self._here[path][0]})
        return equal

    def _send(self, moves: Sequence[Move], before: Mapping[str, Known]) -> dict[str, Known]:
        # Looked at first: over WebDAV rclone would remove a folder with all it holds to make room for a file.
        folders = {str(parent) for path in before for parent in PurePosixPath(path).parents}
        for move in moves:
            above = {str(parent) for parent in PurePosixPath(move.path).parents} & before.keys()
            if above or move.path in folders:
                raise in_the_way(*(above or {move.path}), is_folder=not above)
        for scope in SCOPES:
            files = sorted((_inside(move.path) for move in moves if _scope(move.path) == scope), key=_manifest_last)
            payload = [file for file in files if PurePosixPath(file).name != MANIFEST_NAME]
            for part in (payload, files[len(payload) :]):
                if part:
                    self.remote.put_folder(self.workdir / scope, scope, part)
        if not moves:
            return {}
        there, doubled = self._listed()
        return {
            move.path: there[move.path].model_copy(update={"sha256": self._here[move.path][0]})
            for move in moves
            if move.path in there
            and move.path not in doubled
            and there[move.path].size_bytes == self._here[move.path][1]
        }

    def _bring(self, moves: Sequence[Move], there: Mapping[str, Known]) -> tuple[dict[str, Known], dict[str, Move]]:
        came: dict[str, Known] = {}
        refused: dict[str, Move] = {}
        with self._fetched([move.path for move in moves]) as folder:
            for move in sorted(moves, key=lambda move: _manifest_last(move.path)):
                file, target = folder.path / move.path, self.workdir / move.path
                why = self._objection(move, file, target)
                if why:
                    refused[move.path] = Move(path=move.path, way="conflict", num_bytes=move.num_bytes, why=why)
                    continue
                sha256 = sha256_of_file(file)
                target.parent.mkdir(parents=True, exist_ok=True)
                replace(file, target)
                came[move.path] = there[move.path].model_copy(update={"sha256": sha256})
        return came, refused

    def _objection(self, move: Move, file: Path, target: Path) -> str:
        """Return why a file that came must not take its place; nothing when it may."""
        if not file.is_file() or file.stat().st_size != move.num_bytes:
            return "it did not come whole"
        if target.is_dir() or any(parent.is_file() for parent in target.parents):
            return "a folder stands where a file should, or a file where a folder should"
        if not target.resolve().is_relative_to(self.workdir.resolve()):
            return "a link here leads out of the work directory"
        try:
            self.accept(move.path, file)
        except VnfleetError as error:
            return f"refused: {error.what}"
        return ""

    def _fetched(self, paths: Sequence[str]) -> _Fetched:
        self.workdir.mkdir(parents=True, exist_ok=True)
        return _Fetched(self.workdir, self.remote, tuple(paths))

    @property
    def _state_path(self) -> Path:
        name = hashlib.sha256(self.remote_text.encode()).hexdigest()[:16]  # it may hold a password
        return self.workdir / "logs" / STATE_FOLDER / f"{name}.json"

    def _read_state(self) -> SyncState:
        try:
            return SyncState.model_validate_json(self._state_path.read_bytes())
        except (FileNotFoundError, ValidationError):  # nothing known: equal files are found by their contents
            return SyncState()


class _Fetched:
    """Files of the remote in a scratch folder below the work directory, while the context lasts."""

    def __init__(self, workdir: Path, remote: Transfer, paths: tuple[str, ...]) -> None:
        self._remote, self._paths = remote, paths
        sweep(workdir, _SCRATCH)
        self._folder = tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=workdir)
        self.path = Path(self._folder.name)

    def __enter__(self) -> Self:
        for scope in SCOPES:
            files = [_inside(path) for path in self._paths if _scope(path) == scope]
            if files:
                (self.path / scope).mkdir(exist_ok=True)
                self._remote.get_folder(scope, self.path / scope, files)
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def local_files(workdir: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield (path, (SHA-256, size in bytes)) of everything here that is synchronised; links are left out."""
    for scope in SCOPES:
        for path in sorted((workdir / scope).rglob("*")):
            name = path.relative_to(workdir).as_posix()
            if path.is_file() and not path.is_symlink() and _is_wanted(name):
                yield name, (sha256_of_file(path), path.stat().st_size)


def _is_wanted(path: str) -> bool:
    try:
        stay_inside(path)
    except UsageError:
        return False
    hidden = any(part.startswith(".") or TMP_MARK in part for part in PurePosixPath(path).parts)
    return not hidden and not path.startswith(_LOCAL_ONLY)


def _scope(path: str) -> str:
    return path.partition("/")[0]


def _inside(path: str) -> str:
    return path.partition("/")[2]


def _manifest_last(path: str) -> tuple[bool, str]:
    """Order files so that a sealed folder is never complete before its files are there."""
    return PurePosixPath(path).name == MANIFEST_NAME, path
