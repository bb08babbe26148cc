"""What finished units leave behind: the selection of a fold, a trained member, or the models of a shard of symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import verify
from vnfleet.model.ensemble import Calibration, Ensemble, Member, Scaler
from vnfleet.model.stockformer import Deltas, StockformerConfig
from vnfleet.training.dataset import Scaling

UNIT_KIND = "unit"
RESULT_FOLDER = "result"
SELECTION_NAME = "selection.json"
MEMBER_NAME = "member.json"
SEPARATE_NAME = "separate.json"
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


class SeparateFacts(BaseModel):
    """What a `separate` unit found out, per symbol in the order of the stack.

    valid_figure : minus the validation loss at the chosen epoch. calibrations : (intercept, slope) of the probability
    of a rise. valid_accuracy : share of validation sessions whose direction was called right.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    symbols: tuple[str, ...]
    epochs: tuple[int, ...]
    valid_figure: tuple[float, ...]
    calibrations: tuple[tuple[float, float], ...]
    valid_accuracy: tuple[float, ...]
    weights_sha256: str


def read_selection(units_root: Path, unit_id: str) -> Selection:
    """Return the selection of a finished `select` unit; raises `BadDataError` when it is not whole."""
    folder = result_folder(units_root, unit_id)
    verify(folder, UNIT_KIND)
    return Selection.model_validate_json((folder / SELECTION_NAME).read_text(encoding="utf-8"))


def write_member(
    folder: Path, weights: dict[str, Tensor], deltas: Deltas | None, scaling: Scaling, facts: MemberFacts
) -> None:
    """Write a member's tensors and facts into the scratch folder of its result."""
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    if deltas is not None:
        tensors |= {f"deltas/{name}": tensor for name, tensor in deltas.tensors().items()}
    tensors |= _scaling_tensors([scaling])
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / TENSORS_NAME)
    (folder / MEMBER_NAME).write_text(facts.model_dump_json(indent=1), encoding="utf-8")


def write_separate(
    folder: Path,
    stacked: dict[str, Tensor],
    scaling: Sequence[Scaling],
    facts: SeparateFacts,
    valid_score_SO: np.ndarray,
) -> None:
    """Write the models of one `separate` unit, stacked in the order of `facts.symbols`, into its scratch folder.

    valid_score_SO : what the selected models said on the validation tail, as fractions, NaN without model or label.
    """
    tensors = {f"weights/{name}": tensor.contiguous() for name, tensor in stacked.items()} | _scaling_tensors(scaling)
    tensors["valid_score"] = torch.from_numpy(valid_score_SO)
    save_file(tensors, folder / TENSORS_NAME)
    (folder / SEPARATE_NAME).write_text(facts.model_dump_json(indent=1), encoding="utf-8")


def _scaling_tensors(scaling: Sequence[Scaling]) -> dict[str, Tensor]:
    """Return scalers and label scales with a leading axis of models."""
    return {
        "scaler/mean": torch.from_numpy(np.stack([each.scaler.mean_F for each in scaling])),
        "scaler/sd": torch.from_numpy(np.stack([each.scaler.sd_F for each in scaling])),
        "label_scale": torch.from_numpy(np.stack([each.label_scale_H for each in scaling])),
    }


def _scaling_of(tensors: dict[str, Tensor], row: int) -> Scaling:
    mean_F, sd_F = tensors["scaler/mean"][row].numpy(), tensors["scaler/sd"][row].numpy()
    return Scaling(Scaler(mean_F, sd_F), tensors["label_scale"][row].numpy())


def _read(units_root: Path, unit_id: str) -> tuple[Path, dict[str, Tensor]]:
    folder = result_folder(units_root, unit_id)
    verify(folder, UNIT_KIND)
    return folder, load_file(folder / TENSORS_NAME)


def read_ensemble(
    units_root: Path,
    members: Sequence[tuple[str, StockformerConfig]],
    feature_names: tuple[str, ...],
    calibration: Calibration,
    *,
    adapted: bool,
) -> Ensemble:
    """Return the ensemble of finished members (unit id, shape) of one fold; with `adapted`, with their deltas."""
    if not members:
        raise BadDataError("an ensemble needs at least one member", where=units_root)
    read: list[Member] = []
    for unit_id, config in members:
        folder, tensors = _read(units_root, unit_id)
        facts = MemberFacts.model_validate_json((folder / MEMBER_NAME).read_text(encoding="utf-8"))
        parts = _below(tensors, "deltas/")
        deltas = Deltas.from_tensors(parts) if adapted and parts else None
        sd = facts.score_sd_adapted if deltas else facts.score_sd_pooled
        read.append(Member(config, _below(tensors, "weights/"), deltas, sd))
    scaling = _scaling_of(tensors, 0)
    return Ensemble(
        feature_names=feature_names,
        scaler=scaling.scaler,
        label_scale_H=scaling.label_scale_H,
        calibration=calibration,
        members=tuple(read),
    )


@dataclass(frozen=True, slots=True)
class SeparateModel:
    """One symbol's finished ensemble with its validation accuracy and figure (means over members).

    valid_score_O : its mean score on the sessions of the validation tail, NaN where there is none.
    """

    ensemble: Ensemble
    valid_accuracy: float
    valid_figure: float
    valid_score_O: np.ndarray


def read_separate(
    units_root: Path, units: Sequence[tuple[str, StockformerConfig]], feature_names: tuple[str, ...]
) -> dict[str, SeparateModel]:
    """Return each symbol's ensemble from finished `separate` units (unit id, shape), in order of seed.

    Its score is the forecast return as a fraction; calibrations of the members are averaged.
    """
    members: dict[str, list[Member]] = {}
    calibrations: dict[str, list[tuple[float, float]]] = {}
    figures: dict[str, list[tuple[float, float]]] = {}
    scalings: dict[str, Scaling] = {}
    scores: dict[str, list[np.ndarray]] = {}
    for unit_id, config in units:
        folder, tensors = _read(units_root, unit_id)
        facts = SeparateFacts.model_validate_json((folder / SEPARATE_NAME).read_text(encoding="utf-8"))
        for row, symbol in enumerate(facts.symbols):
            scalings[symbol] = _scaling_of(tensors, row)
            scores.setdefault(symbol, []).append(tensors["valid_score"][row].numpy())
            weights = {name: tensor[row].clone() for name, tensor in _below(tensors, "weights/").items()}
            score_sd = 1.0 / float(scalings[symbol].label_scale_H[-1])
            members.setdefault(symbol, []).append(Member(config, weights, None, score_sd))
            calibrations.setdefault(symbol, []).append(facts.calibrations[row])
            figures.setdefault(symbol, []).append((facts.valid_accuracy[row], facts.valid_figure[row]))
    return {
        symbol: SeparateModel(
            Ensemble(
                feature_names=feature_names,
                scaler=scalings[symbol].scaler,
                label_scale_H=scalings[symbol].label_scale_H,
                calibration=Calibration(*(float(value) for value in np.mean(calibrations[symbol], axis=0))),
                members=tuple(own),
            ),
            valid_accuracy=float(np.mean([accuracy for accuracy, _ in figures[symbol]])),
            valid_figure=float(np.mean([figure for _, figure in figures[symbol]])),
            valid_score_O=np.mean(scores[symbol], axis=0),
        )
        for symbol, own in members.items()
    }


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
