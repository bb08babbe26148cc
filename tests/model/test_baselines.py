from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.optimize
import scipy.stats

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.frames import PREDICTION_SCHEMA
from vnfleet.core.sealed import sealing
from vnfleet.features.catalogue import FEATURE_NAMES
from vnfleet.model.baselines import (
    BASELINE_NAMES,
    FEATURE_RULES,
    BaselineData,
    BaselineName,
    FittedBaseline,
    fit_baseline,
    load_baseline,
)
from vnfleet.model.baselines.boosted import BOOST, BoostedScorer, BoostSetting, fit_boosted, fit_boosted_stopping
from vnfleet.model.baselines.calibration import constant_up, fit_calibration, kept_call
from vnfleet.model.baselines.rows import labelled_rows, mean_daily_correlation
from vnfleet.model.baselines.scorers import LinearScorer, fit_ridges

SYMBOLS, SESSIONS = 40, 260
NAMES = ("ret_1", "trend", "ret_5", "ret_120")
RULES: tuple[BaselineName, ...] = ("last_direction", "reversal_1d", "reversal_5d", "momentum_120d")
AXIS = tuple(date(2020, 1, 1) + timedelta(days=index) for index in range(SESSIONS))
TICKERS = tuple(f"S{index:02d}" for index in range(SYMBOLS))


@dataclass(frozen=True)
class Parts:
    """A fold as the baselines see it."""

    fold_id: str = "2020"
    train: range = range(150)
    valid: range = range(155, 215)
    refit: range = range(215)


TEST = range(220, 255)
SMALL = BoostSetting(num_seeds=1, num_leaves=4, min_rows_in_leaf=40, max_rounds=8, min_rounds=3, patience_rounds=4)


def planted(seed: int = 1, drift: float = 0.003) -> BaselineData:
    """A market where return = drift - 0.01 * yesterday + 0.01 * trend + noise."""
    rng = np.random.default_rng(seed)
    values_STF = rng.standard_normal((SYMBOLS, SESSIONS, len(NAMES))).astype(np.float32)
    present_ST = rng.random((SYMBOLS, SESSIONS)) < 0.95
    noise_ST = 0.03 * rng.standard_normal((SYMBOLS, SESSIONS))
    returns_ST = drift - 0.01 * values_STF[..., 0] + 0.01 * values_STF[..., 1] + noise_ST
    returns_ST[:, -5:] = np.nan
    values_STF[~present_ST] = 0.0
    return BaselineData(
        values_STF=values_STF,
        present_ST=present_ST,
        returns_HST=np.stack([returns_ST / 5, returns_ST]),
        horizons=(1, 5),
        symbols=TICKERS,
        sessions=AXIS,
        feature_names=NAMES,
    )


DATA = planted()
FITTED = {name: fit_baseline(name, DATA, Parts(), seed=7) for name in BASELINE_NAMES}


def predicted(fitted: FittedBaseline, data: BaselineData = DATA, sessions: range = TEST) -> pl.DataFrame:
    return fitted.predict(
        data.values_STF,
        data.present_ST,
        data.symbols,
        data.sessions,
        sessions,
        model_id="m",
        fold_id="2020",
        feature_names=data.feature_names,
    )


def mean_rank_ic(frame: pl.DataFrame, data: BaselineData = DATA) -> float:
    daily = []
    for (session,), part in frame.group_by("session", maintain_order=True):
        assert isinstance(session, date)
        symbols = [data.symbols.index(symbol) for symbol in part.get_column("symbol")]
        actual = data.returns_HST[1, symbols, data.sessions.index(session)]
        daily.append(scipy.stats.spearmanr(part.get_column("score").to_numpy(), actual).statistic)
    return float(np.mean(daily))


def test_the_catalogue_has_the_features_that_the_rules_need() -> None:
    assert tuple(FEATURE_RULES) == RULES
    assert {rule.feature for rule in FEATURE_RULES.values()} <= set(FEATURE_NAMES)


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_predicts_one_row_for_every_present_symbol_session(name: BaselineName) -> None:
    frame = predicted(FITTED[name])
    assert frame.schema == pl.Schema(PREDICTION_SCHEMA)
    assert frame.height == DATA.present_ST[:, TEST.start : TEST.stop].sum()
    assert frame.get_column("session").min() == AXIS[TEST.start]
    assert frame.get_column("session").max() == AXIS[TEST.stop - 1]
    assert set(frame.get_column("horizon_sessions")) == {5}
    assert frame.get_column("volatility_frac").null_count() == frame.height
    assert predicted(FITTED[name], sessions=range(10, 10)).is_empty()


def test_skill_on_a_planted_market_ranks_the_baselines() -> None:
    skill = {name: mean_rank_ic(predicted(FITTED[name])) for name in ("reversal_1d", "ridge", "lightgbm")}
    # the planted signal is 0.0141 against noise 0.03: correlation 0.43; reversal knows half of its variance
    assert skill["ridge"] == pytest.approx(0.41, abs=0.06)
    assert skill["ridge"] > skill["lightgbm"] > 0.2
    assert skill["reversal_1d"] == pytest.approx(0.29, abs=0.06)
    assert FITTED["reversal_1d"].valid_correlation > 0.2


def test_shuffled_labels_leave_no_skill() -> None:
    shuffled = DATA.returns_HST.copy()
    rng = np.random.default_rng(3)
    for session in range(SESSIONS):
        shuffled[:, :, session] = shuffled[:, rng.permutation(SYMBOLS), session]
    data = replace(DATA, returns_HST=shuffled)
    for name in ("ridge", "lightgbm"):
        assert abs(mean_rank_ic(predicted(fit_baseline(name, data, Parts(), seed=7), data), data)) < 0.08


def test_always_up_always_calls_up_without_an_opinion() -> None:
    for drift in (0.003, -0.02):
        data = planted(drift=drift)
        frame = predicted(fit_baseline("always_up", data, Parts(), seed=7), data)
        rows = labelled_rows(data, Parts().refit, 5, "fit")
        share_up = float((rows.returns_N > 0).mean())
        assert frame.get_column("score").unique().to_list() == [0.0]
        assert frame.get_column("direction_prob").unique().to_list() == pytest.approx([max(share_up, 0.5)])
        assert frame.get_column("direction_prob").min() >= 0.5  # type: ignore[operator]
        assert frame.get_column("expected_return_frac").to_list()[0] == pytest.approx(rows.returns_N.mean())


@pytest.mark.parametrize(
    ("name", "feature", "sign"),
    [("reversal_1d", "ret_1", -1), ("reversal_5d", "ret_5", -1), ("momentum_120d", "ret_120", 1)],
)
def test_a_rule_scores_by_its_one_feature(name: BaselineName, feature: str, sign: int) -> None:
    frame = predicted(FITTED[name])
    for row in frame.gather_every(97).iter_rows(named=True):
        cell = (TICKERS.index(row["symbol"]), AXIS.index(row["session"]), NAMES.index(feature))
        assert row["score"] == pytest.approx(sign * DATA.values_STF[cell])
    assert FITTED[name].setting == f"{'-' if sign < 0 else ''}{feature}"


@pytest.mark.parametrize("trend", [0.01, -0.01])
def test_last_direction_calls_the_last_move_again_whatever_its_record(trend: float) -> None:
    """Planted by hand: what follows goes on (or turns around) in three of four cases."""
    rng = np.random.default_rng(9)
    values_STF = DATA.values_STF.copy()
    values_STF[:, ::4, 0] = 0.0  # unchanged is not up
    went_up_ST = values_STF[..., 0] > 0
    goes_on_ST = rng.random(went_up_ST.shape) < 0.75
    returns_ST = np.where(went_up_ST == goes_on_ST, trend, -trend)
    returns_HST = np.stack([returns_ST, returns_ST])
    data = replace(DATA, values_STF=values_STF, returns_HST=returns_HST, present_ST=np.ones_like(DATA.present_ST))
    fitted = fit_baseline("last_direction", data, Parts(), seed=7)
    frame = predicted(fitted, data)
    up = [
        bool(went_up_ST[TICKERS.index(symbol), AXIS.index(day)])
        for symbol, day in frame.select("symbol", "session").iter_rows()
    ]
    assert frame.get_column("score").to_list() == [1.0 if one else -1.0 for one in up]
    assert (frame.get_column("direction_prob") >= 0.5).to_list() == up
    before_ST = (slice(None), slice(Parts().refit.start, Parts().refit.stop))
    right = float((went_up_ST[before_ST] == (returns_ST[before_ST] > 0)).mean())
    assert right == pytest.approx(0.75 if trend > 0 else 0.25, abs=0.02)
    called_up = frame.filter(pl.Series(up)).row(0, named=True)
    assert called_up["direction_prob"] == pytest.approx(max(right, 0.501))
    after_up = returns_ST[before_ST][went_up_ST[before_ST]].mean()
    assert called_up["expected_return_frac"] == pytest.approx(after_up)
    called_down = frame.filter(~pl.Series(up)).row(0, named=True)
    assert called_down["expected_return_frac"] == pytest.approx(returns_ST[before_ST][~went_up_ST[before_ST]].mean())


def test_a_market_that_only_rose_or_never_rose_leaves_the_other_call_defined() -> None:
    returns_N = np.linspace(-0.01, 0.03, 40)
    for side in (1.0, -1.0):
        kept = kept_call(np.full(40, side), returns_N)
        np.testing.assert_allclose(kept.expected_return_frac(np.array([1.0, -1.0])), returns_N.mean())
        assert (kept.direction_prob(np.array([1.0, -1.0])) >= 0.5).tolist() == [True, False]


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_what_lies_after_refit_changes_nothing(name: BaselineName) -> None:
    values_STF, returns_HST, present_ST = DATA.values_STF.copy(), DATA.returns_HST.copy(), DATA.present_ST.copy()
    values_STF[:, Parts().refit.stop :] = 1e6
    returns_HST[:, :, Parts().refit.stop :] = 9.0
    present_ST[:, Parts().refit.stop :] = True
    poisoned = replace(DATA, values_STF=values_STF, returns_HST=returns_HST, present_ST=present_ST)
    assert predicted(fit_baseline(name, poisoned, Parts(), seed=7)).equals(predicted(FITTED[name]))


@pytest.mark.parametrize("name", ["ridge", "lightgbm"])
def test_the_final_fit_knows_the_validation_sessions(name: BaselineName) -> None:
    returns_HST = DATA.returns_HST.copy()
    returns_HST[:, :, 150:155] = returns_HST[:, ::-1, 150:155]  # the purged gap belongs to refit only
    changed = fit_baseline(name, replace(DATA, returns_HST=returns_HST), Parts(), seed=7)
    assert (changed.setting, changed.calibration) == (FITTED[name].setting, FITTED[name].calibration)
    assert not predicted(changed).equals(predicted(FITTED[name]))


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_same_inputs_give_the_same_bits(name: BaselineName) -> None:
    assert predicted(fit_baseline(name, DATA, Parts(), seed=7)).equals(predicted(FITTED[name]))


def test_noisy_validation_cannot_stop_the_trees_at_once() -> None:
    shuffled = np.random.default_rng(2).permuted(DATA.returns_HST, axis=1)
    data = replace(DATA, returns_HST=shuffled)
    train, valid = (labelled_rows(data, part, 5, "test") for part in (Parts().train, Parts().valid))
    scorer, rounds = fit_boosted_stopping(train, valid, 7)
    assert min(rounds) >= BOOST.min_rounds
    assert len(rounds) == BOOST.num_seeds
    assert tuple(text.count("\nTree=") for text in scorer.texts) == rounds


def test_the_setting_decides_how_the_trees_grow() -> None:
    rows = labelled_rows(DATA, Parts().refit, 5, "test")
    scorer = fit_boosted(rows, (6,), 7, SMALL)
    (text,) = scorer.texts
    assert text.count("\nTree=") == 6
    assert {line for line in text.splitlines() if line.startswith("num_leaves=")} == {"num_leaves=4"}
    with pytest.raises(ValueError, match="min_rounds <= patience_rounds"):
        BoostSetting(min_rounds=31, patience_rounds=30)
    with pytest.raises(ValueError, match="num_seeds"):
        BoostSetting(num_seeds=0)


def test_a_small_universe_grows_trees_too() -> None:
    few = labelled_rows(DATA, range(30), 5, "test")
    assert len(few.target_N) < 2 * BOOST.min_rows_in_leaf
    scorer = fit_boosted(few, (2,) * BOOST.num_seeds, 7)
    assert len(np.unique(scorer.score(few.features_NF))) > 10
    assert BOOST.parameters(0, 10**6)["min_data_in_leaf"] == BOOST.min_rows_in_leaf
    assert BOOST.parameters(0, 5_000)["min_data_in_leaf"] == 250


def test_several_fits_are_averaged_and_no_two_seeds_share_one() -> None:
    rows = labelled_rows(DATA, Parts().refit, 5, "test")
    three = replace(SMALL, num_seeds=3)
    alone = [fit_boosted(rows, (rounds,), 6 + place, SMALL) for place, rounds in enumerate((4, 5, 6))]
    together = fit_boosted(rows, (4, 5, 6), 2, three)
    assert together.texts == tuple(text for one in alone for text in one.texts)
    expected = sum(one.score(rows.features_NF) for one in alone) / 3
    np.testing.assert_allclose(together.score(rows.features_NF), expected, rtol=1e-12)
    assert len(set(together.texts)) == 3
    assert not set(three.seeds(0)) & set(three.seeds(1))
    narrow = replace(rows, features_NF=rows.features_NF[:, :2])
    with pytest.raises(ValueError, match="different numbers of features"):
        BoostedScorer((*together.texts, *fit_boosted(narrow, (4,), 1, SMALL).texts))


def test_another_seed_grows_other_trees() -> None:
    assert not predicted(fit_baseline("lightgbm", DATA, Parts(), seed=8)).equals(predicted(FITTED["lightgbm"]))


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_a_stored_baseline_forecasts_bit_equal(name: BaselineName, tmp_path: Path) -> None:
    FITTED[name].save(tmp_path / name)
    loaded = load_baseline(tmp_path / name)
    assert predicted(loaded).equals(predicted(FITTED[name]))
    assert (loaded.setting, loaded.calibration) == (FITTED[name].setting, FITTED[name].calibration)
    assert not [path for path in (tmp_path / name).iterdir() if path.suffix in {".pkl", ".pickle", ".pt"}]


def test_a_baseline_stored_by_the_version_before_still_loads(tmp_path: Path) -> None:
    record = {
        "name": "reversal_1d",
        "fold_id": "live",
        "seed": 0,
        "horizon_sessions": 5,
        "feature_names": list(NAMES),
        "setting": "-ret_1",
        "valid_correlation": 0.03,
        "position": 0,
        "sign": -1.0,
        "calibration": {
            "score_mean": 0.0,
            "score_sd": 0.02,
            "logit_intercept": 0.0,
            "logit_slope": 0.1,
            "return_mean_frac": 0.001,
            "return_slope_frac": 0.002,
        },
    }
    with sealing(tmp_path / "stored", "baseline", {"name": "reversal_1d", "fold_id": "live"}) as scratch:
        (scratch / "baseline.json").write_text(json.dumps(record), encoding="utf-8")
    row = predicted(load_baseline(tmp_path / "stored")).row(0, named=True)
    score = -float(DATA.values_STF[TICKERS.index(row["symbol"]), TEST.start, 0])
    z = min(max(score / 0.02, -5.0), 5.0)
    assert row["score"] == pytest.approx(score)
    assert row["direction_prob"] == pytest.approx(1 / (1 + math.exp(-0.1 * z)))
    assert row["expected_return_frac"] == pytest.approx(0.001 + 0.002 * z)


def test_a_rule_whose_stored_position_is_outside_the_list_is_refused(tmp_path: Path) -> None:
    FITTED["last_direction"].save(tmp_path / "good")
    record = json.loads((tmp_path / "good" / "baseline.json").read_bytes())
    for place, position in enumerate((None, 4, -1)):
        with sealing(tmp_path / str(place), "baseline", {}) as scratch:
            (scratch / "baseline.json").write_text(json.dumps({**record, "position": position}), encoding="utf-8")
        with pytest.raises(BadDataError, match="position or sign"):
            load_baseline(tmp_path / str(place))


def test_a_changed_or_unfinished_folder_is_refused(tmp_path: Path) -> None:
    FITTED["ridge"].save(tmp_path / "ridge")
    with (tmp_path / "ridge" / "arrays.npz").open("ab") as handle:
        handle.write(b"!")
    with pytest.raises(BadDataError, match="was changed"):
        load_baseline(tmp_path / "ridge")
    (tmp_path / "ridge" / "manifest.json").unlink()
    with pytest.raises(BadDataError, match="not complete"):
        load_baseline(tmp_path / "ridge")


@pytest.mark.parametrize(
    ("name", "file", "payload"),
    [
        ("ridge", "arrays.npz", b"not a zip"),
        ("ridge", "baseline.json", b"{}"),
        ("lightgbm", "lightgbm.txt", b"tree"),
    ],
)
def test_a_sealed_folder_with_nonsense_is_refused(
    name: BaselineName, file: str, payload: bytes, tmp_path: Path
) -> None:
    FITTED[name].save(tmp_path / "good")
    with sealing(tmp_path / "bad", "baseline", {}) as scratch:
        for path in (tmp_path / "good").iterdir():
            if path.name != "manifest.json":
                (scratch / path.name).write_bytes(path.read_bytes())
        (scratch / file).write_bytes(payload)
    with pytest.raises(BadDataError, match="cannot be read"):
        load_baseline(tmp_path / "bad")


def test_arrays_of_another_length_are_refused(tmp_path: Path) -> None:
    FITTED["ridge"].save(tmp_path / "good")
    with sealing(tmp_path / "bad", "baseline", {}) as scratch:
        record = json.loads((tmp_path / "good" / "baseline.json").read_bytes())
        record["feature_names"].append("one_more")
        (scratch / "baseline.json").write_text(json.dumps(record), encoding="utf-8")
        (scratch / "arrays.npz").write_bytes((tmp_path / "good" / "arrays.npz").read_bytes())
    with pytest.raises(BadDataError, match="must be 5 finite"):
        load_baseline(tmp_path / "bad")


def test_other_features_are_refused_by_name() -> None:
    renamed = replace(DATA, feature_names=("ret_1", "trend", "sound", "ret_120"))
    with pytest.raises(BadDataError, match=r"missing: .'ret_5'.*\n.*unknown: .'sound'"):
        predicted(FITTED["ridge"], renamed)
    swapped = replace(DATA, feature_names=("trend", "ret_1", "ret_5", "ret_120"))
    with pytest.raises(BadDataError, match="first difference"):
        predicted(FITTED["always_up"], swapped)


def test_a_rule_without_its_feature_and_unknown_names_are_refused() -> None:
    without = replace(DATA, feature_names=("a", "b", "c", "d"))
    for name in RULES:
        with pytest.raises(
            BadDataError, match=f"{name} needs a feature that is not there\n.*{FEATURE_RULES[name].feature}"
        ):
            fit_baseline(name, without, Parts(), seed=1)
    with pytest.raises(UsageError, match="unknown baseline"):
        fit_baseline("oracle", DATA, Parts(), seed=1)  # type: ignore[arg-type]


def test_parts_without_labels_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(BadDataError, match="no rows to validate"):
        fit_baseline("ridge", DATA, Parts(valid=range(255, 260)), seed=1)
    with pytest.raises(BadDataError, match="lack a horizon"):
        fit_baseline("ridge", DATA, Parts(), seed=1, horizon_sessions=3)
    with pytest.raises(ValueError, match="shapes"):
        replace(DATA, symbols=TICKERS[1:])


def test_rows_are_ranked_within_their_session() -> None:
    rows = labelled_rows(DATA, range(30, 33), 5, "test")
    correlations = []
    for group in range(3):
        inside = rows.group_N == group
        ranks = scipy.stats.rankdata(rows.returns_N[inside])
        np.testing.assert_allclose(rows.target_N[inside], (ranks - 1) / (inside.sum() - 1) - 0.5)
        correlations.append(scipy.stats.pearsonr(rows.features_NF[inside, 0], rows.target_N[inside]).statistic)
    found = mean_daily_correlation(rows.features_NF[:, 0].astype(np.float64), rows)
    assert found == pytest.approx(float(np.mean(correlations)))
    assert mean_daily_correlation(np.ones(len(rows.target_N)), rows) == 0.0


def test_ridge_is_the_minimum_of_its_objective() -> None:
    rows = labelled_rows(DATA, range(60), 5, "test")
    (ridge,) = fit_ridges(rows, (0.3,))
    design_NF = np.clip((rows.features_NF - rows.features_NF.mean(0)) / rows.features_NF.std(0), -5, 5)
    target_N = rows.target_N - rows.target_N.mean()

    def loss(weights: np.ndarray) -> float:
        residual_N = target_N - (design_NF - design_NF.mean(0)) @ weights
        return float((residual_N**2).mean() + 0.3 * (weights**2).sum())

    found = scipy.optimize.minimize(loss, np.zeros(4), tol=1e-12)
    np.testing.assert_allclose(ridge.weight_F, found.x, atol=1e-5)
    huge = fit_ridges(rows, (1e9,))[0]
    assert np.abs(huge.weight_F).max() < 1e-8


def test_a_constant_feature_does_no_harm() -> None:
    values_STF = DATA.values_STF.copy()
    values_STF[..., 3] = 4.0
    fitted = fit_baseline("ridge", replace(DATA, values_STF=values_STF), Parts(), seed=7)
    assert isinstance(fitted.scorer, LinearScorer)
    assert fitted.scorer.weight_F[3] == 0.0


def test_calibration_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    score_N = rng.standard_normal(4000) * 3 + 1
    returns_N = 0.002 + 0.004 * score_N + 0.05 * rng.standard_normal(4000)
    found = fit_calibration(score_N, returns_N)
    z_N = np.clip((score_N - score_N.mean()) / score_N.std(), -5, 5)
    line = scipy.stats.linregress(z_N, returns_N)
    assert (found.return_slope_frac, found.return_mean_frac) == pytest.approx((line.slope, line.intercept))
    up_N = returns_N > 0

    def negative_log_likelihood(weights: np.ndarray) -> float:
        logit_N = weights[0] + weights[1] * z_N
        return float(np.logaddexp(0, np.where(up_N, -logit_N, logit_N)).sum() + 0.5 * (weights**2).sum())

    best = scipy.optimize.minimize(negative_log_likelihood, np.zeros(2), tol=1e-10)
    assert (found.logit_intercept, found.logit_slope) == pytest.approx(tuple(best.x), abs=1e-4)


def test_probabilities_are_calibrated_out_of_sample() -> None:
    frame = predicted(FITTED["ridge"]).sort("direction_prob")
    symbols = [TICKERS.index(symbol) for symbol in frame.get_column("symbol")]
    sessions = [AXIS.index(session) for session in frame.get_column("session")]
    up_N = DATA.returns_HST[1, symbols, sessions] > 0
    thirds = np.array_split(np.arange(frame.height), 3)
    stated = [float(frame.get_column("direction_prob")[third.tolist()].mean()) for third in thirds]
    seen = [float(up_N[third].mean()) for third in thirds]
    assert all(low < high for low, high in pairwise(seen))
    np.testing.assert_allclose(stated, seen, atol=0.08)


def test_calibration_survives_one_sided_and_constant_samples() -> None:
    always = fit_calibration(np.arange(50.0), np.full(50, 0.01))
    assert 0.9 < always.direction_prob(np.array([25.0]))[0] < 1
    flat = fit_calibration(np.zeros(50), np.linspace(-0.02, 0.03, 50))
    assert (flat.logit_slope, flat.return_slope_frac) == (0.0, 0.0)
    assert constant_up(np.zeros(9), np.full(9, 0.01)).direction_prob(np.zeros(1))[0] == pytest.approx(0.999)
