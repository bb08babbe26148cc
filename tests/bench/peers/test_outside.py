"""Libraries outside get what everybody gets, and what they leave is checked."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.bench.peers.outside import read_results, write_exchange
from vnfleet.core.errors import BadDataError
from vnfleet.cycle.config import CycleConfig
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData

FACTS = {
    "fold_id": "2021",
    "name": "peer",
    "setting": "as it comes",
    "fit_seconds": 1.5,
    "forecast_seconds": 0.5,
    "seconds_per_step": 0.1,
    "steps": 15,
    "planned_steps": 100,
}


def test_the_frame_holds_traded_sessions_up_to_the_last_judged_one(
    data: TrainingData, fold: Fold, config: CycleConfig, tmp_path: Path
) -> None:
    write_exchange(tmp_path, data, fold, config.model)
    frame = pl.read_parquet(tmp_path / "frame.parquet")
    record = json.loads((tmp_path / "fold.json").read_text(encoding="utf-8"))
    assert frame.height == int(data.present_ST[:, : fold.test.stop].sum())
    own = frame.filter(pl.col("unique_id") == "S05")
    assert own.get_column("ds").to_list() == list(range(own.height))
    assert np.array_equal(own.get_column("y").to_numpy(), own.get_column("ret_1").to_numpy())
    assert own.row(0, named=True)["session"] == data.sessions[int(np.flatnonzero(data.present_ST[5])[0])]
    assert record["last_train_session"] == data.sessions[fold.test.start - 1].isoformat()
    assert len(record["test_sessions"]) == len(fold.test)


def test_results_of_this_fold_are_read(fold: Fold, tmp_path: Path) -> None:
    scores = pl.DataFrame({"symbol": ["S00"], "session": ["2021-09-01"], "score": [0.25]}).with_columns(
        pl.col("session").str.to_date()
    )
    for name, fold_id in (("one", "2021"), ("another", "2020")):
        (tmp_path / f"{name}.json").write_text(json.dumps({**FACTS, "fold_id": fold_id}), encoding="utf-8")
        scores.write_parquet(tmp_path / f"{name}.parquet")
    (result,) = read_results(tmp_path, fold, 5)
    assert result.facts.steps == 15
    assert result.predictions.row(0, named=True)["score"] == 0.25
    assert read_results(tmp_path / "absent", fold, 5) == ()


@pytest.mark.parametrize("broken", ["facts", "columns", "absent"])
def test_a_broken_result_is_named(broken: str, fold: Fold, tmp_path: Path) -> None:
    facts = {"name": "peer"} if broken == "facts" else FACTS
    (tmp_path / "peer.json").write_text(json.dumps(facts), encoding="utf-8")
    if broken == "columns":
        pl.DataFrame({"symbol": ["S00"]}).write_parquet(tmp_path / "peer.parquet")
    with pytest.raises(BadDataError, match=r"peer's (result|forecasts)"):
        read_results(tmp_path, fold, 5)
