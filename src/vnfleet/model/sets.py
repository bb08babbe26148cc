"""From model files to what one pass forecasts, and the forecasts of a whole set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl
import torch

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.core.ids import arrays_sha256, canonical_json
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import Artifact
from vnfleet.model.ensemble import (
    Ensemble,
    Member,
    SetForecaster,
    eligible_sessions,
    forecast_ensembles,
    prediction_rows,
)
from vnfleet.model.stockformer import Deltas


def forecast_artifacts(
    artifacts: Sequence[Artifact],
    cube: FeatureCube,
    sessions: Sequence[date],
    model_id: str,
    fold_id: str,
    *,
    forecast: SetForecaster = forecast_ensembles,
) -> pl.DataFrame:
    """Return the predictions of many artifacts for `sessions` of `cube`, in one batched pass per shared backbone.

    `forecast` computes a pass: `forecast_ensembles` or another path to its numbers, see `vnfleet.model.inference`.

    Raises `BadDataError` when the cube's features differ from those an artifact was trained on, or a session is not
    in the cube.
    """
    frames: list[pl.DataFrame] = []
    place = {symbol: index for index, symbol in enumerate(cube.symbols)}
    for artifact in artifacts:
        _check_features(artifact, cube)
    for group, ensembles in passes_of([artifact for artifact in artifacts if artifact.symbol in place]):
        rows = np.asarray([place[artifact.symbol] for artifact in group])
        present_ST = cube.present_ST[rows]
        eligible_ST = eligible_sessions(present_ST, ensembles[0].context_sessions)
        columns = [_column(cube, session) for session in sessions]
        span = range(min(columns), max(columns) + 1)
        found = forecast(ensembles, cube.values_STF[rows], present_ST, span)
        wanted = np.zeros(len(span), dtype=bool)
        wanted[[column - span.start for column in columns]] = True
        frames.append(
            prediction_rows(
                found,
                [ensemble.calibration for ensemble in ensembles],
                eligible_ST[:, span.start : span.stop] & wanted,
                [artifact.symbol for artifact in group],
                cube.sessions[span.start : span.stop],
                ensembles[0].members[0].config.horizon_sessions,
                model_id,
                fold_id,
            )
        )
    if not frames:
        raise BadDataError(
            "no model matches a symbol of the panel", found=[artifact.symbol for artifact in artifacts][:5]
        )
    return as_prediction_frame(pl.concat(frames))


def passes_of(artifacts: Sequence[Artifact]) -> list[tuple[list[Artifact], list[Ensemble]]]:
    """Return the artifacts in groups that one pass can forecast, each with what `forecast_ensembles` takes for it.

    A group shares one backbone, and has one ensemble with everybody's deltas, or its networks have equal shapes, and
    there is one ensemble for each.
    """
    return [(group, list(ensembles_of(group))) for group in _groups(artifacts)]


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


def _groups(artifacts: Sequence[Artifact]) -> list[list[Artifact]]:
    groups: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        groups.setdefault(_backbone_id(artifact), []).append(artifact)
    passes = [group for group in groups.values() if len(group) > 1]
    alone: dict[str, list[Artifact]] = {}
    for group in groups.values():
        if len(group) == 1:
            members = group[0].ensemble.members
            shape = canonical_json([dataclasses.asdict(member.config) for member in members])
            stacks = all(member.deltas is None for member in members)
            alone.setdefault(shape if stacks else group[0].symbol, []).append(group[0])
    return [*passes, *alone.values()]


def _backbone_id(artifact: Artifact) -> str:
    ensemble = artifact.ensemble
    shared = {
        f"{index}/{name}": tensor.numpy()
        for index, member in enumerate(ensemble.members)
        for name, tensor in member.weights.items()
    }
    shared |= {"mean": ensemble.scaler.mean_F, "sd": ensemble.scaler.sd_F, "label_scale": ensemble.label_scale_H}
    facts = [
        [dataclasses.asdict(member.config), member.score_sd, member.deltas is not None] for member in ensemble.members
    ]
    return arrays_sha256(shared) + canonical_json([dataclasses.asdict(ensemble.calibration), facts])


def _check_features(artifact: Artifact, cube: FeatureCube) -> None:
    names = artifact.ensemble.feature_names
    if names != cube.names:
        different = [f"{a} / {b}" for a, b in zip(names, cube.names, strict=False) if a != b]
        raise BadDataError(
            "a model was trained on other features",
            where=artifact.symbol,
            expected=len(names),
            found=different[:3] or len(cube.names),
        )


def _column(cube: FeatureCube, session: date) -> int:
    try:
        return cube.sessions.index(session)
    except ValueError:
        raise BadDataError(
            "no market session on that day", found=session, expected=f"{cube.sessions[0]}..{cube.sessions[-1]}"
        ) from None
