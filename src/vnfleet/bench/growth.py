"""Job 4, growth: more symbols and longer histories must cost no more time and memory per label."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from vnfleet.bench.fitted_fold import Say
from vnfleet.bench.fleet import Bench
from vnfleet.bench.recipes import without_ranks
from vnfleet.bench.table import NOTHING, Cell, Table, number_cell, rate_cell, seconds_cell, words
from vnfleet.core.errors import BadDataError
from vnfleet.cycle.measure import gib, peak_memory_mib, reset_peak_memory
from vnfleet.evaluation.splits import Fold
from vnfleet.training.dataset import TrainingData, load_training_data, save_training_data
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import Recipe

SESSIONS_PER_YEAR = 250
SIZES = ((10, 12), (102, 12), (289, 12), (1600, 12), (289, 3), (289, 6))
QUICK_SIZES = ((10, 4), (48, 4), (144, 4), (48, 3))
_VALID_SESSIONS = 250
_HORIZON_SESSIONS = 5
_MIN_CROSS_SECTION = 30
_COLUMNS = (
    "size",
    "labels of an epoch",
    "labels/s",
    "microseconds per label",
    "one epoch",
    "peak memory",
    "of it the data",
    "KiB per label beyond the empty process",
)
_NOTES = (
    (
        "The default recipe (one shared streaming network) on the given prices; symbols beyond those of the data are "
        "the same ones again under new names: time and memory do not depend on what prices are."
    ),
    "Each size in a process of its own. Memory of the GPU where there is one is not in these figures.",
    "10 symbols have no cross-section: there the loss is the one of single series.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one size came to; bytes are of its process, `empty_bytes` before it read anything."""

    num_symbols: int
    years: int
    labels_of_epoch: float
    labels_per_second: float
    data_bytes: int
    empty_bytes: float
    peak_bytes: float


def growth_tables(
    data: TrainingData,
    recipe: Recipe,
    machine: MachineConfig,
    scratch: Path,
    *,
    seconds: float,
    say: Say,
    sizes: tuple[tuple[int, int], ...] = SIZES,
) -> tuple[Table, ...]:
    """Return the table of job 4; sizes longer than the data's history are cut to it.

    `say` hears each size when it begins and when it is measured.
    """
    rows = []
    for place, (num_symbols, years) in enumerate(sizes, start=1):
        say(f"{_size_text(num_symbols, years)} ({place} of {len(sizes)})")
        size = _in_child(data, recipe, machine, scratch / f"{num_symbols}x{years}", num_symbols, years, seconds)
        rows.append(_row(size))
        say(f"{_size_text(num_symbols, years)}: {rows[-1][2].text} labels/s")
    return (Table(title="Growth: symbols and years", columns=_COLUMNS, rows=tuple(rows), notes=_NOTES),)


def _in_child(
    data: TrainingData,
    recipe: Recipe,
    machine: MachineConfig,
    folder: Path,
    num_symbols: int,
    years: int,
    seconds: float,
) -> Size:
    wanted = min(years * SESSIONS_PER_YEAR, len(data.sessions))
    sized = tiled(data, num_symbols, wanted)
    if num_symbols < _MIN_CROSS_SECTION:
        recipe = without_ranks(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        save_training_data(folder / "package", sized)
        del sized
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            return pool.submit(measure_size, folder, recipe.to_json(), machine, num_symbols, years, seconds).result()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_size(
    folder: Path, recipe_json: str, machine: MachineConfig, num_symbols: int, years: int, seconds: float
) -> Size:
    """Train on ``folder/package`` for `seconds` and return what it took; runs in a process of its own."""
    recipe = Recipe.from_json(recipe_json)
    empty = peak_memory_mib() * 1024**2
    reset_peak_memory()
    data = load_training_data(folder / "package", mapped=True)
    bench = Bench(data=data, model=recipe.model, fold=_fold_of(data), machine=machine, scratch=folder)
    rate = bench.pooled(replace(recipe, training=replace(recipe.training, strategy="pooled")), seconds)
    return Size(
        num_symbols=num_symbols,
        years=years,
        labels_of_epoch=rate.labels_in_all / recipe.training.max_epochs,
        labels_per_second=rate.labels_per_second,
        data_bytes=data.values_STF.nbytes + data.present_ST.nbytes + data.returns_HST.nbytes,
        empty_bytes=empty,
        peak_bytes=peak_memory_mib() * 1024**2,
    )


def _fold_of(data: TrainingData) -> Fold:
    """Return a fold that trains on all but the last sessions; its universe are the 102 symbols with most sessions."""
    end = len(data.sessions)
    refit_stop = end - _HORIZON_SESSIONS
    valid_start = refit_stop - min(_VALID_SESSIONS, end // 4)
    most_first = np.argsort(-data.present_ST.sum(1), kind="stable")[:102]
    return Fold(
        fold_id="live",
        train=range(valid_start - _HORIZON_SESSIONS),
        valid=range(valid_start, refit_stop),
        refit=range(refit_stop),
        test=range(end - 1, end),
        universe=tuple(data.symbols[row] for row in most_first),
    )


def _size_text(num_symbols: int, years: int) -> str:
    return f"{num_symbols:,} symbols, {years} year{'s' * (years != 1)}"


def _row(size: Size) -> tuple[Cell, ...]:
    per_label = (size.peak_bytes - size.empty_bytes) / size.labels_of_epoch / 1024
    return (
        words(_size_text(size.num_symbols, size.years)),
        number_cell(size.labels_of_epoch, "measured"),
        rate_cell(size.labels_per_second, "measured"),
        number_cell(1e6 / size.labels_per_second, "measured", ".1f"),
        seconds_cell(size.labels_of_epoch / size.labels_per_second, "estimated"),
        number_cell(gib(size.peak_bytes), "measured", ".2f", "GiB") if size.peak_bytes else NOTHING,
        number_cell(gib(size.data_bytes), "measured", ".2f", "GiB"),
        number_cell(per_label, "measured", ".1f") if size.peak_bytes else NOTHING,
    )


def tiled(data: TrainingData, num_symbols: int, num_sessions: int) -> TrainingData:
    """Return data of another size: the last `num_sessions` sessions, and symbols repeated under new names as needed.

    Time and memory depend on shapes and on where symbols are absent, both kept; what is learned means nothing.
    """
    if num_sessions > len(data.sessions):
        raise BadDataError(
            "the prices are too short for this benchmark", expected=num_sessions, found=len(data.sessions)
        )
    rows = np.arange(num_symbols) % len(data.symbols)
    cut = slice(len(data.sessions) - num_sessions, None)
    return TrainingData(
        data.sessions[cut],
        tuple(f"{data.symbols[row]}{position // len(data.symbols):02d}" for position, row in enumerate(rows)),
        data.feature_names,
        np.ascontiguousarray(data.values_STF[rows, cut]),
        np.ascontiguousarray(data.present_ST[rows, cut]),
        np.ascontiguousarray(data.returns_HST[:, rows, cut]),
    )
