"""Collection: what re-bases is fetched whole, what is worse than the stored is refused, bases never mix."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnfleet.core.errors import BadDataError
from vnfleet.data.record.collection import OVERLAP_SESSIONS, Collected, collect_into
from vnfleet.data.record.degradation import Tolerance, degradation
from vnfleet.data.record.overlap import PartialHistoryError
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import FetchPlan, Progress, RawHistory, no_progress, raw_history
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.market.calendar import trading_sessions

DAYS = trading_sessions(date(2023, 1, 3), date(2024, 6, 28))
FAR = date(2030, 1, 1)
FIRST, SECOND, THIRD = DAYS[-11], DAYS[-6], DAYS[-1]
Change = Callable[[pl.DataFrame], pl.DataFrame]


def moment(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 10, tzinfo=UTC)


def unchanged(bars: pl.DataFrame) -> pl.DataFrame:
    return bars


@dataclass
class Vendor:
    """Tells raw closes and an adjusted close that is rounded to 10 VND and has factor 1 on the last day told.

    ex_dates : size of the step per symbol and ex-date. change : what is wrong with the feed. asked : the `since` and
    the symbols of every fetch.
    """

    num_symbols: int = 12
    ex_dates: dict[tuple[str, date], float] = field(default_factory=dict)
    change: Change = unchanged
    ignores_since: bool = False
    asked: list[tuple[tuple[str, ...] | None, Mapping[str, date] | None]] = field(default_factory=list)
    name: str = "vendor"

    @property
    def symbols(self) -> list[str]:
        return [f"S{number:02d}" for number in range(self.num_symbols)]

    def plan(  # the next two do not use all that the protocol hands them
        self,
        symbols: Sequence[str] | None,  # noqa: ARG002
        as_of: date,  # noqa: ARG002
        *,
        since: Mapping[str, date] | None = None,  # noqa: ARG002
    ) -> FetchPlan:
        return FetchPlan(requests=1, host="vendor", seconds=1.0, sentence="ask the vendor")

    def fetch(
        self,
        symbols: Sequence[str] | None,
        as_of: date,
        *,
        since: Mapping[str, date] | None = None,
        progress: Progress = no_progress,  # noqa: ARG002
    ) -> RawHistory:
        self.asked.append((None if symbols is None else tuple(symbols), since))
        days = [day for day in DAYS if day <= as_of]
        told = pl.concat([self.told(symbol, days) for symbol in symbols or self.symbols])
        if since is not None and not self.ignores_since:
            first = pl.col("symbol").replace_strict(dict(since), default=DAYS[0], return_dtype=pl.Date)
            told = told.filter(pl.col("session") >= first)
        index = pl.DataFrame({"session": days, "close_points": [1200.0 + place for place in range(len(days))]})
        return raw_history(self.change(told), index, None)

    def told(self, symbol: str, days: list[date]) -> pl.DataFrame:
        raw = raw_closes(int(symbol[1:]), len(days))
        level = np.ones(len(days))
        for (name, ex_date), step in self.ex_dates.items():
            if name == symbol and ex_date <= days[-1]:
                level[[day < ex_date for day in days]] /= step
        return pl.DataFrame(
            {
                "symbol": [symbol] * len(days),
                "session": days,
                **dict.fromkeys(("open_vnd", "high_vnd", "low_vnd", "close_vnd"), raw),
                "adjusted_close_vnd": np.round(raw * level, -1),
                "volume_shares": (np.arange(len(days)) % 7 + 1) * 1000,
            }
        )


def raw_closes(seed: int, length: int) -> np.ndarray:
    moves = np.random.default_rng(seed).uniform(-0.03, 0.03, len(DAYS))[:length]
    return np.maximum(np.round(30_000 * np.cumprod(1 + moves) / 50) * 50, 5_000)


def collect(root: Path, vendor: Vendor, day: date, *, full: bool = False) -> Collected:
    return collect_into(RawStore(root), vendor, None, day, moment(day), full=full)


def stored(root: Path, symbol: str = "S03") -> pl.DataFrame:
    return RawStore(root).read("vendor", FAR).bars.filter(pl.col("symbol") == symbol)


def test_the_second_week_asks_only_for_the_overlap_and_what_is_new(tmp_path: Path) -> None:
    vendor = Vendor()
    first = collect(tmp_path, vendor, FIRST)
    second = collect(tmp_path, vendor, SECOND)
    assert vendor.asked[0] == (None, None)
    since = vendor.asked[1][1]
    assert since is not None
    assert set(since) == set(vendor.symbols)
    assert set(since.values()) == {DAYS[DAYS.index(FIRST) - OVERLAP_SESSIONS + 1]}
    assert first.merge.new_rows == 13 * DAYS.index(FIRST) + 13
    assert second.merge.new_rows == 13 * 5
    assert second.merge.changed_rows == 0
    assert not second.refetched + second.rebased + second.held
    assert RawStore(tmp_path).read("vendor", FAR).bars.equals(Vendor().fetch(None, SECOND).bars)


def test_a_re_based_symbol_is_fetched_whole_and_reported(tmp_path: Path) -> None:
    vendor = Vendor(ex_dates={("S03", DAYS[-8]): 1.25})
    collect(tmp_path, vendor, FIRST)
    got = collect(tmp_path, vendor, SECOND)
    assert vendor.asked[-1] == (("S03",), None)
    assert got.refetched == ("S03",)
    (base,) = got.rebased
    assert base.symbol == "S03"
    assert base.factor == pytest.approx(0.8, rel=1e-4)
    assert base.old_level == 1.0
    assert base.new_level == pytest.approx(0.8, rel=1e-3)
    assert base.ex_dates == (DAYS[-8],)
    whole = Vendor(ex_dates=vendor.ex_dates).fetch(["S03"], SECOND).bars
    assert stored(tmp_path).equals(whole)
    assert "S03 x0.8000" in got.sentence


def test_the_past_is_still_read_on_the_base_it_had(tmp_path: Path) -> None:
    vendor = Vendor(ex_dates={("S03", DAYS[-8]): 1.25})
    collect(tmp_path, vendor, FIRST)
    collect(tmp_path, vendor, SECOND)
    then = RawStore(tmp_path).read("vendor", FAR, moment(FIRST)).bars
    assert then.equals(Vendor().fetch(None, FIRST).bars)


def test_an_ex_date_inside_the_overlap_that_the_vendor_sees_late_is_dated_by_the_session_it_steps(
    tmp_path: Path,
) -> None:
    collect(tmp_path, Vendor(), FIRST)
    late = Vendor(ex_dates={("S03", DAYS[-40]): 1.1})
    (base,) = collect(tmp_path, late, SECOND).rebased
    assert base.ex_dates == (DAYS[-40],)
    assert stored(tmp_path).equals(late.fetch(["S03"], SECOND).bars)


def test_a_source_that_tells_everything_is_not_asked_twice(tmp_path: Path) -> None:
    vendor = Vendor(ex_dates={("S03", DAYS[-8]): 1.25}, ignores_since=True)
    collect(tmp_path, vendor, FIRST)
    got = collect(tmp_path, vendor, SECOND)
    assert len(vendor.asked) == 2
    assert [base.symbol for base in got.rebased] == ["S03"]


def test_a_corrected_close_of_the_past_needs_no_second_request(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(), FIRST)
    there = (pl.col("symbol") == "S03") & (pl.col("session") == DAYS[-30])

    def final(bars: pl.DataFrame) -> pl.DataFrame:  # stored before the auction, now with the final close
        return bars.with_columns(
            pl.when(there).then(pl.col(name) + 500).otherwise(name).alias(name)
            for name in ("close_vnd", "adjusted_close_vnd")
        )

    vendor = Vendor(change=final)
    got = collect(tmp_path, vendor, SECOND)
    assert len(vendor.asked) == 1
    assert (got.merge.changed_rows, got.rebased, got.held) == (1, (), ())
    row = stored(tmp_path).row(DAYS.index(DAYS[-30]), named=True)
    assert row["close_vnd"] == raw_closes(3, len(DAYS))[-30] + 500


def test_one_other_adjusted_close_makes_the_symbol_fetched_whole_but_is_no_new_base(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(), FIRST)
    there = (pl.col("symbol") == "S03") & (pl.col("session") == DAYS[-30])
    adjusted = pl.col("adjusted_close_vnd")
    vendor = Vendor(change=lambda bars: bars.with_columns(pl.when(there).then(adjusted + 90).otherwise(adjusted)))
    got = collect(tmp_path, vendor, SECOND)
    assert got.refetched == ("S03",)
    assert got.rebased == ()
    assert got.merge.corrected == ("S03",)


def test_a_dividend_smaller_than_the_threshold_is_told_whole_too(tmp_path: Path) -> None:
    vendor = Vendor(ex_dates={("S03", DAYS[-8]): 1.003})
    collect(tmp_path, vendor, FIRST)
    got = collect(tmp_path, vendor, SECOND)
    assert got.refetched == ("S03",)
    assert (got.rebased, got.merge.corrected) == ((), ("S03",))
    assert stored(tmp_path).equals(vendor.fetch(["S03"], SECOND).bars)


def forgetting(days: set[date], symbols: set[str] | None = None) -> Change:
    lost = pl.col("session").is_in(list(days))
    if symbols is not None:
        lost &= pl.col("symbol").is_in(list(symbols))
    return lambda bars: bars.filter(~lost)


def test_few_sessions_that_a_re_based_history_forgets_lose_their_adjusted_close_only(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(), FIRST)
    lost = {DAYS[50], DAYS[120]}
    got = collect(tmp_path, Vendor(ex_dates={("S03", DAYS[-8]): 1.25}, change=forgetting(lost, {"S03"})), SECOND)
    assert got.merge.forgotten_rows == 2
    rows = stored(tmp_path)
    unknown = rows.filter(pl.col("adjusted_close_vnd").is_null())
    assert set(unknown.get_column("session")) == lost
    assert rows.get_column("close_vnd").to_list() == raw_closes(3, len(DAYS))[:-5].tolist()
    again = collect(tmp_path, Vendor(ex_dates={("S03", DAYS[-8]): 1.25}, ignores_since=True), THIRD)
    assert again.held == ()
    assert stored(tmp_path).get_column("adjusted_close_vnd").null_count() == 0


def test_a_re_based_symbol_that_lost_its_history_is_held_back_and_taken_by_full(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(), FIRST)
    before = stored(tmp_path)
    short = Vendor(ex_dates={("S03", DAYS[-8]): 1.25}, change=forgetting(set(DAYS[:100]), {"S03"}))
    got = collect(tmp_path, short, SECOND)
    assert [symbol for symbol, _ in got.held] == ["S03"]
    assert "100 of" in got.held[0][1]
    assert stored(tmp_path).equals(before)
    assert stored(tmp_path, "S04").get_column("session").max() == SECOND
    full = collect(tmp_path, short, THIRD, full=True)
    assert full.held == ()
    assert full.merge.forgotten_rows == 100
    assert stored(tmp_path).get_column("adjusted_close_vnd").null_count() == 100


def test_sessions_that_one_symbol_lacks_change_nothing(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(), FIRST)
    got = collect(tmp_path, Vendor(change=forgetting(set(DAYS[-40:-30]), {"S03"})), SECOND)
    assert got.merge.changed_rows == 0
    assert stored(tmp_path).equals(Vendor().fetch(["S03"], SECOND).bars)


def test_a_symbol_with_a_gap_is_fetched_whole(tmp_path: Path) -> None:
    vendor = Vendor()
    collect(tmp_path, vendor, FIRST)
    store = RawStore(tmp_path)
    cut = store.read("vendor", DAYS[-60])  # a window that begins long after what is stored of a symbol
    other = RawStore(tmp_path / "other")
    other.merge("vendor", cut, moment(FIRST))
    told = vendor.fetch(None, SECOND, since=dict.fromkeys(vendor.symbols, DAYS[-20]))
    with pytest.raises(PartialHistoryError, match="what lies between is not known"):
        other.merge("vendor", told, moment(SECOND))


def scaled(factor: float) -> Change:
    prices = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "adjusted_close_vnd")
    return lambda bars: bars.with_columns(pl.col(name) * factor for name in prices)


def zeroed(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(close_vnd=0.0, adjusted_close_vnd=0.0)


def some_zeros(bars: pl.DataFrame) -> pl.DataFrame:
    fresh = (pl.col("session") > FIRST) & (pl.col("symbol") < "S05")
    return bars.with_columns(pl.when(fresh).then(0.0).otherwise("close_vnd").alias("close_vnd"))


def half_of_the_newest(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.filter((pl.col("session") < SECOND) | (pl.col("symbol") < "S06"))


def half_of_all(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.filter(pl.col("symbol") < "S06")


def rounded_prices(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(close_vnd=(pl.col("close_vnd") / 1000).round() * 1000)


def adjusted_volume(bars: pl.DataFrame) -> pl.DataFrame:
    return bars.with_columns(volume_shares=pl.col("volume_shares") * 10)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (scaled(1000.0), r"100.0% of .* stored closes are told otherwise \(median x1000\)"),
        (scaled(0.001), r"median x0.001"),
        (zeroed, r"100.0% of the closes told are absent or not positive"),
        (some_zeros, "of the closes told are absent"),
        (half_of_the_newest, f"only 6 symbols have a price on {SECOND}, the newest session; 12 are usual"),
        (half_of_all, r"6 of 12 symbols that traded lately have no bar since .*: S06, S07, S08, S09, S10 and 1 more"),
        (forgetting({DAYS[-30]}), f"1 stored sessions are not told again for most symbols: {DAYS[-30]}"),
        (forgetting(set(DAYS[-13:])), f"the newest session told is {DAYS[-14]}, {FIRST} is stored already"),
        (rounded_prices, "stored closes are told otherwise"),
        (adjusted_volume, "100% of .* stored volumes are told otherwise"),
        (lambda bars: bars.clear(), "tells no bar at all"),
        (lambda bars: bars.with_columns(adjusted_close_vnd=pl.lit(None, pl.Float64)), "of the adjusted closes told"),
    ],
)
def test_a_bad_feed_is_rejected_as_a_whole_with_the_reason(tmp_path: Path, change: Change, reason: str) -> None:
    collect(tmp_path, Vendor(), FIRST)
    files = sorted(tmp_path.rglob("*.parquet"))
    vendor = Vendor(change=change)
    with pytest.raises(BadDataError, match=reason):
        collect(tmp_path, vendor, SECOND)
    assert sorted(tmp_path.rglob("*.parquet")) == files
    assert len(vendor.asked) == 1  # no second request to a vendor that is at fault


@pytest.mark.parametrize("full", [False, True])
def test_a_full_collection_is_judged_too(tmp_path: Path, *, full: bool) -> None:
    collect(tmp_path, Vendor(), FIRST)
    with pytest.raises(BadDataError, match="median x1000"):
        collect(tmp_path, Vendor(change=scaled(1000.0)), SECOND, full=full)


def test_a_person_who_has_read_the_reasons_can_take_the_feed(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(), FIRST)
    vendor = Vendor(change=half_of_all)
    got = collect_into(RawStore(tmp_path), vendor, None, SECOND, moment(SECOND), accept_degraded=True)
    assert got.merge.new_rows == 6 * 5 + 5


def test_a_suspended_symbol_and_an_exchange_outage_are_no_bad_feed(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(), FIRST)
    outage = forgetting({DAYS[-8]})  # as HOSE on 2018-01-23, but for nobody at all
    gone = forgetting(set(DAYS[-40:]), {"S03"})
    got = collect(tmp_path, Vendor(change=lambda bars: gone(outage(bars))), SECOND)
    assert got.merge.new_rows == 11 * 4 + 5


def test_many_re_based_symbols_at_once_are_suspicious_but_not_after_a_long_break(tmp_path: Path) -> None:
    events = {(f"S{number:02d}", DAYS[-8]): 1.1 for number in range(5)}
    collect(tmp_path / "week", Vendor(), FIRST)
    with pytest.raises(BadDataError, match=r"too many symbols changed their base(.|\n)*S00 x0.9091"):
        collect(tmp_path / "week", Vendor(ex_dates=events), SECOND)
    assert len(collect(tmp_path / "week", Vendor(ex_dates=events), SECOND, full=True).rebased) == 5
    collect(tmp_path / "months", Vendor(), DAYS[-70])
    assert len(collect(tmp_path / "months", Vendor(ex_dates=events), SECOND).rebased) == 5


def test_an_older_day_than_the_stored_one_asks_nothing(tmp_path: Path) -> None:
    vendor = Vendor(ex_dates={("S03", DAYS[-8]): 1.25})
    collect(tmp_path, vendor, SECOND)
    got = collect(tmp_path, vendor, FIRST)
    assert len(vendor.asked) == 1
    assert got.newest is None
    assert "nothing" in got.sentence


def test_a_new_symbol_is_asked_whole_beside_the_windows_of_the_others(tmp_path: Path) -> None:
    collect(tmp_path, Vendor(num_symbols=11), FIRST)
    vendor = Vendor(num_symbols=12)
    collect(tmp_path, vendor, SECOND)
    since = vendor.asked[0][1]
    assert since is not None
    assert "S11" not in since
    assert stored(tmp_path, "S11").height == DAYS.index(SECOND) + 1


def test_the_simulated_market_collects_week_after_week_without_a_reason(tmp_path: Path) -> None:
    source = SimulatedSource(SimulatedMarket(seed=5, num_symbols=30, start=date(2020, 1, 2)))
    rebased = 0
    for week in range(10):
        day = date(2022, 5, 6) + timedelta(weeks=week)
        got = collect_into(RawStore(tmp_path), source, None, day, moment(day))
        assert (got.held, got.refetched) == ((), ())
        rebased += len(got.rebased)
        assert all(base.ex_dates for base in got.rebased)
    assert rebased > 3
    assert RawStore(tmp_path).read("simulated", FAR).bars.equals(source.fetch(None, day).bars)


def test_degradation_looks_at_nothing_after_as_of() -> None:
    before, after = Vendor().fetch(None, FIRST), Vendor(change=half_of_the_newest).fetch(None, SECOND)
    assert degradation(before, after, DAYS[-7]) == ()
    assert degradation(before, after, SECOND) != ()
    with pytest.raises(ValueError, match="changed_closes"):
        Tolerance(changed_closes=1.5)


@st.composite
def tellings(draw: st.DrawFn) -> tuple[dict[tuple[str, date], float], list[tuple[int, int, int, list[int]]]]:
    """Ex-dates of one symbol, and windows told of it: (day of asking, first and last session, forgotten sessions)."""
    length = 40
    ex_rows = draw(st.lists(st.integers(1, length - 1), max_size=4, unique=True))
    events = {("S03", DAYS[row]): draw(st.floats(1.01, 1.6)) for row in ex_rows}
    asked = sorted(draw(st.lists(st.integers(1, length - 1), min_size=1, max_size=8)))
    windows = []
    for end in asked:
        first = draw(st.integers(0, end))
        last = draw(st.integers(first, end))
        windows.append((end, first, last, draw(st.lists(st.integers(0, end), max_size=3))))
    return events, windows


@settings(max_examples=60, deadline=None)
@given(told=tellings(), forgotten=st.sampled_from([0.0, 0.05, 1.0]))
def test_whatever_windows_a_vendor_tells_a_symbol_never_mixes_two_bases(
    tmp_path_factory: pytest.TempPathFactory,
    told: tuple[dict[tuple[str, date], float], list[tuple[int, int, int, list[int]]]],
    forgotten: float,
) -> None:
    events, windows = told
    store, vendor, vintages = RawStore(tmp_path_factory.mktemp("raw")), Vendor(ex_dates=events), []
    for number, (end, first, last, lost) in enumerate(windows):
        whole = vendor.told("S03", DAYS[: end + 1])
        vintages.append(dict(whole.select("session", "adjusted_close_vnd").iter_rows()))
        part = whole.filter(
            pl.col("session").is_between(DAYS[first], DAYS[last])
            & ~pl.col("session").is_in([DAYS[row] for row in lost])
        )
        if part.is_empty():
            continue
        with contextlib.suppress(PartialHistoryError):
            store.merge(
                "vendor",
                raw_history(part, None, None),
                moment(DAYS[0]) + timedelta(days=number),
                max_forgotten_frac=forgotten,
            )
        if not store.has("vendor"):
            continue
        bars = store.read("vendor", FAR).bars.drop_nulls("adjusted_close_vnd")
        series = list(bars.select("session", "adjusted_close_vnd").iter_rows())
        assert any(all(vintage.get(day) == value for day, value in series) for vintage in vintages)


_COLLECT = """
import os, sys
from pathlib import Path
import vnfleet.core.atomic as atomic
sys.path.insert(0, sys.argv[1])
from test_collection import SECOND, Vendor, collect, DAYS
real, writes = os.replace, 0
def replace(source, target):
    global writes
    writes += 1
    if writes == int(sys.argv[3]):
        print("go", flush=True)
        sys.stdin.read()
    real(source, target)
atomic.os.replace = replace
collect(Path(sys.argv[2]), Vendor(ex_dates={("S03", DAYS[-8]): 1.25}), SECOND)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("write", [1, 4, 9])
def test_kill_9_in_a_revision_write_loses_nothing_and_a_rerun_completes_it(tmp_path: Path, write: int) -> None:
    collect(tmp_path, Vendor(), FIRST)
    command = [sys.executable, "-c", _COLLECT, str(Path(__file__).parent), str(tmp_path), str(write)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        child.send_signal(signal.SIGKILL)
    vendor = Vendor(ex_dates={("S03", DAYS[-8]): 1.25})
    old, new = Vendor().fetch(None, FIRST).bars, Vendor(ex_dates=vendor.ex_dates).fetch(None, SECOND).bars
    for symbol in vendor.symbols:  # every symbol is as it was, or as it will be
        rows, mine = stored(tmp_path, symbol), pl.col("symbol") == symbol
        assert rows.equals(old.filter(mine)) or rows.equals(new.filter(mine))
    collect(tmp_path, vendor, SECOND)
    assert RawStore(tmp_path).read("vendor", FAR).bars.equals(new)
    assert not list(tmp_path.rglob("*.tmp-*"))


_FULL_DISK = """
import resource, signal, sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_collection import FIRST, Vendor, collect
history = Vendor().fetch(None, FIRST)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    collect(Path(sys.argv[2]), Vendor(), FIRST)
except OSError as error:
    print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
collect(Path(sys.argv[2]), Vendor(), FIRST)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs file size limits")
def test_a_file_that_cannot_be_written_whole_is_not_there_and_a_rerun_completes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "OSError\n"
    assert RawStore(tmp_path).read("vendor", FAR).bars.equals(Vendor().fetch(None, FIRST).bars)
