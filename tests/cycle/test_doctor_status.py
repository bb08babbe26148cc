import os
from datetime import date
from pathlib import Path

import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.cycle.doctor import examine
from vnfleet.cycle.runner import Runner, SilentObserver, StepResult, StepSpec
from vnfleet.cycle.status import look, remember_plan

TODAY = date(2024, 12, 31)


def collected(workdir: Path, newest: str) -> None:
    runner = Runner(folder=workdir / "logs" / "cycles" / "2024-W52", observer=SilentObserver())
    runner.step(
        StepSpec(name="collect", inputs={}, rooms=("core",)),
        lambda _: StepResult(summary="3 symbols", facts={"newest_session": newest}),
    )


def state_of(workdir: Path, name: str) -> tuple[str, str]:
    found = next(one for one in examine(workdir, TODAY) if one.name == name)
    return found.state, found.found


def test_an_empty_workdir_is_healthy_and_is_left_as_it_was(tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    findings = examine(workdir, TODAY)
    assert not workdir.exists()
    assert {one.name for one in findings} >= {
        "python",
        "torch",
        "polars",
        "cores",
        "memory",
        "free disk",
        "rclone",
        "workdir",
    }
    assert not [one for one in findings if one.state == "problem"]
    assert state_of(workdir, "data") == ("ok", "nothing collected yet")


@pytest.mark.parametrize(("newest", "state"), [("2024-12-30", "ok"), ("2024-12-24", "ok"), ("2024-12-23", "warning")])
def test_data_older_than_a_week_is_a_warning(tmp_path: Path, newest: str, state: str) -> None:
    collected(tmp_path, newest)
    found, words = state_of(tmp_path, "data")
    assert found == state
    assert newest in words


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_workdir_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert state_of(tmp_path / "work", "workdir")[0] == "problem"


def test_a_workdir_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert state_of(tmp_path / "file" / "work", "workdir")[0] == "problem"


def test_status_of_nothing_is_a_status(tmp_path: Path) -> None:
    seen = look(tmp_path / "absent")
    assert (seen.release_id, seen.cycle_id, seen.steps, seen.open_units) == (None, None, (), ())
    assert not (tmp_path / "absent").exists()


def test_status_tells_finished_steps_and_open_units(tmp_path: Path) -> None:
    collected(tmp_path, "2024-12-30")
    remember_plan(tmp_path / "logs" / "cycles" / "2024-W52", ["aaaa", "bbbb"])
    done = tmp_path / "checkpoints" / "aaaa" / "result"
    done.mkdir(parents=True)
    (done / "manifest.json").write_text("{}", encoding="utf-8")
    seen = look(tmp_path)
    assert seen.cycle_id == "2024-W52"
    assert [step.name for step in seen.steps] == ["collect"]
    assert seen.missing_steps[:2] == ("check", "features")
    assert seen.open_units == ("bbbb",)


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    collected(tmp_path, "2024-12-30")
    (tmp_path / "logs" / "cycles" / "2024-W52" / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadDataError, match=r"plan of a week is damaged[\s\S]*next:"):
        look(tmp_path)
