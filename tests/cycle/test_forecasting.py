"""Who races, and what is forecast again when something changes."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import PREDICTION_SCHEMA
from vnfleet.cycle.config import CycleConfig, UserModelConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.steps import forecasting
from vnfleet.cycle.steps.forecasting import forecasters, live_baseline, walk_forward
from vnfleet.cycle.workdir import Folders
from vnfleet.evaluation.splits import Fold
from vnfleet.model.baselines import BASELINE_NAMES, BaselineName
from vnfleet.training.dataset import TrainingData
from vnfleet.training.recipe import Recipe

SYMBOLS = tuple(f"S{number:02d}" for number in range(30))
SESSIONS = tuple(date(2022, 1, 3) + timedelta(days=day) for day in range(150))
FOLD = Fold(
    fold_id="2022", train=range(80), valid=range(85, 115), refit=range(115), test=range(120, 140), universe=SYMBOLS
)
LIVE = Fold(
    fold_id="live", train=range(100), valid=range(105, 145), refit=range(145), test=range(149, 150), universe=SYMBOLS
)
OURS = ("adapted", "pooled")


def market(seed: int = 1) -> TrainingData:
    """Noise of the right shape."""
    rng = np.random.default_rng(seed)
    num_horizons = len(CycleConfig().model.horizons)
    return TrainingData(
        SESSIONS,
        SYMBOLS,
        ("ret_1", "ret_5", "ret_120", "other"),
        rng.standard_normal((30, 150, 4)).astype(np.float32),
        rng.random((30, 150)) < 0.95,
        rng.standard_normal((num_horizons, 30, 150)).astype(np.float32) * 0.02,
    )


def week_of(workdir: Path, data: TrainingData, user: UserModelConfig | None = None) -> WeekContext:
    """As much of a week as forecasting asks for."""
    config = dataclasses.replace(CycleConfig(), user_model=user or UserModelConfig())
    week = SimpleNamespace(
        config=config,
        recipe=Recipe(),
        folders=Folders(workdir),
        data=lambda: data,
        judged_folds=lambda: (FOLD,),
        live=lambda: LIVE,
    )
    return cast("WeekContext", week)


def rows_of(data: TrainingData) -> pl.DataFrame:
    """Symbol and session of everything that can be forecast in the fold, row by row."""
    cells = [
        (symbol, SESSIONS[session])
        for session in FOLD.test
        for place, symbol in enumerate(SYMBOLS)
        if data.present_ST[place, session]
    ]
    return pl.DataFrame(cells, schema={"symbol": pl.String, "session": pl.Date}, orient="row")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for trained units, and note every forecast that is made."""
    names: list[str] = []

    def stand_in(*given: object) -> pl.DataFrame:
        data, model_id = given[2], given[6]
        assert isinstance(data, TrainingData)
        row = {"model_id": model_id, "horizon_sessions": 5, "fold_id": "2022", "score": 0.5}
        stated = (pl.lit(row.get(name), dtype).alias(name) for name, dtype in PREDICTION_SCHEMA.items())
        return rows_of(data).join(pl.select(stated).drop("symbol", "session"), how="cross").select(*PREDICTION_SCHEMA)

    real = forecasting._made

    def noted(week: WeekContext, fold: Fold, entrant: forecasting.Forecaster) -> pl.DataFrame:
        names.append(entrant.name)
        return real(week, fold, entrant)

    monkeypatch.setattr(forecasting, "forecast_fold", stand_in)
    monkeypatch.setattr(forecasting, "_made", noted)
    return names


def silent(_done: int, _total: int, _what: str) -> None:
    """Hear nothing."""


def test_strategies_every_baseline_and_the_users_own_model_race(tmp_path: Path) -> None:
    known = ("always_up", "last_direction", "reversal_1d", "reversal_5d", "momentum_120d", "ridge", "lightgbm")
    assert known == BASELINE_NAMES
    plain = forecasters(week_of(tmp_path, market()))
    assert tuple(entrant.name for entrant in plain) == (*OURS, *known)
    assert [entrant.model_id for entrant in plain[:2]] == [f"{Recipe().recipe_id}-{name}" for name in OURS]
    own = UserModelConfig(name="mine", entry_point="package.module:function")
    assert forecasters(week_of(tmp_path, market(), own))[:-1] == plain
    guest = forecasters(week_of(tmp_path, market(), own))[-1]
    assert (guest.name, guest.model_id, guest.kind) == ("user_mine", "user_mine", "user")


def test_every_entrant_forecasts_the_same_rows_and_a_finished_year_only_once(tmp_path: Path, made: list[str]) -> None:
    data = market()
    heard: list[tuple[int, int, str]] = []
    predictions, ids = walk_forward(week_of(tmp_path, data), lambda *told: heard.append(told))
    assert made == [*OURS, *BASELINE_NAMES]
    assert len(set(ids)) == len(ids) == len(made)
    assert heard[-1] == (8, 9, "fold 2022 lightgbm")
    wanted = rows_of(data).sort("symbol", "session")
    for _, part in predictions.group_by("model_id"):
        assert part.select("symbol", "session").sort("symbol", "session").equals(wanted)
    cell = predictions.filter(model_id="reversal_5d").row(7, named=True)
    place = SYMBOLS.index(cell["symbol"]), SESSIONS.index(cell["session"]), 1
    assert cell["score"] == pytest.approx(-data.values_STF[place])

    made.clear()
    later = data.returns_HST.copy()
    later[:, :, FOLD.refit.stop :] = 9.0  # what happened since is no part of the forecasts
    again, ids_again = walk_forward(week_of(tmp_path, dataclasses.replace(data, returns_HST=later)), silent)
    assert (made, ids_again) == ([], ids)
    assert again.equals(predictions)

    before = data.returns_HST.copy()
    before[:, 0, 3] += 0.001
    _, moved = walk_forward(week_of(tmp_path, dataclasses.replace(data, returns_HST=before)), silent)
    assert not set(moved) & set(ids)


def test_a_file_of_forecasts_races_and_only_it_is_read_again_when_it_changes(tmp_path: Path, made: list[str]) -> None:
    data, file = market(), tmp_path / "mine.csv"
    user = UserModelConfig(name="mine", predictions=file)
    scores = np.random.default_rng(5).standard_normal(rows_of(data).height)
    rows_of(data).with_columns(score=scores).write_csv(file)
    predictions, ids = walk_forward(week_of(tmp_path, data, user), silent)
    assert made[-1] == "user_mine"
    mine = predictions.filter(model_id="user_mine").sort("session", "symbol")
    np.testing.assert_allclose(mine.get_column("score"), scores)
    made.clear()
    rows_of(data).with_columns(score=-scores).write_csv(file)
    changed, ids_changed = walk_forward(week_of(tmp_path, data, user), silent)
    assert made == ["user_mine"]
    assert ids_changed[:-1] == ids[:-1]
    np.testing.assert_allclose(changed.filter(model_id="user_mine").sort("session", "symbol")["score"], -scores)


def test_a_file_that_covers_too_little_is_refused_and_leaves_nothing_behind(tmp_path: Path, made: list[str]) -> None:
    data, file = market(), tmp_path / "mine.csv"
    rows_of(data).head(20).with_columns(score=0.1).write_csv(file)
    week = week_of(tmp_path, data, UserModelConfig(name="mine", predictions=file))
    with pytest.raises(BadDataError, match="forecasts are missing"):
        walk_forward(week, silent)
    rows_of(data).with_columns(score=0.1).write_csv(file)
    walk_forward(week, silent)
    assert made.count("user_mine") == 2
    assert made.count("lightgbm") == 1


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_a_live_baseline_is_fitted_once_and_read_back(
    name: BaselineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    week = week_of(tmp_path, market())
    fitted, folder = live_baseline(week, name)
    assert (fitted.name, fitted.fold_id) == (name, "live")
    monkeypatch.setattr(forecasting, "fit_baseline", None)
    again, same_folder = live_baseline(week, name)
    assert same_folder == folder
    assert again.calibration == fitted.calibration
