"""Monday's forecasts: what is live, applied to one session of the panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import polars as pl

from vnfleet.core.atomic import write_file
from vnfleet.core.errors import BadDataError, UsageError, VnfleetError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.data.panel import Panel
from vnfleet.features.cube import FeatureCube
from vnfleet.model.artifact import Artifact, read_artifact
from vnfleet.model.baselines import load_baseline
from vnfleet.model.ensemble import SetForecaster, forecast_ensembles
from vnfleet.model.sets import forecast_artifacts
from vnfleet.releases.deploy import current_release, open_current
from vnfleet.releases.registry import STRATEGIES, Release, open_release

LIVE_FOLD: Final = "live"
MIN_COVERAGE_FRAC: Final = 0.9
_SHOWN_NAMES = 20


def predict(
    models_prod: Path,
    panel: Panel,
    cube: FeatureCube,
    session: date,
    *,
    min_coverage_frac: float = MIN_COVERAGE_FRAC,
    release_id: str | None = None,
    forecast: SetForecaster = forecast_ensembles,
) -> pl.DataFrame:
    """Return the forecasts of the live release (or of `release_id`) decided at the close of `session`.

    Every symbol is served by what `serving.json` names; `model_id` is the release, `fold_id` "live". A symbol that did
    not trade on `session`, or has too little history, has no row. Files are verified before they are read.
    `forecast` computes the networks, see `vnfleet.model.inference`.

    Raises
    ------
    UsageError
        When nothing is live or `release_id` is unknown.
    BadDataError
        When `session` is not in the panel, when fewer than `min_coverage_frac` of the reference universe have features
        on it (cross-sectional features then mean something else than in training), when the release is damaged, or
        when its models do not fit the cube or the symbols they are named after.
    """
    column = _column(panel, cube, session)
    release = live_release(models_prod, release_id)
    groups = _servers(release)
    models = serving_models(release)
    _refuse_thin_coverage(release, models, cube, column, min_coverage_frac)
    frames = [
        forecast_artifacts(models[name], cube, [session], release.release_id, LIVE_FOLD, forecast=forecast)
        if name in models
        else _baseline_rows(release, name, symbols, cube, column)
        for name, symbols in groups.items()
    ]
    return as_prediction_frame(pl.concat(frames))


def serving_models(release: Release) -> dict[str, list[Artifact]]:
    """Return strategy -> the models of the symbols it serves, sorted by symbol; baselines are left out.

    Raises `BadDataError` when a model file is not of its symbol or of the strategy that serves it.
    """
    groups = _servers(release)
    return {name: _artifacts(release, symbols, name) for name, symbols in groups.items() if name in STRATEGIES}


def artifact_problems(artifacts: Mapping[str, Path]) -> tuple[str, ...]:
    """Return one line per model file (symbol -> path) that cannot be read or belongs to another symbol."""
    problems = []
    for symbol, path in sorted(artifacts.items()):
        try:
            _read_own(symbol, path)
        except VnfleetError as error:
            problems.append(f"{symbol}: {error.what}")
    return tuple(problems)


def write_predictions(path: Path, frame: pl.DataFrame) -> tuple[Path, Path]:
    """Write a prediction frame to `path` with the suffixes .csv and .parquet, each whole or not at all; return both."""
    checked = as_prediction_frame(frame)
    csv, parquet = (path.with_name(f"{path.name}.{suffix}") for suffix in ("csv", "parquet"))
    write_file(parquet, checked.write_parquet)
    write_file(csv, checked.write_csv)
    return csv, parquet


def _column(panel: Panel, cube: FeatureCube, session: date) -> int:
    if session not in panel.sessions:
        known = f"{panel.sessions[0]}..{panel.sessions[-1]}" if panel.sessions else "no sessions"
        raise BadDataError("no market session on that day in the panel", found=session, expected=known)
    if session not in cube.sessions:
        raise BadDataError(
            "the features do not reach that session",
            found=session,
            expected=f"{cube.sessions[0]}..{cube.sessions[-1]}",
            fix="build the features again from this panel",
        )
    return cube.sessions.index(session)


def _servers(release: Release) -> dict[str, list[str]]:
    """Return what serves -> its symbols, sorted."""
    groups: dict[str, list[str]] = {}
    for symbol, server in sorted(release.serving.items()):
        groups.setdefault(server, []).append(symbol)
    return groups


def live_release(models_prod: Path, release_id: str | None = None) -> Release:
    """Return the release that serves, or `release_id`, with every file verified.

    Raises `UsageError` when nothing is live or there is no such release, `BadDataError` when it is damaged.
    """
    if release_id is not None:
        return open_release(models_prod, release_id)
    now = current_release(models_prod)
    if now is None:
        raise UsageError("no release is live", where=models_prod, fix="deploy one first: `vnfleet deploy`")
    return open_current(models_prod, now)


def _artifacts(release: Release, symbols: Sequence[str], strategy: str) -> list[Artifact]:
    artifacts = [_read_own(symbol, release.artifact_path(symbol, strategy)) for symbol in symbols]
    for artifact in artifacts:
        if artifact.strategy != strategy:
            raise BadDataError(
                "a release serves another strategy than it holds",
                where=f"{release.release_id}, {artifact.symbol}",
                expected=strategy,
                found=artifact.strategy,
            )
    return artifacts


def _read_own(symbol: str, path: Path) -> Artifact:
    artifact = read_artifact(path)
    if artifact.symbol != symbol:
        raise BadDataError("a model file belongs to another symbol", where=path, expected=symbol, found=artifact.symbol)
    return artifact


def _refuse_thin_coverage(
    release: Release, models: Mapping[str, list[Artifact]], cube: FeatureCube, column: int, min_coverage_frac: float
) -> None:
    read = [artifact for group in models.values() for artifact in group]
    # where baselines alone serve, the models in shadow still say which universe the features were ranked over
    known = read or [_read_own(release.symbols[0], release.artifact_path(release.symbols[0]))]
    reference = {symbol for artifact in known for symbol in artifact.reference_universe}
    present = {symbol for symbol, here in zip(cube.symbols, cube.present_ST[:, column], strict=True) if here}
    missing = sorted(reference - present)
    if len(reference) - len(missing) < min_coverage_frac * len(reference):
        names = ", ".join(missing[:_SHOWN_NAMES]) + (", ..." if len(missing) > _SHOWN_NAMES else "")
        raise BadDataError(
            "too few stocks have data on that session to forecast any of them",
            expected=f"at least {min_coverage_frac:.0%} of {len(reference)}",
            found=f"{len(reference) - len(missing)} of {len(reference)}; missing: {names}",
            where=cube.sessions[column],
            fix="collect the missing prices, then predict again",
        )


def _baseline_rows(release: Release, name: str, symbols: Sequence[str], cube: FeatureCube, column: int) -> pl.DataFrame:
    baseline = load_baseline(release.member_folder(name))
    if baseline.name != name:
        raise BadDataError(
            "a release holds another baseline than it serves",
            where=release.release_id,
            expected=name,
            found=baseline.name,
        )
    rows = baseline.predict(
        cube.values_STF,
        cube.present_ST,
        cube.symbols,
        cube.sessions,
        range(column, column + 1),
        model_id=release.release_id,
        fold_id=LIVE_FOLD,
        feature_names=cube.names,
    )
    return rows.filter(pl.col("symbol").is_in(list(symbols)))
