"""What benchmarks work on: features, returns and folds of real prices, or of a simulated market of the same size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

import polars as pl

from vnfleet.cycle.config import CycleConfig, FoldsConfig, SourceConfig, UniverseConfig
from vnfleet.data.sources.simulated import SimulatedMarket
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData

SIMULATED_AS_OF = date(2023, 12, 29)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Features and returns of a panel, its production fold, one judged year, and the outcomes that judge it."""

    config: CycleConfig
    data: TrainingData
    outcomes: pl.DataFrame
    live: Fold
    judged: Fold
    sentence: str


def simulated_config(config: CycleConfig, *, quick: bool) -> CycleConfig:
    """Return `config` on a simulated market: the size of the plan's (289 symbols, 12 years), or small when `quick`."""
    if quick:
        market = SimulatedMarket(num_symbols=48, start=date(2019, 1, 2), signal_rank_ic=0.2)
        universe = UniverseConfig(models=min(40, config.universe.models))
        folds = FoldsConfig(newest=1, min_train_sessions=300)
        training = replace(config.training, valid_sessions=min(120, config.training.valid_sessions))
        config = replace(config, universe=universe, folds=folds, training=training)
    else:
        market = SimulatedMarket(num_symbols=289, start=date(2012, 1, 3), signal_rank_ic=0.1)
    return replace(config, source=SourceConfig(kind="simulated"), simulated=market)
