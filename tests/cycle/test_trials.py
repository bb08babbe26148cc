"""Every variant that was judged counts, once, and nothing makes it forgotten."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.core.sealed import MANIFEST_NAME
from vnfleet.cycle.trials import DAILY_NAME, read_trials, record_trial

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def daily(count: int, *, shift: float = 0.0, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "session": [date(2023, 1, 2) + timedelta(days=day) for day in range(count)],
            "rank_ic": rng.normal(shift, 0.1, count),
            "active_return_frac": rng.normal(shift / 100, 0.01, count),
        }
    )


def test_a_recipe_on_newer_prices_is_the_same_trial(tmp_path: Path) -> None:
    record_trial(tmp_path, "a", daily(100), MONDAY)
    record_trial(tmp_path, "a", daily(105), MONDAY + timedelta(days=7))
    (trial,) = read_trials(tmp_path).trials
    assert trial.recorded_at == MONDAY
    assert trial.daily.height == 105


def test_an_older_week_looked_at_again_takes_nothing_away(tmp_path: Path) -> None:
    record_trial(tmp_path, "a", daily(105), MONDAY)
    before = read_trials(tmp_path)
    record_trial(tmp_path, "a", daily(100), MONDAY)
    assert read_trials(tmp_path).book_id == before.book_id


def test_going_back_to_an_earlier_variant_does_not_forget_what_was_tried_since(tmp_path: Path) -> None:
    for name, days in (("a", 0), ("b", 1), ("a", 2)):
        record_trial(tmp_path, name, daily(100), MONDAY + timedelta(days=days))
    assert read_trials(tmp_path).num_trials == 2


def test_every_way_an_account_followed_a_variant_is_a_try_of_its_own(tmp_path: Path) -> None:
    ranks = daily(100).with_columns(active_return_frac=pl.lit(None, pl.Float64))
    record_trial(tmp_path, "a", ranks, MONDAY)  # only its rankings were looked at
    record_trial(tmp_path, "b", ranks, MONDAY)
    assert read_trials(tmp_path).num_trials == 2
    record_trial(tmp_path, "a", daily(100), MONDAY, policy_id="top5")
    assert read_trials(tmp_path).num_trials == 2  # the same try, gone one step further
    record_trial(tmp_path, "a", daily(100), MONDAY, policy_id="top8")
    book = read_trials(tmp_path)
    assert book.num_trials == 3
    assert book.daily_ic().group_by("model_id").len().sort("model_id").rows() == [("a", 100), ("b", 100)]


def test_the_spread_of_sharpe_ratios_is_that_of_the_trials(tmp_path: Path) -> None:
    frames = [daily(200, shift=0.02 * seed, seed=seed) for seed in range(10)]
    for seed, frame in enumerate(frames):
        assert read_trials(tmp_path).sharpe_sd is None  # a few twins say nothing
        record_trial(tmp_path, f"trial{seed}", frame, MONDAY)
    returns = [frame.get_column("active_return_frac").to_numpy() for frame in frames]
    expected = np.std([one.mean() / one.std(ddof=1) for one in returns], ddof=1)
    assert read_trials(tmp_path).sharpe_sd == pytest.approx(expected)


@pytest.mark.parametrize("damaged", [DAILY_NAME, MANIFEST_NAME])
def test_a_damaged_trial_still_counts_and_is_mended_when_it_is_judged_again(tmp_path: Path, damaged: str) -> None:
    record_trial(tmp_path, "a", daily(100), MONDAY)
    record_trial(tmp_path, "b", daily(100), MONDAY)
    (tmp_path / "a" / damaged).write_bytes(b"torn")
    book = read_trials(tmp_path)
    assert book.num_trials == 2
    assert book.daily_ic().get_column("model_id").unique().to_list() == ["b"]
    later = MONDAY + timedelta(days=1)
    record_trial(tmp_path, "a", daily(100), later)
    mended = read_trials(tmp_path)
    assert [(trial.variant_id, trial.recorded_at) for trial in mended.trials] == [("b", MONDAY), ("a", later)]


def test_without_a_log_nothing_was_tried(tmp_path: Path) -> None:
    assert read_trials(tmp_path / "none").num_trials == 0
