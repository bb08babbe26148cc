"""A whole week, the week after it, a partial one, and a week the gate refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import polars as pl
import pytest

from vnfleet.cli.main import main
from vnfleet.core.errors import UsageError
from vnfleet.cycle.runner import STEPS
from vnfleet.cycle.steps.trading import known_to
from vnfleet.cycle.trials import read_trials
from vnfleet.cycle.weekly import Week, forecast_now, run_cycle
from vnfleet.evaluation.metrics import SUMMARY_SCHEMA
from vnfleet.model.artifact import read_artifact
from vnfleet.releases.deploy import current_release
from vnfleet.releases.gate import GateLimits
from vnfleet.releases.registry import open_release
from vnfleet.settings import write_resolved

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Factory

    from vnfleet.cycle.context import WeekContext

pytestmark = pytest.mark.xdist_group("end_to_end")


def test_a_week_ends_with_a_release_forecasts_and_a_report(finished: tuple[Factory, Week]) -> None:
    factory, week = finished
    assert [step.name for step in week.steps] == list(STEPS)
    assert not any(step.reused for step in week.steps)
    assert week.cycle_id == "2023-W10"
    assert week.decision is not None
    assert week.decision.kind == "first"
    assert week.decision.deploys
    release = open_release(factory.workdir / "models_prod", str(week.current_release_id))
    assert len(release.symbols) == factory.models
    assert all(release.artifact_path(symbol).is_file() for symbol in release.symbols)
    assert week.predictions is not None
    assert sorted(week.predictions.get_column("symbol").to_list()) == list(release.symbols)
    assert week.predictions.get_column("session").unique().to_list() == [factory.first_week]
    assert week.report is not None
    page = week.report.read_text(encoding="utf-8")
    assert "<html" in page
    assert (week.report.parent / "latest.html").read_text(encoding="utf-8") == page
    assert all(step.seconds >= 0 and step.peak_memory_mib > 0 and step.summary for step in week.steps)


def test_every_forecaster_is_scored_on_the_same_sessions(finished: tuple[Factory, Week]) -> None:
    step = next(step for step in finished[1].steps if step.name == "evaluate")
    summary = pl.read_parquet(step.folder / "summary.parquet")
    assert summary.schema == pl.Schema(SUMMARY_SCHEMA)
    overall = summary.filter(pl.col("year") == "all")
    assert overall.height == 9
    ranked = overall.filter(pl.col("rank_ic").is_not_null()).get_column("model_id").to_list()
    daily = pl.read_parquet(step.folder / "daily_ic.parquet").drop_nulls("rank_ic")
    sessions = {one: set(daily.filter(pl.col("model_id") == one).get_column("session")) for one in ranked}
    assert len(sessions) == 8
    repeats = sessions.pop("last_direction")  # a session on which all moved one way it cannot rank
    first, *others = sessions.values()
    assert all(one == first for one in others)
    assert repeats <= first
    assert {session.year for session in first} == {2022}


def test_a_planted_signal_is_found(finished: tuple[Factory, Week]) -> None:
    step = next(step for step in finished[1].steps if step.name == "evaluate")
    overall = pl.read_parquet(step.folder / "summary.parquet").filter(pl.col("year") == "all")
    pooled = overall.filter(pl.col("model_id").str.ends_with("-pooled")).row(0, named=True)
    assert pooled["rank_ic_low"] > 0


def test_when_the_week_runs_again_everything_is_reused(factory: Factory) -> None:
    before = factory.files(".")
    week = factory.run()
    assert all(step.reused for step in week.steps)
    assert factory.files(".") == before


def test_when_a_release_is_rolled_back_running_the_week_again_does_not_bring_it_back(factory: Factory) -> None:
    first = current_release(factory.workdir / "models_prod")
    factory.run(factory.next_week)
    assert main(["rollback", "--workdir", str(factory.workdir)]) == 0
    again = factory.run(factory.next_week)
    assert first is not None
    assert again.current_release_id == first.release_id
    assert [step.name for step in again.steps if not step.reused] == ["predict", "report"]


def test_next_week_reuses_the_finished_year_and_refreshes_the_live_set(factory: Factory) -> None:
    before = factory.files("checkpoints")
    first = current_release(factory.workdir / "models_prod")
    week = factory.run(factory.next_week)
    after = factory.files("checkpoints")
    assert {name: after.get(name) for name in before} == before
    new = {name.split("/")[0] for name in set(after) - set(before)} - {"baselines"}
    assert len(new) == 2  # select and one member of the live fold; no forecast of a finished year
    assert week.cycle_id == "2023-W11"
    assert week.decision is not None
    assert week.decision.kind == "refresh"
    assert week.decision.deploys
    assert first is not None
    assert week.current_release_id != first.release_id
    now = current_release(factory.workdir / "models_prod")
    assert now is not None
    assert now.previous_release_id == first.release_id
    page = week.report.read_text(encoding="utf-8") if week.report else ""
    assert str(factory.next_week) in page


def test_another_way_to_choose_folds_or_symbols_is_no_refresh(factory: Factory) -> None:
    folds = dataclasses.replace(factory.config.folds, min_train_sessions=240)
    week = factory.run(factory.next_week, config=dataclasses.replace(factory.config, folds=folds))
    assert week.decision is not None
    assert week.decision.kind == "recipe"


def test_every_variant_that_was_looked_at_is_counted(factory: Factory) -> None:
    log = factory.workdir / "logs" / "trials"
    assert read_trials(log).num_trials == 2  # the adapted and the pooled models
    for slots in (5, 8):
        portfolio = dataclasses.replace(factory.config.portfolio, max_positions=slots)
        config = dataclasses.replace(factory.config, portfolio=portfolio)
        run_cycle(config, workdir=factory.workdir, as_of=factory.first_week, last_step="backtest")
    assert read_trials(log).num_trials == 6


def test_a_name_that_left_the_panel_does_not_stop_the_account_of_the_champion(factory: Factory) -> None:
    """Forecasts of the release that serves may name symbols that nobody collects any more."""
    release = open_release(factory.workdir / "models_prod", factory.run().current_release_id or "")
    frame = pl.read_parquet(release.member_folder("walk_forward") / "predictions.parquet")
    stranger = frame.filter(pl.col("symbol") == frame.item(0, "symbol")).with_columns(symbol=pl.lit("GONE"))
    panel = SimpleNamespace(
        symbols=tuple(frame.get_column("symbol").unique()), sessions=tuple(frame["session"].unique())
    )
    week = cast("WeekContext", SimpleNamespace(panel=lambda: panel))
    assert (
        known_to(week, pl.concat([frame, stranger])).sort("symbol", "session").equals(frame.sort("symbol", "session"))
    )


def test_an_older_week_never_replaces_a_newer_set(factory: Factory) -> None:
    factory.run(factory.next_week)
    deployed = factory.deployed()
    with pytest.raises(UsageError, match="a newer set serves"):
        factory.run(factory.first_week)
    with pytest.raises(UsageError, match="would know the future"):
        forecast_now(workdir=factory.workdir, as_of=factory.first_week)
    assert factory.deployed() == deployed


def test_a_partial_run_writes_its_artifacts_and_never_moves_the_release(factory: Factory) -> None:
    before, symbols = factory.deployed(), ("XAC", "XAA")
    for path in (factory.workdir / "models").iterdir():
        path.unlink()
    week = factory.run(symbols=symbols)
    assert week.partial
    assert week.decision is None
    assert [step.name for step in week.steps] == list(STEPS[:6])
    assert sorted(path.name for path in (factory.workdir / "models").iterdir()) == [
        "XAA_stockformer.pt",
        "XAC_stockformer.pt",
    ]
    assert factory.deployed() == before
    whole = open_release(factory.workdir / "models_prod", str(week.current_release_id))
    for symbol in symbols:
        ours = read_artifact(factory.workdir / "models" / f"{symbol}_stockformer.pt")
        assert ours.weights_sha256 == read_artifact(whole.artifact_path(symbol)).weights_sha256
    assert len(factory.run().steps) == len(STEPS)
    assert len(list((factory.workdir / "models").iterdir())) == factory.models


def test_when_the_gate_is_undecided_nothing_is_deployed_and_the_exit_code_says_so(
    factory: Factory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = factory.deployed()
    strict = dataclasses.replace(factory.config, gate=GateLimits(min_sessions=900, min_proof_sessions=900))
    (factory.workdir / "models_prod" / "current").unlink()
    week = factory.run(config=strict)
    assert week.decision is not None
    assert week.decision.outcome == "undecided"
    assert week.current_release_id is None
    assert week.predictions is None
    del before["current"]
    assert factory.deployed() == before
    strict_file = write_resolved(strict, tmp_path / "strict")
    assert main(factory.arguments("cycle", "--config", str(strict_file))) == 4
    assert "Week 2023-W10" in capsys.readouterr().out


def test_the_command_line_prints_one_json_document(factory: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(factory.arguments("cycle", "--json")) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert record["exit_code"] == 0
    assert [step["step"] for step in record["steps"]] == list(STEPS)
    assert record["current_release_id"]
    assert "reused" in said.err
    for command in ("status", "releases", "doctor"):
        assert main([command, "--json", "--workdir", str(factory.workdir)]) == 0
        assert json.loads(capsys.readouterr().out)["ok"] is True
    assert main(["predict", "--json", "--workdir", str(factory.workdir)]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == factory.models


def test_predict_serves_a_file_from_the_newest_collected_prices(
    factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--workdir", str(factory.workdir), "--output", str(tmp_path / "monday.csv")]) == 0
    said = capsys.readouterr().out
    assert "2023-03-10" in said
    assert "days old" in said
    table = pl.read_csv(tmp_path / "monday.csv", try_parse_dates=True)
    assert table.height == factory.models
    assert table.get_column("session").unique().to_list() == [factory.first_week]


def test_another_recipe_must_beat_the_one_that_serves(factory: Factory) -> None:
    first = current_release(factory.workdir / "models_prod")
    training = dataclasses.replace(factory.config.training, learning_rate=1e-3)
    changed = dataclasses.replace(factory.config, training=training)
    week = factory.run(config=changed)
    assert week.decision is not None
    assert week.decision.kind == "recipe"
    assert first is not None
    assert week.decision.champion_id == f"champion-{first.release_id}"
    step = next(step for step in week.steps if step.name == "backtest")
    assert "champion" in pl.read_parquet(step.folder / "equity.parquet").get_column("series").unique().to_list()
    assert all(step.reused for step in factory.run(config=changed).steps)
