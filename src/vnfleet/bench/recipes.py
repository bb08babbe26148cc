"""The recipes that are timed: the written plan's network and fit, in the fleet's window and streaming forms.

All have the plan's shape (width 128, 8 heads, 4 layers, 875,530 parameters a model) and effective batch (32 windows).
"""

from __future__ import annotations

from dataclasses import replace

from vnfleet.bench.table import counts_text
from vnfleet.model.stockformer import StockformerConfig, preset
from vnfleet.training.recipe import ObjectiveConfig, Recipe, TrainingConfig

PLAN_EPOCHS = 100
PLAN_BATCH_WINDOWS = 32
_OWN_SERIES = ObjectiveConfig(path_weight=1.0, volatility_weight=1.0)
_STREAMING_RUNS = 4


def plan_network(like: StockformerConfig) -> StockformerConfig:
    """Return the written plan's network; the score is its longest return, so it has the plan's parameters and no more.

    Features and horizons are those of `like`, which fits the data (the plan's are 50 and 1 to 5 sessions).
    """
    return replace(
        preset("plan"),
        num_features=like.num_features,
        horizon_sessions=like.horizon_sessions,
        path_sessions=like.path_sessions,
        score="return",
    )


def window_recipe(like: StockformerConfig, *, max_epochs: int = PLAN_EPOCHS) -> Recipe:
    """Return the written plan's fit: a model per symbol, 60-session windows, its optimiser settings and schedule."""
    return Recipe(
        plan_network(like),
        TrainingConfig(
            strategy="separate",
            num_seeds=1,
            max_epochs=max_epochs,
            patience_epochs=15,
            learning_rate=1e-3,
            weight_decay=1e-5,
            schedule="cosine",
            warmup_frac=0.05,
            chunk_sessions=PLAN_BATCH_WINDOWS,
        ),
        _OWN_SERIES,
    )


def streaming_recipe(like: StockformerConfig) -> Recipe:
    """Return the same fit with streaming attention that sees as far: a session is encoded about twice, not 60 times."""
    window = window_recipe(like)
    band = (window.model.window_sessions - 1) // window.model.num_layers + 1
    return replace(
        window,
        model=replace(window.model, attention="streaming", band_sessions=band),
        training=replace(window.training, runs_per_batch=_STREAMING_RUNS),
    )


def pooled_recipe(like: StockformerConfig) -> Recipe:
    """Return one streaming network of the plan's size over all symbols, with the product's loss on ranks."""
    streaming = streaming_recipe(like)
    return Recipe(
        replace(streaming.model, score="own"),
        replace(TrainingConfig(), strategy="pooled", num_seeds=1),
        ObjectiveConfig(),
    )


def counts_of(recipe: Recipe, num_models: int) -> str:
    """Return how much `recipe` trains for `num_models`, such as "40 models x 1 seed x 2 epochs"."""
    training = recipe.training
    epochs = f"at most {training.max_epochs}" if training.patience_epochs else training.max_epochs
    return counts_text(num_models, training.num_seeds, epochs)


def without_ranks(recipe: Recipe) -> Recipe:
    """Return `recipe` without cross-sectional terms: what a universe of fewer than 30 symbols can have."""
    return replace(recipe, objective=replace(recipe.objective, path_weight=1.0).own_series())
