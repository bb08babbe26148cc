import json
from pathlib import Path

import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.cycle.runner import (
    Facts,
    Runner,
    SilentObserver,
    StepOutcome,
    StepResult,
    StepSpec,
    latest_cycle,
    read_steps,
)


class Work:
    """A step's work that counts its runs and can be told to die."""

    def __init__(self, *, dies: bool = False) -> None:
        self.runs = 0
        self.dies = dies

    def __call__(self, scratch: Path) -> StepResult:
        self.runs += 1
        (scratch / "half.txt").write_text("half", encoding="utf-8")
        if self.dies:
            raise BadDataError("it broke")
        return StepResult(summary="two rows", facts={"data_id": "abc", "rows": 2})


def runner(folder: Path) -> Runner:
    return Runner(folder=folder, observer=SilentObserver())


def spec(name: str = "check", inputs: Facts | None = None) -> StepSpec:
    return StepSpec(name=name, inputs={"as_of": "2024-12-31"} if inputs is None else inputs, rooms=("core",))


def test_when_the_same_step_runs_again_it_is_reused(tmp_path: Path) -> None:
    work = Work()
    first = runner(tmp_path).step(spec(), work)
    second = runner(tmp_path).step(spec(), work)
    assert work.runs == 1
    assert (first.reused, second.reused) == (False, True)
    assert second.facts == {"data_id": "abc", "rows": 2}
    assert second.seconds == first.seconds
    assert second.text("data_id") == "abc"


def test_when_an_input_changes_the_step_runs_again_and_replaces_its_folder(tmp_path: Path) -> None:
    work = Work()
    runner(tmp_path).step(spec(), work)
    again = runner(tmp_path).step(spec(inputs={"as_of": "2025-01-07"}), work)
    assert work.runs == 2
    assert not again.reused
    assert [outcome.key for outcome in read_steps(tmp_path)] == [again.key]


def test_when_a_step_dies_nothing_of_it_stays_and_the_error_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadDataError) as caught:
        runner(tmp_path).step(spec(), Work(dies=True))
    assert caught.value.__notes__ == ["while running step check"]
    assert list(tmp_path.iterdir()) == []


def test_when_a_dead_run_left_scratch_folders_they_are_cleared(tmp_path: Path) -> None:
    rest = tmp_path / ".check.tmp-1234abcd"
    rest.mkdir()
    (rest / "half.txt").write_text("half", encoding="utf-8")
    runner(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_when_a_product_of_a_reused_step_is_gone_the_step_runs_again(tmp_path: Path) -> None:
    work = Work()
    runner(tmp_path).step(spec(), work)

    def gone(_: StepOutcome) -> bool:
        return False

    assert not runner(tmp_path).step(spec(), work, still_whole=gone).reused
    assert work.runs == 2


@pytest.mark.parametrize("damage", ["manifest.json", "half.txt"])
def test_when_a_sealed_step_was_damaged_it_runs_again(tmp_path: Path, damage: str) -> None:
    work = Work()
    outcome = runner(tmp_path).step(spec(), work)
    (outcome.folder / damage).write_text("{", encoding="utf-8")
    assert not runner(tmp_path).step(spec(), work).reused


def test_the_manifest_of_a_step_tells_key_time_memory_and_summary(tmp_path: Path) -> None:
    outcome = runner(tmp_path).step(spec(), Work())
    meta = json.loads((outcome.folder / "manifest.json").read_text(encoding="utf-8"))["meta"]
    assert meta["name"] == "check"
    assert meta["key"] == outcome.key
    assert meta["summary"] == "two rows"
    assert meta["seconds"] >= 0
    assert 10 < meta["peak_memory_mib"] < 100_000


def test_steps_are_read_in_running_order_and_unfinished_ones_left_out(tmp_path: Path) -> None:
    for name in ("train", "collect"):
        runner(tmp_path).step(spec(name), Work())
    (tmp_path / "gate").mkdir()
    assert [outcome.name for outcome in read_steps(tmp_path)] == ["collect", "train"]


def test_the_newest_week_is_the_newest_that_finished_a_step(tmp_path: Path) -> None:
    assert latest_cycle(tmp_path / "absent") is None
    for name in ("2024-W52", "2025-W01", "notes"):
        runner(tmp_path / name).step(spec("collect"), Work())
    (tmp_path / "2026-W47").mkdir()
    assert latest_cycle(tmp_path) == tmp_path / "2025-W01"


def test_what_a_killed_run_left_half_written_goes_be_it_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".plan.json.tmp-0a1b2c3d").write_text("half", encoding="utf-8")
    (tmp_path / ".train.tmp-0a1b2c3d").mkdir()
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    runner(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
