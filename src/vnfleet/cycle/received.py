"""Is a set of models that came from elsewhere fit to be used? Asked before anything here reads it.

Its hashes hold already (`core.sealed`). What is asked here: every file is a model of ours with the right shapes and
types, of the symbol it is named after; no number in it is infinite or missing; no network answers the same whatever it
is shown; what it says of its own validation can be true; and, where prices were collected here, its walk-forward
forecasts rank what really followed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import TypeAdapter, ValidationError

from vnfleet.core.clock import Clock, SystemClock
from vnfleet.core.errors import BadDataError, VnfleetError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import Record, WeekContext
from vnfleet.cycle.runner import SilentObserver, latest_cycle, read_steps
from vnfleet.cycle.steps.champion import WALK_FORWARD, WALK_FORWARD_NAME
from vnfleet.cycle.workdir import Folders
from vnfleet.evaluation.metrics import MIN_SYMBOLS, daily_rank_ic
from vnfleet.model.artifact import Artifact, artifact_name, read_artifact
from vnfleet.model.baselines import load_baseline
from vnfleet.model.ensemble import forecast_ensembles
from vnfleet.model.sets import passes_of
from vnfleet.releases.registry import MEMBERS, SERVING_NAME, STRATEGIES

MIN_SESSIONS = 60
_PROBED_SESSIONS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ODD = (KeyError, TypeError, ValueError, AttributeError)  # what readers meet in a file that somebody made by hand
_SERVING = TypeAdapter(dict[str, str])
_SHOWN = 5


def judge_received(folder: Path, outcomes: pl.DataFrame | None = None) -> tuple[int, str]:
    """Return (number of models, what was found in words) of the release in `folder`, whose hashes hold.

    `outcomes` are what happened, as this machine knows it (`known_outcomes`); None: its forecasts are not scored again.
    Raises `BadDataError` that lists what is wrong.
    """
    serving = _serving(folder)
    artifacts, problems = _read_all(folder, sorted(serving))
    problems += [line for artifact in artifacts for line in _own_problems(artifact)]
    if not problems:
        problems += _dead(artifacts)
    problems += _member_problems(folder, serving)
    words = f"{len(artifacts)} models are whole, finite and answer to what they are shown"
    if not problems and outcomes is not None:
        scored, problem = _scored_again(folder, outcomes, len(serving))
        problems += [problem] if problem else []
        words += f"; {scored}" if scored else ""
    if problems:
        raise BadDataError(
            "a set of models from the remote is refused, nothing of it is used",
            where=folder,
            found="; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" * (len(problems) > _SHOWN)),
            fix="make the release again where it was made, or fetch another one with --release",
        )
    return len(artifacts), words


def known_outcomes(workdir: Path, config: CycleConfig, clock: Clock | None = None) -> pl.DataFrame | None:
    """Return what happened to every symbol by the prices collected in `workdir`; None when there are none."""
    folders = Folders(workdir)
    cycle = latest_cycle(folders.cycles)
    collected = [] if cycle is None else [step for step in read_steps(cycle) if step.name == "collect"]
    if not collected or not folders.raw.is_dir():
        return None
    try:
        week = WeekContext(
            config=config,
            folders=folders,
            as_of=date.fromisoformat(collected[0].text("newest_session")),
            clock=clock or SystemClock(),
            observer=SilentObserver(),
            record=Record.of_step(collected[0]),
        )
        return week.outcomes()
    except VnfleetError:  # records of a week without its prices, such as those another machine sent
        return None


def _serving(folder: Path) -> dict[str, str]:
    path = folder / SERVING_NAME
    try:
        serving = _SERVING.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadDataError("a release does not say what serves", where=path) from error
    odd = [name for name in (*serving, *serving.values()) if not _NAME.fullmatch(name)]
    if odd or not serving:
        raise BadDataError("a release names what cannot be a symbol or a model", where=path, found=odd[:3])
    return serving


def _read_all(folder: Path, symbols: Sequence[str]) -> tuple[list[Artifact], list[str]]:
    artifacts: list[Artifact] = []
    problems: list[str] = []
    for symbol in symbols:
        try:
            artifact = read_artifact(folder / artifact_name(symbol))
        except BadDataError as error:
            problems.append(f"{symbol}: {error.what}")
            continue
        except _ODD:
            problems.append(f"{symbol}: the file does not say what a model must say of itself")
            continue
        if artifact.symbol != symbol:
            problems.append(f"{symbol}: the file is a model of {artifact.symbol}")
        else:
            artifacts.append(artifact)
    return artifacts, problems


def _own_problems(artifact: Artifact) -> list[str]:
    """Return what cannot be true of a model by itself."""
    problems = []
    for name, value in artifact.validation.items():
        if not math.isfinite(value):
            problems.append(f"{artifact.symbol}: its {name} is not a number")
        elif name.endswith("accuracy") and not 0 <= value <= 1:
            problems.append(f"{artifact.symbol}: its {name} is {value:.3f}, which no share can be")
        elif name.endswith("rank_ic") and not -1 <= value <= 1:
            problems.append(f"{artifact.symbol}: its {name} is {value:.3f}, which no correlation can be")
    ensemble = artifact.ensemble
    if any(not (math.isfinite(member.score_sd) and member.score_sd > 0) for member in ensemble.members):
        problems.append(f"{artifact.symbol}: its scores have no spread")
    if not bool((ensemble.scaler.sd_F > 0).all()) or not bool((ensemble.label_scale_H > 0).all()):
        problems.append(f"{artifact.symbol}: it scales by zero")
    if not (math.isfinite(ensemble.calibration.intercept) and math.isfinite(ensemble.calibration.slope)):
        problems.append(f"{artifact.symbol}: its calibration is not a number")
    return problems


def _dead(artifacts: Sequence[Artifact]) -> list[str]:
    """Return the models that answer the same, or nothing, to random features of the kind they were trained on."""
    problems: list[str] = []
    for group, ensembles in passes_of(artifacts):
        first = ensembles[0]
        context = first.context_sessions
        shape = (len(group), context + _PROBED_SESSIONS, len(first.feature_names))
        random_STF = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        mean_SF, sd_SF = (
            np.stack([getattr(artifact.ensemble.scaler, name) for artifact in group]) for name in ("mean_F", "sd_F")
        )
        shown_STF = mean_SF[:, None, :] + sd_SF[:, None, :] * random_STF
        answer = forecast_ensembles(
            ensembles, shown_STF, np.ones(shape[:2], dtype=bool), range(context, context + _PROBED_SESSIONS)
        )
        for row, artifact in enumerate(group):
            answers = (answer.score_SO[row], answer.path_SOH[row], answer.volatility_SOH[row])
            if not all(bool(np.isfinite(each).all()) for each in answers):
                problems.append(f"{artifact.symbol}: its forecasts are not finite")
            elif float(np.ptp(answer.score_SO[row])) == 0:
                problems.append(f"{artifact.symbol}: its forecast is the same whatever it is shown")
    return problems


def _member_problems(folder: Path, serving: dict[str, str]) -> list[str]:
    """Return what is wrong with the models beside the set that serve some symbols."""
    problems: list[str] = []
    for name in sorted(set(serving.values()) - set(STRATEGIES)):
        try:
            load_baseline(folder / MEMBERS / name)
        except (VnfleetError, OSError, *_ODD) as error:
            problems.append(f"the baseline {name}: {str(error).splitlines()[0]}")
    for path in sorted((folder / MEMBERS).glob(f"*/*{artifact_name('')}")):
        try:
            found = read_artifact(path)
        except (BadDataError, *_ODD) as error:
            problems.append(f"{path.parent.name}/{path.name}: {str(error).splitlines()[0]}")
            continue
        if artifact_name(found.symbol) != path.name:
            problems.append(f"{path.parent.name}/{path.name}: the file is a model of {found.symbol}")
        problems += _own_problems(found)
    return problems


def _scored_again(folder: Path, outcomes: pl.DataFrame, num_symbols: int) -> tuple[str, str]:
    """Return (the rank correlation found, or nothing; the problem, or nothing) of its walk-forward forecasts."""
    path = folder / MEMBERS / WALK_FORWARD / WALK_FORWARD_NAME
    if not path.is_file():
        return "", ""
    try:
        frame = as_prediction_frame(pl.read_parquet(path))
    except (OSError, VnfleetError, pl.exceptions.PolarsError) as error:
        return "", f"its walk-forward forecasts cannot be read: {str(error).splitlines()[0]}"
    daily = daily_rank_ic(frame, outcomes, min_symbols=min(MIN_SYMBOLS, max(2, num_symbols // 2)))
    found = daily.get_column("rank_ic").drop_nulls().to_numpy()
    if found.size < MIN_SESSIONS:
        return "", ""
    mean = float(found.mean())
    if mean <= 0:
        return "", f"its forecasts of the past rank what followed the wrong way round here ({mean:+.3f})"
    return f"scored again on the prices here: mean rank correlation {mean:+.3f} over {found.size} sessions", ""
