"""Baselines every model races: always up, 1-day reversal, pooled ridge, pooled LightGBM.

All symbols are one pool; the target is the rank of the return within its session in [-0.5, 0.5]. Settings and
calibration are chosen on `fold.valid` by a fit on `fold.train`; what forecasts is then fitted on `fold.refit`.

``always_up``    score 0 for all, so no rank IC; P(up) = share of up returns in refit, at least 0.5.
``reversal_1d``  score = minus the return of the session just closed; nothing to fit but the calibration.
``ridge``        standardised features clipped to +-5, penalty by validation correlation.
``lightgbm``     one untuned setting, rounds by validation correlation.
"""

from __future__ import annotations

from vnfleet.model.baselines.fitted import BaselineName, FittedBaseline, load_baseline
from vnfleet.model.baselines.fitting import BASELINE_NAMES, RETURN_1_FEATURE, fit_baseline
from vnfleet.model.baselines.rows import BaselineData, FoldParts

__all__ = [
    "BASELINE_NAMES",
    "RETURN_1_FEATURE",
    "BaselineData",
    "BaselineName",
    "FittedBaseline",
    "FoldParts",
    "fit_baseline",
    "load_baseline",
]
