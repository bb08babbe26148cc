"""The event ledger: what was served once is served again, whatever the vendor rounds anew later."""

import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vnfleet.core.errors import BadDataError, BusyError
from vnfleet.core.lock import holding
from vnfleet.data.actions.adjustment import chain_factors
from vnfleet.data.actions.events import EventLedger
from vnfleet.data.actions.steps import LearnedSteps
from vnfleet.data.panel import Panel, PanelStore
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import RAW_SCHEMA, RawHistory
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.market.calendar import trading_sessions

DATA = Path(__file__).parents[3].parent / "shared" / "data"
DAYS = trading_sessions(date(2018, 1, 2), date(2023, 12, 29))
SOURCE = SimulatedSource(SimulatedMarket(seed=11, num_symbols=24, start=date(2019, 1, 2)))
FRIDAYS = tuple(date(2022, 5, 6) + timedelta(weeks=week) for week in range(9))
MONDAY = datetime(2024, 1, 1, 9, tzinfo=UTC)


def moment(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 10, tzinfo=UTC)


def collect(workdir: Path, day: date, *, record: bool = True) -> None:
    RawStore(workdir / "data" / "raw").merge("simulated", SOURCE.fetch(None, day), moment(day))
    if record:
        PanelStore(workdir, "simulated").record_events(moment(day))


def bars(raw: list[float] | np.ndarray, levels: list[float] | np.ndarray, symbol: str = "AAA") -> pl.DataFrame:
    """Bars as a vendor tells them: adjusted = raw * level, rounded to 10 VND."""
    raw = np.asarray(raw, dtype=float)
    return pl.DataFrame(
        {
            "symbol": [symbol] * len(raw),
            "session": DAYS[: len(raw)],
            "close_vnd": raw,
            "adjusted_close_vnd": np.round(raw * np.asarray(levels), -1),
            "volume_shares": [1000] * len(raw),
        }
    )


def learned(ledger: EventLedger) -> LearnedSteps:
    found = ledger.read()
    assert found is not None
    return found


def record(ledger: EventLedger, given_bars: pl.DataFrame, week: int = 0) -> tuple[tuple[str, str], ...]:
    known = ledger.read()
    placed = given_bars if known is None else known.placed(given_bars)
    return ledger.record(placed, MONDAY + timedelta(weeks=week)).superseded


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("rev-*.parquet"))}


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Panel]]:
    """Nine weeks collected and recorded, and the panel each of them served."""
    workdir, served = tmp_path_factory.mktemp("recorded"), []
    for day in FRIDAYS:
        collect(workdir, day)
        served.append(PanelStore(workdir, "simulated").serve(day))
    return workdir, served


def test_the_weeks_hold_corporate_actions(weeks: tuple[Path, list[Panel]]) -> None:
    steps = learned(EventLedger(weeks[0] / "data" / "events", "simulated")).rows.filter(pl.col("step") != 1.0)
    assert steps.filter(pl.col("session") <= FRIDAYS[0]).height > 50
    assert steps.filter(pl.col("session") > FRIDAYS[0]).get_column("symbol").n_unique() >= 3
    assert steps.get_column("generation").unique().to_list() == [1]


def test_what_a_week_served_is_served_in_every_later_week(weeks: tuple[Path, list[Panel]]) -> None:
    workdir, served = weeks
    newest = PanelStore(workdir, "simulated").serve(FRIDAYS[-1])
    for day, panel in zip(FRIDAYS, served, strict=True):
        assert newest.bars.filter(pl.col("session") <= day).equals(panel.bars)
        again = PanelStore(workdir, "simulated").serve(day)
        assert again.bars.equals(panel.bars)
        assert again.data_id == panel.data_id


def test_without_the_ledger_a_later_week_serves_other_digits(weeks: tuple[Path, list[Panel]], tmp_path: Path) -> None:
    collect(tmp_path, FRIDAYS[0], record=False)
    first = PanelStore(tmp_path, "simulated").serve(FRIDAYS[0])
    assert first.data_id == weeks[1][0].data_id  # a first recording changes nothing
    collect(tmp_path, FRIDAYS[-1], record=False)
    later = PanelStore(tmp_path, "simulated").serve(FRIDAYS[0])
    assert later.data_id != first.data_id
    changed = first.bars.filter(first.bars.get_column("factor") != later.bars.get_column("factor"))
    assert changed.height > 1000
    np.testing.assert_allclose(first.bars.get_column("factor"), later.bars.get_column("factor"), rtol=0.02)


def test_the_past_is_served_as_it_was_known(weeks: tuple[Path, list[Panel]]) -> None:
    store = PanelStore(weeks[0], "simulated")
    for day, panel in zip(FRIDAYS, weeks[1], strict=True):
        assert store.serve(day + timedelta(days=3), moment(day)).bars.equals(panel.bars)
    ledger = EventLedger(weeks[0] / "data" / "events", "simulated")
    assert ledger.read(moment(FRIDAYS[0]) - timedelta(seconds=1)) is None
    known = ledger.read(moment(FRIDAYS[2]))
    assert known is not None
    assert known.rows.get_column("session").max() == FRIDAYS[2]


def test_a_merge_that_was_not_recorded_yet_serves_what_it_will_serve_recorded(tmp_path: Path) -> None:
    collect(tmp_path, FRIDAYS[0])
    collect(tmp_path, FRIDAYS[3], record=False)
    store = PanelStore(tmp_path, "simulated")
    before = store.serve(FRIDAYS[3])
    store.record_events(moment(FRIDAYS[3]))
    assert store.serve(FRIDAYS[3]).data_id == before.data_id


def test_recording_the_same_again_writes_nothing(weeks: tuple[Path, list[Panel]]) -> None:
    folder = weeks[0] / "data" / "events" / "simulated"
    before = files_of(folder)
    report = PanelStore(weeks[0], "simulated").record_events(moment(FRIDAYS[-1]))
    assert (report.new_steps, report.taken_back, report.superseded) == (0, 0, ())
    assert files_of(folder) == before
    assert len(before) == len(FRIDAYS)


def with_step_scaled(history: RawHistory, symbol: str, session: date, scale: float) -> RawHistory:
    """The vendor's history with everything before `session` on another level: one step is another."""
    changed = (pl.col("symbol") == symbol) & (pl.col("session") < session)
    scaled = (pl.col("adjusted_close_vnd") / scale / 10).round() * 10
    corrected = pl.when(changed).then(scaled).otherwise("adjusted_close_vnd")
    return RawHistory(
        history.bars.with_columns(adjusted_close_vnd=corrected).select(list(RAW_SCHEMA)),
        history.index,
        history.listings,
    )


def test_a_correction_by_the_vendor_supersedes_that_symbol_from_there_on(tmp_path: Path) -> None:
    collect(tmp_path, FRIDAYS[0])
    store = PanelStore(tmp_path, "simulated")
    first = store.serve(FRIDAYS[0])
    ledger = EventLedger(tmp_path / "data" / "events", "simulated")
    steps = learned(ledger).rows.filter((pl.col("step") > 1.05) & (pl.col("session") > date(2021, 1, 1)))
    symbol, session = steps.select("symbol", "session").row(0)
    corrected = with_step_scaled(SOURCE.fetch(None, FRIDAYS[1]), symbol, session, 1.05)
    RawStore(tmp_path / "data" / "raw").merge("simulated", corrected, moment(FRIDAYS[1]))
    unrecorded = store.serve(FRIDAYS[1])
    report = store.record_events(moment(FRIDAYS[1]))
    ((named, reason),) = report.superseded
    assert named == symbol
    assert str(session) in reason
    assert symbol in report.corrections
    assert store.serve(FRIDAYS[1]).data_id == unrecorded.data_id

    rows = store.serve(FRIDAYS[0]).bars
    held = (pl.col("symbol") != symbol) | (pl.col("session") < session)
    assert rows.filter(held).equals(first.bars.filter(held))
    ratio = rows.filter(~held).get_column("factor") / first.bars.filter(~held).get_column("factor")
    assert ratio.to_numpy() == pytest.approx(1.05, rel=0.02)
    assert store.serve(FRIDAYS[0], moment(FRIDAYS[0])).data_id == first.data_id

    generations = learned(ledger).rows.group_by("symbol").agg(pl.col("generation").unique(), pl.col("reason").first())
    assert generations.filter(pl.col("generation") != [1]).rows() == [(symbol, [2], reason)]
    assert store.record_events(moment(FRIDAYS[1])).superseded == ()


def rounded(raw: np.ndarray, steps: dict[int, float], length: int) -> pl.DataFrame:
    """The vintage of the first `length` rows: level 1 on its last, everything rounded on that basis."""
    forward = np.ones(length)
    for row, size in steps.items():
        forward[row:] *= size
    return bars(raw[:length], forward / forward[-1])


@st.composite
def vintages(draw: st.DrawFn) -> tuple[pl.DataFrame, list[int], list[pl.DataFrame]]:
    """A true history, the ends of its growing vintages, and the vintages themselves."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(40, 120))
    gaps = draw(st.lists(st.integers(1, 25), max_size=6))
    steps = {row: draw(st.floats(1.003, 1.6)) for row in np.cumsum(gaps).tolist() if row < length}
    forward = np.ones(length)
    for row, size in steps.items():
        forward[row:] *= size
    price = draw(st.sampled_from([6000.0, 20000.0, 90000.0]))
    fair = price * np.cumprod(1 + rng.uniform(-0.03, 0.03, length))
    raw = np.maximum(np.round(fair / forward, -1), 500.0)
    ends = sorted(draw(st.sets(st.integers(1, length), min_size=2, max_size=5)))
    return rounded(raw, steps, length), ends, [rounded(raw, steps, end) for end in ends]


@settings(max_examples=30, deadline=None)
@given(vintages())
def test_no_later_vintage_changes_a_row_that_was_served(
    tmp_path_factory: pytest.TempPathFactory, given_vintages: tuple[pl.DataFrame, list[int], list[pl.DataFrame]]
) -> None:
    truth, ends, told = given_vintages
    ledger = EventLedger(tmp_path_factory.mktemp("events"), "vendor")
    served: list[pl.DataFrame] = []
    for week, vintage in enumerate(told):
        before, _ = chain_factors(vintage, ledger.read())
        assert record(ledger, vintage, week) == ()
        after, _ = chain_factors(vintage, ledger.read())
        assert_frame_equal(before, after, check_exact=True)
        served.append(after)
        for end, earlier in zip(ends, served, strict=False):
            again, _ = chain_factors(vintage.head(end), learned(ledger))
            columns = ["symbol", "session", "factor", "break_before"]
            assert_frame_equal(again.select(columns), earlier.select(columns), check_exact=True)
            if not flipped(ledger):
                assert_frame_equal(after.head(end).select(columns), earlier.select(columns), check_exact=True)
    assert truth.height >= ends[-1]


def flipped(ledger: EventLedger) -> bool:
    """Two opposite roundings of small steps can look like a flip, which changes the row it began on."""
    return learned(ledger).rows.get_column("taken_back_on").is_not_null().any()


@st.composite
def faulty(draw: st.DrawFn) -> tuple[pl.DataFrame, list[int]]:
    """One vintage with steps and flips of any kind, and the ends at which it was seen growing, never re-based."""
    length = draw(st.integers(12, 60))
    level = 0.5
    levels: list[float] = []
    while len(levels) < length:
        levels += [level] * draw(st.integers(1, 8))
        level = draw(st.sampled_from([0.5, 0.52, 0.6, level * 1.01]))
    raw = np.round(20000 * (1 + np.random.default_rng(length).uniform(-0.03, 0.03, length)), -1)
    ends = sorted(draw(st.sets(st.integers(1, length), min_size=1, max_size=6)))
    return bars(raw, levels[:length]), ends


@settings(max_examples=30, deadline=None)
@given(faulty())
def test_without_a_re_basing_the_record_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[pl.DataFrame, list[int]]
) -> None:
    vintage, ends = case
    ledger = EventLedger(tmp_path_factory.mktemp("events"), "vendor")
    for week, end in enumerate(ends):
        assert record(ledger, vintage.head(end), week) == ()
        for seen in {*range(1, end, 5), *(day for day in ends if day <= end)}:
            for mine, plain in zip(
                chain_factors(vintage.head(seen), learned(ledger)), chain_factors(vintage.head(seen)), strict=True
            ):
                assert_frame_equal(mine, plain, check_exact=True)


def test_a_flip_that_was_recorded_as_a_step_is_taken_back_when_it_returns(tmp_path: Path) -> None:
    ledger = EventLedger(tmp_path, "vendor")
    vintage = bars([20000.0] * 10, [0.8] * 6 + [0.84] * 2 + [0.8] * 2)
    record(ledger, vintage.head(7))
    as_of_then, _ = chain_factors(vintage.head(7), learned(ledger))
    assert as_of_then.get_column("factor")[6] == pytest.approx(1.05)
    report = ledger.record(learned(ledger).placed(vintage), MONDAY + timedelta(weeks=1))
    assert (report.new_steps, report.taken_back, report.superseded) == (0, 1, ())
    now, events = chain_factors(vintage, learned(ledger))
    assert now.get_column("factor").to_list() == [1.0] * 10
    assert events.select("session", "kind").rows() == [(DAYS[6], "flip")]
    assert chain_factors(vintage.head(7), learned(ledger))[0].equals(as_of_then)


@pytest.mark.parametrize(
    ("levels", "first_broken"),
    [
        pytest.param([0.8] * 10 + [1.0] * 10, 10, id="the same step"),
        pytest.param([0.8] * 11 + [1.0] * 9, 10, id="a session later"),
        pytest.param([0.8] * 9 + [1.0] * 11, 9, id="a session earlier"),
        pytest.param([1.0] * 20, 10, id="gone"),
        pytest.param([0.6] * 5 + [0.8] * 5 + [1.0] * 10, 5, id="one more"),
        pytest.param([0.8] * 10 + [1.0] * 9 + [1.1], 19, id="one more, on the newest session"),
        pytest.param([0.8] * 10 + [1.0] * 4 + [0.95] * 2 + [1.0] * 4, 20, id="a flip"),
    ],
)
def test_what_counts_as_a_correction(tmp_path: Path, levels: list[float], first_broken: int) -> None:
    raw = [25000.0] * 10 + [20000.0] * 10
    ledger = EventLedger(tmp_path, "vendor")
    record(ledger, bars(raw, [0.8] * 10 + [1.0] * 10))
    told = bars(raw, levels)
    superseded = record(ledger, told, 1)
    if first_broken in (10, 20) and levels[10] == 1.0 and levels[0] == 0.8:
        assert superseded == ()
    else:
        assert str(DAYS[first_broken]) in superseded[0][1]
        assert chain_factors(told, learned(ledger))[0].equals(chain_factors(told)[0])


def test_a_history_that_begins_earlier_is_read_anew(tmp_path: Path) -> None:
    ledger = EventLedger(tmp_path, "vendor")
    whole = bars([25000.0] * 10 + [20000.0] * 10, [0.8] * 10 + [1.0] * 10)
    record(ledger, whole.tail(8))
    ((symbol, reason),) = record(ledger, whole, 1)
    assert (symbol, reason) == ("AAA", f"the history now begins earlier, on {DAYS[0]}")
    assert chain_factors(whole, learned(ledger))[0].equals(chain_factors(whole)[0])


def test_a_step_whose_session_is_masked_is_read_anew(tmp_path: Path) -> None:
    ledger = EventLedger(tmp_path, "vendor")
    whole = bars([25000.0] * 10 + [20000.0] * 10, [0.8] * 10 + [1.0] * 10)
    record(ledger, whole)
    masked = pl.concat([whole.head(10), whole.tail(9)])
    ((_, reason),) = record(ledger, masked, 1)
    assert "no longer there" in reason
    chained = chain_factors(masked, learned(ledger))[0]
    assert chained.get_column("factor").to_list() == pytest.approx([1.0] * 10 + [1.25] * 9, rel=1e-3)


def test_knowledge_does_not_go_back_in_time(tmp_path: Path) -> None:
    ledger = EventLedger(tmp_path, "vendor")
    record(ledger, bars([20000.0] * 3, [1.0] * 3), week=1)
    with pytest.raises(BadDataError, match="clock"):
        record(ledger, bars([20000.0] * 4, [1.0] * 4), week=0)
    with pytest.raises(ValueError, match="aware"):
        ledger.record(bars([20000.0] * 4, [1.0] * 4), MONDAY.replace(tzinfo=None))


def test_a_damaged_revision_is_named_and_two_recordings_at_once_are_refused(tmp_path: Path) -> None:
    ledger = EventLedger(tmp_path, "vendor")
    with holding(ledger.folder / ".lock", "testing"), pytest.raises(BusyError):
        record(ledger, bars([20000.0] * 3, [1.0] * 3))
    record(ledger, bars([20000.0] * 3, [1.0] * 3))
    (path,) = ledger.folder.glob("rev-*")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadDataError, match=path.name):
        ledger.read()


_RECORD = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
import vnfleet.core.atomic as atomic
from vnfleet.data.panel import PanelStore
def stop(*_): print("go", flush=True); sys.stdin.read()
point = sys.argv[2]
original = atomic.os.replace
if point == "before": atomic.os.replace = stop
if point == "after": atomic.os.replace = lambda *paths: (original(*paths), stop())
PanelStore(Path(sys.argv[1]), "simulated").record_events(datetime.fromisoformat(sys.argv[3]))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize(("point", "whole"), [("before", 1), ("after", 2)])
def test_kill_9_leaves_whole_revisions_and_a_rerun_completes_them(tmp_path: Path, point: str, whole: int) -> None:
    collect(tmp_path, FRIDAYS[0])
    collect(tmp_path, FRIDAYS[1], record=False)
    arguments = [sys.executable, "-c", _RECORD, str(tmp_path), point, moment(FRIDAYS[1]).isoformat()]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        child.send_signal(signal.SIGKILL)
    folder = tmp_path / "data" / "events" / "simulated"
    assert len(files_of(folder)) == whole
    for path in folder.glob("rev-*.parquet"):
        assert pl.read_parquet(path).height > 0
    store = PanelStore(tmp_path, "simulated")
    served = store.serve(FRIDAYS[1]).data_id
    store.record_events(moment(FRIDAYS[1]))
    assert len(files_of(folder)) == 2
    assert not list(folder.glob(".*tmp*"))
    assert store.serve(FRIDAYS[1]).data_id == served


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here")
def test_recording_changes_nothing_in_one_real_vintage(tmp_path: Path) -> None:
    as_of = date(2024, 12, 31)
    source = FilesSource(DATA / "cafef_price_history_2012_2024.parquet", DATA / "universe_289.csv")
    RawStore(tmp_path / "data" / "raw").merge("files", source.fetch(None, as_of), MONDAY)
    store = PanelStore(tmp_path, "files")
    days = (as_of, date(2020, 6, 30))
    plain = [store.serve(day) for day in days]
    report = store.record_events(MONDAY)
    assert report.superseded == ()
    assert report.new_steps > 3000
    recorded = [store.serve(day) for day in days]
    for before, after in zip(plain, recorded, strict=True):
        assert before.data_id == after.data_id
        assert before.quality.rows.equals(after.quality.rows)
        assert before.quality.symbols.equals(after.quality.symbols)
    assert store.record_events(MONDAY).new_steps == 0
    assert len(files_of(tmp_path / "data" / "events" / "files")) == 1
