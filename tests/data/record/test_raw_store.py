"""The raw store: append-only, readable as it was known, never half written."""

import errno
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, BusyError, ResourceError
from vnfleet.core.lock import holding
from vnfleet.data.record.overlap import PartialHistoryError
from vnfleet.data.record.store import WHOLE_AFTER, MergeReport, RawStore
from vnfleet.data.sources.base import RawHistory, raw_history

MONDAY = datetime(2024, 6, 10, 9, 0, tzinfo=UTC)
TUESDAY = MONDAY + timedelta(days=1)
FAR = date(2030, 1, 1)


def history(closes: dict[str, list[float]], *, adjusted: float = 1.0) -> RawHistory:
    rows = [
        (symbol, date(2024, 1, 1) + timedelta(days=day), close, close, close, close, close * adjusted, 1000)
        for symbol, series in closes.items()
        for day, close in enumerate(series)
    ]
    columns = [
        "symbol",
        "session",
        "open_vnd",
        "high_vnd",
        "low_vnd",
        "close_vnd",
        "adjusted_close_vnd",
        "volume_shares",
    ]
    index = pl.DataFrame({"session": [date(2024, 1, 1)], "close_points": [1200.0]})
    listings = pl.DataFrame({"symbol": list(closes), "exchange": ["HOSE"] * len(closes), "sector": [""] * len(closes)})
    return raw_history(pl.DataFrame(rows, schema=columns, orient="row"), index, listings)


def revisions(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.parquet"))


def test_what_was_merged_is_read_back(tmp_path: Path) -> None:
    store, given = RawStore(tmp_path), history({"AAA": [10000.0, 10100.0], "BBB": [20000.0]})
    assert store.merge("files", given, MONDAY) == MergeReport(new_rows=4, changed_rows=0, symbols=3)
    read = store.read("files", FAR)
    assert read.bars.equals(given.bars)
    assert read.index.equals(given.index)
    assert read.listings.equals(given.listings)


def test_a_second_merge_of_the_same_writes_nothing(tmp_path: Path) -> None:
    store, given = RawStore(tmp_path), history({"AAA": [10000.0, 10100.0]})
    store.merge("files", given, MONDAY)
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in revisions(tmp_path)}
    assert store.merge("files", given, TUESDAY) == MergeReport(new_rows=0, changed_rows=0, symbols=0)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in revisions(tmp_path)} == before


def test_a_revision_holds_only_new_and_changed_rows(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0, 10100.0]}), MONDAY)
    report = store.merge("files", history({"AAA": [10000.0, 10150.0, 10200.0]}), TUESDAY)
    assert report == MergeReport(new_rows=1, changed_rows=1, symbols=1)
    second = tmp_path / "files" / "AAA" / "rev-000002-20240611T090000Z.parquet"
    assert pl.read_parquet(second).get_column("close_vnd").to_list() == [10150.0, 10200.0]
    assert store.read("files", FAR).bars.get_column("close_vnd").to_list() == [10000.0, 10150.0, 10200.0]


def test_the_past_is_read_as_it_was_known(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0, 10100.0]}), MONDAY)
    store.merge("files", history({"AAA": [10000.0, 10150.0]}, adjusted=0.5), TUESDAY)
    assert store.read("files", FAR, MONDAY).bars.get_column("close_vnd").to_list() == [10000.0, 10100.0]
    assert store.read("files", FAR, TUESDAY).bars.get_column("adjusted_close_vnd").to_list() == [5000.0, 5075.0]
    with pytest.raises(BadDataError, match="nothing from source"):
        store.read("files", FAR, MONDAY - timedelta(seconds=1))


def test_rows_after_as_of_are_not_read(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0, 10100.0]}), MONDAY)
    assert store.read("files", date(2024, 1, 1)).bars.height == 1


def test_sessions_a_source_no_longer_mentions_stay(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0, 10100.0], "BBB": [5000.0]}), MONDAY)
    store.merge("files", history({"AAA": [10000.0]}), TUESDAY)
    assert store.read("files", FAR).bars.height == 3


def test_contradicting_rows_of_one_session_are_kept_for_the_court(tmp_path: Path) -> None:
    given = history({"AAA": [10000.0]})
    twice = RawHistory(
        pl.concat([given.bars, given.bars.with_columns(close_vnd=pl.lit(9000.0))]), given.index, given.listings
    )
    store = RawStore(tmp_path)
    store.merge("files", twice, MONDAY)
    assert store.merge("files", twice, TUESDAY).symbols == 0
    assert store.read("files", FAR).bars.height == 2
    store.merge("files", given, TUESDAY)
    assert store.read("files", FAR).bars.equals(given.bars)


def told_from(first: int, given: RawHistory) -> RawHistory:
    """The history without what lies before day `first`."""
    return RawHistory(
        given.bars.filter(pl.col("session") >= date(2024, 1, 1) + timedelta(days=first)), given.index, given.listings
    )


CLOSES = [10_000.0 + 100 * day for day in range(10)]


def test_part_of_a_history_on_another_base_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": CLOSES[:8], "BBB": CLOSES[:8]}), MONDAY)
    before = revisions(tmp_path)
    part = told_from(4, history({"AAA": CLOSES}, adjusted=0.8))
    same = told_from(4, history({"BBB": CLOSES}))
    both = RawHistory(pl.concat([part.bars, same.bars]), part.index, part.listings)
    with pytest.raises(PartialHistoryError, match=r"AAA: another base \(x0.8000\), but 4 of 8 stored") as refused:
        store.merge("files", both, TUESDAY)
    assert refused.value.symbols == ("AAA",)
    assert revisions(tmp_path) == before
    assert store.merge("files", same, TUESDAY).new_rows == 2


def test_a_history_on_another_base_told_whole_is_merged_and_reported(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": CLOSES[:8], "BBB": CLOSES[:8]}), MONDAY)
    told = history({"AAA": CLOSES}, adjusted=0.8)
    report = store.merge("files", told, TUESDAY)
    assert (report.new_rows, report.changed_rows, report.corrected) == (2, 8, ())
    (base,) = report.rebased
    assert (base.symbol, base.overlap_sessions, base.last_moved) == ("AAA", 8, date(2024, 1, 8))
    assert (base.factor, base.old_level, base.new_level) == pytest.approx((0.8, 1.0, 0.8))


def test_one_moved_session_is_enough_to_ask_for_the_whole_history(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": CLOSES[:8]}), MONDAY)
    part = told_from(4, history({"AAA": CLOSES}))
    one = part.bars.with_columns(
        pl.when(pl.col("session") == date(2024, 1, 6)).then(9000.0).otherwise("adjusted_close_vnd")
        .alias("adjusted_close_vnd")
    )  # fmt: skip
    with pytest.raises(PartialHistoryError, match="1 of 4 adjusted closes differ"):
        store.merge("files", RawHistory(one, part.index, part.listings), TUESDAY)


def test_a_part_after_a_gap_and_a_part_that_tells_nothing_again_are_refused(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    whole = history({"AAA": CLOSES})
    store.merge("files", RawHistory(told_from(3, whole).until(date(2024, 1, 6)).bars, *others(whole)), MONDAY)
    with pytest.raises(PartialHistoryError, match="told from 2024-01-08 on, stored to 2024-01-06"):
        store.merge("files", told_from(7, whole), TUESDAY)
    with pytest.raises(PartialHistoryError, match="no stored session is told again"):
        store.merge("files", whole.until(date(2024, 1, 3)), TUESDAY)
    assert store.merge("files", whole, TUESDAY).new_rows == 7


def others(given: RawHistory) -> tuple[pl.DataFrame, pl.DataFrame]:
    return given.index, given.listings


def test_raw_prices_in_another_unit_are_refused_in_part(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": CLOSES[:8]}), MONDAY)
    thousandfold = told_from(4, history({"AAA": [close * 1000 for close in CLOSES]}))
    with pytest.raises(PartialHistoryError, match=r"4 of 4 raw closes differ \(median x1000\), 0 agree"):
        store.merge("files", thousandfold, TUESDAY)


def test_a_vendor_without_raw_prices_is_guarded_by_its_adjusted_ones(tmp_path: Path) -> None:
    def adjusted_only(closes: list[float], factor: float) -> RawHistory:
        given = history({"AAA": closes}, adjusted=factor)
        none = pl.lit(None, pl.Float64)
        bars = given.bars.with_columns(open_vnd=none, high_vnd=none, low_vnd=none, close_vnd=none)
        return RawHistory(bars, given.index, given.listings)

    store = RawStore(tmp_path)
    store.merge("udf", adjusted_only(CLOSES[:8], 1.0), MONDAY)
    assert store.merge("udf", told_from(4, adjusted_only(CLOSES[:9], 1.0)), MONDAY).new_rows == 1
    with pytest.raises(PartialHistoryError, match="another base"):
        store.merge("udf", told_from(4, adjusted_only(CLOSES, 0.8)), TUESDAY)


def test_a_vendor_without_adjusted_prices_has_no_base_to_mix(tmp_path: Path) -> None:
    def raw_only(closes: list[float]) -> RawHistory:
        given = history({"AAA": closes})
        bars = given.bars.with_columns(adjusted_close_vnd=pl.lit(None, pl.Float64))
        return RawHistory(bars, given.index, given.listings)

    store = RawStore(tmp_path)
    store.merge("files", raw_only(CLOSES[:8]), MONDAY)
    assert store.merge("files", told_from(6, raw_only(CLOSES)), TUESDAY).new_rows == 2
    assert store.read("files", FAR).bars.height == 10


def test_after_many_revisions_one_repeats_the_whole_symbol_and_every_past_stays_readable(tmp_path: Path) -> None:
    store, weeks = RawStore(tmp_path), 2 * WHOLE_AFTER + 5
    closes = [10_000.0 + 10 * day for day in range(weeks + 3)]
    for week in range(weeks):
        given = history({"AAA": closes[: week + 3]})
        given.bars[0, "close_vnd"] = 9000.0 + week  # one row of the past is told otherwise every week
        store.merge("files", given, MONDAY + timedelta(weeks=week))
    names = [Path(name).name for name in revisions(tmp_path) if "/AAA/" in name]
    assert len(names) == weeks
    wholes = [place for place, name in enumerate(names) if name.endswith("-whole.parquet")]
    assert wholes == [WHOLE_AFTER, 2 * WHOLE_AFTER]
    for week in range(weeks):
        known = store.read("files", FAR, MONDAY + timedelta(weeks=week)).bars
        assert known.height == week + 3
        assert known.get_column("close_vnd").to_list() == [9000.0 + week, *closes[1 : week + 3]]
    for name in names[: wholes[-1]]:
        (tmp_path / "files" / "AAA" / name).unlink()  # what lies before the newest whole one is not needed for now
    assert store.read("files", FAR).bars.get_column("close_vnd").to_list() == [9000.0 + weeks - 1, *closes[1:-1]]


def test_a_revision_without_the_newer_columns_is_still_read(tmp_path: Path) -> None:
    store, given = RawStore(tmp_path), history({"AAA": CLOSES, "BBB": CLOSES})
    store.merge("files", given, MONDAY)
    path = next((tmp_path / "files" / "AAA").glob("rev-*"))
    pl.read_parquet(path).drop("stated_reference_vnd", "exchange").write_parquet(path)
    assert store.read("files", FAR).bars.equals(given.bars)


def test_sources_do_not_mix(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0]}), MONDAY)
    with pytest.raises(BadDataError, match="nothing from source 'cafef'"):
        store.read("cafef", FAR)


def test_knowledge_does_not_go_back_in_time(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0]}), TUESDAY)
    with pytest.raises(BadDataError, match="clock"):
        store.merge("files", history({"AAA": [10100.0]}), MONDAY)
    with pytest.raises(ValueError, match="time-zone aware"):
        store.merge("files", history({"AAA": [10100.0]}), TUESDAY.replace(tzinfo=None))


@pytest.mark.parametrize("name", ["../AAA", "", "A/B", "CON", "VNINDEX", ".hidden", "a" * 33])
def test_names_that_are_no_folders_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadDataError, match="cannot be a folder"):
        RawStore(tmp_path / "raw").merge("files", history({name: [10000.0]}), MONDAY)
    assert revisions(tmp_path) == []


def test_a_full_disk_is_a_resource_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0]}), MONDAY)

    def no_space(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("vnfleet.core.atomic.os.fsync", no_space)
        with pytest.raises(ResourceError, match="disk is full"):
            store.merge("files", history({"AAA": [10100.0]}), TUESDAY)
    assert store.read("files", FAR).bars.get_column("close_vnd").to_list() == [10000.0]
    assert store.merge("files", history({"AAA": [10100.0]}), TUESDAY).changed_rows == 1


def test_a_damaged_revision_is_named(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.merge("files", history({"AAA": [10000.0]}), MONDAY)
    path = next((tmp_path / "files" / "AAA").glob("rev-*"))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BadDataError, match=path.name):
        store.read("files", FAR)


def test_two_merges_at_once_are_refused(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    with holding(tmp_path / "files" / ".lock", "testing"), pytest.raises(BusyError):
        store.merge("files", history({"AAA": [10000.0]}), MONDAY)


_MERGE = """
import sys
from datetime import date, datetime, UTC
from pathlib import Path
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.record.store import RawStore
given = FilesSource(Path(sys.argv[1])).fetch(None, date(2030, 1, 1))
print("go", flush=True)
RawStore(Path(sys.argv[2])).merge("files", given, datetime(2024, 6, 10, tzinfo=UTC))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("files_before_kill", [0, 5, 60])
def test_kill_9_in_a_merge_leaves_whole_revisions_and_a_rerun_completes_it(
    tmp_path: Path, files_before_kill: int
) -> None:
    days = [date(2023, 1, 2) + timedelta(days=day) for day in range(400)]
    frame = pl.DataFrame({"symbol": [f"S{number:03d}" for number in range(150)]}).join(
        pl.DataFrame({"date": days, "close": [20000.0 + 10 * day for day in range(400)]}), how="cross"
    )
    prices = tmp_path / "prices.parquet"
    frame.with_columns(open="close", high="close", low="close", volume=pl.lit(100)).write_parquet(prices)
    root = tmp_path / "raw"
    child = subprocess.Popen([sys.executable, "-c", _MERGE, str(prices), str(root)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    deadline = time.monotonic() + 20
    while len(revisions(root)) < files_before_kill and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    for name in revisions(root):
        assert pl.read_parquet(root / name).height == 400
    whole = raw_history(
        frame.select(
            "symbol",
            session="date",
            open_vnd="close",
            high_vnd="close",
            low_vnd="close",
            close_vnd="close",
            adjusted_close_vnd=pl.lit(None),
            volume_shares=pl.lit(100),
        ),
        None,
        None,
    )
    store = RawStore(root)
    store.merge("files", whole, TUESDAY)
    assert store.read("files", FAR).bars.equals(whole.bars)
    assert not list(root.rglob("*.tmp-*"))


def test_a_revision_whose_name_has_an_impossible_date_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "files" / "AAA"
    folder.mkdir(parents=True)
    (folder / "rev-000001-20239913T101010Z.parquet").write_bytes(b"")
    with pytest.raises(BadDataError, match="impossible date") as refusal:
        RawStore(tmp_path).read("files", date(2024, 1, 1))
    assert "20239913" in str(refusal.value)


def test_a_revision_with_another_symbols_rows_is_named(tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    days = [date(2024, 1, 2), date(2024, 1, 3)]
    bars = pl.DataFrame(
        {
            "symbol": ["AAA", "AAA", "BBB", "BBB"],
            "session": days * 2,
            **{name: [10_000.0] * 4 for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")},
            "volume_shares": [100] * 4,
        }
    )
    store.merge("files", raw_history(bars, None, None), datetime(2024, 1, 4, tzinfo=UTC))
    mine, other = (next((tmp_path / "files" / symbol).glob("rev-*")) for symbol in ("AAA", "BBB"))
    mine.write_bytes(other.read_bytes())
    with pytest.raises(BadDataError, match="another symbol's rows") as refusal:
        store.read("files", days[-1])
    assert str(mine) in str(refusal.value)


def test_a_file_where_a_folder_must_be_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "AAA").write_text("in the way")
    bars = pl.DataFrame(
        {
            "symbol": ["AAA"],
            "session": [date(2024, 1, 2)],
            **{name: [10_000.0] for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")},
            "volume_shares": [100],
        }
    )
    with pytest.raises(ResourceError, match="where a folder must be"):
        RawStore(tmp_path).merge("files", raw_history(bars, None, None), datetime(2024, 1, 4, tzinfo=UTC))
    assert (tmp_path / "files" / "AAA").read_text() == "in the way"
