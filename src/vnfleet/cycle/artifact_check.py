"""Model files looked at without training: whether they are whole, say anything, and what validation said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vnfleet.core.errors import BadDataError, ExitCode
from vnfleet.cycle.inference import INFERENCE_NAME, InferenceChoice, choice_of, write_choice
from vnfleet.cycle.workdir import Folders
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import Artifact, artifact_name, read_artifact
from vnfleet.model.inference import measure_paths
from vnfleet.model.sets import forecast_artifacts, passes_of

MIN_ACCURACY_FRAC = 0.52  # the written plan's limit for a model
_TRIED_SESSIONS = 60
_MIN_SYMBOLS_FOR_RANKS = 20
State = Literal["ok", "flagged", "bad"]
_CODES: dict[State, ExitCode] = {"ok": ExitCode.OK, "flagged": ExitCode.GATE_KEPT, "bad": ExitCode.BAD_DATA}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactVerdict:
    """What a model file is worth: "bad" must not be used, "flagged" is whole and below the plan's accuracy.

    accuracy_frac : on its validation tail, as the trainer wrote it; None for a bad file.
    """

    symbol: str
    state: State
    words: str
    accuracy_frac: float | None = None


def check_artifacts(models: Path, symbols: Sequence[str], cube: FeatureCube | None) -> tuple[ArtifactVerdict, ...]:
    """Return a verdict on the file of each of `symbols` in the folder `models`.

    `cube` : features to forecast the newest 60 sessions from; None: forecasts are not tried, and the words say so.
    """
    return tuple(_verdict(models / artifact_name(symbol), symbol, cube) for symbol in symbols)


def exit_code_of(verdicts: Sequence[ArtifactVerdict]) -> ExitCode:
    """Return 3 when a file must not be used, else 4 when one is flagged, else 0."""
    states = {verdict.state for verdict in verdicts}
    return _CODES["bad" if "bad" in states else "flagged" if "flagged" in states else "ok"]


def measure_inference(folders: Folders, symbols: Sequence[str], cube: FeatureCube) -> InferenceChoice:
    """Time every way to compute the forecasts of these models on this CPU, write the choice down and return it.

    With fewer than 20 symbols only ways that round as float32 does can be chosen: ranks of so few say nothing.

    Raises `BadDataError` for a file that cannot be read, or models that cannot be forecast on the newest sessions.
    """
    artifacts = [read_artifact(folders.models / artifact_name(symbol)) for symbol in symbols]
    group, ensembles = max(passes_of(artifacts), key=lambda one: len(one[0]))
    place = {symbol: row for row, symbol in enumerate(cube.symbols)}
    rows = np.asarray([place[artifact.symbol] for artifact in group])
    newest = range(max(0, len(cube.sessions) - _TRIED_SESSIONS), len(cube.sessions))
    measured = measure_paths(
        ensembles,
        cube.values_STF[rows],
        cube.present_ST[rows],
        newest,
        folder=folders.inference,
        symbols=[artifact.symbol for artifact in group],
    )
    choice = choice_of(
        measured,
        trained=len(group) >= _MIN_SYMBOLS_FOR_RANKS,
        num_symbols=len(group),
        num_members=len(ensembles[0].members),
        device="cpu",
        now=datetime.now(UTC),
    )
    write_choice(folders.configs / INFERENCE_NAME, choice)
    return choice


def _verdict(path: Path, symbol: str, cube: FeatureCube | None) -> ArtifactVerdict:
    try:
        artifact = read_artifact(path)
        _refuse_empty(artifact, path, symbol)
        forecasts = _tried(artifact, path, cube)
    except BadDataError as error:
        found = "" if error.found is None else f" ({error.found})"
        return ArtifactVerdict(symbol=symbol, state="bad", words=f"{error.what}{found}")
    accuracy = artifact.validation.get("accuracy")
    if accuracy is None or not np.isfinite(accuracy):
        return ArtifactVerdict(symbol=symbol, state="bad", words="the file does not say how accurate it was")
    low = accuracy <= MIN_ACCURACY_FRAC
    relation = "not above" if low else "above"
    words = f"whole, {forecasts}; validation accuracy {accuracy:.1%}, {relation} the plan's {MIN_ACCURACY_FRAC:.0%}"
    return ArtifactVerdict(symbol=symbol, state="flagged" if low else "ok", words=words, accuracy_frac=accuracy)


def _refuse_empty(artifact: Artifact, path: Path, symbol: str) -> None:
    if artifact.symbol != symbol:
        raise BadDataError("the file is of another symbol", where=path, expected=symbol, found=artifact.symbol)
    for member in artifact.ensemble.members:
        matrices = [tensor for tensor in member.weights.values() if tensor.ndim > 1]
        if all(bool(torch.all(tensor == tensor.flatten()[0])) for tensor in matrices):
            raise BadDataError("its weights are all the same: nothing was learned", where=path)


def _tried(artifact: Artifact, path: Path, cube: FeatureCube | None) -> str:
    """Return how forecasts went, in words; raises `BadDataError` when they are missing or constant."""
    if cube is None:
        return "forecasts not tried (no prices were collected here)"
    if artifact.symbol not in cube.symbols:
        return "forecasts not tried (the symbol is not among those collected)"
    sessions = cube.sessions[-_TRIED_SESSIONS:]
    scores = forecast_artifacts([artifact], cube, sessions, "check", "check").get_column("score").drop_nulls()
    if scores.is_empty():
        return "no session to forecast (too little history, or suspended)"
    if len(scores) > 1 and scores.n_unique() == 1:
        raise BadDataError("it forecasts the same for every session", where=path, found=scores[0])
    return f"{len(scores)} forecasts tried"
