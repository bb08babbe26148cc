"""Models of a few symbols, each from its own history alone: the written plan's quick look on a CPU, not the weekly set.

Nothing is judged walk-forward and no shared model is trained beside them, so nothing here can go live by itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from vnfleet.core.clock import Clock, SystemClock
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import Record, WeekContext
from vnfleet.cycle.runner import Observer, SilentObserver
from vnfleet.cycle.weekly import newest_collected, run_cycle
from vnfleet.cycle.workdir import Folders, locked
from vnfleet.evaluation.splits import Fold, live_fold
from vnfleet.model.artifact import Artifact, artifact_name, write_artifact
from vnfleet.training.dataset import TrainingData
from vnfleet.training.engines.local import run_unit
from vnfleet.training.forecast import valid_rank_ic
from vnfleet.training.plan import WorkUnit, units_of
from vnfleet.training.recipe import Recipe
from vnfleet.training.unit_result import read_separate


def featured_week(
    workdir: Path,
    *,
    config: CycleConfig,
    as_of: date | None = None,
    observer: Observer | None = None,
    clock: Clock | None = None,
) -> WeekContext:
    """Return a week with judged prices and built features; prices are asked for only when there are none yet.

    `as_of` : the last day of data; None: the day that was collected last, or the last close before the first.

    Raises whatever collecting and checking raise.
    """
    folders, now, watcher = Folders(workdir), clock or SystemClock(), observer or SilentObserver()
    day = as_of
    if day is None:
        try:
            day = date.fromisoformat(newest_collected(folders.cycles).text("as_of"))
        except BadDataError:
            watcher.told("collect", "no prices were collected yet: they are fetched first")
    week = run_cycle(config, workdir=workdir, as_of=day, last_step="features", observer=watcher, clock=now)
    return WeekContext(
        config=config,
        folders=folders,
        as_of=week.as_of,
        clock=now,
        observer=watcher,
        record=Record.of_step(week.steps[0]),
        last_step="train",
    )


def train_own_models(week: WeekContext, symbols: Sequence[str]) -> tuple[Path, ...]:
    """Train a model for each of `symbols` as `week.config` says and write it to ``models/``; return the files.

    Runs that were interrupted go on from their last checkpoint.

    Raises `UsageError` for a symbol without features or a recipe that trains no models of single symbols,
    `BadDataError` with too little history.
    """
    config = week.config
    if config.training.strategy != "separate":
        raise UsageError("models of their own are trained", expected="separate", found=config.training.strategy)
    with locked(week.folders.workdir, "training models of single symbols"):
        data, recipe = week.data(), Recipe(config.model, config.training, config.objective)
        refuse_unknown(symbols, data.symbols)
        chosen = tuple(sorted(symbols))
        fold = live_fold(data.sessions, config.split_rule, lambda _: chosen)
        units = units_of(recipe, data, fold, "separate")
        for place, unit in enumerate(units):
            run_unit(unit, recipe, data, week.folders.units, _Told(week.observer, place, len(units)), config.machine)
        return _write(week.folders, recipe, fold, data, units)


def refuse_unknown(symbols: Sequence[str], known: Collection[str]) -> None:
    """Raise `UsageError` for the first of `symbols` that is not among the `known` ones, with a suggestion."""
    for symbol in symbols:
        if symbol not in known:
            near = difflib.get_close_matches(symbol, list(known), n=3, cutoff=0.5)
            raise UsageError(
                f"{symbol} is not among the {len(known)} symbols that were collected",
                found=f"did you mean {' or '.join(near)}?" if near else None,
                fix=f'to have it collected: pinned = ["{symbol}"] under [universe] in vnfleet.toml',
            )


@dataclass(frozen=True, slots=True)
class _Told:
    """Passes the progress of one of several units on."""

    observer: Observer
    place: int
    count: int

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        """Tell how far all units are."""
        part = min(done / total, 1.0) if total else 0.0
        words = f"member {self.place + 1} of {self.count} {stage} {note}"
        self.observer.progress("train", self.place + part, self.count, words)


def _write(
    folders: Folders, recipe: Recipe, fold: Fold, data: TrainingData, units: Sequence[WorkUnit]
) -> tuple[Path, ...]:
    shapes = [(unit.unit_id, recipe.separate_config(unit.seed)) for unit in units]
    models = read_separate(folders.units, shapes, data.feature_names)
    rank_ic = valid_rank_ic(recipe, fold, data, {symbol: model.valid_score_O for symbol, model in models.items()})
    ids = {
        "recipe_id": recipe.recipe_id,
        "data_id": units[0].data_id,
        "fold_id": fold.fold_id,
        "unit_ids": ",".join(unit.unit_id for unit in units),
    }
    paths: list[Path] = []
    for symbol, model in models.items():
        artifact = Artifact(
            symbol=symbol,
            ensemble=model.ensemble,
            strategy="separate",
            reference_universe=data.symbols,
            ids=ids,
            validation={"set_rank_ic": rank_ic, "accuracy": model.valid_accuracy},
        )
        paths.append(folders.models / artifact_name(symbol))
        write_artifact(paths[-1], artifact)
    return tuple(paths)
