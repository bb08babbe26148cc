from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.evaluation.splits import Fold, SplitRule, live_fold, yearly_folds


def weekdays(first: date, count: int) -> list[date]:
    days: list[date] = []
    day = first
    while len(days) < count:
        if day.weekday() < 5:
            days.append(day)
        day += timedelta(days=1)
    return days


def one_symbol(_before: date) -> tuple[str, ...]:
    return ("VCB",)


def label_windows(part: range, horizon: int) -> set[int]:
    return {t + step for t in part for step in range(1, horizon + 1)}


rules = st.builds(
    SplitRule,
    horizon_sessions=st.integers(1, 8),
    valid_sessions=st.integers(1, 60),
    min_train_sessions=st.integers(1, 80),
    embargo_sessions=st.integers(0, 12),
    train_sessions=st.none() | st.integers(160, 220),
    test_sessions=st.none() | st.integers(1, 90),
)


@given(rule=rules, count=st.integers(300, 560))
def test_no_label_window_touches_a_later_part_in_any_fold(rule: SplitRule, count: int) -> None:
    sessions = weekdays(date(2019, 1, 2), count)
    folds = yearly_folds(sessions, [2020], rule, one_symbol)
    for fold in folds:
        horizon, gap = rule.horizon_sessions, rule.horizon_sessions + rule.embargo_sessions
        train_labels = label_windows(fold.train, horizon)
        assert train_labels.isdisjoint(fold.valid)
        assert train_labels.isdisjoint(fold.test)
        assert label_windows(fold.refit, horizon).isdisjoint(fold.test)
        # nothing is wasted either: one more session in any part would leak, or break the embargo
        assert fold.refit.stop + gap == fold.test.start
        assert fold.train.stop + gap == fold.valid.start
        assert len(fold.valid) == rule.valid_sessions
        assert len(fold.train) >= rule.min_train_sessions
        assert len(fold.refit) == min(fold.refit.stop, rule.train_sessions or fold.refit.stop)
    # the blocks of a year judge each of its sessions once
    judged = [t for fold in folds for t in fold.test]
    assert [sessions[t] for t in judged] == [session for session in sessions if session.year == 2020]


@given(length=st.integers(1, 300), num_judged=st.integers(1, 262))
def test_blocks_judge_each_session_once_and_none_is_a_stub(length: int, num_judged: int) -> None:
    sessions = [*weekdays(date(2019, 1, 2), 100), *weekdays(date(2020, 1, 1), num_judged)]
    rule = SplitRule(horizon_sessions=2, valid_sessions=5, min_train_sessions=5, test_sessions=length)
    blocks = [fold.test for fold in yearly_folds(sessions, [2020], rule, one_symbol)]
    assert [t for block in blocks for t in block] == list(range(100, 100 + num_judged))
    assert all(len(block) == length for block in blocks[:-1])
    assert len(blocks[-1]) <= 1.5 * length
    assert 2 * len(blocks[-1]) >= min(length, 2 * num_judged)


@pytest.mark.parametrize(
    ("length", "num_judged", "expected"),
    [
        (120, 249, [120, 129]),
        (120, 300 - 1, [120, 179]),
        (120, 300, [120, 120, 60]),
        (121, 302, [121, 181]),
        (250, 249, [249]),
        (60, 249, [60, 60, 60, 69]),
        (60, 20, [20]),
    ],
)
def test_a_tail_shorter_than_half_a_block_joins_the_block_before_it(
    length: int, num_judged: int, expected: list[int]
) -> None:
    # every day of 2020 counts as a session here, so that a year may have more than 262
    sessions = [
        *weekdays(date(2019, 1, 2), 100),
        *(date(2020, 1, 1) + timedelta(days=day) for day in range(num_judged)),
    ]
    rule = SplitRule(horizon_sessions=2, valid_sessions=5, min_train_sessions=5, test_sessions=length)
    folds = yearly_folds(sessions, [2020], rule, one_symbol)
    assert [len(fold.test) for fold in folds] == expected
    assert [fold.fold_id for fold in folds] == [f"2020.{block}" for block in range(1, len(expected) + 1)]


@given(rule=rules, count=st.integers(300, 560))
def test_live_fold_only_uses_labels_that_are_known(rule: SplitRule, count: int) -> None:
    fold = live_fold(weekdays(date(2019, 1, 2), count), rule, one_symbol)
    assert max(label_windows(fold.refit, rule.horizon_sessions)) == count - 1 - rule.embargo_sessions
    assert label_windows(fold.train, rule.horizon_sessions).isdisjoint(fold.valid)
    assert fold.test == range(count - 1, count)
    assert label_windows(fold.test, rule.horizon_sessions).isdisjoint(range(count))


def test_hand_counted_fold() -> None:
    # 10 sessions in 2019, 5 in 2020; h = 2, validation 3: refit t<=7 (7+2=9 < 10), valid 5..7, train t<=2 (2+2=4 < 5)
    sessions = [*weekdays(date(2019, 12, 2), 10), *weekdays(date(2020, 1, 2), 5)]
    (fold,) = yearly_folds(
        sessions, [2020], SplitRule(horizon_sessions=2, valid_sessions=3, min_train_sessions=3), one_symbol
    )
    assert (fold.train, fold.valid, fold.refit, fold.test) == (range(3), range(5, 8), range(8), range(10, 15))


def test_universe_is_asked_for_before_the_first_test_session() -> None:
    sessions = weekdays(date(2019, 1, 2), 400)
    asked: list[date] = []

    def universe_of(before: date) -> tuple[str, ...]:
        asked.append(before)
        return ("FPT",)

    rule = SplitRule(horizon_sessions=5, valid_sessions=40, min_train_sessions=50)
    (yearly,) = yearly_folds(sessions, [2020], rule, universe_of)
    live = live_fold(sessions, rule, universe_of)
    assert asked == [date(2020, 1, 1), sessions[-1] + timedelta(days=1)]
    assert yearly.universe == live.universe == ("FPT",)


def test_too_short_history_names_the_fold_and_the_need() -> None:
    sessions = weekdays(date(2019, 1, 2), 300)
    with pytest.raises(BadDataError, match="too little history before fold 2020"):
        yearly_folds(
            sessions, [2020], SplitRule(horizon_sessions=5, valid_sessions=200, min_train_sessions=100), one_symbol
        )
    with pytest.raises(BadDataError, match="too little history before fold live"):
        live_fold(sessions[:30], SplitRule(horizon_sessions=5, valid_sessions=10, min_train_sessions=50), one_symbol)


def test_a_year_outside_the_panel_is_refused() -> None:
    with pytest.raises(BadDataError, match="no session in 2025"):
        yearly_folds(
            weekdays(date(2019, 1, 2), 300),
            [2025],
            SplitRule(horizon_sessions=5, valid_sessions=10, min_train_sessions=10),
            one_symbol,
        )


def test_impossible_settings_and_unsorted_sessions_are_refused() -> None:
    sessions = weekdays(date(2019, 1, 2), 300)
    with pytest.raises(ValueError, match="at least 1"):
        live_fold(sessions, SplitRule(horizon_sessions=0, valid_sessions=10, min_train_sessions=10), one_symbol)
    with pytest.raises(BadDataError, match="ascending"):
        live_fold(sessions[::-1], SplitRule(horizon_sessions=5, valid_sessions=10, min_train_sessions=10), one_symbol)
    with pytest.raises(BadDataError, match="no sessions"):
        live_fold([], SplitRule(horizon_sessions=5, valid_sessions=10, min_train_sessions=10), one_symbol)


@pytest.mark.parametrize(
    "change",
    [
        {"fold_id": ""},
        {"train": range(5, 5)},
        {"train": range(0, 10, 2)},
        {"valid": range(20)},
        {"refit": range(19)},
        {"refit": range(1, 20)},
        {"test": range(19, 30)},
    ],
)
def test_a_fold_of_impossible_parts_is_refused(change: dict[str, Any]) -> None:
    parts: dict[str, Any] = {"train": range(10), "valid": range(15, 20), "refit": range(20), "test": range(25, 30)}
    with pytest.raises(ValueError, match="fold"):
        Fold(**{"fold_id": "2022", **parts, "universe": ("VCB",), **change})


def test_hand_counted_blocks_of_a_rolling_window() -> None:
    # 12 sessions in 2019, 5 in 2020 in blocks of 2; h = 1, embargo 1, validation 2, window 8
    sessions = [*weekdays(date(2019, 12, 2), 12), *weekdays(date(2020, 1, 2), 5)]
    rule = SplitRule(
        horizon_sessions=1,
        valid_sessions=2,
        min_train_sessions=3,
        embargo_sessions=1,
        train_sessions=8,
        test_sessions=2,
    )
    folds = yearly_folds(sessions, [2020], rule, one_symbol)
    assert [fold.fold_id for fold in folds] == ["2020.1", "2020.2", "2020.3"]
    assert [fold.test for fold in folds] == [range(12, 14), range(14, 16), range(16, 17)]
    assert [fold.refit for fold in folds] == [range(2, 10), range(4, 12), range(6, 14)]
    assert [fold.valid for fold in folds] == [range(8, 10), range(10, 12), range(12, 14)]
    assert [fold.train for fold in folds] == [range(2, 6), range(4, 8), range(6, 10)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embargo_sessions": -1}, "embargo_sessions must not be negative"),
        ({"test_sessions": 0}, "test_sessions must be at least 1"),
        ({"train_sessions": 94}, "train_sessions 94 is too short: 50 to train on, a gap of 5 and 40 of validation"),
    ],
)
def test_lengths_that_cannot_be_are_refused(change: dict[str, int], said: str) -> None:
    lengths = {"horizon_sessions": 5, "valid_sessions": 40, "min_train_sessions": 50, **change}
    with pytest.raises(ValueError, match=said):
        SplitRule(**lengths)
