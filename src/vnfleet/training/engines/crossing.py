"""Errors on their way from one process to another: as JSON, never as pickles, with their class and words kept."""

from __future__ import annotations

import importlib
import traceback
from typing import NoReturn

from pydantic import BaseModel, ConfigDict

from vnfleet.core.errors import VnfleetError


class UnitFailedError(VnfleetError):
    """A unit met an error that vnfleet did not foresee, or its process died again and again."""


class ErrorRecord(BaseModel):
    """An error as another process can raise it again.

    module, name : the class of a `VnfleetError`; empty for any other error.
    what, text : its first sentence and all its words.
    trace : the traceback of an unforeseen error.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    module: str = ""
    name: str = ""
    what: str
    text: str
    trace: str = ""


def record_error(error: BaseException) -> ErrorRecord:
    """Return `error` as a record."""
    if isinstance(error, VnfleetError):
        kind = type(error)
        return ErrorRecord(module=kind.__module__, name=kind.__qualname__, what=error.what, text=str(error))
    words = f"{type(error).__name__}: {error}".rstrip(": ")
    return ErrorRecord(what=words, text=words, trace="".join(traceback.format_exception(error)))


def raise_recorded(record: ErrorRecord, doing: str) -> NoReturn:
    """Raise what `record` holds: a `VnfleetError` in its own class, anything else as `UnitFailedError`.

    `doing` names the work in words; the traceback of an unforeseen error is attached as a note.
    """
    kind = _error_class(record)
    if kind is not None:
        error = kind.__new__(kind, record.text)
        error.what = record.what
        raise error
    failed = UnitFailedError(
        f"an unforeseen error in {doing}",
        found=record.text,
        fix="run the same command again: it goes on from the newest checkpoint; if it fails again, report it",
    )
    if record.trace:
        failed.add_note(record.trace)
    raise failed


def _error_class(record: ErrorRecord) -> type[VnfleetError] | None:
    """Return the class a record names, only ever one of our own errors."""
    if not record.module.startswith("vnfleet."):
        return None
    found: object = importlib.import_module(record.module)
    for part in record.name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, VnfleetError) else None
