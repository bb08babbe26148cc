"""Running rclone: one process per attempt, its JSON log read while it runs, retries by the class of the failure."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from vnfleet.remote.progress import Told, TransferProgress
from vnfleet.remote.rclone import Fault, as_error, cannot_run, classify

_FLAGS = (
    "--use-json-log",
    "--retries=1",
    "--low-level-retries=2",
    "--contimeout=15s",
    "--timeout=60s",
    "--ask-password=false",
)
_STATS = ("--stats=1s", "--stats-log-level=NOTICE")
_LEVELS_OF_FAILURE = {"error", "critical", "notice", "fatal"}
_NOISE = ("Config file", "Attempt ", "--checksum is in use", "No host key validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often rclone is tried; all times in seconds. A pause doubles after every attempt.

    Attributes
    ----------
    small_seconds : a listing or a small file may take this long.
    folder_seconds : files on the move may stand still this long (no byte, no file further).
    attempts : how often a passing fault is tried.
    pause_seconds, crowded_pause_seconds : the first pause; the second of them when the remote asks to slow down.
    """

    small_seconds: float = 180.0
    folder_seconds: float = 600.0
    attempts: int = 4
    pause_seconds: float = 1.0
    crowded_pause_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Refuse times that cannot work."""
        pauses = min(self.pause_seconds, self.crowded_pause_seconds)
        if self.attempts < 1 or min(self.small_seconds, self.folder_seconds) <= 0 or pauses < 0:
            raise ValueError(f"patience needs positive times and at least one attempt: {self}")

    def pause_after(self, fault: Fault, attempt: int) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (from 1)."""
        first = self.crowded_pause_seconds if fault is Fault.CROWDED else self.pause_seconds
        return float(first * 2 ** (attempt - 1))


class _Stats(BaseModel):
    """The part of rclone's running totals that is told."""

    model_config = ConfigDict(extra="ignore")

    bytes: int
    totalBytes: int
    transfers: int
    totalTransfers: int
    speed: float
    eta: float | None = None


class _LogLine(BaseModel):
    """One record of `--use-json-log`; fields that are not needed are ignored."""

    model_config = ConfigDict(extra="ignore")

    level: str
    msg: str
    object: str = ""
    objectType: str = ""
    stats: _Stats | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    """How one process ended: exit code, what it printed, what it complained about."""

    exit_code: int
    output: bytes
    messages: tuple[str, ...]


class _StoodStillError(Exception):
    """No byte moved for too long."""


class Rclone:
    """The binary with its patience. Every method may raise `RemoteError` (or `ResourceError` for the disk here)."""

    def __init__(
        self,
        binary: Path,
        *,
        patience: Patience,
        bandwidth_limit: str = "",
        told: Told | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        limit = (f"--bwlimit={bandwidth_limit}",) if bandwidth_limit else ()
        self._start = (str(binary), *_FLAGS, *limit)
        self._binary = binary
        self._patience = patience
        self._told = told
        self._sleep = sleep

    def answer(self, command: Sequence[str]) -> bytes:
        """Run a short command, the remote path last; return what it printed."""
        return self.answer_and_notices(command)[0]

    def answer_and_notices(self, command: Sequence[str]) -> tuple[bytes, tuple[str, ...]]:
        """Run a short command, the remote path last; return what it printed, and what it remarked by the way."""
        ended = self._until_done(lambda: self._answer_once(command), command[-1])
        return ended.output, ended.messages

    def carry(self, command: Sequence[str], *, downloading: bool = False) -> None:
        """Run a command that moves files, telling how far it is; the time limit starts again with every byte moved."""
        self._until_done(lambda: self._carry_once(command), command[-2 if downloading else -1], downloading=downloading)

    def _until_done(self, once: Callable[[], _Ended], where: str, *, downloading: bool = False) -> _Ended:
        attempt = 1
        messages: tuple[str, ...]
        while True:
            try:
                ended = once()
            except (subprocess.TimeoutExpired, _StoodStillError) as error:
                messages, fault = (f"timeout: {_without_command(error)}",), Fault.PASSING
            except OSError as error:
                raise cannot_run(self._binary, error) from error
            else:
                if ended.exit_code == 0:
                    return ended
                messages, fault = ended.messages, classify(ended.exit_code, ended.messages)
            if fault in (Fault.ABSENT, Fault.FINAL) or attempt >= self._patience.attempts:
                raise as_error(fault, messages, where, downloading=downloading)
            self._sleep(self._patience.pause_after(fault, attempt))
            attempt += 1

    def _answer_once(self, command: Sequence[str]) -> _Ended:
        done = subprocess.run(  # noqa: S603
            [*self._start, "--stats=0", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=self._patience.small_seconds,
            check=False,
        )
        return _Ended(done.returncode, done.stdout, failure_messages(done.stderr.decode(errors="replace").splitlines()))

    def _carry_once(self, command: Sequence[str]) -> _Ended:
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with subprocess.Popen(  # noqa: S603
            [*self._start, *_STATS, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            reader = threading.Thread(target=_read_lines, args=(process.stderr, lines), daemon=True)
            reader.start()
            try:
                said = self._follow(lines)
            except BaseException:
                process.kill()
                raise
            finally:
                reader.join()
        return _Ended(process.returncode, b"", failure_messages(said))

    def _follow(self, lines: queue.SimpleQueue[str | None]) -> list[str]:
        """Pass progress on while lines arrive; return the lines that are no progress."""
        said: list[str] = []
        moved = (-1, -1)
        deadline = time.monotonic() + self._patience.folder_seconds
        while True:
            left_seconds = deadline - time.monotonic()
            try:
                line = lines.get(timeout=max(left_seconds, 0.0))
            except queue.Empty:
                left_seconds = 0.0
                line = ""
            if left_seconds <= 0.0:
                raise _StoodStillError(f"nothing moved for {self._patience.folder_seconds:.0f} s")
            if line is None:
                return said
            progress = progress_of(line)
            if progress is None:
                said.append(line)
                continue
            if (progress.files_done, progress.bytes_done) != moved:
                moved = (progress.files_done, progress.bytes_done)
                deadline = time.monotonic() + self._patience.folder_seconds
            if self._told is not None:
                self._told(progress)


def progress_of(line: str) -> TransferProgress | None:
    """Return the progress a line of rclone's JSON log tells, None for any other line."""
    try:
        stats = _LogLine.model_validate_json(line).stats
    except ValidationError:
        return None
    if stats is None:
        return None
    return TransferProgress(
        files_done=stats.transfers,
        files_total=stats.totalTransfers,
        bytes_done=stats.bytes,
        bytes_total=stats.totalBytes,
        eta_seconds=stats.eta,
        bytes_per_second=stats.speed,
    )


def failure_messages(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct messages of a failed command, in order; lines that are not JSON are kept as they are.

    A message about one file starts with its path.
    """
    messages: dict[str, None] = {}
    for line in lines:
        try:
            record = _LogLine.model_validate_json(line)
        except ValidationError:
            record = _LogLine(level="error", msg=line)
        said = record.msg.strip()
        if record.stats is None and record.level in _LEVELS_OF_FAILURE and said and not said.startswith(_NOISE):
            about_a_file = record.object and record.objectType.endswith(("Object", "string", "Dir", "Directory"))
            messages[f"{record.object}: {said}" if about_a_file else said] = None
    return tuple(messages)


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line.decode(errors="replace"))
    lines.put(None)


def _without_command(error: Exception) -> str:
    """Say how long was waited, without the command line: it may hold a password."""
    return f"no end after {error.timeout:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
