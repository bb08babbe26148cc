"""Small hand-made panels and prediction frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date

import polars as pl
import pytest

from vnfleet.core.frames import PREDICTION_SCHEMA, as_prediction_frame
from vnfleet.data.actions.corporate import CORPORATE_SCHEMA
from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.panel import PANEL_SCHEMA, Panel, assembled

# open, close, volume, factor; None = the symbol did not trade
Bar = tuple[float, float, int, float] | None
MakePanel = Callable[..., Panel]
# symbol, session, factor step, kind, cash in VND a share where it was announced
Action = tuple[str, date, float, str, float | None]
MakeActions = Callable[[Sequence[Action]], pl.DataFrame]
MakePredictions = Callable[[Sequence[date], Mapping[str, Sequence[float | None]]], pl.DataFrame]


def _panel(sessions: Sequence[date], bars: Mapping[str, Sequence[Bar]], exchange: str = "HOSE") -> Panel:
    rows = []
    for symbol, of_symbol in sorted(bars.items()):
        before: tuple[float, float] | None = None
        for session, bar in zip(sessions, of_symbol, strict=True):
            if bar is None:
                continue
            opened, closed, volume, factor = bar
            reference = None if before is None else before[0] * before[1] / factor
            low, high = min(opened, closed), max(opened, closed)
            rows.append((symbol, session, opened, high, low, closed, volume, factor, reference, False, exchange))
            before = closed, factor
    symbols = tuple(sorted(bars))
    return assembled(
        as_of=sessions[-1],
        sessions=tuple(sessions),
        symbols=symbols,
        bars=pl.DataFrame(rows, schema=PANEL_SCHEMA, orient="row"),
        index=pl.DataFrame(
            {"session": sessions, "close_points": [1000.0 + 10 * place for place in range(len(sessions))]}
        ),
        listings=pl.DataFrame(
            {"symbol": symbols, "exchange": [exchange] * len(symbols), "sector": [""] * len(symbols)}
        ),
        quality=QualityReport(
            rows=pl.DataFrame(schema=QUALITY_ROW_SCHEMA), symbols=pl.DataFrame(schema=QUALITY_SYMBOL_SCHEMA)
        ),
    )


def _predictions(sessions: Sequence[date], scores: Mapping[str, Sequence[float | None]]) -> pl.DataFrame:
    """Score and expected return are the same number; a None is a row that is not there."""
    rows = [
        ("model", symbol, session, 5, "2023", score, None, score, None)
        for symbol, of_symbol in scores.items()
        for session, score in zip(sessions, of_symbol, strict=False)
        if score is not None
    ]
    return as_prediction_frame(pl.DataFrame(rows, schema=PREDICTION_SCHEMA, orient="row"))


def _actions(rows: Sequence[Action]) -> pl.DataFrame:
    """Announced cash makes an action confirmed; None is one that prices alone tell of."""
    names = ("symbol", "session", "factor_step", "kind", "cash_vnd", "confirmed")
    frame = pl.DataFrame(
        [(*row, True if row[4] is not None else None) for row in rows],
        schema={name: CORPORATE_SCHEMA[name] for name in names},
        orient="row",
    )
    rest = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in CORPORATE_SCHEMA.items() if name not in names]
    return frame.with_columns(rest).select(list(CORPORATE_SCHEMA))


@pytest.fixture(scope="session")
def make_actions() -> MakeActions:
    return _actions


@pytest.fixture(scope="session")
def make_panel() -> MakePanel:
    return _panel


@pytest.fixture(scope="session")
def make_predictions() -> MakePredictions:
    return _predictions
