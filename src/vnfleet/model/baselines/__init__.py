"""Baselines every model races: two fixed calls, three one-feature rules, pooled ridge, pooled LightGBM.

All symbols are one pool; the target is the rank of the return within its session in [-0.5, 0.5]. Settings and
calibration are chosen on `fold.valid` by a fit on `fold.train`; what forecasts is then fitted on `fold.refit`.

``always_up``      score 0 for all, so no rank IC; P(up) = share of up returns in refit, at least 0.5.
``last_direction`` calls the last move again: score 1 after a session that closed up, else -1 (unchanged is not up);
                   P(the call is right) = its share in refit, above 0.5, so that the call stays.
``reversal_1d``    score = minus the return of the session just closed; nothing to fit but the calibration.
``reversal_5d``    score = minus the return of the last 5 sessions.
``momentum_120d``  score = the return of the last 120 sessions.
``ridge``          standardised features clipped to +-5, penalty by validation correlation.
``lightgbm``       one setting (benchmarks/lightgbm_tuning_202611.md), rounds by validation correlation.
"""

from __future__ import annotations

from vnfleet.model.baselines.fitted import FittedBaseline, load_baseline
from vnfleet.model.baselines.fitting import fit_baseline
from vnfleet.model.baselines.rows import BaselineData, FoldParts
from vnfleet.model.baselines.rules import BASELINE_NAMES, FEATURE_RULES, BaselineName, FeatureRule

__all__ = [
    "BASELINE_NAMES",
    "FEATURE_RULES",
    "BaselineData",
    "BaselineName",
    "FeatureRule",
    "FittedBaseline",
    "FoldParts",
    "fit_baseline",
    "load_baseline",
]
