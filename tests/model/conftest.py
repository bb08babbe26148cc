"""Small sets of every kind, with weights large enough that symbols and members differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from vnfleet.model.ensemble import Calibration, Ensemble, Member, Scaler
from vnfleet.model.inference import export_onnx
from vnfleet.model.stockformer import Deltas, StockformerConfig, initial_weights

SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "EEE")
NAMES = ("a", "b", "c", "d")
STREAMING = StockformerConfig(num_features=4, d_model=8, num_heads=2, d_ff=16, band_sessions=5, horizon_sessions=3)
SHALLOW = dataclasses.replace(STREAMING, num_layers=1)
WINDOW = dataclasses.replace(
    STREAMING, attention="window", window_sessions=7, head="mlp", path_sessions=(1, 3), num_layers=1
)


def ensemble_of(*configs: StockformerConfig, adapted: bool = False, seed: int = 0) -> Ensemble:
    generator = torch.Generator().manual_seed(seed + 100)
    members = []
    for place, config in enumerate(configs):
        deltas = None
        if adapted:
            deltas = Deltas.zeros(len(SYMBOLS), config)
            for tensor in deltas.tensors().values():
                tensor.normal_(0.0, 0.3, generator=generator)
        members.append(Member(config, initial_weights(config, seed + place), deltas, 0.2 + 0.1 * place))
    scale_H = np.linspace(0.01, 0.03, configs[0].num_horizons, dtype=np.float32)
    return Ensemble(
        feature_names=NAMES,
        scaler=Scaler(np.asarray([0.1, -0.2, 0.3, 1.0 + seed], np.float32), np.asarray([1, 2, 0.5, 1], np.float32)),
        label_scale_H=scale_H,
        calibration=Calibration(0.1 * seed + 0.1, 0.7),
        members=tuple(members),
    )


class Sets:
    """Sets by kind."""

    symbols = SYMBOLS
    config = STREAMING
    ensemble_of = staticmethod(ensemble_of)

    def of(self, kind: str) -> list[Ensemble]:
        made: list[Ensemble] = getattr(self, kind)()
        return made

    def adapted_streaming(self) -> list[Ensemble]:
        return [ensemble_of(STREAMING, STREAMING, adapted=True)]

    def adapted_window(self) -> list[Ensemble]:
        return [ensemble_of(WINDOW, adapted=True)]

    def adapted_single(self) -> list[Ensemble]:
        return [ensemble_of(STREAMING, adapted=True)]

    def pooled_depths(self) -> list[Ensemble]:
        deeper = dataclasses.replace(STREAMING, num_layers=3, band_sessions=3)
        return [ensemble_of(STREAMING, deeper)]

    def separate(self) -> list[Ensemble]:
        return [ensemble_of(SHALLOW, seed=seed) for seed in range(len(SYMBOLS))]

    def features(self, num_sessions: int = 40, num_symbols: int = len(SYMBOLS)) -> tuple[np.ndarray, np.ndarray]:
        """Return raw features with outliers, 0 where absent, and where symbols are present."""
        generator = np.random.default_rng(3)
        values_STF = (2.0 * generator.standard_t(3, (num_symbols, num_sessions, 4))).astype(np.float32)
        present_ST = generator.random((num_symbols, num_sessions)) > 0.1
        present_ST[:, -3:] = True
        values_STF[~present_ST] = 0.0
        return values_STF, present_ST


@pytest.fixture(scope="session")
def sets() -> Sets:
    return Sets()


@pytest.fixture(scope="session")
def exported(sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported sets by kind, each as `set.onnx` in a folder of its own; an export takes seconds."""
    pytest.importorskip("onnx", reason="the extra vnfleet[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra vnfleet[onnx] is not installed")
    pytest.importorskip("onnxruntime", reason="the extra vnfleet[onnx] is not installed")
    root = tmp_path_factory.mktemp("onnx")
    return {
        kind: export_onnx(
            sets.of(kind), root / kind, symbols=sets.symbols, ids={"recipe_id": "r1"}, num_outputs=outputs
        )
        for kind, outputs in (("adapted_single", 1), ("adapted_window", 2), ("separate", 1))
    }
