"""How often the gate promotes what has no skill, and how often it promotes what has some: synthetic factories.

    python benchmarks/gate_calibration.py --factories 1000 --prices FILE --listings FILE --out benchmarks/NAME.md

FILE holds prices of CafeF's format and their listings; they are no part of the project. Without them the outcomes come
from the simulated market. Each factory is drawn from its own number (`vnfleet.releases.calibration`). Accounts are run
by the real simulator; those of factories with skill, and the plan's gate, on about `--accounts` factories only.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binomtest

from vnfleet.data.panel import Panel, PanelStore
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import Source
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.evaluation.sharpe import deflated_sharpe, drawdown_at_volatility
from vnfleet.releases.calibration import Case, Factory, Ground, ground_of, is_false_promotion, prediction_frame
from vnfleet.releases.gate import GateLimits, PlanPolicyReport, plan_policy_report
from vnfleet.trading.metrics import sharpe_252
from vnfleet.trading.single import single_symbol_figures

AS_OF, FIRST, YEAR_SESSIONS = date(2024, 12, 31), date(2018, 1, 2), 250
HISTORY_FROM = date(2016, 10, 3)  # a year and more to choose the symbols by; the rest would only cost time
CHANGES_A_YEAR = 4
SKILLED = (0.06, 0.04, 0.0, 0.0)
POWER_ICS = (0.02, 0.04, 0.06, 0.08)
TRIALS = (("1 trial", 1, False), ("41 alike", 41, True), ("10 strangers", 10, False), ("41 strangers", 41, False))
EXPECTED_SD_FRAC, RETURN_SD_FRAC, MARKET_SHARE = 0.01, 0.05, 0.3
SKILLESS = (
    Case(name="first", words="first release, nobody has skill"),
    Case(
        name="first, skilled rules",
        words="first release, models without skill, rules at 0.06 and 0.04",
        baselines_ic=SKILLED,
        baseline_is_wrong=False,
    ),
    Case(name="change", words="recipe change, nobody has skill", champion_ic=0.0),
    Case(
        name="change, equal",
        words="recipe change, champion, models and best rule all at 0.06",
        candidate_ic=0.06,
        baselines_ic=SKILLED,
        champion_ic=0.06,
    ),
    Case(
        name="change, weak rules",
        words="recipe change, champion and models at 0.06, rules at 0",
        candidate_ic=0.06,
        champion_ic=0.06,
    ),
)
POWER = (
    *(
        Case(
            name=f"power {ic}",
            words=f"first release, models at {ic:.2f}, rules at 0",
            candidate_ic=ic,
            models_are_right=True,
        )
        for ic in POWER_ICS
    ),
    Case(
        name="lead",
        words="recipe change, models at 0.08, champion 0.06, rules 0.06 and 0.04",
        candidate_ic=0.08,
        baselines_ic=SKILLED,
        champion_ic=0.06,
        models_are_right=True,
    ),
)
Key = tuple[str, str]
_GROUND: list[Ground] = []  # of a worker process


@dataclass
class Tally:
    """What was counted: per case and length, then about accounts and the plan's gate."""

    tries: Counter[Key] = field(default_factory=Counter)
    by_ranks: Counter[Key] = field(default_factory=Counter)
    with_accounts: Counter[Key] = field(default_factory=Counter)
    accounts: dict[float, list[dict[str, float]]] = field(default_factory=dict)
    plans: dict[str, list[PlanPolicyReport]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Count what another one counted too."""
        self.tries.update(other.tries)
        self.by_ranks.update(other.by_ranks)
        self.with_accounts.update(other.with_accounts)
        for rank_ic, figures in other.accounts.items():
            self.accounts.setdefault(rank_ic, []).extend(figures)
        for name, reports in other.plans.items():
            self.plans.setdefault(name, []).extend(reports)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factories", type=int, default=1000)
    parser.add_argument("--accounts", type=int, default=100)
    parser.add_argument("--prices", type=Path)
    parser.add_argument("--listings", type=Path)
    parser.add_argument("--significance", type=float, default=GateLimits().significance)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    ground, tally = ground_of(panel_of(options.prices, options.listings), first=FIRST), Tally()
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn"), _start, (ground,)) as pool:
        every = max(1, options.factories // max(options.accounts, 1))
        limits = GateLimits(significance=options.significance)
        jobs = ((number, number % every == 0, limits) for number in range(options.factories))
        for done, part in enumerate(pool.map(_one, jobs), start=1):
            tally.add(part)
            if done % 20 == 0 or done == options.factories:
                seconds = time.perf_counter() - started
                print(f"{done} factories, {seconds:.0f} s", flush=True)
                text = record(
                    tally, ground, limits, "real prices" if options.prices else "the simulated market", seconds
                )
                if options.out:
                    options.out.write_text(text, encoding="utf-8")
    print(text)


def _start(ground: Ground) -> None:
    _GROUND.append(ground)


def _one(job: tuple[int, bool, GateLimits]) -> Tally:
    number, deep, limits = job
    tally = Tally()
    count(tally, _GROUND[0], number, limits, deep=deep)
    return tally


def panel_of(prices: Path | None, listings: Path | None) -> Panel:
    source: Source = (
        FilesSource(prices, listings)
        if prices and listings
        else SimulatedSource(SimulatedMarket(num_symbols=120, start=date(2016, 1, 4)))
    )
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        whole = source.fetch(None, AS_OF)
        recent = pl.col("session") >= HISTORY_FROM
        history = dataclasses.replace(whole, bars=whole.bars.filter(recent), index=whole.index.filter(recent))
        RawStore(workdir / "data" / "raw").merge(source.name, history, datetime(2025, 8, 22, tzinfo=UTC))
        return PanelStore(workdir, source.name).serve(AS_OF)


def count(tally: Tally, ground: Ground, number: int, limits: GateLimits, *, deep: bool) -> None:
    """Let one factory run through all cases; `deep` adds power, accounts and the plan's gate."""
    factory = Factory(ground, number)
    start = int(np.random.default_rng(number).integers(0, len(ground.sessions) - YEAR_SESSIONS))
    lengths = {"one year": slice(start, start + YEAR_SESSIONS), "all": slice(0, len(ground.sessions))}
    for name, sessions in lengths.items():
        for case in (*SKILLESS, *(POWER if deep else ())):
            verdicts = factory.decide(case, sessions=sessions, limits=limits)
            key = (case.name, name)
            tally.tries[key] += 1
            if case.models_are_right:
                tally.by_ranks[key] += verdicts.by_ranks.serving in ("adapted", "pooled") and verdicts.by_ranks.deploys
                last = verdicts.with_accounts
                tally.with_accounts[key] += last.serving in ("adapted", "pooled") and last.deploys
            else:
                tally.by_ranks[key] += is_false_promotion(case, verdicts.by_ranks)
                tally.with_accounts[key] += is_false_promotion(case, verdicts.with_accounts)
        if deep:
            tally.plans.setdefault(name, []).append(plan_report(factory, ground, number, sessions))
    if deep:
        for rank_ic in (0.0, *POWER_ICS):
            tally.accounts.setdefault(rank_ic, []).append(account_figures(factory, rank_ic, number))


def account_figures(factory: Factory, rank_ic: float, number: int) -> dict[str, float]:
    """Return the figures of the pooled forecaster's account over all sessions, and of one resampled path of it."""
    account = factory.account("pooled", rank_ic, slice(None))
    rng = np.random.default_rng(number)
    starts = rng.integers(0, account.returns_T.size, account.returns_T.size // 60 + 1)
    path = (starts[:, None] + np.arange(60)).ravel()[: account.returns_T.size] % account.returns_T.size
    figures = {
        "sharpe": sharpe_252(account.returns_T) or 0.0,
        "lead_sharpe": sharpe_252(account.active_returns_T) or 0.0,
        "drawdown": drawdown_at_volatility(account.returns_T, target_volatility_frac=0.10),
        "drawdown_resampled": drawdown_at_volatility(account.returns_T[path], target_volatility_frac=0.10),
    }
    likeness, size = GateLimits().trial_likeness, account.returns_T.size
    for words, trials, alike in TRIALS:
        spread = ((1 - (likeness if alike else 0)) / (size - 1)) ** 0.5
        figures[words] = deflated_sharpe(account.active_returns_T, num_trials=trials, trial_sharpe_sd=spread)
    return figures


def plan_report(factory: Factory, ground: Ground, number: int, sessions: slice) -> PlanPolicyReport:
    """Return the plan's gate on models without skill: noise of one symbol and noise that all share, as forecasts."""
    rng = np.random.default_rng(number + 10**6)
    shared_T = np.zeros(len(ground.sessions))
    for t, shock in enumerate(rng.standard_normal(shared_T.size)):
        shared_T[t] = shock if t == 0 else 0.9 * shared_T[t - 1] + np.sqrt(1 - 0.9**2) * shock
    noise_TS = np.sqrt(MARKET_SHARE) * shared_T[:, None] + np.sqrt(1 - MARKET_SHARE) * factory.scores("pooled", 0.0)
    expected_TS = EXPECTED_SD_FRAC * noise_TS
    frame = prediction_frame(expected_TS, ground).with_columns(
        expected_return_frac=pl.col("score"),
        direction_prob=pl.Series(np.asarray(ndtr(expected_TS / RETURN_SD_FRAC)).ravel()),
    )
    days = ground.sessions[sessions]
    inside = frame.filter(pl.col("session").is_between(days[0], days[-1]))
    figures = single_symbol_figures(ground.panel, inside)
    return plan_policy_report(figures.rename({"sharpe_252": "sharpe", "rmse_frac": "rmse"}))


def wilson(hits: int, tries: int) -> str:
    if not tries:
        return "-"
    interval = binomtest(hits, tries).proportion_ci(method="wilson")
    return f"{hits / tries:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def yearly(hits: int, tries: int) -> str:
    return f"{1 - (1 - hits / tries) ** CHANGES_A_YEAR:.1%}"


def record(tally: Tally, ground: Ground, limits: GateLimits, source: str, seconds: float) -> str:
    accounts = max((len(figures) for figures in tally.accounts.values()), default=0)
    factories = max(tally.tries.values())
    terms = f"Accounts by the real simulator; those of power, and the plan's gate, on {accounts} factories."
    lines = [
        f"# Calibration of the gate, {datetime.now(UTC):%Y-%m-%d}",
        "",
        (
            f"{factories:,} synthetic factories of {len(ground.symbols)} symbols; outcomes: {source}, "
            f"{ground.sessions[0]} to {ground.sessions[-1]} ({len(ground.sessions):,} sessions), "
            f"{ground.horizon_sessions}-session returns from the next open."
        ),
        f'"one year" is {YEAR_SESSIONS} sessions from a random day on, the least the gate decides on.',
        terms,
        "Wilson intervals, 95 %.",
        f"Significance {limits.significance}, {limits.prior_trials} prior trials, likeness {limits.trial_likeness}.",
        f"{seconds:,.0f} s on two cores shared with other work.",
        "",
        "Each factory: a pooled and an adapted strategy, four simple rules, perhaps a champion (their skill: below).",
        "Scores are persistent noise that leans on the market's own principal components, plus the planted skill;",
        "nothing is trained. All factories share one history: they differ in forecasts, not in what followed.",
        "",
        "## False promotions per decision",
        "",
        "| decision | sessions | rank checks alone | with accounts | a year, with accounts |",
        "|---|---|---|---|---|",
    ]
    for case in SKILLESS:
        for name in ("one year", "all"):
            key = (case.name, name)
            tries, final = tally.tries[key], tally.with_accounts[key]
            a_year = yearly(final, tries) if case.champion_ic is not None else "happens once"
            lines.append(
                f"| {case.words} | {name} | {wilson(tally.by_ranks[key], tries)} | {wilson(final, tries)} | {a_year} |"
            )
    lines += [
        "",
        f"A year: {CHANGES_A_YEAR} recipe changes are tried, each as useless as stated, independent of each other.",
        "",
        "## Power: the models do go live",
        "",
        "| decision | sessions | rank checks alone | with accounts |",
        "|---|---|---|---|",
    ]
    for case in POWER:
        for name in ("one year", "all"):
            key = (case.name, name)
            tries = tally.tries[key]
            lines.append(
                f"| {case.words} | {name} | {wilson(tally.by_ranks[key], tries)} "
                f"| {wilson(tally.with_accounts[key], tries)} |"
            )
    lines += [
        "",
        "## Accounts over all sessions",
        "",
        "Median Sharpe ratios a year; share of accounts whose lead over equal weight passes 0.95 after so many trials",
        "(alike: as the gate counts them, strangers: as if independent); drawdown at 10 % volatility: median, 95 %",
        "and largest of the accounts, then of one path each, resampled in blocks of 60 sessions, and the share of",
        "those under the limit.",
        "",
        "| rank IC | Sharpe | of the lead | "
        + " | ".join(words for words, _, _ in TRIALS)
        + " | drawdown | resampled | "
        f"under {limits.max_drawdown_frac:.0%} |",
        "|---|---|---|" + "---|" * (len(TRIALS) + 3),
    ]
    for rank_ic, rows in tally.accounts.items():
        column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        passing = " | ".join(f"{(column[words] > limits.min_deflated_sharpe).mean():.0%}" for words, _, _ in TRIALS)
        under = (column["drawdown_resampled"] < limits.max_drawdown_frac).mean()
        lines.append(
            f"| {rank_ic:.2f} | {np.median(column['sharpe']):.2f} | {np.median(column['lead_sharpe']):.2f} | {passing} "
            f"| {_spread(column['drawdown'])} | {_spread(column['drawdown_resampled'])} | {under:.0%} |"
        )
    market = ground.market.filter(pl.col("session") >= ground.sessions[0]).get_column("market_vnd").to_numpy()
    alone = drawdown_at_volatility(market[1:] / market[:-1] - 1, target_volatility_frac=0.10)
    lines += [
        "",
        f"Equal weight of the same symbols, drawdown: {alone:.0%}.",
        "",
        "## The written plan's gate on models without skill",
        "",
        "| sessions | accuracy | Sharpe | drawdown | RMSE | three | all four | sets the policy `plan` would deploy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, reports in tally.plans.items():
        shares = [_mean(report.criteria[place].pass_frac for report in reports) for place in range(4)]
        shares += [_mean(report.three_frac for report in reports), _mean(report.all_frac for report in reports)]
        deployed = sum(bool(report.reaches_mean_54 and report.passing) for report in reports)
        cells = " | ".join(f"{share:.1%}" for share in shares)
        lines.append(f"| {name} | {cells} | {wilson(deployed, len(reports))} |")
    return "\n".join([*lines, ""])


def _spread(values: NDArray[np.float64]) -> str:
    return f"{np.median(values):.0%}, {np.quantile(values, 0.95):.0%}, {values.max():.0%}"


def _mean(values: object) -> float:
    known = [value for value in values if value is not None]  # type: ignore[attr-defined]
    return float(np.mean(known)) if known else float("nan")


if __name__ == "__main__":
    main()
