"""Files in CafeF's and in plain form: what is read, and what is refused with which advice."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.data.sources.base import RAW_SCHEMA, Source
from vnfleet.data.sources.files import FilesSource

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
        ("FPT", date(2024, 6, 11), 146000.0, 147000.0, 145000.0, 146500.0, 110000.0, None, 4_000_000, None),
        ("FPT", date(2024, 6, 12), 127500.0, 132000.0, 127000.0, 132000.0, 114780.0, None, 12_345_600, None),
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
