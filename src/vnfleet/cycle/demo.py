"""The demo: the real week, small, on a simulated market whose planted signal the models must find by themselves."""

from __future__ import annotations

from datetime import date

from vnfleet.cycle.config import CycleConfig, FoldsConfig, SourceConfig, UniverseConfig
from vnfleet.data.sources.simulated import SimulatedMarket
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.releases.gate import GateLimits
from vnfleet.training.recipe import TrainingConfig

DEMO_AS_OF = date(2023, 12, 29)


def demo_config() -> CycleConfig:
    """Return the demo's settings: 80 symbols, 60 models, six years, two judged years, an ensemble of two.

    Nobody tried anything on this market before, so there are no prior trials to allow for.
    """
    return CycleConfig(
        source=SourceConfig(kind="simulated"),
        simulated=SimulatedMarket(num_symbols=80, start=date(2018, 1, 2), signal_rank_ic=0.25),
        universe=UniverseConfig(models=60),
        folds=FoldsConfig(years=(2022, 2023), min_train_sessions=400),
        gate=GateLimits(prior_trials=0),
        model=StockformerConfig(d_model=64, num_heads=4, num_layers=2, d_ff=128, band_sessions=30),
        training=TrainingConfig(
            num_seeds=2, max_epochs=5, valid_sessions=200, chunk_sessions=32, delta_penalties=(1.0,), delta_epochs=1
        ),
    )
