"""Whether probabilities mean what they say, and whether the most confident calls are better than the rest.

Calls and outcomes follow the rules of `metrics`; intervals are 95 % block bootstraps by session, null under two blocks
of sessions. What counts as confident is cut within each session from the forecasts alone, before any outcome is known,
so that a trader could have taken the same calls that evening.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from vnfleet.core.frames import PREDICTION_KEY, as_prediction_frame
from vnfleet.evaluation.metrics import MODEL_KEY, SESSION_KEY, scored_rows
from vnfleet.evaluation.skill import BLOCK_SESSIONS, mean_interval

COVERAGES = (1.0, 0.5, 0.2, 0.1, 0.05)
NUM_BINS = 10

RELIABILITY_SCHEMA: dict[str, pl.DataType] = {
    "model_id": pl.String(),
    "horizon_sessions": pl.Int32(),
    "bin": pl.Int32(),
    "mean_prob": pl.Float64(),
    "share_up": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "num_rows": pl.Int64(),
}
SELECTIVE_SCHEMA: dict[str, pl.DataType] = {
    "model_id": pl.String(),
    "horizon_sessions": pl.Int32(),
    "kind": pl.String(),
    "coverage_frac": pl.Float64(),
    "accuracy": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "num_rows": pl.Int64(),
    "num_sessions": pl.Int32(),
}

_DUST = 1e-12


def reliability(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, num_bins: int = NUM_BINS, seed: int = 0
) -> pl.DataFrame:
    """Return `RELIABILITY_SCHEMA`: what share really went up where a model said so much, per bin of `direction_prob`.

    Bins hold equal numbers of rows, 1 the lowest probabilities. Rows of equal probability share a bin, so a bin may be
    larger, or missing; a model that states no probabilities has no bins. Calibrated means: mean_prob within low..high.

    Raises
    ------
    ValueError
        When `num_bins` is below 1.
    BadDataError
        On invalid frames.
    """
    if num_bins < 1:
        raise ValueError(f"at least one bin is needed, found num_bins={num_bins}")
    stated = scored_rows(predictions, outcomes).filter(pl.col("direction_prob").is_not_null())
    place = (pl.col("direction_prob").rank("average") - 0.5) / pl.len() * num_bins
    bins = place.floor().clip(0, num_bins - 1).over(MODEL_KEY).cast(pl.Int32) + 1
    binned = stated.with_columns(bin=bins)
    rows: list[dict[str, object]] = []
    for (model_id, horizon), part in binned.group_by(MODEL_KEY, maintain_order=True):
        sessions = part.select("session").unique().sort("session")
        for (number,), members in part.sort("bin").group_by("bin", maintain_order=True):
            share_up, low, high, _ = _pooled(members.select("session", hit="up"), sessions, seed)
            row = {"model_id": model_id, "horizon_sessions": horizon, "bin": number, "share_up": share_up}
            mean_prob = members.get_column("direction_prob").mean()
            rows.append({**row, "mean_prob": mean_prob, "low": low, "high": high, "num_rows": members.height})
    return pl.DataFrame(rows, schema=RELIABILITY_SCHEMA)


def selective(
    predictions: pl.DataFrame, outcomes: pl.DataFrame, *, coverages: Sequence[float] = COVERAGES, seed: int = 0
) -> pl.DataFrame:
    """Return `SELECTIVE_SCHEMA`: the accuracy of each session's most confident calls, per share of them that is taken.

    "relative": confidence is how far the score is from the session's median in rank, the call its side of the median.
    "absolute": confidence is |direction_prob - 0.5|, the call up from 0.5 on. `coverage_frac` is a share of all the
    model's forecasts of the session, rounded up to whole symbols; forecasts as confident as the last one taken are
    taken too, so a model that is equally sure of all has one accuracy at every coverage. Calls whose outcome is unknown
    or on the median are counted in no accuracy; num_rows and num_sessions count the calls judged. A kind a model makes
    no calls of has null accuracies.

    Raises
    ------
    ValueError
        When a coverage is not above 0 and at most 1.
    BadDataError
        On invalid frames.
    """
    if wrong := [share for share in coverages if not 0 < share <= 1]:
        raise ValueError(f"coverage must be above 0 and at most 1, found {wrong}")
    confidence = _taken_at(predictions).select(*PREDICTION_KEY, "relative", "absolute")
    judged = scored_rows(predictions, outcomes).join(confidence, on=list(PREDICTION_KEY), how="left")
    hits = {
        "relative": pl.col("call_above") == pl.col("above"),
        "absolute": (pl.col("direction_prob") >= 0.5) == pl.col("up"),
    }
    rows: list[dict[str, object]] = []
    for (model_id, horizon), part in judged.group_by(MODEL_KEY, maintain_order=True):
        sessions = part.select("session").unique().sort("session")
        for kind, hit in hits.items():
            calls = part.select("session", taken_at=kind, hit=hit).drop_nulls()
            for coverage in coverages:
                taken = calls.filter(pl.col("taken_at") < coverage - _DUST)
                accuracy, low, high, num_sessions = _pooled(taken, sessions, seed)
                row = {"model_id": model_id, "horizon_sessions": horizon, "kind": kind, "coverage_frac": coverage}
                found = {"accuracy": accuracy, "low": low, "high": high, "num_rows": taken.height}
                rows.append({**row, **found, "num_sessions": num_sessions})
    return pl.DataFrame(rows, schema=SELECTIVE_SCHEMA)


def _taken_at(predictions: pl.DataFrame) -> pl.DataFrame:
    """Add per kind the share of the session's forecasts that is more confident: taken at coverages above it."""
    middle = (pl.col("score").count() + 1) / 2
    distance = {
        "relative": ((pl.col("score").rank("average") - middle).abs()).over(SESSION_KEY),
        "absolute": (pl.col("direction_prob") - 0.5).abs().round(12),
    }
    more_confident = [
        ((pl.col(kind).rank("min", descending=True) - 1) / pl.col(kind).count()).over(SESSION_KEY).alias(kind)
        for kind in distance
    ]
    return as_prediction_frame(predictions).with_columns(**distance).with_columns(more_confident)


def _pooled(
    rows: pl.DataFrame, sessions: pl.DataFrame, seed: int
) -> tuple[float | None, float | None, float | None, int]:
    """Return the share of `hit` in rows (session, hit), its interval, and the number of sessions with a row.

    The interval resamples all the model's sessions, those without such a row too.
    """
    daily = rows.group_by("session").agg(share=pl.col("hit").mean(), num_rows=pl.len())
    if daily.height < 2 * BLOCK_SESSIONS:
        return (float(rows.get_column("hit").sum() / rows.height) if rows.height else None), None, None, daily.height
    known = sessions.join(daily, on="session", how="left").fill_null(0).sort("session")
    share, weights = known.get_column("share").to_numpy(), known.get_column("num_rows").to_numpy()
    low, high = mean_interval(share, weights=weights, seed=seed)
    return float((share * weights).sum() / weights.sum()), max(low, 0.0), min(high, 1.0), daily.height
