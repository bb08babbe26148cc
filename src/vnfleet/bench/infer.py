"""How fast a whole set forecasts: every inference path beside float32, and where the time of a `predict` goes.

The written plan claims that int8 makes inference 2-4x faster; the claim stands beside what is measured here.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from pydantic import JsonValue

from vnfleet.bench.table import NOTHING, Cell, Table, number_cell, seconds_cell, seconds_text, words
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import ARTIFACT_SUFFIX, Artifact, artifact_name, read_artifact
from vnfleet.model.artifact import write_artifact as write
from vnfleet.model.ensemble import Calibration, Ensemble, Member, Scaler, eligible_sessions
from vnfleet.model.inference import (
    MIN_RANK_AGREEMENT,
    OUTPUTS_PER_CALL,
    PATH_NAMES,
    PathMeasurement,
    PathName,
    choose_path,
    forecast_with,
    measure_paths,
    open_path,
)
from vnfleet.model.sets import ensembles_of, forecast_artifacts
from vnfleet.model.stockformer import Deltas, StockformerConfig, initial_weights, preset
from vnfleet.training.dataset import TrainingData

PLAN_CLAIM: Final = "2-4x"
"""The plan, "Quantized inference (int8, 2-4x faster)"."""
YEAR_SESSIONS: Final = 250
_COMPARED_SESSIONS: Final = 20
_WINDOW_SLICE_SESSIONS: Final = 25
_DELTA_SD: Final = 0.02

Job = Literal["newest session", "a year"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferCase:
    """One set and one job, every path measured in the same run.

    year_factor : the measured seconds times this are a year's; above 1 only a slice was run.
    chosen : the fastest path that agrees, for a process that stays. chosen_once : for a process that forecasts once.
    """

    shape: str
    job: Job
    num_symbols: int
    num_members: int
    compared_sessions: int
    year_factor: float
    measurements: tuple[PathMeasurement, ...]
    chosen: PathName
    chosen_once: PathName


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictShares:
    """Where the seconds of forecasting the newest session from model files go; shortest times, files in the disk cache.

    read_seconds : all `.pt` files. forecast_seconds : `forecast_artifacts` of what was read, of which scale_seconds
    are scaling and network_seconds are all members' networks; the rest is comparing backbones and building the frame.
    """

    shape: str
    num_files: int
    file_bytes: int
    read_seconds: float
    forecast_seconds: float
    scale_seconds: float
    network_seconds: float

    @property
    def network_share(self) -> float:
        """The networks' share of reading and forecasting."""
        return self.network_seconds / (self.read_seconds + self.forecast_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferBench:
    """What `run_infer_bench` measured, as tables for people and as JSON."""

    cases: tuple[InferCase, ...]
    shares: tuple[PredictShares, ...]
    threads: int
    weights: str

    def tables(self) -> tuple[Table, ...]:
        """Return a table per case and one of shares."""
        return (*(_case_table(case, self.threads, self.weights) for case in self.cases), _shares_table(self.shares))

    def as_json(self) -> dict[str, JsonValue]:
        """Return everything measured as plain JSON."""
        return {
            "threads": self.threads,
            "weights": self.weights,
            "plan_claim": PLAN_CLAIM,
            "cases": [_plain(case) for case in self.cases],
            "shares": [{**_plain(one), "network_share": one.network_share} for one in self.shares],
        }


def run_infer_bench(
    folder: Path,
    data: TrainingData,
    *,
    models: Path | None = None,
    num_symbols: int = 102,
    num_members: int = 3,
    presets: Sequence[Literal["desktop", "plan"]] = ("desktop", "plan"),
    names: Sequence[PathName] = PATH_NAMES,
    repeats: int = 9,
    quick: bool = False,
    device: str = "cpu",
    told: Callable[[str], None] = lambda _: None,
) -> InferBench:
    """Measure all paths on the features of `data`, newest session and a year, on the threads this process has set.

    `models` is a folder of `{symbol}_stockformer.pt`, forecast as they are; without it, sets of `num_symbols` adapted
    models with the weights that networks start from are written below `folder` for each of `presets` (speed depends on
    shapes only; rank agreement of a trained set differs a little). `quick` runs the desktop shape with fewer sessions
    and without compiling. ONNX files stay in `folder`. `told` hears what is measured next.

    Raises `BadDataError` when no symbol of `data` has history enough, or the models have other features, and
    `UsageError` when `models` is no folder of models.
    """
    if quick:
        presets, repeats = ("desktop",), min(repeats, 3)
        names = [name for name in names if name != "compiled"]
    sets: list[tuple[str, Path]] = []
    if models is not None:
        sets.append((models.name, models))
    else:
        for name in presets:
            config = dataclasses.replace(preset(name), num_features=len(data.feature_names))
            sets.append((name, _untrained_set(folder / name / "models", data, config, num_symbols, num_members)))
    cases: list[InferCase] = []
    shares: list[PredictShares] = []
    for shape, where in sets:
        paths = model_files(where)
        told(f"{shape}: reading {len(paths)} models")
        known = set(data.symbols)
        artifacts = [artifact for artifact in map(read_artifact, paths) if artifact.symbol in known]
        if not artifacts:
            raise BadDataError("no model matches a symbol of the prices", where=where, found=len(paths))
        for job in ("newest session", "a year"):
            told(f"{shape}: {job}, {', '.join(names)}")
            cases.append(_case(shape, job, folder / shape, data, artifacts, names, repeats, device, quick=quick))
        told(f"{shape}: where the time of a forecast goes")
        shares.append(_shares(shape, folder / shape, data, paths, artifacts, repeats))
    return InferBench(
        cases=tuple(cases),
        shares=tuple(shares),
        threads=torch.get_num_threads(),
        weights="as trained" if models is not None else "as networks start",
    )


def model_files(folder: Path) -> list[Path]:
    """Return the model files in `folder`, by name.

    Raises
    ------
    UsageError
        When there is no such folder, or no model in it.
    """
    fix = "pass the models folder of a workdir, such as work/models"
    if not folder.is_dir():
        raise UsageError("there is no such folder of models", where=folder, fix=fix)
    paths = sorted(folder.glob(f"*{ARTIFACT_SUFFIX}"))
    if not paths:
        raise UsageError(
            "the folder has no models", expected=f"files such as {artifact_name('VCB')}", where=folder, fix=fix
        )
    return paths


def _case(
    shape: str,
    job: Job,
    folder: Path,
    data: TrainingData,
    artifacts: Sequence[Artifact],
    names: Sequence[PathName],
    repeats: int,
    device: str,
    *,
    quick: bool,
) -> InferCase:
    ensembles = ensembles_of(artifacts)
    first, last = ensembles[0], len(data.sessions)
    values_STF, present_ST = _rows(data, artifacts)
    attention = first.members[0].config.attention
    possible = last - first.context_sessions
    year = min(YEAR_SESSIONS, possible)
    if job == "newest session":
        outputs, compared = 1, min(_COMPARED_SESSIONS, possible)
        timed = range(last - 1, last)
    else:
        compared = min(year, _WINDOW_SLICE_SESSIONS if attention == "window" or quick else year)
        outputs = min(OUTPUTS_PER_CALL[attention], compared)
        timed = range(last - compared, last)
        repeats = min(repeats, 3)
    adapted = any(member.deltas is not None for member in first.members)
    measurements = measure_paths(
        ensembles,
        values_STF,
        present_ST,
        range(last - compared, last),
        folder=folder,
        symbols=[one.symbol for one in artifacts] if adapted or len(ensembles) > 1 else (),
        names=names,
        num_outputs=outputs,
        timed=timed,
        repeats=repeats,
        device=device,
    )
    return InferCase(
        shape=shape,
        job=job,
        num_symbols=len(artifacts),
        num_members=len(first.members),
        compared_sessions=compared,
        year_factor=year / compared if job == "a year" else 1.0,
        measurements=measurements,
        chosen=choose_path(measurements).path,
        chosen_once=choose_path(measurements, sets_per_process=1, is_new_set=True).path,
    )


def _shares(
    shape: str, folder: Path, data: TrainingData, paths: Sequence[Path], artifacts: Sequence[Artifact], repeats: int
) -> PredictShares:
    cube = FeatureCube(
        data.sessions,
        data.symbols,
        data.feature_names,
        data.values_STF.view(),
        data.present_ST.view(),
        "the benchmark's features",
    )
    ensembles = ensembles_of(artifacts)
    values_STF, present_ST = _rows(data, artifacts)
    context = ensembles[0].context_sessions
    values_STF, present_ST = values_STF[:, -context - 1 :], present_ST[:, -context - 1 :]
    newest = range(context, context + 1)
    network = open_path("float32", ensembles, folder=folder)
    rows_S = np.arange(len(artifacts))
    return PredictShares(
        shape=shape,
        num_files=len(paths),
        file_bytes=sum(path.stat().st_size for path in paths),
        read_seconds=_shortest(lambda: [read_artifact(path) for path in paths], min(repeats, 3)),
        forecast_seconds=_shortest(
            lambda: forecast_artifacts(artifacts, cube, data.sessions[-1:], "bench", "live"), repeats
        ),
        scale_seconds=_shortest(lambda: [each.scaler.apply(values_STF, present_ST) for each in ensembles[:1]], repeats),
        network_seconds=_shortest(lambda: forecast_with(network, values_STF, present_ST, newest, rows_S), repeats),
    )


def _rows(data: TrainingData, artifacts: Sequence[Artifact]) -> tuple[np.ndarray, np.ndarray]:
    place = {symbol: row for row, symbol in enumerate(data.symbols)}
    rows = [place[artifact.symbol] for artifact in artifacts]
    return data.values_STF[rows], data.present_ST[rows]


def _untrained_set(
    folder: Path, data: TrainingData, config: StockformerConfig, num_symbols: int, num_members: int
) -> Path:
    """Write adapted models of the symbols with the most forecasts and return their folder."""
    eligible_ST = eligible_sessions(data.present_ST, config.context_sessions)
    most = np.argsort(-eligible_ST.sum(1), kind="stable")[:num_symbols]
    symbols = sorted(data.symbols[row] for row in most.tolist() if eligible_ST[row].any())
    if not symbols:
        raise BadDataError("no symbol has history enough for a forecast", expected=f"> {config.context_sessions}")
    scaler = Scaler.fit(data.values_STF[data.present_ST])
    scale_H = np.nanstd(data.returns_HST[-config.num_horizons :], axis=(1, 2)).astype(np.float32)
    weights = [initial_weights(config, seed) for seed in range(num_members)]
    generator = torch.Generator().manual_seed(0)
    for symbol in symbols:
        members = []
        for own in weights:
            deltas = Deltas.zeros(1, config)
            for tensor in deltas.tensors().values():
                tensor.normal_(0.0, _DELTA_SD, generator=generator)
            members.append(Member(config, own, deltas, 0.1))
        artifact = Artifact(
            symbol=symbol,
            ensemble=Ensemble(
                feature_names=data.feature_names,
                scaler=scaler,
                label_scale_H=scale_H,
                calibration=Calibration(0.0, 1.0),
                members=tuple(members),
            ),
            strategy="adapted",
            reference_universe=data.symbols,
            ids={},
            validation={},
        )
        write(folder / artifact_name(symbol), artifact)
    return folder


def _shortest(work: Callable[[], object], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _case_table(case: InferCase, threads: int, weights: str) -> Table:
    rows = tuple(_path_row(one, case) for one in case.measurements)
    span = "the newest session" if case.job == "newest session" else f"{case.compared_sessions} sessions in a row"
    compared = f"{case.compared_sessions} sessions"
    notes = [
        (
            f"{case.num_symbols} symbols, {case.num_members} members, weights {weights}, threads: {threads}; shortest "
            f"time of {span}, all paths in turn."
        ),
        (
            f"Compared with float32 over {compared}: largest difference of scores (in sd units), and the Spearman "
            f"correlation of the scores of a session, the lowest of all sessions."
        ),
        (
            f"Fastest with ranks >= {MIN_RANK_AGREEMENT}: {case.chosen} in a process that stays, {case.chosen_once} in "
            f"one that forecasts once with a new set and pays for making files and opening."
        ),
    ]
    if case.year_factor > 1.0:
        notes.append(f"Of a year {compared} were run; times are {case.year_factor:g} times that.")
    return Table(
        title=f"Inference, {case.shape}: {case.job}",
        columns=(
            "path",
            "time",
            "against float32",
            "the plan",
            "largest difference",
            "lowest rank agreement",
            "size",
            "made once",
            "to open",
            "verdict",
        ),
        rows=rows,
        notes=tuple(notes),
    )


def _path_row(one: PathMeasurement, case: InferCase) -> tuple[Cell, ...]:
    plan = Cell(PLAN_CLAIM, None, "claimed") if one.path == "onnx_int8" else NOTHING
    if one.seconds_per_set is None:
        return (words(one.path), NOTHING, NOTHING, plan, *(NOTHING,) * 5, words(one.words))
    assert one.speedup is not None
    assert one.max_abs_difference is not None
    assert one.seconds_once is not None
    assert one.seconds_to_open is not None
    if one.rank_agreement is None:
        ranks, verdict = NOTHING, "too few symbols to rank"
    else:
        ranks = Cell(_agreement_text(one.rank_agreement), one.rank_agreement, "measured")
        verdict = "ranks agree" if one.rank_agreement >= MIN_RANK_AGREEMENT else "ranks differ"
    chosen = ", chosen" if one.path == case.chosen else ""
    return (
        words(one.path),
        seconds_cell(one.seconds_per_set * case.year_factor, "estimated" if case.year_factor > 1.0 else "measured"),
        number_cell(one.speedup, "measured", ".2f", "x"),
        plan,
        number_cell(one.max_abs_difference, "measured", ".1e"),
        ranks,
        number_cell((one.file_bytes or 0) / 1e6, "measured", ".2f", "MB"),
        seconds_cell(one.seconds_once, "measured") if one.seconds_once else NOTHING,
        seconds_cell(one.seconds_to_open, "measured"),
        words(verdict + chosen),
    )


def _agreement_text(agreement: float) -> str:
    """Return the agreement rounded down, so that nothing but equal ranks reads 1."""
    return "1" if agreement == 1.0 else f"{math.floor(agreement * 1e6) / 1e6:.6f}"


def _shares_table(shares: Sequence[PredictShares]) -> Table:
    rows = []
    for one in shares:
        rest = max(0.0, one.forecast_seconds - one.scale_seconds - one.network_seconds)
        whole = one.read_seconds + one.forecast_seconds
        rows.append(
            (
                words(one.shape),
                Cell(f"{one.num_files} files, {one.file_bytes / 1e6:.0f} MB", one.file_bytes, "measured"),
                *(
                    Cell(f"{seconds_text(part)} = {part / whole:.0%}", part, "measured")
                    for part in (one.read_seconds, one.scale_seconds, one.network_seconds, rest)
                ),
                seconds_cell(whole, "measured"),
            )
        )
    return Table(
        title="Where the time of forecasting the newest session goes",
        columns=("shape", "models", "reading files", "scaling", "networks", "comparing backbones, frame", "together"),
        rows=tuple(rows),
        notes=(
            (
                "From files in the disk cache to a prediction frame, float32; starting Python, the panel and the "
                "features of a real `predict` come on top."
            ),
        ),
    )


def _plain(record: InferCase | PredictShares) -> dict[str, JsonValue]:
    plain: dict[str, JsonValue] = dataclasses.asdict(record)
    if isinstance(record, InferCase):
        plain["measurements"] = [dataclasses.asdict(one) for one in record.measurements]
    return plain
