"""The written plan's limits beside their null pass rates; expected shares are counted by hand."""

from __future__ import annotations

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.releases.plan_policy import plan_policy_report

NUMBERS = pl.DataFrame(
    {
        "symbol": ["AAA", "BBB", "CCC", "DDD"],
        "accuracy_frac": [0.53, 0.56, 0.52, 0.57],
        "sharpe": [0.9, 0.8, 1.5, 1.2],
        "max_drawdown_frac": [-0.05, 0.02, 0.30, 0.099],
        "rmse": [0.029, 0.05, 0.03, None],
    }
)


def test_each_limit_is_counted_strictly_and_null_shares_stand_beside() -> None:
    report = plan_policy_report(NUMBERS)
    counted = {one.name: (one.num_passing, one.num_models, one.null_pass_frac) for one in report.criteria}
    assert counted == {
        "accuracy": (3, 4, pytest.approx(36 / 102, abs=0.001)),
        "sharpe": (3, 4, 0.26),
        "max_drawdown": (3, 4, 0.055),
        "rmse": (1, 3, None),
    }
    assert report.accuracy_and_sharpe_frac == pytest.approx(2 / 4)  # AAA and DDD
    assert report.three_frac == pytest.approx(2 / 4)
    assert report.all_frac == pytest.approx(1 / 3)  # AAA, of the three with an RMSE
    assert (report.accuracy_and_sharpe_null_frac, report.three_null_frac) == (0.15, 0.019)


def test_models_that_were_not_judged_are_counted_in_words() -> None:
    report = plan_policy_report(NUMBERS)
    assert [one.words.rpartition("; ")[2] for one in report.criteria if "not judged" in one.words] == [
        "1 of 4 was not judged"
    ]
    assert "- RMSE under 0.03: 1 of 3 models (nobody measured what luck passes); 1 of 4 was not judged" in report.words
    unknown = pl.col("symbol").is_in(["AAA", "BBB"])
    fewer = plan_policy_report(NUMBERS.with_columns(sharpe=pl.when(~unknown).then(pl.col("sharpe"))))
    assert fewer.criteria[1].words == "Sharpe above 0.8: 2 of 2 models (luck: 26.0%); 2 of 4 were not judged"


def test_mean_accuracy_is_put_against_54_and_55_percent() -> None:
    report = plan_policy_report(NUMBERS)
    assert report.mean_accuracy_frac == pytest.approx(2.18 / 4)
    assert (report.reaches_mean_54, report.reaches_mean_55) == (True, False)
    assert "54% reached, 55% missed" in report.words
    assert "luck: 1.9%" in report.words


def test_without_numbers_the_report_is_empty_and_says_so() -> None:
    report = plan_policy_report()
    assert report.num_models == 0
    assert report.all_frac is None
    assert report.mean_accuracy_frac is None
    assert "no models were measured" in report.words


def test_nan_counts_as_unknown() -> None:
    nan = NUMBERS.with_columns(sharpe=pl.lit(float("nan")))
    report = plan_policy_report(nan)
    assert report.criteria[1].num_models == 0
    assert report.criteria[1].pass_frac is None
    assert report.accuracy_and_sharpe_frac is None


def test_missing_columns_and_repeated_symbols_are_refused() -> None:
    with pytest.raises(BadDataError, match="lack columns"):
        plan_policy_report(NUMBERS.drop("rmse"))
    with pytest.raises(BadDataError, match="twice"):
        plan_policy_report(pl.concat([NUMBERS, NUMBERS]))
