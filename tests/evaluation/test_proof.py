from __future__ import annotations

from datetime import date, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import OUTCOME_SCHEMA, PREDICTION_SCHEMA
from vnfleet.evaluation.metrics import daily_rank_ic
from vnfleet.evaluation.proof import Proof, prove_skill

HORIZON = 5
NUM_SYMBOLS = 40
NO_TRIALS = pl.DataFrame(schema={"model_id": pl.String(), "session": pl.Date(), "rank_ic": pl.Float64()})
RIVALS = {"reversal": "id-reversal", "noise": "id-noise", "always up": "id-up"}


def days(count: int) -> list[date]:
    return [date(2020, 1, 1) + timedelta(days=day) for day in range(count)]


@cache
def outcome_moves(num_sessions: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    steps = rng.normal(0.001, 0.02, (num_sessions + HORIZON - 1, NUM_SYMBOLS)) + rng.normal(
        0, 0.01, (num_sessions + HORIZON - 1, 1)
    )
    sums = np.cumsum(np.vstack((np.zeros(NUM_SYMBOLS), steps)), axis=0)
    return np.asarray(sums[HORIZON:] - sums[:-HORIZON])


def forecasts(model_id: str, score_TS: np.ndarray, prob_TS: np.ndarray | None = None) -> pl.DataFrame:
    num_sessions = score_TS.shape[0]
    rows = score_TS.size
    return pl.DataFrame(
        {
            "model_id": [model_id] * rows,
            "symbol": [f"S{symbol:02d}" for symbol in range(NUM_SYMBOLS)] * num_sessions,
            "session": np.repeat(np.array(days(num_sessions), dtype="datetime64[D]"), NUM_SYMBOLS),
            "horizon_sessions": [HORIZON] * rows,
            "fold_id": ["2020"] * rows,
            "score": score_TS.ravel(),
            "direction_prob": [None] * rows if prob_TS is None else prob_TS.ravel(),
            "expected_return_frac": [None] * rows,
            "volatility_frac": [None] * rows,
        },
        schema=PREDICTION_SCHEMA,
    )


def outcomes(num_sessions: int) -> pl.DataFrame:
    moves = outcome_moves(num_sessions)
    return pl.DataFrame(
        {
            "symbol": [f"S{symbol:02d}" for symbol in range(NUM_SYMBOLS)] * num_sessions,
            "session": np.repeat(np.array(days(num_sessions), dtype="datetime64[D]"), NUM_SYMBOLS),
            "horizon_sessions": [HORIZON] * moves.size,
            "return_frac": moves.ravel(),
            "benchmark_return_frac": np.repeat(np.median(moves, axis=1), NUM_SYMBOLS),
            "known_on": [None] * moves.size,
        },
        schema=OUTCOME_SCHEMA,
    )


def entrants(num_sessions: int, *, skill: float) -> pl.DataFrame:
    rng, moves = np.random.default_rng(2), outcome_moves(num_sessions)
    noise = rng.normal(0, 0.05, (3, *moves.shape))
    score = skill * moves + noise[0]
    return pl.concat(
        [
            forecasts("mine", score, 1 / (1 + np.exp(-20 * score))),
            forecasts("id-reversal", 0.05 * moves + noise[1]),
            forecasts("id-noise", noise[2]),
            forecasts("id-up", np.zeros_like(moves), np.full_like(moves, 0.6)),
        ]
    )


def trials(num_sessions: int, count: int) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    return pl.concat(
        [
            pl.DataFrame(
                {"model_id": f"try {one}", "session": days(num_sessions), "rank_ic": rng.normal(0, 0.15, num_sessions)}
            )
            for one in range(count)
        ]
    )


def prove(
    num_sessions: int, *, skill: float, tried: pl.DataFrame = NO_TRIALS, candidate: str = "mine"
) -> tuple[Proof, pl.DataFrame]:
    predictions, known = entrants(num_sessions, skill=skill), outcomes(num_sessions)
    daily = daily_rank_ic(predictions, known)
    proof = prove_skill(
        predictions, known, daily, candidate=candidate, rivals=RIVALS, trials=tried, horizon_sessions=HORIZON
    )
    return proof, daily


def test_a_skilled_candidate_is_proved_in_every_way() -> None:
    proof, daily = prove(300, skill=0.3, tried=trials(300, 4))
    assert proof.direction_absolute is not None
    assert proof.direction_relative is not None
    assert proof.direction_absolute.p_one_sided is not None
    assert proof.direction_relative.p_one_sided is not None
    assert max(proof.direction_absolute.p_one_sided, proof.direction_relative.p_one_sided) < 0.01
    assert [rival.name for rival in proof.rivals] == ["reversal", "noise"]  # always up ranks nothing
    for rival in proof.rivals:
        assert rival.test is not None
        means = [daily.filter(model_id=one).get_column("rank_ic").to_numpy().mean() for one in ("mine", rival.model_id)]
        assert -rival.test.mean_difference == pytest.approx(means[0] - means[1])
        assert rival.test.p_one_sided < 0.05
    assert proof.search is not None
    assert (proof.search.best_variant, proof.search.benchmark) == ("mine", "reversal")
    assert (proof.search.num_variants, proof.search.num_left_out, proof.search.num_sessions) == (5, 0, 300)
    assert proof.search.p_spa < 0.05
    assert (proof.confidence_set, proof.num_compared) == (("mine",), 7)
    observed = daily.filter(model_id="mine").get_column("rank_ic").to_numpy().mean()
    assert proof.smallest_rank_ic is not None
    assert 0 < proof.smallest_rank_ic < observed


def test_the_calls_are_those_of_the_metrics() -> None:
    proof, _ = prove(60, skill=0.3)
    moves, mine = outcome_moves(60), entrants(60, skill=0.3).filter(model_id="mine")
    score = mine.get_column("score").to_numpy().reshape(60, NUM_SYMBOLS)
    assert proof.direction_absolute is not None
    assert proof.direction_relative is not None
    assert proof.direction_absolute.hit_rate == pytest.approx(((score >= 0) == (moves > 0)).mean())
    centred, relative = (table - np.median(table, axis=1, keepdims=True) for table in (score, moves))
    assert proof.direction_relative.hit_rate == pytest.approx(((centred > 0) == (relative > 0)).mean())
    assert proof.direction_relative.expected_rate == pytest.approx(0.5)


def test_a_candidate_without_skill_is_not_proved_and_told_what_could_have_been_seen() -> None:
    proof, _ = prove(300, skill=0.0, tried=trials(300, 4))
    assert proof.direction_relative is not None
    assert proof.direction_relative.p_one_sided is not None
    assert proof.direction_relative.p_one_sided > 0.05
    assert proof.search is not None
    assert proof.search.p_spa > 0.05
    assert proof.smallest_rank_ic is not None
    # 40 symbols: one session's rank IC deviates by 0.16; 300 sessions without memory show 2.49 x 0.16 / sqrt(300)
    assert proof.smallest_rank_ic == pytest.approx(2.49 * 0.16 / np.sqrt(300), rel=0.35)
    assert proof.smallest_accuracy_relative_frac is not None
    assert proof.smallest_accuracy_absolute_frac is not None
    # pooled calls without memory: 2.49 x 0.5 / sqrt(12000); the market's own luck blurs up or down more
    assert proof.smallest_accuracy_relative_frac == pytest.approx(2.49 * 0.5 / np.sqrt(12000), rel=0.35)
    assert any("neither proved nor disproved" in line for line in proof.lines())
    assert any(f"a rank correlation of {proof.smallest_rank_ic:.3f}" in line for line in proof.lines())


def test_a_candidate_that_is_worse_than_luck_is_told_so() -> None:
    proof, _ = prove(300, skill=-0.3)
    assert proof.confidence_set is not None
    assert "mine" not in proof.confidence_set
    assert any("the candidate is NOT among" in line for line in proof.lines())
    assert any("against noise: rank correlation" in line and "lower" in line for line in proof.lines())


def test_trials_seen_on_other_sessions_only_are_counted_and_said() -> None:
    elsewhere = trials(300, 2).with_columns(session=pl.col("session").dt.offset_by("-1100d"))
    half = trials(150, 1).with_columns(model_id=pl.lit("half as long"))
    proof, _ = prove(300, skill=0.3, tried=pl.concat([elsewhere, half]))
    assert proof.search is not None
    assert (proof.search.num_variants, proof.search.num_left_out) == (2, 2)
    assert proof.num_compared == 3  # the half as long is not held against whole histories
    assert any("2 more have too few sessions in common" in line for line in proof.lines())


def test_a_short_trial_keeps_its_own_t_value() -> None:
    rng = np.random.default_rng(5)
    lucky = pl.DataFrame({"model_id": "lucky", "session": days(100), "rank_ic": rng.normal(0.16, 0.15, 100)})
    alone, _ = prove(300, skill=0.0, tried=lucky)
    crowded, _ = prove(300, skill=0.0, tried=pl.concat([lucky, trials(300, 30)]))
    assert alone.search is not None
    assert crowded.search is not None
    assert alone.search.best_variant == crowded.search.best_variant == "lucky"
    assert alone.search.p_spa < 0.05
    assert crowded.search.p_spa > 2 * alone.search.p_spa  # more tries, less proof


@pytest.mark.parametrize("num_sessions", [1, 29])
def test_too_few_sessions_prove_nothing_and_raise_nothing(num_sessions: int) -> None:
    proof, _ = prove(num_sessions, skill=0.3, tried=trials(300, 2))
    assert proof.num_sessions == num_sessions
    assert (proof.direction_absolute, proof.direction_relative, proof.search, proof.confidence_set) == (None,) * 4
    assert all(rival.test is None for rival in proof.rivals)
    assert proof.smallest_rank_ic is proof.smallest_accuracy_relative_frac is None
    assert any("too few to prove anything" in line for line in proof.lines())
    assert Proof.model_validate_json(proof.model_dump_json()) == proof


def test_candidates_that_never_rank_or_never_forecast_are_judged_as_far_as_they_go() -> None:
    up, _ = prove(60, skill=0.3, candidate="id-up")
    assert up.direction_absolute is not None
    assert up.direction_absolute.p_one_sided is None
    assert up.direction_relative is None
    assert any("always the same call" in line for line in up.lines())
    unknown, _ = prove(60, skill=0.3, candidate="nobody")
    assert unknown.num_sessions == 0
    assert (unknown.direction_absolute, unknown.search, unknown.confidence_set) == (None, None, None)
    nothing = prove_skill(
        entrants(60, skill=0.0).clear(),
        outcomes(60),
        daily_rank_ic(entrants(60, skill=0.0), outcomes(60)).clear(),
        candidate="mine",
        rivals={},
        trials=NO_TRIALS,
        horizon_sessions=HORIZON,
    )
    assert nothing.num_compared == 0
    assert nothing.lines()


def test_a_proof_travels_as_json_and_speaks_plainly() -> None:
    proof, _ = prove(300, skill=0.3, tried=trials(300, 4))
    assert Proof.model_validate_json(proof.model_dump_json()) == proof
    told = "\n".join(proof.lines())
    assert proof.direction_absolute is not None
    assert f"{proof.direction_absolute.hit_rate:.1%} of 12,000 right" in told
    assert "against reversal: rank correlation" in told
    assert "the best of 5 variants tried, mine, ranks" in told
    assert "; with so many tries luck alone" in told
    assert "among the 1 of 7 that cannot be told from the best, right 90% of the time: mine" in told
    assert "NOT" not in told
    assert "nan" not in told.lower()


def test_a_single_variant_is_not_called_many() -> None:
    alone, _ = prove(60, skill=0.3)
    assert alone.search is not None
    assert alone.search.num_variants == 1
    assert alone.search.words.startswith("search: the one variant tried, mine, ranks ")
    assert "so many tries" not in alone.search.words
    lost = alone.search.model_copy(update={"num_left_out": 1}).words
    assert lost.startswith("search: the one variant tried (1 more has too few sessions in common), mine, ranks ")
    more = alone.search.model_copy(update={"num_variants": 3, "num_left_out": 2}).words
    assert more.startswith("search: the best of 3 variants tried (2 more have too few sessions in common), mine, ")


def test_other_horizons_of_the_same_models_are_left_alone() -> None:
    predictions, known = entrants(60, skill=0.3), outcomes(60)
    predictions, known = (
        pl.concat([frame, frame.with_columns(horizon_sessions=pl.lit(1, pl.Int32))]) for frame in (predictions, known)
    )
    daily = daily_rank_ic(predictions, known)
    proof = prove_skill(
        predictions, known, daily, candidate="mine", rivals=RIVALS, trials=NO_TRIALS, horizon_sessions=HORIZON
    )
    assert proof == prove(60, skill=0.3)[0]


def test_of_very_many_variants_the_best_are_compared_and_the_others_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[int, tuple[str, ...]]] = []

    def remembered(losses_TK: np.ndarray, names: list[str]) -> tuple[str, ...]:
        compared.append((losses_TK.shape[1], tuple(names)))
        return tuple(names[:1])

    monkeypatch.setattr("vnfleet.evaluation.proof.model_confidence_set", remembered)
    proof, _ = prove(120, skill=0.3, tried=trials(120, 70))
    means = trials(120, 70).group_by("model_id").agg(pl.col("rank_ic").mean()).sort("rank_ic", descending=True)
    best = set(means.get_column("model_id").head(50).to_list())
    ((width, names),) = compared
    assert width == len(names) == proof.num_compared == 53
    assert set(names) == {"mine", "reversal", "noise", *best}
    assert proof.num_not_compared == 20
    assert any("only the best 50 other variants were compared; 20 that ranked no better" in x for x in proof.lines())
    few, _ = prove(120, skill=0.3, tried=trials(120, 50))
    assert (few.num_compared, few.num_not_compared) == (53, 0)
    assert not any("left out" in line for line in few.lines())


def test_trials_that_cannot_be_read_are_refused() -> None:
    tried = trials(60, 1)
    with pytest.raises(BadDataError, match="lacks columns"):
        prove(60, skill=0.3, tried=tried.drop("rank_ic"))
    with pytest.raises(BadDataError, match="repeats a session"):
        prove(60, skill=0.3, tried=pl.concat([tried, tried]))


def test_the_made_up_market_has_the_skill_it_says() -> None:
    _, daily = prove(60, skill=0.3)
    moves, score = outcome_moves(60), entrants(60, skill=0.3).filter(model_id="mine").get_column("score").to_numpy()
    by_hand = [spearmanr(score.reshape(60, NUM_SYMBOLS)[day], moves[day]).statistic for day in range(60)]
    assert daily.filter(model_id="mine").get_column("rank_ic").to_numpy() == pytest.approx(np.array(by_hand))
