from __future__ import annotations

import json
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.evaluation.splits import Fold, live_fold, yearly_folds


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


settings_of_a_split = {
    "horizon": st.integers(1, 8),
    "valid_sessions": st.integers(1, 60),
    "min_train_sessions": st.integers(1, 80),
    "count": st.integers(300, 560),
}


@given(**settings_of_a_split)
def test_no_label_window_touches_a_later_part_in_yearly_folds(
    horizon: int, valid_sessions: int, min_train_sessions: int, count: int
) -> None:
    sessions = weekdays(date(2019, 1, 2), count)
    (fold,) = yearly_folds(
        sessions,
        [2020],
        horizon_sessions=horizon,
        valid_sessions=valid_sessions,
        min_train_sessions=min_train_sessions,
        universe_of=one_symbol,
    )
    train_labels = label_windows(fold.train, horizon)
    assert train_labels.isdisjoint(fold.valid)
    assert train_labels.isdisjoint(fold.test)
    assert label_windows(fold.refit, horizon).isdisjoint(fold.test)
    # nothing is wasted either: one more session in any part would leak
    assert (fold.refit.stop) + horizon == fold.test.start
    assert (fold.train.stop) + horizon == fold.valid.start
    assert len(fold.valid) == valid_sessions
    assert len(fold.train) >= min_train_sessions
    assert [session for session in sessions if session.year == 2020] == [sessions[t] for t in fold.test]


@given(**settings_of_a_split)
def test_live_fold_only_uses_labels_that_are_known(
    horizon: int, valid_sessions: int, min_train_sessions: int, count: int
) -> None:
    sessions = weekdays(date(2019, 1, 2), count)
    fold = live_fold(
        sessions,
        horizon_sessions=horizon,
        valid_sessions=valid_sessions,
        min_train_sessions=min_train_sessions,
        universe_of=one_symbol,
    )
    assert max(label_windows(fold.refit, horizon)) == count - 1
    assert label_windows(fold.train, horizon).isdisjoint(fold.valid)
    assert fold.test == range(count - 1, count)
    assert label_windows(fold.test, horizon).isdisjoint(range(count))


def test_hand_counted_fold() -> None:
    # 10 sessions in 2019, 5 in 2020; h = 2, validation 3: refit t<=7 (7+2=9 < 10), valid 5..7, train t<=2 (2+2=4 < 5)
    sessions = [*weekdays(date(2019, 12, 2), 10), *weekdays(date(2020, 1, 2), 5)]
    (fold,) = yearly_folds(
        sessions, [2020], horizon_sessions=2, valid_sessions=3, min_train_sessions=3, universe_of=one_symbol
    )
    assert (fold.train, fold.valid, fold.refit, fold.test) == (range(3), range(5, 8), range(8), range(10, 15))


def test_universe_is_asked_for_before_the_first_test_session() -> None:
    sessions = weekdays(date(2019, 1, 2), 400)
    asked: list[date] = []

    def universe_of(before: date) -> tuple[str, ...]:
        asked.append(before)
        return ("FPT",)

    settings = {"horizon_sessions": 5, "valid_sessions": 40, "min_train_sessions": 50}
    (yearly,) = yearly_folds(sessions, [2020], **settings, universe_of=universe_of)
    live = live_fold(sessions, **settings, universe_of=universe_of)
    assert asked == [date(2020, 1, 1), sessions[-1] + timedelta(days=1)]
    assert yearly.universe == live.universe == ("FPT",)


def test_too_short_history_names_the_fold_and_the_need() -> None:
    sessions = weekdays(date(2019, 1, 2), 300)
    with pytest.raises(BadDataError, match="too little history before fold 2020"):
        yearly_folds(
            sessions, [2020], horizon_sessions=5, valid_sessions=200, min_train_sessions=100, universe_of=one_symbol
        )
    with pytest.raises(BadDataError, match="too little history before fold live"):
        live_fold(sessions[:30], horizon_sessions=5, valid_sessions=10, min_train_sessions=50, universe_of=one_symbol)


def test_a_year_outside_the_panel_is_refused() -> None:
    with pytest.raises(BadDataError, match="no session in 2025"):
        yearly_folds(
            weekdays(date(2019, 1, 2), 300),
            [2025],
            horizon_sessions=5,
            valid_sessions=10,
            min_train_sessions=10,
            universe_of=one_symbol,
        )


def test_impossible_settings_and_unsorted_sessions_are_refused() -> None:
    sessions = weekdays(date(2019, 1, 2), 300)
    with pytest.raises(ValueError, match="at least 1"):
        live_fold(sessions, horizon_sessions=0, valid_sessions=10, min_train_sessions=10, universe_of=one_symbol)
    with pytest.raises(BadDataError, match="ascending"):
        live_fold(sessions[::-1], horizon_sessions=5, valid_sessions=10, min_train_sessions=10, universe_of=one_symbol)
    with pytest.raises(BadDataError, match="no sessions"):
        live_fold([], horizon_sessions=5, valid_sessions=10, min_train_sessions=10, universe_of=one_symbol)


def test_fold_survives_json() -> None:
    fold = live_fold(
        weekdays(date(2019, 1, 2), 300),
        horizon_sessions=5,
        valid_sessions=40,
        min_train_sessions=50,
        universe_of=lambda _before: ("FPT", "VCB"),
    )
    assert Fold.from_record(json.loads(json.dumps(fold.to_record()))) == fold


@pytest.mark.parametrize(
    "change",
    [
        {"train": [0, "9"]},
        {"train": [5, 5]},
        {"valid": [0, 20]},
        {"universe": "VCB"},
        {"universe": [1]},
        {"fold_id": 2022},
        {"extra": 1},
    ],
)
def test_a_damaged_fold_record_is_refused(change: dict[str, object]) -> None:
    fold = Fold(
        fold_id="2022", train=range(10), valid=range(15, 20), refit=range(20), test=range(25, 30), universe=("VCB",)
    )
    with pytest.raises(BadDataError):
        Fold.from_record({**fold.to_record(), **change})
