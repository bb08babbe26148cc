"""The top-k policy: hysteresis on rank fractions and weights, by hand and by plain numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.panel import Panel
from vnfleet.market.calendar import trading_sessions
from vnfleet.trading.portfolio import TopKPolicy, desired_positions, prediction_matrix, rank_fractions, target_weights

MakePanel = Callable[..., Panel]
Bar = tuple[float, float, int, float] | None

nan = np.nan
WINDOW = 10
SESSIONS = trading_sessions(date(2023, 1, 3), date(2023, 12, 29))
CALM_AND_WILD = TopKPolicy(
    max_positions=2, enter_above=0.1, exit_below=0.0, weighting="inverse_volatility", volatility_sessions=WINDOW
)


def test_rank_fractions_run_from_worst_0_to_best_1_with_average_ties() -> None:
    scores_TS = np.array([[3.0, 1.0, 2.0, nan, 5.0], [1.0, 1.0, 0.0, nan, nan], [nan, nan, 7.0, nan, nan], [nan] * 5])
    expected = np.array(
        [[2 / 3, 0.0, 1 / 3, nan, 1.0], [0.75, 0.75, 0.0, nan, nan], [nan, nan, 1.0, nan, nan], [nan] * 5]
    )
    np.testing.assert_allclose(rank_fractions(scores_TS), expected)


def test_a_symbol_enters_above_the_upper_mark_and_leaves_below_the_lower_one() -> None:
    policy = TopKPolicy(max_positions=2, enter_above=0.7, exit_below=0.3)
    scores_TS = np.array(
        [
            [4.0, 3.0, 2.0, 1.0],  # A is 1, B is 2/3: only A enters
            [2.0, 4.0, 3.0, 1.0],  # B enters, A at 1/3 stays
            [3.0, 1.0, 2.0, 4.0],  # B is last and leaves, D enters
            [1.0, 2.0, 4.0, 3.0],  # A is last and leaves, C enters, D at 2/3 stays
        ]
    )
    wanted_TS = desired_positions(scores_TS, policy)
    wanted = ["".join(name for name, held in zip("ABCD", row, strict=True) if held) for row in wanted_TS]
    assert wanted == ["A", "AB", "AD", "CD"]


def test_slots_go_to_the_best_first_and_are_never_exceeded() -> None:
    policy = TopKPolicy(max_positions=2, enter_above=0.1, exit_below=0.0)
    scores_TS = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    assert desired_positions(scores_TS, policy).tolist() == [[False, False, True, True]] * 2


def test_a_held_symbol_without_scores_is_kept_for_a_while_only() -> None:
    policy = TopKPolicy(max_positions=1, enter_above=0.9, exit_below=0.4, max_unscored_sessions=2)
    scores_TS = np.array([[9.0, 1.0, 0.5], *[[nan, 2.0, 1.0]] * 4])
    assert desired_positions(scores_TS, policy).argmax(axis=1).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_positions": 0},
        {"enter_above": 0.3, "exit_below": 0.5},
        {"resize_band_frac": 0.0},
        {"enter_above": 1.0},
        {"weighting": "by_name"},
        {"volatility_sessions": 4},
        {"target_volatility_frac": 0.0},
        {"target_volatility_frac": 1.01},
        {"target_volatility_frac": nan},
        {"max_weight_frac": 1.5},
    ],
)
def test_policies_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TopKPolicy(**wrong)  # type: ignore[arg-type]


def test_a_volatility_written_in_percent_is_refused_and_the_fraction_is_named() -> None:
    assert TopKPolicy(target_volatility_frac=1.0).target_volatility_frac == 1.0
    with pytest.raises(ValueError, match=r"not 10: it is a fraction a year, so write 0\.10 for 10 %"):
        TopKPolicy(target_volatility_frac=10)


def test_predictions_must_be_of_one_model_and_fit_the_panel(
    make_panel: Callable[..., Panel], make_predictions: Callable[..., pl.DataFrame]
) -> None:
    sessions = trading_sessions(date(2023, 3, 1), date(2023, 3, 3))
    panel = make_panel(sessions, {"AAA": [(10_000, 10_000, 1_000, 1.0)] * 3})
    good = make_predictions(sessions, {"AAA": [0.1, None, 0.3]})
    np.testing.assert_array_equal(prediction_matrix(panel, good, "score"), [[0.1], [nan], [0.3]])
    other = make_predictions(sessions, {"BBB": [0.1, None, 0.3]})
    with pytest.raises(BadDataError, match="BBB"):
        prediction_matrix(panel, other, "score")


def _bars(prices: Sequence[float | None], factor: float = 1.0) -> list[Bar]:
    return [None if price is None else (price, price, 10_000, factor) for price in prices]


def _swinging(swing: float, length: int, start: float = 50_000.0) -> list[float]:
    """Prices whose daily returns are +swing, -swing, +swing, ..."""
    moves = np.where(np.arange(length - 1) % 2 == 0, 1 + swing, 1 - swing)
    return [start, *(start * np.cumprod(moves)).tolist()]


def test_equal_weights_fill_one_slot_each_and_an_empty_slot_is_cash(make_panel: MakePanel) -> None:
    panel = make_panel(SESSIONS[:3], {name: _bars([10_000.0] * 3) for name in ("AAA", "BBB", "CCC")})
    policy = TopKPolicy(max_positions=4, enter_above=0.4, exit_below=0.4)
    scores_TS = np.array([[3.0, 2.0, 1.0], [nan, nan, nan], [1.0, 2.0, 3.0]])
    expected = [[0.25, 0.25, 0.0], [0.25, 0.25, 0.0], [0.0, 0.25, 0.25]]
    assert target_weights(panel, scores_TS, policy).tolist() == expected


def test_a_symbol_that_swings_twice_as_much_weighs_half(make_panel: MakePanel) -> None:
    length = WINDOW + 1
    panel = make_panel(
        SESSIONS[:length], {"AAA": _bars(_swinging(0.01, length)), "BBB": _bars(_swinging(0.02, length))}
    )
    policy = dataclasses.replace(CALM_AND_WILD, max_positions=4, enter_above=0.0)
    scores_TS = np.full((length, 2), 1.0)  # ties: both at the middle
    weights_TS = target_weights(panel, scores_TS, policy)
    # two slots of a quarter, shared 2 : 1
    np.testing.assert_allclose(weights_TS[-1], [2 / 6, 1 / 6], rtol=1e-12)
    # with four returns, less than half a window, nobody has a volatility: equal
    np.testing.assert_allclose(weights_TS[4], [0.25, 0.25])


def test_a_newcomer_counts_like_the_median_of_the_others(make_panel: MakePanel) -> None:
    length = WINDOW + 1
    swings = {"AAA": 0.01, "BBB": 0.02, "CCC": 0.04}
    bars = {symbol: _bars(_swinging(swing, length)) for symbol, swing in swings.items()}
    bars["NEW"] = _bars([*[None] * (length - 3), 10_000.0, 13_000.0, 9_000.0])
    panel = make_panel(SESSIONS[:length], bars)
    policy = dataclasses.replace(CALM_AND_WILD, max_positions=4, enter_above=0.0)
    scores_TS = np.full((length, 4), 1.0)
    pull = np.array([1 / 0.01, 1 / 0.02, 1 / 0.04, 1 / 0.02])
    np.testing.assert_allclose(target_weights(panel, scores_TS, policy)[-1], pull / pull.sum(), rtol=1e-12)


def test_a_split_and_a_move_that_cannot_be_trusted_are_no_volatility(make_panel: MakePanel) -> None:
    length = WINDOW + 1
    prices = _swinging(0.02, length)
    split: list[Bar] = [*_bars(prices[:5]), *_bars([price / 2 for price in prices[5:]], factor=2.0)]
    jump = [*prices[:5], *[price * 3 for price in prices[5:]]]
    plain = _swinging(0.02, length)
    panel = make_panel(SESSIONS[:length], {"AAA": _bars(plain), "BBB": split})
    scores_TS = np.full((length, 2), 1.0)
    policy = dataclasses.replace(CALM_AND_WILD, enter_above=0.0)
    np.testing.assert_allclose(target_weights(panel, scores_TS, policy)[-1], [0.5, 0.5], rtol=1e-12)
    untrusted = make_panel(SESSIONS[:length], {"AAA": _bars(plain), "BBB": _bars(jump)})
    broken = (pl.col("symbol") == "BBB") & (pl.col("session") == SESSIONS[5])
    untrusted = dataclasses.replace(untrusted, bars=untrusted.bars.with_columns(break_before=broken))
    moves = np.tile([0.02, -0.02], WINDOW // 2)
    without = moves.copy()
    without[4] = 0.0
    pull = np.array([1 / moves.std(ddof=1), 1 / without.std(ddof=1)])
    np.testing.assert_allclose(target_weights(untrusted, scores_TS, policy)[-1], pull / pull.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        (None, [1 / 2, 1 / 6, 1 / 6, 1 / 6]),  # 4 : 1 : 1 : 1 would be 0.57; twice a slot of four is the most
        (0.4, [0.4, 0.2, 0.2, 0.2]),
        (0.2, [0.2, 0.2, 0.2, 0.2]),  # all at the cap: the rest stays cash
    ],
)
def test_no_symbol_exceeds_the_heaviest_weight(make_panel: MakePanel, cap: float | None, expected: list[float]) -> None:
    length = WINDOW + 1
    swings = {"AAA": 0.01, "BBB": 0.04, "CCC": 0.04, "DDD": 0.04}
    panel = make_panel(SESSIONS[:length], {symbol: _bars(_swinging(swing, length)) for symbol, swing in swings.items()})
    policy = dataclasses.replace(CALM_AND_WILD, max_positions=4, enter_above=0.0, max_weight_frac=cap)
    weights_TS = target_weights(panel, np.full((length, 4), 1.0), policy)
    np.testing.assert_allclose(weights_TS[-1], expected, rtol=1e-12)


def test_a_symbol_whose_price_never_moves_counts_as_calm_but_not_as_riskless(make_panel: MakePanel) -> None:
    length = WINDOW + 1
    bars = {"AAA": _bars([20_000.0] * length)}
    bars |= {symbol: _bars(_swinging(0.02, length)) for symbol in ("BBB", "CCC")}
    panel = make_panel(SESSIONS[:length], bars)
    policy = dataclasses.replace(CALM_AND_WILD, max_positions=3, enter_above=0.0, max_weight_frac=1.0)
    weights = target_weights(panel, np.full((length, 3), 1.0), policy)[-1]
    np.testing.assert_allclose(weights, [4 / 6, 1 / 6, 1 / 6], rtol=1e-12)  # a quarter of the median's volatility


def test_a_wild_basket_is_held_at_its_target_and_a_calm_one_whole(make_panel: MakePanel) -> None:
    length = WINDOW + 1
    panel = make_panel(SESSIONS[:length], {name: _bars(_swinging(0.02, length)) for name in ("AAA", "BBB")})
    policy = TopKPolicy(
        max_positions=2, enter_above=0.0, exit_below=0.0, volatility_sessions=WINDOW, target_volatility_frac=0.10
    )
    scores_TS = np.full((length, 2), 1.0)
    # both move together: the basket's returns are theirs
    volatility = np.tile([0.02, -0.02], WINDOW // 2).std(ddof=1) * np.sqrt(252)
    weights_TS = target_weights(panel, scores_TS, policy)
    np.testing.assert_allclose(weights_TS[-1], [0.5 * 0.10 / volatility] * 2, rtol=1e-12)
    calm = dataclasses.replace(policy, target_volatility_frac=0.50)
    np.testing.assert_allclose(target_weights(panel, scores_TS, calm)[-1], [0.5, 0.5])
    assert weights_TS[:5].sum() == 0.0  # four returns or fewer: no estimate, nothing is bought


def test_scores_of_another_shape_are_refused(make_panel: MakePanel) -> None:
    panel = make_panel(SESSIONS[:3], {"AAA": _bars([10_000.0] * 3)})
    with pytest.raises(UsageError, match="axes"):
        target_weights(panel, np.zeros((3, 2)), TopKPolicy())


def _random_market(make_panel: MakePanel, rng: np.random.Generator, length: int) -> Panel:
    """Five symbols that walk, stop trading, are listed late, split and stand still."""
    bars: dict[str, list[Bar]] = {}
    for number in range(5):
        swing, price, factor, rows = float(rng.choice([0.0, 0.005, 0.03])), 20_000.0, 1.0, list[Bar]()
        listed = int(rng.choice([0, 0, length // 2]))
        for place in range(length):
            price *= 1 + swing * float(rng.standard_normal())
            if rng.random() < 0.03:
                factor, price = factor * 2, price / 2
            absent = place < listed or rng.random() < 0.15
            rows.append(None if absent else (price, price, 10_000, factor))
        bars[f"S{number}"] = rows
    return make_panel(SESSIONS[:length], bars)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    weighting=st.sampled_from(["equal", "inverse_volatility"]),
    target=st.sampled_from([None, 0.08]),
    cap=st.sampled_from([None, 0.3]),
)
def test_weights_keep_their_limits_and_know_nothing_of_later_sessions(
    make_panel: MakePanel, seed: int, weighting: str, target: float | None, cap: float | None
) -> None:
    rng = np.random.default_rng(seed)
    length = 45
    panel = _random_market(make_panel, rng, length)
    policy = TopKPolicy(
        max_positions=3,
        enter_above=0.5,
        exit_below=0.3,
        weighting=weighting,  # type: ignore[arg-type]
        volatility_sessions=WINDOW,
        target_volatility_frac=target,
        max_weight_frac=cap,
    )
    scores_TS = np.where(rng.random((length, 5)) < 0.1, nan, rng.standard_normal((length, 5)))
    weights_TS = target_weights(panel, scores_TS, policy)
    wanted_TS = desired_positions(scores_TS, policy)
    assert np.isfinite(weights_TS).all()
    assert (weights_TS >= 0).all()
    assert (weights_TS[~wanted_TS] == 0).all()
    assert (weights_TS.sum(axis=1) <= wanted_TS.sum(axis=1) / 3 + 1e-12).all()
    assert weights_TS.max() <= (2 / 3 if cap is None else cap) * (1 + 1e-9)
    if target is None and cap is None:
        np.testing.assert_allclose(weights_TS.sum(axis=1), wanted_TS.sum(axis=1) / 3)
        assert (weights_TS[wanted_TS] > 0).all()
    cut = int(rng.integers(1, length))
    early_TS = target_weights(panel.until(SESSIONS[cut - 1]), scores_TS[:cut], policy)
    assert early_TS.tobytes() == weights_TS[:cut].tobytes()


def test_a_scaled_basket_would_have_had_its_target_volatility(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(5)
    length = 200
    prices = {f"S{number}": 20_000 * np.exp(0.02 * rng.standard_normal(length).cumsum()) for number in range(6)}
    panel = make_panel(SESSIONS[:length], {symbol: _bars(of.tolist()) for symbol, of in prices.items()})
    policy = TopKPolicy(
        max_positions=3, enter_above=0.5, exit_below=0.3, weighting="inverse_volatility", target_volatility_frac=0.10
    )
    weights_TS = target_weights(panel, rng.standard_normal((length, 6)), policy)
    returns_TS = np.array([of[1:] / of[:-1] - 1 for of in prices.values()]).T
    for t in range(60, length):
        basket = returns_TS[t - 60 : t] @ weights_TS[t]
        assert basket.std(ddof=1) * np.sqrt(252) == pytest.approx(0.10, rel=1e-9)
