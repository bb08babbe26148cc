"""A set as one ONNX file that ONNX Runtime runs without torch: raw features in, forecasts out, the same numbers.

Inputs ``values`` [symbols, sessions, features] float32 (anything where absent), ``present`` [symbols, sessions] bool
and, for sets with deltas, ``symbol`` [symbols] int64, the place of each row in the file's own list of symbols. The
number of symbols is free (but for a set in which each symbol has networks of its own: there it is all of them, in the
file's order); sessions are fixed: the receptive field of the first output up to the last one. Outputs ``score``,
``direction_prob`` [symbols, outputs], ``path`` and ``volatility`` [symbols, outputs, horizons] (fractions).
The file's metadata say what it is, so that a file can be read on its own. Needs the extra ``vnfleet[onnx]``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from vnfleet.core.atomic import write_bytes
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import canonical_json, source_sha256
from vnfleet.model.ensemble import Ensemble, EnsembleForecast
from vnfleet.model.inference.network import SetNetwork, set_sha256

if TYPE_CHECKING:
    import onnx
    import onnxruntime

ONNX_SCHEMA_VERSION: Final = 1
ONNX_NAME: Final = "set.onnx"
INT8_NAME: Final = "set_int8.onnx"
OPSET: Final = 20  # the first with Gelu and one-operator LayerNormalization; ONNX Runtime 1.17 and later read it

_FACTS_KEY: Final = "vnfleet_facts"
_EXPORTER_LOG: Final = "torch.onnx"
_FOLD_LIMIT_BYTES: Final = 1 << 30
_PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFacts:
    """What an exported file says of itself.

    feature_names, horizons : the axes F and H. num_sessions, num_outputs : T and O of one call.
    symbols : whose models the file holds, in order; empty when every symbol has the same.
    stacked : each symbol has networks of its own, and a call forecasts all of them.
    num_members : networks averaged. quantised : weights of the layers are int8.
    set_sha256 : identity of the exported set (of the float32 one in a quantised file too).
    source_sha256 : of the code that says what the numbers mean (`vnfleet.model`).
    ids : as in the model files.
    """

    schema_version: int = ONNX_SCHEMA_VERSION
    feature_names: tuple[str, ...]
    horizons: tuple[int, ...]
    num_sessions: int
    num_outputs: int
    symbols: tuple[str, ...]
    stacked: bool
    num_members: int
    quantised: bool
    set_sha256: str
    source_sha256: str
    ids: dict[str, str]

    def to_json(self) -> str:
        """Return the facts as canonical JSON."""
        return canonical_json({name: getattr(self, name) for name in self.__slots__})

    @staticmethod
    def from_json(text: str) -> OnnxFacts:
        """Inverse of `to_json`; raises `ValueError`, `TypeError` or `KeyError` for anything else."""
        record = json.loads(text)
        for name in ("feature_names", "horizons", "symbols"):
            record[name] = tuple(record[name])
        return OnnxFacts(**record)


def model_source_sha256() -> str:
    """Return the identity of the source of the model room: a file made by another one is made again."""
    return source_sha256("vnfleet.model")


def onnx_problem() -> str | None:
    """Return why ONNX files cannot be made or run here, in words, or None when they can."""
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    return f"{', '.join(missing)} not installed (pip install 'vnfleet[onnx]')" if missing else None


def export_onnx(
    ensembles: Sequence[Ensemble],
    folder: Path,
    *,
    symbols: Sequence[str] = (),
    ids: Mapping[str, str] | None = None,
    num_outputs: int = 1,
    name: str = ONNX_NAME,
) -> Path:
    """Write a set as `folder`/`name` (whole or not at all) and return the path.

    `ensembles` are as `model.ensemble.forecast_ensembles` takes them: one for every symbol, or one for each. `symbols`
    name the deltas or the ensembles in their order; a pooled set has none. The same set gives the same bytes on the
    same library versions, and no path of this machine is in the file.

    Raises `UsageError` without the extra and `BadDataError` when `symbols` do not fit the set.
    """
    _need_onnx()
    network = SetNetwork(ensembles, num_outputs).eval()
    first = ensembles[0]
    own = network.num_stacked or network.num_deltas
    if len(symbols) != own:
        raise BadDataError(
            "the symbols of a set do not fit its models",
            expected=f"{own} symbols",
            found=len(symbols),
            fix="name the symbols in the order of the deltas or models; a pooled set has none",
        )
    facts = OnnxFacts(
        feature_names=first.feature_names,
        horizons=first.members[0].config.horizons,
        num_sessions=network.num_sessions,
        num_outputs=num_outputs,
        symbols=tuple(symbols),
        stacked=network.num_stacked > 0,
        num_members=len(first.members),
        quantised=False,
        set_sha256=set_sha256(ensembles),
        source_sha256=model_source_sha256(),
        ids=dict(ids or {}),
    )
    _write(folder / name, _traced(network, len(first.feature_names)), facts)
    return folder / name


def quantise_onnx(path: Path, name: str = INT8_NAME) -> Path:
    """Write an int8 copy of the exported set at `path` beside it and return its path.

    Weights of the layers' linear maps become int8 per output channel, their inputs are quantised as they come (dynamic
    quantisation); attention, norms and the last maps of the heads stay float32.

    Raises `BadDataError` when `path` is no exported set.
    """
    _need_onnx()
    import onnx  # noqa: PLC0415 - an extra
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    facts = read_facts(path)
    proto = onnx.load(path)
    widths = {item.name: item.dims[-1] for item in proto.graph.initializer if len(item.dims) > 1}
    wide = [
        node.name
        for node in proto.graph.node
        # What is narrower is the last map of a head: nothing to gain, and it decides the ranks.
        if node.op_type in ("MatMul", "Gemm") and widths.get(node.input[1], 0) > len(facts.horizons)
    ]
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        quantised = Path(scratch) / name
        quantize_dynamic(
            proto,
            quantised,
            nodes_to_quantize=wide,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        made = onnx.load(quantised)
    record = {key: getattr(facts, key) for key in facts.__slots__} | {"quantised": True}
    _write(path.with_name(name), made, OnnxFacts(**record))
    return path.with_name(name)


def read_facts(path: Path) -> OnnxFacts:
    """Return what the exported set at `path` says of itself; raises `BadDataError` when it is none of ours."""
    _need_onnx()
    import onnx  # noqa: PLC0415 - an extra

    try:
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise BadDataError("an ONNX file is missing", where=path) from error
    except OSError:
        raise
    except Exception as error:  # whatever the parser says of a foreign file, it is not ours
        raise BadDataError("a file is not an ONNX model", where=path) from error
    return _facts_of(path, {item.key: item.value for item in proto.metadata_props})


class OnnxSet:
    """An exported set, opened: `forecast` is one call of ONNX Runtime on the CPU, without torch's arithmetic.

    Raises `UsageError` without the extra, `BadDataError` when the file is missing, damaged, none of ours or newer.
    """

    def __init__(self, path: Path, *, num_threads: int = 0) -> None:
        _need_onnx()
        import onnxruntime  # noqa: PLC0415 - an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        # Threads that spin between operators take the cores from whoever shares the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not path.is_file():
            raise BadDataError("an ONNX file is missing", where=path)
        try:
            self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime has a class per cause; each means that the file cannot be run
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadDataError("a file is not an ONNX model", where=path, found=first[:200]) from error
        self.facts = _facts_of(path, self._session.get_modelmeta().custom_metadata_map)

    def forecast(self, values_STF: np.ndarray, present_ST: np.ndarray, symbol_S: np.ndarray) -> EnsembleForecast:
        """Return the forecast of the last `facts.num_outputs` sessions; `symbol_S` is read by a set with deltas only.

        Raises `BadDataError` when the arrays have other sessions or features than the file, when a place in `symbol_S`
        is none of its symbols, or, for a set in which each symbol has networks of its own, for other symbols.
        """
        facts = self.facts
        rows = len(facts.symbols) if facts.stacked else len(values_STF)
        expected = (rows, facts.num_sessions, len(facts.feature_names))
        if values_STF.shape != expected or present_ST.shape != expected[:2]:
            found = f"{values_STF.shape} and {present_ST.shape}"
            raise BadDataError("arrays do not fit an exported set", expected=expected, found=found)
        inputs = {"values": np.ascontiguousarray(values_STF), "present": np.ascontiguousarray(present_ST)}
        if facts.symbols and not facts.stacked:
            if len(symbol_S) != rows or (rows and not 0 <= symbol_S.min() <= symbol_S.max() < len(facts.symbols)):
                raise BadDataError(
                    "rows of no symbol of an exported set",
                    expected=f"{rows} places below {len(facts.symbols)}",
                    found=symbol_S.tolist()[:10],
                )
            inputs["symbol"] = np.ascontiguousarray(symbol_S, dtype=np.int64)
        score, path, volatility = self._session.run(["score", "path", "volatility"], inputs)
        return EnsembleForecast(score, path, volatility)


def _traced(network: SetNetwork, num_features: int) -> onnx.ModelProto:
    from onnxscript import optimizer  # noqa: PLC0415 - an extra

    sessions = network.num_sessions
    rows = network.num_stacked or 3  # a free axis of 0 or 1 would be taken for a constant
    inputs: dict[str, torch.Tensor] = {
        "values": torch.zeros(rows, sessions, num_features),
        "present": torch.ones(rows, sessions, dtype=torch.bool),
    }
    if network.num_deltas:
        inputs["symbol"] = torch.zeros(rows, dtype=torch.int64)
    free = {} if network.num_stacked else {0: torch.export.Dim("symbols")}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple(free for _ in inputs),
            input_names=list(inputs),
            output_names=["score", "direction_prob", "path", "volatility"],
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # Parameters lie in the graph with their model axis; folded, each linear map has one constant matrix.
        optimizer.optimize(program.model, input_size_limit=_FOLD_LIMIT_BYTES, output_size_limit=_FOLD_LIMIT_BYTES)
        proto: onnx.ModelProto = program.model_proto
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # stack traces with this machine's paths
        node.ClearField("doc_string")
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    proto.graph.ClearField("metadata_props")
    return proto


def _write(path: Path, proto: onnx.ModelProto, facts: OnnxFacts) -> None:
    proto.ClearField("metadata_props")
    entry = proto.metadata_props.add()
    entry.key, entry.value = _FACTS_KEY, facts.to_json()
    write_bytes(path, proto.SerializeToString(deterministic=True))


def _facts_of(path: Path, metadata: Mapping[str, str]) -> OnnxFacts:
    try:
        text = metadata[_FACTS_KEY]
        version = int(json.loads(text)["schema_version"])
        if version <= ONNX_SCHEMA_VERSION:
            return OnnxFacts.from_json(text)
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataError("an ONNX file is not a set of vnfleet", where=path) from error
    raise BadDataError("a set was written by a newer vnfleet", where=path, found=version, fix="upgrade vnfleet")


def _need_onnx() -> None:
    if problem := onnx_problem():
        raise UsageError("ONNX cannot be used here", found=problem, fix="pip install 'vnfleet[onnx]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own chatter (deprecations inside libraries, packages it would like) from the terminal."""
    logger = logging.getLogger(_EXPORTER_LOG)
    level, root = logger.level, logging.getLogger().level
    logger.setLevel(logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logging.getLogger().setLevel(root)
