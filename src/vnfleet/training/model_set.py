"""From finished units of one fold to the files the plan names: one artifact per symbol."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from vnfleet.core.errors import BadDataError
from vnfleet.evaluation.splits import Fold
from vnfleet.model.artifact import Artifact, artifact_name, write_artifact
from vnfleet.training.dataset import TrainingData
from vnfleet.training.forecast import fold_models, symbols_with_models
from vnfleet.training.plan import fold_units
from vnfleet.training.recipe import Recipe, Strategy


def write_model_set(
    folder: Path,
    recipe: Recipe,
    fold: Fold,
    data: TrainingData,
    units_root: Path,
    strategy: Strategy,
    symbols: Sequence[str],
) -> list[Path]:
    """Write `{symbol}_stockformer.pt` for each of `symbols` from the fold's finished units; return the paths.

    Raises `BadDataError` when a symbol is not in the fold's universe, before anything is written.
    """
    strangers = sorted(set(symbols) - set(fold.universe))
    if strangers:
        raise BadDataError(
            "symbols without a model were asked for", found=strangers, expected=f"of fold {fold.fold_id}"
        )
    models = fold_models(recipe, fold, data, units_root, strategy)
    own = symbols_with_models(models, symbols)
    units = fold_units(recipe, data, fold)
    ids = {
        "recipe_id": recipe.recipe_id,
        "data_id": units[0].data_id,
        "fold_id": fold.fold_id,
        "unit_ids": ",".join(unit.unit_id for unit in units),
    }
    paths: list[Path] = []
    for symbol in symbols:
        ensemble, row = own[symbol]
        members = tuple(
            member
            if member.deltas is None
            else dataclasses.replace(member, deltas=member.deltas.select(torch.tensor([row])))
            for member in ensemble.members
        )
        artifact = Artifact(
            symbol=symbol,
            ensemble=dataclasses.replace(ensemble, members=members),
            strategy=strategy,
            reference_universe=data.symbols,
            ids=ids,
            validation={
                "set_rank_ic": models.valid_rank_ic,
                "accuracy": models.valid_accuracy[symbol],
            },
        )
        path = folder / artifact_name(symbol)
        write_artifact(path, artifact)
        paths.append(path)
    return paths
