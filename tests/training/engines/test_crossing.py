"""Errors keep their class, words and exit code on the way to another process; nothing else is ever made of a record."""

from __future__ import annotations

import errno

import pytest
from safetensors import SafetensorError

from vnfleet.core.errors import (
    BadDataError,
    BusyError,
    ExitCode,
    RemoteError,
    ResourceError,
    UsageError,
    VnfleetError,
)
from vnfleet.training.engines.crossing import ErrorRecord, UnitFailedError, raise_recorded, record_error


def cross(error: BaseException) -> VnfleetError:
    record = ErrorRecord.model_validate_json(record_error(error).model_dump_json())
    with pytest.raises(VnfleetError) as caught:
        raise_recorded(record, "unit abc")
    return caught.value


@pytest.mark.parametrize(
    "kind", [BadDataError, BusyError, RemoteError, ResourceError, UsageError, UnitFailedError, VnfleetError]
)
def test_a_known_error_is_the_same_on_the_other_side(kind: type[VnfleetError]) -> None:
    error = kind("mất điện", expected=1, found=2, where="here", fix="run again")
    back = cross(error)
    assert type(back) is kind
    assert (str(back), back.what, back.exit_code) == (str(error), error.what, error.exit_code)
    assert (back.found, back.fix) == ("2", "run again")


def test_details_that_were_not_given_stay_none_and_notes_travel() -> None:
    error = BadDataError("torn")
    error.add_note("while running step train")
    back = cross(error)
    assert (back.found, back.fix) == (None, None)
    assert back.__notes__ == ["while running step train"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "units"), "a file may not be used"),
        (PermissionError(errno.EACCES, "Permission denied", "units"), "a file may not be used"),
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), "out of memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_disk_or_memory_that_ran_out_stays_one_on_the_other_side(error: Exception, words: str) -> None:
    back = cross(error)
    assert type(back) is ResourceError
    assert back.exit_code == ExitCode.RESOURCE
    assert words in back.what
    assert back.fix


def test_an_unforeseen_error_names_the_work_and_carries_its_traceback() -> None:
    def divide(number: int) -> float:
        return number / 0

    try:
        divide(1)
    except ZeroDivisionError as error:
        back = cross(error)
    assert type(back) is UnitFailedError
    assert "unit abc" in str(back)
    assert "ZeroDivisionError: division by zero" in str(back)
    assert any("in divide" in note for note in back.__notes__)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("vnfleet.core.errors", "ExitCode"), ("vnfleet.core.errors", "nothing"), ("builtins", "exit")],
)
def test_a_record_makes_only_our_own_errors(module: str, name: str) -> None:
    with pytest.raises(UnitFailedError, match="words"):
        raise_recorded(ErrorRecord(module=module, name=name, what="words", text="words"), "unit abc")
