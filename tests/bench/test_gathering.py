"""Material comes through the real cycle: the same panel, features and folds as a week's."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.bench.gathering import gather
from vnfleet.core.errors import BadDataError
from vnfleet.cycle.config import CycleConfig, FoldsConfig, SourceConfig, UniverseConfig
from vnfleet.data.sources.simulated import SimulatedMarket

AS_OF = date(2023, 3, 31)


@pytest.fixture(scope="module")
def settings() -> CycleConfig:
    config = CycleConfig()
    return replace(
        config,
        source=SourceConfig(kind="simulated"),
        simulated=SimulatedMarket(num_symbols=14, start=date(2020, 1, 2)),
        universe=UniverseConfig(models=10),
        folds=FoldsConfig(min_train_sessions=100),
        training=replace(config.training, valid_sessions=60),
    )


def test_the_judged_year_is_the_newest_whole_one(settings: CycleConfig, tmp_path: Path) -> None:
    material = gather(settings, tmp_path, as_of=AS_OF)
    assert material.judged.fold_id == "2022"  # 2023 has a quarter only
    assert material.live.fold_id == "live"
    assert material.data.values_STF.shape[2] == 50
    assert material.sentence.startswith(
        f"a simulated market with a planted signal: {len(material.data.symbols)} symbols"
    )
    year = {material.data.sessions[t].year for t in material.judged.test}
    assert year == {2022}
    known = material.outcomes.filter(pl.col("symbol") == material.data.symbols[0])
    row = material.data.returns_HST[-1, 0]
    assert known.height == int(np.isfinite(row).sum())

    asked = gather(settings, tmp_path, as_of=AS_OF, year=2021)
    assert asked.judged.fold_id == "2021"
    with pytest.raises(BadDataError, match="no session in 2031"):
        gather(settings, tmp_path, as_of=AS_OF, year=2031)
