from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import UsageError
from vnfleet.training.machine.budget import (
    RESERVE_SECONDS,
    BudgetChoice,
    duration_words,
    epoch_rungs,
    fit_to_budget,
    ladder,
    parse_deadline,
    reserve_after,
    time_left,
)

# Sunday 2026-11-22 20:00 in Vietnam
NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
MONDAY_0845 = datetime(2026, 11, 23, 1, 45, tzinfo=UTC)


def ten_seconds_an_epoch(seeds: int, epochs: int) -> float:
    """A selection and one refit a seed, each 10 s an epoch."""
    return (1 + seeds) * epochs * 10.0


class TestDeadlines:
    @pytest.mark.parametrize(
        "text",
        [
            "2026-11-23T08:45",
            "2026-11-23 08:45",
            " 2026-11-23T08:45:00+07:00 ",
            "2026-11-23T01:45Z",
            "2026-11-22T20:45-05:00",
            "20261123T0845",
            "08:45",
            "8:45",
        ],
    )
    def test_a_deadline_is_vietnam_time_unless_it_names_a_zone(self, text: str) -> None:
        assert parse_deadline(text, NOW) == MONDAY_0845

    def test_a_clock_time_still_to_come_is_today(self) -> None:
        assert parse_deadline("20:01", NOW) == NOW + timedelta(minutes=1)
        assert parse_deadline("20:00", NOW) == NOW + timedelta(days=1)

    def test_where_the_command_runs_does_not_matter(self) -> None:
        in_new_york = NOW.astimezone(timezone(timedelta(hours=-5)))
        assert parse_deadline("08:45", in_new_york) == MONDAY_0845

    @pytest.mark.parametrize(
        "text", ["", "Monday", "2026-11-23", "2026-11-31T08:45", "25:00", "08:45:61", "0001-01-01T00:00+14:00"]
    )
    def test_what_is_no_moment_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"cannot be read\n.*such as 2026-11-23T08:45"):
            parse_deadline(text, NOW)

    def test_a_deadline_in_the_past_is_refused_with_both_times(self) -> None:
        with pytest.raises(UsageError) as caught:
            parse_deadline("2026-11-22T08:45", NOW)
        assert "the deadline has passed" in str(caught.value)
        assert "2026-11-22 20:00 ICT" in str(caught.value)
        assert "2026-11-22 08:45 ICT" in str(caught.value)

    def test_now_is_too_late(self) -> None:
        with pytest.raises(UsageError, match="has passed"):
            parse_deadline("2026-11-22T20:00", NOW)

    def test_a_deadline_years_away_is_a_slip(self) -> None:
        with pytest.raises(UsageError, match="more than a year away"):
            parse_deadline("2062-11-23T08:45", NOW)


class TestTimeLeft:
    def test_nothing_asked_is_no_limit(self) -> None:
        assert time_left(budget_minutes=0.0, deadline=" ", now=NOW, reserve_seconds=180.0) is None

    def test_the_reserve_is_taken_off_a_budget(self) -> None:
        found = time_left(budget_minutes=30.0, deadline="", now=NOW, reserve_seconds=180.0)
        assert found is not None
        assert found.seconds == 27 * 60
        assert found.until == NOW + timedelta(minutes=30)

    def test_the_reserve_is_taken_off_a_deadline(self) -> None:
        found = time_left(budget_minutes=0.0, deadline="2026-11-23T08:45", now=NOW, reserve_seconds=300.0)
        assert found is not None
        assert found.seconds == 12 * 3600 + 40 * 60
        assert found.words == (
            "everything is to be done by 2026-11-23 08:45 ICT: 12 h 40 min for training, 5 min kept for the steps "
            "after it"
        )

    def test_the_earlier_of_both_counts(self) -> None:
        found = time_left(budget_minutes=60.0, deadline="08:45", now=NOW, reserve_seconds=0.0)
        assert found is not None
        assert found.seconds == 3600

    def test_a_reserve_longer_than_the_time_leaves_less_than_nothing(self) -> None:
        found = time_left(budget_minutes=1.0, deadline="", now=NOW, reserve_seconds=180.0)
        assert found is not None
        assert found.seconds == -120

    @pytest.mark.parametrize("minutes", [-1.0, float("nan"), float("inf"), 1e12])
    def test_impossible_budgets_are_refused(self, minutes: float) -> None:
        with pytest.raises(UsageError, match="a budget must be"):
            time_left(budget_minutes=minutes, deadline="", now=NOW, reserve_seconds=0.0)


class TestReserve:
    def test_without_an_earlier_cycle_it_is_the_default(self) -> None:
        assert reserve_after(("evaluate", "gate", "report"), []) == pytest.approx(RESERVE_SECONDS)

    def test_every_step_counts_with_its_longest_time(self) -> None:
        earlier = [{"train": 900.0, "evaluate": 40.0, "gate": 9.0}, {"evaluate": 70.0, "gate": 5.0}]
        assert reserve_after(("evaluate", "gate"), earlier) == 79.0

    def test_a_step_nobody_knows_counts_with_its_share(self) -> None:
        assert reserve_after(("evaluate", "report"), [{"evaluate": 10.0}]) == 10.0 + 90.0

    def test_nothing_after_training_needs_no_reserve(self) -> None:
        assert reserve_after((), [{"evaluate": 10.0}]) == 0.0


class TestLadder:
    def test_seeds_go_first_then_epochs(self) -> None:
        assert list(ladder(3, 8)) == [(3, 8), (2, 8), (1, 8), (1, 6), (1, 4), (1, 3), (1, 2)]

    def test_the_plans_hundred_epochs(self) -> None:
        assert epoch_rungs(100) == (100, 75, 50, 38, 25, 19, 12, 9, 6, 5, 3, 2)

    @given(st.integers(1, 20), st.integers(1, 2000))
    @settings(deadline=None)
    def test_never_more_than_asked_never_under_one_seed_and_two_epochs(self, seeds: int, epochs: int) -> None:
        rungs = list(ladder(seeds, epochs))
        assert rungs[0] == (seeds, epochs)
        assert rungs[-1] == (1, min(epochs, 2))
        for (seeds_before, epochs_before), (seeds_after, epochs_after) in pairwise(rungs):
            assert (seeds_before - seeds_after == 1) != (epochs_after < epochs_before)
            assert epochs_after == epochs_before or seeds_before == 1


class TestFitting:
    def test_no_limit_gives_nothing_up(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=3, max_epochs=8, seconds_left=None)
        assert (choice.num_seeds, choice.max_epochs, choice.expected_seconds) == (3, 8, 320.0)
        assert not choice.is_reduced
        assert choice.fits
        assert choice.words == "3 seeds and at most 8 epochs, about 5 min; no deadline or budget"

    def test_what_fits_is_left_alone(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=3, max_epochs=8, seconds_left=353.0)
        assert (choice.num_seeds, choice.max_epochs) == (3, 8)
        assert choice.words.endswith("6 min left for training: fits, nothing is given up")

    def test_a_tenth_is_kept_in_hand(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=3, max_epochs=8, seconds_left=351.0)
        assert (choice.num_seeds, choice.max_epochs) == (2, 8)

    def test_seeds_are_given_up_before_epochs(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=3, max_epochs=8, seconds_left=200.0)
        assert (choice.num_seeds, choice.max_epochs, choice.expected_seconds) == (1, 8, 160.0)
        assert choice.words == (
            "asked for 3 seeds and at most 8 epochs, about 5 min; 3 min left for training: training 1 seed and at most "
            "8 epochs, about 3 min. Given up: 2 of 3 seeds. The recipe id changes with it (members that are finished "
            "are reused), and the gate judges it as another recipe"
        )

    def test_then_epochs(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=3, max_epochs=8, seconds_left=100.0)
        assert (choice.num_seeds, choice.max_epochs, choice.expected_seconds) == (1, 4, 80.0)
        assert "Given up: 2 of 3 seeds and 4 of at most 8 epochs (the whole cycle is shorter)" in choice.words
        assert "members of longer cycles are not reused" in choice.words

    def test_what_fits_nowhere_is_started_all_the_same_and_says_how_late(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=3, max_epochs=8, seconds_left=10.0)
        assert (choice.num_seeds, choice.max_epochs) == (1, 2)
        assert not choice.fits
        assert choice.late_seconds == 30.0
        assert "not even the quickest valid set fits: started all the same, about 30 s late" in choice.words

    def test_no_time_at_all_is_said(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=1, max_epochs=2, seconds_left=-60.0)
        assert choice.words == (
            "1 seed and at most 2 epochs, about 40 s; no time left: not even the quickest valid set fits: started all "
            "the same, about 2 min late"
        )

    def test_a_close_call_is_said(self) -> None:
        choice = fit_to_budget(ten_seconds_an_epoch, num_seeds=1, max_epochs=2, seconds_left=41.0)
        assert choice.late_seconds == 0.0
        assert choice.words.endswith("the quickest valid set there is, with less than a tenth of its time to spare")

    def test_finished_members_can_make_the_full_cycle_the_quickest(self) -> None:
        open_seconds = {(2, 4): 90.0, (1, 4): 50.0, (1, 3): 240.0, (1, 2): 160.0}
        choice = fit_to_budget(
            lambda seeds, epochs: open_seconds[seeds, epochs], num_seeds=2, max_epochs=4, seconds_left=20.0
        )
        assert (choice.num_seeds, choice.max_epochs) == (1, 4)

    def test_when_everything_is_finished_nothing_is_given_up(self) -> None:
        choice = fit_to_budget(lambda _seeds, _epochs: 0.0, num_seeds=3, max_epochs=8, seconds_left=-5.0)
        assert not choice.is_reduced
        assert choice.fits
        assert "nothing is left to train" in choice.words

    def test_nothing_is_estimated_beyond_what_is_needed(self) -> None:
        asked: list[tuple[int, int]] = []

        def estimate(seeds: int, epochs: int) -> float:
            asked.append((seeds, epochs))
            return ten_seconds_an_epoch(seeds, epochs)

        fit_to_budget(estimate, num_seeds=3, max_epochs=8, seconds_left=300.0)
        assert asked == [(3, 8), (2, 8)]

    @given(st.integers(1, 5), st.integers(1, 120), st.floats(-1e3, 1e5), st.floats(0.0, 1e4))
    @settings(deadline=None)
    def test_more_time_never_gives_less(self, seeds: int, epochs: int, left: float, more: float) -> None:
        def choose(seconds: float) -> BudgetChoice:
            return fit_to_budget(ten_seconds_an_epoch, num_seeds=seeds, max_epochs=epochs, seconds_left=seconds)

        less, rich = choose(left), choose(left + more)
        assert less.num_seeds <= rich.num_seeds <= seeds
        assert less.max_epochs <= rich.max_epochs <= epochs
        assert less.words
        assert less.num_seeds == 1 or less.max_epochs == epochs


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3.0, "0 s"), (89.0, "89 s"), (120.0, "2 min"), (5390.0, "1 h 30 min"), (11_100.0, "3 h 05 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
