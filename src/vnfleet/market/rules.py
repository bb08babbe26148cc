"""Trading rules as dated tables: price bands, ticks, lots, settlement and costs of HOSE, HNX and UPCoM.

Every entry says from when it holds and where that is known. Days outside `KNOWN_FROM`..`KNOWN_TO` are refused, never
guessed. Prices in VND, bands and costs as fractions. Sources are named as in the project's market reference:
"measured" = checked on daily prices of the whole market, otherwise the document that states it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from fractions import Fraction
from typing import Generic, TypeVar

from vnfleet.core.errors import BadDataError

KNOWN_FROM = date(2012, 1, 1)
KNOWN_TO = date(2027, 12, 31)


class Exchange(StrEnum):
    """The three Vietnamese stock markets."""

    HOSE = "HOSE"
    HNX = "HNX"
    UPCOM = "UPCOM"


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule(Generic[T]):
    """A value that holds from one day until the next rule of the same table begins."""

    valid_from: date
    value: T
    source: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """Shares bought on t may be sold on session t + `delay_sessions`, at its open or only in the afternoon."""

    delay_sessions: int
    sellable_at_open: bool


# (lower end of the price range in VND, tick in VND), ascending
TickLadder = tuple[tuple[int, int], ...]

_BANDS_PERCENT: dict[Exchange, tuple[Rule[int], ...]] = {
    Exchange.HOSE: (
        Rule(KNOWN_FROM, 5, "measured: moves above 5.2 % are ~1 % of stocks up to 2013-01-14"),
        Rule(date(2013, 1, 15), 7, "measured: 26 % of stocks move more than 5.2 % that day; decision 352/QD-SGDHCM"),
    ),
    Exchange.HNX: (
        Rule(KNOWN_FROM, 7, "measured: moves above 7.2 % are ~1 % of stocks up to 2013-01-14"),
        Rule(date(2013, 1, 15), 10, "measured: 22 % of stocks move more than 7.2 % that day; hsc.com.vn"),
    ),
    Exchange.UPCOM: (
        Rule(KNOWN_FROM, 10, "measured: moves above 10.3 % are 1-4 % of stocks before July 2015"),
        Rule(date(2015, 7, 1), 15, "measured: moves above 10.3 % are 10-14 % of stocks from that day; hsc, sbsc"),
    ),
}
_WIDE_BANDS_PERCENT: dict[Exchange, tuple[Rule[int], ...]] = {
    Exchange.HOSE: (Rule(KNOWN_FROM, 20, "bizhub.vn, vietnamplus on decision 352/QD-SGDHCM"),),
    Exchange.HNX: (Rule(KNOWN_FROM, 30, "tuoitre.vn, hsc.com.vn"),),
    Exchange.UPCOM: (Rule(KNOWN_FROM, 40, "hsc.com.vn, sbsc.com.vn"),),
}
SUSPENSION_SESSIONS = 25
"""A name back after more than this many sessions without trading gets the wide band (bizhub.vn, vietnamplus)."""

_TICKS: dict[Exchange, tuple[Rule[TickLadder], ...]] = {
    Exchange.HOSE: (
        Rule(KNOWN_FROM, ((0, 100), (50_000, 500), (100_000, 1_000)), "measured on 105 thousand raw closes"),
        Rule(date(2016, 9, 12), ((0, 10), (10_000, 50), (50_000, 100)), "measured, 0 exceptions; kbsec.com.vn, sbsc"),
    ),
    Exchange.HNX: (Rule(KNOWN_FROM, ((0, 100),), "measured since 2016; kbsec.com.vn, sbsc"),),
    Exchange.UPCOM: (Rule(KNOWN_FROM, ((0, 100),), "kbsec.com.vn, sbsc"),),
}
_LOTS: dict[Exchange, tuple[Rule[int], ...]] = {
    Exchange.HOSE: (
        Rule(KNOWN_FROM, 10, "tpbs.com.vn (text of the HOSE decision)"),
        Rule(date(2021, 1, 4), 100, "measured: odd hundreds fall from 329 of 365 stocks to 12 of 348; tpbs.com.vn"),
    ),
    Exchange.HNX: (Rule(KNOWN_FROM, 100, "tpbs.com.vn, kbsec.com.vn"),),
    Exchange.UPCOM: (Rule(KNOWN_FROM, 100, "tpbs.com.vn, kbsec.com.vn"),),
}
_ODD_LOTS: dict[Exchange, tuple[Rule[bool], ...]] = {
    Exchange.HOSE: (
        Rule(KNOWN_FROM, False, "no odd-lot board: brokers bought odd shares at a price of their own"),
        Rule(date(2022, 9, 12), True, "vietcap.com.vn, vnf.info.vn, hsc.com.vn"),
    ),
    Exchange.HNX: (Rule(KNOWN_FROM, True, "vietcap.com.vn, hsc.com.vn"),),
    Exchange.UPCOM: (Rule(KNOWN_FROM, True, "vietcap.com.vn, hsc.com.vn"),),
}
_SETTLEMENT: tuple[Rule[Settlement], ...] = (
    Rule(KNOWN_FROM, Settlement(delay_sessions=3, sellable_at_open=True), "practice until August 2022 (T+3)"),
    Rule(
        date(2022, 8, 29),
        Settlement(delay_sessions=2, sellable_at_open=False),
        "VSD decisions 109 and 110/QD-VSD of 2022-08-19: in the account before 13:00 on T+2",
    ),
)


def band_frac(exchange: Exchange, session: date) -> float:
    """Return the daily price band of a normal session as a fraction of the reference price.

    Raises `BadDataError` when `session` lies outside the known range, as every function here does.
    """
    return _in_force(_BANDS_PERCENT[exchange], session) / 100


def wide_band_frac(exchange: Exchange, session: date) -> float:
    """Return the band of a first trading day, or of the first after more than `SUSPENSION_SESSIONS` without a trade."""
    return _in_force(_WIDE_BANDS_PERCENT[exchange], session) / 100


def tick_vnd(exchange: Exchange, price_vnd: float, session: date) -> int:
    """Return the price step in VND that applies at `price_vnd` (stocks; ETFs and warrants have other ticks)."""
    if not (math.isfinite(price_vnd) and price_vnd >= 0):
        raise ValueError(f"price_vnd must be finite and >= 0, got {price_vnd}")
    ladder = _in_force(_TICKS[exchange], session)
    return next(tick for lower, tick in reversed(ladder) if price_vnd >= lower)


def price_limits_vnd(
    exchange: Exchange, reference_vnd: float, session: date, *, wide_band: bool = False
) -> tuple[int, int]:
    """Return (floor, ceiling) in VND for a reference price.

    The ceiling reference * (1 + band) is rounded down and the floor reference * (1 - band) up, to the tick of the
    limit's own price range (measured on 255,095 stock-days: 4,025 highs at the rounded-down ceiling, 0 at the nearest
    tick). Where that leaves no room to move, a limit is one tick from the reference (HOSE trading rules). Exact
    arithmetic: no limit is lost to binary rounding.

    wide_band : first trading day or back after a long suspension.
    """
    if not (math.isfinite(reference_vnd) and reference_vnd > 0):
        raise ValueError(f"reference_vnd must be finite and > 0, got {reference_vnd}")
    percent = _in_force((_WIDE_BANDS_PERCENT if wide_band else _BANDS_PERCENT)[exchange], session)
    reference = Fraction(reference_vnd)
    high = reference * (100 + percent) / 100
    low = reference * (100 - percent) / 100
    tick_high = tick_vnd(exchange, float(high), session)
    tick_low = tick_vnd(exchange, float(low), session)
    ceiling = high // tick_high * tick_high
    floor = -(-low // tick_low) * tick_low
    tick = tick_vnd(exchange, reference_vnd, session)
    if ceiling <= reference:
        ceiling = reference // tick * tick + tick
    if floor >= reference:
        floor = -(-reference // tick) * tick - tick
    return max(int(floor), tick_low), int(ceiling)


def lot_shares(exchange: Exchange, session: date) -> int:
    """Return the round lot in shares."""
    return _in_force(_LOTS[exchange], session)


def odd_lots_trade(exchange: Exchange, session: date) -> bool:
    """Return whether fewer shares than a round lot can be sold on the exchange (on a board of their own)."""
    return _in_force(_ODD_LOTS[exchange], session)


def settlement(session: date) -> Settlement:
    """Return when shares bought on `session` may be sold again; counted in sessions, not calendar days."""
    return _in_force(_SETTLEMENT, session)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What trading costs, as fractions of the traded value.

    fee_frac : broker fee per side including the exchange's share (typical online fee 0.15 %, fee table of ecsc.vn).
    sell_tax_frac : tax on the value of every sale, gains or not (0.1 %).
    """

    fee_frac: float = 0.0015
    sell_tax_frac: float = 0.001

    def __post_init__(self) -> None:
        for name, value in (("fee_frac", self.fee_frac), ("sell_tax_frac", self.sell_tax_frac)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")

    @property
    def round_trip_frac(self) -> float:
        """Cost of buying and selling once: two fees and one tax."""
        return 2 * self.fee_frac + self.sell_tax_frac


def refuse_unknown_day(day: date) -> None:
    """Raise `BadDataError` when the market's rules and holidays are not recorded for `day`."""
    if not KNOWN_FROM <= day <= KNOWN_TO:
        raise BadDataError(
            "the market's rules are not known for this day",
            expected=f"{KNOWN_FROM} to {KNOWN_TO}",
            found=day,
            fix="check --as-of; for later days get a newer vnfleet, or extend the dated tables of vnfleet.market",
        )


def _in_force(rules: tuple[Rule[T], ...], session: date) -> T:
    refuse_unknown_day(session)
    return next(rule.value for rule in reversed(rules) if session >= rule.valid_from)
