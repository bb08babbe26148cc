"""Which symbols to hold and how much of each: the best by score, with hysteresis, equally or by their volatility.

Axes: T sessions (market axis), S symbols (sorted). Decided at the close of t from scores and prices known at that
close; the arithmetic of volatility lies in `vnfleet.trading.sizing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import polars as pl
from numpy.typing import NDArray

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.data.panel import Panel
from vnfleet.trading.sizing import basket_scale, daily_returns, inverse_volatility_weights

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKPolicy:
    """Long-only, at most `max_positions` symbols, never more than the money there is.

    A symbol's rank fraction is 1 for the best score of the session and 0 for the worst (average ranks for ties).

    Parameters
    ----------
    max_positions : number of equal slots; an empty slot stays cash.
    enter_above : a symbol may enter when its rank fraction is greater; best first while there are free slots.
    exit_below : a held symbol leaves when its rank fraction is smaller.
    resize_band_frac : a held position is brought back to its weight only when it is off by more than this fraction of
        it; it also decides when an entry that was filled in part is tried again.
    max_unscored_sessions : a held symbol without a score is kept this many sessions, then it leaves.
    weighting : "equal" gives each held symbol one slot, 1 / max_positions of the equity; "inverse_volatility" shares
        the same total among them in proportion to 1 / volatility, so that a calm symbol gets more than a wild one.
    volatility_sessions : volatilities are estimated over this many sessions up to the decision.
    target_volatility_frac : the basket's volatility a year that is aimed at; a wilder basket is held smaller and the
        rest stays cash, a calmer one is never enlarged with borrowed money. At most 1 (0.10 is 10 %); None: no limit.
    max_weight_frac : no symbol weighs more than this fraction of the equity; None: twice an equal slot.
    """

    max_positions: int = 20
    enter_above: float = 0.9
    exit_below: float = 0.4
    resize_band_frac: float = 0.25
    max_unscored_sessions: int = 10
    weighting: Literal["equal", "inverse_volatility"] = "equal"
    volatility_sessions: int = 60
    target_volatility_frac: float | None = None
    max_weight_frac: float | None = None

    def __post_init__(self) -> None:
        if self.max_positions < 1:
            raise ValueError(f"max_positions must be 1 or more, not {self.max_positions}")
        if not 0.0 <= self.exit_below <= self.enter_above < 1.0:
            raise ValueError(f"need 0 <= exit_below <= enter_above < 1, not {self.exit_below}, {self.enter_above}")
        if not self.resize_band_frac > 0:
            raise ValueError(f"resize_band_frac must be positive, not {self.resize_band_frac}")
        if self.max_unscored_sessions < 0:
            raise ValueError(f"max_unscored_sessions must be 0 or more, not {self.max_unscored_sessions}")
        if self.weighting not in ("equal", "inverse_volatility"):
            raise ValueError(f'weighting must be "equal" or "inverse_volatility", not {self.weighting!r}')
        if self.volatility_sessions < 5:
            raise ValueError(f"volatility_sessions must be 5 or more, not {self.volatility_sessions}")
        if self.target_volatility_frac is not None and not 0 < self.target_volatility_frac <= 1:
            raise ValueError(
                f"target_volatility_frac must lie in (0, 1], not {self.target_volatility_frac}: it is a fraction a "
                "year, so write 0.10 for 10 %"
            )
        if self.max_weight_frac is not None and not 0 < self.max_weight_frac <= 1:
            raise ValueError(f"max_weight_frac must lie in (0, 1], not {self.max_weight_frac}")

    @property
    def slot_frac(self) -> float:
        """The fraction of the equity in one equal slot."""
        return 1.0 / self.max_positions

    @property
    def heaviest_frac(self) -> float:
        """The fraction of the equity that no symbol's weight exceeds."""
        return min(1.0, 2.0 * self.slot_frac) if self.max_weight_frac is None else self.max_weight_frac


def prediction_matrix(panel: Panel, predictions: pl.DataFrame, column: str) -> Floats:
    """Return `column` of the predictions of one model and one horizon as [T, S] on the panel's axes, NaN where absent.

    Raises `BadDataError` when the frame holds several models or horizons, or symbols or sessions that the panel lacks.
    """
    checked = as_prediction_frame(predictions)
    for name in ("model_id", "horizon_sessions"):
        if checked.get_column(name).n_unique() > 1:
            found = checked.get_column(name).unique().sort().to_list()
            raise BadDataError("an account follows one model at one horizon", where=name, expected="one", found=found)
    values_TS = np.full((len(panel.sessions), len(panel.symbols)), np.nan)
    rows = _positions("session", checked.get_column("session"), pl.Series(panel.sessions, dtype=pl.Date))
    columns = _positions("symbol", checked.get_column("symbol"), pl.Series(panel.symbols, dtype=pl.String))
    values_TS[rows, columns] = checked.get_column(column).fill_null(float("nan")).to_numpy()
    return values_TS


def _positions(name: str, wanted: pl.Series, axis: pl.Series) -> NDArray[np.int64]:
    unknown = wanted.filter(~wanted.is_in(axis.implode())).unique().sort()
    if unknown.len():
        raise BadDataError(f"predictions name a {name} that the panel lacks", found=unknown.head(5).to_list())
    return axis.search_sorted(wanted).to_numpy().astype(np.int64)


def rank_fractions(scores_TS: Floats) -> Floats:
    """Return 1 for the best and 0 for the worst score of each session, average ranks for ties, NaN where unscored.

    A lone score has fraction 1.
    """
    fractions_TS = np.full_like(scores_TS, np.nan)
    rows, columns = np.nonzero(np.isfinite(scores_TS))
    if rows.size:
        frame = pl.DataFrame({"row": rows, "score": scores_TS[rows, columns]})
        others = pl.len().over("row") - 1
        rank = pl.col("score").rank("average").over("row") - 1
        fraction = pl.when(others > 0).then(rank / others).otherwise(1.0)
        fractions_TS[rows, columns] = frame.select(fraction).to_series().to_numpy()
    return fractions_TS


def target_weights(panel: Panel, scores_TS: Floats, policy: TopKPolicy) -> Floats:
    """Return the fraction of the equity wanted in each symbol after the close of each session, float64 [T, S].

    Never NaN; 0 for symbols that are not wanted; a row's sum is at most 1 and the rest of it is cash. A row depends on
    scores and prices up to its own session only.

    scores_TS : scores on the panel's axes, NaN where unscored (see `prediction_matrix`).
    Raises `UsageError` when the scores do not have the panel's shape.
    """
    expected = (len(panel.sessions), len(panel.symbols))
    if scores_TS.shape != expected:
        raise UsageError("scores do not lie on the panel's axes", expected=expected, found=scores_TS.shape)
    wanted_TS = desired_positions(scores_TS, policy)
    weights_TS = np.where(wanted_TS, min(policy.slot_frac, policy.heaviest_frac), 0.0)
    if policy.weighting == "equal" and policy.target_volatility_frac is None:
        return weights_TS
    returns = daily_returns(panel)
    if policy.weighting == "inverse_volatility":
        weights_TS = inverse_volatility_weights(
            returns, wanted_TS, policy.volatility_sessions, policy.slot_frac, policy.heaviest_frac
        )
    if policy.target_volatility_frac is not None:
        scale_T = basket_scale(returns, weights_TS, policy.volatility_sessions, policy.target_volatility_frac)
        weights_TS = weights_TS * scale_T[:, None]
    return weights_TS


def desired_positions(scores_TS: Floats, policy: TopKPolicy) -> Flags:
    """Return which symbols the policy wants to hold after the close of each session, bool [T, S].

    It follows the scores alone: an order that the market refuses is tried again while the symbol stays wanted.
    """
    fractions_TS = rank_fractions(scores_TS)
    return np.asarray(
        _desired(
            fractions_TS,
            best_first(scores_TS),
            policy.max_positions,
            policy.enter_above,
            policy.exit_below,
            policy.max_unscored_sessions,
        ),
        dtype=np.bool_,
    )


def best_first(scores_TS: Floats) -> NDArray[np.int64]:
    """Return symbol indices per session by falling score, unscored last, ties by name, int64 [T, S]."""
    return np.argsort(np.where(np.isfinite(scores_TS), -scores_TS, np.inf), axis=1, kind="stable").astype(np.int64)


@numba.njit(cache=True)
def _desired(
    fractions_TS: Floats,
    order_TS: NDArray[np.int64],
    max_positions: int,
    enter_above: float,
    exit_below: float,
    max_unscored: int,
) -> Flags:
    num_sessions, num_symbols = fractions_TS.shape
    wanted_TS = np.zeros((num_sessions, num_symbols), dtype=np.bool_)
    held = np.zeros(num_symbols, dtype=np.bool_)
    unscored = np.zeros(num_symbols, dtype=np.int64)
    for t in range(num_sessions):
        count = 0
        for s in range(num_symbols):
            unscored[s] = unscored[s] + 1 if np.isnan(fractions_TS[t, s]) else 0
            if held[s] and (fractions_TS[t, s] < exit_below or unscored[s] > max_unscored):
                held[s] = False
            count += held[s]
        for place in range(num_symbols):
            s = order_TS[t, place]
            if count >= max_positions or not fractions_TS[t, s] > enter_above:
                break
            if not held[s]:
                held[s] = True
                count += 1
        wanted_TS[t] = held
    return wanted_TS
