"""Time of the simulated account: 102 symbols over ten years, and what each rule of the market costs there.

    python benchmarks/simulator.py [--data FOLDER]

Without FOLDER the market is the simulated one and the scores are its planted signal. FOLDER holds the price file of
CafeF's format and its listings; it is no part of the project. There the scores are the returns of 120 sessions, a
plain momentum rule that stands in for a model. Results are dated in benchmarks/simulator_202611.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import numba
import numpy as np
import polars as pl

from vnfleet.data.actions.corporate import corporate_actions
from vnfleet.data.panel import Panel, judged
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.data.universe import most_traded
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import SimulationResult, planned, simulate
from vnfleet.trading.waterfall import waterfall

NUM_SYMBOLS = 102
FIRST, LAST = date(2014, 10, 1), date(2024, 12, 31)
FOLLOWED_FROM = date(2015, 1, 1)
MOMENTUM_SESSIONS = 120
REPEATS = 7


def simulated() -> tuple[Panel, pl.DataFrame, pl.DataFrame]:
    """Return panel, corporate actions and the planted signal of a simulated market."""
    source = SimulatedSource(SimulatedMarket(seed=6, num_symbols=NUM_SYMBOLS, start=FIRST))
    served = judged(source.fetch(None, LAST), LAST)
    actions = corporate_actions(served.events, served.raw).actions
    known = pl.col("symbol").is_in(served.panel.symbols) & (pl.col("session") >= FOLLOWED_FROM)
    return served.panel, actions, as_predictions(source.oracle(LAST).filter(known).select("symbol", "session", "score"))


def real(folder: Path) -> tuple[Panel, pl.DataFrame, pl.DataFrame]:
    """Return panel, corporate actions and the momentum of the most traded symbols of the price file."""
    source = FilesSource(folder / "cafef_price_history_2012_2024.parquet", folder / "universe_289.csv")
    served = judged(source.fetch(None, LAST), LAST)
    actions = corporate_actions(served.events, served.raw).actions
    panel = served.panel.restrict(most_traded(served.panel, NUM_SYMBOLS, 250, FOLLOWED_FROM))
    adjusted = pl.col("close_vnd") * pl.col("factor")
    momentum = (adjusted / adjusted.shift(MOMENTUM_SESSIONS) - 1.0).over("symbol")
    scores = panel.bars.select("symbol", "session", score=momentum)
    return panel, actions, as_predictions(scores.filter(pl.col("session") >= FOLLOWED_FROM).drop_nulls())


def as_predictions(scores: pl.DataFrame) -> pl.DataFrame:
    """Return a prediction frame with scores only."""
    nothing = pl.lit(None, dtype=pl.Float64)
    return scores.select(
        "symbol",
        "session",
        "score",
        model_id=pl.lit("benchmark"),
        horizon_sessions=pl.lit(5, dtype=pl.Int32),
        fold_id=pl.lit("all"),
        direction_prob=nothing,
        expected_return_frac=nothing,
        volatility_frac=nothing,
    )


def timed(name: str, work: Callable[[], object]) -> None:
    """Print the least and the median of several runs, by the clock on the wall and of the processor."""
    walls, processors = [], []
    for _ in range(REPEATS):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    wall_words = f"wall least {min(walls):.3f}, median {np.median(walls):.3f} s"
    print(f"{name}: {wall_words}; processor least {min(processors):.3f}, median {np.median(processors):.3f} s")


def told(name: str, result: SimulationResult) -> None:
    """Print what the account came to."""
    figures = result.metrics
    refused = ", ".join(f"{reason} {count}" for reason, count in result.refused.items() if count)
    print(
        f"{name}: {figures.annual_return_frac:+.2%} a year, Sharpe {figures.sharpe_252:.2f}, "
        f"turnover {figures.turnover_per_year:.2f}, capacity {(figures.capacity_vnd or 0) / 1e9:.2f} billion VND, "
        f"{result.trades.height} trades, refused or cut: {refused}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    folder = parser.parse_args().data
    load = os.getloadavg()[0]
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {load:.1f}, numba {numba.__version__}")
    panel, actions, predictions = simulated() if folder is None else real(folder)
    policy = TopKPolicy()
    begin = time.perf_counter()
    result = simulate(panel, predictions, policy, actions=actions)
    print(f"first call, compiled or loaded from numba's cache: {time.perf_counter() - begin:.2f} s")
    print(f"{len(panel.symbols)} symbols, {result.metrics.num_sessions} sessions, {predictions.height} predictions")
    timed("simulate", lambda: simulate(panel, predictions, policy))
    timed("simulate with dividends", lambda: simulate(panel, predictions, policy, actions=actions))
    plan = planned(panel, predictions, policy, actions=actions)
    timed("the account alone", plan.carried_out)
    timed("waterfall of seven accounts", lambda: waterfall(planned(panel, predictions, policy, actions=actions)))
    told("all steps as shares", simulate(panel, predictions, policy))
    told("dividends in cash", result)
    for row in waterfall(planned(panel, predictions, policy, actions=actions)).iter_rows(named=True):
        print(
            f"| {row['step']} | {row['annual_return_frac']:+.2%} | {row['cost_frac']:.2%} | {row['sharpe_252']:.2f} |"
        )


if __name__ == "__main__":
    main()
