"""Every variant that was judged counts, once, from the day it was first judged."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.cycle.trials import DAILY_NAME, record_trial, trials_up_to

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
    (trial,) = trials_up_to(tmp_path, ["a"]).trials
    assert trial.recorded_at == MONDAY
    assert trial.daily.height == 105


def test_a_week_run_again_does_not_know_what_was_tried_since(tmp_path: Path) -> None:
    record_trial(tmp_path, "a", daily(100), MONDAY)
    before = trials_up_to(tmp_path, ["a"])
    record_trial(tmp_path, "b", daily(100, seed=1), MONDAY + timedelta(days=1))
    assert trials_up_to(tmp_path, ["a"]).book_id == before.book_id
    assert [trial.model_id for trial in trials_up_to(tmp_path, ["b"]).trials] == ["a", "b"]
    assert trials_up_to(tmp_path, ["a", "b"]).daily_ic().get_column("model_id").n_unique() == 2


def test_the_spread_of_sharpe_ratios_is_that_of_the_trials(tmp_path: Path) -> None:
    frames = [daily(200, shift=0.02 * seed, seed=seed) for seed in range(10)]
    for seed, frame in enumerate(frames):
        assert seed == 0 or trials_up_to(tmp_path, ["trial0"]).sharpe_sd is None  # a few twins say nothing
        record_trial(tmp_path, f"trial{seed}", frame, MONDAY)
    returns = [frame.get_column("active_return_frac").to_numpy() for frame in frames]
    expected = np.std([one.mean() / one.std(ddof=1) for one in returns], ddof=1)
    assert trials_up_to(tmp_path, ["trial0"]).sharpe_sd == pytest.approx(expected)


def test_without_an_account_a_trial_counts_but_has_no_sharpe_ratio(tmp_path: Path) -> None:
    silent = daily(100).with_columns(active_return_frac=pl.lit(None, pl.Float64))
    record_trial(tmp_path, "a", silent, MONDAY)
    record_trial(tmp_path, "b", daily(100), MONDAY)
    book = trials_up_to(tmp_path, ["a"])
    assert len(book.trials) == 2
    assert book.sharpe_sd is None


def test_a_damaged_trial_still_counts(tmp_path: Path) -> None:
    record_trial(tmp_path, "a", daily(100), MONDAY)
    record_trial(tmp_path, "b", daily(100), MONDAY)
    (tmp_path / "a" / DAILY_NAME).write_bytes(b"torn")
    book = trials_up_to(tmp_path, ["b"])
    assert [trial.model_id for trial in book.trials] == ["a", "b"]
    assert book.daily_ic().get_column("model_id").unique().to_list() == ["b"]


def test_a_variant_that_was_never_recorded_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="not in the log"):
        trials_up_to(tmp_path, ["a"])
