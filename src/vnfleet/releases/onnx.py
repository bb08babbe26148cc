"""A release as ONNX files: what serves, for people who forecast without torch or this package.

```
manifest.json    SHA-256 of every file, written last
sets.json        file -> strategy and symbols, what was left out, features, horizons
<strategy>.onnx  one per group of models that one pass forecasts
example.py       runs every file with numpy and ONNX Runtime alone
README.txt
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from vnfleet.core import sealed
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.model.artifact import Artifact
from vnfleet.model.ensemble import Ensemble
from vnfleet.model.inference import export_onnx, path_problem
from vnfleet.model.sets import passes_of
from vnfleet.releases.predict import serving_models
from vnfleet.releases.registry import Release

KIND: Final = "onnx_release"
SETS_NAME: Final = "sets.json"
EXAMPLE_NAME: Final = "example.py"
_README_NAME: Final = "README.txt"
_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """One exported file: the symbols it serves, in the order of its rows."""

    name: str
    strategy: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRelease:
    """An exported release. left_out : symbol -> the baseline that serves it."""

    release_id: str
    folder: Path
    files: tuple[OnnxFile, ...]
    left_out: Mapping[str, str]


def export_release(release: Release, folder: Path) -> OnnxRelease:
    """Write what serves in `release` as ONNX files into `folder`, whole or not at all, and return what was written.

    An export that is there is replaced. Symbols that a baseline serves are left out and named.

    Raises
    ------
    UsageError
        Without the extra ``vnfleet[onnx]``, when baselines alone serve, or when `folder` holds anything else.
    BadDataError
        When the release or the export in `folder` is damaged.
    ResourceError
        When the disk is full; `folder` is as it was.
    """
    if problem := path_problem("onnx"):
        raise UsageError("ONNX files cannot be made here", found=problem, fix="pip install 'vnfleet[onnx]'")
    target = folder.resolve()
    _refuse_occupied(target)
    models = serving_models(release)
    if not models:
        raise UsageError(
            "there is no network to export: baselines alone serve",
            found=", ".join(sorted(set(release.serving.values()))),
            where=release.release_id,
            fix="name another release with --release: see vnfleet releases",
        )
    left_out = {symbol: server for symbol, server in sorted(release.serving.items()) if server not in models}
    meta: dict[str, JsonValue] = {"release_id": release.release_id, "as_of": release.as_of.isoformat()}
    with sealed.sealing(target, KIND, meta) as scratch:
        files = []
        for strategy, artifacts in sorted(models.items()):
            passes = passes_of(artifacts)
            for place, (group, ensembles) in enumerate(passes, 1):
                name = f"{strategy}.onnx" if len(passes) == 1 else f"{strategy}_{place}.onnx"
                symbols = tuple(artifact.symbol for artifact in group)
                ids = {**_common_ids(group), "release_id": release.release_id, "strategy": strategy}
                ids["serves"] = ",".join(symbols)
                own = symbols if _are_own(ensembles) else ()
                export_onnx(ensembles, scratch, symbols=own, ids=ids, name=name)
                files.append(OnnxFile(name=name, strategy=strategy, symbols=symbols))
        exported = OnnxRelease(release_id=release.release_id, folder=folder, files=tuple(files), left_out=left_out)
        known = [artifact for artifacts in models.values() for artifact in artifacts]
        _write_text(scratch / SETS_NAME, json.dumps(_index(exported, release, known), indent=1) + "\n")
        _write_text(scratch / EXAMPLE_NAME, _EXAMPLE)
        _write_text(scratch / _README_NAME, _readme(exported))
    return exported


def _refuse_occupied(folder: Path) -> None:
    """Leave alone what is none of ours: sealing replaces the folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError("a file lies where the ONNX files shall go", where=folder, expected="a new folder")
    inside = {path.name for path in folder.iterdir()}
    ours: set[str] = set()
    try:
        manifest = sealed.read_manifest(folder, KIND)
    except BadDataError as error:
        raise UsageError("the folder holds something else", where=folder, expected="a new folder") from error
    if manifest is not None:
        ours = {sealed.MANIFEST_NAME, *manifest.files}
    if others := sorted(inside - ours):
        raise UsageError("the folder holds other files", where=folder, found=others[:3], expected="a new folder")


def _common_ids(group: Sequence[Artifact]) -> dict[str, str]:
    """Return the ids that are the same for all models of a group."""
    first = group[0].ids
    return {name: value for name, value in first.items() if all(one.ids.get(name) == value for one in group)}


def _are_own(ensembles: Sequence[Ensemble]) -> bool:
    """Return whether each row of the file belongs to one symbol; else every row runs through the same networks."""
    return len(ensembles) > 1 or any(member.deltas is not None for member in ensembles[0].members)


def _index(exported: OnnxRelease, release: Release, models: Sequence[Artifact]) -> dict[str, JsonValue]:
    first = models[0].ensemble
    universe = sorted({symbol for artifact in models for symbol in artifact.reference_universe})
    return {
        "schema_version": _SCHEMA_VERSION,
        "release_id": release.release_id,
        "as_of": release.as_of.isoformat(),
        "files": [
            {"name": file.name, "strategy": file.strategy, "symbols": list(file.symbols)} for file in exported.files
        ],
        "left_out": dict(exported.left_out),
        "feature_names": list(first.feature_names),
        "horizons": list(first.members[0].config.horizons),
        "reference_universe": list(universe),
    }


def _readme(exported: OnnxRelease) -> str:
    lines = [f"{file.name}: {len(file.symbols)} symbols, {file.strategy}" for file in exported.files]
    if exported.left_out:
        names = ", ".join(sorted(set(exported.left_out.values())))
        lines.append(f"left out: {len(exported.left_out)} symbols that a baseline serves ({names}), see {SETS_NAME}")
    return _README.format(release_id=exported.release_id, files="\n".join(lines), sets=SETS_NAME, example=EXAMPLE_NAME)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


_README: Final = """The networks of vnfleet release {release_id} as ONNX files.

{files}

To run them without torch and without vnfleet:  pip install onnxruntime numpy  and  python {example}

Inputs, rows in the order of the file's symbols in {sets}:
  values   float32 [symbols, sessions, features]  raw features, oldest session first (anything where absent)
  present  bool    [symbols, sessions]            whether the symbol traded
  symbol   int64   [symbols]                      only in files that have this input: the row's place in the file's list
Outputs for the newest session (horizons and features by name: {sets}, and the metadata "vnfleet_facts" of each file):
  score, direction_prob   [symbols, 1]
  path, volatility        [symbols, 1, horizons]  fractions of the price
The features are ranked over the reference universe in {sets}; `vnfleet features` computes them.
"""

_EXAMPLE: Final = '''"""Forecast with the ONNX files beside this one: numpy and ONNX Runtime, nothing else."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent


def features(symbols, num_sessions, names):
    """Put the newest sessions of your features here: raw values, and where a symbol traded."""
    shape = (len(symbols), num_sessions)
    return np.zeros((*shape, len(names)), np.float32), np.ones(shape, bool)


def forecast(file, symbols):
    """Return score, probability of a rise, return path and volatility, a row for each of `symbols`."""
    session = onnxruntime.InferenceSession(str(HERE / file), providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["vnfleet_facts"])
    values, present = features(symbols, facts["num_sessions"], facts["feature_names"])
    inputs = {"values": values, "present": present}
    if "symbol" in [one.name for one in session.get_inputs()]:
        inputs["symbol"] = np.asarray([facts["symbols"].index(symbol) for symbol in symbols], np.int64)
    return session.run(["score", "direction_prob", "path", "volatility"], inputs)


if __name__ == "__main__":
    for one in json.loads((HERE / "sets.json").read_text(encoding="utf-8"))["files"]:
        score, probability, path, volatility = forecast(one["name"], one["symbols"])
        for row, symbol in enumerate(one["symbols"]):
            print(f"{symbol}  score {score[row, -1]:+.3f}  P(up) {probability[row, -1]:.1%}  "
                  f"return {path[row, -1, -1]:+.2%}  volatility {volatility[row, -1, -1]:.2%}")
'''
