"""From model files to what one pass forecasts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from vnfleet.core.errors import BadDataError
from vnfleet.model.artifact import Artifact
from vnfleet.model.ensemble import Ensemble, Member
from vnfleet.model.stockformer import Deltas


def ensembles_of(artifacts: Sequence[Artifact]) -> tuple[Ensemble, ...]:
    """Return what `SetNetwork` and `forecast_ensembles` take for these files, in their order.

    One ensemble with everybody's deltas where all files share a backbone, scaler and calibration (pooled, adapted);
    else the ensembles as they are, one for each symbol (separate). Raises `BadDataError` for no files.
    """
    if not artifacts:
        raise BadDataError("a set has no models")
    ensembles = [artifact.ensemble for artifact in artifacts]
    first = ensembles[0]
    if not all(_same_but_deltas(first, each) for each in ensembles[1:]):
        return tuple(ensembles)
    members = tuple(
        dataclasses.replace(member, deltas=_joined([each.members[place].deltas for each in ensembles]))
        for place, member in enumerate(first.members)
    )
    return (dataclasses.replace(first, members=members),)


def _same_but_deltas(one: Ensemble, other: Ensemble) -> bool:
    return (
        one.feature_names == other.feature_names
        and one.calibration == other.calibration
        and len(one.members) == len(other.members)
        and one.scaler.mean_F.tobytes() == other.scaler.mean_F.tobytes()
        and one.scaler.sd_F.tobytes() == other.scaler.sd_F.tobytes()
        and one.label_scale_H.tobytes() == other.label_scale_H.tobytes()
        and all(_same_network(left, right) for left, right in zip(one.members, other.members, strict=True))
    )


def _same_network(one: Member, other: Member) -> bool:
    return (
        one.config == other.config
        and one.score_sd == other.score_sd
        and (one.deltas is None) == (other.deltas is None)
        and all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
    )


def _joined(own: Sequence[Deltas | None]) -> Deltas | None:
    parts = [deltas.tensors() for deltas in own if deltas is not None]
    if not parts:
        return None
    return Deltas.from_tensors({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
