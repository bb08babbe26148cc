"""The product on one screen: a week, from prices to a deployed set of models and its report.

collect -> check -> features -> train -> evaluate -> backtest -> prove -> gate -> deploy -> predict -> report

Every step is content-addressed (see `cycle.runner`): finished ones are reused, so running again is the recovery, and
next week only what is new is computed. One process at a time works in a work directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import partial
from pathlib import Path

import polars as pl
from pydantic import JsonValue

from vnfleet.core.atomic import write_file
from vnfleet.core.clock import ICT, Clock, SystemClock, cycle_id_of
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import Record, WeekContext
from vnfleet.cycle.gathering import Gathering
from vnfleet.cycle.inference import serving_path
from vnfleet.cycle.leaks import prove_no_leaks
from vnfleet.cycle.mirror import mirror_in_words
from vnfleet.cycle.runner import STEPS, Observer, Runner, SilentObserver, StepOutcome, latest_cycle, read_steps
from vnfleet.cycle.sources import sources_of
from vnfleet.cycle.status import step_json
from vnfleet.cycle.steps.champion import champion_of
from vnfleet.cycle.steps.evidence import QUALITY_ROWS, check_page_path, read_report
from vnfleet.cycle.steps.fitting import train
from vnfleet.cycle.steps.gating import gate, read_decision, set_id_of
from vnfleet.cycle.steps.judging import evaluate
from vnfleet.cycle.steps.planning import check_settings
from vnfleet.cycle.steps.prices import check, collect, features
from vnfleet.cycle.steps.proving import prove
from vnfleet.cycle.steps.releasing import deploy, predict, read_predictions
from vnfleet.cycle.steps.telling import report, report_path
from vnfleet.cycle.steps.trading import backtest
from vnfleet.cycle.user_model import user_model_identity
from vnfleet.cycle.workdir import Folders, locked
from vnfleet.data.court.quality import QualityReport
from vnfleet.data.sources.base import FetchPlan
from vnfleet.evaluation.leaks import LeakReport
from vnfleet.market.calendar import standing
from vnfleet.market.rules import KNOWN_FROM, KNOWN_TO
from vnfleet.releases.deploy import current_release
from vnfleet.releases.gate import GateDecision
from vnfleet.releases.predict import predict as forecast_release
from vnfleet.releases.registry import release_day
from vnfleet.training.machine.config import Inference
from vnfleet.training.machine.work import WORK_NAME

CLOSE_OF_DATA = time(15, 30)  # a session's prices are final by then
PARTIAL = "partial-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """What a run came to."""

    cycle_id: str
    as_of: date
    steps: tuple[StepOutcome, ...]
    partial: bool = False
    decision: GateDecision | None = None
    current_release_id: str | None = None
    predictions: pl.DataFrame | None = None
    report: Path | None = None
    quality: QualityReport | None = None
    check_page: Path | None = None
    all_findings: Path | None = None
    leaks: LeakReport | None = None

    def as_json(self) -> dict[str, JsonValue]:
        """Return the week as plain JSON values."""
        return {
            "cycle_id": self.cycle_id,
            "as_of": self.as_of.isoformat(),
            "partial": self.partial,
            "steps": [step_json(step) for step in self.steps],
            "decision": None if self.decision is None else self.decision.as_json(),
            "current_release_id": self.current_release_id,
            "report": None if self.report is None else str(self.report),
        }


def run_cycle(
    config: CycleConfig,
    *,
    workdir: Path,
    as_of: date | None = None,
    symbols: tuple[str, ...] = (),
    last_step: str = "report",
    full: bool = False,
    accept_degraded: bool = False,
    leaks: bool = False,
    observer: Observer | None = None,
    clock: Clock | None = None,
    once_collected: Callable[[], object] | None = None,
) -> Week:
    """Run the week of `as_of` (by default of the last close) up to `last_step` and return what it came to.

    `symbols` makes it a partial run: only their artifacts are written to ``models/``, every symbol still stands behind
    features and backbone, and the week ends before the gate. `full` asks for whole histories,
    `accept_degraded` takes a feed that looks worse than what is stored. With "collect" as the last step the vendors are
    asked even if this day was collected before. `leaks` has the leak prover look at what there is after the last step
    (a whole week does it in its step "prove"). `once_collected` is called when the
    work directory is ours and there are prices.

    Raises
    ------
    VnfleetError
        Whatever a room raises; finished steps stay, the deployed set is untouched.
    """
    now = clock or SystemClock()
    day = as_of or last_close(now.now())
    if last_step not in STEPS:
        raise UsageError("there is no such step", expected=", ".join(STEPS), found=last_step)
    week = WeekContext(
        config=config,
        folders=Folders(workdir),
        as_of=day,
        clock=now,
        observer=observer or SilentObserver(),
        only=symbols,
        full=full,
        accept_degraded=accept_degraded,
        ask_anew=full or last_step == "collect",
        last_step=last_step,
    )
    cycle_id = cycle_id_of(day)
    folder = week.folders.cycles / f"{PARTIAL * week.is_partial}{cycle_id}"
    if STEPS.index(last_step) >= STEPS.index("train"):
        check_settings(config, now.now(), is_planned=(folder / WORK_NAME).exists())
        user_model_identity(config.user_model)
    with locked(workdir, f"week {cycle_id}"):
        if not week.is_partial and STEPS.index(last_step) >= STEPS.index("deploy"):
            _refuse_to_go_back(week)
        runner = Runner(folder=folder, observer=week.observer)
        for step in the_week(runner, week):
            if step.name == "collect" and once_collected is not None:
                once_collected()
            if step.name == last_step:
                break
        done = _what_it_came_to(runner, week)
        remote = config.remote
        if remote.remote and not week.is_partial and STEPS.index(last_step) >= STEPS.index("deploy"):
            models_prod = week.folders.models_prod
            week.observer.told(
                "mirror", mirror_in_words(models_prod, remote.remote, bandwidth_limit=remote.bandwidth_limit)
            )
        if leaks:
            week.observer.step_started("leaks")
            told = partial(week.observer.progress, "leaks", 0, 1)
            done = replace(done, leaks=prove_no_leaks(week, told=told))
        return done


def plans_of_collection(
    config: CycleConfig, *, workdir: Path, as_of: date | None = None, full: bool = False, clock: Clock | None = None
) -> tuple[tuple[str, FetchPlan], ...]:
    """Return (source, what it would be asked for) of a collection; asks nothing and changes nothing."""
    now = clock or SystemClock()
    folders = Folders(workdir)
    return Gathering(
        config=config,
        folders=folders,
        sources=sources_of(config, folders, now),
        as_of=as_of or last_close(now.now()),
        known_at=now.now(),
        full=full,
    ).plans()


def _refuse_to_go_back(week: WeekContext) -> None:
    """A week must not put older models in the place of newer ones."""
    now = current_release(week.folders.models_prod)
    if now is not None and week.as_of < release_day(now.release_id):
        raise UsageError(
            "a newer set serves here, an older week cannot replace it",
            expected=f"a day from {release_day(now.release_id)} on",
            found=f"--as-of {week.as_of}",
            where=week.folders.models_prod,
            fix="vnfleet rollback for the set before it; to look at the past, vnfleet backtest or another --workdir",
        )


def the_week(runner: Runner, week: WeekContext) -> Iterator[StepOutcome]:
    """Yield the steps of the week one by one, each run (or found finished) when it is asked for."""
    yield (collected := collect(runner, week))
    yield (checked := check(runner, week, collected))
    yield (cubed := features(runner, week, checked))
    yield (trained := train(runner, week, cubed))
    yield (evaluated := evaluate(runner, week, trained))
    champion = champion_of(week.folders.models_prod, set_id_of(week, trained))
    yield (backtested := backtest(runner, week, evaluated, champion))
    if week.is_partial:
        return
    yield (proven := prove(runner, week, evaluated))
    yield (gated := gate(runner, week, trained, evaluated, backtested, proven, champion))
    yield deploy(runner, week, trained, evaluated, gated, champion)
    yield predict(runner, week)
    yield report(runner, week, champion)


def _what_it_came_to(runner: Runner, week: WeekContext) -> Week:
    done = {step.name: step for step in runner.outcomes}
    now = current_release(week.folders.models_prod)
    return Week(
        cycle_id=cycle_id_of(week.as_of),
        as_of=week.as_of,
        steps=tuple(runner.outcomes),
        partial=week.is_partial,
        decision=read_decision(done["gate"]) if "gate" in done else None,
        current_release_id=None if now is None else now.release_id,
        predictions=read_predictions(done["predict"]) if "predict" in done else None,
        report=report_path(week) if "report" in done else None,
        quality=read_report(done["check"].folder) if "check" in done else None,
        check_page=check_page_path(week) if "check" in done else None,
        all_findings=week.folders.quality / QUALITY_ROWS if "check" in done else None,
    )


def last_close(now: datetime) -> date:
    """Return the newest session whose prices can be final at `now` (aware), in Vietnam.

    Days the calendar is not sure about count: the data decide. Beyond the recorded calendar the day itself is returned.
    """
    local = now.astimezone(ICT)
    day = local.date() if local.time() >= CLOSE_OF_DATA else local.date() - timedelta(days=1)
    last = day
    while KNOWN_FROM <= last <= KNOWN_TO and not (known := standing(last)).is_session and known.is_certain:
        last -= timedelta(days=1)
    return last if KNOWN_FROM <= last <= KNOWN_TO else day


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Forecasts of what serves, made at the close of `session`.

    inference : the path that computed the networks, in words; empty when baselines alone serve.
    """

    release_id: str
    session: date
    frame: pl.DataFrame
    inference: str

    def write(self, path: Path) -> None:
        """Write the forecasts to a .csv or .parquet file."""
        write_file(path, self.frame.write_csv if path.suffix == ".csv" else self.frame.write_parquet)


def forecast_now(
    workdir: Path,
    *,
    config: CycleConfig | None = None,
    as_of: date | None = None,
    inference: Inference | None = None,
    observer: Observer | None = None,
    clock: Clock | None = None,
) -> Forecast:
    """Forecast the newest collected session (up to `as_of`) with what serves; nothing is fetched or trained.

    `config` says how the symbols behind the features are chosen; None: the defaults. `inference` is the path that
    computes the networks, None the one of `config`.

    Raises `UsageError` when nothing serves, `BadDataError` when nothing was collected or too few symbols have data.
    """
    folders, config = Folders(workdir), config or CycleConfig()
    machine = config.machine if inference is None else replace(config.machine, inference=inference)
    now = current_release(folders.models_prod)
    if now is None:
        raise UsageError("no release is live", where=folders.models_prod, fix="vnfleet cycle")
    collected = newest_collected(folders.cycles)
    with locked(workdir, "predicting"):
        week = WeekContext(
            config=config,
            folders=folders,
            as_of=as_of or date.fromisoformat(collected.text("newest_session")),
            clock=clock or SystemClock(),
            observer=observer or SilentObserver(),
            record=Record.of_step(collected),
        )
        session = week.panel().sessions[-1]
        if session < release_day(now.release_id):
            raise UsageError(
                "the set that serves was trained on later prices: its forecast of that day would know the future",
                expected=f"a session from {release_day(now.release_id)} on",
                found=session,
                fix="vnfleet backtest --as-of shows what earlier models would have said",
            )
        path = serving_path(machine, folders)
        frame = forecast_release(
            folders.models_prod, week.panel(), week.cube(), session, release_id=now.release_id, forecast=path
        )
    return Forecast(release_id=now.release_id, session=session, frame=frame, inference=path.words)


def newest_collected(cycles: Path) -> StepOutcome:
    """Return the collect step of the newest week; raises `BadDataError` when nothing was collected yet."""
    week = latest_cycle(cycles)
    for step in () if week is None else read_steps(week):
        if step.name == "collect":
            return step
    raise BadDataError("no prices were collected yet", where=cycles, fix="vnfleet collect")
