"""The two kinds of unit: select (what the validation tail decides) and member (one trained network with its deltas)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vnfleet.core.ids import arrays_sha256
from vnfleet.model.ensemble import Calibration, run_network
from vnfleet.model.logistic import fit_logistic
from vnfleet.model.stockformer import Deltas, Stockformer
from vnfleet.training.checkpoint import StageCheckpoints, StageState
from vnfleet.training.dataset import Prepared, TrainingData, prepare
from vnfleet.training.dropout import DropoutBank
from vnfleet.training.environment import NumericEnvironment
from vnfleet.training.objectives import loss_of
from vnfleet.training.plan import WorkUnit
from vnfleet.training.recipe import Recipe
from vnfleet.training.trainer import Batch, Progress, Stage, fit_stage
from vnfleet.training.unit_result import SELECTION_NAME, MemberFacts, Selection, write_member

_DELTA_SEED_SHIFT = 10_000


@dataclass(frozen=True, slots=True)
class UnitRun:
    """One unit being worked on: what, on which rows, where its checkpoints go and who is told."""

    unit: WorkUnit
    recipe: Recipe
    data: TrainingData
    folder: Path
    environment: NumericEnvironment
    progress: Progress

    @property
    def context_sessions(self) -> int:
        """Sessions before the first decision session that can have a loss."""
        return self.recipe.model.context_sessions

    @property
    def universe_U(self) -> np.ndarray:
        """Indices of the fold's primary symbols on the data's symbol axis, in universe order."""
        place = {symbol: index for index, symbol in enumerate(self.data.symbols)}
        return np.asarray([place[symbol] for symbol in self.unit.universe if symbol in place], dtype=np.int64)

    @property
    def primary_S(self) -> np.ndarray:
        """The universe as marks on the data's symbol axis."""
        marks_S = np.zeros(len(self.data.symbols), dtype=bool)
        marks_S[self.universe_U] = True
        return marks_S

    @property
    def min_labels(self) -> int:
        """Labels a session needs to be judged; fewer than in training only when the whole universe is smaller."""
        return min(self.recipe.training.min_labels_per_session, max(2, len(self.universe_U)))

    def decision_sessions(self, start: int, stop: int) -> range:
        """Return [start, stop) without the sessions that lack their context."""
        return range(min(max(start, self.context_sessions), stop), stop)

    def checkpoints(self, stage: str) -> StageCheckpoints:
        """Return the checkpoints of one stage of this unit."""
        return StageCheckpoints(self.folder / stage, f"{self.unit.unit_id}/{stage}")

    def network_loss(
        self, network: Stockformer, step: int, batch: Batch, bank: DropoutBank, deltas: Deltas | None
    ) -> Tensor:
        """Return the loss of one batch, with bf16 matrix products where the environment says so."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.environment.precision == "bf16"):
            forecast = network(batch.x_STF, batch.present_ST, batch.labels.target_SO.shape[1], deltas, bank.at(step))
        return loss_of(forecast, batch.labels, self.recipe.training)


def fit_backbone(
    run: UnitRun, prepared: Prepared, sessions: range, seed: int, epochs: int, valid: range | None
) -> tuple[Stockformer, StageState]:
    """Fit the pooled network on `sessions`; with `valid`, stop early on the universe's rank IC there."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Stockformer(run.recipe.model)
    bank = DropoutBank(seed, run.recipe.model.dropout)

    def judge() -> float:
        assert valid is not None
        own = run.universe_U
        score_UO = run_network(network, prepared.scaled_STF[own], prepared.present_ST[own], valid, None).score_SO
        network.train()
        return mean_rank_ic(score_UO, prepared, valid, own, run.min_labels)

    stage = Stage(
        name="backbone",
        parameters=dict(network.named_parameters()),
        loss=lambda batch, step: run.network_loss(network, step, batch, bank, None),
        sessions=sessions,
        symbols=None,
        primary_S=run.primary_S,
        seed=seed,
        epochs=epochs,
        schedule_epochs=run.recipe.training.max_epochs,
        learning_rate=run.recipe.training.learning_rate,
        judge=judge if valid is not None else None,
    )
    network.train()
    state = fit_stage(
        stage, prepared, run.context_sessions, run.recipe.training, run.checkpoints("backbone"), run.progress
    )
    network.eval()
    return network, state


def fit_deltas(
    run: UnitRun, prepared: Prepared, network: Stockformer, sessions: range, seed: int, penalty: float
) -> Deltas:
    """Fit per-symbol deltas of the universe on the frozen backbone under penalty x mean |delta_s|^2.

    They sum to zero over the universe, so that they cannot retrain what all symbols share.
    """
    training = run.recipe.training
    universe_U = run.universe_U
    place_S = torch.full((len(run.data.symbols),), -1, dtype=torch.int64)
    place_S[torch.from_numpy(universe_U)] = torch.arange(len(universe_U))
    deltas = Deltas.zeros(len(universe_U), run.recipe.model)
    parameters = deltas.tensors()
    for tensor in parameters.values():
        tensor.requires_grad_()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    bank = DropoutBank(seed + _DELTA_SEED_SHIFT, run.recipe.model.dropout)

    def loss(batch: Batch, step: int) -> Tensor:
        own = deltas.centred().select(place_S[batch.symbol_S])
        return run.network_loss(network, step, batch, bank, own) + penalty * own.squared_norm_S().mean()

    stage = Stage(
        name=f"deltas-{penalty:g}",
        parameters=parameters,
        loss=loss,
        sessions=sessions,
        symbols=universe_U,
        primary_S=run.primary_S,
        seed=seed + _DELTA_SEED_SHIFT,
        epochs=training.delta_epochs,
        schedule_epochs=training.delta_epochs,
        learning_rate=training.delta_learning_rate,
        judge=None,
    )
    fit_stage(stage, prepared, run.context_sessions, training, run.checkpoints(stage.name), run.progress)
    return Deltas.from_tensors({name: tensor.detach() for name, tensor in deltas.centred().tensors().items()})


def run_select(run: UnitRun, scratch: Path) -> dict[str, str]:
    """Fit on train only, let the validation tail choose epochs, lambda and calibration; write the selection."""
    unit, training = run.unit, run.recipe.training
    prepared = prepare(run.data, range(*unit.train), unit.refit[1], run.context_sessions)
    valid = run.decision_sessions(*unit.valid)
    sessions = run.decision_sessions(*unit.train)
    network, state = fit_backbone(run, prepared, sessions, unit.seed, training.max_epochs, valid)
    universe_U = run.universe_U
    pooled_UO = run_network(
        network, prepared.scaled_STF[universe_U], prepared.present_ST[universe_U], valid, None
    ).score_SO
    by_penalty = {"infinity": mean_rank_ic(pooled_UO, prepared, valid, universe_U, run.min_labels)}
    best_penalty, adapted_UO = None, pooled_UO
    for penalty in training.delta_penalties:
        deltas = fit_deltas(run, prepared, network, sessions, unit.seed, penalty)
        score_UO = run_network(
            network, prepared.scaled_STF[universe_U], prepared.present_ST[universe_U], valid, deltas
        ).score_SO
        value = mean_rank_ic(score_UO, prepared, valid, universe_U, run.min_labels)
        if value > max(by_penalty.values()):
            best_penalty, adapted_UO = penalty, score_UO
        by_penalty[f"{penalty:g}"] = value
    pooled_calibration, _ = _calibrate(pooled_UO, prepared, valid, universe_U)
    adapted_calibration, accuracy_U = _calibrate(adapted_UO, prepared, valid, universe_U)
    selection = Selection(
        epochs=state.best_epoch,
        penalty=best_penalty,
        valid_rank_ic_by_epoch=tuple(state.history),
        valid_rank_ic_by_penalty=by_penalty,
        valid_rank_ic=max(by_penalty.values()),
        calibration_pooled=pooled_calibration,
        calibration_adapted=adapted_calibration,
        valid_accuracy_by_symbol={run.data.symbols[u]: value for u, value in zip(universe_U, accuracy_U, strict=True)},
    )
    (scratch / SELECTION_NAME).write_text(selection.model_dump_json(indent=1), encoding="utf-8")
    return {}


def run_member(run: UnitRun, selection: Selection, scratch: Path) -> dict[str, str]:
    """Refit on train + validation for the selected epochs, with deltas if a finite lambda won; write the member."""
    unit = run.unit
    prepared = prepare(run.data, range(*unit.refit), unit.refit[1], run.context_sessions)
    sessions = run.decision_sessions(*unit.refit)
    network, _ = fit_backbone(run, prepared, sessions, unit.seed, selection.epochs, None)
    deltas = None
    if selection.penalty is not None:
        deltas = fit_deltas(run, prepared, network, sessions, unit.seed, selection.penalty)
    recent = range(max(sessions.start, sessions.stop - run.recipe.training.valid_sessions), sessions.stop)
    universe_U = run.universe_U
    eligible = prepared.eligible_ST[universe_U, recent.start : recent.stop]
    pooled_sd, adapted_sd = (
        float(
            run_network(network, prepared.scaled_STF[universe_U], prepared.present_ST[universe_U], recent, member)
            .score_SO[eligible]
            .std()
        )
        for member in (None, deltas)
    )
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    if deltas is not None:
        arrays |= {f"deltas/{name}": tensor.numpy() for name, tensor in deltas.tensors().items()}
    facts = MemberFacts(score_sd_pooled=pooled_sd, score_sd_adapted=adapted_sd, weights_sha256=arrays_sha256(arrays))
    write_member(scratch, network, deltas, prepared.scaler, prepared.label_scale_H, facts)
    return {"weights_sha256": facts.weights_sha256}


def mean_rank_ic(
    score_SO: np.ndarray, prepared: Prepared, sessions: range, symbols: np.ndarray | None, min_labels: int
) -> float:
    """Return the mean over sessions of the correlation between ranked score and rank target; 0 without sessions."""
    own = slice(sessions.start, sessions.stop)
    rows = slice(None) if symbols is None else symbols
    labelled_SO = prepared.labelled_ST[rows, own]
    target_SO = prepared.target_ST[rows, own]
    values = []
    for column in range(labelled_SO.shape[1]):
        keep = labelled_SO[:, column]
        if int(keep.sum()) >= min_labels:
            score_rank = score_SO[keep, column].argsort().argsort().astype(np.float64)
            target_rank = target_SO[keep, column].argsort(kind="stable").argsort().astype(np.float64)
            values.append(float(np.corrcoef(score_rank, target_rank)[0, 1]))
    return float(np.mean(values)) if values else 0.0


def _calibrate(
    score_UO: np.ndarray, prepared: Prepared, valid: range, universe_U: np.ndarray
) -> tuple[tuple[float, float], list[float]]:
    own = slice(valid.start, valid.stop)
    labelled_UO = prepared.labelled_ST[universe_U, own]
    up_UO = prepared.path_HST[-1][universe_U, own] > 0.0
    score_UO = score_UO / max(float(score_UO[labelled_UO].std()) if labelled_UO.any() else 1.0, 1e-12)
    calibration = Calibration(
        *fit_logistic(score_UO[labelled_UO].astype(np.float64), up_UO[labelled_UO].astype(np.float64))
    )
    called_up_UO = calibration.probability(score_UO) >= 0.5
    right_UO = (called_up_UO == up_UO) & labelled_UO
    accuracy_U = right_UO.sum(1) / np.maximum(labelled_UO.sum(1), 1)
    return (calibration.intercept, calibration.slope), accuracy_U.tolist()
