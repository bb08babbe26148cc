"""Canaries: a learner that learned nothing must know nothing, and one that cheats must be seen to win.

Axes: S symbols, T sessions, F features, N rows, K shuffles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from vnfleet.evaluation.leaks.report import LeakCheck
from vnfleet.evaluation.skill import BLOCK_SESSIONS, mean_interval, paired_difference

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CONFIDENCE = 0.99
"""Of the intervals here: one false alarm in a hundred checks, not one in twenty."""
NEIGHBOURS = 5
_CHUNK_ROWS = 2_000
_CLIP = 5.0
_LEAST_SYMBOLS = 5


def shuffled_labels(what: str, daily_ics: Sequence[pl.DataFrame]) -> LeakCheck:
    """Check that models fitted on labels dealt anew within each session have no rank IC on the true outcomes.

    daily_ics : of each shuffle a frame (session, rank_ic). Each shuffled fit is a rule at random, and a rule at random
    can rank this market by luck, so the interval of the mean covers both kinds of luck: 99 % block bootstrap over
    sessions of the mean over shuffles, and 99 % Student t over shuffles, whichever is wider. Catches test sets in the
    choice of epochs, signs or rows. None with fewer than two blocks of sessions or three shuffles.
    """
    name = f"shuffled_labels:{what}"
    known = [frame.filter(pl.col("rank_ic").is_not_null()) for frame in daily_ics]
    known = [frame for frame in known if frame.height]
    if len(known) < 3:
        return LeakCheck(name=name, passed=None, words="fewer than three shuffles gave a rank IC")
    by_session = pl.concat(known).group_by("session").agg(pl.col("rank_ic").mean()).sort("session")
    means_K = np.array([float(frame.get_column("rank_ic").to_numpy().mean()) for frame in known])
    values_T = by_session.get_column("rank_ic").to_numpy()
    if values_T.size < 2 * BLOCK_SESSIONS:
        return LeakCheck(name=name, passed=None, words=f"{values_T.size} sessions are too few to tell")
    mean = float(means_K.mean())
    low, high = mean_interval(values_T, confidence=CONFIDENCE)
    over_sessions = (high - low) / 2.0
    quantile = float(t.ppf((1.0 + CONFIDENCE) / 2.0, len(means_K) - 1))
    over_shuffles = quantile * float(means_K.std(ddof=1)) / len(means_K) ** 0.5
    limit = max(over_sessions, over_shuffles)
    passed = abs(mean) <= limit
    words = (
        f"after {len(known)} fits on labels dealt anew the rank IC is {mean:+.4f}, "
        f"{'0' if passed else 'not 0'} within +-{limit:.4f}"
        + ("" if passed else ": the forecasts know outcomes another way")
    )
    return LeakCheck(name=name, passed=passed, value=mean, limit=limit, words=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRows:
    """What the random-split canary is made of.

    values_STF : features, NaN where absent. excess_ST : outcome less the session's median, NaN where unknown.
    window : the sessions that are looked at, the judged ones included. test : the judged sessions.
    product_train_ST, product_test_ST : the rows the product fits on and judges.
    """

    values_STF: NDArray[np.floating]
    excess_ST: Floats
    window: range
    test: range
    horizon_sessions: int
    product_train_ST: Flags
    product_test_ST: Flags


def random_split(rows: SplitRows, *, seed: int = 0) -> LeakCheck:
    """Show what a random split would claim, and check that the product's split does not claim it.

    The same learner (the mean outcome of the five most similar rows) is judged three times: on random halves of all
    rows, where it finds the neighbouring sessions whose labels overlap; on purged history; and on the product's own
    rows. The product's rank IC must lie nearer to the purged than to the random one. None when the random split shows
    no inflation here, so that nothing could be told.
    """
    usable_ST = np.isfinite(rows.excess_ST) & np.isfinite(rows.values_STF).all(axis=2)
    usable_ST &= _marks(usable_ST.shape, rows.window)
    every_other_T = np.arange(usable_ST.shape[1]) % 2 == 0
    judged_ST = usable_ST & _marks(usable_ST.shape, rows.test) & every_other_T
    history = range(rows.window.start, max(rows.window.start, rows.test.start - rows.horizon_sessions))
    purged_ST = usable_ST & _marks(usable_ST.shape, history)
    half_ST = np.random.default_rng(seed).random(usable_ST.shape) < 0.5
    scores_ST = np.full(usable_ST.shape, np.nan)
    for mine in (half_ST, ~half_ST):
        _score(rows, usable_ST & ~mine, judged_ST & mine, scores_ST)
    random_T = _daily_ic(scores_ST, rows.excess_ST)
    purged_T = _daily_ic(_scored(rows, purged_ST, judged_ST), rows.excess_ST)
    product_train_ST, product_test_ST = (
        usable_ST & rows.product_train_ST,
        usable_ST & rows.product_test_ST & every_other_T,
    )
    product_T = _daily_ic(_scored(rows, product_train_ST, product_test_ST), rows.excess_ST)
    both = np.isfinite(random_T) & np.isfinite(purged_T)
    if both.sum() < 2 * BLOCK_SESSIONS or not np.isfinite(product_T).any():
        return LeakCheck(name="random_split", passed=None, words="too few rows to tell")
    inflation = paired_difference(random_T[both], purged_T[both], confidence=CONFIDENCE)
    random_ic, purged_ic = float(random_T[both].mean()), float(purged_T[both].mean())
    product_ic = float(np.nanmean(product_T))
    limit = purged_ic + inflation.mean_difference / 2.0
    shown = (
        f"the same simple learner reaches a rank IC of {random_ic:.3f} on randomly split rows, {purged_ic:.3f} on "
        f"purged history and {product_ic:.3f} on the product's split"
    )
    if inflation.low <= 0:
        return LeakCheck(
            name="random_split", passed=None, value=product_ic, limit=limit, words=f"{shown}: nothing to tell apart"
        )
    passed = product_ic < limit
    words = shown if passed else f"{shown}: rows it is judged on are neighbours of rows it learned from"
    return LeakCheck(name="random_split", passed=passed, value=product_ic, limit=limit, words=words)


def _marks(shape: tuple[int, ...], sessions: range) -> Flags:
    marks_ST = np.zeros(shape, dtype=np.bool_)
    marks_ST[:, sessions.start : sessions.stop] = True
    return marks_ST


def _scored(rows: SplitRows, learned_ST: Flags, judged_ST: Flags) -> Floats:
    scores_ST = np.full(judged_ST.shape, np.nan)
    _score(rows, learned_ST, judged_ST, scores_ST)
    return scores_ST


def _score(rows: SplitRows, learned_ST: Flags, judged_ST: Flags, scores_ST: Floats) -> None:
    """Write the mean excess return of the nearest learned rows into the judged places of `scores_ST`."""
    learned_NF, judged_MF = rows.values_STF[learned_ST], rows.values_STF[judged_ST]
    if len(learned_NF) <= NEIGHBOURS or not len(judged_MF):
        return
    mean_F, sd_F = learned_NF.mean(axis=0), learned_NF.std(axis=0)
    sd_F = np.where(sd_F > 1e-8, sd_F, 1.0)
    known_NF = np.clip((learned_NF - mean_F) / sd_F, -_CLIP, _CLIP).astype(np.float32)
    asked_MF = np.clip((judged_MF - mean_F) / sd_F, -_CLIP, _CLIP).astype(np.float32)
    outcome_N = rows.excess_ST[learned_ST]
    square_N = (known_NF**2).sum(axis=1)
    found = [
        outcome_N[
            np.argpartition(square_N - 2.0 * asked_MF[start : start + _CHUNK_ROWS] @ known_NF.T, NEIGHBOURS, axis=1)[
                :, :NEIGHBOURS
            ]
        ].mean(axis=1)
        for start in range(0, len(asked_MF), _CHUNK_ROWS)
    ]
    scores_ST[judged_ST] = np.concatenate(found)


def _daily_ic(scores_ST: Floats, excess_ST: Floats) -> Floats:
    """Return the rank correlation of score and outcome per session, NaN where fewer than five symbols have both."""
    both_ST = np.isfinite(scores_ST) & np.isfinite(excess_ST)
    ics_T = np.full(scores_ST.shape[1], np.nan)
    for column in np.flatnonzero(both_ST.sum(axis=0) >= _LEAST_SYMBOLS):
        keep = both_ST[:, column]
        score, outcome = rankdata(scores_ST[keep, column]), rankdata(excess_ST[keep, column])
        if np.ptp(score) > 0 and np.ptp(outcome) > 0:
            ics_T[column] = float(np.corrcoef(score, outcome)[0, 1])
    return ics_T
