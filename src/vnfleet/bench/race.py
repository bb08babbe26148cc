"""Job 5, peers: the same fold of the same data on the same machine, time to fit and rank IC in one table."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from vnfleet.bench.fitted_fold import Say, fitted, layout_of
from vnfleet.bench.fleet import Bench
from vnfleet.bench.labels import longest_histories, windows_of
from vnfleet.bench.material import Material
from vnfleet.bench.peak import ordinary_kernels
from vnfleet.bench.peers.outside import OutsideResult, read_results, score_frame, write_exchange
from vnfleet.bench.peers.plain import PlanRecipe, fit_plain, forecast_plain, new_network
from vnfleet.bench.peers.stacked import VmapFleet
from vnfleet.bench.peers.windows import SymbolWindows
from vnfleet.bench.recipes import PLAN_BATCH_WINDOWS, counts_of, plan_network
from vnfleet.bench.scores import Score, score_of, separate_predictions
from vnfleet.bench.table import NOTHING, Cell, Mark, Table, seconds_cell, words
from vnfleet.cycle.steps.forecasting import baseline_data
from vnfleet.model.baselines import BaselineName, fit_baseline
from vnfleet.training.environment import this_machine
from vnfleet.training.forecast import forecast_fold
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe

_COLUMNS = (
    "who",
    "models",
    "time to fit the fold",
    "time to forecast the year",
    "rank IC [95 %]",
    "sessions",
    "ICIR",
    "market-relative accuracy [95 %]",
    "how",
)
_VMAP_MODELS = 8
_MIN_SLICE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row: who, how many models, seconds with their mark, and the score where the fit was run to its end."""

    name: str
    models: int
    fit_seconds: float
    mark: Mark
    forecast_seconds: float | None
    score: Score | None
    how: str

    def cells(self) -> tuple[Cell, ...]:
        """Return the row."""
        score = self.score
        return (
            words(self.name),
            words(str(self.models)),
            seconds_cell(self.fit_seconds, self.mark),
            NOTHING if self.forecast_seconds is None else seconds_cell(self.forecast_seconds, "measured"),
            NOTHING if score is None else score.rank_ic_cell(),
            NOTHING if score is None else words(str(score.num_sessions)),
            NOTHING if score is None else score.icir_cell(),
            NOTHING if score is None else score.relative_cell(),
            words(self.how),
        )


def race_tables(
    bench: Bench,
    material: Material,
    recipe: Recipe,
    *,
    peer_seconds: float,
    epochs: int,
    exchange: Path | None,
    say: Say,
) -> tuple[Table, ...]:
    """Return the table of job 5 on the judged year.

    The plan's loop and vmap train the plan's network for `epochs`; each is stopped after `peer_seconds`, then its time
    is extrapolated and it has no score. With `exchange` the frame is written there for libraries outside, and what they
    left there joins the table.
    """
    config = plan_network(bench.model)
    windows = windows_of(bench, longest_histories(bench, len(bench.fold.universe)), config.window_sessions)
    entries = [*ours(bench, material, recipe, say)]
    for name in ("lightgbm", "ridge"):
        say(f"{name}")
        entries.append(baseline_entry(material, name))
    say("the plan's loop in plain PyTorch")
    entries.append(plain_entry(bench, material, windows, epochs, peer_seconds))
    say("torch.func vmap")
    entries.append(vmap_entry(bench, material, windows, epochs, peer_seconds))
    notes = [
        (
            f"Judged year {bench.fold.fold_id}, {len(bench.fold.universe)} primary symbols; everybody learns from what "
            "was known before it."
        ),
        "A score needs a fit that was run to its end; intervals are a block bootstrap over sessions.",
        (
            "The plan's loop, vmap and the fleet's separate window models are one function with the same data per "
            "model: they differ in time, not in skill."
        ),
    ]
    if exchange is not None:
        write_exchange(exchange, bench.data, bench.fold, config)
        results = read_results(exchange, bench.fold, bench.model.horizon_sessions)
        entries += [outside_entry(result, material) for result in results]
        if not results:
            notes.append(
                f"No result of an outside library yet: run benchmarks/neuralforecast_peer.py on {exchange.name}."
            )
    return (
        Table(
            title=f"Peers on {bench.fold.fold_id}: time per fold and skill",
            columns=_COLUMNS,
            rows=tuple(entry.cells() for entry in entries),
            notes=tuple(notes),
        ),
    )


def ours(bench: Bench, material: Material, recipe: Recipe, say: Say) -> Iterator[Entry]:
    """Yield the shared and adapted models of `recipe`, fitted once, then 102 separate streaming ones."""
    data, fold = bench.data, bench.fold
    adapted = replace(recipe, training=replace(recipe.training, strategy="adapted"))
    units = fold_units(adapted, data, fold)
    with fitted(bench, adapted, units, layout_of(bench, adapted, units), say) as done:
        for strategy in ("pooled", "adapted"):
            start = time.perf_counter()
            predictions = forecast_fold(adapted, fold, data, done.units_root, strategy, fold.test, strategy)
            models = 1 if strategy == "pooled" else len(fold.universe)
            yield Entry(
                name=f"vnfleet {strategy}",
                models=models,
                fit_seconds=done.seconds,
                mark="measured",
                forecast_seconds=time.perf_counter() - start,
                score=score_of(predictions, material),
                how=f"{recipe.model.attention}, {counts_of(recipe, models)}; both come from one fit",
            )
    own = replace(recipe, training=replace(recipe.training, strategy="separate", num_seeds=1))
    units = tuple(unit for unit in fold_units(own, data, fold) if unit.kind == "separate")
    with fitted(bench, own, units, layout_of(bench, own, units), say) as done:
        start = time.perf_counter()
        predictions = separate_predictions(own, fold, data, done.units_root, units, "separate")
        models = sum(len(unit.universe) for unit in units)
        yield Entry(
            name="vnfleet separate",
            models=models,
            fit_seconds=done.seconds,
            mark="measured",
            forecast_seconds=time.perf_counter() - start,
            score=score_of(predictions, material),
            how=f"{own.model.attention}, width {own.model.d_model}, own history only, {counts_of(own, models)}",
        )


def baseline_entry(material: Material, name: BaselineName) -> Entry:
    """Return a baseline of the product, fitted and scored."""
    data, fold, horizons = material.data, material.judged, material.config.model.horizons
    start = time.perf_counter()
    model = fit_baseline(name, baseline_data(data, horizons), fold, 0, horizon_sessions=horizons[-1])
    fit_seconds = time.perf_counter() - start
    start = time.perf_counter()
    predictions = model.predict(
        data.values_STF,
        data.present_ST,
        data.symbols,
        data.sessions,
        fold.test,
        model_id=name,
        fold_id=fold.fold_id,
        feature_names=data.feature_names,
    )
    return Entry(
        name={"lightgbm": "LightGBM"}.get(name, name),
        models=1,
        fit_seconds=fit_seconds,
        mark="measured",
        forecast_seconds=time.perf_counter() - start,
        score=score_of(predictions, material),
        how=f"pooled, rank target, {model.setting}, chosen on validation and fitted again; one thread",
    )


def plain_entry(
    bench: Bench, material: Material, windows: Sequence[SymbolWindows], epochs: int, max_seconds: float
) -> Entry:
    """Return the plan's loop, one symbol after the other."""
    environment = this_machine(bench.machine)
    environment.apply()
    config, recipe = plan_network(bench.model), PlanRecipe(epochs=epochs)
    labels, seconds, left = 0, 0.0, max_seconds
    scores: list[tuple[str, int, float]] = []
    forecasting = 0.0
    finished = True
    with ordinary_kernels():
        for own in windows:
            network = new_network(config, 0, environment.device)
            run = fit_plain(network, own, recipe, device=environment.device, max_seconds=max(left, _MIN_SLICE_SECONDS))
            labels, seconds, left = labels + run.labels, seconds + run.seconds, left - run.seconds
            finished = run.finished
            if not finished:
                break
            start = time.perf_counter()
            forecasts = forecast_plain(network, own, bench.fold.test, environment.device)
            scores += [(own.symbol, session, score) for session, score in forecasts.items()]
            forecasting += time.perf_counter() - start
    whole = epochs * sum(len(own.ends_N) for own in windows)
    return Entry(
        name="the plan's loop, plain PyTorch",
        models=len(windows),
        fit_seconds=seconds if finished else whole * seconds / labels,
        mark="measured" if finished else "estimated",
        forecast_seconds=forecasting if finished else None,
        score=_score_of_rows(scores, "plain", bench, material) if finished else None,
        how=f"nn.TransformerEncoder, window, float32, batch 4 x 8, {epochs} epochs; {labels / seconds:,.0f} labels/s",
    )


def vmap_entry(
    bench: Bench, material: Material, windows: Sequence[SymbolWindows], epochs: int, max_seconds: float
) -> Entry:
    """Return the plan's models side by side with `torch.func`, in stacks of eight."""
    environment = this_machine(bench.machine)
    environment.apply()
    config = plan_network(bench.model)
    recipe = PlanRecipe(epochs=epochs, batch_windows=PLAN_BATCH_WINDOWS, accumulation=1)
    labels, seconds, left = 0, 0.0, max_seconds
    scores: list[tuple[str, int, float]] = []
    forecasting, finished = 0.0, True
    with ordinary_kernels():
        for place in range(0, len(windows), _VMAP_MODELS):
            group = windows[place : place + _VMAP_MODELS]
            fleet = VmapFleet(config, range(len(group)), environment.device)
            run = fleet.fit(group, recipe, max_seconds=max(left, _MIN_SLICE_SECONDS))
            labels, seconds, left = labels + run.labels, seconds + run.seconds, left - run.seconds
            finished = run.finished
            if not finished:
                break
            start = time.perf_counter()
            for model, own in enumerate(group):
                forecasts = forecast_plain(fleet.network_of(model, config), own, bench.fold.test, environment.device)
                scores += [(own.symbol, session, score) for session, score in forecasts.items()]
            forecasting += time.perf_counter() - start
    whole = epochs * sum(len(own.ends_N) for own in windows)
    return Entry(
        name="torch.func vmap",
        models=len(windows),
        fit_seconds=seconds if finished else whole * seconds / max(labels, 1),
        mark="measured" if finished else "estimated",
        forecast_seconds=forecasting if finished else None,
        score=_score_of_rows(scores, "vmap", bench, material) if finished else None,
        how=f"the same in stacks of {_VMAP_MODELS}, float32, {epochs} epochs; {labels / seconds:,.0f} labels/s",
    )


def outside_entry(result: OutsideResult, material: Material) -> Entry:
    """Return what a library outside left behind; its time is extrapolated when it did not do all its steps."""
    facts = result.facts
    whole = facts.steps >= facts.planned_steps
    seconds = facts.fit_seconds if whole else facts.seconds_per_step * facts.planned_steps
    share = "" if whole else f"; scored after {facts.steps / max(facts.planned_steps, 1):.0%} of its steps"
    return Entry(
        name=facts.name,
        models=1,
        fit_seconds=seconds,
        mark="measured" if whole else "estimated",
        forecast_seconds=facts.forecast_seconds,
        score=score_of(result.predictions, material),
        how=facts.setting + share,
    )


def _score_of_rows(rows: Sequence[tuple[str, int, float]], name: str, bench: Bench, material: Material) -> Score | None:
    fold, sessions = bench.fold, bench.data.sessions
    usable = [(symbol, sessions[session], score) for symbol, session, score in rows if math.isfinite(score)]
    if not usable:
        return None
    schema = {"symbol": pl.String(), "session": pl.Date(), "score": pl.Float64()}
    frame = pl.DataFrame(usable, schema=schema, orient="row")
    return score_of(score_frame(frame, name, fold.fold_id, bench.model.horizon_sessions), material)
