"""Whatever the market does, the account keeps the rules: every trade is replayed with plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnfleet.data.panel import Panel
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Exchange, lot_shares, odd_lots_trade, price_limits_vnd, settlement, tick_vnd
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import AccountTerms, SimulationResult, simulate

SYMBOLS = ("AAA", "BBB", "CCC")
# lot change, delivery change, odd lots on HOSE, quiet times
STARTS = (date(2020, 12, 22), date(2022, 8, 22), date(2022, 9, 5), date(2024, 3, 1))
LENGTH = 14
CASH = "cash_dividend"
KINDS = (CASH, CASH, "stock_dividend_or_bonus", "rights_or_mixed", "unknown")
Auction = Literal["open", "close"]
Walk = dict[str, list[tuple[float, float, int, float] | None]]
Actions = list[tuple[str, date, float, str, float | None]]
Key = tuple[date, str]


def _walk(rng: np.random.Generator, sessions: list[date], exchange: Exchange) -> tuple[Walk, Actions]:
    """A random market: moves up to the limits and now and then beyond, holes, corporate actions, thin volume."""
    bars: Walk = {}
    actions: Actions = []
    for symbol in SYMBOLS:
        price, factor, rows = float(rng.integers(3, 90)) * 1_000, 1.0, bars.setdefault(symbol, [])
        for place, session in enumerate(sessions):
            if place and rng.random() < 0.12:
                rows.append(None)
                continue
            if place and rng.random() < 0.1:
                step = float(rng.choice([2.0, 1.1, 1.15, 1.0303, 0.9997, 1.99987, 1.0211]))
                kind = KINDS[rng.integers(len(KINDS))]
                announced = round(price * (1 - 1 / step), -1) + 10.0 if rng.random() < 0.3 else None
                on = sessions[place - 1] if rows[-1] is None else session  # it falls into the hole before
                if step > 1 and rows[-1] is not None and rng.random() < 0.8:
                    actions.append((symbol, on, step, kind, announced if kind == CASH else None))
                factor, price = factor * step, price / step
            reference = max(round(price / 100) * 100.0, 1_000.0)
            floor, ceiling = price_limits_vnd(exchange, reference, session)
            opened, closed = (
                float(rng.choice([floor, ceiling, _near(rng, reference, session, exchange), ceiling * 1.05]))
                if rng.random() < 0.4
                else _near(rng, reference, session, exchange)
                for _ in range(2)
            )
            rows.append((round(opened, -1), round(closed, -1), int(rng.integers(1, 200)) * 100, factor))
            price = round(closed, -1)
    return bars, actions


def _near(rng: np.random.Generator, reference: float, session: date, exchange: Exchange) -> float:
    """A price on the tick, or now and then between two."""
    tick = tick_vnd(exchange, reference, session)
    return reference + tick * float(rng.choice([-3, -2, -1, 0, 1, 2, 3, 0.5, -1.2]))


def _replay(panel: Panel, result: SimulationResult, terms: AccountTerms, exchange: Exchange, actions: Actions) -> None:
    place = {session: index for index, session in enumerate(panel.sessions)}
    price_of = {auction: dict(_by_key(panel, f"{auction}_vnd")) for auction in ("open", "close")}
    closed, factor = price_of["close"], dict(_by_key(panel, "factor"))
    volume, reference = (dict(_by_key(panel, name)) for name in ("volume_shares", "reference_vnd"))
    dividends = {(session, symbol): cash for symbol, session, _, kind, cash in actions if kind == CASH}
    cash, shares = terms.start_cash_vnd, dict.fromkeys(SYMBOLS, 0)
    locked: list[tuple[int, str, int]] = []
    last_close: dict[str, float] = {}
    last_factor: dict[str, float] = {}
    converted = {(row[0], row[1]): row[2:] for row in result.conversions.iter_rows()}
    trades = {(row[0], row[1]): row[2:] for row in result.trades.iter_rows()}
    reported = {row[0]: row[1:] for row in result.equity.iter_rows()}
    phases = [(side, at) for at in ("open", "close") for side in ("sell", "buy")]
    for session in panel.sessions:
        for symbol in SYMBOLS:
            key = session, symbol
            if key in converted:
                gained, paid = converted[key]
                held, became = shares[symbol], shares[symbol] + gained
                if key in dividends:
                    told = dividends[key]
                    implied = last_close[symbol] * (1 - last_factor[symbol] / factor[key])
                    assert gained == 0
                    assert held * (implied if told is None else told) - paid == pytest.approx(0.5, abs=0.51)
                else:
                    step = factor[key] / last_factor[symbol]
                    after = became * last_close[symbol] / step + paid
                    assert held * last_close[symbol] - 1.1 <= after <= held * last_close[symbol] + 1e-2
                    assert abs(became - held * step) <= 1.0
                    locked = [
                        (ready, of, math.ceil(amount * step - 1e-6) if of == symbol else amount)
                        for ready, of, amount in locked
                    ]
                cash, shares[symbol] = cash + paid, became
        for side, auction in phases:
            for symbol in SYMBOLS:
                key = session, symbol
                wanted_at = terms.buys_at if side == "buy" else terms.sells_at
                if key not in trades or trades[key][0] != side or wanted_at != auction:
                    continue
                _, count, price, fee, tax = trades[key]
                quote = price_of[auction][key]
                tick = tick_vnd(exchange, quote, session)
                assert price % tick_vnd(exchange, price, session) == 0
                assert 0 <= (price - quote if side == "buy" else quote - price) < tick
                lot, odd = lot_shares(exchange, session), odd_lots_trade(exchange, session)
                assert count > 0
                assert count % lot == 0 or (side == "sell" and odd and count == shares[symbol])
                assert count <= terms.max_participation_frac * volume[key] + 1e-6
                tick = tick_vnd(exchange, reference[key], session)
                on_tick = max(round(reference[key] / tick), 1) * tick
                floor, ceiling = price_limits_vnd(exchange, on_tick, session)
                assert floor <= price <= ceiling
                assert price < ceiling if side == "buy" else price > floor
                assert fee == int(count * price * terms.costs.fee_frac + 0.5)
                assert tax == (int(count * price * terms.costs.sell_tax_frac + 0.5) if side == "sell" else 0)
                cash += (count * price - tax if side == "sell" else -count * price) - fee
                shares[symbol] += count if side == "buy" else -count
                if side == "buy":
                    rule = settlement(session)
                    ready = 2 * (place[session] + rule.delay_sessions) + (not rule.sellable_at_open)
                    locked.append((ready, symbol, count))
                else:
                    half = 2 * place[session] + (auction == "close")
                    arriving = sum(amount for ready, of, amount in locked if of == symbol and ready > half)
                    assert shares[symbol] >= arriving
            assert cash >= 0  # after every auction: no purchase on what a later sale brings
        for symbol in SYMBOLS:
            assert shares[symbol] >= 0
            if (session, symbol) in closed:
                last_close[symbol], last_factor[symbol] = closed[session, symbol], factor[session, symbol]
        if session in reported:
            held_vnd = sum(round(shares[symbol] * last_close[symbol]) for symbol in SYMBOLS if shares[symbol])
            assert reported[session][:3] == (cash + held_vnd, cash, sum(count > 0 for count in shares.values()))


def _by_key(panel: Panel, name: str) -> list[tuple[Key, float]]:
    return [((row[0], row[1]), row[2]) for row in panel.bars.select("session", "symbol", name).iter_rows()]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    start=st.sampled_from(STARTS),
    exchange=st.sampled_from([Exchange.HOSE, Exchange.HNX]),
    buys_at=st.sampled_from(["open", "close"]),
    sells_at=st.sampled_from(["open", "close"]),
    cash=st.integers(10**5, 10**10),
    weighting=st.sampled_from(["equal", "inverse_volatility"]),
)
def test_every_trade_keeps_the_rules_and_money_is_neither_made_nor_lost(
    make_panel: Callable[..., Panel],
    make_predictions: Callable[..., pl.DataFrame],
    make_actions: Callable[..., pl.DataFrame],
    seed: int,
    start: date,
    exchange: Exchange,
    buys_at: Auction,
    sells_at: Auction,
    cash: int,
    weighting: Literal["equal", "inverse_volatility"],
) -> None:
    rng = np.random.default_rng(seed)
    sessions = trading_sessions(start, date(2024, 12, 31))[:LENGTH]
    bars, actions = _walk(rng, sessions, exchange)
    panel = make_panel(sessions, bars, exchange=exchange.value)
    traded = {(row[0], row[1]) for row in panel.bars.select("session", "symbol").iter_rows()}
    scores = {
        symbol: [float(rng.normal()) if (session, symbol) in traded else None for session in sessions[:-1]]
        for symbol in SYMBOLS
    }
    policy = TopKPolicy(
        max_positions=2,
        enter_above=0.4,
        exit_below=0.4,
        resize_band_frac=0.2,
        weighting=weighting,
        volatility_sessions=5,
    )
    terms = AccountTerms(start_cash_vnd=cash, buys_at=buys_at, sells_at=sells_at, max_participation_frac=0.3)
    predictions = make_predictions(sessions, scores)
    result = simulate(panel, predictions, policy, terms=terms, actions=make_actions(actions))
    _replay(panel, result, terms, exchange, actions)


def test_the_replay_sees_trades_conversions_and_refusals_at_all(
    make_panel: Callable[..., Panel],
    make_predictions: Callable[..., pl.DataFrame],
    make_actions: Callable[..., pl.DataFrame],
) -> None:
    seen = dict.fromkeys(("trades", "conversions", "dividends", "odd_sales"), 0)
    refused: dict[str, int] = {}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sessions = trading_sessions(STARTS[seed % 4], date(2024, 12, 31))[:LENGTH]
        exchange = Exchange.HOSE if seed % 8 < 4 else Exchange.HNX
        bars, actions = _walk(rng, sessions, exchange)
        panel = make_panel(sessions, bars, exchange=exchange.value)
        scores = {symbol: [float(rng.normal()) for _ in sessions[:-1]] for symbol in SYMBOLS}
        policy = TopKPolicy(max_positions=2, enter_above=0.4, exit_below=0.4)
        terms = AccountTerms(start_cash_vnd=20_000_000 if seed % 3 else 1_000_000_000)
        predictions = make_predictions(sessions, scores)
        result = simulate(panel, predictions, policy, terms=terms, actions=make_actions(actions))
        seen["trades"] += result.trades.height
        seen["conversions"] += result.conversions.height
        seen["dividends"] += result.conversions.filter(pl.col("shares") == 0, pl.col("cash_vnd") > 0).height
        is_odd = (pl.col("session") > date(2021, 1, 4)) & (pl.col("shares") % 100 > 0)
        seen["odd_sales"] += result.trades.filter(is_odd).height
        refused = {reason: refused.get(reason, 0) + count for reason, count in result.refused.items()}
    assert min(seen.values()) >= 10, seen
    for reason in ("absent", "outside_band", "locked_ceiling", "locked_floor", "not_delivered", "participation"):
        assert refused[reason] > 0, reason
