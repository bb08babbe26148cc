"""Identities that survive containers and order, locks that name their holder, frames that refuse nonsense."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.core.clock import cycle_id_of, utc_text
from vnfleet.core.errors import BadDataError, BusyError, ExitCode, UsageError
from vnfleet.core.frames import as_outcome_frame, as_prediction_frame, empty_prediction_frame
from vnfleet.core.ids import arrays_sha256, canonical_json, frame_sha256, short_id, source_sha256
from vnfleet.core.lock import holding


def test_canonical_json_ignores_key_order_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": [2.5, None]}) == '{"a":[2.5,null],"b":1}'
    assert short_id({"b": 1, "a": 2}) == short_id({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_array_hashes_know_values_types_shapes_and_names(values: list[int]) -> None:
    array = np.asarray(values, dtype=np.int32)
    same = arrays_sha256({"x": array, "y": array})
    assert same == arrays_sha256({"y": array.copy(), "x": array.astype(">i4")})
    assert same != arrays_sha256({"x": array, "z": array})
    assert same != arrays_sha256({"x": array.astype(np.int64), "y": array})
    assert same != arrays_sha256({"x": array.reshape(1, -1), "y": array})
    assert same != arrays_sha256({"x": array + 1, "y": array})


def test_frame_hashes_tell_null_from_zero_and_ignore_chunks() -> None:
    frame = pl.DataFrame({"s": ["a", None], "x": [1.0, None]})
    assert frame_sha256(frame) == frame_sha256(pl.concat([frame[:1], frame[1:]], rechunk=False))
    assert frame_sha256(frame) != frame_sha256(frame.with_columns(pl.col("x").fill_null(0.0)))
    assert frame_sha256(frame) != frame_sha256(frame.with_columns(pl.col("s").fill_null("")))
    assert frame_sha256(frame) != frame_sha256(frame.rename({"x": "y"}))


def test_the_source_hash_is_stable_and_knows_its_packages() -> None:
    assert source_sha256("vnfleet.core") == source_sha256("vnfleet.core")
    assert source_sha256("vnfleet.core") != source_sha256("vnfleet.core", "vnfleet.market")


def test_weeks_are_iso_weeks_and_times_are_utc() -> None:
    assert cycle_id_of(date(2026, 11, 22)) == "2026-W47"
    assert cycle_id_of(date(2024, 12, 31)) == "2025-W01"
    assert utc_text(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05Z"


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "work.lock"
    code = (
        "import sys,time\nfrom pathlib import Path\nfrom vnfleet.core.lock import holding\n"
        "with holding(Path(sys.argv[1]),'the weekly cycle'):\n print('held',flush=True)\n time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match="the weekly cycle"), holding(lock, "me"):
            pass
        process.kill()
    with holding(lock, "me"):
        pass


def test_errors_say_what_was_expected_and_what_to_do() -> None:
    error = UsageError("no such symbol", expected="FPT", found="FTP", fix="check the spelling")
    assert str(error) == "no such symbol\n  expected: FPT\n  found: FTP\n  next: check the spelling"
    assert error.exit_code is ExitCode.USAGE


def row(**changes: object) -> pl.DataFrame:
    values: dict[str, object] = {
        "model_id": "m",
        "symbol": "FPT",
        "session": date(2024, 1, 2),
        "horizon_sessions": 5,
        "fold_id": "2024",
        "score": 0.1,
        "direction_prob": 0.5,
        "expected_return_frac": None,
        "volatility_frac": None,
    }
    return pl.DataFrame([values | changes])


def test_prediction_frames_refuse_nan_duplicates_and_impossible_probabilities() -> None:
    assert as_prediction_frame(row()).height == 1
    assert empty_prediction_frame().columns == as_prediction_frame(row()).columns
    with pytest.raises(BadDataError, match="NaN or infinity"):
        as_prediction_frame(row(score=float("nan")))
    with pytest.raises(BadDataError, match="repeats a key"):
        as_prediction_frame(pl.concat([row(), row()]))
    with pytest.raises(BadDataError, match="outside"):
        as_prediction_frame(row(direction_prob=1.2))
    with pytest.raises(BadDataError, match="lacks columns"):
        as_outcome_frame(row())
