"""Settings: one file for people, one for machines, both checked key by key before anything runs.

People edit ``vnfleet.toml``, one table per room; every key is a field of that room's own config dataclass, so a default
is written down once. An unknown table or key is an error with a suggestion. Precedence: command line, then environment
(``VNFLEET_<TABLE>__<KEY>``), then file, then the preset's defaults.

``configs/training_config.json`` is the resolved form with the written plan's key names: written at every run, published
with a JSON schema beside it, accepted back by ``--config``, and the only form that travels to another machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from pydantic import JsonValue, TypeAdapter, ValidationError

from vnfleet.core.atomic import write_text
from vnfleet.core.errors import UsageError
from vnfleet.cycle.config import PRESETS, CycleConfig, preset_config

FILE_NAME = "vnfleet.toml"
RESOLVED_NAME = "training_config.json"
SCHEMA_NAME = "training_config.schema.json"
ENV_PREFIX = "VNFLEET_"
RESOLVED_VERSION = 1
_PRESET = "preset"
_VERSION = "schema_version"

Tables = Mapping[str, Mapping[str, object]]
Section = TypeVar("Section")

# the written plan's names, flat on top of training_config.json -> (our table, our key)
PLAN_NAMES: dict[str, tuple[str, str]] = {
    "input_features": ("model", "num_features"),
    "sequence_length": ("model", "window_sessions"),
    "forecast_horizon": ("model", "horizon_sessions"),
    "d_model": ("model", "d_model"),
    "num_heads": ("model", "num_heads"),
    "num_layers": ("model", "num_layers"),
    "d_ff": ("model", "d_ff"),
    "dropout": ("model", "dropout"),
    "batch_size": ("training", "chunk_sessions"),
    "gradient_accumulation": ("training", "accumulation"),
    "epochs": ("training", "max_epochs"),
    "patience": ("training", "patience_epochs"),
    "learning_rate": ("training", "learning_rate"),
    "weight_decay": ("training", "weight_decay"),
    "gradient_clip": ("training", "clip_norm"),
    "ensemble_size": ("training", "num_seeds"),
    "validation_sessions": ("training", "valid_sessions"),
    "models": ("universe", "models"),
}


def load_settings(
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Tables | None = None,
    preset: str | None = None,
    base: CycleConfig | None = None,
) -> CycleConfig:
    """Return the cycle's configuration: `overrides` over `environ` over `file` over the preset's defaults.

    `file` is a TOML file of tables or a resolved ``training_config.json``; a `preset` given here wins over the file's;
    `base` replaces the preset's defaults.

    Raises
    ------
    UsageError
        On a missing or unreadable file, an unknown table, key or preset (with a suggestion), or an impossible value.
    """
    written = _read(file) if file is not None else {}
    chosen = preset or written.pop(_PRESET, None) or "desktop"
    written.pop(_PRESET, None)
    config = base if base is not None else _preset(chosen, str(file or "the command line"))
    config = _merged(config, _as_tables(written, str(file)), str(file))
    config = _merged(config, _from_environ(environ or {}), "the environment")
    return _merged(config, overrides or {}, "the command line")


def find_settings(given: Path | None, workdir: Path) -> Path | None:
    """Return the settings file to read: the one `given`, else ``vnfleet.toml`` in `workdir` or here, else None."""
    if given is not None:
        return given
    return next((path for path in (workdir / FILE_NAME, Path(FILE_NAME)) if path.is_file()), None)


def resolved(config: CycleConfig) -> dict[str, JsonValue]:
    """Return the whole configuration as JSON values: the plan's names flat on top, then a table per room."""
    names = {place: name for name, place in PLAN_NAMES.items()}
    flat: dict[str, JsonValue] = {}
    tables: dict[str, JsonValue] = {}
    for table, section in _sections(config):
        rest: dict[str, JsonValue] = {}
        for key, kind in _keys(type(section)).items():
            value = TypeAdapter(kind).dump_python(getattr(section, key), mode="json")
            if (table, key) in names:
                flat[names[table, key]] = value
            else:
                rest[key] = value
        tables[table] = rest
    return {_VERSION: RESOLVED_VERSION, **{name: flat[name] for name in PLAN_NAMES}, **tables}


def resolved_schema(config: CycleConfig) -> dict[str, JsonValue]:
    """Return the JSON schema of `resolved`; `config` gives the tables and their defaults."""
    places = set(PLAN_NAMES.values())
    properties: dict[str, JsonValue] = {_VERSION: {"const": RESOLVED_VERSION}}
    kinds = {table: _keys(type(section)) for table, section in _sections(config)}
    for name, (table, key) in PLAN_NAMES.items():
        properties[name] = _schema_of(kinds[table][key])
    for table, keys in kinds.items():
        inner: JsonValue = {key: _schema_of(kind) for key, kind in keys.items() if (table, key) not in places}
        properties[table] = {"type": "object", "additionalProperties": False, "properties": inner}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vnfleet training_config.json",
        "type": "object",
        "additionalProperties": False,
        "required": [_VERSION],
        "properties": properties,
    }


def write_resolved(config: CycleConfig, folder: Path) -> Path:
    """Write ``training_config.json`` and its schema into `folder` (the workdir's ``configs``); return the former."""
    write_text(folder / SCHEMA_NAME, _pretty(resolved_schema(config)))
    path = folder / RESOLVED_NAME
    write_text(path, _pretty(resolved(config)))
    return path


def last_settings(folder: Path) -> CycleConfig | None:
    """Return the settings the last run wrote into `folder`, None before the first."""
    path = folder / RESOLVED_NAME
    return load_settings(file=path) if path.is_file() else None


def _pretty(value: JsonValue) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _schema_of(kind: Any) -> JsonValue:  # noqa: ANN401 - a type annotation is a value of any type
    schema: JsonValue = TypeAdapter(kind).json_schema()
    return schema


def _sections(config: CycleConfig) -> Iterator[tuple[str, Any]]:
    """Yield (table name, section dataclass) in the order people read them."""
    for item in dataclasses.fields(config):
        yield item.name, getattr(config, item.name)


def _keys(kind: type) -> Mapping[str, Any]:
    """Return key -> annotation of a section."""
    hints = get_type_hints(kind)
    return types.MappingProxyType({item.name: hints[item.name] for item in dataclasses.fields(kind)})


def _preset(name: object, where: str) -> CycleConfig:
    match name:
        case "desktop" | "plan":
            return preset_config(name)
        case _:
            raise _unknown("preset", str(name), PRESETS, where)


def _read(file: Path) -> dict[str, object]:
    """Return the parsed file; relative paths in it stay relative to where the command runs."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
    except FileNotFoundError as error:
        raise UsageError("there is no such settings file", where=file, fix="check --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("a settings file cannot be read", where=file, found=str(error)) from error
    try:
        parsed = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError("a settings file cannot be understood", where=file, found=str(error)) from error
    if not isinstance(parsed, dict):
        raise UsageError("a settings file must be a table", where=file, found=type(parsed).__name__)
    version = parsed.pop(_VERSION, RESOLVED_VERSION)
    if version != RESOLVED_VERSION:
        raise UsageError(
            "a settings file is of another version",
            where=file,
            expected=RESOLVED_VERSION,
            found=version,
            fix="upgrade vnfleet",
        )
    return parsed


def _as_tables(written: Mapping[str, object], where: str) -> dict[str, dict[str, object]]:
    """Return `written` as tables; the plan's flat names go to their table."""
    tables: dict[str, dict[str, object]] = {}
    for name, value in written.items():
        if name in PLAN_NAMES:
            table, key = PLAN_NAMES[name]
            tables.setdefault(table, {})[key] = value
        elif isinstance(value, Mapping):
            tables.setdefault(name, {}).update(value)
        else:
            known = (*PLAN_NAMES, *(item.name for item in dataclasses.fields(CycleConfig)), _PRESET)
            raise _unknown("setting", name, known, where)
    return tables


def _from_environ(environ: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """Return the tables that ``VNFLEET_<TABLE>__<KEY>`` variables speak of; values are JSON, or plain text."""
    tables: dict[str, dict[str, object]] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or "__" not in variable:
            continue
        table, key = variable.removeprefix(ENV_PREFIX).lower().split("__", maxsplit=1)
        try:
            value: object = json.loads(text)
        except json.JSONDecodeError:
            value = text
        tables.setdefault(table, {})[key] = value
    return tables


def _merged(config: CycleConfig, tables: Tables, where: str) -> CycleConfig:
    sections = dict(_sections(config))
    for table, values in tables.items():
        if table not in sections:
            raise _unknown("table", table, sections, where)
        sections[table] = _section(sections[table], table, values, where)
    try:
        return dataclasses.replace(config, **sections)
    except ValueError as error:
        raise UsageError("settings contradict each other", where=where, found=str(error)) from error


def _section(section: Section, table: str, values: Mapping[str, object], where: str) -> Section:
    keys = _keys(type(section))
    changes: dict[str, object] = {}
    for key, value in values.items():
        if key not in keys:
            raise _unknown(f"key in [{table}]", key, keys, where)
        kind = keys[key]
        many = get_origin(kind) is tuple and isinstance(value, str)
        try:
            changes[key] = TypeAdapter(kind).validate_python(str(value).split(",") if many else value)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(
                f"[{table}] {key} has an impossible value", where=where, expected=first["msg"], found=repr(value)
            ) from error
        if not _is_finite(changes[key]):
            raise UsageError(
                f"[{table}] {key} has an impossible value", where=where, expected="a finite number", found=repr(value)
            )
    try:
        return dataclasses.replace(section, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise UsageError(f"[{table}] cannot mean anything", where=where, found=str(error)) from error


def _is_finite(value: object) -> bool:
    """Return False for NaN and infinity, also inside a tuple: TOML and JSON can spell them, no setting means them."""
    if isinstance(value, tuple):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _unknown(noun: str, name: str, known: Sequence[str] | Mapping[str, object], where: str) -> UsageError:
    near = difflib.get_close_matches(name, list(known), n=1)
    return UsageError(
        f"unknown {noun}: {name}",
        where=where,
        expected=", ".join(sorted(known)),
        fix=f"did you mean {near[0]}?" if near else None,
    )
