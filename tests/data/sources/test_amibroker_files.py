"""AmiBroker exports, other separators and the user's own column names, and how each is refused when unclear."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.files import FilesSource

AS_OF = date(2026, 9, 4)
CAFEF_HEADER = "<Ticker>,<DTYYYYMMDD>,<Open>,<High>,<Low>,<Close>,<Volume>"
AAA = ("AAA", AS_OF, 7090.0, 7190.0, 7080.0, 7130.0, 1_072_600)


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(text, encoding=encoding)
    return path


def rows_of(source: FilesSource) -> list[tuple[object, ...]]:
    bars = source.fetch(None, AS_OF).bars
    return bars.select(
        "symbol", "session", *(f"{p}_vnd" for p in ("open", "high", "low", "close")), "volume_shares"
    ).rows()


@pytest.mark.parametrize(
    "text",
    [
        f"{CAFEF_HEADER}\nAAA,20260904,7.09,7.19,7.08,7.13,1072600\n",
        f"\ufeff{CAFEF_HEADER}\r\nAAA,20260904,7.09,7.19,7.08,7.13,1072600\r\n",
        f"{CAFEF_HEADER},<OpenInt>\nAAA,20260904,7.09,7.19,7.08,7.13,1072600,0\n",
        "<TICKER>,<PER>,<DTYYYYMMDD>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>\nAAA,D,20260904,0,7.09,7.19,7.08,7.13,1072600\n",
        "Ticker,Date/Time,Open,High,Low,Close,Volume\nAAA,2026-09-04,7.09,7.19,7.08,7.13,1072600\n",
        "Ticker,Date/Time,Open,High,Low,Close,Volume\nAAA,2026-09-04 00:00:00,7090,7190,7080,7130,1072600.0\n",
        "Ticker;Date/Time;Open;High;Low;Close;Volume\nAAA;2026-09-04;7,09;7,19;7,08;7,13;1072600\n",
        "Ticker\tDate/Time\tOpen\tHigh\tLow\tClose\tVolume\nAAA\t2026-09-04\t7.09\t7.19\t7.08\t7.13\t1072600\n",
    ],
)
def test_every_variant_of_an_export_tells_the_same_bar(tmp_path: Path, text: str) -> None:
    assert rows_of(FilesSource(write(tmp_path, "export.csv", text))) == [AAA]


def test_many_symbols_and_warrants_in_one_file(tmp_path: Path) -> None:
    text = (
        f"{CAFEF_HEADER}\nFPT,20260904,71,72,70.5,71.7,100\nCFPT2601,20260904,1,1,1,1,5\nE1VFVN30,20260904,30,30,30,30,5\n"
        "AAA,20260904,7.09,7.19,7.08,7.13,1072600\n^VNINDEX,20260904,1680,1690,1670,1688.5,9\n"
    )
    history = FilesSource(write(tmp_path, "export.csv", text)).fetch(None, AS_OF)
    assert history.bars.get_column("symbol").to_list() == ["AAA", "E1VFVN30", "FPT"]
    assert history.index.rows() == [(AS_OF, 1688.5)]


def test_dates_that_read_two_ways_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "AAA.csv", "Ticker,Date/Time,Open,High,Low,Close,Volume\nAAA,04/09/2026,7,7,7,7,1\n")
    with pytest.raises(BadDataError, match=r"one way[\s\S]*dd/mm/yyyy or mm/dd/yyyy[\s\S]*AAA\.csv, column date"):
        FilesSource(path).fetch(None, AS_OF)


def test_a_file_without_a_header_lacks_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "AAA.csv", "AAA,20260904,7.09,7.19,7.08,7.13,1072600\nAAA,20260903,7,7.1,7.2,7.3,1072600\n")
    with pytest.raises(BadDataError, match="lacks columns"):
        FilesSource(path).fetch(None, AS_OF)


def test_adjusted_prices_serve_as_a_second_opinion_only(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", f"{CAFEF_HEADER}\nAAA,20260904,7.09,7.19,7.08,7.13,1072600\n")
    bars = FilesSource(path, basis="adjusted").fetch(None, AS_OF).bars
    raw = [bars.get_column(f"{name}_vnd").item() for name in ("open", "high", "low", "close")]
    assert raw == [None] * 4
    assert bars.get_column("adjusted_close_vnd").item() == 7130.0
    assert bars.get_column("volume_shares").item() == 1_072_600


def test_a_csv_unpacked_from_a_cafef_zip_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "CafeF.HSX.Upto04.09.2026.csv", f"{CAFEF_HEADER}\nAAA,20260904,7,7,7,7,1\n")
    with pytest.raises(BadDataError, match=r"unpacked from a CafeF zip[\s\S]*put the zips there"):
        FilesSource(path).fetch(None, AS_OF)


OWN_NAMES = "Mã;Ngày;Mở cửa;Cao;Thấp;Đóng cửa;KL;Đóng cửa điều chỉnh;Tham chiếu;Sàn\n"
OWN_COLUMNS = {
    "symbol": "Mã",
    "date": "Ngày",
    "open": "Mở cửa",
    "high": "Cao",
    "low": "Thấp",
    "close": "Đóng cửa",
    "volume": "KL",
    "adj_close": "Đóng cửa điều chỉnh",
    "reference": "Tham chiếu",
    "exchange": "Sàn",
}


def test_columns_of_any_name_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path, "gia.csv", OWN_NAMES + "pvs;2026-09-04;33,5;34,0;33,2;33,9;4000000;30,51;33,4;hnx\n")
    history = FilesSource(path, columns=OWN_COLUMNS).fetch(None, AS_OF)
    assert history.bars.rows() == [
        ("PVS", AS_OF, 33500.0, 34000.0, 33200.0, 33900.0, 30510.0, 33400.0, 4_000_000, "HNX")
    ]


def test_a_mapped_column_wins_over_one_that_has_our_name(tmp_path: Path) -> None:
    path = write(tmp_path, "FPT.csv", "date,open,high,low,close,raw close,volume\n2026-09-04,71,72,70,60,71.5,9\n")
    assert rows_of(FilesSource(path, columns={"close": "Raw Close"}))[0][5] == 71500.0
    assert rows_of(FilesSource(path))[0][5] == 60000.0


def test_a_mapping_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "FPT.csv", "date,open,high,low,close,volume\n2026-09-04,71,72,70,71,9\n")
    with pytest.raises(BadDataError, match=r"the mapping names\n  expected: Giá\n[\s\S]*FPT\.csv"):
        FilesSource(path, columns={"close": "Giá"}).fetch(None, AS_OF)
    with pytest.raises(ValueError, match="columns: price is none of symbol, date"):
        FilesSource(path, columns={"price": "Giá"})
    with pytest.raises(ValueError, match="giá is named more than once"):
        FilesSource(path, columns={"close": "Giá", "open": "giá "})


def test_an_exchange_that_is_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "FPT.csv", "date,open,high,low,close,volume,exchange\n2026-09-04,71,72,70,71,9,NYSE\n")
    with pytest.raises(BadDataError, match=r"unknown exchange[\s\S]*NYSE[\s\S]*FPT\.csv"):
        FilesSource(path).fetch(None, AS_OF)


HEAD = "date;open;high;low;close;volume\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2026-09-04;146,500;147,000;145,000;146,500;9\n", r"decimal sign or a thousands separator[\s\S]*146,500"),
        ("2026-09-04;1.465,5;1.470,0;1.450,0;1.465,5;9\n", r"not numbers[\s\S]*1\.465,5"),
        ("2026-09-04;146,5;147.0;145,0;146,5;9\n", r"not numbers[\s\S]*found: 147\.0"),
        ("2026-09-04;146,5;147,0;145,0;146,5;4,000\n", r"not numbers[\s\S]*found: 4,000[\s\S]*column volume"),
    ],
)
def test_commas_in_numbers_that_read_two_ways_are_refused(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path, "FPT.csv", HEAD + row)
    with pytest.raises(BadDataError, match=message) as refusal:
        FilesSource(path).fetch(None, AS_OF)
    assert "FPT.csv" in str(refusal.value)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ((HEAD + "2026-09-04;1;1;1;1;1\n").encode("utf-16"), "UTF-16"),
        (b"<!doctype html><html><body>404</body></html>", "a web page"),
        (b"PK\x03\x04 workbook", "a workbook or a zip"),
        (
            f"{HEAD}2026-09-04;71;72;70;71;9\n2026-09-03;71;7".encode(),
            r"last line of a file is cut off[\s\S]*semicolon",
        ),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, payload: bytes, message: str) -> None:
    path = tmp_path / "FPT.csv"
    path.write_bytes(payload)
    with pytest.raises(BadDataError, match=message) as refusal:
        FilesSource(path).fetch(None, AS_OF)
    assert "FPT.csv" in str(refusal.value)


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path, "FPT.csv", "date,open,high,low,close,volume\n2026-09-04,71,72,70,71,9\n\n\n")
    assert len(rows_of(FilesSource(path))) == 1


def test_a_decimal_comma_between_commas_is_named_as_the_likely_reason(tmp_path: Path) -> None:
    path = write(tmp_path, "FPT.csv", "date,open,high,low,close,volume\n2026-09-04,71,5,72,5,70,5,71,5,9\n")
    with pytest.raises(BadDataError, match=r"more cells than its header[\s\S]*decimal comma[\s\S]*FPT\.csv"):
        FilesSource(path).fetch(None, AS_OF)


def plain(folder: Path, symbol: str, scale: float) -> Path:
    rows = "".join(f"2026-09-0{day},{72 * scale},{73 * scale},{70 * scale},{71 * scale},9\n" for day in (1, 3, 4))
    return write(folder, f"{symbol}.csv", "date,open,high,low,close,volume\n" + rows)


def test_one_file_in_another_unit_is_refused_by_name(tmp_path: Path) -> None:
    for symbol in ("AAA", "FPT", "HPG"):
        plain(tmp_path, symbol, 1.0)
    plain(tmp_path, "VNM", 1000.0)
    with pytest.raises(BadDataError, match=r"thousand VND like the rest[\s\S]*VNM with closes[\s\S]*where: .*VNM\.csv"):
        FilesSource(tmp_path).fetch(None, AS_OF)
    with pytest.raises(BadDataError, match=r"VNM\.csv"):
        FilesSource(tmp_path, unit="thousand_vnd").fetch(None, AS_OF)
    for symbol in ("AAA", "FPT", "HPG"):
        plain(tmp_path, symbol, 1000.0)
    plain(tmp_path, "VNM", 1.0)
    with pytest.raises(BadDataError, match=r"expected: VND like the rest[\s\S]*VNM\.csv"):
        FilesSource(tmp_path).fetch(None, AS_OF)


def test_one_thin_file_among_many_is_found_in_spite_of_the_quantiles(tmp_path: Path) -> None:
    days = pl.date_range(date(2020, 1, 1), date(2026, 9, 4), eager=True).dt.to_string("%Y-%m-%d").to_list()
    text = "date,open,high,low,close,volume\n" + "".join(f"{day},71,71,71,71,9\n" for day in days)
    write(tmp_path, "FPT.csv", text)
    plain(tmp_path, "VNM", 1000.0)
    with pytest.raises(BadDataError, match=r"VNM with closes from 71000"):
        FilesSource(tmp_path).fetch(None, AS_OF)


def test_a_dear_stock_among_the_others_is_no_other_unit(tmp_path: Path) -> None:
    for symbol in ("AAA", "FPT", "HPG"):
        plain(tmp_path, symbol, 1.0)
    plain(tmp_path, "VNZ", 6.5)  # 461,500 VND
    bars = FilesSource(tmp_path).fetch(None, AS_OF).bars
    assert bars.filter(pl.col("symbol") == "VNZ").get_column("close_vnd")[0] == 461_500.0


@pytest.mark.parametrize(
    ("name", "found"),
    [("lịch sử giá.csv", "'LỊCH SỬ GIÁ'"), ("CON.csv", "'CON'"), ("export (1).csv", r"'EXPORT \(1\)'")],
)
def test_a_file_name_that_is_no_symbol_is_refused_by_name(tmp_path: Path, name: str, found: str) -> None:
    path = write(tmp_path, name, "date,open,high,low,close,volume\n2026-09-04,71,72,70,71,9\n")
    with pytest.raises(BadDataError, match=rf"cannot be one[\s\S]*found: {found}") as refusal:
        FilesSource(path).fetch(None, AS_OF)
    assert f"where: {path}" in str(refusal.value)
    assert "name the file after its symbol (FPT.csv)" in str(refusal.value)


@pytest.mark.parametrize("symbol", ["", "../x", "A B", "FPT/VN", "x" * 40])
def test_a_cell_that_is_no_symbol_is_refused_with_file_and_column(tmp_path: Path, symbol: str) -> None:
    path = write(tmp_path, "all.csv", f"symbol,date,open,high,low,close,volume\n{symbol},2026-09-04,71,72,70,71,9\n")
    with pytest.raises(BadDataError, match=r"cannot be one[\s\S]*all\.csv, column symbol"):
        FilesSource(path).fetch(None, AS_OF)
