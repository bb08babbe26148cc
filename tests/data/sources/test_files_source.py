"""Files in CafeF's and in plain form: what is read, and what is refused with which advice."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import RAW_SCHEMA, Source
from vnfleet.data.sources.cafef.zips import BulkKind, BulkName
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.sources.standins.cafef_bulk import bulk_zips

AS_OF = date(2024, 6, 12)
CAFEF = {
    "Symbol": ["FPT", "FPT", "VNINDEX", "VNINDEX"],
    "Ngay": ["12/06/2024", "11/06/2024", "12/06/2024", "11/06/2024"],
    "GiaDieuChinh": [114.78, 110.0, 1300.19, 1284.41],
    "GiaDongCua": [132.0, 146.5, 1300.19, 1284.41],
    "ThayDoi": ["5.5(4.35 %)", "0(0 %)", "15.78(1.23 %)", "0(0 %)"],
    "KhoiLuongKhopLenh": [12_345_600, 4_000_000, 900_000_000, 800_000_000],
    "GiaMoCua": [127.5, 146.0, 1290.0, 1280.0],
    "GiaCaoNhat": [132.0, 147.0, 1301.0, 1290.0],
    "GiaThapNhat": [127.0, 145.0, 1285.0, 1279.0],
}
PLAIN = {
    "symbol": ["fpt", "fpt"],
    "date": ["2024-06-11", "2024-06-12"],
    "open": [146000.0, 127500.0],
    "high": [147000.0, 132000.0],
    "low": [145000.0, 127000.0],
    "close": [146500.0, 132000.0],
    "volume": [4_000_000, 12_345_600],
}


def test_cafef_rows_become_raw_vnd_in_ascending_order(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    pl.DataFrame(CAFEF).write_parquet(path)
    source: Source = FilesSource(path)
    history = source.fetch(None, AS_OF)
    assert history.bars.schema == pl.Schema(RAW_SCHEMA)
    assert history.bars.rows() == [
        ("FPT", date(2024, 6, 11), 146000.0, 147000.0, 145000.0, 146500.0, 110000.0, 146500.0, 4_000_000, None),
        ("FPT", date(2024, 6, 12), 127500.0, 132000.0, 127000.0, 132000.0, 114780.0, 126500.0, 12_345_600, None),
    ]
    assert history.index.rows() == [(date(2024, 6, 11), 1284.41), (date(2024, 6, 12), 1300.19)]
    assert history.listings.is_empty()


def test_rows_after_as_of_never_enter(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    pl.DataFrame(CAFEF).write_parquet(path)
    history = FilesSource(path).fetch(None, date(2024, 6, 11))
    assert history.bars.get_column("session").to_list() == [date(2024, 6, 11)]
    assert history.index.get_column("session").to_list() == [date(2024, 6, 11)]


def test_an_index_bar_of_today_without_a_price_does_not_survive(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    frame = pl.DataFrame(CAFEF).with_columns(pl.col("GiaDongCua").cast(pl.String))
    frame = frame.with_columns(
        GiaDongCua=pl.when((pl.col("Symbol") == "VNINDEX") & (pl.col("Ngay") == "12/06/2024"))
        .then(pl.lit("--"))
        .otherwise("GiaDongCua")
    )
    frame.write_csv(path)
    assert FilesSource(path).fetch(None, AS_OF).index.rows() == [(date(2024, 6, 11), 1284.41)]


def test_csv_folder_of_one_symbol_files_equals_one_parquet(tmp_path: Path) -> None:
    whole = tmp_path / "prices.parquet"
    pl.DataFrame(CAFEF).write_parquet(whole)
    for (symbol,), rows in pl.DataFrame(CAFEF).partition_by("Symbol", as_dict=True).items():
        folder = tmp_path / "dataset" / str(symbol)
        folder.mkdir(parents=True)
        rows.drop("Symbol").write_csv(folder / "PriceHistory.csv")
    one, many = FilesSource(whole).fetch(None, AS_OF), FilesSource(tmp_path / "dataset").fetch(None, AS_OF)
    assert one.bars.equals(many.bars)
    assert one.index.equals(many.index)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_plain_prices_in_vnd_or_thousand_vnd_are_told_apart(tmp_path: Path, scale: float) -> None:
    path = tmp_path / "prices.csv"
    prices = [pl.col(name) / scale for name in ("open", "high", "low", "close")]
    pl.DataFrame(PLAIN).with_columns(*prices).write_csv(path)
    bars = FilesSource(path).fetch(["FPT"], AS_OF).bars
    assert bars.get_column("close_vnd").to_list() == [146500.0, 132000.0]
    assert bars.get_column("symbol").unique().to_list() == ["FPT"]
    assert bars.get_column("adjusted_close_vnd").null_count() == 2


def test_plain_adjusted_close_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "FPT.csv"
    pl.DataFrame(PLAIN).drop("symbol").with_columns(adj_close=pl.Series([110000.0, 114780.0])).write_csv(path)
    assert FilesSource(path).fetch(None, AS_OF).bars.get_column("adjusted_close_vnd").to_list() == [110000.0, 114780.0]


def test_mixed_units_are_refused_unless_stated(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).with_columns(close=pl.Series([146.5, 132000.0])).write_csv(path)
    with pytest.raises(BadDataError, match="unit of the prices is not clear") as refusal:
        FilesSource(path).fetch(None, AS_OF)
    assert "prices.csv" in str(refusal.value)
    assert "in one unit" in str(refusal.value)
    assert FilesSource(path, unit="vnd").fetch(None, AS_OF).bars.height == 2


def test_ambiguous_dates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).with_columns(date=pl.Series(["11/06/2024", "12/06/2024"])).write_csv(path)
    with pytest.raises(BadDataError, match="cannot be read in one way"):
        FilesSource(path).fetch(None, AS_OF)
    pl.DataFrame(PLAIN).with_columns(date=pl.Series(["30/05/2024", "12/06/2024"])).write_csv(path)
    assert FilesSource(path).fetch(None, AS_OF).bars.get_column("session")[0] == date(2024, 5, 30)


def test_a_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    pl.DataFrame(CAFEF).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadDataError, match="truncated") as refusal:
        FilesSource(path).fetch(None, AS_OF)
    assert "prices.parquet" in str(refusal.value)
    assert "next:" in str(refusal.value)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.touch()
    with pytest.raises(BadDataError, match=r"prices\.csv"):
        FilesSource(path).fetch(None, AS_OF)


def test_a_file_without_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).head(0).write_csv(path)
    with pytest.raises(BadDataError, match=r"no rows[\s\S]*prices\.csv"):
        FilesSource(path).fetch(None, AS_OF)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).with_columns(Close=pl.col("close")).write_csv(path)
    with pytest.raises(BadDataError, match=r"a column twice\n  found: close"):
        FilesSource(path).fetch(None, AS_OF)


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    pl.DataFrame(PLAIN).with_columns(pl.concat_list("close")).write_parquet(path)
    with pytest.raises(BadDataError, match="no plain values"):
        FilesSource(path).fetch(None, AS_OF)


def test_a_volume_beyond_any_share_count_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).with_columns(volume=pl.Series([1e23, 12_345_600.0])).write_csv(path)
    assert FilesSource(path).fetch(None, AS_OF).bars.get_column("volume_shares").to_list() == [None, 12_345_600]


def test_an_empty_date_is_told_with_the_formats_in_words(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).with_columns(date=pl.Series(["2024-06-11", None])).write_csv(path)
    with pytest.raises(BadDataError, match=r"unreadable dates\n  expected: yyyy-mm-dd or .*\n  found: an empty cell"):
        FilesSource(path).fetch(None, AS_OF)


def test_listings_may_write_their_columns_with_a_capital(tmp_path: Path) -> None:
    path, listings = tmp_path / "prices.csv", tmp_path / "listings.csv"
    pl.DataFrame(PLAIN).write_csv(path)
    listings.write_text("Symbol,Exchange,Sector,CategoryName\nfpt,HNX,Software,Other\n", encoding="utf-8")
    assert FilesSource(path, listings).fetch(None, AS_OF).listings.rows() == [("FPT", "HNX", "Software")]


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.parquet", tmp_path):
        with pytest.raises(BadDataError, match="no price files") as refusal:
            FilesSource(path).fetch(None, AS_OF)
        assert str(path) in str(refusal.value)


def test_missing_columns_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).drop("open", "volume").write_csv(path)
    with pytest.raises(BadDataError, match="no open, volume among"):
        FilesSource(path).fetch(None, AS_OF)


def test_decimal_commas_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    pl.DataFrame(PLAIN).with_columns(close=pl.Series(["146,5", "132,0"])).write_csv(path)
    with pytest.raises(BadDataError, match="not numbers") as refusal:
        FilesSource(path).fetch(None, AS_OF)
    assert "146,5" in str(refusal.value)


def test_symbols_without_any_row_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    pl.DataFrame(CAFEF).write_parquet(path)
    with pytest.raises(BadDataError, match="no bars of the stocks asked for"):
        FilesSource(path).fetch(["HPG"], AS_OF)
    with pytest.raises(BadDataError, match="no bars of the stocks asked for"):
        FilesSource(path).fetch(None, date(2020, 1, 1))


def test_listings_are_read_with_defaults(tmp_path: Path) -> None:
    path, listings = tmp_path / "prices.parquet", tmp_path / "listings.csv"
    pl.DataFrame(CAFEF).write_parquet(path)
    listings.write_text("Symbol,CategoryName\nfpt,Công nghệ\n", encoding="utf-8")
    history = FilesSource(path, listings).fetch(None, AS_OF)
    assert history.listings.rows() == [("FPT", "HOSE", "Công nghệ")]
    with pytest.raises(BadDataError, match="listings file is missing"):
        FilesSource(path, tmp_path / "absent.csv").fetch(None, AS_OF)


def test_exchange_names_are_normalised_and_unknown_ones_refused(tmp_path: Path) -> None:
    path, listings = tmp_path / "prices.parquet", tmp_path / "listings.csv"
    pl.DataFrame(CAFEF).write_parquet(path)
    listings.write_text("symbol,exchange\nFPT,HSX\nSHS,hnx\nBSR,UPCoM\n", encoding="utf-8")
    rows = FilesSource(path, listings).fetch(None, AS_OF).listings
    assert dict(rows.select("symbol", "exchange").iter_rows()) == {"FPT": "HOSE", "SHS": "HNX", "BSR": "UPCOM"}
    listings.write_text("symbol,exchange\nFPT,NYSE\n", encoding="utf-8")
    with pytest.raises(BadDataError, match="unknown exchange"):
        FilesSource(path, listings).fetch(None, AS_OF)


def test_the_reference_is_the_close_minus_the_change_in_either_format(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    table = pl.DataFrame(CAFEF).with_columns(ThayDoi=pl.Series(["5,50 (4,35%)", "-1,20 (-0,81%)", "--", None]))
    table = table.with_columns(GiaDongCua=pl.Series([132.0, 0.0, 1300.19, 1284.41]))
    table.write_csv(path)
    bars = FilesSource(path).fetch(None, AS_OF).bars
    assert bars.select("session", "stated_reference_vnd").rows() == [
        (date(2024, 6, 11), None),
        (date(2024, 6, 12), 126500.0),
    ]


def put_zips(folder: Path, day: date, missing: tuple[BulkKind, ...] = ()) -> None:
    table = folder.parent / "rows.parquet"
    pl.DataFrame(CAFEF).write_parquet(table)
    folder.mkdir(exist_ok=True)
    for name, body in bulk_zips(FilesSource(table).fetch(None, day), day).items():
        if name.kind not in missing:
            (folder / name.file_name).write_bytes(body)


def test_a_folder_of_cafef_zips_gives_the_newest_complete_set(tmp_path: Path) -> None:
    folder = tmp_path / "zips"
    put_zips(folder, date(2024, 6, 11))
    put_zips(folder, AS_OF, missing=(BulkKind.INDEX,))
    (folder / "readme.txt").touch()
    history = FilesSource(folder).fetch(None, AS_OF)
    assert history.bars.select("symbol", "session", "close_vnd", "exchange").rows() == [
        ("FPT", date(2024, 6, 11), 146500.0, "HOSE")
    ]
    put_zips(folder, AS_OF)
    history = FilesSource(folder).fetch(None, AS_OF)
    assert history.bars.select("close_vnd", "adjusted_close_vnd", "volume_shares").rows() == [
        (146500.0, 126500.0, 4_000_000),  # 110.00 / 114.78 * 132.00 = 126.503
        (132000.0, 132000.0, 12_345_600),
    ]
    assert history.index.rows() == [(date(2024, 6, 11), 1284.41), (AS_OF, 1300.19)]
    for name in ("SolieuGD", "SolieuGD.Raw", "Index"):
        (folder / f"CafeF.{name}.Upto11062024.zip").unlink(missing_ok=True)
    past = FilesSource(folder).fetch(None, date(2024, 6, 11))  # a newer set serves an older day, as any file does
    assert (
        past.bars.get_column("session").to_list() == past.index.get_column("session").to_list() == [date(2024, 6, 11)]
    )


def test_one_zip_stands_for_its_set_and_says_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "zips"
    put_zips(folder, date(2024, 6, 11))
    put_zips(folder, AS_OF, missing=(BulkKind.RAW,))
    older = folder / BulkName(kind=BulkKind.RAW, day=date(2024, 6, 11)).file_name
    assert FilesSource(older).fetch(["FPT"], AS_OF).bars.height == 1
    with pytest.raises(BadDataError, match=r"no day has all three[\s\S]*SolieuGD\.Raw\.Upto12062024\.zip"):
        FilesSource(folder / BulkName(kind=BulkKind.INDEX, day=AS_OF).file_name).fetch(None, AS_OF)


def test_zips_do_not_mix_with_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "zips"
    put_zips(folder, AS_OF)
    listings = folder / "listings.csv"
    listings.write_text("symbol,exchange,sector\nFPT,HOSE,Software\n", encoding="utf-8")
    assert FilesSource(folder, listings).fetch(None, AS_OF).listings.rows() == [("FPT", "HOSE", "Software")]
    with pytest.raises(BadDataError, match=r"mixes CafeF zips and other price files \(such as listings\.csv\)"):
        FilesSource(folder).fetch(None, AS_OF)
    with pytest.raises(BadDataError, match="no bars of the stocks asked for"):
        FilesSource(folder, listings).fetch(["HPG"], AS_OF)


def test_a_damaged_zip_in_a_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "zips"
    put_zips(folder, AS_OF)
    path = folder / BulkName(kind=BulkKind.ADJUSTED, day=AS_OF).file_name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadDataError, match=r"truncated or damaged[\s\S]*CafeF\.SolieuGD\.Upto12062024\.zip"):
        FilesSource(folder).fetch(None, AS_OF)


def test_cafef_rows_and_plain_files_do_not_mix(tmp_path: Path) -> None:
    pl.DataFrame(CAFEF).write_csv(tmp_path / "a.csv")
    pl.DataFrame(PLAIN).write_csv(tmp_path / "b.csv")
    with pytest.raises(BadDataError, match="mixes CafeF files and plain files"):
        FilesSource(tmp_path).fetch(None, AS_OF)


def test_a_stated_unit_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    prices = [pl.col(name) / 1000 for name in ("open", "high", "low", "close")]
    pl.DataFrame(PLAIN).with_columns(*prices).write_csv(path)  # FPT at 146.5 "VND"
    with pytest.raises(BadDataError, match="unit of the prices is not clear"):
        FilesSource(path, unit="vnd").fetch(None, AS_OF)
