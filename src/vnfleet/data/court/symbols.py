"""The verdict on whole symbols: accept, retired (the past may be used, the symbol not be traded now), quarantine."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from vnfleet.data.court.findings import findings, said

MIN_SESSIONS = 100
MAX_GAP_SESSIONS = 5
GAP_WINDOW_SESSIONS = 250
MAX_AGE_DAYS = 7
STALE_TAIL_ROWS = 10
"""From this many newest rows without volume at one price, a symbol is taken as suspended."""
MAX_MASKED_FRAC = 0.2
"""A vendor that contradicts itself on more of a symbol's rows than this is not believed about the others."""

QUALITY_SYMBOL_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "verdict": pl.String(),
    "reasons": pl.String(),
    "num_sessions": pl.Int32(),
    "first_session": pl.Date(),
    "last_session": pl.Date(),
}


def stale_tails(bars: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, tail, session: how many newest rows have no volume and one price, and the first of them."""
    moved = (pl.col("volume_shares") > 0) | (pl.col("close_vnd") != pl.col("close_vnd").shift(1).over("symbol"))
    after = bars.with_columns(run=moved.fill_null(value=True).cast(pl.Int32).cum_sum().over("symbol")).filter(
        pl.col("run") == pl.col("run").max().over("symbol")
    )
    still = after.filter(pl.col("volume_shares") == 0)
    return (
        still.group_by("symbol")
        .agg(tail=pl.len(), session=pl.col("session").min())
        .filter(pl.col("tail") >= STALE_TAIL_ROWS)
        .sort("symbol")
    )


def stale_tail_findings(tails: pl.DataFrame) -> pl.DataFrame:
    """Return a finding for each symbol that ends in a stale tail."""
    return findings(
        tails,
        "stale_tail",
        "warn",
        "accept",
        said("the newest {} rows have no volume and one price: suspended", "tail"),
    )


def judge_symbols(
    raw: pl.DataFrame, on_axis: pl.DataFrame, found: pl.DataFrame, num_sessions: int, last_expected: date
) -> pl.DataFrame:
    """Return `QUALITY_SYMBOL_SCHEMA`, one row a symbol of `raw`, sorted.

    quarantine : too short, or too much of it masked. retired : full of gaps at its recent end, suspended or too old.

    raw : the bars as told. on_axis : usable rows on the market's sessions with their `position`. found : findings so
    far; the masks among them explain short histories.
    """
    start = max(0, num_sessions - GAP_WINDOW_SESSIONS)
    facts = on_axis.group_by("symbol").agg(
        num_sessions=(pl.col("volume_shares") > 0).sum().cast(pl.Int32),
        first_session=pl.col("session").min(),
        last_session=pl.col("session").max(),
        gap=(
            pl.concat_list(
                pl.col("position").filter(pl.col("position") >= start).diff().max() - 1,
                num_sessions - 1 - pl.col("position").max(),
                # a row before the window that is missing up to its first row inside
                pl.when(pl.col("position").min() < start)
                .then(pl.col("position").filter(pl.col("position") >= start).min() - start)
                .otherwise(0),
            ).list.max()
        ),
    )
    symbols = (
        raw.group_by("symbol")
        .agg(num_told=pl.col("session").n_unique())
        .join(facts, on="symbol", how="left")
        .join(_masks(found), on="symbol", how="left")
        .join(stale_tails(on_axis), on="symbol", how="left")
        .with_columns(pl.col("num_sessions", "num_masked").fill_null(0))
    )
    oldest = last_expected - timedelta(days=MAX_AGE_DAYS)
    masked = (
        pl.when(pl.col("num_masked") > 0)
        .then(said(" ({} rows masked: {})", "num_masked", "masks"))
        .otherwise(pl.lit(""))
    )
    unusable = pl.concat_list(
        pl.when(pl.col("num_sessions") < MIN_SESSIONS).then(
            pl.concat_str(said(f"{{}} traded sessions, at least {MIN_SESSIONS} needed", "num_sessions"), masked)
        ),
        pl.when(
            (pl.col("num_masked") > MAX_MASKED_FRAC * pl.col("num_told")) & (pl.col("num_sessions") >= MIN_SESSIONS)
        ).then(pl.concat_str(said("too much of it contradicts itself: {} sessions told", "num_told"), masked)),
    ).list.drop_nulls()
    stopped = pl.concat_list(
        pl.when(pl.col("gap") > MAX_GAP_SESSIONS).then(
            pl.concat_str(
                said(
                    f"{{}} sessions without a bar in the last {GAP_WINDOW_SESSIONS}, "
                    f"at most {MAX_GAP_SESSIONS} allowed",
                    "gap",
                ),
                masked,
            )
        ),
        pl.when(pl.col("tail").is_not_null()).then(
            said("suspended: the newest {} rows have no volume and one price, since {}", "tail", "session")
        ),
        pl.when(pl.col("last_session") < oldest).then(
            said(f"last row {{}}, at most {MAX_AGE_DAYS} days before {last_expected} allowed", "last_session")
        ),
    ).list.drop_nulls()
    return (
        symbols.with_columns(unusable=unusable, stopped=stopped)
        .with_columns(
            reasons=pl.concat_list("unusable", "stopped").list.join("; "),
            verdict=pl.when(pl.col("unusable").list.len() > 0)
            .then(pl.lit("quarantine"))
            .when(pl.col("stopped").list.len() > 0)
            .then(pl.lit("retired"))
            .otherwise(pl.lit("accept")),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in QUALITY_SYMBOL_SCHEMA.items())
        .sort("symbol")
    )


def _masks(found: pl.DataFrame) -> pl.DataFrame:
    """Return symbol, num_masked and masks ("conflict 12, volume 3") of the masked rows."""
    return (
        found.filter((pl.col("verdict") == "mask") & (pl.col("check") != "off_axis") & pl.col("session").is_not_null())
        .group_by("symbol", "check")
        .agg(count=pl.len())
        .sort("symbol", "count", "check", descending=[False, True, False])
        .group_by("symbol", maintain_order=True)
        .agg(num_masked=pl.col("count").sum(), masks=said("{} {}", "check", "count").str.join(", "))
    )
