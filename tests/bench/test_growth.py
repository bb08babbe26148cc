"""Data of another size keep their shape and their gaps; each size is measured in a process of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vnfleet.bench.growth import growth_tables, tiled
from vnfleet.core.errors import BadDataError
from vnfleet.cycle.config import CycleConfig
from vnfleet.training.dataset import TrainingData
from vnfleet.training.recipe import Recipe


def test_symbols_come_again_under_new_names_with_their_last_sessions(data: TrainingData) -> None:
    larger = tiled(data, 80, 120)
    assert len(set(larger.symbols)) == 80
    assert larger.sessions == data.sessions[-120:]
    assert np.array_equal(larger.present_ST[36], data.present_ST[0, -120:])
    assert np.array_equal(larger.values_STF[79], data.values_STF[7, -120:])
    assert np.array_equal(larger.returns_HST[:, 40], data.returns_HST[:, 4, -120:], equal_nan=True)


def test_prices_that_are_too_short_are_refused(data: TrainingData) -> None:
    with pytest.raises(BadDataError, match="too short"):
        tiled(data, 10, 301)


def test_a_size_without_cross_section_is_measured_too(data: TrainingData, config: CycleConfig, tmp_path: Path) -> None:
    recipe = Recipe(config.model, replace(config.training, max_epochs=8), config.objective)
    said: list[str] = []
    (table,) = growth_tables(data, recipe, config.machine, tmp_path, seconds=0.2, say=said.append, sizes=((10, 1),))
    assert said[0] == "10 symbols, 1 year (1 of 1)"
    assert said[1].endswith("labels/s")
    (row,) = table.rows
    labels_per_second, microseconds = row[2].value, row[3].value
    assert labels_per_second is not None
    assert microseconds == pytest.approx(1e6 / labels_per_second)
    assert row[1].value is not None
    assert 0 < row[1].value < 10 * 250
    assert row[0].text == "10 symbols, 1 year"
    assert not list(tmp_path.iterdir())
