"""A fitted baseline: forecasts, and its sealed folder of JSON, arrays and LightGBM text (never a pickle)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import polars as pl
from lightgbm.basic import LightGBMError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import PREDICTION_SCHEMA, as_prediction_frame
from vnfleet.core.sealed import sealing, verify
from vnfleet.model.baselines.boosted import BoostedScorer
from vnfleet.model.baselines.calibration import Calibration
from vnfleet.model.baselines.rules import FEATURE_RULES, BaselineName
from vnfleet.model.baselines.scorers import ConstantScorer, DirectionScorer, FeatureScorer, LinearScorer, Scorer

KIND = "baseline"
_RECORD, _ARRAYS = "baseline.json", "arrays.npz"


class _CalibrationRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    score_mean: FiniteFloat
    score_sd: FiniteFloat
    logit_intercept: FiniteFloat
    logit_slope: FiniteFloat
    return_mean_frac: FiniteFloat
    return_slope_frac: FiniteFloat


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: BaselineName
    fold_id: str
    seed: int
    horizon_sessions: int
    feature_names: tuple[str, ...]
    setting: str
    valid_correlation: FiniteFloat
    position: int | None
    sign: FiniteFloat | None
    calibration: _CalibrationRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBaseline:
    """A baseline fitted on one fold.

    `setting` says what validation chose ("penalty 0.1", "120 rounds"); `valid_correlation` is the mean daily
    correlation of score and return rank on validation, of the fit that had not seen it.
    """

    name: BaselineName
    fold_id: str
    seed: int
    horizon_sessions: int
    feature_names: tuple[str, ...]
    setting: str
    valid_correlation: float
    scorer: Scorer
    calibration: Calibration

    def predict(
        self,
        values_STF: NDArray[np.float32],
        present_ST: NDArray[np.bool_],
        symbols: Sequence[str],
        sessions: Sequence[date],
        session_range: range,
        *,
        model_id: str,
        fold_id: str,
        feature_names: Sequence[str],
    ) -> pl.DataFrame:
        """Return a prediction row for every symbol and session of `session_range` that is present.

        Axes S and T follow `symbols` and `sessions` (market axis). `volatility_frac` is null: baselines state none.
        Raises `BadDataError` when `feature_names` is not, in order, the list the baseline was fitted on.
        """
        check_features(self.name, self.feature_names, feature_names)
        if values_STF.shape != (*present_ST.shape, len(feature_names)) or present_ST.shape != (
            len(symbols),
            len(sessions),
        ):
            raise BadDataError("features do not match their axes", found=(values_STF.shape, present_ST.shape))
        session_N, symbol_N = np.nonzero(present_ST[:, session_range.start : session_range.stop].T)
        session_N = session_N + session_range.start
        score_N = self.scorer.score(values_STF[symbol_N, session_N])
        frame = pl.DataFrame(
            {
                "symbol": pl.Series(symbols, dtype=pl.String).gather(symbol_N),
                "session": pl.Series(sessions, dtype=pl.Date).gather(session_N),
                "score": score_N,
                "direction_prob": self.calibration.direction_prob(score_N),
                "expected_return_frac": self.calibration.expected_return_frac(score_N),
            }
        ).with_columns(
            model_id=pl.lit(model_id),
            fold_id=pl.lit(fold_id),
            horizon_sessions=pl.lit(self.horizon_sessions, pl.Int32),
            volatility_frac=pl.lit(None, pl.Float64),
        )
        return as_prediction_frame(frame.select(PREDICTION_SCHEMA.keys()))

    def save(self, folder: Path) -> None:
        """Write the baseline to the sealed folder `folder`, whole or not at all."""
        feature = self.scorer if isinstance(self.scorer, FeatureScorer | DirectionScorer) else None
        record = _Record(
            name=self.name,
            fold_id=self.fold_id,
            seed=self.seed,
            horizon_sessions=self.horizon_sessions,
            feature_names=self.feature_names,
            setting=self.setting,
            valid_correlation=self.valid_correlation,
            position=None if feature is None else feature.position,
            sign=None if feature is None else feature.sign,
            calibration=_CalibrationRecord(**asdict(self.calibration)),
        )
        with sealing(folder, KIND, {"name": self.name, "fold_id": self.fold_id}) as scratch:
            (scratch / _RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
            if isinstance(self.scorer, LinearScorer):
                np.savez(scratch / _ARRAYS, allow_pickle=False, **self.scorer.arrays())
            if isinstance(self.scorer, BoostedScorer):
                for place, text in enumerate(self.scorer.texts):
                    (scratch / _trees_name(place)).write_bytes(text.encode())


def load_baseline(folder: Path) -> FittedBaseline:
    """Return the baseline stored in `folder`; raises `BadDataError` when it is not whole or contradicts itself."""
    verify(folder, KIND)
    try:
        record = _Record.model_validate_json((folder / _RECORD).read_bytes())
        scorer = _read_scorer(folder, record)
    except (ValidationError, LightGBMError, BadZipFile, KeyError, ValueError, OSError) as error:
        raise BadDataError(
            "a stored baseline cannot be read", where=folder, found=str(error).splitlines()[0]
        ) from error
    return FittedBaseline(
        name=record.name,
        fold_id=record.fold_id,
        seed=record.seed,
        horizon_sessions=record.horizon_sessions,
        feature_names=record.feature_names,
        setting=record.setting,
        valid_correlation=record.valid_correlation,
        scorer=scorer,
        calibration=Calibration(**record.calibration.model_dump()),
    )


def check_features(name: str, expected: Sequence[str], found: Sequence[str]) -> None:
    """Raise `BadDataError` naming the first feature that differs from the fitted list."""
    if tuple(expected) == tuple(found):
        return
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    moved = [(a, b) for a, b in zip(expected, found, strict=False) if a != b][:1]
    raise BadDataError(
        f"{name} was fitted on other features",
        expected=f"{len(expected)} features; missing: {missing or 'none'}",
        found=f"{len(found)} features; unknown: {extra or 'none'}; first difference: {moved or 'length'}",
        fix="fit the baseline again on these features",
    )


def _read_scorer(folder: Path, record: _Record) -> Scorer:
    num_features = len(record.feature_names)
    if record.name == "always_up":
        return ConstantScorer()
    if (rule := FEATURE_RULES.get(record.name)) is not None:
        if record.position is None or record.sign is None or not 0 <= record.position < num_features:
            raise ValueError("position or sign of the feature is missing")
        return (DirectionScorer if rule.direction_only else FeatureScorer)(record.position, record.sign)
    if record.name == "ridge":
        with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("mean_F", "sd_F", "weight_F")}
        for name, array in arrays.items():
            if array.shape != (num_features,) or array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"array {name} must be {num_features} finite float64")
        return LinearScorer(**arrays)
    texts = [(folder / _trees_name(0)).read_bytes().decode()]
    while (more := folder / _trees_name(len(texts))).is_file():  # the seal saw to it that none is missing
        texts.append(more.read_bytes().decode())
    trees = BoostedScorer(texts)
    if trees.num_features != num_features:
        raise ValueError(f"trees expect {trees.num_features} features, the list has {num_features}")
    return trees


def _trees_name(place: int) -> str:
    return "lightgbm.txt" if place == 0 else f"lightgbm_{place}.txt"
