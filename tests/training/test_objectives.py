"""Losses against SciPy, hand sums and finite differences; parts of a step against the whole step."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vnfleet.model.stockformer import Forecast
from vnfleet.training import pairwise
from vnfleet.training.objectives import Counts, Labels, count_labels, loss_of, session_correlation
from vnfleet.training.recipe import ObjectiveConfig

NOTHING = ObjectiveConfig(
    rank_ic_weight=0.0, rank_mse_weight=0.0, path_weight=0.0, volatility_weight=0.0, direction_weight=1.0
)
IC_ONLY = dataclasses.replace(NOTHING, direction_weight=0.0, rank_ic_weight=1.0)
PAIRS_ONLY = dataclasses.replace(NOTHING, direction_weight=0.0, pairwise_weight=1.0, primary_share=0.0)
EVERYTHING = ObjectiveConfig(
    rank_ic_weight=1.0,
    pairwise_weight=0.7,
    rank_mse_weight=0.3,
    path_weight=0.2,
    direction_weight=0.4,
    volatility_weight=0.1,
    min_labels_per_session=20,
    primary_share=0.3,
)


def labels_of(
    target_SO: Tensor,
    *,
    labelled_SO: Tensor | None = None,
    path_SOH: Tensor | None = None,
    up_SO: Tensor | None = None,
    primary_S: Tensor | None = None,
) -> Labels:
    """Return labels that are all there, apart from path and direction, which are unknown unless given."""
    unknown = torch.full_like(target_SO, torch.nan)
    return Labels(
        target_SO,
        torch.ones_like(target_SO, dtype=torch.bool) if labelled_SO is None else labelled_SO,
        unknown.unsqueeze(-1).repeat(1, 1, 2) if path_SOH is None else path_SOH,
        unknown if up_SO is None else up_SO,
        torch.ones(len(target_SO), dtype=torch.bool) if primary_S is None else primary_S,
    )


def forecast_of(score_SO: Tensor) -> Forecast:
    shape = (*score_SO.shape, 2)
    return Forecast(score_SO, torch.zeros(shape), torch.ones(shape))


def whole_loss(forecast: Forecast, labels: Labels, config: ObjectiveConfig, num_models: int = 1) -> Tensor:
    return loss_of(forecast, labels, config, count_labels([labels], config, num_models), num_models)


def one_loss(score_SO: Tensor, labels: Labels, config: ObjectiveConfig) -> float:
    return float(whole_loss(forecast_of(score_SO), labels, config))


def pair_loss(score: np.ndarray, target: np.ndarray) -> float:
    """Return the mean over pairs of -log P(the higher one is ranked higher), P by Bradley and Terry's ratio."""
    strength = np.exp(score)
    losses = [
        -math.log(strength[i] / (strength[i] + strength[j]))
        for i in range(len(score))
        for j in range(len(score))
        if target[i] > target[j]
    ]
    return float(np.mean(losses))


def test_session_correlation_is_pearson_over_the_counted_symbols() -> None:
    generator = np.random.default_rng(0)
    score, target = generator.standard_normal((2, 50, 4))
    counted = generator.random((50, 4)) > 0.3
    found = session_correlation(torch.from_numpy(score), torch.from_numpy(target), torch.from_numpy(counted))
    for column in range(4):
        keep = counted[:, column]
        expected = stats.pearsonr(score[keep, column], target[keep, column]).statistic
        assert float(found[column]) == pytest.approx(expected, abs=1e-9)


def test_a_perfect_score_earns_minus_one_and_thin_sessions_earn_nothing() -> None:
    target = torch.randn(40, 3)
    labelled = torch.ones(40, 3, dtype=torch.bool)
    labelled[10:, 2] = False
    labels = labels_of(target, labelled_SO=labelled)
    assert one_loss(target * 7.0, labels, IC_ONLY) == pytest.approx(-1.0, abs=1e-4)
    upside_down = target.clone()
    upside_down[:, 2] = -target[:, 2]
    assert one_loss(upside_down, labels, IC_ONLY) == pytest.approx(-1.0, abs=1e-4)


def test_the_rank_terms_mix_all_symbols_and_the_primary_ones_by_share() -> None:
    generator = np.random.default_rng(1)
    score, target = generator.standard_normal((2, 80, 2))
    primary = np.arange(80) < 35
    labels = labels_of(torch.from_numpy(target), primary_S=torch.from_numpy(primary))

    def correlation(rows: np.ndarray) -> float:
        return float(np.mean([stats.pearsonr(score[rows, day], target[rows, day]).statistic for day in range(2)]))

    def pairs(rows: np.ndarray) -> float:
        return float(np.mean([pair_loss(score[rows, day], target[rows, day]) for day in range(2)]))

    def squares(rows: np.ndarray) -> float:
        return float(((score - target)[rows] ** 2).mean())

    everyone = np.ones(80, dtype=bool)
    scored = torch.from_numpy(score)
    for config, by_hand, sign in (
        (dataclasses.replace(IC_ONLY, primary_share=0.25), correlation, -1.0),
        (dataclasses.replace(PAIRS_ONLY, primary_share=0.25), pairs, 1.0),
        (dataclasses.replace(IC_ONLY, rank_ic_weight=0.0, rank_mse_weight=1.0, primary_share=0.25), squares, 1.0),
    ):
        expected = sign * (0.75 * by_hand(everyone) + 0.25 * by_hand(primary))
        assert one_loss(scored, labels, config) == pytest.approx(expected, abs=1e-9)


def test_a_session_may_have_enough_symbols_but_too_few_primary_ones() -> None:
    target = torch.randn(60, 2, dtype=torch.float64)
    primary = torch.arange(60) < 35
    labelled = torch.ones(60, 2, dtype=torch.bool)
    labelled[:10, 1] = False  # 25 primary symbols left on the second day, 50 of all
    score = target.clone()
    score[:, 1] *= -1.0
    config = dataclasses.replace(IC_ONLY, primary_share=0.5)
    labels = labels_of(target, labelled_SO=labelled, primary_S=primary)
    assert one_loss(score, labels, config) == pytest.approx(0.5 * -(1.0 - 1.0) / 2 + 0.5 * -1.0, abs=1e-9)
    assert count_labels([labels], config, 1).sessions_GM.tolist() == [[2], [1]]


def test_pairs_with_equal_targets_are_no_pairs_and_sessions_without_pairs_do_not_dilute() -> None:
    generator = np.random.default_rng(2)
    score = generator.standard_normal((30, 2))
    target = np.stack([np.repeat([0.0, 1.0, 2.0], 10), np.full(30, 4.0)], axis=1)
    labels = labels_of(torch.from_numpy(target))
    expected = pair_loss(score[:, 0], target[:, 0])
    assert one_loss(torch.from_numpy(score), labels, PAIRS_ONLY) == pytest.approx(expected, abs=1e-12)
    assert one_loss(torch.zeros(30, 2), labels, PAIRS_ONLY) == pytest.approx(math.log(2.0), rel=1e-6)


def test_the_pair_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    score, target = torch.randn(2, 24, 2, generator=generator, dtype=torch.float64)
    primary, labelled = torch.arange(24) < 22, torch.ones(24, 2, dtype=torch.bool)
    labelled[20, 0] = False
    labels = labels_of(target.round(), labelled_SO=labelled, primary_S=primary)
    config = dataclasses.replace(PAIRS_ONLY, primary_share=0.4, min_labels_per_session=20)
    score.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: whole_loss(forecast_of(x), labels, config), (score,))


def test_pairs_are_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    score, target = torch.randn(2, 33, 3, generator=generator, dtype=torch.float64)
    labels = labels_of(target, primary_S=torch.arange(33) < 31)
    found = []
    for pairs in (1, 3 * 33 * 5, 2**20):
        monkeypatch.setattr(pairwise, "_BLOCK_PAIRS_CPU", pairs)
        leaf = score.clone().requires_grad_()
        loss = whole_loss(forecast_of(leaf), labels, dataclasses.replace(PAIRS_ONLY, primary_share=0.5))
        torch.autograd.backward(loss)
        assert leaf.grad is not None
        found.append(torch.cat([loss.detach(), leaf.grad.flatten()]))
    torch.testing.assert_close(found[0], found[2], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[1], found[2], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("path_loss", "first", "second"), [("huber", 0.125, 2.5), ("mse", 0.25, 9.0)])
def test_path_and_volatility_parts_match_hand_sums(path_loss: str, first: float, second: float) -> None:
    labels = labels_of(torch.zeros(1, 1), path_SOH=torch.tensor([[[0.5, 3.0]]]))  # one symbol: no rank part
    forecast = Forecast(torch.zeros(1, 1), torch.zeros(1, 1, 2), torch.tensor([[[1.0, 2.0]]]))
    nll = (0.5 * 0.5**2 + 0.0 + 0.5 * 1.5**2 + math.log(2.0)) / 2
    config = dataclasses.replace(ObjectiveConfig(), path_weight=0.3, volatility_weight=0.7, path_loss=path_loss)  # type: ignore[arg-type]
    expected = 0.3 * (first + second) / 2 + 0.7 * nll
    assert float(whole_loss(forecast, labels, config)) == pytest.approx(expected, rel=1e-6)


def test_the_direction_part_is_the_surprise_at_what_happened() -> None:
    # log-odds log 3 say 75 % up. Up: -log 0.75. Down: -log 0.25. Unchanged: half of each. Unknown: not counted.
    logit = torch.full((4, 1), math.log(3.0))
    labels = labels_of(torch.zeros(4, 1), up_SO=torch.tensor([[1.0], [0.0], [0.5], [torch.nan]]))
    surprises = [-math.log(0.75), -math.log(0.25), -0.5 * math.log(0.75) - 0.5 * math.log(0.25)]
    config = dataclasses.replace(NOTHING, direction_weight=2.0)
    assert one_loss(logit, labels, config) == pytest.approx(2.0 * sum(surprises) / 3, rel=1e-6)


def test_the_volatility_part_does_not_pull_on_the_path() -> None:
    path = torch.zeros(1, 1, 1, requires_grad=True)
    volatility = torch.ones(1, 1, 1, requires_grad=True)
    labels = labels_of(torch.zeros(1, 1), path_SOH=torch.full((1, 1, 1), 2.0))
    config = dataclasses.replace(ObjectiveConfig(), path_weight=0.5)
    torch.autograd.backward(whole_loss(Forecast(torch.zeros(1, 1), path, volatility), labels, config))
    assert path.grad is not None
    assert float(path.grad) == pytest.approx(-0.5)  # Huber's slope beyond 1, and nothing else
    assert volatility.grad is not None
    assert float(volatility.grad) < 0.0


@dataclasses.dataclass
class Case:
    """Random labels and forecasts of some models, with holes, ties, thin and empty sessions."""

    leaves: tuple[Tensor, Tensor, Tensor]
    labels: Labels
    num_models: int

    @staticmethod
    def random(seed: int, num_models: int, num_symbols: int, num_sessions: int) -> Case:
        generator = np.random.default_rng(seed)
        rows, shape = num_models * num_symbols, (num_models * num_symbols, num_sessions)
        labelled = generator.random(shape) > generator.choice([0.1, 0.5], size=num_sessions)
        if num_sessions > 1:
            labelled[:, 0] = False
        path = generator.standard_normal((*shape, 3))
        path[generator.random(path.shape) < 0.1] = np.nan
        up = generator.choice([0.0, 0.5, 1.0, np.nan], size=shape)
        target = np.where(labelled, generator.standard_normal(shape).round(1), 0.0)
        labels = Labels(
            torch.from_numpy(target),
            torch.from_numpy(labelled),
            torch.from_numpy(path),
            torch.from_numpy(up),
            torch.from_numpy(generator.random(rows) > 0.25),
        )
        score, expected = generator.standard_normal(shape), generator.standard_normal((*shape, 3))
        score[~labelled] = np.nan  # an absent symbol's forecast means nothing
        volatility = generator.random((*shape, 3)) + 0.5
        leaves = tuple(torch.from_numpy(array).requires_grad_() for array in (score, expected, volatility))
        return Case((leaves[0], leaves[1], leaves[2]), labels, num_models)

    def loss(self, config: ObjectiveConfig, runs: list[slice] | None = None) -> Tensor:
        parts = [self.part(run) for run in runs or [slice(None)]]
        counts = count_labels([labels for _, labels in parts], config, self.num_models)
        losses = [loss_of(forecast, labels, config, counts, self.num_models) for forecast, labels in parts]
        return torch.stack(losses).sum(0)

    def part(self, run: slice, rows: slice = slice(None)) -> tuple[Forecast, Labels]:
        forecast = Forecast(*(leaf[rows, run] for leaf in self.leaves))
        whole = self.labels
        labels = Labels(
            whole.target_SO[rows, run],
            whole.labelled_SO[rows, run],
            whole.path_SOH[rows, run],
            whole.up_SO[rows, run],
            whole.primary_S[rows],
        )
        return forecast, labels

    def gradient(self, loss_M: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss_M.sum(), self.leaves)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_models=st.integers(1, 3),
    num_symbols=st.integers(1, 45),
    cuts=st.lists(st.integers(0, 7), max_size=4),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_the_parts_of_a_step_add_up_to_the_whole_step(
    seed: int, num_models: int, num_symbols: int, cuts: list[int], share: float
) -> None:
    config = dataclasses.replace(EVERYTHING, primary_share=share)
    case = Case.random(seed, num_models, num_symbols, 7)
    edges = sorted({0, 7, *cuts})
    runs = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
    whole, split = case.loss(config), case.loss(config, runs)
    torch.testing.assert_close(split, whole, rtol=0.0, atol=1e-10)
    for found, expected in zip(case.gradient(split), case.gradient(whole), strict=True):
        assert bool(expected.isfinite().all())
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), num_models=st.integers(2, 4), num_symbols=st.integers(1, 40))
def test_every_model_of_a_stack_has_the_loss_it_would_have_alone(seed: int, num_models: int, num_symbols: int) -> None:
    case = Case.random(seed, num_models, num_symbols, 5)
    together = case.loss(EVERYTHING)
    assert together.shape == (num_models,)
    for model in range(num_models):
        rows = slice(model * num_symbols, (model + 1) * num_symbols)
        alone = whole_loss(*case.part(slice(None), rows), EVERYTHING)
        torch.testing.assert_close(together[model : model + 1], alone, rtol=0.0, atol=1e-12)


def test_a_step_without_any_label_costs_nothing_and_pulls_nowhere() -> None:
    case = Case.random(5, 2, 30, 4)
    case.labels.labelled_SO.fill_(False)
    loss = case.loss(EVERYTHING)
    assert loss.tolist() == [0.0, 0.0]
    assert all(float(gradient.abs().max()) == 0.0 for gradient in case.gradient(loss))


def test_forecasts_that_are_nan_where_nothing_is_known_do_no_harm() -> None:
    case = Case.random(6, 1, 40, 4)
    hidden = ~case.labels.labelled_SO
    with torch.no_grad():
        for leaf in case.leaves:
            leaf[hidden] = torch.nan
    loss = case.loss(EVERYTHING)
    assert bool(loss.isfinite().all())
    for gradient in case.gradient(loss):
        assert float(gradient[hidden].abs().max()) == 0.0
        assert bool(gradient.isfinite().all())


def test_a_constant_score_has_a_finite_gradient() -> None:
    target = torch.randn(40, 2)
    score = torch.zeros(40, 2, requires_grad=True)
    torch.autograd.backward(whole_loss(forecast_of(score), labels_of(target), EVERYTHING))
    assert score.grad is not None
    assert bool(score.grad.isfinite().all())


def test_half_precision_forecasts_are_judged_in_the_precision_of_the_labels() -> None:
    case = Case.random(7, 1, 40, 3)
    forecast, labels = case.part(slice(None))
    short = Forecast(*(leaf.detach().bfloat16() for leaf in case.leaves))
    loss = whole_loss(short, labels, EVERYTHING)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(float(whole_loss(forecast, labels, EVERYTHING).detach()), rel=2e-2)


def test_a_model_learns_only_from_terms_that_have_a_weight_and_a_label() -> None:
    target = torch.arange(60, dtype=torch.float64).reshape(60, 1)
    labelled = torch.ones(60, 1, dtype=torch.bool)
    labelled[35:] = False  # the second model has 5 labels: too few for a cross-section
    path = torch.full((60, 1, 1), torch.nan, dtype=torch.float64)
    labels = labels_of(target, labelled_SO=labelled, path_SOH=path)

    def learns(config: ObjectiveConfig) -> list[bool]:
        learns_M: list[bool] = count_labels([labels], config, 2).learns_M(config).tolist()
        return learns_M

    assert learns(ObjectiveConfig()) == [True, False]
    assert learns(PAIRS_ONLY) == [True, False]
    assert learns(ObjectiveConfig().own_series()) == [False, False]
    path[32] = 0.01
    assert learns(ObjectiveConfig()) == [True, True]
    labels.up_SO[:2] = 1.0
    assert learns(NOTHING) == [True, False]


def test_counting_and_loss_never_wait_for_the_device() -> None:
    # A fake tensor has no numbers: whatever asks for one, or for a shape that depends on one, fails.
    with FakeTensorMode():
        shape = (2 * 40, 6)
        labels = Labels(
            torch.randn(shape),
            torch.ones(shape, dtype=torch.bool),
            torch.randn(*shape, 3),
            torch.ones(shape),
            torch.ones(80, dtype=torch.bool),
        )
        score = torch.randn(shape, requires_grad=True)
        forecast = Forecast(score, torch.randn(*shape, 3), torch.ones(*shape, 3))
        counts: Counts = count_labels([labels], EVERYTHING, 2)
        counts.learns_M(EVERYTHING)
        loss = loss_of(forecast, labels, EVERYTHING, counts, 2)
        torch.autograd.backward(loss.sum())
        assert score.grad is not None
        assert score.grad.shape == shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_finds_the_same_loss_without_waiting() -> None:
    case = Case.random(8, 2, 40, 6)
    expected = case.loss(EVERYTHING)
    gradients = case.gradient(expected)
    labels = Labels(*(getattr(case.labels, item.name).cuda() for item in dataclasses.fields(Labels)))
    leaves = [leaf.detach().cuda().requires_grad_() for leaf in case.leaves]
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = whole_loss(Forecast(*leaves), labels, EVERYTHING, 2)
        found = torch.autograd.grad(loss.sum(), leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-12)


def test_a_cross_sectional_loss_on_few_symbols_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 20"):
        ObjectiveConfig(min_labels_per_session=10)
