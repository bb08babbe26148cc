"""The top-k policy: hysteresis on rank fractions, by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.data.panel import Panel
from vnfleet.market.calendar import trading_sessions
from vnfleet.trading.portfolio import TopKPolicy, desired_positions, prediction_matrix, rank_fractions

nan = np.nan


def test_rank_fractions_run_from_worst_0_to_best_1_with_average_ties() -> None:
    scores_TS = np.array([[3.0, 1.0, 2.0, nan, 5.0], [1.0, 1.0, 0.0, nan, nan], [nan, nan, 7.0, nan, nan], [nan] * 5])
    expected = np.array(
        [[2 / 3, 0.0, 1 / 3, nan, 1.0], [0.75, 0.75, 0.0, nan, nan], [nan, nan, 1.0, nan, nan], [nan] * 5]
    )
    np.testing.assert_allclose(rank_fractions(scores_TS), expected)


def test_a_symbol_enters_above_the_upper_mark_and_leaves_below_the_lower_one() -> None:
    policy = TopKPolicy(max_positions=2, enter_above=0.7, exit_below=0.3)
    scores_TS = np.array(
        [
            [4.0, 3.0, 2.0, 1.0],  # A is 1, B is 2/3: only A enters
            [2.0, 4.0, 3.0, 1.0],  # B enters, A at 1/3 stays
            [3.0, 1.0, 2.0, 4.0],  # B is last and leaves, D enters
            [1.0, 2.0, 4.0, 3.0],  # A is last and leaves, C enters, D at 2/3 stays
        ]
    )
    wanted_TS = desired_positions(scores_TS, policy)
    wanted = ["".join(name for name, held in zip("ABCD", row, strict=True) if held) for row in wanted_TS]
    assert wanted == ["A", "AB", "AD", "CD"]


def test_slots_go_to_the_best_first_and_are_never_exceeded() -> None:
    policy = TopKPolicy(max_positions=2, enter_above=0.1, exit_below=0.0)
    scores_TS = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    assert desired_positions(scores_TS, policy).tolist() == [[False, False, True, True]] * 2


def test_a_held_symbol_without_scores_is_kept_for_a_while_only() -> None:
    policy = TopKPolicy(max_positions=1, enter_above=0.9, exit_below=0.4, max_unscored_sessions=2)
    scores_TS = np.array([[9.0, 1.0, 0.5], *[[nan, 2.0, 1.0]] * 4])
    assert desired_positions(scores_TS, policy).argmax(axis=1).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [{"max_positions": 0}, {"enter_above": 0.3, "exit_below": 0.5}, {"resize_band_frac": 0.0}, {"enter_above": 1.0}],
)
def test_policies_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TopKPolicy(**wrong)  # type: ignore[arg-type]


def test_predictions_must_be_of_one_model_and_fit_the_panel(
    make_panel: Callable[..., Panel], make_predictions: Callable[..., pl.DataFrame]
) -> None:
    sessions = trading_sessions(date(2023, 3, 1), date(2023, 3, 3))
    panel = make_panel(sessions, {"AAA": [(10_000, 10_000, 1_000, 1.0)] * 3})
    good = make_predictions(sessions, {"AAA": [0.1, None, 0.3]})
    np.testing.assert_array_equal(prediction_matrix(panel, good, "score"), [[0.1], [nan], [0.3]])
    other = make_predictions(sessions, {"BBB": [0.1, None, 0.3]})
    with pytest.raises(BadDataError, match="BBB"):
        prediction_matrix(panel, other, "score")
