"""The other ways to a week's models: one model per symbol, and several processes side by side."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from vnfleet.core.sealed import verify
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.runner import StepOutcome
from vnfleet.cycle.weekly import Week, run_cycle
from vnfleet.model.artifact import read_artifact
from vnfleet.releases.gate import GateLimits
from vnfleet.releases.registry import open_release
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import ObjectiveConfig
from vnfleet.training.unit_result import SELECTION_NAME, UNIT_KIND, read_selection, result_folder

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Factory

pytestmark = pytest.mark.xdist_group("end_to_end")


def step_of(week: Week, name: str) -> StepOutcome:
    return next(step for step in week.steps if step.name == name)


def unit_ids_of(week: Week) -> list[str]:
    ids = step_of(week, "train").facts["unit_ids"]
    assert isinstance(ids, list)
    return [str(unit_id) for unit_id in ids]


def separate_config(like: CycleConfig) -> CycleConfig:
    """One model per symbol; nothing orders symbols in the loss, so the pooled score is noise and loses the race."""
    return dataclasses.replace(
        like,
        training=dataclasses.replace(like.training, strategy="separate"),
        objective=ObjectiveConfig(rank_ic_weight=0.0, rank_mse_weight=0.0, path_weight=1.0),
        gate=GateLimits(min_sessions=100, significance=0.5, prior_trials=0, min_deflated_sharpe=0.05),
        machine=MachineConfig(processes=1, num_threads=1, precision="float32", checkpoint_frac=1.0),
    )


def copy_without_models(finished: Factory, root: Path) -> Factory:
    """A factory with the prices and features of `finished` that has trained and decided nothing yet."""
    workdir = root / "work"
    left_out = shutil.ignore_patterns("checkpoints", "models", "models_prod", "cycles", "package")
    shutil.copytree(finished.workdir, workdir, ignore=left_out)
    return dataclasses.replace(finished, workdir=workdir, config=separate_config(finished.config))


@pytest.fixture(scope="module", autouse=True)
def one_weak_baseline() -> Iterator[None]:
    """Leave out the strong baselines: tiny separate models would only ever run in their shadow."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("forecasting", "gating", "trading"):
            patch.setattr(f"vnfleet.cycle.steps.{module}.BASELINE_NAMES", ("reversal_1d",))
        yield


@pytest.fixture(scope="module")
def separate(finished: tuple[Factory, Week], tmp_path_factory: pytest.TempPathFactory) -> tuple[Factory, Week]:
    """A factory whose first week was made with one model per symbol, not to be changed by any test."""
    factory = copy_without_models(finished[0], tmp_path_factory.mktemp("separate"))
    return factory, factory.run()


def test_a_week_of_separate_models_ends_with_a_release_that_they_serve(separate: tuple[Factory, Week]) -> None:
    factory, week = separate
    assert week.decision is not None
    assert (week.decision.kind, week.decision.serving, week.decision.deploys) == ("first", "separate", True)
    release = open_release(factory.workdir / "models_prod", str(week.current_release_id))
    assert len(release.symbols) == factory.models
    artifacts = [read_artifact(release.artifact_path(symbol)) for symbol in release.symbols]
    assert {artifact.strategy for artifact in artifacts} == {"separate"}
    assert {member.config.score for artifact in artifacts for member in artifact.ensemble.members} == {"return"}
    assert all(member.deltas is None for artifact in artifacts for member in artifact.ensemble.members)
    assert len({artifact.weights_sha256 for artifact in artifacts}) == factory.models
    assert len({artifact.ensemble.scaler.mean_F.tobytes() for artifact in artifacts}) == factory.models
    frame = week.predictions
    assert frame is not None
    assert sorted(frame.get_column("symbol").to_list()) == list(release.symbols)
    assert frame.get_column("session").unique().to_list() == [factory.first_week]
    assert frame.get_column("model_id").unique().to_list() == [release.release_id]
    np.testing.assert_allclose(frame["score"], frame["expected_return_frac"], rtol=1e-4, atol=1e-7)
    assert (frame["volatility_frac"] > 0).all()
    assert week.report is not None


def test_separate_and_pooled_models_race_on_the_same_sessions(separate: tuple[Factory, Week]) -> None:
    step = step_of(separate[1], "evaluate")
    daily = pl.read_parquet(step.folder / "daily_ic.parquet").drop_nulls("rank_ic")
    sessions = {str(name): frame.get_column("session").to_list() for (name,), frame in daily.group_by("model_id")}
    names = sorted(sessions, key=lambda name: name.rpartition("-")[2])
    assert [name.rpartition("-")[2] for name in names] == ["pooled", "reversal_1d", "separate"]
    assert all(sorted(one) == sorted(sessions[names[0]]) for one in sessions.values())


def test_the_week_of_separate_models_is_reused_and_its_plan_of_work_written_down(
    separate: tuple[Factory, Week],
) -> None:
    factory, week = separate
    before = factory.files(".")
    assert all(step.reused for step in factory.run().steps)
    assert factory.files(".") == before
    record = json.loads((step_of(week, "train").folder.parent / "work.json").read_text(encoding="utf-8"))["work"]
    assert (record["layout"]["processes"], record["layout"]["threads"]) == (1, 1)
    assert record["layout"]["seconds_per_step"] == 0.0  # nothing was measured
    assert record["unit_ids"] == step_of(week, "train").facts["unit_ids"]


def test_two_processes_train_what_one_does(
    separate: tuple[Factory, Week], finished: tuple[Factory, Week], tmp_path: Path
) -> None:
    factory = copy_without_models(finished[0], tmp_path)
    machine = dataclasses.replace(factory.config.machine, processes=2)
    config = dataclasses.replace(factory.config, machine=machine)
    week = run_cycle(config, workdir=factory.workdir, as_of=factory.first_week, last_step="train")
    ours, theirs = (step_of(one, "train").facts for one in (week, separate[1]))
    names = ("recipe_id", "unit_ids", "weights_sha256", "validation_ic", "epochs")
    assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}
    assert "2 x 1 thread" in str(ours["plan_of_work"])
    for unit_id in unit_ids_of(week):
        here, there = (
            verify(result_folder(each.workdir / "checkpoints", unit_id), UNIT_KIND).content_sha256
            for each in (factory, separate[0])
        )
        assert here == there


def test_next_week_judges_the_separate_set_by_its_own_validation(
    separate: tuple[Factory, Week], tmp_path: Path
) -> None:
    workdir = tmp_path / "work"
    shutil.copytree(separate[0].workdir, workdir)
    factory = dataclasses.replace(separate[0], workdir=workdir)
    before = set(factory.files("checkpoints"))
    week = factory.run(factory.next_week)
    assert week.decision is not None
    assert (week.decision.kind, week.decision.serving) == ("refresh", "separate")
    checks = {check.name: check for check in week.decision.checks}
    assert checks["agrees_with_current"].passed
    assert float(str(checks["agrees_with_current"].value)) > 0.9
    own = float(str(step_of(week, "train").facts["validation_ic"]))
    (select,) = (
        read_selection(factory.workdir / "checkpoints", unit_id)
        for unit_id in unit_ids_of(week)
        if unit_id not in unit_ids_of(separate[1])
        and (result_folder(factory.workdir / "checkpoints", unit_id) / SELECTION_NAME).is_file()
    )
    assert abs(own - select.valid_rank_ic) > 0.02  # the pooled score is noise, and says nothing of this set
    assert checks["validation_as_usual"].value == own
    assert checks["validation_as_usual"].passed is (own > 0.0)
    assert week.decision.deploys is (own > 0.0)
    assert (week.current_release_id != separate[1].current_release_id) is (own > 0.0)
    new = {name.split("/")[0] for name in set(factory.files("checkpoints")) - before} - {"baselines"}
    assert len(new) == 4  # select, one member and two shards of symbols of the live fold
