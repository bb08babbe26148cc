"""Every job fills its table with figures that say where they come from, and leaves nothing behind."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from vnfleet.bench import labels, literal, race
from vnfleet.bench.fleet import Bench
from vnfleet.bench.labels import labels_tables, longest_histories, windows_of
from vnfleet.bench.literal import literal_tables
from vnfleet.bench.material import SIMULATED_AS_OF, Material, simulated_config
from vnfleet.bench.peers.outside import OutsideFacts, OutsideResult, score_frame
from vnfleet.bench.plan import ACCURACY_CLAIMS, PLAN_ROWS, plan_tables
from vnfleet.bench.race import baseline_entry, outside_entry, plain_entry, vmap_entry
from vnfleet.bench.recipes import plan_network, window_recipe
from vnfleet.bench.report import MachineFacts
from vnfleet.bench.table import Table
from vnfleet.bench.train import BenchOptions, recipe_of, run_train_bench
from vnfleet.bench.weekly import run_weekly, weekly_tables
from vnfleet.cycle.config import CycleConfig, UniverseConfig
from vnfleet.model.stockformer import preset
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe


def column(table: Table, name: str) -> list[str]:
    place = table.columns.index(name)
    return [str(row[place]) for row in table.rows]


def recipe(config: CycleConfig) -> Recipe:
    return Recipe(config.model, config.training, config.objective)


def idle() -> MachineFacts:
    return replace(MachineFacts.here(), cores=2, load=0.1)


@pytest.fixture(autouse=True)
def small_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink the plan's network: its shape is tested elsewhere."""
    shape = replace(preset("plan"), d_model=16, num_heads=2, num_layers=2, d_ff=32, window_sessions=20)
    monkeypatch.setattr("vnfleet.bench.recipes.preset", lambda _: shape)


def test_labels_has_the_plans_loop_first_and_marks_every_rate(bench: Bench) -> None:
    said: list[str] = []
    (table,) = labels_tables(bench, seconds=0.1, say=said.append, num_symbols=2)
    for name in column(table, "how"):  # nobody waits a minute in silence
        assert [line.startswith(name) for line in said].count(True) >= 2
    assert sum(line.endswith("labels/s") for line in said) == 5
    rates = column(table, "labels/s")
    assert len(rates) == 5
    assert all(rate.endswith("(m)") for rate in rates)
    assert column(table, "times the plan's recipe")[0] == "1 (m)"
    assert "not the same function" in " ".join(table.notes)
    parameters = column(table, "parameters of each")
    assert len(set(parameters[:4])) == 1  # the plan's loop, vmap, window and streaming


def test_a_row_is_the_faster_of_its_thread_counts() -> None:
    rates = {1: 20.0, 2: 15.0}
    found = labels._by_threads(lambda count: labels._Measured(rates[count], 1, count, "float32", 1.0, 1), (1, 2))
    assert labels._fastest(found).threads == 1
    assert "20 labels/s on 1 thread, 15 labels/s on 2 threads" in labels._rates_in_words(found)


def test_the_longest_histories_come_first(bench: Bench) -> None:
    symbols = longest_histories(bench, 32)
    assert symbols[-1] == "S05"  # listed late
    assert len(windows_of(bench, symbols[:3], 20)) == 3


def test_a_slice_of_the_literal_job_is_marked_estimated(bench: Bench) -> None:
    (table,) = literal_tables(bench, seconds=0.05, whole=False, say=lambda _: None, num_models=2)
    figures = dict(zip(column(table, "what"), column(table, "figure"), strict=True))
    assert figures["time for 2 models x 1 seed x 100 epochs"].endswith("(e)")
    assert figures["Colab A100, by the plan, 102 models x 100 epochs"] == "26-34 h (c)"
    assert table.title == "The plan to the letter: separate, window, 2 models x 1 seed x 100 epochs, from a slice"


def test_the_whole_literal_job_is_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    small = window_recipe(bench.model, max_epochs=2)
    monkeypatch.setattr(literal, "window_recipe", lambda _: small)
    monkeypatch.setattr(literal, "PLAN_EPOCHS", 2)
    monkeypatch.setattr(Bench, "stack_size", lambda *_: 2)
    run = literal.run_literal(bench, seconds=float("inf"), say=lambda _: None, num_models=3)
    assert run.rate.finished
    assert run.num_models == 3
    assert run.labels == 2 * bench.labels_of(longest_histories(bench, 3), 19).sum()


def test_a_symbol_listed_after_training_has_no_model(bench: Bench) -> None:
    present_ST = bench.data.present_ST.copy()
    present_ST[2, : bench.fold.train.stop] = False
    late = replace(bench, data=replace(bench.data, present_ST=present_ST))
    run = literal.run_literal(late, seconds=0.05, say=lambda _: None)
    assert run.num_models == len(bench.fold.universe) - 1
    rate = late.separate(window_recipe(bench.model), bench.fold.universe[1:4], 0.05)
    assert rate.num_models == 2


def test_the_weekly_job_is_measured_from_package_to_artifacts(bench: Bench, config: CycleConfig) -> None:
    said: list[str] = []
    run = run_weekly(bench, recipe(config), said.append)
    names = [name for name, _ in run.parts]
    assert names[0] == "pack the training data"
    assert names[2:4] == [unit.words for unit in fold_units(recipe(config), bench.data, bench.fold)]
    assert names[-1] == "write 32 artifacts"
    assert run.seconds >= sum(seconds for _, seconds in run.parts[2:])
    assert run.mark == "measured"
    assert run.peak_gib > 0.1
    assert len(said) == 2
    assert not list(bench.scratch.glob("*"))


def test_a_quick_weekly_job_is_estimated(bench: Bench, config: CycleConfig) -> None:
    (table,) = weekly_tables(bench, recipe(config), quick=True, say=lambda _: None)
    figures = dict(zip(column(table, "part"), column(table, "figure"), strict=True))
    assert figures["in all, prices and features excluded"].endswith("(e)")
    assert figures["peak memory, all processes"].endswith("(e)")  # that of some steps
    assert "32 models x 1 seed x 2 epochs" in table.title
    assert "Without --quick" in " ".join(table.notes)


def test_lightgbm_finds_the_planted_signal(material: Material) -> None:
    entry = baseline_entry(material, "lightgbm")
    assert entry.mark == "measured"
    assert entry.score is not None
    assert entry.score.rank_ic is not None
    assert entry.score.rank_ic > 0.2
    low, high = entry.score.rank_ic_interval
    assert low is not None
    assert high is not None
    assert low < entry.score.rank_ic < high


@pytest.mark.parametrize("peer", [plain_entry, vmap_entry])
def test_a_stopped_peer_is_extrapolated_and_has_no_score(
    peer: object, bench: Bench, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "_MIN_SLICE_SECONDS", 0.01)
    windows = windows_of(bench, ["S00", "S01", "S02"], plan_network(bench.model).window_sessions)
    assert callable(peer)
    entry = peer(bench, material, windows, 100, 0.01)
    assert entry.mark == "estimated"
    assert entry.score is None
    assert entry.fit_seconds > 1.0


@pytest.mark.parametrize("peer", [plain_entry, vmap_entry])
def test_a_peer_that_ends_is_scored(peer: object, bench: Bench, material: Material) -> None:
    windows = windows_of(bench, list(bench.fold.universe[:18]), plan_network(bench.model).window_sessions)
    assert callable(peer)
    entry = peer(bench, material, windows, 1, 600.0)
    assert entry.mark == "measured"
    assert entry.score is not None
    assert entry.score.num_sessions == 55  # 60 judged sessions, the last 5 without an outcome


def test_an_outside_library_that_was_stopped_says_so(material: Material) -> None:
    facts = OutsideFacts(
        fold_id="2021",
        name="peer",
        setting="as it comes",
        fit_seconds=10.0,
        forecast_seconds=1.0,
        seconds_per_step=0.1,
        steps=100,
        planned_steps=1000,
    )
    rows = pl.DataFrame({"symbol": ["S00"], "session": [material.data.sessions[250]], "score": [1.0]})
    entry = outside_entry(OutsideResult(facts=facts, predictions=score_frame(rows, "peer", "2021", 5)), material)
    assert entry.fit_seconds == pytest.approx(100.0)
    assert entry.mark == "estimated"
    assert "10% of its steps" in entry.how


def test_the_plans_rows_are_all_there_and_marked(bench: Bench, material: Material, config: CycleConfig) -> None:
    speed, memory, accuracy = plan_tables(
        bench, material, recipe(config), idle(), seconds=0.1, quick=True, say=lambda _: None
    )
    assert column(speed, "machine")[:-1] == [row.name for row in PLAN_ROWS]
    claims = column(speed, "claimed: 102 models x 100 epochs")
    assert claims[:4] == ["26-34 h (c)", "42-60 h (c)", "76-102 h (c)", "51-77 h (c)"]
    assert column(speed, "cost")[0] == "$50 a month (c)"
    alone = column(speed, "alone: 1 model x 1 seed x 100 epochs")
    assert alone[:-1] == ["-"] * len(PLAN_ROWS)  # a share of a stack is not a model alone
    assert alone[-1].endswith("(e)")
    letter = column(speed, "to the letter: 32 models x 1 seed x 100 epochs")
    assert column(speed, "weekly job: 32 models x 1 seed x 2 epochs")[-1].endswith("(e)")
    assert all(cell.endswith("(e)") for cell in (letter[0], letter[1], letter[2], letter[4]))
    assert letter[3] == "-"  # nobody measured on an i7-14700
    a100, t4 = speed.rows[0][4].value, speed.rows[2][4].value
    assert a100 is not None
    assert t4 is not None
    assert t4 / a100 == pytest.approx(312 / 65, rel=0.6)  # dense peaks of the data sheets, each time to one digit
    assert str(memory.rows[-1][2]).endswith("(m)")
    assert column(accuracy, "claimed for") == [scope for scope, _ in ACCURACY_CLAIMS]
    assert column(accuracy, "estimated here")[2].startswith("32 models x 1 seed x 2 epochs")
    assert column(accuracy, "absolute accuracy [95 %], base rate") == ["-", "-", "-"]
    for table in (speed, memory, accuracy):
        assert not any(str(cell).startswith("- ") for row in table.rows for cell in row)  # a dash claims nothing
        assert not any("102" in name for name in table.columns if not name.startswith("claimed"))
    for table in (speed, accuracy):
        assert "without --quick" in " ".join(table.notes)


def test_a_busy_machine_guesses_nothing_about_cards(bench: Bench, material: Material, config: CycleConfig) -> None:
    busy = replace(idle(), load=9.0)
    speed, _, _ = plan_tables(bench, material, recipe(config), busy, seconds=0.05, quick=True, say=lambda _: None)
    letter = [str(row[4]) for row in speed.rows]
    assert letter[:-1] == ["-"] * len(PLAN_ROWS)
    assert letter[-1].endswith("(e)")
    assert "No estimates for cards" in " ".join(speed.notes)


def test_the_plans_accuracies_are_measured_on_models_trained_to_their_end(
    bench: Bench, material: Material, config: CycleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vnfleet.bench.plan.window_recipe", lambda like: window_recipe(like, max_epochs=2))
    speed, memory, accuracy = plan_tables(
        bench, material, recipe(config), idle(), seconds=0.05, quick=False, say=lambda _: None
    )
    assert all(cell.endswith("(m)") for cell in column(accuracy, "time here"))
    assert all("base" in cell for cell in column(accuracy, "absolute accuracy [95 %], base rate"))
    relative = column(accuracy, "market-relative accuracy [95 %]")
    assert relative[0] == "-"  # one symbol has no median to beat
    assert "[" in relative[2]
    assert str(speed.rows[-1][3]).endswith("(m)")
    assert str(memory.rows[-1][3]).endswith("GiB (m)")


def test_the_record_is_whole_and_the_scratch_is_gone(material: Material, tmp_path: Path) -> None:
    options = BenchOptions(quick=True, seconds=0.05)
    scratch = tmp_path / "scratch"
    report = run_train_bench("labels", material, options, scratch=scratch, command="vnfleet bench train")
    assert not scratch.exists()
    assert not report.whole
    assert report.code.startswith("recipe ")
    json.dumps(report.as_json(), allow_nan=False)


def test_quick_means_small_and_lengths_must_mean_something(material: Material) -> None:
    assert recipe_of(material, BenchOptions(quick=True)).training.num_seeds == 1
    assert BenchOptions().slice_seconds == 30.0
    assert BenchOptions(peer_minutes=2.0).peer_seconds == 120.0
    with pytest.raises(ValueError, match="epochs at least 1"):
        BenchOptions(epochs=0)


def test_without_prices_a_market_of_the_plans_size_is_simulated() -> None:
    few = replace(CycleConfig(), universe=UniverseConfig(models=9))
    whole, small = (simulated_config(CycleConfig(), quick=quick) for quick in (False, True))
    assert whole.simulated.num_symbols == 289
    assert SIMULATED_AS_OF.year - whole.simulated.start.year + 1 == 12
    assert simulated_config(few, quick=True).universe.models == 9  # what was asked for
    assert small.universe.models < small.simulated.num_symbols < 60
    assert whole.source.kind == small.source.kind == "simulated"
