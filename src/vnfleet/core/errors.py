"""The one error tree, and the exit codes the command line promises.

An error message says what went wrong, then what was expected, what was found, where, and what to do next.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BUG = 1
    USAGE = 2
    BAD_DATA = 3
    GATE_KEPT = 4
    BUSY = 5
    RESOURCE = 6
    REMOTE = 7


class VnfleetError(Exception):
    """Base of every error a person can act on.

    Parameters
    ----------
    what : one sentence, what went wrong.
    expected, found, where, fix : optional details, each printed on its own line.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(
        self,
        what: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        where: object | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.found, self.fix = what, found, fix
        details = (("expected", expected), ("found", found), ("where", where), ("next", fix))
        lines = [what, *(f"  {label}: {value}" for label, value in details if value is not None)]
        super().__init__("\n".join(lines))


class UsageError(VnfleetError):
    """A command or configuration that cannot mean anything."""

    exit_code = ExitCode.USAGE


class BadDataError(VnfleetError):
    """Input data, an artifact or a sealed folder that must not be used."""

    exit_code = ExitCode.BAD_DATA


class BusyError(VnfleetError):
    """Another process holds what this one needs."""

    exit_code = ExitCode.BUSY


class ResourceError(VnfleetError):
    """Disk or memory ran out."""

    exit_code = ExitCode.RESOURCE


class RemoteError(VnfleetError):
    """The remote store refused, vanished or lied."""

    exit_code = ExitCode.REMOTE
