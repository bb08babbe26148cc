"""How many floating-point operations a label costs, counted from the configuration.

A multiplication and its addition are two operations; only matrix products count (softmax, norms and activations are
left out, as is usual). A training step costs three forward passes: one forward, two backward.

Axes: W window, B band, O outputs of one run of sessions, D width, F features.
"""

from __future__ import annotations

from vnfleet.model.stockformer import StockformerConfig

TRAINING_PASSES = 3
"""Forward, gradient by the inputs, gradient by the weights (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""


def forward_flops(config: StockformerConfig, num_outputs: int, *, every_query: bool = False) -> int:
    """Return the operations of forecasting `num_outputs` consecutive sessions of one symbol.

    `every_query` counts all queries of the last layer of a window model, the way a plain transformer encoder computes
    them, although only the last one is used.
    """
    per_output = _heads(config)
    if config.attention == "window":
        return num_outputs * (_window(config, every_query=every_query) + per_output)
    total = num_outputs * per_output
    tokens = num_outputs + config.context_sessions
    total += 2 * tokens * config.num_features * config.d_model
    for layer in range(config.num_layers):
        queries = num_outputs + (config.num_layers - 1 - layer) * (config.band_sessions - 1)
        keys = queries + config.band_sessions - 1
        total += _layer(config, queries, keys, queries * config.band_sessions)
    return total


def training_flops_per_label(config: StockformerConfig, run_sessions: int, *, every_query: bool = False) -> float:
    """Return the operations of one training label when `run_sessions` labels of a symbol are computed together."""
    return TRAINING_PASSES * forward_flops(config, run_sessions, every_query=every_query) / run_sessions


def _window(config: StockformerConfig, *, every_query: bool) -> int:
    window = config.window_sessions
    total = 2 * window * config.num_features * config.d_model
    for layer in range(config.num_layers):
        queries = window if every_query or layer < config.num_layers - 1 else 1
        total += _layer(config, queries, window, queries * window)
    return total


def _layer(config: StockformerConfig, queries: int, keys: int, pairs: int) -> int:
    """Return one layer: query, key and value maps, scores and mixing of `pairs`, output map, feed-forward."""
    width = config.d_model
    maps = 2 * width * width * (queries + 2 * keys + queries)
    return maps + 4 * pairs * width + 4 * queries * width * config.d_ff


def _heads(config: StockformerConfig) -> int:
    width, horizons = config.d_model, config.num_horizons
    score = 2 * width if config.score == "own" else 0
    if config.head == "linear":
        return score + 4 * width * horizons
    path = 2 * (width * 2 * width + 2 * width * width + width * horizons)
    volatility = 2 * (width * (width // 2) + (width // 2) * horizons)
    return score + path + volatility
