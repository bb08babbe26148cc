"""train, through a remote: send the units out, bring back what workers finish, and know when to do the rest here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from vnfleet.core.errors import RemoteError
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.local_engine import training_job
from vnfleet.cycle.pace import seeds_that_fit
from vnfleet.cycle.remote_training import RemoteTraining, deadline_of, train_remotely
from vnfleet.cycle.steps.planning import (
    PlanOfWork,
    reserved_seconds,
    sealed_package,
    training_seconds,
    with_fewer_seeds,
)
from vnfleet.cycle.wheel import NOTEBOOK_NAME
from vnfleet.evaluation.splits import Fold
from vnfleet.remote.opening import open_remote
from vnfleet.remote.timing import SystemTiming
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import is_finished
from vnfleet.training.plan import WorkUnit

_FIND_ON_DRIVE = f"https://drive.google.com/drive/search?q={NOTEBOOK_NAME}"


def trained_remotely(
    week: WeekContext, plan: PlanOfWork, units: Sequence[WorkUnit], data: TrainingData, folds: Sequence[Fold]
) -> tuple[PlanOfWork, str]:
    """Return the plan for what is still to be trained here, and how it went with the workers, in words.

    The deadline is that of ``[machine]``, by default Monday 08:45 ICT, less what the steps after training need. Units
    that no longer fit before it are given up member by member, never those that are finished.
    """
    config = week.config.remote
    package = sealed_package(week, data)
    job = training_job(plan.recipe, folds, units, package)
    now = week.clock.now()
    deadline = deadline_of(week.config.machine.deadline, now) - timedelta(seconds=reserved_seconds(week))
    by_id = {unit.unit_id: unit for unit in units}

    def seconds_here(ids: Sequence[str]) -> float:
        return training_seconds(week, plan, [by_id[one] for one in ids]) or 0.0

    num_open = sum(not is_finished(week.folders.units, unit) for unit in units)
    week.observer.told("train", how_to_help(config.remote, num_open))
    try:
        back = train_remotely(
            job,
            package,
            open_remote(config.remote, bandwidth_limit=config.bandwidth_limit),
            week.folders.workdir,
            poll_seconds=config.poll_seconds,
            grace_seconds=config.grace_minutes * 60,
            deadline=deadline,
            wait_seconds=config.wait_minutes * 60,
            seconds_here=seconds_here if plan.seconds_per_step else None,
            timing=SystemTiming(week.clock),
            progress=lambda done, total, note: week.observer.progress("train", done, total, f"remote: {note}"),
        )
    except RemoteError as error:
        # A remote that refuses (expired token, unknown name) must not cost the week: everything is trained here.
        return plan, f"everything trained here, the remote failed: {error.what}"
    words = _words(back, len(units))
    seconds = (deadline - week.clock.now()).total_seconds()
    if not back.open_units or not plan.seconds_per_step:
        return plan, words
    seeds = seeds_that_fit(units, back.open_units, seconds_here=seconds_here, seconds=max(0.0, seconds))
    return (plan if seeds >= plan.recipe.training.num_seeds else with_fewer_seeds(plan, seeds, units)), words


def how_to_help(remote: str, num_units: int) -> str:
    """Say where the work waits and how a machine starts on it: a Colab session cannot start itself."""
    drive = f", {_FIND_ON_DRIVE}" if remote.split(":", 1)[0].lower().endswith("drive") else ""
    return (
        f"{num_units} units of work wait in {remote}: open {NOTEBOOK_NAME} there in Colab{drive}, "
        f"or run on any machine: vnfleet worker --remote {remote}"
    )


def _words(back: RemoteTraining, num_units: int) -> str:
    left = f", {len(back.open_units)} trained here: {back.reason}" if back.open_units else ""
    sent = f", {back.sent_bytes / 2**20:.1f} MiB sent" if back.sent_bytes else ""
    return f"{len(back.finished)} of {num_units} from the remote{sent}{left}"
