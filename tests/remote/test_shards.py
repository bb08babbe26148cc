"""Only what changed travels, and what arrives is the same bytes."""

import json
import os
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import sealing, verify
from vnfleet.remote import shards
from vnfleet.remote.cells import CellWriter, cut_of, layouts_of
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.shards import OBJECTS, fetch_package, index_name, package_id, read_index, send_package
from vnfleet.remote.transfer import Transfer

KIND = "training-data"


def days(count: int) -> list[date]:
    every = (date(2020, 1, 1) + timedelta(days=number) for number in range(3 * count))
    return [day for day in every if day.weekday() < 5][:count]


def package(folder: Path, symbols: list[str], num_sessions: int, *, revised: str = "") -> Path:
    """Rows depend on symbol and session only, like features that never look ahead; the last five have no label yet."""
    sessions = days(num_sessions)
    values_STF = np.zeros((len(symbols), num_sessions, 6), dtype=np.float32)
    for row, symbol in enumerate(symbols):
        seed = sum(ord(mark) * 31**place for place, mark in enumerate(symbol))
        values_STF[row] = np.random.default_rng(seed).standard_normal((2000, 6))[:num_sessions]
    if revised:
        values_STF[symbols.index(revised), 10] += 1.0
    returns_HST = np.ascontiguousarray(values_STF[:, :, :3].transpose(2, 0, 1)) * np.float32(0.01)
    returns_HST[:, :, -5:] = np.nan
    meta: dict[str, JsonValue] = {
        "symbols": list(symbols),
        "sessions": [day.isoformat() for day in sessions],
        "feature_names": ["f"],
    }
    with sealing(folder, KIND, meta) as scratch:
        np.save(scratch / "values_STF.npy", values_STF)
        np.save(scratch / "present_ST.npy", values_STF[:, :, 0] > -3)
        np.save(scratch / "returns_HST.npy", returns_HST)
        (scratch / "notes.txt").write_text("travels whole")
    return folder


SYMBOLS = [f"S{number:02d}" for number in range(20)]


def bring(remote: Transfer, sent: Path, target: Path) -> Path:
    fetch_package(remote, package_id(verify(sent, KIND)), target, KIND, quarantine=target.parent / "q")
    return target


def same_bytes(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_package_arrives_as_the_same_bytes(remote: Transfer, tmp_path: Path) -> None:
    sent = package(tmp_path / "week1", SYMBOLS, 600)
    assert send_package(sent, remote, KIND) > 0
    assert same_bytes(sent, bring(remote, sent, tmp_path / "in" / "week1"))
    assert send_package(sent, remote, KIND) == 0


def test_the_second_week_is_a_small_fraction_of_the_first(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    first = package(tmp_path / "week1", SYMBOLS, 1200)
    second = package(tmp_path / "week2", SYMBOLS, 1205)
    first_bytes = send_package(first, plain_remote, KIND)
    second_bytes = send_package(second, plain_remote, KIND)
    assert second_bytes < 0.1 * first_bytes
    bring(plain_remote, first, tmp_path / "in" / "week1")
    fetched = Counting(plain_remote.root)
    assert same_bytes(second, bring(fetched, second, tmp_path / "in" / "week2"))
    assert fetched.num_bytes < 0.1 * first_bytes


class Counting(FolderTransfer):
    num_bytes = 0

    def get_folder(self, name: str, target: Path, files: object) -> None:
        assert isinstance(files, list)
        super().get_folder(name, target, files)
        self.num_bytes += sum((target / file).stat().st_size for file in files)


def test_a_symbol_that_joins_or_was_revised_travels_alone(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    first_bytes = send_package(package(tmp_path / "a", SYMBOLS, 600), plain_remote, KIND)
    changed = [symbol for symbol in SYMBOLS if symbol != "S07"] + ["NEW"]
    second = package(tmp_path / "b", sorted(changed), 600, revised="S03")
    assert send_package(second, plain_remote, KIND) < 0.2 * first_bytes  # one twentieth, a year of another, the index
    assert same_bytes(second, bring(plain_remote, second, tmp_path / "in" / "b"))


def test_old_packs_are_given_up_when_they_become_many(
    plain_remote: FolderTransfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MOST_PACKS", 3)
    for week in range(8):
        sent = package(tmp_path / f"week{week}", SYMBOLS[:4], 300 + 5 * week)
        send_package(sent, plain_remote, KIND)
        index = read_index(plain_remote, package_id(verify(sent, KIND)))
        assert index is not None
        assert len(index.packs) <= 3
        assert same_bytes(sent, bring(plain_remote, sent, tmp_path / "in" / "now" / str(week)))


def test_a_damaged_pack_is_put_aside_and_sent_anew(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    sent = package(tmp_path / "a", SYMBOLS, 300)
    send_package(sent, plain_remote, KIND)
    largest = max((plain_remote.root / OBJECTS).iterdir(), key=lambda path: path.stat().st_size)
    payload = bytearray(largest.read_bytes())
    payload[1000] ^= 1
    largest.write_bytes(payload)
    with pytest.raises(BadDataError, match="damaged"):
        bring(plain_remote, sent, tmp_path / "in" / "a")
    assert not (tmp_path / "in" / "a").exists()
    assert send_package(sent, plain_remote, KIND) > 0
    assert same_bytes(sent, bring(plain_remote, sent, tmp_path / "in" / "a"))


def test_an_index_that_lies_is_refused(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    sent = package(tmp_path / "a", SYMBOLS, 300)
    send_package(sent, plain_remote, KIND)
    name = index_name(package_id(verify(sent, KIND)))
    whole = json.loads(plain_remote.read_text(name))
    without = {**whole, "packs": [{**pack, "runs": pack["runs"][1:]} for pack in whole["packs"]]}
    inside = json.loads(whole["manifest"])
    outside = {**whole, "layouts": [{**whole["layouts"][0], "name": "../outside.npy"}, *whole["layouts"][1:]]}
    swapped = {**whole, "layouts": [{**layout, "dtype": "<i4"} for layout in whole["layouts"]]}
    huge = {**whole, "layouts": [{**layout, "shape": [20, 300, 10**9]} for layout in whole["layouts"]]}
    renamed = {**whole, "manifest": json.dumps({**inside, "files": {"../outside": "0" * 64}})}
    for lie in (without, outside, swapped, huge, renamed):
        plain_remote.write_text(name, json.dumps(lie))
        with pytest.raises(BadDataError):
            bring(plain_remote, sent, tmp_path / "in" / "a")
        assert not (tmp_path / "in" / "a").exists()
    assert not list(tmp_path.rglob("outside*"))


def test_arrays_without_the_axes_travel_whole(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    with sealing(tmp_path / "a", KIND, {"symbols": ["FPT"], "sessions": ["2024-01-02"]}) as scratch:
        np.save(scratch / "fortran.npy", np.asfortranarray(np.arange(12.0).reshape(3, 4)))
        np.save(scratch / "empty.npy", np.zeros((1, 1, 0)))
        (scratch / "text.npy").write_text("no array at all")
    send_package(tmp_path / "a", plain_remote, KIND)
    assert same_bytes(tmp_path / "a", bring(plain_remote, tmp_path / "a", tmp_path / "in" / "a"))


def test_an_index_that_is_no_text_is_sent_anew(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    sent = package(tmp_path / "week1", SYMBOLS[:2], 20)
    send_package(sent, plain_remote, KIND)
    data_id = package_id(verify(sent, KIND))
    (plain_remote.root / index_name(data_id)).write_bytes(b"\xff\xfe")
    assert read_index(plain_remote, data_id) is None
    send_package(sent, plain_remote, KIND)
    assert same_bytes(sent, bring(plain_remote, sent, tmp_path / "in" / "week1"))


@pytest.mark.skipif(os.name == "nt", reason="st_blocks")
def test_a_full_disk_is_met_before_pages_are_written(tmp_path: Path) -> None:
    """A file with holes makes the kernel kill whoever writes its mapped pages on a full disk."""
    sent = package(tmp_path / "sent", SYMBOLS, 600)
    manifest = verify(sent, KIND)
    cut = cut_of(manifest.meta, layouts_of(sent, sorted(manifest.files), manifest.meta))
    writer = CellWriter(tmp_path / "came", cut)
    for layout in cut.layouts:
        found = (tmp_path / "came" / layout.name).stat()
        assert found.st_size == (sent / layout.name).stat().st_size
        assert found.st_blocks * 512 >= found.st_size
    writer.close()


def test_what_a_killed_sender_left_is_removed_after_a_day(tmp_path: Path) -> None:
    sent = package(tmp_path / "sent", SYMBOLS[:2], 30)
    old, young = tmp_path / ".sending-old", tmp_path / ".sending-young"
    for left in (old, young):
        left.mkdir()
    os.utime(old, (0, 0))
    send_package(sent, FolderTransfer(tmp_path / "remote"), KIND)
    assert not old.exists()
    assert young.exists()
