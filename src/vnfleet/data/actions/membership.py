"""On which exchange a symbol was listed, by date: stated by the vendor, else inferred from how it traded.

What tells the exchanges apart, day by day (measured on 289 names, 2012-2024; bands and lots from `vnfleet.market`):

- volume: HOSE's matched volume is a whole number of its round lots (0 exceptions on names known to be there); HNX and
  UPCoM count odd lots in, on 5 to 99 % of the days of a symbol, from 2013-07-29 on;
- ticks: since 2016-09-12 only HOSE has closes off the 100 VND (UPCoM 1.5 %: its close is an average); before that only
  HOSE kept 500 VND from 50,000 and 1,000 VND from 100,000 on;
- moves beyond HOSE's band are HNX's or UPCoM's, those beyond HNX's are UPCoM's;
- trades on the days of HOSE's outage are not HOSE's;
- a transfer takes some sessions without trading.

The most likely sequence of exchanges is found by dynamic programming (Viterbi); today's listing counts like a clue
that a transfer since the last row outweighs. HNX and UPCoM differ in wide moves only: which of the two a calm name was
on is less certain than that it was not on HOSE.
"""

from __future__ import annotations

from datetime import date

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.data.court.checks import said
from vnfleet.market.calendar import closed_weekdays
from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO, Exchange, band_frac, lot_shares

MEMBERSHIP_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "exchange": pl.String(),
    "valid_from": pl.Date(),
    "valid_to": pl.Date(),
    "inferred": pl.Boolean(),
    "evidence": pl.String(),
}
HOSE_OUTAGE = (date(2018, 1, 23), date(2018, 1, 24))
ODD_LOTS_FROM = date(2013, 7, 29)
"""First day with odd lots in the volumes of HNX names (measured). Until then closes of HNX are poor references too."""
BAND_SLACK_FRAC = 0.003
_STATES = (Exchange.HOSE, Exchange.HNX, Exchange.UPCOM)
_OTHER_TICK_VND = 100.0
_NEW_TICKS_FROM = date(2016, 9, 12)
_SWITCH = np.log(1e-7)
_SWITCH_AT_GAP = np.log(1e-4)
_STATED = -40.0
"""Log-likelihood of an exchange that the vendor contradicts."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def membership(bars: pl.DataFrame, listings: pl.DataFrame) -> pl.DataFrame:
    """Return `MEMBERSHIP_SCHEMA`, sorted: consecutive spells of each symbol of `bars`.

    bars : judged bars, sorted by symbol and session: high, low and close in VND, volume_shares, factor (of
        `chain_factors`) and, where a vendor states it, `exchange`. listings : symbol and today's exchange; a symbol
        may be absent.

    `valid_from` is the first traded session of a spell, `valid_to` the last day before the next one, null for the last.
    """
    traded = bars.filter(pl.col("volume_shares") > 0)
    if traded.is_empty():
        return pl.DataFrame(schema=MEMBERSHIP_SCHEMA)
    clues = _clues(traded)
    known = dict(listings.select("symbol", "exchange").iter_rows())
    symbols = clues.get_column("symbol")
    starts = symbols.ne_missing(symbols.shift(1)).fill_null(value=True).to_numpy().copy()
    last = np.array([_state_of(known.get(symbol)) for symbol in symbols.filter(pl.Series(starts)).to_list()])
    states = _most_likely(starts, _log_likelihood(clues), clues.get_column("gap").to_numpy().copy(), last)
    return _spells(clues.with_columns(state=pl.Series(states)))


def with_exchange(bars: pl.DataFrame, spells: pl.DataFrame) -> pl.DataFrame:
    """Return `bars` (sorted by symbol and session) with `exchange` as `spells` (of `membership`) have it that day.

    Days before a symbol's first spell take that of the first one; symbols without spells get null.
    """
    from_day = spells.select("symbol", "exchange", session="valid_from").sort("session")
    first = from_day.group_by("symbol", maintain_order=True).agg(first=pl.col("exchange").first())
    return (
        bars.drop("exchange", strict=False)
        .with_row_index("_row")
        .sort("session", maintain_order=True)
        .join_asof(from_day, on="session", by="symbol", strategy="backward", check_sortedness=False)
        .join(first, on="symbol", how="left")
        .with_columns(pl.col("exchange").fill_null(pl.col("first")))
        .sort("_row")
        .drop("_row", "first")
    )


def _state_of(exchange: str | None) -> int:
    return _STATES.index(Exchange(exchange)) if exchange in set(_STATES) else -1


def _clues(traded: pl.DataFrame) -> pl.DataFrame:
    """Return per traded row what tells the exchanges apart; null where it says nothing."""
    rules = pl.DataFrame(
        [
            (day, lot_shares(Exchange.HOSE, known), *(band_frac(exchange, known) for exchange in _STATES))
            for day, known in ((day, min(max(day, KNOWN_FROM), KNOWN_TO)) for day in _days(traded))
        ],
        schema={"session": pl.Date, "lot": pl.Int64, "hose": pl.Float64, "hnx": pl.Float64, "upcom": pl.Float64},
        orient="row",
    )
    previous = (pl.col("close_vnd") * pl.col("factor")).shift(1).over("symbol")
    high, low = (pl.col(name) * pl.col("factor") / previous - 1.0 for name in ("high_vnd", "low_vnd"))
    before = traded.select(pl.col("session").shift(1).over("symbol").fill_null(pl.col("session"))).to_series()
    missed = np.busday_count(
        before.to_numpy().astype("datetime64[D]"),
        traded.get_column("session").to_numpy().astype("datetime64[D]"),
        holidays=np.array(closed_weekdays(), dtype="datetime64[D]"),
    )
    close, new = pl.col("close_vnd"), pl.col("session") >= _NEW_TICKS_FROM
    off_hundred = ((close / _OTHER_TICK_VND).round() * _OTHER_TICK_VND - close).abs() > 0.5
    hnx_is_told = pl.col("session") >= ODD_LOTS_FROM
    finer = new & (close < 50_000)
    coarse = pl.when(~new & (close >= 100_000)).then(1000.0).when(~new & (close >= 50_000)).then(500.0)
    stated = pl.col("exchange") if "exchange" in traded.columns else pl.lit(None, pl.String)
    return (
        traded.join(rules, on="session", how="left", maintain_order="left")
        .with_columns(gap=pl.Series(missed > 1), move=pl.max_horizontal(high.abs(), low.abs()))
        .select(
            "symbol",
            "session",
            "gap",
            stated=stated.str.to_uppercase(),
            odd=pl.when(pl.col("session") >= ODD_LOTS_FROM).then(pl.col("volume_shares") % pl.col("lot") != 0),
            off_hundred=pl.when(finer).then(off_hundred),
            off_coarse=(((close / coarse).round() * coarse - close).abs() > 0.5),
            beyond_hose=pl.when(~pl.col("gap")).then(pl.col("move") > pl.col("hose") + BAND_SLACK_FRAC),
            beyond_hnx=pl.when(~pl.col("gap") & hnx_is_told).then(pl.col("move") > pl.col("hnx") + BAND_SLACK_FRAC),
            outage=pl.col("session").is_in(list(HOSE_OUTAGE)),
        )
    )


def _days(traded: pl.DataFrame) -> list[date]:
    return traded.get_column("session").unique().sort().to_list()


def _log_likelihood(clues: pl.DataFrame) -> Floats:
    """Return [rows, 3]: how likely each exchange makes the clues of a row; the shares are rounded from real prices."""
    off = pl.col("off_hundred")
    shares: tuple[tuple[pl.Expr, tuple[float, float, float]], ...] = (
        # what was seen is strong evidence, what was not says little: illiquid names keep to round lots and prices
        (pl.when("odd").then("odd"), (1e-4, 0.2, 0.2)),
        (pl.when(~pl.col("odd")).then("odd"), (1e-4, 0.02, 0.02)),
        (pl.when(off).then(off), (0.3, 1e-3, 0.015)),
        (pl.when(~off).then(off), (0.05, 1e-3, 0.015)),
        (pl.col("off_coarse"), (0.01, 0.75, 0.75)),
        (pl.col("beyond_hose"), (2e-3, 0.05, 0.05)),
        (pl.when("beyond_hose").then("beyond_hnx"), (0.5, 0.02, 0.5)),
    )
    total = np.zeros((clues.height, len(_STATES)))
    for clue, share in shares:
        seen = clues.select(clue.cast(pl.Float64)).to_series().fill_null(float("nan")).to_numpy()
        for state, value in enumerate(share):
            logs = np.where(seen == 1.0, np.log(value), np.log1p(-value))
            total[:, state] += np.where(np.isnan(seen), 0.0, logs)
    total[clues.get_column("outage").to_numpy(), 0] += np.log(1e-4)
    stated = clues.get_column("stated")
    for state, exchange in enumerate(_STATES):
        contradicted = (
            stated.is_not_null() & stated.is_in([each.value for each in _STATES]) & (stated != exchange.value)
        )
        total[contradicted.fill_null(value=False).to_numpy(), state] += _STATED
    return total


@numba.njit(cache=True)
def _most_likely(starts: NDArray[np.bool_], likelihood: Floats, gap: NDArray[np.bool_], last: Ints) -> Ints:
    """Return the most likely state of every row; `last` is each symbol's listing today, -1 if not known."""
    num_rows, num_states = likelihood.shape
    score = np.zeros(num_states)
    fresh = np.zeros(num_states)
    came = np.zeros((num_rows, num_states), dtype=np.int8)
    states = np.zeros(num_rows, dtype=np.int64)
    symbol = -1
    for row in range(num_rows):
        if starts[row]:
            symbol += 1
            score[:] = likelihood[row]
        else:
            cost = _SWITCH_AT_GAP if gap[row] else _SWITCH
            for state in range(num_states):
                best, origin = score[state], state
                for other in range(num_states):
                    if other != state and score[other] + cost > best:
                        best, origin = score[other] + cost, other
                fresh[state] = best + likelihood[row, state]
                came[row, state] = origin
            score[:] = fresh
        if row == num_rows - 1 or starts[row + 1]:
            for state in range(num_states):
                if last[symbol] >= 0 and state != last[symbol]:
                    score[state] += _SWITCH_AT_GAP  # it would have moved since the last row
            state = int(np.argmax(score))
            back = row
            while True:
                states[back] = state
                if starts[back]:
                    break
                state = came[back, state]
                back -= 1
    return states


def _spells(placed: pl.DataFrame) -> pl.DataFrame:
    changed = pl.col("symbol").ne_missing(pl.col("symbol").shift(1)) | pl.col("state").ne_missing(
        pl.col("state").shift(1)
    )
    names = [exchange.value for exchange in _STATES]
    rows = placed.with_columns(spell=changed.fill_null(value=True).cum_sum())
    spells = rows.group_by("spell", maintain_order=True).agg(
        pl.col("symbol", "state").first(),
        valid_from=pl.col("session").first(),
        days=pl.len(),
        odd=pl.col("odd").sum(),
        off=pl.col("off_hundred").sum(),
        hose=pl.col("beyond_hose").sum(),
        hnx=pl.col("beyond_hnx").sum(),
        stated=pl.col("stated").is_not_null().sum(),
    )
    seen = said(
        "inferred from {} traded sessions: {} with odd lots, {} closes off 100 VND, {} moves beyond HOSE's band, "
        "{} beyond HNX's",
        "days", "odd", "off", "hose", "hnx",
    )  # fmt: skip
    inferred = pl.col("stated") < pl.col("days")
    return spells.with_columns(
        exchange=pl.col("state").replace_strict(dict(enumerate(names)), return_dtype=pl.String),
        valid_to=(pl.col("valid_from").shift(-1).over("symbol") - pl.duration(days=1)).cast(pl.Date),
        inferred=inferred,
        evidence=pl.when(inferred).then(seen).otherwise(pl.lit("stated by the vendor")),
    ).select(pl.col(name).cast(dtype) for name, dtype in MEMBERSHIP_SCHEMA.items())
