"""The court against faults that are known from comparing vendors, measured as the benchmark measures them."""

import importlib.util
import sys
from datetime import date
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from vnfleet.data.court.opinions import Opinion
from vnfleet.data.court.quality import Examination, examine
from vnfleet.data.sources.base import RawHistory

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality_court", ROOT / "benchmarks" / "quality_court.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = _benchmark()
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here")


@pytest.fixture(scope="module")
def history() -> RawHistory:
    loaded = BENCHMARK.load(DATA)
    assert isinstance(loaded, RawHistory)
    return loaded


@pytest.fixture(scope="module")
def other() -> Opinion:
    opinion = BENCHMARK.second_vendor(DATA)
    assert isinstance(opinion, Opinion)
    return opinion


def cases(name: str) -> pl.DataFrame:
    return pl.read_csv(DATA / f"cafef_{name}_2015_2021.csv", try_parse_dates=True).rename({"date": "session"})


def numbers(examined: Examination, history: RawHistory, other: Opinion) -> tuple[float, float, float]:
    """Recall of wrong adjustments and of closes that are not final, false alarms per 10,000 rows (2015-2021)."""
    steps, closes = cases("adj_errors"), cases("suspect_closes")
    alarms, rows = BENCHMARK.Truth.of(history, other).false_alarms(examined, BENCHMARK.LISTED)
    return (
        BENCHMARK.recall(examined, steps, BENCHMARK.STEP_CHECKS)[0] / steps.height,
        BENCHMARK.recall(examined, closes, BENCHMARK.CLOSE_CHECKS)[0] / closes.height,
        alarms / rows * 1e4,
    )


@real
@pytest.mark.real_data
def test_with_two_vendors_nearly_all_known_faults_are_found(history: RawHistory, other: Opinion) -> None:
    examined = examine(history, BENCHMARK.AS_OF, None, (other,))
    steps, closes, alarms = numbers(examined, history, other)
    assert steps >= 0.95
    assert closes >= 0.80
    assert alarms <= 2.0
    # MWG's missed bonus: 110,600 on a reference of 109,330, other vendors say +1.16 %
    mwg = examined.bars.filter((pl.col("symbol") == "MWG") & (pl.col("volume_shares") > 0)).with_columns(
        adjusted=pl.col("close_vnd") * pl.col("factor")
    )
    gross = mwg.with_columns(gross=pl.col("adjusted") / pl.col("adjusted").shift(1))
    assert gross.filter(pl.col("session") == date(2021, 8, 30))["gross"].item() == pytest.approx(1.0116, abs=5e-4)


@real
@pytest.mark.real_data
def test_alone_most_closes_and_half_of_the_adjustments_are_found(history: RawHistory, other: Opinion) -> None:
    steps, closes, alarms = numbers(examine(history, BENCHMARK.AS_OF, None), history, other)
    assert steps >= 0.50  # 15 of the 39 leave no trace in the vendor's own fields: 70 % cannot be reached
    assert closes >= 0.80
    assert alarms <= 2.0


@real
@pytest.mark.real_data
def test_a_repaired_close_on_hose_is_the_next_sessions_reference(history: RawHistory) -> None:
    # DGC 2024-03-06: stored 111.0, the next reference says 113.0
    bars = examine(history, BENCHMARK.AS_OF, None).bars
    row = bars.filter((pl.col("symbol") == "DGC") & (pl.col("session") == date(2024, 3, 6)))
    assert row["close_vnd"].item() == 113_000.0


@real
@pytest.mark.real_data
def test_a_close_that_is_off_by_a_tick_is_repaired_and_told_as_that(history: RawHistory) -> None:
    # BCM 2024-03-06: stored 66,100, the next reference says 66,200, like the second vendor's returns
    few = RawHistory(
        history.bars.filter(pl.col("session").is_between(date(2023, 9, 1), date(2024, 4, 1))),
        history.index,
        history.listings,
    )
    examined = examine(few, date(2024, 4, 1), None)
    here = (pl.col("symbol") == "BCM") & (pl.col("session") == date(2024, 3, 6))
    assert examined.report.rows.filter(here).select("check", "severity", "verdict").rows() == [
        ("last_tick", "info", "repair")
    ]
    assert examined.bars.filter(here)["close_vnd"].item() == 66_200.0


@real
@pytest.mark.real_data
def test_a_later_day_changes_no_row_older_than_two_sessions(history: RawHistory, other: Opinion) -> None:
    symbols = ["ACB", "BFC", "CTF", "DGC", "FPT", "MWG", "PNJ", "SHB", "TPB", "VIB"]
    few = RawHistory(history.bars.filter(pl.col("symbol").is_in(symbols)), history.index, history.listings)
    whole = examine(few, BENCHMARK.AS_OF, None, (other,)).bars
    for day in (date(2018, 7, 31), date(2019, 6, 17), date(2021, 8, 5), date(2021, 8, 30), date(2022, 1, 20)):
        before = pl.col("session") < few.bars.filter(pl.col("session") < day)["session"].unique().sort()[-1]
        assert examine(few, day, None, (other,)).bars.filter(before).equals(whole.filter(before))


@pytest.mark.prove
def test_the_benchmark_writes_its_document_without_real_data() -> None:
    text = BENCHMARK.report(None, 8, 24)
    assert "0 findings alone, 0 findings with a second vendor" in text
    assert text.count("\n| ") >= 39


def test_wilson_intervals_are_those_of_the_textbook() -> None:
    # R: prop.test(39, 39, correct = FALSE) 0.9103 to 1; prop.test(20, 39, correct = FALSE) 0.3620 to 0.6612
    assert BENCHMARK.wilson(39, 39) == "39 of 39 = 100.0% [91%, 100%]"
    assert BENCHMARK.wilson(20, 39) == "20 of 39 = 51.3% [36%, 66%]"
