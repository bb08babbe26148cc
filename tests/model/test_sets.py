"""From files to one pass: a shared backbone is found, networks of their own are kept apart."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from vnfleet.core.errors import BadDataError
from vnfleet.model.artifact import Artifact
from vnfleet.model.ensemble import Ensemble, forecast_ensembles
from vnfleet.model.sets import ensembles_of

if TYPE_CHECKING:
    from tests.model.conftest import Sets


def artifact_of(symbol: str, ensemble: Ensemble) -> Artifact:
    return Artifact(symbol=symbol, ensemble=ensemble, strategy="adapted", reference_universe=(), ids={}, validation={})


def test_files_of_one_backbone_become_one_ensemble_with_everybodys_deltas(sets: Sets) -> None:
    (whole,) = sets.of("adapted_streaming")
    files = []
    for row, symbol in enumerate(sets.symbols):
        members = tuple(
            dataclasses.replace(member, deltas=member.deltas and member.deltas.select(torch.tensor([row])))
            for member in whole.members
        )
        files.append(artifact_of(symbol, dataclasses.replace(whole, members=members)))
    (found,) = ensembles_of(files)
    values_STF, present_ST = sets.features()
    ours, theirs = (forecast_ensembles([each], values_STF, present_ST, range(20, 25)) for each in (whole, found))
    np.testing.assert_array_equal(ours.score_SO, theirs.score_SO)
    (turned,) = ensembles_of(files[::-1])
    mirrored = forecast_ensembles([turned], values_STF[::-1].copy(), present_ST[::-1].copy(), range(20, 25))
    np.testing.assert_allclose(mirrored.score_SO[::-1], ours.score_SO, atol=1e-5)


def test_pooled_files_become_one_ensemble_without_deltas(sets: Sets) -> None:
    (whole,) = sets.of("pooled_depths")
    (found,) = ensembles_of([artifact_of(symbol, whole) for symbol in sets.symbols])
    assert [member.deltas for member in found.members] == [None, None]


def test_files_with_networks_of_their_own_stay_apart(sets: Sets) -> None:
    ensembles = sets.of("separate")
    files = [artifact_of(symbol, each) for symbol, each in zip(sets.symbols, ensembles, strict=True)]
    assert list(ensembles_of(files)) == ensembles


@pytest.mark.parametrize("what", ["calibration", "scaler", "label_scale_H"])
def test_one_different_number_is_not_one_backbone(sets: Sets, what: str) -> None:
    (whole,) = sets.of("pooled_depths")
    (other, *_) = sets.of("separate")
    changed = dataclasses.replace(whole, **{what: getattr(sets.ensemble_of(sets.config, seed=5), what)})
    if what == "label_scale_H":
        changed = dataclasses.replace(whole, label_scale_H=other.label_scale_H * 2)
    assert len(ensembles_of([artifact_of("AAA", whole), artifact_of("BBB", changed)])) == 2


def test_no_files_are_no_set() -> None:
    with pytest.raises(BadDataError, match="no models"):
        ensembles_of([])
