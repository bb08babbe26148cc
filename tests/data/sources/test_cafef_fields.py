from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import RAW_SCHEMA
from vnfleet.data.sources.cafef.fields import cafef_bars, change_of, without_unfinished

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "cafef_price_history_2012_2024.parquet"
ROW = {  # a row of the service as seen in July 2026
    "Symbol": "CTD",
    "Ngay": "17/07/2026",
    "GiaDieuChinh": "63.5",
    "GiaDongCua": "63.5",
    "ThayDoi": "-2,70 (-4,08%)",
    "KhoiLuongKhopLenh": "426800",
    "GiaMoCua": "66",
    "GiaCaoNhat": "66.2",
    "GiaThapNhat": "63.5",
}


def test_a_row_of_2026_in_vnd() -> None:
    bars = cafef_bars(pl.DataFrame([ROW]), "a test")
    assert dict(bars.schema) == RAW_SCHEMA
    assert bars.row(0, named=True) == {
        "symbol": "CTD",
        "session": date(2026, 7, 17),
        "open_vnd": 66_000.0,
        "high_vnd": 66_200.0,
        "low_vnd": 63_500.0,
        "close_vnd": 63_500.0,
        "adjusted_close_vnd": 63_500.0,
        "stated_reference_vnd": 66_200.0,
        "volume_shares": 426_800,
        "exchange": None,
    }


def test_a_row_of_the_session_keeps_its_fault_and_states_no_reference() -> None:
    row = ROW | {"GiaDongCua": "0.0", "GiaDieuChinh": "98.8", "ThayDoi": "-99(-100.00 %)"}
    bar = cafef_bars(pl.DataFrame([row]), "a test").row(0, named=True)
    assert (bar["close_vnd"], bar["adjusted_close_vnd"], bar["stated_reference_vnd"]) == (0.0, 98_800.0, None)


def test_dashes_and_empty_cells_are_null() -> None:
    row = ROW | {"GiaDongCua": "--", "GiaMoCua": "", "GiaDieuChinh": None, "ThayDoi": "--"}
    bar = cafef_bars(pl.DataFrame([row]), "a test").row(0, named=True)
    empty = ("close_vnd", "open_vnd", "adjusted_close_vnd", "stated_reference_vnd")
    assert [bar[name] for name in empty] == [None] * 4
    assert bar["high_vnd"] == 66_200.0


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("4(4.09 %)", 4.0),
        ("-2,70 (-4,08%)", -2.7),
        ("-0.2(-0.13 %)", -0.2),
        ("0(0.00 %)", 0.0),
        ("+3.1 (2 %)", 3.1),
        ("1.234,50 (1%)", 1234.5),
        ("1,234.50(1 %)", 1234.5),
        ("12,5", 12.5),
        ("--", None),
        ("", None),
        ("(4.09 %)", None),
        (None, None),
    ],
)
def test_the_change_in_every_known_format(text: str | None, change: float | None) -> None:
    assert change_of(pl.Series([text], dtype=pl.String)).to_list() == [change]


@settings(deadline=None)
@given(st.integers(-(10**6), 10**6), st.booleans())
def test_a_change_comes_back_from_either_format(hundredths: int, comma: bool) -> None:
    text = f"{hundredths / 100:.2f} ({1.5:.2f}%)"
    (found,) = change_of(pl.Series([text.replace(".", ",") if comma else text])).to_list()
    assert found == pytest.approx(hundredths / 100)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"Ngay": "2026-07-17"}, "dd/mm/yyyy"),
        ({"Ngay": "30/02/2026"}, "dd/mm/yyyy"),
        ({"GiaDongCua": "63,5"}, "GiaDongCua"),
        ({"KhoiLuongKhopLenh": "many"}, "KhoiLuongKhopLenh"),
    ],
)
def test_what_cannot_be_read_is_named(change: dict[str, str], says: str) -> None:
    with pytest.raises(BadDataError, match=says):
        cafef_bars(pl.DataFrame([ROW | change]), "a test")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BadDataError, match="no GiaDieuChinh"):
        cafef_bars(pl.DataFrame([ROW]).drop("GiaDieuChinh"), "a test")


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (datetime(2026, 7, 17, 8, 14, 59, tzinfo=UTC), False),
        (datetime(2026, 7, 17, 8, 15, tzinfo=UTC), True),
        (datetime(2026, 7, 16, 17, 0, tzinfo=UTC), False),  # midnight of the 17th in Vietnam
        (datetime(2026, 7, 16, 16, 59, tzinfo=UTC), True),  # still the 16th: another day's row is none of its business
    ],
)
def test_only_the_bar_of_today_in_vietnam_is_unfinished(now: datetime, kept: bool) -> None:
    bars = cafef_bars(pl.DataFrame([ROW]), "a test")
    assert (without_unfinished(bars, now).height == 1) is kept


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        without_unfinished(cafef_bars(pl.DataFrame([ROW]), "a test"), datetime(2026, 7, 17, 8))  # noqa: DTZ001


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.exists(), reason="the shared price files are not here")
def test_the_change_agrees_with_the_percentage_beside_it_on_real_rows() -> None:
    rows = pl.read_parquet(REAL)
    bars = cafef_bars(rows, REAL)
    percent = rows.get_column("ThayDoi").str.extract(r"\((-?[\d.]+) ?%\)").cast(pl.Float64)
    implied = bars.select(100 * (pl.col("close_vnd") / pl.col("stated_reference_vnd") - 1)).to_series()
    assert bars.get_column("stated_reference_vnd").null_count() == 0
    assert ((implied - percent).abs() < 0.02).mean() > 0.999  # type: ignore[operator]
