"""Rates count the labels that were learned from and the time they took, nothing else."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from vnfleet.bench import fleet
from vnfleet.bench.fleet import Bench, StepClock
from vnfleet.bench.recipes import plan_network, pooled_recipe, streaming_recipe, window_recipe, without_ranks
from vnfleet.core.errors import BadDataError
from vnfleet.cycle.config import CycleConfig
from vnfleet.model.stockformer import StockformerConfig
from vnfleet.training.machine.memory import num_parameters
from vnfleet.training.recipe import Recipe


def ticking(*seconds: float) -> Iterator[float]:
    yield from seconds


def test_the_clock_leaves_out_the_warm_up() -> None:
    times = ticking(0.0, 10.0, 14.0, 15.0, 16.0, 17.0, 18.0)
    clock = StepClock(100.0, clock=lambda: next(times))
    for step in range(1, 7):
        clock("stage", step, 6, "")
    steps, seconds = clock.steady()
    assert (steps, seconds) == (4, 4.0)  # what came before step 1, and the slow first step, do not count


def test_the_clock_stops_a_stage_after_its_seconds() -> None:
    times = ticking(*map(float, range(20)))
    clock = StepClock(3.0, clock=lambda: next(times))
    for step in range(1, 4):
        clock("stage", step, 100, "")
    with pytest.raises(fleet._EnoughError):
        clock("stage", 4, 100, "")


def test_a_stage_of_one_step_cannot_be_timed() -> None:
    clock = StepClock(1.0)
    clock("stage", 1, 1, "")
    with pytest.raises(BadDataError, match="too short to be timed"):
        clock.steady()


def hand_count(bench: Bench, symbols: list[str], context: int) -> int:
    """Labels of the training sessions whose symbol was listed `context` sessions before."""
    data, total = bench.data, 0
    for symbol in symbols:
        row = data.symbols.index(symbol)
        first = int(np.flatnonzero(data.present_ST[row])[0])
        for session in bench.fold.train:
            known = bool(np.isfinite(data.returns_HST[-1, row, session]))
            total += known and bool(data.present_ST[row, session]) and session >= first + context
    return total


def test_separate_windows_are_counted_by_hand(bench: Bench, config: CycleConfig) -> None:
    recipe = window_recipe(config.model, max_epochs=2)
    small = replace(recipe.model, d_model=16, num_heads=2, num_layers=2, d_ff=32, head="linear", window_sessions=20)
    symbols = ["S00", "S05", "S07"]
    rate = bench.separate(replace(recipe, model=small), symbols)
    assert rate.finished
    assert rate.num_models == 3
    assert rate.labels_in_all == 2 * hand_count(bench, symbols, 19)
    assert bench.labels_of(symbols, 19).sum() == hand_count(bench, symbols, 19)
    assert 0 < rate.labels <= rate.labels_in_all
    assert rate.precision == "float32"


def test_the_shared_network_is_counted_over_all_symbols(bench: Bench, config: CycleConfig) -> None:
    rate = bench.pooled(Recipe(config.model, config.training, config.objective))
    assert rate.finished
    assert rate.labels_in_all == 2 * hand_count(bench, list(bench.data.symbols), config.model.context_sessions)


def test_a_slice_is_marked_unfinished_and_leaves_no_result(bench: Bench, config: CycleConfig) -> None:
    rate = bench.pooled(Recipe(config.model, config.training, config.objective), max_seconds=1e-6)
    assert not rate.finished
    assert not list(bench.scratch.iterdir())  # the next one must not go on from its checkpoint
    assert rate.labels_per_second > 0
    assert rate.whole_seconds > rate.seconds


def test_the_forms_have_the_plans_parameters_and_see_no_further() -> None:
    like = StockformerConfig()
    window, streaming = window_recipe(like), streaming_recipe(like)
    assert num_parameters(window.separate_config(0)) == num_parameters(streaming.separate_config(0)) == 875_530
    assert streaming.model.receptive_field_sessions <= window.model.receptive_field_sessions == 60
    assert pooled_recipe(like).training.strategy == "pooled"
    assert plan_network(like).score == "return"
    assert not without_ranks(Recipe()).objective.is_cross_sectional
