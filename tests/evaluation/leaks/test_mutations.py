"""The field's published bugs, planted one by one: each is caught by the check that names it; honesty raises no alarm.

Sources: whole-window normalisation (shiyu-coder/Kronos#227), a scaler fitted on all data (gsyyysg/StockFormer#21),
test metrics in the training loop (thuml/Time-Series-Library), extreme labels dropped from the test set
(cq-dong/DFT_25#4), today's VN30 as the past universe, entry at the close that gave the signal.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import polars as pl
import pytest

from vnfleet.evaluation.leaks import LeakReport, prove

FORECASTS = {"truncation:descent", "future_poison:descent"}
CAUGHT_BY = {
    "whole_window_normalisation": {"truncation:features", "future_poison:features", "fit_poison:descent", *FORECASTS},
    "scaler_on_all_data": {"scaler_provenance:descent", "fit_poison:descent"},
    "centred_windows": {"truncation:features", "future_poison:features", *FORECASTS},
    "shift_minus_one": {"truncation:features", "future_poison:features", *FORECASTS},
    "missing_purge": {"label_gap", "fit_poison:descent"},
    "test_set_early_stopping": {"fit_poison:descent"},
    "extreme_labels_dropped": {"rows_scored:descent", "entry:outcomes"},
    "universe_of_today": {"universe:2021", "fit_poison:descent"},
    "entry_at_the_signals_close": {"entry:outcomes"},
    "account_at_the_signals_session": {"entry:account"},
    "random_split": {"random_split", "fit_poison:descent", "scaler_provenance:descent"},
}


def _failed(report: LeakReport) -> set[str]:
    return {check.name for check in report.failed}


def test_every_bug_of_the_plan_is_planted(plants: Any) -> None:
    assert set(plants.bugs) == set(CAUGHT_BY)


@pytest.mark.parametrize("bug", CAUGHT_BY)
def test_a_planted_bug_is_caught_by_the_checks_that_name_it(plants: Any, bug: str) -> None:
    pipeline = plants.of(bug)
    quick = tuple(dataclasses.replace(learner, num_shuffles=0) for learner in pipeline.learners)
    report = prove(dataclasses.replace(pipeline, learners=quick))
    assert report.has_leak
    assert _failed(report) == CAUGHT_BY[bug]


@pytest.mark.parametrize("seed", [7, 11, 23])
def test_an_honest_pipeline_raises_no_alarm(plants: Any, seed: int) -> None:
    report = prove(plants.of(seed=seed), seed=seed)
    assert not report.has_leak
    assert not report.failed
    unsure = {check.name for check in report.checks if check.passed is None}
    assert unsure <= {"random_split"}
    assert len(report.checks) == 13


def test_forecasts_corrected_by_what_happened_are_caught_by_shuffled_labels(plants: Any) -> None:
    """Outcomes that reach the forecast another way than through labels: the shuffled fit ought to be ignorant."""
    honest = plants.of()
    learner, outcomes = honest.learners[0], honest.outcomes(honest.panel)
    happened = outcomes.select("symbol", "session", "return_frac")

    def fit(panel: Any, shuffle: int | None) -> Any:
        fitted = learner.fit(panel, shuffle)

        def forecast(served: Any) -> pl.DataFrame:
            told: pl.DataFrame = fitted.forecast(served).join(happened, on=["symbol", "session"], how="left")
            z = [(pl.col(name) / pl.col(name).std()).over("session") for name in ("score", "return_frac")]
            return told.with_columns(score=z[0] + 0.2 * z[1].fill_null(0.0)).drop("return_frac")

        return dataclasses.replace(fitted, forecast=forecast)

    cheat = dataclasses.replace(honest, learners=(dataclasses.replace(learner, fit=fit, num_shuffles=5),))
    found = {check.name: check for check in prove(cheat, num_cuts=1).checks}["shuffled_labels:descent"]
    assert found.passed is False
