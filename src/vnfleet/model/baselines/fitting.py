"""Fit one baseline on one fold: choose on validation, calibrate there, then fit on train and validation together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vnfleet.core.errors import UsageError
from vnfleet.model.baselines.boosted import fit_boosted, fit_boosted_stopping
from vnfleet.model.baselines.calibration import Calibration, constant_up, fit_calibration, kept_call
from vnfleet.model.baselines.fitted import FittedBaseline
from vnfleet.model.baselines.rows import (
    BaselineData,
    Floats,
    FoldParts,
    LabelledRows,
    labelled_rows,
    mean_daily_correlation,
)
from vnfleet.model.baselines.rules import BASELINE_NAMES, FEATURE_RULES, BaselineName
from vnfleet.model.baselines.scorers import (
    RIDGE_PENALTIES,
    ConstantScorer,
    DirectionScorer,
    FeatureScorer,
    Scorer,
    fit_ridges,
)

_CALLS: dict[str, Callable[[Floats, Floats], Calibration]] = {"always_up": constant_up, "last_direction": kept_call}


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
        When a part of the fold has no labelled rows, or the feature of a one-feature rule is absent.
    """
    if name not in BASELINE_NAMES:
        raise UsageError("unknown baseline", expected=BASELINE_NAMES, found=name)
    valid = labelled_rows(data, fold.valid, horizon_sessions, "validate")
    choice = _choose(name, data, fold, valid, seed=seed, horizon_sessions=horizon_sessions)
    refit = labelled_rows(data, fold.refit, horizon_sessions, "fit")
    valid_N, scorer = choice.scorer.score(valid.features_NF), choice.fit(refit)
    fixed_call = _CALLS.get(name)  # nothing was fitted on train, so nothing is spared for the calibration
    return FittedBaseline(
        name=name,
        fold_id=fold.fold_id,
        seed=seed,
        horizon_sessions=horizon_sessions,
        feature_names=data.feature_names,
        setting=choice.setting,
        valid_correlation=mean_daily_correlation(valid_N, valid),
        scorer=scorer,
        calibration=fit_calibration(valid_N, valid.returns_N)
        if fixed_call is None
        else fixed_call(scorer.score(refit.features_NF), refit.returns_N),
    )


def _choose(
    name: BaselineName, data: BaselineData, fold: FoldParts, valid: LabelledRows, *, seed: int, horizon_sessions: int
) -> _Choice:
    if name == "always_up":
        return _fixed(ConstantScorer(), "constant")
    if (rule := FEATURE_RULES.get(name)) is not None:
        position = rule.position_in(data.feature_names, name)
        kind = DirectionScorer if rule.direction_only else FeatureScorer
        return _fixed(kind(position, rule.sign), rule.words)
    train = labelled_rows(data, fold.train, horizon_sessions, "train")
    return _ridge(train, valid) if name == "ridge" else _boosted(train, valid, seed)


def _fixed(scorer: Scorer, setting: str) -> _Choice:
    return _Choice(scorer=scorer, setting=setting, fit=lambda _rows: scorer)


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
    words = f"{', '.join(map(str, rounds))} rounds"
    return _Choice(scorer=scorer, setting=words, fit=lambda rows: fit_boosted(rows, rounds, seed))
