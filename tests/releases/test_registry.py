"""Releases at rest: sealed, numbered, built once, listed honestly."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from vnfleet.core import sealed
from vnfleet.core.errors import BadDataError, ResourceError, UsageError
from vnfleet.releases.registry import ReleaseContents, build_release, list_releases, open_release

AS_OF = date(2026, 11, 13)


def contents_of(root: Path, text: str, symbols: tuple[str, ...] = ("AAA", "BBB", "CCC")) -> ReleaseContents:
    source = root / f"trained-{text}"
    baseline = source / "ridge"
    baseline.mkdir(parents=True, exist_ok=True)
    (baseline / "weights.json").write_text(f"ridge {text}", encoding="utf-8")
    artifacts = {symbol: source / f"{symbol}.bin" for symbol in symbols}
    for symbol, path in artifacts.items():
        path.write_text(f"{symbol} {text}", encoding="utf-8")
    serving = {symbol: "ridge" if symbol == "CCC" else "adapted" for symbol in symbols}
    facts = {"recipe_id": "r1", "data_id": "d1", "cycle_id": "2026-W46"}
    return ReleaseContents(artifacts=artifacts, serving=serving, members={"ridge": baseline}, facts=facts)


def test_a_release_holds_what_the_design_says(tmp_path: Path) -> None:
    release_id = build_release(tmp_path / "prod", AS_OF, contents_of(tmp_path, "v1"))
    folder = tmp_path / "prod" / "releases" / release_id
    assert release_id.startswith("2026-11-13-001-")
    assert len(release_id) == len("2026-11-13-001-") + 8
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "AAA_stockformer.pt",
        "BBB_stockformer.pt",
        "CCC_stockformer.pt",
        "manifest.json",
        "members/ridge/weights.json",
        "serving.json",
    ]
    assert (folder / "BBB_stockformer.pt").read_text(encoding="utf-8") == "BBB v1"
    assert json.loads((folder / "serving.json").read_text(encoding="utf-8"))["CCC"] == "ridge"
    release = open_release(tmp_path / "prod", release_id)
    assert (release.as_of, release.seq, release.symbols) == (AS_OF, 1, ("AAA", "BBB", "CCC"))
    assert release.facts["cycle_id"] == "2026-W46"
    assert release.member_folder("ridge").is_dir()


def test_the_same_contents_are_built_once(tmp_path: Path) -> None:
    prod, contents = tmp_path / "prod", contents_of(tmp_path, "v1")
    first = build_release(prod, AS_OF, contents)
    assert build_release(prod, AS_OF, contents) == first
    assert build_release(prod, AS_OF, replace(contents, facts={"cycle_id": "again"})) == first
    assert [release.release_id for release in list_releases(prod)] == [first]


def test_other_contents_or_another_date_take_the_next_number(tmp_path: Path) -> None:
    prod, contents = tmp_path / "prod", contents_of(tmp_path, "v1")
    ids = [
        build_release(prod, AS_OF, contents),
        build_release(prod, AS_OF, contents_of(tmp_path, "v2")),
        build_release(prod, date(2026, 11, 20), contents),
        build_release(prod, AS_OF, replace(contents, serving=dict.fromkeys(contents.serving, "ridge"))),
    ]
    assert [one.split("-")[3] for one in ids] == ["001", "002", "003", "004"]
    assert ids[0][-8:] == ids[2][-8:]
    assert len({one[-8:] for one in ids}) == 3
    assert [release.release_id for release in list_releases(prod)] == ids


def test_a_damaged_twin_is_not_taken_for_the_release(tmp_path: Path) -> None:
    prod, contents = tmp_path / "prod", contents_of(tmp_path, "v1")
    first = build_release(prod, AS_OF, contents)
    (prod / "releases" / first / "AAA_stockformer.pt").write_text("torn", encoding="utf-8")
    second = build_release(prod, AS_OF, contents)
    assert second.startswith("2026-11-13-002-")
    assert [one.release_id for one in list_releases(prod)] == [first, second]
    assert [one.release_id for one in list_releases(prod, verified=True)] == [second]


def test_unfinished_renamed_and_foreign_folders_are_not_releases(tmp_path: Path) -> None:
    prod = tmp_path / "prod"
    first = build_release(prod, AS_OF, contents_of(tmp_path, "v1"))
    releases = prod / "releases"
    shutil.copytree(releases / first, releases / f"{first} (1)")
    shutil.copytree(releases / first, releases / "2026-11-13-007-0123abcd")
    (releases / "2026-11-13-008-0123abcd").mkdir()
    with sealed.sealing(releases / "2026-11-13-009-0123abcd", "unit", {}):
        pass
    assert [one.release_id for one in list_releases(prod)] == [first]
    for name, message in (("007", "renamed"), ("008", "not complete"), ("009", "another kind")):
        with pytest.raises(BadDataError, match=message):
            open_release(prod, f"2026-11-13-{name}-0123abcd")
    # the next number is above every number ever seen, so a stray folder is never overwritten
    assert build_release(prod, AS_OF, contents_of(tmp_path, "v2")).startswith("2026-11-13-010-")


def test_an_unknown_release_is_a_usage_error_that_lists_the_known(tmp_path: Path) -> None:
    first = build_release(tmp_path, AS_OF, contents_of(tmp_path, "v1"))
    for name in ("2026-11-13-099-00000000", "../../etc", ""):
        with pytest.raises(UsageError, match=first):
            open_release(tmp_path, name)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = contents_of(tmp_path, "v1")

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, no_space)
            with pytest.raises(ResourceError, match="disk is full"):
                build_release(tmp_path / "prod", AS_OF, contents)
        assert list((tmp_path / "prod" / "releases").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", no_space)
        with pytest.raises(ResourceError, match="disk is full"):
            build_release(tmp_path / "prod", AS_OF, contents)
    assert list((tmp_path / "prod" / "releases").iterdir()) == []


def test_a_source_that_changes_while_copied_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = contents_of(tmp_path, "v1")
    copy = shutil.copyfile

    def copy_and_touch(source: Path, target: Path) -> None:
        copy(source, target)
        target.write_text("other bytes", encoding="utf-8")

    monkeypatch.setattr(shutil, "copyfile", copy_and_touch)
    with pytest.raises(BadDataError, match="changed while it was released"):
        build_release(tmp_path / "prod", AS_OF, contents)
    assert list_releases(tmp_path / "prod") == ()


def test_an_absent_source_or_an_empty_member_is_refused(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, "v1")
    with pytest.raises(BadDataError, match="absent"):
        build_release(tmp_path, AS_OF, replace(contents, artifacts={**contents.artifacts, "AAA": tmp_path / "no.pt"}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataError, match="no files"):
        build_release(tmp_path, AS_OF, replace(contents, members={"ridge": tmp_path / "empty"}))


def test_contents_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, "v1")
    with pytest.raises(ValueError, match="same symbols"):
        replace(contents, serving={"AAA": "adapted"})
    with pytest.raises(ValueError, match="'lightgbm'"):
        replace(contents, serving=dict.fromkeys(contents.serving, "lightgbm"))
    with pytest.raises(ValueError, match="file name"):
        replace(contents, members={**contents.members, "../out": tmp_path})


def test_a_model_set_kept_in_members_is_preferred_for_its_strategy(tmp_path: Path) -> None:
    contents = contents_of(tmp_path, "v1")
    pooled = tmp_path / "pooled"
    pooled.mkdir()
    (pooled / "AAA_stockformer.pt").write_text("pooled", encoding="utf-8")
    kept = replace(contents, members={**contents.members, "pooled": pooled})
    release = open_release(tmp_path, build_release(tmp_path, AS_OF, kept))
    assert release.artifact_path("AAA", "pooled").read_text(encoding="utf-8") == "pooled"
    assert release.artifact_path("BBB", "pooled").read_text(encoding="utf-8") == "BBB v1"
    assert release.artifact_path("AAA", "adapted").read_text(encoding="utf-8") == "AAA v1"
