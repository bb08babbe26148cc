"""gate: may the set of this week go live, in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import short_id
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.runner import Facts, Runner, StepOutcome, StepResult, StepSpec
from vnfleet.cycle.steps.champion import Champion, validation_history
from vnfleet.cycle.steps.forecasting import live_baseline
from vnfleet.cycle.steps.judging import read_scores
from vnfleet.cycle.steps.proving import Proven, read_proven
from vnfleet.cycle.steps.trading import (
    CHAMPION,
    RETURNS,
    SINGLE,
    better_strategy,
    known_to,
    model_ids_of,
    read_null_shares,
)
from vnfleet.evaluation.metrics import ALL_YEARS, daily_rank_ic
from vnfleet.model.artifact import artifact_name, read_artifact
from vnfleet.model.baselines import BASELINE_NAMES, BaselineName, FittedBaseline, load_baseline
from vnfleet.model.sets import forecast_artifacts
from vnfleet.releases.account_facts import AccountFacts, account_sentence
from vnfleet.releases.gate import Champion as GateChampion
from vnfleet.releases.gate import (
    Check,
    GateDecision,
    PlanPolicyReport,
    RefreshFacts,
    decide_recipe,
    decide_refresh,
    plan_policy_report,
    rank_agreement,
)
from vnfleet.releases.plan_gate import decide_by_plan
from vnfleet.releases.plan_policy import MEAN_ACCURACY_TARGETS
from vnfleet.releases.predict import artifact_problems
from vnfleet.releases.race import runner_of
from vnfleet.releases.vetoes import judge_vetoes, vetoed_symbols
from vnfleet.training.forecast import forecast_fold

DECISION_NAME = "decision.json"
_NEARLY_ALL = 0.9


def set_id_of(week: WeekContext, trained: StepOutcome) -> str:
    """Return the identity of the trained set that is judged: its weights and the recipe they came from."""
    return short_id([week.recipe.recipe_id, trained.text("weights_sha256"), trained.facts["live_universe"]])


def gate(
    runner: Runner,
    week: WeekContext,
    trained: StepOutcome,
    evaluated: StepOutcome,
    backtested: StepOutcome,
    proven: StepOutcome,
    champion: Champion | None,
) -> StepOutcome:
    """Decide in words whether the set of this week goes live, and what serves."""
    inputs: Facts = {
        "set_id": set_id_of(week, trained),
        "scores_id": evaluated.text("scores_id"),
        "figures_id": backtested.text("figures_id"),
        "proven": proven.key,
        "champion": None if champion is None else champion.release_id,
        "gate": dataclasses.asdict(week.config.gate),
        "refresh": dataclasses.asdict(week.config.refresh),
    }

    def work(scratch: Path) -> StepResult:
        single = pl.read_parquet(backtested.folder / SINGLE).rename({"sharpe_252": "sharpe", "rmse_frac": "rmse"})
        plan = plan_policy_report(single, null=read_null_shares(backtested))
        bench = _Bench(week=week, evaluated=evaluated, backtested=backtested, proven=read_proven(proven))
        if champion is not None and _is_refresh(week, evaluated, champion):
            decision = _refreshed(bench, trained, champion, plan)
        else:
            decision = _contested(bench, champion, plan)
        write_text(scratch / DECISION_NAME, decision.model_dump_json(indent=1))
        return StepResult(
            summary=decision.sentence,
            facts={"kind": decision.kind, "outcome": decision.outcome, "serving": decision.serving},
        )

    return runner.step(StepSpec(name="gate", inputs=inputs, rooms=("releases", "evaluation")), work)


def _is_refresh(week: WeekContext, evaluated: StepOutcome, champion: Champion) -> bool:
    """Return True for the same thing from newer data; the written plan's rule judges what would be deployed anew."""
    if not champion.is_of(week):
        return False
    return week.config.gate.policy == "fleet" or better_strategy(evaluated) == champion.serving


def read_decision(gated: StepOutcome) -> GateDecision:
    """Return what a finished gate step decided."""
    return GateDecision.model_validate_json((gated.folder / DECISION_NAME).read_bytes())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """The evidence of the week, as the gate asks for it."""

    week: WeekContext
    evaluated: StepOutcome
    backtested: StepOutcome
    proven: Proven

    def account(self, name: str, *, beside_champion: bool = False) -> AccountFacts | None:
        """Return the simulated account of an entrant; None when it has none.

        `beside_champion` adds the champion's account, where the two ran on nearly the same sessions, on those.
        """
        returns = pl.read_parquet(self.backtested.folder / RETURNS)
        own = returns.filter(pl.col("series") == name).drop_nulls().sort("session")
        if own.is_empty():
            return None
        old = returns.filter(pl.col("series") == CHAMPION).select("session", old="return_frac")
        common = own.join(old, on="session").sort("session")
        both = beside_champion and common.height >= _NEARLY_ALL * own.height
        table = common if both else own
        return AccountFacts(
            returns_T=table.get_column("return_frac").to_numpy(),
            active_returns_T=table.get_column("active_return_frac").to_numpy(),
            num_trials=self.proven.num_trials,
            trial_sharpe_sd=self.proven.sharpe_sd,
            old_returns_T=table.get_column("old").to_numpy() if both else None,
        )

    def vetoes(self, name: str) -> dict[str, float]:
        """Return the z of each symbol's shrunk accuracy against a coin flip, for the symbols that have one."""
        rows = read_scores(self.evaluated).symbols.filter(pl.col("model_id") == model_ids_of(self.evaluated)[name])
        judged = rows.drop_nulls("veto_z")
        return dict(judged.select("symbol", "veto_z").iter_rows())

    def leaks(self) -> tuple[Check, ...]:
        """Return the leak prover's verdict as the gate reads it, then what failed; a warning is no failure."""
        report = self.proven.leaks
        leaks = sum(check.leaks for check in report.checks)
        words = f"the leak prover made {len(report.checks)} checks: " + (
            f"{leaks} failed" if leaks else "nothing leaks"
        )
        verdict = Check(name="leak_prover", passed=not leaks, value=leaks, limit=0, words=words)
        failed = (
            Check(
                name=f"leak_{check.name}",
                passed=False if check.leaks else None,
                value=check.value,
                limit=check.limit,
                words=f"{'leak' if check.leaks else 'warning'}, {check.name}: {check.words}",
            )
            for check in report.failed
        )
        return (verdict, *failed)

    def told(self, name: str) -> tuple[str, ...]:
        """Return what every decision says of the entrant `name`: what it never saw, and how often it was right."""
        return (_unseen(self.week), *_accuracies(self.evaluated, name))


def _contested(bench: _Bench, champion: Champion | None, plan: PlanPolicyReport) -> GateDecision:
    """First release or new recipe: the race on all walk-forward sessions."""
    week, evaluated = bench.week, bench.evaluated
    daily, model_ids = read_scores(evaluated).daily_ic, model_ids_of(evaluated)
    if champion is not None:
        old = daily_rank_ic(known_to(week, champion.predictions), week.outcomes(), min_symbols=week.min_symbols)
        daily = pl.concat([daily, old])
    candidate = better_strategy(evaluated)
    accounts = {name: bench.account(name) for name in BASELINE_NAMES}
    return decide_recipe(
        daily.select("model_id", "session", "rank_ic"),
        candidates={name: model_ids[name] for name in week.recipe.strategies},
        baselines={name: model_ids[name] for name in BASELINE_NAMES},
        champion=None if champion is None else GateChampion(model_id=champion.race_id, serving=champion.serving),
        plan=plan,
        limits=week.config.gate,
        account=bench.account(candidate, beside_champion=True),
        baseline_accounts={name: account for name, account in accounts.items() if account is not None},
        vetoes=bench.vetoes(candidate),
        leaks=bench.leaks(),
        told=bench.told(candidate),
    )


def _refreshed(bench: _Bench, trained: StepOutcome, champion: Champion, plan: PlanPolicyReport) -> GateDecision:
    """The same recipe on newer data: deployed unless something looks broken."""
    week = bench.week
    universe, limits = week.live().universe, week.config.refresh
    artifacts = {symbol: week.folders.models / artifact_name(symbol) for symbol in universe}
    present = {symbol: path for symbol, path in artifacts.items() if path.is_file()}
    data = week.data()
    recent = range(max(0, len(data.sessions) - limits.agreement_sessions), len(data.sessions))
    new, current = _recent_new(week, champion.serving, recent), _recent_current(week, champion, recent)
    agreement, sessions = rank_agreement(new, current, limits.agreement_sessions)
    value = trained.facts.get("validation_ic")
    facts = RefreshFacts(
        serving=champion.serving,
        serves_baseline=champion.serves_baseline,
        artifact_problems=artifact_problems(present),
        expected_symbols=universe,
        present_symbols=tuple(present),
        agreement=agreement,
        agreement_sessions=sessions,
        validation_ic=float(value) if isinstance(value, int | float) else None,
        validation_ic_history=validation_history(week.folders.models_prod, champion.recipe_id, champion),
        candidate_id=set_id_of(week, trained),
        champion_id=champion.release_id,
    )
    decision = decide_refresh(
        facts, plan=plan, limits=limits, leaks=bench.leaks(), told=_told_of_refresh(bench, champion)
    )
    if week.config.gate.policy == "plan":
        decision = decide_by_plan(
            decision,
            strategy=champion.serving,
            has_pooled="pooled" in week.recipe.strategies,
            serving_today=champion.serving,
            baseline_serves_today=False,
            account=bench.account(champion.serving, beside_champion=True),
        )
    return _with_vetoes(bench, decision, champion)


def _with_vetoes(bench: _Bench, decision: GateDecision, champion: Champion) -> GateDecision:
    """Return the refresh with the symbols whose own models do not serve; when that is most of them, it is kept back."""
    name, limits = champion.serving, bench.week.config.gate
    vetoes = {} if name == "pooled" or champion.serves_baseline else bench.vetoes(name)
    runner = runner_of(read_scores(bench.evaluated).daily_ic, model_ids_of(bench.evaluated)[name], name)
    if not decision.deploys or decision.vetoed or not vetoes or runner is None:
        return decision
    check = judge_vetoes(runner, vetoes, limits, has_pooled="pooled" in bench.week.recipe.strategies)
    checks = (*decision.checks, check)
    if check.passed:
        return decision.model_copy(update={"checks": checks, "vetoed": vetoed_symbols(vetoes, limits)})
    kept = f"Keep what runs today: {check.words}."
    return decision.model_copy(update={"checks": checks, "outcome": "keep", "sentence": kept})


def _told_of_refresh(bench: _Bench, champion: Champion) -> tuple[str, ...]:
    name = champion.serving
    daily, account = read_scores(bench.evaluated).daily_ic, bench.account(name, beside_champion=True)
    new = runner_of(daily, model_ids_of(bench.evaluated)[name], name)
    if new is None or account is None:
        return bench.told(name)
    return (account_sentence(new, account, dataclasses.replace(new, runs_today=True)), *bench.told(name))


def _unseen(week: WeekContext) -> str:
    folds, live, sessions = week.judged_folds(), week.live(), week.panel().sessions
    count = sum(len(fold.test) for fold in folds)
    years = ", ".join(fold.fold_id for fold in folds)
    return (
        f"judged on {count:,} sessions of {years}, each part by models that had not seen it; the set itself learned "
        f"from all sessions up to {sessions[live.refit.stop - 1]}, so only what comes can judge it"
    )


def _accuracies(evaluated: StepOutcome, name: str) -> tuple[str, ...]:
    """Return the mean accuracy of the set beside the plan's marks; nothing where nothing was scored."""
    summary, model_id = read_scores(evaluated).summary, model_ids_of(evaluated)[name]
    rows = summary.filter(pl.col("model_id") == model_id)
    whole = rows.filter(pl.col("year") == ALL_YEARS)
    if whole.is_empty() or whole.item(0, "accuracy_absolute") is None:
        return ()
    row = whole.row(0, named=True)
    marks = " and ".join(
        f"{mark:.0%} ({'reached' if row['accuracy_absolute'] >= mark else 'missed'})" for mark in MEAN_ACCURACY_TARGETS
    )
    years = ", ".join(
        f"{each['year']} {each['accuracy_absolute']:.1%} ({each['base_accuracy']:.1%})"
        for each in rows.filter(pl.col("year") != ALL_YEARS).sort("year").iter_rows(named=True)
        if each["accuracy_absolute"] is not None and each["base_accuracy"] is not None
    )
    absolute = _with_interval(row, "accuracy_absolute")
    base = f"always saying the more frequent of the two reaches {row['base_accuracy']:.1%}"
    said = [
        f"accuracy over all forecasts of the set, up or down: {absolute}; {base}, the written plan hopes for {marks}",
        f"by year, with the year's own base rate: {years}",
    ]
    if row["accuracy_relative"] is not None:
        said.append(f"accuracy against the market: {_with_interval(row, 'accuracy_relative')} (a coin: 50 %)")
    return tuple(said)


def _with_interval(row: dict[str, float | None], name: str) -> str:
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if value is None:
        return ""
    return f"{value:.1%}" + ("" if low is None or high is None else f" [{low:.1%}, {high:.1%}]")


def _recent_new(week: WeekContext, serving: str, recent: range) -> pl.DataFrame:
    """Return what the set of this week says about the newest sessions."""
    for strategy in week.recipe.strategies:
        if strategy == serving:
            return forecast_fold(week.recipe, week.live(), week.data(), week.folders.units, strategy, recent, "new")
    return _baseline_rows(week, live_baseline(week, baseline_named(serving))[0], recent, "new")


def _recent_current(week: WeekContext, champion: Champion, recent: range) -> pl.DataFrame:
    """Return what the champion says about the same sessions."""
    release = champion.release
    if champion.serves_baseline:
        return _baseline_rows(week, load_baseline(release.member_folder(champion.serving)), recent, "current")
    artifacts = [read_artifact(release.artifact_path(symbol, champion.serving)) for symbol in release.symbols]
    sessions = week.data().sessions[recent.start : recent.stop]
    return forecast_artifacts(artifacts, week.cube(), sessions, "current", "live")


def _baseline_rows(week: WeekContext, baseline: FittedBaseline, sessions: range, model_id: str) -> pl.DataFrame:
    data = week.data()
    return baseline.predict(
        data.values_STF,
        data.present_ST,
        data.symbols,
        data.sessions,
        sessions,
        model_id=model_id,
        fold_id="live",
        feature_names=data.feature_names,
    )


def baseline_named(name: str) -> BaselineName:
    """Return `name` as a baseline's name; raises `BadDataError` when it is none."""
    for known in BASELINE_NAMES:
        if known == name:
            return known
    raise BadDataError("this is no baseline", expected=BASELINE_NAMES, found=name)
