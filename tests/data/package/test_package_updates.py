"""Increments: only what changed travels, and what they give is the new package itself or nothing."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.package import (
    Package,
    Update,
    apply_update,
    catch_up,
    open_update,
    read_package,
    write_update,
)
from vnfleet.data.panel import Panel

NAMES = ["A32", "FPT", "HPG", "VCB", "VNM"]
Same = Callable[[Panel, Panel], None]


def written(base: Package, new: Package, root: Path) -> Update:
    update = write_update(base, new, root)
    assert update is not None
    return update


def names_in(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def weeks(sample: Any, pack: Any, tmp_path: Path) -> list[Package]:
    """Three weeks as the desktop packs them, and the first as another machine has it under `here`."""
    found = [pack(tmp_path / "desktop", sample(1, number, ["AAA", "BBB", "CCC"])) for number in (25, 30, 35)]
    shutil.copytree(found[0].folder, tmp_path / "here" / found[0].package_id)
    return found


@pytest.fixture
def steps(weeks: list[Package], tmp_path: Path) -> list[Update]:
    return [written(weeks[at], weeks[at + 1], tmp_path / "updates") for at in (0, 1)]


_symbols = st.sets(st.sampled_from(NAMES), min_size=1)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    first=st.integers(1, 39),
    more=st.integers(0, 20),
    before=_symbols,
    after=_symbols,
    rebased=st.sets(st.sampled_from(NAMES)),
)
def test_an_increment_gives_exactly_the_new_package(
    sample: Any,
    pack: Any,
    assert_same: Same,
    seed: int,
    first: int,
    more: int,
    before: set[str],
    after: set[str],
    rebased: set[str],
) -> None:
    drawn = sample(seed, min(first + more, 40), sorted(after), sorted(rebased))
    with tempfile.TemporaryDirectory() as folder:
        desktop, here = Path(folder, "desktop"), Path(folder, "here")
        base = pack(desktop, sample(seed, first, sorted(before)))
        new = pack(desktop, drawn)
        step = write_update(base, new, Path(folder, "updates"))
        if step is None:
            assert base == new
            return
        shutil.copytree(base.folder, here / base.package_id)
        found = apply_update(here / base.package_id, step.folder)
        assert found.facts == new.facts
        assert_same(read_package(found.folder).panel, drawn[0])
        assert read_package(found.folder).events.equals(drawn[1])
        for name in {f"symbols/{symbol}" for symbol in rebased} & set(step.facts.extended):
            assert not base.table(name).get_column("is_bar").any()  # it had no price that could change
        gone = {name.removeprefix("symbols/") for name in step.facts.removed}
        assert gone == before - after
        # done again, nothing happens
        assert apply_update(here / base.package_id, step.folder) == found
        assert apply_update(found.folder, step.folder) == found


def test_only_new_rows_of_an_unchanged_past_travel_and_a_rebased_symbol_travels_whole(
    sample: Any, pack: Any, tmp_path: Path
) -> None:
    base = pack(tmp_path / "p", sample(7, 30, ["AAA", "BBB", "CCC", "DDD"]))
    new = pack(tmp_path / "p", sample(7, 35, ["AAA", "BBB", "DDD", "EEE"], rebased=["BBB"]))
    step = written(base, new, tmp_path / "u")
    assert {name for name in step.facts.extended if "/" in name} == {"symbols/AAA", "symbols/DDD"}
    assert {name for name in step.facts.replaced if "/" in name} == {"symbols/BBB", "symbols/EEE"}
    assert step.facts.removed == ("symbols/CCC",)
    assert {"sessions", "vnindex"} <= set(step.facts.extended)
    assert "2 symbols get new rows, 2 are replaced whole, 1 leave" in step.sentence
    assert step.revision == (base.package_id, new.package_id)
    assert step.folder.name == new.package_id
    files = {path.relative_to(step.folder).as_posix().split("-")[0] for path in step.folder.rglob("*.parquet")}
    assert {"new_rows.parquet", "whole/symbols/BBB", "whole/symbols/EEE", "rows/sessions.parquet"} <= files
    assert not any("AAA" in file for file in files)


def test_a_change_of_features_alone_sends_the_manifest_and_nothing_else(sample: Any, pack: Any, tmp_path: Path) -> None:
    base, new = (pack(tmp_path / "p", sample(), features=digit * 64) for digit in "01")
    step = written(base, new, tmp_path / "u")
    assert [path.name for path in step.folder.rglob("*")] == ["manifest.json"]
    shutil.copytree(base.folder, tmp_path / "here" / base.package_id)
    assert apply_update(tmp_path / "here" / base.package_id, step.folder).facts == new.facts


def test_the_same_package_needs_no_increment_and_none_leads_back(weeks: list[Package], tmp_path: Path) -> None:
    assert write_update(weeks[0], weeks[0], tmp_path / "u") is None
    with pytest.raises(UsageError, match="back in time"):
        write_update(weeks[1], weeks[0], tmp_path / "u")


@pytest.mark.usefixtures("steps")
def test_increments_are_caught_up_in_their_order(weeks: list[Package], tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert catch_up(here, tmp_path / "nothing yet", weeks[0].package_id).package_id == weeks[0].package_id
    (tmp_path / "updates" / "still uploading").mkdir()
    found = catch_up(here, tmp_path / "updates", weeks[0].package_id)
    assert found.facts == weeks[2].facts
    assert names_in(here) == {week.package_id for week in weeks}
    assert catch_up(here, tmp_path / "updates", weeks[0].package_id) == found


def test_an_increment_out_of_order_is_refused(weeks: list[Package], steps: list[Update], tmp_path: Path) -> None:
    here = tmp_path / "here"
    with pytest.raises(BadDataError, match="another package") as refusal:
        apply_update(here / weeks[0].package_id, steps[1].folder)
    assert weeks[1].package_id in str(refusal.value)
    assert "in their order" in str(refusal.value)
    assert names_in(here) == {weeks[0].package_id}


def test_a_missing_base_is_refused_by_its_id(steps: list[Update], weeks: list[Package], tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="is not here") as refusal:
        apply_update(tmp_path / "here" / "elsewhere", steps[0].folder)
    assert weeks[0].package_id in str(refusal.value)
    assert names_in(tmp_path / "here") == {weeks[0].package_id}


def _cut_the_new_rows(update: Path, _: Path) -> None:
    path = update / "new_rows.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def _lose_the_new_rows(update: Path, _: Path) -> None:
    (update / "new_rows.parquet").unlink()


def _slip_in_a_file(update: Path, _: Path) -> None:
    (update / "rows" / "more.parquet").write_bytes(b"")


def _damage_the_base(_: Path, base: Path) -> None:
    path = next(base.glob("symbols/AAA-*"))
    path.write_bytes(path.read_bytes()[:-1])


def _slip_into_the_base(_: Path, base: Path) -> None:
    (base / "more.parquet").write_bytes(b"")


def _promise_another_table(update: Path, _: Path) -> None:
    """Claim that a symbol is unchanged although its new rows are needed."""
    path = update / "manifest.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    text["meta"]["extended"].remove("symbols/AAA")
    path.write_text(json.dumps(text), encoding="utf-8")


def _name_a_stranger(update: Path, _: Path) -> None:
    path = update / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace("symbols/AAA", "symbols/../../AAA"), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_cut_the_new_rows, "was changed"),
        (_lose_the_new_rows, "is missing"),
        (_slip_in_a_file, r"more\.parquet"),
        (_damage_the_base, "was changed"),
        (_slip_into_the_base, r"more\.parquet"),
        (_promise_another_table, "does not give the table"),
        (_name_a_stranger, "was changed"),
    ],
)
def test_nothing_is_written_when_either_side_is_damaged(
    weeks: list[Package], steps: list[Update], tmp_path: Path, harm: Callable[[Path, Path], None], said: str
) -> None:
    here = tmp_path / "here"
    harm(steps[0].folder, here / weeks[0].package_id)
    with pytest.raises(BadDataError, match=said):
        apply_update(here / weeks[0].package_id, steps[0].folder)
    assert names_in(here) == {weeks[0].package_id}
    assert not list(here.glob(".*.tmp-*"))


def test_an_increment_with_the_rows_of_another_week_is_refused(
    sample: Any, pack: Any, weeks: list[Package], tmp_path: Path
) -> None:
    """Sealed properly, but by a machine that had other prices: the contents decide."""
    other = pack(tmp_path / "other", sample(2, 25, ["AAA", "BBB", "CCC"]))
    newer = pack(tmp_path / "other", sample(2, 30, ["AAA", "BBB", "CCC"]))
    step = written(other, newer, tmp_path / "u")
    path = step.folder / "manifest.json"
    text = path.read_text(encoding="utf-8").replace(other.package_id, weeks[0].package_id)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadDataError, match="does not give the table"):
        apply_update(tmp_path / "here" / weeks[0].package_id, step.folder)


def test_an_increment_of_a_newer_format_is_refused_with_advice(steps: list[Update]) -> None:
    path = steps[0].folder / "manifest.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    text["meta"]["format"] = 2
    path.write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(BadDataError, match="upgrade vnfleet"):
        open_update(steps[0].folder)
