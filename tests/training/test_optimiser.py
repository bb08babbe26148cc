"""The flat optimiser against torch's own optimiser, clipping, schedulers, averaging and gradient scaler."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vnfleet.core.errors import BadDataError
from vnfleet.training import optimiser
from vnfleet.training.optimiser import Ema, FlatAdamW, LossScale, clip_rows, learning_rate_at

Schedule = Literal["onecycle", "cosine", "constant"]


def random_rows(seed: int, models: int, width: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(models, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stack_of(value_MP: Tensor, decay_P: Tensor, weight_decay: float, *, together: bool) -> FlatAdamW:
    """Return an optimiser that goes row by row, as on a CPU, or over all rows at once, as on an accelerator."""
    stack = FlatAdamW(value_MP, decay_P, weight_decay)
    stack._row_by_row = not together
    return stack


class TorchReference:
    """One model trained by torch.optim.AdamW and clip_grad_norm_, its numbers split into a decayed and a free part."""

    def __init__(self, value_P: Tensor, decayed: int, weight_decay: float) -> None:
        self.decayed = decayed
        self.parts = [value_P[:decayed].clone().requires_grad_(), value_P[decayed:].clone().requires_grad_()]
        groups = [
            {"params": [self.parts[0]], "weight_decay": weight_decay},
            {"params": [self.parts[1]], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=1.0)

    def step(self, grad_P: Tensor, rate: float, limit: float) -> float:
        self.parts[0].grad, self.parts[1].grad = grad_P[: self.decayed].clone(), grad_P[self.decayed :].clone()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parts, limit))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        return norm

    @property
    def value_P(self) -> Tensor:
        return torch.cat(self.parts).detach()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    models=st.integers(1, 5),
    width=st.integers(1, 40),
    weight_decay=st.sampled_from([0.0, 0.05]),
    limit=st.sampled_from([0.5, 3.0, 100.0]),
    together=st.booleans(),
)
def test_a_stack_takes_the_steps_torch_takes_with_each_model_alone(
    seed: int, models: int, width: int, weight_decay: float, limit: float, together: bool
) -> None:
    generator = np.random.default_rng(seed)
    decayed = int(generator.integers(width + 1))
    value_MP = random_rows(seed, models, width)
    alone = [TorchReference(value_P, decayed, weight_decay) for value_P in value_MP]
    decay_P = (torch.arange(width) < decayed).double()
    stack = stack_of(value_MP, decay_P, weight_decay, together=together)
    for step in range(12):
        grad_MP = random_rows(seed + step + 1, models, width) * 10.0 ** generator.integers(-6, 2)
        rates = generator.uniform(1e-4, 1e-1, size=models)
        expected = [
            one.step(grad_P, float(rate), limit) for one, grad_P, rate in zip(alone, grad_MP, rates, strict=True)
        ]
        norm_M = clip_rows(grad_MP, limit)
        stack.step(grad_MP, torch.from_numpy(rates), norm_M.isfinite())
        np.testing.assert_allclose(norm_M.numpy(), expected, rtol=1e-12)
    for row, one in zip(value_MP, alone, strict=True):
        torch.testing.assert_close(row, one.value_P, rtol=1e-12, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    plan=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), max_size=8),
    together=st.booleans(),
)
def test_a_row_that_is_not_ok_lives_as_if_the_step_had_not_been(
    seed: int, plan: list[list[bool]], together: bool
) -> None:
    models, width = 3, 17
    start_MP, decay_P = random_rows(seed, models, width), torch.ones(width)
    value_MP = start_MP.clone()
    stack, average = stack_of(value_MP, decay_P, 0.1, together=together), Ema(value_MP, 0.9)
    alone_values = [row.clone().unsqueeze(0) for row in start_MP]
    alone = [(stack_of(row, decay_P, 0.1, together=together), Ema(row, 0.9)) for row in alone_values]
    for step, ok in enumerate(plan):
        grad_MP, ok_M = random_rows(seed + step + 1, models, width), torch.tensor(ok)
        grad_MP[~ok_M] = torch.tensor([torch.nan, torch.inf, -torch.inf])[step % 3]
        rate_M = torch.full((models,), 0.01)
        stack.step(grad_MP, rate_M, ok_M)
        average.update(value_MP, ok_M)
        for model in itertools.compress(range(models), ok):
            alone[model][0].step(grad_MP[model : model + 1], rate_M[model : model + 1])
            alone[model][1].update(alone_values[model])
    for model, (one, own_average) in enumerate(alone):
        assert torch.equal(value_MP[model], alone_values[model][0])
        for name, tensor in (*one.state().items(), *own_average.state().items()):
            assert torch.equal((stack.state() | average.state())[name][model], tensor[0]), name


@pytest.mark.parametrize("together", [False, True])
def test_every_bit_is_the_same_in_any_stack_and_in_blocks_of_any_size(
    monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    def trained(rows: slice, block: int) -> Tensor:
        monkeypatch.setattr(optimiser, "_BLOCK_CPU", block)
        value_MP = random_rows(1, 5, 1003, dtype=torch.float32)[rows].clone()
        stack = stack_of(value_MP, (torch.arange(1003) // 48 % 2).float(), 0.05, together=together)
        for step in range(5):
            grad_MP = random_rows(step + 2, 5, 1003, dtype=torch.float32)[rows]
            stack.step(grad_MP, torch.full((len(value_MP),), 1e-2))
        return value_MP

    whole = trained(slice(None), 2**20)
    assert torch.equal(trained(slice(None), 1), whole)  # 256 columns at a time
    assert torch.equal(trained(slice(2, 3), 2**20)[0], whole[2])
    assert torch.equal(trained(slice(1, 4), 700)[1], whole[2])


def test_finished_models_leave_and_the_others_go_on_as_before() -> None:
    def run(compacted: bool) -> Tensor:
        value_MP = random_rows(3, 4, 9)
        stack, average = FlatAdamW(value_MP, torch.ones(9), 0.05), Ema(value_MP, 0.5)
        rows = torch.tensor([0, 3])
        for step in range(6):
            if compacted and step == 3:
                value_MP = value_MP[rows]
                stack.keep(rows, value_MP)
                average.keep(rows)
            grad_MP = random_rows(step + 4, 4, 9)[rows if len(value_MP) == 2 else slice(None)]
            stack.step(grad_MP, torch.full((len(value_MP),), 0.05))
            average.update(value_MP)
        kept = slice(None) if compacted else rows
        return torch.cat([value_MP[kept], average.shadow_MP[kept]])

    assert torch.equal(run(compacted=True), run(compacted=False))


def test_a_state_saved_and_loaded_goes_on_bit_for_bit() -> None:
    def step(value_MP: Tensor, stack: FlatAdamW, average: Ema, number: int) -> None:
        stack.step(random_rows(number, 2, 5), torch.tensor([0.1, 0.2]), torch.tensor([True, number % 2 == 0]))
        average.update(value_MP)

    value_MP = random_rows(0, 2, 5)
    stack, average = FlatAdamW(value_MP, torch.ones(5), 0.1), Ema(value_MP, 0.9)
    for number in range(4):
        step(value_MP, stack, average, number)
    again_MP = value_MP.clone()
    again, again_average = FlatAdamW(again_MP, torch.ones(5), 0.1), Ema(again_MP, 0.9)
    again.load_state({name: tensor.clone() for name, tensor in stack.state().items()})
    again_average.load_state({name: tensor.clone() for name, tensor in average.state().items()})
    for number in range(4, 8):
        step(value_MP, stack, average, number)
        step(again_MP, again, again_average, number)
    assert torch.equal(again_MP, value_MP)
    assert torch.equal(again_average.shadow_MP, average.shadow_MP)


def test_the_state_of_another_stack_is_refused() -> None:
    stack = FlatAdamW(torch.zeros(2, 5), torch.ones(5), 0.1)
    other = FlatAdamW(torch.zeros(3, 5), torch.ones(5), 0.1)
    with pytest.raises(BadDataError, match="optimiser does not fit"):
        stack.load_state(other.state())
    with pytest.raises(BadDataError, match="weight average does not fit"):
        Ema(torch.zeros(2, 5), 0.5).load_state(stack.state())
    with pytest.raises(BadDataError, match="loss scale does not fit"):
        LossScale(2).load_state(LossScale(1).state())


def test_a_scaled_gradient_is_clipped_by_its_true_norm() -> None:
    grad_MP = torch.tensor([[3.0, 4.0], [0.3, 0.4], [torch.inf, 1.0], [torch.nan, 1.0]]).double()
    scale_M = torch.tensor([8.0, 1024.0, 2.0, 2.0])
    scaled_MP = grad_MP * scale_M.unsqueeze(1)
    norm_M = clip_rows(scaled_MP, 1.0, scale_M)
    assert norm_M[:2].tolist() == pytest.approx([5.0, 0.5])
    assert norm_M.isfinite().tolist() == [True, True, False, False]
    torch.testing.assert_close(scaled_MP[:2], torch.tensor([[0.6, 0.8], [0.3, 0.4]]).double(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("warmup_frac", [0.0, 0.3])
@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_learning_rates_are_those_of_torch_schedulers(schedule: Schedule, total: int, warmup_frac: float) -> None:
    peak, warmup = 2e-3, round(warmup_frac * total)
    torch_optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler: LRScheduler
    if schedule == "onecycle":
        warmup = max(1, warmup)
        scheduler = OneCycleLR(  # its phases end at steps warmup and total, its last rate is peak / 25 / 400
            torch_optimiser,
            max_lr=peak,
            total_steps=total + 1,
            pct_start=(warmup + 1) / (total + 1),
            final_div_factor=400.0,
            cycle_momentum=False,
        )
    else:
        up = LinearLR(torch_optimiser, start_factor=1.0 / (warmup + 1), total_iters=max(1, warmup))
        after: LRScheduler = CosineAnnealingLR(torch_optimiser, T_max=total - warmup)
        if schedule == "constant":
            after = ConstantLR(torch_optimiser, factor=1.0)
        scheduler = SequentialLR(torch_optimiser, [up, after], [warmup]) if warmup else after
    for step in range(total):
        found = learning_rate_at(step, total, peak, warmup_frac, schedule)
        assert found == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-15), step
        torch_optimiser.step()
        scheduler.step()


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(1, 500),
    peak=st.floats(1e-6, 1.0),
    warmup_frac=st.floats(0.0, 0.99),
    schedule=st.sampled_from(["onecycle", "cosine", "constant"]),
)
def test_learning_rates_rise_once_to_the_peak_and_never_rise_again(
    total: int, peak: float, warmup_frac: float, schedule: Schedule
) -> None:
    rates = [learning_rate_at(step, total, peak, warmup_frac, schedule) for step in range(total)]
    top = int(np.argmax(rates))
    assert all(0.0 < rate <= peak * (1.0 + 1e-12) for rate in rates)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.995])
def test_the_average_weighs_what_was_seen_and_nothing_else(decay: float) -> None:
    values = [random_rows(step, 1, 6) for step in range(30)]
    average = Ema(random_rows(99, 1, 6) * 1e6, decay)  # a start far away leaves no trace
    for count, value in enumerate(values, start=1):
        average.update(value)
        weights = decay ** np.arange(count)[::-1]
        expected = np.average(np.concatenate(values[:count]), axis=0, weights=weights)
        np.testing.assert_allclose(average.shadow_MP[0].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_average_forgets_its_start_where_the_average_of_torch_remembers_it() -> None:
    # After long enough both are the same: torch starts at the first value, which has weight decay ** n by then.
    module = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
    torchs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.8))  # type: ignore[no-untyped-call]
    average = Ema(torch.zeros(1, 3, dtype=torch.float64), 0.8)
    for step in range(200):
        with torch.no_grad():
            module.weight.copy_(random_rows(step, 1, 3))
        torchs.update_parameters(module)
        average.update(module.weight.detach())
    torch.testing.assert_close(average.shadow_MP, next(torchs.parameters()).detach(), rtol=1e-12, atol=1e-12)


def test_a_decay_that_never_forgets_is_refused() -> None:
    with pytest.raises(ValueError, match="ema_decay"):
        Ema(torch.zeros(1, 1), 1.0)


@settings(max_examples=20, deadline=None)
@given(overflows=st.lists(st.sampled_from([False, False, False, True]), max_size=25))
def test_the_loss_scale_moves_as_the_gradient_scaler_of_torch(overflows: list[bool]) -> None:
    scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    weight = torch.zeros(1, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=0.1)
    scale = LossScale(2, growth_interval_steps=3)
    for overflow in overflows:
        sgd.zero_grad()
        torch.autograd.backward(scaler.scale((weight * (torch.inf if overflow else 1.0)).sum()))
        scaler.step(sgd)
        scaler.update()
        scale.update(torch.tensor([True, not overflow]))
        assert float(scale.scale_M[1]) == scaler.get_scale()
    assert float(scale.scale_M[0]) == 2.0**16 * 2.0 ** (len(overflows) // 3)


def test_a_model_that_took_no_part_keeps_its_scale_and_its_count() -> None:
    scale = LossScale(2, growth_interval_steps=2)
    for finite, used in ((True, True), (False, False), (True, False), (True, True)):
        scale.update(torch.tensor([finite, True]), torch.tensor([used, True]))
    assert scale.scale_M.tolist() == [2.0**17, 2.0**18]
    assert scale.good_steps_M.tolist() == [0, 0]


def test_a_scale_below_one_stops_the_training_with_the_reason() -> None:
    scale = LossScale(3)
    for _ in range(16):
        scale.update(torch.tensor([True, False, True]))
    scale.check("backbone, step 16")
    scale.update(torch.tensor([True, False, True]))
    with pytest.raises(BadDataError, match=r"(?s)overflow fp16.*0\.5 in 1 of 3 models \(rows \[1\]\).*backbone"):
        scale.check("backbone, step 17")
    scale.keep(torch.tensor([0, 2]))
    scale.check("backbone, step 18")


def test_the_loss_scale_never_grows_to_infinity() -> None:
    scale = LossScale(1, growth_interval_steps=1)
    for _ in range(200):
        scale.update(torch.tensor([True]))
    assert bool(scale.scale_M.isfinite().all())


def test_without_scaling_the_scale_is_one_whatever_happens() -> None:
    scale = LossScale(1, enabled=False)
    loss = torch.tensor([2.5])
    assert scale.scaled(loss) is loss
    scale.update(torch.tensor([False]))
    scale.check("anywhere")
    assert scale.scale_M.tolist() == [1.0]
    assert LossScale(1).scaled(loss).tolist() == [2.5 * 65536]


def test_a_step_never_waits_for_the_device() -> None:
    # A fake tensor has no numbers: whatever asks for one fails.
    with FakeTensorMode():
        value_MP, grad_MP = torch.zeros(3, 8), torch.ones(3, 8)
        stack = FlatAdamW(value_MP, torch.ones(8), 0.1, compiled=True)  # not the CPU's way, row by row
        stack._update = optimiser._update
        average, scale = Ema(value_MP, 0.9), LossScale(3)
        norm_M = clip_rows(grad_MP, 1.0, scale.scale_M)
        stack.step(grad_MP, torch.full((3,), 0.1), norm_M.isfinite())
        average.update(value_MP, norm_M.isfinite())
        scale.update(norm_M.isfinite())
        assert stack.value_MP.shape == (3, 8)


def test_the_update_is_one_graph_for_every_size_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile(optimiser._update, dynamic=True, fullgraph=True, backend="eager")
    monkeypatch.setattr(optimiser, "_compiled_update", lambda: compiled)
    found = []
    for stack in (
        FlatAdamW(random_rows(0, 6, 12), torch.ones(12), 0.1, compiled=True),
        stack_of(random_rows(0, 6, 12), torch.ones(12), 0.1, together=True),
    ):
        for models in (6, 4, 3, 2):
            stack.keep(torch.arange(models), stack.value_MP[:models].clone())
            stack.step(random_rows(models, models, 12), torch.full((models,), 0.1))
        found.append(stack.value_MP)
    assert torch.equal(found[0], found[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_takes_the_same_steps_without_waiting() -> None:
    def run(device: str) -> list[Tensor]:
        value_MP = random_rows(0, 4, 50).to(device)
        grads = [random_rows(step + 1, 4, 50).to(device) for step in range(5)]
        rate_M, ok_M = torch.full((4,), 0.01, device=device), torch.tensor([True, False, True, True], device=device)
        stack = FlatAdamW(value_MP, torch.ones(50, device=device), 0.1)
        average, scale = Ema(value_MP, 0.9), LossScale(4, device=device)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            for grad_MP in grads:
                finite_M = clip_rows(grad_MP, 1.0, scale.scale_M).isfinite()
                stack.step(grad_MP, rate_M, finite_M & ok_M)
                average.update(value_MP, finite_M & ok_M)
                scale.update(finite_M, ok_M)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        return [value_MP.cpu(), average.shadow_MP.cpu()]

    for found, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
