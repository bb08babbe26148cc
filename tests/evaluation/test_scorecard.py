from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import OUTCOME_SCHEMA, PREDICTION_SCHEMA
from vnfleet.evaluation.metrics import summarise
from vnfleet.evaluation.scorecard import METRICS, SCORECARD_SCHEMA, liquidity_terciles, scorecard

DAY = date(2024, 1, 2)
HORIZON = 5

Cell = float | None


def frames(
    returns_TS: np.ndarray,
    scores_TS: np.ndarray,
    *,
    prob: np.ndarray | None = None,
    expected: np.ndarray | None = None,
    volatility: np.ndarray | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both frames of a panel of consecutive days; the benchmark is the day's median return, the fold the year."""
    num_sessions, num_symbols = returns_TS.shape
    days = [DAY + timedelta(days=index) for index in range(num_sessions)]
    key = {
        "symbol": [f"S{index:03d}" for index in range(num_symbols)] * num_sessions,
        "session": [day for day in days for _ in range(num_symbols)],
        "horizon_sessions": [HORIZON] * returns_TS.size,
    }

    def flat(values: np.ndarray | None) -> list[Cell]:
        return [None] * returns_TS.size if values is None else np.asarray(values, dtype=float).ravel().tolist()

    predictions = pl.DataFrame(
        {
            **key,
            "model_id": ["m"] * returns_TS.size,
            "fold_id": [str(day.year) for day in key["session"]],
            "score": flat(scores_TS),
            "direction_prob": flat(prob),
            "expected_return_frac": flat(expected),
            "volatility_frac": flat(volatility),
        }
    )
    outcomes = pl.DataFrame(
        {
            **key,
            "return_frac": flat(returns_TS),
            "benchmark_return_frac": np.repeat(np.median(returns_TS, axis=1), num_symbols).tolist(),
            "known_on": [day + timedelta(days=7) for day in key["session"]],
        }
    )
    return (
        predictions.select(pl.col(n).cast(t) for n, t in PREDICTION_SCHEMA.items()),
        outcomes.select(pl.col(n).cast(t) for n, t in OUTCOME_SCHEMA.items()),
    )


def panel(num_sessions: int = 60, num_symbols: int = 40, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    returns = rng.normal(0, 0.03, (num_sessions, num_symbols))
    score = returns + rng.normal(0, 0.1, returns.shape)
    return {
        "returns_TS": returns,
        "scores_TS": score,
        "prob": 1 / (1 + np.exp(-5 * score)),
        "expected": score * 0.1,
        "volatility": np.full_like(returns, 0.025),
    }


def values(card: pl.DataFrame, column: str = "value", **only: str) -> dict[str, float]:
    part = card.filter(**only)
    assert part.get_column("metric").to_list() == list(METRICS)
    return dict(part.select("metric", column).rows())


def test_every_metric_by_numpy() -> None:
    data = panel()
    card = scorecard(*frames(**data))
    assert card.schema == SCORECARD_SCHEMA
    found = values(card, group_kind="all", group="all")
    up, call = data["returns_TS"] > 0, data["prob"] >= 0.5
    above = data["returns_TS"] > np.median(data["returns_TS"], axis=1, keepdims=True)
    side = data["scores_TS"] > np.median(data["scores_TS"], axis=1, keepdims=True)
    error = data["returns_TS"] - data["expected"]
    brier = ((data["prob"] - up) ** 2).mean()
    days = zip(data["scores_TS"], data["returns_TS"], strict=True)
    ics = np.array([scipy.stats.spearmanr(*day).statistic for day in days])
    expected = {
        "rank_ic": ics.mean(),
        "icir": ics.mean() / ics.std(ddof=1),
        "accuracy_absolute": (up == call).mean(),
        "base_rate_up": up.mean(),
        "base_accuracy": max(up.mean(), 1 - up.mean()),
        "accuracy_relative": (above == side).mean(),
        "mcc_absolute": np.corrcoef(up.ravel(), call.ravel())[0, 1],
        "mcc_relative": np.corrcoef(above.ravel(), side.ravel())[0, 1],
        "rmse": np.sqrt((error**2).mean()),
        "mae": np.abs(error).mean(),
        "brier": brier,
        "brier_skill": 1 - brier / up.var(),
        "volatility_coverage_68": (np.abs(error) <= 0.025).mean(),
        "volatility_coverage_95": (np.abs(error) <= 1.96 * 0.025).mean(),
    }
    assert found == pytest.approx(expected)
    low, high = values(card, "low"), values(card, "high")
    assert all(low[name] < found[name] < high[name] for name in METRICS)
    assert set(values(card, "num_rows").values()) == {2400}
    assert set(values(card, "num_sessions").values()) == {60}


def test_shared_metrics_and_intervals_are_those_of_the_summary() -> None:
    both = frames(**panel(400))
    summary = summarise(*both, seed=4)
    ups = both[1].select(year=pl.col("session").dt.year().cast(pl.String), up=pl.col("return_frac") > 0)
    for kind, group in (("all", "all"), ("year", "2024"), ("year", "2025")):
        card = scorecard(*both, group_kind=kind, seed=4).filter(group=group)
        share = ups.filter(pl.col("year").eq(group) | pl.lit(group == "all")).get_column("up").to_numpy().mean()
        assert values(card)["brier_skill"] == pytest.approx(1 - values(card)["brier"] / (share * (1 - share)))
        row = summary.filter(year=group).row(0, named=True)
        found = values(card)
        shared = ("rank_ic", "icir", "accuracy_absolute", "base_rate_up", "base_accuracy", "accuracy_relative")
        for name in (*shared, "rmse", "mae"):
            assert found[name] == pytest.approx(row[name])
        for name in ("rank_ic", "accuracy_absolute", "accuracy_relative"):
            bounds = values(card, "low")[name], values(card, "high")[name]
            assert bounds == pytest.approx((row[f"{name}_low"], row[f"{name}_high"]), abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([-0.02, 0.0, 0.01])), min_size=2, max_size=40),
    days=st.integers(1, 3),
)
def test_mcc_is_the_correlation_of_call_and_outcome_and_an_unchanged_price_is_not_up(
    rows: list[tuple[float, float]], days: int
) -> None:
    prob, returns = np.tile(np.array(rows).T[:, None, :], (1, days, 1))
    found = values(scorecard(*frames(returns, np.zeros_like(returns), prob=prob)))
    call, up = (prob >= 0.5).ravel(), (returns == 0.01).ravel()
    assert found["base_rate_up"] == pytest.approx(up.mean())
    assert found["accuracy_absolute"] == pytest.approx((call == up).mean())
    if len(set(call)) == 1 or len(set(up)) == 1:
        assert found["mcc_absolute"] is None
    else:
        assert found["mcc_absolute"] == pytest.approx(np.corrcoef(call, up)[0, 1], abs=1e-9)


def test_what_a_model_does_not_state_is_null() -> None:
    data = panel()
    scores_only = scorecard(*frames(data["returns_TS"], data["scores_TS"]))
    stated = ("rank_ic", "icir", "accuracy", "base", "mcc")
    for name, value in values(scores_only).items():
        assert (value is not None) == name.startswith(stated)
        assert (values(scores_only, "num_rows")[name] > 0) == name.startswith(stated)
    always_up = values(scorecard(*frames(data["returns_TS"], np.zeros((60, 40)), prob=np.full((60, 40), 0.6))))
    assert always_up["accuracy_absolute"] == always_up["base_rate_up"]
    for name in ("rank_ic", "icir", "accuracy_relative", "mcc_absolute", "mcc_relative", "rmse"):
        assert always_up[name] is None


def test_saying_the_base_rate_has_no_brier_skill() -> None:
    data = panel()
    rate = float((data["returns_TS"] > 0).mean())
    found = values(scorecard(*frames(data["returns_TS"], data["scores_TS"], prob=np.full((60, 40), rate))))
    assert found["brier"] == pytest.approx(rate * (1 - rate))
    assert found["brier_skill"] == pytest.approx(0.0, abs=1e-12)


def test_intervals_of_no_edge_hold_it() -> None:
    rng = np.random.default_rng(5)
    held = {"brier_skill": 0, "base_accuracy": 0}
    for seed in range(40):
        returns = 0.01 * rng.standard_normal((60, 20))
        card = scorecard(*frames(returns, returns, prob=np.full_like(returns, 0.5)), seed=seed)
        low, high = values(card, "low"), values(card, "high")
        for name, truth in (("brier_skill", 0.0), ("base_accuracy", 0.5)):
            held[name] += low[name] <= truth <= high[name]
        # the better of always up and always down, over the whole interval of the rate
        rates = np.linspace(low["base_rate_up"], high["base_rate_up"], 10_001)
        better = np.maximum(rates, 1 - rates)
        assert (low["base_accuracy"], high["base_accuracy"]) == pytest.approx((better.min(), better.max()), abs=1e-5)
    assert min(held.values()) >= 35  # 38 expected


def test_an_honest_volatility_covers_68_and_95_percent() -> None:
    rng = np.random.default_rng(9)
    volatility = np.tile(rng.uniform(0.01, 0.06, 40), (500, 1))
    returns = rng.normal(0.001, volatility)
    card = scorecard(*frames(returns, returns, expected=np.full_like(returns, 0.001), volatility=volatility))
    low, high = values(card, "low"), values(card, "high")
    assert low["volatility_coverage_68"] < 0.6827 < high["volatility_coverage_68"]
    assert low["volatility_coverage_95"] < 0.9500 < high["volatility_coverage_95"]
    certain = values(scorecard(*frames(returns, returns, expected=returns, volatility=np.zeros_like(returns))))
    assert certain["volatility_coverage_68"] == 1.0


def test_intervals_are_null_under_two_blocks_and_stay_within_what_is_possible() -> None:
    short = scorecard(*frames(**panel(29)))
    assert short.get_column("value").null_count() == 0
    assert short.get_column("low").null_count() == short.height
    perfect = panel(40)
    perfect["prob"] = np.where(perfect["returns_TS"] > 0, 0.99, 0.01)
    card = scorecard(*frames(**perfect))
    assert values(card, "high")["accuracy_absolute"] == values(card, "low")["accuracy_absolute"] == 1.0
    assert values(card, "low")["base_accuracy"] >= 0.5
    # probabilities on 20 of 60 sessions only: the other metrics keep their interval
    some = panel(60)
    predictions, outcomes = frames(**some)
    late = pl.when(pl.col("session") >= DAY + timedelta(days=40)).then("direction_prob")
    mixed = scorecard(predictions.with_columns(direction_prob=late), outcomes)
    assert values(mixed, "num_sessions")["brier"] == 20
    assert values(mixed, "low")["brier"] is None
    assert values(mixed, "low")["rmse"] is not None


def test_rank_ic_is_within_the_group_and_calls_stay_those_of_the_market() -> None:
    data = panel(40, num_symbols=40)
    groups = pl.DataFrame(
        {
            "symbol": [f"S{index:03d}" for index in range(25)],
            "group": ["banks"] * 12 + ["steel"] * 9 + ["oil"] * 3 + [None],
        }
    )
    card = scorecard(*frames(**data), groups=groups, group_kind="sector")
    assert card.get_column("group").unique(maintain_order=True).to_list() == ["banks", "oil", "steel"]
    assert set(card.get_column("group_kind")) == {"sector"}
    banks, steel = values(card, group="banks"), values(card, group="steel")
    days = zip(data["scores_TS"][:, :12], data["returns_TS"][:, :12], strict=True)
    assert banks["rank_ic"] == pytest.approx(np.mean([scipy.stats.spearmanr(*day).statistic for day in days]))
    assert steel["rank_ic"] is None  # 9 symbols are fewer than a third of 30
    lower = scorecard(*frames(**data), groups=groups, group_kind="sector", min_symbols=25)
    assert values(lower, group="steel")["rank_ic"] is not None
    above = data["returns_TS"] > np.median(data["returns_TS"], axis=1, keepdims=True)
    side = data["scores_TS"] > np.median(data["scores_TS"], axis=1, keepdims=True)
    assert steel["accuracy_relative"] == pytest.approx((above == side)[:, 12:21].mean())


def test_membership_may_change_with_the_fold() -> None:
    data = panel(400, num_symbols=3)
    groups = pl.DataFrame(
        {
            "fold_id": ["2024", "2024", "2025"],
            "symbol": ["S000", "S001", "S001"],
            "group": ["large", "small", "large"],
        }
    )
    card = scorecard(*frames(**data), groups=groups, group_kind="size")
    first_of_2025 = (date(2025, 1, 1) - DAY).days
    up, call = data["returns_TS"] > 0, data["prob"] >= 0.5
    right = np.concatenate(((up == call)[:first_of_2025, 0], (up == call)[first_of_2025:, 1]))
    assert values(card, group="large")["accuracy_absolute"] == pytest.approx(right.mean())
    assert values(card, "num_rows", group="small")["accuracy_absolute"] == first_of_2025


def test_models_do_not_mix() -> None:
    data = panel()
    good, outcomes = frames(**data)
    other = good.with_columns(model_id=pl.lit("opposite"), score=-pl.col("score"))
    both = scorecard(pl.concat([other, good]), outcomes)
    assert both.filter(model_id="m").equals(scorecard(good, outcomes))
    assert values(both, model_id="opposite")["rank_ic"] == pytest.approx(-values(both, model_id="m")["rank_ic"])
    assert scorecard(good, outcomes.clear()).is_empty()


def test_terciles_of_traded_value() -> None:
    traded = pl.DataFrame(
        {
            "fold_id": ["b"] * 3 + ["a"] * 8,
            "symbol": ["X", "Y", "Z", "A", "B", "C", "D", "E", "F", "G", "H"],
            "median_value_vnd": [5.0, 9.0, 1.0, 7.0, 1.0, 2.0, 3.0, 4.0, 4.0, 9.0, None],
        }
    )
    # fold a, from most to least: G 9, A 7, E 4 (before F by name) | F 4, D 3 | C 2, B 1; H has no value
    found = liquidity_terciles(traded)
    assert found.filter(fold_id="a").select("symbol", "group").rows() == [
        ("A", "most traded"),
        ("B", "least traded"),
        ("C", "least traded"),
        ("D", "middle"),
        ("E", "most traded"),
        ("F", "middle"),
        ("G", "most traded"),
    ]
    assert found.filter(fold_id="b").get_column("group").to_list() == ["middle", "most traded", "least traded"]


def test_unusable_groups_are_refused() -> None:
    both = frames(**panel(2))
    groups = pl.DataFrame({"symbol": ["S000", "S001"], "group": ["a", "b"]})
    with pytest.raises(ValueError, match="needs no groups"):
        scorecard(*both, groups=groups, group_kind="year")
    with pytest.raises(ValueError, match="must be given"):
        scorecard(*both, group_kind="sector")
    with pytest.raises(BadDataError, match="lack columns"):
        scorecard(*both, groups=groups.drop("group"), group_kind="sector")
    with pytest.raises(BadDataError, match="twice"):
        scorecard(*both, groups=pl.concat([groups, groups]), group_kind="sector")
    traded = pl.DataFrame({"fold_id": ["a", "a"], "symbol": ["A", "B"], "median_value_vnd": [1.0, float("nan")]})
    with pytest.raises(BadDataError, match="NaN"):
        liquidity_terciles(traded)
    with pytest.raises(BadDataError, match="twice"):
        liquidity_terciles(traded.with_columns(symbol=pl.lit("A")))
