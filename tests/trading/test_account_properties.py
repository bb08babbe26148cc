"""Whatever the market does, the account keeps the rules: every trade is replayed with plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnfleet.data.panel import Panel
from vnfleet.market.calendar import trading_sessions
from vnfleet.market.rules import Exchange, lot_shares, price_limits_vnd, settlement, tick_vnd
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import AccountTerms, SimulationResult, simulate

SYMBOLS = ("AAA", "BBB", "CCC")
# lot change, delivery change, quiet times
STARTS = (date(2020, 12, 22), date(2022, 8, 22), date(2024, 3, 1))
LENGTH = 14
Walk = dict[str, list[tuple[float, float, int, float] | None]]


def _walk(rng: np.random.Generator, sessions: list[date], *, events: bool) -> Walk:
    """A random market: moves up to the limits and now and then beyond, holes, corporate actions, thin volume."""
    bars: Walk = {}
    for symbol in SYMBOLS:
        price, factor, rows = float(rng.integers(3, 90)) * 1_000, 1.0, bars.setdefault(symbol, [])
        for place, session in enumerate(sessions):
            if place and rng.random() < 0.12:
                rows.append(None)
                continue
            if events and place and rng.random() < 0.1:
                step = float(rng.choice([2.0, 1.1, 1.15, 1.0303, 0.9997, 1.99987]))
                factor, price = factor * step, price / step
            reference = max(round(price / 100) * 100.0, 1_000.0)
            floor, ceiling = price_limits_vnd(Exchange.HOSE, reference, session)
            opened, closed = (
                float(rng.choice([floor, ceiling, _near(rng, reference, session), ceiling * 1.05]))
                if rng.random() < 0.4
                else _near(rng, reference, session)
                for _ in range(2)
            )
            rows.append((round(opened, -1), round(closed, -1), int(rng.integers(1, 200)) * 100, factor))
            price = round(closed, -1)
    return bars


def _near(rng: np.random.Generator, reference: float, session: date) -> float:
    tick = tick_vnd(Exchange.HOSE, reference, session)
    return reference + tick * int(rng.integers(-3, 4))


def _replay(panel: Panel, result: SimulationResult, terms: AccountTerms) -> None:
    place = {session: index for index, session in enumerate(panel.sessions)}
    opened, closed, factor = (dict(_by_key(panel, name)) for name in ("open_vnd", "close_vnd", "factor"))
    volume, reference = (dict(_by_key(panel, name)) for name in ("volume_shares", "reference_vnd"))
    cash, shares, locked = terms.start_cash_vnd, dict.fromkeys(SYMBOLS, 0), [(0, "", 0)]
    last_close: dict[str, float] = {}
    last_factor: dict[str, float] = {}
    converted = {(row[0], row[1]): row[2:] for row in result.conversions.iter_rows()}
    trades = {(row[0], row[1]): row[2:] for row in result.trades.iter_rows()}
    reported = {row[0]: row[1:] for row in result.equity.iter_rows()}
    for session in panel.sessions:
        for symbol in SYMBOLS:
            key = session, symbol
            if key in converted:
                gained, paid = converted[key]
                step = factor[key] / last_factor[symbol]
                before = shares[symbol] * last_close[symbol]
                after = (shares[symbol] + gained) * last_close[symbol] / step + paid
                assert before - 1.1 <= after <= before + 1e-3
                assert (shares[symbol] + gained) % lot_shares(Exchange.HOSE, session) == 0
                cash, shares[symbol] = cash + paid, shares[symbol] + gained
                locked = [entry for entry in locked if entry[1] != symbol]  # checked without events below
        for side in ("sell", "buy"):
            for symbol in SYMBOLS:
                key = session, symbol
                if key not in trades or trades[key][0] != side:
                    continue
                _, count, price, fee, tax = trades[key]
                assert price == (closed if terms.sell_at_close and side == "sell" else opened)[key]
                assert count > 0
                assert count % lot_shares(Exchange.HOSE, session) == 0
                assert count <= terms.max_participation_frac * volume[key] + 1e-6
                tick = tick_vnd(Exchange.HOSE, reference[key], session)
                on_tick = max(round(reference[key] / tick), 1) * tick
                floor, ceiling = price_limits_vnd(Exchange.HOSE, on_tick, session)
                assert floor <= price <= ceiling
                assert price < ceiling if side == "buy" else price > floor
                assert fee == int(count * price * terms.costs.fee_frac + 0.5)
                assert tax == (int(count * price * terms.costs.sell_tax_frac + 0.5) if side == "sell" else 0)
                cash += (count * price - tax if side == "sell" else -count * price) - fee
                shares[symbol] += count if side == "buy" else -count
                half = 2 * place[session] + (side == "sell" and terms.sell_at_close)
                if side == "buy":
                    rule = settlement(session)
                    ready = 2 * (place[session] + rule.delay_sessions) + (not rule.sellable_at_open)
                    locked.append((ready, symbol, count))
                under_way = sum(amount for ready, of, amount in locked if of == symbol and ready > half)
                assert shares[symbol] >= under_way
                if not terms.sell_at_close:
                    assert cash >= 0
        assert cash >= 0
        for symbol in SYMBOLS:
            assert shares[symbol] >= 0
            if (session, symbol) in closed:
                last_close[symbol], last_factor[symbol] = closed[session, symbol], factor[session, symbol]
        if session in reported:
            held = sum(round(shares[symbol] * last_close[symbol]) for symbol in SYMBOLS if shares[symbol])
            assert reported[session][:3] == (cash + held, cash, sum(count > 0 for count in shares.values()))


def _by_key(panel: Panel, name: str) -> list[tuple[tuple[date, str], float]]:
    return [((row[0], row[1]), row[2]) for row in panel.bars.select("session", "symbol", name).iter_rows()]


@pytest.mark.parametrize("events", [False, True])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6), start=st.sampled_from(STARTS), at_close=st.booleans(), cash=st.integers(10**5, 10**10)
)
def test_every_trade_keeps_the_rules_and_money_is_neither_made_nor_lost(
    make_panel: Callable[..., Panel],
    make_predictions: Callable[..., pl.DataFrame],
    events: bool,
    seed: int,
    start: date,
    at_close: bool,
    cash: int,
) -> None:
    rng = np.random.default_rng(seed)
    sessions = trading_sessions(start, date(2024, 12, 31))[:LENGTH]
    panel = make_panel(sessions, _walk(rng, sessions, events=events))
    traded = {(row[0], row[1]) for row in panel.bars.select("session", "symbol").iter_rows()}
    scores = {
        symbol: [float(rng.normal()) if (session, symbol) in traded else None for session in sessions[:-1]]
        for symbol in SYMBOLS
    }
    policy = TopKPolicy(max_positions=2, enter_above=0.4, exit_below=0.4, resize_band_frac=0.2)
    terms = AccountTerms(start_cash_vnd=cash, sell_at_close=at_close, max_participation_frac=0.3)
    result = simulate(panel, make_predictions(sessions, scores), policy, terms=terms)
    _replay(panel, result, terms)


def test_the_replay_sees_trades_conversions_and_refusals_at_all(
    make_panel: Callable[..., Panel], make_predictions: Callable[..., pl.DataFrame]
) -> None:
    seen = dict.fromkeys(("trades", "conversions"), 0)
    refused: dict[str, int] = {}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sessions = trading_sessions(STARTS[seed % 3], date(2024, 12, 31))[:LENGTH]
        panel = make_panel(sessions, _walk(rng, sessions, events=True))
        scores = {symbol: [float(rng.normal()) for _ in sessions[:-1]] for symbol in SYMBOLS}
        policy = TopKPolicy(max_positions=2, enter_above=0.4, exit_below=0.4)
        result = simulate(panel, make_predictions(sessions, scores), policy)
        seen["trades"] += result.trades.height
        seen["conversions"] += result.conversions.height
        refused = {reason: refused.get(reason, 0) + count for reason, count in result.refused.items()}
    assert min(seen.values()) > 20
    for reason in ("absent", "outside_band", "locked_ceiling", "locked_floor", "not_delivered", "participation"):
        assert refused[reason] > 0, reason
