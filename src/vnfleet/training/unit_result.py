"""What finished units leave behind: the selection of a fold, and one trained member per seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import verify
from vnfleet.model.ensemble import Calibration, Ensemble, Member, Scaler
from vnfleet.model.stockformer import Deltas, Stockformer, StockformerConfig

UNIT_KIND = "unit"
RESULT_FOLDER = "result"
SELECTION_NAME = "selection.json"
MEMBER_NAME = "member.json"
TENSORS_NAME = "tensors.safetensors"


def result_folder(units_root: Path, unit_id: str) -> Path:
    """Return where the sealed result of a unit lives."""
    return units_root / unit_id / RESULT_FOLDER


class Selection(BaseModel):
    """What the validation tail of a fold decided.

    penalty : lambda of the deltas, None meaning infinity (all symbols equal the backbone).
    calibration_* : (intercept, slope) of the probability of a rise.
    valid_accuracy_by_symbol : share of validation sessions whose direction was called right.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    epochs: int
    penalty: float | None
    valid_rank_ic_by_epoch: tuple[float, ...]
    valid_rank_ic_by_penalty: dict[str, float]
    valid_rank_ic: float
    calibration_pooled: tuple[float, float]
    calibration_adapted: tuple[float, float]
    valid_accuracy_by_symbol: dict[str, float]


class MemberFacts(BaseModel):
    """The in-fold score sd of a member, without and with its deltas, and the hash of its weights."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    score_sd_pooled: float
    score_sd_adapted: float
    weights_sha256: str


def read_selection(units_root: Path, unit_id: str) -> Selection:
    """Return the selection of a finished `select` unit; raises `BadDataError` when it is not whole."""
    folder = result_folder(units_root, unit_id)
    verify(folder, UNIT_KIND)
    return Selection.model_validate_json((folder / SELECTION_NAME).read_text(encoding="utf-8"))


def write_member(
    folder: Path,
    network: Stockformer,
    deltas: Deltas | None,
    scaler: Scaler,
    label_scale_H: np.ndarray,
    facts: MemberFacts,
) -> None:
    """Write a member's tensors and facts into the scratch folder of its result."""
    tensors = {f"weights/{name}": tensor for name, tensor in network.state_dict().items()}
    if deltas is not None:
        tensors |= {f"deltas/{name}": tensor for name, tensor in deltas.tensors().items()}
    tensors["scaler/mean"] = torch.from_numpy(scaler.mean_F)
    tensors["scaler/sd"] = torch.from_numpy(scaler.sd_F)
    tensors["label_scale"] = torch.from_numpy(label_scale_H)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / TENSORS_NAME)
    (folder / MEMBER_NAME).write_text(facts.model_dump_json(indent=1), encoding="utf-8")


def read_ensemble(
    units_root: Path,
    member_ids: tuple[str, ...],
    config: StockformerConfig,
    feature_names: tuple[str, ...],
    calibration: Calibration,
    *,
    adapted: bool,
) -> Ensemble:
    """Return the ensemble of finished members of one fold; with `adapted`, with their deltas (in universe order)."""
    members: list[Member] = []
    scaler: Scaler | None = None
    label_scale_H = np.empty(0, dtype=np.float32)
    for unit_id in member_ids:
        folder = result_folder(units_root, unit_id)
        verify(folder, UNIT_KIND)
        facts = MemberFacts.model_validate_json((folder / MEMBER_NAME).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS_NAME)
        weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
        parts = {name.removeprefix("deltas/"): t for name, t in tensors.items() if name.startswith("deltas/")}
        deltas = Deltas.from_tensors(parts) if adapted and parts else None
        members.append(Member(weights, deltas, facts.score_sd_adapted if deltas else facts.score_sd_pooled))
        scaler = Scaler(tensors["scaler/mean"].numpy(), tensors["scaler/sd"].numpy())
        label_scale_H = tensors["label_scale"].numpy()
    if scaler is None:
        raise BadDataError("an ensemble needs at least one member", where=units_root)
    return Ensemble(
        config=config,
        feature_names=feature_names,
        scaler=scaler,
        label_scale_H=label_scale_H,
        calibration=calibration,
        members=tuple(members),
    )
