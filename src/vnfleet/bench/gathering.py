"""Prices through the real cycle up to the features, for benchmarks."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.bench.material import Material
from vnfleet.core.clock import SystemClock
from vnfleet.core.errors import BadDataError
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import Record, WeekContext
from vnfleet.cycle.runner import Observer, SilentObserver
from vnfleet.cycle.weekly import run_cycle
from vnfleet.cycle.workdir import Folders
from vnfleet.training.dataset import TrainingData

_WHOLE_YEAR_SESSIONS = 200


def gather(
    config: CycleConfig,
    workdir: Path,
    *,
    as_of: date | None,
    year: int | None = None,
    observer: Observer | None = None,
) -> Material:
    """Return the material of `config`'s prices; collected, checked and featured at most once per day of data.

    `year` is the judged year; by default the newest one with at least 200 sessions, else the newest.

    Raises
    ------
    VnfleetError
        Whatever collecting and checking raise; `BadDataError` when `year` has no outcome yet.
    """
    if year is not None:
        config = replace(config, folds=replace(config.folds, years=(year,)))
    elif not config.folds.years:
        config = replace(config, folds=replace(config.folds, newest=2))
    watcher = observer or SilentObserver()
    week = run_cycle(config, workdir=workdir, as_of=as_of, last_step="features", observer=watcher)
    context = WeekContext(
        config=config,
        folders=Folders(workdir),
        as_of=week.as_of,
        clock=SystemClock(),
        observer=watcher,
        record=Record.of_step(week.steps[0]),
    )
    judged = context.judged_folds()
    long_enough = [fold for fold in judged if len(fold.test) >= _WHOLE_YEAR_SESSIONS]
    fold = (long_enough or list(judged))[-1]
    data, outcomes = context.data(), context.outcomes()
    if not outcomes.filter(pl.col("session").is_in([data.sessions[t] for t in fold.test])).height:
        raise BadDataError(f"nothing is known yet about {fold.fold_id}", fix="judge an earlier year with --year")
    return Material(
        config=config,
        data=data,
        outcomes=outcomes,
        live=context.live(),
        judged=fold,
        sentence=_sentence(config, data),
    )


def _sentence(config: CycleConfig, data: TrainingData) -> str:
    source = config.source
    where = str(source.kind) if source.path is None else source.path.name
    if source.kind == "simulated":
        where = "a simulated market with a planted signal"
    labels = int(np.isfinite(data.returns_HST[-1]).sum())
    return (
        f"{where}: {len(data.symbols)} symbols, {len(data.sessions)} sessions {data.sessions[0]} to "
        f"{data.sessions[-1]}, {len(data.feature_names)} features, {labels:,} labels"
    )
