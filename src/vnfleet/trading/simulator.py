"""A daily account under Vietnamese rules: what following the scores would have done with real money.

Rules, all by date (see `vnfleet.market`):

- decided at the close of t, filled at the open of t+1 (with `sell_at_close`, sales at the close of t+1);
- shares are delivered on T+2 and can be sold at the close of t+2, so by opening orders from t+3 (before 2022-08-29:
  T+3, from the open of t+3); sale proceeds can be spent at once, as brokers advance them;
- round lots only; no purchase at an open at the ceiling, no sale at the floor, no fill outside the band, in a
  suspended name, or on a first session without a reference price; at most a fraction of the day's volume;
- fee on both sides, tax on sales, rounded to the dong; no short sale, no loan: cash and shares are never negative;
- a corporate action turns shares into shares times the factor step: whole lots are kept, the rest is paid in cash at
  the ex-date reference price, so value is kept to the dong (a cash dividend is thus largely reinvested, untaxed). A
  change of the lot pays out odd shares in the same way;
- a symbol that does not trade keeps its last price; cash earns nothing; positions at the end are valued, not sold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.panel import Panel
from vnfleet.market.rules import Costs
from vnfleet.trading.account import run_account
from vnfleet.trading.books import REASONS, Journal, Terms, new_book, new_journal
from vnfleet.trading.metrics import SimulationMetrics, account_metrics
from vnfleet.trading.portfolio import TopKPolicy, best_first, desired_positions, prediction_matrix
from vnfleet.trading.venue import venue_of

DEFAULT_COSTS = Costs()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTerms:
    """An account and how it trades.

    Parameters
    ----------
    start_cash_vnd : cash at the close of the first session.
    max_participation_frac : largest share of a symbol's volume of the day that an order may take.
    sell_at_close : sales are filled in the closing auction instead of at the open (two sessions after purchase is then
        the earliest, from 2022-08-29).
    costs : fees and taxes.
    """

    start_cash_vnd: int = 1_000_000_000
    max_participation_frac: float = 0.10
    sell_at_close: bool = False
    costs: Costs = DEFAULT_COSTS

    def __post_init__(self) -> None:
        if not 0 < self.start_cash_vnd <= 10**15:
            raise ValueError(f"start_cash_vnd must lie in 1..10^15, not {self.start_cash_vnd}")
        if not 0.0 < self.max_participation_frac <= 1.0:
            raise ValueError(f"max_participation_frac must lie in (0, 1], not {self.max_participation_frac}")


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What the account did.

    equity : session, equity_vnd (Float64), cash_vnd, num_positions, turnover_vnd (bought plus sold); the first row is
        the start.
    trades : session, symbol, side ("buy" or "sell"), shares, price_vnd, fee_vnd, tax_vnd; sorted by session and symbol.
    conversions : session, symbol, shares (gained or lost), cash_vnd (received), one row per corporate action held
        through.
    refused : for each reason how many orders were refused or cut; an order that is tried again counts again.
    """

    equity: pl.DataFrame
    trades: pl.DataFrame
    conversions: pl.DataFrame
    refused: dict[str, int]
    metrics: SimulationMetrics


def simulate(
    panel: Panel,
    predictions: pl.DataFrame,
    policy: TopKPolicy,
    *,
    terms: AccountTerms | None = None,
    first: date | None = None,
    last: date | None = None,
) -> SimulationResult:
    """Run an account that follows `score` of one model at one horizon from session `first` to `last`.

    The first decision is taken at the close of `first` (by default the first session with a prediction); the run ends
    with `last` (by default the session after the last prediction, or the panel's last).

    Raises `BadDataError` for several models or horizons, or for predictions that do not fit the panel, and `UsageError`
    when the range holds fewer than two sessions.
    """
    terms = terms or AccountTerms()
    scores_TS = prediction_matrix(panel, predictions, "score")
    begin, end = session_range(panel, scores_TS, first, last)
    scores_TS[:begin] = np.nan
    venue = venue_of(panel)
    book, journal = new_book(venue, begin, terms.start_cash_vnd), new_journal(venue)
    run = Terms(
        first=begin,
        last=end,
        max_positions=policy.max_positions,
        resize_band_frac=policy.resize_band_frac,
        max_participation_frac=terms.max_participation_frac,
        fee_frac=terms.costs.fee_frac,
        sell_tax_frac=terms.costs.sell_tax_frac,
        sell_at_close=terms.sell_at_close,
    )
    run_account(venue, desired_positions(scores_TS, policy), best_first(scores_TS), run, book, journal)
    return _result(panel, journal, begin, end)


def session_range(
    panel: Panel, values_TS: NDArray[np.float64], first: date | None, last: date | None
) -> tuple[int, int]:
    """Return the first and last session index of a run; by default from the first prediction to one after the last."""
    known = np.nonzero(np.isfinite(values_TS).any(axis=1))[0]
    if known.size == 0:
        raise BadDataError("there are no predictions to follow", found="0 values")
    sessions = np.array(panel.sessions, dtype="datetime64[D]")
    begin = int(known[0]) if first is None else int(np.searchsorted(sessions, np.datetime64(first, "D")))
    end = int(known[-1]) + 1 if last is None else int(np.searchsorted(sessions, np.datetime64(last, "D"), "right")) - 1
    end = min(end, len(sessions) - 1)
    if end <= begin:
        raise UsageError(
            "a run needs two sessions or more", found=f"{first} to {last}", where=f"panel of {panel.as_of}"
        )
    return begin, end


def _result(panel: Panel, journal: Journal, begin: int, end: int) -> SimulationResult:
    rows = slice(begin, end + 1)
    turnover_T = np.abs(journal.shares_TS * journal.price_TS).sum(axis=1)
    equity = pl.DataFrame(
        {
            "session": pl.Series(panel.sessions[rows], dtype=pl.Date),
            "equity_vnd": journal.equity_T[rows].astype(np.float64),
            "cash_vnd": journal.cash_T[rows],
            "num_positions": journal.positions_T[rows].astype(np.int32),
            "turnover_vnd": turnover_T[rows],
        }
    )
    trades = _events(
        panel,
        journal.shares_TS != 0,
        {
            "shares": journal.shares_TS,
            "price_vnd": journal.price_TS,
            "fee_vnd": journal.fee_TS,
            "tax_vnd": journal.tax_TS,
        },
    ).select(
        "session",
        "symbol",
        pl.when(pl.col("shares") > 0).then(pl.lit("buy")).otherwise(pl.lit("sell")).alias("side"),
        pl.col("shares").abs(),
        "price_vnd",
        "fee_vnd",
        "tax_vnd",
    )
    converted = (journal.converted_TS != 0) | (journal.paid_TS != 0)
    return SimulationResult(
        equity=equity,
        trades=trades,
        conversions=_events(panel, converted, {"shares": journal.converted_TS, "cash_vnd": journal.paid_TS}),
        refused=dict(zip(REASONS, journal.refused_R.tolist(), strict=True)),
        metrics=account_metrics(journal.equity_T[rows].astype(np.float64), turnover_T[rows].astype(np.float64)),
    )


def _events(panel: Panel, where_TS: NDArray[np.bool_], columns: dict[str, NDArray[np.int64]]) -> pl.DataFrame:
    rows, places = np.nonzero(where_TS)
    return pl.DataFrame(
        {
            "session": pl.Series(panel.sessions, dtype=pl.Date).gather(rows),
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(places),
            **{name: values_TS[rows, places] for name, values_TS in columns.items()},
        }
    )
