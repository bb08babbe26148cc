"""Small panels with everything a package must carry: gaps, masked rows, findings, events, quarantined names."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol
from zlib import crc32

import numpy as np
import polars as pl
import pytest

from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.package import CubeIdentity, Package, write_package
from vnfleet.data.panel import PANEL_SCHEMA, Panel, assembled
from vnfleet.market.calendar import trading_sessions

DAYS = trading_sessions(date(2026, 8, 3), date(2026, 10, 30))[:40]
EVENTS_SCHEMA = {
    "symbol": pl.String,
    "session": pl.Date,
    "factor_step": pl.Float64,
    "kind": pl.String,
    "confirmed": pl.Boolean,
}
Drawn = tuple[Panel, pl.DataFrame]


class Sample(Protocol):
    """Draw a panel: the same seed and symbol tell the same past, however many sessions are asked for."""

    def __call__(
        self,
        seed: int = 1,
        num_sessions: int = 30,
        symbols: Sequence[str] = ("AAA", "BBB", "CCC"),
        rebased: Sequence[str] = (),
    ) -> Drawn: ...


class Pack(Protocol):
    """Write a drawn panel as a package."""

    def __call__(self, root: Path, drawn: Drawn, features: str = "f" * 64) -> Package: ...


def _bars(symbol: str, rng: np.random.Generator, rebased: bool) -> pl.DataFrame:
    num = len(DAYS)
    close = np.round(20_000 * np.cumprod(1 + rng.uniform(-0.05, 0.05, num)), -1) * (1.25 if rebased else 1.0)
    spread = rng.integers(0, 5, num) * 10.0
    factor = np.cumprod(np.where(rng.random(num) < 0.05, 1.3333333333, 1.0))
    frame = pl.DataFrame(
        {
            "symbol": [symbol] * num,
            "session": DAYS,
            "open_vnd": close - spread / 2,
            "high_vnd": close + spread,
            "low_vnd": close - spread,
            "close_vnd": close,
            "volume_shares": rng.integers(1, 10**7, num),
            "factor": factor,
            "reference_vnd": pl.Series([None, *close[:-1].tolist()], dtype=pl.Float64),
            "break_before": rng.random(num) < 0.05,
            "exchange": [None, *["HNX", "HOSE"] * num][:num],
        }
    ).select(pl.col(name).cast(dtype) for name, dtype in PANEL_SCHEMA.items())
    return frame.filter(pl.Series(rng.random(num) < rng.choice([0.0, 0.6, 1.0], p=[0.1, 0.3, 0.6])))


def _findings(symbol: str, rng: np.random.Generator) -> list[tuple[object, ...]]:
    """Several a session, some of one check with other evidence, some without a session, some on days without a bar."""
    kinds = [("ohlc", "warn", "repair"), ("price", "error", "mask"), ("missing_session", "warn", "accept")]
    rows: list[tuple[object, ...]] = [
        (symbol, DAYS[at], *kinds[rng.integers(3)], f"evidence {rng.integers(9)}")
        for at in rng.integers(0, len(DAYS), rng.integers(0, 8))
    ]
    return rows + ([(symbol, None, "adjusted_close", "warn", "accept", None)] if rng.random() < 0.5 else [])


def _events(symbol: str, rng: np.random.Generator) -> list[tuple[object, ...]]:
    return [
        (symbol, DAYS[at], float(rng.uniform(1, 2)), "cash_dividend", bool(rng.random() < 0.5) if at % 2 else None)
        for at in sorted(rng.choice(len(DAYS), rng.integers(0, 4), replace=False))
    ]


def _draw(
    seed: int = 1, num_sessions: int = 30, symbols: Sequence[str] = ("AAA", "BBB", "CCC"), rebased: Sequence[str] = ()
) -> Drawn:
    def rng(symbol: str) -> np.random.Generator:
        return np.random.default_rng([seed, crc32(symbol.encode())])

    last = DAYS[num_sessions - 1]
    known = pl.col("session") <= last
    bars = pl.concat([_bars(symbol, rng(symbol), symbol in rebased) for symbol in sorted(symbols)]).filter(known)
    judged = [*sorted(symbols), "QQQ"]  # QQQ is quarantined: it has findings and no bars
    found = [row for symbol in ["*", *judged] for row in _findings(symbol, rng(symbol))]
    rows = pl.DataFrame(found, schema=QUALITY_ROW_SCHEMA, orient="row").filter(known | pl.col("session").is_null())
    verdicts = [
        (symbol, "accept" if symbol in symbols else "quarantine", "", num_sessions, DAYS[0], last) for symbol in judged
    ]
    events = pl.DataFrame(
        [row for symbol in judged for row in _events(symbol, rng(symbol))], schema=EVENTS_SCHEMA, orient="row"
    )
    points = rng("VNINDEX").normal(1200, 10, len(DAYS))
    panel = assembled(
        as_of=last,
        sessions=tuple(DAYS[:num_sessions]),
        symbols=tuple(sorted(symbols)),
        bars=bars,
        index=pl.DataFrame({"session": DAYS, "close_points": points}).filter(known & (pl.col("close_points") > 1185)),
        listings=pl.DataFrame({"symbol": sorted(symbols), "exchange": "HOSE", "sector": ""}),
        quality=QualityReport(
            rows.sort("symbol", "session", "check", maintain_order=True),
            pl.DataFrame(verdicts, schema=QUALITY_SYMBOL_SCHEMA, orient="row"),
        ),
    )
    return panel, events.filter(known)


def _pack(root: Path, drawn: Drawn, features: str = "f" * 64) -> Package:
    panel, events = drawn
    cube = CubeIdentity(cube_id=f"cube-of-{panel.data_id}", features_sha256=features)
    known_at = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
    return write_package(panel, events, root, source="files", known_at=known_at, cube=cube)


def _assert_same(found: Panel, expected: Panel) -> None:
    assert found.data_id == expected.data_id
    assert (found.as_of, found.sessions, found.symbols) == (expected.as_of, expected.sessions, expected.symbols)
    pairs = (
        (found.bars, expected.bars),
        (found.index, expected.index),
        (found.listings, expected.listings),
        (found.quality.rows, expected.quality.rows),
        (found.quality.symbols, expected.quality.symbols),
    )
    for one, other in pairs:
        assert one.schema == other.schema
        assert one.equals(other)


@pytest.fixture(scope="session")
def sample() -> Sample:
    return _draw


@pytest.fixture(scope="session")
def pack() -> Pack:
    return _pack


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Panel, Panel], None]:
    return _assert_same
