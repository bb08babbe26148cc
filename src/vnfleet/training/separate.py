"""The written plan's way: one model per symbol, each from its own history only, all of them trained as one stack.

Each model has its own scaler, label scale, batches, dropout masks, learning-rate schedule, clipping and early stopping,
and its seed depends on its symbol, not on its place: it comes out as if it had been trained alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import arrays_sha256
from vnfleet.model.ensemble import Calibration, run_network
from vnfleet.model.logistic import fit_logistic
from vnfleet.model.stockformer import Stockformer, initial_weights
from vnfleet.training.batches import SeparateBatches
from vnfleet.training.dataset import Prepared, TrainingData, prepare_separate
from vnfleet.training.dropout import DropoutBank
from vnfleet.training.objectives import Labels, count_labels, loss_of
from vnfleet.training.parameters import ParameterLayout
from vnfleet.training.trainer import Stage, fit_stage
from vnfleet.training.unit_result import SeparateFacts, write_separate
from vnfleet.training.unit_run import UnitRun

_MIN_LABELS = 60  # with fewer labelled sessions before the validation tail, nothing can be selected


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Fitted models: weights by name, and best epoch and validation figure of each (0 where nothing was judged)."""

    weights: list[dict[str, Tensor]]
    epochs: list[int]
    figures: list[float]


def run_separate(run: UnitRun, scratch: Path) -> dict[str, str]:
    """Select each symbol's epochs on its own validation tail, refit on train + validation; write the models."""
    unit, training = run.unit, run.recipe.training
    data = _of_symbols(run.data, run.universe_U)
    context = run.config.context_sessions
    prepared = prepare_separate(data, range(*unit.train), unit.refit[1], context, run.objective, run.data)
    sessions, valid = run.decision_sessions(*unit.train), run.decision_sessions(*unit.valid)
    enough = _with_labels(prepared, sessions, _MIN_LABELS)
    selected = _fit_groups(run, prepared, sessions, enough, [training.max_epochs] * len(data.symbols), "select", valid)
    usual = int(np.median(selected.epochs)) if enough else training.max_epochs
    epochs = dict(zip(enough, selected.epochs, strict=True))
    valid_score_SO = _valid_scores(run, prepared, valid, enough, selected)
    calibrations = _calibrations(prepared, valid_score_SO, unit.valid, enough)

    prepared = prepare_separate(data, range(*unit.refit), unit.refit[1], context, run.objective, run.data)
    sessions = run.decision_sessions(*unit.refit)
    everyone = list(range(len(data.symbols)))
    if lacking := sorted(set(everyone) - set(_with_labels(prepared, sessions, 1))):
        raise BadDataError(
            "a symbol has no session a model of its own could learn from",
            expected=f"more than {context + run.recipe.model.horizon_sessions} sessions before the fold's end",
            found=", ".join(data.symbols[row] for row in lacking),
            where=f"fold {unit.fold_id}",
            fix="exclude it under [universe] in vnfleet.toml, or use another strategy",
        )
    chosen = [max(1, epochs.get(row, usual)) for row in everyone]
    refitted = _fit_groups(run, prepared, sessions, everyone, chosen, "refit", None)
    stacked = {name: torch.stack([own[name] for own in refitted.weights]) for name in refitted.weights[0]}
    sha256 = arrays_sha256({name: tensor.numpy() for name, tensor in stacked.items()})
    judged = dict(zip(enough, selected.figures, strict=True))
    facts = SeparateFacts(
        symbols=data.symbols,
        epochs=tuple(chosen),
        valid_figure=tuple(judged.get(row, 0.0) for row in everyone),
        calibrations=tuple(calibrations[row][0] for row in everyone),
        valid_accuracy=tuple(calibrations[row][1] for row in everyone),
        weights_sha256=sha256,
    )
    write_separate(scratch, stacked, prepared.scaling, facts, valid_score_SO)
    return {"weights_sha256": sha256}


def _of_symbols(data: TrainingData, rows: np.ndarray) -> TrainingData:
    return TrainingData(
        data.sessions,
        tuple(data.symbols[row] for row in rows),
        data.feature_names,
        data.values_STF[rows],
        data.present_ST[rows],
        data.returns_HST[:, rows],
    )


def _with_labels(prepared: Prepared, sessions: range, least: int) -> list[int]:
    counts_S = prepared.labelled_ST[:, sessions.start : sessions.stop].sum(1)
    return np.flatnonzero(counts_S >= least).tolist()


def seed_of(symbol: str, seed: int) -> int:
    """Return the seed of one symbol's member: the same alone and in any stack."""
    digest = hashlib.blake2b(f"{symbol}:{seed}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def _fit_groups(
    run: UnitRun,
    prepared: Prepared,
    sessions: range,
    rows: Sequence[int],
    epochs: Sequence[int],
    name: str,
    valid: range | None,
) -> _Fitted:
    """Fit the models of `rows` in groups of the size that was frozen before step 1."""
    size = run.environment.now.group_size or max(1, len(rows))
    fitted = _Fitted([], [], [])
    for start in range(0, len(rows), size):
        group = list(rows[start : start + size])
        stage = f"{name}-{start // size:02d}"
        part = fit_group(run, prepared, sessions, group, [epochs[row] for row in group], stage, valid)
        fitted.weights.extend(part.weights)
        fitted.epochs.extend(part.epochs)
        fitted.figures.extend(part.figures)
    return fitted


def fit_group(
    run: UnitRun,
    prepared: Prepared,
    sessions: range,
    rows: Sequence[int],
    epochs: Sequence[int],
    name: str,
    valid: range | None,
) -> _Fitted:
    """Fit one stack, the models of `rows` of the unit; with `valid`, each stops early on its own loss there."""
    stage = group_stage(run, prepared, sessions, rows, epochs, name, valid)
    state = fit_stage(stage, run.workshop(name, run.objective))
    return _Fitted(
        [stage.layout.model(row_P) for row_P in state.result_MP.cpu()],
        list(state.best_epoch),
        [history[best - 1] if best else 0.0 for history, best in zip(state.history, state.best_epoch, strict=True)],
    )


def group_stage(
    run: UnitRun,
    prepared: Prepared,
    sessions: range,
    rows: Sequence[int],
    epochs: Sequence[int],
    name: str,
    valid: range | None,
) -> Stage:
    """Return the stage that fits one stack."""
    config, training = run.config, run.recipe.training
    symbols = [run.unit.universe[row] for row in rows]
    seeds = tuple(seed_of(symbol, run.unit.seed) for symbol in symbols)
    network = Stockformer(config, len(rows)).to(run.device)
    layout = ParameterLayout.of_module(network)
    bank, forward = DropoutBank(config.dropout, run.device), run.forecaster(network)
    is_window = config.attention == "window"
    return Stage(
        name=name,
        models=tuple(symbols),
        layout=layout,
        initial_MP=layout.rows([initial_weights(config, seed) for seed in seeds]),
        bind=lambda value_MP, grad_MP: layout.bind(network, value_MP, grad_MP),
        batches=SeparateBatches(
            data=prepared.on(run.device),
            labelled_ST=prepared.labelled_ST,
            sessions=sessions,
            outputs=1 if is_window else training.chunk_sessions,
            sequences=training.chunk_sessions if is_window else training.runs_per_batch,
            accumulation=training.accumulation,
            context_sessions=config.context_sessions,
            symbols=np.asarray(rows),
            seeds=seeds,
        ),
        loss=lambda batch, at: run.loss(
            forward, batch, at, bank.at(at.step, [seeds[model] for model in at.models], at.part)
        ),
        epochs=tuple(epochs),
        schedule_epochs=training.max_epochs,
        learning_rate=training.learning_rate,
        judge=None if valid is None else _Judge(run, prepared, valid, rows, layout),
    )


@dataclass(frozen=True, slots=True)
class _Judge:
    """Minus the loss of each model on its own validation sessions."""

    run: UnitRun
    prepared: Prepared
    valid: range
    rows: Sequence[int]
    layout: ParameterLayout

    def __call__(self, rows_KP: Tensor, models: Sequence[int]) -> list[float]:
        """Return the figure of each of the given models of the stage, for these rows of parameters."""
        network = Stockformer(self.run.config, len(models)).to(rows_KP.device)
        self.layout.bind(network, rows_KP.contiguous())
        own = np.asarray([self.rows[model] for model in models])
        prepared, span = self.prepared, slice(self.valid.start, self.valid.stop)
        forecast = run_network(network, prepared.scaled_STF[own], prepared.present_ST[own], self.valid, None)
        labels = Labels(
            target_SO=torch.from_numpy(prepared.target_ST[own, span]),
            labelled_SO=torch.from_numpy(prepared.labelled_ST[own, span]),
            path_SOH=torch.from_numpy(prepared.path_HST[:, own, span].transpose(1, 2, 0).copy()),
            up_SO=torch.from_numpy(prepared.up_ST[own, span]),
            primary_S=torch.zeros(len(own), dtype=torch.bool),
        )
        counts = count_labels([labels], self.run.objective, len(models))
        loss_K = loss_of(forecast.as_tensors(), labels, self.run.objective, counts, len(models))
        return [-float(loss) for loss in loss_K]


def _valid_scores(run: UnitRun, prepared: Prepared, valid: range, rows: Sequence[int], fitted: _Fitted) -> np.ndarray:
    """Return what the selected models of `rows` said on the unit's validation tail, NaN without model or label.

    A score is the forecast return as a fraction; the sessions are those of `unit.valid`.
    """
    start, stop = run.unit.valid
    score_SO = np.full((len(prepared.present_ST), stop - start), np.nan, dtype=np.float32)
    if rows and valid:
        network = Stockformer(run.config, len(rows))
        network.load_weights(fitted.weights)
        own = np.asarray(rows)
        said_SO = run_network(network, prepared.scaled_STF[own], prepared.present_ST[own], valid, None).score_SO
        scale_S1 = np.asarray([prepared.scaling[row].label_scale_H[-1:] for row in rows])
        score_SO[own, valid.start - start :] = said_SO * scale_S1
    score_SO[~prepared.labelled_ST[:, start:stop]] = np.nan
    return score_SO


def _calibrations(
    prepared: Prepared, score_SO: np.ndarray, valid: tuple[int, int], rows: Sequence[int]
) -> dict[int, tuple[tuple[float, float], float]]:
    """Return (intercept, slope) of the probability of a rise and the accuracy per row, from its own validation tail.

    Rows that were not judged get the median of the others.
    """
    found: dict[int, tuple[tuple[float, float], float]] = {}
    for row in rows:
        known = np.isfinite(score_SO[row])
        score = score_SO[row, known].astype(np.float64)
        up = prepared.path_HST[-1][row, slice(*valid)][known] > 0.0
        intercept, slope = fit_logistic(score, up.astype(np.float64)) if known.any() else (0.0, 0.0)
        right = (Calibration(intercept, slope).probability(score) >= 0.5) == up
        found[row] = ((intercept, slope), float(right.mean()) if known.any() else 0.5)
    pairs = np.asarray([each[0] for each in found.values()] or [(0.0, 0.0)])
    usual = (float(np.median(pairs[:, 0])), float(np.median(pairs[:, 1])))
    return {row: found.get(row, (usual, 0.5)) for row in range(len(prepared.present_ST))}
