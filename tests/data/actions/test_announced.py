"""Announcements: checked, kept append-only, read as they were known."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, BusyError
from vnfleet.core.lock import holding
from vnfleet.data.actions.announced import ANNOUNCED_SCHEMA, AnnouncedStore, as_announced

MONDAY = datetime(2024, 6, 10, 9, 0, tzinfo=UTC)
TUESDAY = MONDAY + timedelta(days=1)


def announced(*rows: tuple[str, date, str, float | None, float | None]) -> pl.DataFrame:
    return pl.DataFrame([(*row, "vndirect") for row in rows], schema=ANNOUNCED_SCHEMA, orient="row")


CASH = ("FPT", date(2024, 6, 13), "cash_dividend", 1000.0, None)
STOCK = ("FPT", date(2024, 6, 13), "stock_dividend", None, 0.15)


def test_what_was_announced_is_read_back_sorted(tmp_path: Path) -> None:
    store = AnnouncedStore(tmp_path, "vndirect")
    assert store.read().is_empty()
    assert store.record(announced(STOCK, CASH, CASH), MONDAY) == 2
    assert store.read().equals(announced(CASH, STOCK))


def test_the_same_again_writes_nothing(tmp_path: Path) -> None:
    store = AnnouncedStore(tmp_path, "vndirect")
    store.record(announced(CASH, STOCK), MONDAY)
    assert store.record(announced(CASH), TUESDAY) == 0
    assert len(list(store.folder.glob("rev-*"))) == 1


def test_an_amount_told_otherwise_is_a_new_revision_and_the_past_stays_readable(tmp_path: Path) -> None:
    store = AnnouncedStore(tmp_path, "vndirect")
    more = ("FPT", date(2024, 6, 13), "cash_dividend", 1200.0, None)
    store.record(announced(CASH, STOCK), MONDAY)
    assert store.record(announced(more), TUESDAY) == 1
    assert store.read().equals(announced(more, STOCK))
    assert store.read(MONDAY).equals(announced(CASH, STOCK))
    assert store.read(MONDAY - timedelta(seconds=1)).is_empty()


def test_two_dividends_on_one_day_are_both_kept(tmp_path: Path) -> None:
    store = AnnouncedStore(tmp_path, "vndirect")
    second = ("FPT", date(2024, 6, 13), "cash_dividend", 500.0, None)
    store.record(announced(CASH, second), MONDAY)
    assert store.record(announced(second, CASH), TUESDAY) == 0
    assert store.read().get_column("cash_vnd").to_list() == [500.0, 1000.0]


@pytest.mark.parametrize(
    "row",
    [
        ("FPT", date(2024, 6, 13), "merger", 1000.0, None),
        ("FPT", date(2024, 6, 13), "cash_dividend", None, 0.1),
        ("FPT", date(2024, 6, 13), "cash_dividend", -5.0, None),
        ("FPT", date(2024, 6, 13), "bonus", None, float("nan")),
        ("FPT", date(2024, 6, 13), "rights", 10_000.0, None),
        ("FPT", None, "bonus", None, 0.1),
        (None, date(2024, 6, 13), "bonus", None, 0.1),
    ],
)
def test_an_announcement_that_means_nothing_is_refused(tmp_path: Path, row: tuple[object, ...]) -> None:
    frame = pl.DataFrame([(*row, "vndirect")], schema=ANNOUNCED_SCHEMA, orient="row")
    with pytest.raises(BadDataError, match="nothing that prices could confirm"):
        AnnouncedStore(tmp_path, "vndirect").record(frame, MONDAY)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_frame_without_a_column_is_refused() -> None:
    with pytest.raises(BadDataError, match="lack columns"):
        as_announced(announced(CASH).drop("source"))


def test_time_does_not_go_back_and_two_writers_are_refused(tmp_path: Path) -> None:
    store = AnnouncedStore(tmp_path, "vndirect")
    store.record(announced(CASH), TUESDAY)
    with pytest.raises(BadDataError, match="clock"):
        store.record(announced(STOCK), MONDAY)
    with pytest.raises(ValueError, match="time-zone aware"):
        store.record(announced(STOCK), TUESDAY.replace(tzinfo=None))
    with holding(store.folder / ".lock", "testing"), pytest.raises(BusyError):
        store.record(announced(STOCK), TUESDAY)


def test_a_damaged_revision_is_named(tmp_path: Path) -> None:
    store = AnnouncedStore(tmp_path, "vndirect")
    store.record(announced(CASH), MONDAY)
    path = next(store.folder.glob("rev-*"))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadDataError, match=path.name):
        store.read()
