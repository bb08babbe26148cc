from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import OUTCOME_SCHEMA, PREDICTION_SCHEMA
from vnfleet.evaluation.metrics import (
    ALL_YEARS,
    by_symbol,
    daily_rank_ic,
    monthly_rank_ic,
    paired_daily,
    primary_rows,
    scored_rows,
    summarise,
)
from vnfleet.evaluation.skill import mean_interval

DAY = date(2024, 1, 2)
HORIZON = 5


def prediction_rows(
    scores: list[float | None],
    *,
    model_id: str = "m",
    session: date = DAY,
    prob: list[float | None] | None = None,
    expected: list[float | None] | None = None,
    fold_id: str = "2024",
) -> pl.DataFrame:
    count = len(scores)
    return pl.DataFrame(
        {
            "model_id": [model_id] * count,
            "symbol": [f"S{index:03d}" for index in range(count)],
            "session": [session] * count,
            "horizon_sessions": [HORIZON] * count,
            "fold_id": [fold_id] * count,
            "score": scores,
            "direction_prob": prob or [None] * count,
            "expected_return_frac": expected or [None] * count,
            "volatility_frac": [None] * count,
        },
        schema=PREDICTION_SCHEMA,
    )


def outcome_rows(returns: list[float], *, session: date = DAY, benchmark: float | None = None) -> pl.DataFrame:
    count = len(returns)
    middle = float(np.median(returns)) if benchmark is None else benchmark
    return pl.DataFrame(
        {
            "symbol": [f"S{index:03d}" for index in range(count)],
            "session": [session] * count,
            "horizon_sessions": [HORIZON] * count,
            "return_frac": returns,
            "benchmark_return_frac": [middle] * count,
            "known_on": [session + timedelta(days=7)] * count,
        },
        schema=OUTCOME_SCHEMA,
    )


def noisy_panel(num_sessions: int, num_symbols: int = 40, seed: int = 3) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    days = [DAY + timedelta(days=index) for index in range(num_sessions)]
    returns = rng.normal(0, 0.03, (num_sessions, num_symbols))
    good = returns + rng.normal(0, 0.1, returns.shape)
    expected = good * 0.1
    predictions = [
        prediction_rows(list(good[t]), model_id="good", session=day, expected=list(expected[t]))
        for t, day in enumerate(days)
    ] + [
        prediction_rows([0.0] * num_symbols, model_id="always_up", session=day, prob=[0.6] * num_symbols)
        for day in days
    ]
    outcomes = [outcome_rows(list(returns[t]), session=day) for t, day in enumerate(days)]
    return pl.concat(predictions), pl.concat(outcomes)


def only(summary: pl.DataFrame, model_id: str, year: str = ALL_YEARS) -> dict[str, float]:
    return summary.filter(pl.col("model_id") == model_id, pl.col("year") == year).row(0, named=True)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(-4, 4), st.integers(-6, 6)), min_size=30, max_size=60
    )  # few distinct values: many ties
)
def test_rank_ic_is_scipys_spearman_with_average_ranks(rows: list[tuple[int, int]]) -> None:
    scores, returns = [score / 7 for score, _ in rows], [value / 100 for _, value in rows]
    (found,) = daily_rank_ic(prediction_rows([*scores]), outcome_rows(returns)).get_column("rank_ic").to_list()
    if len(set(scores)) == 1 or len(set(returns)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(scores, returns).statistic, abs=1e-12)


def test_too_few_symbols_and_equal_scores_have_no_rank_ic() -> None:
    predictions, outcomes = noisy_panel(2, num_symbols=29)
    assert daily_rank_ic(predictions, outcomes).get_column("rank_ic").null_count() == 4
    enough = daily_rank_ic(predictions, outcomes, min_symbols=29)
    assert enough.filter(model_id="good").get_column("rank_ic").null_count() == 0
    assert enough.filter(model_id="always_up").get_column("rank_ic").to_list() == [None, None]
    assert enough.get_column("num_symbols").to_list() == [29] * 4
    assert not enough.select(pl.col("rank_ic").is_nan().any()).item()


def test_absolute_calls_by_hand() -> None:
    # probability decides (0.5 is up), else the expected return, else the score; a return of exactly 0 is not up
    predictions = prediction_rows(
        [-1.0, 1.0, -1.0, 2.0, -2.0, None],
        prob=[0.5, 0.4, None, None, None, None],
        expected=[-0.1, 0.1, 0.02, None, None, None],
    )
    outcomes = outcome_rows([0.01, -0.01, 0.0, 0.03, -0.02, 0.05])
    # calls: up, down, up, up, down, none; outcomes: up, down, not up, up, not up, up -> 4 of 5 right, 2 of 5 up
    row = only(summarise(predictions, outcomes), "m")
    assert row["accuracy_absolute"] == pytest.approx(4 / 5)
    assert row["base_rate_up"] == pytest.approx(2 / 5)
    assert row["base_accuracy"] == pytest.approx(3 / 5)
    # errors where a return was expected: -0.11, 0.11, 0.02
    assert row["rmse"] == pytest.approx(math.sqrt((0.0121 + 0.0121 + 0.0004) / 3))
    assert row["mae"] == pytest.approx(0.24 / 3)


def test_relative_calls_leave_out_both_medians() -> None:
    predictions = prediction_rows([1.0, 2.0, 3.0, 4.0, 5.0])
    outcomes = outcome_rows([-0.02, 0.01, 0.0, 0.05, -0.01], benchmark=0.01)
    # score sides: below, below, (median), above, above; outcome sides: below, (median), below, above, below
    row = only(summarise(predictions, outcomes), "m")
    assert row["accuracy_relative"] == pytest.approx(2 / 3)


def test_median_score_counts_forecasts_whose_outcome_is_unknown() -> None:
    # at decision time nobody knows which outcomes will be missing: the median of 1, 2, 3, 4, 9 is 3, not 2.5
    predictions = prediction_rows([1.0, 2.0, 3.0, 4.0, 9.0])
    outcomes = outcome_rows([-0.01, 0.01, 0.02, -0.02], benchmark=0.0)
    row = only(summarise(predictions, outcomes), "m")
    assert row["num_rows"] == 4
    assert row["accuracy_relative"] == pytest.approx(1 / 3)


def test_always_up_reaches_the_base_rate_and_has_no_cross_section() -> None:
    predictions, outcomes = noisy_panel(60)
    row = only(summarise(predictions, outcomes), "always_up")
    share_up = outcomes.select((pl.col("return_frac") > 0).mean()).item()
    assert row["accuracy_absolute"] == row["base_rate_up"] == pytest.approx(share_up)
    for absent in ("rank_ic", "rank_ic_low", "icir", "accuracy_relative", "accuracy_relative_low", "rmse", "mae"):
        assert row[absent] is None


def test_summary_agrees_with_a_plain_numpy_computation() -> None:
    predictions, outcomes = noisy_panel(400)  # 2024 and a part of 2025
    summary = summarise(predictions, outcomes)
    assert summary.filter(model_id="good").get_column("year").to_list() == ["2024", "2025", "all"]
    joined = predictions.filter(model_id="good").join(outcomes, on=["symbol", "session"]).sort("session", "symbol")
    score = joined.get_column("score").to_numpy().reshape(400, 40)
    outcome = joined.get_column("return_frac").to_numpy().reshape(400, 40)
    expected = joined.get_column("expected_return_frac").to_numpy().reshape(400, 40)
    ics = np.array([scipy.stats.spearmanr(s, r).statistic for s, r in zip(score, outcome, strict=True)])
    above = score > np.median(score, axis=1, keepdims=True)
    really = outcome > np.median(outcome, axis=1, keepdims=True)
    row = only(summary, "good")
    assert row["num_sessions"] == 400
    assert row["num_rows"] == 16000
    assert row["rank_ic"] == pytest.approx(ics.mean())
    assert row["icir"] == pytest.approx(ics.mean() / ics.std(ddof=1))
    assert (row["rank_ic_low"], row["rank_ic_high"]) == pytest.approx(mean_interval(ics))
    assert row["accuracy_relative"] == pytest.approx((above == really).mean())
    assert (row["accuracy_relative_low"], row["accuracy_relative_high"]) == pytest.approx(
        mean_interval((above == really).mean(axis=1))
    )
    assert row["accuracy_absolute"] == pytest.approx(((expected > 0) == (outcome > 0)).mean())
    assert row["rmse"] == pytest.approx(np.sqrt(((expected - outcome) ** 2).mean()))
    assert row["mae"] == pytest.approx(np.abs(expected - outcome).mean())
    days = joined.get_column("session").to_numpy().reshape(400, 40)[:, 0]
    assert only(summary, "good", "2025")["rank_ic"] == pytest.approx(ics[days >= np.datetime64("2025-01-01")].mean())


def test_forecasts_without_outcome_are_left_out() -> None:
    predictions, outcomes = noisy_panel(40)
    known = outcomes.filter(pl.col("session") < DAY + timedelta(days=35))
    assert summarise(predictions, known).equals(
        summarise(predictions.filter(pl.col("session") < DAY + timedelta(days=35)), outcomes)
    )
    assert summarise(predictions, outcomes.clear()).is_empty()


def test_interval_is_null_when_there_are_fewer_than_two_blocks() -> None:
    row = only(summarise(*noisy_panel(29)), "good")
    assert row["rank_ic"] is not None
    assert row["rank_ic_low"] is row["accuracy_absolute_high"] is None


def test_monthly_rank_ic_averages_the_month() -> None:
    daily = daily_rank_ic(*noisy_panel(60))  # 2024-01-02..2024-03-01
    monthly = monthly_rank_ic(daily)
    assert monthly.get_column("month").to_list() == [date(2024, 1, 1), date(2024, 2, 1), date(2024, 3, 1)]
    january = daily.filter(pl.col("model_id") == "good", pl.col("session") < date(2024, 2, 1))
    first = monthly.row(0, named=True)
    assert first["rank_ic"] == pytest.approx(january.get_column("rank_ic").mean())
    assert first["low"] < first["rank_ic"] < first["high"]
    assert monthly.row(2, named=True)["low"] is None


def test_symbol_metrics_by_scipy() -> None:
    predictions, outcomes = noisy_panel(80)
    symbols = by_symbol(predictions, outcomes)
    assert symbols.height == 80
    row = symbols.filter(model_id="good", symbol="S007").row(0, named=True)
    joined = predictions.filter(model_id="good", symbol="S007").join(outcomes, on=["symbol", "session"]).sort("session")
    relative = joined.get_column("return_frac") - joined.get_column("benchmark_return_frac")
    assert row["num_rows"] == 80
    assert row["ic"] == pytest.approx(scipy.stats.spearmanr(joined.get_column("score"), relative).statistic)
    error = joined.get_column("expected_return_frac") - joined.get_column("return_frac")
    assert row["rmse"] == pytest.approx(float(np.sqrt((error.to_numpy() ** 2).mean())))
    assert by_symbol(*noisy_panel(29)).get_column("ic").null_count() == 80
    assert symbols.filter(model_id="always_up").get_column("ic").null_count() == 40


def test_paired_daily_aligns_the_sessions_both_models_have() -> None:
    predictions, outcomes = noisy_panel(10)
    other = predictions.filter(pl.col("model_id") == "good", pl.col("session") > DAY).with_columns(
        model_id=pl.lit("other"), score=-pl.col("score")
    )
    daily = daily_rank_ic(pl.concat([predictions, other]), outcomes)
    good, inverse = paired_daily(daily, "good", "other", horizon_sessions=HORIZON)
    assert good.size == 9
    np.testing.assert_allclose(good, -inverse)
    assert paired_daily(daily, "good", "always_up", horizon_sessions=HORIZON)[0].size == 0


def test_primary_rows_follow_the_universe_of_each_fold() -> None:
    first = prediction_rows([1.0, 2.0], fold_id="2023")
    second = prediction_rows([1.0, 2.0], fold_id="2024", session=date(2024, 5, 5))
    kept = primary_rows(pl.concat([first, second]), {"2023": ("S000",), "2024": ("S001",)})
    assert kept.select("fold_id", "symbol").rows() == [("2023", "S000"), ("2024", "S001")]


def test_nan_and_repeated_keys_are_refused() -> None:
    predictions, outcomes = noisy_panel(2)
    with pytest.raises(BadDataError, match="NaN"):
        summarise(predictions.with_columns(score=pl.lit(math.nan)), outcomes)
    with pytest.raises(BadDataError, match="repeats a key"):
        daily_rank_ic(predictions, pl.concat([outcomes, outcomes]))


def test_scored_rows_say_what_each_forecast_called_and_what_came_true() -> None:
    predictions = prediction_rows([1.0, 2.0, 3.0, 4.0], prob=[0.5, 0.4, None, 0.9], expected=[0.02, None, None, None])
    outcomes = outcome_rows([0.01, 0.0, -0.02], benchmark=0.0)
    # S003 has no outcome, yet its score counts for the median, 2.5; S001 is unchanged: not up, and on no side
    found = scored_rows(predictions, outcomes).select("symbol", "call_up", "up", "call_above", "above", "error")
    assert found.rows() == [
        ("S000", True, True, False, True, pytest.approx(0.01)),
        ("S001", False, False, False, None, None),
        ("S002", True, False, True, False, None),
    ]
