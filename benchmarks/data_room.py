"""Times of the data room against stand-in vendors: bootstrap of the whole market, daily update, panel and features.

    python benchmarks/data_room.py bootstrap [--symbols 1600]
    python benchmarks/data_room.py daily --data FOLDER [--latency 0.02]
    python benchmarks/data_room.py features --data FOLDER

The stand-in vendors run in a process of their own, so that their memory is not in the figures (but their use of
the cores is).
FOLDER holds the price file of CafeF's format and its listings; it is no part of the project. Results are dated in
benchmarks/data_room_202611.md.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from vnfleet.core.clock import FixedClock
from vnfleet.cycle.measure import peak_memory_mib, reset_peak_memory
from vnfleet.data.panel import PanelStore, build_panel
from vnfleet.data.record.collection import collect_into
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import RawHistory, Source, raw_history
from vnfleet.data.sources.cafef.bulk import CafefBulk
from vnfleet.data.sources.cafef.pages import CafefPages
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.sources.standins.cafef_bulk import BulkFiles
from vnfleet.data.sources.standins.cafef_pages import CafefPagesVendor
from vnfleet.data.sources.standins.server import StandIn
from vnfleet.data.sources.standins.udf import UdfVendor
from vnfleet.data.sources.standins.vndirect import VndirectVendor
from vnfleet.data.sources.udf import Udf
from vnfleet.data.sources.vndirect import Vndirect
from vnfleet.data.sources.web import Politeness
from vnfleet.features.cube import build_cube
from vnfleet.market.calendar import trading_sessions

WHOLE_MARKET_ROWS = 4_200_000
LAST = date(2026, 9, 4)
_LETTERS = "BCDFGHJKLMPQSTVWXYZ2345678"  # no name of a device on Windows can be made of them
FAST = Politeness(requests_per_second=math.inf, max_concurrent=8)
POLITE = Politeness()
NEW_SESSION = date(2024, 12, 31)
KNOWN_AT = datetime(2024, 12, 30, 12, tzinfo=UTC)
CLOCK = FixedClock(datetime(2024, 12, 31, 12, tzinfo=UTC))


def whole_market(num_symbols: int) -> RawHistory:
    """Return a made-up market of `WHOLE_MARKET_ROWS` rows: random walks on ticks, one stock dividend a symbol."""
    per_symbol = WHOLE_MARKET_ROWS // num_symbols
    sessions = np.array(trading_sessions(date(2012, 1, 3), LAST)[-per_symbol:], dtype="datetime64[D]")
    rng = np.random.default_rng(1)
    names = [f"{_LETTERS[n // 676]}{_LETTERS[n // 26 % 26]}{_LETTERS[n % 26]}" for n in range(num_symbols)]
    frames = []
    for place, name in enumerate(names):
        close = np.round(20 * np.exp(np.cumsum(rng.normal(0, 0.02, len(sessions)))), 2).clip(1.0) * 1000
        level = np.where(np.arange(len(sessions)) < len(sessions) // 2, 1 / 1.15, 1.0)
        frames.append(
            pl.DataFrame(
                {
                    "symbol": name,
                    "session": sessions,
                    "open_vnd": close,
                    "high_vnd": close * 1.01,
                    "low_vnd": close * 0.99,
                    "close_vnd": close,
                    "adjusted_close_vnd": np.round(close * level / 10) * 10,
                    "volume_shares": rng.integers(0, 10_000, len(sessions)) * 100,
                    "exchange": ("HOSE", "HNX", "UPCOM")[place % 3],
                }
            )
        )
    index = pl.DataFrame({"session": sessions, "close_points": np.full(len(sessions), 1200.0)})
    return raw_history(pl.concat(frames), index, None)


class Vendor:
    """A stand-in in another process, made there by `make`; a context manager. `url` is its address."""

    def __init__(self, make: Callable[..., StandIn], *arguments: object) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.url: str = self._ours.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send("stop")
        self._process.join()

    def num_requests(self) -> int:
        """Return how many requests came in so far."""
        self._ours.send("count")
        count: int = self._ours.recv()
        return count


def _serve(pipe: Connection, make: Callable[..., StandIn], arguments: tuple[object, ...]) -> None:
    with make(*arguments) as server:
        pipe.send(server.url)
        while pipe.recv() == "count":
            pipe.send(len(server.requests))


def bulk_vendor(num_symbols: int) -> StandIn:
    """Return CafeF's file server with a made-up whole market."""
    files = BulkFiles()
    files.publish(whole_market(num_symbols), LAST)
    return StandIn(files.answer)


def daily_vendor(name: str, data: Path, latency_seconds: float) -> StandIn:
    """Return a vendor that knows the real file up to its last session."""
    history = real_history(data)
    match name:
        case "cafef_pages":
            return StandIn(CafefPagesVendor(history, clock=CLOCK), latency_seconds=latency_seconds)
        case "vndirect":
            return StandIn(VndirectVendor(history=history, clock=CLOCK).answer, latency_seconds=latency_seconds)
        case _:
            return StandIn(UdfVendor(vendor=name, history=history, clock=CLOCK).answer, latency_seconds=latency_seconds)


def real_history(data: Path) -> RawHistory:
    """Return the price file of CafeF's format up to `NEW_SESSION`."""
    source = FilesSource(data / "cafef_price_history_2012_2024.parquet", data / "universe_289.csv")
    return source.fetch(None, NEW_SESSION)


def source_named(name: str, url: str, politeness: Politeness) -> Source:
    """Return the source that asks a vendor at `url`."""
    match name:
        case "cafef_pages":
            return CafefPages(base_url=url + "/du-lieu", clock=CLOCK, politeness=politeness, earliest=date(2024, 1, 2))
        case "vndirect":
            return Vndirect(base_url=url, clock=CLOCK, politeness=politeness)
        case _:
            return Udf(vendor=name, base_url=url, clock=CLOCK, politeness=politeness)


def bootstrap(num_symbols: int) -> None:
    """Three zips to a raw store with the whole market, then the panel of the most traded."""
    with Vendor(bulk_vendor, num_symbols) as vendor, tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)

        def first() -> str:
            source = CafefBulk(workdir=workdir / "cache", base_url=vendor.url, politeness=FAST)
            return collect_into(RawStore(workdir / "data" / "raw"), source, None, LAST, datetime.now(UTC)).sentence

        def events() -> str:
            return f"{PanelStore(workdir, 'cafef_bulk').record_events(datetime.now(UTC)).new_steps} steps"

        def serve() -> str:
            names = [f"B{_LETTERS[n // 26]}{_LETTERS[n % 26]}" for n in range(289)]
            panel = PanelStore(workdir, "cafef_bulk").serve(LAST, symbols_of=lambda _: names)
            return f"{len(panel.symbols)} symbols, {panel.bars.height:,} bars"

        measured("bootstrap: download, parse, merge", first)
        measured("the same again, nothing new", first)
        measured("event ledger of the whole market", events)
        measured("panel of 289 symbols", serve)


def daily(data: Path, latency_seconds: float) -> None:
    """One more session of 289 symbols, asked of each vendor's stand-in; the record holds everything before."""
    history = real_history(data)
    symbols = history.bars.get_column("symbol").unique().sort().to_list()
    for name in ("cafef_pages", "vndirect", "vps"):
        with Vendor(daily_vendor, name, data, latency_seconds) as vendor, tempfile.TemporaryDirectory() as folder:
            store, source = RawStore(Path(folder)), source_named(name, vendor.url, FAST)
            known = source.fetch(symbols, NEW_SESSION - timedelta(days=1))
            store.merge(name, known, KNOWN_AT)
            asked = vendor.num_requests()

            def update(store: RawStore = store, source: Source = source) -> str:
                return collect_into(store, source, symbols, NEW_SESSION, CLOCK.now()).sentence

            measured(f"daily update from {name}", update)
            num = vendor.num_requests() - asked
            told = "history of 2024" if name == "cafef_pages" else "whole history"
            print(f"  {told}: {asked} requests, {POLITE.seconds_for(asked) / 60:.0f} min at one a second")
            print(f"  this update: {num} requests, {POLITE.seconds_for(num) / 60:.1f} min at one a second", flush=True)


def features(data: Path) -> None:
    """Panel and cube of 289 symbols x 13 years."""

    def work() -> str:
        source = FilesSource(data / "cafef_price_history_2012_2024.parquet", data / "universe_289.csv")
        started = time.perf_counter()
        history = source.fetch(None, date(2024, 12, 31))
        read = time.perf_counter()
        panel = build_panel(history, date(2024, 12, 31))
        judged = time.perf_counter()
        build_cube(panel)
        first = time.perf_counter()
        shape = build_cube(panel).values_STF.shape
        again = time.perf_counter()
        return (
            f"read {read - started:.1f} s, court and panel {judged - read:.1f} s, cube {first - judged:.1f} s "
            f"(again {again - first:.1f} s) {shape}"
        )

    measured("289 symbols x 13 years", work)


def measured(name: str, work: Callable[[], str]) -> None:
    """Run `work` and print seconds, peak memory and what it said."""
    reset_peak_memory()
    before = peak_memory_mib()
    started = time.perf_counter()
    said = work()
    seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.1f} s, peak {peak_memory_mib():.0f} MiB (before: {before:.0f}): {said}", flush=True)


def main() -> None:
    """Run what is asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bootstrap", "daily", "features"])
    parser.add_argument("--symbols", type=int, default=1600)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--latency", type=float, default=0.02)
    asked = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    match asked.what:
        case "bootstrap":
            bootstrap(asked.symbols)
        case "daily":
            daily(asked.data, asked.latency)
        case _:
            features(asked.data)


if __name__ == "__main__":
    main()
