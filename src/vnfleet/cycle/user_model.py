"""A model of the user's own as one more entrant of the race: a file of forecasts, or a function called once per fold.

**A file** (parquet or CSV) has the columns ``symbol``, ``session`` and ``score`` (higher = expected to do better than
the other symbols of that session), and may have ``direction_prob``, ``expected_return_frac``, ``volatility_frac`` and
``horizon_sessions`` (then only the judged horizon is read). The rows of a judged fold's test sessions race in that
fold; all others are left out. *Nothing in a file shows when its forecasts were made: that a file does not look ahead
cannot be checked here, and its figures are worth as much as the word of whoever made it.*

**A function** is named as ``package.module:function``, takes one `UserFold` and returns a polars frame of the same
columns for the fold's test sessions. It sees the features up to the last test session and the returns of training rows
only, read-only and copied. It is called twice: first with the second half of the test sessions taken away, then with
all of them. Forecasts of the first half that change were made by looking ahead (or by chance without a seed), and are
refused. What a function keeps from the first call (a fitted model, say) cannot know the second half.

Both race on the rows every entrant is asked for: symbols with features that session. What is missing, repeated, not
finite or on a day without a market is an error that says where.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import sha256_of_file, source_sha256
from vnfleet.cycle.config import UserModelConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.user_forecasts import NEEDED, Asked, as_asked, existing, read_forecasts, refuse_look_ahead
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFold:
    """What a user's function is given for one fold; arrays are read-only and end with the last test session.

    Attributes
    ----------
    fold_id : the judged year. horizon_sessions : the judged horizon.
    sessions, symbols, feature_names, horizons : the axes T, S, F, H; `horizons` in sessions, the judged one among them.
    values_STF : features known at the close of t, float32, 0.0 where not present. present_ST : where they are known.
    returns_HST : float32 fraction from the open of t+1 to the close of t+h; NaN where unknown, and everywhere outside
        `refit`.
    train, valid : to fit and to tune on, purged. refit : both, to fit the last time. test : the sessions to forecast.
    universe : the primary symbols, on which the race is decided.
    """

    fold_id: str
    horizon_sessions: int
    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    feature_names: tuple[str, ...]
    horizons: tuple[int, ...]
    values_STF: np.ndarray
    present_ST: np.ndarray
    returns_HST: np.ndarray
    train: range
    valid: range
    refit: range
    test: range
    universe: tuple[str, ...]

    def until(self, stop: int) -> UserFold:
        """Return a copy of the fold as if the market had ended before session index `stop`, inside the test."""
        return replace(
            self,
            sessions=self.sessions[:stop],
            values_STF=_own(self.values_STF[:, :stop]),
            present_ST=_own(self.present_ST[:, :stop]),
            returns_HST=_own(self.returns_HST[:, :, :stop]),
            test=range(self.test.start, stop),
        )


def user_predictions(week: WeekContext, fold: Fold, config: UserModelConfig) -> pl.DataFrame:
    """Return the user's forecasts of the fold's test sessions as a prediction frame of model `config.model_id`.

    Raises
    ------
    UsageError
        When there is no such file or function, the function fails, or it looks ahead.
    BadDataError
        When the forecasts are not a prediction frame, or cover too little of the fold.
    """
    data = week.data()
    given = user_fold(data, fold, week.config.model.horizons, week.config.horizon_sessions)
    if config.predictions is not None:
        asked = _asked(given, data, config.model_id, str(config.predictions))
        return as_asked(read_forecasts(config.predictions), asked, only_judged=False)
    function = _function(config.entry_point)
    where = f"{config.entry_point}, fold {fold.fold_id}"
    middle = fold.test.start + len(fold.test) // 2
    early = None
    if middle > fold.test.start:
        half = given.until(middle)
        early = _called(function, half, _asked(half, data, config.model_id, where))
    forecasts = _called(function, given, _asked(given, data, config.model_id, where))
    if early is not None:
        refuse_look_ahead(forecasts, early, data.sessions[middle - 1], where)
    return forecasts


def user_model_identity(config: UserModelConfig) -> list[str]:
    """Return what the forecasts depend on besides the rows: a file's content, or the source of a function's package.

    Empty when no model is given. Raises `UsageError` when there is no such file or module.
    """
    if config.predictions is not None:
        return [config.model_id, sha256_of_file(existing(config.predictions))]
    if not config.entry_point:
        return []
    return [config.model_id, config.entry_point, _source_of(config.entry_point)]


def user_fold(data: TrainingData, fold: Fold, horizons: tuple[int, ...], horizon_sessions: int) -> UserFold:
    """Return what a user's function may know about `fold`, in copies: a view would lead to all of the history."""
    stop = fold.test.stop
    returns_HST = np.full((len(data.returns_HST), len(data.symbols), stop), np.nan, dtype=np.float32)
    learned = slice(fold.refit.start, fold.refit.stop)
    returns_HST[:, :, learned] = data.returns_HST[:, :, learned]
    return UserFold(
        fold_id=fold.fold_id,
        horizon_sessions=horizon_sessions,
        sessions=data.sessions[:stop],
        symbols=data.symbols,
        feature_names=data.feature_names,
        horizons=horizons,
        values_STF=_own(data.values_STF[:, :stop]),
        present_ST=_own(data.present_ST[:, :stop]),
        returns_HST=_own(returns_HST),
        train=fold.train,
        valid=fold.valid,
        refit=fold.refit,
        test=fold.test,
        universe=fold.universe,
    )


def _own(array: np.ndarray) -> np.ndarray:
    """Return a read-only copy that shares no memory with `array`."""
    copied = array.copy()
    copied.setflags(write=False)
    return copied


def _source_of(entry_point: str) -> str:
    """Return the SHA-256 of the package the function lies in, or of its one file."""
    module = entry_point.partition(":")[0]
    package = module.partition(".")[0]
    try:
        top = find_spec(package)
        if top is not None and top.submodule_search_locations and top.origin is not None:
            return source_sha256(package)
        spec = find_spec(module)
    except Exception as error:
        raise _no_module(entry_point, f"{type(error).__name__}: {error}") from error
    if spec is None or spec.origin is None:
        raise _no_module(entry_point, f"no module named {module}")
    return sha256_of_file(Path(spec.origin))


def _function(entry_point: str) -> Callable[[UserFold], object]:
    """Import the user's function; whatever their module does wrong becomes an error that names it."""
    module_name, _, name = entry_point.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise _no_module(entry_point, f"{type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(
            "a model's module has no such function",
            where=f"[user_model] entry_point {entry_point}",
            expected=f"a function {name}(fold) in {module.__file__}",
        )
    typed: Callable[[UserFold], object] = function
    return typed


def _called(function: Callable[[UserFold], object], given: UserFold, asked: Asked) -> pl.DataFrame:
    """Call the user's function; whatever it does wrong becomes an error that says where."""
    try:
        returned = function(given)
    except (Exception, SystemExit) as error:
        raise UsageError(
            "your model failed",
            where=asked.where,
            found=f"{type(error).__name__}: {error} ({_place(function, error)})",
        ) from error
    if not isinstance(returned, pl.DataFrame):
        raise BadDataError(
            "your model did not return a table",
            where=asked.where,
            expected=f"a polars DataFrame with {', '.join(NEEDED)}",
            found=type(returned).__name__,
        )
    return as_asked(returned, asked, only_judged=True)


def _place(function: Callable[[UserFold], object], error: BaseException) -> str:
    """Say at which line of the user's own file the error arose, or else where it ended."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(function, "__code__", None)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    last = (own or frames)[-1]
    return f"{last.filename} line {last.lineno}"


def _asked(given: UserFold, data: TrainingData, model_id: str, where: str) -> Asked:
    judged = given.sessions[given.test.start : given.test.stop]
    rows, columns = np.nonzero(given.present_ST[:, given.test.start : given.test.stop])
    return Asked(
        model_id=model_id,
        fold_id=given.fold_id,
        horizon_sessions=given.horizon_sessions,
        rows=pl.DataFrame(
            {
                "symbol": pl.Series(given.symbols, dtype=pl.String).gather(rows),
                "session": pl.Series(judged, dtype=pl.Date).gather(columns),
            }
        ),
        judged=judged,
        market=data.sessions,
        universe=given.universe,
        where=where,
    )


def _no_module(entry_point: str, found: str) -> UsageError:
    return UsageError(
        "a model's module cannot be imported",
        where=f"[user_model] entry_point {entry_point}",
        found=found,
        fix="install it into this environment, or name its folder in PYTHONPATH",
    )
