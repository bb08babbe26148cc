"""Who is scored and at which price: every test row, entered at the next open and never on the signal's session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import polars as pl

from vnfleet.core.frames import OUTCOME_SCHEMA
from vnfleet.data.panel import Panel
from vnfleet.evaluation.leaks.report import LeakCheck

RETURN_TOLERANCE = 1e-9
_KEY = ("symbol", "session")


def known_outcomes(panel: Panel, horizon_sessions: int) -> pl.DataFrame:
    """Return the outcomes of `panel` as an outcome frame, found another way than `data.outcomes` finds them.

    From the long frame by joins: the open of session t + 1 and the close of t + h, both adjusted, with no untrusted
    price step on the way; the benchmark is the median over all symbols.
    """
    axis = pl.DataFrame({"session": panel.sessions}, schema={"session": pl.Date()}).with_row_index("place")
    steps = pl.col("break_before").fill_null(value=False).cast(pl.Int64)
    bars = panel.bars.join(axis, on="session").select(
        "symbol",
        place=pl.col("place").cast(pl.Int64),
        open=pl.col("open_vnd") * pl.col("factor"),
        close=pl.col("close_vnd") * pl.col("factor"),
        breaks=steps.cum_sum().over("symbol"),
        step=steps,
    )
    leave = bars.select("symbol", "close", place=pl.col("place") - horizon_sessions, breaks_after=pl.col("breaks"))
    decided = bars.select(
        "symbol", "open", place=pl.col("place") - 1, breaks_before=pl.col("breaks") - pl.col("step")
    ).join(leave, on=["symbol", "place"])
    days = pl.Series("session", panel.sessions, dtype=pl.Date)
    found = decided.filter(
        (pl.col("place") >= 0)
        & (pl.col("breaks_before") == pl.col("breaks_after"))
        & pl.col("open").is_finite()
        & pl.col("close").is_finite()
    ).sort("symbol", "place")
    place_N = found.get_column("place").to_numpy()
    return found.select(
        "symbol",
        session=days.gather(place_N),
        horizon_sessions=pl.lit(horizon_sessions, pl.Int32),
        return_frac=pl.col("close") / pl.col("open") - 1.0,
        known_on=days.gather(place_N + horizon_sessions),
    ).with_columns(benchmark_return_frac=pl.col("return_frac").median().over("session"))[list(OUTCOME_SCHEMA)]


def rows_scored(what: str, expected: pl.DataFrame, scored: pl.DataFrame) -> LeakCheck:
    """Check that the rows that could be judged are the rows that were: test rows in = rows scored.

    expected, scored : symbol, session. A row that could be judged has complete features at the decision and an outcome.
    Catches test rows dropped by what their label turned out to be.
    """
    lost = expected.join(scored, on=_KEY, how="anti").height
    extra = scored.join(expected, on=_KEY, how="anti").height
    total = expected.height
    if not total:
        return LeakCheck(name=f"rows_scored:{what}", passed=None, words="no test row has an outcome yet", limit=0.0)
    words = (
        f"{lost:,} of {total:,} test rows were not scored, {extra:,} were that could not be"
        if lost or extra
        else f"all of {total:,} test rows were scored, and no other"
    )
    return LeakCheck(
        name=f"rows_scored:{what}", passed=not lost and not extra, value=float(lost + extra), limit=0.0, words=words
    )


def entry_prices(what: str, panel: Panel, outcomes: pl.DataFrame, horizon_sessions: int) -> LeakCheck:
    """Check that outcomes are those of buying at the next open and selling at the close h sessions after the decision.

    Returns and benchmark are computed again from the prices; catches an entry at the close that gave the signal, and
    outcomes that are missing or invented.
    """
    key = [*_KEY, "horizon_sessions"]
    both = known_outcomes(panel, horizon_sessions).join(outcomes, on=key, how="full", suffix="_told", coalesce=True)
    wrong = pl.lit(value=False)
    for name in ("return_frac", "benchmark_return_frac"):
        difference = (pl.col(name) - pl.col(f"{name}_told")).abs()
        wrong |= (difference > RETURN_TOLERANCE).fill_null(value=True)
    wrong |= pl.col("known_on").ne_missing(pl.col("known_on_told"))
    num_wrong = both.filter(wrong).height
    words = (
        f"{num_wrong:,} of {both.height:,} outcomes are not those of the next open to the close of session t + "
        f"{horizon_sessions}"
        if num_wrong
        else f"{both.height:,} outcomes run from the next open to the close of session t + {horizon_sessions}"
    )
    passed = (not num_wrong) if both.height else None
    return LeakCheck(name=f"entry:{what}", passed=passed, value=float(num_wrong), limit=0.0, words=words)


def entry_trades(whole: pl.DataFrame, without: Callable[[date], pl.DataFrame], cuts: Sequence[date]) -> LeakCheck:
    """Check that the account never trades on the session whose close gave the signal.

    whole : trades (session, symbol, side, shares, price_vnd) with all forecasts; `without(t)` : trades of the same
    account that knows only the forecasts made before session t. Up to and including t they must be the same.
    """
    columns = ["session", "symbol", "side", "shares", "price_vnd"]
    moved, compared = 0, 0
    for cut in cuts:
        known = whole.filter(pl.col("session") <= cut).select(columns)
        again = without(cut).filter(pl.col("session") <= cut).select(columns)
        moved += known.join(again, on=columns, how="anti").height + again.join(known, on=columns, how="anti").height
        compared += known.height
    if not compared:
        return LeakCheck(name="entry:account", passed=None, words="the account did not trade", limit=0.0)
    words = (
        f"{moved:,} trades follow a forecast of their own session or a later one"
        if moved
        else f"{compared:,} trades up to {len(cuts)} sessions do not know the forecasts of those sessions"
    )
    return LeakCheck(name="entry:account", passed=not moved, value=float(moved), limit=0.0, words=words)


def judgeable_rows(
    values_present_ST: np.ndarray, panel: Panel, sessions: range, context_sessions: int, outcomes: pl.DataFrame
) -> pl.DataFrame:
    """Return symbol, session of the rows of `sessions` that can be judged: features, whole context, known outcome.

    values_present_ST : where features are complete. A symbol's context begins with its first such session.
    """
    num_sessions = values_present_ST.shape[1]
    first_S = np.where(values_present_ST.any(axis=1), values_present_ST.argmax(axis=1), num_sessions)
    usable_ST = values_present_ST & (np.arange(num_sessions) >= (first_S + context_sessions)[:, None])
    rows, columns = np.nonzero(usable_ST[:, sessions.start : sessions.stop])
    able = pl.DataFrame(
        {
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(rows),
            "session": pl.Series(panel.sessions, dtype=pl.Date).gather(columns + sessions.start),
        }
    )
    return able.join(outcomes.select(_KEY), on=_KEY, how="semi")
