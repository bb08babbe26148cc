"""`{symbol}_stockformer.pt`: one symbol's whole model in one file that can be read without running code.

The file holds tensors and one JSON text; it is read with `torch.load(weights_only=True)` and refused by name when a
tensor, shape, type or feature list is not what the configuration in it calls for.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from vnfleet.core.atomic import write_bytes
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import arrays_sha256, canonical_json
from vnfleet.model.ensemble import (
    Calibration,
    Ensemble,
    Member,
    Scaler,
)
from vnfleet.model.stockformer import Deltas, StockformerConfig, weight_shapes

ARTIFACT_SCHEMA_VERSION: Final = 2
ARTIFACT_SUFFIX: Final = "_stockformer.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One symbol's model.

    ensemble : members whose deltas, where present, have a symbol axis of length 1.
    strategy : "pooled", "adapted" or "separate".
    reference_universe : symbols whose features the cross-sectional features need; `predict` demands 90 % of them.
    ids : recipe_id, data_id, fold_id and unit ids.
    validation : the model's own validation figures (rank_ic of the set, accuracy of the symbol).
    """

    symbol: str
    ensemble: Ensemble
    strategy: str
    reference_universe: tuple[str, ...]
    ids: dict[str, str]
    validation: dict[str, float]

    @property
    def weights_sha256(self) -> str:
        """Identity of the numbers, independent of the container."""
        return arrays_sha256({name: tensor.numpy() for name, tensor in _tensors(self.ensemble).items()})


def artifact_name(symbol: str) -> str:
    """Return the file name the plan fixed."""
    return f"{symbol}{ARTIFACT_SUFFIX}"


def write_artifact(path: Path, artifact: Artifact) -> None:
    """Write one artifact atomically; raises `ResourceError` when the disk is full."""
    ensemble = artifact.ensemble
    facts = {
        "schema_version": ARTIFACT_SCHEMA_VERSION,
        "symbol": artifact.symbol,
        "strategy": artifact.strategy,
        "configs": [dataclasses.asdict(member.config) for member in ensemble.members],
        "feature_names": list(ensemble.feature_names),
        "calibration": dataclasses.asdict(ensemble.calibration),
        "score_sd": [member.score_sd for member in ensemble.members],
        "reference_universe": list(artifact.reference_universe),
        "ids": artifact.ids,
        "validation": artifact.validation,
    }
    payload = {"facts_json": canonical_json(facts), "tensors": _tensors(ensemble)}
    held = io.BytesIO()  # writing to a file itself, torch has no words for a full disk
    torch.save(payload, held)
    write_bytes(path, held.getvalue())


def read_artifact(path: Path) -> Artifact:
    """Return the artifact in `path`.

    Raises `BadDataError` naming what is wrong: not an artifact, a newer schema, or a tensor that is missing, unknown,
    of another shape or type, or not finite.
    """
    try:
        payload = torch.load(path, weights_only=True, map_location="cpu")
        facts = json.loads(payload["facts_json"])
        tensors: dict[str, Tensor] = payload["tensors"]
        version = int(facts["schema_version"])
        configs = [] if version != ARTIFACT_SCHEMA_VERSION else [_config(record) for record in facts["configs"]]
    except FileNotFoundError as error:
        raise BadDataError("a model file is missing", where=path) from error
    except OSError:
        raise
    except Exception as error:  # whatever the parser says of a foreign file, it is not ours
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadDataError("a file is not a vnfleet model", where=path, found=first[:200]) from error
    if version != ARTIFACT_SCHEMA_VERSION:
        older = version < ARTIFACT_SCHEMA_VERSION
        raise BadDataError(
            f"a model was written by {'an older' if older else 'a newer'} vnfleet",
            where=path,
            expected=ARTIFACT_SCHEMA_VERSION,
            found=version,
            fix="train it again: vnfleet cycle" if older else "upgrade vnfleet",
        )
    if not configs or len(configs) != len(facts["score_sd"]):
        raise BadDataError("a model has no members, or not one score sd for each", where=path, found=len(configs))
    _check_tensors(path, tensors, configs, len(facts["feature_names"]))
    members = tuple(
        Member(
            config,
            _below(tensors, f"member{index}/weights/"),
            _deltas(_below(tensors, f"member{index}/deltas/")),
            float(facts["score_sd"][index]),
        )
        for index, config in enumerate(configs)
    )
    ensemble = Ensemble(
        feature_names=tuple(facts["feature_names"]),
        scaler=Scaler(tensors["scaler/mean"].numpy(), tensors["scaler/sd"].numpy()),
        label_scale_H=tensors["label_scale"].numpy(),
        calibration=Calibration(**facts["calibration"]),
        members=members,
    )
    return Artifact(
        symbol=facts["symbol"],
        ensemble=ensemble,
        strategy=facts["strategy"],
        reference_universe=tuple(facts["reference_universe"]),
        ids=facts["ids"],
        validation=facts["validation"],
    )


def _tensors(ensemble: Ensemble) -> dict[str, Tensor]:
    tensors = {
        "scaler/mean": torch.from_numpy(ensemble.scaler.mean_F),
        "scaler/sd": torch.from_numpy(ensemble.scaler.sd_F),
        "label_scale": torch.from_numpy(ensemble.label_scale_H),
    }
    for index, member in enumerate(ensemble.members):
        tensors |= {f"member{index}/weights/{name}": tensor for name, tensor in member.weights.items()}
        if member.deltas is not None:
            # A copy: a slice would drag the other symbols' numbers into the file.
            tensors |= {f"member{index}/deltas/{name}": t.clone() for name, t in member.deltas.tensors().items()}
    return tensors


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _deltas(tensors: dict[str, Tensor]) -> Deltas | None:
    return Deltas.from_tensors(tensors) if tensors else None


def _config(record: dict[str, Any]) -> StockformerConfig:
    return StockformerConfig(**{**record, "path_sessions": tuple(record["path_sessions"])})


def _check_tensors(
    path: Path, tensors: dict[str, Tensor], configs: Sequence[StockformerConfig], num_features: int
) -> None:
    first = configs[0]
    if any(config.num_features != num_features for config in configs):
        raise BadDataError(
            "a model's feature list is wrong", where=path, expected=first.num_features, found=num_features
        )
    expected: dict[str, tuple[int, ...]] = {
        "scaler/mean": (num_features,),
        "scaler/sd": (num_features,),
        "label_scale": (first.num_horizons,),
    }
    for index, config in enumerate(configs):
        expected |= {f"member{index}/weights/{name}": shape for name, shape in weight_shapes(config).items()}
        if any(name.startswith(f"member{index}/deltas/") for name in tensors):
            deltas = Deltas.zeros(1, config).tensors()
            expected |= {f"member{index}/deltas/{name}": tuple(tensor.shape) for name, tensor in deltas.items()}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise BadDataError("a model has a missing or unknown tensor", where=path, found=name)
        tensor = tensors[name]
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != expected[name]:
            raise BadDataError(
                f"tensor {name} of a model is wrong",
                where=path,
                expected=("float32", expected[name]),
                found=(str(tensor.dtype), tuple(tensor.shape)),
            )
        if not bool(torch.isfinite(tensor).all()):
            raise BadDataError(f"tensor {name} of a model is not finite", where=path)
