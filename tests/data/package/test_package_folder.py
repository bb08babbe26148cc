"""Whole packages: a panel comes back as it was packed, or the package is refused with the file's name."""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError, BusyError, ResourceError
from vnfleet.core.ids import sha256_of_file
from vnfleet.core.lock import holding
from vnfleet.core.sealed import sealing
from vnfleet.data.court.quality import examine
from vnfleet.data.package import (
    CubeIdentity,
    Package,
    copy_package,
    open_package,
    packages_in,
    read_package,
    write_package,
)
from vnfleet.data.package.tables import table_sha256
from vnfleet.data.panel import Panel, build_panel
from vnfleet.data.sources.files import FilesSource

DATA = Path(__file__).parents[3].parent / "shared" / "data"
Same = Callable[[Panel, Panel], None]


@pytest.fixture
def package(sample: Any, pack: Any, tmp_path: Path) -> Package:
    written: Package = pack(tmp_path / "packages", sample())
    return written


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_sessions=st.integers(1, 40),
    symbols=st.sets(st.sampled_from(["A32", "FPT", "HPG", "VCB", "VNM"]), min_size=1),
)
def test_a_panel_comes_back_as_it_was_packed(
    sample: Any, pack: Any, assert_same: Same, seed: int, num_sessions: int, symbols: set[str]
) -> None:
    drawn = sample(seed, num_sessions, sorted(symbols))
    with tempfile.TemporaryDirectory() as folder:
        package = pack(Path(folder), drawn)
        found = read_package(package.folder)
    assert_same(found.panel, drawn[0])
    assert found.events.equals(drawn[1])
    assert found.events.schema == drawn[1].schema


def test_the_folder_is_one_file_per_symbol_named_after_its_contents(package: Package) -> None:
    names = sorted(files_of(package.folder))
    assert [name.split("-")[0] for name in names] == [
        "events",
        "findings",
        "listings",
        "manifest.json",
        "sessions",
        "symbols/AAA",
        "symbols/BBB",
        "symbols/CCC",
        "verdicts",
        "vnindex",
    ]
    assert package.folder.name == package.package_id
    assert package.size_bytes == sum(path.stat().st_size for path in package.folder.rglob("*") if path.is_file())
    meta = json.loads((package.folder / "manifest.json").read_text(encoding="utf-8"))["meta"]
    assert (meta["source"], meta["known_at"], meta["as_of"]) == ("files", "2026-11-20T09:00:00Z", "2026-09-16")
    assert meta["features_sha256"] == "f" * 64


def test_a_symbols_file_explains_itself_to_readers_without_this_code(sample: Any, package: Package) -> None:
    panel, _ = sample()
    table = pl.concat([package.table(f"symbols/{symbol}") for symbol in panel.symbols])
    bars = table.filter("is_bar")
    assert bars.height == panel.bars.height
    for price in ("open", "high", "low", "close"):
        by_hand = [raw * factor for raw, factor in bars.select(f"{price}_vnd", "factor").iter_rows()]
        assert bars.get_column(f"adj_{price}_vnd").to_list() == by_hand
    others = table.filter(~pl.col("is_bar"))
    assert others.height > 0
    assert others.get_column("close_vnd").null_count() == others.height
    assert others.get_column("verdict").null_count() == 0
    of_symbols = panel.quality.rows.filter(pl.col("symbol").is_in(panel.symbols) & pl.col("session").is_not_null())
    masked = set(of_symbols.filter(pl.col("verdict") == "mask").select("symbol", "session").iter_rows())
    assert masked
    assert set(table.filter(pl.col("verdict").str.contains("mask")).select("symbol", "session").iter_rows()) == masked


def test_packing_the_same_again_writes_nothing_and_other_features_are_another_package(
    sample: Any, pack: Any, package: Package
) -> None:
    root = package.folder.parent
    before = {path: path.stat().st_mtime_ns for path in package.folder.rglob("*")}
    assert pack(root, sample()) == package
    assert {path: path.stat().st_mtime_ns for path in package.folder.rglob("*")} == before
    other = pack(root, sample(), features="0" * 64)
    assert other.package_id != package.package_id
    assert {one.package_id for one in packages_in(root)} == {package.package_id, other.package_id}


def test_a_damaged_package_is_written_anew(sample: Any, pack: Any, package: Package) -> None:
    good = files_of(package.folder)
    next(package.folder.glob("events-*")).write_bytes(b"PAR1 but not for long")
    assert packages_in(package.folder.parent) == ()
    pack(package.folder.parent, sample())
    assert files_of(package.folder) == good


def _flip_a_byte(folder: Path) -> None:
    path = next(folder.glob("symbols/BBB-*"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


def _cut(folder: Path) -> None:
    path = next(folder.glob("symbols/BBB-*"))
    path.write_bytes(path.read_bytes()[:-100])


def _lose(folder: Path) -> None:
    next(folder.glob("symbols/BBB-*")).unlink()


def _slip_in(folder: Path) -> None:
    (folder / "training_data.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def _link_in(folder: Path) -> None:
    (folder / "symbols" / "more").symlink_to(folder / "manifest.json")


def _list_more(folder: Path) -> None:
    """A stranger adds a file and lists it, hash and all."""
    (folder / "extra.parquet").write_bytes(b"")
    text = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    text["files"]["extra.parquet"] = sha256_of_file(folder / "extra.parquet")
    (folder / "manifest.json").write_text(json.dumps(text), encoding="utf-8")


def _rename_the_source(folder: Path) -> None:
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    (folder / "manifest.json").write_text(
        text.replace('"source":"files"', '"source":"other"').replace('"source": "files"', '"source": "other"'),
        encoding="utf-8",
    )


def _lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _garble_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"kind": "training-pack', encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_flip_a_byte, "was changed"),
        (_cut, "was changed"),
        (_lose, "is missing"),
        (_slip_in, r"training_data\.pkl"),
        (_link_in, "do not belong"),
        (_list_more, r"extra\.parquet"),
        (_rename_the_source, "was changed"),
        (_lose_the_manifest, "not complete"),
        (_garble_the_manifest, "damaged"),
    ],
)
def test_a_package_that_is_not_whole_is_refused(package: Package, harm: Callable[[Path], None], said: str) -> None:
    harm(package.folder)
    with pytest.raises(BadDataError, match=said):
        read_package(package.folder)


def test_a_package_is_taken_over_from_a_shared_drive_whole_or_not_at_all(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    copied = copy_package(package.folder, here)
    assert files_of(copied.folder).keys() == files_of(package.folder).keys()
    assert (copied.facts, copied.files) == (package.facts, package.files)
    assert copy_package(package.folder, here) == copied

    def changing(path: Path) -> bytes:
        with path.open("rb") as handle:
            return handle.read() + (b"!" if path.name.startswith("vnindex") else b"")

    monkeypatch.setattr(Path, "read_bytes", changing)
    with pytest.raises(BadDataError, match="changed while it was copied"):
        copy_package(package.folder, tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir() if path.is_dir()] == []


def test_a_full_disk_is_said_and_nothing_stays(
    sample: Any, pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="disk is full"):
        pack(tmp_path / "packages", sample())
    assert [path.name for path in (tmp_path / "packages").iterdir() if path.is_dir()] == []


def test_what_killed_runs_left_days_ago_is_swept_and_a_living_writers_scratch_is_not(
    sample: Any, pack: Any, tmp_path: Path
) -> None:
    old, fresh = (tmp_path / f".0123456789abcdef.tmp-{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        (folder / "symbols").mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    pack(tmp_path, sample())
    assert (old.exists(), fresh.exists()) == (False, True)


def test_two_processes_do_not_pack_at_once(sample: Any, pack: Any, tmp_path: Path) -> None:
    with holding(tmp_path / ".lock", "packing data"), pytest.raises(BusyError):
        pack(tmp_path, sample())


def test_what_a_drive_leaves_in_every_folder_is_no_reason_to_refuse(package: Package) -> None:
    (package.folder / "symbols" / "desktop.ini").write_text("[.ShellClassInfo]", encoding="utf-8")
    assert read_package(package.folder).package.package_id == package.package_id


def test_a_table_swapped_for_another_of_the_same_kind_is_refused(package: Package) -> None:
    """Even by someone who can write the manifest: names carry the contents, and the package's id covers them all."""
    one, other = (next(package.folder.glob(f"symbols/{symbol}-*")) for symbol in ("AAA", "CCC"))
    one.write_bytes(other.read_bytes())
    text = json.loads((package.folder / "manifest.json").read_text(encoding="utf-8"))
    text["files"][f"symbols/{one.name}"] = sha256_of_file(one)
    (package.folder / "manifest.json").write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(BadDataError, match="not what its manifest says"):
        read_package(package.folder)


def test_a_newer_format_and_another_kind_are_refused_with_advice(package: Package, tmp_path: Path) -> None:
    path = package.folder / "manifest.json"
    text = json.loads(path.read_text(encoding="utf-8"))
    text["meta"]["format"] = 2
    path.write_text(json.dumps(text), encoding="utf-8")
    with pytest.raises(BadDataError, match="upgrade vnfleet"):
        open_package(package.folder)
    with sealing(tmp_path / "other", "training-data", {}) as scratch:
        (scratch / "x").write_bytes(b"")
    with pytest.raises(BadDataError, match="another kind"):
        open_package(tmp_path / "other")
    with pytest.raises(BadDataError, match="not complete"):
        open_package(tmp_path / "absent")


def test_features_built_elsewhere_are_compared_with_the_packed_ones(package: Package) -> None:
    found = read_package(package.folder)
    facts = package.facts
    found.confirm_features(CubeIdentity(cube_id=facts.cube_id, features_sha256=facts.features_sha256))
    with pytest.raises(BadDataError, match="other values"):
        found.confirm_features(CubeIdentity(cube_id=facts.cube_id, features_sha256="0" * 64))
    with pytest.raises(BadDataError, match="another identity"):
        found.confirm_features(CubeIdentity(cube_id="x", features_sha256=facts.features_sha256))


def test_a_time_without_zone_is_refused(sample: Any, tmp_path: Path) -> None:
    panel, events = sample()
    cube = CubeIdentity(cube_id="c", features_sha256="f" * 64)
    with pytest.raises(ValueError, match="aware"):
        write_package(panel, events, tmp_path, source="files", known_at=datetime(2026, 11, 20), cube=cube)  # noqa: DTZ001


def test_a_tables_identity_is_its_contents_and_not_its_file(package: Package, tmp_path: Path) -> None:
    table = package.table("symbols/AAA")
    table.write_parquet(tmp_path / "again.parquet", compression="gzip", row_group_size=3)
    entry = package.facts.tables["symbols/AAA"]
    assert table_sha256(pl.read_parquet(tmp_path / "again.parquet")) == entry.sha256
    assert table_sha256(table.head(table.height - 1)) != entry.sha256
    changed = table.with_columns(findings=pl.col("findings").shift(1))
    assert table_sha256(changed) != entry.sha256


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here")
def test_real_prices_come_back_as_they_were_packed(assert_same: Same, tmp_path: Path) -> None:
    as_of = date(2024, 12, 31)
    history = FilesSource(DATA / "cafef_price_history_2012_2024.parquet", DATA / "universe_289.csv").fetch(
        ["FPT", "HPG", "MWG", "HPX", "SHB"], as_of
    )
    panel = build_panel(history, as_of)
    cube = CubeIdentity(cube_id="c", features_sha256="f" * 64)
    known_at = datetime(2025, 8, 22, tzinfo=UTC)
    events = examine(history, as_of, None).events
    package = write_package(panel, events, tmp_path, source="files", known_at=known_at, cube=cube)
    found = read_package(package.folder)
    assert_same(found.panel, panel)
    bonus = package.table("symbols/MWG").filter(pl.col("session") == date(2021, 8, 30)).row(0, named=True)
    assert bonus["break_before"]  # the vendor missed this bonus
    assert [finding["check"] for finding in bonus["findings"]] == ["unexplained"]
