"""Exchange by date: stated where the vendor says it, else read from odd lots, ticks, bands and gaps."""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.data.actions.membership import MEMBERSHIP_SCHEMA, membership, with_exchange
from vnfleet.data.court.quality import examine
from vnfleet.data.sources.files import FilesSource
from vnfleet.market.calendar import trading_sessions

DATA = Path(__file__).parents[3].parent / "shared" / "data"
DAYS = trading_sessions(date(2017, 1, 3), date(2022, 12, 30))
TODAY = pl.DataFrame({"symbol": ["AAA"], "exchange": ["HOSE"]})


def bars(
    spells: list[tuple[str, int]], *, symbol: str = "AAA", gap: int = 5, days: list[date] = DAYS, seed: int = 1
) -> pl.DataFrame:
    """A symbol that trades `count` sessions on each exchange in turn, with `gap` sessions off between two of them."""
    rng, rows, at, close = np.random.default_rng(seed), [], 0, 20_000.0
    for exchange, count in spells:
        for day in days[at : at + count]:
            band = {"HOSE": 0.068, "HNX": 0.098, "UPCOM": 0.148}[exchange]
            tick = 50.0 if exchange == "HOSE" else 100.0
            wide = rng.random() < 0.05
            move = rng.choice([-1, 1]) * band if wide else rng.normal(0, 0.012)
            before, close = close, float(np.clip(round(close * (1 + move) / tick) * tick, 11_000, 45_000))
            odd = exchange != "HOSE" and rng.random() < 0.5
            volume = int(rng.integers(10, 5000)) * 100 + (int(rng.integers(1, 10)) if odd else 0)
            rows.append(
                (symbol, day, max(before, close) if not wide else close, min(before, close), close, volume, 1.0)
            )
        at += count + gap
    columns = ["symbol", "session", "high_vnd", "low_vnd", "close_vnd", "volume_shares", "factor"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def spells_of(found: pl.DataFrame) -> list[tuple[str, date, date | None]]:
    return found.select("exchange", "valid_from", "valid_to").rows()


def test_a_transfer_from_hnx_to_hose_is_dated_by_its_first_session_there() -> None:
    found = membership(bars([("HNX", 300), ("HOSE", 300)]), TODAY)
    first = DAYS[305]
    (old, new) = spells_of(found)
    assert old[:2] == ("HNX", DAYS[0])
    assert old[2] is not None
    assert DAYS[300] < old[2] < first
    assert new == ("HOSE", first, None)
    assert found.get_column("inferred").to_list() == [True, True]
    assert "odd lots" in found.get_column("evidence")[0]


def test_upcom_is_told_by_moves_that_hnx_does_not_allow() -> None:
    found = membership(bars([("UPCOM", 400), ("HOSE", 300)]), TODAY)
    assert found.get_column("exchange").to_list() == ["UPCOM", "HOSE"]


def test_a_temporary_transfer_is_seen_both_ways() -> None:
    # as VND and PAN, which left HOSE's full order book for HNX from April to September 2021
    found = membership(bars([("HOSE", 400), ("HNX", 100), ("HOSE", 300)], gap=1), TODAY)
    assert [row[:2] for row in spells_of(found)] == [("HOSE", DAYS[0]), ("HNX", DAYS[401]), ("HOSE", DAYS[502])]


def test_a_name_that_never_moved_has_one_spell() -> None:
    assert spells_of(membership(bars([("HOSE", 900)]), TODAY)) == [("HOSE", DAYS[0], None)]
    listed = TODAY.with_columns(exchange=pl.lit("HNX"))
    assert spells_of(membership(bars([("HNX", 900)]), listed)) == [("HNX", DAYS[0], None)]


def test_a_listing_that_changed_after_the_last_row_does_not_bend_the_past() -> None:
    assert spells_of(membership(bars([("HNX", 600)]), TODAY)) == [("HNX", DAYS[0], None)]


def test_a_name_that_says_nothing_takes_todays_listing() -> None:
    quiet = pl.DataFrame(
        {
            "symbol": ["AAA"] * 50,
            "session": DAYS[:50],
            **{name: [60_000.0] * 50 for name in ("high_vnd", "low_vnd", "close_vnd")},
            "volume_shares": [1000] * 50,
            "factor": [1.0] * 50,
        }
    )
    for exchange in ("HOSE", "HNX", "UPCOM"):
        listed = pl.DataFrame({"symbol": ["AAA"], "exchange": [exchange]})
        assert membership(quiet, listed).get_column("exchange").to_list() == [exchange]


def test_what_the_vendor_states_is_believed() -> None:
    stated = bars([("HNX", 100), ("HOSE", 100)]).with_columns(
        exchange=pl.Series(["UPCOM"] * 60 + ["HNX"] * 40 + ["HOSE"] * 100)
    )
    found = membership(stated, TODAY)
    assert [row[:2] for row in spells_of(found)] == [("UPCOM", DAYS[0]), ("HNX", DAYS[60]), ("HOSE", DAYS[105])]
    assert found.get_column("inferred").to_list() == [False] * 3
    assert found.get_column("evidence").unique().to_list() == ["stated by the vendor"]


def test_a_corporate_action_is_no_move() -> None:
    steady = bars([("HOSE", 400)])
    halved = pl.col("session") >= DAYS[200]
    split = steady.with_columns(
        [pl.when(halved).then(pl.col(name) / 2).otherwise(name).alias(name) for name in ("high_vnd", "low_vnd")]
        + [
            pl.when(halved).then(pl.col("close_vnd") / 2).otherwise("close_vnd").alias("close_vnd"),
            pl.when(halved).then(2.0).otherwise(1.0).alias("factor"),
        ]
    )
    assert spells_of(membership(split, TODAY)) == [("HOSE", DAYS[0], None)]


def test_symbols_do_not_touch_each_other() -> None:
    first, second = bars([("HNX", 300), ("HOSE", 300)]), bars([("HOSE", 600)], symbol="BBB", seed=2)
    both = membership(pl.concat([first, second]), TODAY.vstack(TODAY.with_columns(symbol=pl.lit("BBB"))))
    assert both.filter(pl.col("symbol") == "AAA").equals(membership(first, TODAY))
    assert both.get_column("symbol").to_list() == ["AAA", "AAA", "BBB"]


def test_every_day_gets_its_exchange() -> None:
    rows = bars([("HNX", 300), ("HOSE", 300)])
    placed = with_exchange(rows, membership(rows, TODAY))
    assert placed.get_column("exchange").to_list() == ["HNX"] * 300 + ["HOSE"] * 300
    assert placed.drop("exchange").equals(rows)
    earlier = with_exchange(rows.with_columns(session=pl.col("session").dt.offset_by("-10y")), membership(rows, TODAY))
    assert earlier.get_column("exchange").unique().to_list() == ["HNX"]


def test_no_bars_have_no_membership() -> None:
    found = membership(bars([("HOSE", 5)]).clear(), TODAY)
    assert found.schema == pl.Schema(MEMBERSHIP_SCHEMA)
    assert found.is_empty()


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here")
def test_names_that_are_known_to_have_moved_moved_on_the_day_known() -> None:
    as_of = date(2024, 12, 31)
    first_day_on_hose = {  # as the press reported it
        "ACB": date(2020, 12, 9),
        "SHB": date(2021, 10, 11),
        "VND": date(2017, 8, 18),
        "VCG": date(2020, 12, 29),
        "LPB": date(2020, 11, 9),
        "VIB": date(2020, 11, 10),
        "GEX": date(2018, 1, 18),
        "POW": date(2019, 1, 14),
        "HVN": date(2019, 5, 7),
        "VGC": date(2019, 5, 29),
        "DGC": date(2020, 7, 28),
        "BCM": date(2020, 8, 31),
        "SIP": date(2023, 8, 8),
        "VIX": date(2021, 1, 8),
    }
    never = ["FPT", "HPG", "VNM", "VCB", "MWG", "SSI", "REE", "GAS", "VIC", "STB"]
    away_in_2021 = ["VND", "PAN", "BSI", "TVB", "HAP", "NSC"]
    source = FilesSource(DATA / "cafef_price_history_2012_2024.parquet", DATA / "universe_289.csv")
    history = source.fetch([*first_day_on_hose, *never, *away_in_2021], as_of)
    found = membership(examine(history, as_of, None).bars, history.listings)
    hose = found.filter(pl.col("exchange") == "HOSE")
    for symbol, day in first_day_on_hose.items():
        assert hose.filter(pl.col("symbol") == symbol).get_column("valid_from")[0] == day
    for symbol in never:
        assert found.filter(pl.col("symbol") == symbol).get_column("exchange").to_list() == ["HOSE"]
    for symbol in away_in_2021:
        spell = found.filter((pl.col("symbol") == symbol) & (pl.col("exchange") == "HNX")).row(-1, named=True)
        assert spell["valid_from"].year == spell["valid_to"].year == 2021
        assert spell["valid_to"].month == 9
    assert found.filter(pl.col("symbol") == "LPB").get_column("exchange").to_list() == ["UPCOM", "HOSE"]
    assert found.filter(pl.col("symbol") == "SHB").get_column("exchange").to_list() == ["HNX", "HOSE"]
