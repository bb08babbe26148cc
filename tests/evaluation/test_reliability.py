from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.frames import OUTCOME_SCHEMA, PREDICTION_SCHEMA
from vnfleet.evaluation.metrics import summarise
from vnfleet.evaluation.reliability import COVERAGES, reliability, selective
from vnfleet.evaluation.skill import mean_interval

DAY = date(2024, 1, 2)
HORIZON = 5


def frames(
    returns_TS: np.ndarray, *, prob: np.ndarray | None = None, scores: np.ndarray | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both frames of a panel of consecutive days with benchmark 0."""
    num_sessions, num_symbols = returns_TS.shape
    key = {
        "symbol": [f"S{index:03d}" for index in range(num_symbols)] * num_sessions,
        "session": [DAY + timedelta(days=index) for index in range(num_sessions) for _ in range(num_symbols)],
        "horizon_sessions": [HORIZON] * returns_TS.size,
    }
    stated = {
        "score": [None] * returns_TS.size if scores is None else scores.ravel().tolist(),
        "direction_prob": [None] * returns_TS.size if prob is None else prob.ravel().tolist(),
    }
    predictions = pl.DataFrame(key).with_columns(
        pl.lit("m").alias("model_id"),
        pl.lit("f").alias("fold_id"),
        *(pl.Series(name, cells, dtype=pl.Float64) for name, cells in stated.items()),
        *(pl.lit(None).alias(name) for name in ("expected_return_frac", "volatility_frac")),
    )
    outcomes = pl.DataFrame({**key, "return_frac": returns_TS.ravel()}).with_columns(
        benchmark_return_frac=pl.lit(0.0), known_on=pl.lit(DAY)
    )
    return (
        predictions.select(pl.col(n).cast(t) for n, t in PREDICTION_SCHEMA.items()),
        outcomes.select(pl.col(n).cast(t) for n, t in OUTCOME_SCHEMA.items()),
    )


def calibrated(num_sessions: int = 300, num_symbols: int = 60, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and returns that are up exactly as often as said."""
    rng = np.random.default_rng(seed)
    prob = scipy.special.expit(0.6 * rng.standard_normal((num_sessions, num_symbols)))
    return prob, np.where(rng.random(prob.shape) < prob, 0.02, -0.02)


def at(found: pl.DataFrame, kind: str, coverage: float) -> dict[str, float]:
    return found.filter(kind=kind, coverage_frac=coverage).row(0, named=True)


def test_bins_by_hand() -> None:
    prob = np.array([[0.1, 0.9, 0.4, 0.6]])
    found = reliability(*frames(np.array([[-0.01, 0.01, 0.02, 0.0]]), prob=prob), num_bins=2)
    # lowest two: 0.1 (down), 0.4 (up); highest two: 0.6 (unchanged: not up), 0.9 (up)
    assert found.select("bin", "mean_prob", "share_up", "num_rows").rows() == [(1, 0.25, 0.5, 2), (2, 0.75, 0.5, 2)]
    assert found.get_column("low").null_count() == 2


@settings(max_examples=40, deadline=None)
@given(
    probs=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.51, 1.0]), min_size=1, max_size=60), num_bins=st.integers(1, 12)
)
def test_every_row_is_in_one_bin_and_equal_probabilities_share_it(probs: list[float], num_bins: int) -> None:
    prob = np.array([probs])
    found = reliability(*frames(np.full_like(prob, 0.01), prob=prob), num_bins=num_bins)
    assert found.get_column("num_rows").sum() == len(probs)
    assert found.get_column("bin").is_between(1, num_bins).all()
    assert found.get_column("mean_prob").is_sorted()
    total = (found.get_column("mean_prob") * found.get_column("num_rows")).sum()
    assert total == pytest.approx(sum(probs))
    assert found.height <= len(set(probs))


def test_equal_probabilities_are_one_bin() -> None:
    found = reliability(*frames(np.full((3, 4), 0.01), prob=np.full((3, 4), 0.6)))
    assert found.select("mean_prob", "share_up", "num_rows").rows() == [(pytest.approx(0.6), 1.0, 12)]


def test_an_honest_model_is_on_the_line_and_an_overconfident_one_is_not() -> None:
    prob, returns = calibrated()
    honest = reliability(*frames(returns, prob=prob))
    assert honest.get_column("num_rows").to_list() == [1800] * 10
    inside = (pl.col("low") <= pl.col("mean_prob")) & (pl.col("mean_prob") <= pl.col("high"))
    assert honest.select(inside.sum()).item() >= 8
    loud = reliability(*frames(returns, prob=scipy.special.expit(3 * scipy.special.logit(prob))))
    assert loud.select(inside.sum()).item() <= 3
    assert loud.get_column("share_up").to_list() == honest.get_column("share_up").to_list()


def test_the_interval_of_a_bin_resamples_all_sessions() -> None:
    prob, returns = calibrated(90)
    prob[::3] = 0.01  # a third of the sessions has no forecast in the top half
    top = reliability(*frames(returns, prob=prob), num_bins=3, seed=2).row(2, named=True)
    members = prob >= np.quantile(prob, 2 / 3)
    up = (returns > 0) & members
    expected = mean_interval(up.sum(1) / np.maximum(members.sum(1), 1), weights=members.sum(1), seed=2)
    assert (top["low"], top["high"]) == pytest.approx(expected)


def test_no_probabilities_no_bins() -> None:
    assert reliability(*frames(np.full((3, 4), 0.01))).is_empty()
    with pytest.raises(ValueError, match="at least one bin"):
        reliability(*frames(np.full((3, 4), 0.01)), num_bins=0)


def test_confident_calls_by_hand() -> None:
    scores = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]])
    returns = np.array([[-1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0]]) / 100
    prob = np.array([[0.9, 0.45, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.2]])
    found = selective(*frames(returns, scores=scores, prob=prob), coverages=(1.0, 0.4, 0.2, 0.11, 0.1))
    # relative sides right: 1, 5, 8, 9, 10; the outermost two are ranks 1 and 10, the outermost four 1, 2, 9, 10
    assert at(found, "relative", 1.0)["accuracy"] == pytest.approx(5 / 10)
    assert at(found, "relative", 0.4)["accuracy"] == pytest.approx(3 / 4)
    assert at(found, "relative", 0.2)["accuracy"] == 1.0
    assert at(found, "relative", 0.1)["num_rows"] == 2  # both ends are as confident as the one asked for
    # absolute: 0.9 (up, wrong), then 0.2 (down, wrong), then 0.45 (down, wrong)
    assert at(found, "absolute", 0.1)["num_rows"] == 1
    assert at(found, "absolute", 0.11)["num_rows"] == 2  # a share is rounded up to whole symbols
    assert at(found, "absolute", 0.2)["accuracy"] == 0.0
    assert at(found, "absolute", 1.0)["accuracy"] == pytest.approx(4 / 10)


def test_all_calls_taken_have_the_accuracy_of_the_summary() -> None:
    prob, returns = calibrated(60)
    both = frames(returns, prob=prob, scores=prob)
    row = summarise(*both, seed=1).filter(year="all").row(0, named=True)
    found = selective(*both, seed=1)
    assert found.get_column("coverage_frac").to_list() == list(COVERAGES) * 2
    for kind in ("relative", "absolute"):
        whole = at(found, kind, 1.0)
        assert (whole["accuracy"], whole["low"], whole["high"]) == pytest.approx(
            (row[f"accuracy_{kind}"], row[f"accuracy_{kind}_low"], row[f"accuracy_{kind}_high"])
        )
        assert whole["num_sessions"] == 60


def test_a_calibrated_model_is_better_where_it_is_more_confident() -> None:
    prob, returns = calibrated()
    found = selective(*frames(returns, prob=prob, scores=prob))
    for kind in ("relative", "absolute"):
        accuracies = found.filter(kind=kind).get_column("accuracy")
        assert accuracies.is_sorted()
        assert accuracies[-1] > accuracies[0] + 0.1
    # 20 % of 60 symbols; what those calls promise, max(p, 1 - p), is what they keep
    top = at(found, "absolute", 0.2)
    assert top["num_rows"] == 12 * 300
    promised = np.sort(np.maximum(prob, 1 - prob), axis=1)[:, -12:].mean()
    assert top["low"] < promised < top["high"]


def test_what_is_taken_is_decided_before_outcomes_are_known() -> None:
    prob, returns = calibrated(3, 20)
    predictions, outcomes = frames(returns, prob=prob, scores=prob)
    cut = ("S000", "S001", "S002", "S003")
    known = outcomes.filter(~pl.col("symbol").is_in(cut))
    order = np.argsort(-np.abs(prob - 0.5), axis=1)[:, :4]  # the 20 % most confident of 20
    found = at(selective(predictions, known), "absolute", 0.2)
    assert found["num_rows"] == (order >= len(cut)).sum()
    # and a session is cut on its own: others do not change it
    first = selective(predictions.filter(pl.col("session") == DAY), outcomes)
    later = selective(predictions, outcomes.filter(pl.col("session") == DAY))
    assert first.equals(later)


def test_a_model_equally_sure_of_everything_has_one_accuracy() -> None:
    prob, returns = calibrated(40, 30)
    found = selective(*frames(returns, prob=np.full_like(prob, 0.6), scores=np.zeros_like(prob)))
    absolute = found.filter(kind="absolute")
    assert absolute.get_column("accuracy").to_list() == pytest.approx([(returns > 0).mean()] * len(COVERAGES))
    assert absolute.get_column("num_rows").to_list() == [1200] * len(COVERAGES)
    relative = found.filter(kind="relative")
    assert relative.get_column("accuracy").null_count() == relative.height
    assert relative.get_column("num_rows").sum() == 0


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.5])
def test_impossible_coverages_are_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage must be"):
        selective(*frames(np.full((3, 4), 0.01)), coverages=(coverage,))
