"""What a fit is given: labels that end before the next part, a scaler of its own rows, symbols chosen beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vnfleet.evaluation.leaks.report import LeakCheck
from vnfleet.evaluation.splits import LIVE, Fold

SCALER_TOLERANCE = 1e-4
"""Of a feature's standard deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedScaler:
    """The scaler a model carries: mean_F and sd_F, float; fitted on labelled rows only or on every present row."""

    mean_F: NDArray[np.floating]
    sd_F: NDArray[np.floating]
    labelled_only: bool = False


def label_gap(folds: Sequence[Fold], *, horizon_sessions: int, embargo_sessions: int = 0) -> LeakCheck:
    """Check by arithmetic that no label window of a part reaches the next, and that the embargo is kept.

    The label of decision session t is known at the close of t + h: train must end h before validation opens, refit h
    before the test opens, `embargo_sessions` earlier still. The live fold's test is the last session itself, at whose
    close the newest label is known and the forecast made: there the label may end on that session.
    """
    closest, where = None, ""
    for fold in folds:
        live = 1 if fold.fold_id == LIVE else 0
        for part, rows, opens in (
            ("train", fold.train, fold.valid.start),
            ("valid", fold.valid, fold.test.start + live),
            ("refit", fold.refit, fold.test.start + live),
        ):
            free = opens - (rows.stop - 1 + horizon_sessions) - 1 - embargo_sessions
            if closest is None or free < closest:
                closest, where = free, f"{part} of fold {fold.fold_id}"
    if closest is None:
        return LeakCheck(name="label_gap", passed=None, words="there are no folds")
    words = (
        f"a label of {where} is still open for {-closest} sessions after the next part begins"
        if closest < 0
        else f"in {len(folds)} folds every label is known before the next part begins (horizon {horizon_sessions}, "
        f"embargo {embargo_sessions} sessions)"
    )
    return LeakCheck(name="label_gap", passed=closest >= 0, value=float(-closest), limit=0.0, words=words)


def scaler_provenance(
    what: str,
    scaler: FittedScaler,
    values_STF: NDArray[np.floating],
    rows_ST: NDArray[np.bool_],
    present_ST: NDArray[np.bool_],
) -> LeakCheck:
    """Check that a stored scaler is that of the fold's own rows and not that of all rows.

    values_STF : features. rows_ST : the rows the fit was allowed. present_ST : all rows with features.
    The value is the largest distance from the fold's own mean or deviation, in units of that deviation. Where all rows
    would give the same scaler the data cannot tell.
    """
    own = _distance(scaler, values_STF, rows_ST)
    of_all = _distance(scaler, values_STF, present_ST)
    can_tell = of_all > SCALER_TOLERANCE
    passed = own <= SCALER_TOLERANCE
    if passed and can_tell:
        words = f"the scaler is that of the fold's {int(rows_ST.sum()):,} rows, not that of all"
    elif passed:
        words = "the fold's rows and all rows give the same scaler"
    else:
        words = f"the scaler is not that of the fold's rows: off by up to {own:.2g} standard deviations" + (
            "; it is that of all rows, later ones included" if not can_tell else ""
        )
    return LeakCheck(
        name=f"scaler_provenance:{what}",
        passed=(True if can_tell else None) if passed else False,
        value=own,
        limit=SCALER_TOLERANCE,
        words=words,
    )


def universe(chosen: Sequence[str], elsewhere: Sequence[Sequence[str]], fold_id: str) -> LeakCheck:
    """Check that a fold's symbols do not depend on what happens from its first test session on.

    elsewhere : the symbols chosen again where the data end before that session, or where what follows is another story.
    """
    strangers = sorted({symbol for other in elsewhere for symbol in set(chosen) ^ set(other)})
    words = (
        f"{len(strangers)} symbols of fold {fold_id} depend on what was traded later: {', '.join(strangers[:5])}"
        if strangers
        else f"data before the first test session of fold {fold_id} choose the same {len(set(chosen))} symbols"
    )
    return LeakCheck(
        name=f"universe:{fold_id}", passed=not strangers, value=float(len(strangers)), limit=0.0, words=words
    )


def _distance(scaler: FittedScaler, values_STF: NDArray[np.floating], rows_ST: NDArray[np.bool_]) -> float:
    """Return the largest distance of the scaler's moments from those of the rows, in the rows' deviations.

    Symbol by symbol: a copy of everything in float64 would not fit into a small machine.
    """
    count = int(rows_ST.sum())
    if not count:
        return float("inf")
    alive = np.flatnonzero(rows_ST.any(axis=1))
    mean_F = np.sum([values_STF[s][rows_ST[s]].sum(axis=0, dtype=np.float64) for s in alive], axis=0) / count
    square_F = np.sum([((values_STF[s][rows_ST[s]] - mean_F) ** 2).sum(axis=0) for s in alive], axis=0) / count
    sd_F = np.sqrt(square_F)
    varies = sd_F > 1e-8
    unit_F = np.where(varies, sd_F, 1.0)
    off_F = np.maximum(np.abs(scaler.mean_F - mean_F), np.where(varies, np.abs(scaler.sd_F - sd_F), 0.0)) / unit_F
    return float(off_F.max(initial=0.0))
