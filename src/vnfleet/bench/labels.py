"""Job 1, labels per second: the plan's recipe against the fleet's window and streaming forms, same data, one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from vnfleet.bench.fitted_fold import Say
from vnfleet.bench.fleet import Bench, FleetRate
from vnfleet.bench.flops import training_flops_per_label
from vnfleet.bench.peak import Peak, matmul_peak, ordinary_kernels
from vnfleet.bench.peers.plain import PlanRecipe, fit_plain, new_network
from vnfleet.bench.peers.stacked import VmapFleet
from vnfleet.bench.peers.windows import SymbolWindows, symbol_windows
from vnfleet.bench.recipes import (
    PLAN_BATCH_WINDOWS,
    plan_network,
    pooled_recipe,
    streaming_recipe,
    window_recipe,
)
from vnfleet.bench.table import Cell, Table, number_cell, rate_cell, share_cell, words
from vnfleet.core.errors import BadDataError
from vnfleet.training.environment import this_machine
from vnfleet.training.machine.cards import Precision
from vnfleet.training.machine.memory import num_parameters
from vnfleet.training.plan import SHARD_SYMBOLS

_VMAP_MODELS = 8
_COLUMNS = (
    "how",
    "labels/s",
    "times the plan's recipe",
    "models at once",
    "threads",
    "precision",
    "parameters of each",
    "MFLOP per label",
    "GFLOP/s",
    "share of matmul peak",
)
_NOTES = (
    "A label is one symbol and session with its whole context of 60 (streaming: 57) sessions, forward and backward.",
    (
        "Streaming is not the same function as window attention: layers are banded and share what earlier layers "
        "computed for neighbouring sessions, with distance biases in place of positions. It sees 57 sessions of 60."
    ),
    (
        "Operations: matrix products, 2 per multiply-add, three passes per label; the plain loop computes every query "
        "of the last layer, the fleet the one that is used."
    ),
    (
        "The plan's recipe: one symbol, batches of 4 windows, 8 accumulated, eager float32; for a GPU batches of 32. "
        "Written without handicaps: data in memory, no worker processes, no logging."
    ),
    "Shared: 1 network for all symbols, the default strategy; the other rows train one per symbol.",
    "On a CPU every row is the faster of one thread and all threads; the peak is that of all threads.",
)


def labels_tables(bench: Bench, *, seconds: float, say: Say, num_symbols: int = SHARD_SYMBOLS) -> tuple[Table, ...]:
    """Return the table of job 1; each row is timed for about `seconds`, on a CPU with one thread and with all.

    `say` hears each row when it begins and when it is measured.
    """
    environment = this_machine(bench.machine)
    environment.apply()
    device, model = environment.device, bench.model
    threads = (0,) if device != "cpu" else tuple(dict.fromkeys((1, environment.num_threads)))
    say("matrix products, the peak")
    peaks = {precision: matmul_peak(device, precision) for precision in _precisions(environment.precision)}
    config = plan_network(model)
    symbols = longest_histories(bench, num_symbols)
    windows = windows_of(bench, symbols[:_VMAP_MODELS], config.window_sessions)
    if not windows:
        raise BadDataError("no symbol has a whole window to learn from", where=f"fold {bench.fold.fold_id}")

    def plain(recipe: PlanRecipe) -> Callable[[int], _Measured]:
        def measured(num_threads: int) -> _Measured:
            run = fit_plain(new_network(config, 0, device), windows[0], recipe, device=device, max_seconds=seconds)
            return _Measured(run.labels_per_second, 1, num_threads, "float32", every_query, parameters)

        return measured

    def vmap(num_threads: int) -> _Measured:
        fleet = VmapFleet(config, range(len(windows)), device)
        recipe = PlanRecipe(batch_windows=PLAN_BATCH_WINDOWS, accumulation=1)
        run = fleet.fit(windows, recipe, max_seconds=seconds)
        return _Measured(run.labels_per_second, len(windows), num_threads, "float32", every_query, parameters)

    def fleet(time_it: Callable[[Bench], FleetRate]) -> Callable[[int], _Measured]:
        def measured(num_threads: int) -> _Measured:
            machine = replace(bench.machine, num_threads=num_threads)
            rate = time_it(replace(bench, machine=machine))
            flops, numbers = rate.flops_per_label, rate.num_parameters
            return _Measured(rate.labels_per_second, rate.num_models, num_threads, rate.precision, flops, numbers)

        return measured

    every_query = training_flops_per_label(config, 1, every_query=True)
    parameters = num_parameters(config)
    entries: list[tuple[str, Callable[[int], _Measured]]] = [("the plan's recipe, plain PyTorch", plain(PlanRecipe()))]
    if device != "cpu":
        gpu = PlanRecipe(batch_windows=PLAN_BATCH_WINDOWS, accumulation=1)
        entries.append(("the plan's recipe for a GPU", plain(gpu)))
    entries += [
        ("torch.func vmap", vmap),
        ("fleet, window", fleet(lambda at: at.separate(window_recipe(model), symbols, seconds))),
        ("fleet, streaming", fleet(lambda at: at.separate(streaming_recipe(model), symbols, seconds))),
        ("fleet, streaming, shared", fleet(lambda at: at.pooled(pooled_recipe(model), seconds))),
    ]
    found: list[tuple[str, list[_Measured]]] = []
    for place, (name, measure) in enumerate(entries, start=1):
        say(f"{name} ({place} of {len(entries)})")
        found.append((name, _by_threads(measure, threads)))
        say(f"{name}: {rate_cell(_fastest(found[-1][1]).labels_per_second, 'measured').text} labels/s")
    plan = found[0][1]
    base = _fastest(plan).labels_per_second
    rows = tuple(_row(name, _fastest(measured), base, peaks) for name, measured in found)
    by_threads = (_rates_in_words(plan),) if len(plan) > 1 else ()
    notes = (
        *_NOTES,
        *by_threads,
        *(f"Peak: {peak.sentence}." for peak in peaks.values()),
        f"Device: {environment.device_name}.",
    )
    title = "Training labels per second at the plan's size"
    return (Table(title=title, columns=_COLUMNS, rows=rows, notes=notes),)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One way of training: its rate, models at once, CPU threads (0 on a GPU), precision, operations, parameters."""

    labels_per_second: float
    models: int
    threads: int
    precision: Precision
    flops_per_label: float
    parameters: int


def _by_threads(measure: Callable[[int], _Measured], threads: Sequence[int]) -> list[_Measured]:
    """Return what each number of threads reaches; the process gets its own number back."""
    found = []
    before = torch.get_num_threads()
    for count in threads:
        if count:
            torch.set_num_threads(count)
        with ordinary_kernels():
            found.append(measure(count))
    torch.set_num_threads(before)
    return found


def _fastest(found: Sequence[_Measured]) -> _Measured:
    """Return the best of several thread counts: nobody is held to a number of threads that hurts it."""
    return max(found, key=lambda measured: measured.labels_per_second)


def _rates_in_words(found: Sequence[_Measured]) -> str:
    rates = [f"{one.labels_per_second:.3g} labels/s on {one.threads} thread{'s' * (one.threads > 1)}" for one in found]
    return f"The plan's recipe: {', '.join(rates)} (torch takes all by default)."


def longest_histories(bench: Bench, num_symbols: int) -> list[str]:
    """Return the primary symbols with the longest histories in train, so that a stack has equal work for a slice."""
    place = {symbol: row for row, symbol in enumerate(bench.data.symbols)}
    train = slice(bench.fold.train.start, bench.fold.train.stop)
    known = [symbol for symbol in bench.fold.universe if symbol in place]
    known.sort(key=lambda symbol: (-int(bench.data.present_ST[place[symbol], train].sum()), symbol))
    return known[:num_symbols]


def windows_of(bench: Bench, symbols: Sequence[str], window_sessions: int) -> list[SymbolWindows]:
    """Return the training windows of `symbols`, without symbols that have none."""
    found = [symbol_windows(bench.data, symbol, bench.fold.train, window_sessions) for symbol in symbols]
    return [windows for windows in found if windows.ends_N.size]


def _precisions(own: Precision) -> tuple[Precision, ...]:
    return ("float32",) if own == "float32" else ("float32", own)


def _row(name: str, measured: _Measured, base: float, peaks: dict[Precision, Peak]) -> tuple[Cell, ...]:
    rate, times = measured.labels_per_second, measured.labels_per_second / base
    gflops = rate * measured.flops_per_label / 1e9
    return (
        words(name),
        rate_cell(rate, "measured"),
        number_cell(times, "measured", ".3g" if times < 100 else ",.0f"),
        words(str(measured.models)),
        words(str(measured.threads or "-")),
        words(measured.precision),
        words(f"{measured.parameters:,}"),
        words(f"{measured.flops_per_label / 1e6:.3g}"),
        rate_cell(gflops, "measured"),
        share_cell(gflops / peaks[measured.precision].measured_gflops, "measured"),
    )
