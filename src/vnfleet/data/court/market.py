"""What concerns the whole market: holes, surprising sessions, columns that vanish, a day read before its close."""

from __future__ import annotations

import polars as pl

from vnfleet.data.court.findings import FINDING_SCHEMA, findings, said

MARKET = "*"
DRIFT_WINDOW_SESSIONS = 20
DRIFT_FROM_FRAC, DRIFT_TO_FRAC = 0.05, 0.5
IN_SESSION_FRAC = 0.45
IN_SESSION_MIN_SYMBOLS = 20
_WATCHED = (
    "open_vnd",
    "high_vnd",
    "low_vnd",
    "close_vnd",
    "adjusted_close_vnd",
    "stated_reference_vnd",
    "volume_shares",
)


def _of_market(rows: pl.DataFrame, check: str, severity: str, text: pl.Expr) -> pl.DataFrame:
    return findings(rows.with_columns(symbol=pl.lit(MARKET)), check, severity, "accept", text)


def check_market(sessions: pl.Series, index: pl.DataFrame, expected: pl.Series) -> list[pl.DataFrame]:
    """Return where the market axis, the index and the calendar (`expected`, may be empty) disagree."""
    if sessions.is_empty():
        return []

    def days(series: pl.Series, check: str, text: str) -> pl.DataFrame:
        return _of_market(pl.DataFrame({"session": series}), check, "warn", pl.lit(text))

    no_index = sessions.filter(~sessions.is_in(index.get_column("session").implode()))
    found = [days(no_index, "index_missing", "symbols traded, the index has no bar")] if index.height else []
    if len(expected):
        holes = expected.filter((expected >= sessions.min()) & ~expected.is_in(sessions.implode()))
        inside = sessions.filter((sessions >= expected.min()) & (sessions <= expected.max()))
        surprises = inside.filter(~inside.is_in(expected.implode()))
        found.append(days(holes, "market_hole", "the calendar expects a session, the source has nothing"))
        found.append(days(surprises, "unexpected_session", "the market traded on a day the calendar has closed"))
    return found


def check_drift(raw: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the sessions from which on a column that used to be there is mostly absent (a vendor's format changed).

    raw : `RAW_SCHEMA` as the source told it.
    """
    if raw.is_empty():
        return []
    shares = (
        raw.group_by("session")
        .agg(
            ((pl.col(name).is_null()) | (pl.col(name) == 0)).mean()
            if name != "volume_shares"
            else pl.col(name).is_null().mean()
            for name in _WATCHED
        )
        .sort("session")
    )
    found = []
    for name in _WATCHED:
        before = pl.col(name).shift(1).rolling_max(DRIFT_WINDOW_SESSIONS, min_samples=DRIFT_WINDOW_SESSIONS)
        gone = shares.filter((before <= DRIFT_FROM_FRAC) & (pl.col(name) >= DRIFT_TO_FRAC))
        found.append(
            _of_market(
                gone,
                "drift",
                "error",
                said(
                    "{} is absent in {} % of the rows, and was there before",
                    pl.lit(name),
                    (100 * pl.col(name)).round(0),
                ),
            )
        )
    return found


def check_in_session(bars: pl.DataFrame, sessions: pl.Series) -> list[pl.DataFrame]:
    """Return whether the newest session looks as if it had been read before the close: half the usual volumes."""
    if len(sessions) <= DRIFT_WINDOW_SESSIONS:
        return []
    newest = sessions.to_list()[-1]
    first = sessions.to_list()[-1 - DRIFT_WINDOW_SESSIONS]
    recent = bars.filter((pl.col("session") >= first) & (pl.col("volume_shares") > 0))
    usual = recent.filter(pl.col("session") < newest).group_by("symbol").agg(usual=pl.col("volume_shares").median())
    today = recent.filter(pl.col("session") == newest).join(usual, on="symbol")
    if today.height < IN_SESSION_MIN_SYMBOLS:
        return []
    ratio = today.select((pl.col("volume_shares") / pl.col("usual")).median()).item()
    if ratio >= IN_SESSION_FRAC:
        return []
    row = pl.DataFrame({"session": [newest], "ratio": [ratio]})
    return [
        _of_market(
            row,
            "in_session",
            "warn",
            said("volumes are {} of the usual: was it read before the close?", pl.col("ratio").round(2)),
        )
    ]


def check_holes(on_axis: pl.DataFrame) -> pl.DataFrame:
    """Return runs of market sessions for which a symbol has no usable row, dated by the row after the hole."""
    holes = (
        on_axis.with_columns(missing=(pl.col("position") - pl.col("position").shift(1) - 1).over("symbol"))
        .filter(pl.col("missing") > 0)
        .select("symbol", "session", "missing")
    )
    return findings(
        holes, "missing_session", "warn", "accept", said("{} market sessions before have no row", "missing")
    ).cast(pl.Schema(FINDING_SCHEMA))
