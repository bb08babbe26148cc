from __future__ import annotations

import dataclasses
from typing import Literal, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.model.stockformer import StockformerConfig
from vnfleet.training.batches import SeparateBatches, epoch_chunks
from vnfleet.training.dataset import Resident
from vnfleet.training.machine.estimate import (
    StepCosts,
    estimate_work,
    seconds_until_done,
    steps_per_epoch,
    unit_steps,
)
from vnfleet.training.plan import Kind, WorkUnit
from vnfleet.training.recipe import Recipe, Strategy, TrainingConfig

MODEL = StockformerConfig(num_features=6, d_model=16, num_heads=2, d_ff=32, num_layers=2, band_sessions=6)
CONTEXT = 10  # two layers that look 5 sessions back each
COSTS = StepCosts(step_seconds=1.0, delta_step_seconds=0.1, judgement_seconds=0.01, unit_seconds=100.0)


@dataclasses.dataclass(frozen=True)
class Selected:
    epochs: int
    penalty: float | None


def recipe_of(
    *, strategy: Strategy = "pooled", attention: Literal["streaming", "window"] = "streaming", **training: int
) -> Recipe:
    return Recipe(
        dataclasses.replace(MODEL, attention=attention),
        TrainingConfig(strategy=strategy, delta_penalties=(100.0, 10.0), **training),  # type: ignore[arg-type]
    )


def unit_of(
    kind: Kind, *, seed: int = 0, depends_on: tuple[str, ...] = (), universe: tuple[str, ...] = ("AAA", "BBB")
) -> WorkUnit:
    return WorkUnit(
        kind=kind,
        fold_id="2020",
        seed=seed,
        train=(0, CONTEXT + 100),
        valid=(115, 150),
        refit=(0, CONTEXT + 160),
        universe=universe,
        recipe_id="r",
        data_id="d",
        depends_on=depends_on,
    )


class TestStepsOfAnEpoch:
    @given(st.integers(4, 24), st.integers(1, 130), st.integers(1, 3))
    @settings(max_examples=25, deadline=None)
    def test_they_are_those_of_the_real_batches(self, chunk: int, num_sessions: int, accumulation: int) -> None:
        recipe = recipe_of(chunk_sessions=chunk, accumulation=accumulation)
        sessions = range(7, 7 + num_sessions)
        found = steps_per_epoch(num_sessions, recipe)
        seen = [-(-len(epoch_chunks(sessions, chunk, 0, epoch)) // accumulation) for epoch in range(600)]
        assert max(seen) == found.at_most
        assert float(np.mean(seen)) == pytest.approx(found.expected, abs=0.15)

    @given(st.integers(4, 16), st.integers(1, 130), st.integers(1, 3), st.sampled_from(["streaming", "window"]))
    @settings(max_examples=25, deadline=None)
    def test_separate_models_have_their_own(
        self, chunk: int, num_sessions: int, runs: int, attention: Literal["streaming", "window"]
    ) -> None:
        recipe = recipe_of(
            strategy="separate", attention=attention, chunk_sessions=chunk, runs_per_batch=runs, accumulation=2
        )
        batches = SeparateBatches(
            data=cast("Resident", None),
            labelled_ST=np.ones((1, num_sessions), dtype=bool),
            sessions=range(num_sessions),
            outputs=1 if attention == "window" else chunk,
            sequences=chunk if attention == "window" else runs,
            accumulation=2,
            context_sessions=CONTEXT,
            symbols=np.zeros(1, dtype=np.int64),
            seeds=(0,),
        )
        found = steps_per_epoch(num_sessions, recipe, separate=True)
        seen = [batches.steps_in_epoch(0, epoch) for epoch in range(600)]
        assert max(seen) == found.at_most
        assert float(np.mean(seen)) == pytest.approx(found.expected, abs=0.15)

    def test_without_sessions_there_is_nothing_to_do(self) -> None:
        for separate in (False, True):
            assert steps_per_epoch(0, recipe_of(), separate=separate).at_most == 0


class TestStepsOfAUnit:
    # chunks of 4 of 100 sessions: 25 where the phase cuts none short (1 of 4 phases), else 24
    EPOCH_AT_MOST, EPOCH_EXPECTED = 25, 24.25

    def test_a_selection_runs_the_whole_cycle_and_judges_every_epoch(self) -> None:
        steps = unit_steps(unit_of("select"), recipe_of(chunk_sessions=4, max_epochs=8))
        assert steps.network.at_most == 8 * self.EPOCH_AT_MOST
        assert steps.network.expected == 8 * self.EPOCH_EXPECTED
        assert steps.deltas.at_most == 0
        assert steps.judgements.at_most == 9

    def test_an_adapted_selection_tries_every_lambda(self) -> None:
        recipe = recipe_of(strategy="adapted", chunk_sessions=4, max_epochs=8, delta_epochs=3)
        steps = unit_steps(unit_of("select"), recipe)
        assert steps.deltas.at_most == 2 * 3 * self.EPOCH_AT_MOST
        assert steps.judgements.at_most == 8 + 1 + 2

    def test_a_selection_usually_stops_patience_epochs_after_its_best(self) -> None:
        recipe = recipe_of(chunk_sessions=4, max_epochs=8, patience_epochs=2)
        steps = unit_steps(unit_of("select"), recipe, usual_epochs=3.0)
        assert steps.network.at_most == 8 * self.EPOCH_AT_MOST
        assert steps.network.expected == 5 * self.EPOCH_EXPECTED
        assert unit_steps(unit_of("select"), recipe, usual_epochs=7.0).network.expected == 8 * self.EPOCH_EXPECTED

    def test_a_member_waiting_for_its_selection_may_need_the_whole_cycle(self) -> None:
        recipe = recipe_of(strategy="adapted", chunk_sessions=4, max_epochs=8)
        steps = unit_steps(unit_of("member"), recipe)
        assert steps.network.at_most == 8 * 40  # 160 sessions
        assert steps.deltas.at_most == 40

    def test_a_member_runs_the_epochs_that_were_selected(self) -> None:
        recipe = recipe_of(strategy="adapted", chunk_sessions=4, max_epochs=8)
        pooled = unit_steps(unit_of("member"), recipe, selection=Selected(3, None))
        adapted = unit_steps(unit_of("member"), recipe, selection=Selected(3, 10.0))
        assert pooled.network.at_most == adapted.network.at_most == 3 * 40
        assert (pooled.deltas.at_most, adapted.deltas.at_most) == (0, 40)

    def test_a_separate_unit_selects_and_refits_group_after_group(self) -> None:
        recipe = recipe_of(strategy="separate", attention="window", chunk_sessions=4, max_epochs=8)
        unit = unit_of("separate", universe=tuple("ABCDE"))
        # 18 windows, 4 a step: 5 steps an epoch, of the selection and of the refit
        alone = unit_steps(unit, recipe, longest_sessions=18)
        assert alone.network.at_most == 8 * (5 + 5)
        assert alone.deltas.at_most == 0
        assert alone.judgements.at_most == 9
        grouped = unit_steps(unit, recipe, longest_sessions=18, group_size=2)
        assert grouped.network.at_most == 3 * alone.network.at_most
        assert grouped.judgements.at_most == 3 * 9

    def test_a_separate_unit_without_a_known_history_takes_all_sessions(self) -> None:
        recipe = recipe_of(strategy="separate", chunk_sessions=10, runs_per_batch=2, max_epochs=3)
        steps = unit_steps(unit_of("separate"), recipe)
        # 100 and 160 sessions at the latest phase: 11 and 17 runs, two a step
        assert steps.network.at_most == 3 * (6 + 9)

    def test_a_unit_shorter_than_the_context_has_no_steps(self) -> None:
        unit = unit_of("select").model_copy(update={"train": (0, CONTEXT - 1)})
        assert unit_steps(unit, recipe_of()).network.at_most == 0


class TestEstimate:
    def plan(self, seeds: int) -> tuple[WorkUnit, ...]:
        select = unit_of("select")
        members = (unit_of("member", seed=seed, depends_on=(select.unit_id,)) for seed in range(seeds))
        return (select, *members)

    RECIPE = recipe_of(chunk_sessions=20, max_epochs=2, num_seeds=2)
    # at most 6 chunks of 100 sessions and 9 of 160: 4 is the shortest piece that counts
    SELECT_AT_MOST = 100.0 + 2 * 6 * 1.0 + 3 * 0.01
    MEMBER_AT_MOST = 100.0 + 2 * 9 * 1.0 + 2 * 0.01

    def test_seconds_add_up_by_hand(self) -> None:
        units = self.plan(2)
        found = estimate_work(units, self.RECIPE, COSTS)
        assert found.seconds_at_most == pytest.approx(self.SELECT_AT_MOST + 2 * self.MEMBER_AT_MOST)
        assert found.seconds == pytest.approx(sum(found.seconds_by_unit.values()))
        assert 0.0 < found.seconds <= found.seconds_at_most
        assert set(found.seconds_by_unit) == {unit.unit_id for unit in units}

    def test_side_by_side_members_wait_for_the_selection_only(self) -> None:
        found = estimate_work(self.plan(2), self.RECIPE, COSTS, processes=2)
        assert found.seconds_at_most == pytest.approx(self.SELECT_AT_MOST + self.MEMBER_AT_MOST)

    def test_finished_units_take_no_time(self) -> None:
        units = self.plan(2)
        done = {unit.unit_id for unit in units}
        assert estimate_work(units, self.RECIPE, COSTS, finished=done).seconds == 0.0
        left = estimate_work(
            units,
            self.RECIPE,
            COSTS,
            finished={units[0].unit_id, units[1].unit_id},
            selections={units[0].unit_id: Selected(1, None)},
        )
        assert left.seconds_at_most == pytest.approx(100.0 + 9 * 1.0 + 2 * 0.01)

    def test_deeper_members_take_longer(self) -> None:
        deep = dataclasses.replace(
            self.RECIPE, training=dataclasses.replace(self.RECIPE.training, ensemble="depths", num_seeds=3)
        )
        units = self.plan(3)
        found = estimate_work(units, deep, COSTS).seconds_by_unit
        work = [found[unit.unit_id] - 100.0 for unit in units[1:]]
        assert work[1] / work[0] == pytest.approx(3 / 2, rel=0.02)  # and see a session less
        assert work[2] / work[0] == pytest.approx(4 / 2, rel=0.02)

    def test_derived_costs_match_what_was_measured_on_one_core(self) -> None:
        # 2026-11-23, desktop recipe, float32, 289 symbols, 102 primary: 0.31 s a step, 0.125 s with deltas, 0.226 s a
        # pass over 250 sessions
        costs = StepCosts.shared(0.31, Recipe(), num_symbols=289, num_primary=102)
        assert costs.delta_step_seconds == pytest.approx(0.125, rel=0.15)
        assert costs.judgement_seconds == pytest.approx(0.226, rel=0.15)

    def test_separate_units_have_costs_of_their_own(self) -> None:
        recipe = recipe_of(strategy="separate", chunk_sessions=10, runs_per_batch=2, max_epochs=3)
        slow = dataclasses.replace(COSTS, step_seconds=7.0)
        found = estimate_work([unit_of("separate")], recipe, COSTS, separate_costs=slow)
        assert found.seconds_at_most == pytest.approx(100.0 + 45 * 7.0 + 4 * 0.01)

    def test_a_judgement_of_separate_models_is_a_forward_pass_over_their_validation_sessions(self) -> None:
        recipe = recipe_of(
            strategy="separate", attention="window", chunk_sessions=4, accumulation=8, valid_sessions=256
        )
        costs = StepCosts.separate(2.0, recipe)
        # a step of 32 windows, 8 times as many to judge: between a third (floating-point work) and all of 8 steps
        assert 8 * 2.0 / 3 < costs.judgement_seconds < 8 * 2.0


class TestSideBySide:
    def test_by_hand(self) -> None:
        # a 0-4, b 0-3 (first process free at 3: c 3-8), d waits for a: 4-6
        seconds = {"a": 4.0, "b": 3.0, "c": 5.0, "d": 2.0}
        assert seconds_until_done(seconds, {"d": ("a",)}, 2) == 8.0
        assert seconds_until_done(seconds, {"d": ("c",)}, 2) == 10.0
        assert seconds_until_done(seconds, {"d": ("finished",)}, 4) == 5.0

    def test_nothing_to_do(self) -> None:
        assert seconds_until_done({}, {}, 3) == 0.0

    def test_a_circle_is_refused(self) -> None:
        with pytest.raises(ValueError, match="wait for each other"):
            seconds_until_done({"a": 1.0, "b": 1.0}, {"a": ("b",), "b": ("a",)}, 2)
        with pytest.raises(ValueError, match="at least 1"):
            seconds_until_done({"a": 1.0}, {}, 0)

    @given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12), st.integers(1, 4), st.data())
    @settings(deadline=None)
    def test_between_the_bounds_of_any_schedule(
        self, lengths: list[float], processes: int, draw: st.DataObject
    ) -> None:
        names = [str(place) for place in range(len(lengths))]
        waits_for = {
            name: tuple(draw.draw(st.lists(st.sampled_from(names[:place]), unique=True, max_size=2)))
            for place, name in enumerate(names)
            if place
        }
        seconds = dict(zip(names, lengths, strict=True))
        chain: dict[str, float] = {}
        for name in names:
            chain[name] = seconds[name] + max((chain[other] for other in waits_for.get(name, ())), default=0.0)
        longest = max(chain.values())
        found = seconds_until_done(seconds, waits_for, processes)
        assert max(longest, sum(lengths) / processes) <= found + 1e-6
        # Graham (1969): a list schedule is never worse than work / P + (1 - 1/P) x the longest chain
        assert found <= sum(lengths) / processes + (1 - 1 / processes) * longest + 1e-6
        assert seconds_until_done(seconds, waits_for, 1) == pytest.approx(sum(lengths))
