"""Memory: fake machines, a watch that is told what is used, and a model of a step held against the real network."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from vnfleet.core.errors import ResourceError
from vnfleet.model.stockformer import Stockformer, StockformerConfig, initial_weights, preset
from vnfleet.training.dropout import DropoutBank
from vnfleet.training.machine.cards import Precision
from vnfleet.training.machine.memory import (
    GIB,
    MemoryWatch,
    _MemoryStatus,
    available_bytes,
    bytes_per_model,
    group_size,
    hand_back_freed,
    is_out_of_memory,
    limit_bytes,
    measured_peak,
    num_parameters,
    parts_of_step,
    process_tree_bytes,
    step_bytes,
    total_bytes,
)

MIB = 1024**2
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the proc file system of Linux")


def write(root: Path, files: Mapping[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="ascii")


@pytest.fixture
def desktop(tmp_path: Path) -> Path:
    """A machine with 32 GiB, 20 of them free."""
    write(tmp_path, {"proc/meminfo": f"MemTotal: {32 * MIB} kB\nMemFree: 1 kB\nMemAvailable: {20 * MIB} kB"})
    return tmp_path


def test_without_limits_the_machine_decides(desktop: Path) -> None:
    assert (total_bytes(desktop), available_bytes(desktop)) == (32 * GIB, 20 * GIB)


def test_a_version_2_limit_of_any_ancestor_counts_and_clean_file_pages_are_free(desktop: Path) -> None:
    write(
        desktop,
        {
            "proc/self/cgroup": "0::/slice/box",
            "sys/fs/cgroup/slice/memory.max": 4 * GIB,
            "sys/fs/cgroup/slice/memory.current": 3 * GIB,
            "sys/fs/cgroup/slice/memory.stat": f"anon {GIB}\ninactive_file {GIB}",
            "sys/fs/cgroup/slice/box/memory.max": "max",
        },
    )
    assert (total_bytes(desktop), available_bytes(desktop)) == (4 * GIB, 2 * GIB)


def test_a_version_1_limit_counts_and_its_huge_number_means_none(desktop: Path) -> None:
    folder = "sys/fs/cgroup/memory/box"
    write(desktop, {"proc/self/cgroup": "4:memory:/box", f"{folder}/memory.limit_in_bytes": 9223372036854771712})
    assert (total_bytes(desktop), available_bytes(desktop)) == (32 * GIB, 20 * GIB)
    write(
        desktop,
        {
            f"{folder}/memory.limit_in_bytes": 8 * GIB,
            f"{folder}/memory.usage_in_bytes": 5 * GIB,
            f"{folder}/memory.stat": f"inactive_file 0\ntotal_inactive_file {2 * GIB}",
        },
    )
    assert (total_bytes(desktop), available_bytes(desktop)) == (8 * GIB, 5 * GIB)


def test_a_group_over_its_limit_has_no_room(desktop: Path) -> None:
    write(desktop, {"proc/self/cgroup": "0::/"})
    write(desktop, {"sys/fs/cgroup/memory.max": GIB, "sys/fs/cgroup/memory.current": 2 * GIB})
    assert available_bytes(desktop) == 0


def test_the_limit_to_watch_is_the_one_asked_for_within_what_there_is(desktop: Path) -> None:
    assert limit_bytes(2.5, desktop) == round(2.5 * GIB)
    assert limit_bytes(64.0, desktop) == 32 * GIB


def test_without_a_limit_asked_for_what_is_ours_and_what_is_free_may_be_used(desktop: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    write(desktop, {f"proc/{os.getpid()}/statm": f"9 {GIB // page} 0 0 0 0 0"})
    assert limit_bytes(0.0, desktop) == 21 * GIB


@pytest.mark.parametrize("lists", [True, False], ids=["kernel lists children", "kernel lists parents only"])
def test_a_process_tree_counts_private_pages_of_all_and_shared_ones_once(tmp_path: Path, lists: bool) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    parents = {10: 1, 11: 10, 12: 11, 99: 1}
    for pid, parent in parents.items():
        write(tmp_path, {f"proc/{pid}/stat": f"{pid} (a name) with) S {parent} 0 0"})
        write(tmp_path, {f"proc/{pid}/statm": f"900 {100 + pid} 60 0 0 0 0"})
        if lists:
            children = " ".join(str(one) for one, above in parents.items() if above == pid)
            write(tmp_path, {f"proc/{pid}/task/{pid}/children": children})
    # Private: 50, 51 and 52 pages; the 60 shared ones once. Process 99 is not ours.
    assert process_tree_bytes(10, tmp_path) == (50 + 51 + 52 + 60) * page


def test_a_child_that_ends_while_it_is_looked_at_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short-lived children, such as those that carry files, vanish at any moment."""
    page = os.sysconf("SC_PAGE_SIZE")
    write(tmp_path, {"proc/10/statm": "900 110 60 0 0 0 0", "proc/10/task/10/children": "11 12"})
    write(tmp_path, {"proc/12/statm": "900 112 60 0 0 0 0", "proc/12/task/12/children": "13"})
    real = os.scandir, os.listdir

    def gone(look: Callable[..., Any]) -> Callable[..., Any]:
        def without_12(folder: Any) -> Any:
            if str(folder).endswith("proc/12/task"):
                raise FileNotFoundError(2, "No such file or directory", str(folder))
            return look(folder)

        return without_12

    monkeypatch.setattr(os, "scandir", gone(real[0]))
    monkeypatch.setattr(os, "listdir", gone(real[1]))
    assert process_tree_bytes(10, tmp_path) == (50 + 52 + 60) * page


@linux_only
def test_a_child_of_this_process_is_counted() -> None:
    before = process_tree_bytes()
    code = "x = bytearray(64 << 20); print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        grown = process_tree_bytes() - before
        child.communicate(b"\n")
    assert grown > 60 * MIB


def test_the_watch_warns_once_in_words_and_tells_when_it_is_over() -> None:
    used = iter([50, 84, 85, 90, 100, 101, 80])
    words: list[str] = []
    watch = MemoryWatch(100 * GIB, 0.85, tell=words.append, used=lambda: next(used) * GIB, every_seconds=0.0)
    assert [watch.check() for _ in range(7)] == ["ok", "ok", "warn", "warn", "warn", "over", "ok"]
    assert len(words) == 1
    assert "85.0 of 100.0 GiB" in words[0]
    assert watch.peak_bytes == 101 * GIB


def test_the_watch_looks_no_more_often_than_it_should() -> None:
    looks = []
    now = iter([0.0, 0.1, 0.4, 0.5, 0.9])

    def used() -> int:
        looks.append(1)
        return 1

    watch = MemoryWatch(100, tell=lambda _: None, used=used, every_seconds=0.5, clock=lambda: next(now))
    for _ in range(5):
        watch.check()
    assert len(looks) == 2


@pytest.mark.parametrize(("limit", "share"), [(0, 0.85), (10, 0.0), (10, 1.5)])
def test_a_watch_without_a_meaning_is_refused(limit: int, share: float) -> None:
    with pytest.raises(ValueError, match="memory watch"):
        MemoryWatch(limit, share, tell=lambda _: None)


# The model of a step against the network


def shape(name: Literal["desktop", "plan"], attention: Literal["streaming", "window"]) -> StockformerConfig:
    return dataclasses.replace(preset(name), attention=attention)


@dataclasses.dataclass
class Step:
    """One forward and backward pass of M models over N sequences each."""

    network: Stockformer
    x_STF: Tensor
    sessions: int
    precision: Precision
    bank: DropoutBank

    @staticmethod
    def of(config: StockformerConfig, models: int, sequences: int, sessions: int, precision: Precision) -> Step:
        network = Stockformer(config, models)
        network.load_weights([initial_weights(config, seed=0)] * models)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        total = sessions + config.context_sessions
        x_STF = torch.randn(models * sequences, total, config.num_features)
        return Step(network, x_STF, sessions, precision, DropoutBank(config.dropout))

    def forward(self) -> Tensor:
        present_ST = torch.ones(self.x_STF.shape[:2], dtype=torch.bool)
        dropout = self.bank.at(0, range(self.network.num_models))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            forecast = self.network(self.x_STF, present_ST, self.sessions, None, dropout)
        outputs = (forecast.score_SO, forecast.path_SOH, forecast.volatility_SOH)
        return torch.stack([output.square().sum() for output in outputs]).sum()

    def run(self) -> None:
        torch.autograd.backward(self.forward())

    def kept_bytes(self) -> int:
        """What autograd holds after the forward pass, each storage once, without parameters, batch and mask bank."""
        sizes: dict[int, int] = {}
        known = {tensor.untyped_storage().data_ptr() for tensor in (*self.network.parameters(), self.x_STF)}
        bank = {2 * (1 << 22) * 4, 2 * (1 << 22) * 2}  # masks of a model alone are views of it, in either precision

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known and storage.nbytes() not in bank:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.forward()
        total = sum(sizes.values())
        del loss
        return total


CASES = [
    ("desktop", "streaming", 1, 40, 32, "float32"),
    ("desktop", "streaming", 6, 4, 32, "float32"),
    ("desktop", "streaming", 1, 40, 32, "bf16"),
    ("desktop", "window", 4, 2, 8, "float32"),
    ("plan", "window", 1, 8, 4, "float32"),
    ("plan", "window", 3, 2, 4, "bf16"),
    ("plan", "streaming", 2, 6, 20, "float32"),
]


@pytest.mark.parametrize(("name", "attention", "models", "sequences", "sessions", "precision"), CASES)
def test_what_the_network_keeps_is_what_the_model_says(
    name: Any, attention: Any, models: int, sequences: int, sessions: int, precision: Precision
) -> None:
    config = shape(name, attention)
    kept = Step.of(config, models, sequences, sessions, precision).kept_bytes()
    expected = models * step_bytes(config, sequences, sessions, precision, stacked=models > 1).kept
    assert 0.8 < expected / kept < 1.25


@linux_only
@pytest.mark.parametrize(
    ("name", "attention", "models", "sequences", "sessions", "precision"),
    [
        ("desktop", "streaming", 1, 200, 32, "float32"),
        ("plan", "window", 2, 8, 8, "float32"),
        ("plan", "streaming", 2, 24, 32, "float32"),
        ("desktop", "window", 4, 4, 24, "float32"),
    ],
)
def test_the_peak_is_within_a_factor_of_1_5_of_the_measured_one(
    name: Any, attention: Any, models: int, sequences: int, sessions: int, precision: Precision
) -> None:
    config = shape(name, attention)
    step = Step.of(config, models, sequences, sessions, precision)
    needed = step_bytes(config, sequences, sessions, precision, stacked=models > 1)
    measured = measured_peak(step.run)
    assert 1 / 1.5 < models * (needed.kept + needed.passing) / measured < 1.5


def test_the_state_holds_every_number_of_the_network_in_each_copy() -> None:
    config = preset("plan")
    numbers = sum(parameter.numel() for parameter in Stockformer(config).parameters())
    assert num_parameters(config) == numbers
    # Value, gradient, two moments, best epoch and moving average are float32 in every precision.
    assert step_bytes(config, 4, 1, "bf16").state >= 6 * 4 * numbers


def test_memory_grows_with_sequences_and_sessions_and_shrinks_with_half_precision() -> None:
    config = preset("desktop")
    base = bytes_per_model(config, 100, 32, "float32")
    assert bytes_per_model(config, 200, 32, "float32") > 1.8 * base
    assert bytes_per_model(config, 100, 64, "float32") > base
    assert bytes_per_model(config, 100, 32, "bf16") < base
    with pytest.raises(ValueError, match="at least one"):
        bytes_per_model(config, 0, 32, "float32")


def sizes(**changes: Any) -> dict[str, Any]:
    return {"sequences": 4, "sessions": 1, "precision": "float32", "available": 64 * GIB} | changes


def test_a_group_takes_all_models_that_fit_and_groups_are_even() -> None:
    config = preset("plan")
    one = bytes_per_model(config, 4, 1, "float32")
    assert group_size(config, num_models=102, **sizes(available=1024 * GIB)) == 102
    # Room for 60 of 102 after a quarter is left free: two groups of 51. For 40: three of 34.
    assert group_size(config, num_models=102, **sizes(available=round(60.5 * one / 0.75))) == 51
    assert group_size(config, num_models=102, **sizes(available=round(40.5 * one / 0.75))) == 34
    assert group_size(config, num_models=102, **sizes(available=one, fixed=one)) == 1
    more = group_size(config, num_models=102, **sizes(available=round(60.5 * one / 0.75) + 5 * one, fixed=5 * one))
    assert more == 51


def test_a_step_that_does_not_fit_is_cut_by_session_and_one_that_never_fits_is_refused() -> None:
    config = preset("desktop")
    whole = bytes_per_model(config, 300, 32, "float32")
    wanted = sizes(sequences=300, sessions=32)
    assert parts_of_step(config, num_models=1, **wanted | {"available": 2 * whole}) == 1
    parts = parts_of_step(config, num_models=1, **wanted | {"available": whole})
    assert parts > 1
    assert bytes_per_model(config, 300, -(-32 // parts), "float32") <= 0.75 * whole
    with pytest.raises(ResourceError, match="one session at a time") as refused:
        parts_of_step(config, num_models=1, **wanted | {"available": 1000})
    assert refused.value.exit_code == 6


# Measuring


def test_windows_is_asked_with_a_structure_of_the_size_it_wants() -> None:
    # MEMORYSTATUSEX: two DWORDs and seven DWORDLONGs.
    assert ctypes.sizeof(_MemoryStatus) == 2 * 4 + 7 * 8


@linux_only
def test_freed_memory_goes_back_to_the_system() -> None:
    held = [bytearray(60_000) for _ in range(1000)]
    full = process_tree_bytes()
    last = held.pop()
    held.clear()
    hand_back_freed()
    assert full - process_tree_bytes() > 40 * MIB
    assert len(last) == 60_000


@linux_only
def test_a_peak_is_measured_even_when_it_is_gone_at_the_end() -> None:
    def fill() -> None:
        assert np.ones(64 * MIB, dtype=np.uint8).sum() == 64 * MIB

    assert 60 * MIB < measured_peak(fill) < 90 * MIB


def failures() -> Iterator[tuple[BaseException, bool]]:
    yield MemoryError(), True
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True
    yield (
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
        True,
    )
    yield RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True
    yield RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True
    yield RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"), False
    yield ValueError("out of memory"), False
    wrapped = RuntimeError("the step failed")
    wrapped.__cause__ = MemoryError()
    yield wrapped, True
    unrelated = RuntimeError("another error while cleaning up")
    unrelated.__context__, unrelated.__suppress_context__ = MemoryError(), True
    yield unrelated, False


@pytest.mark.parametrize(("error", "expected"), list(failures()), ids=lambda value: str(value)[:40])
def test_running_out_of_memory_is_recognised(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_that_really_runs_out_is_recognised() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(1 << 60)
    assert is_out_of_memory(failed.value)
