"""Ways to compute a set's forecasts, measured side by side, and the fastest one that leaves the ranks alone.

``float32``    torch as it is; what the others are compared with.
``bf16``       matrix products in bf16: GPUs from sm_80, CPUs with AMX.
``compiled``   `torch.compile`, where a compiler is found.
``onnx``       ONNX Runtime on the CPU, float32.
``onnx_int8``  the same with int8 weights and dynamically quantised inputs.

Axes: S symbols, T sessions, O output sessions, F features, H horizons.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from vnfleet.core.errors import BadDataError, UsageError, VnfleetError
from vnfleet.model.ensemble import Ensemble, EnsembleForecast, SetForecaster, eligible_sessions
from vnfleet.model.inference.network import SetForecast, SetNetwork, set_sha256
from vnfleet.model.inference.onnx_export import (
    INT8_NAME,
    ONNX_NAME,
    OnnxSet,
    export_onnx,
    model_source_sha256,
    onnx_problem,
    quantise_onnx,
    read_facts,
)

PathName = Literal["float32", "bf16", "compiled", "onnx", "onnx_int8"]
PATH_NAMES: Final[tuple[PathName, ...]] = ("float32", "bf16", "compiled", "onnx", "onnx_int8")
MIN_RANK_AGREEMENT: Final = 0.999
MIN_GAIN: Final = 1.1
OUTPUTS_PER_CALL: Final = {"streaming": 125, "window": 5}
"""Sessions of one call where many are forecast: streaming shares the context, windows only fill the caches."""

_BF16_FROM = (8, 0)
_MIN_RANKED = 3


class ForecastPath(Protocol):
    """One way to compute the forecasts of a set, opened and ready."""

    @property
    def num_outputs(self) -> int:
        """O: sessions forecast by one call."""
        ...

    @property
    def num_sessions(self) -> int:
        """T: sessions one call reads, the last O of them forecast."""
        ...

    @property
    def file_bytes(self) -> int:
        """Size of the numbers: of the exported file, or of the tensors in memory."""
        ...

    def forecast(self, values_STF: np.ndarray, present_ST: np.ndarray, symbol_S: np.ndarray) -> EnsembleForecast:
        """Forecast the last O of exactly T sessions of raw features; row s has the deltas of symbol `symbol_S[s]`."""
        ...


class TorchPath:
    """float32, bf16 or compiled: the module itself on `device`."""

    def __init__(
        self, name: Literal["float32", "bf16", "compiled"], ensembles: Sequence[Ensemble], num_outputs: int, device: str
    ) -> None:
        self._network = SetNetwork(ensembles, num_outputs).eval().to(device)
        self._call = torch.compile(self._network, dynamic=False) if name == "compiled" else self._network
        self._bf16 = name == "bf16"
        self._device = device
        self.num_outputs = num_outputs
        self.num_sessions = self._network.num_sessions
        self.file_bytes = sum(tensor.nbytes for tensor in self._network.state_dict().values())

    def forecast(self, values_STF: np.ndarray, present_ST: np.ndarray, symbol_S: np.ndarray) -> EnsembleForecast:
        """See `ForecastPath`."""
        arrays = (values_STF, present_ST, symbol_S.astype(np.int64))
        inputs = [torch.from_numpy(np.array(array, order="C")).to(self._device) for array in arrays]
        if not self._network.num_deltas:
            del inputs[2]
        kind = torch.device(self._device).type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self._bf16):
            found: SetForecast = self._call(*inputs)
        score, path, volatility = (_array(part) for part in (found.score_SO, found.path_SOH, found.volatility_SOH))
        return EnsembleForecast(score, path, volatility)


class OnnxPath:
    """onnx or onnx_int8: an exported file in ONNX Runtime."""

    def __init__(self, file: Path) -> None:
        self._set = OnnxSet(file, num_threads=torch.get_num_threads())
        self.num_outputs = self._set.facts.num_outputs
        self.num_sessions = self._set.facts.num_sessions
        self.file_bytes = file.stat().st_size

    def forecast(self, values_STF: np.ndarray, present_ST: np.ndarray, symbol_S: np.ndarray) -> EnsembleForecast:
        """See `ForecastPath`."""
        return self._set.forecast(values_STF, present_ST, symbol_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMeasurement:
    """One path beside float32. Figures are None where the path cannot run here; `words` say why, or what was found.

    Attributes
    ----------
    seconds_per_set : shortest time of one forecast of the whole set, everything ready.
    speedup : float32's seconds over this path's.
    max_abs_difference : of scores (in sd units) from float32's, over all compared rows.
    rank_agreement : the lowest Spearman correlation with float32's scores over the symbols of a session; None also
        where fewer than three symbols can be ranked.
    seconds_once : to make what can be kept on disk (export; int8: and quantisation); 0 when nothing is made or it was
        there.
    seconds_to_open : what every process pays first: reading, building, compiling and one forecast.
    file_bytes : size of the exported file, or of the tensors.
    """

    path: PathName
    seconds_per_set: float | None
    speedup: float | None
    max_abs_difference: float | None
    rank_agreement: float | None
    seconds_once: float | None
    seconds_to_open: float | None
    file_bytes: int | None
    words: str


def path_problem(name: PathName, device: str = "cpu") -> str | None:
    """Return why a path cannot run on `device`, in words, or None when there is no reason known beforehand."""
    if name in ("onnx", "onnx_int8"):
        if device != "cpu":
            return "ONNX Runtime is used on the CPU only"
        return onnx_problem()
    if name == "bf16" and device == "cpu" and not torch.cpu._is_amx_tile_supported():  # noqa: SLF001 - no public name
        return "this CPU does not multiply bf16 tiles (AMX): bf16 would only be slower"
    if name == "bf16" and device != "cpu" and torch.cuda.get_device_capability(device) < _BF16_FROM:
        return "this GPU does not multiply bf16 (needs sm_80 or later)"
    return None


def open_path(
    name: PathName,
    ensembles: Sequence[Ensemble],
    *,
    folder: Path,
    symbols: Sequence[str] = (),
    num_outputs: int = 1,
    device: str = "cpu",
    ids: Mapping[str, str] | None = None,
) -> ForecastPath:
    """Return the path, ready but for its first call; a compiled one compiles then, for as many symbols as it gets.

    ONNX files are kept in `folder` (one per `num_outputs`) and made anew when they are not of this very ensemble.
    `symbols` name the deltas and are needed for ONNX only.

    Raises `UsageError` with the reason when the path cannot run here.
    """
    if problem := path_problem(name, device):
        raise UsageError(f"the inference path {name} cannot run here", found=problem, fix="use float32")
    if name == "onnx" or name == "onnx_int8":  # noqa: PLR1714 - narrows the type
        return OnnxPath(_exported(name, ensembles, folder, symbols, num_outputs, ids or {}))
    return TorchPath(name, ensembles, num_outputs, device)


def forecaster(name: PathName, folder: Path, device: str = "cpu") -> SetForecaster:
    """Return a stand-in for `forecast_ensembles` that goes through the path `name`.

    Each call opens the path for its ensembles; sessions are forecast in calls as long as the attention form likes.
    Raises what `open_path` raises when it is called.
    """

    def forecast(
        ensembles: Sequence[Ensemble], values_STF: np.ndarray, present_ST: np.ndarray, sessions: range
    ) -> EnsembleForecast:
        network = SetNetwork(ensembles)
        places = tuple(str(row) for row in range(network.num_stacked or network.num_deltas))
        most = OUTPUTS_PER_CALL[ensembles[0].members[0].config.attention]
        path = open_path(
            name, ensembles, folder=folder, symbols=places, num_outputs=min(len(sessions), most), device=device
        )
        return forecast_with(path, values_STF, present_ST, sessions, np.arange(len(values_STF)))

    return forecast


def forecast_with(
    path: ForecastPath, values_STF: np.ndarray, present_ST: np.ndarray, sessions: range, symbol_S: np.ndarray
) -> EnsembleForecast:
    """Return the forecasts of `sessions` (indices on T) in as few calls as `path` allows.

    Raises `BadDataError` when a call would need sessions before the first.
    """
    outputs = path.num_outputs
    starts = [*range(sessions.start, sessions.stop - outputs, outputs), sessions.stop - outputs]
    parts: list[EnsembleForecast] = []
    done = sessions.start
    for start in starts:
        first, stop = start + outputs - path.num_sessions, start + outputs
        if first < 0:
            raise BadDataError(
                "too little history for a forecast", expected=f">= {path.num_sessions} sessions", found=stop
            )
        part = path.forecast(values_STF[:, first:stop], present_ST[:, first:stop], symbol_S)
        fresh = slice(done - start, None)  # the last call may begin among sessions that are done
        parts.append(EnsembleForecast(part.score_SO[:, fresh], part.path_SOH[:, fresh], part.volatility_SOH[:, fresh]))
        done = stop
    return EnsembleForecast(
        np.concatenate([part.score_SO for part in parts], axis=1),
        np.concatenate([part.path_SOH for part in parts], axis=1),
        np.concatenate([part.volatility_SOH for part in parts], axis=1),
    )


def rank_agreement(reference_SO: np.ndarray, score_SO: np.ndarray, known_SO: np.ndarray) -> float:
    """Return the lowest Spearman correlation over sessions of two sets of scores, NaN when no session can be ranked.

    Average ranks for ties. A session counts with three or more symbols whose reference scores differ; where the other
    scores are then all equal the agreement is 0.
    """
    lowest = float("nan")
    for column in range(known_SO.shape[1]):
        known_S = known_SO[:, column]
        if known_S.sum() < _MIN_RANKED:
            continue
        ours, theirs = (rankdata(score[known_S, column]) for score in (reference_SO, score_SO))
        if np.ptp(ours) == 0:
            continue
        if np.array_equal(ours, theirs):
            agreement = 1.0
        else:
            agreement = 0.0 if np.ptp(theirs) == 0 else float(np.corrcoef(ours, theirs)[0, 1])
        lowest = agreement if np.isnan(lowest) else min(lowest, agreement)
    return lowest


def measure_paths(
    ensembles: Sequence[Ensemble],
    values_STF: np.ndarray,
    present_ST: np.ndarray,
    sessions: range,
    *,
    folder: Path,
    symbols: Sequence[str] = (),
    names: Sequence[PathName] = PATH_NAMES,
    num_outputs: int = 1,
    timed: range | None = None,
    repeats: int = 9,
    device: str = "cpu",
) -> tuple[PathMeasurement, ...]:
    """Measure every path of `names` beside float32 on the threads this process has set.

    Scores and ranks are compared over all of `sessions` (indices on T, after the context), the forecast of `timed`
    (default: the newest session alone) is timed `repeats` times, the paths taking turns so that a busy moment of the
    machine meets all of them. Rows of `values_STF` are in the order of the deltas. A path that cannot run here, or
    fails, is reported with its reason; float32 always runs and comes first.
    """
    span = timed or range(sessions.stop - 1, sessions.stop)
    rows_S = np.arange(len(values_STF))
    known_SO = eligible_sessions(present_ST, ensembles[0].context_sessions)[:, sessions.start : sessions.stop]
    if not known_SO.any():
        raise BadDataError("no symbol can be forecast on these sessions", found=sessions)
    opened: dict[PathName, _Opened] = {}
    failed: dict[PathName, str] = {}
    # The first forecast of a process pays for warm kernels and memory, whatever its path.
    forecast_with(
        open_path("float32", ensembles, folder=folder, num_outputs=num_outputs, device=device),
        values_STF,
        present_ST,
        span,
        rows_S,
    )
    wanted: tuple[PathName, ...] = ("float32", *(name for name in names if name != "float32"))
    for name in wanted:
        try:
            once = _made(name, ensembles, folder, symbols, num_outputs, device)
            if name == "onnx_int8" and "onnx" in opened:
                once += opened["onnx"].seconds_once  # the float32 file it is made from
            started = time.perf_counter()
            path = open_path(name, ensembles, folder=folder, symbols=symbols, num_outputs=num_outputs, device=device)
            forecast_with(path, values_STF, present_ST, span, rows_S)
            opening = time.perf_counter() - started
            score_SO = forecast_with(path, values_STF, present_ST, sessions, rows_S).score_SO
            opened[name] = _Opened(path, once, opening, score_SO, [])
        except VnfleetError as error:
            failed[name] = _reason(error)
        except Exception as error:
            # A compiler that is missing or broken says so in many classes; float32 itself must run.
            if name == "float32":
                raise
            failed[name] = _reason(error)
    for _ in range(repeats):
        for one in opened.values():
            started = time.perf_counter()
            forecast_with(one.path, values_STF, present_ST, span, rows_S)
            one.seconds.append(time.perf_counter() - started)
    return tuple(
        _measured(name, opened[name], opened["float32"], known_SO) if name in opened else _absent(name, failed[name])
        for name in wanted
    )


def choose_path(
    measurements: Sequence[PathMeasurement],
    min_rank_agreement: float = MIN_RANK_AGREEMENT,
    *,
    sets_per_process: int | None = None,
    is_new_set: bool = False,
    min_gain: float = MIN_GAIN,
) -> PathMeasurement:
    """Return the fastest path whose ranks agree with float32's on every compared session.

    Float32 stays unless another is `min_gain` times as fast: less is noise, and would change sides from week to week.
    `sets_per_process` counts what each process pays first: with 1, opening and compiling weigh in full; None is a
    process that stays and forecasts again and again. With `is_new_set` making the files weighs too: a weekly `predict`
    forecasts once, and its set is new every week.

    Raises `BadDataError` when none does (float32, which agrees with itself, was not measured).
    """

    def cost(one: PathMeasurement) -> float:
        assert one.seconds_per_set is not None
        if sets_per_process is None:
            return one.seconds_per_set
        made = (one.seconds_once or 0.0) if is_new_set else 0.0
        return made + (one.seconds_to_open or 0.0) + (sets_per_process - 1) * one.seconds_per_set

    agreeing = [
        one
        for one in measurements
        if one.seconds_per_set is not None
        and (one.path == "float32" or (one.rank_agreement is not None and one.rank_agreement >= min_rank_agreement))
    ]
    if not agreeing:
        raise BadDataError("no inference path agrees with float32", expected=f"ranks >= {min_rank_agreement}")
    fastest = min(agreeing, key=cost)
    plain = next((one for one in agreeing if one.path == "float32"), fastest)
    return fastest if cost(plain) >= min_gain * cost(fastest) else plain


@dataclass(frozen=True, slots=True)
class _Opened:
    path: ForecastPath
    seconds_once: float
    seconds_to_open: float
    score_SO: np.ndarray
    seconds: list[float]


def _measured(name: PathName, one: _Opened, reference: _Opened, known_SO: np.ndarray) -> PathMeasurement:
    seconds = min(one.seconds)  # what else the machine does only ever adds
    speedup = min(reference.seconds) / seconds
    lowest = rank_agreement(reference.score_SO, one.score_SO, known_SO)
    agreement = None if np.isnan(lowest) else lowest
    difference = float(np.abs(one.score_SO - reference.score_SO)[known_SO].max())
    ranked = f"ranks agree to {lowest:.5f} on the worst of {known_SO.shape[1]} sessions"
    words = f"{speedup:.2f}x float32; {ranked if agreement is not None else 'too few symbols to rank'}"
    return PathMeasurement(
        path=name,
        seconds_per_set=seconds,
        speedup=speedup,
        max_abs_difference=difference,
        rank_agreement=agreement,
        seconds_once=one.seconds_once,
        seconds_to_open=one.seconds_to_open,
        file_bytes=one.path.file_bytes,
        words="what the others are compared with" if one is reference else words,
    )


def _absent(name: PathName, reason: str) -> PathMeasurement:
    return PathMeasurement(
        path=name,
        seconds_per_set=None,
        speedup=None,
        max_abs_difference=None,
        rank_agreement=None,
        seconds_once=None,
        seconds_to_open=None,
        file_bytes=None,
        words=f"not run: {reason}",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, VnfleetError):
        lines = str(error).splitlines()
        found = [line.partition("found: ")[2] for line in lines if line.strip().startswith("found:")]
        return (found or lines)[0]
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:200]


def _made(
    name: PathName, ensembles: Sequence[Ensemble], folder: Path, symbols: Sequence[str], num_outputs: int, device: str
) -> float:
    """Export what the path reads and return the seconds that took."""
    if name not in ("onnx", "onnx_int8") or path_problem(name, device) is not None:
        return 0.0
    started = time.perf_counter()
    _exported(name, ensembles, folder, symbols, num_outputs, {})
    return time.perf_counter() - started


def _exported(
    name: PathName,
    ensembles: Sequence[Ensemble],
    folder: Path,
    symbols: Sequence[str],
    num_outputs: int,
    ids: Mapping[str, str],
) -> Path:
    wanted = set_sha256(ensembles)
    suffix = "" if num_outputs == 1 else f"_{num_outputs}"
    plain, small = (folder / f"{Path(base).stem}{suffix}.onnx" for base in (ONNX_NAME, INT8_NAME))
    if not _is_of(plain, wanted, symbols, num_outputs):
        export_onnx(ensembles, folder, symbols=symbols, ids=ids, num_outputs=num_outputs, name=plain.name)
    if name == "onnx":
        return plain
    if not _is_of(small, wanted, symbols, num_outputs):
        quantise_onnx(plain, small.name)
    return small


def _is_of(file: Path, identity: str, symbols: Sequence[str], num_outputs: int) -> bool:
    try:
        facts = read_facts(file)
    except BadDataError:
        return False
    found = (facts.set_sha256, facts.source_sha256, facts.symbols, facts.num_outputs)
    return found == (identity, model_source_sha256(), tuple(symbols), num_outputs)


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.float().cpu().numpy())
