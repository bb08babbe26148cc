"""A small market for the bench tests: 36 symbols, 300 sessions, a planted signal, tiny networks."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.bench.fleet import Bench
from vnfleet.bench.material import Material
from vnfleet.core.frames import as_outcome_frame
from vnfleet.cycle.config import CycleConfig
from vnfleet.evaluation.splits import Fold
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.training.dataset import TrainingData
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import ObjectiveConfig, TrainingConfig

NUM_SYMBOLS, NUM_SESSIONS, NUM_HORIZONS = 36, 300, 5
FEATURES = ("ret_1", "signal", "noise_a", "noise_b")


@pytest.fixture(scope="session")
def data() -> TrainingData:
    """Return data whose returns follow the feature `signal`; symbol S05 is listed late, some sessions are absent."""
    generator = np.random.default_rng(5)
    shape = (NUM_SYMBOLS, NUM_SESSIONS)
    values_STF = generator.standard_normal((*shape, len(FEATURES))).astype(np.float32)
    present_ST = generator.random(shape) > 0.01
    present_ST[5, :80] = False
    returns_ST = 0.01 * (values_STF[..., 1] + 2.0 * generator.standard_normal(shape))
    returns_HST = np.repeat(returns_ST[None], NUM_HORIZONS, axis=0).astype(np.float32)
    for horizon in range(NUM_HORIZONS):
        returns_HST[horizon, :, NUM_SESSIONS - horizon - 1 :] = np.nan
    returns_HST[:, ~present_ST] = np.nan
    values_STF[~present_ST] = 0.0
    return TrainingData(
        tuple(date(2021, 1, 1) + timedelta(days=day) for day in range(NUM_SESSIONS)),
        tuple(f"S{row:02d}" for row in range(NUM_SYMBOLS)),
        FEATURES,
        values_STF,
        present_ST,
        returns_HST,
    )


@pytest.fixture(scope="session")
def fold(data: TrainingData) -> Fold:
    """Return a fold judged on the last 60 sessions."""
    return Fold(
        fold_id="2021",
        train=range(180),
        valid=range(185, 230),
        refit=range(230),
        test=range(240, 300),
        universe=data.symbols[:32],
    )


@pytest.fixture(scope="session")
def config() -> CycleConfig:
    """Return settings small enough to train in a second, on one thread."""
    return replace(
        CycleConfig(),
        model=StockformerConfig(
            num_features=len(FEATURES), d_model=16, num_heads=2, num_layers=2, d_ff=32, band_sessions=6, dropout=0.1
        ),
        training=TrainingConfig(
            num_seeds=1, max_epochs=2, chunk_sessions=16, delta_penalties=(10.0,), valid_sessions=40
        ),
        objective=ObjectiveConfig(min_labels_per_session=20),
        machine=MachineConfig(device="cpu", precision="float32", num_threads=1, processes=1, pin_cores=False),
    )


@pytest.fixture(scope="session")
def material(data: TrainingData, fold: Fold, config: CycleConfig) -> Material:
    """Return the material of these data."""
    rows, columns = np.nonzero(np.isfinite(data.returns_HST[-1]))
    returns = data.returns_HST[-1][rows, columns].astype(np.float64)
    median_T = np.nanmedian(np.where(np.isfinite(data.returns_HST[-1]), data.returns_HST[-1], np.nan)[:, :-5], axis=0)
    outcomes = as_outcome_frame(
        pl.DataFrame(
            {
                "symbol": [data.symbols[row] for row in rows],
                "session": [data.sessions[column] for column in columns],
                "horizon_sessions": [NUM_HORIZONS] * rows.size,
                "return_frac": returns,
                "benchmark_return_frac": median_T[columns].astype(np.float64),
                "known_on": [data.sessions[column + NUM_HORIZONS] for column in columns],
            }
        )
    )
    return Material(config=config, data=data, outcomes=outcomes, live=fold, judged=fold, sentence="a small market")


@pytest.fixture
def bench(data: TrainingData, fold: Fold, config: CycleConfig, tmp_path: Path) -> Bench:
    """Return where stages are timed."""
    return Bench(data=data, model=config.model, fold=fold, machine=config.machine, scratch=tmp_path)
