"""The recorded numeric environment: damage is refused by name, and every change of machine or software is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vnfleet.core.errors import BadDataError
from vnfleet.training.environment import ENVIRONMENT_NAME, frozen_environment
from vnfleet.training.machine.config import MachineConfig

ONE_THREAD = MachineConfig(num_threads=1)


def rewritten(folder: Path, **fields: object) -> None:
    path = folder / ENVIRONMENT_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_threads": 0},
        {"splits": 0},
        {"splits": 65},
        {"group_size": -1},
        {"device": "cpu", "precision": "fp16"},
        {"compiled": "garbage"},
        {"compiled": 1},
        {"device": "toaster"},
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused_by_name(fields: dict[str, object], tmp_path: Path) -> None:
    frozen_environment(tmp_path, ONE_THREAD)
    rewritten(tmp_path, **fields)
    with pytest.raises(BadDataError, match="a recorded environment is damaged") as caught:
        frozen_environment(tmp_path, ONE_THREAD)
    assert ENVIRONMENT_NAME in str(caught.value)
    assert str(tmp_path) in str(caught.value.fix)


@pytest.mark.parametrize("payload", [b"\xff\xfe\x00", b"", b"[]", None], ids=["no text", "empty", "a list", "a folder"])
def test_a_record_that_is_none_is_refused_by_name(payload: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / ENVIRONMENT_NAME
    if payload is None:
        path.mkdir()
    else:
        path.write_bytes(payload)
    with pytest.raises(BadDataError, match=ENVIRONMENT_NAME):
        frozen_environment(tmp_path, ONE_THREAD)


def test_other_software_is_recorded_once_in_words(tmp_path: Path) -> None:
    first = frozen_environment(tmp_path, ONE_THREAD)
    rewritten(tmp_path, torch_version="1.0.0", cpu_capability="ABACUS")
    moved = frozen_environment(tmp_path, ONE_THREAD)
    capability = torch.backends.cpu.get_cpu_capability()
    assert moved.now.changes == (
        f"went on with torch version {torch.__version__} after 1.0.0, cpu capability {capability} after ABACUS",
    )
    assert moved.now.model_copy(update={"changes": ()}) == first.now
    assert frozen_environment(tmp_path, ONE_THREAD).now == moved.now
