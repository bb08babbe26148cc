"""Corporate actions: from a vendor's rounded adjusted closes to an exact forward-chained factor.

A vendor's adjusted close is raw * level, rounded to 10 VND, where the level is constant between two corporate actions.
Every row therefore confines the level to a narrow interval; rows whose intervals share a point lie on one level, and
the first row that does not begins the next (`vnfleet.data.actions.events` remembers steps as first learned). The steps
between levels are chained *forward* from the symbol's first session (factor 1.0), so that a later action changes no
earlier row. A level that is still being observed is read from its first row alone: what the factor is on a day never
depends on later days, except where a vendor's one- or two-session flip is recognised by its return.

The vendor is not believed blindly. A step must agree with the raw move under the widest band that is plausible for the
symbol; a jump that neither raw nor adjusted prices explain is absorbed into the factor and marked. What the quality
court has decided about a close or a step (`vnfleet.data.court.moves`) stands: the ledger keeps what the vendor said,
the chain takes what the court said.
"""

from __future__ import annotations

from enum import StrEnum

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.data.actions.steps import LearnedSteps, vendor_steps, without_memory
from vnfleet.market.calendar import closed_weekdays
from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO, SUSPENSION_SESSIONS, Exchange, band_frac, wide_band_frac

TICK_WINDOW_SESSIONS = 20
TICK_MIN_SESSIONS = 5
QUIET_WINDOW_SESSIONS = 250
QUIET_MIN_SESSIONS = 60
BAND_TOLERANCE_FRAC = 0.003
HOSE_TOLERANCE_FRAC = 0.01
QUIET_TOLERANCE_FRAC = 0.02
WIDE_FACTOR = 1.5
MAX_HOLE_SESSIONS = 2
"""So many sessions without a row are taken as the vendor's holes: the symbol may have moved a band on each of them."""

EVENTS_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "factor_step": pl.Float64(),
    "kind": pl.String(),
}


class EventKind(StrEnum):
    """What became of a step: chained (adjustment, unexplained, repaired) or refused (the others).

    REPAIRED: the court's step, chained in place of the vendor's, or where the vendor has none.
    """

    ADJUSTMENT = "adjustment"
    UNEXPLAINED = "unexplained"
    REPAIRED = "repaired"
    FLIP = "flip"
    WRONG_WAY = "wrong_way"
    CONTRADICTED = "contradicted"


_KINDS = (None, *EventKind)
_NONE, _ADJUSTMENT, _UNEXPLAINED, _REPAIRED, _FLIP, _WRONG_WAY, _CONTRADICTED = range(len(_KINDS))
_COURT_COLUMNS = ("final_close_vnd", "decided_step")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def chain_factors(bars: pl.DataFrame, ledger: LearnedSteps | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return `bars` with `factor` and `break_before`, and the events found.

    Parameters
    ----------
    bars : symbol, session, close_vnd (> 0), adjusted_close_vnd (null or <= 0: unknown, the level goes on) and
        volume_shares; one row per symbol and session, sorted by both. Rows without volume help to find steps, no move
        is judged there.
    ledger : the vendor's steps as first learned; None: those `LearnedSteps.placed` put on `bars` already, if any. The
        others are read from `bars`.

    Returns
    -------
    bars : the same rows plus `factor` (adjusted = raw * factor; exactly 1.0 on the symbol's first row) and
        `break_before` (the move from the previous traded row was unexplained and absorbed: its adjusted return is 0).
    events : `EVENTS_SCHEMA`, sorted; `factor_step` is what was chained, or what the vendor claimed and was refused.
    """
    if ledger is not None:
        bars = ledger.placed(bars)
    if bars.is_empty():
        bars = without_memory(bars).drop(_COURT_COLUMNS, strict=False)
        return (
            bars.with_columns(factor=pl.lit(None, pl.Float64), break_before=pl.lit(None, pl.Boolean)),
            pl.DataFrame(schema=EVENTS_SCHEMA),
        )
    starts = bars.get_column("symbol").ne_missing(bars.get_column("symbol").shift(1)).to_numpy().copy()
    starts[0] = True
    traded = bars.select(pl.col("volume_shares").fill_null(0) > 0).to_series().to_numpy()
    vendor = vendor_steps(bars)
    bars, decided = _decided(without_memory(bars))
    step = np.where(np.isnan(decided), vendor.step, decided)
    factor, break_before, kinds, event_step = _chain(
        starts,
        np.array(bars.get_column("close_vnd")),
        step,
        vendor.step,
        ~np.isnan(decided),
        traded,
        _sessions_since_trade(bars),
        *_thresholds(bars.get_column("session")),
    )
    kinds = np.where(vendor.flips != 1.0, _FLIP, kinds)
    event_step = np.where(vendor.flips != 1.0, vendor.flips, event_step)
    kept = np.flatnonzero(kinds != _NONE)
    events = (
        bars.select("symbol", "session")[kept]
        .with_columns(
            factor_step=pl.Series(event_step[kept], dtype=pl.Float64),
            kind=pl.Series([str(_KINDS[kind]) for kind in kinds[kept]], dtype=pl.String),
        )
        .sort("symbol", "session")
    )
    return bars.with_columns(factor=pl.Series(factor), break_before=pl.Series(break_before)), events


def _decided(bars: pl.DataFrame) -> tuple[pl.DataFrame, Floats]:
    """Return `bars` with the court's closes, high and low around them, and the court's steps (NaN: none)."""
    if _COURT_COLUMNS[0] not in bars.columns:
        return bars, np.full(bars.height, np.nan)
    decided = bars.get_column("decided_step").fill_null(float("nan")).to_numpy()
    final = pl.col("final_close_vnd")
    bars = bars.with_columns(close_vnd=final.fill_null(pl.col("close_vnd")))
    if {"high_vnd", "low_vnd"} <= set(bars.columns):
        bars = bars.with_columns(
            high_vnd=pl.max_horizontal("high_vnd", final), low_vnd=pl.min_horizontal("low_vnd", final)
        )
    return bars.drop(_COURT_COLUMNS), decided


def _thresholds(sessions: pl.Series) -> tuple[Floats, Floats, Floats, Floats]:
    """Return per row the moves not believed: beyond HOSE's band, of a HOSE name, of a quiet name, of any name.

    The exchange a symbol was on that day is not known (many HOSE names came from HNX or UPCoM). A name whose recent
    closes are off the 100 VND tick was on HOSE. A name that stayed within HOSE's band for a year of sessions is not
    believed to jump beyond HNX's. UPCoM's reference is the average of the day before, so close-to-close moves there can
    exceed the band: half as much again is allowed.
    """
    days = sessions.unique().sort()
    known = [min(max(day, KNOWN_FROM), KNOWN_TO) for day in days.to_list()]
    hose = np.array([band_frac(Exchange.HOSE, day) for day in known])
    hnx = np.array([band_frac(Exchange.HNX, day) for day in known])
    widest = np.array([max(band_frac(exchange, day) for exchange in Exchange) for day in known])
    rows = days.search_sorted(sessions).to_numpy()
    return (
        (hose + BAND_TOLERANCE_FRAC)[rows],
        (hose + HOSE_TOLERANCE_FRAC)[rows],
        (hnx + QUIET_TOLERANCE_FRAC)[rows],
        (WIDE_FACTOR * widest)[rows],
    )


def _sessions_since_trade(bars: pl.DataFrame) -> Ints:
    """Return per row how many expected sessions lie between it and the symbol's previous traded row."""
    traded_on = pl.when(pl.col("volume_shares") > 0).then(pl.col("session"))
    last = bars.select(traded_on.forward_fill().shift(1).over("symbol").fill_null(pl.col("session"))).to_series()
    counts = np.busday_count(
        last.to_numpy().astype("datetime64[D]"),
        bars.get_column("session").to_numpy().astype("datetime64[D]"),
        holidays=np.array(closed_weekdays(), dtype="datetime64[D]"),
    )
    return np.maximum(counts - 1, 0).astype(np.int64)


_SUSPENDED_THRESHOLD = max(wide_band_frac(exchange, KNOWN_TO) for exchange in Exchange) + QUIET_TOLERANCE_FRAC


@numba.njit(cache=True)
def _chain(
    starts: Bools,
    close: Floats,
    step: Floats,
    vendor_step: Floats,
    decided: Bools,
    traded: Bools,
    untraded_sessions: Ints,
    quiet_limit: Floats,
    hose_threshold: Floats,
    quiet_threshold: Floats,
    wide_threshold: Floats,
) -> tuple[Floats, Bools, Ints, Floats]:
    """Chain the steps that agree with the raw moves; return factor, break_before, event kind and step per row."""
    num_rows = len(close)
    factor = np.ones(num_rows)
    break_before = np.zeros(num_rows, dtype=np.bool_)
    kinds = np.zeros(num_rows, dtype=np.int64)
    event_step = np.ones(num_rows)
    level = 1.0  # the chained factor of the previous traded row
    previous = np.nan  # its close
    pending = claimed = 1.0  # steps since then, and what the vendor claimed
    settled = False  # one of them is the court's
    num_traded = last_wild = 0
    off_tick = np.zeros(TICK_WINDOW_SESSIONS, dtype=np.bool_)  # ring: recent closes that only HOSE's ticks allow
    for row in range(num_rows):
        if starts[row]:
            level, previous, pending, claimed, settled = 1.0, np.nan, 1.0, 1.0, False
            num_traded, last_wild = 0, -QUIET_WINDOW_SESSIONS
            off_tick[:] = False
        else:
            pending *= step[row]
            claimed *= vendor_step[row]
            settled = settled or decided[row]
        if not traded[row]:
            factor[row] = level * pending
            continue
        chained = pending
        if not np.isnan(previous):
            if untraded_sessions[row] > SUSPENSION_SESSIONS:
                threshold = _SUSPENDED_THRESHOLD
            elif num_traded >= QUIET_MIN_SESSIONS and num_traded - last_wild >= QUIET_WINDOW_SESSIONS:
                threshold = quiet_threshold[row]
            else:
                threshold = wide_threshold[row]
            if 0 < untraded_sessions[row] <= MAX_HOLE_SESSIONS:  # it may have traded: the vendor lacks the sessions
                threshold *= 1.0 + untraded_sessions[row]
            on_hose = off_tick.sum() >= TICK_MIN_SESSIONS and untraded_sessions[row] <= SUSPENSION_SESSIONS
            if on_hose and pending == 1.0:
                raw_threshold = min(threshold, hose_threshold[row] * (1.0 + untraded_sessions[row]))
            else:
                raw_threshold = threshold
            raw_fits = abs(close[row] / previous - 1.0) <= raw_threshold
            step_fits = abs(close[row] * pending / previous - 1.0) <= threshold
            if settled:
                if pending != claimed:
                    kinds[row] = _REPAIRED if pending != 1.0 else _CONTRADICTED
                elif pending != 1.0:
                    kinds[row] = _ADJUSTMENT
            elif pending == 1.0 and raw_fits:
                pass
            elif pending > 1.0 and step_fits:
                kinds[row] = _ADJUSTMENT
            elif pending != 1.0 and raw_fits:
                kinds[row] = _CONTRADICTED if pending > 1.0 else _WRONG_WAY
                chained = 1.0
            elif pending != 1.0 and step_fits:
                kinds[row] = _ADJUSTMENT
            else:
                kinds[row] = _UNEXPLAINED
                chained = previous / close[row]
                break_before[row] = True
            event_step[row] = chained if kinds[row] < _FLIP else claimed
            if not break_before[row] and abs(close[row] * chained / previous - 1.0) > quiet_limit[row]:
                last_wild = num_traded
        elif pending != 1.0:
            kinds[row] = _ADJUSTMENT
            event_step[row] = pending
        level *= chained
        factor[row] = level
        previous = close[row]
        pending = claimed = 1.0
        settled = False
        off_tick[num_traded % TICK_WINDOW_SESSIONS] = abs(close[row] / 100.0 - round(close[row] / 100.0)) > 0.05
        num_traded += 1
    return factor, break_before, kinds, event_step
