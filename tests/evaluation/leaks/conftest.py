"""A whole pipeline on the simulated market, in which the published bugs can be planted one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from typing import Literal, get_args

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from vnfleet.core.frames import PREDICTION_SCHEMA, as_prediction_frame
from vnfleet.data.outcomes import forward_returns, outcome_frame
from vnfleet.data.panel import Panel, build_panel
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.data.universe import most_traded
from vnfleet.evaluation.leaks import Fitted, FittedScaler, Learner, Pipeline, dealt_anew
from vnfleet.evaluation.splits import Fold, SplitRule, yearly_folds
from vnfleet.market.rules import Costs
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import AccountTerms, simulate

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Bug = Literal[
    "none",
    "whole_window_normalisation",
    "scaler_on_all_data",
    "centred_windows",
    "shift_minus_one",
    "missing_purge",
    "test_set_early_stopping",
    "extreme_labels_dropped",
    "universe_of_today",
    "entry_at_the_signals_close",
    "account_at_the_signals_session",
    "random_split",
]
BUGS: tuple[Bug, ...] = get_args(Bug)[1:]
HORIZON, MODELS, WINDOW, YEAR = 5, 30, 120, 2021
_STEPS, _EVERY = 60, 3


@cache
def simulated_panel(seed: int) -> Panel:
    """Return two and a half years of 44 simulated symbols, some listed late, some suspended."""
    market = SimulatedMarket(seed=seed, num_symbols=44, start=date(2019, 6, 3), signal_rank_ic=0.1)
    as_of = date(2021, 10, 29)
    return build_panel(SimulatedSource(market).fetch(None, as_of), as_of)


@dataclass(frozen=True)
class Factory:
    """An honest pipeline, or the same with one bug."""

    panel: Panel
    bug: Bug = "none"

    def pipeline(self) -> Pipeline:
        fold = self.fold(self.panel)
        return Pipeline(
            panel=self.panel,
            horizon_sessions=HORIZON,
            fold=fold,
            folds=(fold,),
            features=self.features,
            universe=self.universe,
            outcomes=self.outcomes,
            split=self.split,
            trades=self.trades,
            learners=(Learner(name="descent", fit=self.fit),),
        )

    def fold(self, panel: Panel) -> Fold:
        (fold,) = yearly_folds(
            panel.sessions,
            [YEAR],
            SplitRule(horizon_sessions=HORIZON, valid_sessions=60, min_train_sessions=100),
            lambda before: self.universe(panel, before),
        )
        if self.bug != "missing_purge":
            return fold
        start = fold.test.start
        return Fold(
            fold_id=fold.fold_id,
            train=range(start - 60),
            valid=range(start - 60, start),
            refit=range(start),
            test=fold.test,
            universe=fold.universe,
        )

    def universe(self, panel: Panel, before: date) -> tuple[str, ...]:
        today = self.bug == "universe_of_today"
        return most_traded(panel, MODELS, WINDOW, panel.as_of if today else before)

    def features(self, panel: Panel) -> Floats:
        close_ST, volume_ST = panel.matrix("adj_close"), panel.matrix("volume_shares")
        moves_ST = _change(close_ST, 1)
        columns = [moves_ST, _change(close_ST, 5), _change(close_ST, 20), _spread(moves_ST, 20)]
        columns += [np.log(volume_ST) - _mean(np.log(volume_ST), 20), _change(close_ST, 60), _spread(moves_ST, 60)]
        columns += [close_ST / _mean(close_ST, 60) - 1.0, np.log(_mean(volume_ST, 60)) - np.log(_mean(volume_ST, 20))]
        if self.bug == "centred_windows":
            columns[0] = np.roll(_mean(moves_ST, 5), -2, axis=1)
        if self.bug == "shift_minus_one":
            columns[0] = np.roll(moves_ST, -1, axis=1)
        values_STF = np.stack(columns, axis=2)
        values_STF[~np.isfinite(values_STF).all(axis=2)] = np.nan
        if self.bug == "whole_window_normalisation":
            known = np.isfinite(values_STF[..., 0]).any(axis=1)
            part = values_STF[known]
            values_STF[known] = (part - np.nanmean(part, axis=1, keepdims=True)) / np.nanstd(
                part, axis=1, keepdims=True
            )
        return values_STF

    def outcomes(self, panel: Panel) -> pl.DataFrame:
        frame = outcome_frame(panel, HORIZON, panel.symbols)
        if self.bug == "entry_at_the_signals_close":
            close_ST = panel.matrix("adj_close")
            late_ST = np.full(close_ST.shape, np.nan)
            late_ST[:, :-HORIZON] = close_ST[:, HORIZON:] / close_ST[:, :-HORIZON] - 1.0
            rows, columns = (
                pl.Series(axis).search_sorted(frame.get_column(name)).to_numpy()
                for name, axis in (("symbol", panel.symbols), ("session", panel.sessions))
            )
            frame = frame.with_columns(return_frac=pl.Series(late_ST[rows, columns], nan_to_null=True)).drop_nulls()
        if self.bug == "extreme_labels_dropped":
            excess = pl.col("return_frac") - pl.col("benchmark_return_frac")
            frame = frame.filter(excess.abs() <= excess.abs().quantile(0.95).over("session"))
        return frame

    def split(self, panel: Panel) -> tuple[Flags, Flags]:
        fold = self.fold(panel)
        train_ST = np.zeros((len(panel.symbols), len(panel.sessions)), dtype=np.bool_)
        test_ST = train_ST.copy()
        if self.bug == "random_split":
            half_ST = np.random.default_rng(0).random(train_ST.shape) < 0.5
            train_ST[:, : fold.test.stop] = half_ST[:, : fold.test.stop]
            test_ST[:, : fold.test.stop] = ~half_ST[:, : fold.test.stop]
            return train_ST, test_ST
        train_ST[:, fold.refit.start : fold.refit.stop] = True
        test_ST[:, fold.test.start : fold.test.stop] = True
        return train_ST, test_ST

    def trades(self, panel: Panel, predictions: pl.DataFrame) -> pl.DataFrame:
        first = panel.sessions[self.fold(panel).test.start - 2]
        if self.bug == "account_at_the_signals_session":
            earlier = dict(zip(panel.sessions[1:], panel.sessions[:-1], strict=True))
            predictions = predictions.with_columns(pl.col("session").replace_strict(earlier, return_dtype=pl.Date))
        last = panel.sessions[self.fold(panel).test.stop - 1]
        policy = TopKPolicy(max_positions=5, enter_above=0.8, exit_below=0.5)
        terms = AccountTerms(costs=Costs(fee_frac=0.0, sell_tax_frac=0.0))
        return simulate(panel, predictions, policy, terms=terms, first=first, last=last).trades

    def fit(self, seen: Panel, shuffle: int | None) -> Fitted:
        """Fit a linear rank model by gradient descent, stopped where the validation tail likes it best."""
        fold, values_STF = self.fold(seen), self.features(seen)
        returns_HST = forward_returns(seen, [HORIZON])
        returns_ST = returns_HST[0] if shuffle is None else dealt_anew(returns_HST, shuffle)[0]
        target_ST = _ranks(returns_ST)
        present_ST: Flags = np.isfinite(values_STF[..., 0])
        usable_ST: Flags = present_ST & np.isfinite(target_ST)
        fit_ST = self.split(seen)[0]
        scaled_on: Flags = present_ST if self.bug == "scaler_on_all_data" else present_ST & fit_ST
        mean_F, sd_F = values_STF[scaled_on].mean(axis=0), values_STF[scaled_on].std(axis=0)
        scaled_STF = np.where(present_ST[..., None], (values_STF - mean_F) / sd_F, 0.0)
        judged = fold.valid
        if self.bug == "test_set_early_stopping":
            judged, returns_ST = fold.test, forward_returns(seen, [HORIZON])[0]
            target_ST = _ranks(returns_ST)
        train_ST = usable_ST & _inside(usable_ST, fold.train)
        paths = _descent(scaled_STF[train_ST], _ranks_of(returns_HST, shuffle)[train_ST])
        figures = [_ic(scaled_STF @ weight_F, target_ST, usable_ST, judged) for weight_F in paths]
        best = int(np.argmax(figures))
        refit_ST = usable_ST & fit_ST
        weight_F = _descent(scaled_STF[refit_ST], _ranks_of(returns_HST, shuffle)[refit_ST])[best]

        def forecast(served: Panel) -> pl.DataFrame:
            values = self.features(served)
            score_ST = (values - mean_F) / sd_F @ weight_F
            keep_ST = np.isfinite(score_ST) & _inside(score_ST, fold.test)
            keep_ST &= np.isin(np.array(served.symbols), fold.universe)[:, None]
            rows, columns = np.nonzero(keep_ST)
            frame = pl.DataFrame(
                {
                    "symbol": pl.Series(served.symbols, dtype=pl.String).gather(rows),
                    "session": pl.Series(served.sessions, dtype=pl.Date).gather(columns),
                    "score": score_ST[rows, columns],
                }
            ).with_columns(
                model_id=pl.lit("descent"),
                fold_id=pl.lit(fold.fold_id),
                horizon_sessions=pl.lit(HORIZON, pl.Int32),
                direction_prob=pl.lit(None, pl.Float64),
                expected_return_frac=pl.lit(None, pl.Float64),
                volatility_frac=pl.lit(None, pl.Float64),
            )
            return as_prediction_frame(frame.select(list(PREDICTION_SCHEMA)))

        return Fitted(forecast=forecast, scaler=FittedScaler(mean_F=mean_F, sd_F=sd_F))


def _change(values_ST: Floats, sessions: int) -> Floats:
    result_ST = np.full(values_ST.shape, np.nan)
    result_ST[:, sessions:] = values_ST[:, sessions:] / values_ST[:, :-sessions] - 1.0
    return result_ST


def _mean(values_ST: Floats, sessions: int) -> Floats:
    result_ST = np.full(values_ST.shape, np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(values_ST, sessions, axis=1)
    result_ST[:, sessions - 1 :] = windows.mean(axis=2)
    return result_ST


def _spread(values_ST: Floats, sessions: int) -> Floats:
    result_ST = np.full(values_ST.shape, np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(values_ST, sessions, axis=1)
    result_ST[:, sessions - 1 :] = windows.std(axis=2)
    return result_ST


def _ranks(returns_ST: Floats) -> Floats:
    count_T = np.maximum(np.isfinite(returns_ST).sum(axis=0), 1)
    ranks_ST = np.argsort(np.argsort(returns_ST, axis=0), axis=0) / count_T - 0.5  # NaN sort last
    return np.where(np.isfinite(returns_ST), ranks_ST, np.nan)


def _ranks_of(returns_HST: Floats, shuffle: int | None) -> Floats:
    return _ranks((returns_HST if shuffle is None else dealt_anew(returns_HST, shuffle))[0])


def _inside(values_ST: NDArray[np.generic], sessions: range) -> Flags:
    marks_ST = np.zeros(values_ST.shape, dtype=np.bool_)
    marks_ST[:, sessions.start : sessions.stop] = True
    return marks_ST


def _descent(features_NF: Floats, target_N: Floats) -> list[Floats]:
    """Return the weights along a path of momentum descent: every third of sixty steps."""
    weight_F, speed_F = np.zeros(features_NF.shape[1]), np.zeros(features_NF.shape[1])
    gram_FF, moment_F = features_NF.T @ features_NF / len(target_N), features_NF.T @ target_N / len(target_N)
    path = []
    for step in range(_STEPS):
        speed_F = 0.9 * speed_F - 0.05 * (gram_FF @ weight_F - moment_F)
        weight_F = weight_F + speed_F
        if step % _EVERY == _EVERY - 1:
            path.append(weight_F.copy())
    return path


def _ic(score_ST: Floats, target_ST: Floats, usable_ST: Flags, sessions: range) -> float:
    """Return the mean over sessions of the correlation of score and target."""
    part = slice(sessions.start, sessions.stop)
    keep_ST = usable_ST[:, part]
    count_T = np.maximum(keep_ST.sum(axis=0), 1)
    score_ST, target_ST = (np.where(keep_ST, values_ST[:, part], 0.0) for values_ST in (score_ST, target_ST))
    score_ST = np.where(keep_ST, score_ST - score_ST.sum(axis=0) / count_T, 0.0)
    target_ST = np.where(keep_ST, target_ST - target_ST.sum(axis=0) / count_T, 0.0)
    scale_T = np.sqrt((score_ST**2).sum(axis=0) * (target_ST**2).sum(axis=0))
    known_T = scale_T > 1e-12
    return float(((score_ST * target_ST).sum(axis=0)[known_T] / scale_T[known_T]).mean())


class Plants:
    """Pipelines by bug and seed of the market."""

    bugs = BUGS

    @cached_property
    def of(self) -> Callable[..., Pipeline]:
        def make(bug: Bug = "none", seed: int = 7) -> Pipeline:
            return Factory(simulated_panel(seed), bug).pipeline()

        return make


@pytest.fixture(scope="session")
def plants() -> Plants:
    return Plants()
