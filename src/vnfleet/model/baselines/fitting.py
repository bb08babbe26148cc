"""Fit one baseline on one fold: choose on validation, calibrate there, then fit on train and validation together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.model.baselines.calibration import constant_up, fit_calibration
from vnfleet.model.baselines.fitted import BaselineName, FittedBaseline
from vnfleet.model.baselines.rows import BaselineData, FoldParts, LabelledRows, labelled_rows, mean_daily_correlation
from vnfleet.model.baselines.scorers import (
    RIDGE_PENALTIES,
    ConstantScorer,
    FeatureScorer,
    Scorer,
    fit_boosted,
    fit_boosted_stopping,
    fit_ridges,
)

BASELINE_NAMES: tuple[BaselineName, ...] = get_args(BaselineName)
RETURN_1_FEATURE = "ret_1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What validation chose: the scorer that has not seen it, and how to fit the same on more rows."""

    scorer: Scorer
    setting: str
    fit: Callable[[LabelledRows], Scorer]


def fit_baseline(
    name: BaselineName, data: BaselineData, fold: FoldParts, seed: int, *, horizon_sessions: int = 5
) -> FittedBaseline:
    """Fit one baseline on one fold: the same inputs give the same bits on the same machine.

    Raises
    ------
    UsageError
        On an unknown name.
    BadDataError
        When a part of the fold has no labelled rows, or the feature of `reversal_1d` is absent.
    """
    if name not in BASELINE_NAMES:
        raise UsageError("unknown baseline", expected=BASELINE_NAMES, found=name)
    if name == "always_up":
        refit = labelled_rows(data, fold.refit, horizon_sessions, "fit")
        scorer: Scorer = ConstantScorer()
        calibration, setting, correlation = constant_up(refit.returns_N), "constant", 0.0
    else:
        valid = labelled_rows(data, fold.valid, horizon_sessions, "validate")
        choice = _choose(name, data, fold, valid, seed=seed, horizon_sessions=horizon_sessions)
        score_N = choice.scorer.score(valid.features_NF)
        calibration, setting = fit_calibration(score_N, valid.returns_N), choice.setting
        correlation = mean_daily_correlation(score_N, valid)
        scorer = choice.fit(labelled_rows(data, fold.refit, horizon_sessions, "fit"))
    return FittedBaseline(
        name=name,
        fold_id=fold.fold_id,
        seed=seed,
        horizon_sessions=horizon_sessions,
        feature_names=data.feature_names,
        setting=setting,
        valid_correlation=correlation,
        scorer=scorer,
        calibration=calibration,
    )


def _choose(
    name: BaselineName, data: BaselineData, fold: FoldParts, valid: LabelledRows, *, seed: int, horizon_sessions: int
) -> _Choice:
    if name == "reversal_1d":
        return _reversal(data.feature_names)
    train = labelled_rows(data, fold.train, horizon_sessions, "train")
    return _ridge(train, valid) if name == "ridge" else _boosted(train, valid, seed)


def _reversal(feature_names: tuple[str, ...]) -> _Choice:
    if RETURN_1_FEATURE not in feature_names:
        raise BadDataError(
            "reversal_1d needs the 1-session return", expected=RETURN_1_FEATURE, found=list(feature_names)
        )
    scorer = FeatureScorer(feature_names.index(RETURN_1_FEATURE), -1.0)
    return _Choice(scorer=scorer, setting=f"-{RETURN_1_FEATURE}", fit=lambda _rows: scorer)


def _ridge(train: LabelledRows, valid: LabelledRows) -> _Choice:
    ridges = fit_ridges(train, RIDGE_PENALTIES)
    skills = [mean_daily_correlation(ridge.score(valid.features_NF), valid) for ridge in ridges]
    best = skills.index(max(skills))
    penalty = RIDGE_PENALTIES[best]
    return _Choice(
        scorer=ridges[best], setting=f"penalty {penalty:g}", fit=lambda rows: fit_ridges(rows, (penalty,))[0]
    )


def _boosted(train: LabelledRows, valid: LabelledRows, seed: int) -> _Choice:
    scorer, rounds = fit_boosted_stopping(train, valid, seed)
    return _Choice(scorer=scorer, setting=f"{rounds} rounds", fit=lambda rows: fit_boosted(rows, rounds, seed))
