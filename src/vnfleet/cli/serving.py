"""Commands that look after what serves: releases, deploy, rollback, predict, export-onnx."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from vnfleet.cli import options as o
from vnfleet.cli.terminal import Terminal, terminal_of, watching
from vnfleet.core.clock import ICT, SystemClock, utc_text
from vnfleet.core.errors import UsageError

MODELS_PROD = "models_prod"
FRESH_DAYS = 7
ReleaseId = Annotated[str | None, typer.Argument(help="Release to make current (default: the newest that verifies).")]
Output = Annotated[
    Path | None, typer.Option("--output", help="Also write the forecasts to this .csv or .parquet file.")
]
OnnxFolder = Annotated[Path, typer.Argument(help="New folder for the ONNX files, or one with an earlier export.")]
ExportedRelease = Annotated[
    str | None, typer.Option("--release", metavar="ID", help="The release to export (default: the current one).")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("releases", epilog="Example:  vnfleet releases")(releases)
    app.command("deploy", epilog="Example:  vnfleet deploy 2024-12-31-003-1a2b3c4d")(deploy)
    app.command("rollback", epilog="Example:  vnfleet rollback")(rollback)
    app.command("predict", epilog="Example:  vnfleet predict --output monday.csv")(predict)
    app.command("export-onnx", epilog="Example:  vnfleet export-onnx onnx")(export_onnx)


def releases(context: typer.Context, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """List the releases on disk, oldest first, and which one is current."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.releases.deploy import current_release  # noqa: PLC0415
    from vnfleet.releases.registry import list_releases  # noqa: PLC0415

    models_prod = workdir / MODELS_PROD
    now = current_release(models_prod)
    current = None if now is None else now.release_id
    found = list_releases(models_prod)
    rows = [
        (
            "->" if one.release_id == current else "",
            one.release_id,
            len(one.symbols),
            ", ".join(sorted(set(one.serving.values()))),
            one.facts.get("recipe_id"),
        )
        for one in found
    ]
    terminal.table("Releases", ("", "release", "models", "serves", "recipe"), rows)
    if not found:
        terminal.say("no release yet: run  vnfleet cycle")
    listed = [
        {
            "release_id": one.release_id,
            "as_of": one.as_of.isoformat(),
            "symbols": len(one.symbols),
            "serves": sorted(set(one.serving.values())),
            "current": one.release_id == current,
        }
        for one in found
    ]
    terminal.document({"ok": True, "exit_code": 0, "current": current, "releases": listed})
    return 0


def deploy(
    context: typer.Context, release_id: ReleaseId = None, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False
) -> int:
    """Make a release current, after checking every file of it. An incomplete set is refused."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.steps.releasing import configured_symbols  # noqa: PLC0415
    from vnfleet.cycle.workdir import locked  # noqa: PLC0415
    from vnfleet.releases.deploy import deploy as make_current  # noqa: PLC0415
    from vnfleet.releases.deploy import newest_verified_release  # noqa: PLC0415
    from vnfleet.releases.registry import open_release  # noqa: PLC0415

    models_prod = workdir / MODELS_PROD
    with locked(workdir, "deploying a release"):
        release = newest_verified_release(models_prod) if release_id is None else open_release(models_prod, release_id)
        if release is None:
            raise UsageError("there is no release to deploy", where=models_prod, fix="vnfleet cycle")
        now = make_current(
            models_prod, release.release_id, clock=SystemClock(), expected_symbols=configured_symbols(release)
        )
    return _moved(terminal, now.release_id, now.previous_release_id, utc_text(now.deployed_at))


def rollback(context: typer.Context, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """Make the release that served before the current one current again."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.workdir import locked  # noqa: PLC0415
    from vnfleet.releases.deploy import rollback as go_back  # noqa: PLC0415

    with locked(workdir, "rolling back a release"):
        now = go_back(workdir / MODELS_PROD, clock=SystemClock())
    return _moved(terminal, now.release_id, now.previous_release_id, utc_text(now.deployed_at))


def predict(
    context: typer.Context,
    as_of: o.AsOf = None,
    output: Output = None,
    inference: o.InferencePath = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Forecast every symbol of the deployed set from the prices collected so far."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    day = o.parsed_date(as_of)
    if output is not None and output.suffix not in {".csv", ".parquet"}:
        raise UsageError("--output is of an unknown kind", expected=".csv or .parquet", found=output)
    if output is not None and output.is_dir():
        raise UsageError("--output is a folder", expected="a .csv or .parquet file", found=output)
    from vnfleet.cycle.weekly import forecast_now  # noqa: PLC0415
    from vnfleet.settings import last_settings  # noqa: PLC0415

    with watching(terminal) as observer:
        forecast = forecast_now(
            workdir,
            config=last_settings(workdir / "configs"),
            as_of=day,
            inference=inference,
            observer=observer,
        )
    if output is not None:
        forecast.write(output)
    terminal.forecasts(forecast.session, forecast.frame)
    age = (datetime.now(UTC).astimezone(ICT).date() - forecast.session).days
    late = f"; these prices are {age} days old" if age > FRESH_DAYS else ""
    terminal.say(f"Served by release {forecast.release_id}{late}")
    if forecast.inference:
        terminal.say(f"Networks computed by {forecast.inference}")
    terminal.document(
        {
            "ok": True,
            "exit_code": 0,
            "release_id": forecast.release_id,
            "session": forecast.session.isoformat(),
            "inference": forecast.inference,
            "predictions": forecast.frame.to_dicts(),
        }
    )
    return 0


def export_onnx(
    context: typer.Context,
    folder: OnnxFolder,
    release_id: ExportedRelease = None,
    workdir: o.Workdir = o.WORKDIR,
    as_json: o.Json = False,
) -> int:
    """Write the networks of a release as ONNX files, with an example that runs them without torch."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle.workdir import locked  # noqa: PLC0415
    from vnfleet.releases.onnx import EXAMPLE_NAME, export_release  # noqa: PLC0415
    from vnfleet.releases.predict import live_release  # noqa: PLC0415

    with locked(workdir, "exporting a release"):
        exported = export_release(live_release(workdir / MODELS_PROD, release_id), folder)
    rows = [(file.name, file.strategy, len(file.symbols)) for file in exported.files]
    terminal.table(f"Release {exported.release_id} as ONNX", ("file", "strategy", "symbols"), rows)
    if exported.left_out:
        served = ", ".join(sorted(set(exported.left_out.values())))
        names = " ".join(exported.left_out)
        terminal.say(f"Left out, since a baseline serves them ({served}): {names}")
    terminal.say(f"To run them without torch:  pip install onnxruntime numpy; python {folder / EXAMPLE_NAME}")
    terminal.document(
        {
            "ok": True,
            "exit_code": 0,
            "release_id": exported.release_id,
            "folder": str(folder),
            "files": [
                {"name": file.name, "strategy": file.strategy, "symbols": list(file.symbols)} for file in exported.files
            ],
            "left_out": dict(exported.left_out),
        }
    )
    return 0


def _moved(terminal: Terminal, release_id: str, previous: str | None, at: str) -> int:
    terminal.say(f"current release: {release_id} (before it: {previous or 'none'}), since {at}")
    terminal.document(
        {"ok": True, "exit_code": 0, "release_id": release_id, "previous_release_id": previous, "deployed_at": at}
    )
    return 0
