"""Which inference path computes the forecasts of what serves: as wished, or as `vnfleet bench infer` found it here.

The measurement is written down once, in ``configs/inference.json``; it holds for this torch on this kind of machine,
whatever recipe is trained. Judging never comes here: evaluation, walk-forward and gate are float32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from vnfleet.core.atomic import write_text
from vnfleet.core.clock import utc_text
from vnfleet.core.errors import VnfleetError
from vnfleet.core.ids import canonical_json, sha256_hex
from vnfleet.cycle.workdir import Folders
from vnfleet.model.ensemble import Ensemble, EnsembleForecast, forecast_ensembles
from vnfleet.model.inference import PathMeasurement, PathName, choose_path, forecaster, path_problem
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.machine.cores import performance_cores
from vnfleet.training.machine.devices import can_compile, choose_device
from vnfleet.training.machine.work import MachineFacts

INFERENCE_NAME: Final = "inference.json"
_SCHEMA_VERSION: Final = 1
_ROUNDED: Final = ("bf16", "onnx_int8")
_log = logging.getLogger(__name__)


class PathFigures(BaseModel):
    """The figures of one path that ran, see `PathMeasurement`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: PathName
    seconds_per_set: float = Field(gt=0.0)
    seconds_to_open: float = Field(ge=0.0)
    seconds_once: float = Field(ge=0.0)
    rank_agreement: float | None
    max_abs_difference: float = Field(ge=0.0)


class InferenceChoice(BaseModel):
    """The path that was chosen for the weekly forecast on a machine.

    Attributes
    ----------
    path : fastest for one forecast of the newest session by a set that is new, with ranks that agree.
    measured_at : UTC, ISO 8601. machine : where.
    num_symbols, num_members : of the set that was measured. trained : its weights were trained ones; the ranks of
        untrained ones say nothing, so that only paths that round as float32 does are chosen from them.
    figures : of every path that ran.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: PathName
    measured_at: str
    machine: MachineFacts
    num_symbols: int = Field(ge=1)
    num_members: int = Field(ge=1)
    trained: bool
    figures: tuple[PathFigures, ...]


def choice_of(
    measurements: Sequence[PathMeasurement],
    *,
    trained: bool,
    num_symbols: int,
    num_members: int,
    device: str,
    now: datetime,
) -> InferenceChoice:
    """Return the choice that `measurements` of the newest session, made here and now (aware), lead to.

    Raises `BadDataError` when float32 was not measured.
    """
    eligible = [one for one in measurements if trained or one.path not in _ROUNDED]
    return InferenceChoice(
        path=choose_path(eligible, sets_per_process=1, is_new_set=True).path,
        measured_at=utc_text(now),
        machine=machine_here(device),
        num_symbols=num_symbols,
        num_members=num_members,
        trained=trained,
        figures=tuple(
            PathFigures(
                path=one.path,
                seconds_per_set=one.seconds_per_set,
                seconds_to_open=one.seconds_to_open or 0.0,
                seconds_once=one.seconds_once or 0.0,
                rank_agreement=one.rank_agreement,
                max_abs_difference=one.max_abs_difference or 0.0,
            )
            for one in measurements
            if one.seconds_per_set is not None
        ),
    )


def machine_here(device: str) -> MachineFacts:
    """Return the facts of this machine when forecasts are computed on `device`."""
    return MachineFacts.here(num_cores=len(performance_cores()), device=device)


def write_choice(path: Path, choice: InferenceChoice) -> None:
    """Write `choice` whole or not at all, with the SHA-256 of its contents; raises `ResourceError` on a full disk."""
    body = choice.model_dump(mode="json")
    sealed = {"schema_version": _SCHEMA_VERSION, "sha256": _sha256(body), "inference": body}
    write_text(path, json.dumps(sealed, indent=1) + "\n")


def read_choice(path: Path) -> InferenceChoice | None:
    """Return the choice in `path`, None when there is none; a damaged one is named in the log and counts as none."""
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        file = _ChoiceFile.model_validate_json(payload)
        if _sha256(file.inference) == file.sha256:
            return InferenceChoice.model_validate(file.inference)
        why = "its contents were changed"
    except ValidationError as error:
        why = f"{error.error_count()} fields are not as expected, first {error.errors()[0]['loc']}"
    _log.warning("a measured inference path is damaged and ignored: %s (%s); vnfleet bench infer", path, why)
    return None


@dataclass(slots=True)
class ServingPath:
    """Computes passes as `forecast_ensembles` does, through the path `name`; where that fails, in float32.

    Attributes
    ----------
    name : the path in use. reason : why this one, in words; empty when there is nothing to tell.
    folder : where the path may keep files. device : where torch computes it.
    passes : passes computed so far.
    """

    name: PathName
    reason: str
    folder: Path
    device: str = "cpu"
    passes: int = 0

    def __call__(
        self, ensembles: Sequence[Ensemble], values_STF: np.ndarray, present_ST: np.ndarray, sessions: range
    ) -> EnsembleForecast:
        """See `vnfleet.model.ensemble.SetForecaster`."""
        self.passes += 1
        if self.name != "float32":
            # A folder for each pass, so that a release of several does not make its files anew every time.
            run = forecaster(self.name, self.folder / f"pass{self.passes}", self.device)
            try:
                return run(ensembles, values_STF, present_ST, sessions)
            except Exception as error:  # noqa: BLE001 - compilers and runtimes fail in many classes, Monday does not wait
                first = (str(error).splitlines() or [""])[0][:200]
                self.fall_back(f"{self.name} failed here: {first or type(error).__name__}")
        return forecast_ensembles(ensembles, values_STF, present_ST, sessions)

    @property
    def words(self) -> str:
        """What computed the networks, and why; empty when none was computed."""
        if not self.passes:
            return ""
        return f"{self.name} ({self.reason})" if self.reason else self.name

    def fall_back(self, reason: str) -> None:
        """Go on in float32 from here, and say why in the log."""
        _log.warning("forecasts are computed in float32: %s", reason)
        self.name, self.reason = "float32", reason


def serving_path(machine: MachineConfig, folders: Folders) -> ServingPath:
    """Return the path that `machine` wishes for; where it cannot be used, float32 with the reason, which is logged."""
    name, reason = _wished(machine, folders)
    path = ServingPath(name, reason, folders.inference)
    if name == "float32":
        return path
    problem, path.device = _problem(name, machine)
    if problem is not None:
        path.fall_back(f"{name} cannot be used here: {problem}")
    return path


def _wished(machine: MachineConfig, folders: Folders) -> tuple[PathName, str]:
    if machine.inference != "auto":
        return machine.inference, ""
    choice = read_choice(folders.configs / INFERENCE_NAME)
    if choice is None:
        return "float32", ""
    here, there = machine_here(_device(machine)), choice.machine
    if (here.torch, here.cpu_capability, here.device) != (there.torch, there.cpu_capability, there.device):
        _log.info("the inference path was measured on another machine or torch: float32 until vnfleet bench infer")
        return "float32", "the measured path is of another machine or torch"
    return choice.path, "fastest here with agreeing ranks"


def _problem(name: PathName, machine: MachineConfig) -> tuple[str | None, str]:
    """Return why `name` cannot be used here, None when it can, and the device it computes on."""
    if name in ("onnx", "onnx_int8"):
        return path_problem(name), "cpu"
    try:
        choice = choose_device(machine)
    except VnfleetError as error:
        return error.what, "cpu"
    if name == "compiled":
        compiles, reason = can_compile(choice)
        return None if compiles else reason, choice.device
    return path_problem(name, choice.device), choice.device


def _device(machine: MachineConfig) -> str:
    try:
        return choose_device(machine).device
    except VnfleetError:
        return "cpu"


class _ChoiceFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    sha256: str
    inference: dict[str, JsonValue]


def _sha256(body: object) -> str:
    return sha256_hex(canonical_json(body).encode())
