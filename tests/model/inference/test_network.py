"""One module for a whole set says what the ensemble says, for every kind of set."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from vnfleet.core.errors import BadDataError
from vnfleet.model.ensemble import forecast_ensembles
from vnfleet.model.inference import SetNetwork
from vnfleet.model.inference.network import SetForecast, set_sha256

if TYPE_CHECKING:
    from tests.model.conftest import Sets

KINDS = ["adapted_streaming", "adapted_window", "pooled_depths", "separate"]


def call(network: SetNetwork, values_STF: np.ndarray, present_ST: np.ndarray, *symbols: int) -> SetForecast:
    with torch.inference_mode():
        found: SetForecast = network(
            torch.from_numpy(values_STF), torch.from_numpy(present_ST), torch.tensor(symbols) if symbols else None
        )
    return found


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_module_says_what_the_ensemble_says(sets: Sets, kind: str, num_outputs: int) -> None:
    ensembles = sets.of(kind)
    network = SetNetwork(ensembles, num_outputs)
    values_STF, present_ST = sets.features(network.num_sessions)
    context = ensembles[0].context_sessions
    expected = forecast_ensembles(ensembles, values_STF, present_ST, range(context, context + num_outputs))
    found = call(network, values_STF, present_ST)
    np.testing.assert_allclose(found.score_SO.numpy(), expected.score_SO, atol=1e-5)
    np.testing.assert_allclose(found.path_SOH.numpy(), expected.path_SOH, atol=1e-6)
    np.testing.assert_allclose(found.volatility_SOH.numpy(), expected.volatility_SOH, atol=1e-6)
    for row in range(len(values_STF)):
        calibration = ensembles[row if len(ensembles) > 1 else 0].calibration
        np.testing.assert_allclose(
            found.direction_prob_SO[row].numpy(), calibration.probability(expected.score_SO[row]), atol=1e-6
        )
    assert np.ptp(expected.score_SO[:, -1]) > 0.1  # the comparison would not notice a constant


def test_what_lies_in_absent_rows_does_not_matter(sets: Sets) -> None:
    network = SetNetwork(sets.adapted_streaming())
    values_STF, present_ST = sets.features(network.num_sessions)
    dirty_STF = values_STF.copy()
    dirty_STF[~present_ST] = np.nan
    assert torch.equal(call(network, values_STF, present_ST).score_SO, call(network, dirty_STF, present_ST).score_SO)


def test_any_symbols_in_any_order_get_their_own_deltas(sets: Sets) -> None:
    network = SetNetwork(sets.adapted_window())
    values_STF, present_ST = sets.features(network.num_sessions)
    whole = call(network, values_STF, present_ST).score_SO
    some = [4, 0, 2]
    np.testing.assert_allclose(
        call(network, values_STF[some], present_ST[some], *some).score_SO.numpy(), whole[some].numpy(), atol=1e-6
    )


def test_what_makes_no_set_is_refused(sets: Sets) -> None:
    wider = dataclasses.replace(sets.config, d_ff=32)
    with pytest.raises(BadDataError, match="different shapes or features"):
        SetNetwork([sets.ensemble_of(sets.config), sets.ensemble_of(wider)])
    with pytest.raises(BadDataError, match="cannot have deltas"):
        SetNetwork([sets.ensemble_of(sets.config, adapted=True), sets.ensemble_of(sets.config, adapted=True)])
    with pytest.raises(BadDataError, match="no members"):
        SetNetwork([])
    short = sets.ensemble_of(sets.config, sets.config, adapted=True)
    first = short.members[0].deltas
    assert first is not None
    members = (dataclasses.replace(short.members[0], deltas=first.select(torch.tensor([0]))), short.members[1])
    with pytest.raises(BadDataError, match="different symbols"):
        SetNetwork([dataclasses.replace(short, members=members)])
    with pytest.raises(ValueError, match="num_outputs"):
        SetNetwork(sets.adapted_streaming(), 0)


def test_the_identity_changes_with_every_number_that_decides(sets: Sets) -> None:
    plain = sets.ensemble_of(sets.config)
    moved = dataclasses.replace(plain, calibration=dataclasses.replace(plain.calibration, slope=0.8))
    scaled = dataclasses.replace(plain, members=(dataclasses.replace(plain.members[0], score_sd=0.25),))
    ids = {set_sha256([each]) for each in (plain, moved, scaled, sets.ensemble_of(sets.config, seed=1))}
    assert len(ids) == 4
    assert set_sha256([sets.ensemble_of(sets.config)]) == set_sha256([plain])
