"""The peak is that of the threads and the precision that were asked for."""

import torch

from vnfleet.bench.peak import matmul_peak, ordinary_kernels


def test_the_peak_names_precision_and_threads() -> None:
    peak = matmul_peak("cpu", "float32", seconds=0.05, size=256)
    assert peak.measured_gflops > 0.1
    assert peak.threads == torch.get_num_threads()
    assert peak.sheet_gflops is None
    assert "float32" in peak.sentence
    assert "thread" in peak.sentence


def test_peers_may_use_any_kernel_and_we_get_ours_back() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(mode=True)
        with ordinary_kernels():
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)
