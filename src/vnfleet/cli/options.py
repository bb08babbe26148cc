"""The options that commands share, each written once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vnfleet.cli.terminal import DEFAULT_WORKDIR
from vnfleet.core.errors import UsageError

if TYPE_CHECKING:
    from vnfleet.cycle.config import CycleConfig

_YEARS = re.compile(r"(\d{4})-(\d{4})")

Workdir = Annotated[
    Path, typer.Option("--workdir", envvar="VNFLEET_WORKDIR", help="Folder that holds everything vnfleet keeps.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; logs go to stderr.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="vnfleet.toml or a resolved training_config.json (default: vnfleet.toml, if there)."),
]
AsOf = Annotated[
    str | None, typer.Option("--as-of", metavar="DATE", help="Last day of data, yyyy-mm-dd (default: the last close).")
]
SourceKind = Annotated[
    Literal["files", "simulated", "cafef_bulk", "cafef_pages", "vndirect"] | None,
    typer.Option("--source", help="Where prices come from."),
]
SourcePath = Annotated[
    Path | None, typer.Option("--path", help="Price file or folder for --source files (CafeF, AmiBroker or plain).")
]
Listings = Annotated[Path | None, typer.Option("--listings", help="CSV with symbol, exchange, sector.")]
Folds = Annotated[
    str | None,
    typer.Option("--folds", metavar="YEARS", help="Years to judge: 2020-2024 or 2020,2022 (default: newest 5)."),
]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Members of the ensemble.")]
Symbols = Annotated[
    str | None,
    typer.Option("--symbols", metavar="A B C", help="Write artifacts for these only; the deployed set stays as it is."),
]
Models = Annotated[int | None, typer.Option("--models", min=1, help="How many symbols get a model.")]
Mode = Annotated[
    Literal["local", "hybrid"] | None, typer.Option("--mode", help="Train here, or through --remote and workers.")
]
Remote = Annotated[
    str | None, typer.Option("--remote", help="rclone remote or folder both sides see, e.g. gdrive:VN-Quant-Training.")
]
SharedFolder = Annotated[
    str | None,
    typer.Option("--remote", help="rclone remote or folder both sides see (default: [remote] remote in vnfleet.toml)."),
]
Strategy = Annotated[
    Literal["adapted", "pooled", "separate"] | None,
    typer.Option("--strategy", help="One backbone with deltas per symbol, the backbone alone, or a model per symbol."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of the training cycle at most.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Sessions of a batch (separate with windows: windows).")
]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="Where networks are trained.")]
Engine = Annotated[
    Literal["local", "ray"] | None, typer.Option("--engine", help="Processes here, or tasks on a Ray cluster.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="The Ray cluster, e.g. auto (default: one is started here).")
]
BudgetMinutes = Annotated[
    float | None, typer.Option("--budget-minutes", min=0.0, help="Fit the work to so many minutes before it starts.")
]
Deadline = Annotated[
    str | None,
    typer.Option("--deadline", metavar="TIME", help="The same as a moment, e.g. 2026-11-23T08:45 or 08:45 (ICT)."),
]
InferencePath = Annotated[
    Literal["auto", "float32", "bf16", "compiled", "onnx", "onnx_int8"] | None,
    typer.Option("--inference", help="How the networks are computed (default: [machine] inference)."),
]
Preset = Annotated[Literal["desktop", "plan"] | None, typer.Option("--preset", help="Model and training defaults.")]

WORKDIR = DEFAULT_WORKDIR


def settings_of(
    workdir: Path,
    file: Path | None = None,
    given: Mapping[str, Mapping[str, object | None]] | None = None,
    preset: str | None = None,
    base: CycleConfig | None = None,
) -> CycleConfig:
    """Return the settings that hold in `workdir`; what is `given` and not None wins, `base` are the defaults."""
    from vnfleet.settings import find_settings, load_settings  # noqa: PLC0415 - torch loads only when needed

    overrides = {
        table: {key: value for key, value in keys.items() if value is not None} for table, keys in (given or {}).items()
    }
    found = find_settings(file, workdir)
    return load_settings(file=found, environ=os.environ, overrides=overrides, preset=preset, base=base)


def named_remote(given: str | None, config: CycleConfig) -> str:
    """Return the remote that is `given`, else that of the settings; raises `UsageError` when none is named anywhere."""
    text = (config.remote.remote if given is None else given).strip()
    if not text:
        raise UsageError(
            "no remote is named",
            expected='--remote gdrive:VN-Quant-Training, or remote = "..." under [remote] in vnfleet.toml (or the '
            "variable VNFLEET_REMOTE__REMOTE)",
            fix="vnfleet remote setup shows how to connect one",
        )
    return text


def parsed_date(text: str | None) -> date | None:
    """Return the day; raises `UsageError` when it is none."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError("--as-of is no day", expected="yyyy-mm-dd", found=text) from error


def parsed_years(text: str | None) -> list[int] | None:
    """Return the years of ``2020-2024`` or ``2020,2022``; raises `UsageError` when there are none."""
    if text is None:
        return None
    if span := _YEARS.fullmatch(text.strip()):
        years = list(range(int(span[1]), int(span[2]) + 1))
    else:
        words = [word for word in re.split(r"[,\s]+", text.strip()) if word]
        years = [int(word) for word in words if re.fullmatch(r"\d{4}", word)]
        years = years if len(years) == len(words) else []
    if not years:
        raise UsageError("--folds are no years", expected="2020-2024 or 2020,2022", found=text)
    return years


def parsed_symbols(text: str | None) -> tuple[str, ...]:
    """Return the symbols of ``A B C`` or ``A,B,C`` in capitals, without repeats; empty when not given.

    Raises `UsageError` when the option is given and names none: an empty variable of a script must not mean all.
    """
    if text is None:
        return ()
    symbols = tuple(dict.fromkeys(word.upper() for word in re.split(r"[,\s]+", text) if word))
    if not symbols:
        raise UsageError("--symbols names no symbol", expected="--symbols FPT VCB HPG", found=repr(text))
    return symbols


def join_symbols(words: list[str]) -> list[str]:
    """Return the command line with ``--symbols A B C`` as one value, the way the written plan spells it."""
    if "--symbols" not in words:
        return words
    start = words.index("--symbols") + 1
    stop = start
    while stop < len(words) and not words[stop].startswith("-"):
        stop += 1
    return [*words[:start], ",".join(words[start:stop]), *words[stop:]] if stop > start else words
