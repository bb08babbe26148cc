from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
import scipy.signal
import statsmodels.api as sm
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from vnfleet.core.frames import OUTCOME_SCHEMA, PREDICTION_SCHEMA
from vnfleet.evaluation.metrics import by_symbol
from vnfleet.evaluation.symbols import SYMBOLS_SCHEMA, num_skill_shown, shrunk_symbols

DAY = date(2020, 1, 1)


def frames(hits_TS: np.ndarray, *, horizon: int = 5) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Frames whose market-relative calls are right exactly where `hits_TS` is 1, and unjudged where it is NaN.

    Every second symbol is called above (score 1 against a median of 0), the others below; the benchmark is 0.
    """
    num_sessions, num_symbols = hits_TS.shape
    assert num_symbols % 2 == 0
    score_TS = np.tile(np.where(np.arange(num_symbols) % 2 == 0, 1.0, -1.0), (num_sessions, 1))
    key = {
        "symbol": [f"S{index:03d}" for index in range(num_symbols)] * num_sessions,
        "session": [DAY + timedelta(days=index) for index in range(num_sessions) for _ in range(num_symbols)],
        "horizon_sessions": [horizon] * hits_TS.size,
    }
    predictions = pl.DataFrame({**key, "score": score_TS.ravel()}).with_columns(
        pl.lit("m").alias("model_id"),
        pl.lit("f").alias("fold_id"),
        *(pl.lit(None).alias(name) for name in ("direction_prob", "expected_return_frac", "volatility_frac")),
    )
    returns = 0.01 * score_TS * np.where(hits_TS == 1, 1, -1)
    outcomes = pl.DataFrame({**key, "return_frac": returns.ravel(), "hit": hits_TS.ravel()}).with_columns(
        return_frac=pl.when(pl.col("hit").is_not_nan()).then("return_frac"),
        benchmark_return_frac=pl.lit(0.0),
        known_on=pl.lit(DAY),
    )
    return (
        predictions.select(pl.col(n).cast(t) for n, t in PREDICTION_SCHEMA.items()),
        outcomes.select(pl.col(n).cast(t) for n, t in OUTCOME_SCHEMA.items()),
    )


def overlapping_hits(num_sessions: int, edges_S: np.ndarray, seed: int, horizon: int = 5) -> np.ndarray:
    """Hits of slow scores on sums of the next `horizon` daily moves, so that neighbours share most of their label."""
    rng = np.random.default_rng(seed)
    moves = rng.standard_normal((num_sessions + horizon, edges_S.size))
    labels = sum(moves[step : num_sessions + step] for step in range(1, horizon + 1)) / np.sqrt(horizon)
    slow = scipy.signal.lfilter([1.0], [1.0, -0.95], rng.standard_normal((num_sessions + 200, edges_S.size)), axis=0)
    scores = slow[200:] * np.sqrt(1 - 0.95**2) + edges_S * labels
    return np.asarray((scores > 0) == (labels > 0), dtype=np.float64)


def column(found: pl.DataFrame, name: str) -> np.ndarray:
    return found.get_column(name).to_numpy()


def test_standard_error_is_hansen_hodrick_as_statsmodels_computes_it() -> None:
    hits = overlapping_hits(400, np.zeros(6), seed=4)
    found = shrunk_symbols(*frames(hits))
    assert found.schema == SYMBOLS_SCHEMA
    assert column(found, "accuracy_relative") == pytest.approx(hits.mean(axis=0))
    for index, se in enumerate(column(found, "se")):
        fit = sm.OLS(hits[:, index], np.ones(400)).fit(
            cov_type="HAC", cov_kwds={"maxlags": 4, "kernel": "uniform", "use_correction": False}
        )
        assert se == pytest.approx(float(fit.bse[0]) / np.sqrt(1 - 9 / 400))
        assert se > 1.3 * 0.5 / np.sqrt(400)  # overlap matters: independent calls would have 0.025


def test_standard_error_is_never_below_that_of_independent_calls() -> None:
    alternating = np.tile(np.array([[0.0], [1.0]]), (50, 4))
    always = np.ones((100, 4))
    for hits in (alternating, always):
        assert column(shrunk_symbols(*frames(hits, horizon=2)), "se") == pytest.approx(0.5 / 10)
    one_session_labels = overlapping_hits(300, np.zeros(4), seed=1, horizon=1)
    assert column(shrunk_symbols(*frames(one_session_labels, horizon=1)), "se") == pytest.approx(
        0.5 / np.sqrt(300), rel=0.01
    )


def test_lags_are_counted_in_market_sessions() -> None:
    hits = overlapping_hits(600, np.zeros(4), seed=8)
    sparse = hits.copy()
    sparse[:, 0] = np.where(np.arange(600) % 5 == 0, hits[:, 0], np.nan)
    found = shrunk_symbols(*frames(sparse))
    # every fifth session: labels of 5 sessions no longer overlap, 120 independent calls
    assert found.row(0, named=True)["num_rows"] == 120
    assert column(found, "se")[0] == pytest.approx(0.5 / np.sqrt(120), rel=0.05)
    assert column(found, "accuracy_relative")[0] == pytest.approx(np.nanmean(sparse[:, 0]))


def test_shrinkage_is_the_random_effects_pool_of_statsmodels() -> None:
    edges = np.linspace(-0.4, 0.6, 20)
    found = shrunk_symbols(*frames(overlapping_hits(500, edges, seed=2)))
    accuracy, se = column(found, "accuracy_relative"), column(found, "se")
    pool = combine_effects(accuracy, se**2, method_re="chi2")
    keep = pool.tau2 / (pool.tau2 + se**2)
    assert pool.tau2 > 0
    shrunk = pool.mean_effect_re + keep * (accuracy - pool.mean_effect_re)
    assert column(found, "accuracy_shrunk") == pytest.approx(shrunk)
    sd = column(found, "shrunk_sd")
    # at least the posterior sd under a known pool mean, and never more than that of the symbol alone
    assert (sd >= np.sqrt(keep) * se - 1e-12).all()
    assert (sd <= se).all()
    assert sd == pytest.approx(np.sqrt(keep * se**2 + (1 - keep) ** 2 * pool.sd_eff_w_re**2), rel=0.02)
    assert column(found, "veto_z") == pytest.approx((shrunk - 0.5) / sd)


def test_the_error_of_the_pool_mean_is_part_of_the_verdict() -> None:
    found = shrunk_symbols(
        *frames(overlapping_hits(100, np.array([-0.2, 0.0, 0.1, 0.3]), seed=1, horizon=1), horizon=1)
    )
    accuracy, se = column(found, "accuracy_relative"), column(found, "se")
    pool = combine_effects(accuracy, se**2, method_re="chi2")
    keep = pool.tau2 / (pool.tau2 + se**2)
    assert 0.2 < keep.mean() < 0.8
    expected = np.sqrt(keep * se**2 + (1 - keep) ** 2 * pool.sd_eff_w_re**2)
    assert column(found, "shrunk_sd") == pytest.approx(expected, rel=0.02)


def test_a_spread_no_larger_than_chance_gives_every_symbol_the_pool() -> None:
    hits = np.tile(np.array([[1.0], [1.0], [0.0], [1.0]]), (100, 6))  # all at 75 %: no spread at all
    found = shrunk_symbols(*frames(hits))
    assert column(found, "accuracy_shrunk") == pytest.approx(0.75)
    # all symbols hit together: the pool knows no more than one symbol's independent calls, not six times as much
    assert np.ptp(column(found, "shrunk_sd")) == 0
    rng = np.random.default_rng(3)
    together = np.tile(rng.integers(0, 2, (400, 1)).astype(float), (1, 6))
    alone = shrunk_symbols(*frames(together, horizon=1))
    assert column(alone, "shrunk_sd") == pytest.approx(0.5 / np.sqrt(400), rel=0.02)
    independent = shrunk_symbols(*frames(np.stack([np.roll(hits[:, 0], s % 4) for s in range(6)], axis=1), horizon=1))
    assert column(independent, "shrunk_sd") == pytest.approx(0.5 / np.sqrt(400 * 6))


def test_discoveries_are_benjamini_hochbergs() -> None:
    edges = np.where(np.arange(40) < 8, 0.3, 0.0)
    both = frames(overlapping_hits(750, edges, seed=6))
    found = shrunk_symbols(*both)
    kept = multipletests(column(found, "p_one_sided"), alpha=0.10, method="fdr_bh")[0]
    assert column(found, "discovered").tolist() == kept.tolist()
    shown = num_skill_shown(found).row(0, named=True)
    assert shown == {"model_id": "m", "horizon_sessions": 5, "num_symbols": 40, "num_skill_shown": kept.sum()}
    assert kept[:8].sum() >= 3
    assert kept[8:].sum() <= 2
    strict = shrunk_symbols(*both, fdr=0.001)
    assert num_skill_shown(strict).item(0, "num_skill_shown") < kept.sum()


def test_luck_is_called_skill_no_more_often_than_promised() -> None:
    found = [shrunk_symbols(*frames(overlapping_hits(250, np.zeros(50), seed=seed))) for seed in range(40)]
    rejected = np.mean([(column(part, "p_one_sided") <= 0.05).mean() for part in found])
    any_shown = np.mean([num_skill_shown(part).item(0, "num_skill_shown") > 0 for part in found])
    raw = np.mean([((column(part, "accuracy_relative") - 0.5) * 2 * np.sqrt(250) > 1.645).mean() for part in found])
    assert raw > 0.15  # what a test that ignores the overlap would find
    assert rejected == pytest.approx(0.05, abs=0.015)
    assert any_shown <= 0.10 + 3 * np.sqrt(0.1 * 0.9 / 40)


def test_a_bad_symbol_is_vetoed_in_a_good_pool_and_the_shrunk_figures_are_nearer_the_truth() -> None:
    edges = np.where(np.arange(40) == 0, -1.5, np.linspace(0.0, 0.4, 40))
    truth = 0.5 + np.arctan(edges) / np.pi
    found = shrunk_symbols(*frames(overlapping_hits(750, edges, seed=12)))
    z = column(found, "veto_z")
    assert z[0] < -2
    assert (z[1:] > -2).all()

    def miss(name: str) -> float:
        return float(np.abs(column(found, name) - truth)[1:].mean())

    assert miss("accuracy_shrunk") < miss("accuracy_relative")


def test_a_symbol_with_few_calls_is_not_judged() -> None:
    hits = overlapping_hits(100, np.zeros(6), seed=5)
    few = hits.copy()
    few[29:, 0] = np.nan
    few[:, 1] = np.nan
    found = shrunk_symbols(*frames(few))
    # a symbol without any known outcome has no row; the short one has a figure and no verdict
    assert found.get_column("symbol").to_list() == ["S000", "S002", "S003", "S004", "S005"]
    short = found.row(0, named=True)
    assert short["num_rows"] == 29
    assert short["accuracy_relative"] == pytest.approx(hits[:29, 0].mean())
    assert [short[name] for name in ("se", "accuracy_shrunk", "shrunk_sd", "veto_z", "p_one_sided")] == [None] * 5
    assert short["discovered"] is False
    assert num_skill_shown(found).item(0, "num_symbols") == 4
    without = shrunk_symbols(*frames(hits[:, 2:]))
    assert column(found, "veto_z")[1:] == pytest.approx(column(without, "veto_z"))


def test_figures_are_those_of_the_symbol_table_and_models_do_not_mix() -> None:
    predictions, outcomes = frames(overlapping_hits(120, np.linspace(-1, 1, 8), seed=9))
    opposite = predictions.with_columns(model_id=pl.lit("z"), score=-pl.col("score"))
    found = shrunk_symbols(pl.concat([opposite, predictions]), outcomes)
    plain = by_symbol(predictions, outcomes).get_column("accuracy_relative").to_numpy()
    ours, theirs = found.filter(model_id="m"), found.filter(model_id="z")
    assert column(ours, "accuracy_relative") == pytest.approx(plain)
    assert column(theirs, "accuracy_relative") == pytest.approx(1 - plain)
    assert column(theirs, "veto_z") == pytest.approx(-column(ours, "veto_z"))
    assert ours.equals(shrunk_symbols(predictions, outcomes))


def test_a_model_without_relative_calls_is_not_judged() -> None:
    predictions, outcomes = frames(overlapping_hits(60, np.zeros(4), seed=1))
    found = shrunk_symbols(predictions.with_columns(score=pl.lit(0.0)), outcomes)
    assert found.get_column("num_rows").to_list() == [0] * 4
    assert found.get_column("accuracy_relative").null_count() == 4
    assert num_skill_shown(found).row(0) == ("m", 5, 0, 0)
    assert shrunk_symbols(predictions, outcomes.clear()).is_empty()
    with pytest.raises(ValueError, match="false discovery rate"):
        shrunk_symbols(predictions, outcomes, fdr=0.0)
