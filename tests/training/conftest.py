"""A small world with a planted signal, shared by the training tests."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import pytest
import torch

from vnfleet.evaluation.splits import Fold
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.training.dataset import TrainingData
from vnfleet.training.recipe import Recipe, TrainingConfig

NUM_SYMBOLS, NUM_SESSIONS, NUM_FEATURES = 36, 190, 6
HORIZONS = 5


@pytest.fixture(scope="session")
def data() -> TrainingData:
    """Return data whose 5-session return is feature 0 minus its value 3 sessions ago, plus noise."""
    generator = np.random.default_rng(3)
    shape = (NUM_SYMBOLS, NUM_SESSIONS)
    values_STF = generator.standard_normal((*shape, NUM_FEATURES)).astype(np.float32)
    present_ST = generator.random(shape) > 0.02
    present_ST[5, :60] = False
    signal_ST = values_STF[..., 0] - np.roll(values_STF[..., 0], 3, axis=1)
    returns_HST = np.stack([0.01 * (signal_ST + generator.standard_normal(shape)) for _ in range(HORIZONS)]).astype(
        np.float32
    )
    for horizon in range(HORIZONS):
        returns_HST[horizon, :, NUM_SESSIONS - horizon - 1 :] = np.nan
    values_STF[~present_ST] = 0.0
    return TrainingData(
        tuple(date(2020, 1, 1) + timedelta(days=day) for day in range(NUM_SESSIONS)),
        tuple(f"S{index:02d}" for index in range(NUM_SYMBOLS)),
        tuple(f"feature_{index}" for index in range(NUM_FEATURES)),
        values_STF,
        present_ST,
        returns_HST,
    )


@pytest.fixture(scope="session")
def fold(data: TrainingData) -> Fold:
    """Return a fold: train 0..99, valid 105..144, test 150..189."""
    return Fold(
        fold_id="2020",
        train=range(100),
        valid=range(105, 145),
        refit=range(145),
        test=range(150, 190),
        universe=data.symbols[:32],
    )


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """Return a recipe small enough to train in a second."""
    return Recipe(
        StockformerConfig(num_features=NUM_FEATURES, d_model=16, num_heads=2, d_ff=32, band_sessions=6, dropout=0.1),
        TrainingConfig(
            num_seeds=2,
            max_epochs=5,
            patience_epochs=5,
            chunk_sessions=16,
            delta_epochs=1,
            delta_penalties=(0.1,),
            valid_sessions=40,
            learning_rate=1e-2,
        ),
    )


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Train on one core: tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vnfleet.training.environment.performance_cores", lambda: (0,))
        yield
    torch.set_num_threads(before)
