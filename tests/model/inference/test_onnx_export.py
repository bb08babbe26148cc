"""An exported set says the same numbers without torch, knows what it is, and nothing else is taken for one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.model.ensemble import forecast_ensembles
from vnfleet.model.inference import OnnxSet, export_onnx, quantise_onnx
from vnfleet.model.inference.onnx_export import ONNX_NAME, read_facts
from vnfleet.model.inference.paths import rank_agreement

onnx = pytest.importorskip("onnx", reason="the extra vnfleet[onnx] is not installed")
pytestmark = pytest.mark.xdist_group("onnx")

if TYPE_CHECKING:
    from tests.model.conftest import Sets

IDS = {"recipe_id": "r1"}


@pytest.mark.parametrize("kind", ["adapted_single", "adapted_window", "separate"])
def test_an_exported_set_says_the_same_numbers(sets: Sets, exported: dict[str, Path], kind: str) -> None:
    ensembles = sets.of(kind)
    opened = OnnxSet(exported[kind], num_threads=1)
    context, outputs = ensembles[0].context_sessions, opened.facts.num_outputs
    values_STF, present_ST = sets.features(context + outputs)
    expected = forecast_ensembles(ensembles, values_STF, present_ST, range(context, context + outputs))
    rows = np.arange(len(sets.symbols))
    whole = opened.forecast(values_STF, present_ST, rows)
    np.testing.assert_allclose(whole.score_SO, expected.score_SO, atol=1e-5)
    np.testing.assert_allclose(whole.path_SOH, expected.path_SOH, atol=1e-5)
    np.testing.assert_allclose(whole.volatility_SOH, expected.volatility_SOH, atol=1e-5)
    if kind == "separate":
        return
    for some in ([3], [4, 1], [2, 2, 0, 1, 3, 4, 0]):  # the number of symbols is free, so is their order
        found = opened.forecast(values_STF[some], present_ST[some], rows[some])
        np.testing.assert_allclose(found.score_SO, expected.score_SO[some], atol=1e-5)


def test_the_file_says_what_it_is(sets: Sets, exported: dict[str, Path]) -> None:
    facts = read_facts(exported["adapted_window"])
    assert (facts.num_sessions, facts.num_outputs, facts.horizons) == (8, 2, (1, 3))
    assert (facts.symbols, facts.feature_names, facts.num_members) == (sets.symbols, ("a", "b", "c", "d"), 1)
    assert (facts.ids, facts.quantised, facts.stacked) == (IDS, False, False)
    assert read_facts(exported["separate"]).stacked
    assert facts == OnnxSet(exported["adapted_window"]).facts
    names = [item.name for item in onnx.load(exported["adapted_window"]).graph.input]
    assert names == ["values", "present", "symbol"]
    assert [item.name for item in onnx.load(exported["separate"]).graph.input] == ["values", "present"]


def test_the_probability_is_in_the_file_too(sets: Sets, exported: dict[str, Path]) -> None:
    import onnxruntime  # noqa: PLC0415 - an extra

    ensembles = sets.of("separate")
    values_STF, present_ST = sets.features(ensembles[0].context_sessions + 1)
    session = onnxruntime.InferenceSession(exported["separate"], providers=["CPUExecutionProvider"])
    score, probability = session.run(["score", "direction_prob"], {"values": values_STF, "present": present_ST})
    expected = [each.calibration.probability(own) for each, own in zip(ensembles, score, strict=True)]
    np.testing.assert_allclose(probability, expected, atol=1e-6)


def test_the_same_set_is_the_same_file_and_holds_no_path(sets: Sets, exported: dict[str, Path], tmp_path: Path) -> None:
    again = export_onnx(sets.of("separate"), tmp_path, symbols=sets.symbols, ids=IDS)
    assert again.name == ONNX_NAME
    content = again.read_bytes()
    assert content == exported["separate"].read_bytes()
    assert b".py" not in content
    assert str(Path(__file__).parents[3]).encode() not in content
    assert [path.name for path in tmp_path.iterdir()] == [ONNX_NAME]


def test_int8_keeps_the_ranks_nearly_and_says_that_it_is_int8(sets: Sets, exported: dict[str, Path]) -> None:
    small = quantise_onnx(exported["adapted_single"], "small.onnx")
    exact, rough = OnnxSet(exported["adapted_single"]), OnnxSet(small)
    assert rough.facts.quantised
    assert rough.facts.set_sha256 == exact.facts.set_sha256
    values_STF, present_ST = sets.features(exact.facts.num_sessions, 200)
    rows = np.arange(200) % len(sets.symbols)
    ours, theirs = (opened.forecast(values_STF, present_ST, rows).score_SO for opened in (exact, rough))
    assert not np.array_equal(ours, theirs)
    assert rank_agreement(ours, theirs, present_ST[:, -1:]) > 0.99
    kept = {item.name for item in onnx.load(small).graph.initializer if item.data_type == onnx.TensorProto.INT8}
    assert kept


def test_what_does_not_fit_is_refused_by_name(sets: Sets, exported: dict[str, Path], tmp_path: Path) -> None:
    values_STF, present_ST = sets.features(9)
    opened = OnnxSet(exported["adapted_single"])
    with pytest.raises(BadDataError, match="do not fit an exported set"):
        opened.forecast(values_STF[:, :-1], present_ST[:, :-1], np.arange(5))
    with pytest.raises(BadDataError, match="do not fit an exported set"):
        OnnxSet(exported["separate"]).forecast(values_STF[:3], present_ST[:3], np.arange(3))
    for places in ([0, 1, 2, 3, 5], [-1, 1, 2, 3, 4], [0, 1]):
        with pytest.raises(BadDataError, match="rows of no symbol"):
            opened.forecast(values_STF, present_ST, np.asarray(places))
    with pytest.raises(BadDataError, match="symbols of a set"):
        export_onnx(sets.of("adapted_single"), tmp_path)
    with pytest.raises(BadDataError, match="symbols of a set"):
        export_onnx(sets.of("pooled_depths"), tmp_path, symbols=sets.symbols)
    assert not list(tmp_path.iterdir())


def test_foreign_files_are_refused_by_name(exported: dict[str, Path], tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(BadDataError, match=words):
            read_facts(path)
        with pytest.raises(BadDataError, match=words):
            OnnxSet(path)

    refused(tmp_path / "absent.onnx", "missing")
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(b"not a model")
    refused(noise, "not an ONNX model")
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(exported["separate"].read_bytes()[:2000])
    refused(torn, "not an ONNX model")
    proto = onnx.load(exported["separate"])
    facts = proto.metadata_props[0]
    facts.value = facts.value.replace('"schema_version":1', '"schema_version":99')
    newer = tmp_path / "newer.onnx"
    onnx.save(proto, newer)
    refused(newer, "newer vnfleet")
    proto.ClearField("metadata_props")
    foreign = tmp_path / "foreign.onnx"
    onnx.save(proto, foreign)
    refused(foreign, "not a set of vnfleet")


def test_without_the_extra_the_error_says_how_to_get_it(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "vnfleet.model.inference.onnx_export.find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    with pytest.raises(UsageError, match=r"onnxscript not installed.*vnfleet\[onnx\]"):
        export_onnx(sets.of("pooled_depths"), tmp_path)
