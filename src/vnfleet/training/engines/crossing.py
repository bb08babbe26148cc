"""Errors on their way from one process to another: as JSON, never as pickles, with their class and words kept."""

from __future__ import annotations

import errno
import importlib
import traceback
from typing import NoReturn

from pydantic import BaseModel, ConfigDict

from vnfleet.core.atomic import in_words, system_code
from vnfleet.core.errors import ResourceError, VnfleetError


class UnitFailedError(VnfleetError):
    """A unit met an error that vnfleet did not foresee, or its process died again and again."""


class ErrorRecord(BaseModel):
    """An error as another process can raise it again.

    module, name : the class of a `VnfleetError`; empty for any other error.
    what, text : its first sentence and all its words. found, fix : its details of that name.
    notes : what was noted on the way.
    trace : the traceback of an unforeseen error.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    module: str = ""
    name: str = ""
    what: str
    text: str
    found: str | None = None
    fix: str | None = None
    notes: tuple[str, ...] = ()
    trace: str = ""


def record_error(error: BaseException) -> ErrorRecord:
    """Return `error` as a record; a disk or memory that is full or may not be used as a `ResourceError`."""
    known = error if isinstance(error, VnfleetError) else in_words(error) or _memory_in_words(error)
    if known is not None:
        kind = type(known)
        return ErrorRecord(
            module=kind.__module__,
            name=kind.__qualname__,
            what=known.what,
            text=str(known),
            found=None if known.found is None else str(known.found),
            fix=known.fix,
            notes=tuple(getattr(error, "__notes__", ())),
        )
    words = f"{type(error).__name__}: {error}".rstrip(": ")
    return ErrorRecord(what=words, text=words, trace="".join(traceback.format_exception(error)))


def raise_recorded(record: ErrorRecord, doing: str) -> NoReturn:
    """Raise what `record` holds: a `VnfleetError` in its own class, anything else as `UnitFailedError`.

    `doing` names the work in words; the traceback of an unforeseen error is attached as a note.
    """
    kind = _error_class(record)
    if kind is not None:
        error = kind.__new__(kind, record.text)
        error.what, error.found, error.fix = record.what, record.found, record.fix
        for note in record.notes:
            error.add_note(note)
        raise error
    failed = UnitFailedError(
        f"an unforeseen error in {doing}",
        found=record.text,
        fix="run the same command again: it goes on from the newest checkpoint; if it fails again, report it",
    )
    if record.trace:
        failed.add_note(record.trace)
    raise failed


def _memory_in_words(error: BaseException) -> ResourceError | None:
    """Return that memory ran out as people are told of it; None for any other error."""
    if not isinstance(error, MemoryError) and system_code(error) != errno.ENOMEM:
        try:
            from vnfleet.training.machine.memory import is_out_of_memory  # noqa: PLC0415 - first pin, then torch
        except (ImportError, OSError):  # torch itself may be what is broken
            return None
        if not is_out_of_memory(error):
            return None
    return ResourceError(
        "out of memory, the deployed set is as it was",
        found=(str(error).splitlines() or [type(error).__name__])[0][:200],
        fix="close other programs or set processes lower under [machine], then run the same command again: "
        "finished work is kept",
    )


def _error_class(record: ErrorRecord) -> type[VnfleetError] | None:
    """Return the class a record names, only ever one of our own errors."""
    if not record.module.startswith("vnfleet."):
        return None
    found: object = importlib.import_module(record.module)
    for part in record.name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, VnfleetError) else None
