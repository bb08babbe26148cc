"""What the system refuses is said in words, whichever library met it first."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from vnfleet.core.atomic import discard, disk_errors_for_people, in_words
from vnfleet.core.errors import BadDataError, ResourceError

# What safetensors and torch said of a full tmpfs, a quota, and a folder mounted read-only.
FULL = (
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("10 requested and 4 written"),
    SafetensorError('Error while serializing: I/O error: No space left on device (os error 28) at path "/x"'),
    SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
)
FORBIDDEN = (
    PermissionError(errno.EACCES, "Permission denied", "/x"),
    OSError(errno.EROFS, "Read-only file system", "/x"),
    SafetensorError('Error while serializing: I/O error: Read-only file system (os error 30) at path "/x"'),
    SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"),
)
posix_only = pytest.mark.skipif(os.name == "nt", reason="error numbers of POSIX")


@posix_only
@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_said_in_words_whoever_met_it(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the disk is full") as caught, disk_errors_for_people(tmp_path / "f"):
        raise error
    assert str(tmp_path / "f") in str(caught.value)
    assert "free some space" in str(caught.value.fix)


@posix_only
@pytest.mark.parametrize("error", FORBIDDEN, ids=str)
def test_a_file_that_may_not_be_used_is_said_in_words(error: Exception) -> None:
    said = in_words(error)
    assert said is not None
    assert "a file may not be used" in said.what
    assert "give your account the right" in str(said.fix)


def test_other_errors_and_our_own_stay_what_they_are(tmp_path: Path) -> None:
    assert in_words(ValueError("bad number")) is None
    assert in_words(FileNotFoundError(errno.ENOENT, "gone")) is None
    with pytest.raises(BadDataError, match="quoted"), disk_errors_for_people(tmp_path):
        raise BadDataError("quoted: No space left on device")


def test_what_is_of_no_use_goes_whatever_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("file", "folder", "link", "never there"):
        discard(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
