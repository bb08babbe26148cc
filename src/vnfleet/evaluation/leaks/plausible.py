"""Too good to be true: three warnings. They block nothing, because an honest model may be good.

Where the limits come from. *Level*: published rank ICs of 5-session returns of honest models lie between 0.03 and 0.10;
0.15 and more were leaks (a sampler that filled forward, labels dropped from the test set, a whole-window scaler).
*Horizon*: if every session of the future adds an equal, independent piece of the signal, rank IC grows with the square
root of the horizon; what grows faster knows more about later sessions than about the next. *LightGBM*: in ten judged
fold-years (five years, each from two vendors, `benchmarks/weekly_cycle_2core_202611.md`) the pooled Stockformer was
0.015 in rank IC ahead of LightGBM of the same fold on average, with a standard deviation of 0.021 from year to year. An
honest model is more than 0.015 + 2.33 * 0.021 = 0.065 ahead in about one year of a hundred; the published leaks were
worth 0.09 and more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from vnfleet.evaluation.leaks.report import LeakCheck
from vnfleet.evaluation.metrics import paired_daily
from vnfleet.evaluation.skill import BLOCK_SESSIONS, mean_interval

MOST_RANK_IC = 0.15
MARGIN_OVER_LIGHTGBM = 0.065
_MIN_SESSIONS_OF_YEAR = 60


def too_good_level(what: str, daily_ic: pl.DataFrame, *, most_rank_ic: float = MOST_RANK_IC) -> LeakCheck:
    """Warn when the mean rank IC of `daily_ic` (session, rank_ic) is above what honest models reach."""
    values = daily_ic.get_column("rank_ic").drop_nulls().to_numpy()
    name = f"too_good_level:{what}"
    if not values.size:
        return LeakCheck(name=name, passed=None, blocks=False, limit=most_rank_ic, words="no rank IC yet")
    mean = float(values.mean())
    passed = mean <= most_rank_ic
    words = f"rank IC {mean:.3f} over {values.size} sessions; " + (
        f"honest models stay below {most_rank_ic:.2f}" if passed else f"above {most_rank_ic:.2f}, look for a leak first"
    )
    return LeakCheck(name=name, passed=passed, blocks=False, value=mean, limit=most_rank_ic, words=words)


def too_good_horizon(what: str, daily_by_horizon: Mapping[int, pl.DataFrame]) -> LeakCheck:
    """Warn when rank IC grows faster than the square root of the horizon.

    daily_by_horizon : of the same scores against outcomes of each horizon, frames (session, rank_ic). The longest is
    compared with the shortest; only a growth whose whole 95 % interval lies above the square root counts.
    """
    name = f"too_good_horizon:{what}"
    horizons = sorted(daily_by_horizon)
    if len(horizons) < 2:
        return LeakCheck(name=name, passed=None, blocks=False, words="only one horizon is known")
    short, long = horizons[0], horizons[-1]
    both = (
        daily_by_horizon[short]
        .select("session", short="rank_ic")
        .join(daily_by_horizon[long].select("session", long="rank_ic"), on="session")
        .drop_nulls()
        .sort("session")
    )
    if both.height < 2 * BLOCK_SESSIONS:
        return LeakCheck(name=name, passed=None, blocks=False, words=f"{both.height} sessions are too few to tell")
    growth = (long / short) ** 0.5
    short_T, long_T = both.get_column("short").to_numpy(), both.get_column("long").to_numpy()
    # a score without any skill at the short horizon would allow none at the long one: noise there counts as 0
    allowed_T = growth * (short_T if short_T.mean() > 0 else np.zeros_like(short_T))
    low, _ = mean_interval(long_T - allowed_T)
    passed = low <= 0
    words = f"rank IC {short_T.mean():.3f} over {short} and {long_T.mean():.3f} over {long} sessions: " + (
        f"no faster than a signal that keeps its strength (x {growth:.2f})"
        if passed
        else f"faster than x {growth:.2f}, it knows more of the far sessions than of the next"
    )
    limit = float(allowed_T.mean())
    return LeakCheck(name=name, passed=passed, blocks=False, value=float(long_T.mean()), limit=limit, words=words)


def too_good_lightgbm(daily_ic: pl.DataFrame, candidate: str, lightgbm: str, *, horizon_sessions: int) -> LeakCheck:
    """Warn when in some year the candidate beats LightGBM of the same fold by more than honest models do.

    daily_ic : `evaluation.metrics.daily_rank_ic` of both; years with at least 60 sessions count.
    """
    name = f"too_good_lightgbm:{candidate}"
    margins: dict[int, float] = {}
    for year in sorted(daily_ic.get_column("session").dt.year().unique().to_list()):
        part = daily_ic.filter(pl.col("session").dt.year() == year)
        mine, theirs = paired_daily(part, candidate, lightgbm, horizon_sessions=horizon_sessions)
        if mine.size >= _MIN_SESSIONS_OF_YEAR:
            margins[year] = float((mine - theirs).mean())
    if not margins:
        words = "no year in which both were judged"
        return LeakCheck(name=name, passed=None, blocks=False, limit=MARGIN_OVER_LIGHTGBM, words=words)
    year = max(margins, key=lambda one: margins[one])
    passed = margins[year] <= MARGIN_OVER_LIGHTGBM
    words = f"against LightGBM of the same fold at best {margins[year]:+.3f} rank IC ({year}); " + (
        f"honest models stay below {MARGIN_OVER_LIGHTGBM:+.3f} in 99 years of 100"
        if passed
        else f"above {MARGIN_OVER_LIGHTGBM:+.3f}, look for a leak first"
    )
    return LeakCheck(
        name=name, passed=passed, blocks=False, value=margins[year], limit=MARGIN_OVER_LIGHTGBM, words=words
    )
