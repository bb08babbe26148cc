"""What a simulated market is made of: configuration, fixed traits of its symbols, random streams, and the tape."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from vnfleet.data.sources.simulated.faults import Fault

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SESSIONS_PER_YEAR = 250
MAX_SYMBOLS = 26 * 26
SECTORS = ("banks", "real_estate", "steel", "oil_gas", "retail", "technology", "utilities", "securities")
_T_DEGREES = 5.0
_STREAMS = ("market", "sector", "idiosyncratic", "value", "range", "chance")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedMarket:
    """A HOSE-like market that never existed.

    Parameters
    ----------
    seed : everything random follows from it.
    num_symbols : number of symbols, 2 to 676.
    start : first day; sessions are those of the real calendar.
    signal_rank_ic : mean daily rank IC that knowing the planted state gives on the 5-session return from the next open
        (0 = no signal; a seed's realised value differs by its sampling error, about 0.01 over 1,500 sessions).
    late_listing_frac : share of symbols listed after `start`, 60 to 750 sessions later.
    suspensions_per_year : mean number of trading suspensions (3 to 15 sessions) of a symbol.
    illiquid_frac : share of symbols that trade little and not on every session.
    corporate_actions : whether cash dividends, stock dividends and splits happen.
    faults : faults of the vendor to plant, none by default.
    """

    seed: int = 7
    num_symbols: int = 60
    start: date = date(2018, 1, 2)
    signal_rank_ic: float = 0.10
    late_listing_frac: float = 0.15
    suspensions_per_year: float = 0.1
    illiquid_frac: float = 0.03
    corporate_actions: bool = True
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        if not 2 <= self.num_symbols <= MAX_SYMBOLS:
            raise ValueError(f"num_symbols must lie in 2..{MAX_SYMBOLS}, not {self.num_symbols}")
        if not 0.0 <= self.signal_rank_ic <= 0.3:
            raise ValueError(f"signal_rank_ic must lie in 0..0.3, not {self.signal_rank_ic}")
        for name in ("late_listing_frac", "illiquid_frac"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in 0..1, not {getattr(self, name)}")
        if not 0.0 <= self.suspensions_per_year <= 10.0:
            raise ValueError(f"suspensions_per_year must lie in 0..10, not {self.suspensions_per_year}")
        unknown = {fault.symbol for fault in self.faults} - set(self.symbols)
        if unknown:
            raise ValueError(f"faults name symbols that are not in the market: {sorted(unknown)}")

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols, ascending: XAA, XAB, ... (none of the much traded HOSE codes begins with X)."""
        letters = [chr(ord("A") + place) for place in range(26)]
        return tuple(f"X{letters[place // 26]}{letters[place % 26]}" for place in range(self.num_symbols))


@dataclass(frozen=True, slots=True)
class Traits:
    """What does not change about the symbols; arrays [S]."""

    first_price_vnd: Floats
    beta: Floats
    daily_volatility_frac: Floats  # idiosyncratic
    sector_index: Integers
    shares_outstanding: Floats
    log_traded_value: Floats  # of VND a session
    listing_index: Integers  # 0 = listed at the start
    absent_frac: Floats  # chance of a session without a trade


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of T sessions; a row is a session and does not depend on how many follow."""

    market_T2: Floats
    sector_TK2: Floats
    idiosyncratic_TS2: Floats  # Student t, unit variance
    value_TS2: Floats
    range_TS2: Floats
    chance_TS6: Floats  # uniform


@dataclass(frozen=True, slots=True)
class Tape:
    """All that happened, arrays [T, S]: raw prices in VND, shares, NaN and 0 where the symbol did not trade.

    step_TS : previous close times step = reference of the session; 1 without a corporate action.
    state_TS : the planted state at the close; NaN where the symbol did not trade.
    index_T : VNINDEX in points.
    """

    open_TS: Floats
    high_TS: Floats
    low_TS: Floats
    close_TS: Floats
    volume_TS: Integers
    step_TS: Floats
    state_TS: Floats
    index_T: Floats

    @classmethod
    def blank(cls, num_sessions: int, num_symbols: int) -> Tape:
        """Return a tape on which nothing has traded."""
        shape = (num_sessions, num_symbols)
        nan = [np.full(shape, np.nan) for _ in range(5)]
        volume_TS = np.zeros(shape, dtype=np.int64)
        return cls(nan[0], nan[1], nan[2], nan[3], volume_TS, np.ones(shape), nan[4], np.full(num_sessions, np.nan))


def traits_of(market: SimulatedMarket) -> Traits:
    """Draw the traits of the symbols of `market`."""
    rng = np.random.default_rng([market.seed, 0])
    size = market.num_symbols
    rank = rng.permutation(size) / max(size - 1, 1)
    illiquid = rank >= 1.0 - market.illiquid_frac if market.illiquid_frac else np.zeros(size, dtype=bool)
    late = rng.random(size) < market.late_listing_frac
    traded_value_vnd = np.where(illiquid, 0.3e9, 300e9 * np.exp(-4.0 * rank))
    first_price_vnd = np.exp(rng.uniform(np.log(12_000), np.log(80_000), size))
    return Traits(
        first_price_vnd=first_price_vnd,
        beta=rng.uniform(0.6, 1.4, size),
        daily_volatility_frac=rng.uniform(0.014, 0.027, size),
        sector_index=rng.permutation(np.arange(size) % len(SECTORS)),
        shares_outstanding=traded_value_vnd / first_price_vnd * rng.uniform(150, 400, size),
        log_traded_value=np.log(traded_value_vnd),
        listing_index=np.where(late, rng.integers(60, 750, size), 0),
        absent_frac=np.where(illiquid, 0.25, 0.0),
    )


def draw(market: SimulatedMarket, num_sessions: int) -> Draws:
    """Draw the random numbers of the first `num_sessions` sessions; asking for more leaves the earlier rows alone."""
    streams = {name: np.random.default_rng([market.seed, 1 + place]) for place, name in enumerate(_STREAMS)}
    shape = (num_sessions, market.num_symbols)
    unit_variance = np.sqrt((_T_DEGREES - 2.0) / _T_DEGREES)
    return Draws(
        market_T2=streams["market"].standard_normal((num_sessions, 2)),
        sector_TK2=streams["sector"].standard_normal((num_sessions, len(SECTORS), 2)),
        idiosyncratic_TS2=streams["idiosyncratic"].standard_t(_T_DEGREES, (*shape, 2)) * unit_variance,
        value_TS2=streams["value"].standard_normal((*shape, 2)),
        range_TS2=streams["range"].standard_normal((*shape, 2)),
        chance_TS6=streams["chance"].random((*shape, 6)),
    )
