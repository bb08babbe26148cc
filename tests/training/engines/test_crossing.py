"""Errors keep their class, words and exit code on the way to another process; nothing else is ever made of a record."""

from __future__ import annotations

import pytest

from vnfleet.core.errors import (
    BadDataError,
    BusyError,
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
