"""CafeF's bulk zips and sets of three: what is read, and what is refused by name."""

import io
import zipfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.cafef.sets import newest_set, read_set
from vnfleet.data.sources.cafef.zips import BulkKind, BulkName, is_member_name, read_zip

DAY = date(2026, 9, 4)
HEADER = "<Ticker>,<DTYYYYMMDD>,<Open>,<High>,<Low>,<Close>,<Volume>"
BOM = b"\xef\xbb\xbf"
RAW = {
    "HSX": "AAA,20260904,7.09,7.19,7.08,7.13,1072600\r\nCFPT2601,20260904,1.1,1.2,1,1.1,5000\r\n"
    "AAA,20260903,7.2,7.3,7.1,7.2,900000\r\nE1VFVN30,20260904,30,30.1,29.9,30,100\r\n",
    "HNX": "PVS,20260904,33.5,34,33.2,33.9,4000000\r\n",
    "UPCOM": "BSR,20260904,20,20.5,19.9,20.1,7000000\r\nBSR,20260829,20,20.5,19.9,20.1,1\r\n",
}
ADJUSTED = {
    "HSX": "AAA,20260904,7.09,7.19,7.08,7.13,1072600\r\nAAA,20260903,6.84,6.94,6.75,6.84,900000\r\n",
    "HNX": "PVS,20260904,33.5,34,33.2,33.9,4000000\r\nPVS,20260903,31,31,31,31.37,1\r\n",
    "UPCOM": "BSR,20260904,20,20.5,19.9,20.1,7000000\r\n",
}
INDEX = (
    "VNINDEX,20260904,1680.1,1690,1675.2,1688.5,900000000\r\nVNINDEX,20260903,1670,1681,1669,1680,800000000\r\n"
    "VNINDEX,20260829,1670,1681,1669,1680,0\r\nHNX-INDEX,20260904,270,271,269,270.5,1\r\n"
)


def csv_of(rows: str) -> bytes:
    return BOM + f"{HEADER}\r\n{rows}".encode()


def packed(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def write_zip(folder: Path, kind: BulkKind, members: Mapping[str, bytes], day: date = DAY) -> Path:
    path = folder / BulkName(kind=kind, day=day).file_name
    path.write_bytes(packed(members))
    return path


def stock_members(boards: Mapping[str, str], mark: str = "") -> dict[str, bytes]:
    return {f"CafeF.{mark}{board}.Upto04.09.2026.csv": csv_of(rows) for board, rows in boards.items()}


def write_set(folder: Path, raw: Mapping[str, str] = RAW, adjusted: Mapping[str, str] = ADJUSTED) -> None:
    write_zip(folder, BulkKind.RAW, stock_members(raw, "RAW_"))
    write_zip(folder, BulkKind.ADJUSTED, stock_members(adjusted))
    write_zip(folder, BulkKind.INDEX, {"CafeF.INDEX.Upto04.09.2026.csv": csv_of(INDEX)})


def index_zip(folder: Path, body: bytes) -> Path:
    return write_zip(folder, BulkKind.INDEX, {"CafeF.INDEX.Upto04.09.2026.csv": body})


def test_names_put_the_year_first_in_the_folder_and_the_day_first_in_the_file() -> None:
    name = BulkName(kind=BulkKind.RAW, day=DAY)
    assert name.folder == "20260904"
    assert name.file_name == "CafeF.SolieuGD.Raw.Upto04092026.zip"
    assert "CafeF.RAW_HSX.Upto04.09.2026.csv" in name.members
    assert BulkName.parse("CafeF.SolieuGD.Raw.Upto04092026.zip") == name
    assert BulkName.parse("CafeF.Index.04092026.zip") == BulkName(kind=BulkKind.INDEX, day=DAY, upto=False)
    for stranger in ("CafeF.CCNN.Upto04092026.zip", "CafeF.Index.Upto20260904.zip", "prices.zip"):
        assert BulkName.parse(stranger) is None
    assert is_member_name("CafeF.INDEX.Upto04.09.2026.csv")
    assert not is_member_name("CafeF.csv")


def test_rows_are_read_as_they_stand_and_only_stocks_are_kept(tmp_path: Path) -> None:
    path = write_zip(tmp_path, BulkKind.RAW, stock_members(RAW, "RAW_"))
    rows = read_zip(path)
    assert rows.rows()[0] == ("AAA", DAY, 7.09, 7.19, 7.08, 7.13, 1_072_600, "HOSE")
    assert rows.get_column("symbol").to_list() == ["AAA", "AAA", "PVS", "BSR", "BSR"]
    assert rows.get_column("exchange").to_list() == ["HOSE", "HOSE", "HNX", "UPCOM", "UPCOM"]


def test_a_file_of_one_session_and_a_missing_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "CafeF.Index.04092026.zip"
    path.write_bytes(packed({"CafeF.INDEX.04.09.2026.csv": csv_of(INDEX.splitlines()[0] + "\n").removeprefix(BOM)}))
    assert read_zip(path).rows() == [("VNINDEX", DAY, 1680.1, 1690.0, 1675.2, 1688.5, 900_000_000, None)]


def test_empty_cells_and_dashes_are_null(tmp_path: Path) -> None:
    rows = read_zip(index_zip(tmp_path, csv_of("VNINDEX,20260904,,--,NaN,1688.5,\r\n"))).row(0)
    assert rows[2:] == (None, None, None, 1688.5, None, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (csv_of(INDEX).decode("utf-8-sig").encode("utf-16"), "not in UTF-8"),
        (BOM + INDEX.encode(), "another header"),
        (csv_of(INDEX).replace(b",", b";"), r"another header[\s\S]*found: <Ticker>;"),
        (b"", "is empty"),
        (csv_of(""), "no rows"),
        (
            csv_of("VNINDEX,20260904,1680,1690,1675,1688,5\r\nVNINDEX,20260903,1680,1,1690,5,1675,2,1688,5\r\n"),
            "line 3",
        ),
        (csv_of("VNINDEX,20260904,1680,1,1690,0,1675,2,1688,5,900\r\n"), "is its decimal sign a comma"),
        (csv_of('VNINDEX,20260904,"1680",1690,1675,1688,5\r\n'), r"no number[\s\S]*line 2"),
        (csv_of("VNINDEX,20260904,1680,abc,1675,1688,5\r\n"), r"no number[\s\S]*abc"),
        (csv_of("VNINDEX,04/09/2026,1680,1690,1675,1688,5\r\n"), r"no readable date[\s\S]*line 2"),
        (csv_of("VNINDEX,20260904,1680,1690,1675,1688,5\r\nVNINDEX,2026090"), r"cut off[\s\S]*line 3"),
        (csv_of("VNINDEX,20260904,1680,1690\r\nVNINDEX,20260903,1680,1690,1675,1688,5\r\n"), r"cut off[\s\S]*line 2"),
    ],
)
def test_a_csv_that_is_not_in_the_format_is_refused_by_name(tmp_path: Path, body: bytes, message: str) -> None:
    path = index_zip(tmp_path, body)
    with pytest.raises(BadDataError, match=message) as refusal:
        read_zip(path)
    assert "CafeF.Index.Upto04092026.zip, CafeF.INDEX.Upto04.09.2026.csv" in str(refusal.value)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><title>CafeF</title>", "a web page"),
        (packed({"CafeF.INDEX.Upto04.09.2026.csv": csv_of(INDEX)})[:-30], r"truncated or damaged[\s\S]*bytes"),
        (packed({}), r"does not hold[\s\S]*found: nothing"),
        (packed({"CafeF.INDEX.Upto03.09.2026.csv": csv_of(INDEX)}), r"does not hold[\s\S]*found: .*Upto03\.09\.2026"),
        (packed({"CafeF.HSX.Upto04.09.2026.csv": csv_of(INDEX)}), r"expected: CafeF\.INDEX\.Upto04\.09\.2026\.csv"),
        (packed({"/etc/passwd": b"x"}), "leaves its folder"),
        (packed({"../CafeF.INDEX.Upto04.09.2026.csv": csv_of(INDEX)}), "leaves its folder"),
        (packed({"C:\\x.csv": csv_of(INDEX)}), "leaves its folder"),
        (packed({f"{number}.csv": b"" for number in range(40)}), "too many files"),
        (packed({"CafeF.INDEX.Upto04.09.2026.csv": bytes(9 * 2**20)}), "unpacks to more than"),
        (packed({"CafeF.INDEX.Upto04.09.2026.csv": csv_of(INDEX)}, zipfile.ZIP_LZMA), "packed in an unusual way"),
    ],
)
def test_a_zip_that_is_not_what_its_name_says_is_refused_by_name(tmp_path: Path, payload: bytes, message: str) -> None:
    path = tmp_path / "CafeF.Index.Upto04092026.zip"
    path.write_bytes(payload)
    with pytest.raises(BadDataError, match=message) as refusal:
        read_zip(path)
    assert "CafeF.Index.Upto04092026.zip" in str(refusal.value)


def test_a_zip_with_a_foreign_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match=r"not named as[\s\S]*found: prices\.zip"):
        read_zip(tmp_path / "prices.zip")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_of_a_zip_passes_unseen(tmp_path: Path, data: st.DataObject) -> None:
    path = index_zip(tmp_path, csv_of(INDEX))
    whole, payload = read_zip(path), bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut off"):
        del payload[data.draw(st.integers(0, len(payload) - 1)) :]
    else:
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(payload)
    try:
        rows = read_zip(path)
    except BadDataError as error:
        assert path.name in str(error)  # noqa: PT017 - either refused by name or not changed at all
    else:
        assert rows.equals(whole)


def test_raw_adjusted_and_index_become_one_history(tmp_path: Path) -> None:
    write_set(tmp_path)
    history = read_set(newest_set(tmp_path.iterdir()), DAY)
    assert history.bars.select(pl.exclude("stated_reference_vnd")).rows() == [
        ("AAA", date(2026, 9, 3), 7200.0, 7300.0, 7100.0, 7200.0, 6840.0, 900_000, "HOSE"),
        ("AAA", DAY, 7090.0, 7190.0, 7080.0, 7130.0, 7130.0, 1_072_600, "HOSE"),
        ("BSR", DAY, 20000.0, 20500.0, 19900.0, 20100.0, 20100.0, 7_000_000, "UPCOM"),
        ("PVS", date(2026, 9, 3), None, None, None, None, 31370.0, None, "HNX"),
        ("PVS", DAY, 33500.0, 34000.0, 33200.0, 33900.0, 33900.0, 4_000_000, "HNX"),
    ]
    assert history.bars.get_column("stated_reference_vnd").null_count() == 5
    assert history.index.rows() == [(date(2026, 9, 3), 1680.0), (DAY, 1688.5)]
    assert history.listings.rows() == [("AAA", "HOSE", ""), ("BSR", "UPCOM", ""), ("PVS", "HNX", "")]


def test_only_the_symbols_asked_for_up_to_the_day_asked_for(tmp_path: Path) -> None:
    write_set(tmp_path)
    history = read_set(newest_set(tmp_path.iterdir()), date(2026, 9, 3), ["AAA", "BSR"])
    assert history.bars.select("symbol", "session").rows() == [("AAA", date(2026, 9, 3))]
    assert history.index.get_column("session").to_list() == [date(2026, 9, 3)]
    assert read_set(newest_set(tmp_path.iterdir()), DAY, ["ZZZ"]).bars.is_empty()


def test_a_set_is_judged_by_the_whole_market_not_by_the_symbols_asked_for(tmp_path: Path) -> None:
    suspended = "FLC,20220908,3.5,3.6,3.4,3.5,9000000\r\n"
    write_set(
        tmp_path,
        raw={**RAW, "HSX": RAW["HSX"] + suspended},
        adjusted={**ADJUSTED, "HSX": ADJUSTED["HSX"] + suspended},
    )
    bars = read_set(newest_set(tmp_path.iterdir()), DAY, ["FLC"]).bars
    assert bars.select("session", "close_vnd").rows() == [(date(2022, 9, 8), 3500.0)]


def test_a_row_told_twice_counts_once_and_a_contradiction_stays(tmp_path: Path) -> None:
    hsx = 2 * "AAA,20260904,7.1,7.2,7,7.1,100\n" + "AAA,20260903,7,7,7,7,1\nAAA,20260903,8,8,8,8,1\n"
    write_set(tmp_path, raw={**RAW, "HSX": hsx})
    bars = read_set(newest_set(tmp_path.iterdir()), DAY, ["AAA"]).bars
    assert bars.select("session", "close_vnd").rows() == [
        (date(2026, 9, 3), 7000.0),
        (date(2026, 9, 3), 8000.0),
        (DAY, 7100.0),
    ]


def test_the_newest_complete_day_is_taken(tmp_path: Path) -> None:
    later = tmp_path / "later"
    later.mkdir()
    write_set(tmp_path)
    for kind in (BulkKind.RAW, BulkKind.INDEX):
        (later / BulkName(kind=kind, day=date(2026, 9, 7)).file_name).write_bytes(b"x")
    paths = [*tmp_path.glob("*.zip"), *later.iterdir()]
    assert newest_set(paths).day == DAY
    with pytest.raises(BadDataError, match=r"no day has all three[\s\S]*CafeF\.SolieuGD\.Upto07092026\.zip"):
        newest_set(later.iterdir())


def test_files_of_single_days_are_no_history(tmp_path: Path) -> None:
    paths = [tmp_path / BulkName(kind=kind, day=DAY, upto=False).file_name for kind in BulkKind]
    with pytest.raises(BadDataError, match=r"found: 3 files of single days, which cannot be joined"):
        newest_set(paths)


def test_files_of_different_vintages_under_one_day_are_refused(tmp_path: Path) -> None:
    yesterday = {board: rows.replace("20260904", "20260903") for board, rows in ADJUSTED.items()}
    write_set(tmp_path, adjusted=yesterday)
    with pytest.raises(BadDataError, match=r"not of one day[\s\S]*raw ends on 2026-09-04, adjusted on 2026-09-03"):
        read_set(newest_set(tmp_path.iterdir()), DAY)


def test_a_file_that_ended_long_before_its_name_is_refused(tmp_path: Path) -> None:
    old = {board: rows.replace("202609", "202607").replace("202608", "202606") for board, rows in RAW.items()}
    write_set(tmp_path, raw=old)
    with pytest.raises(BadDataError, match=r"does not end where its name says[\s\S]*newest session is 2026-07-0"):
        read_set(newest_set(tmp_path.iterdir()), DAY)


def test_an_index_file_without_the_vnindex_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    index_zip(tmp_path, csv_of("HNX-INDEX,20260904,270,271,269,270.5,1\n"))
    with pytest.raises(BadDataError, match="no VNINDEX"):
        read_set(newest_set(tmp_path.iterdir()), DAY)


def test_a_few_hundred_unpaired_rows_are_normal_and_thousands_are_not(tmp_path: Path) -> None:
    dates = pl.date_range(date(2010, 1, 1), DAY, eager=True)
    days = dates.filter(dates.dt.weekday() <= 5).dt.to_string("%Y%m%d").to_list()
    told = "".join(f"AAA,{day},7,7,7,7,1\n" for day in days)
    write_set(tmp_path, raw={**RAW, "HSX": told}, adjusted={**ADJUSTED, "HSX": "".join(told.splitlines(True)[300:])})
    bars = read_set(newest_set(tmp_path.iterdir()), DAY, ["AAA"]).bars
    assert bars.get_column("adjusted_close_vnd").null_count() == 300
    write_set(tmp_path, raw={**RAW, "HSX": told}, adjusted={**ADJUSTED, "HSX": "".join(told.splitlines(True)[3000:])})
    with pytest.raises(BadDataError, match=r"same sessions[\s\S]*3,000 without adjusted prices"):
        read_set(newest_set(tmp_path.iterdir()), DAY, ["AAA"])
