"""How often the gate is wrong: synthetic factories of forecasters whose true skill is known, on given outcomes.

A factory is a set of forecasters of the same symbols: two strategies, simple rules, perhaps a champion. Their scores
are noise, independent of what followed, plus a planted share of it; nothing is trained. The noise has what real scores
have and independent noise lacks: it persists over sessions, the forecasters of one market share part of it, and it
leans now this way, now that on the directions in which the market itself moves (the first principal components of the
outcomes' ranks), so that whole weeks are lucky or unlucky together. Leanings have no preferred sign: the true rank IC
of the noise is 0.

Accounts come from the real simulator, and only where the decision depends on one.

Axes: T judged sessions, S symbols, K principal components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import ndtri
from scipy.stats import rankdata

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import PREDICTION_SCHEMA
from vnfleet.data.outcomes import forward_returns
from vnfleet.data.panel import Panel
from vnfleet.data.universe import most_traded
from vnfleet.releases.account_facts import AccountFacts
from vnfleet.releases.gate import Champion, decide_recipe
from vnfleet.releases.race import GateLimits
from vnfleet.releases.verdict import GateDecision
from vnfleet.trading.benchmarks import equal_weight_equity
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import simulate

Floats = NDArray[np.float64]
NUM_BASELINES: Final = 4
UNIVERSE_SESSIONS: Final = 250
_PERSISTENCE, _LEANING_PERSISTENCE = 0.9, 0.98
_LEANING_SHARE, _SHARED, _CHAMPION_LIKENESS, _ADAPTED_LIKENESS = 0.5, 0.4, 0.7, 0.8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """Outcomes that factories are judged on; build it with `ground_of`.

    panel : prices of the symbols, for accounts. market : session, market_vnd of holding them equally weighted.
    sessions [T], symbols [S].
    outcomes_TS : normal scores of the returns within each session, 0 where unknown. known_TS : which are known.
    ranks_TS : centred ranks of the returns with unit length per session, 0 where unknown.
    directions_KS : principal components of `outcomes_TS`, mean square 1 over symbols.
    horizon_sessions : of the returns, from the next open.
    """

    panel: Panel
    market: pl.DataFrame
    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    outcomes_TS: Floats
    known_TS: NDArray[np.bool_]
    ranks_TS: Floats
    directions_KS: Floats
    horizon_sessions: int


def ground_of(
    panel: Panel, *, first: date, num_symbols: int = 102, horizon_sessions: int = 5, num_directions: int = 3
) -> Ground:
    """Return the outcomes of every session from `first` on, of the symbols that were most traded before it.

    Raises `BadDataError` when fewer than `UNIVERSE_SESSIONS` sessions come before `first` or no outcome follows it.
    """
    symbols = most_traded(panel, num_symbols, UNIVERSE_SESSIONS, first)
    chosen = panel.restrict(symbols)
    returns_TS = forward_returns(chosen, [horizon_sessions])[0].T
    judged = [t for t, day in enumerate(chosen.sessions) if day >= first and np.isfinite(returns_TS[t]).sum() >= 3]
    if not judged:
        raise BadDataError("there is no outcome to judge anything by", where=f"from {first}")
    returns_TS = returns_TS[judged]
    known_TS = np.isfinite(returns_TS)
    ranks_TS = np.nan_to_num(rankdata(returns_TS, axis=1, nan_policy="omit"))
    count_T1 = known_TS.sum(axis=1, keepdims=True)
    outcomes_TS = np.where(known_TS, ndtri(np.clip((ranks_TS - 0.5) / count_T1, 1e-9, 1 - 1e-9)), 0.0)
    centred_TS = np.where(known_TS, ranks_TS - (count_T1 + 1) / 2, 0.0)
    length_T1 = np.sqrt((centred_TS**2).sum(axis=1, keepdims=True))
    directions_KS = np.linalg.svd(outcomes_TS, full_matrices=False)[2][:num_directions]
    return Ground(
        panel=chosen,
        market=equal_weight_equity(chosen, chosen.symbols, first, chosen.sessions[-1]).rename(
            {"equity_vnd": "market_vnd"}
        ),
        sessions=tuple(chosen.sessions[t] for t in judged),
        symbols=tuple(chosen.symbols),
        outcomes_TS=outcomes_TS,
        known_TS=known_TS,
        ranks_TS=np.divide(centred_TS, length_T1, out=np.zeros_like(centred_TS), where=length_T1 > 0),
        directions_KS=directions_KS * np.sqrt(directions_KS.shape[1]),
        horizon_sessions=horizon_sessions,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of decision with the true mean rank IC of everybody in it.

    baselines_ic : of the simple rules, `NUM_BASELINES` of them. champion_ic : None for a first release.
    baseline_is_wrong : whether a simple rule that goes live is a false promotion too (the models always are, unless
        `models_are_right`: then the share of promotions is power).
    """

    name: str
    words: str
    candidate_ic: float = 0.0
    baselines_ic: tuple[float, ...] = (0.0,) * NUM_BASELINES
    champion_ic: float | None = None
    baseline_is_wrong: bool = True
    models_are_right: bool = False

    def __post_init__(self) -> None:
        if len(self.baselines_ic) != NUM_BASELINES:
            raise ValueError(f"a case has {NUM_BASELINES} simple rules, found {len(self.baselines_ic)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What the gate did in one case: by the rank checks alone, and with the accounts of whoever would go live."""

    by_ranks: GateDecision
    with_accounts: GateDecision


class Factory:
    """Forecasters drawn once from `seed`; any skill can be planted in each of them afterwards."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self._ground = ground
        rng = np.random.default_rng(seed)
        common, pooled = self._noise(rng), self._noise(rng)
        self._noise_of = {"pooled": _mixed(common, pooled, _SHARED)}
        for name, likeness in (("adapted", _ADAPTED_LIKENESS), ("champion", _CHAMPION_LIKENESS)):
            self._noise_of[name] = _mixed(self._noise_of["pooled"], self._noise(rng), likeness)
        for place in range(NUM_BASELINES):
            self._noise_of[f"rule {place}"] = _mixed(common, self._noise(rng), _SHARED)
        for name, noise_TS in self._noise_of.items():
            self._noise_of[name] = _standardised(noise_TS)
        self._daily: dict[tuple[str, float], Floats] = {}
        self._returns: dict[tuple[str, float], pl.DataFrame] = {}

    def scores(self, name: str, rank_ic: float) -> Floats:
        """Return scores [T, S] of "pooled", "adapted", "champion" or "rule 0".. with planted skill.

        The noise has the same spread in every session, so a share k of the outcome's normal score gives a rank IC of
        6 / pi asin(k / 2) in all of them: nobody is better than planted because its noise happened to be small.
        """
        share = 2 * np.sin(np.pi * rank_ic / 6)
        return np.asarray(share * self._ground.outcomes_TS + np.sqrt(1 - share**2) * self._noise_of[name])

    def daily_ic(self, name: str, rank_ic: float) -> Floats:
        """Return the daily rank IC [T] of such scores."""
        if (name, rank_ic) not in self._daily:
            self._daily[name, rank_ic] = daily_rank_ic(self.scores(name, rank_ic), self._ground)
        return self._daily[name, rank_ic]

    def decide(self, case: Case, *, sessions: slice, limits: GateLimits | None = None) -> Verdicts:
        """Let the gate decide `case` on some of the judged sessions.

        A simple rule that rightly goes live is not simulated: no account of its own changes what the models may do.
        """
        skill = {"pooled": case.candidate_ic, "adapted": case.candidate_ic}
        skill |= {f"rule {place}": value for place, value in enumerate(case.baselines_ic)}
        if case.champion_ic is not None:
            skill["champion"] = case.champion_ic
        days = self._ground.sessions[sessions]
        daily = pl.concat(
            pl.DataFrame({"model_id": name, "session": days, "rank_ic": self.daily_ic(name, value)[sessions]})
            for name, value in skill.items()
        )
        by_ranks = _decided(daily, {}, case, limits)
        latest, accounts = by_ranks, dict[str, AccountFacts]()
        while latest.deploys and latest.serving not in accounts:
            if latest.serves_baseline and not case.baseline_is_wrong:
                break
            accounts[latest.serving] = self.account(latest.serving, skill[latest.serving], sessions)
            latest = _decided(daily, accounts, case, limits)
        return Verdicts(by_ranks=by_ranks, with_accounts=latest)

    def account(self, name: str, rank_ic: float, sessions: slice) -> AccountFacts:
        """Return the simulated account of a forecaster during some of the judged sessions.

        The account follows the forecaster over all judged sessions; the part inside is returned.
        """
        if (name, rank_ic) not in self._returns:
            predictions = prediction_frame(self.scores(name, rank_ic), self._ground)
            equity = simulate(self._ground.panel, predictions, TopKPolicy()).equity.join(
                self._ground.market, on="session", how="left", maintain_order="left"
            )
            growth = pl.col("equity_vnd", "market_vnd") / pl.col("equity_vnd", "market_vnd").shift(1) - 1
            self._returns[name, rank_ic] = equity.select("session", growth).slice(1)
        days = self._ground.sessions[sessions]
        inside = self._returns[name, rank_ic].filter(pl.col("session").is_between(days[0], days[-1], closed="right"))
        own_T, market_T = (inside.get_column(column).to_numpy() for column in ("equity_vnd", "market_vnd"))
        return AccountFacts(returns_T=own_T, active_returns_T=own_T - market_T)

    def _noise(self, rng: np.random.Generator) -> Floats:
        """Return persistent noise [T, S] with mean square 1, part of it along the market's own directions."""
        num_sessions, num_symbols = self._ground.outcomes_TS.shape
        own_TS = _persistent(rng, num_sessions, num_symbols, _PERSISTENCE)
        leaning_TK = _persistent(rng, num_sessions, len(self._ground.directions_KS), _LEANING_PERSISTENCE)
        along_TS = leaning_TK @ self._ground.directions_KS / np.sqrt(len(self._ground.directions_KS))
        return _mixed(along_TS, own_TS, _LEANING_SHARE)


def daily_rank_ic(scores_TS: Floats, ground: Ground) -> Floats:
    """Return the Spearman correlation of scores (no ties) and outcomes of each session, shape [T]."""
    order_TS = np.argsort(np.where(ground.known_TS, scores_TS, np.inf), axis=1)
    ranks_TS = np.empty_like(scores_TS)
    np.put_along_axis(ranks_TS, order_TS, np.arange(scores_TS.shape[1], dtype=np.float64)[None, :], axis=1)
    count_T = ground.known_TS.sum(axis=1)
    return np.asarray((ranks_TS * ground.ranks_TS).sum(axis=1) / np.sqrt(count_T * (count_T**2 - 1) / 12))


def prediction_frame(scores_TS: Floats, ground: Ground) -> pl.DataFrame:
    """Return scores of all judged sessions as the prediction frame of one model."""
    days, symbols = ground.sessions, ground.symbols
    return pl.DataFrame(
        {
            "model_id": "model",
            "symbol": pl.Series(symbols).gather(np.tile(np.arange(len(symbols)), len(days))),
            "session": pl.Series(days, dtype=pl.Date).gather(np.repeat(np.arange(len(days)), len(symbols))),
            "horizon_sessions": ground.horizon_sessions,
            "fold_id": "calibration",
            "score": scores_TS.ravel(),
            "direction_prob": None,
            "expected_return_frac": None,
            "volatility_frac": None,
        },
        schema_overrides=PREDICTION_SCHEMA,
    )


def is_false_promotion(case: Case, decision: GateDecision) -> bool:
    """Return whether something went live that should not have."""
    wrong_models = not decision.serves_baseline and not case.models_are_right
    return decision.deploys and (wrong_models or (decision.serves_baseline and case.baseline_is_wrong))


def _decided(
    daily: pl.DataFrame, accounts: Mapping[str, AccountFacts], case: Case, limits: GateLimits | None
) -> GateDecision:
    return decide_recipe(
        daily,
        candidates={"pooled": "pooled", "adapted": "adapted"},
        baselines={f"rule {place}": f"rule {place}" for place in range(NUM_BASELINES)},
        champion=None if case.champion_ic is None else Champion(model_id="champion", serving="adapted"),
        account=next((accounts[name] for name in ("adapted", "pooled") if name in accounts), None),
        baseline_accounts=accounts,
        limits=limits,
    )


def _mixed(first: Floats, second: Floats, share: float) -> Floats:
    return np.asarray(np.sqrt(share) * first + np.sqrt(1 - share) * second)


def _standardised(noise_TS: Floats) -> Floats:
    """Return the noise with mean 0 and mean square 1 over the symbols of each session."""
    centred_TS = noise_TS - noise_TS.mean(axis=1, keepdims=True)
    return np.asarray(centred_TS / np.sqrt((centred_TS**2).mean(axis=1, keepdims=True)))


def _persistent(rng: np.random.Generator, num_sessions: int, width: int, persistence: float) -> Floats:
    """Return independent stationary AR(1) columns with variance 1."""
    shocks = rng.standard_normal((num_sessions, width))
    shocks[1:] *= np.sqrt(1 - persistence**2)
    return np.asarray(lfilter([1.0], [1.0, -persistence], shocks, axis=0))
