"""A daily account under Vietnamese rules: what following the scores would have done with real money.

Rules, all by date (see `vnfleet.market`):

- decided at the close of t, filled in the opening or the closing auction of t+1; in each of them sales come first;
- shares are delivered on T+2 and can be sold at the close of t+2, so by opening orders from t+3 (before 2022-08-29:
  T+3, from the open of t+3); sale proceeds can be spent at once, as brokers advance them;
- purchases in round lots; odd shares are sold with the last lot, on HOSE from 2022-09-12 (before, they stay in the
  account and are valued), at the auction's price although they trade on a board of their own;
- no purchase at a price at the ceiling, no sale at the floor, no fill outside the band, off the tick (a price between
  two ticks is bought above and sold below), in a suspended name, or on a first session without a reference price; at
  most a fraction of the day's volume;
- fee on both sides, tax on sales, rounded to the dong; no short sale, no loan: cash and shares are never negative;
- a corporate action turns shares into shares times the factor step, a fraction of a share is paid in cash at the
  ex-date reference price, so value is kept to the dong. Where `actions` tells that a step was a dividend in cash, the
  cash is paid instead, without the tax on dividends. Cash and shares are there on the ex-date, in truth weeks later;
- a symbol that does not trade keeps its last price; cash earns nothing; positions at the end are valued, not sold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.panel import Panel
from vnfleet.market.rules import Costs
from vnfleet.trading.account import run_account
from vnfleet.trading.books import REASONS, Journal, Terms, new_book, new_journal
from vnfleet.trading.capacity import portfolio_capacity_vnd
from vnfleet.trading.metrics import SimulationMetrics, account_metrics
from vnfleet.trading.portfolio import TopKPolicy, best_first, prediction_matrix, target_weights
from vnfleet.trading.venue import Rules, Venue, venue_of

Floats = NDArray[np.float64]

DEFAULT_COSTS = Costs()
ALL_RULES = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTerms:
    """An account and how it trades.

    Parameters
    ----------
    start_cash_vnd : cash at the close of the first session.
    max_participation_frac : largest share of a symbol's volume of the day that an order may take.
    buys_at, sells_at : the auction of the next session that purchases and sales are filled in. At the close, a sale is
        possible two sessions after the purchase from 2022-08-29, at the open three.
    costs : fees and taxes.
    """

    start_cash_vnd: int = 1_000_000_000
    max_participation_frac: float = 0.10
    buys_at: Literal["open", "close"] = "open"
    sells_at: Literal["open", "close"] = "open"
    costs: Costs = DEFAULT_COSTS

    def __post_init__(self) -> None:
        if not 0 < self.start_cash_vnd <= 10**15:
            raise ValueError(f"start_cash_vnd must lie in 1..10^15, not {self.start_cash_vnd}")
        if not 0.0 < self.max_participation_frac <= 1.0:
            raise ValueError(f"max_participation_frac must lie in (0, 1], not {self.max_participation_frac}")
        for name, auction in (("buys_at", self.buys_at), ("sells_at", self.sells_at)):
            if auction not in ("open", "close"):
                raise ValueError(f'{name} must be "open" or "close", not {auction!r}')


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What the account did.

    equity : session, equity_vnd (Float64), cash_vnd, num_positions, turnover_vnd (bought plus sold); the first row is
        the start.
    trades : session, symbol, side ("buy" or "sell"), shares, price_vnd, fee_vnd, tax_vnd; sorted by session and symbol.
    conversions : session, symbol, shares (gained or lost), cash_vnd (received: dividends, and the worth of fractions),
        one row per corporate action held through.
    refused : for each reason how many orders were refused or cut; an order that is tried again counts again.
    """

    equity: pl.DataFrame
    trades: pl.DataFrame
    conversions: pl.DataFrame
    refused: dict[str, int]
    metrics: SimulationMetrics

    @property
    def returns_T(self) -> Floats:
        """Daily returns as fractions, one less than rows of `equity`; the first is that of the second session."""
        equity_T = self.equity.get_column("equity_vnd").to_numpy()
        return np.asarray(equity_T[1:] / equity_T[:-1] - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAccount:
    """What an account is about to do, before any rule of the market is met.

    begin, end : session indices, both included. weights_TS : fraction of the equity wanted at the close of t.
    order_TS : symbol indices, the most wanted first.
    """

    panel: Panel
    venue: Venue
    terms: AccountTerms
    resize_band_frac: float
    begin: int
    end: int
    weights_TS: Floats
    order_TS: NDArray[np.int64]

    def carried_out(self, rules: Rules = ALL_RULES) -> SimulationResult:
        """Return what the account does under `rules`."""
        journal = self._journal(rules)
        # The capacity is that of the orders as they were meant, each counted once: with nothing cut by the volume.
        whole = self._journal(replace(rules, participation=False)) if rules.participation else journal
        return _result(self, journal, _capacity_vnd(self, whole))

    def _journal(self, rules: Rules) -> Journal:
        venue, terms = rules.at(self.venue), self.terms
        run = Terms(
            first=self.begin,
            last=self.end,
            resize_band_frac=self.resize_band_frac,
            max_participation_frac=terms.max_participation_frac if rules.participation else 1.0,
            fee_frac=terms.costs.fee_frac if rules.fees else 0.0,
            sell_tax_frac=terms.costs.sell_tax_frac if rules.tax else 0.0,
            buys_at_close=terms.buys_at == "close",
            sells_at_close=terms.sells_at == "close",
        )
        book, journal = new_book(venue, self.begin, terms.start_cash_vnd), new_journal(venue)
        run_account(venue, self.weights_TS, self.order_TS, run, book, journal)
        return journal


def simulate(
    panel: Panel,
    predictions: pl.DataFrame,
    policy: TopKPolicy,
    *,
    terms: AccountTerms | None = None,
    actions: pl.DataFrame | None = None,
    first: date | None = None,
    last: date | None = None,
) -> SimulationResult:
    """Run an account that follows `score` of one model at one horizon from session `first` to `last`.

    The first decision is taken at the close of `first` (by default the first session with a prediction); the run ends
    with `last` (by default the session after the last prediction, or the panel's last).

    actions : `CORPORATE_SCHEMA`, which tells dividends in cash from issues of shares; None: all steps are shares.

    Raises `BadDataError` for several models or horizons, or for predictions that do not fit the panel, and `UsageError`
    when the range holds fewer than two sessions.
    """
    return planned(panel, predictions, policy, terms=terms, actions=actions, first=first, last=last).carried_out()


def planned(
    panel: Panel,
    predictions: pl.DataFrame,
    policy: TopKPolicy,
    *,
    terms: AccountTerms | None = None,
    actions: pl.DataFrame | None = None,
    first: date | None = None,
    last: date | None = None,
) -> PlannedAccount:
    """Return what `simulate` would carry out, to be carried out under several sets of rules."""
    scores_TS = prediction_matrix(panel, predictions, "score")
    begin, end = session_range(panel, scores_TS, first, last)
    scores_TS[:begin] = np.nan
    return PlannedAccount(
        panel=panel,
        venue=venue_of(panel, actions),
        terms=terms or AccountTerms(),
        resize_band_frac=policy.resize_band_frac,
        begin=begin,
        end=end,
        weights_TS=np.ascontiguousarray(target_weights(panel, scores_TS, policy)),
        order_TS=best_first(scores_TS),
    )


def session_range(panel: Panel, values_TS: Floats, first: date | None, last: date | None) -> tuple[int, int]:
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


def _result(plan: PlannedAccount, journal: Journal, capacity_vnd: float | None) -> SimulationResult:
    panel, rows = plan.panel, slice(plan.begin, plan.end + 1)
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
        metrics=account_metrics(
            journal.equity_T[rows].astype(np.float64),
            turnover_T[rows].astype(np.float64),
            capacity_vnd=capacity_vnd,
        ),
    )


def _capacity_vnd(plan: PlannedAccount, journal: Journal) -> float | None:
    """Return the capacity of the trades, each valued at the close of its session (the same price on both sides)."""
    rows, columns = np.nonzero(journal.shares_TS)
    close_N = plan.venue.close_TS[rows, columns]
    return portfolio_capacity_vnd(
        np.abs(journal.shares_TS[rows, columns]) * close_N / journal.equity_T[rows - 1],
        plan.venue.volume_TS[rows, columns] * close_N,
        plan.terms.max_participation_frac,
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
