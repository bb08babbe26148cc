"""Checkpoints of one training stage: sealed folders of safetensors and JSON, the newest whole one counts.

A torn, truncated, bit-flipped or foreign checkpoint is refused by name and the one before it is used.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vnfleet.core.atomic import TMP_MARK, discard
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import canonical_json
from vnfleet.core.sealed import sealing, verify

CHECKPOINT_KIND = "checkpoint"
_KEEP = 2
_REFUSED_MARK = ".refused-"
_log = logging.getLogger(__name__)


class _Facts(BaseModel):
    """The parts of a `StageState` that are no tensors."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int = Field(ge=0)
    history: list[list[float]]
    best_epoch: list[int]
    active: list[int]


class CheckpointSink(Protocol):
    """Told of every new checkpoint, so that it can be carried away from a machine that may vanish."""

    def saved(self, checkpoint: Path, /) -> None:
        """Take note of `checkpoint`, a sealed folder ``<unit>/<stage>/ckpt-<step>``.

        It may be gone after the second save that follows: read it now. What this raises stops the stage.
        """


@dataclass(slots=True)
class StageState:
    """Everything a stage of M models needs to go on.

    tensors : by name, as saved. step : steps done. history : validation figures per model and epoch.
    best_epoch : per model, 1-based, 0 before the first. active : models still in the stack, in its order.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    history: list[list[float]] = field(default_factory=list)
    best_epoch: list[int] = field(default_factory=list)
    active: list[int] = field(default_factory=list)

    @property
    def result_MP(self) -> Tensor:
        """The fitted rows of the models that left the stack."""
        return self.tensors["result"]


@dataclass(slots=True, kw_only=True)
class CheckpointRule:
    """When a checkpoint is due: at the first of so many epochs, minutes, or share of the planned steps since the last.

    It never changes what is trained, so the clock may decide.
    """

    epochs: int = 20
    minutes: float = 20.0
    frac: float = 0.05
    _step: int = 0
    _epoch: int = 0
    _at_seconds: float = 0.0

    def start(self, step: int, epoch: int, now_seconds: float) -> None:
        """Count from here."""
        self._step, self._epoch, self._at_seconds = step, epoch, now_seconds

    def is_due(self, step: int, epoch: int, planned_steps: int, now_seconds: float) -> bool:
        """Return whether to save now."""
        return (
            step - self._step >= max(1, round(self.frac * planned_steps))
            or epoch - self._epoch >= self.epochs
            or now_seconds - self._at_seconds >= 60.0 * self.minutes
        )


class StageCheckpoints:
    """The checkpoints of one stage below one folder; `sink` is told of each after it is sealed."""

    def __init__(self, folder: Path, stage_key: str, sink: CheckpointSink | None = None) -> None:
        self._folder = folder
        self._stage_key = stage_key
        self._sink = sink

    def latest(self) -> StageState | None:
        """Return the newest whole state, or None.

        Damaged ones are named in the log and moved aside, so that they never stand in the way of whole ones.
        """
        for path in self._paths():
            try:
                return self._read(path)
            except (BadDataError, SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
                why = f"{type(error).__name__}: {error}".replace("\n", ";")
                _log.warning("checkpoint %s refused, using the one before it: %s", path, why)
            try:
                path.rename(path.with_name(f"{_REFUSED_MARK}{path.name}-{uuid.uuid4().hex[:8]}"))
            except OSError:
                _log.warning("checkpoint %s could not be moved aside", path)
        return None

    def _read(self, path: Path) -> StageState:
        if verify(path, CHECKPOINT_KIND).meta.get("stage_key") != self._stage_key:
            raise BadDataError("a checkpoint belongs to other work", where=path)
        facts = _Facts.model_validate_json((path / "state.json").read_bytes().decode())
        tensors = load_file(path / "tensors.safetensors")
        rows = {"result": len(facts.history)} | ({"value": len(facts.active)} if facts.active else {})
        for name, expected in rows.items():
            found = len(tensors[name]) if name in tensors else "none"
            if found != expected:
                raise BadDataError(f"a checkpoint lacks rows of {name}", where=path, expected=expected, found=found)
        if len(facts.best_epoch) != len(facts.history) or not set(facts.active) <= set(range(len(facts.history))):
            raise BadDataError("a checkpoint contradicts itself", where=path, found=facts.model_dump_json()[:200])
        return StageState(
            tensors, step=facts.step, history=facts.history, best_epoch=facts.best_epoch, active=facts.active
        )

    def save(self, state: StageState) -> None:
        """Write `state` as the newest checkpoint; keep it and the one before it."""
        target = self._folder / f"ckpt-{state.step:08d}"
        with sealing(target, CHECKPOINT_KIND, {"stage_key": self._stage_key}) as scratch:
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in state.tensors.items()},
                scratch / "tensors.safetensors",
            )
            facts = _Facts(step=state.step, history=state.history, best_epoch=state.best_epoch, active=state.active)
            (scratch / "state.json").write_text(canonical_json(facts.model_dump()), encoding="utf-8")
        # One of a later step was refused when this stage went on: only those before this one are worth keeping.
        others = [path for path in self._paths() if path.name != target.name]
        before = [path for path in others if path.name < target.name][: _KEEP - 1]
        torn = [*self._folder.glob(f".*{TMP_MARK}*"), *self._folder.glob(f"{_REFUSED_MARK}*")]
        for useless in [path for path in others if path not in before] + torn:
            discard(useless)
        if self._sink is not None:
            self._sink.saved(target)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("ckpt-*"), reverse=True)
