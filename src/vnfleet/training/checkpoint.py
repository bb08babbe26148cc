"""Checkpoints of one training stage: sealed folders of safetensors and JSON, the newest whole one counts.

A torn, truncated, bit-flipped or foreign checkpoint is refused by name and the one before it is used.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vnfleet.core.atomic import TMP_MARK
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import canonical_json
from vnfleet.core.sealed import sealing, verify

CHECKPOINT_KIND = "checkpoint"
_KEEP = 2
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class StageState:
    """Everything a stage needs to go on: tensors by name, steps done, metric per epoch, best epoch (1-based), done."""

    tensors: dict[str, Tensor]
    step: int = 0
    history: list[float] = field(default_factory=list)
    best_epoch: int = 0
    done: bool = False


class StageCheckpoints:
    """The checkpoints of one stage below one folder."""

    def __init__(self, folder: Path, stage_key: str) -> None:
        self._folder = folder
        self._stage_key = stage_key

    def latest(self) -> StageState | None:
        """Return the newest whole state, or None; damaged ones are named in the log and passed over."""
        for path in self._paths():
            try:
                return self._read(path)
            except (BadDataError, SafetensorError, KeyError, ValueError) as error:
                _log.warning("checkpoint refused, using the one before it: %s", str(error).replace("\n", ";"))
        return None

    def _read(self, path: Path) -> StageState:
        if verify(path, CHECKPOINT_KIND).meta.get("stage_key") != self._stage_key:
            raise BadDataError("a checkpoint belongs to other work", where=path)
        facts = json.loads((path / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "tensors.safetensors")
        return StageState(tensors, facts["step"], facts["history"], facts["best_epoch"], facts["done"])

    def save(self, state: StageState) -> None:
        """Write `state` as the newest checkpoint and drop all but the last two."""
        target = self._folder / f"ckpt-{state.step:08d}"
        with sealing(target, CHECKPOINT_KIND, {"stage_key": self._stage_key}) as scratch:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()},
                scratch / "tensors.safetensors",
            )
            facts = {"step": state.step, "history": state.history, "best_epoch": state.best_epoch, "done": state.done}
            (scratch / "state.json").write_text(canonical_json(facts), encoding="utf-8")
        for old in self._paths()[_KEEP:]:
            shutil.rmtree(old, ignore_errors=True)
        for torn in self._folder.glob(f".*{TMP_MARK}*"):
            shutil.rmtree(torn, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("ckpt-*"), reverse=True)
