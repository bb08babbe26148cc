"""From a score to a probability and an expected return, fitted on validation sessions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vnfleet.model.baselines.rows import Floats
from vnfleet.model.logistic import fit_logistic, logistic

_CLIP = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """P(up) = logistic(intercept + slope z), E[return] = mean + slope z; z = standardised score clipped to +-5."""

    score_mean: float
    score_sd: float
    logit_intercept: float
    logit_slope: float
    return_mean_frac: float
    return_slope_frac: float

    def direction_prob(self, score_N: Floats) -> Floats:
        """Return P(return > 0)."""
        return logistic(self.logit_intercept + self.logit_slope * self._standardised(score_N))

    def expected_return_frac(self, score_N: Floats) -> Floats:
        """Return E[return], a fraction."""
        return self.return_mean_frac + self.return_slope_frac * self._standardised(score_N)

    def _standardised(self, score_N: Floats) -> Floats:
        return np.clip((score_N - self.score_mean) / self.score_sd, -_CLIP, _CLIP)


def fit_calibration(score_N: Floats, returns_N: Floats) -> Calibration:
    """Return the calibration of `score_N` against the returns that followed; equal scores get slopes of 0."""
    sd = float(score_N.std())
    mean = float(score_N.mean())
    z_N = np.clip((score_N - mean) / sd, -_CLIP, _CLIP) if sd > 0 else np.zeros_like(score_N)
    intercept, slope = fit_logistic(z_N, (returns_N > 0).astype(np.float64))
    spread = float(z_N.var())
    return_slope = float(((z_N - z_N.mean()) * returns_N).mean() / spread) if spread > 0 else 0.0
    return Calibration(
        score_mean=mean,
        score_sd=sd if sd > 0 else 1.0,
        logit_intercept=intercept,
        logit_slope=slope,
        return_mean_frac=float(returns_N.mean()) - return_slope * float(z_N.mean()),
        return_slope_frac=return_slope,
    )


def constant_up(_score_N: Floats, returns_N: Floats) -> Calibration:
    """Return the calibration of "always up": P(up) = the share of up returns but at least 0.5, E = their mean."""
    share = min(max(float((returns_N > 0).mean()), 0.5), 0.999)
    return Calibration(
        score_mean=0.0,
        score_sd=1.0,
        logit_intercept=math.log(share / (1 - share)),
        logit_slope=0.0,
        return_mean_frac=float(returns_N.mean()),
        return_slope_frac=0.0,
    )


def kept_call(score_N: Floats, returns_N: Floats) -> Calibration:
    """Return the calibration of a call that stands whatever its record: score 1 calls up, -1 calls "not up".

    P(the call is right) = its share among `returns_N`, at least 0.501 so that no record turns the call around;
    E[return] = the mean after each call.
    """
    up_N, called_N = returns_N > 0, score_N > 0
    share = min(max(float((up_N == called_N).mean()), 0.501), 0.999)
    mean_frac = float(returns_N.mean())
    above_frac = float(returns_N[called_N].mean()) if called_N.any() else mean_frac
    below_frac = float(returns_N[~called_N].mean()) if not called_N.all() else mean_frac
    return Calibration(
        score_mean=0.0,
        score_sd=1.0,
        logit_intercept=0.0,
        logit_slope=math.log(share / (1 - share)),
        return_mean_frac=(above_frac + below_frac) / 2,
        return_slope_frac=(above_frac - below_frac) / 2,
    )
