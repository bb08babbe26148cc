"""Device, precision and compiler are decided from facts; every kind of card is faked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vnfleet.core.errors import UsageError
from vnfleet.training.machine.cards import CARDS, Card, find_card, matmul_tflops, peak_tflops
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.devices import (
    Accelerator,
    Compilers,
    DeviceChoice,
    TorchCuda,
    can_compile,
    choose_device,
    has_tiles,
    runs_on,
)

GIB = 1024**3
# torch 2.11 as published: the CUDA 12.6 build and the CUDA 12.8 build (pytorch/pytorch issue 182250).
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU128 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
EVERYTHING = (*CU126, *CU128)

NAMES = {
    "T4": ("Tesla T4", (7, 5), 15.0),
    "V100": ("Tesla V100-SXM2-16GB", (7, 0), 15.8),
    "L4": ("NVIDIA L4", (8, 9), 22.0),
    "A100": ("NVIDIA A100-SXM4-40GB", (8, 0), 39.4),
    "H100": ("NVIDIA H100 80GB HBM3", (9, 0), 79.1),
    "H200": ("NVIDIA H200", (9, 0), 139.8),
    "RTX 5070 Ti": ("NVIDIA GeForce RTX 5070 Ti", (12, 0), 15.5),
    "P100": ("Tesla P100-PCIE-16GB", (6, 0), 15.9),
}


class FakeCuda:
    def __init__(self, card: str | None, arch_list: Sequence[str] = EVERYTHING) -> None:
        self.card, self.archs = card, arch_list

    def accelerators(self) -> Sequence[Accelerator]:
        if self.card is None:
            return ()
        name, capability, gib = NAMES[self.card]
        return (Accelerator(name=name, capability=capability, memory_bytes=round(gib * GIB)),)

    def arch_list(self) -> Sequence[str]:
        return self.archs


def chosen(card: str | None, *, tiles: bool = False, **wishes: Any) -> DeviceChoice:
    return choose_device(MachineConfig(**wishes), FakeCuda(card), lambda: tiles)


@pytest.mark.parametrize(
    ("card", "precision", "loss_scaling", "tf32"),
    [
        ("T4", "fp16", True, False),
        ("V100", "fp16", True, False),
        ("P100", "float32", False, False),
        ("L4", "bf16", False, True),
        ("A100", "bf16", False, True),
        ("H100", "bf16", False, True),
        ("H200", "bf16", False, True),
        ("RTX 5070 Ti", "bf16", False, True),
    ],
)
def test_precision_follows_capability(card: str, precision: str, loss_scaling: bool, tf32: bool) -> None:
    choice = chosen(card)
    assert (choice.device, choice.precision, choice.loss_scaling, choice.tf32) == (
        "cuda:0",
        precision,
        loss_scaling,
        tf32,
    )
    assert NAMES[card][0] in choice.words
    assert choice.memory_bytes == round(NAMES[card][2] * GIB)


def test_float32_asked_for_by_name_is_float32_and_not_tf32() -> None:
    choice = chosen("A100", precision="float32")
    assert (choice.precision, choice.tf32) == ("float32", False)
    assert "asked for" in choice.words


@pytest.mark.parametrize(("card", "precision"), [("T4", "bf16"), ("V100", "bf16"), ("P100", "fp16")])
def test_a_precision_the_card_lacks_is_refused(card: str, precision: str) -> None:
    with pytest.raises(UsageError) as refused:
        chosen(card, precision=precision)
    assert NAMES[card][0] in str(refused.value)
    assert 'precision = "auto"' in str(refused.value)


def test_fp16_may_be_asked_for_where_bf16_is_better() -> None:
    choice = chosen("A100", precision="fp16")
    assert (choice.precision, choice.loss_scaling) == ("fp16", True)


@pytest.mark.parametrize(
    ("tiles", "wish", "expected"),
    [(True, "auto", "bf16"), (False, "auto", "float32"), (True, "float32", "float32"), (False, "bf16", "bf16")],
)
def test_a_cpu_takes_bf16_where_it_has_tiles_or_is_told_to(tiles: bool, wish: str, expected: str) -> None:
    choice = chosen(None, tiles=tiles, precision=wish)
    assert (choice.device, choice.precision, choice.on_cuda, choice.tf32) == ("cpu", expected, False, False)
    assert "AMX" in choice.words


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match="fp16 is for GPUs"):
        chosen(None, precision="fp16")


def test_a_cpu_is_taken_when_asked_for_beside_a_gpu_even_one_torch_cannot_use() -> None:
    assert choose_device(MachineConfig(device="cpu"), FakeCuda("V100", CU128), lambda: False).device == "cpu"


@pytest.mark.parametrize(("archs", "found"), [((), "built without CUDA"), (CU128, "no driver or card")])
def test_a_gpu_asked_for_and_absent_is_refused_with_what_is_missing(archs: Sequence[str], found: str) -> None:
    with pytest.raises(UsageError) as refused:
        choose_device(MachineConfig(device="cuda"), FakeCuda(None, archs), lambda: False)
    assert found in str(refused.value)
    assert torch.__version__ in str(refused.value)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(("card", "archs", "sm"), [("V100", CU128, "sm_70"), ("RTX 5070 Ti", CU126, "sm_120")])
def test_a_card_the_installed_torch_has_no_code_for_is_refused_by_name(
    device: Any, card: str, archs: Sequence[str], sm: str
) -> None:
    with pytest.raises(UsageError) as refused:
        choose_device(MachineConfig(device=device), FakeCuda(card, archs), lambda: False)
    text = str(refused.value)
    assert NAMES[card][0] in text
    assert sm in text
    assert ", ".join(archs) in text
    assert 'device = "cpu"' in text


@pytest.mark.parametrize(
    ("capability", "archs", "expected"),
    [
        ((8, 9), ["sm_86"], True),  # machine code runs on later minors of its major
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["compute_80"], True),  # intermediate code is compiled for later majors
        ((7, 5), ["compute_80"], False),
        ((9, 0), ["sm_90a"], True),  # "a" is for exactly that chip
        ((12, 1), ["sm_120a"], False),
        ((12, 1), ["sm_120"], True),
        ((10, 3), ["sm_100f"], True),
        ((12, 0), ["compute_100f"], False),
        ((8, 0), ["gfx90a", "nonsense"], False),
        ((8, 0), [], False),
    ],
)
def test_which_code_runs_where(capability: tuple[int, int], archs: list[str], expected: bool) -> None:
    assert runs_on(capability, archs) is expected


def test_torch_tells_the_facts_of_this_machine() -> None:
    facts = TorchCuda()
    assert bool(facts.accelerators()) == torch.cuda.is_available()
    assert choose_device(MachineConfig(device="cpu")).precision == ("bf16" if has_tiles() else "float32")


# Compilers


def compilers(folder: Path, *found: str, modules: Sequence[str] = (), **rest: Any) -> Compilers:
    (folder / "Python.h").touch()
    return Compilers(
        which=lambda name: f"/bin/{name}" if name in found else None,
        has_module=lambda name: name in modules,
        headers=folder,
        environment=rest.pop("environment", {}),
        on_windows=rest.pop("on_windows", False),
    )


def test_a_cpu_compiles_with_a_cpp_compiler_and_headers(tmp_path: Path) -> None:
    cpu = chosen(None)
    assert can_compile(cpu, compilers(tmp_path, "g++")) == (True, "g++ is found")
    assert can_compile(cpu, compilers(tmp_path, "clang++"))[0]
    assert can_compile(cpu, compilers(tmp_path, "cl", on_windows=True))[0]
    able, reason = can_compile(cpu, compilers(tmp_path, "gcc"))
    assert not able
    assert "g++" in reason
    (tmp_path / "Python.h").unlink()
    bare = Compilers(which=lambda name: name, has_module=lambda _: True, headers=tmp_path, environment={})
    able, reason = can_compile(cpu, bare)
    assert not able
    assert "Python.h" in reason


def test_the_compiler_named_in_the_environment_is_the_one(tmp_path: Path) -> None:
    named = compilers(tmp_path, "g++", environment={"CXX": "my-c++"})
    assert can_compile(chosen(None), named) == (False, "no C++ compiler found (looked for CXX=my-c++)")


def test_a_gpu_compiles_with_triton_on_sm_70_and_later(tmp_path: Path) -> None:
    assert can_compile(chosen("H100"), compilers(tmp_path, "gcc", modules=["triton"]))[0]
    assert can_compile(chosen("RTX 5070 Ti"), compilers(tmp_path, modules=["triton"], on_windows=True))[0]
    assert can_compile(chosen("H100"), compilers(tmp_path, "gcc")) == (False, "Triton is not installed")
    assert not can_compile(chosen("H100"), compilers(tmp_path, modules=["triton"]))[0]
    able, reason = can_compile(chosen("P100"), compilers(tmp_path, "gcc", modules=["triton"]))
    assert not able
    assert "sm_70" in reason


# Cards


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100 16 GB"),
        ("Tesla V100-PCIE-32GB", "V100 PCIe 32 GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40 GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 5070 Ti", "RTX 5070 Ti"),
        ("A100 40 GB", "A100 40 GB"),
    ],
)
def test_cards_are_known_by_the_names_drivers_give(name: str, expected: str) -> None:
    card = find_card(name)
    assert card is not None
    assert card.name == expected


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L40S",
        "NVIDIA GeForce RTX 5070",
        "NVIDIA GeForce RTX 5070 Ti Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    ],
)
def test_a_card_with_another_peak_is_not_taken_for_its_neighbour(name: str) -> None:
    assert find_card(name) is None


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_sheet_agrees_with_the_architecture(card: Card) -> None:
    # bf16 and TF32 came with sm_80; nothing multiplies 16 bits slower than 32 (data sheets of the maker).
    assert (card.bf16_tflops > 0) == (card.tf32_tflops > 0) == (card.capability >= (8, 0))
    assert card.fp16_tflops >= 2 * card.float32_tflops
    assert card.peak_tflops("float32", tf32=True) >= card.peak_tflops("float32") == card.float32_tflops


def test_a_peak_comes_from_the_sheet_or_else_from_a_measurement() -> None:
    assert peak_tflops("NVIDIA A100-SXM4-40GB", "bf16", measure=lambda: 1.0) == (312.0, "data sheet")
    assert peak_tflops("Some New Card", "bf16", measure=lambda: 123.0) == (123.0, "measured")
    assert peak_tflops("Tesla T4", "bf16", measure=lambda: 2.0) == (2.0, "measured")


def test_matrix_products_are_timed_by_the_clock() -> None:
    ticks = iter(range(100))
    # Every round takes one tick of one second: 2 x 64^3 operations in 1 s.
    assert matmul_tflops("cpu", "float32", size=64, seconds=0.0, clock=lambda: float(next(ticks))) == pytest.approx(
        2 * 64**3 / 1e12
    )
