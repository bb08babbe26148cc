"""The gate's error rates on synthetic factories, small; the full counts are `benchmarks/gate_calibration.py`."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, spearmanr

from vnfleet.core.errors import BadDataError
from vnfleet.data.outcomes import outcome_frame
from vnfleet.data.panel import Panel, PanelStore
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.evaluation.metrics import daily_rank_ic as measured_rank_ic
from vnfleet.releases.calibration import Case, Factory, Ground, ground_of, is_false_promotion, prediction_frame
from vnfleet.releases.gate import GateLimits, null_pass_shares
from vnfleet.releases.plan_null import nothing_known, shuffled
from vnfleet.releases.plan_policy import QUOTED, plan_policy_report

FIRST, AS_OF = date(2021, 1, 4), date(2023, 12, 29)
LIMITS = GateLimits(num_resamples=400)
EVERYTHING = slice(None)


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    workdir = tmp_path_factory.mktemp("work")
    market = SimulatedMarket(num_symbols=50, start=date(2019, 10, 1), signal_rank_ic=0.1)
    history = SimulatedSource(market).fetch(None, AS_OF)
    RawStore(workdir / "data" / "raw").merge("simulated", history, datetime(2024, 1, 1, tzinfo=UTC))
    return PanelStore(workdir, "simulated").serve(AS_OF)


@pytest.fixture(scope="module")
def ground(panel: Panel) -> Ground:
    return ground_of(panel, first=FIRST, num_symbols=40)


def test_the_fast_rank_ic_is_the_one_that_is_reported(ground: Ground) -> None:
    factory = Factory(ground, 3)
    frame = prediction_frame(factory.scores("pooled", 0.05), ground)
    reported = measured_rank_ic(frame, outcome_frame(ground.panel, 5, ground.symbols), min_symbols=3)
    ours = pl.DataFrame({"session": ground.sessions, "fast": factory.daily_ic("pooled", 0.05)})
    both = reported.join(ours, on="session")
    assert both.height == len(ground.sessions)
    assert np.allclose(both.get_column("fast").to_numpy(), both.get_column("rank_ic").to_numpy(), atol=1e-12)


def test_planted_skill_is_what_is_measured_and_noise_has_none(ground: Ground) -> None:
    for planted in (0.0, 0.04, 0.08):
        means = [Factory(ground, seed).daily_ic("pooled", planted).mean() for seed in range(30)]
        error = np.std(means, ddof=1) / np.sqrt(len(means))
        assert abs(float(np.mean(means)) - planted) < 4 * error + 0.1 * planted
        assert error < 0.004


def test_noise_persists_and_forecasters_share_it(ground: Ground) -> None:
    factory = Factory(ground, 5)
    scores = {name: factory.scores(name, 0.0) for name in ("pooled", "adapted", "champion", "rule 0")}
    assert spearmanr(scores["pooled"][1:].ravel(), scores["pooled"][:-1].ravel()).statistic > 0.8
    alike = {name: np.corrcoef(scores["pooled"].ravel(), value.ravel())[0, 1] for name, value in scores.items()}
    assert alike["adapted"] > alike["champion"] > alike["rule 0"] > 0.2


def test_luck_is_promoted_no_oftener_than_the_level_says(ground: Ground) -> None:
    nobody = Case(name="first", words="")
    equal = Case(name="equal", words="", candidate_ic=0.06, champion_ic=0.06)
    tries, wrong = 60, {"first": 0, "equal": 0}
    for seed in range(tries):
        factory = Factory(ground, seed)
        for case in (nobody, equal):
            verdicts = factory.decide(case, sessions=slice(0, 260), limits=LIMITS)
            wrong[case.name] += is_false_promotion(case, verdicts.with_accounts)
            assert verdicts.by_ranks.deploys or not verdicts.with_accounts.deploys
    limit = int(binom.ppf(0.99, tries, 0.05))
    assert max(wrong.values()) <= limit, wrong


def test_more_skill_is_promoted_oftener(ground: Ground) -> None:
    promoted = {}
    for planted in (0.02, 0.10):
        case = Case(name="power", words="", candidate_ic=planted, models_are_right=True)
        decisions = [Factory(ground, seed).decide(case, sessions=EVERYTHING, limits=LIMITS) for seed in range(6)]
        promoted[planted] = sum(one.by_ranks.serving in ("adapted", "pooled") for one in decisions)
    assert promoted[0.10] == 6
    assert promoted[0.02] < promoted[0.10]


def test_an_account_of_perfect_foresight_leads_equal_weight(ground: Ground) -> None:
    factory = Factory(ground, 0)
    blind, seeing = (factory.account("pooled", planted, EVERYTHING) for planted in (0.0, 0.5))
    assert seeing.active_returns_T.mean() > 0 > blind.active_returns_T.mean()  # costs, without skill
    part = factory.account("pooled", 0.5, slice(100, 150))
    assert np.array_equal(part.returns_T, seeing.returns_T[100:149])


def test_a_ground_without_history_is_refused(panel: Panel) -> None:
    with pytest.raises(BadDataError, match="universe"):
        ground_of(panel, first=date(2019, 11, 1), num_symbols=40)
    with pytest.raises(ValueError, match="simple rules"):
        Case(name="x", words="", baselines_ic=(0.0,))


def forecasts(ground: Ground, scores_TS: np.ndarray) -> pl.DataFrame:
    expected = pl.Series(0.02 * scores_TS.ravel())
    frame = prediction_frame(scores_TS, ground)
    return frame.with_columns(expected_return_frac=expected, direction_prob=(expected > 0).cast(pl.Float64))


def test_shuffling_keeps_the_forecasts_and_takes_the_skill(ground: Ground) -> None:
    frame = forecasts(ground, Factory(ground, 1).scores("pooled", 0.5))
    moved = shuffled(frame, np.random.default_rng(0))
    assert sorted(moved.get_column("score").to_list()) == sorted(frame.get_column("score").to_list())
    outcomes = outcome_frame(ground.panel, 5, ground.symbols)
    before, after = (measured_rank_ic(one, outcomes).get_column("rank_ic").mean() for one in (frame, moved))
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert before > 0.4
    assert abs(after) < 0.05
    same = frame.join(moved, on=["symbol", "session"], suffix="_moved")
    assert (same.get_column("score") != same.get_column("score_moved")).all()


def test_null_shares_do_not_depend_on_the_skill_that_was_shuffled_away(ground: Ground) -> None:
    factory = Factory(ground, 2)
    outcomes = {
        planted: null_pass_shares(ground.panel, forecasts(ground, factory.scores("pooled", planted)), num_shuffles=3)
        for planted in (0.0, 0.5)
    }
    for shares in outcomes.values():
        assert shares.num_models == 120
        assert shares.accuracy is not None
        assert 0 < shares.accuracy < 0.6  # 52 % over three years: far from all, far from none
        assert (shares.every or 0) <= shares.three <= shares.accuracy_and_sharpe <= shares.accuracy


def test_where_nothing_can_be_shuffled_luck_is_quoted_and_the_report_can_be_written(ground: Ground) -> None:
    whole = forecasts(ground, Factory(ground, 2).scores("pooled", 0.0))
    days = whole.get_column("session").unique().sort()
    few = whole.filter(pl.col("session").is_in(days.head(7).implode()))
    alone = whole.filter(pl.col("symbol") == ground.symbols[0])
    nobody_trades = whole.with_columns(expected_return_frac=pl.lit(-0.01))
    for frame in (few, alone, nobody_trades):
        shares = null_pass_shares(ground.panel, frame, num_shuffles=1)
        assert shares == nothing_known() == QUOTED
        assert shares.num_models is None
    measured = {"symbol": ["AAA"], "accuracy_frac": [0.6], "sharpe": [1.0], "max_drawdown_frac": [0.05], "rmse": [0.02]}
    report = plan_policy_report(pl.DataFrame(measured), null=nothing_known())
    assert (report.num_models, report.num_null_models, report.all_null_frac) == (1, None, None)
    assert "luck was counted" not in report.words
    for column, value in (("model_id", "other"), ("horizon_sessions", 1)):
        mixed = pl.concat([few, few.with_columns(pl.lit(value, few.schema[column]).alias(column))])
        with pytest.raises(BadDataError, match="one model at one horizon"):
            null_pass_shares(ground.panel, mixed)
    with pytest.raises(BadDataError, match="too few forecasts"):
        shuffled(few, np.random.default_rng(0))
