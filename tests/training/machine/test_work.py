from __future__ import annotations

import dataclasses
import errno
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from vnfleet.core import atomic
from vnfleet.core.errors import ResourceError
from vnfleet.training.machine.budget import BudgetChoice, fit_to_budget
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.work import (
    WORK_NAME,
    LayoutRecord,
    MachineFacts,
    WorkRecord,
    fitted_recipe,
    new_record,
    plan_of_work,
    read_work,
    work_key,
    write_work,
)
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe, TrainingConfig

NOW = datetime(2026, 11, 23, 1, 45, tzinfo=UTC)
DESKTOP = MachineFacts(
    system="Linux", architecture="x86_64", cpu_capability="AVX2", num_cores=8, device="cpu", torch="2.13.0"
)
LAPTOP = DESKTOP.model_copy(update={"num_cores": 2})


@dataclasses.dataclass(frozen=True)
class Measured:
    """A layout as a measurement hands it over, with more than is written down."""

    processes: int = 4
    threads: int = 2
    seconds_per_step: float = 0.125
    compiled: bool = False
    words: str = "4 processes x 2 threads"


def reduced() -> BudgetChoice:
    return fit_to_budget(lambda seeds, epochs: 60.0 * seeds * epochs, num_seeds=3, max_epochs=8, seconds_left=600.0)


def unit_of(seed: int) -> WorkUnit:
    return WorkUnit(
        kind="member",
        fold_id="live",
        seed=seed,
        train=(0, 100),
        valid=(105, 150),
        refit=(0, 150),
        universe=("AAA",),
        recipe_id="r",
        data_id="d",
    )


def record_of(key: str = "key") -> WorkRecord:
    return new_record(
        key, now=NOW, machine=DESKTOP, layout=Measured(), budget=reduced(), units=[unit_of(0), unit_of(1)]
    )


def never() -> NoReturn:
    pytest.fail("must not be asked")


class TestTheRecord:
    def test_it_is_read_back_as_it_was_written(self, tmp_path: Path) -> None:
        written = record_of()
        write_work(tmp_path / WORK_NAME, written)
        found = read_work(tmp_path / WORK_NAME, "key")
        assert found == written
        assert found is not None
        assert found.budget.words == reduced().words
        assert found.made_at == "2026-11-23T01:45:00Z"
        assert (found.layout.processes, found.layout.threads, found.layout.seconds_per_step) == (4, 2, 0.125)
        assert found.unit_ids == (unit_of(0).unit_id, unit_of(1).unit_id)

    def test_an_absent_one_is_none(self, tmp_path: Path) -> None:
        assert read_work(tmp_path / "no-week-yet" / WORK_NAME, "key") is None

    def test_one_of_another_plan_is_none(self, tmp_path: Path) -> None:
        write_work(tmp_path / WORK_NAME, record_of())
        assert read_work(tmp_path / WORK_NAME, "another") is None

    @pytest.mark.parametrize(
        ("damage", "word"),
        [
            (lambda text: text[: len(text) // 2], "not as expected"),
            (lambda _: "", "not as expected"),
            (lambda _: '{"work": {}}', "not as expected"),
            (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "not as expected"),
            (lambda text: text.replace('"num_seeds": 1', '"num_seeds": 3'), "were changed"),
            (lambda text: text.replace("0.125", "0.25"), "were changed"),
            (lambda text: text.replace('"threads": 2', '"threads": 4'), "were changed"),
        ],
    )
    def test_a_damaged_one_is_named_and_counts_as_none(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object, word: str
    ) -> None:
        path = tmp_path / WORK_NAME
        write_work(path, record_of())
        whole = path.read_text(encoding="utf-8")
        assert callable(damage)
        broken = damage(whole)
        assert broken != whole
        path.write_text(broken, encoding="utf-8")
        with caplog.at_level(logging.WARNING):
            assert read_work(path, "key") is None
        assert str(path) in caplog.text
        assert word in caplog.text

    def test_bytes_that_are_no_text_count_as_damage(self, tmp_path: Path) -> None:
        path = tmp_path / WORK_NAME
        path.write_bytes(b"\xff\xfe\x00")
        assert read_work(path, "key") is None

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_are_none_count_as_damage(
        self, tmp_path: Path, number: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / WORK_NAME
        write_work(path, record_of())
        path.write_text(path.read_text(encoding="utf-8").replace("0.125", number), encoding="utf-8")
        assert read_work(path, "key") is None
        assert str(path) in caplog.text

    def test_a_folder_in_its_place_is_named_moved_aside_and_made_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / WORK_NAME
        path.mkdir()
        (path / "mine.txt").write_text("x", encoding="utf-8")
        made = plan_of_work(path, "key", DESKTOP, decide=record_of, measure=never)
        assert "made anew" in caplog.text
        assert str(path) in caplog.text
        assert read_work(path, "key") == made
        assert len(list(tmp_path.glob(f".{WORK_NAME}{atomic.TMP_MARK}*/mine.txt"))) == 1

    def test_a_full_disk_leaves_the_old_record(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / WORK_NAME
        write_work(path, record_of())

        def full(_path: Path) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(atomic, "fsync_file", full)
        with pytest.raises(ResourceError, match="disk is full"):
            write_work(path, record_of("newer"))
        assert read_work(path, "key") == record_of()

    def test_a_layout_that_cannot_be_is_refused(self) -> None:
        for broken in (Measured(processes=0), Measured(threads=0), Measured(seconds_per_step=float("nan"))):
            with pytest.raises(ValueError):
                LayoutRecord.of(broken)

    def test_this_machine_is_told_without_names(self) -> None:
        here = MachineFacts.here(num_cores=2, device="cpu")
        assert here == MachineFacts.here(num_cores=2, device="cpu")
        assert here != MachineFacts.here(num_cores=3, device="cpu")
        assert here.system
        assert here.torch


class TestOncePerPlan:
    def test_a_second_run_takes_the_same_decisions(self, tmp_path: Path) -> None:
        path = tmp_path / WORK_NAME
        first = plan_of_work(path, "key", DESKTOP, decide=record_of, measure=never)
        again = plan_of_work(path, "key", DESKTOP, decide=never, measure=never)
        assert again == first == record_of()

    def test_another_plan_is_decided_anew(self, tmp_path: Path) -> None:
        path = tmp_path / WORK_NAME
        plan_of_work(path, "key", DESKTOP, decide=record_of, measure=never)
        other = plan_of_work(path, "other", DESKTOP, decide=lambda: record_of("other"), measure=never)
        assert other.key == "other"
        assert read_work(path, "other") == other

    def test_elsewhere_the_layout_is_measured_again_and_the_decisions_stay(self, tmp_path: Path) -> None:
        path = tmp_path / WORK_NAME
        first = plan_of_work(path, "key", DESKTOP, decide=record_of, measure=never)
        moved = plan_of_work(path, "key", LAPTOP, decide=never, measure=lambda: Measured(1, 2, 0.5))
        assert moved.layout == LayoutRecord(processes=1, threads=2, seconds_per_step=0.5)
        assert moved.machine == LAPTOP
        assert (moved.budget, moved.unit_ids, moved.made_at) == (first.budget, first.unit_ids, first.made_at)
        assert plan_of_work(path, "key", LAPTOP, decide=never, measure=never) == moved

    def test_a_damaged_record_is_made_anew(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = tmp_path / WORK_NAME
        path.write_text("{", encoding="utf-8")
        made = plan_of_work(path, "key", DESKTOP, decide=record_of, measure=never)
        assert "made anew" in caplog.text
        assert read_work(path, "key") == made

    def test_a_decision_that_failed_leaves_nothing(self, tmp_path: Path) -> None:
        def fails() -> WorkRecord:
            raise ResourceError("no memory")

        with pytest.raises(ResourceError):
            plan_of_work(tmp_path / WORK_NAME, "key", DESKTOP, decide=fails, measure=never)
        assert list(tmp_path.iterdir()) == []


class TestTheKey:
    def test_it_is_the_plan_and_how_it_may_be_computed(self) -> None:
        recipe, machine = Recipe(), MachineConfig()
        key = work_key(recipe, machine, data_id="d", fold_ids=["2024", "live"])
        assert key == work_key(Recipe(), MachineConfig(), data_id="d", fold_ids=("2024", "live"))
        changed = [
            work_key(Recipe(training=TrainingConfig(num_seeds=2)), machine, data_id="d", fold_ids=["2024", "live"]),
            work_key(recipe, MachineConfig(deadline="08:45"), data_id="d", fold_ids=["2024", "live"]),
            work_key(recipe, MachineConfig(budget_minutes=5.0), data_id="d", fold_ids=["2024", "live"]),
            work_key(recipe, MachineConfig(processes=1), data_id="d", fold_ids=["2024", "live"]),
            work_key(recipe, machine, data_id="e", fold_ids=["2024", "live"]),
            work_key(recipe, machine, data_id="d", fold_ids=["live"]),
        ]
        assert len({key, *changed}) == 1 + len(changed)

    def test_how_often_checkpoints_are_written_is_no_part_of_it(self) -> None:
        keys = {
            work_key(Recipe(), machine, data_id="d", fold_ids=["live"])
            for machine in (MachineConfig(), MachineConfig(checkpoint_epochs=1, checkpoint_minutes=1.0))
        }
        assert len(keys) == 1


class TestTheRecipeThatFits:
    def test_only_seeds_and_epochs_differ(self) -> None:
        recipe = Recipe()
        fitted = fitted_recipe(recipe, reduced())
        assert (fitted.training.num_seeds, fitted.training.max_epochs) == (1, 8)
        assert dataclasses.replace(fitted.training, num_seeds=3, max_epochs=8) == recipe.training
        assert (fitted.model, fitted.objective) == (recipe.model, recipe.objective)
        assert fitted.recipe_id != recipe.recipe_id

    def test_fewer_seeds_keep_the_identity_of_members(self) -> None:
        recipe = Recipe()
        assert fitted_recipe(recipe, reduced()).unit_recipe_id == recipe.unit_recipe_id

    def test_nothing_given_up_is_the_recipe_itself(self) -> None:
        recipe = Recipe()
        whole = fit_to_budget(lambda _seeds, _epochs: 60.0, num_seeds=3, max_epochs=8, seconds_left=None)
        assert fitted_recipe(recipe, whole) is recipe


def test_the_record_is_plain_json_that_people_can_read(tmp_path: Path) -> None:
    write_work(tmp_path / WORK_NAME, record_of())
    told = json.loads((tmp_path / WORK_NAME).read_text(encoding="utf-8"))["work"]
    assert told["budget"]["asked_seeds"] == 3
    assert told["budget"]["num_seeds"] == 1
    assert told["machine"]["num_cores"] == 8
