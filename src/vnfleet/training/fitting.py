"""Units of shared models: select (what the validation tail decides) and member (a trained network with deltas)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import arrays_sha256
from vnfleet.model.ensemble import Calibration, run_network
from vnfleet.model.logistic import fit_logistic
from vnfleet.model.stockformer import Deltas, Stockformer, StockformerConfig, initial_weights
from vnfleet.training.batches import Batch, PooledBatches
from vnfleet.training.dataset import Prepared, prepare
from vnfleet.training.dropout import DropoutBank
from vnfleet.training.parameters import ParameterLayout
from vnfleet.training.trainer import Stage, StepContext, fit_stage
from vnfleet.training.unit_result import SELECTION_NAME, MemberFacts, Selection, write_member
from vnfleet.training.unit_run import UnitRun

_DELTA_SEED_SHIFT = 10_000


def fit_backbone(
    run: UnitRun, prepared: Prepared, sessions: range, seed: int, epochs: int, valid: range | None
) -> tuple[Stockformer, list[float], int]:
    """Fit the pooled network on `sessions`; with `valid`, stop early on the universe's rank IC there.

    Returns the fitted network on the CPU, its validation figures per epoch, and the best epoch.
    """
    _refuse_small_cross_section(run, prepared, sessions)
    stage = backbone_stage(run, prepared, sessions, seed, epochs, valid)
    state = fit_stage(stage, run.workshop("backbone", run.objective))
    fitted = Stockformer(run.config).eval()
    stage.layout.bind(fitted, state.result_MP.cpu().clone())
    return fitted, state.history[0], state.best_epoch[0]


def backbone_stage(
    run: UnitRun, prepared: Prepared, sessions: range, seed: int, epochs: int, valid: range | None
) -> Stage:
    """Return the stage that fits the pooled network."""
    config, training = run.config, run.recipe.training
    network, probe = Stockformer(config).to(run.device), Stockformer(config).to(run.device)
    layout = ParameterLayout.of_module(network)
    bank, forward = DropoutBank(config.dropout, run.device), run.forecaster(network)
    own = run.universe_U

    def judge(rows_KP: Tensor, models: Sequence[int]) -> list[float]:
        assert valid is not None
        assert len(models) == 1
        layout.bind(probe, rows_KP)
        score_UO = run_network(probe, prepared.scaled_STF[own], prepared.present_ST[own], valid, None).score_SO
        return [mean_rank_ic(score_UO, prepared, valid, own, run.min_labels)]

    return Stage(
        name="backbone",
        models=("backbone",),
        layout=layout,
        initial_MP=layout.rows([initial_weights(config, seed)]),
        bind=lambda value_MP, grad_MP: layout.bind(network, value_MP, grad_MP),
        batches=_batches(run, prepared, sessions, seed),
        loss=lambda batch, at: run.loss(forward, batch, at, bank.at(at.step, (seed,), at.part)),
        epochs=(epochs,),
        schedule_epochs=training.max_epochs,
        learning_rate=training.learning_rate,
        judge=judge if valid is not None else None,
    )


def _batches(
    run: UnitRun, prepared: Prepared, sessions: range, seed: int, symbols: np.ndarray | None = None
) -> PooledBatches:
    """Return the batches of one model over all symbols, or over `symbols`."""
    return PooledBatches(
        data=prepared.on(run.device),
        labelled_ST=prepared.labelled_ST,
        sessions=sessions,
        chunk_sessions=run.recipe.training.chunk_sessions,
        accumulation=run.recipe.training.accumulation,
        context_sessions=run.config.context_sessions,
        primary_S=run.primary_S,
        seed=seed,
        symbols=symbols,
    )


def _refuse_small_cross_section(run: UnitRun, prepared: Prepared, sessions: range) -> None:
    """A rank loss that no session can have would train nothing, silently."""
    most = int(prepared.labelled_ST[:, sessions.start : sessions.stop].sum(0).max(initial=0))
    needed = run.objective.min_labels_per_session
    if run.objective.is_cross_sectional and most < needed:
        raise BadDataError(
            "a cross-sectional loss on so few symbols is noise",
            expected=f"a session with at least {needed} labelled symbols ([objective] min_labels_per_session)",
            found=f"at most {most}",
            where=f"fold {run.unit.fold_id}",
            fix="collect more symbols, or set rank_ic_weight, pairwise_weight and rank_mse_weight in [objective] to 0: "
            "what is left learns from each series by itself (the shared model always races, whatever the strategy)",
        )


class _DeltaModule(nn.Module):
    """The deltas as a module of one model, so that they are trained like any other parameters."""

    def __init__(self, num_symbols: int, config: StockformerConfig) -> None:
        super().__init__()
        for name, tensor in Deltas.zeros(num_symbols, config).tensors().items():
            self.register_parameter(name, nn.Parameter(tensor.unsqueeze(0)))

    def deltas(self) -> Deltas:
        """Return the deltas, less their mean over symbols."""
        return Deltas.from_tensors({name: parameter[0] for name, parameter in self.named_parameters()}).centred()


def fit_deltas(
    run: UnitRun, prepared: Prepared, network: Stockformer, sessions: range, seed: int, penalty: float
) -> Deltas:
    """Fit per-symbol deltas of the universe on the frozen backbone under penalty x mean |delta_s|^2.

    They sum to zero over the universe, so that they cannot retrain what all symbols share.
    """
    training, config, universe_U = run.recipe.training, run.config, run.universe_U
    place_S = torch.full((len(run.data.symbols),), -1, dtype=torch.int64, device=run.device)
    place_S[torch.from_numpy(universe_U).to(run.device)] = torch.arange(len(universe_U), device=run.device)
    module = _DeltaModule(len(universe_U), config).to(run.device)
    layout = ParameterLayout.of_module(module)
    frozen = Stockformer(config).to(run.device)
    frozen.load_weights([network.weights_of(0)])
    frozen.requires_grad_(requires_grad=False)
    shifted = seed + _DELTA_SEED_SHIFT
    bank, forward = DropoutBank(config.dropout, run.device), run.forecaster(frozen)

    def loss(batch: Batch, at: StepContext) -> Tensor:
        own = module.deltas().select(place_S[batch.symbol_S])
        dropout = bank.at(at.step, (shifted,), at.part)
        fitted_1 = run.loss(forward, batch, at, dropout, own)
        return fitted_1 + penalty * own.squared_norm_S().mean() * _share_of_step(batch, at)

    stage = Stage(
        name=f"deltas-{penalty:g}",
        models=("deltas",),
        layout=layout,
        initial_MP=torch.zeros(1, layout.width),
        bind=lambda value_MP, grad_MP: layout.bind(module, value_MP, grad_MP),
        batches=_batches(run, prepared, sessions, shifted, universe_U),
        loss=loss,
        epochs=(training.delta_epochs,),
        schedule_epochs=training.delta_epochs,
        learning_rate=training.delta_learning_rate,
    )
    state = fit_stage(stage, run.workshop(stage.name, run.objective))
    layout.bind(module, state.result_MP.to(run.device).clone())
    return Deltas.from_tensors({name: tensor.detach().cpu() for name, tensor in module.deltas().tensors().items()})


def _share_of_step(batch: Batch, at: StepContext) -> Tensor:
    """Return this part's share of the step's labels, so that a penalty counts once however a step is cut."""
    return batch.labels.labelled_SO.sum() / at.labels.clamp_min(1)


def run_select(run: UnitRun, scratch: Path) -> dict[str, str]:
    """Fit on train only, let the validation tail choose epochs, lambda and calibration; write the selection."""
    unit, training = run.unit, run.recipe.training
    prepared = prepare(run.data, range(*unit.train), unit.refit[1], run.config.context_sessions, run.recipe.objective)
    valid = run.decision_sessions(*unit.valid)
    sessions = run.decision_sessions(*unit.train)
    network, history, best_epoch = fit_backbone(run, prepared, sessions, unit.seed, training.max_epochs, valid)
    universe_U = run.universe_U
    pooled_UO = run_network(
        network, prepared.scaled_STF[universe_U], prepared.present_ST[universe_U], valid, None
    ).score_SO
    by_penalty = {"infinity": mean_rank_ic(pooled_UO, prepared, valid, universe_U, run.min_labels)}
    best_penalty, adapted_UO = None, pooled_UO
    for penalty in training.delta_penalties if training.strategy == "adapted" else ():
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
        epochs=best_epoch,
        penalty=best_penalty,
        valid_rank_ic_by_epoch=tuple(history),
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
    prepared = prepare(run.data, range(*unit.refit), unit.refit[1], run.config.context_sessions, run.recipe.objective)
    sessions = run.decision_sessions(*unit.refit)
    network, _, _ = fit_backbone(run, prepared, sessions, unit.seed, selection.epochs, None)
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
    arrays = {name: tensor.numpy() for name, tensor in network.weights_of(0).items()}
    if deltas is not None:
        arrays |= {f"deltas/{name}": tensor.numpy() for name, tensor in deltas.tensors().items()}
    facts = MemberFacts(score_sd_pooled=pooled_sd, score_sd_adapted=adapted_sd, weights_sha256=arrays_sha256(arrays))
    write_member(scratch, network.weights_of(0), deltas, prepared.scaling[0], facts)
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
